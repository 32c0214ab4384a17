"""A study of acdc/ or camus/ on real data, through to its report; its figures as a result file.

    python benchmarks/real_study.py DATA benchmarks/acdc/five_patients.yaml [--work scratch/study]

DATA holds the datasets and splits.json, which the study's paths are relative to. Writes
benchmarks/results/<file>.json; the report stays in --work. Goes on after a stop; the result then
names every commit that it was started at, and all versions that made its units. With --baseline the
same trainings, those that are there, are compared with another arm, in <file>_<arm>.
"""

import argparse
import csv
import json
import os
import shutil
from pathlib import Path

from augmint.fit import describe_device, resolve_device
from augmint.progress import Talk
from augmint.study import read_study, study
from augmint.study.record import versions_of
from results import commit, commits, one_or_all, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("file", type=Path)
parser.add_argument("--work", type=Path, default=Path("scratch/study"))
parser.add_argument("--device", default="auto")
parser.add_argument("--baseline", default=None)
parser.add_argument("--ray", default=None)
parser.add_argument("--ray-cpus", type=int, default=None)
KEPT = ("dice", "hd", "hd95", "assd", "failure")


def main() -> None:
    a = parser.parse_args()
    asked, out = read_study(a.file), a.work / a.file.stem
    if a.baseline:
        asked, first = asked.model_copy(update={"baseline": a.baseline}), out
        out = a.work / f"{a.file.stem}_{a.baseline}"
        if not out.exists():
            shutil.copytree(first / "units", out / "units", copy_function=os.link)
            shutil.copy(first / "commits.json", out)
    started = commits(out, commit())
    study(asked, out, base=a.data, device=a.device, ray=a.ray, ray_cpus=a.ray_cpus, resume=True,
          talk=Talk())  # fmt: skip
    with (out / "comparisons.csv").open() as stream:
        rows = [
            {k: _figure(v) for k, v in row.items()}
            for row in csv.DictReader(stream)
            if row["metric"] in KEPT
        ]
    hearts = out / "cardiac_arms.csv"
    outcomes = json.loads((out / "outcomes.json").read_text())
    result = {
        "study": asked.model_dump(mode="json", exclude_unset=True),
        "protocol": asked.hash,
        "conclusions": [
            line.strip("*") for line in (out / "report.md").read_text().splitlines()
            if line.startswith("**")
        ],
        "comparisons": rows,
        "cardiac function": _table(hearts) if hearts.exists() else None,
        "hours": sum(o["seconds"] for o in outcomes) / 3600,
        "units": {
            status: sum(o["status"] == status for o in outcomes)
            for status in ("done", "failed", "skipped")
        },
        "ray": None if a.ray is None else {"address": a.ray, "cpus_each": a.ray_cpus},
        "device": describe_device(resolve_device(a.device)),
        "versions": one_or_all(
            versions_of(out, [o["key"] for o in outcomes if o["status"] == "done"])
        ),
        "commit": started,
    }  # fmt: skip
    save(out.name, result)
    for line in result["conclusions"]:
        print(line)


def _table(path):
    with path.open() as stream:
        return [{k: _figure(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def _figure(text: str) -> str | float | None:
    if not text:
        return None
    try:
        return round(float(text), 5)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
