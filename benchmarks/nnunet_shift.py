"""nnU-Net, 2-D and 3-D, on a scanner that it never saw: as it is, and after each shift.

    python benchmarks/nnunet_shift.py DATA [--configurations 2d 3d_fullres] [--epochs 250]

DATA holds Dataset027_ACDC, Dataset060_Sunnybrook and splits.json. One plan and two arms for each
configuration: real cases alone, and half of each batch from source-like images (generalisation).
The first arm segments Sunnybrook's stacked slices as they are and after each shift (adaptation).
LV and MYO, paired by patient with images as they are; Welch's test stands beside. The default
length needs a GPU; a toy length shows that all parts fit together and nothing else, and the result
says so. Needs the extra `nnunet`. Goes on after a stop. Writes
benchmarks/results/nnunet_shift.json.
"""

import argparse
import json
from importlib.metadata import version as installed
from pathlib import Path

from augmint.adapt import adapt
from augmint.augment import augment
from augmint.data.dataset import open_dataset
from augmint.evaluation.difference import paired_difference
from augmint.evaluation.measurements import Measurements
from augmint.evaluation.score import read_scores
from augmint.fit import describe_device, fit, resolve_device, versions
from augmint.nnunet import predict_nnunet, prepare_nnunet, train_nnunet
from augmint.progress import Talk
from augmint.score import score
from augmint.stacking import stack
from results import commit, commits, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--configurations", nargs="+", default=["2d", "3d_fullres"])
parser.add_argument("--epochs", type=int, default=250)
parser.add_argument("--iterations", type=int, default=250, help="of an epoch, as in nnU-Net")
parser.add_argument("--steps", type=int, default=1500, help="of the shift's network")
parser.add_argument("--preset", default="quick", help="of the shift's network")
parser.add_argument("--memory-gb", type=float, default=None, help="for nnU-Net's planner")
parser.add_argument("--patients", type=int, default=None, help="of each part, for a toy run")
parser.add_argument("--work", type=Path, default=Path("scratch/nnunet_shift"))
parser.add_argument("--device", default="auto")
SHIFTS = {
    "histogram": {"translator": "histogram"},
    "fourier": {"translator": "fourier"},
    "bezier": {"translator": "bezier"},
    "sdedit": {"translator": "sdedit"},
    "ilvr": {"translator": "ilvr"},
    "inversion": {"translator": "inversion"},
    "curve_sdedit": {"translator": "sdedit", "curve": "bezier"},
}
METRICS = ("dice", "hd95", "assd")
# nnU-Net's own; shorter ones say nothing of how well it segments.
LENGTH = 250 * 250
SEED = 0


def main() -> None:
    a = parser.parse_args()
    started, talk = commits(a.work, commit()), Talk()
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    source = open_dataset(a.data / "Dataset027_ACDC").select(patients=split["train"][: a.patients])
    steps = {"preset": a.preset, "steps": a.steps, "device": a.device, "resume": True, "talk": talk}
    run, mixed, volumes = (a.work / name for name in ("run", "redrawn", "volumes"))
    if not run.exists():
        fit(source, run, method="reference_shift", **steps)
    if not mixed.exists():
        augment(source, mixed, method="reference_shift", copies=1, **steps)
    if not volumes.exists():
        stack(
            a.data / "Dataset060_Sunnybrook", volumes, patients=a.patients, resume=True, talk=talk
        )
    targets = {"as it is": volumes}
    for name, settings in SHIFTS.items():
        targets[name] = a.work / f"adapted_{name}"
        if not targets[name].exists():
            adapt(
                run, volumes, targets[name], settings=settings, device=a.device, resume=True,
                talk=talk,
            )  # fmt: skip
    found = {c: compare(c, mixed, targets, a, talk) for c in a.configurations}
    whole = a.epochs * a.iterations >= LENGTH and a.patients is None
    result = {
        "what": "Sunnybrook, paired by patient with images as they are" if whole
        else "plumbing, no comparison: nnU-Net at toy length",
        "epochs": a.epochs, "iterations": a.iterations, "preset": a.preset,
        "steps": a.steps, "seed": SEED,
        "configurations": found, "nnunetv2": installed("nnunetv2"),
        "device": describe_device(resolve_device(a.device)), "versions": versions(),
        "commit": started,
    }  # fmt: skip
    save("nnunet_shift", result)


def compare(configuration, mixed, targets, a, talk):
    """Arm to metric to its difference from the first arm on images as they are."""
    folders = {k: a.work / "nnunet" / k for k in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    made = prepare_nnunet(
        mixed, **folders, configurations=(configuration,), gpu_memory_gb=a.memory_gb,
        epochs=a.epochs, iterations=a.iterations, talk=talk,
    )  # fmt: skip
    (fold,) = made.folds
    real, half = made.arms
    for arm in (real, half):
        train_nnunet(
            made.dataset, arm, configuration=configuration, fold=fold, **folders,
            device=a.device, resume=True, talk=talk,
        )  # fmt: skip
    jobs = {name: (real, folder) for name, folder in targets.items()}
    jobs["redrawn"] = (half, targets["as it is"])
    scores = {}
    for name, (arm, folder) in jobs.items():
        out = a.work / configuration / name.replace(" ", "_")
        if not (out / "predictions").exists():
            predict_nnunet(
                made.dataset, arm, folder, out / "predictions", configuration=configuration,
                folds=(fold,), **folders, device=a.device, resume=True, talk=talk,
            )  # fmt: skip
        if not (out / "scores").exists():
            score(out / "predictions", targets["as it is"], out / "scores", talk=talk)
        scores[name] = {m: measured(out / "scores" / "scores.csv", m) for m in METRICS}
    baseline = scores["as it is"]
    return {
        name: {m: paired_difference(own[m], baseline[m], seed=SEED).to_dict() for m in METRICS}
        for name, own in scores.items()
    }


def measured(path: Path, metric: str) -> Measurements:
    """The mean of a metric over labels and cases of each patient."""
    return Measurements.from_rows({(0, SEED): read_scores(path)}, metric)


if __name__ == "__main__":
    main()
