from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from augmint.errors import AugmintError
from augmint.evaluation.difference import group_differences, paired_difference
from augmint.evaluation.measurements import Measurements
from augmint.evaluation.variance import Size
from simulated_arms import compared, measured, pair


def test_pairs_are_matched_by_name_not_by_place():
    arm = measured(np.arange(12.0).reshape(2, 2, 3))
    turned = Measurements(
        arm.figures[::-1, ::-1, ::-1], arm.patients[::-1], arm.draws[::-1], arm.seeds[::-1]
    )
    found = paired_difference(arm, turned)
    assert found.estimate == 0
    assert found.p == 1
    assert found.interval == (0, 0)
    assert found.wilcoxon_p == 1
    assert found.permutation_p == 1
    assert found.minimum_detectable == 0


@pytest.mark.parametrize("what", ["draws", "seeds", "patients"])
def test_arms_run_otherwise_are_refused(what):
    arm = measured(np.zeros((2, 2, 2)))
    other = replace(arm, **{what: ("x", "y")})
    with pytest.raises(AugmintError, match=f"differ in {what}: .*x, y in one only"):
        paired_difference(arm, other)


def test_a_patient_undefined_in_one_fit_is_left_out_of_all_and_named():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.8, 0.1, (2, 2, 2, 5))
    arm, baseline = measured(ours), measured(theirs)
    holes, more = ours.copy(), theirs.copy()
    holes[0, 1, 2] = more[1, 0, 4] = np.nan
    found = paired_difference(measured(holes), measured(more))
    kept = ["p00", "p01", "p03"]
    assert found.left_out == ("p02", "p04")
    assert found.size == Size(2, 2, 3)
    full = paired_difference(arm.of_patients(kept), baseline.of_patients(kept))
    assert replace(found, left_out=()) == full
    with pytest.raises(AugmintError, match="no patient has a figure in every fit"):
        paired_difference(measured(holes * np.nan), baseline)


def test_means_noise_and_estimate():
    figures = np.array([[[0.1, 0.3], [0.3, 0.5]]])  # seeds' means 0.2 and 0.4
    found = paired_difference(measured(figures + 0.25), measured(figures))
    assert found.arm_mean == pytest.approx(0.55)
    assert found.baseline_mean == pytest.approx(0.3)
    assert found.estimate == pytest.approx(0.25)
    assert found.seed_noise == pytest.approx(np.sqrt(0.02))
    assert compared(np.ones((3, 1, 4))).seed_noise is None


def test_wilcoxon_and_welch_are_those_of_scipy():
    rng = np.random.default_rng(10)
    ours, theirs = rng.normal(0.82, 0.05, (3, 2, 9)), rng.normal(0.8, 0.05, (3, 2, 9))
    found = paired_difference(measured(ours), measured(theirs))
    a, b = ours.mean((0, 1)), theirs.mean((0, 1))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.welch_p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_the_same_seed_gives_the_same_comparison():
    arm, baseline = pair(np.random.default_rng(14).normal(0, 1, (2, 2, 16)))
    assert paired_difference(arm, baseline) == paired_difference(arm, baseline)


def test_groups_name_the_worst_and_the_least_helped():
    rng = np.random.default_rng(15)
    level = np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.5]) + rng.normal(0, 0.01, (2, 2, 6))
    gain = np.array([0.0, 0.0, 0.0, 0.1, 0.1, 0.1])
    arm, baseline = measured(level + gain), measured(level)
    groups = {p: "GE" if i < 3 else "Philips" for i, p in enumerate(arm.patients)}
    found = group_differences(arm, baseline, groups)
    assert list(found.differences) == ["GE", "Philips"]
    assert found.differences["Philips"].estimate == pytest.approx(0.1)
    assert found.differences["GE"].size == Size(2, 2, 3)
    assert (found.worst, found.least_helped) == ("Philips", "GE")
    turned = group_differences(arm, baseline, groups, lower_is_better=True)
    assert (turned.worst, turned.least_helped) == ("GE", "Philips")


def test_patients_without_a_group_are_named():
    arm, baseline = pair(np.zeros((1, 2, 3)))
    with pytest.raises(AugmintError, match="patients p01, p02 have no group"):
        group_differences(arm, baseline, {"p00": "GE", "p01": ""})


def test_a_comparison_is_plain_for_json():
    found = compared(np.random.default_rng(16).normal(0.05, 0.005, (3, 2, 16))).to_dict()
    assert found["size"] == {"draws": 3, "seeds": 2, "patients": 16}
    assert set(found["components"]) == {"draw", "seed", "patient", "draw_patient", "noise"}
    assert isinstance(found["p"], float)
