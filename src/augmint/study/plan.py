"""A study's units of work: what is generated, trained and evaluated, each named by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.layout import listed
from augmint.data.splits import check_leak
from augmint.errors import AugmintError
from augmint.evaluation.score import MEAN
from augmint.quality.gates import check_enough_patients
from augmint.study.arms import generations
from augmint.study.draws import Draw, draws_of
from augmint.study.spec import HELD_OUT, Study, Test

Kind = Literal["generate", "train", "fit", "adapt", "evaluate"]
# A null arm's seeds lie far from those of any other arm, and a draw's from those of another: under
# one seed for all draws, a lucky start would lift every draw of an arm and look like a benefit.
NULL_SEED, DRAW_SEED = 1_000_003, 10_007


@dataclass(frozen=True)
class Unit:
    """A part of the work that is done once and kept.

    Attributes:
        kind: `generate`, `train`, `fit` (of what shifts test images), `adapt` or `evaluate`.
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


def open_part(arguments: Mapping[str, Any]) -> Dataset:
    """The cases that a unit works on: its dataset with its label map, of its domains alone."""
    dataset = open_dataset(arguments["data"], label_map=arguments.get("label_map"))
    domains = arguments.get("domains")
    return dataset if domains is None else dataset.select(domains=domains)


def of_patients(dataset: Dataset, patients: Sequence[str] | None) -> Dataset:
    """The cases of some patients; None for all."""
    return dataset if patients is None else dataset.select(patients=list(patients))


def plan_study(study: Study, base: Path) -> Plan:
    """The units of a study; masks are read, images are not.

    Args:
        study: The study.
        base: The folder that its paths are relative to.

    Raises:
        AugmintError: for patients that are unknown, too few, or on both sides.
    """
    parts = _Parts(base)
    source = parts.open(study.data, study.label_map, study.domains)
    targets = [_target(test, study, parts, source) for test in study.tests]
    tested = {p for t in targets if t.part.name == source.name for p in t.patients or ()}
    everyone = _who_may_train(study, source, base, tested)
    _check_label(study, source, targets)
    for target in targets:
        _check_names(target, source, everyone)
    by_name = {target.name: target for target in targets}
    units: dict[str, Unit] = {}
    cells: list[Cell] = []

    def add(unit: Unit) -> Unit:
        return units.setdefault(unit.key, unit)

    draws = draws_of(study, source.dataset, everyone)
    asked = generations(study, source.dataset.labels, base)
    smallest = min((draw.size for draw in draws), default=0)
    for draw in draws:
        at = list(targets)
        if draw.held is not None:
            at.insert(0, _Target(HELD_OUT, source, draw.held))
        chosen = study.arms_at_larger_sizes if draw.size > smallest else None
        arms = [name for name in study.arms if chosen is None or name in chosen]
        for network, name, seed in product(study.networks, arms, study.seeds):
            trained = _train(study, source, draw, name, network, seed, asked.get(name), add)
            for target in at:
                shifted = _shift(study, source, target, by_name, draw, name, add)
                unit = add(_evaluate(study, target, draw, name, seed, trained, shifted))
                cells.append(
                    Cell(draw.size, draw.number, network, name, seed, target.name, unit.key)
                )
    groups = {
        test.name: _groups(target.part.dataset, test.group)
        for test, target in zip(study.tests, targets)
        if test.group is not None
    }
    if study.group is not None:
        groups[HELD_OUT] = _groups(source.dataset, study.group)
    return Plan(units, tuple(cells), groups)


@dataclass(frozen=True)
class _Part:
    """Cases of a dataset; `arguments` open them again, see `open_part`."""

    dataset: Dataset
    labelled: frozenset[str]
    everywhere: frozenset[str]
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.dataset.name


@dataclass(frozen=True)
class _Parts:
    """Opens parts of datasets, each dataset once."""

    base: Path
    known: dict[str, tuple[Dataset, str]] = field(default_factory=dict)

    def open(
        self, data: str, label_map: Mapping[str, str | None] | None, domains: Sequence[str] | None
    ) -> _Part:
        key = json.dumps([data, label_map or None])
        if key not in self.known:
            opened = open_dataset(self.base / data, label_map=label_map or None)
            self.known[key] = opened, _fingerprint(opened)
        whole, fingerprint = self.known[key]
        part = whole if domains is None else whole.select(domains=domains)
        arguments: dict[str, Any] = {"data": str(whole.root.resolve()), "fingerprint": fingerprint}
        # What is not asked for is not among the arguments: units keep their keys.
        if label_map:
            arguments["label_map"] = dict(label_map)
        if domains is not None:
            arguments["domains"] = sorted(set(domains))
        return _Part(part, _labelled(part), _labelled(whole), arguments)


