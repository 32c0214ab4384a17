import numpy as np
import pytest
from scipy import stats

from augmint.evaluation.resampling import bootstrap_interval, permutation_p_value


def test_permutation_equals_scipys_and_a_count_by_hand():
    rng = np.random.default_rng(11)
    # Of the eight flips of 1, 2, 4 two reach a sum of 7, and four one of 5.
    assert permutation_p_value(np.array([1.0, 2.0, 4.0]), resamples=1, rng=rng) == 2 / 8
    assert permutation_p_value(np.array([-1.0, 2.0, 4.0]), resamples=1, rng=rng) == 4 / 8
    values = rng.normal(0.4, 1, 9)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert permutation_p_value(values, resamples=1, rng=rng) == pytest.approx(expected.pvalue)
    many = rng.normal(0.4, 1, 30)
    p = permutation_p_value(many, resamples=20000, rng=rng)
    assert p == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.3)


def test_bootstrap_of_patients_alone_is_scipys():
    values = np.random.default_rng(12).normal(0.02, 0.03, 25)
    rng = np.random.default_rng(0)
    found = bootstrap_interval(values[None, None], resamples=20000, rng=rng)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=rng
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=5e-4)


def test_bootstrap_resamples_draws_and_seeds_within_them():
    rng = np.random.default_rng(13)
    draws = np.array([-3.0, 1.0, 2.0])[:, None, None] + np.zeros((3, 4, 5))
    # The mean of three out of {-3, 1, 2}: -3 has probability 1/27, 2 likewise.
    assert bootstrap_interval(draws, resamples=4000, rng=rng) == (-3.0, 2.0)
    seeds = np.array([[-1.0, 1.0], [-10.0, 10.0]])[:, :, None] + np.zeros((2, 2, 5))
    # Both draws taken as the second and its two seeds alike twice: 1/4 x 1/16 at either end.
    low, high = bootstrap_interval(seeds, resamples=40000, rng=rng)
    assert low < -5
    assert high > 5
