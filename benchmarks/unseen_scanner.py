"""ACDC's look given to Sunnybrook's images: strengths, contours, sheets, who passes, cost.

    python benchmarks/unseen_scanner.py DATA [--patients 56] [--work scratch/unseen_scanner]

DATA holds Dataset027_ACDC, Dataset060_Sunnybrook and splits.json. A run of reference_shift is fit
to train patients of ACDC, once, kept in --work and found again; its calibration says how far each
translator moves contours at each strength. Then the same run looks at ACDC patients whom nothing
was fitted on, and at Sunnybrook: how many pass untouched, how far others are shifted, evaluations
and seconds. Sheets of Sunnybrook images with each translator's version go to --work/sheets;
reference outlines are drawn over them for the eye, nothing else reads a label of Sunnybrook.

Writes benchmarks/results/unseen_scanner_PATIENTS.json.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from augmint.adapt import adapt
from augmint.data.dataset import open_dataset
from augmint.data.splits import draw_patients
from augmint.fit import describe_device, fit, load_run, resolve_device, versions
from augmint.methods.shift_planes import by_patient, denoising_errors
from augmint.methods.shift_strength import load_calibration
from augmint.methods.shift_walk import TOWARDS, Shift
from augmint.progress import Talk
from augmint.report import sheet, tile
from results import commit, commits, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--patients", type=int, default=56)
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--work", type=Path, default=Path("scratch/unseen_scanner"))
parser.add_argument("--translators", nargs="+", default=[t for t in TOWARDS if t != "energy"])
parser.add_argument("--device", default="auto")
SEED = 0
# Of the sheets: patients of the target, and planes at these shares of each.
SHOWN, PLACES = 4, (0.2, 0.5, 0.8)
# Patients whose shifted images are looked at again.
LOOKED_AT = 8


def main() -> None:

    a = parser.parse_args()
    work = a.work / f"{a.patients}"
    made_by = commits(work, commit())
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    source, target = (
        open_dataset(a.data / f) for f in ("Dataset027_ACDC", "Dataset060_Sunnybrook")
    )
    run = work / "run"
    if not run.exists():
        patients = draw_patients(split["train"], a.patients, SEED)
        fit(
            source, run, method="reference_shift", patients=list(patients), steps=a.steps,
            seed=SEED, device=a.device, resume=True, talk=Talk(),
        )  # fmt: skip
    calibration = load_calibration(run / "checkpoints" / "best" / "calibration")
    others = source.select(patients=split["validation"] + split["test"])
    result = {
        "patients": a.patients, "steps": a.steps, "seed": SEED,
        "device": describe_device(resolve_device(a.device)), "versions": versions(),
        "commit": made_by,
        "calibrated on": list(calibration.patients),
        "pixels that contours move": calibration.movement,
        "largest strengths": calibration.strengths,
        "limit": round(calibration.limit, 3),
        "looks": {}, "cost": {},
    }  # fmt: skip
    for name, dataset in (("ACDC, others", others), ("Sunnybrook", target)):
        out = work / f"adapted_{name.split(',')[0]}"
        if not out.exists():
            adapt(run, dataset, out, seed=SEED, device=a.device, resume=True, talk=Talk())
        result["looks"][name] = looks(out, calibration)
    result["Sunnybrook after a shift"] = remains(a, run, target, calibration)
    show(a, run, target, work, result)
    save(f"unseen_scanner_{a.patients}", result)
    print(json.dumps(result, indent=1))


def looks(out: Path, calibration) -> dict:
    """Who passes untouched, by patient, and how far the others are shifted."""
    import csv

    rows = list(csv.DictReader((out / "adapt.csv").open()))
    strength, errors = {}, defaultdict(list)
    for row in rows:
        strength[row["patient"]] = float(row["strength"])
        errors[row["patient"]].append([float(v) for k, v in row.items() if k.startswith("error_")])
    apart = [calibration.deviations(np.mean(e, 0)) for e in errors.values()]
    facts = json.loads((out / "run.json").read_text())
    return {
        "patients": len(strength),
        "untouched": round(np.mean([s == 0 for s in strength.values()]).item(), 3),
        "patients by strength": {
            f"{s:g}": sum(v == s for v in strength.values()) for s in sorted(set(strength.values()))
        },
        "deviations from the source, mean of patients": np.mean(apart, 0).round(2).tolist(),
        "most evaluations of a patient": facts["most_evaluations_of_a_patient"],
        "seconds": facts["seconds"],
    }


def remains(a, run: Path, target, calibration) -> dict:
    """What still tells some patients from the source once they are shifted; no label is read.

    Deviations are those of denoising errors, at each level; a patient is within if all of them are.
    """
    patients = target.patients[:: max(1, len(target.patients) // LOOKED_AT)]
    found = {}
    for name, curve in [(t, "none") for t in a.translators] + [("sdedit", "bezier")]:
        fitted = load_run(run, settings={"translator": name, "curve": curve}, device=a.device)
        grid, facts, cases = fitted.facts.grid, fitted.facts, []
        for patient in patients:
            items = [i for i in target.items if i.patient_id == patient]
            kept = sorted({round(p * (len(items) - 1)) for p in PLACES})
            cases += [grid.to_working(target.load(items[k])) for k in kept]
        largest = calibration.largest(name, fitted.method.movement)
        if not largest:
            found[name] = "moves contours too far at every strength"
            continue
        made = [new[0] for new in fitted.method.adapt(fitted.networks, cases, facts, seed=SEED)]
        network = load_run(run, device=a.device).networks
        pooled = by_patient(made, denoising_errors(network, made, facts, 16), facts)
        apart = np.array([calibration.deviations(e) for e in pooled.values()])
        found[name if curve == "none" else f"{curve}, then {name}"] = {
            "largest strength": largest,
            "deviations": apart.mean(0).round(2).tolist(),
            "within": round(float((abs(apart).max(1) <= calibration.limit).mean()), 3),
        }
    return {"patients": len(patients), **found}


def show(a, run: Path, target, work: Path, result: dict) -> None:
    """A sheet for each shown patient, and what each translator costs for them."""
    fitted = load_run(run, device=a.device)
    grid = fitted.facts.grid
    step = max(1, len(target.patients) // SHOWN)
    for patient in target.patients[::step][:SHOWN]:
        items = [i for i in target.items if i.patient_id == patient]
        items = [items[round(p * (len(items) - 1))] for p in PLACES]
        cases = [grid.to_working(target.load(i)) for i in items]
        plain = [grid.to_working(target.load(i), shape=grid.window) for i in items]
        columns = ["as it was"]
        rows = [[tile(*_plane(c), window=1.0)] for c in plain]
        for name in a.translators:
            strength = fitted.networks["calibration"].strengths[name] or 0.1
            method = replace(fitted.method, translator=name)
            start = time.perf_counter()
            shifts = [Shift(replace(c, mask=None), 0, strength) for c in cases]
            made = list(
                method.translate(fitted.networks, shifts, fitted.facts, seed=SEED, masks=False)
            )
            cost = result["cost"].setdefault(name, {"images": 0, "seconds": 0.0, "evaluations": 0})
            cost["images"] += len(made)
            cost["seconds"] = round(cost["seconds"] + time.perf_counter() - start, 3)
            cost["evaluations"] += sum(m.provenance.evaluations for m in made)
            columns += [f"{name} {strength:g}", "difference"]
            for row, before, new in zip(rows, plain, made):
                image, mask = _plane(replace(new, mask=before.mask))
                row.append(tile(image, mask))
                row.append(tile((image - _plane(before)[0]).clip(-1, 1), None))
        path = work / "sheets" / f"{patient}.png"
        sheet(
            path, rows, columns=columns, names=[i.case_id for i in items],
            labels=target.labels, heading=f"{target.name}, shifted towards ACDC",
        )  # fmt: skip
        print(f"wrote {path}")


def _plane(case):
    """The middle slice of a case, and its mask."""
    image, mask = case.image[0].numpy(), None if case.mask is None else case.mask.numpy()
    if image.ndim == 3:
        z = image.shape[-1] // 2
        image, mask = image[..., z], None if mask is None else mask[..., z]
    return image, mask


if __name__ == "__main__":
    main()
