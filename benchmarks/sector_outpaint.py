"""Outpainted sectors of CAMUS patients that the networks never saw: looks, seams, distance, speed.

    python benchmarks/sector_outpaint.py DATA [--work scratch/sectors] [--only sheet seams ...]

DATA holds Dataset050_CAMUS and splits.json. Two networks of one size (for `conditional` and for
`repaint`) are fitted on the train patients, the sampler's settings were chosen on validation
patients, and all that is told is of test patients. A fit, and the fillings, are done once and found
again. Writes benchmarks/results/sector_outpaint.json and, in
--work, sheet.png: real frames, changed views filled in each way, ten patients, both views.

Seams and distances are of real frames, a part of which was taken for not recorded and filled:
filled and untouched frames then differ in nothing but the filling.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from augmint.data.dataset import open_dataset
from augmint.fit import describe_device, fit, load_run, resolve_device, versions
from augmint.methods import build_method
from augmint.progress import Talk
from augmint.quality.fidelity import (
    held_apart_distance,
    real_split_distance,
    standardise,
    texture_features,
)
from augmint.quality.seams import control_images, draw_partners, seam_auc, seam_points
from augmint.report import sheet, tile
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--work", type=Path, default=Path("scratch/sectors"))
parser.add_argument("--preset", default="demo")
parser.add_argument("--steps", type=int, default=1800)
parser.add_argument("--patients", type=int, default=40, help="test patients")
parser.add_argument("--device", default="auto")
parser.add_argument("--only", nargs="*", default=["sheet", "seams", "kernel", "speed"])
FITTED = ("conditional", "repaint")
FILLERS = ("conditional", "repaint", "mirror", "speckle", "black")
PUBLISHED = {"repaint_steps": 250, "jump_length": 10, "num_resamples": 10}
SEED = 0


def main() -> None:
    a = parser.parse_args()
    split = json.loads((a.data / "splits.json").read_text())["Dataset050_CAMUS"]
    dataset = open_dataset(a.data / "Dataset050_CAMUS")
    for filler in FITTED:
        if not (a.work / f"full_{filler}").exists():
            fit(
                dataset, a.work / f"full_{filler}", method="sector_outpaint",
                settings={"filler": filler}, preset=a.preset, steps=a.steps,
                patients=split["train"], device=a.device, resume=True, talk=Talk(),
            )  # fmt: skip
    runs = {f: load_run(a.work / f"full_{f}", device=a.device) for f in FITTED}
    facts = runs["conditional"].facts
    chosen = dataset.select(patients=split["test"][: a.patients])
    ends = [i for i in chosen.items if i.columns["phase"] == "ED"]
    result = {
        "patients": len(chosen.patients),
        "frames": len(ends),
        "window": list(facts.grid.window),
        "steps": {f: steps_of(a.work / f"full_{f}") for f in FITTED},
        "seed": SEED,
        "device": describe_device(resolve_device(a.device)),
        "versions": versions(),
        "commit": commit(),
    }
    cases = [facts.grid.to_working(chosen.load(i)) for i in ends]
    if "sheet" in a.only:
        look(a.work / "sheet.png", cases, runs)
    if {"seams", "kernel"} & set(a.only):
        scenes = {f: pretended(f, cases, runs) for f in FILLERS}
        filled = {f: painted(f, scenes[f], runs, a.work / f"{f}.pt") for f in FILLERS}
        views = [i.columns["view"] for i in ends]
        if "seams" in a.only:
            result["seam_auc"] = seams(cases, scenes["conditional"], filled, views)
        if "kernel" in a.only:
            result["kernel_distance"] = distances(cases, scenes["conditional"], filled)
    if "speed" in a.only:
        result["speed"] = speed(cases, runs)
    print(json.dumps(result, indent=1))
    save("sector_outpaint", result)


def steps_of(run):
    """How long a network was fitted, with the run that it started from."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    before = steps_of(Path(config["init"])) if config["init"] else 0
    return before + config["training"]["steps"]


def method_of(filler, runs, **settings):
    """A method with its network, where it has one."""
    if filler in runs:
        return replace(runs[filler].method, **settings), runs[filler].networks
    return build_method("sector_outpaint", {"filler": filler}), {}


