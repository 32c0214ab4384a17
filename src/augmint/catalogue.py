"""The methods in words: what each does and the fields that configure it."""

from __future__ import annotations

from typing import Any


def list_methods() -> list[dict[str, Any]]:
    """Every method with its fields: name, type, default and meaning."""
    from augmint.methods import METHODS

    return [_describe(name, kind) for name, kind in METHODS.items()]


def _describe(name: str, kind: type) -> dict[str, Any]:
    import dataclasses
    import typing

    meanings = _attributes(kind.__doc__ or "")
    types = typing.get_type_hints(kind)
    fields = [
        {
            "name": field.name,
            "type": _type_name(types[field.name]),
            "default": None if field.default is dataclasses.MISSING else field.default,
            "meaning": meanings.get(field.name, ""),
        }
        for field in dataclasses.fields(kind)
    ]
    summary = (kind.__doc__ or "").strip().partition("\n")[0]
    return {"name": name, "summary": summary, "fields": fields}


def _type_name(kind: Any) -> str:
    import typing

    choices = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, choices))
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _attributes(docstring: str) -> dict[str, str]:
    """Field -> meaning, from the `Attributes:` section of a Google-style docstring."""
    import inspect

    meanings: dict[str, str] = {}
    current = ""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        text = line.strip()
        name, colon, rest = text.partition(": ")
        if not line.startswith("     ") and colon and name.isidentifier():
            current, meanings[name] = name, rest
        elif current:
            meanings[current] += f" {text}"
    return meanings
