"""Shares and means with their intervals; the patient is the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from augmint.quality.copies import clopper_pearson

RESAMPLES = 2000


def share(flags: Sequence[bool], groups: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """A share with its 95 % interval by patient.

    Where all flags are alike the interval is that of Clopper and Pearson for so many patients.
    """
    values = np.asarray(flags, dtype=float)
    names, of = np.unique(groups, return_inverse=True)
    if values.min() == values.max():
        low, high = clopper_pearson(len(names) if values[0] else 0, len(names))
    else:
        low, high = _interval(_resampled(values, of, len(names), seed))
    return {
        "share": float(values.mean()), "interval": [low, high], "of": len(values),
        "patients": len(names),
    }  # fmt: skip


def share_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The first of two shares less the second, its interval from theirs.

    Shares of 0 or 1 keep their width so, where a bootstrap has none.

    Source: Zou and Donner, Statistics in Medicine 2008, Eq. 3.
    """
    p, q = first["share"], second["share"]
    (low_p, high_p), (low_q, high_q) = first["interval"], second["interval"]
    below, above = np.hypot(p - low_p, high_q - q), np.hypot(high_p - p, q - low_q)
    return {"difference": p - q, "interval": [float(p - q - below), float(p - q + above)]}


def difference(
    first: Sequence[float],
    first_groups: Sequence[str],
    second: Sequence[float],
    second_groups: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """The first mean less the second, cases averaged within patients, 95 % by bootstrap.

    None where a side has fewer than two patients.
    """
    a, b = by_patient(first, first_groups), by_patient(second, second_groups)
    if min(len(a), len(b)) < 2:
        return None
    apart = _means(a, seed) - _means(b, seed + 1)
    return {"difference": float(a.mean() - b.mean()), "interval": list(_interval(apart))}


def by_patient(values: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """(patients) means."""
    _, of = np.unique(groups, return_inverse=True)
    return np.bincount(of, np.asarray(values, dtype=float)) / np.bincount(of)


def mean(values: Sequence[float], groups: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Mean over cases averaged within patients, its interval, and the spread of the cases."""
    patients = by_patient(values, groups)
    found: dict[str, Any] = {
        "mean": float(patients.mean()), "deviation": float(np.std(values)), "cases": len(values),
        "patients": len(patients),
    }  # fmt: skip
    if len(patients) > 1:
        found["interval"] = list(_interval(_means(patients, seed)))
    return found


def _means(patients: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    n = len(patients)
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) @ patients / n)


def _resampled(values: np.ndarray, of: np.ndarray, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.asarray(times @ np.bincount(of, values) / (times @ np.bincount(of)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
