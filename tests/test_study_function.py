"""Cardiac function of a study's arms, from tables that evaluations left."""

import csv
from pathlib import Path

import numpy as np
import pytest

from augmint.evaluation.bland_altman import bland_altman
from augmint.evaluation.function import FunctionRow, write_rows
from augmint.study.compare import measurements_of
from augmint.study.function import function_blocks, measure_arms, write_function
from augmint.study.results import Place, Table
from augmint.study.spec import Study
from augmint.study.units import Cell, Plan, Unit

PATIENTS = tuple("abcdefgh")
TRUTH = dict(zip(PATIENTS, (30.0, 35, 42, 50, 55, 58, 61, 66)))


def study_of(**more) -> Study:
    fields = {
        "name": "toy", "data": "x", "sizes": [2], "draws": 2, "seeds": [0, 1],
        "tests": [{"name": "other", "data": "y"}], "baseline": "stack",
        "arms": {"better": {}, "stack": {}, "null": {"like": "stack", "null": True}},
        "endpoint": {"test": "other"},
    }  # fmt: skip
    return Study.model_validate({**fields, **more})


def made(folder: Path, errors, *, unit="px^3", test="other"):
    """A plan and a folder in which each fit missed EF by its errors; None failed."""
    units, cells = {}, []
    for (arm, draw, seed), by_patient in errors.items():
        one = Unit("evaluate", {"arm": arm, "draw": draw, "seed": seed})
        units[one.key] = one
        cells.append(Cell(2, draw, "unet", arm, seed, test, one.key))
        rows = []
        for patient, error in by_patient.items():
            ef = TRUTH[patient]
            found = None if error is None else ef + error
            rows.append(
                FunctionRow(
                    patient, "summation of slices", unit, "failed" if found is None else "ok",
                    100, 100, 100 - ef, None if found is None else 100 - found, ef, found,
                )
            )  # fmt: skip
        write_rows(rows, folder / one.folder / "cardiac.csv")
        (folder / one.folder / "cardiac.json").write_text('{"phases": "as named"}')
    return Plan(units, tuple(cells), {})


def table_of(plan: Plan) -> Table:
    place = Place(plan.cells[0].test, 2, "unet")
    return Table(place, PATIENTS, (0, 1), (0, 1), {}, {}, {}, {}, "px", ("LV",), {})


def noise(rng, scale, offset=0.0):
    return dict(zip(PATIENTS, (offset + rng.normal(0, scale, len(PATIENTS))).tolist()))


@pytest.fixture
def errors():
    rng = np.random.default_rng(0)
    fits = [(draw, seed) for draw in (0, 1) for seed in (0, 1)]
    return {
        (arm, *fit): noise(rng, scale, offset)
        for arm, scale, offset in (("stack", 8, 3), ("null", 8, 3), ("better", 2, 0))
        for fit in fits
    }


def measured(study, plan, folder):
    found = measure_arms(study, plan, [table_of(plan)], folder, set(plan.units))
    return {(one.arm, one.figure): one for one in found}


def of(errors, arm):
    return np.array([list(v.values()) for (a, _, _), v in errors.items() if a == arm])


def test_figures_are_means_over_the_trainings(tmp_path, errors):
    found = measured(study_of(), made(tmp_path, errors), tmp_path)
    assert set(found) == {(a, "ef") for a in ("stack", "null", "better")}
    truth = np.array(list(TRUTH.values()))
    for arm in ("stack", "better"):
        one, apart = found[arm, "ef"], of(errors, arm)
        each = [bland_altman(truth, truth + row) for row in apart]
        assert one.agreement.bias == pytest.approx(apart.mean(), abs=1e-3)
        assert one.agreement.lower == pytest.approx(np.mean([b.lower for b in each]), abs=1e-3)
        assert one.lowest == pytest.approx(min(b.lower for b in each), abs=1e-3)
        assert one.highest == pytest.approx(max(b.upper for b in each), abs=1e-3)
        assert one.mae == pytest.approx(np.abs(apart).mean(), abs=1e-3)
        assert one.mae_interval[0] < one.mae < one.mae_interval[1]
        assert one.agreement.bias_interval[0] < one.agreement.bias < one.agreement.bias_interval[1]


def test_arms_are_compared_with_the_baseline_wherever_it_stands(tmp_path, errors):
    found = measured(study_of(), made(tmp_path, errors), tmp_path)
    assert found["stack", "ef"].difference is None
    better, null = found["better", "ef"], found["null", "ef"]
    gain = np.abs(of(errors, "better")).mean() - np.abs(of(errors, "stack")).mean()
    assert better.difference.estimate == pytest.approx(gain, abs=1e-3)
    # A null arm stands outside the family that is corrected for.
    assert null.difference.p is not None
    assert null.p_holm is None
    assert better.p_holm == pytest.approx(better.difference.p)


