"""Classical augmentation of a batch, each sample with its own draw from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from augmint.errors import AugmintError
from augmint.segmentation import transforms
from augmint.segmentation.transforms import BLACK, Draw, Range


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
        deformation_p: Chance of an elastic deformation.
        deformation_px: Standard deviation of its displacement, of points 16 pixels apart.
        sharpness_p: Chance of unsharp masking.
        sharpness: Its strength.
        noise_p: Chance of Gaussian noise.
        noise_variance: Variance of the noise, where the image's own variance is 1.
        blur_p: Chance of a Gaussian blur.
        blur_sigma_px: Its standard deviation.
        brightness_p: Chance of multiplying the light (-1 is black and stays).
        brightness: Its factor.
        shift_p: Chance of adding a constant.
        shift: It, where the image's standard deviation is 1.
        contrast_p: Chance of stretching about the mean, kept in the image's range.
        contrast: Its factor.
        low_resolution_p: Chance of sampling down and up again.
        low_resolution: Factor of the number of pixels per axis.
        inverted_gamma_p: Chance of a gamma curve on the negative.
        gamma_p: Chance of a gamma curve; mean and standard deviation are kept.
        gamma: Its exponent, for both.
        perturbation_p: Chance of scaling and shifting the image's z-scores.
        perturbation: By how much, for both.
        mirror_p: Chance of a flip, per axis.
    """

    rotation_p: float = 0.0
    rotation_deg_2d: float = 180.0
    rotation_deg_3d: float = 30.0
    scaling_p: float = 0.0
    scaling: Range = (0.7, 1.4)
    translation_p: float = 0.0
    translation: float = 0.05
    deformation_p: float = 0.0
    deformation_px: Range = (0.0, 2.7)
    sharpness_p: float = 0.0
    sharpness: Range = (10.0, 30.0)
    noise_p: float = 0.0
    noise_variance: Range = (0.0, 0.1)
    blur_p: float = 0.0
    blur_sigma_px: Range = (0.5, 1.0)
    brightness_p: float = 0.0
    brightness: Range = (0.75, 1.25)
    shift_p: float = 0.0
    shift: Range = (-0.1, 0.1)
    contrast_p: float = 0.0
    contrast: Range = (0.75, 1.25)
    low_resolution_p: float = 0.0
    low_resolution: Range = (0.5, 1.0)
    inverted_gamma_p: float = 0.0
    gamma_p: float = 0.0
    gamma: Range = (0.7, 1.5)
    perturbation_p: float = 0.0
    perturbation: Range = (-0.1, 0.1)
    mirror_p: float = 0.0


SINGLES = (
    "contrast",
    "gamma",
    "brightness",
    "noise",
    "low_resolution",
    "mirror",
    "rotation",
    "scaling",
)
EVEN = 0.5


def _evenly(*names: str, **ranges: Any) -> Augmentation:
    """These steps alone, each with an even chance."""
    chances: dict[str, Any] = {f"{name}_p": EVEN for name in names}
    return Augmentation(**chances, **ranges)


