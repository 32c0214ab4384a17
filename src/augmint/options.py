"""The command line's options: their declarations, and how their texts are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any

import typer

from augmint.errors import AugmintError

SETTINGS = "augmint.settings"


def read_settings(
    pairs: Sequence[str] | None, config: Mapping[str, Any], flag: str = "--set"
) -> dict[str, Any]:
    """`name=value` pairs over the settings of a config file; values stay text.

    Raises:
        AugmintError: for a pair without a name or an equals sign.
    """
    settings = dict(config)
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            where = "; see `augmint methods`" if flag == "--set" else ""
            raise AugmintError(f"{flag} wants name=value, got {pair!r}{where}")
        settings[name.strip()] = _structured(value.strip(), flag)
    return settings


def _structured(value: str, flag: str) -> Any:
    """Lists, mappings and null of YAML; all else is left to the field's own type."""
    if value[:1] not in "[{" and value != "null":
        return value
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise AugmintError(f"{flag}: {value!r} is not a YAML value ({error})") from error


def read_label_map(pairs: Sequence[str] | None) -> dict[str, str | None] | None:
    """`old=new` pairs; `old=` turns a label into background.

    Raises:
        AugmintError: for a pair without an equals sign, or a label named twice.
    """
    mapping: dict[str, str | None] = {}
    for pair in pairs or ():
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not equals or not old:
            raise AugmintError(f"--label-map wants old=new, or old= to drop it; got {pair!r}")
        if old in mapping:
            raise AugmintError(f"--label-map names {old!r} twice; give each label once")
        mapping[old] = new or None
    return mapping or None


def read_range(text: str, flag: str) -> tuple[float, float]:
    """Two numbers with a comma, such as 0.6,0.8; a lone one stands for both.

    Raises:
        AugmintError: if they are no numbers, or more than two.
    """
    try:
        first, *rest = (float(part) for part in text.split(","))
        (last,) = rest or [first]
    except ValueError:
        raise AugmintError(
            f"{flag} wants two numbers such as 0.6,0.8, or one; got {text!r}"
        ) from None
    return first, last


def read_spacing(text: str | None) -> tuple[float, float, float] | None:
    """Three distances with commas, such as 1.3,1.3,10.

    Raises:
        AugmintError: if they are not three numbers.
    """
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise AugmintError(
            f"--spacing wants three distances in mm such as 1.3,1.3,10; got {text!r}"
        ) from None
    return x, y, z


def named_patients(text: str | None) -> list[str] | None:
    """Names of patients, where a number of them has no meaning."""
    patients = read_patients(text)
    if isinstance(patients, int):
        raise AugmintError("--patients names patients here, it does not count them; write p1,p2")
    return patients


def read_patients(text: str | None, flag: str = "--patients") -> int | list[str] | None:
    """A number of patients, or their names; a trailing comma makes a lone number a name."""
    if text is None:
        return None
    if text.strip().isdecimal():
        if int(text) < 1:
            raise AugmintError(f"{flag} {text.strip()}: ask for 1 patient or more")
        return int(text)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise AugmintError(f"{flag} wants a number, or names with commas; got {text!r}")
    return names


def read_gates(text: str) -> list[str]:
    """Names of gates with commas; `none` is no gate."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise AugmintError(f"--gates wants names with commas, or none; got {text!r}")
    return [] if names == ["none"] else names


def read_amount(text: str | None, flag: str) -> int | float | None:
    """A whole number of patients, or a share such as 0.2.

    Raises:
        AugmintError: if it is neither.
    """
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise AugmintError(
            f"{flag} wants a number of patients such as 5, or a share such as 0.2; got {text!r}"
        ) from None


def read_shard(text: str | None) -> tuple[int, int]:
    """`i/n` with i from 0 to n - 1.

    Raises:
        AugmintError: if it is not that.
    """
    if text is None:
        return (0, 1)
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise AugmintError(f"--shard wants i/n with i from 0 to n - 1, such as 0/4; got {text!r}")


def load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a YAML file the defaults of this command's options.

    A run's config.yaml gives all that its command was asked for, so that the same command makes
    it again. Another command takes of it what it has, too, but not who trained and validated.

    Raises:
        AugmintError: if the file is unreadable or names no option of this command.
    """
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AugmintError(f"--config {path}: cannot be read as YAML ({error})") from error
    if not isinstance(values, Mapping):
        raise AugmintError(f"--config {path}: must map option names to values")
    names = {p.name for p in context.command.params} - {"config", "help"}
    if "facts" in values and "settings" in values:
        values = _of_fit(path, values)
    elif "segmenter" in values and "request" in values:
        values = _of_segmenter(path, values, names)
    if command := values.get("command") if "schema_version" in values else None:
        choice = names if command == context.info_name else names - _ROLES
        if (command == "segment") != (context.info_name == "segment"):
            choice -= {"method", "settings", "steps"}
        values = {k: v for k, v in values.items() if k in choice}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = _PYTHON_NAMES.get(str(key), str(key).replace("-", "_"))
        if name in ("settings", "set") and "settings" in names:
            context.meta[SETTINGS] = _mapping(value, path, str(key))
        elif name not in names:
            raise AugmintError(
                f"--config {path}: {context.info_name} has no option {key!r}; it has "
                f"{', '.join(sorted(_flag(n) for n in names))}"
            )
        elif value is not None:
            defaults[name] = _as_text(name, value)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


_PYTHON_NAMES = {"continue": "resume", "folds": "num_folds", "hold-back": "held_fraction",
                 "hold_back": "held_fraction", "json": "as_json"}  # fmt: skip


