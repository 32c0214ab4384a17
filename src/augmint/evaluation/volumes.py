"""LV volumes and ejection fraction of one patient, from the cavity in each of its cases."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from augmint.case import Grid
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.evaluation.discs import (
    ApicalView,
    biplane_volume,
    measure_view,
    single_plane_volume,
)

MM3_PER_ML = 1000.0
PHASES = ("ED", "ES")
APICAL_VIEWS = ("2CH", "4CH")
Key = tuple[str, str]  # view (empty for a stack), phase


@dataclass(frozen=True)
class CardiacFunction:
    """LV volumes and ejection fraction of one patient.

    Attributes:
        patient: Its name.
        edv: End-diastolic volume in `unit`; None where it could not be measured.
        esv: End-systolic volume in `unit`, or None.
        ef: Ejection fraction in percent, or None.
        unit: `ml`, or `px^3` where the spacing is unknown: then only `ef` has a meaning.
        method: `biplane discs`, `single-plane discs 2CH`, `single-plane discs 4CH` or
            `summation of slices`.
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


@dataclass(frozen=True)
class Cavity:
    """What one case tells of its patient's LV.

    Attributes:
        case_id: Its name.
        shape: Of its grid.
        spacing_known: Whether `volume` and `view` are in mm; else they are in pixels.
        volume: Of a stack, by summation of slices; None for a frame.
        view: Of a frame, for discs; None for a stack.
        fault: Why it has neither; empty where it has one.
    """

    case_id: str
    shape: tuple[int, ...]
    spacing_known: bool
    volume: float | None = None
    view: ApicalView | None = None
    fault: str = ""


def measure_cavity(
    case_id: str, cavity: np.ndarray, grid: Grid, view: str, *, atrium: np.ndarray | None = None
) -> Cavity:
    """Measures one case; a one-slice file of an apical view is a frame.

    Args:
        case_id: Its name.
        cavity: (*spatial) boolean, on the grid.
        grid: The native grid.
        view: `2CH` or `4CH` for a frame; anything else is a stack.
        atrium: (*spatial) boolean left atrium, to find the mitral annulus of a frame.

    Raises:
        AugmintError: if the case is neither a frame of an apical view nor a volume.
    """
    apical = view in APICAL_VIEWS
    if apical and grid.dims == 3 and grid.shape[grid.slice_axis] == 1:
        axis = grid.slice_axis
        cavity, grid = cavity.squeeze(axis), grid.plane()
        atrium = None if atrium is None else atrium.squeeze(axis)
    if grid.dims != (2 if apical else 3):
        raise AugmintError(
            f"case {case_id!r}: shape {grid.shape} is measured neither by discs, which need a "
            "frame of view 2CH or 4CH, nor by slices, which need a volume; name the view"
        )
    found = Cavity(case_id, grid.shape, grid.spacing_known)
    try:
        if apical:
            seen = measure_view(cavity, spacing=grid.spacing, atrium=atrium)
            return replace(found, view=seen)
        return replace(found, volume=stack_volume(cavity, spacing=grid.spacing))
    except AugmintError as error:
        return replace(found, fault=f"case {case_id!r}: {error}")


def views_of(patient: str, keys: Collection[Key], *, single_plane: bool) -> tuple[str, ...]:
    """The views of a patient to measure, each present at both phases.

    Raises:
        AugmintError: if one is missing, or a lone one is not asked for.
    """
    views = sorted({view for view, _ in keys})
    lacking = [f"{view or 'volume'} {p}" for view in views for p in PHASES if (view, p) not in keys]
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


def check_spacing(patient: str, loaded: Mapping[Key, Cavity], *, ef_only: bool) -> bool:
    """Whether all spacings of a patient are known; where not, ED and ES must share a grid.

    Raises:
        AugmintError: if they must and do not, or `ef_only` is not set.
    """
    unknown = [part.case_id for part in loaded.values() if not part.spacing_known]
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
        if ed.shape != es.shape:
            raise AugmintError(
                f"patient {patient!r}: {ed.case_id} {ed.shape} and {es.case_id} "
                f"{es.shape} differ in shape, so without spacing EF cannot compare them"
            )
    return False


def measure_patient(
    patient: str, loaded: Mapping[Key, Cavity], *, known: bool, forgiving: bool
) -> CardiacFunction:
    """Volumes and EF of one patient.

    Args:
        patient: Its name.
        loaded: (view, phase) to cavity; the views are those of `views_of`.
        known: Whether the spacing is known, from `check_spacing`.
        forgiving: Whether a cavity that cannot be measured leaves figures out, with a note.

    Raises:
        AugmintError: if a cavity cannot be measured and `forgiving` is not set.
    """
    views = sorted({view for view, _ in loaded})
    method = "summation of slices" if not views[0] else "biplane discs"
    if len(views) == 1 and views[0]:
        method = f"single-plane discs {views[0]}"
    unit: Literal["ml", "px^3"] = "ml" if known else "px^3"
    volumes: dict[str, float | None] = {}
    notes: list[str] = []
    for phase in PHASES:
        parts = [loaded[view, phase] for view in views]
        faults = [part.fault for part in parts if part.fault]
        if faults and not forgiving:
            raise AugmintError(faults[0])
        volumes[phase] = None if faults else _volume(parts, known)
        notes += faults[:1] or [
            f"case {part.case_id!r}: {part.view.apart:.1%} of the cavity lies apart"
            for part in parts
            if part.view is not None and part.view.apart
        ]
    edv, esv = volumes["ED"], volumes["ES"]
    ef = None if edv is None or esv is None else ejection_fraction(edv, esv)
    return CardiacFunction(patient, edv, esv, ef, unit, method, "; ".join(notes))


def _volume(parts: Sequence[Cavity], known: bool) -> float:
    """The volume of one phase in ml or px^3."""
    per_unit = MM3_PER_ML if known else 1.0
    if parts[0].volume is not None:
        return parts[0].volume / per_unit
    views = [part.view for part in parts if part.view is not None]
    if len(views) == 1:
        return single_plane_volume(views[0]) / per_unit
    two, four = views
    length = None if known else math.sqrt(two.length * four.length)
    return biplane_volume(two, four, length=length) / per_unit
