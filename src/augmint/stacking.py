"""Slices that are stored as cases of their own, stacked into volumes.

Some releases hold a volume as a picture for each slice. Networks that work in 3-D need the volume,
and 2-D ones that are told a slice's place in the heart need to know it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from augmint.case import Grid
from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.images import write_image, write_mask
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.fit import versions
from augmint.prepare import choose_patients
from augmint.progress import Talk
from augmint.report import sheet, tile, write_json
from augmint.staging import WORK, output_folder, write_text
from augmint.synthetic import write_cases, write_description

SCHEMA_VERSION = 1
ENDING = ".nii.gz"
# What stands before the last number of a case's name, that number, and what follows.
NUMBER = r"^(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)$"
SHOWN = 8


@dataclass(frozen=True)
class Stack:
    """The slices of one volume, in the order of their numbers.

    Attributes:
        name: Of the volume: what the names of its slices share.
        items: One case a slice.
        numbers: Of the slices, rising.
    """

    name: str
    items: tuple[Item, ...]
    numbers: tuple[int, ...]

    @property
    def missing(self) -> int:
        """Slices that are not there, if the numbers rise by their smallest step throughout."""
        steps = np.diff(self.numbers)
        return int((steps / steps.min()).round().sum()) - len(steps) if len(steps) else 0


def stack(
    data: Path | str | Dataset,
    out: Path | str,
    *,
    spacing: Sequence[float] | None = None,
    pattern: str = NUMBER,
    patients: int | Sequence[str] | None = None,
    seed: int = 0,
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Write a dataset of volumes from one whose cases are single slices.

    Cases whose names differ in their last number alone are the slices of one volume, in the order
    of that number. Values stay exact. Writes an nnU-Net raw dataset of NIfTI files
    (x, y, slice), cases.csv, stack.json, and a sheet.

    Args:
        data: A dataset folder, or an opened dataset; labelled throughout, or not at all.
        out: The folder to make.
        spacing: Distances in mm between pixels along a row, along a column, and between slices;
            without it the files have no spacing, and the dataset says so.
        pattern: A regular expression that finds `number` in a case's name; the rest of the name
            is the volume's.
        patients: How many patients to draw, or which; all by default.
        seed: Of that draw.
        resume: Continue an unfinished dataset.
        talk: Where progress goes.

    Returns:
        The dataset's folder.

    Raises:
        AugmintError: if a case is a volume already or has no number, if slices of one volume
            differ in shape, patient, domain or in having a mask, or if two have one number.
    """
    talk = talk or Talk()
    opened = data if isinstance(data, Dataset) else open_dataset(data, bare=True)
    real = replace(opened, items=tuple(i for i in opened.items if not i.synthetic))
    dataset = choose_patients(real, patients, seed)
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise AugmintError(
            f"--spacing wants three distances in mm, x,y,slice, got {tuple(spacing)}"
        )
    stacks = find_stacks(dataset, pattern)
    request = dict(
        command="stack", data=str(dataset.root.resolve()), patients=list(dataset.patients),
        spacing=None if spacing is None else list(spacing), pattern=pattern,
    )  # fmt: skip
    with output_folder(Path(out), request, resume=resume) as folder:
        for one in talk.counted("stack", stacks, len(stacks)):
            _write(dataset, one, folder, spacing)
        _finish(dataset, stacks, folder, request, spacing)
    single = [s.name for s in stacks if len(s.items) == 1]
    if single:
        talk.say(f"volumes of one slice: {listed(single)}; does --pattern find the right number?")
    if gaps := [f"{s.name} ({s.missing})" for s in stacks if s.missing]:
        talk.say(f"slices seem to be missing within: {listed(gaps)}; the rest was stacked")
    talk.say(
        f"wrote {len(stacks)} volumes of {len(dataset)} slices to {out}; look at "
        f"{out}/sheets/stack.png"
    )
    return Path(out)


