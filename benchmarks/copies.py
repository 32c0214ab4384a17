"""Are planted copies of training images found, and unseen patients left alone?

    python benchmarks/copies.py DATA [--work scratch/copies] [--only acdc camus] [--device cpu]

DATA holds Dataset027_ACDC, Dataset050_CAMUS and splits.json. The index has every slice (frame) of
the train patients. The threshold is learned from validation patients and, each compared with all
others, from up to 100 train patients. Then 300 changed copies of train images are looked for among
1,000 others: real slices of test patients, phantoms, train images warped strongly, and train images
put together of quarters of four patients. Only the first of these tell the rate of false alarms: a
quarter of an image is a copy in part. Test patients of whom an image is stored, bit by bit, under a
train patient's name as well are no unseen patients; they are named and counted apart. Changes
beyond those planted are measured too. Writes benchmarks/results/copies.json and, in --work, sheets
of the planted copies that were least alike and of the test images that came closest, each beside
the train image it was taken for.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.fit import describe_device, versions
from augmint.imaging.warps import WarpRange, random_warp, warp_image
from augmint.quality.copies import (
    Calibration,
    calibrate,
    clopper_pearson,
    closest,
    copy_rate,
    membership_auc,
)
from augmint.quality.memorisation import (
    CopyIndex,
    Match,
    Picture,
    index_pictures,
    nearest,
    pictures_of,
)
from augmint.quality.planted import plant_copies
from augmint.report import sheet, tile
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--work", type=Path, default=Path("scratch/copies"))
parser.add_argument("--only", nargs="*", default=["acdc", "camus"])
parser.add_argument("--device", default="cpu")
NAMES = {"acdc": "Dataset027_ACDC", "camus": "Dataset050_CAMUS"}
PHANTOMS = {"acdc": ("cine-mr", 12), "camus": ("apical-ultrasound", 38)}
PLANTED, OTHERS, DRAWN, BEYOND = 300, 1000, 150, 25
# Train patients that help to learn the threshold, beside all validation patients.
TRAIN_PATIENTS = 100
SEED = 0
STRONG = WarpRange(rotation_deg=60, scale=0.5, shift=0.15, elastic=0.06)
PLAIN = WarpRange(0, 0, 0, 0)


def pictures(data: Path, part: str) -> list[Picture]:
    """All slices of the patients of one part, or of a whole dataset."""
    dataset = open_dataset(data)
    known = set(dataset.patients)
    if part:
        split = json.loads((data.parent / "splits.json").read_text())[data.name]
        known = set(split[part])
    cases = (dataset.load(item) for item in dataset.items if item.patient_id in known)
    return [replace(p, image=p.image.half()) for p in pictures_of(cases)]


def warped(image: Tensor, warp: WarpRange, rng: np.random.Generator) -> Tensor:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    shape = image.shape[1:]
    return warp_image(image[None].float(), random_warp(warp, 1, shape, shape, generator))[0]


def quarters(train: list[Picture], rng: np.random.Generator) -> Tensor:
    """Four patients' quarters in one image, as large as the first."""
    first, *rest = (train[i].image.float() for i in rng.choice(len(train), 4, replace=False))
    shape = first.shape[1:]
    out = first.clone()
    half = shape[0] // 2, shape[1] // 2
    for other, (y, x) in zip(rest, ((0, 1), (1, 0), (1, 1))):
        fitted = F.interpolate(other[None], shape, mode="bilinear", align_corners=False)[0]
        place = (
            slice(y * half[0], None if y else half[0]),
            slice(x * half[1], None if x else half[1]),
        )
        out[:, place[0], place[1]] = fitted[:, place[0], place[1]]
    return out


def blurred(image: Tensor, sigma: float) -> Tensor:
    at = torch.arange(-9, 10.0)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = F.pad(image[None].float(), (9, 9, 9, 9), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.mT)[0].clamp(-1, 1)


