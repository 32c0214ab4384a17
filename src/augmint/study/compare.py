"""Every arm of a study against its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from augmint.evaluation.statistics import (
    LOWER_IS_BETTER,
    Difference,
    Measurements,
    bootstrap_interval,
    conclude,
    group_differences,
    holm,
    paired_difference,
)
from augmint.study.results import Place, Table
from augmint.study.spec import Study

METHOD = (
    "Cases are averaged within a patient first. The interval and p belong to one test that treats "
    "draws (seeds, where there is one draw) and patients as crossed random samples, so that a "
    "lucky training counts as luck. p, Holm: corrected over the primary endpoints of all arms, "
    "networks and sizes, or, for all that is not primary, over all the rest. Wilcoxon (by patient) "
    "and Welch (unpaired) are blind to the luck of a training and are printed for comparability "
    "with the literature only. The smallest detectable effect is the one that a study of this size "
    "and noise finds with 80 % power. Means carry 95 % bootstrap intervals over draws, seeds and "
    "patients. A null arm is the baseline under other seeds: what it gains is noise."
)
METHOD_OF_FOLDS = (
    " Each patient is tested in the one fold that did not train on it; folds are pooled, and the "
    "interval does not speak of other patients to train on."
)


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline, for one metric of one label at one place.

    Attributes:
        place: Test, size and network.
        arm: Name.
        baseline: Name.
        metric: Column of `scores.csv`.
        label: Name, or `mean`.
        primary: Whether this is the study's endpoint.
        patients: How many count.
        draws: Draws or folds.
        seeds: Seeds.
        mean: Of the arm.
        baseline_mean: Of the baseline.
        difference: Mean paired difference, arm minus baseline.
        low: Of its 95 % interval; NaN where nothing can be tested.
        high: Likewise.
        p: Of the paired test that the interval belongs to; None where nothing can be tested.
        p_holm: The same after Holm's correction over the study's family.
        p_wilcoxon: Signed ranks of the patients' mean differences.
        p_welch: Unpaired, as much of the literature prints it.
        detectable: Smallest difference that such a study finds with 80 % power.
        seed_noise: How far another seed moves the baseline.
    """

    place: Place
    arm: str
    baseline: str
    metric: str
    label: str
    primary: bool
    patients: int
    draws: int
    seeds: int
    mean: float
    baseline_mean: float
    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    p_wilcoxon: float | None
    p_welch: float | None
    detectable: float | None
    seed_noise: float | None


@dataclass(frozen=True)
class GroupDifference:
    """The difference of an arm within one group of patients."""

    place: Place
    arm: str
    metric: str
    group: str
    patients: int
    difference: float
    low: float
    high: float
    worst: bool


@dataclass(frozen=True)
class Comparisons:
    """All of a study's.

    Attributes:
        rows: Arms against the baseline.
        groups: The same within groups of patients.
        intervals: (place, arm, metric, label) -> mean with its 95 % interval, in words.
        conclusions: One sentence for each arm, about the primary endpoint.
        method: How intervals and p-values were had, in words.
    """

    rows: tuple[Comparison, ...]
    groups: tuple[GroupDifference, ...]
    intervals: Mapping[tuple[Place, str, str, str], str]
    conclusions: tuple[str, ...]
    method: str

    def at(self, place: Place) -> Sequence[Comparison]:
        """The comparisons at a place."""
        return [row for row in self.rows if row.place == place]

    def groups_at(self, place: Place) -> Sequence[GroupDifference]:
        """The groups' differences at a place."""
        return [row for row in self.groups if row.place == place]

    def interval(self, place: Place, arm: str, metric: str, label: str) -> str:
        """A mean with its interval; empty where nothing is defined."""
        return self.intervals.get((place, arm, metric, label), "")


def compare_all(
    study: Study, tables: Sequence[Table], groups: Mapping[str, Mapping[str, str]]
) -> Comparisons:
    """Compare every arm with the baseline, everywhere.

    Args:
        study: Its baseline and endpoint.
        tables: What was found.
        groups: Test -> patient -> group.
    """
    rows: list[tuple[Comparison, Difference]] = []
    split: list[GroupDifference] = []
    intervals: dict[tuple[Place, str, str, str], str] = {}
    for table in tables:
        for (metric, label), figures in table.figures.items():
            measured = {
                arm: m
                for arm, v in figures.items()
                if (m := measurements_of(v, table.patients, table.draws, table.seeds, study))
                is not None
            }
            for arm, m in measured.items():
                intervals[table.place, arm, metric, label] = _mean_in_words(m)
            baseline = measured.get(study.baseline)
            if baseline is None:
                continue
            for arm, m in measured.items():
                if arm == study.baseline or not _comparable(m, baseline):
                    continue
                found = paired_difference(m, baseline)
                rows.append((_row(study, table.place, arm, metric, label, found), found))
                known = groups.get(table.place.test)
                if known and metric == study.endpoint.metric and label == "mean":
                    split += _split(table.place, arm, metric, m, baseline, known)
    corrected = _after_holm(study, [row for row, _ in rows])
    differences = {_key(row): found for row, found in rows}
    sentences = _conclusions(study, corrected, differences)
    method = METHOD + (METHOD_OF_FOLDS if study.folds else "")
    return Comparisons(tuple(corrected), tuple(split), intervals, sentences, method)


