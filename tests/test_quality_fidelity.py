import numpy as np
import pytest
import torch

from augmint.errors import AugmintError
from augmint.quality.fidelity import (
    BINS,
    held_apart_distance,
    kernel_distance,
    network_features,
    real_split_distance,
    squared_mmd,
    standardise,
    texture_features,
)
from augmint.segmentation.networks import build_segmenter


def normal(count, dims, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=generator, dtype=torch.float64) + shift


def textured(count, seed, *, size=32, smooth=0.0):
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).uniform(-1, 1, (count, 1, size, size))
    return torch.from_numpy(gaussian_filter(noise, (0, 0, smooth, smooth))).float()


def test_squared_mmd_is_the_sum_over_pairs():
    a, b = normal(7, 3, 0), normal(5, 3, 1, shift=0.3)

    def kernel(x, y):
        return (sum(float(p) * float(q) for p, q in zip(x, y)) / 3 + 1) ** 3

    same_a = [kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j]
    same_b = [kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j]
    between = [kernel(x, y) for x in a for y in b]
    expected = sum(same_a) / 42 + sum(same_b) / 20 - 2 * sum(between) / 35
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-12)
    assert squared_mmd(b, a) == pytest.approx(expected, rel=1e-12)


def test_single_precision_features_are_summed_in_double():
    a, b = normal(40, 200, 0).float(), normal(40, 200, 1).float()
    assert squared_mmd(a, b) == squared_mmd(a.double(), b.double())


def test_squared_mmd_is_unbiased_for_equal_laws():
    values = np.array(
        [squared_mmd(normal(6, 2, 2 * i), normal(9, 2, 2 * i + 1)) for i in range(800)]
    )
    error = values.std(ddof=1) / len(values) ** 0.5
    assert abs(values.mean()) < 3.5 * error
    # Unbiased means below zero, often: a biased estimator never is.
    assert (values < 0).mean() > 0.3


def test_squared_mmd_has_the_closed_form_of_two_points():
    """x = 0 against y = c in one dimension: 1 + (c^2 + 1)^3 - 2."""
    c = 0.7
    zero, there = torch.zeros(4, 1), torch.full((3, 1), c, dtype=torch.float64)
    assert squared_mmd(zero, there) == pytest.approx((c**2 + 1) ** 3 - 1, rel=1e-12)


def test_it_grows_with_a_shift():
    a = normal(150, 4, 0)
    distances = [
        kernel_distance(a, normal(150, 4, 1, shift=s), subset_size=60, subsets=20).value
        for s in (0.0, 0.3, 0.6, 1.2)
    ]
    assert distances == sorted(distances)
    assert abs(distances[0]) < 0.1 < distances[2]


def test_order_does_not_matter():
    a, b = normal(30, 3, 0), normal(20, 3, 1)
    shuffled = a[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert squared_mmd(a, b) == pytest.approx(squared_mmd(shuffled, b), rel=1e-9)


def test_the_seed_draws_the_subsets():
    a, b = normal(30, 3, 0), normal(30, 3, 1)
    one = kernel_distance(a, b, subset_size=10, subsets=5, seed=0)
    assert one == kernel_distance(a, b, subset_size=10, subsets=5, seed=0)
    assert one != kernel_distance(a, b, subset_size=10, subsets=5, seed=1)
    assert one.deviation > 0


def test_whole_sets_as_subsets_leave_no_deviation():
    a, b = normal(30, 3, 0), normal(30, 3, 1)
    whole = kernel_distance(a, b, subset_size=30, subsets=3)
    assert whole.value == pytest.approx(squared_mmd(a, b), rel=1e-9)
    assert whole.deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("size", "subsets"), [(1, 5), (21, 5), (10, 1)])
def test_impossible_subsets_are_told(size, subsets):
    with pytest.raises(AugmintError, match="2 to 20 images"):
        kernel_distance(normal(30, 3, 0), normal(20, 3, 1), subset_size=size, subsets=subsets)


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (normal(5, 4, 0), "of one D"),
        (normal(1, 3, 0), "two images or more"),
        (torch.full((5, 3), float("nan")), "standardise them first"),
    ],
)
def test_features_that_do_not_fit_are_told(b, words):
    with pytest.raises(AugmintError, match=words):
        squared_mmd(normal(5, 3, 0), b)


def of_patients(count, frames, seed, *, between=1.0):
    """Features whose patients differ, and the patient of each."""
    patient = normal(count, 3, seed) * between
    features = patient.repeat_interleave(frames, 0) + normal(count * frames, 3, seed + 1)
    return features, [f"p{i:02d}" for i in range(count) for _ in range(frames)]


