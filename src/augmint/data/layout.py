"""What every layout reader hands over: names and paths, nothing loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from augmint.errors import AugmintError


@dataclass(frozen=True)
class Found:
    """One case that a layout reader found.

    Attributes:
        case_id: The case's name, from its file name.
        images: One file per channel, or one RGB or 4-D file.
        masks: Empty where unlabelled; several are united.
        columns: What the layout itself says about the case (fold, folder, session).
        frame: Which index on the last axis of 4-D files is this case; None for whole files.
    """

    case_id: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    frame: int | None = None


@dataclass(frozen=True)
class Listing:
    """A dataset as its layout describes it, before patients, domains and label maps.

    Attributes:
        root: The folder that relative paths start from.
        name: The dataset's name.
        layout: `nnunet`, `folders`, `decathlon`, `datalist`, `bids`, `camus`, `acdc`, `mnms` or
            `mnms2`.
        found: The cases, sorted by name.
        labels: Label name to the value stored in the masks, background included; None where
            nobody named them: the masks must then be binary.
        annotated: Names that an annotator looked for; None for all.
        channel_names: Empty where the layout does not name its channels.
        spacing_known: False where the dataset disowns the spacing of its files.
        file_ending: The images' file name ending.
        licence: The licence of the data, as it states it.
        other_splits: Split name -> the cases of a split that was not asked for.
        patient_rule: What names the patients in the column `patient` of `found`, in words.
        notes: What of the release is not read, and why, one sentence each.
    """

    root: Path
    name: str
    layout: str
    found: tuple[Found, ...]
    labels: Mapping[str, int] | None
    annotated: tuple[str, ...] | None = None
    channel_names: tuple[str, ...] = ()
    spacing_known: bool | None = None
    file_ending: str = ""
    licence: str = ""
    other_splits: Mapping[str, tuple[Found, ...]] = field(default_factory=dict)
    patient_rule: str = ""
    notes: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AugmintError: if it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AugmintError(f"{path}: no such file; check the path's spelling") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AugmintError(f"{path}: not readable as JSON ({error})") from error


def parse_labels(labels: object, path: Path) -> dict[str, int]:
    """Label names and stored values of a JSON entry, as name -> value or value -> name.

    Raises:
        AugmintError: for regions, an ignore label, doubled values, or no background at 0.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise AugmintError(f"{path}: `labels` must map names to values, got {labels!r}")
    named: dict[str, int] = {}
    for key, value in labels.items():
        if isinstance(value, (list, tuple)):
            raise AugmintError(
                f"{path}: label {key!r} is a region {value}; give each label one value of its own"
            )
        name, number = (
            (value, key) if str(key).isdigit() and isinstance(value, str) else (key, value)
        )
        if not str(number).isdigit():
            raise AugmintError(
                f"{path}: label {name!r} has the value {number!r}, not an integer >= 0"
            )
        if int(number) in named.values() or str(name) in named:
            raise AugmintError(f"{path}: label {name!r} = {number} is given twice")
        named[str(name)] = int(number)
    zero = [name for name, number in named.items() if number == 0]
    if zero and zero[0] != "background":
        named = {("background" if n == 0 else name): n for name, n in named.items()}
    named.setdefault("background", 0)
    if named["background"] != 0:
        raise AugmintError(f"{path}: `background` must be 0, got {named['background']}")
    return dict(sorted(named.items(), key=lambda entry: entry[1]))


def names_of(entry: object, path: Path, key: str) -> tuple[str, ...]:
    """The strings of a JSON list, or the values of an {"0": name} mapping in numeric order.

    Raises:
        AugmintError: if the entry is neither.
    """
    if isinstance(entry, str):
        return (entry,)
    if isinstance(entry, Mapping) and all(str(k).isdigit() for k in entry):
        return tuple(str(entry[k]) for k in sorted(entry, key=int))
    if isinstance(entry, Sequence) and all(isinstance(name, str) for name in entry):
        return tuple(entry)
    raise AugmintError(f"{path}: {key!r} must name its entries, got {entry!r}")


def facts_of(description: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a `Listing` that any `dataset.json` may carry.

    Raises:
        AugmintError: if `spacing_known` or `annotated_labels` has another type than it should.
    """
    known = description.get("spacing_known")
    if known is not None and not isinstance(known, bool):
        raise AugmintError(f"{path}: `spacing_known` must be true or false, got {known!r}")
    annotated = description.get("annotated_labels")
    licence = description.get("licence", description.get("license", ""))
    return {
        "annotated": None if annotated is None else names_of(annotated, path, "annotated_labels"),
        "spacing_known": known,
        "licence": str(licence or ""),
    }


def name_cases(paths: Sequence[Path], root: Path) -> list[str]:
    """One case name per image: its stem, or its path where stems collide.

    The path is taken below `root`, or below the common parent where a file lies outside it.
    """
    from augmint.data.images import stem_of

    stems = [stem_of(path) for path in paths]
    if len(set(stems)) == len(set(paths)):
        return stems
    parents = [Path(os.path.abspath(path.parent)) for path in paths]
    top = Path(os.path.abspath(root))
    if not all(parent.is_relative_to(top) for parent in parents):
        top = Path(os.path.commonpath(parents))
    names = []
    for parent, stem in zip(parents, stems):
        # A leading dot would hide the files that are named after the case.
        parts = [part.lstrip(".") for part in (*parent.relative_to(top).parts, stem)]
        names.append("_".join(part for part in parts if part))
    return names


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first few of many names, for a message."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
