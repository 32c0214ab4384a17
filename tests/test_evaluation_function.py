import json

import numpy as np
import pytest

from augmint.errors import AugmintError
from augmint.evaluation.bland_altman import bland_altman
from augmint.evaluation.function import (
    COLUMNS,
    FunctionRow,
    figures_of,
    read_rows,
    write_function,
    write_rows,
)


def row(patient, truth, found, unit="ml", status="ok", method="summation of slices"):
    """(EDV, ESV) of reference and prediction as a row."""
    efs = [None if None in v else 100 * (v[0] - v[1]) / v[0] for v in (truth, found)]
    return FunctionRow(patient, method, unit, status, truth[0], found[0], truth[1], found[1], *efs)


ROWS = [
    row("a", (100, 50), (90, 45)),
    row("b", (120, 40), (126, 30)),
    row("c", (200, 150), (190, 160)),
    row("d", (80, 30), (80, None), status="failed"),
    FunctionRow("e", "", "", "left_out", note="no ES"),
]


def written(tmp_path, rows=ROWS):
    text = write_function(tmp_path, rows, lv="LV", phases="as named")
    return text, json.loads((tmp_path / "cardiac.json").read_text())


def test_rows_come_back_as_they_were_written(tmp_path):
    write_rows(ROWS, tmp_path / "cardiac.csv")
    back = read_rows(tmp_path / "cardiac.csv")
    assert [r.patient for r in back] == list("abcde")
    assert back[3] == ROWS[3]
    assert back[4] == ROWS[4]
    assert back[1].ef_prediction == pytest.approx(100 * 96 / 126, rel=1e-5)
    (tmp_path / "other.csv").write_text("patient,ef\na,1\n")
    with pytest.raises(AugmintError, match=r"not those of cardiac\.csv"):
        read_rows(tmp_path / "other.csv")


def test_the_summary_is_bland_altman_of_those_measured(tmp_path):
    text, stored = written(tmp_path)
    good = ROWS[:3]
    for figure in ("ef", "edv", "esv"):
        truth = np.array([getattr(r, f"{figure}_reference") for r in good])
        found = np.array([getattr(r, f"{figure}_prediction") for r in good])
        one, expected = stored[figure], bland_altman(truth, found)
        assert (one["bias"], one["sd"], one["lower"]) == pytest.approx(
            (expected.bias, expected.sd, expected.lower)
        )
        assert one["upper_interval"] == pytest.approx(expected.upper_interval)
        assert one["mae"] == pytest.approx(np.abs(found - truth).mean())
        assert one["correlation"] == pytest.approx(np.corrcoef(truth, found)[0, 1])
    assert f"EF bias {stored['ef']['bias']:+.1f} points" in text
    assert (tmp_path / "bland_altman.png").exists()


def test_failures_and_those_left_out_are_counted_by_name(tmp_path):
    text, stored = written(tmp_path)
    assert (stored["patients"], stored["compared"]) == (5, 3)
    assert list(stored["failed"]) == ["d"]
    assert stored["left_out"] == {"e": "no ES"}
    assert "counted as failed" in stored["policy"]
    assert "1 without a measurable prediction" in text
    assert "1 left out" in text


def test_without_spacing_ef_alone_is_compared(tmp_path):
    rows = [row(p, (100 + i, 50), (90, 45), "px^3") for i, p in enumerate("abc")]
    _, stored = written(tmp_path, rows)
    assert figures_of(rows) == ("ef",)
    assert stored["edv"] is None
    assert stored["esv"] is None
    assert stored["ef"]["num"] == 3
    assert "EF alone is compared" in stored["policy"]
    assert "geometric mean" not in stored["policy"]
    _, stored = written(tmp_path, [row("a", (9, 5), (9, 4), "px^3", method="biplane discs")])
    assert "geometric mean" in stored["policy"]


def test_one_patient_has_no_limits_and_no_plot(tmp_path):
    text, stored = written(tmp_path, ROWS[:1])
    assert "bias" not in stored["ef"]
    assert stored["ef"]["correlation"] is None
    assert "absolute error of EF 0.0" in text
    assert not (tmp_path / "bland_altman.png").exists()


def patients(num):
    return [row(f"p{k}", (100 + k, 50), (98 + 2 * k, 50 + k % 2)) for k in range(num)]


@pytest.mark.parametrize("num", [3, 9])
def test_limits_of_few_patients_are_called_rough(tmp_path, num):
    text, stored = written(tmp_path, patients(num))
    assert f"({num} patients: limits are rough), mean absolute error" in text
    for figure in ("ef", "edv", "esv"):
        assert stored[figure]["note"].startswith(f"{num} patients: limits are rough")
        assert stored[figure]["lower"] < stored[figure]["upper"]


def test_limits_of_ten_patients_need_no_remark(tmp_path):
    text, stored = written(tmp_path, patients(10))
    assert "rough" not in text
    assert stored["ef"]["note"] == ""


@pytest.mark.parametrize("num", [1, 2])
def test_one_or_two_patients_have_no_limits_at_all(tmp_path, num):
    text, stored = written(tmp_path, patients(num))
    assert "too few patients for limits of agreement" in text
    assert stored["ef"].get("lower") is stored["ef"].get("upper_interval") is None
    assert "too few patients for limits" in stored["ef"]["note"]
    assert "correlation needs 3 patients" in stored["ef"]["note"]


def test_a_missing_correlation_is_explained(tmp_path):
    _, stored = written(tmp_path, [row(f"p{k}", (100 + k, 50), (90, 45 + k)) for k in range(12)])
    assert stored["edv"]["correlation"] is None
    assert stored["edv"]["note"] == "no correlation: all predictions are equal"
    assert stored["esv"]["note"] == "no correlation: all references are equal"
    assert stored["ef"]["correlation"] is not None


def test_all_predictions_failed_is_told(tmp_path):
    text, stored = written(tmp_path, [ROWS[3]])
    assert stored["ef"] is None
    assert text.startswith("cardiac function of 0 patients")


def test_columns_are_the_contract():
    assert COLUMNS == (
        "patient", "method", "unit", "status", "edv_reference", "edv_prediction",
        "esv_reference", "esv_prediction", "ef_reference", "ef_prediction", "note",
    )  # fmt: skip
