"""Part 5 of an audit: are synthetic anatomies spread like real ones, and are they new?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augmint.audit.intervals import difference
from augmint.audit.material import Group, Material, Planes, evenly
from augmint.case import Case
from augmint.data.layout import listed
from augmint.quality.fidelity import halves
from augmint.quality.validity_measures import Item, measure
from augmint.quality.validity_rules import Rules, parse_rules

SPLITS = 100
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Pixels along a side at which masks are compared, and how many masks of either side.
SIDE, MOST = 96, 1500
HEART = ("LV", "MYO", "RV")
WALL = "name: wall\nrules:\n  - wall: {of: MYO, around: LV}\n"
# Quantity to its values and the patient of each.
Values = dict[str, tuple[list[float], list[str]]]


def measure_shapes(material: Material, folder: Path, *, seed: int) -> dict[str, Any]:
    """Sizes and distances of accepted synthetic masks and of real ones; writes sheets/shapes.png.

    Where no mask is accepted, of rejected ones. Real ones are all, seen or not: this asks about
    anatomy, not about memory.
    """
    labels = {n: i for n, i in material.facts.labels.items() if i in _annotated(material)}
    made = sizes_of(material.kept, labels, material.by_slice)
    real = sizes_of(material.real, labels, material.by_slice)
    found: dict[str, Any] = {}
    for name, (values, patients) in real.items():
        theirs, sources = made.get(name, ([], []))
        if len(values) > 1 and len(theirs) > 1:
            found[name] = _compared(values, patients, theirs, sources, seed)
    near = nearest_masks(material, seed)
    draw_shapes(folder / "sheets" / "shapes.png", real, made, near)
    absent = [name for name in real if name not in found]
    result: dict[str, Any] = {"quantities": found, "nearest": _near_told(near, seed)}
    if absent:
        result["missing"] = f"synthetic masks never have {listed(absent, 10)}"
    return result


def _annotated(material: Material) -> set[int]:
    return {material.facts.labels[n] for n in material.facts.annotated}


def sizes_of(group: Group, labels: Mapping[str, int], by_slice: bool = False) -> Values:
    """Areas of slices, volumes of cases and, of hearts, wall and distance between ventricles."""
    found: Values = {}
    heart = all(name in labels for name in HEART[:2])
    rules = parse_rules(WALL, "wall") if heart else None
    for case in group.cases(by_slice=by_slice):
        for name, value in _sizes(case, labels, rules):
            values, patients = found.setdefault(name, ([], []))
            values.append(value)
            patients.append(case.patient_id)
    return found


def _sizes(
    case: Case, labels: Mapping[str, int], rules: Rules | None
) -> Iterator[tuple[str, float]]:
    assert case.mask is not None
    known, mask = case.grid.spacing_known, case.mask.numpy()
    cell = float(np.prod(case.grid.spacing)) if known else 1.0
    if case.dims == 3:
        for name, index in labels.items():
            size = float((mask == index).sum()) * cell
            if size:
                yield f"{name} volume ({'ml' if known else 'voxels'})", size / (1e3 if known else 1)
    for plane in case.slices():
        yield from _plane_sizes(plane, labels)
    if rules is not None:
        spacing = case.grid.spacing if known else None
        for m in measure(Item(mask, spacing), rules, dict(labels)):
            yield f"MYO wall where thin ({'mm' if known else 'px'})", m.value


def _plane_sizes(plane: Case, labels: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    from scipy.ndimage import distance_transform_edt

    assert plane.mask is not None
    mask, known = plane.mask.numpy(), plane.grid.spacing_known
    spacing = plane.grid.spacing if known else (1.0, 1.0)
    for name, index in labels.items():
        count = int((mask == index).sum())
        if count:
            yield f"{name} area ({'mm2' if known else 'px'})", count * spacing[0] * spacing[1]
    if "LV" in labels and "RV" in labels:
        left, right = mask == labels["LV"], mask == labels["RV"]
        if left.any() and right.any():
            away = distance_transform_edt(~right, sampling=spacing)
            yield f"LV-RV distance ({'mm' if known else 'px'})", float(away[left].min())


def _compared(
    real: Sequence[float],
    patients: Sequence[str],
    made: Sequence[float],
    sources: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Kolmogorov-Smirnov of synthetic against real, beside that of halves of the real patients."""
    a, b = np.asarray(real), np.asarray(made)
    told: dict[str, Any] = {
        "ks": ks(a, b), "real": _spread(a), "synthetic": _spread(b),
        "difference_of_means": difference(made, sources, real, patients, seed=seed),
    }  # fmt: skip
    if len(set(patients)) >= 4:
        of = np.asarray(patients)
        apart = [
            ks(a[np.isin(of, one)], a[np.isin(of, two)])
            for one, two in halves(patients, SPLITS, seed)
        ]
        told["ks_of_real_halves"] = {
            "median": float(np.median(apart)), "p95": float(np.quantile(apart, 0.95)),
        }  # fmt: skip
    return told


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance between two empirical distributions, 0 to 1."""
    both = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _spread(values: np.ndarray) -> dict[str, float]:
    found = {f"p{round(100 * q)}": float(np.quantile(values, q)) for q in QUANTILES}
    return {"count": len(values), **found}


def nearest_masks(material: Material, seed: int) -> dict[str, tuple[np.ndarray, list[str]]]:
    """For each mask the Dice to the nearest mask of a patient that the generator saw.

    Returns:
        `synthetic`; where sources are known `synthetic, other patients` (than the source); and
        `real`: of held-out patients, or where there is none of seen ones to other seen ones. Each
        with the patient of every value.
    """
    train = _labelled(material.seen)
    made, held = _labelled(material.kept), _labelled(material.held)
    found = {"synthetic": (best_dice(made, train, material), list(made.patients))}
    if set(made.owners) & set(train.patients):
        others = best_dice(made, train, material, apart=True)
        found["synthetic, other patients"] = others, list(made.patients)
    real = held if len(held) else train
    if len(held) or len(set(train.patients)) > 1:
        found["real"] = best_dice(real, train, material, apart=not len(held)), list(real.patients)
    return {
        name: (values[np.isfinite(values)], [p for p, v in zip(of, values) if np.isfinite(v)])
        for name, (values, of) in found.items()
        if np.isfinite(values).any()
    }


def _labelled(group: Group) -> Planes:
    planes = group.planes()
    shown = np.flatnonzero((planes.masks > 0).flatten(1).any(1).numpy())
    return planes.take(shown[evenly(len(shown), MOST)] if len(shown) else [])


def best_dice(
    queries: Planes, train: Planes, material: Material, *, apart: bool = False
) -> np.ndarray:
    """(N) Dice of all classes together to the nearest training mask; NaN where there is none.

    `apart` leaves out training masks of the query's owner.
    """
    if not len(queries) or not len(train):
        return np.full(len(queries), np.nan)
    classes = [i for i in material.facts.labels.values() if i]
    two = _one_hot(train.masks, classes)
    sizes, names = two.sum(1), np.array(train.patients)
    best = []
    for start in range(0, len(queries), 64):
        one = _one_hot(queries.masks[start : start + 64], classes)
        dice = 2 * one @ two.T / (one.sum(1, keepdim=True) + sizes).clamp(min=1)
        if apart:
            mine = np.array(queries.owners[start : start + 64])
            dice[torch.from_numpy(mine[:, None] == names[None])] = -1
        best.append(dice.amax(1))
    values = torch.cat(best).double().numpy()
    return np.where(values < 0, np.nan, values)


def _one_hot(masks: Tensor, classes: Sequence[int]) -> Tensor:
    """(N, classes * pixels) at SIDE pixels or fewer."""
    share = torch.stack([(masks == i).float() for i in classes], 1)
    factor = max(1, -(-max(masks.shape[1:]) // SIDE))
    return F.avg_pool2d(share, factor, ceil_mode=True).flatten(1)


def _near_told(near: Mapping[str, tuple[np.ndarray, list[str]]], seed: int) -> dict[str, Any]:
    told: dict[str, Any] = {name: _spread(values) for name, (values, _) in near.items()}
    if "real" in near:
        for name in ("synthetic", "synthetic, other patients"):
            if name in near:
                told[f"{name}, less real"] = difference(
                    near[name][0].tolist(), near[name][1], near["real"][0].tolist(),
                    near["real"][1], seed=seed,
                )  # fmt: skip
    return told


def draw_shapes(
    path: Path, real: Values, made: Values, near: Mapping[str, tuple[np.ndarray, list[str]]]
) -> None:
    """Distribution functions of every quantity, real and synthetic, and of the nearest Dice."""
    from matplotlib.figure import Figure

    panels = [name for name in real if name in made]
    count = len(panels) + bool(near)
    rows = max(1, -(-count // 4))
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    places = figure.subplots(rows, 4, squeeze=False).flat
    for axes, name in zip(places, panels):
        _steps(axes, np.asarray(real[name][0]), "real", "#555555", "-")
        _steps(axes, np.asarray(made[name][0]), "synthetic", "#d55e00", "-")
        axes.set_xlabel(name, fontsize=9)
    styles = {"real": ("#555555", "-"), "synthetic": ("#d55e00", "-")}
    for k, axes in enumerate(figure.axes[len(panels) :]):
        axes.set_axis_on() if k == 0 and near else axes.set_axis_off()
        for name, (values, _) in near.items() if k == 0 else ():
            _steps(axes, values, name, *styles.get(name, ("#d55e00", ":")))
        if k == 0 and near:
            axes.set_xlabel("Dice to the nearest training mask", fontsize=9)
            axes.legend(fontsize=6.5, frameon=False, loc="upper left")
    if panels:
        figure.axes[0].legend(fontsize=8, frameon=False)
    for row in range(rows):
        figure.axes[4 * row].set_ylabel("share below", fontsize=9)
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("writing." + path.name)
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)


def _steps(axes: Any, values: np.ndarray, name: str, colour: str, line: str) -> None:
    axes.plot(
        np.sort(values), np.arange(1, len(values) + 1) / len(values), line, color=colour,
        label=f"{name} ({len(values)})", lw=1.5,
    )  # fmt: skip
