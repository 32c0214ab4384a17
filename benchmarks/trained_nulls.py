"""How often a study finds a benefit where there is none, with really trained networks.

    python benchmarks/trained_nulls.py [--pairs 30] [--work scratch/trained_nulls]

Each pair is a study of its own cohort of phantoms: an arm and the same arm under other seeds, three
draws of four patients, tested on eight others. Counts how many call the difference significant at
0.05, with the Clopper-Pearson interval of that share, and writes benchmarks/results/
trained_nulls.json. null_studies.py does the same with thousands of simulated studies; here nothing
is simulated but the images. Goes on after a stop; the result then names every commit that it was
started at, and all versions that made its units.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.fit import describe_device, resolve_device
from augmint.progress import Talk
from augmint.study import Study, study
from augmint.study.record import versions_of
from results import commit, commits, one_or_all, save

parser = argparse.ArgumentParser()
parser.add_argument("--pairs", type=int, default=30)
parser.add_argument("--steps", type=int, default=120)
parser.add_argument("--work", type=Path, default=Path("scratch/trained_nulls"))
TESTED = 8


def main() -> None:
    a = parser.parse_args()
    started, seconds = commits(a.work, commit()), 0.0
    found: list[dict[str, float]] = []
    made_with: list[dict[str, str]] = []
    for number in range(a.pairs):
        folder = a.work / f"pair_{number:02d}"
        data = folder / "data"
        if not data.exists():
            make_phantoms(
                "cine-mr", out=data, vendor="ABC"[number % 3], patients=20, seed=number,
                slices=3, size=32,
            )  # fmt: skip
        study(design(number, data, a.steps), folder / "study", device="cpu", resume=True,
              talk=Talk(quiet=True))  # fmt: skip
        units = finished(folder / "study")
        seconds += sum(unit["seconds"] for unit in units)
        made_with += [
            one for one in versions_of(folder / "study", [u["key"] for u in units])
            if one not in made_with
        ]  # fmt: skip
        found.append(reading(folder / "study" / "comparisons.csv"))
        print(f"{number + 1}/{a.pairs}", found[-1], flush=True)
    hits = sum(row["p"] < 0.05 for row in found)
    interval = binomtest(hits, len(found)).proportion_ci()
    result = {
        "pairs": len(found), "significant": hits, "share": hits / len(found),
        "interval_95": [interval.low, interval.high], "expected": 0.05, "studies": found,
        "design": "3 draws of 4 patients, 1 seed, 8 test patients, Dice, mean over labels",
        "segmenter_steps": a.steps, "minutes": seconds / 60,
        "device": describe_device(resolve_device("cpu")), "versions": one_or_all(made_with),
        "commit": started,
    }  # fmt: skip
    save("trained_nulls", result)
    print(f"{hits} of {len(found)} significant, 95 % interval of the share "
          f"{interval.low:.3f} to {interval.high:.3f}")  # fmt: skip


def design(number: int, data: Path, steps: int) -> Study:
    """The stack against itself under other seeds."""
    patients = list(open_dataset(data).patients)
    return Study.model_validate(
        {
            "name": f"null pair {number}",
            "data": str(data.resolve()),
            "patients": patients[TESTED:],
            "sizes": [4],
            "draws": 3,
            "tests": [{"name": "test", "data": str(data.resolve()), "patients": patients[:TESTED]}],
            "arms": {
                "stack": {
                    "augmentation": "weak",
                    "settings": {"steps": steps, "width": 16, "lr": 0.01},
                },
                "null": {"like": "stack", "null": True},
            },
            "baseline": "stack",
            "endpoint": {"test": "test"},
            "seeds": [number],
            "preset": "tiny",
        }
    )


def finished(out: Path) -> list[dict[str, Any]]:
    """The units of a pair's study.

    Raises:
        AugmintError: if one of them failed: without it the pair has no reading.
    """
    units: list[dict[str, Any]] = json.loads((out / "outcomes.json").read_text())
    for unit in units:
        if unit["status"] == "failed":
            raise AugmintError(
                f"{out.parent.name}: unit {unit['key']} failed: {unit['message']}; "
                f"{out / 'units' / unit['key']}.error.txt says where; start again to go on"
            )
    return units


def reading(table: Path) -> dict[str, float]:
    """The null arm's primary endpoint."""
    with table.open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["primary"] in ("1", "True", "true")]
    (row,) = rows
    keys = ("baseline_mean", "difference", "low_95", "high_95", "p")
    return {k: round(float(row[k]), 5) for k in keys}


if __name__ == "__main__":
    main()
