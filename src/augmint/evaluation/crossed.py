"""The primary test: draws or seeds, and patients, as two crossed random samples; its power."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache

import numpy as np

from augmint.errors import AugmintError
from augmint.evaluation.variance import Components, MeanSquares, Size, mean_squares

ALPHA = 0.05
POWER = 0.8
# Points of the numerical integrals: for one study, and inside the power of many.
_POINTS, _POWER_POINTS = 4096, 256


def mean_p_value(differences: np.ndarray) -> np.ndarray:
    """The primary two-sided p-value of a mean of zero, for many studies at once.

    Units (draws; seeds where there is one draw) and patients are crossed random samples, seeds
    averaged within a draw. With the mean squares M1 of units, M2 of patients and M0 of their
    interaction, the mean's squared standard error is (M1 + M2 - M0) / (units x patients), a
    quantity that has no exact test. The statistic is mean^2 / S with
    S = q1 M1 + max(0, q2 M2 - q0 M0), q the squared 97.5 % points of Student's t with the degrees
    of freedom of each: the squared half width of the MOVER interval. Its distribution under the
    null depends on two variance ratios and is integrated numerically at their estimates, the
    ratio of the units at its median-unbiased and at its upper-quartile estimate; the larger
    p-value counts, since few units underestimate their own variance half of the time. Where units
    or patients dominate, this is Student's t-test over them. One unit or one patient: the t-test
    over the other.

    Args:
        differences: (..., draws, seeds, patients), without NaN.

    Returns:
        (...); NaN where there is one unit and one patient.

    Source: MOVER after Zou and Donner, Stat Med 2008; crossed cells after Owen, AOAS 2007; the
    integration at estimated ratios is a parametric bootstrap.
    """
    squares, shape = mean_squares(differences), differences.shape[:-3]
    estimate = differences.mean((-3, -2, -1)).ravel()
    result = np.empty(estimate.shape)
    step = 512
    for first in range(0, len(estimate), step):
        part = slice(first, first + step)
        result[part] = _p_values(estimate[part], squares.part(part))
    return result.reshape(shape)


def crossed_test(differences: np.ndarray) -> tuple[float | None, float | None]:
    """The p-value of one study and its interval's half width.

    Args:
        differences: (draws, seeds, patients), without NaN.

    Returns:
        `mean_p_value` and half of the 95 % interval that belongs to it; None for one unit and one
        patient.
    """
    squares = mean_squares(differences)
    if not any(squares.freedom):
        return None, None
    p = float(mean_p_value(differences))
    half = float(_half_widths(squares, ALPHA, _POINTS)[0] / np.sqrt(squares.cells))
    return p, half


def power(effect: float, components: Components, size: Size, *, alpha: float = ALPHA) -> float:
    """The chance that `mean_p_value` falls below `alpha` for a true effect.

    Raises:
        AugmintError: if the study has one model an arm and one patient.
    """
    return _power(size, components, alpha)(effect)


def minimum_detectable_effect(
    components: Components, size: Size, *, target: float = POWER, alpha: float = ALPHA
) -> float:
    """The smallest true effect that is found with the target power; 0 without any variance.

    Raises:
        AugmintError: if the study has one model an arm and one patient.
    """
    from scipy.optimize import brentq

    chance = _power(size, components, alpha)
    scale = np.sqrt(sum(asdict(components).values()))
    if scale == 0:
        return 0.0
    high = scale
    while chance(high) < target:
        high *= 2
    return float(brentq(lambda effect: chance(effect) - target, 0.0, high, rtol=1e-4))


@lru_cache(maxsize=64)
def _standard(freedom: tuple[int, int, int], points: int) -> tuple[np.ndarray, ...]:
    """Mean squares of unit variance, spread evenly over their joint distribution, each (points)."""
    from scipy.stats import chi2, qmc

    # Unscrambled and centred: the same everywhere, and never 0.
    uniform = qmc.Sobol(3, scramble=False).random(points) + 0.5 / points
    return tuple(chi2.ppf(uniform[:, i], n) / n for i, n in enumerate(freedom))


@lru_cache(maxsize=64)
def _weights(freedom: tuple[int, int, int]) -> np.ndarray:
    from scipy.stats import t

    return t.ppf(0.975, freedom) ** 2


def _spread(
    unit: np.ndarray, patient: np.ndarray, rest: np.ndarray, freedom: tuple[int, int, int]
) -> np.ndarray:
    q1, q2, q0 = _weights(freedom)
    return q1 * unit + np.maximum(0, q2 * patient - q0 * rest)


def _null_ratios(squares: MeanSquares, points: int) -> list[np.ndarray]:
    """S / V at the estimated variances, (studies, points) for each of the two estimates.

    V is the variance of the mean, S the statistic's denominator, both times the number of cells.
    """
    from scipy.stats import f

    freedom = squares.freedom
    standard = _standard(freedom, points)
    rest = squares.rest
    patient = np.maximum(squares.patient, rest)
    found = []
    for quantile in (0.5, 0.25):
        unit = np.maximum(squares.unit / f.ppf(quantile, freedom[0], freedom[2]), rest)
        parts = [m[:, None] * g for m, g in zip((unit, patient, rest), standard)]
        variance = unit + patient - rest
        found.append(
            _spread(parts[0], parts[1], parts[2], freedom)
            / np.where(variance > 0, variance, 1)[:, None]
        )
    return found


def _tail(statistic: np.ndarray, ratios: list[np.ndarray]) -> np.ndarray:
    """The larger of the two chances that mean^2 / S exceeds the statistic, (studies)."""
    from scipy.special import ndtr

    root = np.sqrt(statistic)[:, None]
    return np.maximum.reduce([2 * ndtr(-root * np.sqrt(ratio)).mean(1) for ratio in ratios])


def _p_values(estimate: np.ndarray, squares: MeanSquares) -> np.ndarray:
    from scipy.stats import t

    units, patients, _ = squares.freedom
    scaled = estimate**2 * squares.cells
    if not units and not patients:
        return np.full(len(estimate), np.nan)
    if not units or not patients:
        spread = squares.unit if units else squares.patient
        known = spread > 0
        p = 2 * t.sf(np.sqrt(scaled / np.where(known, spread, 1)), max(units, patients))
    else:
        spread = _spread(squares.unit, squares.patient, squares.rest, squares.freedom)
        known = spread > 0
        statistic = scaled / np.where(known, spread, 1)
        p = _tail(statistic, _null_ratios(squares, _POINTS))
    return np.where(known, p, np.where(scaled > 0, 0.0, 1.0))


def _half_widths(squares: MeanSquares, alpha: float, points: int) -> np.ndarray:
    """Half widths of the intervals that belong to the p-value, (studies), times sqrt(cells)."""
    from scipy.stats import t

    units, patients, _ = squares.freedom
    if not units or not patients:
        spread = squares.unit if units else squares.patient
        return t.ppf(1 - alpha / 2, max(units, patients)) * np.sqrt(spread)
    ratios = _null_ratios(squares, points)
    spread = _spread(squares.unit, squares.patient, squares.rest, squares.freedom)
    low, high = np.full(len(spread), -12.0), np.full(len(spread), 24.0)
    for _ in range(26):
        middle = (low + high) / 2
        above = (_tail(np.exp(middle), ratios) > alpha) & (spread > 0)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.exp((low + high) / 4) * np.sqrt(spread)


@lru_cache(maxsize=256)
def _power(size: Size, components: Components, alpha: float) -> Callable[[float], float]:
    """The power as a function of the effect: the half widths averaged over likely studies."""
    c = components
    if size.draws > 1:
        units = size.draws
        rest = c.draw_patient + c.noise / size.seeds
        unit = rest + size.patients * (c.draw + c.seed / size.seeds)
        patient = rest + size.draws * c.patient
    else:
        units, rest = size.seeds, c.noise
        unit = rest + size.patients * c.seed
        patient = rest + size.seeds * (c.patient + c.draw_patient)
    blank = np.zeros(1)
    freedom = MeanSquares(blank, blank, blank, units, size.patients).freedom
    if not any(freedom):
        raise AugmintError("one model an arm and one patient have no power; add seeds or patients")
    from scipy.special import ndtr

    standard = _standard(
        (max(1, freedom[0]), max(1, freedom[1]), max(1, freedom[2])), _POWER_POINTS
    )
    parts = [m * g * (n > 0) for m, g, n in zip((unit, patient, rest), standard, freedom)]
    squares = MeanSquares(parts[0], parts[1], parts[2], units, size.patients)
    half = _half_widths(squares, alpha, _POWER_POINTS)
    error = np.sqrt(max(unit + patient - rest, np.finfo(float).tiny))

    def chance(effect: float) -> float:
        shift = abs(effect) * np.sqrt(squares.cells)
        return float((ndtr((shift - half) / error) + ndtr((-shift - half) / error)).mean())

    return chance
