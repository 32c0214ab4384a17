from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from augmint.case import Case, Grid, IntensityMap
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.segmentation.cases import predict_case
from augmint.segmentation.networks import Segmenter, SegmenterSpec, build_segmenter
from augmint.segmentation.predict import keep_largest, predict_mask, predict_probabilities


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_segmenter("unet", dims=2, in_channels=1, num_classes=3, width=8)


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_probabilities_sum_to_one_and_the_mask_is_their_maximum(network, images):
    p = predict_probabilities(network, images)
    assert p.shape == (5, 3, 16, 16)
    torch.testing.assert_close(p.sum(1), torch.ones(5, 16, 16))
    assert torch.equal(predict_mask(network, images), p.argmax(1))


def test_a_sample_does_not_depend_on_its_companions(network, images):
    together = predict_probabilities(network, images, batch_size=4)
    for i, image in enumerate(images):
        assert torch.equal(predict_probabilities(network, image, batch_size=4)[0], together[i])


def test_the_network_is_left_in_its_mode(network, images):
    network.train()
    predict_mask(network, images)
    assert network.training
    network.eval()


def test_mirrored_prediction_is_equivariant(network, images):
    arguments = {"mirror_axes": (0, 1), "precision": "fp32"}
    straight = predict_probabilities(network, images, **arguments)
    flipped = predict_probabilities(network, images.flip(2), **arguments).flip(2)
    torch.testing.assert_close(straight, flipped)
    plain = predict_probabilities(network, images, precision="fp32")
    assert not torch.allclose(plain, straight, atol=1e-3)


def test_no_image_gives_no_prediction(network):
    assert predict_mask(network, torch.zeros(0, 1, 16, 16)).shape == (0, 16, 16)


def test_images_of_other_channels_are_refused(network):
    with pytest.raises(AugmintError, match="1 channel"):
        predict_mask(network, torch.zeros(2, 2, 16, 16))


def test_the_largest_part_of_each_class_is_kept():
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[0, :3], mask[5:8, 5:8], mask[7, 0], mask[2, 2] = 1, 1, 2, 2
    mask[6:8, 1] = 2
    kept = keep_largest(mask)
    expected = torch.zeros_like(mask)
    expected[5:8, 5:8] = 1
    expected[7, 0] = expected[7, 1] = expected[6, 1] = 2
    assert torch.equal(kept, expected)


def test_largest_component_is_an_option(network, images):
    raw = predict_mask(network, images)
    kept = predict_mask(network, images, largest_component=True)
    assert torch.equal(kept, torch.stack([keep_largest(mask) for mask in raw]))


def kernel_network(size, dims=2):
    """One convolution that sees `size` voxels: what a window cannot see is known exactly."""
    convolution = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 3, size, padding=size // 2)
    with torch.no_grad():
        torch.nn.init.normal_(
            convolution.weight, 0, 1 / size, generator=torch.Generator().manual_seed(1)
        )
    return Segmenter(SegmenterSpec("unet", dims, 1, 3, 8), convolution, 1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [(16, 16), (20, 40)])
def test_a_window_that_covers_the_image_changes_nothing(network, images, window):
    plain = predict_probabilities(network, images)
    assert torch.equal(predict_probabilities(network, images, window=window), plain)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("spatial", [(37, 50), (12, 40), (21, 10, 30)])
def test_sliding_is_exact_for_a_network_that_sees_one_voxel(spatial, overlap):
    dims = len(spatial)
    network, image = kernel_network(1, dims), noise(2, 1, *spatial)
    window = (16,) * dims
    plain = predict_probabilities(network, image, precision="fp32")
    slid = predict_probabilities(
        network, image, precision="fp32", window=window, overlap=overlap, mirror_axes=(0,)
    )
    assert slid.shape == plain.shape
    torch.testing.assert_close(slid, plain, atol=1e-5, rtol=1e-5)


def test_overlap_and_its_weights_bring_sliding_close_to_the_whole():
    network, image = kernel_network(5), noise(1, 1, 48, 48)
    plain = predict_probabilities(network, image, precision="fp32")
    errors = [
        (
            predict_probabilities(network, image, precision="fp32", window=(16, 16), overlap=o)
            - plain
        )
        .abs()
        .mean()
        for o in (0.0, 0.5)
    ]
    assert errors[0] > 1e-2  # a window's edge is padded, so that it cannot be the same
    assert errors[1] < errors[0] / 4


def test_a_slid_sample_does_not_depend_on_its_companions(network):
    images = noise(3, 1, 24, 40)
    together = predict_probabilities(network, images, window=(16, 16), batch_size=4)
    for i, image in enumerate(images):
        alone = predict_probabilities(network, image, window=(16, 16), batch_size=4)
        assert torch.equal(alone[0], together[i])
    torch.testing.assert_close(together.sum(1), torch.ones(3, 24, 40))


def test_a_mask_is_slid_too(network):
    images = noise(2, 1, 24, 40)
    p = predict_probabilities(network, images, window=(16, 16), overlap=0.25)
    assert torch.equal(predict_mask(network, images, window=(16, 16), overlap=0.25), p.argmax(1))
    assert not torch.equal(predict_mask(network, images), p.argmax(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (16,)}, "2 sizes"),
        ({"window": (16, 0)}, "2 sizes"),
        ({"window": (8, 8), "overlap": 1.0}, "overlap"),
    ],
)
def test_impossible_windows_are_refused(network, images, arguments, message):
    with pytest.raises(AugmintError, match=message):
        predict_probabilities(network, images, **arguments)


