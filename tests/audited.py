"""Small datasets to audit: real phantoms, and synthetic ones made from them by hand."""

import csv
import json

import numpy as np

from augmint.data.images import write_image, write_mask

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


def write_dataset(folder, cases, labels=None, ending=".nii.gz"):
    """`cases`: name -> (stored image (C, *spatial), mask, grid)."""
    channels = 1
    for name, (stored, mask, grid) in cases.items():
        channels = len(stored)
        for c in range(channels):
            path = folder / "imagesTr" / f"{name}_{c:04d}{ending}"
            write_image(path, stored[c : c + 1], grid)
        write_mask(folder / "labelsTr" / f"{name}{ending}", np.asarray(mask), grid)
    facts = {
        "channel_names": {str(c): f"cine MR {c}" for c in range(channels)},
        "labels": labels or LABELS, "numTraining": len(cases), "file_ending": ending,
        "name": "made",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def write_manifest(
    folder, sources, *, fold="", method="mask_to_image", rejected=(), details=None
):  # fmt: skip
    """`sources`: synthetic case -> (source case, its patient); `details`: case -> own columns."""
    details = details or {}
    own = sorted({name for values in details.values() for name in values})
    columns = (
        "schema_version", "case", "synthetic", "source_case", "patient", "fold", "method",
        "accepted", *(f"{method}.{name}" for name in own),
    )  # fmt: skip
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for name, (source, patient) in sources.items():
            cells = [details.get(name, {}).get(column, "") for column in own]
            accepted = int(name not in rejected)
            writer.writerow((1, name, 1, source, patient, fold, method, accepted, *cells))


def write_run(folder, seen, *, gate=None, fold=None, gated=True):
    entry = {"fold": fold, "generator_patients": list(seen), "validation_patients": []}
    facts = {
        "folds": [{**entry, "gate_patients": list(seen if gate is None else gate)}],
        "gates": [{"thresholds": {"LV": 0.5}}] if gated else [],
    }
    (folder / "run.json").write_text(json.dumps(facts))


def pair_of(dataset, case_id):
    """Stored image, mask and grid of a real case."""
    item = next(i for i in dataset.items if i.case_id == case_id)
    case = dataset.load(item)
    return dataset.read_stored(item)[0], case.mask.numpy(), case.grid


def noisy(stored, seed, share=0.15):
    """The image with noise, so that it is like the source and not its copy."""
    rng = np.random.default_rng(seed)
    size = share * float(stored.max())
    return (stored + rng.normal(0, size, stored.shape)).clip(0).astype(stored.dtype)
