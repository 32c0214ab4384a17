"""What a study would do and how long it takes, for --dry-run. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.estimate import plan_augment, plan_segment
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.study.plan import Kind, Plan, open_part, plan_study
from augmint.study.run import plan_in_words
from augmint.study.spec import read_study

# An evaluation's share of a training's time; it is not measured.
EVALUATION_SHARE = 0.25


def estimate_study(file: Path | str, *, device: str, talk: Talk) -> dict[str, Any]:
    """Units and hours of a study; a few steps of one unit of each kind and size are measured."""
    spec = read_study(file)
    base = Path(file).parent
    plan = plan_study(spec, base)
    return {"study": plan_in_words(spec, plan), **hours_of(plan, device=device, talk=talk)}


def hours_of(plan: Plan, *, device: str, talk: Talk) -> dict[str, Any]:
    """How many units there are, and the hours they take one after the other.

    One unit of each method and settings, and of each network and width, is measured: the one with
    the most patients. Of the others, fits scale with their steps and synthetic cases with their
    patients and copies. Reading a dataset is not counted.
    """
    minutes = {"generate": 0.0, "train": 0.0, "evaluate": 0.0}
    for units in _alike(plan, "generate", _generator):
        minutes["generate"] += _generations(units, device=device, talk=talk)
    trainings = plan.count("train")
    for units in _alike(plan, "train", _segmenter):
        minutes["train"] += _trainings(units, device=device, talk=talk)
    share = minutes["train"] / max(1, trainings) * EVALUATION_SHARE
    minutes["evaluate"] = share * plan.count("evaluate")
    return {
        "units": {k: plan.count(k) for k in ("generate", "train", "evaluate")},
        "hours": {k: round(v / 60, 5) for k, v in minutes.items()},
        "total_hours": round(sum(minutes.values()) / 60, 5),
    }


def _generator(a: Mapping[str, Any]) -> str:
    return f"{a['method']} {a['settings']}"


def _segmenter(a: Mapping[str, Any]) -> str:
    return f"{a['settings']['network']} {a['settings']['width']}"


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
    )  # fmt: skip
    cases = len(a["patients"]) * a["copies"]
    gate = one["gate"]["steps"]
    preset = preset_named(a["preset"])
    steps = preset.steps if one["dims"] == 2 else preset.steps_3d
    total = 0.0
    for unit in units:
        total += one["minutes"]["fit"] * (unit["steps"] or steps) / one["steps"]
        total += one["minutes"]["gate"] * (unit["gate_steps"] or gate) / gate
        total += one["minutes"]["generate"] * len(unit["patients"]) * unit["copies"] / cases
    return total


def _trainings(units: Sequence[Mapping[str, Any]], *, device: str, talk: Talk) -> float:
    a = units[0]
    one = plan_segment(
        open_part(a), None, synthetic=None, patients=a["patients"], fold=None, validation=None,
        preset=a["preset"], settings=a["settings"], dims=a["dims"], seed=a["seed"],
        device=device, talk=talk,
    )  # fmt: skip
    preset = preset_named(a["preset"]).segmenter_steps
    steps = [unit["settings"]["steps"] or preset for unit in units]
    return one["minutes"]["total"] * sum(steps) / one["steps"]


def in_words(plan: dict[str, Any]) -> str:
    """A study's plan as text."""
    parts = ", ".join(f"{k} {v:.2f}" for k, v in plan["hours"].items())
    return f"{plan['study']}\nabout {plan['total_hours']:.2f} hours ({parts}); nothing was written"
