"""The changes that augmentation is made of, each sample of a batch with its own draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Range = tuple[float, float]
BLACK = -1.0


class Draw:
    """Draws for a batch: on the CPU generator, delivered on the batch's device."""

    def __init__(self, generator: Generator, batch: Tensor) -> None:
        """Draws for as many samples as the batch has, on its device."""
        self.generator = generator
        self.size = batch.shape[0]
        self.device = batch.device

    def chosen(self, p: float) -> Tensor:
        """Indices of the samples that get a step of probability p."""
        if p <= 0:
            return torch.empty(0, dtype=torch.long, device=self.device)
        hit = torch.rand(self.size, generator=self.generator) < p
        return hit.nonzero().flatten().to(self.device)

    def uniform(self, low_high: Range, *shape: int) -> Tensor:
        """Values of that shape between low and high."""
        low, high = low_high
        values = torch.rand(shape, generator=self.generator) * (high - low) + low
        return values.to(self.device)

    def per_channel(self, low_high: Range, like: Tensor) -> Tensor:
        """One value per sample and channel, shaped to multiply (B, C, *spatial)."""
        values = self.uniform(low_high, *like.shape[:2])
        return values.reshape(*like.shape[:2], *([1] * (like.ndim - 2)))

    def smooth(self, count: int, channels: int, spatial: Sequence[int], pixels: int) -> Tensor:
        """Smooth fields (count, channels, *spatial): standard normal points `pixels` apart."""
        points = [max(2, round(n / pixels) + 1) for n in spatial]
        field = torch.randn(count, channels, *points, generator=self.generator)
        mode = "bicubic" if len(points) == 2 else "trilinear"
        return F.interpolate(
            field.to(self.device), size=tuple(spatial), mode=mode, align_corners=True
        )

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal values shaped as a tensor."""
        return torch.randn(like.shape, generator=self.generator).to(self.device)


def _spatial(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def noise(image: Tensor, variance: Range, draw: Draw) -> Tensor:
    """Gaussian noise; `variance` is relative to the image's own."""
    std = image.std(_spatial(image), keepdim=True)
    return image + draw.normal(image) * std * draw.per_channel(variance, image).sqrt()


def blur(image: Tensor, sigma_px: Range, draw: Draw) -> Tensor:
    """A Gaussian blur of a standard deviation in pixels."""
    sigma = draw.uniform(sigma_px, image.shape[0] * image.shape[1], 1)
    radius = max(1, math.ceil(3 * sigma_px[1]))
    offsets = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    planes = image.reshape(1, -1, *image.shape[2:])
    dims = image.ndim - 2
    convolve = F.conv2d if dims == 2 else F.conv3d
    for axis in range(dims):
        shape = [len(kernel), 1] + [1] * dims
        shape[2 + axis] = -1
        pad = [0] * (2 * dims)
        pad[2 * (dims - 1 - axis)] = pad[2 * (dims - 1 - axis) + 1] = radius
        padded = F.pad(planes, pad, mode="replicate")
        planes = convolve(padded, kernel.reshape(shape), groups=len(kernel))
    return planes.reshape(image.shape)


def sharpness(image: Tensor, strength: Range, draw: Draw) -> Tensor:
    """Unsharp masking: a blurred image plus `strength` times what a second blur takes from it.

    Both blurs have standard deviations of 0.25 to 1.5 pixels.
    """
    smooth = blur(image, (0.25, 1.5), draw)
    detail = smooth - blur(smooth, (0.25, 1.5), draw)
    return smooth + draw.per_channel(strength, image) * detail


def brightness(image: Tensor, factor: Range, draw: Draw) -> Tensor:
    """The light multiplied by a factor; black stays black."""
    return (image - BLACK) * draw.per_channel(factor, image) + BLACK


def shift(image: Tensor, amount: Range, draw: Draw) -> Tensor:
    """A constant added, in standard deviations of the image."""
    std = image.std(_spatial(image), keepdim=True)
    return image + draw.per_channel(amount, image) * std


def perturbation(image: Tensor, amount: Range, draw: Draw) -> Tensor:
    """The z-scored image times 1 plus an amount, plus another amount."""
    std, mean = torch.std_mean(image, _spatial(image), keepdim=True)
    scale, offset = draw.per_channel(amount, image), draw.per_channel(amount, image)
    return mean + (image - mean) * (1 + scale) + offset * std


def contrast(image: Tensor, factor: Range, draw: Draw) -> Tensor:
    """Stretched about the mean by a factor, kept in the image's range."""
    mean = image.mean(_spatial(image), keepdim=True)
    low, high = image.amin(_spatial(image), True), image.amax(_spatial(image), True)
    stretched = (image - mean) * draw.per_channel(factor, image) + mean
    return stretched.clamp(low, high)


def low_resolution(image: Tensor, factor: Range, draw: Draw) -> Tensor:
    """Sampled down by a factor of the number of pixels, and up again."""
    spatial = image.shape[2:]
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    samples = []
    for sample, zoom in zip(image, draw.uniform(factor, len(image)).tolist()):
        size = [max(1, round(n * zoom)) for n in spatial]
        small = F.interpolate(sample[None], size=size, mode="nearest-exact")
        samples.append(F.interpolate(small, size=spatial, mode=mode, align_corners=False))
    return torch.cat(samples)


def gamma(image: Tensor, exponent: Range, draw: Draw) -> Tensor:
    """A gamma curve between the extremes; mean and standard deviation are kept."""
    axes = _spatial(image)
    low = image.amin(axes, keepdim=True)
    span = (image.amax(axes, keepdim=True) - low).clamp_min(1e-6)
    curved = ((image - low) / span) ** draw.per_channel(exponent, image)
    std, mean = torch.std_mean(image, axes, keepdim=True)
    new_std, new_mean = torch.std_mean(curved, axes, keepdim=True)
    return (curved - new_mean) / new_std.clamp_min(1e-6) * std + mean


def inverted_gamma(image: Tensor, exponent: Range, draw: Draw) -> Tensor:
    """A gamma curve on the negative."""
    return -gamma(-image, exponent, draw)
