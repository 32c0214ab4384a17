"""What a study's evaluations found, as arrays that statistics can take."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from augmint.evaluation.score import MEAN, ScoreRow, per_patient, read_scores
from augmint.staging import write_text
from augmint.study.plan import Cell, Plan


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
class Table:
    """All arms at one place.

    Attributes:
        place: Where.
        patients: The last axis.
        draws: The first axis: numbers of the draws or folds in which every arm was evaluated.
        seeds: The second axis.
        figures: (metric, label) -> arm -> (draws, seeds, patients), NaN where undefined.
        failures: Arm -> missed and false positive labels, over all cases, draws and seeds.
        judged: Arm -> labels judged, likewise.
        empty: Arm -> labels that were empty in reference and prediction, left out of the means.
        units: Metric -> unit of the distances.
        labels: Names, in the order of the dataset.
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


def collect(
    plan: Plan, folder: Path, arms: Sequence[str], metrics: Sequence[str], done: Iterable[str]
) -> tuple[Table, ...]:
    """One table for each test, size and network that has finished evaluations.

    A draw and seed counts where every arm has it, so that differences are paired; an arm without
    any finished evaluation at a place is left out of its table.

    Args:
        plan: The study's plan.
        folder: The study's folder.
        arms: Names, in the order of the study.
        metrics: Columns of `scores.csv`.
        done: Keys of the finished units.
    """
    finished = set(done)
    places: dict[Place, list[Cell]] = defaultdict(list)
    for cell in plan.cells:
        if cell.unit in finished:
            places[Place(cell.test, cell.size, cell.network)].append(cell)
    files = {
        unit: read_scores(folder / plan.units[unit].folder / "scores.csv")
        for unit in {c.unit for cells in places.values() for c in cells}
    }
    return tuple(_table(p, cells, arms, metrics, files) for p, cells in places.items())


def _table(
    place: Place,
    cells: Sequence[Cell],
    arms: Sequence[str],
    metrics: Sequence[str],
    files: Mapping[str, Sequence[ScoreRow]],
) -> Table:
    present = [arm for arm in arms if any(c.arm == arm for c in cells)]
    runs = {(c.arm, c.draw, c.seed): files[c.unit] for c in cells}
    draws, seeds = sorted({c.draw for c in cells}), sorted({c.seed for c in cells})
    whole = {(d, s) for d in draws for s in seeds if all((a, d, s) in runs for a in present)}
    draws = [d for d in draws if any((d, s) in whole for s in seeds)]
    seeds = [s for s in seeds if any((d, s) in whole for d in draws)]
    rows = [row for key, found in runs.items() if key[1:] in whole for row in found]
    patients = tuple(sorted({r.patient for r in rows}))
    labels = tuple(dict.fromkeys(r.label for r in rows))
    number = {p: i for i, p in enumerate(patients)}
    figures: dict[tuple[str, str], dict[str, np.ndarray]] = {
        (m, label): {a: np.full((len(draws), len(seeds), len(patients)), np.nan) for a in present}
        for m in metrics
        for label in (MEAN, *labels)
    }
    counts: dict[str, dict[str, int]] = {k: defaultdict(int) for k in ("fail", "all", "empty")}
    for arm in present:
        for i, draw in enumerate(draws):
            for j, seed in enumerate(seeds):
                if (draw, seed) not in whole:
                    continue
                found = runs[(arm, draw, seed)]
                for metric in metrics:
                    for (patient, label), value in per_patient(found, metric).items():
                        figures[(metric, label)][arm][i, j, number[patient]] = value
                for row in found:
                    counts["all"][arm] += 1
                    counts["empty"][arm] += row.status == "both_empty"
                    counts["fail"][arm] += row.status in ("missed", "false_positive")
    return Table(
        place, patients, tuple(draws), tuple(seeds), figures, dict(counts["fail"]),
        dict(counts["all"]), dict(counts["empty"]), rows[0].unit if rows else "px", labels,
    )  # fmt: skip


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table as one rename; None is an empty cell."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        [["" if v is None else v for v in row] for row in rows]
    )
    write_text(path, stream.getvalue())