def find_stacks(dataset: Dataset, pattern: str = NUMBER) -> tuple[Stack, ...]:
    """The volumes that a dataset's cases are slices of, sorted by name.

    Raises:
        AugmintError: see `stack`; shapes are told where slices are read.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise AugmintError(f"--pattern {pattern!r} is no regular expression: {error}") from error
    if "number" not in expression.groupindex:
        raise AugmintError(
            f"--pattern {pattern!r} names no group `number`; write (?P<number>\\d+) where it stands"
        )
    found: dict[str, dict[int, Item]] = defaultdict(dict)
    for item in dataset.items:
        match = expression.search(item.case_id)
        if match is None or not match["number"].isdecimal():
            raise AugmintError(
                f"case {item.case_id!r} has no number that says which slice it is; name it with "
                "--pattern"
            )
        start, end = match.span("number")
        name = _trimmed(item.case_id[:start], item.case_id[end:]) or item.patient_id
        slices, number = found[name], int(match["number"])
        if number in slices:
            raise AugmintError(
                f"cases {slices[number].case_id!r} and {item.case_id!r} are both slice {number} of "
                f"{name!r}; tell volumes apart with --pattern"
            )
        slices[number] = item
    stacks = []
    for name, slices in sorted(found.items()):
        numbers = tuple(sorted(slices))
        stacks.append(Stack(name, tuple(slices[n] for n in numbers), numbers))
        _check_alike(stacks[-1])
    return tuple(stacks)


def _trimmed(before: str, after: str) -> str:
    """What is left of a name without its number, and without the signs about the gap."""
    head, tail = before.rstrip("_-. #"), after.lstrip("_-. #")
    return f"{head}_{tail}" if head and tail else head or tail


def _check_alike(one: Stack) -> None:
    """Slices of one volume are of one patient and domain, and all or none of them labelled."""
    patients = sorted({item.patient_id for item in one.items})
    if len(patients) > 1:
        raise AugmintError(
            f"slices of {one.name!r} are of the patients {listed(patients)}; say who is who with "
            "--patient-regex or a column `patient` in cases.csv, or tell volumes apart with "
            "--pattern"
        )
    domains = sorted({item.domain for item in one.items})
    if len(domains) > 1:
        raise AugmintError(
            f"slices of {one.name!r} are of the domains {listed(domains)}; a volume has one"
        )
    bare = [item.case_id for item in one.items if not item.masks]
    if bare and len(bare) < len(one.items):
        raise AugmintError(
            f"{len(bare)} of {len(one.items)} slices of {one.name!r} have no mask: {listed(bare)}; "
            "a volume is labelled throughout or not at all: label them, or take them out"
        )


def _write(dataset: Dataset, one: Stack, folder: Path, spacing: Sequence[float] | None) -> None:
    """One volume and its mask, unless that is done; the note is written last."""
    note = folder / WORK / "rows" / f"{one.name}.json"
    if note.exists():
        return
    read = [(item, *dataset.read_stored(item)) for item in one.items]
    first = read[0][1]
    for item, array, _, _ in read:
        if array.ndim != 3:
            raise AugmintError(
                f"case {item.case_id!r} is a volume already, {array.shape[1:]}; stack slices alone"
            )
        if array.shape != first.shape or array.dtype != first.dtype:
            raise AugmintError(
                f"slices of {one.name!r} differ: {one.items[0].case_id!r} is {first.dtype} "
                f"{first.shape}, {item.case_id!r} {array.dtype} {array.shape}; bring them to one "
                "grid and type, or tell volumes apart with --pattern"
            )
    grid = _grid((*first.shape[:0:-1], len(read)), spacing)
    image = np.stack([_turned(array) for _, array, _, _ in read], -1)
    for channel in range(len(image)):
        path = folder / _images(one) / f"{one.name}_{channel:04d}{ENDING}"
        write_image(path, image[channel : channel + 1], grid)
    if one.items[0].masks:
        masks = [_mask(dataset, item) for item in one.items]
        mask = np.stack([_turned(m) for m in masks], -1)
        write_mask(folder / "labelsTr" / f"{one.name}{ENDING}", mask, grid)
    write_text(note, str(len(image)))


def _images(one: Stack) -> str:
    """nnU-Net keeps images that nobody labelled apart."""
    return "imagesTr" if one.items[0].masks else "imagesTs"


def _grid(shape: tuple[int, ...], spacing: Sequence[float] | None) -> Grid:
    return Grid(shape, np.diag([*(spacing or (1.0,) * 3), 1.0]), spacing is not None)


def _turned(plane: np.ndarray) -> np.ndarray:
    """Pictures run rows, columns; volumes store x before y."""
    return plane.swapaxes(-1, -2)


def _mask(dataset: Dataset, item: Item) -> np.ndarray:
    mask = dataset.load(item).mask
    assert mask is not None
    return mask.numpy()


def _finish(
    dataset: Dataset,
    stacks: Sequence[Stack],
    folder: Path,
    request: Mapping[str, Any],
    spacing: Sequence[float] | None,
) -> None:
    """dataset.json, cases.csv, stack.json and the sheet."""
    for name in ("imagesTr", "imagesTs", "labelsTr"):
        for path in (folder / name).glob(".*.tmp*"):  # half-written files that a kill left
            path.unlink()
    channels = int((folder / WORK / "rows" / f"{stacks[0].name}.json").read_text())
    labelled = sum(bool(s.items[0].masks) for s in stacks)
    told = dataset if spacing is None else replace(dataset, spacing_known=None)
    write_description(
        folder, told, cases=labelled, channels=channels, ending=ENDING,
        spacing_known=spacing is not None,
    )  # fmt: skip
    write_cases(folder, replace(dataset, items=tuple(_volume(s) for s in stacks)))
    everything = {
        "schema_version": SCHEMA_VERSION, "request": dict(request), "versions": versions(),
        "dataset": dataset.name, "licence": dataset.licence,
        "volumes": {
            s.name: {"slices": [i.case_id for i in s.items], "missing": s.missing} for s in stacks
        },
    }  # fmt: skip
    write_json(folder / "stack.json", everything)
    _write_sheet(dataset, stacks, folder)


def _volume(one: Stack) -> Item:
    """The row of a volume: what all its slices say alike."""
    first = one.items[0]
    alike = {
        k: v for k, v in first.columns.items() if all(i.columns.get(k) == v for i in one.items)
    }
    return replace(first, case_id=one.name, columns=alike)


def _write_sheet(dataset: Dataset, stacks: Sequence[Stack], folder: Path) -> None:
    """sheets/stack.png: a few volumes, every slice of them in order."""
    count = min(SHOWN, len(stacks))
    chosen = [stacks[round(k * (len(stacks) - 1) / max(1, count - 1))] for k in range(count)]
    most = max(len(s.items) for s in chosen)
    rows = [list(_tiles(dataset, s)) + [None] * (most - len(s.items)) for s in chosen]
    sheet(
        folder / "sheets" / "stack.png", rows, columns=[str(z) for z in range(most)],
        names=[s.name for s in chosen], labels=dataset.labels,
        heading=f"{dataset.name}: {count} of {len(stacks)} volumes, slices in order",
    )  # fmt: skip


def _tiles(dataset: Dataset, one: Stack) -> Iterator[np.ndarray | None]:
    for item in one.items:
        case = dataset.load(item)
        yield tile(case.image[0].numpy(), None if case.mask is None else case.mask.numpy())
