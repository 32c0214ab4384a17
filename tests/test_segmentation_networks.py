import pytest
import torch

from augmint.errors import AugmintError
from augmint.segmentation.networks import SEGMENTERS, build_segmenter


def build(name, dims=2, in_channels=1):
    torch.manual_seed(0)
    return build_segmenter(name, dims=dims, in_channels=in_channels, num_classes=3, width=8).eval()


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(16, 16), (20, 33), (10, 12, 9)])
def test_any_size_and_dimension_gives_logits_of_that_size(name, size):
    network = build(name, dims=len(size), in_channels=2)
    assert network(torch.zeros(2, 2, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_logits_depend_on_the_image(name):
    network = build(name)
    one, two = torch.randn(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(network(one), network(two), atol=1e-3)


def test_padding_is_cropped_from_where_it_was_added():
    network = build("unet")
    network.network = torch.nn.Identity()
    image = torch.randn(1, 1, 19, 45)
    assert torch.equal(network(image), image)


def test_the_three_networks_differ():
    counts = {name: sum(p.numel() for p in build(name).parameters()) for name in SEGMENTERS}
    assert len(set(counts.values())) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "vnet"}, "unknown segmenter 'vnet'"),
        ({"dims": 4}, "2 or 3 spatial axes"),
        ({"num_classes": 1}, "at least 2 classes"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    arguments = {"name": "unet", "dims": 2, "in_channels": 1, "num_classes": 2, "width": 8}
    with pytest.raises(AugmintError, match=message):
        build_segmenter(**{**arguments, **change})