def measurements_of(
    figures: np.ndarray,
    patients: tuple[str, ...],
    draws: tuple[int | str, ...],
    seeds: tuple[int | str, ...],
    study: Study,
) -> Measurements | None:
    """An arm's figures, folds pooled; None where no patient has one in every fit.

    Args:
        figures: (draws, seeds, patients), NaN where undefined.
        patients: The last axis.
        draws: The first axis: draws or folds.
        seeds: The second axis.
        study: Whose folds, if it has any, each test other patients.
    """
    if study.folds:
        # Every patient has figures in one fold only.
        defined = np.isfinite(figures)
        total = np.where(defined, figures, 0).sum(0, keepdims=True)
        count = defined.sum(0, keepdims=True)
        figures = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        draws = ("all folds",)
    if not np.isfinite(figures).all((0, 1)).any():
        return None
    return Measurements(figures, patients, draws, seeds)


def _comparable(arm: Measurements, baseline: Measurements) -> bool:
    return bool(np.isfinite(arm.figures + baseline.figures).all((0, 1)).any())


def _mean_in_words(measured: Measurements) -> str:
    figures = measured.figures[..., np.isfinite(measured.figures).all((0, 1))]
    low, high = bootstrap_interval(figures, resamples=2000, rng=np.random.default_rng(0))
    return f"{figures.mean():.3f} [{low:.3f}, {high:.3f}]"


def _row(
    study: Study, place: Place, arm: str, metric: str, label: str, found: Difference
) -> Comparison:
    low, high = found.interval or (float("nan"), float("nan"))
    end = study.endpoint
    return Comparison(
        place, arm, study.baseline, metric, label,
        (place.test, metric, label) == (end.test, end.metric, end.label),
        found.size.patients, found.size.draws, found.size.seeds, found.arm_mean,
        found.baseline_mean, found.estimate, low, high, found.p, None, found.wilcoxon_p,
        found.welch_p, found.minimum_detectable, found.seed_noise,
    )  # fmt: skip


def _split(
    place: Place,
    arm: str,
    metric: str,
    measured: Measurements,
    baseline: Measurements,
    known: Mapping[str, str],
) -> list[GroupDifference]:
    found = group_differences(
        measured, baseline, {p: known.get(p, "not stated") for p in measured.patients},
        lower_is_better=metric in LOWER_IS_BETTER,
    )  # fmt: skip
    rows = []
    for group, d in found.differences.items():
        low, high = d.interval or (float("nan"), float("nan"))
        rows.append(
            GroupDifference(
                place, arm, metric, group, d.size.patients, d.estimate, low, high,
                group == found.worst,
            )
        )  # fmt: skip
    return rows


def _key(row: Comparison) -> tuple[Place, str, str, str]:
    return row.place, row.arm, row.metric, row.label


def _after_holm(study: Study, rows: Sequence[Comparison]) -> list[Comparison]:
    """Holm within the primary endpoints, and within all the rest; null arms stand outside."""
    adjusted: dict[tuple[Place, str, str, str], float] = {}
    for primary in (True, False):
        family = [
            r
            for r in rows
            if r.primary == primary and r.p is not None and not study.arm(r.arm).null
        ]
        found = holm([r.p for r in family if r.p is not None]) if family else []
        adjusted |= {_key(r): p for r, p in zip(family, found)}
    return [replace(r, p_holm=adjusted.get(_key(r))) for r in rows]


def _conclusions(
    study: Study,
    rows: Sequence[Comparison],
    differences: Mapping[tuple[Place, str, str, str], Difference],
) -> tuple[str, ...]:
    end = study.endpoint
    primary = [r for r in rows if r.primary]
    family = sum(r.p_holm is not None for r in primary)
    sentences = []
    for row in primary:
        null = study.arm(row.arm).null
        several = not null and family > 1 and row.p_holm is not None
        sentence = conclude(
            differences[_key(row)],
            arm=f"{row.arm} (null)" if null else row.arm,
            baseline=row.baseline,
            figure=f"{end.metric} ({end.label}, {end.test}, {row.place.size} training patients, "
            f"{row.place.network})",
            p_adjusted=row.p_holm if several else None,
            family=family if several else 1,
            lower_is_better=end.metric in LOWER_IS_BETTER,
        )
        sentences.append(sentence)
    return tuple(sentences) or ("The primary endpoint was not reached: see what is missing.",)
