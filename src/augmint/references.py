"""Opens what predictions are scored against: a labelled dataset, or a bare folder of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from augmint.case import Grid
from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.folders import MASK_SUFFIX, find_folders
from augmint.data.images import ending_of, read_mask, stem_of
from augmint.data.labels import LabelTable, build_table
from augmint.data.layout import Found, Listing, facts_of, parse_labels, read_json
from augmint.data.patients import find_origins
from augmint.errors import AugmintError
from augmint.progress import Talk

LABEL_FILES = ("dataset.json", "labels.json")


@dataclass(frozen=True)
class Reference:
    """One reference mask, not loaded; `columns` is the case's row of cases.csv."""

    case_id: str
    patient_id: str
    masks: tuple[Path, ...]
    columns: Mapping[str, str]
    load: Callable[[], tuple[np.ndarray, Grid]]


@dataclass(frozen=True)
class References:
    """What predictions are held against.

    Attributes:
        root: Dataset or folder.
        name: For the summary.
        items: The cases to score, sorted by name.
        table: Stored values -> class indices, and the names of the classes.
    """

    root: Path
    name: str
    items: tuple[Reference, ...]
    table: LabelTable


def open_references(
    references: Path | str | Dataset,
    predictions: Path,
    *,
    labels: Mapping[str, int] | Path | str | None,
    label_map: Mapping[str, str | None] | None,
    patient_regex: str | None,
    split: str,
    talk: Talk,
) -> References:
    """Open references without loading them; the arguments are those of `augmint.score`.

    Raises:
        AugmintError: if they are neither a dataset nor masks, or an argument does not fit them.
    """
    if not isinstance(references, Dataset) and _is_bare(Path(references)):
        if split != "train":
            raise AugmintError(f"{references}: a folder of masks has no splits; leave out --split")
        folder = Path(references)
        return _open_bare(folder, predictions, labels, label_map, patient_regex, talk)
    if labels is not None:
        raise AugmintError("a dataset names its labels itself; leave out --labels")
    if not isinstance(references, Dataset):
        references = open_dataset(
            references, patient_regex=patient_regex, label_map=label_map, split=split
        )
    elif label_map or patient_regex or split != "train":
        raise AugmintError(
            "an open dataset has its label map, patients and split already; give them to "
            "open_dataset"
        )
    dataset = references
    talk.say(f"patients: {dataset.patient_rule}")
    labelled = [item for item in dataset.items if item.masks and not item.synthetic]
    if not labelled:
        raise AugmintError(f"{dataset.root}: no real case has a mask to score against")
    if rest := len(dataset.items) - len(labelled):
        talk.say(f"note: {rest} case(s) without a mask, or synthetic, are left out")
    items = [
        Reference(i.case_id, i.patient_id, i.masks, i.columns, partial(_load_item, dataset, i))
        for i in labelled
    ]
    return References(dataset.root, dataset.name, tuple(items), dataset.table)


def _load_item(dataset: Dataset, item: Item) -> tuple[np.ndarray, Grid]:
    case = dataset.load(item)
    return np.asarray(case.mask), case.grid


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds masks alone, and no images that would make it a dataset."""
    if not folder.is_dir() or (folder / "datalist.json").is_file() or find_folders(folder):
        return False
    if any((folder / name).is_dir() for name in ("imagesTr", "imagesTs")):
        return False
    suffixed = [bool(MASK_SUFFIX.match(name)) for name in mask_files(folder)]
    return bool(suffixed) and (all(suffixed) or not any(suffixed))


def _open_bare(
    folder: Path,
    predictions: Path,
    labels: Mapping[str, int] | Path | str | None,
    label_map: Mapping[str, str | None] | None,
    patient_regex: str | None,
    talk: Talk,
) -> References:
    masks = mask_files(folder)
    above = folder.parent
    places = [place / name for place in (folder, above, predictions) for name in LABEL_FILES]
    source = next((path for path in places if path.is_file()), None)
    facts: dict[str, Any] = {"annotated": None, "spacing_known": None}
    if isinstance(labels, Mapping):
        named = parse_labels(labels, folder)
    elif labels is not None or source is not None:
        source = source if labels is None else Path(labels)
        assert source is not None
        named, facts = read_labels(source)
        talk.say(f"labels: {', '.join(n for n in named if n != 'background')}, from {source}")
    else:
        named = {"background": 0, **{str(v): v for v in _values(masks, talk)}}
        talk.say(
            f"labels are named by their numbers, {', '.join(n for n in named if n != 'background')}"
            ": no dataset.json or labels.json tells their names"
        )
    known = facts["spacing_known"] is not False
    table = build_table(named, facts["annotated"], label_map, strict=True)
    listing = Listing(
        root=above if (above / "cases.csv").is_file() else folder,
        name=folder.name if folder.name != "labelsTs" else f"{above.name}/{folder.name}",
        layout="masks",
        found=tuple(Found(case_id, (), (path,)) for case_id, path in masks.items()),
        labels=named,
    )
    origins, rule = find_origins(listing, patient_regex)
    talk.say(f"patients: {rule}")
    items = [
        Reference(c, o.patient_id, (path,), o.columns, partial(_load_mask, c, path, table, known))
        for c, path, o in ((c, path, origins[c]) for c, path in sorted(masks.items()))
    ]
    return References(folder, listing.name, tuple(items), table)


def _load_mask(case_id: str, path: Path, table: LabelTable, known: bool) -> tuple[np.ndarray, Grid]:
    stored, affine, has_spacing = read_mask(path)
    mask = table.apply(stored, f"case {case_id!r}, {path}")
    return mask, Grid(stored.shape, affine, known and has_spacing)


def read_labels(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Name -> stored value of a dataset.json or labels.json, and what else it says."""
    content = read_json(path)
    described = isinstance(content, Mapping) and isinstance(content.get("labels"), Mapping)
    named = parse_labels(content["labels"] if described else content, path)
    return named, facts_of(content if described else {}, path)


def _values(masks: Mapping[str, Path], talk: Talk) -> list[int]:
    """Every foreground value in any of the masks."""
    values: set[int] = set()
    for path in talk.counted("reading label values", masks.values(), len(masks)):
        values.update(int(v) for v in np.unique(read_mask(path)[0]))
    if negative := [v for v in values if v < 0]:
        raise AugmintError(f"label values must be 0 or more, got {min(negative)}")
    if not values - {0}:
        raise AugmintError("no reference holds any label; there is nothing to score")
    return sorted(values - {0})


def mask_files(folder: Path) -> dict[str, Path]:
    """Case name -> file, of the masks that lie in a folder itself.

    Raises:
        AugmintError: if there is no such folder, or two files are named after one case.
    """
    if not folder.is_dir():
        raise AugmintError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not ending_of(path) or path.name.startswith("."):
            continue
        other = files.setdefault(stem_of(path), path)
        if other != path:
            raise AugmintError(
                f"{folder}: {other.name} and {path.name} are both named after one case; keep one"
            )
    return files
