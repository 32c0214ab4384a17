"""Part 1 of an audit: how many synthetic masks obey the anatomical rules, beside real ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from augmint.audit.intervals import share, share_difference
from augmint.audit.material import Group, Material, case_of, evenly
from augmint.data.layout import listed
from augmint.data.splits import folds
from augmint.quality.validity import Limits, Rules, Validity, fit_limits_to, judge_case
from augmint.report import sheet, tile

# Held-out patients that say something alone; with fewer the others speak in folds.
LEAST_HELD = 5
FOLDS = 5
SHOWN = 8
Verdicts = list[tuple[str, str, Validity]]


def measure_validity(
    material: Material, rules: Rules | None, folder: Path, *, seed: int
) -> dict[str, Any]:
    """Judge every synthetic mask, and real ones by the same limits; writes sheets/invalid.png.

    Args:
        material: Everything on one grid.
        rules: See `augmint.quality.validity_rules.choose_rules`.
        folder: Gets the sheet.
        seed: Of bootstrap and folds.
    """
    parties, labels = material.parties, material.facts.labels
    if rules is None:
        names = listed([n for n, i in labels.items() if i], 20)
        return {"missing": f"no rules are built in for the labels {names}; give some with --rules"}
    alone = material.by_slice
    limits = fit_limits_to(material.seen.cases(by_slice=alone), labels, rules)
    patients = material.seen.patients
    held = len(parties.held) >= LEAST_HELD
    if held or len(patients) < 2:
        made, real = (_judged(g, material, rules, [limits], {}) for g in (
            material.made, material.held.of(patients=parties.held if held else ()),
        ))  # fmt: skip
    else:
        taught, fold_of = _by_fold(material, rules, seed)
        made, real = (
            _judged(group, material, rules, taught, fold_of)
            for group in (material.made, material.seen)
        )
    kept = [v for v in made if case_of(v[0]) in parties.accepted]
    _sheet(folder / "sheets" / "invalid.png", material, made)
    told, beside = _told(made, seed), _told(real, seed) if real else None
    # By folds no real mask helped to set its own limits; a drawn one may repeat any that did.
    favoured = not held and bool(material.made.unowned)
    return {
        "rules": rules.name, "unit": "slice" if alone else "case",
        "limits_from": {"patients": len(parties.seen), "masks": limits.masks},
        "synthetic": told, "accepted": _told(kept, seed) if kept else None,
        "real": beside,
        "real_are": "held-out" if held else "out of fold",
        "synthetic_favoured": favoured,
        "difference": share_difference(told, beside) if beside and not favoured else None,
        "limits": {name: asdict(bound) for name, bound in limits.bounds.items()},
        "invalid": [{"case": n, "why": str(v)} for n, _, v in made if not v.ok],
    }  # fmt: skip


def _judged(
    group: Group,
    material: Material,
    rules: Rules,
    limits: Sequence[Limits],
    fold_of: Mapping[str, int],
) -> Verdicts:
    """Each case by the limits of its patient's fold; cases of nobody take turns."""
    labels, turn = material.facts.labels, {name: k for k, name in enumerate(group.names)}
    found: Verdicts = []
    for case in group.cases(by_slice=material.by_slice):
        name = case_of(case.case_id)
        fold = fold_of.get(case.patient_id, turn[name] % len(limits))
        waived = group.waived.get(name, ())
        verdict = judge_case(case, labels, rules, limits[fold], waive=waived)
        found.append((case.case_id, case.patient_id, verdict))
    return found


def _by_fold(material: Material, rules: Rules, seed: int) -> tuple[list[Limits], dict[str, int]]:
    """Limits that each fold's patients had no part in, and the fold of every patient seen."""
    group, labels = material.seen, material.facts.labels
    parts = folds(group.patients, min(FOLDS, len(group.patients)), seed)
    taught = [
        fit_limits_to(group.of(patients=set(p.train)).cases(by_slice=material.by_slice), labels,
                      rules)
        for p in parts
    ]  # fmt: skip
    return taught, {p: k for k, part in enumerate(parts) for p in part.validation}


def _told(verdicts: Verdicts, seed: int) -> dict[str, Any]:
    broken: Counter[str] = Counter()
    for *_, verdict in verdicts:
        broken.update(set(verdict.quantities))
    shares = share([v.ok for *_, v in verdicts], [p for _, p, _ in verdicts], seed=seed)
    return {**shares, "broken": dict(broken.most_common())}


def _sheet(path: Path, material: Material, verdicts: Verdicts) -> None:
    """Invalid masks, each at the slice that its first broken rule names."""
    wrong = [v for v in verdicts if not v[2].ok]
    group = material.made
    names = {name: i for i, name in enumerate(group.pool.case_ids)}
    rows, titles = [], []
    for k in evenly(len(wrong), SHOWN) if wrong else ():
        name, _, verdict = wrong[int(k)]
        image, mask, whole = _shown(group, names, name, verdict)
        blank = np.zeros(whole.shape) - 1
        rows.append([tile(image, None), tile(image, mask), tile(blank, whole)])
        titles.append(f"{name}\n{verdict.broken[0]}")
    if rows:
        columns = ["synthetic", "its mask", "on the whole grid"]
        heading = f"{len(wrong)} of {len(verdicts)} synthetic masks break a rule"
        sheet(path, rows, columns=columns, names=titles, labels=material.facts.labels,
              heading=heading)  # fmt: skip


def _shown(
    group: Group, names: dict[str, int], name: str, verdict: Validity
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and mask on the window, and the mask on the canvas, of the slice that is at fault."""
    told = re.search(r"at z=(\d+)", str(verdict))
    index = names.get(name)
    if index is None:
        stack = [i for n, i in names.items() if case_of(n) == name]
        z = int(told[1]) if told else _fullest(group.masks[stack].numpy())
        index = stack[min(z, len(stack) - 1)]
    image = group.pool.images[index, 0].float().numpy()
    mask, whole = group.pool.masks[index].numpy(), group.masks[index].numpy()
    if whole.ndim == 3:
        z = int(told[1]) if told else _fullest(np.moveaxis(whole, -1, 0))
        inner = z - (whole.shape[-1] // 2 - mask.shape[-1] // 2)
        inner = min(max(inner, 0), mask.shape[-1] - 1)
        image, mask, whole = image[..., inner], mask[..., inner], whole[..., z]
    return image, mask, whole


def _fullest(masks: Sequence[np.ndarray] | np.ndarray) -> int:
    """The slice (first axis) with most labelled pixels."""
    return int(np.argmax([(m > 0).sum() for m in masks]))