def test_the_widths_of_limits_are_compared_on_the_patients_of_both(tmp_path, errors):
    errors["better", 0, 1]["c"] = None
    errors["stack", 1, 1]["e"] = None
    plan = made(tmp_path, errors)
    found = measured(study_of(), plan, tmp_path)
    assert found["stack", "ef"].ratio is None
    kept = [p not in "ce" for p in PATIENTS]
    width = {
        a: np.array([[e for e, ok in zip(v.values(), kept) if ok]
                     for (arm, _, _), v in errors.items() if arm == a]).std(1, ddof=1).mean()
        for a in ("better", "stack")
    }  # fmt: skip
    ratio = found["better", "ef"].ratio
    assert ratio.ratio == pytest.approx(width["better"] / width["stack"], abs=1e-3)
    assert (ratio.patients, ratio.left_out) == (6, ("c", "e"))
    place = found["stack", "ef"].place
    blocks = function_blocks(list(found.values()), place, study_of(), "other", tmp_path)
    texts = [content for kind, content in blocks if kind == "text"]
    told = f"EF, better: limits {ratio.ratio:.2f} as wide as those of stack, on 6 patients"
    assert any(text.startswith(told) for text in texts)
    ((head, *rows),) = [content for kind, content in blocks if kind == "table"]
    column = head.index("limits as wide as those of stack [95 %]")
    cells = {row[0]: row[column : column + 2] for row in rows}
    assert cells["better"] == [f"{ratio.ratio:.2f}", "6, 2 left out"]
    assert cells["stack"] == ["", ""]
    write_function(tmp_path, plan, list(found.values()), set(plan.units))
    arms = {r["arm"]: r for r in csv.DictReader((tmp_path / "cardiac_arms.csv").open())}
    assert float(arms["better"]["limits_ratio"]) == pytest.approx(ratio.ratio)
    assert arms["better"]["limits_ratio_left_out"] == "2"
    assert arms["stack"]["limits_ratio"] == ""


def test_one_training_has_the_intervals_of_bland_and_altman(tmp_path, errors):
    one_fit = {k: v for k, v in errors.items() if k[1:] == (0, 0)}
    study = study_of(draws=1, seeds=[0])
    found = measured(study, made(tmp_path, one_fit), tmp_path)["stack", "ef"]
    truth = np.array(list(TRUTH.values()))
    expected = bland_altman(truth, truth + of(one_fit, "stack")[0])
    assert found.agreement.bias_interval == pytest.approx(expected.bias_interval, abs=1e-2)
    assert found.agreement.upper_interval == pytest.approx(expected.upper_interval, abs=1e-2)


def test_failures_are_counted_and_their_patients_stand_aside(tmp_path, errors):
    errors["better", 0, 1]["c"] = None
    found = measured(study_of(), made(tmp_path, errors), tmp_path)
    better = found["better", "ef"]
    assert (better.failed, better.predictions) == (1, 32)
    assert better.patients == tuple("abdefgh")
    assert found["stack", "ef"].patients == PATIENTS
    assert better.difference.left_out == ("c",)


def test_an_arm_that_always_fails_keeps_its_row(tmp_path, errors):
    for key in errors:
        if key[0] == "better":
            errors[key] = dict.fromkeys(PATIENTS)
    plan = made(tmp_path, errors)
    found = measured(study_of(), plan, tmp_path)["better", "ef"]
    assert (found.failed, found.agreement, found.difference) == (32, None, None)
    blocks = function_blocks([found], found.place, study_of(), "other", tmp_path)
    (table,) = [content for kind, content in blocks if kind == "table"]
    assert table[1][:4] == ["better", "EF, points", "0", "32 of 32"]
    assert "picture" not in [kind for kind, _ in blocks]


def lacking(folder, errors, *gone):
    """The function of arms whose plan has all fits, of which some have not finished."""
    plan = made(folder, errors)
    done = {c.unit for c in plan.cells if (c.arm, c.draw, c.seed) not in gone}
    found = measure_arms(study_of(), plan, [table_of(plan)], folder, done)
    return {one.arm: one for one in found}


