"""What a study would do and how long it takes, for --dry-run. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augmint.estimate import plan_augment, plan_fit, plan_segment
from augmint.methods import build_method
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.segment import segmenter_config
from augmint.study.arms import rules_of
from augmint.study.parts import of_patients, open_part
from augmint.study.plan import plan_study
from augmint.study.run import plan_in_words
from augmint.study.spec import read_study
from augmint.study.units import Kind, Plan

# Seconds to read, score and write a case, beside the network's; they are not measured.
SCORING = 0.2
# Of a unit that names none.
GATES = ("agreement",)


@dataclass(frozen=True)
class Speed:
    """Minutes that a segmenter of 2 or 3 dimensions takes for one image."""

    minutes: float
    dims: int


def estimate_study(file: Path | str, *, device: str, talk: Talk) -> dict[str, Any]:
    """Units and hours of a study; a few steps of one unit of each kind and size are measured."""
    spec = read_study(file)
    base = Path(file).parent
    plan = plan_study(spec, base)
    return {"study": plan_in_words(spec, plan), **hours_of(plan, device=device, talk=talk)}


def hours_of(plan: Plan, *, device: str, talk: Talk) -> dict[str, Any]:
    """How many units there are, and the hours they take one after the other.

    One unit of each method, settings and gates, and of each network, width and number of passes,
    is measured: the one with the most patients. Of the others, fits scale with their steps,
    synthetic cases with their patients and copies, and the search for copies with all their cases.
    A calibration lasts as long as that of the fit that is measured. An evaluation counts as a third
    of a training step for each of its images. Reading a dataset is not counted.
    """
    minutes = {"generate": 0.0, "train": 0.0, "evaluate": 0.0}
    for units in _alike(plan, "generate", _generator):
        talk.say(f"measuring a few steps of {units[0]['method']}")
        minutes["generate"] += _generations(units, device=device, talk=talk)
    speeds: dict[str, Speed] = {}
    for units in _alike(plan, "train", _segmenter):
        talk.say(f"measuring a few steps of {units[0]['settings']['network']}")
        total, speeds[_segmenter(units[0])] = _trainings(units, device=device, talk=talk)
        minutes["train"] += total
    minutes["evaluate"] = _evaluations(plan, speeds)
    for units in _alike(plan, "fit", _generator):
        talk.say(f"measuring a few steps of {units[0]['method']}")
        fits, shifts = _shifts(plan, units, device=device, talk=talk)
        minutes["fit"] = minutes.get("fit", 0.0) + fits
        minutes["adapt"] = minutes.get("adapt", 0.0) + shifts
    return {
        "units": {k: sum(u.kind == k for u in plan.units.values()) for k in minutes},
        "hours": {k: round(v / 60, 5) for k, v in minutes.items()},
        "total_hours": round(sum(minutes.values()) / 60, 5),
    }


def _generator(a: Mapping[str, Any]) -> str:
    seen = " with images of a test" * bool(a.get("unlabelled"))
    return f"{a['method']} {a['settings']} {sorted(a.get('gates', GATES))}{seen}"


def _segmenter(a: Mapping[str, Any]) -> str:
    passes = f" {_passes(a)} passes" * (_passes(a) > 1)
    return f"{a['settings']['network']} {a['settings']['width']}{passes}"


def _passes(a: Mapping[str, Any]) -> int:
    """Forward passes of a sample in a training step."""
    return 2 if a["settings"].get("mix") in ("logit", "loss") else 1


def _alike(
    plan: Plan, kind: Kind, name: Callable[[Mapping[str, Any]], str]
) -> list[list[Mapping[str, Any]]]:
    """The arguments of a kind's units in groups of one name, the most patients first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for unit in plan.units.values():
        if unit.kind == kind:
            found.setdefault(name(unit.arguments), []).append(unit.arguments)
    return [sorted(units, key=lambda a: -len(a["patients"])) for units in found.values()]


def _generations(units: Sequence[Mapping[str, Any]], *, device: str, talk: Talk) -> float:
    a = units[0]
    one = plan_augment(
        open_part(a), None, method=a["method"], settings=a["settings"], copies=a["copies"],
        preset=a["preset"], patients=a["patients"], num_folds=0, held_fraction=0,
        steps=a["steps"], dims=a["dims"], seed=a["seed"], device=device, talk=talk,
        gates=a.get("gates", GATES), rules=rules_of(a),
    )  # fmt: skip
    real, cases = len(a["patients"]), len(a["patients"]) * a["copies"]
    gate = one["gate"]["steps"]
    preset = preset_named(a["preset"])
    steps = preset.steps if one["dims"] == 2 else preset.steps_3d
    total = 0.0
    for unit in units:
        total += one["minutes"]["fit"] * (unit["steps"] or steps) / one["steps"]
        total += one["minutes"].get("calibrate", 0.0)
        total += one["minutes"]["gate"] * (unit["gate_steps"] or gate) / gate
        patients = len(unit["patients"])
        total += one["minutes"]["generate"] * patients * unit["copies"] / cases
        searched = patients * (1 + unit["copies"]) / (real + cases)
        total += one["minutes"].get("copies", 0.0) * searched
    return total


