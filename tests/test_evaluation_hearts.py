from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from augmint.case import Grid
from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.evaluation.function import read_rows
from augmint.evaluation.hearts import Hearts, measure_rows

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@dataclass(frozen=True)
class Named:
    case_id: str
    patient_id: str
    columns: dict = field(default_factory=dict)


def stack(height: int) -> np.ndarray:
    """A cavity of 4 * height voxels in a small volume, as classes."""
    mask = np.zeros((6, 6, 10), np.uint8)
    mask[2:4, 2:4, :height] = 3
    return mask


GRID = Grid((6, 6, 10), np.diag([10.0, 10, 10, 1]), True)


def kept(tmp_path, cases, labels=LABELS, grid=GRID):
    """Hearts after (case, reference, prediction)."""
    hearts = Hearts.of(labels, {3}, tmp_path / "work")
    for case, reference, prediction in cases:
        hearts.keep(case, grid, reference, prediction)
    return hearts


def pairs(patient="p", ed=8, es=4, found=(8, 4), phases=("ED", "ES")):
    return [
        (Named(f"{patient}_{n}", patient, {"phase": phase} if phase else {}), stack(a), stack(b))
        for n, phase, a, b in zip("xy", phases, (ed, es), found)
    ]


def rows_of(tmp_path, hearts):
    text = hearts.write(tmp_path)
    return text, {r.patient: r for r in read_rows(tmp_path / "cardiac.csv")}


def test_a_patient_has_the_volumes_and_ef_of_both_masks(tmp_path):
    _, rows = rows_of(tmp_path, kept(tmp_path, pairs(found=(10, 2))))
    r = rows["p"]
    assert (r.status, r.unit, r.method) == ("ok", "ml", "summation of slices")
    assert (r.edv_reference, r.esv_reference, r.ef_reference) == (32, 16, 50)
    assert (r.edv_prediction, r.esv_prediction, r.ef_prediction) == (40, 8, 80)


def test_an_empty_prediction_is_a_failure_and_an_empty_reference_is_left_out(tmp_path):
    cases = [*pairs("a"), *pairs("b", found=(8, 0)), *pairs("c", es=0)]
    text, rows = rows_of(tmp_path, kept(tmp_path, cases))
    assert [rows[p].status for p in "abc"] == ["ok", "failed", "left_out"]
    assert "'b_y'" in rows["b"].note
    assert rows["b"].edv_prediction == 32
    assert rows["b"].ef_prediction is None
    assert "1 without a measurable prediction" in text


def test_unnamed_phases_follow_from_the_reference_alone(tmp_path):
    cases = pairs(ed=4, es=8, found=(10, 2), phases=("", ""))
    text, rows = rows_of(tmp_path, kept(tmp_path, cases))
    assert rows["p"].ef_reference == 50
    assert rows["p"].ef_prediction == -400  # 8 ml at ED, 40 ml at ES
    assert "larger reference LV is ED" in text


@pytest.mark.parametrize("es", [8, 4])
def test_phases_are_guessed_of_two_different_volumes_only(tmp_path, es):
    cases = pairs(es=es, phases=("", ""))
    if es == 4:
        cases.append((Named("p_z", "p"), stack(6), stack(6)))
    text = kept(tmp_path, cases).write(tmp_path)
    assert text.startswith("note: EF is not measured")
    assert "column `phase`" in text
    assert not list(tmp_path.glob("*.*"))


def test_where_nothing_says_heart_no_phase_is_guessed(tmp_path):
    brain = {"background": 0, "third ventricle": 1, "LV": 3}
    text = kept(tmp_path, pairs(phases=("", "")), brain).write(tmp_path)
    assert "names a phase" in text
    assert not (tmp_path / "cardiac.csv").exists()
    assert kept(tmp_path, pairs(), brain).write(tmp_path).startswith("cardiac function of 1")


