"""Classical augmentation of a batch, each sample with its own draw from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from augmint.errors import AugmintError

Range = tuple[float, float]
BLACK = -1.0


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges; every `*_p` is a chance per sample, 0 switches the step off.

    The defaults do nothing. Steps run in the order of the fields.

    Attributes:
        rotation_p: Chance of a rotation.
        rotation_deg_2d: Largest angle of a 2-D image, either way.
        rotation_deg_3d: Largest angle about each axis of a volume, either way.
        scaling_p: Chance of a change of size.
        scaling: Factor of size, above 1 enlarges the object.
        translation_p: Chance of a shift.
        translation: Largest shift per axis, as a fraction of the image's size.
        noise_p: Chance of Gaussian noise.
        noise_variance: Variance of the noise, where the image's own variance is 1.
        blur_p: Chance of a Gaussian blur.
        blur_sigma_px: Its standard deviation.
        brightness_p: Chance of multiplying the light (-1 is black and stays).
        brightness: Its factor.
        contrast_p: Chance of stretching about the mean, kept in the image's range.
        contrast: Its factor.
        low_resolution_p: Chance of sampling down and up again.
        low_resolution: Factor of the number of pixels per axis.
        inverted_gamma_p: Chance of a gamma curve on the negative.
        gamma_p: Chance of a gamma curve; mean and standard deviation are kept.
        gamma: Its exponent, for both.
        mirror_p: Chance of a flip, per axis.
    """

    rotation_p: float = 0.0
    rotation_deg_2d: float = 180.0
    rotation_deg_3d: float = 30.0
    scaling_p: float = 0.0
    scaling: Range = (0.7, 1.4)
    translation_p: float = 0.0
    translation: float = 0.05
    noise_p: float = 0.0
    noise_variance: Range = (0.0, 0.1)
    blur_p: float = 0.0
    blur_sigma_px: Range = (0.5, 1.0)
    brightness_p: float = 0.0
    brightness: Range = (0.75, 1.25)
    contrast_p: float = 0.0
    contrast: Range = (0.75, 1.25)
    low_resolution_p: float = 0.0
    low_resolution: Range = (0.5, 1.0)
    inverted_gamma_p: float = 0.0
    gamma_p: float = 0.0
    gamma: Range = (0.7, 1.5)
    mirror_p: float = 0.0


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "weak": Augmentation(
        rotation_p=0.5,
        rotation_deg_2d=10.0,
        rotation_deg_3d=10.0,
        scaling_p=0.5,
        scaling=(0.9, 1.1),
        translation_p=0.5,
        brightness_p=0.5,
        brightness=(0.9, 1.1),
    ),
    # The stack, probabilities and ranges of nnU-Net v2 (Isensee et al., Nat Methods 2021,
    # supplementary note 4.2), stated for images in [-1, 1] instead of z-scores.
    "strong": Augmentation(
        rotation_p=0.2,
        scaling_p=0.2,
        noise_p=0.1,
        blur_p=0.2,
        brightness_p=0.15,
        contrast_p=0.15,
        low_resolution_p=0.25,
        inverted_gamma_p=0.1,
        gamma_p=0.3,
        mirror_p=0.5,
    ),
    # The same stack for anatomy that always lies the same way (hearts, ultrasound sectors): turned
    # by 30 degrees at most, never mirrored, and moved more often, since each move is smaller.
    "oriented": Augmentation(
        rotation_p=0.5,
        rotation_deg_2d=30.0,
        rotation_deg_3d=15.0,
        scaling_p=0.5,
        translation_p=0.5,
        noise_p=0.1,
        blur_p=0.2,
        brightness_p=0.15,
        contrast_p=0.15,
        low_resolution_p=0.25,
        inverted_gamma_p=0.1,
        gamma_p=0.3,
    ),
}


