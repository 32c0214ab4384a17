"""Scores a trained segmenter on patients that it never saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.images import IMAGE_ENDINGS, LOSSY, write_mask
from augmint.data.layout import listed
from augmint.data.splits import draw_patients
from augmint.errors import AugmintError
from augmint.evaluation.metrics import METRICS
from augmint.evaluation.score import ScoreRow, Summary, score_case, summarise, write_scores
from augmint.fit import resolve_device, versions
from augmint.prepare import real_labelled
from augmint.progress import Talk
from augmint.report import write_json
from augmint.segment import SegmenterRun, load_segmenter_run
from augmint.segmentation.cases import predict_case
from augmint.staging import output_folder

SCHEMA_VERSION = 1


def evaluate(
    run: Path | str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    patients: int | Sequence[str] | None = None,
    largest_component: bool = False,
    tolerance: float = 2.0,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Summary:
    """Predict the real cases of a dataset on their native grids and score them.

    Writes OUT/predictions, scores.csv, patients.csv (means per patient) and summary.json. Labels
    are matched by name; those that the run was not taught, or that nobody annotated in the data,
    are left out and named.

    Args:
        run: A folder made by `segment`.
        data: A labelled dataset.
        out: The folder to make.
        patients: Which, or how many to draw of those that the run never saw; all by default.
        largest_component: Keep the largest connected part of each label of a case.
        tolerance: Of the surface Dice, in mm or pixels.
        seed: Of the draw of patients.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished evaluation.
        talk: Where progress goes.

    Raises:
        AugmintError: if the run was fitted on one of the patients of a dataset of this name, or no
            label is shared.
    """
    talk = talk or Talk()
    if not tolerance >= 0:
        raise AugmintError(f"--tolerance must be 0 or more, got {tolerance}")
    where = resolve_device(device)
    taught = load_segmenter_run(run, where)
    dataset = _unseen(
        real_labelled(data if isinstance(data, Dataset) else open_dataset(data)),
        taught, patients, seed, talk,
    )  # fmt: skip
    shared = _shared_labels(taught, dataset, talk)
    chose = taught.validation & set(dataset.patients)
    if chose and taught.may_know(dataset):
        talk.say(
            f"note: {len(chose)} of {len(dataset.patients)} patients chose the run's best weights, "
            "so their scores are optimistic"
        )
    request = dict(
        command="evaluate", run=str(Path(run).resolve()), data=str(dataset.root.resolve()),
        patients=list(dataset.patients), labels=dict(dataset.labels),
        largest_component=largest_component, tolerance=tolerance,
    )  # fmt: skip
    with output_folder(Path(out), request, resume=resume) as folder:
        work = folder / ".work"
        rows: list[ScoreRow] = []
        with talk.bar("predict and score", len(dataset)) as update:
            for number, item in enumerate(dataset.items):
                done = work / f"{item.case_id}.json"
                if not done.exists():
                    case = dataset.load(item)
                    mask = _predict(taught, case, dataset, where, largest_component)
                    ending = _ending(dataset)
                    path = folder / "predictions" / f"{item.case_id}{ending}"
                    write_mask(path, mask, case.grid)
                    scored = score_case(
                        np.asarray(case.mask), mask, dataset.labels, case.grid, case.case_id,
                        case.patient_id, case.annotated & shared, tolerance=tolerance,
                    )  # fmt: skip
                    write_json(done, [asdict(row) for row in scored])
                rows += [ScoreRow(**row) for row in json.loads(done.read_text())]
                update(number + 1, "")
        summary = summarise(rows)
        write_scores(rows, folder / "scores.csv")
        _write_patients(rows, folder / "patients.csv")
        names = {n: i for n, i in _numbers(taught, dataset).items()}
        write_json(folder / "predictions" / "labels.json", names)
        facts = {"schema_version": SCHEMA_VERSION, "request": request, "dataset": dataset.name}
        means = {metric: summary.mean(metric) for metric in METRICS}
        write_json(
            folder / "summary.json",
            {**facts, **summary.to_dict(), "mean": means, "versions": versions()},
        )
        shutil.rmtree(work, ignore_errors=True)
    talk.say(f"wrote predictions and scores to {out}")
    return summary


def _unseen(
    dataset: Dataset,
    taught: SegmenterRun,
    patients: int | Sequence[str] | None,
    seed: int,
    talk: Talk,
) -> Dataset:
    """The chosen patients, none of whom the run was fitted on.

    Patients of one name are one person in datasets of one name; across datasets of other names
    they are taken for others, and the user is told.
    """
    used = taught.spent if taught.may_know(dataset) else taught.spent_elsewhere
    free = [p for p in dataset.patients if p not in used]
    if isinstance(patients, int):
        patients = draw_patients(free, patients, seed)
    chosen = dataset if patients is None else dataset.select(patients=list(patients))
    spent = [p for p in chosen.patients if p in used]
    if spent:
        others = f"--patients {listed(free, 10)}" if free else "of another dataset"
        raise AugmintError(
            f"leak: the run, or what made its synthetic cases, was fitted on {len(spent)} of the "
            f"{len(chosen.patients)} patients to evaluate: {listed(spent, 10)}; score patients "
            f"that nothing was fitted on: {others}"
        )
    if namesakes := [p for p in chosen.patients if p in taught.spent]:
        talk.say(
            f"note: {len(namesakes)} of {len(chosen.patients)} patients are named as patients that "
            f"the run was fitted on ({listed(namesakes)}); they count as others, since this "
            f"dataset is {dataset.name!r} and the run's is "
            f"{listed([repr(n) for n in sorted(taught.datasets)])}. If they are the same people, "
            "these scores are a leak"
        )
    return chosen


def _shared_labels(taught: SegmenterRun, dataset: Dataset, talk: Talk) -> frozenset[int]:
    """Classes of the dataset to score; says which labels are left out and why."""
    names = {n: i for n, i in dataset.labels.items() if i > 0}
    shared = [n for n, i in names.items() if n in taught.annotated and i in dataset.annotated]
    for name in names:
        if name not in taught.annotated:
            talk.say(f"label {name!r} is left out: the run was not taught it")
        elif name not in shared:
            talk.say(f"label {name!r} is left out: nobody annotated it in {dataset.name}")
    for name in taught.annotated:
        if name not in names:
            talk.say(f"label {name!r} is left out: {dataset.name} does not have it")
    if not shared:
        raise AugmintError(
            f"{dataset.name} has the labels {listed(list(names))}, the run was taught "
            f"{listed(taught.annotated)}; none is shared, so rename with --label-map old=new"
        )
    return frozenset(names[n] for n in shared)


def _numbers(taught: SegmenterRun, dataset: Dataset) -> dict[str, int]:
    """Name -> number in the predictions: the dataset's, and new ones for labels it lacks."""
    numbers = dict(dataset.labels)
    for name in taught.labels:
        numbers.setdefault(name, max(numbers.values()) + 1)
    return numbers