@pytest.mark.parametrize("name", ["LV", "lvc", "LV_cavity", "Left ventricle"])
def test_the_cavity_goes_by_several_names(tmp_path, name):
    assert Hearts.of({"background": 0, name: 3}, {3}, tmp_path).lv == name


@pytest.mark.parametrize(
    ("labels", "scored"),
    [({"RV": 1}, {1}), ({"LV": 3}, {1}), ({"LV": 3, "LVC": 4}, {3, 4}), ({"LVM": 3}, {3})],
)
def test_without_one_scored_cavity_nothing_is_measured(tmp_path, labels, scored):
    assert Hearts.of(labels, scored, tmp_path) is None


def test_cases_of_other_phases_take_no_part_and_doubled_ones_are_left_out(tmp_path):
    cases = [*pairs("a"), (Named("a_m", "a", {"phase": "mid"}), stack(6), stack(6))]
    cases += [*pairs("b"), (Named("b_z", "b", {"phase": "ES"}), stack(6), stack(6))]
    _, rows = rows_of(tmp_path, kept(tmp_path, cases))
    assert rows["a"].status == "ok"
    assert rows["b"].status == "left_out"
    assert "two cases at ES" in rows["b"].note


def test_without_spacing_there_is_ef_but_no_volume(tmp_path):
    grid = replace(GRID, spacing_known=False)
    _, rows = rows_of(tmp_path, kept(tmp_path, pairs(found=(10, 2)), grid=grid))
    assert (rows["p"].unit, rows["p"].ef_reference, rows["p"].ef_prediction) == ("px^3", 50, 80)


def test_no_patient_at_all_is_an_error():
    with pytest.raises(AugmintError, match="no case names a phase"):
        measure_rows([], guess_phases=False)


def test_apical_phantoms_are_measured_by_both_views(tmp_path):
    make_phantoms("apical-ultrasound", out=tmp_path / "us", vendor="A", patients=2, size=96, seed=2)
    dataset = open_dataset(tmp_path / "us")
    hearts = Hearts.of(dataset.labels, dataset.annotated, tmp_path / "work")
    for item in dataset.items:
        case = dataset.load(item)
        hearts.keep(item, case.grid, np.asarray(case.mask), np.asarray(case.mask))
        assert hearts.has(item)
    _, rows = rows_of(tmp_path, hearts)
    truth = {item.patient_id: float(item.columns["ef"]) for item in dataset.items}
    assert len(rows) == 2
    for patient, r in rows.items():
        assert (r.method, r.unit) == ("biplane discs", "px^3")
        assert r.ef_prediction == r.ef_reference == pytest.approx(truth[patient], abs=4)
    lone = [item for item in dataset.items if item.columns["view"] == "4CH"]
    alone = Hearts.of(dataset.labels, dataset.annotated, tmp_path / "lone")
    for item in lone:
        case = dataset.load(item)
        alone.keep(item, case.grid, np.asarray(case.mask), np.asarray(case.mask))
    _, rows = rows_of(tmp_path, alone)
    assert {r.method for r in rows.values()} == {"single-plane discs 4CH"}


def test_ef_of_real_hearts_is_that_of_hearts(real_data, tmp_path):
    for name, low, high in (("Dataset027_ACDC", 5, 85), ("Dataset050_CAMUS", 10, 85)):
        folder = real_data / name
        if not folder.is_dir():
            pytest.skip(f"{name} is not there")
        dataset = open_dataset(folder)
        dataset = dataset.select(patients=dataset.patients[::30])
        hearts = Hearts.of(dataset.labels, dataset.annotated, tmp_path / name / "work")
        for item in dataset.items:
            case = dataset.load(item)
            hearts.keep(item, case.grid, np.asarray(case.mask), np.asarray(case.mask))
        _, rows = rows_of(tmp_path / name, hearts)
        assert len(rows) == len(dataset.patients)
        assert all(r.status == "ok" and low < r.ef_reference < high for r in rows.values())