@dataclass(frozen=True)
class _Target:
    """What a segmenter is tested on; `patients` is None for all."""

    name: str
    part: _Part
    patients: Sequence[str] | None
    allow_same_names: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """What opens it again, with its patients."""
        patients = None if self.patients is None else list(self.patients)
        return {**self.part.arguments, "patients": patients}


def _labelled(dataset: Dataset) -> frozenset[str]:
    return frozenset(i.patient_id for i in dataset.items if i.masks and not i.synthetic)


def _known(
    asked: Sequence[str] | str | None, part: _Part, base: Path, what: str
) -> list[str] | None:
    """Patients by name who have labelled cases in a part; None where nobody is named.

    Raises:
        AugmintError: for a patient without any labelled case, or where nobody is left.
    """
    names = named_patients(asked, base)
    if names is None:
        return None
    if unknown := sorted(set(names) - part.everywhere):
        raise AugmintError(f"patients that {part.name} has no labels of: {listed(unknown)}")
    found = [p for p in names if p in part.labelled]
    if not found:
        raise AugmintError(
            f"{what}: none of its {len(names)} patients has a case in the domains "
            f"{', '.join(part.arguments['domains'])}"
        )
    return found


def _target(test: Test, study: Study, parts: _Parts, source: _Part) -> _Target:
    label_map = study.label_map if test.label_map is None else test.label_map
    part = parts.open(test.data, label_map, test.domains)
    patients = _known(test.patients, part, parts.base, f"test {test.name!r}")
    if patients is None and test.domains is not None:
        patients = sorted(part.labelled)
    if patients is None and part.name == source.name:
        raise AugmintError(
            f"test {test.name!r} lies in the training dataset {part.name}; name its patients, or "
            "domains that do not train"
        )
    return _Target(test.name, part, patients, test.allow_same_names)


def _who_may_train(
    study: Study, source: _Part, base: Path, tested: Collection[str]
) -> Sequence[str]:
    named = _known(study.patients, source, base, "the training patients")
    everyone = sorted(source.labelled - set(tested)) if named is None else named
    if not everyone:
        raise AugmintError(
            f"{source.name}: all {len(source.labelled)} patients test and none is left to train; "
            "name the patients of both sides"
        )
    check_leak(everyone, tested)
    return everyone


def _check_label(study: Study, source: _Part, targets: Sequence[_Target]) -> None:
    """Raises an AugmintError for an endpoint whose label will not be scored."""
    end = study.endpoint
    part = next((t.part for t in targets if t.name == end.test), source)
    taught, known = (
        [n for n, i in p.dataset.labels.items() if i in p.dataset.annotated] for p in (source, part)
    )
    scored = [name for name in known if name in taught]
    if (end.label not in scored) if end.label != MEAN else not scored:
        raise AugmintError(
            f"endpoint: label {end.label!r} would have no score on test {end.test!r}; annotated "
            f"there: {listed(known, 9)}; in {source.name}, which trains: {listed(taught, 9)}; name "
            f"one that both have, or {MEAN} over them, or rename labels with label_map"
        )


def _check_names(target: _Target, source: _Part, everyone: Sequence[str]) -> None:
    """`evaluate`'s rule for patients of equal names, before anything is trained.

    Raises:
        AugmintError: if a mere folder's patients are named as those who train.
    """
    dataset = target.part.dataset
    if target.part.name == source.name or target.allow_same_names:
        return
    if dataset.name != dataset.root.name:
        return
    shared = sorted(set(everyone) & set(target.patients or dataset.patients))
    if shared:
        raise AugmintError(
            f"leak: {len(shared)} patients of test {target.name!r} are named as patients who "
            f"train: {listed(shared)}. {dataset.root} may be a copy of the training dataset: if "
            "they are other people, allow the same names for this test, or give the dataset a "
            "`name` of its own in its dataset.json"
        )


def _train(
    study: Study,
    source: _Part,
    draw: Draw,
    name: str,
    network: str,
    seed: int,
    asked: Mapping[str, Any] | None,
    add: Callable[[Unit], Unit],
) -> Unit:
    """The training of an arm, with the generation that it needs."""
    arm = study.arm(name)
    made: Unit | None = None
    facts = {**source.arguments, "patients": list(draw.train)}
    where = f"{len(draw.train)} patients, draw {draw.number}"
    if asked is not None:
        check_enough_patients(asked.get("gates", ()), draw.train)
        each = study.generator_seeds == "each"
        number = 1000 * draw.number + seed if each else draw.number
        made = add(
            Unit(
                "generate",
                {**facts, **asked, "preset": study.preset, "dims": study.dims, "seed": number},
                title=f"{asked['method']}, {where}",
            )
        )
    arguments = {
        **facts, "settings": study.segmenter_settings(name, network), "preset": study.preset,
        "dims": study.dims, "seed": seed + NULL_SEED * arm.null + DRAW_SEED * draw.number,
        "synthetic": None if made is None else made.key,
        "unfiltered": arm.synthetic is not None and not arm.synthetic.filtered,
    }  # fmt: skip
    needs = () if made is None else (made.key,)
    return add(Unit("train", arguments, needs, f"{name}, {network}, {where}, seed {seed}"))


