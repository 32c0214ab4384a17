"""From a dataset to a fitted method: the working grid, the pool, the networks, the run folder."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augmint.calibrate import calibrate, patients_for_calibration
from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.layout import listed
from augmint.data.pool import Pool, build_pool
from augmint.data.splits import without_labels
from augmint.diffusion.checkpoint import Network, load_network, save_network
from augmint.diffusion.networks import count_parameters
from augmint.diffusion.training import TrainingConfig, fit_network, flow_matching, leave
from augmint.errors import AugmintError
from augmint.methods import (
    DatasetFacts,
    Method,
    NetworkSpec,
    Samples,
    build_method,
    is_calibrated,
    meaning_of_unlabelled,
    needs_no_fit,
    sees_whole_frames,
)
from augmint.methods.shift_strength import load_calibration
from augmint.prepare import Prepared, choose_patients, prepare, real_labelled
from augmint.presets import Preset, preset_named
from augmint.progress import Talk
from augmint.quality.agreement import gate_config
from augmint.staging import output_folder, write_text
from augmint.synthetic import check_cases
from augmint.weights import folder_exists, folder_sha256

SCHEMA_VERSION = 1
SHOWN = 4
CALIBRATION = "calibration"


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one; under torchrun each process has its own.

    Raises:
        AugmintError: if the device asked for is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        # torch appends its list of kernels or its stack to the line that tells.
        said = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0]
        raise AugmintError(
            f"device {device!r} cannot be used ({said}); try --device cpu, see `augmint doctor`"
        ) from error


def follows() -> bool:
    """Whether this is one of torchrun's processes, but not the first."""
    return int(os.environ.get("RANK", "0")) > 0


def fit_method(
    method: Method,
    prepared: Prepared,
    run: Path,
    *,
    training: TrainingConfig,
    device: torch.device,
    sizes: Preset,
    init: Path | None = None,
    unlabelled: Pool | None = None,
    talk: Talk,
) -> dict[str, str]:
    """Fit every network of a method into RUN/checkpoints; returns the weights' hashes.

    A method that is calibrated has a part of the patients kept from its fit.
    """
    hashes: dict[str, str] = {}
    fitted: dict[str, Network] = {}
    pool = prepared.pool
    held: tuple[str, ...] = ()
    if is_calibrated(method):
        held = patients_for_calibration(pool.patient_ids, training.seed)
        if init is not None:
            _check_unseen(held, init, prepared.dataset.name)
        pool = pool.select(set(pool.patient_ids) - set(held))
        talk.say(f"kept from the fit, to calibrate on: {', '.join(held)}")
    for name, spec in method.networks(prepared.facts).items():
        best = run / "checkpoints" / "best" / name
        if best.exists():
            fitted[name], hashes[name] = load_network(best, device)
            continue
        network = _fresh(spec, name, init, training.seed)
        talk.say(
            f"fitting {name!r}: {count_parameters(network) / 1e6:.1f} M parameters on "
            f"{len(pool)} samples, window {prepared.facts.grid.window}, {device}"
        )
        draw = drawer(spec, pool, unlabelled)
        with talk.bar(f"fit {name}", training.steps) as update:
            fit_network(
                network,
                draw,
                training,
                loss=spec.loss(fitted) if spec.loss else flow_matching,
                state=run / "checkpoints" / "last" / name,
                metrics=run / "metrics.jsonl",
                name=name,
                device=device,
                progress=lambda done, total, loss: update(done, f"loss {loss:.3f}"),
                log=talk.say,
            )
        if spec.finish:
            spec.finish(network, draw)
        fitted[name] = network
        if not follows():
            hashes[name] = save_network(best, network)
    leave()
    if held and not follows():
        hashes["calibration"] = _calibrate(
            method, fitted, hashes, prepared, held, run, sizes, training.seed, device, talk
        )
    return hashes


