"""Anatomical rules on real masks: how many held-out ones pass, and which corrupted ones are caught.

    python benchmarks/validity.py DATA

Limits are learned on the train part of ACDC, CAMUS and Hippocampus (DATA/splits.json) and on drawn
phantoms. Judged are the validation part, the train part in five folds of patients (limits from the
other four), and fits on few patients against the rest of train. Of the valid masks among the
held-out ones, corrupted copies are judged: each kind must be caught. Times are of one thread's
processor time. Writes benchmarks/results/validity.json.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augmint.case import Case
from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.data.pool import slice_position
from augmint.data.splits import folds
from augmint.fit import describe_device, versions
from augmint.quality.validity import (
    Limits,
    Rules,
    fit_limits_to,
    judge,
    judge_case,
    parse_rules,
    rules_for,
)
from results import commit, save

HIPPOCAMPUS = """
name: hippocampus
whole: true
rules:
  - present: {of: [anterior, posterior]}
  - components: {of: [anterior, posterior, anterior+posterior]}
  - solid: {of: anterior+posterior}
  - touching: {of: anterior, with: posterior}
  - area: {of: [anterior, posterior]}
  - ratio: {of: anterior, to: posterior}
"""
FEW = (5, 10, 40)
DRAWS = 3
parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)


def rates(cases: Sequence[Case], labels: Mapping[str, int], rules: Rules, limits: Limits) -> dict:
    """Pass rates of whole cases and, of volumes, of their slices alone."""
    broken: Counter[str] = Counter()
    faults = {}
    for case in cases:
        verdict = judge_case(case, labels, rules, limits)
        broken.update(verdict.quantities)
        if not verdict.ok:
            faults[case.case_id] = str(verdict)
    passed = len(cases) - len(faults)
    found = {"cases": len(cases), "passed": round(passed / len(cases), 4)}
    if limits.stacks:
        alone = [v.ok for case in cases for v in judge_slices(case, labels, rules, limits)]
        found |= {"slices": len(alone), "slices_passed": round(float(np.mean(alone)), 4)}
    return found | {"broken": dict(broken.most_common()), "faults": faults}


def judge_slices(
    case: Case, labels: Mapping[str, int], rules: Rules, limits: Limits
) -> Iterator[Any]:
    """Each slice of a volume, judged without its neighbours."""
    parts = list(case.slices())
    for z, part in enumerate(parts):
        yield judge(
            part.mask.numpy(), labels, rules, limits,
            spacing=part.grid.spacing if part.grid.spacing_known else None,
            slice_position=slice_position(z, len(parts)), annotated=case.annotated,
        )  # fmt: skip


def stray(plane: np.ndarray, labels: Mapping[str, int], limits: Limits) -> np.ndarray:
    """A blob of 3 x 3 of the first class in the corner farthest from the heart."""
    changed = plane.copy()
    y, x = np.argwhere(plane > 0).mean(0) < np.array(plane.shape) / 2
    rows = slice(-5, -2) if y else slice(2, 5)
    columns = slice(-5, -2) if x else slice(2, 5)
    changed[rows, columns] = labels["LV"]
    return changed


def open_ring(plane: np.ndarray, labels: Mapping[str, int], limits: Limits) -> np.ndarray:
    """A gap of 30 degrees in the myocardium, on the side away from the other chamber."""
    other = plane == labels.get("LA", labels.get("RV"))
    centre = np.argwhere(plane == labels["LV"]).mean(0)
    away = centre - np.argwhere(other).mean(0) if other.any() else np.array([1.0, 0.0])
    rows, columns = np.indices(plane.shape)
    angle = np.arctan2(rows - centre[0], columns - centre[1]) - np.arctan2(*away)
    near = np.abs((angle + np.pi) % (2 * np.pi) - np.pi) < np.deg2rad(15)
    return np.where(near & (plane == labels["MYO"]), 0, plane)


def hole(plane: np.ndarray, labels: Mapping[str, int], limits: Limits) -> np.ndarray:
    """One missing pixel in the depth of the cavity."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(plane == labels["LV"])
    changed = plane.copy()
    changed[np.unravel_index(depth.argmax(), plane.shape)] = 0
    return changed


def swapped(plane: np.ndarray, labels: Mapping[str, int], limits: Limits) -> np.ndarray:
    """LV and the other chamber under each other's name."""
    other = labels.get("LA", labels.get("RV", 0))
    table = np.arange(max(labels.values()) + 1)
    table[[labels["LV"], other]] = other, labels["LV"]
    return table[plane]


def shifted(plane: np.ndarray, labels: Mapping[str, int], limits: Limits) -> np.ndarray:
    """The LV moved by its radius, background where it was."""
    cavity = plane == labels["LV"]
    step = max(2, round(float(np.sqrt(cavity.sum() / np.pi))))
    changed = np.where(cavity, 0, plane)
    changed[np.roll(cavity, step, 1)] = labels["LV"]
    return changed


