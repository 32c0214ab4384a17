"""The report of studies whose scores are written by hand."""

import csv
import json
from importlib import import_module

import pytest

from augmint.study.report import _synthetic_share, write_study_report
from augmint.study.run import Outcome
from augmint.study.spec import Arm, Generator
from scored_studies import planned, score, study_of


@pytest.fixture(autouse=True)
def no_gallery(monkeypatch):
    """There are no images to draw failures of."""
    monkeypatch.setattr(import_module("augmint.study.report"), "failure_gallery", lambda *_: False)


def written(folder, study=None, **more):
    plan, done = planned(folder, **more)
    outcomes = {
        key: Outcome(key, "done") if key in done else Outcome(key, "failed", "the lights went out")
        for key in plan.units
    }
    conclusions = write_study_report(folder, study or study_of(), plan, outcomes)
    return conclusions, (folder / "report.md").read_text()


def rows_of(folder):
    return list(csv.DictReader((folder / "comparisons.csv").open()))


def test_one_fit_of_one_patient_is_reported_without_a_test(tmp_path):
    conclusions, text = written(
        tmp_path, study_of(draws=1, seeds=[0]), draws=1, seeds=[0], patients="a"
    )
    assert all("one model an arm on one patient allows no test" in c for c in conclusions)
    assert len(conclusions) == 2
    row = next(r for r in rows_of(tmp_path) if r["arm"] == "synthetic" and r["primary"] == "1")
    for column in ("low_95", "high_95", "p", "p_holm", "p_wilcoxon", "p_welch",
                   "smallest_detectable", "seed_noise"):  # fmt: skip
        assert row[column] == "", column
    assert float(row["difference"]) == pytest.approx(
        score(("synthetic", 0, 0), "a") - score(("stack", 0, 0), "a")
    )
    line = next(x for x in text.splitlines() if x.startswith("| synthetic * | Dice | mean |"))
    assert [c.strip() for c in line.split("|")][5:-1] == [""] * 6
    assert "nan" not in text
    assert (tmp_path / "figures" / "forest.png").exists()


def test_groups_of_one_patient_have_no_interval(tmp_path):
    _, text = written(
        tmp_path, study_of(draws=1, seeds=[0]), draws=1, seeds=[0], patients="ab",
        groups={"other": {"a": "x", "b": "y"}},
    )  # fmt: skip
    lines = [x for x in text.splitlines() if x.startswith("| synthetic | Dice | ")]
    groups = [line for line in lines if "| x" in line or "| y" in line]
    assert len(groups) == 2
    assert all(line.endswith("|  |") for line in groups)
    assert "nan" not in text


@pytest.mark.parametrize("gone", [("synthetic", 1, 0), ("null", 1, 0)])
def test_a_missing_fit_leaves_the_report_its_comparisons(tmp_path, gone):
    conclusions, text = written(tmp_path, missing=[gone])
    primary = {r["arm"]: r for r in rows_of(tmp_path) if r["primary"] == "1"}
    sizes = {arm: (r["draws"], r["seeds"]) for arm, r in primary.items()}
    assert sizes == {
        arm: ("2", "2") if arm == gone[0] else ("3", "2") for arm in ("null", "synthetic")
    }
    (told,) = [c for c in conclusions if "Left out of this comparison: draw 1" in c]
    assert f"may flatter {gone[0]}." in told
    assert f"**{told}**" in text
    assert f"Left out of the means and failures of {gone[0]}: draw 1" in text
    assert "1 unit(s) are missing, see the end." in text
    assert "the lights went out" in text


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_pictures_stand_where_fits_and_arms_are_missing(tmp_path):
    gone = [("null", d, s) for d in range(3) for s in (0, 1)] + [("synthetic", 0, 1)]
    conclusions, text = written(tmp_path, missing=gone)
    assert (tmp_path / "figures" / "patients_2_unet.png").exists()
    assert any("no fit of null has finished" in c for c in conclusions)
    assert "null: no fit has finished." in text


def test_the_synthetic_share_is_told_of_what_is_mixed():
    made = Generator(method="reference_shift")
    told = [
        _synthetic_share(Arm(synthetic=made, synthetic_probability=0.4, settings=settings))
        for settings in ({}, {"mix": "image"}, {"mix": "loss"}, {"mix": "logit", "mix_lambda": 0.8})
    ]
    assert told == ["40% of samples", "40% of patches", "40% of the loss", "20% of patches"]


