"""Studies whose evaluations are written by hand: plans with their score files, some missing."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from augmint.evaluation.score import ScoreRow, write_scores
from augmint.study.spec import Study
from augmint.study.units import Cell, Plan, Unit

ARMS = ("stack", "null", "synthetic")
Key = tuple[str, int, int]  # arm, draw, seed


def study_of(**more) -> Study:
    fields = {
        "name": "toy", "data": "x", "sizes": [2], "draws": 3, "seeds": [0, 1],
        "tests": [{"name": "other", "data": "y"}], "baseline": "stack",
        "arms": {
            "stack": {}, "null": {"like": "stack", "null": True},
            "synthetic": {"augmentation": "weak"},
        },
        "endpoint": {"test": "other"},
    }  # fmt: skip
    return Study.model_validate({**fields, **more})


def score(key: Key, patient: str) -> float:
    """A Dice that differs between all fits and patients, higher in the arm `synthetic`."""
    arm, draw, seed = key
    luck = np.random.default_rng([ARMS.index(arm), draw, seed, ord(patient)]).normal(0, 0.02)
    return round(0.7 + 0.1 * (arm == "synthetic") + 0.01 * draw + float(luck), 6)


def planned(
    folder: Path,
    *,
    missing: Collection[Key] = (),
    draws: int = 3,
    seeds: Iterable[int] = (0, 1),
    patients: str = "abcdef",
    test: str = "other",
    dice: Callable[[Key, str], float | None] = score,
    hd: Callable[[Key, str], float | None] = lambda *_: None,
    distances: str = "mm",
    tested: Callable[[int], str] | None = None,
    groups: dict[str, dict[str, str]] | None = None,
) -> tuple[Plan, list[str]]:
    """A plan and the keys of its finished evaluations, whose scores are written.

    Args:
        folder: Of the study.
        missing: Fits that have not finished.
        draws: Their number.
        seeds: Theirs.
        patients: Who test, a letter each.
        test: Its name.
        dice: Of a fit and patient; None where undefined.
        hd: Likewise.
        distances: Their unit.
        tested: Draw or fold -> its patients, where they differ.
        groups: Test -> patient -> group.
    """
    units, cells, done = {}, [], []
    for arm in ARMS:
        for draw in range(draws):
            for seed in seeds:
                key = (arm, draw, seed)
                unit = Unit("evaluate", {"fit": key}, title=f"{test}: {key}")
                units[unit.key] = unit
                cells.append(Cell(2, draw, "unet", arm, seed, test, unit.key))
                if key in missing:
                    continue
                done.append(unit.key)
                (folder / unit.folder).mkdir(parents=True)
                rows = [
                    ScoreRow(
                        p, p, "LV", dice(key, p), None, None, hd(key, p), *[None] * 3, distances,
                        "both_empty" if dice(key, p) is None else "ok",
                    )
                    for p in (patients if tested is None else tested(draw))
                ]  # fmt: skip
                write_scores(rows, folder / unit.folder / "scores.csv")
    return Plan(units, tuple(cells), groups or {}), done
