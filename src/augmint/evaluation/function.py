"""LV volumes and EF of predictions beside those of references: a table, a summary, a plot."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from augmint.data.layout import listed
from augmint.evaluation.bland_altman import (
    LEAST_FOR_LIMITS,
    Panel,
    bland_altman,
    plot_panels,
    remark_on_limits,
)
from augmint.evaluation.score import read_table
from augmint.staging import write_text

SCHEMA_VERSION = 1
FIGURES = ("ef", "edv", "esv")
NAMES = {"ef": "EF", "edv": "EDV", "esv": "ESV"}
POLICY = (
    "Differences are prediction less reference, EF in percentage points. A patient whose reference "
    "cannot be measured is left out. A prediction without an LV that can be measured at ED and ES "
    "has no EF: it is counted as failed and takes no part in any figure."
)
BY_VOLUME = "of a patient's two volumes the one with the larger reference LV is ED"
Status = Literal["ok", "failed", "left_out"]


@dataclass(frozen=True)
class FunctionRow:
    """One patient: a row of `cardiac.csv`.

    Attributes:
        patient: Its name.
        method: `biplane discs`, `single-plane discs 2CH`, `single-plane discs 4CH` or
            `summation of slices`; empty where it is left out.
        unit: Of the volumes: `ml`, or `px^3` where the spacing is unknown: then only EF has a
            meaning.
        status: `ok`, `failed` where the prediction has no EF, `left_out` where the reference has
            none.
        edv_reference: End-diastolic volume of the reference.
        edv_prediction: Of the prediction, None where it cannot be measured; likewise below.
        esv_reference: End-systolic volume.
        esv_prediction: Likewise.
        ef_reference: Ejection fraction in percent.
        ef_prediction: Likewise.
        note: Why, and which parts of a mask were not measured; may be empty.
    """

    patient: str
    method: str
    unit: str
    status: Status
    edv_reference: float | None = None
    edv_prediction: float | None = None
    esv_reference: float | None = None
    esv_prediction: float | None = None
    ef_reference: float | None = None
    ef_prediction: float | None = None
    note: str = ""


COLUMNS = tuple(field.name for field in fields(FunctionRow))
_TEXTS = ("patient", "method", "unit", "status", "note")


def write_function(folder: Path, rows: Sequence[FunctionRow], *, lv: str, phases: str) -> str:
    """Writes cardiac.csv, cardiac.json and, for two patients or more, bland_altman.png.

    Args:
        folder: Where to.
        rows: Of all patients.
        lv: Name of the label of the cavity.
        phases: How ED and ES were told.

    Returns:
        The outcome in a sentence.
    """
    write_rows(rows, folder / "cardiac.csv")
    content = _content(rows, lv, phases)
    write_text(folder / "cardiac.json", json.dumps(content, indent=1))
    good = [row for row in rows if row.status == "ok"]
    if len(good) > 1:
        panels = [
            Panel(
                [getattr(row, f"{f}_reference") for row in good],
                [getattr(row, f"{f}_prediction") for row in good],
                NAMES[f],
                "%" if f == "ef" else "ml",
            )
            for f in figures_of(rows)
        ]
        plot_panels(panels, folder / "bland_altman.png")
    return _sentence(content)


def figures_of(rows: Sequence[FunctionRow]) -> tuple[str, ...]:
    """The figures that can be compared between patients: volumes only in ml."""
    return FIGURES if all(row.unit in ("ml", "") for row in rows) else FIGURES[:1]


def policy_of(rows: Sequence[FunctionRow]) -> str:
    """What the figures follow, in words."""
    if len(figures_of(rows)) > 1:
        return POLICY
    text = f"{POLICY} Spacing is unknown, so volumes have no unit and EF alone is compared."
    if any(row.method == "biplane discs" for row in rows):
        text += " The geometric mean of both views' axes stands for the longer one."
    return text


def write_rows(rows: Sequence[FunctionRow], path: Path) -> None:
    """Writes `cardiac.csv`; undefined cells are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = asdict(row).values()
        writer.writerow(
            ["" if v is None else v if isinstance(v, str) else f"{v:.6g}" for v in cells]
        )
    write_text(path, stream.getvalue())


def read_rows(path: Path) -> list[FunctionRow]:
    """Reads what `write_rows` wrote.

    Raises:
        AugmintError: if the columns are not those of `cardiac.csv`.
    """
    return [_row_of(cells) for cells in read_table(path, COLUMNS, "cardiac.csv")]


def _row_of(cells: Mapping[str, str]) -> FunctionRow:
    values: dict[str, Any] = {
        name: text if name in _TEXTS else float(text) if text else None
        for name, text in cells.items()
    }
    return FunctionRow(**values)


def _content(rows: Sequence[FunctionRow], lv: str, phases: str) -> dict[str, Any]:
    """What cardiac.json holds."""
    good = [row for row in rows if row.status == "ok"]
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "label": lv,
        "phases": phases,
        "methods": dict(Counter(row.method for row in rows if row.method)),
        "patients": len(rows),
        "compared": len(good),
        **{s: {r.patient: r.note for r in rows if r.status == s} for s in ("failed", "left_out")},
    }
    able = figures_of(rows)
    for figure in FIGURES:
        pairs = [
            (getattr(r, f"{figure}_reference"), getattr(r, f"{figure}_prediction")) for r in good
        ]
        content[figure] = _agreement(pairs) if figure in able and pairs else None
    return {**content, "policy": policy_of(rows)}


def _agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    reference, prediction = np.array(pairs, float).T
    num = len(pairs)
    found: dict[str, Any] = {"num": num}
    if num > 1:
        found = asdict(bland_altman(reference, prediction))
        if num < LEAST_FOR_LIMITS:
            limits = ("lower", "upper", "lower_interval", "upper_interval")
            found.update(dict.fromkeys(limits))
    why = ""
    if num < 3:
        why = "correlation needs 3 patients"
    elif equal := [
        name
        for name, values in (("references", reference), ("predictions", prediction))
        if np.ptp(values) == 0
    ]:
        why = f"no correlation: all {' and all '.join(equal)} are equal"
    return {
        **found,
        "mae": float(np.abs(prediction - reference).mean()),
        "correlation": None if why else float(np.corrcoef(reference, prediction)[0, 1]),
        "note": "; ".join(text for text in (remark_on_limits(num), why) if text),
    }


def _sentence(content: Mapping[str, Any]) -> str:
    num, ef = content["compared"], content["ef"]
    text = (
        f"cardiac function of {num} patient{'s' * (num != 1)} ({listed(list(content['methods']))})"
    )
    if ef is not None:
        limits = "too few patients for limits of agreement"
        if num >= LEAST_FOR_LIMITS:
            limits = f"limits of agreement {ef['lower']:.1f} to {ef['upper']:.1f}"
            if remark := remark_on_limits(num):
                limits += f" ({remark})"
        if num > 1:
            text += (
                f": EF bias {ef['bias']:+.1f} points, {limits}, mean absolute error {ef['mae']:.1f}"
            )
        else:
            text += f": absolute error of EF {ef['mae']:.1f} points, {limits}"
    if failed := len(content["failed"]):
        text += f"; {failed} without a measurable prediction count as failed"
    if out := len(content["left_out"]):
        text += f"; {out} left out for their reference"
    if content["phases"] == BY_VOLUME:
        text += f"; {BY_VOLUME}"
    return f"{text}; see cardiac.csv"
