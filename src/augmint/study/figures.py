"""The pictures of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from augmint.evaluation.bland_altman import BlandAltman, draw_bland_altman
from augmint.study.compare import Comparisons
from augmint.study.parts import open_part
from augmint.study.results import Table
from augmint.study.spec import Study
from augmint.study.units import Plan

BLUE, GREY, ORANGE = "#0072b2", "#888888", "#d55e00"
ARM_COLOURS = ("#888888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
WORST = 6


def forest_plot(path: Path, found: Comparisons, metric: str, label: str) -> bool:
    """Differences with their intervals, one line for each arm at each place.

    Returns:
        Whether there was anything to draw.
    """
    rows = [c for c in found.rows if c.metric == metric and c.label == label]
    if not rows:
        return False
    figure, axes = _axes(8, 1.2 + 0.32 * len(rows))
    for y, c in enumerate(reversed(rows)):
        colour = BLUE if c.low > 0 or c.high < 0 else GREY
        axes.plot([c.low, c.high], [y, y], color=colour, lw=2)
        axes.plot(c.difference, y, "s", color=colour, ms=6)
    names = [f"{c.place.test}, {c.place.size} p., {c.place.network}: {c.arm}" for c in rows]
    axes.set_yticks(range(len(rows)), names[::-1])
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(f"difference in {metric} from {rows[0].baseline}, 95 % interval")
    _save(figure, path)
    return True


def paired_plot(path: Path, table: Table, baseline: str, metric: str, label: str) -> bool:
    """Each patient's figure under the baseline and under each arm, draws and seeds averaged.

    Returns:
        Whether there was anything to draw.
    """
    figures = table.figures.get((metric, label), {})
    arms = [a for a in figures if a != baseline]
    if baseline not in figures or not arms:
        return False
    figure, axes = _axes(1.6 + 1.7 * len(arms), 4.2)
    for x, arm in enumerate(arms):
        kept = table.kept(arm, baseline)
        pair = np.stack([_mean_over_fits(kept.of(figures[a])) for a in (baseline, arm)])
        pair = pair[:, np.isfinite(pair).all(0)]
        for one, two in pair.T:
            colour = BLUE if two >= one else ORANGE
            axes.plot([x - 0.3, x + 0.3], [one, two], color=colour, lw=0.9, alpha=0.7)
        if pair.size:
            axes.plot([x - 0.3, x + 0.3], pair.mean(1), color="black", lw=2.5, marker="o")
    axes.set_xticks(range(len(arms)), [f"{baseline} | {arm}" for arm in arms], rotation=12)
    axes.set_ylabel(f"{metric}, {label}, per patient")
    _save(figure, path)
    return True


def learning_curve(path: Path, tables: Sequence[Table], test: str, metric: str, label: str) -> bool:
    """Means over the number of training patients, with the range over draws and seeds.

    Returns:
        Whether there were two sizes or more.
    """
    chosen = [t for t in tables if t.place.test == test]
    if len({t.place.size for t in chosen}) < 2:
        return False
    figure, axes = _axes(6.5, 4.2)
    lines: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    for t in sorted(chosen, key=lambda t: t.place.size):
        for arm, values in t.figures.get((metric, label), {}).items():
            own = _mean_over_patients(t.kept(arm).of(values))
            if own.size:
                lines.setdefault((t.place.network, arm), []).append((t.place.size, own))
    for k, ((network, arm), points) in enumerate(lines.items()):
        sizes = [size for size, _ in points]
        colour = ARM_COLOURS[k % len(ARM_COLOURS)]
        axes.plot(sizes, [v.mean() for _, v in points], "o-", color=colour,
                  label=f"{arm}, {network}")  # fmt: skip
        axes.fill_between(sizes, [v.min() for _, v in points], [v.max() for _, v in points],
                          color=colour, alpha=0.12)  # fmt: skip
    axes.set_xscale("log")
    sizes = sorted({t.place.size for t in chosen})
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training patients")
    axes.set_ylabel(f"{metric}, {label}")
    axes.legend(fontsize=8)
    _save(figure, path)
    return True


def agreement_plot(
    path: Path,
    drawn: Mapping[str, tuple[BlandAltman, np.ndarray, np.ndarray]],
    quantity: str,
    unit: str,
    between: str,
) -> None:
    """Bland-Altman, one panel for each arm: a point per patient, a bar over its trainings.

    Args:
        path: The PNG to write.
        drawn: Arm -> its lines, reference (patients,) and measured (trainings, patients).
        quantity: What is measured.
        unit: Of the values.
        between: Unit of the differences.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(drawn), 4)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()
    panels = []
    for part, (arm, (found, reference, measured)) in zip(parts, drawn.items()):
        axes = part.subplots()
        apart = measured - reference
        spread = np.stack([apart.min(0), apart.max(0)]) if len(measured) > 1 else None
        across = (reference + measured.mean(0)) / 2
        draw_bland_altman(axes, found, across, apart.mean(0), spread=spread)
        axes.set_title(f"{arm}: {found.num} patients", fontsize=9)
        axes.set_xlabel(f"mean of reference and prediction, {quantity} ({unit})")
        axes.set_ylabel(f"prediction - reference ({between})")
        part.legend(fontsize=8, loc="outside lower center", frameon=False)
        panels.append(axes)
    for limits, setter in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        ends = np.array([getattr(axes, limits)() for axes in panels])
        for axes in panels:
            getattr(axes, setter)(ends[:, 0].min(), ends[:, 1].max())
    _save(figure, path)


