"""From a dataset alone to a sound study: does its synthetic data help, and is that certain?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import comb
from pathlib import Path
from typing import Any

from augmint.cluster import check_cpus
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.splits import draw_patients
from augmint.errors import AugmintError
from augmint.generate import check_copies
from augmint.prepare import real_labelled
from augmint.progress import Talk
from augmint.staging import refuse_existing, write_text
from augmint.study.estimate import hours_of
from augmint.study.plan import plan_study
from augmint.study.run import study
from augmint.study.spec import Study, read_study

FILE, REQUEST = "study.yaml", "prove.json"
HELD = "held-back patients"
TEST_SHARE = 1 / 3
FEWEST_TESTED = 3
FEWEST_PATIENTS = 6
# Draws of training patients, and seeds of the segmenter for each, from the least that tells luck
# from benefit to what papers are asked for.
DESIGNS = ((3, 1), (3, 2), (4, 2), (5, 2), (5, 3))
# What the moved anatomy does without a network.
CONTROL = "warped_pairs"
# Of the budget; the rest is for estimates that were too low.
SHARE_PLANNED = 0.85


@dataclass(frozen=True)
class Request:
    """What `prove` was asked for, as there."""

    data: str
    budget: str = "8h"
    method: str = "mask_to_image"
    settings: Mapping[str, Any] = field(default_factory=dict)
    copies: int = 5
    augmentation: str = "strong"
    segmenter: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    tests: tuple[str, ...] = ()
    allow_same_names: bool = False
    preset: str = "quick"
    steps: int | None = None
    gate_steps: int | None = None
    dims: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Proof:
    """A study that fits into a budget.

    Attributes:
        study: What will be done.
        hours: That it takes about, by kind of unit, and `total`.
        budget: Hours that there are.
    """

    study: Study
    hours: Mapping[str, float]
    budget: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        asked = self.study.model_dump(mode="json", exclude_unset=True)
        return {"study": asked, "hours": dict(self.hours), "budget_hours": self.budget}

    def in_words(self) -> str:
        """What is compared, on whom, and for how long."""
        one, test = self.study, self.study.tests[0]
        assert one.sizes is not None
        assert one.patients is not None
        assert test.patients is not None
        parts = ", ".join(f"{k} {v:.2f}" for k, v in self.hours.items() if k != "total")
        return (
            f"arms {', '.join(one.arms)}; {one.draws} draws of {one.sizes[0]:.0f} from "
            f"{len(one.patients)} training patients, {len(one.seeds)} seed(s) each; "
            f"{len(test.patients)} patients held back for the test"
            f"{''.join(f', and all of {t.name}' for t in one.tests[1:])}; about "
            f"{self.hours['total']:.2f} of {self.budget:.2f} hours ({parts})"
        )


def prove(
    data: Path | str,
    out: Path | str,
    *,
    budget: str = "8h",
    method: str = "mask_to_image",
    settings: Mapping[str, Any] | None = None,
    copies: int = 5,
    augmentation: str = "strong",
    segmenter: Mapping[str, Any] | None = None,
    size: int | None = None,
    tests: Sequence[Path | str] = (),
    allow_same_names: bool = False,
    preset: str = "quick",
    steps: int | None = None,
    gate_steps: int | None = None,
    dims: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    ray: str | None = None,
    ray_cpus: int | None = None,
    talk: Talk | None = None,
) -> Path:
    """Compare training with and without synthetic cases, as thoroughly as a budget allows.

    Holds a third of the patients back, draws training patients from the rest several times, and
    trains every arm on each draw: real cases alone, with classical augmentation, the same again
    under other seeds (the noise), with warped real pairs (moved anatomy without a network), and
    with synthetic cases. The budget decides how many draws and seeds there are. OUT holds the
    study's file, its report and every unit.

    Args:
        data: A labelled dataset.
        out: The folder to make.
        budget: Such as `8h`, `90min` or `2d`, one unit after the other on this machine; a few steps
            are measured to see what fits. Nothing is stopped that takes longer than estimated.
        method: What makes the synthetic cases.
        settings: Fields of the method.
        copies: Synthetic cases for each real one.
        augmentation: Of every arm but the first.
        segmenter: Fields of the segmenter, the same for every arm: `network`, `steps`, ...
        size: Training patients of a draw; half of those who may train by default.
        tests: Further labelled datasets to test on; the first one, if any, is the endpoint.
        allow_same_names: Patients of these who are named as patients of `data` are other people.
        preset: Sizes of everything.
        steps: Optimiser steps of a generator, instead of the preset's.
        gate_steps: Of a gate segmenter, likewise.
        dims: 2 or 3, instead of what the data suggest.
        seed: Of the patients held back.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Go on with the study in OUT, which must be asked for as it was begun.
        ray: As for `study`.
        ray_cpus: Likewise.
        talk: Where progress goes.

    Returns:
        The folder.

    Raises:
        AugmintError: for too few patients, a budget that holds no sound study, or another request
            than the one that the study in OUT was begun with.
    """
    talk, folder = talk or Talk(), Path(out)
    check_cpus(ray, ray_cpus)
    request = Request(
        str(data), budget, method, dict(settings or {}), copies, augmentation,
        dict(segmenter or {}), size, tuple(str(t) for t in tests), allow_same_names, preset, steps,
        gate_steps, dims, seed,
    )  # fmt: skip
    if not (resume and (folder / FILE).exists()):
        refuse_existing(folder)
        proof = plan_proof(request, device=device, talk=talk)
        talk.say(proof.in_words())
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / REQUEST, json.dumps(asdict(request), indent=1, default=str))
        write_text(folder / FILE, _as_yaml(proof.study))
    _check_same(folder, request)
    asked = read_study(folder / FILE)
    return study(asked, folder, device=device, resume=True, ray=ray, ray_cpus=ray_cpus, talk=talk)


def _check_same(folder: Path, request: Request) -> None:
    """Raises an AugmintError if the study in a folder was asked for otherwise."""
    begun = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(request), default=str))
    for name, value in now.items():
        if begun.get(name) != value:
            raise AugmintError(
                f"{folder} was begun with {name} {begun.get(name)!r}, not {value!r}; what is "
                "compared was settled then: ask for the same, or name another folder"
            )


def plan_proof(request: Request, *, device: str, talk: Talk) -> Proof:
    """The largest design that fits into the budget.

    Raises:
        AugmintError: as `prove`.
    """
    allowed = hours_in(request.budget)
    check_copies(request.copies)
    dataset = real_labelled(open_dataset(request.data))
    train, held = _hold_back(dataset, request.seed)
    number = max(2, len(train) // 2) if request.size is None else request.size
    if not 0 < number < len(train):
        raise AugmintError(
            f"--size must be 1 to {len(train) - 1}, so that several draws of the {len(train)} "
            f"patients who may train differ; got {number}"
        )
    designs = [d for d in DESIGNS if d[0] <= comb(len(train), number)]
    if not designs:
        raise AugmintError(
            f"{number} of {len(train)} patients can be drawn in {comb(len(train), number)} ways, a "
            f"study needs {DESIGNS[0][0]}; choose another --size"
        )
    base = _study_of(request, dataset.name, train, held, number)

    def designed(draws: int, seeds: int) -> Study:
        return _checked({**base, "draws": draws, "seeds": list(range(seeds))})

    measured = hours_of(plan_study(designed(*designs[0]), Path()), device=device, talk=talk)
    each = {
        kind: hours / max(1, measured["units"][kind]) for kind, hours in measured["hours"].items()
    }
    chosen: Proof | None = None
    for design in designs:
        one = designed(*design)
        plan = plan_study(one, Path())
        hours = {kind: round(each[kind] * plan.count(kind), 5) for kind in each}
        hours["total"] = round(sum(hours.values()), 5)
        if chosen is None or hours["total"] <= SHARE_PLANNED * allowed:
            chosen = Proof(one, hours, allowed)
    assert chosen is not None
    if chosen.hours["total"] > allowed:
        raise AugmintError(
            f"the smallest sound study ({designs[0][0]} draws, {designs[0][1]} seed) takes about "
            f"{chosen.hours['total']:.2g} hours here, the budget is {allowed:.2g}; raise --budget, "
            "or choose a smaller --preset or fewer --steps"
        )
    return chosen


def _study_of(
    request: Request, name: str, train: Sequence[str], held: Sequence[str], size: int
) -> dict[str, Any]:
    """The study's fields but draws and seeds."""
    place = str(Path(request.data).resolve())
    for t in request.tests:
        if Path(t).resolve() == Path(request.data).resolve():
            raise AugmintError(
                f"--test {t} is the training dataset, a third of which is held back anyway; name "
                "another dataset, or write a study for patients or domains of this one"
            )
    further = [
        {
            "name": _unlike(Path(t).resolve().name, i),
            "data": str(Path(t).resolve()),
            **({"allow_same_names": True} if request.allow_same_names else {}),
        }
        for i, t in enumerate(request.tests)
    ]
    amounts = {"copies": request.copies, "gate_steps": request.gate_steps}
    generator = {"method": request.method, "settings": dict(request.settings), **amounts}
    fields = dict(request.segmenter)
    network = fields.pop("network", "unet")
    arms: dict[str, Any] = {
        "real": {"augmentation": "none", "settings": fields},
        "stack": {"augmentation": request.augmentation, "settings": fields},
        "null": {"like": "stack", "null": True},
    }
    if request.method != CONTROL:
        arms["warped"] = {"like": "stack", "synthetic": {"method": CONTROL, **amounts}}
    arms["synthetic"] = {"like": "stack", "synthetic": {**generator, "steps": request.steps}}
    return {
        "name": f"does {request.method} help on {name}?",
        "data": place,
        "patients": list(train),
        "sizes": [size],
        "tests": [{"name": HELD, "data": place, "patients": list(held)}, *further],
        "arms": arms,
        "baseline": "stack",
        "endpoint": {"test": further[0]["name"] if further else HELD},
        "preset": request.preset,
        "dims": request.dims,
        "networks": [network],
    }