def coarser(image: Tensor, side: int) -> Tensor:
    small = F.interpolate(
        image[None].float(), (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    back = F.interpolate(small, image.shape[1:], mode="bicubic", align_corners=False)
    return back[0].clamp(-1, 1)


BEYONDS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "blur of 2 pixels": lambda image, rng: blurred(image, 2.0),
    "through 64 x 64": lambda image, rng: coarser(image, 64),
    "scale up to 15 %": lambda image, rng: warped(image, replace(PLAIN, scale=0.15), rng),
    "elastic 0.6 %": lambda image, rng: warped(image, replace(PLAIN, elastic=0.006), rng),
    "elastic 1.2 %": lambda image, rng: warped(image, replace(PLAIN, elastic=0.012), rng),
    "all of this package's mild warps": lambda image, rng: warped(image, WarpRange(), rng),
}


def stored_twice(test: list[Picture], train: list[Picture]) -> dict[str, str]:
    """Test images that are train images, bit by bit: found without the index."""
    of = {(p.image.shape, p.image.numpy().tobytes()): p.name for p in train}
    keys = {p.name: (p.image.shape, p.image.numpy().tobytes()) for p in test}
    return {name: of[key] for name, key in keys.items() if key in of}


def share(values: list[bool]) -> dict[str, object]:
    if not values:
        return {"found": 0, "of": 0}
    low, high = clopper_pearson(sum(values), len(values))
    return {
        "found": sum(values), "of": len(values), "interval": [round(low, 4), round(high, 4)],
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    names = {"least": 0, "p5": 5, "median": 50, "p95": 95, "most": 100}
    return {n: round(float(np.percentile(values, q)), 4) for n, q in names.items()}


def others(
    train: list[Picture], test: list[Picture], drawn: list[Picture], rng: np.random.Generator
) -> dict[str, list[Picture]]:
    """A thousand images that are no copies, as many of them as may be of unseen patients."""
    pick = rng.permutation(len(test))[: OTHERS - DRAWN - 200]
    real = [test[i] for i in sorted(pick)]
    some = [drawn[i] for i in rng.permutation(len(drawn))[:DRAWN]]
    rest = OTHERS - len(real) - len(some)
    sources = [train[i] for i in rng.choice(len(train), rest // 2, replace=False)]
    made = [Picture(warped(s.image, STRONG, rng), f"warped {s.name}") for s in sources]
    joined = [Picture(quarters(train, rng), f"quarters {k}") for k in range(rest - len(made))]
    return {
        "test patients": real, "phantoms": some, "warped strongly": made,
        "quarters of four patients": joined,
    }  # fmt: skip


def look(path: Path, shown: list[tuple[str, Tensor, str]], train: list[Picture]) -> None:
    """Pairs side by side: what was judged, and the training image it was taken for."""
    of = {p.name: p for p in train}
    rows = []
    for _, image, real in shown:
        pair = [image, of[real].image]
        rows.append([tile(x[0].float().numpy(), None) for x in pair])
    names = [f"{text}\n{real}" for text, _, real in shown]
    sheet(path, rows, columns=["judged", "nearest in train"], names=names)


def measure(name: str, data: Path, work: Path, device: str) -> dict[str, object]:
    rng = np.random.default_rng(SEED)
    train = pictures(data / NAMES[name], "train")
    validation = pictures(data / NAMES[name], "validation")
    start = time.perf_counter()
    index = index_pictures(train, device=device)
    seconds_index = time.perf_counter() - start
    start = time.perf_counter()
    lenders = sorted(set(index.patients))[:TRAIN_PATIENTS]
    calibration = calibrate(index, [*validation, *(p for p in train if p.patient in lenders)])
    per_query = (time.perf_counter() - start) / len(calibration.matches)
    print(f"{name}: threshold {calibration.threshold:.4f}, {per_query:.3f} s an image", flush=True)
    found = sensitivity(index, train, calibration, rng, work / f"{name}_copies.png")
    test = pictures(data / NAMES[name], "test")
    twins = stored_twice(test, train)
    known = {p.patient for p in test if p.name in twins}
    again = nearest(index, [p for p in test if p.name in twins])
    unseen = [p for p in test if p.patient not in known]
    if not (work / name).exists():
        kind, patients = PHANTOMS[name]
        make_phantoms(kind, out=work / name, patients=patients, seed=3)
    alarms = specificity(
        index, train, others(train, unseen, pictures(work / name, ""), rng), calibration,
        work / f"{name}_unseen.png",
    )  # fmt: skip
    return {
        "train_patients": len(set(index.patients)), "train_images": len(index),
        "calibration": {
            "threshold": round(calibration.threshold, 4), "rule": calibration.rule,
            "validation_patients": len({p.patient for p in validation}),
            "train_patients_against_the_others": len(lenders), "images": calibration.images,
            "left_out_as_doubles": {m.name: m.real for m in calibration.doubles},
            "highest_by_patient": spread(list(calibration.by_patient.values())),
        },
        **found, **alarms,
        "test_images_stored_under_a_train_patients_name": share(
            [m.similarity > calibration.threshold and m.real == twins[m.name] for m in again]
        ) | {"test_patients": sorted(known), "images": twins},
        "seconds_to_index": round(seconds_index, 2), "seconds_per_image": round(per_query, 4),
    }  # fmt: skip


def sensitivity(
    index: CopyIndex,
    train: list[Picture],
    calibration: Calibration,
    rng: np.random.Generator,
    picture: Path,
) -> dict[str, object]:
    labels, copies = zip(*plant_copies(train, PLANTED, rng))
    matches = nearest(index, copies)
    hits = [m.similarity > calibration.threshold for m in matches]
    named = [m.name == f"copy of {m.real}" for m in matches]
    kinds = {
        kind: share([h for h, label in zip(hits, labels) if label == kind])
        for kind in sorted(set(labels))
    }
    worst = sorted(range(len(matches)), key=lambda i: matches[i].similarity)[:12]
    shown = [
        (f"{matches[i].similarity:.3f} {labels[i]} {copies[i].name}", copies[i].image,
         matches[i].real) for i in worst
    ]  # fmt: skip
    look(picture, shown, train)
    beyond = {}
    for text, change in BEYONDS.items():
        chosen = rng.choice(len(train), BEYOND, replace=False)
        made = [Picture(change(train[i].image, rng), train[i].name) for i in chosen]
        values = [m.similarity for m in nearest(index, made)]
        beyond[text] = share([v > calibration.threshold for v in values]) | spread(values)
        print(f"  {text}: {beyond[text]}", flush=True)
    print(f"  planted: {share(hits)} {kinds}", flush=True)
    return {
        "planted": share(hits), "planted_by_kind": kinds, "right_image_named": share(named),
        "planted_similarity": spread([m.similarity for m in matches]), "beyond_the_plan": beyond,
    }  # fmt: skip


def specificity(
    index: CopyIndex,
    train: list[Picture],
    sets: dict[str, list[Picture]],
    calibration: Calibration,
    picture: Path,
) -> dict[str, object]:
    result: dict[str, object] = {}
    for text, given in sets.items():
        matches = nearest(index, given)
        judged = [m for m in matches if m.judged]
        flags = [m.similarity > calibration.threshold for m in judged]
        result[text] = share(flags) | {
            "not_judged": len(matches) - len(judged),
            "similarity": spread([m.similarity for m in judged]),
        }
        print(f"  {text}: {result[text]}", flush=True)
        if text == "test patients":
            rate = copy_rate(matches, calibration.threshold)
            result["flagged_test_images"] = [
                f"{m.name} {m.real} {m.similarity:.3f}"
                for m in closest(judged, 20) if m.similarity > calibration.threshold
            ]  # fmt: skip
            result["by_test_patient"] = {
                "flagged": rate.flagged_sources, "of": rate.sources,
                "interval": clopper_pearson(rate.flagged_sources, rate.sources),
            }  # fmt: skip
            result["membership_auc_of_real_against_real"] = chance(calibration, judged)
            images = {p.name: p.image for p in given}
            top = closest(judged, 12)
            look(picture, [(f"{m.similarity:.3f} {m.name}", images[m.name], m.real) for m in top],
                 train)  # fmt: skip
    return {"others": result}


def chance(calibration: Calibration, test: list[Match]) -> dict[str, object]:
    """Calibration patients against test patients: neither is in the other, so 0.5 is due."""
    known = [m for m in calibration.matches if m.judged]
    found = membership_auc(
        [m.similarity for m in known], [m.own for m in known],
        [m.similarity for m in test], [m.own for m in test],
    )  # fmt: skip
    return asdict(found)


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, object] = {
        "what": "300 planted copies among 1,000 others; seconds of one thread, machine shared",
        "seed": SEED,
    }
    for name in args.only:
        result[name] = measure(name, args.data, args.work, args.device)
    result |= {
        "device": describe_device(torch.device(args.device)), "commit": commit(),
        "versions": versions(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    save("copies", result)


if __name__ == "__main__":
    main()
