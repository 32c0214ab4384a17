"""Scores a folder of predictions, whoever made them, against references."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from augmint.case import Grid
from augmint.data.dataset import Dataset
from augmint.data.images import read_mask
from augmint.data.labels import LabelTable
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.evaluation.hearts import Hearts
from augmint.evaluation.score import ScoreRow, Summary, kept_rows, score_case, write_evaluation
from augmint.fit import versions
from augmint.progress import Talk
from augmint.references import (
    LABEL_FILES,
    Reference,
    References,
    mask_files,
    open_references,
    read_labels,
)
from augmint.staging import WORK, output_folder


def score(
    predictions: Path | str,
    references: Path | str | Dataset,
    out: Path | str,
    *,
    labels: Mapping[str, int] | Path | str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    patient_regex: str | None = None,
    patients: Sequence[str] | None = None,
    split: str = "train",
    tolerance: float = 2.0,
    resume: bool = False,
    cardiac: bool = True,
    talk: Talk | None = None,
) -> Summary:
    """Score a folder of predicted masks on the native grids of their references.

    Predictions are named as nnU-Net names them: CASE.nii.gz, or any other ending that can be read.
    Writes OUT/scores.csv, patients.csv (means per patient) and summary.json (means, failures and
    the policy for empty masks); where patients have an LV at ED and ES, also its volumes and EF:
    cardiac.csv, cardiac.json and bland_altman.png. Where the predictions have a dataset.json
    (nnU-Net writes one) or a labels.json, labels are matched by name; those that were not
    predicted, or that nobody annotated in the references, are left out and named. Otherwise the
    predictions must hold the numbers of the references.

    Args:
        predictions: The folder.
        references: A labelled dataset, or a bare folder of masks, such as labelsTs.
        out: The folder to make.
        labels: What the values in a bare folder mean: name -> value, or a JSON file with it. By
            default a dataset.json or labels.json in that folder or the one above, or beside the
            predictions, says so; else labels are named by their numbers.
        label_map: Old label name -> new name, or None to turn it into background; equal new names
            merge. Not for a dataset that is open already.
        patient_regex: Searched in each case name; its first group, or the match, is the patient.
        patients: Those to score; all by default.
        split: Of a dataset: `train`, or `test` where its test cases have masks.
        tolerance: Of the surface Dice, in mm or pixels.
        resume: Continue an unfinished scoring.
        cardiac: Whether LV volumes and EF are measured where the data allow it.
        talk: Where progress goes.

    Raises:
        AugmintError: if a case has no prediction, a prediction is unreadable, lies on another grid
            or holds other values than its labels, or if no label is shared.
    """
    talk = talk or Talk()
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise AugmintError(f"--tolerance must be 0 or more, got {tolerance}")
    folder = Path(predictions)
    found = mask_files(folder)
    if not found:
        raise AugmintError(f"{folder}: no mask in this folder; give the folder of the predictions")
    truth = open_references(
        references, folder, labels=labels, label_map=label_map, patient_regex=patient_regex,
        split=split, talk=talk,
    )  # fmt: skip
    items = _chosen(truth, patients)
    files = _pair(folder, found, items, truth, talk)
    predicted, shared = _match_labels(folder, truth, label_map, talk)
    request = dict(
        command="score", predictions=str(folder.resolve()), references=str(truth.root.resolve()),
        patients=sorted({i.patient_id for i in items}), split=split,
        labels=dict(truth.table.labels), values={str(k): v for k, v in predicted.indices.items()},
        tolerance=tolerance,
    )  # fmt: skip
    with output_folder(Path(out), request, resume=resume) as target:
        hearts = Hearts.of(truth.table.labels, shared, target / WORK) if cardiac else None
        rows: list[ScoreRow] = []
        for item in talk.counted("score", items, len(items)):
            path, done = files[item.case_id], target / WORK / f"{item.case_id}.json"
            if hearts is not None and not hearts.has(item):
                done.unlink(missing_ok=True)
            rows += kept_rows(
                done,
                partial(_score_one, item, path, truth, predicted, shared, tolerance, hearts),
                sources=(path, *item.masks),
            )
        summary = write_evaluation(
            target, rows, {"request": request, "dataset": truth.name}, versions()
        )
        if hearts is not None:
            talk.say(hearts.write(target))
    talk.say(f"wrote scores to {out}")
    return summary


def _score_one(
    item: Reference,
    path: Path,
    truth: References,
    predicted: LabelTable,
    shared: frozenset[int],
    tolerance: float,
    hearts: Hearts | None,
) -> list[ScoreRow]:
    mask, grid = item.load()
    stored, affine, known = read_mask(path)
    same = stored.shape == grid.shape
    if same and known and grid.spacing_known:
        same = Grid(stored.shape, affine, True).same_as(grid)
    if not same:
        theirs = Grid(stored.shape, affine, known and grid.spacing_known)
        raise AugmintError(
            f"case {item.case_id!r}: prediction {path} lies on another grid, {_words(theirs)}, "
            f"than its reference, {_words(grid)}; resample it onto the grid of the reference with "
            "nearest neighbour"
        )
    prediction = predicted.apply(stored, f"prediction {path}")
    if hearts is not None:
        hearts.keep(item, grid, mask, prediction)
    return score_case(
        mask, prediction, truth.table.labels, grid, item.case_id, item.patient_id, shared,
        tolerance=tolerance,
    )  # fmt: skip


def _words(grid: Grid) -> str:
    shape = " x ".join(str(n) for n in grid.shape)
    if not grid.spacing_known:
        return shape
    numbers = (
        ", ".join(f"{n:.4g}" for n in entry) for entry in (grid.spacing, grid.affine[:-1, -1])
    )
    return "{} with spacing ({}) and origin ({})".format(shape, *numbers)


def _chosen(truth: References, patients: Collection[str] | None) -> tuple[Reference, ...]:
    if patients is None:
        return truth.items
    patients = {patients} if isinstance(patients, str) else set(patients)
    if not patients:
        raise AugmintError("--patients names nobody; name one patient at least, or leave it out")
    if unknown := sorted(patients - {item.patient_id for item in truth.items}):
        raise AugmintError(f"{truth.name}: no patient named {listed(unknown)}")
    return tuple(item for item in truth.items if item.patient_id in patients)


def _pair(
    folder: Path,
    found: Mapping[str, Path],
    items: Sequence[Reference],
    truth: References,
    talk: Talk,
) -> dict[str, Path]:
    """The prediction of every case; says which predictions belong to none."""
    missing = [item.case_id for item in items if item.case_id not in found]
    known = {item.case_id for item in truth.items}
    if known.isdisjoint(found):
        raise AugmintError(
            f"no prediction is named after a case of {truth.root}; {folder} holds "
            f"{listed(list(found), 3)}, cases are named {listed(sorted(known), 3)}; are these "
            "predictions of another dataset? If not, name each file after its case"
        )
    if missing:
        strange = [path.name for case_id, path in found.items() if case_id not in known]
        hint = f" (it holds {listed(strange, 3)}, named after no case)" if strange else ""
        raise AugmintError(
            f"{folder}: no prediction for {len(missing)} of {len(items)} cases: "
            f"{listed(missing, 10)}{hint}; predict every case, or name the patients to score with "
            "--patients"
        )
    if extra := sorted(set(found) - {item.case_id for item in items}):
        why = "were not asked for" if known.issuperset(extra) else "have no reference"
        talk.say(f"note: {len(extra)} prediction(s) {why} and are not scored: {listed(extra)}")
    files = {item.case_id: found[item.case_id] for item in items}
    for item in items:
        if files[item.case_id].resolve() in {mask.resolve() for mask in item.masks}:
            raise AugmintError(
                f"case {item.case_id!r}: prediction and reference are one file, "
                f"{files[item.case_id]}; give the folder of the predictions"
            )
    return files


def _match_labels(
    folder: Path, truth: References, label_map: Mapping[str, str | None] | None, talk: Talk
) -> tuple[LabelTable, frozenset[int]]:
    """How the predictions' values become the references' classes, and which classes are scored."""
    classes = truth.table.labels
    source = next((folder / n for n in LABEL_FILES if (folder / n).is_file()), None)
    predicted = truth.table
    taught = set(classes)
    if source is not None:
        named, _ = read_labels(source)
        # An index that no class has: it counts as another thing than each of them.
        nothing = max(classes.values()) + 1
        new = {name: (label_map or {}).get(name, name) or "background" for name in named}
        indices = {value: classes.get(new[name], nothing) for name, value in named.items()}
        predicted = LabelTable(classes, truth.table.annotated, indices)
        taught = set(new.values())
        for name in sorted(taught - set(classes)):
            talk.say(f"label {name!r} is left out: {truth.name} does not have it")
    shared = []
    for name, index in classes.items():
        if index == 0:
            continue
        if name not in taught:
            talk.say(f"label {name!r} is left out: {source} does not name it")
        elif index not in truth.table.annotated:
            talk.say(f"label {name!r} is left out: nobody annotated it in {truth.name}")
        else:
            shared.append(index)
    if not shared:
        raise AugmintError(
            f"{truth.name} has the labels {listed([n for n in classes if n != 'background'])}, "
            f"{source or 'the predictions'} {listed(sorted(taught - {'background'}))}; none that "
            "was annotated is shared, so rename with --label-map old=new"
        )
    return predicted, frozenset(shared)
