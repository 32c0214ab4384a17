"""Which classical augmentation is the baseline to beat? Chosen on validation patients alone.

    python benchmarks/baseline.py DATA [--draws 3] [--seeds 1] [--work scratch/baseline]

Fits the U-Net of the first comparison on the same draws of `--patients` ACDC train patients, once
for each augmentation, and scores whole cases of the validation part on their native grid. No test
patient is opened. Writes benchmarks/results/baseline.json; every finished fit is kept.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from augmint.data.dataset import open_dataset
from augmint.data.splits import draw_patients
from augmint.evaluation.score import read_scores, score_case, write_scores
from augmint.fit import describe_device, resolve_device, versions
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.segmentation.augmentation import AUGMENTATIONS
from augmint.segmentation.cases import predict_case
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--patients", type=int, default=5)
parser.add_argument("--draws", type=int, default=3)
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--preset", default="quick")
parser.add_argument("--segmenter-steps", type=int, default=1200)
parser.add_argument("--work", type=Path, default=Path("scratch/baseline"))
parser.add_argument("--device", default="auto")
parser.add_argument("--augmentations", nargs="+", default=list(AUGMENTATIONS))


def main() -> None:
    a = parser.parse_args()
    talk, device, version = Talk(), resolve_device(a.device), commit()
    acdc = open_dataset(a.data / "Dataset027_ACDC")
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    validation = list(acdc.select(patients=split["validation"]))
    a.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[list[float]]] = {}
    for draw in range(a.draws):
        train = draw_patients(split["train"], a.patients, draw)
        prepared = prepare(acdc.select(patients=train), preset_named(a.preset), talk=talk)
        grid = prepared.facts.grid
        for name in a.augmentations:
            for seed in range(a.seeds):
                table = a.work / f"{name}_{draw}_{seed}.csv"
                if not table.exists():
                    config = SegmenterConfig(steps=a.segmenter_steps, seed=seed, augmentation=name)
                    with talk.bar(f"draw {draw} {name} {seed}", config.steps) as update:
                        network = fit_segmenter(
                            config, prepared.pool.crop(grid.window), num_classes=4, device=device,
                            progress=lambda done: update(done, ""),
                        )  # fmt: skip
                    scores = []
                    for case in validation:
                        mask = predict_case([network], case, grid, device=device)
                        scores += score_case(
                            case.mask, mask, acdc.labels, case.grid, case.case_id,
                            case.patient_id, case.annotated,
                        )  # fmt: skip
                    write_scores(scores, table)
                dice = [s.dice for s in read_scores(table) if s.dice is not None]
                found.setdefault(name, []).append([draw, seed, float(np.mean(dice))])
    result = {
        "what": f"{a.patients} ACDC train patients, {a.draws} draws, {a.seeds} seeds; mean Dice on "
        f"the {len(split['validation'])} validation patients",
        "segmenter_steps": a.segmenter_steps,
        "dice": {
            name: {"mean": float(np.mean([v for *_, v in rows])), "draw_seed_dice": rows}
            for name, rows in found.items()
        },
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": version,
    }
    save("baseline", result)
    for name, entry in result["dice"].items():
        each = ", ".join(f"{v:.3f}" for *_, v in entry["draw_seed_dice"])
        print(f"{name:12} {entry['mean']:.3f}   ({each})")


if __name__ == "__main__":
    main()
