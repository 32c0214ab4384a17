"""LV volumes and EF of a study's arms: bias, limits of agreement and error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from augmint.evaluation.bland_altman import BlandAltman, bland_altman, bland_altman_of_fits
from augmint.evaluation.crossed import crossed_test
from augmint.evaluation.function import (
    COLUMNS,
    NAMES,
    FunctionRow,
    figures_of,
    policy_of,
    read_rows,
)
from augmint.evaluation.limits_ratio import LimitsRatio, limits_ratio, ratio_in_words
from augmint.evaluation.statistics import (
    Difference,
    Measurements,
    bootstrap_interval,
    holm,
    paired_difference,
)
from augmint.study.compare import left_out, measurements_of
from augmint.study.figures import agreement_plot
from augmint.study.results import Kept, Place, Table, keep_fits, write_csv
from augmint.study.spec import Study
from augmint.study.units import Plan

FUNCTION_METHOD = (
    "Cardiac function: the EF and volumes after each training are compared with the reference by "
    "themselves, one pair for each patient; bias, limits of agreement (bias less and plus 1.96 "
    "standard deviations) and mean absolute error (MAE) are averaged over the trainings of an arm. "
    "In a cross-validation one training is one seed in all folds together. The interval of the "
    "bias, and the interval and p of a difference in MAE, treat draws (seeds, where there is one "
    "draw) and patients as crossed random samples, like all tests here; p, Holm: corrected over "
    "all differences in MAE. The intervals of the limits speak of other patients, not of other "
    "trainings: `all trainings` spans from the lowest lower to the highest upper limit of any. "
    "The interval of the ratio of two arms' limits is a bootstrap of patients, the same ones in "
    "both arms, each with all of its trainings: it, too, speaks of other patients only. "
    "Those patients count who were measured after every training of an arm; arm and baseline are "
    "compared after the trainings that have finished in both. A failed prediction "
    "has no EF, so an arm that fails on hard hearts looks better than it is: read its errors "
    "beside its failures."
)

# A block of a report is (kind, content): a heading, a paragraph, a note, a table or a picture.
Block = tuple[str, Any]


@dataclass(frozen=True)
class ArmFunction:
    """One figure of one arm at one place.

    Attributes:
        place: Test, size and network.
        arm: Name.
        figure: `ef`, `edv` or `esv`.
        method: How it was measured, in words.
        predictions: Over all trainings that count.
        failed: Those among them without EF.
        patients: Who count.
        reference: (patients,).
        measured: (trainings, patients).
        agreement: Mean over the trainings; None with fewer than two patients.
        lowest: Lower limit of the training that has the lowest.
        highest: Upper limit of the training that has the highest.
        mae: Mean absolute error.
        mae_interval: 95 %, over draws, seeds and patients.
        difference: In mean absolute error from the baseline; None for the baseline itself.
        p_holm: Of the difference, corrected.
        ratio: Of the limits' width to the baseline's; None for the baseline itself.
        notes: What missing trainings take from these figures.
    """

    place: Place
    arm: str
    figure: str
    method: str
    predictions: int
    failed: int
    patients: tuple[str, ...] = ()
    reference: np.ndarray | None = None
    measured: np.ndarray | None = None
    agreement: BlandAltman | None = None
    lowest: float | None = None
    highest: float | None = None
    mae: float | None = None
    mae_interval: tuple[float, float] | None = None
    difference: Difference | None = None
    p_holm: float | None = None
    ratio: LimitsRatio | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fits:
    """The patients of every finished fit at a place.

    Attributes:
        place: Where.
        rows: (arm, draw, seed) -> patients.
        phases: How they were told.
        planned: All draws and all seeds.
    """

    place: Place
    rows: Mapping[tuple[str, int, int], Sequence[FunctionRow]]
    phases: str
    planned: tuple[list[int], list[int]]

    def kept(self, *arms: str) -> Kept:
        """The fits that figures of these arms together stand on."""
        finished = {a: [(d, s) for arm, d, s in self.rows if arm == a] for a in arms}
        return keep_fits(*self.planned, finished)


def measure_arms(
    study: Study, plan: Plan, tables: Sequence[Table], folder: Path, done: set[str]
) -> list[ArmFunction]:
    """Cardiac function of every arm wherever its evaluations hold a cardiac.csv.

    As for the scores, arm and baseline are compared on the draws and seeds that both have.

    Args:
        study: Its baseline and null arms.
        plan: Its cells.
        tables: The places.
        folder: The study's folder.
        done: Keys of the finished units.
    """
    found: list[ArmFunction] = []
    for table in tables:
        fits = _read(plan, table.place, folder, done)
        if fits.rows:
            found += _place(study, fits)
    family = [
        i
        for i, one in enumerate(found)
        if one.difference is not None and one.difference.p is not None
        and study.competes(one.arm)
    ]  # fmt: skip
    p = [d.p for i in family if (d := found[i].difference) is not None and d.p is not None]
    for i, value in zip(family, holm(p) if p else []):
        found[i] = replace(found[i], p_holm=value)
    return found


def _read(plan: Plan, place: Place, folder: Path, done: set[str]) -> _Fits:
    found, phases = {}, set()
    cells = [c for c in plan.cells if Place(c.test, c.size, c.network) == place]
    for cell in cells:
        path = folder / plan.units[cell.unit].folder / "cardiac.csv"
        if cell.unit in done and path.exists():
            found[cell.arm, cell.draw, cell.seed] = read_rows(path)
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            phases.add(told["phases"])
    planned = sorted({c.draw for c in cells}), sorted({c.seed for c in cells})
    return _Fits(place, found, " or ".join(sorted(phases)), planned)


def _place(study: Study, fits: _Fits) -> list[ArmFunction]:
    rows = [row for found in fits.rows.values() for row in found if row.status != "left_out"]
    how = " and ".join(sorted({row.method for row in rows}))
    method = f"{how}; phases: {fits.phases}. {policy_of(rows)}"
    result = []
    for figure in figures_of(rows):
        truth = {row.patient: getattr(row, f"{figure}_reference") for row in rows}
        patients = tuple(sorted(truth))
        for arm in [a for a in study.arms if any(a == other for other, _, _ in fits.rows)]:
            own = fits.kept(arm)
            counted = [fits.rows[arm, d, s] for d in own.draws for s in own.seeds]
            status = [row.status for found in counted for row in found]
            failed = status.count("failed")
            one = ArmFunction(
                fits.place, arm, figure, method, failed + status.count("ok"), failed,
                notes=_notes(study, fits, arm),
            )  # fmt: skip
            error = _errors(study, arm, fits, figure, patients, own)
            if error is not None:
                one = _agreement(one, error, np.array([truth[p] for p in patients]))
            if arm != study.baseline:
                pair = fits.kept(arm, study.baseline)
                both = [
                    _errors(study, a, fits, figure, patients, pair) for a in (arm, study.baseline)
                ]
                one = _beside(one, *both)
            result.append(one)
    return result


def _notes(study: Study, fits: _Fits, arm: str) -> tuple[str, ...]:
    """What the figures of an arm lack where trainings are missing."""
    notes = [left_out(study, fits.place, fits.kept(arm), f"the EF and volumes of {arm}")]
    if arm != study.baseline:
        pair, what = fits.kept(arm, study.baseline), f"{arm} less {study.baseline}"
        if pair.draws:
            notes.append(left_out(study, fits.place, pair, what))
        else:
            notes.append(f"{what}: there is no draw and seed in which both have finished.")
    return tuple(filter(None, notes))


def _errors(
    study: Study, arm: str, fits: _Fits, figure: str, patients: tuple[str, ...], kept: Kept
) -> Measurements | None:
    """An arm's prediction less reference; None where no patient was measured in every fit."""
    errors = np.full((len(kept.draws), len(kept.seeds), len(patients)), np.nan)
    for i, draw in enumerate(kept.draws):
        for j, seed in enumerate(kept.seeds):
            for row in fits.rows[arm, draw, seed]:
                if row.status == "ok":
                    value = getattr(row, f"{figure}_prediction")
                    error = value - getattr(row, f"{figure}_reference")
                    errors[i, j, patients.index(row.patient)] = error
    return measurements_of(errors, patients, kept.draws, kept.seeds, study)


