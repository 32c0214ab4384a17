"""Datasets described by one JSON: Medical Decathlon and MONAI datalists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.data.images import ending_of
from augmint.data.layout import (
    Found,
    Listing,
    facts_of,
    name_cases,
    names_of,
    parse_labels,
    read_json,
)
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
    entries = content if isinstance(content, list) and split == "train" else None
    if split not in SPLIT_KEYS:
        raise AugmintError(f"{path}: the split is one of {', '.join(SPLIT_KEYS)}, not {split!r}")
    for key in SPLIT_KEYS[split]:
        entries = description.get(key) if entries is None else entries
    if not isinstance(entries, list) or not entries:
        raise AugmintError(f"{path}: no list of cases under `{SPLIT_KEYS[split][0]}`")
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
        **facts_of(description, path),
    )


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
