"""Builds segmentation networks; the only file that knows their constructors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from augmint.errors import AugmintError

LEAKY = ("LeakyReLU", {"negative_slope": 0.01, "inplace": True})
# Instance norm, not batch norm: a study's test images come from other scanners than its training
# images, and running statistics of the training images would be wrong there.
INSTANCE = ("instance", {"affine": True})


@dataclass(frozen=True)
class SegmenterSpec:
    """All that is needed to build a segmentation network again.

    Attributes:
        name: A key of `SEGMENTERS`.
        dims: Spatial axes, 2 or 3.
        in_channels: Channels of the image.
        num_classes: Classes with the background.
        width: Channels of the first level.
    """

    name: str
    dims: int
    in_channels: int
    num_classes: int
    width: int


class Segmenter(nn.Module):
    """A network that takes images of any size: it pads to what its levels need and crops back.

    Attributes:
        spec: What it was built from.
        factor: The total stride; inputs are padded to a multiple of it.
        least: Voxels that each axis has at the deepest level, at least; instance norm needs more
            than one in all.
    """

    def __init__(
        self, spec: SegmenterSpec, network: nn.Module, factor: int, least: int = 2
    ) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.factor = factor
        self.least = least

    def padded(self, spatial: Sequence[int]) -> list[int]:
        """The sizes that the network computes on for an image of these sizes."""
        deepest = [max(-(-n // self.factor), self.least) for n in spatial]
        if math.prod(deepest) == 1:
            deepest[spatial.index(max(spatial))] = 2
        return [n * self.factor for n in deepest]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, *spatial) in [-1, 1] to logits (B, K, *spatial)."""
        spatial = image.shape[2:]
        sizes = self.padded(spatial)
        if list(spatial) == sizes:
            return self.network(image)
        before = [(size - n) // 2 for size, n in zip(sizes, spatial)]
        pad: list[int] = []
        for size, n, low in reversed(list(zip(sizes, spatial, before))):
            pad += [low, size - n - low]
        logits = self.network(F.pad(image, pad, mode="replicate"))
        window = tuple(slice(low, low + n) for low, n in zip(before, spatial))
        return logits[(slice(None), slice(None), *window)]


def _channels(spec: SegmenterSpec) -> tuple[int, ...]:
    levels = (1, 2, 4, 8, 8) if spec.dims == 2 else (1, 2, 4, 8)
    return tuple(spec.width * level for level in levels)


def _unet(spec: SegmenterSpec) -> nn.Module:
    from monai.networks.nets import UNet

    channels = _channels(spec)
    return UNet(
        spatial_dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.num_classes,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=0,
        norm=INSTANCE,
        act=LEAKY,
    )


def _residual_unet(spec: SegmenterSpec) -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.num_classes,
        init_filters=spec.width,
        blocks_down=(1, 2, 2, 2, 2)[: len(_channels(spec))],
        blocks_up=(1,) * (len(_channels(spec)) - 1),
        norm=INSTANCE,
    )


def _attention_unet(spec: SegmenterSpec) -> nn.Module:
    from monai.networks.nets import AttentionUnet

    channels = _channels(spec)
    network = AttentionUnet(
        spatial_dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.num_classes,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
    )
    return _with_instance_norm(network)


def _resnet50_unet(spec: SegmenterSpec) -> nn.Module:
    from augmint.segmentation.resnet_unet import ResNetUNet

    network = ResNetUNet(
        dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.num_classes,
        width=spec.width,
        norm=INSTANCE,
    )
    return _with_instance_norm(network)


def _swin_unetr(spec: SegmenterSpec) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(
        spatial_dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.num_classes,
        feature_size=spec.width,
        norm_name=INSTANCE,
    )


def _with_instance_norm(network: nn.Module) -> nn.Module:
    """Every batch norm replaced: these constructors of MONAI (1.6) have no working choice."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.InstanceNorm2d(child.num_features, affine=True))
            elif isinstance(child, nn.BatchNorm3d):
                setattr(parent, name, nn.InstanceNorm3d(child.num_features, affine=True))
    return network


@dataclass(frozen=True)
class Architecture:
    """How a network is built, and what it asks for.

    Attributes:
        build: From a spec to the bare network.
        width_step: Its width is a multiple of this.
        stride: Its total stride; None where `SegmenterSpec.dims` decides.
    """

    build: Callable[[SegmenterSpec], nn.Module]
    width_step: int = 1
    stride: int | None = None


SEGMENTERS: dict[str, Architecture] = {
    "unet": Architecture(_unet),
    "residual_unet": Architecture(_residual_unet),
    # The attention gates have half the channels of their level.
    "attention_unet": Architecture(_attention_unet, width_step=2),
    # The decoder's last level has a quarter of the width; 64 is ResNet-50 as published.
    "resnet50_unet": Architecture(_resnet50_unet, width_step=4, stride=32),
    # Three attention heads at the first level, doubled thrice; 24 and 48 are common.
    "swin_unetr": Architecture(_swin_unetr, width_step=12, stride=32),
}


def build_segmenter(
    name: str, *, dims: int, in_channels: int, num_classes: int, width: int
) -> Segmenter:
    """A segmentation network with fresh weights from torch's global generator.

    Args:
        name: A key of `SEGMENTERS`; all of them exist in 2-D and in 3-D.
        dims: Spatial axes, 2 or 3.
        in_channels: Channels of the image.
        num_classes: Classes with the background, at least 2.
        width: Channels of the first level; a multiple of 4 for `resnet50_unet`, of 12 for
            `swin_unetr`.

    Raises:
        AugmintError: for an unknown name or an impossible size.
    """
    if name not in SEGMENTERS:
        raise AugmintError(f"unknown segmenter {name!r}; choose one of {', '.join(SEGMENTERS)}")
    if dims not in (2, 3):
        raise AugmintError(f"a segmenter has 2 or 3 spatial axes, not {dims}")
    if num_classes < 2 or in_channels < 1 or width < 1:
        raise AugmintError(
            "a segmenter needs at least 2 classes, 1 channel and width 1; "
            f"got {num_classes} classes, {in_channels} channels, width {width}"
        )
    kind = SEGMENTERS[name]
    if width % kind.width_step:
        above = -(-width // kind.width_step) * kind.width_step
        raise AugmintError(
            f"the width of {name} is a multiple of {kind.width_step}, not {width}; "
            f"set width to {above}, for example"
        )
    spec = SegmenterSpec(name, dims, in_channels, num_classes, width)
    factor = kind.stride or 2 ** (len(_channels(spec)) - 1)
    # Volumes have few slices: at a stride of 32, two voxels of depth would mean 64 slices.
    least = 1 if kind.stride and dims == 3 else 2
    return Segmenter(spec, kind.build(spec), factor, least)
