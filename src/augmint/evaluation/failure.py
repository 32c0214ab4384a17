"""Cases that fail: a surface far off, or no surface at all; and two arms' rates of them."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

from augmint.evaluation.crossed import ALPHA
from augmint.evaluation.difference import Difference, paired_difference
from augmint.evaluation.measurements import Measurements
from augmint.evaluation.score import ScoreRow

FAILURE = "failure"
# HD in mm above which a label has failed, unless a study says another. Pixels have no default.
FAILURE_MM = 20.0
# More than for other figures: the permutation has its part in the p-value of a rate.
RESAMPLES = 20_000


def failure_above(asked: float | None, unit: str) -> float | None:
    """The HD above which a label has failed, in `unit`; None where none is known.

    Args:
        asked: The study's own, or None for the default of 20 mm.
        unit: Of the distances, `mm` or `px`; of pixels there is no default.
    """
    return asked if asked is not None else FAILURE_MM if unit == "mm" else None


def failure_of(row: ScoreRow, asked: float | None = None) -> float | None:
    """1 where a label failed in a case, 0 where it did not; None where neither can be told.

    A label fails that is missed, found where the reference is empty, or whose HD lies above the
    limit.

    Args:
        row: One label of one case.
        asked: See `failure_above`.
    """
    limit = failure_above(asked, row.unit)
    if limit is None or row.status == "both_empty":
        return None
    if row.status != "ok":
        return 1.0
    return None if row.hd is None else float(row.hd > limit)


def failure_in_words(asked: float | None, unit: str) -> str:
    """What counts as failed, for a report; or why nothing can."""
    limit = failure_above(asked, unit)
    if limit is None:
        return (
            f"Distances are in {unit}, for which there is no usual limit: failure rates are not "
            "told. Set failure_hd in the study's file for them."
        )
    return (
        f"Failure rate: share of a patient's cases in which a label is missed, found where the "
        f"reference is empty, or has an HD above {limit:g} {unit}; the mean is that over labels."
    )


def rate_difference(arm: Measurements, baseline: Measurements, *, seed: int = 0) -> Difference:
    """`paired_difference` of failure rates, which are coarse and may not differ at all.

    Few patients fail, so that normal theory may see more than there is. The p-value is the larger
    of the primary one and of that of the patients' flipped signs, which is exact for 0 and 1. Where
    the primary one alone is below 0.05, its interval gives way to the one that belongs to the
    larger p (estimate plus and less 1.96 standard errors, that of the p-value), within -1 and 1.
    Where no patient differs, the interval is that of none in so many patients, and no smallest
    effect can be told.

    Args:
        arm: Shares of failed cases, 0 to 1.
        baseline: Likewise.
        seed: Of the resampling.

    Raises:
        AugmintError: as `paired_difference`.

    Source: Clopper and Pearson, Biometrika 1934, for none in n; Miettinen, Am J Epidemiol 1976, for
    intervals that belong to a test.
    """
    found = paired_difference(arm, baseline, resamples=RESAMPLES, seed=seed)
    if found.interval is None or found.p is None:
        return found
    low, high = found.interval
    p = max(found.p, found.permutation_p)
    if found.estimate == low == high == 0:
        width = 1 - (ALPHA / 2) ** (1 / found.size.patients)
        return replace(found, p=p, interval=(-width, width), minimum_detectable=None)
    if found.p < ALPHA and found.p < p:
        normal = NormalDist()
        steps = normal.inv_cdf(1 - ALPHA / 2) / max(normal.inv_cdf(1 - p / 2), 1e-9)
        half = max(abs(found.estimate) * steps, (high - low) / 2)
        low, high = found.estimate - half, found.estimate + half
    smallest = found.minimum_detectable or None
    interval = max(-1.0, low), min(1.0, high)
    return replace(found, p=p, interval=interval, minimum_detectable=smallest)
