"""Bootstrap and permutation of paired differences."""

from __future__ import annotations

import numpy as np

_EXACT_FLIPS = 14


def bootstrap_interval(
    differences: np.ndarray, *, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the mean; draws, seeds within draws and patients resampled.

    Args:
        differences: (draws, seeds, patients), without NaN.
        resamples: How often.
        rng: Source of randomness.
    """
    draws, seeds, patients = differences.shape
    times = rng.multinomial(draws, np.full(draws, 1 / draws), resamples)
    # A draw taken k times brings k independent samples of its seeds: k * seeds of them.
    weights = rng.multinomial(times * seeds, np.full(seeds, 1 / seeds))
    by_patient = weights.reshape(resamples, -1) @ differences.reshape(-1, patients)
    chosen = rng.multinomial(patients, np.full(patients, 1 / patients), resamples)
    means = (by_patient * chosen).sum(1) / differences.size
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def permutation_p_value(
    by_patient: np.ndarray, *, resamples: int, rng: np.random.Generator
) -> float:
    """Two-sided p-value of the mean under all (or many) flips of the patients' signs.

    Args:
        by_patient: (patients) differences; all flips are taken up to 14 patients.
        resamples: Number of random flips for more.
        rng: Source of randomness.
    """
    patients = len(by_patient)
    exact = patients <= _EXACT_FLIPS
    if exact:
        bits = np.arange(2**patients)[:, None] >> np.arange(patients) & 1
        signs = 1 - 2 * bits
    else:
        signs = rng.choice((-1, 1), (resamples, patients))
    sums = np.abs(signs @ by_patient)
    # Rounding must not break ties with the observed sum.
    hits = int((sums >= abs(by_patient.sum()) - 1e-12 * np.abs(by_patient).sum()).sum())
    return hits / len(signs) if exact else (hits + 1) / (len(signs) + 1)
