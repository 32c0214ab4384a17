"""A study's units of work: what is generated, trained and evaluated, each named by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.splits import check_leak, draw_patients, folds
from augmint.errors import AugmintError
from augmint.study.spec import HELD_OUT, Study

Kind = Literal["generate", "train", "evaluate"]
# A null arm's seeds lie far from those of any other arm.
NULL_SEED = 1_000_003


@dataclass(frozen=True)
class Unit:
    """A part of the work that is done once and kept.

    Attributes:
        kind: `generate`, `train` or `evaluate`.
        arguments: What it depends on: plain values, and the keys of other units.
        needs: Keys of the units that come before it.
        key: A hash of all these: two arms that need the same thing share it.
        title: For progress.
    """

    kind: Kind
    arguments: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    title: str = field(default="", compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.kind, self.arguments], sort_keys=True, default=str)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:16])

    @property
    def folder(self) -> str:
        """Below the study's folder."""
        return f"units/{self.kind}_{self.key}"


@dataclass(frozen=True)
class Cell:
    """One evaluation's place in the study's grid.

    Attributes:
        size: Training patients.
        draw: Which draw of them, or which fold.
        network: The segmenter.
        arm: Name of the arm.
        seed: Of the study's seeds, also for a null arm, which trains under another.
        test: Name of the test.
        unit: Key of the evaluation.
    """

    size: int
    draw: int
    network: str
    arm: str
    seed: int
    test: str
    unit: str


@dataclass(frozen=True)
class Plan:
    """All units in an order that they can be done in, and where their results belong."""

    units: Mapping[str, Unit]
    cells: tuple[Cell, ...]
    groups: Mapping[str, Mapping[str, str]]

    def count(self, kind: Kind) -> int:
        """How many units of a kind."""
        return sum(unit.kind == kind for unit in self.units.values())


def plan_study(study: Study, base: Path) -> Plan:
    """The units of a study; masks are read, images are not.

    Args:
        study: The study.
        base: The folder that its paths are relative to.

    Raises:
        AugmintError: for patients that are unknown, too few, or on both sides.
    """
    data = open_dataset(base / study.data)
    source = _fingerprint(data)
    labelled = {i.patient_id for i in data.items if i.masks and not i.synthetic}
    named = named_patients(study.patients, base)
    tests = [(t, open_dataset(base / t.data)) for t in study.tests]
    tested = {
        p for t, d in tests if d.name == data.name for p in named_patients(t.patients, base) or ()
    }
    everyone = sorted(labelled - tested) if named is None else named
    if unknown := sorted(set(everyone) - labelled):
        raise AugmintError(f"patients that {data.name} has no labels of: {', '.join(unknown[:5])}")
    check_leak(everyone, tested)
    for test, dataset in tests:
        if dataset.name == data.name and named_patients(test.patients, base) is None:
            raise AugmintError(
                f"test {test.name!r} lies in the training dataset {data.name}; name its patients"
            )
    units: dict[str, Unit] = {}
    cells: list[Cell] = []
    prints = {d.root: _fingerprint(d) for _, d in tests} | {data.root: source}

    def add(unit: Unit) -> Unit:
        return units.setdefault(unit.key, unit)

    for size, draw, train, held in _draws(study, data, everyone):
        targets: list[tuple[str, Dataset, Sequence[str] | None]] = [
            (t.name, d, named_patients(t.patients, base)) for t, d in tests
        ]
        if held is not None:
            targets.insert(0, (HELD_OUT, data, held))
        for network in study.networks:
            for name in study.arms:
                for seed in study.seeds:
                    trained = _train(study, source, data, train, name, network, seed, draw, add)
                    for title, dataset, patients in targets:
                        unit = add(
                            Unit(
                                "evaluate",
                                {
                                    "run": trained.key, "data": str(dataset.root.resolve()),
                                    "fingerprint": prints[dataset.root],
                                    "patients": None if patients is None else list(patients),
                                    "tolerance": study.tolerance,
                                },
                                (trained.key,),
                                f"{title}: {name}, {size} patients, draw {draw}, seed {seed}",
                            )
                        )  # fmt: skip
                        cells.append(Cell(size, draw, network, name, seed, title, unit.key))
    groups = {t.name: _groups(d, t.group) for t, d in tests if t.group is not None}
    return Plan(units, tuple(cells), groups)


