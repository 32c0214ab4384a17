import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Grid
from augmint.errors import AugmintError
from augmint.evaluation.metrics import POLICY
from augmint.evaluation.score import (
    in_words,
    kept_rows,
    read_scores,
    score_case,
    summarise,
    write_evaluation,
    write_scores,
)

HEADER = "case,patient,label,dice,precision,recall,hd,hd95,assd,surface_dice,unit,status"
LABELS = {"background": 0, "rv": 1, "myo": 2, "lv": 3}
ALL = frozenset({1, 2, 3})


def grid(*shape, spacing=None):
    affine = np.diag([*(spacing or [1.0] * len(shape)), 1.0])
    return Grid(shape, affine, spacing is not None)


def square(*shape, label=1, at=1, side=2):
    mask = np.zeros(shape, np.int64)
    mask[at : at + side, at : at + side] = label
    return mask


def rows_of(reference, prediction, *, patient="p1", case="c1", annotated=ALL, where=None):
    where = where or grid(*reference.shape)
    return score_case(reference, prediction, LABELS, where, case, patient, annotated)


def test_rows_cover_the_annotated_labels_by_name_without_background():
    rows = rows_of(square(8, 8), square(8, 8), annotated=frozenset({1, 3}))
    assert [(r.label, r.status) for r in rows] == [("rv", "ok"), ("lv", "both_empty")]


def test_an_unannotated_class_in_the_prediction_yields_no_row():
    rows = rows_of(square(8, 8), square(8, 8, label=2), annotated=frozenset({1}))
    assert [(r.label, r.status) for r in rows] == [("rv", "missed")]


def test_known_spacing_is_mm_in_space_and_unknown_is_px_in_plane():
    reference, prediction = np.zeros((4, 4, 3), int), np.zeros((4, 4, 3), int)
    reference[1, 1, :2] = prediction[1, 1, 1:] = 1
    known = rows_of(reference, prediction, where=grid(4, 4, 3, spacing=[1, 1, 5]))[0]
    unknown = rows_of(reference, prediction)[0]
    assert (known.unit, known.hd) == ("mm", 5.0)
    assert (unknown.unit, unknown.hd) == ("px", pytest.approx(np.hypot(4, 4)))


def test_tensors_and_arrays_score_alike():
    reference, prediction = square(8, 8), square(8, 8, at=2)
    tensors = rows_of(torch.from_numpy(reference), torch.from_numpy(prediction))
    assert tensors == rows_of(reference, prediction)


def test_a_mask_off_the_grid_is_refused_by_name():
    with pytest.raises(AugmintError, match=r"'c1': prediction \(8, 9\)"):
        score_case(square(8, 8), square(8, 9), LABELS, grid(8, 8), "c1", "p1", ALL)


def test_the_file_has_the_agreed_header_and_empty_cells(tmp_path):
    path = tmp_path / "scores.csv"
    rows = rows_of(np.zeros((3, 4), int), square(3, 4, side=1))
    write_scores(rows, path)
    lines = path.read_text().splitlines()
    assert lines[0] == HEADER
    assert lines[1] == "c1,p1,rv,0,0,,5,5,5,0,px,false_positive"
    assert lines[2] == "c1,p1,myo,,,,,,,,px,both_empty"
    assert read_scores(path) == rows


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("case,dice\nc1,0.5\n")
    with pytest.raises(AugmintError, match="not those of"):
        read_scores(path)


def test_means_are_over_patients_not_over_cases():
    perfect = rows_of(square(8, 8), square(8, 8), patient="many")
    half = rows_of(square(8, 8), square(8, 8, at=2), patient="one")
    summary = summarise([*perfect, *perfect, *perfect, *half])
    (rv,) = [s for s in summary.labels if s.label == "rv"]
    assert half[0].dice == 0.25
    assert rv.means["dice"] == pytest.approx((1 + 0.25) / 2)
    assert (rv.patients, rv.cases) == (2, 4)


