"""Does an arm help? Paired differences over draws, seeds and patients, and one sentence.

The arms of a study are trained again on every draw of training patients and with every seed, and
all of these models meet the same test patients. A trained model's luck is common to all patients,
so a test that counts patients alone takes a lucky seed for a method. The primary test here treats
draws (or, where there is one draw, seeds) and patients as two crossed random samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from augmint.errors import AugmintError
from augmint.evaluation.metrics import METRICS
from augmint.evaluation.score import MEAN, ScoreRow, per_patient

LOWER_IS_BETTER = frozenset({"hd", "hd95", "assd"})
ALPHA = 0.05
POWER = 0.8
# Points of the numerical integrals: for one study, and inside the power of many.
_POINTS, _POWER_POINTS = 4096, 512
_EXACT_FLIPS = 14
Verdict = Literal["benefit", "harm", "none"]


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
        minimum_detectable: Smallest effect that such a study finds with 80 % power at 0.05.
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
    ours, theirs, left_out = _aligned(arm, baseline)
    differences = ours - theirs
    size = Size(*differences.shape)
    by_patient = differences.mean((0, 1))
    estimate = float(by_patient.mean())
    p, half = _primary(differences)
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
    squares, shape = _mean_squares(differences), differences.shape[:-3]
    estimate = differences.mean((-3, -2, -1)).ravel()
    result = np.empty(estimate.shape)
    step = 512
    for first in range(0, len(estimate), step):
        part = slice(first, first + step)
        result[part] = _p_values(estimate[part], squares.part(part))
    return result.reshape(shape)


def variance_components(differences: np.ndarray) -> Components:
    """Estimates of the analysis of variance, negative ones set to 0.

    Args:
        differences: (draws, seeds, patients), without NaN.
    """
    draws, seeds, patients = differences.shape
    if draws == 1:
        s = _mean_squares(differences)
        unit, patient, rest = float(s.unit[0]), float(s.patient[0]), float(s.rest[0])
        if seeds == 1:
            return Components(0.0, 0.0, patient, 0.0, 0.0)
        if patients == 1:
            return Components(0.0, unit, 0.0, 0.0, 0.0)
        return Components(
            0.0, max(0.0, (unit - rest) / patients), max(0.0, (patient - rest) / seeds), 0.0, rest
        )
    s = _mean_squares(differences)
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


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts a family of p-values after Holm, in the order given."""
    p = np.asarray(p_values, float)
    if not np.all((p >= 0) & (p <= 1)):
        raise AugmintError(f"p-values {list(p_values)} are not all in [0, 1]; leave others out")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def group_differences(
    arm: Measurements,
    baseline: Measurements,
    groups: Mapping[str, str],
    *,
    lower_is_better: bool = False,
) -> Groups:
    """Splits the difference by a column of cases.csv.

    Args:
        arm: The arm in question.
        baseline: What it is held against.
        groups: Patient to group.
        lower_is_better: As for distances.

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
    _same("patients", arm.patients, baseline.patients)
    found = {
        group: paired_difference(arm.of_patients(chosen), baseline.of_patients(chosen))
        for group, chosen in sorted(members.items())
    }
    sign = -1 if lower_is_better else 1
    return Groups(
        differences=found,
        worst=min(found, key=lambda group: sign * found[group].arm_mean),
        least_helped=min(found, key=lambda group: sign * found[group].estimate),
    )


def verdict(
    difference: Difference, *, p_adjusted: float | None = None, lower_is_better: bool = False
) -> Verdict:
    """What was shown at 0.05; one model an arm, or one patient, shows nothing about a method."""
    p, size = difference.p if p_adjusted is None else p_adjusted, difference.size
    if p is None or p >= ALPHA or size.draws * size.seeds == 1 or size.patients == 1:
        return "none"
    return "benefit" if (difference.estimate > 0) != lower_is_better else "harm"


def conclude(
    difference: Difference,
    *,
    arm: str,
    baseline: str,
    figure: str,
    p_adjusted: float | None = None,
    family: int = 1,
    lower_is_better: bool = False,
) -> str:
    """The conclusion in one sentence.

    Args:
        difference: What was found.
        arm: Its name.
        baseline: Its name.
        figure: Name of the figure, with its unit if it has one.
        p_adjusted: After Holm; the plain p-value by default.
        family: Number of comparisons in the family of Holm; the smallest detectable effect is then
            that of the strictest step.
        lower_is_better: As for distances.

    Raises:
        AugmintError: if a family is named without its adjusted p-value.
    """
    if (family > 1) != (p_adjusted is not None):
        raise AugmintError(
            f"family of {family} with p_adjusted {p_adjusted}; give both, or neither for a single "
            "comparison"
        )
    shown = verdict(difference, p_adjusted=p_adjusted, lower_is_better=lower_is_better)
    size, p = difference.size, difference.p if p_adjusted is None else p_adjusted
    lead = {
        "benefit": "A benefit was shown",
        "harm": "Harm was shown",
        "none": "No benefit was shown, and no harm",
    }[shown]
    text = (
        f"{lead}: {figure} of {arm} is {_change(difference.estimate)} that of {baseline} on "
        f"{_count(size.patients, 'patient')} ({_count(size.draws, 'draw')}, "
        f"{_count(size.seeds, 'seed')}{' each' if size.draws > 1 else ''}"
    )
    if difference.interval is None or p is None:
        return f"{text}); one model an arm on one patient allows no test."
    low, high = difference.interval
    adjusted = f" after Holm over {family} comparisons" if family > 1 else ""
    text += f"; 95 % interval {low:+.3g} to {high:+.3g}, {_p_text(p)}{adjusted})"
    if size.draws * size.seeds == 1:
        return f"{text}; one model an arm cannot tell a method from the luck of its seed."
    if size.patients == 1:
        return f"{text}; one patient cannot speak for others."
    smallest = minimum_detectable_effect(difference.components, size, alpha=ALPHA / family)
    limit = "this speaks of one draw of training patients only, and " if size.draws == 1 else ""
    return (
        f"{text}; {limit}the smallest effect that this study finds with 80 % power is "
        f"{smallest:.3g}."
    )


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


@dataclass(frozen=True)
class _Squares:
    """Mean squares of units x patients, each (studies), and the numbers of both."""

    unit: np.ndarray
    patient: np.ndarray
    rest: np.ndarray
    units: int
    patients: int

    @property
    def freedom(self) -> tuple[int, int, int]:
        units, patients = self.units - 1, self.patients - 1
        return units, patients, units * patients

    @property
    def cells(self) -> int:
        return self.units * self.patients

    def part(self, which: slice) -> _Squares:
        return replace(
            self, unit=self.unit[which], patient=self.patient[which], rest=self.rest[which]
        )


def _mean_squares(differences: np.ndarray) -> _Squares:
    draws, _, patients = differences.shape[-3:]
    cells = differences.mean(-2) if draws > 1 else differences[..., 0, :, :]
    units = cells.shape[-2]
    cells = cells.reshape(-1, units, patients)
    grand = cells.mean((1, 2), keepdims=True)
    row, column = cells.mean(2, keepdims=True) - grand, cells.mean(1, keepdims=True) - grand
    rest = cells - grand - row - column

    def divided(total: np.ndarray, freedom: int) -> np.ndarray:
        return total / freedom if freedom else np.zeros(len(cells))

    return _Squares(
        unit=divided(patients * (row**2).sum((1, 2)), units - 1),
        patient=divided(units * (column**2).sum((1, 2)), patients - 1),
        rest=divided((rest**2).sum((1, 2)), (units - 1) * (patients - 1)),
        units=units,
        patients=patients,
    )


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


def _null_ratios(squares: _Squares, points: int) -> list[np.ndarray]:
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


def _p_values(estimate: np.ndarray, squares: _Squares) -> np.ndarray:
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


def _half_widths(squares: _Squares, alpha: float, points: int) -> np.ndarray:
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


def _primary(differences: np.ndarray) -> tuple[float | None, float | None]:
    """The p-value and the interval's half width."""
    squares = _mean_squares(differences)
    if not any(squares.freedom):
        return None, None
    p = float(mean_p_value(differences))
    half = float(_half_widths(squares, ALPHA, _POINTS)[0] / np.sqrt(squares.cells))
    return p, half


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
    freedom = _Squares(blank, blank, blank, units, size.patients).freedom
    if not any(freedom):
        raise AugmintError("one model an arm and one patient have no power; add seeds or patients")
    from scipy.special import ndtr

    standard = _standard(
        (max(1, freedom[0]), max(1, freedom[1]), max(1, freedom[2])), _POWER_POINTS
    )
    parts = [m * g * (n > 0) for m, g, n in zip((unit, patient, rest), standard, freedom)]
    squares = _Squares(parts[0], parts[1], parts[2], units, size.patients)
    half = _half_widths(squares, alpha, _POWER_POINTS)
    error = np.sqrt(max(unit + patient - rest, np.finfo(float).tiny))

    def chance(effect: float) -> float:
        shift = abs(effect) * np.sqrt(squares.cells)
        return float((ndtr((shift - half) / error) + ndtr((-shift - half) / error)).mean())

    return chance


