"""Figures beside the kernel distance, against answers that are known."""

import math

import pytest
import torch

from augmint.errors import AugmintError
from augmint.quality.diversity import (
    SCALES,
    beside_real,
    diversity,
    frechet_distance,
    ms_ssim,
    precision_recall,
    principal_features,
)


def normal(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(x):
    """Mean 0 and covariance 1, exactly."""
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def test_frechet_distance_of_a_set_from_itself_is_0():
    x = normal(40)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_a_shift_is_its_square():
    x = normal(40)
    assert frechet_distance(x, x + torch.tensor([3.0, 0, 4])) == pytest.approx(25)


def test_frechet_distance_of_other_deviations():
    x = whitened(normal(40))
    scales = torch.tensor([2.0, 1, 5], dtype=torch.float64)
    # Sum of (1 - s)^2 for commuting covariances.
    assert frechet_distance(x, x * scales) == pytest.approx(1 + 0 + 16)


def test_frechet_distance_does_not_change_with_a_turn_of_both():
    a, b = normal(40), normal(30, seed=1) * 2 + 1
    turn, _ = torch.linalg.qr(normal(3, seed=2))
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))


def test_precision_and_recall_of_a_set_with_itself_are_1():
    x = normal(30)
    assert precision_recall(x, x) == (1.0, 1.0)


def test_precision_and_recall_of_sets_far_apart_are_0():
    assert precision_recall(normal(30), normal(30, seed=1) + 100) == (0.0, 0.0)


def test_one_mode_of_two_has_full_precision_and_half_the_recall():
    mode = normal(20)
    real = torch.cat([mode, normal(20, seed=1) + 100])
    assert precision_recall(real, mode) == (1.0, 0.5)
    assert precision_recall(mode, real) == (0.5, 1.0)


def test_precision_counts_by_the_third_neighbour():
    real = torch.arange(5.0)[:, None]  # radii 3, 2, 2, 2, 3 by the third neighbour
    made = torch.tensor([[7.0], [7.1], [8.0], [9.0]])
    precision, recall = precision_recall(real, made)
    assert precision == 0.25  # 7 lies within 3 of the image at 4
    assert recall == 0.0  # the radius of the one at 7 is 2


def test_principal_features_keep_what_varies():
    x = normal(50, 2)
    wide = torch.cat([x, x[:, :1] * 2, torch.ones(50, 1, dtype=torch.float64)], 1)
    real, other = principal_features(wide, wide[:7], count=3)
    assert real.shape == (50, 2)
    assert torch.allclose(real[:7], other)
    assert torch.allclose(torch.cdist(real, real), torch.cdist(wide, wide), atol=1e-6)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(AugmintError, match="of one D"):
        frechet_distance(normal(4, 2), normal(4, 3))
    with pytest.raises(AugmintError, match="4 images or more"):
        precision_recall(normal(3), normal(9))


def test_ms_ssim_of_equal_images_is_1():
    x = torch.rand(3, 1, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(ms_ssim(x, x), torch.ones(3), atol=1e-5)


def test_ms_ssim_of_flat_images_is_their_luminance():
    a, b = torch.full((1, 1, 24, 24), -0.5), torch.full((1, 1, 24, 24), 0.5)
    light = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    # Two scales fit; luminance counts at the coarser one alone.
    exponent = SCALES[1] / (SCALES[0] + SCALES[1])
    assert float(ms_ssim(a, b)) == pytest.approx(light**exponent, abs=1e-4)


def test_ms_ssim_of_independent_noise_is_near_0_and_symmetric():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, 1, 64, 64, generator=g) * 2 - 1 for _ in range(2))
    assert torch.allclose(ms_ssim(a, b), ms_ssim(b, a))
    assert float(ms_ssim(a, b).max()) < 0.4
    assert float(ms_ssim(a, (a + 0.2 * b).clamp(-1, 1)).min()) > 0.8


def test_ms_ssim_refuses_images_that_are_too_small():
    with pytest.raises(AugmintError, match="11 pixels"):
        ms_ssim(torch.zeros(1, 1, 8, 20), torch.zeros(1, 1, 8, 20))


def test_copies_of_one_image_have_no_diversity_and_noise_has_much():
    g = torch.Generator().manual_seed(0)
    one = (torch.rand(1, 1, 32, 32, generator=g) * 2 - 1).expand(6, -1, -1, -1)
    names = list("abcdef")
    assert diversity(one, names, pairs=20).value == pytest.approx(1)
    many = torch.rand(6, 1, 32, 32, generator=g) * 2 - 1
    found = diversity(many, names, pairs=20)
    assert found.value < 0.5
    assert found.interval[0] <= found.value <= found.interval[1]


def test_diversity_is_between_patients():
    g = torch.Generator().manual_seed(0)
    twins = (torch.rand(2, 1, 16, 16, generator=g) * 2 - 1).repeat_interleave(2, 0)
    found = diversity(twins, ["a", "a", "b", "b"], pairs=10)
    assert found.value == pytest.approx(float(ms_ssim(twins[:1], twins[2:3])), abs=1e-5)
    with pytest.raises(AugmintError, match="two patients"):
        diversity(twins, ["a"] * 4)


def means(a, b):
    return [float((a.mean(0) - b.mean(0)).norm())]


def test_beside_real_shows_a_shift_and_only_that():
    real = normal(200)
    groups = [f"p{i // 10}" for i in range(200)]
    ((near, far),) = beside_real(means, real, groups, real + 5, groups, splits=8)
    assert far.value == pytest.approx(math.sqrt(75), rel=0.05)
    assert near.value < 1
    ((same, copied),) = beside_real(means, real, groups, real.clone(), groups, splits=8)
    assert same.by_split == pytest.approx(near.by_split)
    assert abs(copied.value - same.value) < 3 * same.deviation


def test_beside_real_takes_synthetic_images_of_the_other_half_alone():
    groups = [f"p{i}" for i in range(8) for _ in range(4)]
    code = torch.tensor([[float(i)] for i in range(8) for _ in range(4)])
    met = []

    def shared(a, b):
        met.append(bool(set(a[:, 0].tolist()) & set(b[:, 0].tolist())))
        return [0.0]

    beside_real(shared, code, groups, code, groups, splits=5)
    assert not any(met)
    met.clear()
    beside_real(shared, code, groups, code, None, splits=5)
    assert any(met[1::2])


def test_beside_real_compares_equally_many():
    groups = [f"p{i}" for i in range(8) for _ in range(4)]
    sizes = []
    beside_real(
        lambda a, b: sizes.append(len(b)) or [0.0],
        normal(32), groups, normal(5), None, splits=3,
    )  # fmt: skip
    assert set(sizes) == {5}
