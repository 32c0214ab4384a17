"""The synthetic dataset on disk: the real cases it carries, its manifest, lists and splits."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset, Item
from augmint.data.images import read_image, write_image, write_mask
from augmint.data.splits import Fold
from augmint.methods.protocol import DatasetFacts
from augmint.progress import Talk
from augmint.staging import copy_file, write_text

SCHEMA_VERSION = 1
COLUMNS = (
    "schema_version", "case", "synthetic", "source_case", "patient", "fold", "method", "run",
    "network_sha256", "seed", "copy", "walk", "evaluations",
)  # fmt: skip
JUDGED = ("validity", "similarity", "accepted", "reason")


def write_real(dataset: Dataset, folder: Path, talk: Talk) -> None:
    """Copy the real cases, byte for byte where nnU-Net can read them as they are."""
    as_is = keeps_files(dataset)
    ending = dataset.file_ending if as_is else converted_ending(dataset)
    channels = 1
    with talk.bar("copying real cases", len(dataset)) as update:
        for number, item in enumerate(dataset.items):
            channels = _copy(dataset, item, folder, ending, as_is)
            update(number + 1, "")
    names = dataset.channel_names or tuple(
        f"{dataset.modality or 'image'}{i or ''}" for i in range(channels)
    )
    facts: dict[str, Any] = {
        "channel_names": {str(i): n for i, n in enumerate(names)},
        "labels": dict(dataset.labels),
        "numTraining": len(dataset),
        "file_ending": ending,
        "name": dataset.name,
        "licence": dataset.licence,
    }
    everything = {i for i in dataset.labels.values() if i > 0}
    if dataset.annotated != everything:
        facts["annotated_labels"] = [n for n, i in dataset.labels.items() if i in dataset.annotated]
    if dataset.spacing_known is False:
        facts["spacing_known"] = False
    write_text(folder / "dataset.json", json.dumps(facts, indent=1))


def keeps_files(dataset: Dataset) -> bool:
    """Whether the stored files can stand in an nnU-Net dataset unchanged."""
    unchanged = all(stored == index for stored, index in dataset.table.indices.items())
    plain = dataset.layout == "nnunet" and unchanged
    return plain and all(len(i.masks) == 1 for i in dataset.items)


def converted_ending(dataset: Dataset) -> str:
    """PNG for plain 2-D pictures, NIfTI for everything else."""
    return ".png" if dataset.file_ending in (".png", ".jpg", ".jpeg") else ".nii.gz"


def _copy(dataset: Dataset, item: Item, folder: Path, ending: str, as_is: bool) -> int:
    images, labels = folder / "imagesTr", folder / "labelsTr"
    if as_is:
        for channel, path in enumerate(item.images):
            copy_file(path, images / f"{item.case_id}_{channel:04d}{ending}")
        copy_file(item.masks[0], labels / f"{item.case_id}{ending}")
        return len(item.images)
    case = dataset.load(item)
    stored, _, _ = read_image(item.images, channels=len(dataset.channel_names) or None)
    for channel in range(len(stored)):
        path = images / f"{item.case_id}_{channel:04d}{ending}"
        write_image(path, stored[channel : channel + 1], case.grid)
    assert case.mask is not None
    write_mask(labels / f"{item.case_id}{ending}", case.mask.numpy(), case.grid)
    return len(stored)


def finish_dataset(
    dataset: Dataset,
    folder: Path,
    run_facts: Mapping[str, Any],
    *,
    held_back: Sequence[str],
    folds: Sequence[Fold],
    facts_grid: DatasetFacts,
) -> list[dict[str, Any]]:
    """Manifest, lists, splits, sheets and report from the rows of finished cases.

    Args:
        dataset: The real cases, training and held back.
        folder: The dataset's folder, with its work folder.
        run_facts: For run.json, with the patients that each fold saw.
        held_back: Real patients that nothing was fitted on.
        folds: The cross-validation, or nothing.
        facts_grid: For the sheets.

    Returns:
        The manifest's rows.
    """
    from augmint.report import write_json, write_report, write_sheets

    work = folder / ".work"
    rows = [json.loads(p.read_text()) for p in sorted((work / "rows").glob("*.json"))]
    rows = [_real_row(i) for i in dataset.items] + rows
    write_manifest(folder / "manifest.csv", rows, [n for n in facts_grid.annotated])
    accepted = [r for r in rows if r["accepted"]]
    facts = json.loads((folder / "dataset.json").read_text())
    facts["numTraining"] = len(accepted)
    write_text(folder / "dataset.json", json.dumps(facts, indent=1))
    if (folder / "rejected").exists():
        rejected = {**facts, "numTraining": len(rows) - len(accepted)}
        write_text(folder / "rejected" / "dataset.json", json.dumps(rejected, indent=1))
    _write_cases(folder, dataset)
    splits = _splits(accepted, dataset, held_back, folds)
    write_text(folder / "splits_final.json", json.dumps(splits, indent=1))
    write_text(
        folder / "datalist.json",
        json.dumps(_datalist(accepted, folder, facts, held_back, folds), indent=1),
    )
    made = [r for r in rows if r["synthetic"]]
    counts = {
        "real": len(dataset),
        "synthetic": len(made),
        "accepted": sum(r["accepted"] for r in made),
        "rejected": sum(not r["accepted"] for r in made),
    }
    everything = {
        "schema_version": SCHEMA_VERSION,
        **run_facts,
        "dataset": dataset.name,
        "licence": dataset.licence,
        "held_back_patients": list(held_back),
        "split": _why(held_back, folds),
        "counts": counts,
    }
    write_json(folder / "run.json", everything)
    write_sheets(folder, dataset, rows, facts_grid)
    write_report(folder, rows, everything, facts_grid)
    shutil.rmtree(work)
    return rows


def _real_row(item: Item) -> dict[str, Any]:
    return {
        "case": item.case_id,
        "synthetic": 0,
        "patient": item.patient_id,
        "accepted": 1,
        "reason": "",
    }


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    """One row for each case; the method's own columns come last."""
    columns = [*COLUMNS, *(f"agreement_{n}" for n in labels), *JUDGED]
    own = sorted({k for r in rows for k in r if "." in k})
    temporary = path.with_name(path.name + ".writing")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*columns, *own], restval="", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            cells = {k: "" if v is None else v for k, v in row.items()}
            for key, value in cells.items():
                if isinstance(value, float):
                    cells[key] = f"{value:.4f}"
            writer.writerow({**cells, "schema_version": SCHEMA_VERSION})
    temporary.replace(path)