def _aligned(
    arm: Measurements, baseline: Measurements
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Figures of both on the same fits and patients, and the patients left out."""
    _same("draws", arm.draws, baseline.draws)
    _same("seeds", arm.seeds, baseline.seeds)
    _same("patients", arm.patients, baseline.patients)
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


def _same(what: str, ours: Sequence[int | str], theirs: Sequence[int | str]) -> None:
    apart = set(ours) ^ set(theirs)
    if apart:
        raise AugmintError(
            f"arm and baseline differ in {what}: {', '.join(sorted(map(str, apart)))} in one only; "
            "compare arms that were run alike"
        )


def _patient_tests(ours: np.ndarray, theirs: np.ndarray) -> tuple[float | None, float | None]:
    """Wilcoxon's and Welch's p-values over patients' means, (patients) each."""
    from scipy.stats import ttest_ind, wilcoxon

    if len(ours) < 2:
        return None, None
    apart = ours - theirs
    signed = float(wilcoxon(apart).pvalue) if apart.any() else 1.0
    if ours.var() == 0 and theirs.var() == 0:
        return signed, None
    return signed, float(ttest_ind(ours, theirs, equal_var=False).pvalue)


def _by_patient(rows: Sequence[ScoreRow], metric: str, label: str | None) -> dict[str, float]:
    """Patient to the mean over its labels of the mean over its cases; NaN where undefined."""
    chosen = [row for row in rows if label is None or row.label == label]
    if not chosen:
        names = ", ".join(sorted({row.label for row in rows})) or "none"
        raise AugmintError(f"no row of label {label!r}; the scores have {names}")
    means = per_patient(chosen, metric)
    return {row.patient: means.get((row.patient, MEAN), float("nan")) for row in chosen}


def _change(value: float) -> str:
    if value == 0:
        return "equal to"
    return f"{abs(value):.3g} {'above' if value > 0 else 'below'}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
