"""Do synthetic pairs help a segmenter with few patients? The first honest comparison.

    python benchmarks/first_comparison.py DATA [--draws 3] [--seeds 2] [--work scratch/compare]

For each draw of `--patients` ACDC train patients: one generator and one gate on those patients
alone; then a U-Net with strong classical augmentation, (a) on the real pairs, (b) on the same with
half of each batch drawn from the accepted synthetic pairs. Same steps, same network, same seeds.
The classical augmentation is the one that baseline.py found best on validation patients.
Tested on ACDC's test part and on all of Sunnybrook (LV and MYO; another vendor), whole cases on
the native grid, cases averaged within a patient. Nothing is chosen on a test patient. Writes
benchmarks/results/first_comparison.json; every finished part is kept and not done again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from augmint.augment import augment
from augmint.data.dataset import open_dataset
from augmint.data.pool import build_pool
from augmint.data.splits import check_synthetic, draw_patients
from augmint.evaluation.score import per_patient, read_scores, score_case, write_scores
from augmint.evaluation.statistics import Measurements, paired_difference
from augmint.fit import (
    describe_device,
    load_run,
    resolve_device,
    versions,
)
from augmint.progress import Talk
from augmint.segmentation.cases import predict_case
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.synthetic import load_rows
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--patients", type=int, default=5)
parser.add_argument("--draws", type=int, default=3)
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--preset", default="quick")
parser.add_argument("--steps", type=int, default=1000, help="of each generator")
parser.add_argument("--copies", type=int, default=5)
parser.add_argument("--gate-steps", type=int, default=None)
parser.add_argument("--segmenter-steps", type=int, default=1200)
parser.add_argument("--augmentation", default=None, help="default: the best of baseline.json")
parser.add_argument("--work", type=Path, default=Path("scratch/compare"))
parser.add_argument("--device", default="auto")
ARMS = ("real", "real + synthetic")
METRICS = ("dice", "precision", "recall", "hd95", "assd")


def main() -> None:
    a = parser.parse_args()
    talk, device, version = Talk(), resolve_device(a.device), commit()
    acdc = open_dataset(a.data / "Dataset027_ACDC")
    sunnybrook = open_dataset(a.data / "Dataset060_Sunnybrook")
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    tests = {"ACDC": acdc.select(patients=split["test"]), "Sunnybrook": sunnybrook}
    augmentation = a.augmentation or best_on_validation()
    talk.say(f"classical augmentation: {augmentation}")
    shares = []
    for draw in range(a.draws):
        train = draw_patients(split["train"], a.patients, draw)
        work = a.work / f"draw_{draw}"
        work.mkdir(parents=True, exist_ok=True)
        out = work / "Dataset128_Synthetic"
        if not out.exists():
            augment(
                acdc, out, patients=train, held_fraction=0, preset=a.preset, steps=a.steps,
                gate_steps=a.gate_steps, copies=a.copies, seed=draw, device=a.device, resume=True,
                talk=talk,
            )  # fmt: skip
        run = json.loads((out / "run.json").read_text())
        shares.append(run["counts"]["accepted"] / run["counts"]["synthetic"])
        rows = [r for r in load_rows(out) if r["synthetic"] == "1" and r["accepted"] == "1"]
        check_synthetic(rows, run, [*split["test"], *split["validation"]])
        made = open_dataset(out)
        grid = load_run(out / "run", device="cpu").facts.grid
        real = build_pool((made.load(i) for i in made.items if not i.synthetic), grid)
        synthetic = build_pool((made.load(i) for i in made.items if i.synthetic), grid)
        real, synthetic = real.crop(grid.window), synthetic.crop(grid.window)
        for seed in range(a.seeds):
            for arm in ARMS:
                name = fit_name(arm, augmentation, seed)
                if all((work / f"{name}_{t}.csv").exists() for t in tests):
                    continue
                config = SegmenterConfig(
                    steps=a.segmenter_steps, seed=seed, augmentation=augmentation
                )
                with talk.bar(f"draw {draw} {name}", config.steps) as update:
                    network = fit_segmenter(
                        config, real, None if arm == "real" else synthetic,
                        num_classes=4, device=device, progress=lambda done: update(done, ""),
                    )  # fmt: skip
                for test, dataset in tests.items():
                    scores = []
                    for case in dataset:
                        found = predict_case([network], case, grid, device=device)
                        scores += score_case(
                            case.mask, found, dataset.labels, case.grid, case.case_id,
                            case.patient_id, case.annotated,
                        )  # fmt: skip
                    write_scores(scores, work / f"{name}_{test}.csv")
    result = {
        "what": f"{a.patients} ACDC train patients, {a.draws} draws, {a.seeds} segmenter seeds",
        "accepted_share": shares,
        "generator_steps": a.steps,
        "gate_steps": a.gate_steps,
        "copies": a.copies,
        "segmenter_steps": a.segmenter_steps,
        "augmentation": augmentation,
        "tests": {t: compare(a, t, augmentation) for t in tests},
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": version,
    }
    save("first_comparison", result)
    for test, found in result["tests"].items():
        for metric, line in found.items():
            arms = ", ".join(f"{arm} {line['arms'][arm]['mean']:.3f}" for arm in ARMS)
            low, high = line["interval"] or (np.nan, np.nan)
            noise = line["seed_noise"]
            seeds = "" if noise is None else f"; another seed moves an arm by {noise:.3f}"
            print(
                f"{test:10} {metric:9} {arms}; difference {line['estimate']:+.3f} "
                f"[{low:+.3f}, {high:+.3f}], p = {line['p']:.3f}{seeds}"
            )


def best_on_validation() -> str:
    """The augmentation with the highest validation Dice in benchmarks/results/baseline.json."""
    found = json.loads((Path(__file__).parent / "results" / "baseline.json").read_text())["dice"]
    return max(found, key=lambda name: found[name]["mean"])


def fit_name(arm: str, augmentation: str, seed: int) -> str:
    """Names the tables of one fit."""
    return f"{arm.replace(' + ', '_')}_{augmentation}_{seed}"


def compare(a: argparse.Namespace, test: str, augmentation: str) -> dict:
    """Means per arm and the paired difference, with the interval that counts draws and patients."""
    result = {}
    for metric in METRICS:
        arms, patients = {}, ()
        for arm in ARMS:
            tables = [
                [
                    table(
                        a.work / f"draw_{d}" / f"{fit_name(arm, augmentation, s)}_{test}.csv",
                        metric,
                    )
                    for s in range(a.seeds)
                ]
                for d in range(a.draws)
            ]
            patients = tuple(tables[0][0])
            figures = np.array([[list(t.values()) for t in row] for row in tables], float)
            arms[arm] = Measurements(
                figures, patients, tuple(range(a.draws)), tuple(range(a.seeds))
            )
        found = paired_difference(arms[ARMS[1]], arms[ARMS[0]])
        result[metric] = {
            "arms": {
                arm: {
                    "mean": float(np.nanmean(m.figures)),
                    "by_draw_and_seed": np.nanmean(m.figures, -1).tolist(),
                }
                for arm, m in arms.items()
            },
            "difference_by_draw": np.nanmean(
                arms[ARMS[1]].figures - arms[ARMS[0]].figures, (1, 2)
            ).tolist(),
            **found.to_dict(),
        }
    return result


def table(path: Path, metric: str) -> dict[str, float]:
    """Patient to figure: cases averaged, then labels; undefined ones left out."""
    rows = read_scores(path)
    means = per_patient(rows, metric)
    return {p: means.get((p, "mean"), np.nan) for p in sorted({r.patient for r in rows})}


if __name__ == "__main__":
    main()