def hours_in(budget: str) -> float:
    """Hours of a budget such as `8h`, `90min`, `1.5h` or `2d`.

    Raises:
        AugmintError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(min|m|h|d)\s*", budget)
    hours = (
        float(found[1]) * {"m": 1 / 60, "min": 1 / 60, "h": 1, "d": 24}[found[2]] if found else 0
    )
    if hours <= 0:
        raise AugmintError(f"--budget {budget!r} is no time; write 8h, 90min or 2d")
    return hours


def _hold_back(dataset: Dataset, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Patients who may train, and those who are tested on."""
    patients = dataset.patients
    if len(patients) < FEWEST_PATIENTS:
        raise AugmintError(
            f"{dataset.name} has {len(patients)} labelled patient(s); a study needs at least "
            f"{FEWEST_PATIENTS}: {FEWEST_TESTED} to test on, and others to draw from. If every "
            "case is its own patient, check what `augmint inspect` takes for patients"
        )
    held = draw_patients(patients, max(FEWEST_TESTED, round(TEST_SHARE * len(patients))), seed)
    return tuple(p for p in patients if p not in set(held)), tuple(held)


def _checked(values: Mapping[str, Any]) -> Study:
    """The study of these fields; an AugmintError names what does not fit."""
    from pydantic import ValidationError

    try:
        return Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise AugmintError(f"{field}: {what}".removeprefix(": ")) from error


def _unlike(name: str, number: int) -> str:
    """A test's name that is not that of the held-back patients, nor of a sibling folder."""
    return f"{name} ({number + 2})" if number or name == HELD else name


def _as_yaml(study: Study) -> str:
    """A study's file, with what it leaves at its defaults left out."""
    import yaml

    values = study.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    head = "# Made by `augmint prove`; `augmint study` runs it as well.\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
