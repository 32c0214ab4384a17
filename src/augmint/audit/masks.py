"""Part 1 of an audit: how many synthetic masks obey the anatomical rules, beside real ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from augmint.audit.intervals import share, share_difference
from augmint.audit.material import Group, Material, case_of, evenly
from augmint.case import Case
from augmint.data.layout import listed
from augmint.data.splits import folds
from augmint.quality.validity import (
    Limits,
    Rules,
    Validity,
    fit_limits_to,
    judge_case,
    read_rules,
    rules_for,
)
from augmint.report import sheet, tile

# Held-out patients that say something alone; with fewer the others speak in folds.
LEAST_HELD = 5
FOLDS = 5
SHOWN = 8
Verdicts = list[tuple[str, str, Validity]]


def measure_validity(
    material: Material, rules: str | Path | None, folder: Path, *, seed: int
) -> dict[str, Any]:
    """Judge every synthetic mask, and real ones by the same limits; writes sheets/invalid.png.

    Args:
        material: Everything on one grid.
        rules: A YAML file or a built-in name; None takes those built in for the labels.
        folder: Gets the sheet.
        seed: Of bootstrap and folds.
    """
    labels = material.facts.labels
    chosen = rules_for(labels) if rules is None else read_rules(rules)
    if chosen is None:
        names = listed([n for n, i in labels.items() if i], 20)
        return {"missing": f"no rules are built in for the labels {names}; give some with --rules"}
    alone = material.by_slice
    limits = fit_limits_to(material.seen.cases(by_slice=alone), labels, chosen)
    made = _judged(material.made.cases(by_slice=alone), material, chosen, limits)
    kept = [v for v in made if case_of(v[0]) in material.parties.accepted]
    held = len(material.parties.held) >= LEAST_HELD
    if held:
        real = _judged(material.held.cases(by_slice=alone), material, chosen, limits)
    else:
        real = _out_of_fold(material.seen, material, chosen, alone, seed)
    _sheet(folder / "sheets" / "invalid.png", material, made)
    told, beside = _told(made, seed), _told(real, seed) if real else None
    return {
        "rules": chosen.name, "unit": "slice" if alone else "case",
        "limits_from": {"patients": len(material.parties.seen), "masks": limits.masks},
        "synthetic": told, "accepted": _told(kept, seed),
        "real": beside,
        "real_are": "held-out" if held else "out of fold",
        "difference": share_difference(told, beside) if beside else None,
        "limits": {name: asdict(bound) for name, bound in limits.bounds.items()},
        "invalid": [{"case": n, "why": str(v)} for n, _, v in made if not v.ok],
    }  # fmt: skip


def _judged(
    cases: Iterable[Case], material: Material, rules: Rules, limits: Limits
) -> Verdicts:  # fmt: skip
    labels = material.facts.labels
    return [(c.case_id, c.patient_id, judge_case(c, labels, rules, limits)) for c in cases]


def _out_of_fold(
    group: Group, material: Material, rules: Rules, alone: bool, seed: int
) -> Verdicts:  # fmt: skip
    """Real cases of the fit, each by limits that other patients taught; none of one patient."""
    patients, labels = group.patients, material.facts.labels
    if len(patients) < 2:
        return []
    found: Verdicts = []
    for fold in folds(patients, min(FOLDS, len(patients)), seed):
        teachers, pupils = (group.of(patients=set(p)) for p in (fold.train, fold.validation))
        limits = fit_limits_to(teachers.cases(by_slice=alone), labels, rules)
        found += _judged(pupils.cases(by_slice=alone), material, rules, limits)
    return found


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
