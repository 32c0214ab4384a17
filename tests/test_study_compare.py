"""Arms against the baseline where fits, folds or figures are missing."""

import numpy as np
import pytest

from augmint.study.compare import compare_all
from augmint.study.results import collect
from scored_studies import ARMS, planned, score, study_of

FITS = [(d, s) for d in range(3) for s in (0, 1)]


def compared(folder, study=None, **more):
    plan, done = planned(folder, **more)
    tables = collect(plan, folder, ARMS, ("dice",), done)
    return compare_all(study or study_of(), tables, plan.groups), tables


def gain(arm, fits, patients="abcdef"):
    apart = [score((arm, *fit), p) - score(("stack", *fit), p) for fit in fits for p in patients]
    return pytest.approx(np.mean(apart))


def mean_rows(found):
    return {row.arm: row for row in found.rows if row.label == "mean"}


def of(found, arm):
    (sentence,) = [c for c in found.conclusions if f"of {arm} " in c or c.startswith(f"{arm} ")]
    return sentence


def test_a_full_grid_is_compared_whole(tmp_path):
    found, (table,) = compared(tmp_path)
    rows = mean_rows(found)
    assert set(rows) == {"null", "synthetic"}
    for arm, row in rows.items():
        assert (row.draws, row.seeds, row.patients) == (3, 2, 6)
        assert row.difference == gain(arm, FITS)
    assert "A benefit was shown" in of(found, "synthetic")
    assert not any("Left out" in c for c in found.conclusions)
    assert found.notes == {table.place: ()}


def test_one_missing_fit_costs_its_draw_in_that_arm_alone(tmp_path):
    found, (table,) = compared(tmp_path, missing=[("synthetic", 1, 0)])
    rows = mean_rows(found)
    assert (rows["null"].draws, rows["null"].seeds, rows["null"].patients) == (3, 2, 6)
    assert rows["null"].difference == gain("null", FITS)
    row = rows["synthetic"]
    left = [f for f in FITS if f[0] != 1]
    assert (row.draws, row.seeds, row.patients) == (2, 2, 6)
    assert row.difference == gain("synthetic", left)
    assert row.baseline_mean == pytest.approx(
        np.mean([score(("stack", *f), p) for f in left for p in "abcdef"])
    )
    # Labels are compared on the same fits as their mean.
    assert {(r.arm, r.label) for r in found.rows} == {
        (arm, label) for arm in ("null", "synthetic") for label in ("mean", "LV")
    }
    sentence = of(found, "synthetic")
    assert "(2 draws, 2 seeds each" in sentence
    assert (
        "Left out of this comparison: draw 1, so that 4 of 6 fits remain, because fits are "
        "missing: synthetic, draw 1 with seed 0. Leaving out fits that failed may flatter "
        "synthetic."
    ) in sentence
    assert "Left out" not in of(found, "null (null)")
    means, pair = found.notes[table.place]
    assert means.startswith("Left out of the means and failures of synthetic: draw 1")
    assert pair.startswith("Left out of synthetic less stack: draw 1")


def test_the_means_of_an_arm_stand_on_its_own_fits(tmp_path):
    found, (table,) = compared(tmp_path, missing=[("synthetic", 1, 0)])
    for arm, fits in (("stack", FITS), ("synthetic", [f for f in FITS if f[0] != 1])):
        mean = np.mean([score((arm, *f), p) for f in fits for p in "abcdef"])
        assert found.interval(table.place, arm, "dice", "mean").startswith(f"{mean:.3f} [")


def test_a_missing_draw_goes_from_its_arm_alone(tmp_path):
    found, _ = compared(tmp_path, missing=[("synthetic", 0, 0), ("synthetic", 0, 1)])
    rows = mean_rows(found)
    assert rows["null"].difference == gain("null", FITS)
    assert (rows["synthetic"].draws, rows["synthetic"].seeds) == (2, 2)
    assert rows["synthetic"].difference == gain("synthetic", FITS[2:])
    assert "because fits are missing: synthetic, draw 0." in of(found, "synthetic")


def test_a_missing_null_costs_the_other_arms_nothing(tmp_path):
    found, _ = compared(tmp_path, missing=[("null", 2, 1)])
    rows = mean_rows(found)
    assert rows["synthetic"].difference == gain("synthetic", FITS)
    assert rows["null"].difference == gain("null", FITS[:4])
    whole, _ = compared(tmp_path / "whole")
    assert rows["synthetic"] == mean_rows(whole)["synthetic"]
    assert of(found, "synthetic") == of(whole, "synthetic")


