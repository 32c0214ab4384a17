"""Builds segmentation networks; the only file that knows their constructors."""

from __future__ import annotations

from collections.abc import Callable
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
        factor: The total stride; inputs are padded to a multiple of it, at least twice it, since
            instance norm needs more than one voxel at the deepest level.
    """

    def __init__(self, spec: SegmenterSpec, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, *spatial) in [-1, 1] to logits (B, K, *spatial)."""
        spatial = image.shape[2:]
        sizes = [max(-(-n // self.factor), 2) * self.factor for n in spatial]
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
    return AttentionUnet(
        spatial_dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.num_classes,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
    )


SEGMENTERS: dict[str, Callable[[SegmenterSpec], nn.Module]] = {
    "unet": _unet,
    "residual_unet": _residual_unet,
    "attention_unet": _attention_unet,
}


def build_segmenter(
    name: str, *, dims: int, in_channels: int, num_classes: int, width: int
) -> Segmenter:
    """A segmentation network with fresh weights from torch's global generator.

    Args:
        name: `unet`, `residual_unet` or `attention_unet`.
        dims: Spatial axes, 2 or 3.
        in_channels: Channels of the image.
        num_classes: Classes with the background, at least 2.
        width: Channels of the first level.

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
    spec = SegmenterSpec(name, dims, in_channels, num_classes, width)
    factor = 2 ** (len(_channels(spec)) - 1)
    return Segmenter(spec, SEGMENTERS[name](spec), factor)
