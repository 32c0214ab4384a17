"""From predictions and references to `scores.csv` and its summary."""

from __future__ import annotations

import csv
import json
import shutil
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from augmint.case import Grid
from augmint.errors import AugmintError
from augmint.evaluation.metrics import METRICS, POLICY, Status, score_label
from augmint.staging import write_text

SCHEMA_VERSION = 1
MEAN = "mean"
COLUMNS = ("case", "patient", "label", *METRICS, "unit", "status")


@dataclass(frozen=True)
class ScoreRow:
    """One label of one case: a row of `scores.csv`.

    Attributes:
        case: Case name.
        patient: The unit of averages.
        label: Name of the class.
        dice: As all figures up to `surface_dice`, see `LabelScore`; None where undefined.
        precision: See `LabelScore`.
        recall: See `LabelScore`.
        hd: In `unit`.
        hd95: In `unit`.
        assd: In `unit`.
        surface_dice: Share of the surfaces within the tolerance.
        unit: Of the distances: `mm`, or `px` where the spacing is unknown.
        status: `ok`, `both_empty`, `false_positive` or `missed`.
    """

    case: str
    patient: str
    label: str
    dice: float | None
    precision: float | None
    recall: float | None
    hd: float | None
    hd95: float | None
    assd: float | None
    surface_dice: float | None
    unit: str
    status: Status


@dataclass(frozen=True)
class LabelSummary:
    """One label over a dataset, cases averaged within a patient first.

    Attributes:
        label: Name of the class.
        unit: Of the distances.
        patients: Patients with at least one case that counts.
        cases: Cases in which the label was looked for.
        both_empty: Cases left out of the means.
        false_positives: Cases found where the reference is empty.
        missed: Cases not found at all.
        means: Metric to the mean over patients, None where nothing is defined.
    """

    label: str
    unit: str
    patients: int
    cases: int
    both_empty: int
    false_positives: int
    missed: int
    means: Mapping[str, float | None]

    @property
    def failures(self) -> int:
        """Missed cases and false positives."""
        return self.missed + self.false_positives


@dataclass(frozen=True)
class Summary:
    """All labels, the mean over them, and the policy that the figures follow."""

    labels: tuple[LabelSummary, ...]
    policy: str

    def mean(self, metric: str) -> float | None:
        """The unweighted mean of a metric over the labels that define it."""
        return _mean([s.means[metric] for s in self.labels])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        labels = [{**asdict(one), "failures": one.failures} for one in self.labels]
        return {"labels": labels, "policy": self.policy}


def score_case(
    reference: Tensor | np.ndarray,
    prediction: Tensor | np.ndarray,
    labels: Mapping[str, int],
    grid: Grid,
    case_id: str,
    patient_id: str,
    annotated: frozenset[int],
    *,
    tolerance: float = 2.0,
) -> list[ScoreRow]:
    """Scores every annotated label of a case on its native grid.

    Args:
        reference: (*spatial) class index.
        prediction: (*spatial) class index on the same grid.
        labels: Name to class; the background (0) is passed over.
        grid: The native grid; without a known spacing distances are pixels, slice by slice.
        case_id: For the rows and messages.
        patient_id: The unit of averages.
        annotated: Classes that an annotator looked for; others yield no row.
        tolerance: Of the surface Dice, in mm or pixels.

    Raises:
        AugmintError: if a mask does not lie on the grid.
    """
    masks = {"reference": np.asarray(reference), "prediction": np.asarray(prediction)}
    for what, mask in masks.items():
        if mask.shape != grid.shape:
            raise AugmintError(
                f"case {case_id!r}: {what} {mask.shape} does not lie on the native grid "
                f"{grid.shape}; bring it back onto that grid"
            )
    in_plane = grid.dims == 3 and not grid.spacing_known
    rows = []
    for name, index in labels.items():
        if index == 0 or index not in annotated:
            continue
        score = score_label(
            masks["reference"] == index,
            masks["prediction"] == index,
            spacing=grid.spacing,
            tolerance=tolerance,
            slice_axis=grid.slice_axis if in_plane else None,
        )
        unit = "mm" if grid.spacing_known else "px"
        rows.append(
            ScoreRow(case=case_id, patient=patient_id, label=name, unit=unit, **asdict(score))
        )
    return rows


def kept_rows(
    done: Path, score: Callable[[], Sequence[ScoreRow]], *, sources: Sequence[Path] = ()
) -> list[ScoreRow]:
    """The rows of a case that an earlier, interrupted scoring left, or fresh ones, left there.

    Args:
        done: The JSON file of the case.
        score: Makes the rows.
        sources: Files that the rows come from; rows older than one of them are made afresh.
    """
    fresh = done.exists() and all(p.stat().st_mtime < done.stat().st_mtime for p in sources)
    if not fresh:
        write_text(done, json.dumps([asdict(row) for row in score()]))
    return [ScoreRow(**row) for row in json.loads(done.read_text(encoding="utf-8"))]


