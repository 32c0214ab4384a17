from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from augmint.errors import AugmintError
from augmint.evaluation.crossed import mean_p_value, minimum_detectable_effect, power
from augmint.evaluation.resampling import permutation_p_value
from augmint.evaluation.variance import Components, Size
from simulated_arms import compared, simulated

NONE = Components(0.0, 0.0, 0.0, 0.0, 0.0)


def test_one_model_an_arm_is_students_paired_test_over_patients():
    values = np.random.default_rng(1).normal(0.02, 0.03, 12)
    found = compared(values[None, None])
    expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("shape", [(4, 3, 1), (1, 4, 1)])
def test_one_patient_is_students_test_over_the_coarsest_replicates(shape):
    values = np.random.default_rng(2).normal(0.02, 0.03, shape)
    units = values.mean(1).ravel() if shape[0] > 1 else values.ravel()
    found = compared(values)
    expected = stats.ttest_1samp(units, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("over", ["draws", "seeds", "patients"])
def test_where_one_source_dominates_it_is_students_test_over_that_source(over):
    rng = np.random.default_rng(3)
    shape = {"draws": (4, 2, 9), "seeds": (1, 4, 9), "patients": (4, 2, 9)}[over]
    axis = {"draws": 0, "seeds": 1, "patients": 2}[over]
    along = [1, 1, 1]
    along[axis] = shape[axis]
    values = rng.normal(0.5, 1, along) + rng.normal(0, 1e-4, shape)
    means = values.mean(tuple({0, 1, 2} - {axis}))
    expected = stats.ttest_1samp(means, 0)
    found = compared(values)
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=0.02)


def test_no_replicates_no_test():
    found = compared([[[0.1]]])
    assert (found.p, found.interval, found.wilcoxon_p, found.welch_p) == (None,) * 4
    assert np.isnan(mean_p_value(np.full((1, 1, 1), 0.1)))


def test_the_interval_and_the_p_value_agree():
    # Studies moved so that zero lies just inside or just outside their interval.
    rng = np.random.default_rng(4)
    for shape in ((3, 2, 6), (1, 3, 5), (2, 1, 8)):
        values = rng.normal(0, 1, shape) + rng.normal(0, 0.5, (*shape[:2], 1))
        low, high = compared(values).interval
        for edge in (low, high):
            away = np.sign(edge - values.mean()) * 1e-3
            assert mean_p_value(values - edge - away) < 0.05
            assert mean_p_value(values - edge + away) > 0.05


def test_scale_sign_and_order_do_not_matter():
    values = np.random.default_rng(5).normal(0.3, 1, (3, 2, 7))
    p = mean_p_value(values)
    for other in (values * 40, -values, values[::-1], values[:, ::-1], values[..., ::-1]):
        assert mean_p_value(other) == pytest.approx(p, rel=1e-6)
    many = np.stack([values, values + 1, values * 2]).reshape(3, 1, 3, 2, 7)
    assert mean_p_value(many).shape == (3, 1)
    assert mean_p_value(many)[0, 0] == pytest.approx(p)


@pytest.mark.parametrize(
    ("size", "components"),
    [
        (Size(3, 2, 16), Components(0.0, 2.0, 0.0, 0.0, 18.0)),
        (Size(3, 2, 16), Components(2.0, 2.0, 0.0, 0.0, 18.0)),
        (Size(1, 3, 16), Components(0.0, 2.0, 8.0, 0.0, 18.0)),
        (Size(5, 3, 56), Components(2.0, 2.0, 8.0, 2.0, 18.0)),
        (Size(3, 1, 16), Components(0.0, 0.0, 8.0, 0.0, 18.0)),
    ],
)
def test_identical_arms_differ_in_one_study_of_twenty(size, components):
    studies = 1500
    hits = int((mean_p_value(simulated(components, size, studies, 6)) < 0.05).sum())
    # 3.5 to 6.5 % and the binomial error of this many studies.
    low, high = stats.binom.ppf(0.001, studies, 0.035), stats.binom.ppf(0.999, studies, 0.065)
    assert low <= hits <= high


def test_flipping_patients_takes_a_lucky_model_for_a_method():
    # Why the permutation is not the primary test.
    differences = simulated(Components(0, 18.0, 0, 0, 18.0), Size(1, 3, 10), 100, 7)
    rng = np.random.default_rng(0)
    p = [permutation_p_value(d.mean((0, 1)), resamples=1, rng=rng) for d in differences]
    assert np.mean(np.array(p) < 0.05) > 0.3
    assert np.mean(mean_p_value(differences) < 0.05) < 0.12


def test_power_of_one_model_an_arm_is_the_noncentral_t():
    components, size = replace(NONE, patient=4.0), Size(1, 1, 16)
    shift, t = 1.5 / (2 / 4), stats.t.ppf(0.975, 15)
    expected = stats.nct.sf(t, 15, shift) + stats.nct.cdf(-t, 15, shift)
    assert power(1.5, components, size) == pytest.approx(expected, abs=0.003)
    assert power(0.0, components, size) == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize(
    ("size", "components"),
    [
        (Size(3, 2, 16), Components(0.0, 2.0, 0.0, 0.0, 18.0)),
        (Size(3, 3, 10), Components(2.0, 2.0, 8.0, 2.0, 18.0)),
        (Size(1, 3, 16), Components(0.0, 2.0, 8.0, 0.0, 18.0)),
    ],
)
def test_a_true_effect_is_found_as_often_as_computed(size, components):
    effect = minimum_detectable_effect(components, size)
    assert power(effect, components, size) == pytest.approx(0.8, abs=0.001)
    for share in (0.5, 1.0):
        studies = simulated(components, size, 1200, 9) + share * effect
        found = float(np.mean(mean_p_value(studies) < 0.05))
        assert found == pytest.approx(power(share * effect, components, size), abs=0.05)


def test_more_of_anything_and_larger_effects_are_easier_to_see():
    components = Components(1.0, 1.0, 1.0, 1.0, 4.0)
    base = minimum_detectable_effect(components, Size(3, 2, 10))
    for size in (Size(6, 2, 10), Size(3, 4, 10), Size(3, 2, 40)):
        assert minimum_detectable_effect(components, size) < base
    strict = minimum_detectable_effect(components, Size(3, 2, 10), alpha=0.01)
    assert strict > base
    chances = [power(e, components, Size(3, 2, 10)) for e in (0, 1, 2, 4, -4)]
    assert chances[0] < chances[1] < chances[2] < chances[3] == chances[4]
    with pytest.raises(AugmintError, match="no power"):
        power(1.0, components, Size(1, 1, 1))
    with pytest.raises(AugmintError, match="one or more"):
        Size(0, 1, 1)