def _check_unseen(held: Sequence[str], init: Path, dataset: str) -> None:
    """Refuse to calibrate on patients of a dataset whom the run that a fit starts from has seen."""
    import json

    before = load_run(init, device="cpu")
    if json.loads((init / "run.json").read_text())["dataset"] != dataset:
        return
    own = before.networks.get(CALIBRATION)
    seen = set(before.generator_patients) - set(own.patients if own else ())
    if known := sorted(seen & set(held)):
        raise AugmintError(
            f"--init {init}: it was fitted on {listed(known)}, whom this fit keeps to calibrate "
            "on; give the same --seed and patients as to that run, or fit without --init"
        )


def _calibrate(
    method: Any,
    fitted: Mapping[str, Network],
    hashes: Mapping[str, str],
    prepared: Prepared,
    held: Sequence[str],
    run: Path,
    sizes: Preset,
    seed: int,
    device: torch.device,
    talk: Talk,
) -> str:
    """RUN/checkpoints/best/calibration, measured unless it is there; returns its hash.

    One that was measured with other weights is measured anew.
    """
    folder = run / "checkpoints" / "best" / CALIBRATION
    if not folder_exists(folder) or load_calibration(folder).networks not in ({}, dict(hashes)):
        config = gate_config(sizes, prepared.facts.grid.dims, seed)
        calibrate(
            method, fitted, prepared, held, folder, hashes=hashes, config=config, seed=seed,
            device=device, talk=talk,
        )  # fmt: skip
    return folder_sha256(folder)


def drawer(spec: NetworkSpec, pool: Pool, unlabelled: Pool | None = None) -> Any:
    """The `Draw` of a fit: uniform over samples, unlabelled ones beside labelled by their count."""
    pools = [pool] if unlabelled is None or spec.labelled else [pool, unlabelled]
    images = torch.cat([p.images for p in pools]) if len(pools) > 1 else pool.images
    masks = torch.cat([p.masks for p in pools]) if len(pools) > 1 else pool.masks
    positions = torch.cat([p.positions for p in pools])
    # Names tell samples apart, and those of another dataset may be the same.
    names = [f"{'unlabelled ' * k}{name}" for k, p in enumerate(pools) for name in p.case_ids]
    before = slices_before(names)

    def draw(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor | None]:
        index = torch.randint(len(images), (count,), generator=generator)
        chosen = masks[index].long()
        bare = (chosen == 255).flatten(1).all(1)
        chosen[bare] = 0
        known = before[index] >= 0
        below = masks[before[index].clamp(min=0)].long()
        samples = Samples(
            images[index].float(),
            chosen,
            positions[index],
            tuple(names[i] for i in index.tolist()),
            torch.where(known.reshape(-1, *[1] * (below.ndim - 1)), below, 255),
            ~bare,
        )
        target, condition = spec.example(samples, generator)
        if condition is not None and not spec.keeps_unlabelled:
            # An unlabelled image is shown without its condition, as guidance does.
            condition = condition * (~bare).reshape(-1, *[1] * (condition.ndim - 1))
        return target, condition

    return draw


def slices_before(names: Sequence[str]) -> Tensor:
    """(N,) index of the slice before each of N samples, -1 for first ones, frames and volumes."""
    place = {name: i for i, name in enumerate(names)}
    found = []
    for name in names:
        case, mark, z = name.rpartition("#z")
        found.append(place.get(f"{case}#z{int(z) - 1:03d}", -1) if mark else -1)
    return torch.tensor(found)


def _fresh(spec: NetworkSpec, name: str, init: Path | None, seed: int) -> Network:
    torch.manual_seed(seed)
    network = spec.config.build()
    if init is None:
        return network
    before = init / "checkpoints" / "best" / name
    if not before.exists() and (init / "run.json").exists():
        raise AugmintError(
            f"--init {init}: it has no network {name!r}, which this fit needs; use the same "
            "settings, or fit without --init"
        )
    start, _ = load_network(before)
    if start.config != spec.config:
        raise AugmintError(
            f"--init {init}: its network {name!r} is {start.config}, this fit needs "
            f"{spec.config}; use the same settings, channels and labels"
        )
    network.load_state_dict(start.state_dict())
    return network


