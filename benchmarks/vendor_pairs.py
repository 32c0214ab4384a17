"""All pairs of phantom vendors: test images of the others shifted towards the one that trained.

    python benchmarks/vendor_pairs.py [--work scratch/vendor_pairs] [--sources A B C]

The test hearts are the same under every vendor, so that what differs is the scanner alone, and what
a perfect shift could reach is the Dice at home. Goes on after a stop. Writes
benchmarks/results/vendor_pairs.json; the three reports stay in --work.
"""

import argparse
import csv
from pathlib import Path

import yaml

from augmint.data.phantoms import make_phantoms
from augmint.fit import describe_device, resolve_device, versions
from augmint.progress import Talk
from augmint.study import read_study, study
from results import commit, commits, save

parser = argparse.ArgumentParser()
parser.add_argument("--work", type=Path, default=Path("scratch/vendor_pairs"))
parser.add_argument("--sources", nargs="+", default=["A", "B", "C"])
parser.add_argument("--patients", type=int, default=12, help="to train on, and as many to test on")
parser.add_argument("--steps", type=int, default=800, help="of the shift's network")
parser.add_argument("--segmenter-steps", type=int, default=800)
parser.add_argument("--device", default="auto")
VENDORS = ("A", "B", "C")
TRAIN_SEED, TEST_SEED = 0, 1
SHIFTS = {
    "histogram": {"translator": "histogram"},
    "fourier": {"translator": "fourier"},
    "bezier": {"translator": "bezier"},
    "sdedit": {"translator": "sdedit"},
    "ilvr": {"translator": "ilvr"},
    "inversion": {"translator": "inversion"},
    "curve_sdedit": {"translator": "sdedit", "curve": "bezier"},
}


def main() -> None:
    a = parser.parse_args()
    started = commits(a.work, commit())
    for vendor in VENDORS:
        cohort(a.work, "train", vendor, TRAIN_SEED, a.patients)
        cohort(a.work, "test", vendor, TEST_SEED, a.patients)
    found = {}
    for source in a.sources:
        file = a.work / f"from_{source}.yaml"
        file.write_text(yaml.safe_dump(asked(source, a), sort_keys=False))
        out = a.work / f"from_{source}"
        study(read_study(file), out, base=a.work, device=a.device, resume=True, talk=Talk())
        with (out / "comparisons.csv").open() as stream:
            found[source] = [
                row for row in csv.DictReader(stream) if row["metric"] in ("dice", "hd95", "assd")
            ]
    result = {
        "what": __doc__.splitlines()[0], "patients": a.patients, "steps": a.steps,
        "segmenter_steps": a.segmenter_steps, "seeds": {"train": TRAIN_SEED, "test": TEST_SEED},
        "comparisons": found, "device": describe_device(resolve_device(a.device)),
        "versions": versions(), "commit": started,
    }  # fmt: skip
    save("vendor_pairs", result)


def cohort(work: Path, part: str, vendor: str, seed: int, patients: int) -> None:
    folder = work / f"{part}_{vendor}"
    if not folder.exists():
        make_phantoms("cine-mr", out=folder, vendor=vendor, patients=patients, seed=seed)


def asked(source: str, a: argparse.Namespace) -> dict:
    """The study that trains on one vendor, as its file would say it."""
    shifts = {
        name: {"like": "stack", "adapt": {"settings": settings, "steps": a.steps}}
        for name, settings in SHIFTS.items()
    }
    styles = {"method": "reference_shift", "settings": {"translator": "styles"}, "copies": 4}
    return {
        "name": f"Phantoms: vendor {source} to the others",
        "data": f"train_{source}",
        "protocol": "adaptation",
        "tests": [{"name": f"vendor {v}", "data": f"test_{v}"} for v in VENDORS],
        "arms": {
            "stack": {"augmentation": "oriented"},
            "null": {"like": "stack", "null": True},
            "largest": {"like": "stack", "largest_component": True},
            **shifts,
            "styles": {"like": "stack", "synthetic": styles},
        },
        "baseline": "stack",
        "endpoint": {"test": f"vendor {next(v for v in VENDORS if v != source)}"},
        "seeds": [0],
        "segmenter_steps": a.segmenter_steps,
    }  # fmt: skip


if __name__ == "__main__":
    main()