def _agreement(one: ArmFunction, error: Measurements, truth: np.ndarray) -> ArmFunction:
    """The figures of an arm from its errors (draws, seeds, patients)."""
    good = np.isfinite(error.figures).all((0, 1))
    errors, reference = error.figures[..., good], truth[good]
    measured = reference + errors.reshape(-1, len(reference))
    agreement, lowest, highest = None, None, None
    if len(reference) > 1:
        agreement = bland_altman_of_fits(reference, measured)
        _, half = crossed_test(errors)
        if half is not None:
            interval = (agreement.bias - half, agreement.bias + half)
            agreement = replace(agreement, bias_interval=interval)
        each = [bland_altman(reference, row) for row in measured]
        lowest, highest = min(b.lower for b in each), max(b.upper for b in each)
    size = np.abs(errors)
    return replace(
        one,
        patients=tuple(p for p, ok in zip(error.patients, good) if ok),
        reference=reference,
        measured=measured,
        agreement=agreement,
        lowest=lowest,
        highest=highest,
        mae=float(size.mean()),
        mae_interval=bootstrap_interval(size, resamples=2000, rng=np.random.default_rng(0)),
    )


def _beside(
    one: ArmFunction, error: Measurements | None, baseline: Measurements | None
) -> ArmFunction:
    """An arm held against the baseline on the patients that both measured, if there are any."""
    if error is None or baseline is None:
        return one
    if not np.isfinite(error.figures + baseline.figures).all((0, 1)).any():
        return one
    ours, theirs = (replace(m, figures=np.abs(m.figures)) for m in (error, baseline))
    return replace(
        one, difference=paired_difference(ours, theirs), ratio=limits_ratio(error, baseline)
    )


