import pytest
import torch

from augmint.errors import AugmintError
from augmint.segmentation.networks import build_segmenter
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