def _trainings(
    units: Sequence[Mapping[str, Any]], *, device: str, talk: Talk
) -> tuple[float, Speed]:
    """Minutes of all of them, and how fast such a segmenter predicts."""
    a = units[0]
    one = plan_segment(
        open_part(a), None, synthetic=None, patients=a["patients"], fold=None, validation=None,
        preset=a["preset"], settings=a["settings"], dims=a["dims"], seed=a["seed"],
        device=device, talk=talk,
    )  # fmt: skip
    sizes, step = preset_named(a["preset"]), one["minutes"]["total"] / one["steps"]
    configs = [
        segmenter_config(sizes, one["dims"], unit["seed"], unit["settings"]) for unit in units
    ]
    steps = sum(config.steps for config in configs)
    return step * steps, Speed(step / configs[0].batch_size / 3 / _passes(a), one["dims"])


def _shifts(
    plan: Plan, units: Sequence[Mapping[str, Any]], *, device: str, talk: Talk
) -> tuple[float, float]:
    """Minutes of all fits with their calibration, and of the shifts that they are for."""
    a = units[0]
    one = plan_fit(
        open_part(a), None, method=a["method"], settings=a["settings"], preset=a["preset"],
        patients=a["patients"], steps=a["steps"], dims=a["dims"], seed=a["seed"], device=device,
        talk=talk, unlabelled=a["unlabelled"] is not None,
    )  # fmt: skip
    sizes = preset_named(a["preset"])
    each, usual, batch = sizes.steps, one["minutes"]["fit"] / one["steps"], sizes.batch_size
    if one["dims"] == 3:
        each, batch = sizes.steps_3d, sizes.batch_size_3d
    # It watches as many cases of few patients as of many.
    calibration = one["minutes"].get("calibrate", 0.0)
    fits = sum(usual * (unit["steps"] or each) + calibration for unit in units)
    shifts = 0.0
    known: dict[str, tuple[int, int]] = {}
    for unit in plan.units.values():
        fit = plan.units[unit.arguments["run"]].arguments if unit.kind == "adapt" else None
        if fit is None or _generator(fit) != _generator(a):
            continue
        method: Any = build_method(fit["method"], {**fit["settings"], **unit.arguments["settings"]})
        images = _images(unit.arguments, known, one["dims"])
        passes = method.evaluations_of(1, 1.0, 1) * unit.arguments["repeats"]
        shifts += images * passes * usual / batch / 3
    return fits, shifts


def _images(a: Mapping[str, Any], known: dict[str, tuple[int, int]], dims: int) -> int:
    """How many images networks of so many dimensions see of what a unit works on."""
    cases, slices = _size_of(a, known)
    return cases * (slices if dims == 2 else 1)


def _size_of(a: Mapping[str, Any], known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Cases, and slices of the first of them, which stands for all; remembered in `known`."""
    place = f"{a['data']} {a.get('domains')} {a['patients']}"
    if place not in known:
        part = of_patients(open_part(a), a["patients"])
        first = part.load(part.items[0]).grid
        slices = first.shape[first.slice_axis] if len(first.shape) == 3 else 1
        known[place] = len(part), slices
    return known[place]


def _evaluations(plan: Plan, speeds: Mapping[str, Speed]) -> float:
    """Minutes of all evaluations; the first case of a dataset says how many images one has."""
    known: dict[str, tuple[int, int]] = {}
    total = 0.0
    for unit in plan.units.values():
        if unit.kind != "evaluate":
            continue
        a = unit.arguments
        cases, slices = _size_of(a, known)
        speed = speeds[_segmenter(plan.units[a["run"]].arguments)]
        images = slices if speed.dims == 2 else 1
        total += cases * (images * speed.minutes + SCORING / 60)
    return total


def in_words(plan: dict[str, Any]) -> str:
    """A study's plan as text."""
    parts = ", ".join(f"{k} {v:.2f}" for k, v in plan["hours"].items())
    return f"{plan['study']}\nabout {plan['total_hours']:.2f} hours ({parts}); nothing was written"
