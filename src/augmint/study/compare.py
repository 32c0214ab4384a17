"""Every arm of a study against its baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from augmint.evaluation.failure import FAILURE, rate_difference
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
from augmint.study.results import Kept, Place, Table
from augmint.study.spec import HELD_OUT, Study

METHOD = (
    "Cases are averaged within a patient first. The interval and p belong to one test that treats "
    "draws (seeds, where there is one draw) and patients as crossed random samples, so that a "
    "lucky training counts as luck. p, Holm: corrected over the primary endpoints of all arms, "
    "networks and sizes, or, for all that is not primary, over all the rest. Wilcoxon (by patient) "
    "and Welch (unpaired) are blind to the luck of a training and are printed for comparability "
    "with the literature only. The smallest detectable effect is the one that a study of this size "
    "and noise finds with 80 % power. Means carry 95 % bootstrap intervals over draws, seeds and "
    "patients. A null arm is the baseline under other seeds: what it gains is noise. Where fits "
    "are missing, an arm and the baseline are compared on the largest full grid of draws and seeds "
    "that have finished in both. p of a failure rate is not below that of a permutation of the "
    "patients' signs, since few patients fail."
)
ORACLE = "oracle: trained with labels of the test; no method may do so"
METHOD_OF_ORACLES = (
    " An oracle was trained with labels of the test's other patients and none of the training "
    "dataset, whatever its size; it is no competitor, so its p is not corrected and corrects none."
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
        metric: Column of `scores.csv`, or `failure`.
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
        conclusions: What each arm's primary endpoint says, and what was left out of it.
        method: How intervals and p-values were had, in words.
        notes: Place -> what means and differences there lack, a sentence or two for each arm.
    """

    rows: tuple[Comparison, ...]
    groups: tuple[GroupDifference, ...]
    intervals: Mapping[tuple[Place, str, str, str], str]
    conclusions: tuple[str, ...]
    method: str
    notes: Mapping[Place, tuple[str, ...]]

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
        for metric, label in table.figures:
            for arm in table.figures[metric, label]:
                alone = _measured(study, table, metric, label, arm, table.kept(arm))
                if alone is not None:
                    intervals[table.place, arm, metric, label] = _mean_in_words(alone)
                pair = _pair(study, table, metric, label, arm)
                if pair is None:
                    continue
                found = _compare_by(metric)(*pair)
                rows.append((_row(study, table.place, arm, metric, label, found), found))
                known = groups.get(table.place.test)
                if known and metric == study.endpoint.metric and label == "mean":
                    split += _split(table.place, arm, metric, *pair, known)
    corrected = _after_holm(study, [row for row, _ in rows])
    differences = {_key(row): found for row, found in rows}
    sentences = _conclusions(study, tables, corrected, differences)
    method = METHOD + (METHOD_OF_FOLDS if study.folds else "")
    if any(study.arm(name).oracle is not None for name in study.arms):
        method += METHOD_OF_ORACLES
    notes = {table.place: _notes(study, table) for table in tables}
    return Comparisons(tuple(corrected), tuple(split), intervals, sentences, method, notes)


def _compare_by(metric: str) -> Callable[[Measurements, Measurements], Difference]:
    return rate_difference if metric == FAILURE else paired_difference


def _measured(
    study: Study, table: Table, metric: str, label: str, arm: str, kept: Kept
) -> Measurements | None:
    """One arm's figures on some of its fits; None where nothing is defined."""
    figures = kept.of(table.figures[metric, label][arm])
    return measurements_of(figures, table.patients, kept.draws, kept.seeds, study)


def _pair(
    study: Study, table: Table, metric: str, label: str, arm: str
) -> tuple[Measurements, Measurements] | None:
    """An arm and the baseline on the fits that both have; None where they share no figure."""
    if arm == study.baseline or study.baseline not in table.figures[metric, label]:
        return None
    kept = table.kept(arm, study.baseline)
    ours, theirs = (
        _measured(study, table, metric, label, name, kept) for name in (arm, study.baseline)
    )
    if ours is None or theirs is None:
        return None
    shared = np.isfinite(ours.figures + theirs.figures).all((0, 1))
    return (ours, theirs) if shared.any() else None


def measurements_of(
    figures: np.ndarray,
    patients: tuple[str, ...],
    draws: tuple[int | str, ...],
    seeds: tuple[int | str, ...],
    study: Study,
) -> Measurements | None:
    """An arm's figures, folds pooled; None without fits or where no patient has one in every fit.

    Args:
        figures: (draws, seeds, patients), NaN where undefined.
        patients: The last axis.
        draws: The first axis: draws or folds.
        seeds: The second axis.
        study: Whose folds, if it has any, each test other patients.
    """
    if not figures.size:
        return None
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


