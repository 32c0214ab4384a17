"""Datasets described by one JSON: Medical Decathlon and MONAI datalists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.data.images import ending_of
from augmint.data.layout import (
    Found,
    Listing,
    facts_of,
    listed,
    name_cases,
    names_of,
    parse_labels,
    read_json,
)
from augmint.data.patients import BUILT_IN_RULES, read_rows
from augmint.errors import AugmintError

SPLIT_KEYS = {
    "train": ("training", "train"),
    "validation": ("validation", "val"),
    "test": ("testing", "test"),
}


def list_datalist(path: Path, content: object, layout: str, split: str = "train") -> Listing:
    """The cases of a Decathlon `dataset.json` or a MONAI datalist.

    Paths are relative to the JSON's folder. Each entry has `image` (one path or one per channel)
    and `label` (one path, several, or none); its other plain values, such as `fold`, become
    columns, and `patient`, `domain` and `case` have their usual meaning.

    Args:
        path: The JSON file.
        content: Its content: a mapping with `training`, or a list of entries.
        layout: `decathlon` or `datalist`.
        split: `train`, `validation` or `test`.

    Raises:
        AugmintError: if the split or an entry's image is missing.
    """
    description: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    if split not in SPLIT_KEYS:
        raise AugmintError(f"{path}: the split is one of {', '.join(SPLIT_KEYS)}, not {split!r}")
    entries = content if isinstance(content, list) and split == "train" else None
    entries = entries or _entries(description, split)
    if not entries:
        raise AugmintError(f"{path}: no list of cases under `{SPLIT_KEYS[split][0]}`")
    root = path.parent
    found = _found(entries, path)
    others = {
        name: tuple(_found(more, path))
        for name in SPLIT_KEYS
        if name != split and (more := _entries(description, name))
    }
    labels = description.get("labels")
    beside = root / "labels.json"
    if labels is None and beside.is_file():
        labels = read_json(beside)
    channels = description.get("channel_names", description.get("modality"))
    return Listing(
        root=root,
        name=str(description.get("name") or root.name),
        layout=layout,
        found=tuple(sorted(found, key=lambda case: case.case_id)),
        labels=None if labels is None else parse_labels(labels, path),
        channel_names=() if channels is None else names_of(channels, path, "modality"),
        file_ending=ending_of(found[0].images[0]),
        other_splits=others,
        **facts_of(description, path),
    )


def check_splits(listing: Listing, patients: Mapping[str, str], regex: str | None) -> None:
    """Make sure that no patient and no image of these cases lies in another split, too.

    Where nothing names the patients, files alone are compared: equal case names in two splits are
    common and prove nothing.

    Args:
        listing: The cases that were asked for, and those of the other splits.
        patients: Case name to patient of those that were asked for.
        regex: The user's patient expression.

    Raises:
        AugmintError: naming the patient, and its file in the other split.
    """
    if not listing.other_splits:
        return
    images = {file.absolute(): case.case_id for case in listing.found for file in case.images}
    table = {row.get("case"): row for row in read_rows(listing.root / "cases.csv")}
    mine = set(patients.values())
    for split, found in listing.other_splits.items():
        for case in found:
            row = {**case.columns, **table.get(case.case_id, {})}
            patient = row.get("patient") or _named_patient(case.case_id, regex)
            twice = [images[f.absolute()] for f in case.images if f.absolute() in images]
            if twice:
                patient = patients[twice[0]]
            if patient in mine:
                cases = [name for name, whose in patients.items() if whose == patient]
                raise AugmintError(
                    f"leak: patient {patient} of {listing.root} has {case.images[0]} in the "
                    f"{split} split and {listed(cases)} in the one that is read; split by patient"
                )


def _named_patient(name: str, regex: str | None) -> str | None:
    """The patient in a case name, if the expression or a built-in rule finds one."""
    patterns = list(BUILT_IN_RULES.values()) if regex is None else [re.compile(regex)]
    for pattern in patterns:
        if match := pattern.search(name):
            return match[1] if pattern.groups else match[0]
    return None


def _entries(description: Mapping[str, Any], split: str) -> list[object]:
    """The list under the first of a split's keys that is there; empty where there is none."""
    for key in SPLIT_KEYS[split]:
        if description.get(key) is not None:
            return description[key] if isinstance(description[key], list) else []
    return []


def _found(entries: Sequence[object], path: Path) -> list[Found]:
    """The cases of one split."""
    root = path.parent
    records = [_record(entry, number, path) for number, entry in enumerate(entries)]
    images = [_paths(record["image"], root, path, number) for number, record in enumerate(records)]
    names = name_cases([files[0] for files in images], root)
    found = []
    for number, (record, files, name) in enumerate(zip(records, images, names)):
        label = record.get("label")
        columns = {
            key: str(value)
            for key, value in record.items()
            if key not in ("image", "label") and isinstance(value, (str, int, float))
        }
        masks = _paths(label, root, path, number) if label else ()
        found.append(Found(str(record.get("case") or name), files, masks, columns))
    return found


def _record(entry: object, number: int, path: Path) -> Mapping[str, Any]:
    """One entry as a mapping with `image`; Decathlon's test entries are bare paths."""
    record = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(record, Mapping) or not record.get("image"):
        raise AugmintError(f"{path}: entry {number} has no `image`, got {entry!r}")
    return record


def _paths(entry: object, root: Path, path: Path, number: int) -> tuple[Path, ...]:
    files = [entry] if isinstance(entry, str) else entry
    if not isinstance(files, Sequence) or not all(isinstance(file, str) for file in files):
        raise AugmintError(f"{path}: entry {number} must give paths, got {entry!r}")
    return tuple((root / file) for file in files)
