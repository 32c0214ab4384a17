"""Runs a study: each unit once, finished ones kept, a failed one reported while others go on."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from augmint.cluster import Crew, check_cpus, crew_at
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.splits import DomainSplit
from augmint.errors import AugmintError
from augmint.progress import Talk
from augmint.report import write_json
from augmint.staging import write_text
from augmint.study.arms import rules_of
from augmint.study.oracle import join_evaluations
from augmint.study.parts import of_patients, open_part
from augmint.study.plan import plan_study
from augmint.study.record import on_record, seconds_of
from augmint.study.spec import Study, read_study
from augmint.study.units import Plan, Unit

ALONE = "no synthetic case was accepted: trained on the real cases alone"


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        key: Its key.
        status: `done`, `failed`, or `skipped` where something that it needs failed.
        message: Why, where it is not done; what a reader must know, where it is.
        seconds: That it took, over all attempts.
    """

    key: str
    status: str
    message: str = ""
    seconds: float = 0.0


def study(
    file: Path | str | Study,
    out: Path | str,
    *,
    base: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    ray: str | None = None,
    ray_cpus: int | None = None,
    talk: Talk | None = None,
) -> Path:
    """Run a study and write its report.

    OUT keeps every finished unit (`units/`), what was asked (`study.json`), what became of each
    unit (`outcomes.json`), every reading of the test labels (`readings.jsonl`), and the report.

    Args:
        file: A study's YAML file, or a study.
        out: The folder to make; with `resume` one that is there already goes on, also after the
            study was changed: units that still fit are kept.
        base: The folder that the study's paths are relative to; that of the file by default.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Go on in an existing folder.
        ray: Address of a Ray cluster: `local` starts one here for the time of the study, `auto`
            finds one that runs, else host:port or ray://host:port. Data and OUT must lie on a file
            system that all its machines share. None works here, one unit after the other.
        ray_cpus: Processors and threads of each unit there; by default as many as PyTorch has
            threads here, so that results are those of a study without Ray, or beside a GPU its
            share of its node.
        talk: Where progress goes.

    Returns:
        The folder.

    Raises:
        AugmintError: for a faulty study, an OUT that exists, or no cluster at the address.
    """
    check_cpus(ray, ray_cpus)
    talk, folder = talk or Talk(), Path(out)
    spec = file if isinstance(file, Study) else read_study(file, base)
    if base is None:
        base = Path() if isinstance(file, Study) else Path(file).parent
    plan = plan_study(spec, Path(base))
    if folder.exists() and not resume:
        raise AugmintError(
            f"{folder} exists; add --continue to go on with the study in it, or name another folder"
        )
    with ExitStack() as stack:
        crew = None
        if ray is not None:
            crew = stack.enter_context(crew_at(ray, device=device, cpus=ray_cpus, talk=talk))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "study.json", {"hash": spec.hash, **spec.model_dump(mode="json")})
        talk.say(plan_in_words(spec, plan))
        outcomes = run_units(plan, folder, device=device, crew=crew, talk=talk)
    _conclude(folder, spec, plan, outcomes, talk)
    return folder


def _conclude(
    folder: Path, spec: Study, plan: Plan, outcomes: Mapping[str, Outcome], talk: Talk
) -> None:
    """Put on record what became of the units, write the report, and say what it concludes."""
    from augmint.study.report import write_study_report

    write_json(folder / "outcomes.json", [asdict(o) for o in outcomes.values()])
    _log_reading(folder, spec, plan, outcomes)
    conclusions = write_study_report(folder, spec, plan, outcomes)
    failed = [o for o in outcomes.values() if o.status != "done"]
    for outcome in failed[:5]:
        talk.say(f"{outcome.status}: {plan.units[outcome.key].title}: {outcome.message}")
    if failed:
        talk.say(f"{len(failed)} of {len(outcomes)} units are missing from the report")
    for sentence in conclusions:
        talk.say(sentence)
    talk.say(f"wrote {folder}/report.html, report.md and their tables")