def test_real_halves_are_beyond_zero_where_frames_of_a_patient_are_alike():
    features, patients = of_patients(16, 6, 0)
    alike = real_split_distance(features, patients, splits=30)
    single = real_split_distance(features, [str(i) for i in range(len(features))], splits=30)
    assert alike.value > 0.1
    assert abs(single.value) < alike.value / 3
    assert len(alike.by_split) == 30
    assert alike.value == pytest.approx(np.mean(alike.by_split))
    assert alike.deviation == pytest.approx(np.std(alike.by_split, ddof=1))


def test_halves_depend_on_the_seed_and_not_on_the_order():
    features, patients = of_patients(8, 3, 0)
    order = np.random.default_rng(0).permutation(len(patients))
    one = real_split_distance(features, patients, splits=4)
    other = real_split_distance(features[order], [patients[i] for i in order], splits=4)
    assert one.by_split == pytest.approx(other.by_split)
    assert one.by_split != real_split_distance(features, patients, splits=4, seed=1).by_split


def test_copies_of_the_real_are_as_far_as_the_real():
    """Split by split: the halves are the same, and a copy has no head start on its source."""
    features, patients = of_patients(10, 3, 0)
    real = real_split_distance(features, patients, splits=8)
    copies = held_apart_distance(features, patients, features.clone(), patients, splits=8)
    assert copies.by_split == real.by_split
    # Without splitting, copies seem closer than any other set of real frames could be.
    assert squared_mmd(features, features) < 0 < real.value


def test_a_shifted_set_lies_beyond_the_real_halves():
    features, patients = of_patients(16, 4, 0, between=0.3)
    real = real_split_distance(features, patients, splits=40)
    moved = held_apart_distance(features, patients, features + 0.8, patients, splits=40)
    assert real.quantile(moved.value) == 1
    assert 0.2 < real.quantile(real.value) < 0.8
    assert real.quantile(-10) == 0


def test_splits_by_patient_are_checked():
    features, patients = of_patients(6, 2, 0)
    with pytest.raises(AugmintError, match="4 or more"):
        real_split_distance(features[:6], patients[:6])
    with pytest.raises(AugmintError, match="one patient for each image"):
        real_split_distance(features, patients[:-1])
    with pytest.raises(AugmintError, match="without real ones: stranger"):
        held_apart_distance(features, patients, features[:2], ["stranger"] * 2)
    with pytest.raises(AugmintError, match="some of every patient"):
        held_apart_distance(features, patients, features[:2], patients[:2])


