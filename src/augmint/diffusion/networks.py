"""Builds the denoising networks; the only file that knows their libraries' constructors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from augmint.diffusion.path import expand

Size = Literal["tiny", "small", "medium", "large"]

# Channels per level; attention at the lowest level alone. `tiny` is for tests.
CHANNELS: dict[tuple[int, str], tuple[int, ...]] = {
    (2, "tiny"): (16, 32),
    (2, "small"): (64, 128, 192),
    (2, "medium"): (96, 192, 288, 384),
    (2, "large"): (128, 256, 384, 512),
    (3, "tiny"): (16, 32),
    (3, "small"): (32, 64, 128),
    (3, "medium"): (64, 128, 192),
    (3, "large"): (64, 128, 256, 384),
}


# A velocity from predicted data divides by the level; below this its error would explode.
LEAST_LEVEL = 0.05


@dataclass(frozen=True)
class NetworkConfig:
    """What a denoiser is built from; stored beside its weights.

    Attributes:
        dims: 2 or 3 spatial axes.
        channels: Channels of the image that is diffused.
        condition_channels: Channels of the condition, 0 for none.
        conditioning: `concat` (with x_t at the input) or `spade` (modulates the decoder, the
            encoder sees x_t alone).
        size: `tiny`, `small`, `medium` or `large`.
        stem: Pixel-unshuffle factor: the network works at 1 / stem of the resolution with
            stem^dims as many input channels. 1 is none.
        predicts: What the backbone gives, `velocity` or `data`. A backbone with fewer channels than
            the noise has behind the stem cannot tell it, but can tell data that are simple.
    """

    dims: int
    channels: int = 1
    condition_channels: int = 0
    conditioning: Literal["concat", "spade"] = "concat"
    size: Size = "small"
    stem: int = 2
    predicts: Literal["velocity", "data"] = "velocity"

    @property
    def multiple(self) -> int:
        """Spatial sizes must be multiples of this."""
        return int(self.stem * 2 ** (len(CHANNELS[self.dims, self.size]) - 1))

    def to_json(self) -> dict[str, Any]:
        """A plain dict for config.json."""
        return asdict(self)

    def build(self) -> Denoiser:
        """`build_network` of this."""
        return build_network(self)


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """Space to channels: (B, C, *spatial) to (B, C * factor^d, *spatial / factor)."""
    if factor == 1:
        return x
    b, c, *spatial = x.shape
    split: list[int] = [b, c]
    for s in spatial:
        split += [s // factor, factor]
    d = len(spatial)
    order = [0, 1, *range(3, 3 + 2 * d, 2), *range(2, 2 + 2 * d, 2)]
    return (
        x.reshape(split)
        .permute(order)
        .reshape(b, c * factor**d, *[s // factor for s in spatial])
        .contiguous()
    )


def shuffle(x: Tensor, factor: int) -> Tensor:
    """Channels to space, the inverse of `unshuffle`."""
    if factor == 1:
        return x
    b, c, *spatial = x.shape
    d = len(spatial)
    split = [b, c // factor**d, *[factor] * d, *spatial]
    order = [0, 1]
    for i in range(d):
        order += [2 + d + i, 2 + i]
    return (
        x.reshape(split)
        .permute(order)
        .reshape(b, c // factor**d, *[s * factor for s in spatial])
        .contiguous()
    )


class Denoiser(nn.Module):
    """Predicts the velocity of x_t at level t under a condition.

    Where the backbone predicts the data x_0 it is v = (x_t - x_0) / t.
    Source: Li and He, Back to Basics: Let Denoising Generative Models Denoise, 2025.

    Args:
        backbone: called as backbone(x, steps (B,)) or, for SPADE, backbone(x, steps, seg=...);
            steps run over [0, 1000], the range that its time embedding was made for.
        config: the network's config.
    """

    def __init__(self, backbone: nn.Module, config: NetworkConfig):
        super().__init__()
        self.backbone = backbone
        self.config = config

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """x_t (B, C, *spatial), t (B,) in [0, 1], condition (B, K, *spatial) to v like x_t."""
        stem = self.config.stem
        x = unshuffle(x_t, stem)
        if self.config.conditioning == "spade":
            assert condition is not None
            out = self.backbone(x, t * 1000, seg=unshuffle(condition, stem))
        else:
            if condition is not None and self.config.condition_channels:
                x = torch.cat([x, unshuffle(condition, stem)], dim=1)
            if self.config.dims == 2:
                x = x.contiguous(memory_format=torch.channels_last)
            out = self.backbone(x, t * 1000)
        found = shuffle(out, stem)
        if self.config.predicts == "data":
            return (x_t - found.to(x_t.dtype)) / expand(t, x_t).clamp(min=LEAST_LEVEL)
        return found


def build_network(config: NetworkConfig) -> Denoiser:
    """A freshly initialised denoiser.

    Raises:
        ValueError: for a size that is not offered.
    """
    if (config.dims, config.size) not in CHANNELS:
        offered = sorted({size for _, size in CHANNELS})
        raise ValueError(f"network size is one of {offered}; got {config.size!r}")
    from monai.networks.nets import DiffusionModelUNet, SPADEDiffusionModelUNet

    channels = CHANNELS[config.dims, config.size]
    fold = config.stem**config.dims
    common: dict[str, Any] = dict(
        spatial_dims=config.dims,
        out_channels=config.channels * fold,
        channels=channels,
        attention_levels=[False] * (len(channels) - 1) + [True],
        num_res_blocks=2,
        num_head_channels=32 if channels[-1] % 32 == 0 else 16,
        norm_num_groups=16,
    )
    if config.conditioning == "spade":
        backbone: nn.Module = SPADEDiffusionModelUNet(
            in_channels=config.channels * fold,
            label_nc=config.condition_channels * fold,
            spade_intermediate_channels=64,
            **common,
        )
        mend_spade(backbone)
    else:
        backbone = DiffusionModelUNet(
            in_channels=(config.channels + config.condition_channels) * fold, **common
        )
    network = Denoiser(backbone, config)
    if config.dims == 2:
        # mypy knows no memory_format overload of Module.to.
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def mend_spade(module: nn.Module) -> None:
    """Remove the InstanceNorm behind the gamma and beta convolutions of MONAI's SPADE blocks.

    MONAI (seen in 1.6.1) normalises gamma and beta over the image, so that the modulation of a
    class depends on its area and vanishes where one class fills the image. Park et al., CVPR 2019,
    have plain convolutions there. Both start at zero here: an untrained block is its norm alone.
    """
    from monai.networks.blocks.spade_norm import SPADE

    for block in module.modules():
        if isinstance(block, SPADE):
            for branch in (block.mlp_gamma, block.mlp_beta):
                if hasattr(branch, "adn"):
                    del branch.adn
                for parameter in branch.parameters():
                    nn.init.zeros_(parameter)


def count_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())
