"""What a study's evaluations found, as arrays that statistics can take."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from augmint.data.layout import listed
from augmint.evaluation.failure import FAILURE, failure_above, failure_of
from augmint.evaluation.score import MEAN, ScoreRow, per_patient, read_scores
from augmint.staging import write_text
from augmint.study.units import Cell, Plan

Fit = tuple[int, int]  # number of the draw or fold, and seed


@dataclass(frozen=True)
class Place:
    """Where arms are compared.

    Attributes:
        test: Name of the test.
        size: Training patients.
        network: The segmenter.
    """

    test: str
    size: int
    network: str


@dataclass(frozen=True)
class Kept:
    """The fits that a figure stands on: each of these draws with each of these seeds, in all arms.

    Attributes:
        draws: Numbers of draws or folds.
        seeds: Their seeds; none, as of the draws, where the arms have no fit in common.
        planned: All draws and all seeds that were planned.
        missing: Arm -> its planned fits that have not finished; arms that have all are not named.
    """

    draws: tuple[int, ...]
    seeds: tuple[int, ...]
    planned: tuple[tuple[int, ...], tuple[int, ...]]
    missing: Mapping[str, frozenset[Fit]]

    def of(self, figures: np.ndarray) -> np.ndarray:
        """Figures (planned draws, planned seeds, patients) of these fits alone."""
        chosen = [
            [everything.index(one) for one in kept]
            for everything, kept in zip(self.planned, (self.draws, self.seeds))
        ]
        return figures[np.ix_(*chosen)]

    def in_words(self, what: str, *, folds: bool) -> str:
        """What is left out of something, and for which missing fits; empty where nothing is.

        Args:
            what: It is left out of.
            folds: Whether draws are folds.
        """
        if not self.missing:
            return ""
        word = "fold" if folds else "draw"
        gone = [
            _named(name, [one for one in everything if one not in kept])
            for name, everything, kept in zip(
                (word, "seed"), self.planned, (self.draws, self.seeds), strict=True
            )
        ]
        count = len(self.planned[0]) * len(self.planned[1])
        why = "; ".join(f"{arm}, {self._absent(fits, word)}" for arm, fits in self.missing.items())
        return (
            f"Left out of {what}: {' and '.join(filter(None, gone))}, so that "
            f"{len(self.draws) * len(self.seeds)} of {count} fits remain, because fits are "
            f"missing: {why}."
        )

    def _absent(self, fits: frozenset[Fit], word: str) -> str:
        draws, seeds = self.planned
        whole = [d for d in draws if all((d, s) in fits for s in seeds)]
        if len(whole) == len(draws):
            return "all"
        across = [s for s in seeds if all((d, s) in fits for d in draws)]
        rest = [
            f"{word} {d} with seed {s}"
            for d, s in sorted(fits)
            if d not in whole and s not in across
        ]
        parts = (_named(word, whole), _named("seed", across), listed(rest))
        return " and ".join(filter(None, parts))


def _named(word: str, numbers: Sequence[int]) -> str:
    """`draw 1`, `draws 1, 3`, or nothing."""
    if not numbers:
        return ""
    return f"{word}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def keep_fits(
    draws: Sequence[int], seeds: Sequence[int], finished: Mapping[str, Collection[Fit]]
) -> Kept:
    """The most draws x seeds in which every one of some arms has finished.

    Of choices with as many fits one with several draws is taken, then one with all seeds, then that
    with more draws.

    Args:
        draws: Those planned.
        seeds: Those planned.
        finished: Arm -> its finished fits.
    """
    planned = [(d, s) for d in draws for s in seeds]
    missing = {a: frozenset(planned) - frozenset(fits) for a, fits in finished.items()}
    there = set(planned).difference(*missing.values())
    rows = {d: frozenset(s for s in seeds if (d, s) in there) for d in draws}
    # The seeds of the largest rectangle are those that its draws have in common.
    shared: set[frozenset[int]] = set()
    for row in set(rows.values()):
        shared |= {row, *(row & other for other in shared)}
    choices = [
        (tuple(d for d in draws if rows[d] >= common), tuple(s for s in seeds if s in common))
        for common in shared
        if common
    ]

    def worth(choice: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Any, ...]:
        d, s = choice
        first = [-n for n in (*d, *s)]  # of equals always the same one, whatever the set's order
        return len(d) * len(s), len(d) > 1, len(s) == len(seeds), len(d), first

    kept = max(choices, key=worth, default=((), ()))
    return Kept(*kept, (tuple(draws), tuple(seeds)), {a: f for a, f in missing.items() if f})


@dataclass(frozen=True)
class Table:
    """All arms at one place.

    Attributes:
        place: Where.
        patients: The last axis.
        draws: The first axis: numbers of the planned draws or folds.
        seeds: The second axis: the planned seeds.
        figures: (metric, label) -> arm -> (draws, seeds, patients), NaN where undefined and
            where the fit has not finished; an arm without any finished fit is not there.
        failures: Arm -> missed and false positive labels, over all cases of the arm's kept fits.
        judged: Arm -> labels judged, likewise.
        empty: Arm -> labels that were empty in reference and prediction, left out of the means.
        units: Metric -> unit of the distances.
        labels: Names, in the order of the dataset.
        finished: Planned arm -> its finished fits.
        failure_hd: HD above which a label has failed, in `units`; None: `failure` has no figures.
    """

    place: Place
    patients: tuple[str, ...]
    draws: tuple[int, ...]
    seeds: tuple[int, ...]
    figures: Mapping[tuple[str, str], Mapping[str, np.ndarray]]
    failures: Mapping[str, int]
    judged: Mapping[str, int]
    empty: Mapping[str, int]
    units: str
    labels: tuple[str, ...]
    finished: Mapping[str, frozenset[Fit]]
    failure_hd: float | None = None

    def kept(self, *arms: str) -> Kept:
        """The fits that figures of these arms together stand on; see `keep_fits`."""
        return keep_fits(self.draws, self.seeds, {arm: self.finished[arm] for arm in arms})


def collect(
    plan: Plan,
    folder: Path,
    arms: Sequence[str],
    metrics: Sequence[str],
    done: Iterable[str],
    *,
    failure_hd: float | None = None,
) -> tuple[Table, ...]:
    """One table for each test, size and network that has finished evaluations.

    A fit that has not finished takes nothing from the arms and fits that have: which of them pair
    is for `Table.kept` to say.

    Args:
        plan: The study's plan.
        folder: The study's folder.
        arms: Names, in the order of the study.
        metrics: Columns of `scores.csv`, and `failure`, which is derived from them.
        done: Keys of the finished units.
        failure_hd: HD above which a label has failed; see `failure_above`.
    """
    places: dict[Place, list[Cell]] = defaultdict(list)
    for cell in plan.cells:
        places[Place(cell.test, cell.size, cell.network)].append(cell)
    files = {
        unit: read_scores(folder / plan.units[unit].folder / "scores.csv")
        for unit in {c.unit for c in plan.cells}.intersection(done)
    }
    return tuple(
        _table(place, cells, arms, metrics, files, failure_hd)
        for place, cells in places.items()
        if any(c.unit in files for c in cells)
    )


def _table(
    place: Place,
    cells: Sequence[Cell],
    arms: Sequence[str],
    metrics: Sequence[str],
    files: Mapping[str, Sequence[ScoreRow]],
    failure_hd: float | None,
) -> Table:
    draws, seeds = sorted({c.draw for c in cells}), sorted({c.seed for c in cells})
    runs = {(c.arm, c.draw, c.seed): files[c.unit] for c in cells if c.unit in files}
    finished = {
        arm: frozenset((d, s) for a, d, s in runs if a == arm)
        for arm in arms
        if any(c.arm == arm for c in cells)
    }
    present = [arm for arm, fits in finished.items() if fits]
    rows = [row for found in runs.values() for row in found]
    units = rows[0].unit if rows else "px"
    limit = failure_above(failure_hd, units)
    metrics = [m for m in metrics if m != FAILURE or limit is not None]
    patients = tuple(sorted({r.patient for r in rows}))
    labels = tuple(dict.fromkeys(r.label for r in rows))
    number = {p: i for i, p in enumerate(patients)}
    figures: dict[tuple[str, str], dict[str, np.ndarray]] = {
        (m, label): {a: np.full((len(draws), len(seeds), len(patients)), np.nan) for a in present}
        for m in metrics
        for label in (MEAN, *labels)
    }
    for (arm, draw, seed), found in runs.items():
        i, j = draws.index(draw), seeds.index(seed)
        for metric in metrics:
            figure = partial(failure_of, asked=limit) if metric == FAILURE else metric
            for (patient, label), value in per_patient(found, figure).items():
                figures[(metric, label)][arm][i, j, number[patient]] = value
    status: dict[str, list[str]] = {}
    for arm in present:
        own = keep_fits(draws, seeds, {arm: finished[arm]})
        status[arm] = [r.status for d in own.draws for s in own.seeds for r in runs[arm, d, s]]
    return Table(
        place, patients, tuple(draws), tuple(seeds), figures,
        {a: s.count("missed") + s.count("false_positive") for a, s in status.items()},
        {a: len(s) for a, s in status.items()},
        {a: s.count("both_empty") for a, s in status.items()},
        units, labels, finished, limit,
    )  # fmt: skip


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table as one rename; None is an empty cell."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        [["" if v is None else v for v in row] for row in rows]
    )
    write_text(path, stream.getvalue())
