"""Reads a YAML file as a model: all of its faults at once, each with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from augmint.errors import AugmintError

Model = TypeVar("Model", bound=BaseModel)
Kind = type[BaseModel]
Place = tuple[int | str, ...]


class StudyError(AugmintError):
    """Faults of a study that more than one field has a part in.

    Attributes:
        faults: The field that each is told of, and what it is.
    """

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        super().__init__("\n".join(message for _, message in faults))
        self.faults = tuple(faults)


class Words(NamedTuple):
    """How a file's parts are spoken of.

    Attributes:
        called: Model to its name with an article.
        belongs: Of a model, a field that it has not and the field's value: where that goes, or
            nothing.
    """

    called: Mapping[Kind, str]
    belongs: Callable[[Kind, str, Any], str]


class _Fault(NamedTuple):
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        at = f", field {self.field}" if self.field else ""
        return f"line {self.line}{at}: {' '.join(self.message.split())}"


def read_as(kind: type[Model], path: Path, words: Words, base: Path) -> Model:
    """Read and check a YAML file.

    Args:
        kind: What it is read as.
        path: The file.
        words: How its parts are spoken of.
        base: The folder of the files that it names; the model's checks get it as their context.

    Raises:
        AugmintError: naming the file, and line and field of each fault.
    """
    root, values = _load(path)
    faults = list(_repeated(root, ()))
    misspelt: set[Place] = set()
    listed: set[Kind] = set()
    while True:
        error: ValidationError | StudyError
        try:
            read = kind.model_validate(values, context=base)
        except (ValidationError, StudyError) as caught:
            error = caught
        else:
            if not faults:
                return read
            break
        if isinstance(error, StudyError):
            faults += [_fault(root, place, message) for place, message in error.faults]
            break
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        if not unknown:
            faults += _of_fields(error, kind, root, values, words, misspelt)
            break
        # An unknown field is read as the one that it resembles, or else left out, so that it
        # hides no other fault and causes none, such as that the right one is missing.
        for place in sorted(unknown, key=lambda place: _line(root, place)):
            message, meant = _unknown(kind, values, place, words, listed)
            faults.append(_fault(root, place, message))
            misspelt |= _repair(root, values, place, meant)
    lines = "\n".join(str(fault) for fault in sorted(set(faults)))
    raise AugmintError(f"study {path}, {lines}")


def _load(path: Path) -> tuple[Any, dict[str, Any]]:
    """The file's YAML nodes, which know their lines, and its values."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise AugmintError(f"study {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AugmintError(f"study {path} is no UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise AugmintError(f"study {path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise AugmintError(f"study {path}: must map names to values")
    return root, _named_null(values)


def _named_null(value: Any) -> Any:
    """YAML reads the key `null` as nothing; here it is the name of an arm or a field."""
    if isinstance(value, list):
        return [_named_null(v) for v in value]
    if isinstance(value, dict):
        return {"null" if k is None else k: _named_null(v) for k, v in value.items()}
    return value


def _unknown(
    kind: Kind, values: Any, place: Place, words: Words, listed: set[Kind]
) -> tuple[str, str]:
    """What to say of an unknown field, and the field that was meant, or nothing.

    The known ones follow where they are not among the `listed` already.
    """
    model, name = _model_at(kind, place[:-1]) or kind, str(place[-1])
    value = _value_at(values, place)
    known = list(model.model_fields)
    close = [k for k in known if k.endswith(f"_{name}")] or get_close_matches(name, known, 1)
    parts = [f"unknown field {name!r} of {words.called[model]}"]
    parts[0] += f" (did you mean {close[0]!r}?)" if close else ""
    if belongs := words.belongs(model, name, value):
        parts.append(belongs)
    if model not in listed:
        listed.add(model)
        parts.append(f"the fields of {words.called[model]} are {', '.join(known)}")
    return "; ".join(parts), close[0] if close else ""


def _repair(root: Any, values: Any, place: Place, meant: str) -> set[Place]:
    """Renames a field to the one that was meant, or takes it out; answers where it now is."""
    around, name = _value_at(values, place[:-1]), place[-1]
    value = around.pop(name)
    if not meant or meant in around:
        return set()
    around[meant] = value
    key = _keys_at(root, place[:-1]).get(str(name))
    if key is not None:
        key.value = meant
    return {(*place[:-1], meant)}


def _of_fields(
    error: ValidationError,
    kind: Kind,
    root: Any,
    values: Any,
    words: Words,
    misspelt: set[Place],
) -> list[_Fault]:
    """One fault for each field that is missing or has a value that does not fit."""
    told: dict[Place, list[str]] = {}
    for one in error.errors():
        place: Place = one["loc"]
        if one["type"] == "missing":
            told[place] = ["missing, and there is no default"]
            continue
        # Behind the field stands which type of several it was tried as.
        while place and _value_at(values, place) is _NOWHERE:
            place = place[:-1]
        what = one["msg"].removeprefix("Value error, ")
        model = _model_at(kind, place)
        if one["type"] == "model_type" and model is not None:
            fields = model.model_fields
            what = f"{words.called[model]} maps fields to values, its fields are "
            what += ", ".join(fields)
            if not any(field.is_required() for field in fields.values()):
                what += "; write {} to leave all at their defaults"
        known = told.setdefault(place, [])
        known.append(what.removeprefix("Input should be ") if known else what)
    faults = []
    for place, messages in told.items():
        if place in misspelt:
            continue  # it may not have been meant after all
        value = _value_at(values, place)
        came = "" if not place or value is _NOWHERE or isinstance(value, dict) else f"{value!r}"
        message = " or ".join(dict.fromkeys(messages))
        faults.append(_fault(root, place, message + (f", got {came}" if came else "")))
    return faults


_NOWHERE = object()


def _value_at(value: Any, place: Place) -> Any:
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _NOWHERE
    return value


def _model_at(annotation: Any, place: Place) -> Kind | None:
    """The model that a part of the file is read as, if it is one."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return next((m for a in inside if (m := _model_at(a, place)) is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not place:
            return annotation
        field = annotation.model_fields.get(str(place[0]))
        return None if field is None else _model_at(field.annotation, place[1:])
    return _model_at(inside[-1], place[1:]) if origin in (list, dict) and place else None


def _repeated(node: Any, place: Place) -> Iterator[_Fault]:
    """Fields that are given twice, of which YAML would take the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and name != "<<":
                field = ".".join(map(str, (*place, name)))
                yield _Fault(line, field, f"stands in line {seen[name]} already; keep one of them")
            seen.setdefault(name, line)
            yield from _repeated(value, (*place, name))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _repeated(value, (*place, number))


def _fault(root: Any, place: Place, message: str) -> _Fault:
    return _Fault(_line(root, place), ".".join(map(str, place)), message)


def _keys_at(node: Any, place: Place) -> dict[str, Any]:
    """The nodes of the keys of a mapping."""
    import yaml

    for part in place:
        if isinstance(node, yaml.MappingNode):
            node = {str(k.value): v for k, v in node.value}.get(str(part))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
    mapping = isinstance(node, yaml.MappingNode)
    return {str(k.value): k for k, _ in node.value} if mapping else {}


def _line(node: Any, place: Place) -> int:
    """The line of a field, or of the nearest one that stands in the file."""
    import yaml

    line = 1 if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            key, node = found[-1]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)