def named_augmentation(name: str) -> Augmentation:
    """The preset of that name.

    Raises:
        AugmintError: if there is none.
    """
    if name not in AUGMENTATIONS:
        raise AugmintError(
            f"unknown augmentation {name!r}; choose one of {', '.join(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]


def augment(
    image: Tensor,
    mask: Tensor,
    augmentation: Augmentation,
    generator: Generator,
    *,
    spacing: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """A new batch, each sample changed by its own draw; the inputs stay as they are.

    Args:
        image: (B, C, *spatial) in [-1, 1]; 2 or 3 spatial axes, on any device.
        mask: (B, *spatial) integer classes on the same device.
        augmentation: What may happen.
        generator: A CPU generator; every draw comes from it, in a fixed order.
        spacing: Voxel size per axis, so that rotations keep shapes on anisotropic grids; None for
            equal sizes.

    Returns:
        Image in [-1.5, 1.5] and mask; what comes in from outside is black and background.
    """
    draw = _Draw(generator, image)
    image, mask = _affine(image.clone(), mask.clone(), augmentation, draw, spacing)
    for p, change in (
        (augmentation.noise_p, _noise),
        (augmentation.blur_p, _blur),
        (augmentation.brightness_p, _brightness),
        (augmentation.contrast_p, _contrast),
        (augmentation.low_resolution_p, _low_resolution),
        (augmentation.inverted_gamma_p, _inverted_gamma),
        (augmentation.gamma_p, _gamma),
    ):
        chosen = draw.chosen(p)
        if len(chosen):
            image[chosen] = change(image[chosen], augmentation, draw)
    for axis in range(1, mask.ndim):
        chosen = draw.chosen(augmentation.mirror_p)
        if len(chosen):
            image[chosen] = image[chosen].flip(axis + 1)
            mask[chosen] = mask[chosen].flip(axis)
    return image.clamp_(-1.5, 1.5), mask


class _Draw:
    """Draws for a batch: on the CPU generator, delivered on the batch's device."""

    def __init__(self, generator: Generator, batch: Tensor) -> None:
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
        low, high = low_high
        values = torch.rand(shape, generator=self.generator) * (high - low) + low
        return values.to(self.device)

    def per_channel(self, low_high: Range, like: Tensor) -> Tensor:
        """One value per sample and channel, shaped to multiply (B, C, *spatial)."""
        values = self.uniform(low_high, *like.shape[:2])
        return values.reshape(*like.shape[:2], *([1] * (like.ndim - 2)))

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(self.device)


def _affine(
    image: Tensor,
    mask: Tensor,
    augmentation: Augmentation,
    draw: _Draw,
    spacing: Sequence[float] | None,
) -> tuple[Tensor, Tensor]:
    a, dims = augmentation, mask.ndim - 1
    turned, scaled, shifted = (draw.chosen(p) for p in (a.rotation_p, a.scaling_p, a.translation_p))
    chosen = torch.cat([turned, scaled, shifted]).unique()
    if not len(chosen):
        return image, mask
    matrix = torch.eye(dims, device=image.device).repeat(draw.size, 1, 1)
    if len(turned):
        largest = math.radians(a.rotation_deg_2d if dims == 2 else a.rotation_deg_3d)
        angles = draw.uniform((-largest, largest), len(turned), 1 if dims == 2 else 3)
        matrix[turned] = _rotations(angles, dims)
    if len(scaled):
        # The matrix maps output to input coordinates, hence the inverse.
        matrix[scaled] = matrix[scaled] / draw.uniform(a.scaling, len(scaled), 1, 1)
    shift = torch.zeros(draw.size, dims, 1, device=image.device)
    if len(shifted):
        # grid_sample's coordinates span 2 over the image's size.
        shift[shifted] = draw.uniform(
            (-2 * a.translation, 2 * a.translation), len(shifted), dims, 1
        )
    spatial = mask.shape[1:]
    extent = [n * s for n, s in zip(spatial, spacing or (1.0,) * dims)]
    # From coordinates in [-1, 1] to lengths and back; grid_sample counts axes from the last.
    lengths = torch.tensor(extent[::-1], device=image.device, dtype=matrix.dtype)
    matrix = matrix * lengths[None, None, :] / lengths[None, :, None]
    theta = torch.cat([matrix, shift], dim=2)[chosen]
    grid = F.affine_grid(theta, [len(chosen), 1, *spatial], align_corners=False)
    moved = F.grid_sample(image[chosen] - BLACK, grid, mode="bilinear", align_corners=False)
    image[chosen] = moved + BLACK
    labels = mask[chosen][:, None].to(grid.dtype)
    moved = F.grid_sample(labels, grid, mode="nearest", align_corners=False)
    mask[chosen] = moved[:, 0].round().to(mask.dtype)
    return image, mask


def _rotations(angles: Tensor, dims: int) -> Tensor:
    cos, sin = angles.cos(), angles.sin()
    matrix = torch.eye(dims, device=angles.device).repeat(len(angles), 1, 1)
    planes = [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]
    for k, (i, j) in enumerate(planes):
        turn = torch.eye(dims, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, i, i] = turn[:, j, j] = cos[:, k]
        turn[:, i, j], turn[:, j, i] = -sin[:, k], sin[:, k]
        matrix = matrix @ turn
    return matrix


def _spatial(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def _noise(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    std = image.std(_spatial(image), keepdim=True)
    return image + draw.normal(image) * std * draw.per_channel(a.noise_variance, image).sqrt()


def _blur(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    sigma = draw.uniform(a.blur_sigma_px, image.shape[0] * image.shape[1], 1)
    radius = max(1, math.ceil(3 * a.blur_sigma_px[1]))
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


def _brightness(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    return (image - BLACK) * draw.per_channel(a.brightness, image) + BLACK


def _contrast(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    mean = image.mean(_spatial(image), keepdim=True)
    low, high = image.amin(_spatial(image), True), image.amax(_spatial(image), True)
    stretched = (image - mean) * draw.per_channel(a.contrast, image) + mean
    return stretched.clamp(low, high)


def _low_resolution(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    spatial = image.shape[2:]
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    samples = []
    for sample, zoom in zip(image, draw.uniform(a.low_resolution, len(image)).tolist()):
        size = [max(1, round(n * zoom)) for n in spatial]
        small = F.interpolate(sample[None], size=size, mode="nearest-exact")
        samples.append(F.interpolate(small, size=spatial, mode=mode, align_corners=False))
    return torch.cat(samples)


def _gamma(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    axes = _spatial(image)
    low = image.amin(axes, keepdim=True)
    span = (image.amax(axes, keepdim=True) - low).clamp_min(1e-6)
    curved = ((image - low) / span) ** draw.per_channel(a.gamma, image)
    std, mean = torch.std_mean(image, axes, keepdim=True)
    new_std, new_mean = torch.std_mean(curved, axes, keepdim=True)
    return (curved - new_mean) / new_std.clamp_min(1e-6) * std + mean


def _inverted_gamma(image: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    return -_gamma(-image, a, draw)