def enlarged(plane: np.ndarray, labels: Mapping[str, int], limits: Limits) -> np.ndarray:
    """The whole drawing scaled until the LV has twice the area allowed."""
    from scipy.ndimage import zoom

    factor = np.sqrt(2.1 * limits.bounds["LV area"].high / (plane == labels["LV"]).sum())
    y, x = np.nonzero(plane)
    part = plane[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return np.pad(zoom(part, factor, order=0, grid_mode=True, mode="nearest"), 2)


PLANES: Mapping[str, tuple[Callable[..., np.ndarray], str]] = {
    "stray blob of 9 px": (stray, "LV components"),
    "ring open by 30 degrees": (open_ring, "MYO open around LV"),
    "hole of 1 px in the LV": (hole, "LV holes"),
    "LV swapped with RV or LA": (swapped, "MYO open around LV"),
    "LV moved by its radius": (shifted, "MYO open around LV"),
    "LV area twice the largest": (enlarged, "LV area"),
}


def missing_slice(stack: np.ndarray, z: int, labels: Mapping[str, int]) -> np.ndarray:
    changed = stack.copy()
    changed[..., z][changed[..., z] == labels["LV"]] = labels["MYO"]
    return changed


def jumped_slice(stack: np.ndarray, z: int, labels: Mapping[str, int]) -> np.ndarray:
    """A slice moved by 1.5 times the radius of the largest cavity."""
    changed = stack.copy()
    radius = np.sqrt((stack == labels["LV"]).sum((0, 1)).max() / np.pi)
    changed[..., z] = np.roll(stack[..., z], round(1.5 * float(radius)), 0)
    return changed


def shrunk_slice(stack: np.ndarray, z: int, labels: Mapping[str, int]) -> np.ndarray:
    """In a slice the cavity shrinks to a tenth of its area, myocardium where it was."""
    from scipy.ndimage import distance_transform_edt

    changed = stack.copy()
    cavity = stack[..., z] == labels["LV"]
    depth = distance_transform_edt(cavity)
    kept = depth > np.quantile(depth[cavity], 0.9)
    changed[..., z][cavity & ~kept] = labels["MYO"]
    return changed


STACKS = {
    "LV missing in the middle slice": (missing_slice, "LV gaps"),
    "middle slice moved by 1.5 radii": (jumped_slice, "LV shift"),
    "LV of the middle slice a tenth": (shrunk_slice, "LV area jump"),
}


def corrupted(
    cases: Sequence[Case], labels: Mapping[str, int], rules: Rules, limits: Limits
) -> dict[str, dict[str, float]]:
    """Of valid masks that hold every class, the share of corrupted copies that is caught."""
    caught: dict[str, list[tuple[bool, bool]]] = {}
    for case in cases:
        if not judge_case(case, labels, rules, limits).ok:
            continue
        mask = case.mask.numpy()
        every = [i for i in labels.values() if i > 0]
        known = {"spacing": case.grid.spacing if case.grid.spacing_known else None}
        full = [
            z
            for z in range(mask.shape[-1])
            if case.dims == 3 and np.isin(every, mask[..., z]).all()
        ]
        if case.dims == 3 and not full:
            continue
        for name, (change, quantity) in PLANES.items():
            where: dict[str, Any] = {"spacing": known["spacing"] and known["spacing"][:2]}
            plane = mask
            if case.dims == 3:
                z = full[len(full) // 2]
                plane, where["slice_position"] = mask[..., z], slice_position(z, mask.shape[-1])
            verdict = judge(change(plane, labels, limits), labels, rules, limits, **where)
            caught.setdefault(name, []).append((not verdict.ok, quantity in verdict.quantities))
        for name, (alter, quantity) in STACKS.items() if case.dims == 3 else ():
            verdict = judge(
                alter(mask, full[len(full) // 2], labels), labels, rules, limits, **known
            )
            caught.setdefault(name, []).append((not verdict.ok, quantity in verdict.quantities))
    return {
        name: {
            "masks": len(rows),
            "caught": round(float(np.mean([any_rule for any_rule, _ in rows])), 4),
            "by_its_rule": round(float(np.mean([own for _, own in rows])), 4),
        }
        for name, rows in caught.items()
    }


def folded(cases: Sequence[Case], labels: Mapping[str, int], rules: Rules) -> dict:
    """Pass rates of five folds of patients, each judged by limits from the other four."""
    parts = []
    for fold in folds(sorted({c.patient_id for c in cases}), 5, 0):
        held = set(fold.validation)
        limits = fit_limits_to((c for c in cases if c.patient_id not in held), labels, rules)
        parts.append(rates([c for c in cases if c.patient_id in held], labels, rules, limits))
    return pooled(parts)


def few(cases: Sequence[Case], labels: Mapping[str, int], rules: Rules) -> dict[str, dict]:
    """Pass rates of the other patients under limits from few."""
    patients = sorted({c.patient_id for c in cases})
    found = {}
    for number in (n for n in FEW if n < len(patients)):
        parts = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(patients))
            chosen = {patients[i] for i in order[:number]}
            limits = fit_limits_to((c for c in cases if c.patient_id in chosen), labels, rules)
            others = [c for c in cases if c.patient_id not in chosen]
            parts.append(rates(others[:: max(1, len(others) // 200)], labels, rules, limits))
        found[f"{number} patients"] = pooled(parts) | {"faults": {}}
    return found


def pooled(parts: Sequence[dict]) -> dict:
    """Several pass rates as one, each weighted by its cases."""
    total: dict[str, Any] = {}
    for count, share in (("cases", "passed"), ("slices", "slices_passed")):
        if count in parts[0]:
            number = sum(p[count] for p in parts)
            passed = sum(p[share] * p[count] for p in parts)
            total |= {count: number, share: round(passed / number, 4)}
    broken = sum((Counter(p["broken"]) for p in parts), Counter())
    faults = {case: words for p in parts for case, words in p["faults"].items()}
    return total | {"broken": dict(broken.most_common()), "faults": faults}


def judging_time(
    cases: Sequence[Case], labels: Mapping[str, int], rules: Rules, limits: Limits
) -> float | None:
    """Mean milliseconds for the centred 128 x 128 of slices; None for whole bodies."""
    if rules.whole:
        return None
    planes = []
    for case in cases[:20]:
        for part in case.slices():
            plane = part.mask.numpy()
            y, x = (max(0, (n - 128) // 2) for n in plane.shape)
            planes.append((plane[y : y + 128, x : x + 128], part.grid))
    start = time.process_time()
    for plane, grid in planes:
        known = grid.spacing if grid.spacing_known else None
        judge(plane, labels, rules, limits, spacing=known, slice_position=0.0)
    return round(1000 * (time.process_time() - start) / len(planes), 2)


def study(
    train: Sequence[Case], held: Sequence[Case], labels: Mapping[str, int], rules: Rules
) -> dict:
    start = time.process_time()
    limits = fit_limits_to(train, labels, rules)
    planes = sum(c.grid.shape[c.grid.slice_axis] if c.dims == 3 else 1 for c in train)
    seconds = time.process_time() - start
    result = {
        "rules": rules.name,
        "train": rates(train, labels, rules, limits),
        "held_out": rates(held, labels, rules, limits),
        "train_in_five_folds": folded(train, labels, rules),
        "limits_from_few": few(train, labels, rules),
        "milliseconds_to_fit_a_slice": round(1000 * seconds / planes, 2),
        "milliseconds_to_judge_128_x_128": judging_time(train, labels, rules, limits),
        "limits": limits.to_json(),
    }
    if "LV" in labels:
        result["corrupted"] = corrupted(held, labels, rules, limits)
    return result


def show(name: str, result: dict) -> None:
    print(
        f"\n{name}: {result['rules']}, {result['milliseconds_to_judge_128_x_128']} ms for 128 x 128"
    )
    for part in ("train", "held_out", "train_in_five_folds"):
        row = dict(result[part])
        faults = row.pop("faults")
        print(f"  {part}: {row}")
        print("".join(f"    {case}: {words}\n" for case, words in faults.items()), end="")
    for number, row in result["limits_from_few"].items():
        print(f"  limits from {number}: {row}")
    for kind, row in result.get("corrupted", {}).items():
        print(f"  {kind}: {row}")


def bare(case: Case) -> Case:
    """Without its pixels, which nobody reads here."""
    return replace(case, image=torch.empty(0, *case.grid.shape))


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = json.loads((args.data / "splits.json").read_text())
    found = {}
    for name in ("Dataset027_ACDC", "Dataset050_CAMUS", "Dataset004_Hippocampus"):
        dataset = open_dataset(args.data / name)
        rules = rules_for(dataset.labels) or parse_rules(HIPPOCAMPUS, "hippocampus")
        parts = [
            [bare(case) for case in dataset.select(patients=splits[name][part])]
            for part in ("train", "validation")
        ]
        found[name] = study(*parts, dataset.labels, rules)
        show(name, found[name])
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cine-mr", "apical-ultrasound"):
            drawn = []
            for vendor in ("A", "B"):
                out = make_phantoms(kind, out=Path(folder) / f"{kind}{vendor}", vendor=vendor)
                dataset = open_dataset(out)
                drawn.append([bare(case) for case in dataset])
            rules = rules_for(dataset.labels)
            assert rules is not None
            found[f"phantoms {kind}"] = study(*drawn, dataset.labels, rules)
            show(f"phantoms {kind}", found[f"phantoms {kind}"])
    save("validity", {
        "what": "masks that pass the anatomical rules of their labels, limits learned on train; "
        "phantoms: learned on vendor A, held out is vendor B",
        "datasets": found,
        "device": describe_device(torch.device("cpu")), "commit": commit(), "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
