"""Writes the generated pages of docs/reference: command line, Python functions, presets, studies,
rules.

Run it after a change of options, docstrings or presets; a test holds the pages to the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import augmint
from augmint.cli import app
from augmint.methods import METHODS
from augmint.presets import PRESETS
from augmint.quality.validity_rules import WORDS
from augmint.segmentation.augmentation import AUGMENTATIONS
from augmint.segmentation.networks import SEGMENTERS
from augmint.segmentation.training import SegmenterConfig
from augmint.study.spec import (
    ELSEWHERE,
    Adaptation,
    Arm,
    Endpoint,
    Generator,
    Oracle,
    Study,
    Test,
)

HERE = Path(__file__).parent / "reference"

COMMAND_LINE = """# Command line

Written by `docs/make_reference.py` from the command line itself. Each command has `--help` too.

Results go to standard output, progress and errors to standard error. With `--json` the result is
one JSON object. `--config FILE` takes values of options from YAML, also from a run's `config.yaml`;
what stands on the command line wins. [Exit codes](errors.md).
"""
PYTHON = """# Python functions

Written by `docs/make_reference.py` from the docstrings.

Every command of the command line is a function of the same name in `augmint`, imported when first
asked for. Arguments behind `*` go by name. Bad input raises `augmint.AugmintError`.
"""
PRESETS_PAGE = """# Presets

Written by `docs/make_reference.py` from `augmint.presets`.

`--preset` says how much work a command does. `quick` is for two CPU cores, `standard` and `large`
for a GPU. `demo` is what `augmint demo` uses. `tiny` is for tests, its images are noise. `--steps`
overrules the preset's steps.
"""
STUDY_PAGE = """# Study files

Written by `docs/make_reference.py` from `augmint.study.spec`.

A study is a YAML file. [How to write one](../how-to/study.md), with an example. Paths are relative
to the file. `augmint study FILE --dry-run` names everything that is wrong with a file at once, each
fault with its line.
"""
SETTINGS = """
## Segmenter settings

Fields of an arm's `settings`. Some defaults are the [preset](presets.md)'s.

| field | meaning | default |
|---|---|---|
"""
RULES_PAGE = """# Anatomical rules

Written by `docs/make_reference.py` from `augmint.quality.validity_rules`.

