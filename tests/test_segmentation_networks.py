import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from augmint.errors import AugmintError
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.networks import SEGMENTERS, build_segmenter

WIDTHS = {name: max(8, kind.width_step) for name, kind in SEGMENTERS.items()}


def build(name, dims=2, in_channels=1, width=None):
    torch.manual_seed(0)
    return build_segmenter(
        name, dims=dims, in_channels=in_channels, num_classes=3, width=width or WIDTHS[name]
    ).eval()


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


def test_the_networks_of_the_four_papers_are_there_and_differ():
    assert set(SEGMENTERS) == {
        *("unet", "residual_unet", "attention_unet", "resnet50_unet", "swin_unetr"),
    }
    counts = {name: sum(p.numel() for p in build(name).parameters()) for name in SEGMENTERS}
    assert len(set(counts.values())) == len(SEGMENTERS)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_width_scales_the_network(name):
    narrow, wide = (
        sum(p.numel() for p in build(name, width=width).parameters()) for width in (12, 24)
    )
    assert 3 < wide / narrow < 4.5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_no_network_keeps_statistics_of_its_training_images(name, dims):
    network = build(name, dims)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert not any("running" in key for key in network.state_dict())
    norms = [m for m in network.modules() if isinstance(m, nn.modules.instancenorm._InstanceNorm)]
    assert sum(m.affine for m in norms) > 5


@pytest.mark.parametrize("name", SEGMENTERS)
def test_training_and_evaluation_agree_and_every_weight_learns(name):
    """Instance norm and no drop-out: a network in training is the network that predicts."""
    network = build(name)
    image = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    evaluated = network(image)
    trained = network.train()(image)
    torch.testing.assert_close(trained, evaluated)
    trained.square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


def test_the_encoder_of_full_width_is_resnet_50():
    network = build("resnet50_unet", in_channels=3, width=64)
    assert sum(p.numel() for p in network.network.encoder.parameters()) == 23_508_032


def test_a_thin_volume_is_not_padded_to_twice_a_large_stride():
    assert build("unet", 3).padded((20, 20, 3)) == [24, 24, 16]
    deep = build("resnet50_unet", 3)
    assert deep.padded((60, 40, 12)) == [64, 64, 32]
    # Instance norm needs two voxels where every axis would have one.
    assert deep.padded((20, 30, 12)) == [32, 64, 32]
    assert build("resnet50_unet", 2).padded((20, 30)) == [64, 64]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_checkpoint_builds_the_network_again(name, dims, tmp_path):
    network = build(name, dims)
    save_segmenter(tmp_path / "saved", network)
    stored, _ = load_segmenter(tmp_path / "saved")
    assert stored.spec == network.spec
    first, second = network.state_dict(), stored.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_networks_are_built_beside_a_broken_torchvision(tmp_path):
    """It fails to import beside a torch of another build; nothing here may need it."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    code = (
        "import sys; from augmint.segmentation.networks import SEGMENTERS, build_segmenter as b\n"
        "for name in SEGMENTERS: b(name, dims=2, in_channels=1, num_classes=2, width=12)\n"
        "assert 'torchvision' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "vnet"}, "unknown segmenter 'vnet'"),
        ({"dims": 4}, "2 or 3 spatial axes"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"name": "swin_unetr", "width": 32}, "multiple of 12, not 32; set width to 36"),
        ({"name": "resnet50_unet", "width": 6}, "multiple of 4, not 6; set width to 8"),
        ({"name": "attention_unet", "width": 7}, "multiple of 2, not 7"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    arguments = {"name": "unet", "dims": 2, "in_channels": 1, "num_classes": 2, "width": 8}
    with pytest.raises(AugmintError, match=message):
        build_segmenter(**{**arguments, **change})
