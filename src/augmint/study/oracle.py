"""Oracles: segmenters trained with labels of the test, which no method may be.

The patients of a test are cross-fitted: each is segmented by the one segmenter of several that did
not train on them, so that an oracle's scores pair with those of every other arm.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from augmint.data.dataset import open_dataset
from augmint.evaluation.function import read_rows, write_function
from augmint.evaluation.score import read_scores, write_evaluation
from augmint.staging import copy_file, output_folder
from augmint.study.parts import Part, Target


def is_foreign(target: Target, source: Part, training: Collection[str]) -> bool:
    """Whether a test is of another dataset or domain than those who train."""
    if target.part.name != source.name:
        return True
    known, theirs = (
        {i.domain for i in part.dataset.items if i.patient_id in patients}
        for part, patients in ((source, frozenset(training)), (target.part, target.tested))
    )
    return known.isdisjoint(theirs)


def shared_labels(part: Part, source: Part) -> dict[str, str | None]:
    """The label map that leaves a part with the labels that the source teaches, matched by name.

    A segmenter that was taught more would be scored on more than the other arms are.
    """
    taught = {n for n, i in source.dataset.labels.items() if i in source.dataset.annotated}
    more = {n for n, i in part.dataset.labels.items() if i in part.dataset.annotated} - taught
    own: dict[str, str | None] = dict(part.arguments.get("label_map") or {})
    if not more:
        return own
    stored = open_dataset(part.dataset.root).labels
    return {**own, **{name: None for name in stored if own.get(name, name) in more}}


def join_evaluations(
    parts: Sequence[Path], place: Path, versions: Mapping[str, str], *, test: str
) -> None:
    """One evaluation of those of several patients each, as `evaluate` writes it.

    Args:
        parts: Folders that `evaluate` wrote, of different patients.
        place: The folder to make.
        versions: For its summary.
        test: Name of the test's dataset.
    """
    request = {"command": "join", "parts": [part.name for part in parts]}
    with output_folder(place, request, resume=True) as folder:
        rows = [row for part in parts for row in read_scores(part / "scores.csv")]
        for part in parts:
            for file in sorted((part / "predictions").iterdir()):
                copy_file(file, folder / "predictions" / file.name)
        measured = [part for part in parts if (part / "cardiac.csv").exists()]
        if measured:
            hearts = [row for part in measured for row in read_rows(part / "cardiac.csv")]
            told = json.loads((measured[0] / "cardiac.json").read_text(encoding="utf-8"))
            write_function(folder, hearts, lv=told["label"], phases=told["phases"])
        write_evaluation(folder, rows, {"request": request, "dataset": test}, versions)
