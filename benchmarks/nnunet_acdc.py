"""nnU-Net 2d on real cases and on real and synthetic ones, by one plan, end to end on ACDC.

    python benchmarks/nnunet_acdc.py DATA OUT [--epochs 3 --iterations 8] [--work scratch/nnunet]

DATA holds Dataset027_ACDC and splits.json; OUT is what `augmint augment` made of it (adherence.py
leaves one in its work folder). At the default length, minutes on two cores, it shows that all parts
fit together and nothing else; a comparison needs hundreds of epochs on a GPU. Needs the extra
`nnunet`. Writes benchmarks/results/nnunet_acdc.json.
"""

import argparse
import json
import time
from importlib.metadata import version as installed
from pathlib import Path

from augmint.data.splits import draw_patients
from augmint.fit import describe_device, resolve_device, versions
from augmint.nnunet import predict_nnunet, prepare_nnunet, train_nnunet
from augmint.progress import Talk
from augmint.score import score
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--iterations", type=int, default=8)
parser.add_argument("--memory-gb", type=float, default=0.5, help="for nnU-Net's planner")
parser.add_argument("--patients", type=int, default=3, help="of the test part, to predict")
parser.add_argument("--work", type=Path, default=Path("scratch/nnunet"))
parser.add_argument("--device", default="auto")


def main() -> None:
    a = parser.parse_args()
    version, talk, minutes = commit(), Talk(), {}
    whole = a.data / "Dataset027_ACDC"
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    tested = draw_patients(split["test"], a.patients, 0)
    folders = {k: a.work / k for k in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    made = prepare_nnunet(
        a.out, **folders, configurations=("2d",), gpu_memory_gb=a.memory_gb, epochs=a.epochs,
        iterations=a.iterations, validation_iterations=2, talk=talk,
    )  # fmt: skip
    minutes["prepare"] = (time.monotonic() - start) / 60
    (fold,) = made.folds
    plan = json.loads((made.folder / f"{made.arms[0]}.json").read_text())["configurations"]["2d"]
    arms = {}
    for arm in made.arms:
        start = time.monotonic()
        train_nnunet(
            made.dataset, arm, fold=fold, **folders, device=a.device, resume=True, talk=talk
        )
        minutes[f"train {arm}"] = (time.monotonic() - start) / 60
        start, predicted = time.monotonic(), a.work / f"predictions_{arm}"
        predict_nnunet(
            made.dataset, arm, whole, predicted, folds=(fold,), patients=tested, **folders,
            device=a.device, resume=True, talk=talk,
        )  # fmt: skip
        minutes[f"predict {arm}"] = (time.monotonic() - start) / 60
        summary = score(
            predicted, whole, a.work / f"scores_{arm}", patients=tested, resume=True, talk=talk
        )
        arms[arm] = summary.to_dict()
    result = {
        "what": "plumbing, no comparison: nnU-Net 2d at toy length",
        "epochs": a.epochs, "iterations": a.iterations, "fold": fold, "patients": list(tested),
        "plan": {k: plan[k] for k in ("batch_size", "patch_size") if k in plan},
        "arms": arms, "minutes": minutes, "nnunetv2": installed("nnunetv2"),
        "device": describe_device(resolve_device(a.device)), "versions": versions(),
        "commit": version,
    }  # fmt: skip
    save("nnunet_acdc", result)


if __name__ == "__main__":
    main()
