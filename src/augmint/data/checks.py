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
            loaded), empty masks (legal in training), masks on another affine than their image.
        on_case: Called with each case name before it is read.
        on_load: Called with each case that could be read, so that nobody reads it again.

    Returns:
        The problems; empty where there is none.
    """
    problems = list(_shallow(dataset))
    if not deep:
        return problems
    empty, shifted = [], []
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
    if empty:
        problems.append(f"{len(empty)} mask(s) have no foreground: {listed(empty)}")
    if shifted:
        problems.append(
            f"{len(shifted)} mask(s) have another affine than their image: {listed(shifted)}; "
            "pixels are paired as stored, so check that they match"
        )
    return problems


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
    if len(dataset.patients) < 2:
        yield "fewer than 2 patients: nothing can be held back to measure on"


def _is_shifted(item: Item, affine: np.ndarray) -> bool:
    others = [read_affine(path) for path in item.masks]
    return any(
        other is not None
        and (other.shape != affine.shape or not np.allclose(other, affine, atol=1e-3))
        for other in others
    )
