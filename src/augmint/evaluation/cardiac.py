"""LV volumes and ejection fraction of the patients of a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from augmint.case import Case, Grid
from augmint.data.dataset import Dataset, Item
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.evaluation.volumes import (
    APICAL_VIEWS,
    PHASES,
    CardiacFunction,
    Cavity,
    Key,
    check_spacing,
    measure_cavity,
    measure_patient,
    views_of,
)


def measure_patients(
    dataset: Dataset,
    *,
    lv: str = "LV",
    atrium: str | None = None,
    mask_of: Callable[[Case], np.ndarray] | None = None,
    phases: Mapping[str, str] | None = None,
    pixel_column: str | None = None,
    ef_only: bool = False,
    single_plane: bool = False,
) -> tuple[CardiacFunction, ...]:
    """EDV, ESV and EF of every patient, from the reference masks or from predictions.

    Cases are told apart by the columns `view` and `phase`. A patient with the views 2CH and 4CH is
    measured by biplane discs, one with a volume per phase by summation of slices. Cases of a phase
    other than ED and ES take no part.

    An empty reference is an error. A prediction that cannot be measured leaves the figures of its
    patient None and says why in `note`: count it as a failure.

    With unknown spacing there are no volumes in ml, but EF is a ratio: a factor common to ED and ES
    cancels. `ef_only` asks for it. Which view is longer is then unknown, so the geometric mean of
    both axes stands for the longer, and any scale of either view cancels exactly; pixels that are
    not square still move EF a little, by less than two points in phantoms at an aspect of 4 : 3.

    Args:
        dataset: Real labelled cases.
        lv: Name of the label of the LV cavity.
        atrium: Name of the label of the left atrium, to find the mitral annulus of apical frames;
            by default the cavity's own shape shows it.
        mask_of: Case to predicted class indices (*spatial) on the case's grid, in the dataset's
            numbers; None for the reference.
        phases: Case to `ED` or `ES`, before the column `phase`.
        pixel_column: The column of cases.csv that holds the size of square pixels in mm, for
            frames whose files have no spacing.
        ef_only: Whether volumes in px^3 will do where the spacing is unknown.
        single_plane: Whether a patient with only one apical view is measured by that one.

    Raises:
        AugmintError: if a label, view or phase is missing or doubled, a reference is empty, or the
            spacing is unknown and `ef_only` is not set.
    """
    wanted = [_class_of(dataset, name) for name in (lv, atrium) if name is not None]
    measured = []
    for patient, items in _by_patient(dataset, phases or {}).items():
        views = views_of(patient, items, single_plane=single_plane)
        loaded = {
            key: _load(dataset, item, wanted, mask_of, pixel_column)
            for key, item in items.items()
            if key[0] in views
        }
        known = check_spacing(patient, loaded, ef_only=ef_only)
        measured.append(
            measure_patient(patient, loaded, known=known, forgiving=mask_of is not None)
        )
    return tuple(measured)


def phases_by_volume(dataset: Dataset, *, lv: str = "LV") -> dict[str, str]:
    """Case to phase where patients have two cases each: ED has the larger reference cavity.

    For datasets that store both phases without naming them; hand the answer to
    `measure_patients` for references and predictions alike.

    Raises:
        AugmintError: if a patient has not two cases, or two of equal volume.
    """
    index = _class_of(dataset, lv)
    volumes: dict[str, dict[str, float]] = {}
    for item in dataset.items:
        case = dataset.load(item)
        size = float((_classes(case, None) == index).sum() * np.prod(case.grid.spacing))
        volumes.setdefault(case.patient_id, {})[case.case_id] = size
    phases: dict[str, str] = {}
    for patient, by_case in volumes.items():
        if len(by_case) != 2 or len(set(by_case.values())) != 2:
            raise AugmintError(
                f"patient {patient!r}: phases follow from two cases of different LV volume, got "
                f"{listed([f'{c} ({v:g})' for c, v in by_case.items()])}; name them in a column "
                "`phase` of cases.csv"
            )
        small, large = sorted(by_case, key=lambda case_id: by_case[case_id])
        phases |= {large: "ED", small: "ES"}
    return phases


def pair_patients(
    references: Sequence[CardiacFunction],
    predictions: Sequence[CardiacFunction],
    quantity: Literal["edv", "esv", "ef"] = "ef",
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values of patients measured in both, and the patients whose prediction has none.

    Returns:
        Reference values (n,), prediction values (n,) in the same order, and the failures, which
        belong beside any bias computed from the values.

    Raises:
        AugmintError: if the patients differ, or volumes are asked for that are not in ml.
    """
    of = {p.patient: p for p in predictions}
    if set(of) != {r.patient for r in references} or len(of) != len(references):
        odd = sorted(set(of) ^ {r.patient for r in references})
        raise AugmintError(
            f"references and predictions are not of the same patients: {listed(odd)}"
        )
    if quantity != "ef" and any(f.unit != "ml" for f in (*references, *predictions)):
        raise AugmintError(f"{quantity} is in px^3, which cannot be compared; compare `ef` alone")
    pairs = [(getattr(r, quantity), getattr(of[r.patient], quantity)) for r in references]
    good = [pair for pair in pairs if None not in pair]
    failed = tuple(r.patient for r, pair in zip(references, pairs) if None in pair)
    values = np.array(good, float).reshape(-1, 2)
    return values[:, 0], values[:, 1], failed


