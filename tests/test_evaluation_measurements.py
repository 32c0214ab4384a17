from itertools import product

import numpy as np
import pytest

from augmint.errors import AugmintError
from augmint.evaluation.measurements import Measurements
from augmint.evaluation.score import ScoreRow
from simulated_arms import measured


def row(patient, dice, *, case="c1", label="lv", unit="mm", hd=None):
    none = dict.fromkeys(("precision", "recall", "hd95", "assd", "surface_dice"))
    status = "both_empty" if dice is None else "ok"
    return ScoreRow(case, patient, label, dice=dice, hd=hd, unit=unit, status=status, **none)


def test_cases_are_averaged_within_a_patient_before_labels():
    rows = [
        row("a", 0.2, case="ed", label="lv"),
        row("a", 0.4, case="es", label="lv"),
        row("a", 0.9, case="ed", label="rv"),
        row("b", 0.5, label="lv"),
        row("b", None, label="rv"),
    ]
    both = Measurements.from_rows({(0, 0): rows}, "dice")
    assert both.patients == ("a", "b")
    np.testing.assert_allclose(both.figures, [[[0.6, 0.5]]])
    rv = Measurements.from_rows({(0, 0): rows}, "dice", "rv")
    np.testing.assert_allclose(rv.figures, [[[0.9, np.nan]]])


def test_fits_land_at_their_draw_and_seed():
    fits = {(d, s): [row("a", d + s / 10)] for s, d in product((5, 7), (2, 1))}
    found = Measurements.from_rows(fits, "dice")
    assert (found.draws, found.seeds) == ((2, 1), (5, 7))
    np.testing.assert_allclose(found.figures[..., 0], [[2.5, 2.7], [1.5, 1.7]])


@pytest.mark.parametrize(
    ("rows", "metric", "label", "message"),
    [
        ({(0, 0): [row("a", 1)]}, "iou", None, "'iou' is not a metric; choose one of dice"),
        ({(0, 0): [row("a", 1)]}, "dice", "rv", "no row of label 'rv'; the scores have lv"),
        ({}, "dice", None, "without scores: all"),
        ({(0, 0): []}, "dice", None, "the scores have none"),
        (
            {(0, 0): [row("a", 1)], (1, 1): [row("a", 1)]},
            "dice",
            None,
            r"without scores: \[\(0, 1\), \(1, 0\)\]",
        ),
        (
            {(0, 0): [row("a", 1)], (0, 1): [row("b", 1)]},
            "dice",
            None,
            r"fit \(0, 0\) has no rows of patients b",
        ),
        (
            {(0, 0): [row("a", 1, hd=3.0), row("b", 1, hd=3.0, unit="px")]},
            "hd",
            None,
            "hd is in mm and px",
        ),
    ],
)
def test_rows_that_make_no_table_are_refused(rows, metric, label, message):
    with pytest.raises(AugmintError, match=message):
        Measurements.from_rows(rows, metric, label)


def test_figures_must_fit_their_names():
    with pytest.raises(AugmintError, match="are not draws x seeds x patients"):
        Measurements(np.zeros((1, 1, 2)), ("a",), (0,), (0,))
    with pytest.raises(AugmintError, match="a patient stands twice"):
        Measurements(np.zeros((1, 1, 2)), ("a", "a"), (0,), (0,))
    with pytest.raises(AugmintError, match="infinite"):
        measured([[[np.inf]]])
