"""LV volumes and ejection fraction of patients, by discs of apical frames or slices of a stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from augmint.case import Case, Grid
from augmint.data.dataset import Dataset, Item
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.evaluation.discs import biplane_volume, measure_view, single_plane_volume

MM3_PER_ML = 1000.0
PHASES = ("ED", "ES")
APICAL_VIEWS = ("2CH", "4CH")


@dataclass(frozen=True)
class CardiacFunction:
    """LV volumes and ejection fraction of one patient.

    Attributes:
        patient: Its name.
        edv: End-diastolic volume in `unit`; None where it could not be measured.
        esv: End-systolic volume in `unit`, or None.
        ef: Ejection fraction in percent, or None.
        unit: `ml`, or `px^3` where the spacing is unknown: then only `ef` has a meaning.
        method: `biplane discs`, `single-plane discs 2CH`, `single-plane discs 4CH` or `slices`.
        note: Why a figure is missing, and which parts of a mask were left out; may be empty.
    """

    patient: str
    edv: float | None
    esv: float | None
    ef: float | None
    unit: Literal["ml", "px^3"]
    method: str
    note: str = ""


def stack_volume(cavity: np.ndarray, *, spacing: Sequence[float]) -> float:
    """Volume by summation of slices: area times slice distance over all slices.

    Args:
        cavity: (*spatial) boolean volume.
        spacing: Voxel size per axis, that across slices being their distance, gap included.

    Returns:
        In the cube of the spacing's unit: 1000 mm^3 are 1 ml.

    Raises:
        AugmintError: if the mask is empty or not a volume.
    """
    cavity = np.asarray(cavity, bool)
    if cavity.ndim != 3 or len(spacing) != 3 or not min(spacing) > 0:
        raise AugmintError(
            f"a sum of slices needs a volume and three spacings above 0, got shape {cavity.shape} "
            f"and {tuple(spacing)}; apical frames are measured by `measure_view`"
        )
    if not cavity.any():
        raise AugmintError("the LV cavity mask is empty, so it has no volume; check the mask")
    return float(cavity.sum() * np.prod(np.asarray(spacing, float)))


def ejection_fraction(edv: float, esv: float) -> float:
    """(EDV - ESV) / EDV in percent; both volumes in one unit, whichever.

    A negative value, from an ESV above the EDV, is returned as it is.

    Raises:
        AugmintError: if the EDV is not above 0 or the ESV is below 0.
    """
    if not edv > 0 or not esv >= 0:
        raise AugmintError(f"EF needs an EDV above 0 and an ESV of 0 or more, got {edv} and {esv}")
    return 100 * (edv - esv) / edv


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
        views = _views_of(patient, items, single_plane)
        loaded = {
            key: _load(dataset, item, wanted, mask_of, pixel_column)
            for key, item in items.items()
            if key[0] in views
        }
        known = _check_spacing(patient, loaded, ef_only)
        measured.append(_measure(patient, loaded, known=known, forgiving=mask_of is not None))
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


@dataclass(frozen=True)
class _Loaded:
    """The cavity of one case, and the atrium where it is asked for; a frame is (H, W)."""

    case_id: str
    cavity: np.ndarray
    atrium: np.ndarray | None
    grid: Grid


_Key = tuple[str, str]  # view (empty for a stack), phase


def _class_of(dataset: Dataset, name: str) -> int:
    index = dataset.labels.get(name, 0)
    if index not in dataset.annotated:
        named = [n for n, i in dataset.labels.items() if i in dataset.annotated]
        raise AugmintError(
            f"{dataset.name}: no annotated label named {name!r}, there are {listed(named)}; name "
            "the one that is meant"
        )
    return index


def _by_patient(dataset: Dataset, phases: Mapping[str, str]) -> dict[str, dict[_Key, Item]]:
    """Patient to (view, phase) to case; the view is empty for anything not apical."""
    found: dict[str, dict[_Key, Item]] = {patient: {} for patient in dataset.patients}
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


def _views_of(patient: str, items: Mapping[_Key, Item], single_plane: bool) -> tuple[str, ...]:
    """The views to measure, each present at both phases."""
    views = sorted({view for view, _ in items})
    lacking = [
        f"{view or 'volume'} {p}" for view in views for p in PHASES if (view, p) not in items
    ]
    if not views or lacking:
        raise AugmintError(
            f"patient {patient!r}: EF needs ED and ES of each view, missing are "
            f"{listed(lacking) if lacking else 'both'}; select patients that have them"
        )
    if len(views) == 1 and views[0] and not single_plane:
        other = APICAL_VIEWS[views[0] == APICAL_VIEWS[0]]
        raise AugmintError(
            f"patient {patient!r}: biplane discs need 2CH and 4CH, {other} is missing; select "
            "patients that have both, or ask for single_plane"
        )
    if "" in views and len(views) > 1:
        raise AugmintError(
            f"patient {patient!r} has apical frames and other cases at ED and ES; select one kind"
        )
    return tuple(views)


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
) -> _Loaded:
    """Cavity, atrium and grid of one case; a one-slice apical file becomes a frame."""
    case = dataset.load(item)
    classes, grid = _classes(case, mask_of), case.grid
    apical = item.columns.get("view") in APICAL_VIEWS
    if apical and grid.dims == 3 and grid.shape[grid.slice_axis] == 1:
        classes, grid = classes.squeeze(grid.slice_axis), grid.plane()
    if grid.dims != (2 if apical else 3):
        raise AugmintError(
            f"case {case.case_id!r}: shape {grid.shape} is measured neither by discs, which need a "
            "frame of view 2CH or 4CH, nor by slices, which need a volume; name the view"
        )
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
        grid = Grid(grid.shape, np.diag([size, size, 1.0]), True)
    masks = [classes == index for index in wanted]
    return _Loaded(case.case_id, masks[0], masks[1] if apical and len(masks) > 1 else None, grid)


def _check_spacing(patient: str, loaded: Mapping[_Key, _Loaded], ef_only: bool) -> bool:
    """Whether all spacings are known; where not, ED and ES must share a grid."""
    unknown = [part.case_id for part in loaded.values() if not part.grid.spacing_known]
    if not unknown:
        return True
    if not ef_only:
        raise AugmintError(
            f"patient {patient!r}: the spacing of {listed(unknown)} is unknown, so there are no "
            "volumes in ml; give files with spacing, or ask for EF alone (ef_only)"
        )
    if len(unknown) < len(loaded):
        raise AugmintError(
            f"patient {patient!r}: the spacing of {listed(unknown)} is unknown, that of the other "
            "cases is not; EF needs one unit for all"
        )
    for view in {view for view, _ in loaded}:
        ed, es = (loaded[view, phase] for phase in PHASES)
        if ed.grid.shape != es.grid.shape:
            raise AugmintError(
                f"patient {patient!r}: {ed.case_id} {ed.grid.shape} and {es.case_id} "
                f"{es.grid.shape} differ in shape, so without spacing EF cannot compare them"
            )
    return False


def _measure(
    patient: str, loaded: Mapping[_Key, _Loaded], *, known: bool, forgiving: bool
) -> CardiacFunction:
    views = sorted({view for view, _ in loaded})
    method = "slices" if not views[0] else "biplane discs"
    if len(views) == 1 and views[0]:
        method = f"single-plane discs {views[0]}"
    unit: Literal["ml", "px^3"] = "ml" if known else "px^3"
    volumes: dict[str, float | None] = {}
    notes: list[str] = []
    for phase in PHASES:
        parts = [loaded[view, phase] for view in views]
        try:
            volumes[phase] = _volume(parts, bool(views[0]), known, notes)
        except AugmintError as error:
            if not forgiving:
                raise
            volumes[phase] = None
            notes.append(str(error))
    edv, esv = volumes["ED"], volumes["ES"]
    ef = None if edv is None or esv is None else ejection_fraction(edv, esv)
    return CardiacFunction(patient, edv, esv, ef, unit, method, "; ".join(notes))


def _volume(parts: Sequence[_Loaded], apical: bool, known: bool, notes: list[str]) -> float:
    """The volume of one phase in ml or px^3; what was left out is added to the notes."""
    per_unit = MM3_PER_ML if known else 1.0
    measured = []
    for part in parts:
        try:
            if not apical:
                return stack_volume(part.cavity, spacing=part.grid.spacing) / per_unit
            view = measure_view(part.cavity, spacing=part.grid.spacing, atrium=part.atrium)
        except AugmintError as error:
            raise AugmintError(f"case {part.case_id!r}: {error}") from None
        if view.apart:
            notes.append(f"case {part.case_id!r}: {view.apart:.1%} of the cavity lies apart")
        measured.append(view)
    if len(measured) == 1:
        return single_plane_volume(measured[0]) / per_unit
    two, four = measured
    length = None if known else math.sqrt(two.length * four.length)
    return biplane_volume(two, four, length=length) / per_unit
