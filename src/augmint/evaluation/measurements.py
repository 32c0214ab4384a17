"""The figures of an arm over draws, seeds and patients, and two arms brought into one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from augmint.errors import AugmintError
from augmint.evaluation.metrics import METRICS
from augmint.evaluation.score import MEAN, ScoreRow, per_patient

LOWER_IS_BETTER = frozenset({"hd", "hd95", "assd", "failure"})


@dataclass(frozen=True)
class Measurements:
    """One figure of one arm.

    Attributes:
        figures: (draws, seeds, patients); NaN where the figure is undefined for a patient.
        patients: Their ids.
        draws: Names of the draws of training patients.
        seeds: Names of the seeds, the same in every draw.
    """

    figures: np.ndarray
    patients: tuple[str, ...]
    draws: tuple[int | str, ...]
    seeds: tuple[int | str, ...]

    def __post_init__(self) -> None:
        expected = (len(self.draws), len(self.seeds), len(self.patients))
        if self.figures.shape != expected or 0 in expected:
            raise AugmintError(
                f"figures {self.figures.shape} are not draws x seeds x patients {expected}, one or "
                "more of each; give one figure for each"
            )
        for what, names in (("patient", self.patients), ("draw", self.draws), ("seed", self.seeds)):
            if len(set(names)) < len(names):
                raise AugmintError(f"a {what} stands twice in {list(names)}; name each once")
        if np.isinf(self.figures).any():
            raise AugmintError("a figure is infinite; leave it undefined or give it a finite value")

    @classmethod
    def from_rows(
        cls,
        rows: Mapping[tuple[int | str, int | str], Sequence[ScoreRow]],
        metric: str,
        label: str | None = None,
    ) -> Measurements:
        """Reads one metric from the scores of every fit of an arm.

        Cases are averaged within a patient first, then the labels that are defined for it.

        Args:
            rows: (draw, seed) to the rows of that fit's `scores.csv`.
            metric: One of `METRICS`.
            label: One label, or None for the mean over labels.

        Raises:
            AugmintError: for an unknown metric or label, mixed units, a fit that is missing, or
                fits that were scored on different patients.
        """
        if metric not in METRICS:
            raise AugmintError(f"{metric!r} is not a metric; choose one of {', '.join(METRICS)}")
        draws = tuple(dict.fromkeys(draw for draw, _ in rows))
        seeds = tuple(dict.fromkeys(seed for _, seed in rows))
        missing = [(draw, seed) for draw in draws for seed in seeds if (draw, seed) not in rows]
        if missing or not rows:
            raise AugmintError(
                f"fits (draw, seed) without scores: {missing or 'all'}; finish them, or leave "
                "their draw or seed out of all arms"
            )
        tables = {fit: _by_patient(found, metric, label) for fit, found in rows.items()}
        patients = tuple(sorted(set().union(*tables.values())))
        for fit, table in tables.items():
            absent = sorted(set(patients) - set(table))
            if absent:
                raise AugmintError(
                    f"fit {fit} has no rows of patients {', '.join(absent)}, others have; score "
                    "every fit on the same patients"
                )
        units = {row.unit for found in rows.values() for row in found}
        if metric in LOWER_IS_BETTER and len(units) > 1:
            raise AugmintError(
                f"{metric} is in {' and '.join(sorted(units))}; score cases with and without a "
                "known spacing apart"
            )
        figures = [[[tables[d, s][p] for p in patients] for s in seeds] for d in draws]
        return cls(np.array(figures, float), patients, draws, seeds)

    def of_patients(self, patients: Sequence[str]) -> Measurements:
        """The same fits on some of the patients, in the order given."""
        index = {patient: i for i, patient in enumerate(self.patients)}
        unknown = [patient for patient in patients if patient not in index]
        if unknown:
            raise AugmintError(f"patients {', '.join(unknown)} were not measured; score them first")
        chosen = self.figures[:, :, [index[patient] for patient in patients]]
        return replace(self, figures=chosen, patients=tuple(patients))


def aligned(
    arm: Measurements, baseline: Measurements
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Figures of both on the same fits and patients, each (draws, seeds, patients), without NaN.

    Returns:
        Those of the arm, those of the baseline, and the patients left out.

    Raises:
        AugmintError: if the two differ in draws, seeds or patients, or no patient is left.
    """
    check_alike("draws", arm.draws, baseline.draws)
    check_alike("seeds", arm.seeds, baseline.seeds)
    check_alike("patients", arm.patients, baseline.patients)
    draws = [baseline.draws.index(draw) for draw in arm.draws]
    seeds = [baseline.seeds.index(seed) for seed in arm.seeds]
    theirs = baseline.of_patients(arm.patients).figures[np.ix_(draws, seeds)]
    defined = ~np.isnan(arm.figures + theirs).any((0, 1))
    if not defined.any():
        raise AugmintError(
            "no patient has a figure in every fit of both arms; choose another label or metric"
        )
    left_out = tuple(patient for patient, kept in zip(arm.patients, defined) if not kept)
    return arm.figures[..., defined], theirs[..., defined], left_out


def check_alike(what: str, ours: Sequence[int | str], theirs: Sequence[int | str]) -> None:
    """Make sure that two arms have the same draws, seeds or patients, in any order.

    Raises:
        AugmintError: if not, with the names that only one of them has.
    """
    apart = set(ours) ^ set(theirs)
    if apart:
        raise AugmintError(
            f"arm and baseline differ in {what}: {', '.join(sorted(map(str, apart)))} in one only; "
            "compare arms that were run alike"
        )


def _by_patient(rows: Sequence[ScoreRow], metric: str, label: str | None) -> dict[str, float]:
    """Patient to the mean over its labels of the mean over its cases; NaN where undefined."""
    chosen = [row for row in rows if label is None or row.label == label]
    if not chosen:
        names = ", ".join(sorted({row.label for row in rows})) or "none"
        raise AugmintError(f"no row of label {label!r}; the scores have {names}")
    means = per_patient(chosen, metric)
    return {row.patient: means.get((row.patient, MEAN), float("nan")) for row in chosen}
