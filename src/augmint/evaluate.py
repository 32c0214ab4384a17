"""Scores a trained segmenter on patients that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from augmint.adapt import repeats_of
from augmint.case import Case
from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.images import IMAGE_ENDINGS, LOSSY, write_mask
from augmint.data.layout import listed
from augmint.data.splits import draw_patients, without_labels
from augmint.errors import AugmintError
from augmint.evaluation.hearts import Hearts
from augmint.evaluation.score import ScoreRow, Summary, kept_rows, score_case, write_evaluation
from augmint.evaluation.score import in_words as in_words
from augmint.fit import resolve_device, versions
from augmint.prepare import real_labelled
from augmint.progress import Talk
from augmint.report import write_json
from augmint.segment import SegmenterRun, load_segmenter_run
from augmint.segmentation.cases import predict_case
from augmint.staging import WORK, output_folder


def evaluate(
    run: Path | str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    patients: int | Sequence[str] | None = None,
    largest_component: bool = False,
    sliding: bool = False,
    tolerance: float = 2.0,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    allow_same_names: bool = False,
    cardiac: bool = True,
    looks: Sequence[Path | str | Dataset] = (),
    talk: Talk | None = None,
) -> Summary:
    """Predict the real cases of a dataset on their native grids and score them.

    Writes OUT/predictions, scores.csv, patients.csv (means per patient) and summary.json; where
    patients have an LV at ED and ES, also its volumes and EF: cardiac.csv, cardiac.json and
    bland_altman.png. Labels are matched by name; those that the run was not taught, or that nobody
    annotated in the data, are left out and named.

    Args:
        run: A folder made by `segment`.
        data: A labelled dataset.
        out: The folder to make.
        patients: Which, or how many to draw of those that the run never saw; all by default.
        largest_component: Keep the largest connected part of each label of a case.
        sliding: Slide the run's window over what of a case lies outside it, which is background
            otherwise.
        tolerance: Of the surface Dice, in mm or pixels.
        seed: Of the draw of patients.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished evaluation.
        allow_same_names: Patients that are named as trained ones, in a dataset of another name,
            are other people.
        cardiac: Whether LV volumes and EF are measured where the data allow it.
        looks: Further images of the same cases, datasets or folders of images; the probabilities
            of all are averaged. A folder that `adapt` made with several repeats stands for all of
            its translations.
        talk: Where progress goes.

    Raises:
        AugmintError: if the run was fitted on one of the patients, or no label is shared.
    """
    talk = talk or Talk()
    if not tolerance >= 0:
        raise AugmintError(f"--tolerance must be 0 or more, got {tolerance}")
    where = resolve_device(device)
    taught = load_segmenter_run(run, where)
    whole = real_labelled(data if isinstance(data, Dataset) else open_dataset(data))
    apart = _apart(taught, whole, allow_same_names)
    dataset = _unseen(whole, taught, patients, seed, apart, allow_same_names)
    namesakes = [p for p in dataset.patients if p in taught.spent]
    if namesakes:
        talk.say(
            f"note: {len(namesakes)} of {len(dataset.patients)} patients are named as patients "
            f"that the run was fitted on ({listed(namesakes)}); they count as others, since this "
            f"dataset is {dataset.name!r} and the run's is "
            f"{listed([repr(n) for n in sorted(taught.datasets)])}. If they are the same people, "
            "these scores are a leak"
        )
    shared = _shared_labels(taught, dataset, talk)
    chose = taught.validation & set(dataset.patients)
    if chose and not apart:
        talk.say(
            f"note: {len(chose)} of {len(dataset.patients)} patients chose the run's best weights, "
            "so their scores are optimistic"
        )
    request = dict(
        command="evaluate", run=str(Path(run).resolve()), data=str(dataset.root.resolve()),
        patients=list(dataset.patients), labels=dict(dataset.labels),
        largest_component=largest_component, sliding=sliding, tolerance=tolerance,
        allow_same_names=allow_same_names,
    )  # fmt: skip
    others = [_look(one, dataset) for given in looks for one in _all_looks(given, whole)]
    if others:
        request["looks"] = [str(other.root.resolve()) for other, _ in others]
    with output_folder(Path(out), request, resume=resume) as folder:
        hearts = Hearts.of(dataset.labels, shared, folder / WORK) if cardiac else None

        def predict_and_score(item: Item) -> list[ScoreRow]:
            case = dataset.load(item)
            more = [_seen_again(case, o.load(items[item.case_id]), o) for o, items in others]
            mask = _predict(taught, case, dataset, where, largest_component, sliding, more)
            path = folder / "predictions" / f"{item.case_id}{_ending(dataset)}"
            write_mask(path, mask, case.grid)
            if hearts is not None:
                hearts.keep(item, case.grid, np.asarray(case.mask), mask)
            return score_case(
                np.asarray(case.mask), mask, dataset.labels, case.grid, case.case_id,
                case.patient_id, case.annotated & shared, tolerance=tolerance,
            )  # fmt: skip

        rows: list[ScoreRow] = []
        for item in talk.counted("predict and score", dataset.items, len(dataset)):
            done = folder / WORK / f"{item.case_id}.json"
            if hearts is not None and not hearts.has(item):
                done.unlink(missing_ok=True)
            rows += kept_rows(done, partial(predict_and_score, item))
        write_json(folder / "predictions" / "labels.json", _numbers(taught, dataset))
        facts = {"request": request, "dataset": dataset.name, "namesakes": namesakes}
        summary = write_evaluation(folder, rows, facts, versions())
        if hearts is not None:
            talk.say(hearts.write(folder))
    talk.say(f"wrote predictions and scores to {out}")
    return summary


def _all_looks(given: Path | str | Dataset, dataset: Dataset) -> Sequence[Path | str | Dataset]:
    """A folder of `adapt` as all of its translations but those that are the dataset itself.

    Raises:
        AugmintError: if that leaves nothing.
    """
    if isinstance(given, Dataset):
        return [given]
    repeats = repeats_of(Path(given))
    if Path(given).resolve() != dataset.root.resolve():
        return [given, *repeats]
    if not repeats:
        raise AugmintError(
            f"--looks {given}: these are the images that are evaluated, and there are no further "
            "ones; make some with `augmint adapt --repeats 3`, or name another folder"
        )
    return repeats


def _seen_again(case: Case, look: Case, dataset: Dataset) -> Case:
    """A further image of a case.

    Raises:
        AugmintError: if it lies on another grid.
    """
    known = case.grid.spacing_known and look.grid.spacing_known
    same = look.grid.same_as(case.grid) if known else look.grid.shape == case.grid.shape
    if not same:
        raise AugmintError(
            f"case {case.case_id!r} lies on another grid in {dataset.root} than in the dataset "
            "that is evaluated; further images are averaged pixel by pixel, so resample them"
        )
    return look


def _look(data: Path | str | Dataset, dataset: Dataset) -> tuple[Dataset, dict[str, Item]]:
    """Further images of the cases of a dataset, by their names.

    Raises:
        AugmintError: if a case has none.
    """
    opened = data if isinstance(data, Dataset) else open_dataset(data, bare=True)
    bare = without_labels(opened)
    items = {item.case_id: item for item in bare.items}
    if missing := [i.case_id for i in dataset.items if i.case_id not in items]:
        raise AugmintError(
            f"{opened.root} has no image of {listed(missing)}; further images are named as the "
            "cases that they belong to"
        )
    return bare, items


def _apart(taught: SegmenterRun, dataset: Dataset, allow_same_names: bool) -> bool:
    """Whether patients of equal names are other people here.

    They are the same ones in datasets of one name. Another name tells datasets apart only where
    the dataset gives it to itself: a mere folder is named anew with each copy.
    """
    if taught.may_know(dataset):
        return False
    return allow_same_names or dataset.name != dataset.root.name


def _unseen(
    dataset: Dataset,
    taught: SegmenterRun,
    patients: int | Sequence[str] | None,
    seed: int,
    apart: bool,
    allow_same_names: bool,
) -> Dataset:
    """The chosen patients, none of whom the run was fitted on."""
    used = taught.spent
    if apart:
        used = frozenset() if allow_same_names else taught.spent_elsewhere
    free = [p for p in dataset.patients if p not in used]
    if isinstance(patients, int):
        patients = draw_patients(free or dataset.patients, patients, seed)
    chosen = dataset if patients is None else dataset.select(patients=list(patients))
    spent = [p for p in chosen.patients if p in used]
    if not spent:
        return chosen
    others = f"--patients {listed(free, 10)}" if free else "of another dataset"
    message = (
        f"leak: the run, or what made its synthetic cases, was fitted on {len(spent)} of the "
        f"{len(chosen.patients)} patients to evaluate: {listed(spent, 10)}; score patients that "
        f"nothing was fitted on: {others}"
    )
    if not taught.may_know(dataset):
        message += (
            f". Their names alone say so, since {dataset.root} may be a copy of what the run was "
            "fitted on: if they are other people, add --allow-same-names, or give the dataset a "
            "`name` of its own in its dataset.json"
        )
    raise AugmintError(message)


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
    sliding: bool,
    looks: Sequence[Case],
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
        largest_component=largest_component, sliding=sliding, looks=looks,
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
