"""What benchmarks/quality_and_gain.py makes of measured images and gains."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from augmint.quality.fidelity import squared_mmd

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def measured(count, patients, shift=0.0, *, seed=0, dice=0.5, size=16):
    from quality_and_gain import Measured

    generator = torch.Generator().manual_seed(seed)
    names = [f"p{i % patients}" for i in range(count)]
    return Measured(
        torch.randn(count, 4, generator=generator) + shift,
        torch.rand(count, size, size, generator=generator) * 2 - 1,
        names, {p: [dice] for p in set(names)},
    )  # fmt: skip


def test_a_distance_of_all_patients_is_the_squared_mmd():
    from quality_and_gain import Side, blocks, kernel

    real, made = measured(30, 5), measured(20, 4, 0.5, seed=1)
    one, two = Side.of(real.features, real.patients), Side.of(made.features, made.patients)
    across = blocks(kernel(real.features, made.features), real.patients, made.patients)
    found = one.mean(np.ones(5)) + two.mean(np.ones(4)) - 2 * across.sum() / 600
    assert found == pytest.approx(squared_mmd(real.features, made.features), rel=1e-4)


def test_a_patient_taken_twice_brings_no_pair_of_an_image_with_itself():
    from quality_and_gain import Side, kernel

    made = measured(6, 3)
    features = made.features.double()
    k = kernel(features, features).numpy()
    times = np.array([2.0, 0.0, 1.0])
    weight = np.array([times[int(p[1])] for p in made.patients])
    pairs = np.outer(weight, weight) * (1 - np.eye(6))
    expected = (pairs * k).sum() / pairs.sum()
    assert Side.of(features, made.patients).mean(times) == pytest.approx(expected)


def test_quality_follows_the_images():
    from quality_and_gain import Quality

    real = measured(40, 8)
    near = Quality.of(real, measured(20, 4, 0.2, seed=1, dice=0.8))
    far = Quality.of(real, measured(20, 4, 2.0, seed=1, dice=0.3))
    one, two = (q.figures(q.plain()) for q in (near, far))
    assert one["kernel distance"] < two["kernel distance"]
    assert one["adherence"] == pytest.approx(0.8)
    assert one["ms_ssim"] == pytest.approx(two["ms_ssim"])


def test_arms_share_a_resample_so_that_their_order_survives_luck():
    """All gains move with the patients drawn; the order of the arms does not."""
    from quality_and_gain import Quality, summary

    rng = np.random.default_rng(0)
    real = measured(40, 8)
    quality = [
        [Quality.of(real, measured(20, 4, 0.5 * k, seed=d, dice=0.9 - 0.1 * k)) for d in range(2)]
        for k in range(4)
    ]
    luck = rng.normal(0, 1, (2, 1, 10))
    gains = np.stack([luck - 0.01 * k for k in range(4)])
    plain = summary(gains, quality, ["kernel distance", "adherence"], None)
    assert plain["gain"] == pytest.approx(gains.mean((1, 2, 3)))
    assert plain["adherence"] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    drawn = [summary(gains, quality, ["adherence"], rng) for _ in range(50)]
    assert np.std([d["gain"][0] for d in drawn]) > 0.1
    assert all((np.diff(d["gain"]) < 0).all() for d in drawn)


def test_no_correlation_is_told_of_few_or_equal_arms():
    from quality_and_gain import limits, spearman

    one = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, -one) == pytest.approx(-1)
    assert np.isnan(spearman(one, np.ones(4)))
    assert np.isnan(spearman(np.array([1.0, np.nan, np.nan, 2.0]), one))
    assert limits([float("nan")]) is None
