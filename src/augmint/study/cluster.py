"""The units of a study on a Ray cluster: each as soon as those that it needs are done."""

from __future__ import annotations

from pathlib import Path

from augmint.cluster import Crew
from augmint.progress import Talk
from augmint.study.run import Outcome, attempt, blocked
from augmint.study.units import Plan, Unit


def run_by_crew(plan: Plan, folder: Path, crew: Crew, talk: Talk) -> dict[str, Outcome]:
    """Do every unit that is not done yet; returns the outcome of each, in the plan's order.

    Args:
        plan: The units.
        folder: The study's, on a file system that all machines share, as the data are.
        crew: Who does them.
        talk: Where progress goes.

    Raises:
        AugmintError: if a machine does not see folder or data.
    """
    folder = folder.absolute()
    outcomes: dict[str, Outcome] = {}
    waiting = dict(plan.units)
    number = {key: f"[{n}/{len(plan.units)}]" for n, key in enumerate(plan.units, 1)}
    crew.check(folder, sorted({str(u.arguments["data"]) for u in plan.units.values()}))
    while True:
        _hand_out(crew, waiting, outcomes, folder, number, talk)
        if not crew.busy:
            break
        done = crew.collect()
        unit = plan.units[done.name]
        error = done.error
        outcome = done.value
        if error is not None:
            outcome = Outcome(unit.key, "failed", f"{type(error).__name__}: {error}")
        outcomes[unit.key] = outcome
        took = f"{outcome.seconds:.0f} s" if outcome.status == "done" else outcome.message
        talk.say(f"{number[unit.key]} {outcome.status}: {unit.kind}: {unit.title} ({took})")
    return {key: outcomes[key] for key in plan.units}


def _hand_out(
    crew: Crew,
    waiting: dict[str, Unit],
    outcomes: dict[str, Outcome],
    folder: Path,
    number: dict[str, str],
    talk: Talk,
) -> None:
    """Start what can start; settle what is done already or cannot be tried."""
    free = crew.free
    for key, unit in list(waiting.items()):
        if (skipped := blocked(unit, outcomes)) is not None:
            outcomes[key] = skipped
        elif any(k not in outcomes for k in unit.needs):
            continue
        elif (folder / unit.folder).exists():
            outcomes[key] = attempt(unit, folder, crew.share.device, talk)
        elif free:
            talk.say(f"{number[key]} {unit.kind}: {unit.title}")
            crew.submit(
                key, attempt, unit, folder, crew.share.device, Talk(quiet=True), title=unit.title
            )
            free = crew.free
        else:
            continue
        del waiting[key]