def test_nothing_finished_is_said(tmp_path):
    every = [(a, d, s) for a in ("stack", "null", "synthetic") for d in range(3) for s in (0, 1)]
    conclusions, text = written(tmp_path, missing=every)
    assert conclusions == ("The primary endpoint was not reached: see what is missing.",)
    assert "18 unit(s) are missing" in text


def test_the_record_names_every_reading(tmp_path):
    line = {"time": "now", "protocol": "other", "evaluations": 3}
    (tmp_path / "readings.jsonl").write_text(json.dumps(line) + "\n")
    _, text = written(tmp_path)
    assert "| now | other | 3 |" in text
    assert "read before under another protocol: other" in text


def distance(key, patient):
    """An HD that is beyond 20 mm in half of the patients, but for the arm `synthetic`."""
    return 25.0 if patient in "abcdef" and key[0] != "synthetic" else 5.0


def failing(folder, **more):
    patients = "abcdefghijkl"
    study = study_of(
        endpoint={"test": "other", "metric": "failure"},
        failure_hd=more.pop("failure_hd", 20),
    )
    return written(folder, study, patients=patients, hd=distance, **more)


def test_failure_rates_stand_beside_the_other_figures(tmp_path):
    conclusions, text = failing(tmp_path)
    (told,) = [c for c in conclusions if " of synthetic " in c]
    assert told.startswith(
        "A benefit was shown: failure rate (HD above 20 mm; mean, other, 2 training patients, unet)"
        " of synthetic is 0.5 below that of stack on 12 patients"
    )
    head = next(x for x in text.splitlines() if x.startswith("| arm | Dice mean"))
    for column in ("HD mean", "HD LV", "HD95 LV", "failure rate mean", "failure rate LV"):
        assert f"| {column} |" in head
    line = next(x for x in text.splitlines() if x.startswith("| synthetic * | failure rate | mean"))
    assert "| -0.5 |" in line
    means = next(x for x in text.splitlines() if x.startswith("| synthetic | 0."))
    cells = [c.strip() for c in means.split("|")]
    column = [c.strip() for c in head.split("|")].index("failure rate mean")
    assert cells[column] == "0.000"  # an interval without width would be no certainty
    rows = {(r["arm"], r["metric"], r["label"]): r for r in rows_of(tmp_path)}
    one, null = (rows[arm, "failure", "mean"] for arm in ("synthetic", "null"))
    assert (float(one["mean"]), float(one["baseline_mean"])) == (0, 0.5)
    # Six of six patients are better: the signs of six coins.
    assert float(one["p"]) == pytest.approx(2 / 2**6)
    assert float(one["low_95"]) < -0.5 < float(one["high_95"]) < 0
    assert (float(null["difference"]), float(null["p"])) == (0, 1)
    assert float(null["high_95"]) == pytest.approx(1 - 0.025 ** (1 / 12))
    assert null["smallest_detectable"] == ""
    assert "nan" not in text


def test_the_limit_is_that_of_the_study(tmp_path):
    _, text = failing(tmp_path, failure_hd=30)
    assert "HD above 30 mm" in text
    rows = [r for r in rows_of(tmp_path) if r["metric"] == "failure"]
    assert {float(r["mean"]) for r in rows} == {0}


def test_in_pixels_there_is_no_usual_limit(tmp_path):
    _, text = written(tmp_path, hd=distance, distances="px")
    assert "failure rates are not told. Set failure_hd" in text
    assert "failure rate mean" not in text
    assert not [r for r in rows_of(tmp_path) if r["metric"] == "failure"]
    _, text = written(tmp_path / "set", study_of(failure_hd=20), hd=distance, distances="px")
    assert "HD above 20 px" in text
    assert "failure rate mean" in text


def test_groups_are_split_by_failures_too(tmp_path):
    groups = {"other": {p: "low" if p in "abc" else "high" for p in "abcdefghijkl"}}
    _, text = failing(tmp_path, groups=groups)
    (line,) = [x for x in text.splitlines() if x.startswith("| synthetic | failure rate | low")]
    # Three patients, all better: three coins.
    assert "| 3 | -1 | [-1, +" in line
