"""The synthetic dataset on disk: the real cases it carries, its manifest, lists and splits."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset, Item
from augmint.data.images import META, NIFTI, PLAIN, TIFF, write_image, write_mask
from augmint.data.splits import Fold
from augmint.errors import AugmintError
from augmint.methods.protocol import DatasetFacts
from augmint.progress import Talk
from augmint.staging import WORK, copy_file, write_text

SCHEMA_VERSION = 1
COLUMNS = (
    "schema_version", "case", "synthetic", "source_case", "patient", "fold", "method", "run",
    "network_sha256", "seed", "copy", "walk", "evaluations",
)  # fmt: skip
JUDGED = ("validity", "similarity", "accepted", "reason", "broken", "nearest")
# Endings of files that stay as they are. An .mhd may keep its pixels in a second file.
KEPT = (*NIFTI, ".png", ".mha", *TIFF)


def check_cases(dataset: Dataset, talk: Talk, method: object = None) -> None:
    """Read every case once, so that a faulty file is found before anything is written.

    Args:
        dataset: The cases.
        talk: Where progress goes.
        method: Asked about each case if it has a function `problem`.

    Raises:
        AugmintError: of the first case that cannot be read, or of all that the method cannot use.
    """
    problem = getattr(method, "problem", None)
    useless: dict[str, list[str]] = {}
    for item in talk.counted("checking cases", dataset.items, len(dataset)):
        case = dataset.load(item)
        if problem is not None and (reason := problem(case)):
            useless.setdefault(reason, []).append(item.case_id)
    if useless:
        count = sum(map(len, useless.values()))
        why = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in useless.items())
        raise AugmintError(
            f"{dataset.root}: the method cannot use {count} of {len(dataset)} cases ({why}); take "
            "their files out of the dataset, or name patients without them"
        )


def write_real(dataset: Dataset, folder: Path, talk: Talk) -> None:
    """Copy the real cases, byte for byte where nnU-Net can read them as they are.

    A case that is one frame of a 4-D file becomes a file of its own.
    """
    as_is = keeps_files(dataset)
    ending = dataset.file_ending if as_is else converted_ending(dataset)
    channels, known = 1, True
    for item in talk.counted("copying real cases", dataset.items, len(dataset)):
        channels, spacing_known = _copy(dataset, item, folder, ending, as_is)
        known = known and spacing_known
    write_description(
        folder, dataset, cases=len(dataset), channels=channels, ending=ending, spacing_known=known
    )


def write_description(
    folder: Path, dataset: Dataset, *, cases: int, channels: int, ending: str, spacing_known: bool
) -> None:
    """dataset.json of an nnU-Net raw dataset whose cases come from another dataset.

    Args:
        folder: Of the new dataset.
        dataset: Where its cases come from.
        cases: How many of them are labelled.
        channels: Of each case; they are named after the modality where the dataset names none.
        ending: Of its files.
        spacing_known: Whether all of its files carry a spacing that counts.
    """
    names = dataset.channel_names or tuple(
        f"{dataset.modality or 'image'}{i or ''}" for i in range(channels)
    )
    facts: dict[str, Any] = {
        "channel_names": {str(i): n for i, n in enumerate(names)},
        "labels": dict(dataset.labels),
        "numTraining": cases,
        "file_ending": ending,
        "name": dataset.name,
        "licence": dataset.licence,
    }
    everything = {i for i in dataset.labels.values() if i > 0}
    if dataset.annotated != everything:
        facts["annotated_labels"] = [n for n, i in dataset.labels.items() if i in dataset.annotated]
    if not spacing_known or dataset.spacing_known is False:
        facts["spacing_known"] = False
    write_text(folder / "dataset.json", json.dumps(facts, indent=1))


def keeps_files(dataset: Dataset) -> bool:
    """Whether the stored files can stand in an nnU-Net dataset unchanged."""
    unchanged = all(stored == index for stored, index in dataset.table.indices.items())
    plain = dataset.layout == "nnunet" and dataset.file_ending.lower() in KEPT and unchanged
    return plain and all(len(i.masks) == 1 and i.frame is None for i in dataset.items)


def files_of_cases(dataset: Dataset, channels: int) -> dict[str, int]:
    """Real case -> the number of its image files in OUT; one colour file may hold all channels."""
    as_is = keeps_files(dataset)
    return {i.case_id: len(i.images) if as_is else channels for i in dataset.items}


def converted_ending(dataset: Dataset) -> str:
    """PNG for plain 2-D pictures, NIfTI for everything else."""
    return ".png" if dataset.file_ending.lower() in PLAIN else ".nii.gz"


def _copy(dataset: Dataset, item: Item, folder: Path, ending: str, as_is: bool) -> tuple[int, bool]:
    """Copy one case; returns its channels and whether its spacing is known."""
    images, labels = folder / "imagesTr", folder / "labelsTr"
    if as_is:
        for channel, path in enumerate(item.images):
            copy_file(path, images / f"{item.case_id}_{channel:04d}{ending}")
        copy_file(item.masks[0], labels / f"{item.case_id}{ending}")
        return len(item.images), ending.lower() in NIFTI + META
    case = dataset.load(item)
    stored, _, _ = dataset.read_stored(item)
    for channel in range(len(stored)):
        path = images / f"{item.case_id}_{channel:04d}{ending}"
        write_image(path, stored[channel : channel + 1], case.grid)
    assert case.mask is not None
    write_mask(labels / f"{item.case_id}{ending}", case.mask.numpy(), case.grid)
    return len(stored), case.grid.spacing_known


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

    The work folder stays, so that this can be done again after a kill.

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

    _sweep(folder)
    rows = [json.loads(p.read_text()) for p in sorted((folder / WORK / "rows").glob("*.json"))]
    rows = [_real_row(i) for i in dataset.items] + rows
    write_manifest(folder / "manifest.csv", rows, facts_grid.annotated)
    accepted = [r for r in rows if r["accepted"]]
    rejected = [r for r in rows if not r["accepted"]]
    facts = json.loads((folder / "dataset.json").read_text())
    facts["numTraining"] = len(accepted)
    write_text(folder / "dataset.json", json.dumps(facts, indent=1))
    if rejected:
        apart = {**facts, "numTraining": len(rejected)}
        write_text(folder / "rejected" / "dataset.json", json.dumps(apart, indent=1))
        write_manifest(folder / "rejected" / "manifest.csv", rejected, facts_grid.annotated)
    else:  # verdicts that flipped after a kill leave it empty
        shutil.rmtree(folder / "rejected", ignore_errors=True)
    write_cases(folder, dataset)
    splits = _splits(accepted, dataset, held_back, folds)
    write_text(folder / "splits_final.json", json.dumps(splits, indent=1))
    for name, content in _datalists(accepted, dataset, facts, held_back, folds).items():
        write_text(folder / name, json.dumps(content, indent=1))
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
        "rejected_by": rejected_by(made),
    }
    write_json(folder / "run.json", everything)
    write_sheets(folder, dataset, rows, facts_grid)
    write_report(folder, rows, everything, facts_grid)
    return rows


def rejected_by(made: Sequence[Mapping[str, Any]], gates: Sequence[str] = ()) -> dict[str, int]:
    """Gate to the number of synthetic cases that it rejects; several may reject one case."""
    names = [name for row in made for name in row.get("rejected_by", ())]
    return {gate: names.count(gate) for gate in dict.fromkeys([*gates, *sorted(set(names))])}


def _sweep(folder: Path) -> None:
    """Remove half-written files that a kill left."""
    for name in ("imagesTr", "labelsTr", "rejected"):
        for pattern in (".*.tmp*", "*.writing"):
            for path in (folder / name).rglob(pattern):
                path.unlink()


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
    own = sorted({k for r in rows for k in r if k.startswith(f"{r.get('method')}.")})
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


def write_cases(folder: Path, dataset: Dataset) -> None:
    """cases.csv of real cases, so that patients, domains and all else told of them stay."""
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


def _datalists(
    accepted: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    facts: Mapping[str, Any],
    held_back: Sequence[str],
    folds: Sequence[Fold],
) -> dict[str, dict[str, Any]]:
    """MONAI datalists by file name.

    Readers take every entry with `fold` k for validation in fold k and all others for training.
    No synthetic case can be in one list of all folds then, so each fold has a list of its own.
    """
    files = files_of_cases(dataset, len(facts["channel_names"]))
    entries = [_entry(r, files, facts["file_ending"]) for r in accepted]
    if not folds:
        return {"datalist.json": _datalist(entries, facts, held_back)}
    real = [e for e in entries if not e["synthetic"]]
    fold_of = {p: k for k, fold in enumerate(folds) for p in fold.validation}
    whole = [{**e, "fold": fold_of[e["patient"]]} for e in real]
    lists = {"datalist.json": _datalist(whole, facts, ())}
    for k, fold in enumerate(folds):
        made = [e for e, r in zip(entries, accepted) if e["synthetic"] and r["fold"] == k]
        lists[f"datalist_fold{k}.json"] = _datalist([*real, *made], facts, fold.validation)
    return lists


def _entry(row: Mapping[str, Any], files: Mapping[str, int], ending: str) -> dict[str, Any]:
    case = row["case"]
    count = files[row["source_case"] if row["synthetic"] else case]
    images = [f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(count)]
    return {
        "case": case,
        "image": images[0] if count == 1 else images,
        "label": f"labelsTr/{case}{ending}",
        "patient": row["patient"],
        "synthetic": row["synthetic"],
    }


def _datalist(
    entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], held: Sequence[str]
) -> dict[str, Any]:
    """One datalist; the cases of held patients validate."""
    patients = set(held)
    training = [e for e in entries if e["patient"] not in patients]
    return {
        "name": facts["name"],
        "labels": {str(i): n for n, i in facts["labels"].items()},
        "modality": facts["channel_names"],
        "numTraining": len(training),
        "training": training,
        "validation": [e for e in entries if e["patient"] in patients],
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