def _class_of(dataset: Dataset, name: str) -> int:
    index = dataset.labels.get(name, 0)
    if index not in dataset.annotated:
        named = [n for n, i in dataset.labels.items() if i in dataset.annotated]
        raise AugmintError(
            f"{dataset.name}: no annotated label named {name!r}, there are {listed(named)}; name "
            "the one that is meant"
        )
    return index


def _by_patient(dataset: Dataset, phases: Mapping[str, str]) -> dict[str, dict[Key, Item]]:
    """Patient to (view, phase) to case; the view is empty for anything not apical."""
    found: dict[str, dict[Key, Item]] = {patient: {} for patient in dataset.patients}
    for item in dataset.items:
        if item.synthetic:
            raise AugmintError(
                f"case {item.case_id!r} is synthetic, and EF is measured in patients; select the "
                "real cases"
            )
        phase = phases.get(item.case_id, item.columns.get("phase", ""))
        view = item.columns.get("view", "")
        key = (view if view in APICAL_VIEWS else "", phase)
        if not phase:
            raise AugmintError(
                f"case {item.case_id!r} names no phase; add a column `phase` with ED and ES to "
                "cases.csv"
            )
        if phase not in PHASES:
            continue
        cases = found[item.patient_id]
        if key in cases:
            raise AugmintError(
                f"patient {item.patient_id!r} has two cases at {phase}"
                f"{' in ' + key[0] if key[0] else ''}, {cases[key].case_id!r} and "
                f"{item.case_id!r}; select one"
            )
        cases[key] = item
    return found


def _classes(case: Case, mask_of: Callable[[Case], np.ndarray] | None) -> np.ndarray:
    if mask_of is None and case.mask is None:
        raise AugmintError(f"case {case.case_id!r} has no reference mask; leave it out")
    classes = np.asarray(case.mask if mask_of is None else mask_of(case))
    if classes.shape != case.grid.shape:
        raise AugmintError(
            f"case {case.case_id!r}: prediction {classes.shape} does not lie on the native grid "
            f"{case.grid.shape}; bring it back onto that grid"
        )
    return classes


def _load(
    dataset: Dataset,
    item: Item,
    wanted: Sequence[int],
    mask_of: Callable[[Case], np.ndarray] | None,
    pixel_column: str | None,
) -> Cavity:
    """One case measured, from its reference or from a prediction."""
    case = dataset.load(item)
    classes, view = _classes(case, mask_of), item.columns.get("view", "")
    grid, apical = case.grid, view in APICAL_VIEWS
    if pixel_column is not None and not grid.spacing_known:
        try:
            size = float(item.columns[pixel_column])
        except (KeyError, ValueError):
            size = math.nan
        if not (apical and 0 < size < math.inf):
            raise AugmintError(
                f"case {case.case_id!r}: the column {pixel_column!r} must hold the pixel size of a "
                f"frame in mm, got {item.columns.get(pixel_column)!r}"
            )
        grid = Grid(grid.shape, np.diag([size] * grid.dims + [1.0]), True)
    cavity, *atrium = (classes == index for index in wanted)
    return measure_cavity(
        case.case_id, cavity, grid, view, atrium=atrium[0] if apical and atrium else None
    )