# The stack, probabilities and ranges of nnU-Net v2 (Isensee et al., Nat Methods 2021,
# supplementary note 4.2), stated for images in [-1, 1] instead of z-scores.
STRONG = Augmentation(
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
)

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
    "strong": STRONG,
    # The same stack for anatomy that always lies the same way (hearts, ultrasound sectors): turned
    # by 30 degrees at most, never mirrored, and moved more often, since each move is smaller.
    "oriented": replace(
        STRONG,
        rotation_p=0.5,
        rotation_deg_2d=30.0,
        rotation_deg_3d=15.0,
        scaling_p=0.5,
        translation_p=0.5,
        mirror_p=0.0,
    ),
    # One kind of change alone, within nnU-Net's ranges; an even chance, since nothing else happens.
    **{name: _evenly(name) for name in SINGLES},
    # All eight together: DeepStack as the comparison in Zhang et al. (DiffBoost, 2024) names it.
    "deepstack": _evenly(*SINGLES),
    # The nine stacked changes of BigAug with their chance and ranges (Zhang et al., IEEE TMI 2020,
    # "deep stacked transformation"), intensities read as z-scores. It differs in the order, and in
    # the displacement: points 16 px apart in place of noise smoothed over 10 to 13 px, as far as
    # that is in 3-D.
    "bigaug": _evenly(
        "rotation",
        "scaling",
        "deformation",
        "sharpness",
        "noise",
        "blur",
        "shift",
        "gamma",
        "perturbation",
        rotation_deg_2d=20.0,
        rotation_deg_3d=20.0,
        scaling=(0.4, 1.6),
        noise_variance=(0.01, 1.0),
        blur_sigma_px=(0.25, 1.5),
        gamma=(0.5, 4.5),
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
    (image,), mask = augment_views((image,), mask, augmentation, generator, spacing=spacing)
    return image, mask


def augment_views(
    views: Sequence[Tensor],
    mask: Tensor,
    augmentation: Augmentation,
    generator: Generator,
    *,
    spacing: Sequence[float] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """`augment` for several images of each sample, all on its mask.

    Geometry changes alike in all views, intensities in each view by a draw of its own.
    """
    draw, channels = Draw(generator, mask), views[0].shape[1]
    together, mask = _move(torch.cat(tuple(views), 1), mask.clone(), augmentation, draw, spacing)
    together = torch.cat([_tinted(v, augmentation, draw) for v in together.split(channels, 1)], 1)
    for axis in range(1, mask.ndim):
        chosen = draw.chosen(augmentation.mirror_p)
        if len(chosen):
            together[chosen] = together[chosen].flip(axis + 1)
            mask[chosen] = mask[chosen].flip(axis)
    return list(together.clamp_(-1.5, 1.5).split(channels, 1)), mask


def _tinted(image: Tensor, augmentation: Augmentation, draw: Draw) -> Tensor:
    """The image, changed in place, with the steps that leave geometry alone."""
    a = augmentation
    for p, change, extent in (
        (a.sharpness_p, transforms.sharpness, a.sharpness),
        (a.noise_p, transforms.noise, a.noise_variance),
        (a.blur_p, transforms.blur, a.blur_sigma_px),
        (a.brightness_p, transforms.brightness, a.brightness),
        (a.shift_p, transforms.shift, a.shift),
        (a.contrast_p, transforms.contrast, a.contrast),
        (a.low_resolution_p, transforms.low_resolution, a.low_resolution),
        (a.inverted_gamma_p, transforms.inverted_gamma, a.gamma),
        (a.gamma_p, transforms.gamma, a.gamma),
        (a.perturbation_p, transforms.perturbation, a.perturbation),
    ):
        chosen = draw.chosen(p)
        if len(chosen):
            image[chosen] = change(image[chosen], extent, draw)
    return image


def _move(
    image: Tensor,
    mask: Tensor,
    augmentation: Augmentation,
    draw: Draw,
    spacing: Sequence[float] | None,
) -> tuple[Tensor, Tensor]:
    a, dims = augmentation, mask.ndim - 1
    turned, scaled, shifted, deformed = (
        draw.chosen(p) for p in (a.rotation_p, a.scaling_p, a.translation_p, a.deformation_p)
    )
    chosen = torch.cat([turned, scaled, shifted, deformed]).unique()
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
    if len(deformed):
        grid[torch.isin(chosen, deformed)] += _displacement(a, draw, len(deformed), spatial)
    moved = F.grid_sample(image[chosen] - BLACK, grid, mode="bilinear", align_corners=False)
    image[chosen] = moved + BLACK
    labels = mask[chosen][:, None].to(grid.dtype)
    moved = F.grid_sample(labels, grid, mode="nearest", align_corners=False)
    mask[chosen] = moved[:, 0].round().to(mask.dtype)
    return image, mask


def _displacement(a: Augmentation, draw: Draw, count: int, spatial: Sequence[int]) -> Tensor:
    """Elastic displacements (count, *spatial, d) in grid_sample's coordinates and axis order."""
    dims = len(spatial)
    pixels = draw.smooth(count, dims, spatial, 16).movedim(1, -1)
    pixels = pixels * draw.uniform(a.deformation_px, count, *[1] * (dims + 1))
    return pixels * 2 / torch.tensor(spatial[::-1], device=pixels.device, dtype=pixels.dtype)


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