def function_blocks(
    found: Sequence[ArmFunction], place: Place, study: Study, title: str, folder: Path
) -> list[Block]:
    """The section of a report on one place; empty where nothing was measured.

    Args:
        found: Of all places.
        place: Which.
        study: Its baseline.
        title: Of the place.
        folder: The study's folder, where the picture goes.
    """
    here = [one for one in found if one.place == place]
    if not here:
        return []
    blocks: list[Block] = [
        ("heading", f"Cardiac function: {title}"),
        ("note", f"LV by {here[0].method}"),
        ("table", _table(here, study)),
        *(
            ("text", ratio_in_words(one.ratio, arm=one.arm, baseline=study.baseline, what="EF"))
            for one in here
            if one.figure == "ef" and one.ratio is not None
        ),
        # The same for each figure of an arm.
        *(("note", line) for line in dict.fromkeys(line for one in here for line in one.notes)),
    ]
    drawn = {
        one.arm: (one.agreement, one.reference, one.measured)
        for one in here
        if one.figure == "ef" and one.agreement and one.reference is not None
        and one.measured is not None
    }  # fmt: skip
    if drawn:
        name = re.sub(r"\W+", "_", f"ef_{place.test}_{place.size}_{place.network}")
        path = folder / "figures" / f"{name}.png"
        agreement_plot(path, drawn, "EF", "%", "percentage points")
        text = (
            "EF of each patient: its mean over the trainings, with a bar from the lowest to the "
            "highest where there are several; lines are bias and limits of agreement, bands their "
            "95 % intervals."
        )
        blocks += [("text", text), ("picture", path)]
    return blocks