def _train(
    study: Study,
    source: str,
    data: Dataset,
    train: Sequence[str],
    name: str,
    network: str,
    seed: int,
    draw: int,
    add: Any,
) -> Unit:
    """The training of an arm, with the generation that it needs."""
    arm = study.arm(name)
    made: Unit | None = None
    facts = {"data": str(data.root.resolve()), "fingerprint": source, "patients": list(train)}
    where = f"{len(train)} patients, draw {draw}"
    if arm.synthetic is not None:
        own = arm.synthetic.model_dump(mode="json", exclude={"filtered"})
        number = draw if study.generator_seeds == "draw" else 1000 * draw + seed
        made = add(
            Unit(
                "generate",
                {**facts, **own, "preset": study.preset, "dims": study.dims, "seed": number},
                title=f"{arm.synthetic.method}, {where}",
            )
        )
    settings = {
        "network": network, "width": study.segmenter_width, "steps": study.segmenter_steps,
        "augmentation": arm.augmentation, **arm.settings,
    }  # fmt: skip
    if made is not None:
        settings["synthetic_probability"] = arm.synthetic_probability
    arguments = {
        **facts, "settings": settings, "preset": study.preset, "dims": study.dims,
        "seed": seed + NULL_SEED * arm.null,
        "synthetic": None if made is None else made.key,
        "unfiltered": arm.synthetic is not None and not arm.synthetic.filtered,
    }  # fmt: skip
    needs = () if made is None else (made.key,)
    return add(Unit("train", arguments, needs, f"{name}, {network}, {where}, seed {seed}"))


def _draws(
    study: Study, data: Dataset, everyone: Sequence[str]
) -> list[tuple[int, int, tuple[str, ...], tuple[str, ...] | None]]:
    """(size, draw, training patients, held patients of a fold) in order of size."""
    pools: list[tuple[int, Sequence[str], tuple[str, ...] | None]]
    if study.folds:
        chosen = folds(data.select(patients=list(everyone)), study.folds, 0)
        pools = [(f.index, f.train, f.validation) for f in chosen]
    else:
        pools = [(draw, everyone, None) for draw in range(study.draws)]
    found = []
    for asked in sorted(study.sizes or [len(pools[0][1])]):
        for draw, pool, held in pools:
            size = max(1, round(asked * len(pool))) if asked < 1 else int(asked)
            # Cross-validation without sizes trains on each fold's own number of patients.
            size = len(pool) if study.sizes is None else size
            if size > len(pool):
                raise AugmintError(
                    f"a size of {size} patients was asked for, {len(pool)} may train; ask for fewer"
                )
            if size == len(pool) and draw > 0 and not study.folds:
                continue  # all patients can be drawn in one way only
            shown = len(pools[0][1]) if study.sizes is None else size
            found.append((shown, draw, draw_patients(pool, size, draw), held))
    return found


def named_patients(patients: Sequence[str] | str | None, base: Path) -> list[str] | None:
    """Patients given by name, or by `FILE.json#KEY.KEY`.

    Raises:
        AugmintError: if there is no such list.
    """
    if patients is None or not isinstance(patients, str):
        return None if patients is None else list(patients)
    file, _, keys = patients.partition("#")
    try:
        found: Any = json.loads((base / file).read_text(encoding="utf-8"))
        for key in keys.split(".") if keys else ():
            found = found[key]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise AugmintError(
            f"patients {patients!r}: {base / file} has no such list ({error!r}); write "
            "FILE.json#KEY.KEY"
        ) from error
    if not isinstance(found, list) or not all(isinstance(p, str) for p in found) or not found:
        raise AugmintError(f"patients {patients!r} is no list of names; write FILE.json#KEY.KEY")
    return found


def _fingerprint(dataset: Dataset) -> str:
    """Of a dataset's content: its labels, masks, and the names and sizes of its images."""
    digest = hashlib.sha256(json.dumps(dict(dataset.labels), sort_keys=True).encode())
    for item in dataset.items:
        digest.update(f"{item.case_id} {item.patient_id}".encode())
        for image in item.images:
            digest.update(f"{image.name} {image.stat().st_size}".encode())
        for mask in item.masks:
            digest.update(mask.read_bytes())
    return digest.hexdigest()[:16]


def _groups(dataset: Dataset, column: str) -> dict[str, str]:
    """Patient -> value of a column of cases.csv.

    Raises:
        AugmintError: if no case has it.
    """
    found = {
        i.patient_id: i.domain if column == "domain" else str(i.columns.get(column, ""))
        for i in dataset.items
    }
    if not any(found.values()):
        raise AugmintError(
            f"{dataset.name}: no case has a value in column {column!r} of cases.csv; name another"
        )
    return {p: v or "not stated" for p, v in found.items()}