def test_a_missing_baseline_goes_from_every_comparison(tmp_path):
    found, (table,) = compared(tmp_path, missing=[("stack", 1, 1)])
    for arm, row in mean_rows(found).items():
        assert row.difference == gain(arm, [f for f in FITS if f[0] != 1])
    assert all("may flatter stack." in c for c in found.conclusions)
    assert len(found.notes[table.place]) == 3


def test_an_arm_that_never_finished_is_named(tmp_path):
    found, (table,) = compared(tmp_path, missing=[("synthetic", *f) for f in FITS])
    assert set(mean_rows(found)) == {"null"}
    assert of(found, "synthetic") == (
        "synthetic was not compared with stack: dice (mean, other, 2 training patients, unet): "
        "no fit of synthetic has finished."
    )
    assert found.notes[table.place] == ("synthetic: no fit has finished.",)


def test_arms_without_a_common_fit_are_not_compared(tmp_path):
    gone = [("synthetic", d, s) for d, s in FITS if d] + [("stack", 0, s) for s in (0, 1)]
    found, (table,) = compared(tmp_path, missing=gone)
    assert set(mean_rows(found)) == {"null"}
    reason = "there is no draw and seed in which both have finished."
    assert of(found, "synthetic").endswith(reason)
    assert any(n == f"synthetic less stack: {reason}" for n in found.notes[table.place])


def test_without_the_baseline_nothing_is_compared_and_every_arm_says_why(tmp_path):
    found, _ = compared(tmp_path, missing=[("stack", *f) for f in FITS])
    assert found.rows == ()
    assert len(found.conclusions) == 2
    assert all(c.endswith("no fit of stack has finished.") for c in found.conclusions)


def test_a_patient_that_is_undefined_in_one_fit_costs_no_fit(tmp_path):
    def dice(key, patient):
        return None if (key, patient) == (("synthetic", 1, 0), "c") else score(key, patient)

    found, (table,) = compared(tmp_path, dice=dice)
    row = mean_rows(found)["synthetic"]
    assert (row.draws, row.seeds, row.patients) == (3, 2, 5)
    assert row.difference == gain("synthetic", FITS, "abdef")
    assert found.notes == {table.place: ()}
    assert mean_rows(found)["null"].patients == 6


def test_a_figure_that_nobody_has_is_told_from_missing_fits(tmp_path):
    found, _ = compared(
        tmp_path, dice=lambda k, p: None if k == ("synthetic", 1, 0) else score(k, p)
    )
    assert set(mean_rows(found)) == {"null"}
    assert of(found, "synthetic").endswith("no patient has this figure in every fit of both.")


def test_a_group_without_figures_does_not_stop_the_others(tmp_path):
    def dice(key, patient):
        undefined = key == ("synthetic", 1, 0) and patient in "ab"
        return None if undefined else score(key, patient)

    groups = {"other": dict(zip("abcdef", "xxyyzz"))}
    found, (table,) = compared(tmp_path, dice=dice, groups=groups)
    split = [(g.arm, g.group, g.patients) for g in found.groups_at(table.place)]
    assert [g for g in split if g[0] == "synthetic"] == [
        ("synthetic", "y", 2), ("synthetic", "z", 2),
    ]  # fmt: skip
    assert len([g for g in split if g[0] == "null"]) == 3


def folded(folder, **more):
    study = study_of(folds=3, draws=1, sizes=None, tests=[], endpoint={"test": "held out"})
    return compared(
        folder, study, test="held out",
        tested=lambda fold: ("ab", "cd", "ef")[fold], **more,
    )  # fmt: skip


def test_a_missing_fold_costs_its_patients_in_that_arm_alone(tmp_path):
    found, _ = folded(tmp_path, missing=[("synthetic", 1, 0)])
    rows = mean_rows(found)
    assert (rows["null"].patients, rows["null"].seeds) == (6, 2)
    row = rows["synthetic"]
    assert (row.patients, row.draws, row.seeds) == (4, 1, 2)
    apart = [
        score(("synthetic", d, s), p) - score(("stack", d, s), p)
        for d, patients in ((0, "ab"), (2, "ef")) for s in (0, 1) for p in patients
    ]  # fmt: skip
    assert row.difference == pytest.approx(np.mean(apart))
    sentence = of(found, "synthetic")
    assert "Left out of this comparison: fold 1, so that 4 of 6 fits remain" in sentence
    assert "The patients of a fold that is left out do not count." in sentence


def test_a_seed_that_failed_in_every_fold_costs_no_patient(tmp_path):
    found, _ = folded(tmp_path, missing=[("synthetic", fold, 1) for fold in range(3)])
    row = mean_rows(found)["synthetic"]
    assert (row.patients, row.seeds) == (6, 1)
    assert "patients of a fold" not in of(found, "synthetic")