class Threshold(nn.Module):
    """Class 1 where an image is bright, and nothing else."""

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), 20 * image], 1)


def bright_case(shape, *places):
    image = torch.full((1, *shape), -0.8)
    for place in places:
        image[(0, *place)] = 0.8
    return Case(
        image=image,
        mask=None,
        annotated=frozenset({1}),
        grid=Grid(shape, np.eye(len(shape) + 1), True),
        intensity=IntensityMap((0.0,), (255.0,), "uint8"),
        case_id="c1",
        patient_id="p1",
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_sliding_finds_what_lies_outside_the_window(dims):
    """One part in the middle, one at the border; a centred window of half the size sees one."""
    middle, border = (slice(14, 18),) * 2, (slice(1, 5),) * 2
    case = bright_case((32, 32, 3), (*middle, slice(None)), (*border, slice(None)))
    size = (16, 16) if dims == 2 else (16, 16, 3)
    grid = WorkingGrid(dims=dims, canvas=size, window=size, spacing_mm=(1.0,) * dims)
    network = Segmenter(SegmenterSpec("unet", dims, 1, 2, 8), Threshold(), 1)
    truth = (case.image[0] > 0).long()
    cut = truth.clone()
    cut[(*border, slice(None))] = 0
    assert torch.equal(predict_case([network], case, grid), cut)
    assert torch.equal(predict_case([network], case, grid, sliding=True), truth)


def test_sliding_changes_nothing_for_a_case_that_the_window_holds(network):
    case = replace(bright_case((14, 16, 3)), image=noise(1, 14, 16, 3).clamp(-1, 1))
    grid = WorkingGrid(dims=2, canvas=(16, 16), window=(16, 16), spacing_mm=(1.0, 1.0))
    plain = predict_case([network], case, grid)
    assert torch.equal(predict_case([network], case, grid, sliding=True), plain)
    assert plain.any()


def test_the_largest_part_of_a_case_is_found_across_its_slices():
    """A tall thin part is larger than a wide flat one, though no slice of it is."""
    tall, flat = (slice(2, 4), slice(2, 4), slice(None)), (slice(8, 12), slice(8, 11), 0)
    case = bright_case((16, 16, 6), tall, flat)
    grid = WorkingGrid(dims=2, canvas=(16, 16), window=(16, 16), spacing_mm=(1.0, 1.0))
    network = Segmenter(SegmenterSpec("unet", 2, 1, 2, 8), Threshold(), 1)
    every = (case.image[0] > 0).long()
    assert torch.equal(predict_case([network], case, grid), every)
    kept = every.clone()
    kept[flat] = 0
    assert torch.equal(predict_case([network], case, grid, largest_component=True), kept)


class Background(torch.nn.Module):
    """Almost sure of background everywhere."""

    def forward(self, image):
        return torch.cat([12 + 0 * image, image, -image], 1)


@pytest.mark.parametrize("size", [(208, 174), (93, 71), (160, 154)])
def test_no_specks_along_the_edge_of_the_window(size):
    """Where the window ends, no class wins by the ringing of the way back."""
    case = bright_case((*size, 2), (slice(14, 18), slice(14, 18), slice(None)))
    grid = WorkingGrid(dims=2, canvas=(64, 64), window=(48, 48), spacing_mm=None, longest=64)
    network = Segmenter(SegmenterSpec("unet", 2, 1, 3, 8), Background(), 1)
    assert int(predict_case([network], case, grid).count_nonzero()) == 0


def test_looks_of_a_case_are_averaged():
    dark, bright = bright_case((12, 12, 2)), bright_case((12, 12, 2), (slice(3, 7),) * 3)
    grid = WorkingGrid(dims=2, canvas=(12, 12), window=(12, 12), spacing_mm=(1.0, 1.0))
    network = Segmenter(SegmenterSpec("unet", 2, 1, 2, 8), Threshold(), 1)
    inside = (bright.image[0] > 0).long()

    def found(first, *looks):
        return predict_case([network], first, grid, looks=looks)

    assert torch.equal(found(bright), inside)
    assert not found(dark).any()
    assert torch.equal(found(bright, bright), inside)
    # In logits of 20 x brightness a sure look counts as one voice of three, whatever its order.
    for looks in ((dark, dark, bright), (dark, bright, dark), (bright, dark, dark)):
        assert not found(*looks).any()
        assert torch.equal(found(*looks, bright, bright), inside)


def test_looks_are_averaged_over_all_networks(network):
    cases = [replace(bright_case((14, 16, 3)), image=noise(1, 14, 16, 3, seed=k).clamp(-1, 1))
             for k in range(2)]  # fmt: skip
    grid = WorkingGrid(dims=2, canvas=(16, 16), window=(16, 16), spacing_mm=(1.0, 1.0))
    one = predict_case([network, network], cases[0], grid, looks=cases[1:])
    assert torch.equal(one, predict_case([network], cases[0], grid, looks=cases[1:]))
