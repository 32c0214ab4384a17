"""A study's units of work: what is generated, trained and evaluated, each named by its content."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from augmint.data.layout import listed
from augmint.data.splits import check_leak, check_protocol, folds
from augmint.errors import AugmintError
from augmint.evaluation.score import MEAN
from augmint.quality.gates import check_enough_patients
from augmint.study.arms import generations
from augmint.study.draws import Draw, draws_of
from augmint.study.oracle import is_foreign, shared_labels
from augmint.study.parts import Part, Parts, Target, groups_of, known_patients
from augmint.study.spec import HELD_OUT, Study, Test
from augmint.study.units import Cell, Plan, Unit

# A null arm's seeds lie far from those of any other arm, and a draw's from those of another: under
# one seed for all draws, a lucky start would lift every draw of an arm and look like a benefit.
NULL_SEED, DRAW_SEED = 1_000_003, 10_007


def plan_study(study: Study, base: Path) -> Plan:
    """The units of a study; masks are read, images are not.

    Args:
        study: The study.
        base: The folder that its paths are relative to.

    Raises:
        AugmintError: for patients that are unknown, too few, or on both sides.
    """
    parts = Parts(base)
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
    foreign = _foreign(study, source, targets, everyone)
    for draw in draws:
        at = list(targets)
        if draw.held is not None:
            at.insert(0, Target(HELD_OUT, source, draw.held))
        chosen = study.arms_at_larger_sizes if draw.size > smallest else None
        arms = [name for name in study.arms if chosen is None or name in chosen]
        for network, name, seed in product(study.networks, arms, study.seeds):
            if study.arm(name).oracle is not None:
                found = {
                    t.name: _oracle(study, source, t, name, network, seed, add) for t in foreign
                }
            else:
                trained = _train(study, source, draw, name, network, seed, asked.get(name), add)
                where = f"{draw.size} patients, draw {draw.number}, seed {seed}"
                found = {}
                for target in at:
                    shifted = _shift(study, source, target, by_name, draw, name, seed, add)
                    found[target.name] = add(
                        _evaluate(study, target, name, trained, shifted, where)
                    )
            cells += [
                Cell(draw.size, draw.number, network, name, seed, test, unit.key)
                for test, unit in found.items()
            ]
    _check_units(units, study, [source, *(t.part for t in targets)], targets)
    groups = {
        test.name: groups_of(target.part.dataset, test.group)
        for test, target in zip(study.tests, targets)
        if test.group is not None
    }
    if study.group is not None:
        groups[HELD_OUT] = groups_of(source.dataset, study.group)
    return Plan(units, tuple(cells), groups)


def _target(test: Test, study: Study, parts: Parts, source: Part) -> Target:
    label_map = study.label_map if test.label_map is None else test.label_map
    part = parts.open(test.data, label_map, test.domains)
    patients = known_patients(test.patients, part, parts.base, f"test {test.name!r}")
    if patients is None and test.domains is not None:
        patients = sorted(part.labelled)
    if patients is None and part.name == source.name:
        raise AugmintError(
            f"test {test.name!r} lies in the training dataset {part.name}; name its patients, or "
            "domains that do not train"
        )
    return Target(test.name, part, patients, test.allow_same_names)


def _who_may_train(
    study: Study, source: Part, base: Path, tested: Collection[str]
) -> Sequence[str]:
    named = known_patients(study.patients, source, base, "the training patients")
    everyone = sorted(source.labelled - set(tested)) if named is None else named
    if not everyone:
        raise AugmintError(
            f"{source.name}: all {len(source.labelled)} patients test and none is left to train; "
            "name the patients of both sides"
        )
    check_leak(everyone, tested)
    return everyone


def _check_label(study: Study, source: Part, targets: Sequence[Target]) -> None:
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


def _check_names(target: Target, source: Part, everyone: Sequence[str]) -> None:
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
    source: Part,
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
        number = _generator_seed(study, draw, seed)
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
    source: Part,
    target: Target,
    seen: Mapping[str, Target],
    draw: Draw,
    name: str,
    seed: int,
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
    number = _generator_seed(study, draw, seed)
    where = f"{len(draw.train)} patients, draw {draw.number}"
    where += f", seed {seed}" * (study.generator_seeds == "each")
    foreign = None if shift.unlabelled is None else seen[shift.unlabelled].arguments
    facts = {
        **source.arguments, "patients": list(draw.train), "method": shift.method,
        "settings": fixed, "steps": shift.steps, "preset": study.preset,
        "dims": shift.dims or study.dims, "unlabelled": foreign, "seed": number,
    }  # fmt: skip
    fitted = add(Unit("fit", facts, title=f"{shift.method}, {where}"))
    arguments = {
        "run": fitted.key, **target.arguments,
        "settings": {k: v for k, v in shift.settings.items() if k in loose},
        "repeats": shift.repeats, "seed": number,
    }  # fmt: skip
    return add(Unit("adapt", arguments, (fitted.key,), f"{target.name}: {name}, {where}"))


def _generator_seed(study: Study, draw: Draw, seed: int) -> int:
    """The seed of a generator or of what shifts test images."""
    return 1000 * draw.number + seed if study.generator_seeds == "each" else draw.number


def _evaluate(
    study: Study,
    target: Target,
    name: str,
    trained: Unit,
    shifted: Unit | None,
    where: str,
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
    return Unit("evaluate", arguments, needs, f"{target.name}: {name}, {where}")


def _foreign(
    study: Study, source: Part, targets: Sequence[Target], everyone: Sequence[str]
) -> list[Target]:
    """The tests that an oracle is trained for, where there is one.

    Raises:
        AugmintError: if there is an oracle and every test is of the training domain.
    """
    oracles = [name for name in study.arms if study.arm(name).oracle is not None]
    found = [t for t in targets if is_foreign(t, source, everyone)] if oracles else []
    if oracles and not found:
        raise AugmintError(
            f"arm {oracles[0]!r} is an oracle, trained with labels of a test of another dataset or "
            f"domain than {source.name}, and there is no such test; leave it out"
        )
    return found


def _oracle(
    study: Study,
    source: Part,
    target: Target,
    name: str,
    network: str,
    seed: int,
    add: Callable[[Unit], Unit],
) -> Unit:
    """A test's patients, each scored by the segmenter that was trained on others of them.

    It knows nothing of the source, so that all draws and sizes share it.
    """
    oracle = study.arm(name).oracle
    assert oracle is not None
    whole = target.part.dataset.select(patients=list(target.tested))
    labels = shared_labels(target.part, source)
    own = {**target.part.arguments, **({"label_map": labels} if labels else {})}
    parts = []
    for fold in folds(whole, oracle.folds, 0):
        where = f"fold {fold.index}, seed {seed}"
        arguments = {
            **own, "patients": list(fold.train), "preset": study.preset, "dims": study.dims,
            "settings": study.segmenter_settings(name, network), "seed": seed, "synthetic": None,
            "unfiltered": False, "oracle": True,
        }  # fmt: skip
        title = f"{name}, {network}, labels of {target.name}, {where}"
        trained = add(Unit("train", arguments, title=title))
        held = replace(target, patients=fold.validation)
        parts.append(add(_evaluate(study, held, name, trained, None, where)).key)
    title = f"{target.name}: {name}, {oracle.folds} folds, seed {seed}"
    return add(Unit("join", {**target.arguments, "parts": parts}, tuple(parts), title))


def _check_units(
    units: Mapping[str, Unit], study: Study, parts: Sequence[Part], targets: Sequence[Target]
) -> None:
    """No unit sees of a test what its protocol forbids; only an oracle sees labels, of others.

    Raises:
        AugmintError: naming the unit.
    """
    names = {part.arguments["data"]: part.name for part in parts}
    everyone: dict[str, set[str]] = {}
    tested: dict[str, set[str]] = {}
    for part in parts:
        everyone.setdefault(part.name, set()).update(part.dataset.patients)
    for target in targets:
        tested.setdefault(target.part.name, set()).update(target.tested)

    def read(arguments: Mapping[str, Any] | None) -> dict[str, Collection[str]]:
        if arguments is None:
            return {}
        name = names[arguments["data"]]
        patients = arguments["patients"]
        return {name: everyone[name] if patients is None else patients}

    def check(unit: Unit, against: Mapping[str, Collection[str]]) -> None:
        shift = unit.kind == "adapt"
        check_protocol(
            study.protocol or "generalisation", against,
            labels=read(None if shift else unit.arguments),
            images=read(unit.arguments if shift else unit.arguments.get("unlabelled")),
            what=f"unit {unit.kind} ({unit.title})",
        )  # fmt: skip

    for unit in units.values():
        if unit.kind == "evaluate":
            for fit in _before(unit, units):
                check(fit, read(unit.arguments))
        elif unit.kind != "join" and not unit.arguments.get("oracle"):
            check(unit, tested)


def _before(unit: Unit, units: Mapping[str, Unit]) -> Iterator[Unit]:
    """The units that one needs, and those that they need."""
    for key in unit.needs:
        yield units[key]
        yield from _before(units[key], units)
