"""How wide an arm's limits of agreement are beside its baseline's."""

import numpy as np
import pytest

from augmint.evaluation.bland_altman import bland_altman_of_fits
from augmint.evaluation.limits_ratio import limits_ratio, ratio_in_words
from simulated_arms import measured


def errors(rng, true, patients=60, *, fits=3):
    """Two arms whose errors share a part; the first one's limits are `true` as wide."""
    shared = rng.normal(0, 5, patients)
    ours, theirs = (shared + rng.normal(0, 4, (1, fits, patients)) for _ in range(2))
    return measured(true * ours + 2), measured(theirs - 3)


def test_the_ratio_is_that_of_the_limits_that_are_printed():
    arm, baseline = errors(np.random.default_rng(0), 0.8)
    widths = []
    for one in (arm, baseline):
        zero = np.zeros(60)
        found = bland_altman_of_fits(zero, one.figures.reshape(-1, 60))
        widths.append(found.upper - found.lower)
    found = limits_ratio(arm, baseline)
    assert found.ratio == pytest.approx(widths[0] / widths[1])
    low, high = found.interval
    assert low < found.ratio < high
    assert (found.patients, found.left_out) == (60, ())


def test_errors_that_are_scaled_have_a_ratio_without_doubt():
    """Paired: the same patients are drawn in both arms, so that only their ratio moves."""
    _, baseline = errors(np.random.default_rng(1), 1)
    found = limits_ratio(measured(0.7 * baseline.figures + 5), baseline)
    assert (found.ratio, *found.interval) == pytest.approx([0.7] * 3)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        low, high = limits_ratio(*errors(rng, 0.8, 40), resamples=400).interval
        held += low <= 0.8 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_patients_who_fail_in_either_arm_stand_aside():
    arm, baseline = errors(np.random.default_rng(3), 0.8, 20)
    arm.figures[0, 1, 4] = np.nan
    baseline.figures[0, 0, 7] = np.nan
    found = limits_ratio(arm, baseline)
    gone = (arm.patients[4], arm.patients[7])
    assert (found.patients, found.left_out) == (18, gone)
    kept = [p for p in arm.patients if p not in gone]
    alone = limits_ratio(arm.of_patients(kept), baseline.of_patients(kept))
    assert (found.ratio, found.interval) == (alone.ratio, alone.interval)
    text = ratio_in_words(found, arm="new", baseline="old", what="EF")
    low, high = found.interval
    assert text == (
        f"EF, new: limits {found.ratio:.2f} as wide as those of old [{low:.2f}, {high:.2f}], on "
        "18 patients; 2 who lack it after some training of either do not count."
    )


def test_few_patients_have_no_interval_and_two_no_ratio():
    arm, baseline = errors(np.random.default_rng(4), 0.8, 9)
    found = limits_ratio(arm, baseline)
    assert found.interval is None
    text = ratio_in_words(found, arm="new", baseline="old", what="EF")
    assert text.endswith("as wide as those of old, on 9 patients, too few for an interval.")
    two = arm.patients[:2]
    assert limits_ratio(arm.of_patients(two), baseline.of_patients(two)) is None


@pytest.mark.filterwarnings("error")
def test_a_baseline_that_always_errs_alike_has_no_ratio():
    arm, _ = errors(np.random.default_rng(5), 0.8, 12)
    assert limits_ratio(arm, measured(np.full((1, 3, 12), 0.1))) is None