def _predict(
    taught: SegmenterRun,
    case: Case,
    dataset: Dataset,
    device: torch.device,
    largest_component: bool,
) -> np.ndarray:
    """The predicted mask in the dataset's numbers."""
    channels = taught.network.spec.in_channels
    if case.image.shape[0] != channels:
        raise AugmintError(
            f"case {case.case_id!r} has {case.image.shape[0]} channel(s), the run was trained on "
            f"{channels}; give the same channels"
        )
    found = predict_case(
        [taught.network], replace(case, mask=None), taught.grid, device=device,
        largest_component=largest_component,
    )  # fmt: skip
    numbers = _numbers(taught, dataset)
    table = np.zeros(max(taught.labels.values()) + 1, dtype=np.int64)
    for name, index in taught.labels.items():
        table[index] = numbers[name]
    return table[found.numpy()]


def _ending(dataset: Dataset) -> str:
    """The dataset's own ending where it stores masks without loss, else PNG."""
    ending = dataset.file_ending.lower()
    if ending == ".mhd":
        return ".mha"
    return ending if ending in IMAGE_ENDINGS and ending not in (*LOSSY, ".bmp") else ".png"


def _write_patients(rows: Sequence[ScoreRow], path: Path) -> None:
    """Means of each patient and label over its cases that count."""
    import csv

    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        groups.setdefault((row.patient, row.label), []).append(row)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["patient", "label", "cases", *METRICS, "unit", "failures"])
        for (patient, label), group in sorted(groups.items()):
            (one,) = summarise(group).labels
            cells = ["" if (v := one.means[m]) is None else f"{v:.6g}" for m in METRICS]
            counted = one.cases - one.both_empty
            writer.writerow([patient, label, counted, *cells, one.unit, one.failures])


def in_words(summary: Summary) -> str:
    """The table of a summary, with the policy that its figures follow."""
    shown = ("dice", "hd95", "assd", "surface_dice")
    lines = [f"{'label':<16}{'patients':>9}" + "".join(f"{m:>14}" for m in shown) + "  failures"]
    for one in summary.labels:
        cells = ["-" if (v := one.means[m]) is None else f"{v:.3f}" for m in shown]
        figures = "".join(f"{c:>14}" for c in cells)
        failed = f"{one.failures} of {one.cases - one.both_empty}"
        lines.append(f"{one.label:<16}{one.patients:>9}{figures}  {failed}")
    mean = summary.mean("dice")
    units = " and ".join(sorted({one.unit for one in summary.labels}))
    lines.append(f"mean Dice {'-' if mean is None else f'{mean:.3f}'}; distances in {units}")
    return "\n".join([*lines, summary.policy])