def fit(
    data: Path | str | Dataset,
    out: Path | str,
    *,
    method: str = "mask_to_image",
    settings: Mapping[str, Any] | None = None,
    preset: str = "quick",
    patients: int | Sequence[str] | None = None,
    steps: int | None = None,
    dims: int | None = None,
    init: Path | str | None = None,
    unlabelled: Path | str | Dataset | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Fit a method's networks on the labelled real cases of a dataset.

    Args:
        data: A dataset folder, or an opened dataset.
        out: The run folder to make.
        method: A name in `METHODS` or `module:Class`.
        settings: Fields of the method.
        preset: `quick`, `standard` or `large`.
        patients: How many patients to draw, or which; all by default.
        steps: Optimiser steps, instead of the preset's.
        dims: 2 or 3, instead of what the data suggest.
        init: A run to start from (fine-tuning).
        unlabelled: A dataset whose real images join the fit without their masks.
        seed: Seeds everything.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished run.
        talk: Where progress goes.

    Returns:
        The run folder.
    """
    talk = talk or Talk()
    dataset = real_labelled(data if isinstance(data, Dataset) else open_dataset(data))
    dataset = choose_patients(dataset, patients, seed)
    more = None if unlabelled is None else _real(unlabelled)
    sizes = preset_named(preset)
    chosen = method_with_preset(method, settings, sizes)
    request = dict(
        command="fit", data=str(dataset.root.resolve()), labels=dict(dataset.labels),
        method=method, settings=dict(settings or {}), preset=preset,
        patients=list(dataset.patients), steps=steps, dims=dims, seed=seed, init=init,
        unlabelled=more and str(more.root.resolve()),
    )  # fmt: skip
    if not follows() and hasattr(chosen, "problem"):
        check_cases(dataset, talk, chosen)
    staged: AbstractContextManager[Path]
    if follows():
        # Under torchrun the first process alone writes; the others compute their share.
        talk, staged = (
            Talk(quiet=True),
            nullcontext(Path(out).with_name(Path(out).name + ".partial")),
        )
    else:
        staged = output_folder(Path(out), request, resume=resume)
    where = resolve_device(device)
    with staged as run:
        start = time.monotonic()
        prepared = prepare(dataset, sizes, dims=dims, whole=sees_whole_frames(chosen), talk=talk)
        extra = None
        if more is not None:
            extra = build_pool(more, prepared.facts.grid)
            facts = replace(prepared.facts, unlabelled=len(extra))
            prepared = replace(prepared, facts=facts)
            if meaning := meaning_of_unlabelled(chosen):
                talk.say(f"note: {method} takes the {len(more)} unlabelled cases for {meaning}")
        training = training_config(sizes, prepared.facts, steps, seed)
        hashes = fit_method(
            chosen, prepared, run, training=training, device=where, sizes=sizes,
            init=None if init is None else Path(init), unlabelled=extra, talk=talk,
        )  # fmt: skip
        if follows():
            return Path(out)
        seen = set(() if extra is None else extra.patient_ids)
        if init is not None:
            seen |= set(load_run(init, device="cpu").generator_patients)
        write_run(
            run, request, chosen, prepared, training, hashes, time.monotonic() - start, where,
            also_seen=seen,
        )  # fmt: skip
        try:
            _show(run, dataset, str(where), seed)
        except AugmintError as error:
            talk.say(f"no sheet of samples: {error}")
    talk.say(f"wrote the fitted method to {out}; next: augmint generate {out} DATA -o SYNTHETIC")
    return Path(out)


def _show(run: Path, dataset: Dataset, device: str, seed: int) -> None:
    """RUN/sheets/samples.png: a few real cases and what the fitted method makes of their masks."""
    from augmint.report import write_samples

    fitted = load_run(run, device=device)
    grid = fitted.facts.grid
    few = dataset.items[:: max(1, len(dataset) // SHOWN)][:SHOWN]
    real = [dataset.load(item) for item in few]
    orders = [(grid.to_working(case), 0) for case in real]
    made = fitted.method.generate(fitted.networks, orders, fitted.facts, seed=seed)
    shown = [grid.to_working(case, shape=grid.window) for case in real]
    pairs = list(zip(shown, made))
    if grid.dims == 2:
        pairs = [(_as_stored(one), _as_stored(new)) for one, new in pairs]
    write_samples(run / "sheets" / "samples.png", pairs, labels=fitted.facts.labels)


def _as_stored(case: Case) -> Case:
    """A volume of working planes, x first again, as volumes are."""
    if case.dims == 2 or case.mask is None:
        return case
    return replace(case, image=case.image.transpose(1, 2), mask=case.mask.transpose(0, 1))


def _real(unlabelled: Path | str | Dataset) -> Dataset:
    """The real cases of a dataset, whose masks cannot be read."""
    if not isinstance(unlabelled, Dataset):
        unlabelled = open_dataset(unlabelled, bare=True)
    items = tuple(i for i in unlabelled.items if not i.synthetic)
    if not items:
        raise AugmintError(f"{unlabelled.root}: every case is synthetic; a fit needs real images")
    return without_labels(replace(unlabelled, items=items))


def method_with_preset(name: str, settings: Mapping[str, Any] | None, preset: Preset) -> Method:
    """The method with the preset's network size, unless the settings name one."""
    import dataclasses

    plain = build_method(name, settings)
    fields = {f.name for f in dataclasses.fields(plain)}  # type: ignore[arg-type]
    if "network" in fields and "network" not in (settings or {}):
        return build_method(name, {**(settings or {}), "network": preset.network})
    return plain


def training_config(
    preset: Preset, facts: DatasetFacts, steps: int | None, seed: int
) -> TrainingConfig:
    """The preset's training of a denoiser on these data."""
    total = steps or (preset.steps if facts.grid.dims == 2 else preset.steps_3d)
    batch = preset.batch_size if facts.grid.dims == 2 else preset.batch_size_3d
    return TrainingConfig(
        steps=total, batch_size=batch, warmup=min(100, max(1, total // 10)), seed=seed
    )


def write_run(
    run: Path,
    request: Mapping[str, Any],
    method: Method,
    prepared: Prepared,
    training: TrainingConfig,
    hashes: Mapping[str, str],
    seconds: float,
    device: torch.device,
    *,
    also_seen: Iterable[str] = (),
) -> None:
    """config.yaml (what was asked, resolved) and run.json (what was done).

    `also_seen` names the patients of unlabelled images and of the run that was started from: the
    leak guard counts them too.
    """
    import dataclasses

    import yaml

    from augmint.report import write_json

    config = {
        "schema_version": SCHEMA_VERSION,
        "command": "fit",
        "method": request["method"],
        "settings": dataclasses.asdict(method),  # type: ignore[call-overload]
        **{key: request.get(key) for key in ("preset", "steps", "dims", "init", "unlabelled")},
        "patients": list(prepared.dataset.patients),
        "patient_regex": prepared.dataset.patient_regex,
        "label_map": prepared.dataset.label_map,
        "training": dataclasses.asdict(training),
        "facts": prepared.facts.to_json(),
        "data": request["data"],
        "seed": request["seed"],
    }
    plain = yaml.safe_load(yaml.safe_dump(_plain(config)))
    write_text(run / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
    write_json(
        run / "run.json",
        {
            "schema_version": SCHEMA_VERSION,
            "request": dict(request),
            "dataset": prepared.dataset.name,
            "licence": prepared.dataset.licence,
            "generator_patients": sorted(set(prepared.pool.patient_ids) | set(also_seen)),
            "networks": dict(hashes),
            "seconds": round(seconds, 1),
            "device": describe_device(device),
            "versions": versions(),
        },
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


@dataclass(frozen=True)
class FittedRun:
    """A fitted method, loaded.

    Attributes:
        folder: The run.
        method: With the settings that were asked for.
        method_name: A key of `METHODS`, or `module:Class`.
        facts: Of the dataset that it was fitted on.
        networks: By name; of a calibrated method with what was calibrated.
        hashes: Of their weights.
        generator_patients: All whom the fit saw: labelled, unlabelled, or by the run before it.
        dataset: Name of the labelled dataset; empty where not recorded.
        labelled_patients: Those of that dataset, whom it was fitted or calibrated on.
    """

    folder: Path
    method: Method
    method_name: str
    facts: DatasetFacts
    networks: Mapping[str, Any]
    hashes: Mapping[str, str]
    generator_patients: tuple[str, ...]
    dataset: str = ""
    labelled_patients: tuple[str, ...] = ()


def load_run(
    run: Path | str, *, settings: Mapping[str, Any] | None = None, device: str = "auto"
) -> FittedRun:
    """Load a run folder; `settings` may change fields that need no new fit.

    Raises:
        AugmintError: if the folder is no finished run, or a changed field would need a new fit.
    """
    import json

    import yaml

    folder = Path(run)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        facts_json = json.loads((folder / "run.json").read_text())
        facts = DatasetFacts.from_json(config["facts"])
        method = build_method(config["method"], {**config["settings"], **(settings or {})})
        fitted = build_method(config["method"], config["settings"])
    except (OSError, KeyError, TypeError, yaml.YAMLError, json.JSONDecodeError) as error:
        hint = (
            " (it is unfinished: fit with --continue)" if folder.name.endswith(".partial") else ""
        )
        raise AugmintError(
            f"{folder} is no fitted run{hint}: {error!r}; give a folder made by `augmint fit`"
        ) from error
    specs, before = method.networks(facts), fitted.networks(facts)
    networks: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    where = resolve_device(device)
    for name, spec in specs.items():
        if name not in before or spec.config != before[name].config:
            raise AugmintError(
                f"{folder}: the settings {dict(settings or {})} need another network than the one "
                "that was fitted; fit again with them"
            )
        networks[name], hashes[name] = load_network(folder / "checkpoints" / "best" / name, where)
    if is_calibrated(method):
        _check_calibrated(folder, method, fitted)
        learned = folder / "checkpoints" / "best" / CALIBRATION
        calibration = load_calibration(learned)
        if other := [n for n, h in hashes.items() if calibration.networks.get(n, h) != h]:
            raise AugmintError(
                f"{folder}: its strengths were calibrated with other weights of {listed(other)} "
                "than those that are there; fit again"
            )
        networks[CALIBRATION], hashes[CALIBRATION] = calibration, folder_sha256(learned)
    return FittedRun(
        folder, method, config["method"], facts, networks, hashes,
        tuple(facts_json.get("generator_patients", ())), str(facts_json.get("dataset", "")),
        tuple(config.get("patients", ())),
    )  # fmt: skip


def _check_calibrated(folder: Path, method: Any, fitted: Method) -> None:
    """Raises an AugmintError where changed fields leave a calibration that is not theirs."""
    import dataclasses

    names = {f.name for f in dataclasses.fields(method)} - needs_no_fit(method)
    changed = sorted(n for n in names if getattr(method, n) != getattr(fitted, n))
    if changed and not method.strength:
        told = ", ".join(f"{name}={getattr(fitted, name)}" for name in changed)
        raise AugmintError(
            f"{folder}: strengths were calibrated with {told}; fit again with the new value, or "
            "set the strength too"
        )


def describe_device(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of everything that shapes a result."""
    from importlib.metadata import version

    names: Iterable[str] = ("augmint", "torch", "monai", "numpy", "nibabel")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}
