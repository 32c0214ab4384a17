"""How much of a paired difference is draws, seeds, patients and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from augmint.errors import AugmintError


@dataclass(frozen=True)
class Size:
    """How many draws, seeds in each draw, and patients."""

    draws: int
    seeds: int
    patients: int

    def __post_init__(self) -> None:
        if min(self.draws, self.seeds, self.patients) < 1:
            raise AugmintError(f"{self} has none of something; a study has one or more of each")


@dataclass(frozen=True)
class Components:
    """Variances of a paired difference, each one model's for one patient.

    A component that the study cannot tell apart is 0 and part of another: with one seed a draw,
    `seed` is in `draw` and `noise` in `draw_patient`; with one draw, `draw_patient` is in `patient`
    and the variance between draws is not measured at all.

    Attributes:
        draw: Between draws of training patients.
        seed: Between seeds within a draw.
        patient: Between test patients, in all models alike.
        draw_patient: Of a patient from draw to draw.
        noise: The rest, of a patient from model to model.
    """

    draw: float
    seed: float
    patient: float
    draw_patient: float
    noise: float


def variance_components(differences: np.ndarray) -> Components:
    """Estimates of the analysis of variance, negative ones set to 0.

    Args:
        differences: (draws, seeds, patients), without NaN.
    """
    draws, seeds, patients = differences.shape
    if draws == 1:
        s = mean_squares(differences)
        unit, patient, rest = float(s.unit[0]), float(s.patient[0]), float(s.rest[0])
        if seeds == 1:
            return Components(0.0, 0.0, patient, 0.0, 0.0)
        if patients == 1:
            return Components(0.0, unit, 0.0, 0.0, 0.0)
        return Components(
            0.0, max(0.0, (unit - rest) / patients), max(0.0, (patient - rest) / seeds), 0.0, rest
        )
    s = mean_squares(differences)
    # Of cell means; times `seeds` on the scale of one model.
    unit, patient, rest = float(s.unit[0]), float(s.patient[0]), float(s.rest[0])
    between = unit / patients if patients == 1 else max(0.0, (unit - rest) / patients)
    within_seed = noise = 0.0
    if seeds > 1:
        deviation = differences - differences.mean(1, keepdims=True)
        by_seed = deviation.mean(2)
        all_seeds = patients * float((by_seed**2).sum()) / (draws * (seeds - 1))
        if patients > 1:
            left = deviation - by_seed[:, :, None]
            noise = float((left**2).sum()) / (draws * (seeds - 1) * (patients - 1))
        within_seed = max(0.0, (all_seeds - noise) / patients)
    return Components(
        draw=max(0.0, between - within_seed / seeds),
        seed=within_seed,
        patient=max(0.0, (patient - rest) / draws),
        draw_patient=max(0.0, rest - noise / seeds),
        noise=noise,
    )


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of units (draws; seeds where there is one draw) x patients, of many studies.

    Attributes:
        unit: Between units, (studies).
        patient: Between patients, (studies).
        rest: Of the interaction, (studies).
        units: Their number.
        patients: Their number.
    """

    unit: np.ndarray
    patient: np.ndarray
    rest: np.ndarray
    units: int
    patients: int

    @property
    def freedom(self) -> tuple[int, int, int]:
        """Degrees of freedom of units, patients and the rest."""
        units, patients = self.units - 1, self.patients - 1
        return units, patients, units * patients

    @property
    def cells(self) -> int:
        """Units times patients."""
        return self.units * self.patients

    def part(self, which: slice) -> MeanSquares:
        """Some of the studies."""
        return replace(
            self, unit=self.unit[which], patient=self.patient[which], rest=self.rest[which]
        )


def mean_squares(differences: np.ndarray) -> MeanSquares:
    """The mean squares of (..., draws, seeds, patients), seeds averaged within a draw.

    Where one of the two has a single member, its mean square and that of the rest are 0.
    """
    draws, _, patients = differences.shape[-3:]
    cells = differences.mean(-2) if draws > 1 else differences[..., 0, :, :]
    units = cells.shape[-2]
    cells = cells.reshape(-1, units, patients)
    grand = cells.mean((1, 2), keepdims=True)
    row, column = cells.mean(2, keepdims=True) - grand, cells.mean(1, keepdims=True) - grand
    rest = cells - grand - row - column

    def divided(total: np.ndarray, freedom: int) -> np.ndarray:
        return total / freedom if freedom else np.zeros(len(cells))

    return MeanSquares(
        unit=divided(patients * (row**2).sum((1, 2)), units - 1),
        patient=divided(units * (column**2).sum((1, 2)), patients - 1),
        rest=divided((rest**2).sum((1, 2)), (units - 1) * (patients - 1)),
        units=units,
        patients=patients,
    )
