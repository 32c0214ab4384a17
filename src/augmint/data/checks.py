"""What is wrong with a dataset, collected for the user before anything is fitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from augmint.case import Case
from augmint.data.dataset import Dataset, Item
from augmint.data.images import read_affine
from augmint.data.layout import listed
from augmint.errors import AugmintError


def check_dataset(
    dataset: Dataset,
    *,
    deep: bool,
    on_case: Callable[[str], None] | None = None,
    on_load: Callable[[Case], None] | None = None,
) -> list[str]:
    """Everything questionable about a dataset, one sentence each.

    Args:
        dataset: The dataset.
        deep: Also read every file: damaged or contradictory cases (each would raise when
            loaded), empty masks (legal in training), masks on another affine than their image,
            labels MYO that do not surround LV.
        on_case: Called with each case name before it is read.
        on_load: Called with each case that could be read, so that nobody reads it again.

    Returns:
        The problems; empty where there is none.
    """
    problems = list(_shallow(dataset))
    if not deep:
        return problems
    empty, shifted, open_walls = [], [], []
    for item in dataset.items:
        if on_case:
            on_case(item.case_id)
        if any(not path.is_file() for path in item.images + item.masks):
            continue  # named already
        try:
            case = dataset.load(item)
        except AugmintError as error:
            problems.append(str(error))
            continue
        if on_load:
            on_load(case)
        if case.mask is not None and not bool(case.mask.any()):
            empty.append(item.case_id)
        if _is_shifted(item, case.grid.affine):
            shifted.append(item.case_id)
        if not _has_wall(case, dataset):
            open_walls.append(item.case_id)
    if empty:
        problems.append(f"{len(empty)} mask(s) have no foreground: {listed(empty)}")
    if shifted:
        problems.append(
            f"{len(shifted)} mask(s) have another affine than their image: {listed(shifted)}; "
            "pixels are paired as stored, so check that they match"
        )
    if open_walls:
        problems.append(
            f"in {len(open_walls)} mask(s) MYO does not surround LV: {listed(open_walls)}; check "
            "which number is which label (ACDC stores RV 1, MYO 2, LV 3, and M&Ms LV 1, MYO 2, "
            "RV 3) and name them anew"
        )
    return problems


def surrounded_share(mask: np.ndarray, inner: int, outer: int, *, across: int | None) -> float:
    """How much of the pixels next to one class belong to another, from 0 to 1.

    Neighbours are those that share an edge within a slice.

    Args:
        mask: (*spatial) class indices.
        inner: The class whose neighbours count.
        outer: The class that may surround it.
        across: The axis across slices of a volume; None for a frame.

    Returns:
        The share; NaN where the inner class is missing or has no neighbour.
    """
    inside = mask == inner
    near = np.zeros_like(inside)
    for axis in range(mask.ndim):
        if axis == across:
            continue
        own, beside = np.moveaxis(inside, axis, 0), np.moveaxis(near, axis, 0)
        beside[1:] |= own[:-1]
        beside[:-1] |= own[1:]
    near &= ~inside
    return float((mask[near] == outer).mean()) if near.any() else float("nan")


def _has_wall(case: Case, dataset: Dataset) -> bool:
    """Whether MYO makes up most of what borders on LV; True where a case has not both.

    In references of ACDC, Sunnybrook and CAMUS it makes up 0.68 and more, although apical views
    are open towards the atrium; with LV and RV exchanged at most 0.43.
    """
    indices = [dataset.labels.get(name, 0) for name in ("LV", "MYO")]
    if case.mask is None or not set(indices) <= case.annotated:
        return True
    mask = case.mask.numpy()
    if not all((mask == index).any() for index in indices):
        return True
    across = case.grid.slice_axis if case.dims == 3 else None
    return not surrounded_share(mask, *indices, across=across) < 0.5


def _shallow(dataset: Dataset) -> Iterator[str]:
    """Problems that names and paths alone show."""
    files = [path for item in dataset.items for path in item.images + item.masks]
    missing = sorted({str(path) for path in files if not path.is_file()})
    if missing:
        yield f"{len(missing)} file(s) do not exist: {listed(missing)}"
    unlabelled = [item.case_id for item in dataset.items if not item.masks]
    if unlabelled:
        yield f"{len(unlabelled)} case(s) have no mask: {listed(unlabelled)}"
    domains: dict[str, set[str]] = defaultdict(set)
    for item in dataset.items:
        domains[item.patient_id].add(item.domain)
    several = sorted(patient for patient, names in domains.items() if len(names) > 1)
    if several:
        names = ", ".join(name or "none" for name in sorted(domains[several[0]]))
        yield (
            f"{len(several)} patient(s) appear in more than one domain, such as {several[0]} in "
            f"{names}: leaving a domain out must also split these patients"
        )
    if count := dataset.left_out.get("validation"):
        yield (
            f"the {count} case(s) of its validation list are not used: augmint reads the training "
            "list and draws who validates from it (`augment --hold-back`, `segment --validation`)"
        )
    yield from dataset.notes
    if len(dataset.patients) < 2:
        yield "fewer than 2 patients: nothing can be held back to measure on"


def _is_shifted(item: Item, affine: np.ndarray) -> bool:
    others = [read_affine(path) for path in item.masks]
    return any(
        other is not None
        and (other.shape != affine.shape or not np.allclose(other, affine, atol=1e-3))
        for other in others
    )
