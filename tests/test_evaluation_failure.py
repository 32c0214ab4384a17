"""Cases that fail, and how two arms' rates of them compare."""

import numpy as np
import pytest

from augmint.evaluation.conclusion import conclude
from augmint.evaluation.difference import paired_difference
from augmint.evaluation.failure import (
    failure_above,
    failure_in_words,
    failure_of,
    rate_difference,
)
from augmint.evaluation.score import ScoreRow, per_patient
from simulated_arms import measured


def row(status="ok", hd=5.0, *, unit="mm", patient="a", case="ed", label="LV"):
    none = dict.fromkeys(("dice", "precision", "recall", "hd95", "assd", "surface_dice"))
    return ScoreRow(case, patient, label, hd=hd, unit=unit, status=status, **none)


@pytest.mark.parametrize(
    ("one", "asked", "expected"),
    [
        (row(hd=20.0), None, 0),
        (row(hd=20.1), None, 1),
        (row(hd=20.1), 30, 0),
        (row("missed", hd=1.0), None, 1),
        (row("false_positive", hd=None), None, 1),
        (row("both_empty", hd=None), None, None),
        (row(hd=None), None, None),
        (row(hd=31.0, unit="px"), 30, 1),
        (row(hd=31.0, unit="px"), None, None),
        (row("missed", unit="px"), None, None),
    ],
)
def test_a_label_fails_beyond_the_limit_or_where_it_is_not_found(one, asked, expected):
    assert failure_of(one, asked) == expected


def test_the_limit_is_said_with_its_unit():
    assert failure_above(None, "mm") == 20
    assert failure_above(None, "px") is None
    assert "HD above 20 mm" in failure_in_words(None, "mm")
    assert "HD above 30 px" in failure_in_words(30, "px")
    assert "Set failure_hd" in failure_in_words(None, "px")


def test_failures_are_averaged_within_a_patient_and_then_over_labels():
    rows = [
        row(hd=25.0), row("missed", case="es"),
        row(label="LA", hd=25.0), row(label="LA", case="es"), row("both_empty", label="RV"),
    ]  # fmt: skip
    assert per_patient(rows, failure_of) == {("a", "LV"): 1, ("a", "LA"): 0.5, ("a", "mean"): 0.75}


def fits(*failed, patients=20, seeds=3):
    """Each of the numbered patients fails with every seed."""
    figures = np.zeros((1, seeds, patients))
    figures[..., list(failed)] = 1
    return measured(figures)


@pytest.mark.filterwarnings("error")
def test_where_nobody_fails_the_interval_is_that_of_none_in_so_many():
    found = rate_difference(fits(), fits())
    assert (found.estimate, found.p) == (0, 1)
    assert found.interval == pytest.approx((-0.168, 0.168), abs=1e-3)  # Clopper-Pearson, 0 of 20
    text = conclude(found, arm="new", baseline="old", figure="failure rate", lower_is_better=True)
    assert text.startswith("No benefit was shown, and no harm: failure rate of new is equal to")
    assert "nothing varied, so that no smallest effect can be told" in text


@pytest.mark.parametrize(("patients", "shown"), [(2, False), (5, False), (6, True), (20, True)])
def test_failing_all_alike_counts_as_so_many_coins(patients, shown):
    """All patients differ by one: no spread, so that a t-test would be certain of two of them."""
    every = fits(*range(patients), patients=patients)
    none = fits(patients=patients)
    assert paired_difference(none, every).p == 0
    found = rate_difference(none, every)
    assert found.p == pytest.approx(max(2 * 0.5**patients, 1 / 20_001), rel=0.5)
    low, high = found.interval
    assert low == -1
    assert (found.p < 0.05) == (high < 0) == shown


def test_p_and_interval_are_never_bolder_than_those_of_other_figures():
    rng = np.random.default_rng(0)
    for _ in range(5):
        arm, baseline = (measured(rng.random((1, 2, 12)) < 0.15) for _ in range(2))
        plain, found = paired_difference(arm, baseline), rate_difference(arm, baseline)
        assert found.p >= plain.p
        assert found.interval[0] <= max(plain.interval[0], -1)
        assert found.interval[1] >= min(plain.interval[1], 1)
        assert (found.interval[0] <= 0 <= found.interval[1]) == (found.p >= 0.05)


def test_one_fit_of_one_patient_allows_no_test():
    found = rate_difference(fits(patients=1, seeds=1), fits(0, patients=1, seeds=1))
    assert (found.estimate, found.p, found.interval) == (-1, None, None)