def failure_gallery(path: Path, folder: Path, study: Study, plan: Plan, done: set[str]) -> bool:
    """The baseline's worst cases on the primary test: reference, then every arm's prediction.

    Drawn for the smallest size, first network, and first draw and seed that the baseline has.

    Returns:
        Whether there was anything to draw.
    """
    from dataclasses import replace

    from augmint.data.images import read_mask
    from augmint.evaluation.score import per_patient, read_scores
    from augmint.report import plane_of, sheet, tile

    cells = [
        c
        for c in plan.cells
        if c.test == study.endpoint.test and c.network == study.networks[0] and c.unit in done
    ]
    fits = [(c.size, c.draw, c.seed) for c in cells if c.arm == study.baseline]
    if not fits:
        return False
    units = {c.arm: plan.units[c.unit] for c in cells if (c.size, c.draw, c.seed) == min(fits)}
    unit = units[study.baseline]
    rows = read_scores(folder / unit.folder / "scores.csv")
    by_case: dict[str, list[Any]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(replace(row, patient=row.case))
    dice = {
        case: value
        for (case, label), value in per_patient(
            [r for found in by_case.values() for r in found], "dice"
        ).items()
        if label == "mean"
    }
    worst = sorted(dice, key=lambda case: dice[case])[:WORST]
    dataset = open_part(unit.arguments)
    items = {i.case_id: i for i in dataset.items}
    tiles, names = [], []
    for name in worst:
        case = dataset.load(items[name])
        image, mask = plane_of(case)
        line: list[np.ndarray | None] = [tile(image, None), tile(image, mask)]
        for arm in units:
            found = folder / units[arm].folder / "predictions"
            file = next(p for p in found.iterdir() if p.name.startswith(f"{name}."))
            predicted = replace(case, mask=_as_mask(read_mask(file)))
            line.append(tile(image, _same_plane(case, predicted)))
        tiles.append(line)
        names.append(f"{name}\nDice {dice[name]:.3f}")
    columns = ["image", "reference", *units]
    sheet(path, tiles, columns=columns, names=names, labels=dataset.labels)
    return bool(tiles)


def _as_mask(read: Any) -> Any:
    import torch

    stored = read[0] if isinstance(read, tuple) else read
    return torch.as_tensor(np.asarray(stored)).long()


def _same_plane(case: Any, predicted: Any) -> np.ndarray:
    """The prediction in the plane that `plane_of` shows of the reference."""
    from augmint.report import shown_slice

    if case.dims == 2:
        return np.asarray(predicted.mask)
    return np.asarray(predicted.mask.select(case.grid.slice_axis, shown_slice(case))).T


def _mean_over_fits(values: np.ndarray) -> np.ndarray:
    """(draws, seeds, patients) to (patients,); undefined ones left out."""
    defined = np.isfinite(values).sum((0, 1))
    return np.where(defined > 0, np.nansum(values, (0, 1)) / np.maximum(defined, 1), np.nan)


def _mean_over_patients(values: np.ndarray) -> np.ndarray:
    """(draws, seeds, patients) to (fits,); fits without any defined figure left out."""
    fits = values.reshape(-1, values.shape[-1])
    return np.array([fit[np.isfinite(fit)].mean() for fit in fits if np.isfinite(fit).any()])


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("writing." + path.name)
    figure.savefig(temporary, dpi=130)
    temporary.replace(path)
