"""A small autoencoder: images in a few channels on a coarser grid, for denoisers of large images.

It learns what to add to a shortcut. With a factor of 4 the latents of a fresh one are the pixels of
the image at half the resolution, and it gives that image back, enlarged. Without the shortcut a fit
of minutes stays far behind that.

Source: Rombach et al., CVPR 2022 (latent diffusion), with no perceptual network and no
discriminator, which are fitted on photographs or hard to fit on few images; Chen et al., ICLR 2025
(shortcuts from space to channels).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from augmint.diffusion.networks import Size, shuffle, unshuffle
from augmint.diffusion.sampling import generator_for
from augmint.diffusion.training import Draw, Loss, flow_matching

# Channels at half the resolution, twice as many below.
WIDTHS: dict[Size, int] = {"tiny": 16, "small": 64, "medium": 96, "large": 128}
# Weights beside the L1 of values.
WEIGHT_EDGES = 1.0
WEIGHT_KL = 1e-3
# Log-variance of the latents of a fresh autoencoder: 0.02 of noise.
START_LOG_VARIANCE = -8.0
# What the statistics of the latents are taken from: (batches, images in each).
COUNTED = (16, 4)


@dataclass(frozen=True)
class AutoencoderConfig:
    """What an autoencoder is built from; stored beside its weights.

    Attributes:
        dims: 2 or 3 spatial axes.
        channels: Channels of the image.
        factor: How much coarser their grid is along each axis, a power of two, 2 or more.
        size: `tiny`, `small`, `medium` or `large`.
    """

    dims: int
    channels: int = 1
    factor: int = 4
    size: Size = "small"

    @property
    def latent_channels(self) -> int:
        """Channels of the latents: 4 for a grey frame, 8 for a grey volume."""
        return int(self.channels * 2**self.dims)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for config.json; its kind tells it from a denoiser's."""
        return {"kind": "autoencoder", **asdict(self)}

    def build(self) -> Autoencoder:
        """A freshly initialised autoencoder.

        Raises:
            ValueError: for a size or a factor that is not offered.
        """
        if self.size not in WIDTHS:
            raise ValueError(f"autoencoder size is one of {sorted(WIDTHS)}; got {self.size!r}")
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(
                f"the factor of an autoencoder is a power of two, 2 or more; got {self.factor}"
            )
        from monai.networks.nets import AutoencoderKL

        # MONAI's halves the grid between its levels; the first halving is an unshuffle, without
        # which most of the time would be spent at full resolution.
        levels = self.factor.bit_length() - 1
        width, folded = WIDTHS[self.size], self.latent_channels
        backbone: Any = AutoencoderKL(
            spatial_dims=self.dims,
            in_channels=folded,
            out_channels=folded,
            channels=[width] + [2 * width] * (levels - 1),
            num_res_blocks=[1 if self.size in ("tiny", "small") else 2] * levels,
            attention_levels=[False] * levels,
            latent_channels=folded,
            norm_num_groups=16,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        for last in (backbone.quant_conv_mu, backbone.quant_conv_log_sigma):
            nn.init.zeros_(last.conv.weight)
            nn.init.zeros_(last.conv.bias)
        nn.init.constant_(backbone.quant_conv_log_sigma.conv.bias, START_LOG_VARIANCE)
        nn.init.zeros_(backbone.decoder.blocks[-1].conv.weight)
        nn.init.zeros_(backbone.decoder.blocks[-1].conv.bias)
        network = Autoencoder(backbone, self)
        if self.dims == 2:
            # mypy knows no memory_format overload of Module.to.
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network


class Autoencoder(nn.Module):
    """Images to latents of mean 0 and deviation 1, and back.

    Args:
        backbone: encode(x) to what is added to the shortcut's latents and their deviation,
            decode(z) to what is added to the enlarged image; x at half the resolution.
        config: the network's config.
    """

    backbone: Any
    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, config: AutoencoderConfig):
        super().__init__()
        self.backbone = backbone
        self.config = config
        # Of the raw latents, channel by channel; `normalise` sets them.
        shape = (1, config.latent_channels, *[1] * config.dims)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, *spatial) to mean and deviation of the raw latents."""
        x = unshuffle(images, 2)
        if self.config.dims == 2:
            x = x.contiguous(memory_format=torch.channels_last)
        added, deviation = self.backbone.encode(x)
        small = functional.interpolate(images, scale_factor=2 / self.config.factor, mode="area")
        return unshuffle(small, 2) + added.float(), deviation.float()

    def paint(self, raw: Tensor) -> Tensor:
        """Raw latents to images (B, C, *spatial)."""
        mode = {2: "bicubic", 3: "trilinear"}[self.config.dims]
        enlarged = functional.interpolate(
            shuffle(raw.float(), 2), scale_factor=self.config.factor / 2, mode=mode
        )
        return enlarged + shuffle(self.backbone.decode(raw), 2).float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, C, *spatial) in [-1, 1] to latents (B, L, *spatial / factor), about N(0, 1)."""
        return (self.posterior(images)[0] - self.mean) / self.deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, L, *spatial / factor) to images (B, C, *spatial) in [-1, 1]."""
        return self.paint(latents * self.deviation + self.mean).clamp(-1, 1)


def noise_like(eps: Tensor, latents: Tensor) -> Tensor:
    """The first numbers of the noise that was drawn for an image, in the shape of its latents."""
    return eps.flatten(1)[:, : latents[0].numel()].reshape(latents.shape)


def reconstruction(
    network: nn.Module, x_0: Tensor, condition: Tensor | None, eps: Tensor, t: Tensor
) -> Tensor:
    """The loss of an autoencoder: L1 of values and of edges, and a small KL to N(0, 1).

    Edges are differences between neighbours, which weigh fine texture more. The KL keeps some
    noise in the latents, so that the decoder forgives what a denoiser gets slightly wrong.

    Args:
        network: An `Autoencoder`.
        x_0: (B, C, *spatial) in [-1, 1].
        condition: None; an autoencoder has no condition.
        eps: Gaussian noise like x_0, of which the latents take a part.
        t: Not used.
    """
    assert isinstance(network, Autoencoder)
    mean, deviation = network.posterior(x_0)
    error = network.paint(mean + deviation * noise_like(eps, mean)) - x_0
    edges = [error.diff(dim=axis).abs().mean() for axis in range(2, error.ndim)]
    kl = (mean.square() + deviation.square() - 1) / 2 - deviation.log()
    return error.abs().mean() + WEIGHT_EDGES * sum(edges) / len(edges) + WEIGHT_KL * kl.mean()


@torch.no_grad()
def normalise(network: nn.Module, draw: Draw) -> None:
    """Measure the raw latents on training images, for `encode` to make them N(0, 1)-like."""
    assert isinstance(network, Autoencoder)
    device = network.mean.device
    batches, count = COUNTED
    raw = torch.cat(
        [
            network.posterior(draw(generator_for("latents", k), count)[0].to(device))[0]
            for k in range(batches)
        ]
    )
    axes = [0, *range(2, raw.ndim)]
    network.mean.copy_(raw.mean(axes, keepdim=True))
    network.deviation.copy_(raw.std(axes, keepdim=True).clamp(min=1e-3))


def flow_matching_in(autoencoder: Autoencoder) -> Loss:
    """Flow matching of the latents of the images that a batch holds; they are encoded on the fly.

    Args:
        autoencoder: Fitted, on the device of the fit.
    """

    def loss(
        network: nn.Module, x_0: Tensor, condition: Tensor | None, eps: Tensor, t: Tensor
    ) -> Tensor:
        latents = autoencoder.encode(x_0)
        return flow_matching(network, latents, condition, noise_like(eps, latents), t)

    return loss