def _table(here: Sequence[ArmFunction], study: Study) -> list[list[str]]:
    rows = [[
        "arm", "figure", "patients", "failed", "bias [95 %]", "lower limit [95 %]",
        "upper limit [95 %]", "all trainings",
        f"limits as wide as those of {study.baseline} [95 %]", "patients for both", "MAE [95 %]",
        f"MAE less that of {study.baseline} [95 %]", "p, Holm",
    ]]  # fmt: skip
    for one in here:
        a, cells = one.agreement, [""] * 4
        if a is not None:
            cells = [
                _with(a.bias, a.bias_interval, "+"), _with(a.lower, a.lower_interval),
                _with(a.upper, a.upper_interval), f"{one.lowest:.1f} to {one.highest:.1f}",
            ]  # fmt: skip
        unit = "EF, points" if one.figure == "ef" else f"{NAMES[one.figure]}, ml"
        d, ratio = one.difference, ["", ""]
        if (r := one.ratio) is not None:
            ratio = [f"{r.ratio:.2f}{r.bracket}", f"{r.patients}, {len(r.left_out)} left out"]
        rows.append([
            one.arm, unit, str(len(one.patients)), f"{one.failed} of {one.predictions}", *cells,
            *ratio, "" if one.mae is None else _with(one.mae, one.mae_interval),
            "" if d is None else _with(d.estimate, d.interval, "+"),
            "" if one.p_holm is None else f"{one.p_holm:.3f}" if one.p_holm >= 0.001 else "<0.001",
        ])  # fmt: skip
    return rows


def _with(value: float, interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return f"{value:{sign}.1f}"
    return f"{value:{sign}.1f} [{interval[0]:{sign}.1f}, {interval[1]:{sign}.1f}]"


def write_function(folder: Path, plan: Plan, found: Sequence[ArmFunction], done: set[str]) -> None:
    """Writes cardiac.csv of all evaluations and cardiac_arms.csv, where anything was measured.

    Args:
        folder: The study's folder.
        plan: Its cells.
        found: From `measure_arms`.
        done: Keys of the finished units.
    """
    if not found:
        return
    out: list[list[Any]] = [["test", "size", "draw", "network", "arm", "seed", *COLUMNS]]
    for cell in plan.cells:
        path = folder / plan.units[cell.unit].folder / "cardiac.csv"
        if cell.unit in done and path.exists():
            own = [cell.test, cell.size, cell.draw, cell.network, cell.arm, cell.seed]
            out += [[*own, *(getattr(row, c) for c in COLUMNS)] for row in read_rows(path)]
    write_csv(folder / "cardiac.csv", out)
    write_csv(folder / "cardiac_arms.csv", [list(ARM_COLUMNS), *map(_cells, found)])


ARM_COLUMNS = (
    "test", "size", "network", "arm", "figure", "unit", "patients", "predictions",
    "failed", "bias", "bias_low_95", "bias_high_95", "sd", "lower_limit", "lower_limit_low_95",
    "lower_limit_high_95", "upper_limit", "upper_limit_low_95", "upper_limit_high_95",
    "lowest_limit", "highest_limit", "mae", "mae_low_95", "mae_high_95", "mae_difference",
    "mae_difference_low_95", "mae_difference_high_95", "p", "p_holm", "limits_ratio",
    "limits_ratio_low_95", "limits_ratio_high_95", "limits_ratio_patients",
    "limits_ratio_left_out",
)  # fmt: skip


def _cells(one: ArmFunction) -> list[Any]:
    a, d = one.agreement, one.difference
    agreement: list[Any] = [None] * 10
    if a is not None:
        agreement = [
            a.bias, *a.bias_interval, a.sd, a.lower, *a.lower_interval, a.upper, *a.upper_interval,
        ]  # fmt: skip
    difference: list[Any] = [None] * 4
    if d is not None:
        difference = [d.estimate, *(d.interval or (None, None)), d.p]
    ratio: list[Any] = [None] * 5
    if (r := one.ratio) is not None:
        ratio = [r.ratio, *(r.interval or (None, None)), r.patients, len(r.left_out)]
    return [
        one.place.test, one.place.size, one.place.network, one.arm, one.figure,
        "points" if one.figure == "ef" else "ml", len(one.patients), one.predictions,
        one.failed, *agreement, one.lowest, one.highest, one.mae,
        *(one.mae_interval or (None, None)), *difference, one.p_holm, *ratio,
    ]  # fmt: skip