A file of rules is YAML with `name`, `labels` (those of the dataset, background left out), `rules`,
and `whole: true` where a volume is to be measured as one body instead of slice by slice. Each rule
is one line, `- word: {field: value}`; `of` may be a list of classes, a class may be a union such as
`LV+MYO`. Limits that are not given with `least` or `most` are learned from real masks: of
defects, what all but two in a thousand real values reach; of sizes and shapes, the real least and
most, widened by a tenth. Sizes are in mm2 (mm3 of bodies) and lengths in mm where the spacing is
known, else in pixels of the working grid. [What rules are for](../concepts/gates.md#validity).

| word | what it asks, and what is measured | fields |
|---|---|---|
"""
# Fields that hold a name, of which there are these.
NAMES = {
    "augmentation": AUGMENTATIONS, "method": METHODS, "networks": SEGMENTERS, "preset": PRESETS,
}  # fmt: skip
# What `segmenter_config` takes from the preset.
FROM_PRESET = ("width", "steps", "warmup", "batch_size", "validate_every")
# Heading of each part of a study's file.
PARTS = {
    "Study": Study, "Test": Test, "Arm": Arm, "Synthetic": Generator, "Adapt": Adaptation,
    "Oracle": Oracle, "Endpoint": Endpoint,
}  # fmt: skip


def command_line() -> str:
    """Each command with its arguments and options."""
    return COMMAND_LINE + "".join(_command(n, c) for n, c in commands_of(app).items())


def commands_of(app: typer.Typer) -> dict[str, Any]:
    """Every command by its words, those of a group after the group's name."""
    found: dict[str, Any] = {}
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        else:
            found |= {f"{name} {word}": c for word, c in inner.items()}
    return found


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    line = " ".join(["augmint", name, *(_metavar(a) for a in arguments)])
    rows = [f"| `{_metavar(a)}` | {a.help} | |" for a in arguments]
    for option in options:
        flags = ", ".join(f"`{flag}`" for flag in reversed(option.opts))
        unset = option.default is None or option.default is False
        default = "" if unset else f"`{option.default}`"
        rows.append(f"| {flags} | {option.help} | {default} |")
    table = "\n".join(["| option | meaning | default |", "|---|---|---|", *rows])
    table = "" if not rows else f"\n{table}\n"
    return f"\n## augmint {name}\n\n{command.help}\n\n    {line}\n{table}"


def _metavar(argument: Any) -> str:
    name = (argument.name or "").upper()
    # DATA may stand in a file of options, so no argument but this is told to be optional.
    return f"[{name}]" if name == "SYNTHETIC" and not argument.required else name


def python() -> str:
    """The public functions with signature and docstring, then the public classes by name."""
    functions = [n for n in augmint.__all__ if inspect.isfunction(getattr(augmint, n))]
    classes = [n for n in augmint.__all__ if inspect.isclass(getattr(augmint, n))]
    parts = [PYTHON]
    for name in functions:
        function = getattr(augmint, name)
        parts.append(f"\n## augmint.{name}\n\n```text\n{_signature(name, function)}\n\n")
        parts.append(f"{inspect.getdoc(function)}\n```\n")
    parts.append("\n## Classes\n\n| class | what it is |\n|---|---|\n")
    for name in classes:
        summary = (inspect.getdoc(getattr(augmint, name)) or "").partition("\n")[0]
        parts.append(f"| `augmint.{name}` | {summary} |\n")
    return "".join(parts)


def _signature(name: str, function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    lines, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            lines.append("    *,")
        given = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"    {parameter.name}: {parameter.annotation}{given},")
    answer = signature.return_annotation
    return "\n".join([f"{name}(", *lines, f") -> {answer}"]) if lines else f"{name}() -> {answer}"


def presets() -> str:
    """The presets as a table."""
    rows = [f"| field | {' | '.join(PRESETS)} |", "|---" * (len(PRESETS) + 1) + "|"]
    first = next(iter(PRESETS.values()))
    meanings = _attributes(type(first).__doc__ or "")
    for field in dataclasses.fields(first):
        values = " | ".join(str(getattr(p, field.name)) for p in PRESETS.values())
        rows.append(f"| `{field.name}` | {values} |")
    words = [f"- `{name}`: {text}" for name, text in meanings.items()]
    return "\n".join([PRESETS_PAGE, *rows, "", *words, ""])


def study() -> str:
    """The fields of each part of a study's file as tables."""
    parts = [STUDY_PAGE]
    for heading, model in PARTS.items():
        docstring = inspect.getdoc(model) or ""
        meanings = _attributes(_on_one_line(docstring))
        summary = inspect.cleandoc(docstring).partition("\n")[0]
        rows = ["| field | values | meaning | default |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            values = ", ".join(f"`{n}`" for n in NAMES.get(name, ())) or _in_words(field.annotation)
            rows.append(f"| `{name}` | {values} | {meanings[name]} | {_default(field)} |")
        parts.append("\n".join([f"\n## {heading}\n\n{summary}\n", *rows, ""]))
    meanings = _attributes(_on_one_line(inspect.getdoc(SegmenterConfig) or ""))
    rows = []
    for one in dataclasses.fields(SegmenterConfig):
        if one.name not in ELSEWHERE:
            default = "the preset's" if one.name in FROM_PRESET else f"`{one.default}`"
            rows.append(f"| `{one.name}` | {meanings[one.name]} | {default} |\n")
    return "".join([*parts, SETTINGS, *rows])


def rules() -> str:
    """The words of anatomical rules as a table."""
    rows = (
        f"| `{name}` | {word.meaning} | {', '.join(f'`{f}`' for f in word.fields)} |\n"
        for name, word in WORDS.items()
    )
    return "".join([RULES_PAGE, *rows])


def _on_one_line(docstring: str) -> str:
    """Joins the continued lines of a docstring's attributes."""
    return docstring.replace("\n        ", " ")


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    return "none" if value is None else f"`{json.dumps(value)}`"


def _in_words(kind: Any) -> str:
    """A field's type: `whole number`, `list of text`, `mapping to Arm`."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_in_words(k) for k in inside if k is not type(None))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin is list:
        return f"list of {_in_words(inside[0])}"
    if origin is dict:
        null = " or null" if type(None) in get_args(inside[1]) else ""
        return f"mapping of names to {_in_words(inside[1])}{null}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        heading = next(name for name, model in PARTS.items() if model is kind)
        return f"[{heading.lower()}](#{heading.lower()})"
    words = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
    return words.get(kind, "values")


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    pairs = (line.strip().partition(": ") for line in section.splitlines())
    return {name: text for name, colon, text in pairs if colon}


PAGES = {
    "command-line.md": command_line, "python.md": python, "presets.md": presets, "study.md": study,
    "rules.md": rules,
}  # fmt: skip

if __name__ == "__main__":
    for page, write in PAGES.items():
        (HERE / page).write_text(write(), encoding="utf-8")