def run_units(
    plan: Plan,
    folder: Path,
    *,
    device: str,
    crew: Crew | None = None,
    talk: Talk,
) -> dict[str, Outcome]:
    """Do every unit that is not done yet, here or by a crew; returns the outcome of each."""
    if crew is not None:
        from augmint.study.cluster import run_by_crew

        return run_by_crew(plan, folder, crew, talk)
    outcomes: dict[str, Outcome] = {}
    total = len(plan.units)
    for number, unit in enumerate(plan.units.values()):
        if (skipped := blocked(unit, outcomes)) is not None:
            outcomes[unit.key] = skipped
            continue
        if not (folder / unit.folder).exists():
            talk.say(f"[{number + 1}/{total}] {unit.kind}: {unit.title}")
        outcomes[unit.key] = attempt(unit, folder, device, talk)
    return outcomes


def blocked(unit: Unit, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """The outcome of a unit that cannot be tried."""
    missing = [k for k in unit.needs if k in outcomes and outcomes[k].status != "done"]
    if not missing:
        return None
    return Outcome(unit.key, "skipped", f"unit {missing[0]} is missing")


def attempt(unit: Unit, folder: Path, device: str, talk: Talk) -> Outcome:
    """Do a unit, or find it done; an error is an outcome like another."""
    place, failure = folder / unit.folder, folder / "units" / f"{unit.key}.error.txt"
    try:
        if not place.exists():
            with on_record(unit, folder):
                DOERS[unit.kind](unit, folder, place, device, talk)
        note = note_of(unit, place)
    except Exception as error:
        write_text(failure, traceback.format_exc())
        why = f"{type(error).__name__}: {error}"
        return Outcome(unit.key, "failed", why, seconds_of(unit, folder))
    failure.unlink(missing_ok=True)
    return Outcome(unit.key, "done", note, seconds_of(unit, folder))


def note_of(unit: Unit, place: Path) -> str:
    """What a reader must know of a finished unit; it stands in its result, so no kill loses it."""
    if unit.kind != "train" or unit.arguments["synthetic"] is None:
        return ""
    request = json.loads((place / "run.json").read_text(encoding="utf-8"))["request"]
    return ALONE if request["synthetic"] is None else ""


def _generate(unit: Unit, folder: Path, place: Path, device: str, talk: Talk) -> None:
    from augmint.augment import augment

    a = unit.arguments
    augment(
        open_part(a), place, method=a["method"], settings=a["settings"], preset=a["preset"],
        copies=a["copies"], patients=a["patients"], held_fraction=0, steps=a["steps"],
        gate_steps=a["gate_steps"], gates=a.get("gates", ("agreement",)), rules=rules_of(a),
        dims=a["dims"], seed=a["seed"], device=device, resume=True,
        talk=Talk(quiet=True) if talk.quiet else talk,
    )  # fmt: skip


def _train(unit: Unit, folder: Path, place: Path, device: str, talk: Talk) -> None:
    """A training; without any accepted case it is one on real cases, as it would be for a user.

    To leave the draw out instead would compare arms on the draws where the generator did well.
    """
    from augmint.segment import segment

    a = unit.arguments
    settings = a["settings"]
    made = None if a["synthetic"] is None else folder / f"units/generate_{a['synthetic']}"
    if made is not None and not a["unfiltered"] and not any(_accepted(made)):
        # Nothing is left to be mixed with.
        made, settings = None, {k: v for k, v in settings.items() if k != "mix"}
        talk.say(f"{unit.title}: {ALONE}")
    segment(
        open_part(a), place, made, patients=a["patients"], preset=a["preset"],
        settings=settings, dims=a["dims"], seed=a["seed"], unfiltered=a["unfiltered"],
        device=device, resume=True, talk=talk,
    )  # fmt: skip


def _accepted(made: Path) -> list[str]:
    from augmint.synthetic import load_rows

    rows = load_rows(made)
    return [r["case"] for r in rows if r["synthetic"] == "1" and r["accepted"] == "1"]


def _fit(unit: Unit, folder: Path, place: Path, device: str, talk: Talk) -> None:
    from augmint.fit import fit

    a = unit.arguments
    seen = None
    if (foreign := a["unlabelled"]) is not None:
        source, target = (of_patients(open_part(x), x["patients"]) for x in (a, foreign))
        # Refuses a patient on both sides, and hands out no label.
        seen = DomainSplit(target.name, source, target, "adaptation").adaptation_images()
    fit(
        open_part(a), place, method=a["method"], settings=a["settings"], preset=a["preset"],
        patients=a["patients"], steps=a["steps"], dims=a["dims"], unlabelled=seen, seed=a["seed"],
        device=device, resume=True, talk=talk,
    )  # fmt: skip


def _adapt(unit: Unit, folder: Path, place: Path, device: str, talk: Talk) -> None:
    from augmint.adapt import adapt

    a = unit.arguments
    adapt(
        folder / f"units/fit_{a['run']}", open_part(a), place, settings=a["settings"],
        patients=a["patients"], repeats=a["repeats"], seed=a["seed"], device=device, resume=True,
        talk=talk,
    )  # fmt: skip


def _evaluate(unit: Unit, folder: Path, place: Path, device: str, talk: Talk) -> None:
    """An evaluation, of images as they are or as they were shifted before."""
    from augmint.adapt import repeats_of
    from augmint.evaluate import evaluate

    a = unit.arguments
    data = open_part(a)
    looks: tuple[Path | Dataset, ...] = ()
    if "shifted" in a:
        shifted = folder / f"units/adapt_{a['shifted']}"
        looks = (*repeats_of(shifted), data) if a["repeats"] > 1 else ()
        data = open_dataset(shifted)
    evaluate(
        folder / f"units/train_{a['run']}", data, place, patients=a["patients"], looks=looks,
        tolerance=a["tolerance"], largest_component=a.get("largest_component", False),
        sliding=a.get("sliding", False), allow_same_names=a.get("allow_same_names", False),
        device=device, resume=True, talk=talk,
    )  # fmt: skip


def _join(unit: Unit, folder: Path, place: Path, device: str, talk: Talk) -> None:
    """The evaluations of an oracle's folds as one."""
    from augmint.fit import versions

    parts = [folder / f"units/evaluate_{key}" for key in unit.arguments["parts"]]
    join_evaluations(parts, place, versions(), test=open_part(unit.arguments).name)


DOERS: Mapping[str, Callable[[Unit, Path, Path, str, Talk], None]] = {
    "generate": _generate,
    "train": _train,
    "fit": _fit,
    "adapt": _adapt,
    "evaluate": _evaluate,
    "join": _join,
}


def plan_in_words(spec: Study, plan: Plan) -> str:
    """What a study will do."""
    sizes = sorted({c.size for c in plan.cells})
    draws = len({c.draw for c in plan.cells})
    return (
        f"study {spec.name!r} ({spec.hash}): arms {', '.join(spec.arms)}; "
        f"{', '.join(map(str, sizes))} training patients, {draws} "
        f"{'fold' if spec.folds else 'draw'}(s), {len(spec.seeds)} seed(s); "
        f"{plan.count('generate')} generations, {plan.count('train')} trainings, "
        f"{_shifts(plan)}"
        f"{plan.count('evaluate')} evaluations"
    )


def _shifts(plan: Plan) -> str:
    """The units that shift test images, in words; empty without any."""
    shifts = plan.count("adapt")
    return f"{plan.count('fit')} fits and {shifts} shifts of test images, " if shifts else ""


def _log_reading(folder: Path, spec: Study, plan: Plan, outcomes: Mapping[str, Outcome]) -> None:
    """Every reading of the test labels is on record, with the protocol that it was made under."""
    done = sorted(c.unit for c in plan.cells if outcomes[c.unit].status == "done")
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": spec.hash,
        "evaluations": len(set(done)),
    }
    with (folder / "readings.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