def write_evaluation(
    folder: Path, rows: Sequence[ScoreRow], facts: Mapping[str, Any], versions: Mapping[str, str]
) -> Summary:
    """Writes what every command that scores leaves: scores.csv, patients.csv, summary.json.

    Args:
        folder: Where to.
        rows: Of all cases.
        facts: What summary.json says first: the request, the dataset.
        versions: What it says last.
    """
    summary = summarise(rows)
    write_scores(rows, folder / "scores.csv")
    write_patients(rows, folder / "patients.csv")
    means = {metric: summary.mean(metric) for metric in METRICS}
    content = {
        "schema_version": SCHEMA_VERSION, **facts, **summary.to_dict(), "mean": means,
        "versions": dict(versions),
    }  # fmt: skip
    write_text(folder / "summary.json", json.dumps(content, indent=1, default=str))
    return summary


def write_scores(rows: Iterable[ScoreRow], path: Path) -> None:
    """Writes `scores.csv`; undefined cells are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = asdict(row)
            writer.writerow({column: _cell(cells[column]) for column in COLUMNS})


def write_patients(rows: Sequence[ScoreRow], path: Path) -> None:
    """Writes `patients.csv`: means of each patient and label over its cases that count."""
    groups: dict[tuple[str, str], list[ScoreRow]] = defaultdict(list)
    for row in rows:
        groups[row.patient, row.label].append(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient", "label", "cases", *METRICS, "unit", "failures"])
        for (patient, label), group in sorted(groups.items()):
            one = _summarise(label, group)
            cells = [_cell(one.means[metric]) for metric in METRICS]
            counted = one.cases - one.both_empty
            writer.writerow([patient, label, counted, *cells, one.unit, one.failures])


def read_scores(path: Path) -> list[ScoreRow]:
    """Reads what `write_scores` wrote.

    Raises:
        AugmintError: if the columns are not those of `scores.csv`.
    """
    return [_row(cells) for cells in read_table(path, COLUMNS, "scores.csv")]


def read_table(path: Path, columns: Sequence[str], name: str) -> list[dict[str, str]]:
    """The rows of a CSV that must have exactly these columns.

    Raises:
        AugmintError: naming the file, if they are others.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise AugmintError(
                f"{path}: columns {reader.fieldnames} are not those of {name}, "
                f"{','.join(columns)}; give a file that augmint wrote"
            )
        return list(reader)


def per_patient(
    rows: Iterable[ScoreRow], metric: str | Callable[[ScoreRow], float | None]
) -> dict[tuple[str, str], float]:
    """(patient, label) -> mean over the patient's cases, and the mean over labels as `mean`.

    What is undefined is left out, and so is a patient or label with nothing defined.

    Args:
        rows: Of all cases.
        metric: One of `METRICS`, or what derives a figure from a row.
    """
    figure = attrgetter(metric) if isinstance(metric, str) else metric
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        value = figure(row)
        if value is not None:
            values[(row.patient, row.label)].append(value)
    means = {key: float(np.mean(found)) for key, found in values.items()}
    by_patient: dict[str, list[float]] = defaultdict(list)
    for (patient, _), value in means.items():
        by_patient[patient].append(value)
    return {**means, **{(p, MEAN): float(np.mean(v)) for p, v in by_patient.items()}}


def summarise(rows: Sequence[ScoreRow]) -> Summary:
    """Means per label, cases averaged within a patient first, failures counted.

    Raises:
        AugmintError: if one label has distances in mm and in pixels.
    """
    by_label: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    return Summary(tuple(_summarise(name, group) for name, group in by_label.items()), POLICY)


def in_words(summary: Summary) -> str:
    """The table of a summary, with the policy that its figures follow, wrapped for a terminal."""
    shown = ("dice", "hd95", "assd", "surface_dice")
    lines = [f"{'label':<16}{'patients':>9}" + "".join(f"{m:>14}" for m in shown) + "  failures"]
    for one in summary.labels:
        cells = ["-" if (v := one.means[m]) is None else f"{v:.3f}" for m in shown]
        figures = "".join(f"{c:>14}" for c in cells)
        failed = f"{one.failures} of {one.cases - one.both_empty}"
        lines.append(f"{one.label:<16}{one.patients:>9}{figures}  {failed}")
    mean = summary.mean("dice")
    units = " and ".join(sorted({one.unit for one in summary.labels}))
    lines.append(f"mean Dice {'-' if mean is None else f'{mean:.3f}'}; distances in {units}")
    width = max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
    return "\n".join([*lines, *textwrap.wrap(summary.policy, width)])


def _summarise(label: str, rows: Sequence[ScoreRow]) -> LabelSummary:
    units = {row.unit for row in rows}
    if len(units) > 1:
        raise AugmintError(
            f"label {label!r} has distances in {' and '.join(sorted(units))}; "
            "score cases with and without a known spacing apart"
        )
    counted = [row for row in rows if row.status != "both_empty"]
    by_patient: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in counted:
        by_patient[row.patient].append(row)
    means = {
        metric: _mean(
            [_mean([getattr(row, metric) for row in group]) for group in by_patient.values()]
        )
        for metric in METRICS
    }
    return LabelSummary(
        label=label,
        unit=units.pop(),
        patients=len(by_patient),
        cases=len(rows),
        both_empty=len(rows) - len(counted),
        false_positives=sum(row.status == "false_positive" for row in rows),
        missed=sum(row.status == "missed" for row in rows),
        means=means,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.6g}"


def _row(cells: Mapping[str, str]) -> ScoreRow:
    figures: dict[str, Any] = {m: float(cells[m]) if cells[m] else None for m in METRICS}
    texts: dict[str, Any] = {c: cells[c] for c in COLUMNS if c not in METRICS}
    return ScoreRow(**texts, **figures)