def test_standardise_takes_mean_and_deviation_of_the_real():
    real, other = normal(50, 4, 0) * 3 + 2, normal(20, 4, 1)
    scaled, moved = standardise(real, other)
    assert torch.allclose(scaled.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(scaled.std(0, correction=0), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(moved * real.std(0, correction=0) + real.mean(0), other)


def test_standardise_drops_constants_and_passes_over_nan():
    real = torch.tensor([[1.0, 5.0, float("nan")], [3.0, 5.0, 2.0], [5.0, 5.0, 4.0]])
    scaled, other = standardise(real, torch.tensor([[3.0, 9.0, float("nan")]]))
    assert scaled.shape == (3, 2)
    assert scaled[:, 1].tolist() == [0, -1, 1]
    assert other.tolist() == [[0, 0]]
    with pytest.raises(AugmintError, match="none of 2 features varies"):
        standardise(torch.ones(3, 2))
    with pytest.raises(AugmintError, match="one D"):
        standardise(real, real[:, :2])


def bank(image, sigma=2.0, area=None):
    """One image's features as (row mean, column mean, Laplacian mean, ... rms), then the bins."""
    features = texture_features(image[None, None], area, sigmas=(sigma,))[0]
    return features[: 6 * 16].reshape(6, 4, 4), features[6 * 16 :].reshape(BINS, 4, 4)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_responses_are_the_derivatives(sigma):
    """On a ramp and a parabola the derivatives are known; both are exact."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    responses, _ = bank(0.02 * rows - 0.01 * columns, sigma)
    expected = torch.tensor([0.02, -0.01, 0.0, 0.02, 0.01, 0.0]) * sigma
    assert torch.allclose(responses, expected[:, None, None].expand(6, 4, 4), atol=1e-5)
    responses, _ = bank(0.001 * (rows - 16) ** 2 - 0.0005 * (columns - 16) ** 2, sigma)
    assert torch.allclose(responses[2], torch.full((4, 4), 0.001 * sigma**2), atol=1e-5)


def test_bins_are_shares_of_grey_levels():
    image = torch.full((32, 32), -0.9)
    image[:8, :8] = 0.99
    image[:8, 8:12] = 1.0
    _, shares = bank(image)
    assert torch.allclose(shares.sum(0), torch.ones(4, 4))
    assert shares[BINS - 1, 0].tolist() == [1, 0.5, 0, 0]
    assert shares[0, 3].tolist() == [1, 1, 1, 1]


def test_what_is_outside_the_area_is_not_seen():
    image = textured(1, 0, size=48)
    area = torch.zeros(1, 48, 48, dtype=torch.bool)
    area[:, 4:40, 8:44] = True
    inside = texture_features(image, area, sigmas=(1.0, 2.0))
    other = torch.where(area[:, None], image, torch.ones(()))
    assert torch.equal(inside, texture_features(other, area, sigmas=(1.0, 2.0)))
    # The cells are those of the area: the cut-out alone says the same.
    cut = texture_features(image[:, :, 4:40, 8:44], sigmas=(1.0, 2.0))
    assert torch.allclose(inside, cut, atol=1e-5)


def test_a_cell_without_visible_pixels_is_nan():
    area = torch.ones(1, 32, 32, dtype=torch.bool)
    area[:, :8, :8] = False
    responses, shares = bank(textured(1, 0)[0, 0], 1.0, area)
    assert responses[:, 0, 0].isnan().all()
    assert shares[:, 0, 0].isnan().all()
    assert responses.isnan().sum() == 6
    assert shares.isnan().sum() == BINS


def test_an_image_does_not_depend_on_its_companions():
    images = textured(20, 0)
    features = texture_features(images, sigmas=(1.0,))
    assert features.shape == (20, 16 * (6 + BINS))
    assert torch.allclose(
        features[17:18], texture_features(images[17:18], sigmas=(1.0,)), atol=1e-6
    )


def test_textures_tell_smooth_from_rough():
    rough, again = textured(24, 0), textured(24, 1)
    smooth = textured(24, 2, smooth=0.5)
    a, b, c = standardise(*(texture_features(i, sigmas=(1.0, 2.0)) for i in (rough, again, smooth)))
    assert squared_mmd(a, c) > 20 * abs(squared_mmd(a, b))


@pytest.mark.parametrize(
    ("images", "areas", "words"),
    [
        (torch.zeros(2, 3, 32, 32), None, r"\(N, 1, H, W\)"),
        (torch.zeros(0, 1, 32, 32), None, r"\(N, 1, H, W\)"),
        (torch.full((1, 1, 32, 32), 255.0), None, r"\[-1, 1\]"),
        (torch.full((1, 1, 32, 32), float("nan")), None, r"\[-1, 1\]"),
        (torch.zeros(2, 1, 32, 32), torch.ones(2, 32, 31), "do not fit"),
        (torch.zeros(1, 1, 20, 20), None, "image 0 has no visible square of 25"),
        (torch.zeros(1, 1, 32, 32), torch.zeros(1, 32, 32), "no visible square of 7"),
    ],
)
def test_images_that_cannot_be_described_are_told(images, areas, words):
    with pytest.raises(AugmintError, match=words):
        texture_features(images, areas)


@pytest.mark.parametrize(
    ("name", "channels"), [("unet", 64), ("residual_unet", 128), ("attention_unet", 64)]
)
def test_network_features_are_of_the_bottleneck(name, channels):
    torch.manual_seed(0)
    network = build_segmenter(name, dims=2, in_channels=1, num_classes=3, width=8).train()
    images = textured(5, 0)
    features = network_features(network, images, batch_size=2)
    assert features.shape == (5, 2 * channels)
    assert (features[:, channels:] >= 0).all()
    assert features.std(0).min() > 0
    assert network.training
    assert not any(m._forward_hooks for m in network.modules())
    assert torch.allclose(features, network_features(network, images), atol=1e-5)


def test_network_features_of_volumes():
    network = build_segmenter("unet", dims=3, in_channels=2, num_classes=2, width=4)
    assert network_features(network, torch.rand(2, 2, 8, 16, 16)).shape == (2, 64)


def test_networks_and_images_that_do_not_fit_are_told():
    network = build_segmenter("unet", dims=2, in_channels=1, num_classes=2, width=4)
    with pytest.raises(AugmintError, match="takes images"):
        network_features(network, torch.zeros(1, 2, 32, 32))
    other = build_segmenter("swin_unetr", dims=2, in_channels=1, num_classes=2, width=12)
    with pytest.raises(AugmintError, match="swin_unetr are not known"):
        network_features(other, torch.zeros(1, 1, 32, 32))