def _write_cases(folder: Path, dataset: Dataset) -> None:
    """cases.csv of the real cases, so that patients and domains keep their names."""
    extra = sorted({k for i in dataset.items for k in i.columns} - {"case", "patient", "domain"})
    temporary = folder / "cases.csv.writing"
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "patient", "domain", *extra])
        for item in dataset.items:
            cells = [item.columns.get(k, "") for k in extra]
            writer.writerow([item.case_id, item.patient_id, item.domain, *cells])
    temporary.replace(folder / "cases.csv")


def _splits(
    accepted: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    held_back: Sequence[str],
    folds: Sequence[Fold],
) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json; a fold trains only on the synthetic cases made inside it."""
    real = {i.case_id: i.patient_id for i in dataset.items}
    made = [r for r in accepted if r["synthetic"]]
    if not folds:
        held = set(held_back)
        return [
            {
                "train": [c for c, p in real.items() if p not in held] + [r["case"] for r in made],
                "val": [c for c, p in real.items() if p in held],
            }
        ]
    splits = []
    for number, fold in enumerate(folds):
        held = set(fold.validation)
        splits.append(
            {
                "train": [c for c, p in real.items() if p not in held]
                + [r["case"] for r in made if r["fold"] == number],
                "val": [c for c, p in real.items() if p in held],
            }
        )
    return splits


def _datalist(
    accepted: Sequence[Mapping[str, Any]],
    folder: Path,
    facts: Mapping[str, Any],
    held_back: Sequence[str],
    folds: Sequence[Fold],
) -> dict[str, Any]:
    """A MONAI datalist; `fold` of a real case is the fold that holds it out."""
    ending = facts["file_ending"]
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for row in accepted:
        images = sorted(
            str(p.relative_to(folder))
            for p in (folder / "imagesTr").glob(f"{row['case']}_[0-9][0-9][0-9][0-9]{ending}")
        )
        entry: dict[str, Any] = {
            "image": images[0] if len(images) == 1 else images,
            "label": f"labelsTr/{row['case']}{ending}",
            "patient": row["patient"],
            "synthetic": row["synthetic"],
        }
        if folds:
            holding = [k for k, f in enumerate(folds) if row["patient"] in f.validation]
            entry["fold"] = row["fold"] if row["synthetic"] else holding[0]
        held = row["patient"] in set(held_back)
        lists["validation" if held else "training"].append(entry)
    return {
        "name": facts["name"],
        "labels": {str(i): n for n, i in facts["labels"].items()},
        "modality": facts["channel_names"],
        "numTraining": len(lists["training"]),
        **lists,
    }


def _why(held_back: Sequence[str], folds: Sequence[Fold]) -> str:
    if folds:
        return (
            f"{len(folds)} folds; each fold's generator, gate and thresholds saw only its training "
            "patients, and it trains on no other synthetic case"
        )
    if held_back:
        return (
            "one split: the generator saw every training patient, so only the real patients held "
            "back from it can validate; use --folds for cross-validation"
        )
    return (
        "one split without validation: the generator saw every patient here; validate on other "
        "patients, or use --folds or --hold-back"
    )


def load_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a manifest."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