def test_a_draw_that_an_arm_lacks_is_left_out_of_that_arm_alone(tmp_path, errors):
    gone = [("better", 1, 0), ("better", 1, 1)]
    found = lacking(tmp_path, errors, *gone)
    assert found["stack"].predictions == found["null"].predictions == 32
    assert found["stack"].measured.shape == found["null"].measured.shape == (4, 8)
    assert (found["stack"].notes, found["null"].notes) == ((), ())
    whole = np.abs(of(errors, "null")).mean() - np.abs(of(errors, "stack")).mean()
    assert found["null"].difference.estimate == pytest.approx(whole, abs=1e-3)
    better = found["better"]
    assert (better.predictions, better.measured.shape) == (16, (2, 8))
    # The baseline is held against it in the draw that both have.
    first = [np.abs(of(errors, arm)[:2]).mean() for arm in ("better", "stack")]
    assert better.difference.estimate == pytest.approx(first[0] - first[1], abs=1e-3)
    assert better.difference.size.draws == 1
    own, pair = better.notes
    assert own.startswith("Left out of the EF and volumes of better: draw 1, so that 2 of 4 fits")
    assert pair.startswith("Left out of better less stack: draw 1")
    assert "may flatter better" in pair


def test_what_arms_lack_stands_under_their_table(tmp_path, errors):
    found = lacking(tmp_path, errors, ("null", 0, 1))
    one = found["better"]
    blocks = function_blocks(list(found.values()), one.place, study_of(), "other", tmp_path)
    notes = [content for kind, content in blocks if kind == "note"][1:]
    assert [note.split(":")[0] for note in notes] == [
        "Left out of the EF and volumes of null",
        "Left out of null less stack",
    ]


def test_without_the_baseline_the_arms_stand_alone(tmp_path, errors):
    found = lacking(tmp_path, errors, *(k for k in errors if k[0] == "stack"))
    assert set(found) == {"better", "null"}
    assert found["better"].difference is None
    assert found["better"].mae is not None
    assert "no draw and seed in which both have finished" in found["better"].notes[0]


def test_folds_are_pooled_by_seed(tmp_path, errors):
    halves = {
        (arm, fold, seed): {p: v[p] for p in (PATIENTS[:4], PATIENTS[4:])[fold]}
        for (arm, fold, seed), v in errors.items()
    }
    study = study_of(folds=2, draws=1, sizes=None)
    found = measured(study, made(tmp_path, halves), tmp_path)["stack", "ef"]
    assert found.measured.shape == (2, 8)
    assert found.predictions == 16
    pooled = np.array([v for (a, _, _), e in halves.items() if a == "stack" for v in e.values()])
    assert found.agreement.bias == pytest.approx(pooled.mean(), abs=1e-3)


def test_volumes_in_ml_are_compared_too(tmp_path, errors):
    found = measured(study_of(), made(tmp_path, errors, unit="ml"), tmp_path)
    assert {figure for _, figure in found} == {"ef", "edv", "esv"}
    assert found["stack", "edv"].mae == 0
    assert found["stack", "esv"].agreement.bias == pytest.approx(
        -found["stack", "ef"].agreement.bias, abs=1e-3
    )


def test_the_section_and_its_tables(tmp_path, errors):
    study, plan = study_of(), made(tmp_path, errors)
    found = list(measured(study, plan, tmp_path).values())
    blocks = function_blocks(found, found[0].place, study, "the place", tmp_path)
    assert blocks[0] == ("heading", "Cardiac function: the place")
    note = next(content for kind, content in blocks if kind == "note")
    for words in ("summation of slices", "phases: as named", "counted as failed", "EF alone"):
        assert words in note
    (picture,) = [content for kind, content in blocks if kind == "picture"]
    assert picture == tmp_path / "figures" / "ef_other_2_unet.png"
    assert picture.exists()
    write_function(tmp_path, plan, found, set(plan.units))
    rows = list(csv.DictReader((tmp_path / "cardiac.csv").open()))
    assert len(rows) == 12 * len(PATIENTS)
    assert rows[0]["ef_reference"] == "30.0"
    arms = {r["arm"]: r for r in csv.DictReader((tmp_path / "cardiac_arms.csv").open())}
    assert float(arms["better"]["mae"]) < float(arms["stack"]["mae"])
    assert arms["stack"]["mae_difference"] == ""


def test_where_nothing_was_measured_there_is_no_section(tmp_path):
    one = Unit("evaluate", {"arm": "stack"})
    plan = Plan({one.key: one}, (Cell(2, 0, "unet", "stack", 0, "other", one.key),), {})
    (tmp_path / one.folder).mkdir(parents=True)
    found = measure_arms(study_of(), plan, [table_of(plan)], tmp_path, {one.key})
    assert found == []
    assert function_blocks(found, Place("other", 2, "unet"), study_of(), "x", tmp_path) == []
    write_function(tmp_path, plan, found, {one.key})
    assert not (tmp_path / "cardiac.csv").exists()


def test_a_patient_without_a_figure_in_some_fit_is_undefined():
    figures = np.array([[[1.0, np.nan]]])
    assert measurements_of(figures, ("a", "b"), (0,), (0,), study_of()) is not None
    assert measurements_of(figures[..., 1:], ("b",), (0,), (0,), study_of()) is None