def _mean_in_words(measured: Measurements) -> str:
    figures = measured.figures[..., np.isfinite(measured.figures).all((0, 1))]
    if np.ptp(figures) == 0:  # as where nobody fails: no width is not certainty
        return f"{figures.mean():.3f}"
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
    # A group in which nobody has a figure in every fit has no difference.
    defined = np.isfinite(measured.figures + baseline.figures).all((0, 1))
    shared = [p for p, ok in zip(measured.patients, defined) if ok]
    found = group_differences(
        measured.of_patients(shared), baseline.of_patients(shared),
        {p: known.get(p, "not stated") for p in shared},
        lower_is_better=metric in LOWER_IS_BETTER, compare=_compare_by(metric),
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
    """Holm within the primary endpoints, and within all the rest, of the arms that compete."""
    adjusted: dict[tuple[Place, str, str, str], float] = {}
    for primary in (True, False):
        family = [
            r for r in rows if r.primary == primary and r.p is not None and study.competes(r.arm)
        ]
        found = holm([r.p for r in family if r.p is not None]) if family else []
        adjusted |= {_key(r): p for r, p in zip(family, found)}
    return [replace(r, p_holm=adjusted.get(_key(r))) for r in rows]


def _conclusions(
    study: Study,
    tables: Sequence[Table],
    rows: Sequence[Comparison],
    differences: Mapping[tuple[Place, str, str, str], Difference],
) -> tuple[str, ...]:
    end = study.endpoint
    primary = {(r.place, r.arm): r for r in rows if r.primary}
    family = sum(r.p_holm is not None for r in primary.values())
    sentences = []
    for table in (t for t in tables if t.place.test == end.test):
        figure = _figure(table, end.metric, end.label)
        for arm in table.finished:
            if arm == study.baseline:
                continue
            name, row = called(study, arm), primary.get((table.place, arm))
            if row is None:
                why = _why_not(table, arm, study)
                sentences.append(f"{name} was not compared with {study.baseline}: {figure}: {why}.")
                continue
            several = family > 1 and row.p_holm is not None
            sentence = conclude(
                differences[_key(row)], arm=name, baseline=row.baseline, figure=figure,
                p_adjusted=row.p_holm if several else None, family=family if several else 1,
                lower_is_better=end.metric in LOWER_IS_BETTER,
            )  # fmt: skip
            lacking = left_out(study, table.place, table.kept(arm, study.baseline))
            sentences.append(f"{sentence} {lacking}".strip())
    return tuple(sentences) or ("The primary endpoint was not reached: see what is missing.",)


def called(study: Study, name: str) -> str:
    """An arm by its name, and its role where it is no competitor."""
    arm = study.arm(name)
    if arm.oracle is not None:
        return f"{name} ({ORACLE})"
    return f"{name} (null)" if arm.null else name


def _figure(table: Table, metric: str, label: str) -> str:
    """A figure in a sentence, and where it stands."""
    place = table.place
    where = f"{label}, {place.test}, {place.size} training patients, {place.network}"
    if metric == FAILURE and table.failure_hd is not None:
        return f"failure rate (HD above {table.failure_hd:g} {table.units}; {where})"
    return f"{metric} ({where})"


def _why_not(table: Table, arm: str, study: Study) -> str:
    """Why an arm has no difference from the baseline."""
    without = [a for a in (arm, study.baseline) if not table.finished[a]]
    if without:
        return f"no fit of {' or '.join(without)} has finished"
    if not table.kept(arm, study.baseline).draws:
        return "there is no draw and seed in which both have finished"
    return "no patient has this figure in every fit of both"


def left_out(study: Study, place: Place, kept: Kept, what: str = "this comparison") -> str:
    """What missing fits take from a figure, and what to beware of; empty where none is missing.

    Args:
        study: Whether its draws are folds.
        place: Where: the patients of a fold go with it.
        kept: The fits that the figure stands on.
        what: The figure.
    """
    if not kept.missing:
        return ""
    words = kept.in_words(what, folds=bool(study.folds))
    patients = ""
    if study.folds and place.test == HELD_OUT and len(kept.draws) < len(kept.planned[0]):
        patients = " The patients of a fold that is left out do not count."
    return (
        f"{words}{patients} Leaving out fits that failed may flatter {' or '.join(kept.missing)}."
    )


def _notes(study: Study, table: Table) -> tuple[str, ...]:
    """What is missing at a place: of each arm's means, and of its difference from the baseline."""
    notes = []
    for arm, fits in table.finished.items():
        if not fits:
            notes.append(f"{arm}: no fit has finished.")
            continue
        notes.append(
            left_out(study, table.place, table.kept(arm), f"the means and failures of {arm}")
        )
        if arm == study.baseline:
            continue
        pair = table.kept(arm, study.baseline)
        if not pair.draws:
            notes.append(f"{arm} less {study.baseline}: {_why_not(table, arm, study)}.")
            continue
        notes.append(left_out(study, table.place, pair, f"{arm} less {study.baseline}"))
    return tuple(filter(None, notes))
