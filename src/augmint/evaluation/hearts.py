"""Measures the LV of references and predictions while they are scored, and patients at the end."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from augmint.case import Grid
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.evaluation.discs import ApicalView
from augmint.evaluation.function import BY_VOLUME, FunctionRow, write_function
from augmint.evaluation.volumes import (
    APICAL_VIEWS,
    PHASES,
    CardiacFunction,
    Cavity,
    check_spacing,
    measure_cavity,
    measure_patient,
    views_of,
)
from augmint.staging import write_text

LV_NAMES = frozenset({"lv", "lvc", "lv cavity", "left ventricle"})
_HEART = re.compile(
    r"myo\w*|mlv|lvm|rv\w*|la|ra|(left|right) atrium|right ventric\w*|(lv )?myocardium", re.I
)


@dataclass(frozen=True)
class HeartCase:
    """The LV of one case, in reference and prediction."""

    patient: str
    view: str
    phase: str
    reference: Cavity
    prediction: Cavity


class _Named(Protocol):
    """A case as a dataset or as references list it."""

    @property
    def case_id(self) -> str: ...
    @property
    def patient_id(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Hearts:
    """Measures the LV of cases as they are scored, and patients at the end.

    Attributes:
        lv: Name of the label of the cavity.
        index: Its class.
        hearts: Whether another label says that LV is a ventricle of the heart and not of the brain.
        folder: Where each case's measures wait: those of an interrupted scoring are kept.
    """

    lv: str
    index: int
    hearts: bool
    folder: Path

    @classmethod
    def of(cls, labels: Mapping[str, int], scored: Collection[int], work: Path) -> Hearts | None:
        """For the one label of the LV cavity; None where none or several are scored.

        Args:
            labels: Name to class.
            scored: Classes that are scored.
            work: Folder of unfinished work.
        """
        plain = {name: re.sub(r"[\s_-]+", " ", name).strip().lower() for name in labels}
        found = [n for n, i in labels.items() if i in scored and plain[n] in LV_NAMES]
        if len(found) != 1:
            return None
        hearts = any(_HEART.fullmatch(name) for name in plain.values())
        return cls(found[0], labels[found[0]], hearts, work / "hearts")

    def has(self, case: _Named) -> bool:
        """Whether a case was measured."""
        return self._file(case.case_id).exists()

    def keep(self, case: _Named, grid: Grid, reference: np.ndarray, prediction: np.ndarray) -> None:
        """Measures a case.

        Args:
            case: Whose columns `view` and `phase` count.
            grid: Its native grid.
            reference: (*spatial) class index on the grid.
            prediction: Likewise.
        """
        view = case.columns.get("view", "")
        view = view if view in APICAL_VIEWS else ""
        masks = {"reference": reference == self.index, "prediction": prediction == self.index}
        try:
            found = {k: measure_cavity(case.case_id, m, grid, view) for k, m in masks.items()}
        except AugmintError as error:
            none = Cavity(case.case_id, grid.shape, grid.spacing_known, fault=str(error))
            found = dict.fromkeys(masks, none)
        measured = HeartCase(case.patient_id, view, case.columns.get("phase", ""), **found)
        write_text(self._file(case.case_id), json.dumps(asdict(measured)))

    def write(self, folder: Path) -> str:
        """Writes cardiac.csv, cardiac.json and bland_altman.png of the cases measured.

        Returns:
            The outcome in a sentence; where nothing could be measured, why, and nothing is written.
        """
        cases = [_read_case(file) for file in sorted(self.folder.rglob("*.json"))]
        try:
            rows, phases = measure_rows(cases, guess_phases=self.hearts)
        except AugmintError as error:
            return f"note: EF is not measured: {error}"
        return write_function(folder, rows, lv=self.lv, phases=phases)

    def _file(self, case_id: str) -> Path:
        return self.folder / f"{case_id}.json"


def measure_rows(
    cases: Sequence[HeartCase], *, guess_phases: bool = True
) -> tuple[list[FunctionRow], str]:
    """One row for each patient, and how the phases were told.

    Args:
        cases: Of all patients.
        guess_phases: Whether, where no case names its phase, the larger of a patient's two volumes
            is taken for ED.

    Raises:
        AugmintError: if no patient's reference can be measured.
    """
    named = any(case.phase in PHASES for case in cases)
    if not named and not guess_phases:
        raise AugmintError("no case names a phase; add a column `phase` with ED and ES")
    by_patient: dict[str, list[HeartCase]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    rows = [_row(patient, found, named) for patient, found in sorted(by_patient.items())]
    if all(row.status == "left_out" for row in rows):
        raise AugmintError(rows[0].note)
    return rows, "as named" if named else BY_VOLUME


def _read_case(file: Path) -> HeartCase:
    stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name in ("reference", "prediction"):
        cavity = stored[name]
        view = cavity["view"] and ApicalView(
            **{**cavity["view"], "diameters": tuple(cavity["view"]["diameters"])}
        )
        stored[name] = Cavity(**{**cavity, "shape": tuple(cavity["shape"]), "view": view})
    return HeartCase(**stored)


def _row(patient: str, cases: Sequence[HeartCase], named: bool) -> FunctionRow:
    try:
        keyed = _by_key(patient, cases if named else _by_volume(patient, cases))
        views = views_of(patient, keyed.keys(), single_plane=True)
        chosen = {key: case for key, case in keyed.items() if key[0] in views}
        truth = {key: case.reference for key, case in chosen.items()}
        known = check_spacing(patient, truth, ef_only=True)
        reference = measure_patient(patient, truth, known=known, forgiving=False)
    except AugmintError as error:
        return FunctionRow(patient, "", "", "left_out", note=str(error))
    found = {key: case.prediction for key, case in chosen.items()}
    prediction = measure_patient(patient, found, known=known, forgiving=True)
    return _joined(reference, prediction)


def _joined(reference: CardiacFunction, prediction: CardiacFunction) -> FunctionRow:
    notes = [
        f"{what}: {one.note}"
        for what, one in (("reference", reference), ("prediction", prediction))
        if one.note
    ]
    return FunctionRow(
        reference.patient, reference.method, reference.unit,
        "failed" if prediction.ef is None else "ok",
        reference.edv, prediction.edv, reference.esv, prediction.esv, reference.ef, prediction.ef,
        "; ".join(notes),
    )  # fmt: skip


def _by_key(patient: str, cases: Sequence[HeartCase]) -> dict[tuple[str, str], HeartCase]:
    found: dict[tuple[str, str], HeartCase] = {}
    for case in cases:
        if case.phase not in PHASES:
            continue
        other = found.setdefault((case.view, case.phase), case)
        if other is not case:
            raise AugmintError(
                f"patient {patient!r} has two cases at {case.phase}"
                f"{' in ' + case.view if case.view else ''}, {other.reference.case_id!r} and "
                f"{case.reference.case_id!r}; name one of them"
            )
    return found


def _by_volume(patient: str, cases: Sequence[HeartCase]) -> list[HeartCase]:
    """A patient's two volumes as ED and ES, the larger reference first."""
    volumes = [c.reference.volume for c in cases if c.reference.volume is not None]
    shapes = {c.reference.shape for c in cases}
    if not len(cases) == len(volumes) == len(set(volumes)) == 2 or len(shapes) > 1:
        raise AugmintError(
            f"patient {patient!r}: no case names a phase, and ED and ES follow from the reference "
            f"only where a patient has two volumes of one shape, got "
            f"{listed([c.reference.case_id for c in cases])}; add a column `phase` to cases.csv"
        )
    ordered = sorted(cases, key=lambda c: -(c.reference.volume or 0))
    return [
        HeartCase(c.patient, "", phase, c.reference, c.prediction)
        for c, phase in zip(ordered, PHASES)
    ]