def _flag(name: str) -> str:
    spoken = {v: k for k, v in _PYTHON_NAMES.items() if "_" not in k}
    return spoken.get(name, name.replace("_", "-"))


_ROLES = {"patients", "validation", "fold", "synthetic", "init", "unlabelled"}


def _of_fit(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the config.yaml of a run of `augmint fit`."""
    if "command" not in values:
        raise AugmintError(
            f"--config {path}: was written by an earlier augmint and does not say which patients "
            "were fitted on; give the options by hand, or fit again"
        )
    return {k: v for k, v in values.items() if k not in ("training", "facts")}


def _of_segmenter(path: Path, values: Mapping[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    """The options in the config.yaml of a run of `augmint segment`.

    What the command has no option of its own for was a setting.
    """
    request, asked = values["request"], values.get("options")
    if not isinstance(request, Mapping) or not isinstance(asked, Mapping):
        raise AugmintError(
            f"--config {path}: was written by an earlier augmint and does not say how its patients "
            "were chosen; give the options by hand, or train again"
        )
    plain = {k: v for k, v in request.items() if k not in ("labels", "patients", "validation")}
    settings = {k: v for k, v in plain.items() if k not in names and k != "command"}
    return {"schema_version": values["schema_version"], **plain, **asked, "settings": settings}


def _mapping(value: Any, path: Path, key: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list):
        return read_settings([str(v) for v in value], {})
    raise AugmintError(f"--config {path}: {key} must map fields to values, got {value!r}")


def _as_text(name: str, value: Any) -> Any:
    """As it would stand on the command line."""
    if name == "label_map" and isinstance(value, Mapping):
        return [f"{old}={new or ''}" for old, new in value.items()]
    if isinstance(value, list) and name != "label_map":
        # The comma keeps a lone patient such as 12 from being read as a number of patients.
        names = ("patients", "generator_patients")
        end = "," if name in names and len(value) == 1 else ""
        if name == "gates" and not value:
            return "none"
        return ",".join(map(str, value)) + end
    return value if isinstance(value, (bool, list)) else str(value)


def settings_of(
    context: typer.Context, pairs: Sequence[str] | None, ask: str | None = None
) -> dict[str, Any]:
    """The settings of the config file, with those of the command line over them.

    Sizes that are asked for need masks that are generated.
    """
    settings = read_settings(pairs, context.meta.get(SETTINGS, {}))
    return settings if ask is None else {"masks": "generated", **settings, "ask": ask}


def _help(text: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=text, **more)


Data = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATA", help="nnU-Net, Decathlon, MONAI, BIDS, CAMUS, ACDC, M&Ms or paired folders."
    ),
]
Out = Annotated[
    Path | None, _help("The folder to make; an existing one is never touched.", "-o", "--out")
]
LargestComponent = Annotated[
    bool, _help("Keep the largest part of each label.", "--largest-component")
]
Set = Annotated[list[str] | None, _help("A field of the method, name=value; repeatable.", "--set")]
Gates = Annotated[
    str, _help("What rejects pairs: agreement, validity, copies, with commas; or none.", "--gates")
]
Rules = Annotated[
    str | None, _help("Anatomical rules, a YAML file, instead of those built in.", "--rules")
]
Ask = Annotated[
    str | None, _help("Sizes that generated masks shall have, such as 'LV area > p95'.", "--ask")
]
Quiet = Annotated[bool, _help("No progress, only results and errors.", "--quiet", "-q")]
Json = Annotated[bool, _help("The result as one JSON object on standard output.", "--json")]
Config = Annotated[
    Path | None,
    _help(
        "YAML with values of options, or a run's config.yaml.", "--config",
        callback=load_config, is_eager=True,
    ),
]  # fmt: skip
Continue = Annotated[bool, _help("Go on with unfinished work.", "--continue")]
DryRun = Annotated[bool, _help("Print the plan and the time it needs; write nothing.", "--dry-run")]
Seed = Annotated[int, _help("Seeds everything.", "--seed", min=0)]
Device = Annotated[str, _help("auto, cpu, cuda, cuda:1, ...", "--device")]
PatientRegex = Annotated[
    str | None,
    _help("Searched in case names; its first group is the patient.", "--patient-regex"),
]
LabelMap = Annotated[
    list[str] | None,
    _help("old=new renames or merges a label, old= drops it; repeatable.", "--label-map"),
]
MethodName = Annotated[
    str, _help("A name from `augmint methods`, or module:Class.", "--method", "-m")
]
PresetName = Annotated[str, _help("quick (two cores), standard or large (a GPU).", "--preset")]
Patients = Annotated[
    str | None, _help("How many patients to use, or their names with commas.", "--patients")
]
Steps = Annotated[int | None, _help("Optimiser steps, instead of the preset's.", "--steps", min=1)]
Dims = Annotated[
    int | None, _help("2 or 3, instead of what the data suggest.", "--dims", min=2, max=3)
]
Ray = Annotated[
    str | None,
    _help(
        "Work on a Ray cluster: local (start one here for this run), auto (find one), HOST:PORT "
        "or ray://HOST:PORT.",
        "--ray",
    ),
]
RayCpus = Annotated[
    int | None,
    _help(
        "CPUs and threads of each task on Ray; by default as many threads as PyTorch has here, "
        "beside a GPU its share of the node.",
        "--ray-cpus",
        min=1,
    ),
]
Copies = Annotated[int, _help("Synthetic cases for each real one.", "--copies", min=1)]
