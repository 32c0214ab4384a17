"""Writes the generated pages of docs/reference: command line, Python functions, presets.

Run it after a change of options, docstrings or presets; a test holds the pages to the code.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import typer

import augmint
from augmint.cli import app
from augmint.presets import PRESETS

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
    return f"[{name}]" if name == "SYNTHETIC" else name


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


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    pairs = (line.strip().partition(": ") for line in section.splitlines())
    return {name: text for name, colon, text in pairs if colon}


PAGES = {"command-line.md": command_line, "python.md": python, "presets.md": presets}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (HERE / page).write_text(write(), encoding="utf-8")