def _shift(
    study: Study,
    source: _Part,
    target: _Target,
    seen: Mapping[str, _Target],
    draw: Draw,
    name: str,
    add: Callable[[Unit], Unit],
) -> Unit | None:
    """The shift of a test's images that an arm asks for, with the fit that it needs.

    Arms that differ in what needs no new fit share it.
    """
    shift = study.arm(name).adapt
    if shift is None:
        return None
    from augmint.methods import build_method, needs_no_fit

    loose = needs_no_fit(build_method(shift.method, shift.settings))
    fixed = {k: v for k, v in shift.settings.items() if k not in loose}
    where = f"{len(draw.train)} patients, draw {draw.number}"
    foreign = None if shift.unlabelled is None else seen[shift.unlabelled].arguments
    facts = {
        **source.arguments, "patients": list(draw.train), "method": shift.method,
        "settings": fixed, "steps": shift.steps, "preset": study.preset, "dims": study.dims,
        "unlabelled": foreign, "seed": draw.number,
    }  # fmt: skip
    fitted = add(Unit("fit", facts, title=f"{shift.method}, {where}"))
    arguments = {
        "run": fitted.key, **target.arguments,
        "settings": {k: v for k, v in shift.settings.items() if k in loose},
        "repeats": shift.repeats, "seed": draw.number,
    }  # fmt: skip
    return add(Unit("adapt", arguments, (fitted.key,), f"{target.name}: {name}, {where}"))


def _evaluate(
    study: Study,
    target: _Target,
    draw: Draw,
    name: str,
    seed: int,
    trained: Unit,
    shifted: Unit | None,
) -> Unit:
    arguments = {"run": trained.key, **target.arguments, "tolerance": study.tolerance}
    arm = study.arm(name)
    if arm.largest_component:
        arguments["largest_component"] = True
    if arm.sliding:
        arguments["sliding"] = True
    if target.allow_same_names:
        arguments["allow_same_names"] = True
    needs: tuple[str, ...] = (trained.key,)
    if shifted is not None:
        arguments["shifted"], arguments["repeats"] = shifted.key, shifted.arguments["repeats"]
        needs = (trained.key, shifted.key)
    title = f"{target.name}: {name}, {draw.size} patients, draw {draw.number}, seed {seed}"
    return Unit("evaluate", arguments, needs, title)


def named_patients(patients: Sequence[str] | str | None, base: Path) -> list[str] | None:
    """Patients given by name, by `FILE.json#KEY.KEY`, or by `FILE.txt` with a name on each line.

    Raises:
        AugmintError: if there is no such list.
    """
    if patients is None or not isinstance(patients, str):
        return None if patients is None else list(patients)
    file, _, keys = patients.partition("#")
    try:
        text = (base / file).read_text(encoding="utf-8")
        found: Any = text.split() if file.endswith(".txt") else json.loads(text)
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
        frame = "" if item.frame is None else f" {item.frame}"
        digest.update(f"{item.case_id} {item.patient_id}{frame}".encode())
        for image in item.images:
            digest.update(f"{image.name} {image.stat().st_size}".encode())
        for mask in item.masks:
            digest.update(mask.read_bytes())
    return digest.hexdigest()[:16]


def _groups(dataset: Dataset, column: str) -> dict[str, str]:
    """Patient -> value of a column of cases.csv.

    Raises:
        AugmintError: if no case has it, or a patient's cases differ in it.
    """
    found: dict[str, str] = {}
    for item in dataset.items:
        value = item.domain if column == "domain" else str(item.columns.get(column, ""))
        if found.setdefault(item.patient_id, value) != value:
            raise AugmintError(
                f"{dataset.name}: patient {item.patient_id} has cases with {column} "
                f"{found[item.patient_id]!r} and {value!r}; results are split by patient, so name "
                "a column that is the same for all cases of a patient, or write a test for each "
                "domain"
            )
    if not any(found.values()):
        raise AugmintError(
            f"{dataset.name}: no case has a value in column {column!r} of cases.csv; name another"
        )
    return {p: v or "not stated" for p, v in found.items()}