def test_failures_are_counted_and_both_empty_is_left_out():
    empty, full = np.zeros((8, 8), int), square(8, 8)
    rows = [
        *rows_of(full, full, patient="a"),
        *rows_of(full, empty, patient="b"),
        *rows_of(empty, full, patient="c"),
        *rows_of(empty, empty, patient="d"),
    ]
    summary = summarise(rows)
    rv = summary.labels[0]
    assert (rv.cases, rv.patients, rv.both_empty) == (4, 3, 1)
    assert (rv.missed, rv.false_positives, rv.failures) == (1, 1, 2)
    assert rv.means["dice"] == pytest.approx(1 / 3)
    assert rv.means["recall"] == pytest.approx(1 / 2)  # undefined for the false positive
    assert rv.means["hd"] == pytest.approx(2 * np.hypot(8, 8) / 3)
    assert summary.labels[1].means["dice"] is None
    assert summary.mean("dice") == pytest.approx(1 / 3)
    assert summary.policy == POLICY


def test_mm_and_pixels_are_never_averaged():
    rows = rows_of(square(8, 8), square(8, 8))
    mixed = [rows[0], replace(rows[0], unit="mm")]
    with pytest.raises(AugmintError, match="mm and px"):
        summarise(mixed)


def test_what_was_scored_is_kept_until_its_file_changes(tmp_path):
    calls, source, done = [], tmp_path / "c1.png", tmp_path / "work" / "c1.json"
    source.write_bytes(b"old")
    os.utime(source, (1, 1))

    def rows():
        calls.append(1)
        return rows_of(square(8, 8), square(8, 8, at=2))

    assert kept_rows(done, rows, sources=[source]) == rows_of(square(8, 8), square(8, 8, at=2))
    assert kept_rows(done, rows, sources=[source]) == kept_rows(done, rows)
    assert len(calls) == 1
    later = done.stat().st_mtime + 10
    os.utime(source, (later, later))
    kept_rows(done, rows, sources=[source])
    assert len(calls) == 2


def test_an_evaluation_is_three_files_with_policy_and_failures(tmp_path):
    empty, full = np.zeros((8, 8), int), square(8, 8)
    rows = [
        *rows_of(full, square(8, 8, at=2), patient="b", case="b1"),
        *rows_of(full, empty, patient="b", case="b2"),
        *rows_of(empty, full, patient="a", case="a1"),
    ]
    summary = write_evaluation(tmp_path, rows, {"dataset": "d"}, {"augmint": "0"})
    assert {p.name for p in tmp_path.iterdir()} == {"scores.csv", "patients.csv", "summary.json"}
    assert len(read_scores(tmp_path / "scores.csv")) == len(rows)
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert list(stored) == [
        "schema_version", "dataset", "labels", "policy", "mean", "versions",
    ]  # fmt: skip
    assert stored["policy"] == POLICY
    rv = stored["labels"][0]
    assert (rv["missed"], rv["false_positives"], rv["failures"], rv["both_empty"]) == (1, 1, 2, 0)
    assert stored["mean"]["dice"] == summary.mean("dice") == pytest.approx((0 + 0.125) / 2)
    with (tmp_path / "patients.csv").open() as stream:
        patients = {(r["patient"], r["label"]): r for r in csv.DictReader(stream)}
    assert patients["b", "rv"]["dice"] == "0.125"
    assert (patients["b", "rv"]["cases"], patients["b", "rv"]["failures"]) == ("2", "1")
    assert (patients["a", "lv"]["cases"], patients["a", "lv"]["dice"]) == ("0", "")
    words = in_words(summary)
    assert "2 of 3" in words
    assert POLICY in " ".join(words.split())


def test_words_are_no_wider_than_the_terminal(monkeypatch):
    summary = summarise(rows_of(square(8, 8), square(8, 8)))
    for columns, most in ((72, 72), (300, 100)):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = in_words(summary).splitlines()
        policy = lines[next(k for k, line in enumerate(lines) if line.startswith(POLICY[:9])) :]
        assert " ".join(policy) == POLICY
        assert most - 20 < max(len(line) for line in policy) <= most