def look(path, cases, runs):
    """A row for each view of ten patients: real, the changed view filled in each way, its mask."""
    names = sorted({c.patient_id for c in cases})[:10]
    shown = [c for c in cases if c.patient_id in names]
    facts = runs["conditional"].facts
    made = {}
    for filler in ("black", "repaint", "conditional"):
        method, networks = method_of(filler, runs)
        # Copy 1 for no better reason than that it is not the first.
        made[filler] = list(method.generate(networks, [(c, 1) for c in shown], facts, seed=SEED))
    rows, captions = [], []
    for k, real in enumerate(shown):
        row = [tile(real.image[0].numpy(), None, size=160)]
        row += [tile(made[f][k].image[0].numpy(), None) for f in made]
        row.append(
            tile(made["conditional"][k].image[0].numpy(), made["conditional"][k].mask.numpy())
        )
        rows.append(row)
        said = made["conditional"][k].provenance.details
        captions.append(
            f"{real.case_id}\ndepth {said['depth']:.2f}\ntilt {said['tilt']:.0f}\n"
            f"width {said['width']:.2f}\nnew {100 * said['new']:.0f} %"
        )
    columns = ["real", "black", "repaint", "conditional", "its mask"]
    sheet(path, rows, columns=columns, names=captions, labels=facts.labels)
    print(f"wrote {path}")


def pretended(filler, cases, runs):
    """Each frame with the part of it that is taken for not recorded; the same for all fillers."""
    method, _ = method_of(filler, runs)
    return [method.pretend(c, runs["conditional"].facts, seed=SEED) for c in cases]


def painted(filler, scenes, runs, kept):
    """(N, C, H, W): the frames with that part filled; kept in a file."""
    if not kept.exists():
        method, networks = method_of(filler, runs)
        start = time.perf_counter()
        images = torch.stack([c.image for c in method.fill(networks, scenes)])
        torch.save({"images": images}, kept)
        print(f"{filler}: {len(images)} frames in {time.perf_counter() - start:.0f} s")
    return torch.load(kept, weights_only=True)["images"]


def seams(cases, scenes, filled, views):
    """Seam AUC of each filling and of controls, each against other patients' untouched frames."""
    patients = [c.patient_id for c in cases]
    partner = draw_partners(patients, SEED)
    place = {(p, v): k for k, (p, v) in enumerate(zip(patients, views))}
    other = [place[partner[p], v] for p, v in zip(patients, views)]
    untouched = torch.stack([s.finished(s.recorded, 0).image for s in scenes])
    known = torch.stack([s.known for s in scenes])
    visible = torch.stack([s.visible for s in scenes])
    # What both frames of a pair show.
    common = visible & visible[other]
    sides = {**control_images(untouched, visible & ~known), **filled}
    found = {}
    for name, images in sides.items():
        one = seam_auc(
            untouched[other], images, seam_points(known, visible), [patients[k] for k in other],
            patients, sectors=common, seed=SEED,
        )  # fmt: skip
        found[name] = {
            "auc": round(one.auc, 3),
            "interval": [round(v, 3) for v in one.interval],
            "patches": one.patches,
        }
        print(name, found[name], flush=True)
    return found


def distances(cases, scenes, filled):
    """Kernel distance of filled frames of half the patients to real ones of the others."""
    patients = [c.patient_id for c in cases]
    visible = torch.stack([s.visible for s in scenes])
    untouched = torch.stack([s.finished(s.recorded, 0).image for s in scenes])
    real, *made = standardise(
        texture_features(untouched, visible),
        *(texture_features(images, visible) for images in filled.values()),
    )
    split = real_split_distance(real, patients, seed=SEED)
    found = {"real to real": {"value": split.value, "deviation": split.deviation}}
    for name, features in zip(filled, made):
        one = held_apart_distance(real, patients, features, patients, seed=SEED)
        found[name] = {
            "value": one.value,
            "deviation": one.deviation,
            "quantile of real to real": split.quantile(one.value),
        }
    for name, line in found.items():
        print(name, line, flush=True)
    return found


def speed(cases, runs, *, batch=4):
    """Wall-clock seconds for one batch, both schedules on this machine in one run."""
    facts = runs["conditional"].facts
    orders = [(c, 0) for c in cases[:batch]]
    found = {}
    for name, filler, settings, repeats in (
        ("conditional", "conditional", {}, 5),
        ("repaint", "repaint", {}, 1),
        ("repaint, published", "repaint", PUBLISHED, 1),
        ("conditional, again", "conditional", {}, 5),
    ):
        method, networks = method_of(filler, runs, batch_size=batch, **settings)
        scenes = list(method._scenes(orders, facts, SEED))
        if "conditional" in name:
            list(method.fill(networks, scenes))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            list(method.fill(networks, scenes))
            seconds.append((time.perf_counter() - start) / batch)
        found[name] = {
            "evaluations": method.evaluations,
            "seconds per image": [round(s, 4) for s in sorted(seconds)],
        }
        print(name, found[name], flush=True)
    best = min(s for n in found if "cond" in n for s in found[n]["seconds per image"])
    worst = max(s for n in found if "cond" in n for s in found[n]["seconds per image"])
    long = found["repaint, published"]["seconds per image"][0]
    found["times as fast"] = [round(long / worst), round(long / best)]
    found["threads"] = torch.get_num_threads()
    return found


if __name__ == "__main__":
    main()
