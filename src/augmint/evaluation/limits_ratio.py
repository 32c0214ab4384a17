"""How wide an arm's limits of agreement are beside its baseline's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from augmint.evaluation.bland_altman import FEW_FOR_LIMITS, LEAST_FOR_LIMITS
from augmint.evaluation.measurements import Measurements, aligned


@dataclass(frozen=True)
class LimitsRatio:
    """The width of an arm's limits of agreement over that of its baseline's.

    Attributes:
        ratio: Below 1 where the arm's are narrower.
        interval: 95 % bootstrap interval over patients; None of fewer than 10 patients.
        patients: Who count: measured after every training of both.
        left_out: The others.
    """

    ratio: float
    interval: tuple[float, float] | None
    patients: int
    left_out: tuple[str, ...]

    @property
    def bracket(self) -> str:
        """The interval behind a space, or nothing."""
        return "" if self.interval is None else " [{:.2f}, {:.2f}]".format(*self.interval)


def limits_ratio(
    arm: Measurements, baseline: Measurements, *, resamples: int = 4000, seed: int = 0
) -> LimitsRatio | None:
    """The ratio of two arms' limits of agreement on the same trainings and patients.

    The width of an arm's limits is the mean over its trainings, as in `bland_altman_of_fits`. The
    interval is the percentile interval of resampled patients: the same ones in both arms, each with
    all of its draws and seeds. It speaks of other patients, not of other trainings.

    Args:
        arm: Errors, measured less reference.
        baseline: Likewise.
        resamples: Of the bootstrap.
        seed: Likewise.

    Returns:
        None with fewer than three patients, or where the baseline's limits have no width.

    Raises:
        AugmintError: if the two differ in draws, seeds or patients, or no patient is left.
    """
    ours, theirs, left_out = aligned(arm, baseline)
    patients = ours.shape[-1]
    pair = [one.reshape(-1, patients) for one in (ours, theirs)]
    whole, base = (float(_widths(one, np.ones((1, patients)))[0]) for one in pair)
    if patients < LEAST_FOR_LIMITS or base == 0:
        return None
    interval = None
    if patients >= FEW_FOR_LIMITS:
        rng = np.random.default_rng(seed)
        taken = rng.multinomial(patients, np.full(patients, 1 / patients), resamples)
        above, below = (_widths(one, taken.astype(float)) for one in pair)
        # Baselines without any width, of patients who all err alike, have no ratio.
        low, high = np.quantile(above[below > 0] / below[below > 0], (0.025, 0.975))
        interval = float(low), float(high)
    return LimitsRatio(whole / base, interval, patients, left_out)


def ratio_in_words(found: LimitsRatio, *, arm: str, baseline: str, what: str) -> str:
    """The ratio in a sentence.

    Args:
        found: The ratio.
        arm: Its name.
        baseline: Its name.
        what: The figure, such as EF.
    """
    text = (
        f"{what}, {arm}: limits {found.ratio:.2f} as wide as those of {baseline}{found.bracket}, "
        f"on {found.patients} patients"
    )
    if found.interval is None:
        text += ", too few for an interval"
    if number := len(found.left_out):
        text += f"; {number} who lack{'s' * (number == 1)} it after some training of either "
        text += f"do{'es' * (number == 1)} not count"
    return f"{text}."


def _widths(errors: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Standard deviations of (trainings, patients) errors, mean over trainings, (resamples).

    Args:
        errors: Of each training and patient.
        taken: (resamples, patients), how often each patient is taken.
    """
    centred = errors - errors.mean(1, keepdims=True)
    squares = taken @ (centred**2).T - (taken @ centred.T) ** 2 / errors.shape[1]
    # Rounding leaves a trace where there is no variance; it is no width.
    trace = 1e-12 * (errors**2).sum(1)
    return np.sqrt(np.where(squares > trace, squares, 0)).mean(1)
