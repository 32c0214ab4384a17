"""The main job on few ACDC patients, and how well its pairs follow their masks.

    python benchmarks/acdc_quick.py DATA [--patients 10] [--work scratch/acdc] [--preset quick]

DATA holds Dataset027_ACDC and splits.json. The generator and its gate see `--patients` patients of
the train part. The judge is another architecture, fitted on the other train patients; the masks
that it judges are those of the validation part, which neither saw. Writes
benchmarks/results/acdc_<preset>_<patients>.json. Every stage continues after a stop.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from augmint.augment import augment
from augmint.data.dataset import open_dataset
from augmint.data.splits import draw_patients
from augmint.fit import (
    describe_device,
    load_run,
    resolve_device,
    versions,
)
from augmint.generate import generate
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.agreement import agreement_of
from augmint.segmentation.cases import predict_case
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--patients", type=int, default=10)
parser.add_argument("--preset", default="quick")
parser.add_argument("--work", type=Path, default=Path("scratch/acdc"))
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--copies", type=int, default=5)
parser.add_argument("--judge-steps", type=int, default=1200)
parser.add_argument("--device", default="auto")


def main() -> None:
    a = parser.parse_args()
    talk, device = Talk(), resolve_device(a.device)
    a.work.mkdir(parents=True, exist_ok=True)
    whole = open_dataset(a.data / "Dataset027_ACDC")
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    train = draw_patients(split["train"], a.patients, a.seed)
    others = [p for p in split["train"] if p not in train]
    out, donors = a.work / "Dataset127_ACDCx", whole.select(patients=split["validation"])
    start = time.monotonic()
    if not out.exists():
        augment(
            whole, out, patients=train, held_fraction=0, preset=a.preset, copies=a.copies,
            seed=a.seed, device=a.device, resume=True, talk=talk,
        )  # fmt: skip
        (a.work / "wall.json").write_text(json.dumps(time.monotonic() - start))
    unseen = a.work / "unseen_masks"
    if not unseen.exists():
        generate(out / "run", donors, unseen, copies=2, device=a.device, resume=True, talk=talk)
    fitted = load_run(out / "run", device="cpu")
    grid = fitted.facts.grid
    judge_folder = a.work / "judge"
    if not judge_folder.exists():
        pool = prepare(whole.select(patients=others), preset_named(a.preset), talk=talk).pool
        config = SegmenterConfig(
            network="attention_unet", width=16, steps=a.judge_steps, lr=1e-3, seed=100
        )
        with talk.bar("judge", config.steps) as update:
            network = fit_segmenter(
                config, pool.crop(grid.window), num_classes=fitted.facts.num_classes,
                folder=a.work / "judge_fit", device=device, resume=True,
                progress=lambda done: update(done, ""),
            )  # fmt: skip
        save_segmenter(judge_folder, network)
    judge = [load_segmenter(judge_folder, device)[0]]
    judged = {"real": {}, "synthetic": {}}
    labels = {n: i for n, i in whole.labels.items() if i}
    made = open_dataset(unseen)
    for item in made.items:
        case = made.load(item)
        found = predict_case(judge, case, grid, device=device).numpy()
        kind = judged["synthetic" if item.synthetic else "real"]
        for name, value in agreement_of(case, found, labels).items():
            if value is not None and bool((case.mask == labels[name]).any()):
                kind.setdefault(name, []).append(value)
    run = json.loads((out / "run.json").read_text())
    cost = run["cost"][0]
    table = {
        kind: {n: {"mean": float(np.mean(v)), "std": float(np.std(v)), "cases": len(v)}
               for n, v in found.items()}
        for kind, found in judged.items()
    }  # fmt: skip
    result = {
        "what": "adherence by an independent judge, all pairs before gating, masks of patients "
        "that generator, gate and judge never saw; Dice per whole volume on the native grid",
        "adherence": table,
        "accepted_share": run["counts"]["accepted"] / run["counts"]["synthetic"],
        "counts": run["counts"],
        "gate_thresholds": run["gates"][0]["thresholds"],
        "evaluations_per_image": 6,
        "images_per_second": cost["images"] / cost["sampling_seconds"],
        "wall_minutes": json.loads((a.work / "wall.json").read_text()) / 60,
        "cost": cost,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "generator_patients": list(train),
        "judge_patients": others,
        "mask_patients": split["validation"],
        "seed": a.seed,
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
    }
    save(f"acdc_{a.preset}_{a.patients}", result)
    for name in labels:
        real, new = table["real"][name], table["synthetic"][name]
        print(
            f"{name:4} judge on synthetic {new['mean']:.3f} +- {new['std']:.3f} ({new['cases']}), "
            f"on real {real['mean']:.3f} +- {real['std']:.3f} ({real['cases']})"
        )
    print(
        f"accepted {result['accepted_share']:.0%}, {result['images_per_second']:.1f} images/s, "
        f"{result['wall_minutes']:.1f} min, {result['peak_memory_gb']:.1f} GB"
    )


if __name__ == "__main__":
    main()
