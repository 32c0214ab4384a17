"""What a study would do and how long it takes, for --dry-run. Nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from augmint.data.dataset import open_dataset
from augmint.estimate import plan_augment, plan_segment
from augmint.progress import Talk
from augmint.study.plan import Plan, Unit, plan_study
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

    The units of a kind are taken to last as long as the one that is measured, scaled by nothing:
    steps, not patients, decide how long a fit takes. Synthetic cases do grow with patients; the
    largest generation is measured.
    """
    minutes = {"generate": 0.0, "train": 0.0, "evaluate": 0.0}
    generations = [u for u in plan.units.values() if u.kind == "generate"]
    by_settings: dict[str, list[Unit]] = {}
    for unit in generations:
        a = unit.arguments
        by_settings.setdefault(f"{a['method']} {a['settings']} {a['steps']}", []).append(unit)
    for units in by_settings.values():
        a = max(units, key=lambda u: len(u.arguments["patients"])).arguments
        one = plan_augment(
            open_dataset(a["data"]), None, method=a["method"], settings=a["settings"],
            copies=a["copies"], preset=a["preset"], patients=a["patients"], num_folds=0,
            held_fraction=0, steps=a["steps"], dims=a["dims"], seed=a["seed"], device=device,
            talk=talk,
        )  # fmt: skip
        minutes["generate"] += one["minutes"]["total"] * len(units)
    trainings = [u for u in plan.units.values() if u.kind == "train"]
    for network in dict.fromkeys(u.arguments["settings"]["network"] for u in trainings):
        units = [u for u in trainings if u.arguments["settings"]["network"] == network]
        a = max(units, key=lambda u: len(u.arguments["patients"])).arguments
        one = plan_segment(
            open_dataset(a["data"]), None, synthetic=None, patients=a["patients"], fold=None,
            validation=None, preset=a["preset"], settings=a["settings"], dims=a["dims"],
            seed=a["seed"], device=device, talk=talk,
        )  # fmt: skip
        minutes["train"] += one["minutes"]["total"] * len(units)
    share = minutes["train"] / max(1, len(trainings)) * EVALUATION_SHARE
    minutes["evaluate"] = share * plan.count("evaluate")
    return {
        "units": {k: plan.count(k) for k in ("generate", "train", "evaluate")},
        "hours": {k: round(v / 60, 3) for k, v in minutes.items()},
        "total_hours": round(sum(minutes.values()) / 60, 3),
    }


def in_words(plan: dict[str, Any]) -> str:
    """A study's plan as text."""
    parts = ", ".join(f"{k} {v:.2f}" for k, v in plan["hours"].items())
    return f"{plan['study']}\nabout {plan['total_hours']:.2f} hours ({parts}); nothing was written"
