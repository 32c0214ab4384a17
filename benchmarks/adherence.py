"""The main job on real data, and how well its pairs follow their masks.

    python benchmarks/adherence.py DATA acdc|camus|hippocampus [--preset quick] [--patients N]

DATA holds the datasets and splits.json. Generator and gate see some patients of the train part;
the judge, another architecture, is fitted on train patients that they did not see; the masks
judged are those of the validation part, which none of them saw. Writes
benchmarks/results/<name>_<preset>.json and leaves the dataset to look at in --work. Every stage
continues after a stop.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml

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

FOLDERS = {
    "acdc": "Dataset027_ACDC",
    "camus": "Dataset050_CAMUS",
    "hippocampus": "Dataset004_Hippocampus",
}
parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("name", choices=FOLDERS)
parser.add_argument("--patients", type=int, default=10)
parser.add_argument("--judge-patients", type=int, default=46)
parser.add_argument("--steps", type=int, default=None, help="of the generator; the preset's")
parser.add_argument("--judge-steps", type=int, default=1200)
parser.add_argument("--copies", type=int, default=5)
parser.add_argument("--preset", default="quick")
parser.add_argument("--set", action="append", default=[], help="a field of the method, name=value")
parser.add_argument("--work", type=Path, default=Path("scratch/adherence"))
parser.add_argument("--device", default="auto")


def main() -> None:
    a = parser.parse_args()
    talk, device, version = Talk(), resolve_device(a.device), commit()
    folder = FOLDERS[a.name]
    whole = open_dataset(a.data / folder)
    split = json.loads((a.data / "splits.json").read_text())[folder]
    train = draw_patients(split["train"], a.patients, 0)
    rest = [p for p in split["train"] if p not in train]
    others = draw_patients(rest, min(len(rest), a.judge_patients), 0)
    work = a.work / a.name
    work.mkdir(parents=True, exist_ok=True)
    out, unseen, judge_folder = work / "Dataset129_Synthetic", work / "unseen", work / "judge"
    settings = dict(pair.split("=", 1) for pair in a.set)
    start = time.monotonic()
    if not out.exists():
        augment(
            whole, out, patients=train, held_fraction=0, preset=a.preset, steps=a.steps,
            copies=a.copies, settings=settings, device=a.device, resume=True, talk=talk,
        )  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        spent = {"minutes": (time.monotonic() - start) / 60, "peak_memory_gb": peak}
        (work / "spent.json").write_text(json.dumps(spent))
    donors = whole.select(patients=split["validation"][:10])
    if not unseen.exists():
        generate(out / "run", donors, unseen, copies=2, device=a.device, resume=True, talk=talk)
    fitted = load_run(out / "run", device="cpu")
    grid = fitted.facts.grid
    if not judge_folder.exists():
        sizes = preset_named(a.preset)
        pool = prepare(whole.select(patients=others), sizes, talk=talk).pool
        segmenter = SegmenterConfig(
            network="attention_unet", width=16, steps=a.judge_steps, lr=1e-3, seed=100,
            batch_size=16 if grid.dims == 2 else 2 * sizes.batch_size_3d,
        )  # fmt: skip
        with talk.bar("judge", segmenter.steps) as update:
            network = fit_segmenter(
                segmenter, pool.crop(grid.window), num_classes=fitted.facts.num_classes,
                folder=work / "judge_fit", device=device, resume=True,
                progress=lambda done: update(done, ""),
            )  # fmt: skip
        save_segmenter(judge_folder, network)
    judge = [load_segmenter(judge_folder, device)[0]]
    judged: dict[str, dict[str, list[float]]] = {"real": {}, "synthetic": {}}
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
    config = yaml.safe_load((out / "run" / "config.yaml").read_text())
    cost = run["cost"][0]
    table = {
        kind: {n: {"mean": float(np.mean(v)), "std": float(np.std(v)), "cases": len(v)}
               for n, v in found.items()}
        for kind, found in judged.items()
    }  # fmt: skip
    result = {
        "what": "adherence by an independent judge, all pairs before gating, masks of patients "
        "that generator, gate and judge never saw; Dice per whole case on the native grid",
        "grid": asdict(grid),
        "settings": settings,
        "generator_steps": config["training"]["steps"],
        "adherence": table,
        "accepted_share": run["counts"]["accepted"] / run["counts"]["synthetic"],
        "counts": run["counts"],
        "gate_thresholds": run["gates"][0]["thresholds"],
        "images_per_second": cost["images"] / cost["sampling_seconds"],
        "evaluations_per_image": getattr(fitted.method, "evaluations", None),
        "cost": cost,
        "main_job": json.loads((work / "spent.json").read_text()),
        "generator_patients": list(train),
        "judge_patients": list(others),
        "mask_patients": list(donors.patients),
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": version,
    }
    save(f"{a.name}_{a.preset}", result)
    for name in labels:
        real, new = table["real"][name], table["synthetic"][name]
        print(
            f"{name:10} judge on synthetic {new['mean']:.3f} +- {new['std']:.3f} "
            f"({new['cases']}), on real {real['mean']:.3f} +- {real['std']:.3f} ({real['cases']})"
        )
    spent = result["main_job"]
    print(
        f"accepted {result['accepted_share']:.0%}, {result['images_per_second']:.1f} images/s, "
        f"{spent['minutes']:.1f} min, {spent['peak_memory_gb']:.1f} GB"
    )


if __name__ == "__main__":
    main()
