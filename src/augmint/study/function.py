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
from augmint.evaluation.statistics import (
    Difference,
    Measurements,
    bootstrap_interval,
    holm,
    paired_difference,
)
from augmint.study.compare import measurements_of
from augmint.study.figures import agreement_plot
from augmint.study.plan import Plan
from augmint.study.results import Place, Table, write_csv
from augmint.study.spec import Study

FUNCTION_METHOD = (
    "Cardiac function: the EF and volumes after each training are compared with the reference by "
    "themselves, one pair for each patient; bias, limits of agreement (bias less and plus 1.96 "
    "standard deviations) and mean absolute error (MAE) are averaged over the trainings of an arm. "
    "In a cross-validation one training is one seed in all folds together. The interval of the "
    "bias, and the interval and p of a difference in MAE, treat draws (seeds, where there is one "
    "draw) and patients as crossed random samples, like all tests here; p, Holm: corrected over "
    "all differences in MAE. The intervals of the limits speak of other patients, not of other "
    "trainings: `all trainings` spans from the lowest lower to the highest upper limit of any. "
    "Those patients count who were measured after every training of an arm. A failed prediction "
    "has no EF, so an arm that fails on hard hearts looks better than it is: read its errors "
    "beside its failures."
)

# A block of a report is (kind, content): a heading, a paragraph, a note, a table or a picture.
Block = tuple[str, Any]
Fits = Mapping[tuple[str, int, int], Sequence[FunctionRow]]  # (arm, draw, seed) -> patients


@dataclass(frozen=True)
class ArmFunction:
    """One figure of one arm at one place.

    Attributes:
        place: Test, size and network.
        arm: Name.
        figure: `ef`, `edv` or `esv`.
        method: How it was measured, in words.
        predictions: Over all trainings.
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


def measure_arms(
    study: Study, plan: Plan, tables: Sequence[Table], folder: Path, done: set[str]
) -> list[ArmFunction]:
    """Cardiac function of every arm wherever its evaluations hold a cardiac.csv.

    As for the scores, a draw and seed counts where every arm has it.

    Args:
        study: Its baseline and null arms.
        plan: Its cells.
        tables: The places.
        folder: The study's folder.
        done: Keys of the finished units.
    """
    found: list[ArmFunction] = []
    for table in tables:
        fits, phases = _read(plan, table.place, folder, done)
        arms = [a for a in study.arms if any(a == arm for arm, _, _ in fits)]
        whole = {(d, s) for _, d, s in fits if all((a, d, s) in fits for a in arms)}
        fits = {key: rows for key, rows in fits.items() if key[1:] in whole}
        if fits:
            found += _place(study, table.place, arms, fits, phases)
    family = [
        i
        for i, one in enumerate(found)
        if one.difference is not None and one.difference.p is not None
        and not study.arm(one.arm).null
    ]  # fmt: skip
    p = [d.p for i in family if (d := found[i].difference) is not None and d.p is not None]
    for i, value in zip(family, holm(p) if p else []):
        found[i] = replace(found[i], p_holm=value)
    return found


def _read(
    plan: Plan, place: Place, folder: Path, done: set[str]
) -> tuple[dict[tuple[str, int, int], list[FunctionRow]], str]:
    """The patients of every fit at a place, and how their phases were told."""
    found, phases = {}, set()
    for cell in plan.cells:
        path = folder / plan.units[cell.unit].folder / "cardiac.csv"
        here = Place(cell.test, cell.size, cell.network) == place
        if here and cell.unit in done and path.exists():
            found[cell.arm, cell.draw, cell.seed] = read_rows(path)
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            phases.add(told["phases"])
    return found, " or ".join(sorted(phases))


def _place(
    study: Study, place: Place, arms: Sequence[str], fits: Fits, phases: str
) -> list[ArmFunction]:
    rows = [row for found in fits.values() for row in found if row.status != "left_out"]
    how = " and ".join(sorted({row.method for row in rows}))
    method = f"{how}; phases: {phases}. {policy_of(rows)}"
    result = []
    for figure in figures_of(rows):
        truth = {row.patient: getattr(row, f"{figure}_reference") for row in rows}
        errors = {arm: _errors(study, arm, fits, figure, tuple(sorted(truth))) for arm in arms}
        baseline = errors.get(study.baseline)
        for arm, error in errors.items():
            status = [r.status for (a, _, _), found in fits.items() if a == arm for r in found]
            failed = status.count("failed")
            one = ArmFunction(place, arm, figure, method, failed + status.count("ok"), failed)
            if error is not None:
                other = None if arm == study.baseline else baseline
                one = _agreement(one, error, np.array([truth[p] for p in error.patients]), other)
            result.append(one)
    return result


def _errors(
    study: Study, arm: str, fits: Fits, figure: str, patients: tuple[str, ...]
) -> Measurements | None:
    """An arm's prediction less reference; None where no patient was measured in every fit."""
    draws, seeds = sorted({d for _, d, _ in fits}), sorted({s for _, _, s in fits})
    errors = np.full((len(draws), len(seeds), len(patients)), np.nan)
    for i, draw in enumerate(draws):
        for j, seed in enumerate(seeds):
            for row in fits.get((arm, draw, seed), ()):
                if row.status == "ok":
                    value = getattr(row, f"{figure}_prediction")
                    error = value - getattr(row, f"{figure}_reference")
                    errors[i, j, patients.index(row.patient)] = error
    return measurements_of(errors, patients, tuple(draws), tuple(seeds), study)


def _agreement(
    one: ArmFunction, error: Measurements, truth: np.ndarray, baseline: Measurements | None
) -> ArmFunction:
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
        difference=None if baseline is None else _difference(error, baseline),
    )


def _difference(error: Measurements, baseline: Measurements) -> Difference | None:
    """In mean absolute error, on the patients that both arms measured; None where there is none."""
    if not np.isfinite(error.figures + baseline.figures).all((0, 1)).any():
        return None
    ours, theirs = (replace(m, figures=np.abs(m.figures)) for m in (error, baseline))
    return paired_difference(ours, theirs)


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
        "upper limit [95 %]", "all trainings", "MAE [95 %]",
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
        d = one.difference
        rows.append([
            one.arm, unit, str(len(one.patients)), f"{one.failed} of {one.predictions}", *cells,
            "" if one.mae is None else _with(one.mae, one.mae_interval),
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
    "mae_difference_low_95", "mae_difference_high_95", "p", "p_holm",
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
    return [
        one.place.test, one.place.size, one.place.network, one.arm, one.figure,
        "points" if one.figure == "ef" else "ml", len(one.patients), one.predictions,
        one.failed, *agreement, one.lowest, one.highest, one.mae,
        *(one.mae_interval or (None, None)), *difference, one.p_holm,
    ]  # fmt: skip
