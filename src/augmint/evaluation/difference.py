"""An arm less its baseline, over all patients or split into groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from augmint.errors import AugmintError
from augmint.evaluation.crossed import crossed_test, minimum_detectable_effect
from augmint.evaluation.measurements import Measurements, aligned, check_alike
from augmint.evaluation.resampling import bootstrap_interval, permutation_p_value
from augmint.evaluation.variance import Components, Size, variance_components


@dataclass(frozen=True)
class Difference:
    """An arm less its baseline.

    Attributes:
        estimate: Mean over draws, seeds and patients.
        interval: 95 % interval that belongs to `p`; None where nothing can be tested.
        p: Primary p-value, from `mean_p_value`; with `size.draws * size.seeds` of 1 it speaks of
            two trained models, not of two methods.
        bootstrap_interval: 95 % percentile interval, draws, seeds within draws and patients
            resampled. Too narrow where luck is large and draws are few, too wide without luck: for
            the eye, `interval` decides.
        permutation_p: Signs flipped by patient. As the next two: blind to the models' own luck.
        wilcoxon_p: Signed rank by patient; None for one patient.
        welch_p: Unpaired t-test by patient, printed for comparability with the literature only.
        arm_mean: Of the patients compared.
        baseline_mean: Of the patients compared.
        seed_noise: Standard deviation of an arm's mean from seed to seed within a draw, both arms
            pooled; None with one seed.
        minimum_detectable: Smallest effect that such a study finds with 80 % power at 0.05; None
            where nothing can be tested, and of rates that do not vary.
        components: Estimated variances.
        size: What was compared.
        left_out: Patients for whom a fit of either arm is undefined.
    """

    estimate: float
    interval: tuple[float, float] | None
    p: float | None
    bootstrap_interval: tuple[float, float]
    permutation_p: float
    wilcoxon_p: float | None
    welch_p: float | None
    arm_mean: float
    baseline_mean: float
    seed_noise: float | None
    minimum_detectable: float | None
    components: Components
    size: Size
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Groups:
    """A difference split by a column.

    Attributes:
        differences: Group to difference.
        worst: Group in which the arm itself does worst.
        least_helped: Group with the least favourable difference.
    """

    differences: Mapping[str, Difference]
    worst: str
    least_helped: str


def paired_difference(
    arm: Measurements, baseline: Measurements, *, resamples: int = 4000, seed: int = 0
) -> Difference:
    """Compares an arm with the declared baseline on the same draws, seeds and patients.

    Patients for whom any fit of either arm is undefined are left out and named, so that all fits
    are compared on the same patients.

    Args:
        arm: The arm in question.
        baseline: What it is held against.
        resamples: Of the bootstrap and of the permutation where it is not exact.
        seed: Of both.

    Raises:
        AugmintError: if the two differ in draws, seeds or patients, or no patient is left.
    """
    ours, theirs, left_out = aligned(arm, baseline)
    differences = ours - theirs
    size = Size(*differences.shape)
    by_patient = differences.mean((0, 1))
    estimate = float(by_patient.mean())
    p, half = crossed_test(differences)
    components = variance_components(differences)
    rng = np.random.default_rng(seed)
    means = np.stack([ours.mean(-1), theirs.mean(-1)])
    noise = float(np.sqrt(means.var(-1, ddof=1).mean())) if size.seeds > 1 else None
    wilcoxon, welch = _patient_tests(ours.mean((0, 1)), theirs.mean((0, 1)))
    testable = p is not None
    return Difference(
        estimate=estimate,
        interval=None if half is None else (estimate - half, estimate + half),
        p=p,
        bootstrap_interval=bootstrap_interval(differences, resamples=resamples, rng=rng),
        permutation_p=permutation_p_value(by_patient, resamples=resamples, rng=rng),
        wilcoxon_p=wilcoxon,
        welch_p=welch,
        arm_mean=float(ours.mean()),
        baseline_mean=float(theirs.mean()),
        seed_noise=noise,
        minimum_detectable=minimum_detectable_effect(components, size) if testable else None,
        components=components,
        size=size,
        left_out=left_out,
    )


def group_differences(
    arm: Measurements,
    baseline: Measurements,
    groups: Mapping[str, str],
    *,
    lower_is_better: bool = False,
    compare: Callable[[Measurements, Measurements], Difference] | None = None,
) -> Groups:
    """Splits the difference by a column of cases.csv.

    Args:
        arm: The arm in question.
        baseline: What it is held against.
        groups: Patient to group.
        lower_is_better: As for distances.
        compare: How the two are compared within a group, `paired_difference` by default.

    Raises:
        AugmintError: if a patient has no group, or as `paired_difference`.
    """
    without = [patient for patient in arm.patients if not groups.get(patient)]
    if without:
        raise AugmintError(
            f"patients {', '.join(without)} have no group; fill the column in cases.csv for all"
        )
    members: dict[str, list[str]] = defaultdict(list)
    for patient in arm.patients:
        members[groups[patient]].append(patient)
    check_alike("patients", arm.patients, baseline.patients)
    found = {
        group: (compare or paired_difference)(arm.of_patients(chosen), baseline.of_patients(chosen))
        for group, chosen in sorted(members.items())
    }
    sign = -1 if lower_is_better else 1
    return Groups(
        differences=found,
        worst=min(found, key=lambda group: sign * found[group].arm_mean),
        least_helped=min(found, key=lambda group: sign * found[group].estimate),
    )


def _patient_tests(ours: np.ndarray, theirs: np.ndarray) -> tuple[float | None, float | None]:
    """Wilcoxon's and Welch's p-values over patients' means, (patients) each."""
    from scipy.stats import ttest_ind_from_stats, wilcoxon

    if len(ours) < 2:
        return None, None
    apart = ours - theirs
    signed = float(wilcoxon(apart).pvalue) if apart.any() else 1.0
    if ours.var() == 0 and theirs.var() == 0:
        return signed, None
    moments = [f for one in (ours, theirs) for f in (one.mean(), one.std(ddof=1), len(one))]
    return signed, float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)
