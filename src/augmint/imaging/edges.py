"""Edges of images and of label maps, to guide a generator.

Edges are 0 or 1, never a strength: a strength is the local contrast of the image it was taken from,
and a generator that is asked for another contrast would be told the old one by its edges.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from augmint.errors import AugmintError
from augmint.imaging.gradients import (
    check_images,
    dilated,
    gaussian,
    gradient,
    recorded,
    scharr,
    shrunk,
)

# At sensitivity 1, the share of recorded pixels that may be edge.
LARGEST_SHARE = 0.10
# Standard deviations in pixels. Noise is gone at the second, an edge is sharp at the first.
SCALES = (1.0, 2.0)
# A weaker change, per pixel of [-1, 1], is rounding of stored values.
FAINTEST = 1e-3
# Of the edges allowed, the strong half; the weak ones count where they go on from those.
STRONG = 0.5
# A curve has at least so many pixels within a window of so many; what has fewer is a speck.
LEAST_LENGTH = 6
WINDOW = 9
# So far an edge is followed from where it is strong, in pixels.
FOLLOWED = 16
# Edges are divided by the strength around them (standard deviation as a share of the longer side,
# and at least so much of the whole image's) to this power: at 1 dim noise is as good as an edge.
SURROUND = 0.08
FLOOR = 0.3
EVENED = 0.5
# Two strengths this close are the same but for rounding.
SAME = 1e-4


def image_edges(images: Tensor, *, sensitivity: float = 0.8) -> Tensor:
    """Thin edges of images, of a number of pixels that does not depend on their contrast.

    The gradient of an edge must stand out at a fine and at a coarse scale, in one direction: its
    strength is the root of the product (of the dot product over the two scales), which noise, alone
    at the fine scale, does not have. Only the ridge of the strength is kept, of it the strongest
    pixels, and of those the ones that a strong edge leads to.

    The border of a fan is an edge like any other, but how strong an edge must be is told by what
    lies inside, so the border takes no pixels away from the anatomy. Nothing is drawn along the
    frame of the image.

    Args:
        images: (B, C, *spatial) in [-1, 1]; of several channels the steepest counts.
        sensitivity: in [0, 1], the share of the largest number of edge pixels, a tenth of those
            recorded; 0 gives none.

    Returns:
        (B, 1, *spatial) float32, 0 or 1. At most a tenth of the pixels are 1. Each image's edges
        depend on it alone.

    Raises:
        AugmintError: for images of another shape, or a sensitivity outside [0, 1].

    Source: Canny, IEEE TPAMI 1986, for ridge and hysteresis; Bao et al., IEEE TPAMI 2005, for the
    product of scales.
    """
    check_images(images)
    if not 0 <= sensitivity <= 1:
        raise AugmintError(f"the sensitivity of edges lies in [0, 1], got {sensitivity}")
    images = images.float()
    strength, direction = _strength(images)
    region = recorded(images)
    inner = shrunk(region, round(2 * SCALES[-1]))
    strength = _evened(strength * _ridge(strength, direction), strength, inner)
    weak, strong = _strongest(strength, region, inner, sensitivity * LARGEST_SHARE)
    return _without_specks(_followed(weak, strong))


def mask_edges(masks: Tensor, num_classes: int) -> Tensor:
    """The borders between classes, two pixels wide, one on either side.

    Scharr's gradient is taken of each class by itself, and the edges are united. That of the class
    numbers would make the border between classes 1 and 3 twice as strong as that between 1 and 2.

    Args:
        masks: (B, *spatial) class indices, 2 or 3 spatial axes.
        num_classes: Classes, background included.

    Returns:
        (B, 1, *spatial) float32: 1 where the gradient of a class is at least half of that at a
        straight border, else 0. Nothing is drawn along the frame.

    Raises:
        AugmintError: for masks of another shape, of fractions, or of other classes.
    """
    if masks.ndim not in (3, 4) or masks.numel() == 0 or masks.is_floating_point():
        raise AugmintError(
            "expected masks (B, *spatial) of class indices with 2 or 3 spatial axes, got "
            f"{tuple(masks.shape)} of {masks.dtype}"
        )
    least, most = int(masks.min()), int(masks.max())
    if least < 0 or most >= num_classes:
        raise AugmintError(
            f"masks of {num_classes} classes hold 0 to {num_classes - 1}, got {least} to {most}; "
            "map the labels to class indices first"
        )
    edges = torch.zeros(len(masks), 1, *masks.shape[1:], device=masks.device)
    for number in range(num_classes):
        slope = scharr((masks == number).float()[:, None]).norm(dim=2)
        # Half of 0.5, less rounding.
        edges = edges.maximum((slope > 0.25 - 1e-4).float())
    return edges


def _strength(images: Tensor) -> tuple[Tensor, Tensor]:
    """Strength (B, 1, *spatial) and direction (B, axes, *spatial) of edges."""
    fine, coarse = (s * gradient(gaussian(images, s)) for s in SCALES)
    product = (fine * coarse).sum(2)
    strength, channel = product.clamp(min=0).sqrt().max(1, keepdim=True)
    chosen = channel[:, :, None].expand(-1, 1, *fine.shape[2:])
    steepest = (fine + coarse).gather(1, chosen)[:, 0]
    length = steepest.square().sum(1, keepdim=True).sqrt()
    direction = steepest / length.clamp(min=1e-12)
    # Scaled by its sigma, a step of height 1 has this strength whatever the scale.
    return torch.where(strength > FAINTEST, strength, 0), direction


def _ridge(strength: Tensor, direction: Tensor) -> Tensor:
    """1 where no neighbour in the direction of the gradient, one pixel off, is stronger."""
    shape = strength.shape[2:]
    axes = [torch.arange(n, dtype=strength.dtype, device=strength.device) for n in shape]
    here = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    size = torch.tensor([max(n - 1, 1) for n in shape], device=strength.device)
    size = size.view(1, -1, *[1] * len(shape))

    def beside(step: float) -> Tensor:
        at = 2 * (here + step * direction) / size - 1
        grid = at.flip(1).movedim(1, -1)  # grid_sample wants the last axis first
        return functional.grid_sample(
            strength, grid, mode="bilinear", padding_mode="border", align_corners=True
        )

    # Of two equal pixels beside a step the darker one stays.
    ahead, behind = beside(1.0), beside(-1.0)
    stays = (strength >= ahead * (1 - SAME)) & (strength > behind * (1 + SAME))
    return stays.to(strength.dtype)


def _evened(edges: Tensor, strength: Tensor, inner: Tensor) -> Tensor:
    """Edges divided by a root of the strength around them, so that dim parts get theirs as well."""
    sigma = max(strength.shape[2:]) * SURROUND
    weight = inner.float()
    power, total = _widely(strength.square() * weight, sigma), _widely(weight, sigma)
    around = power / total.clamp(min=1e-3)
    axes = tuple(range(1, strength.ndim))
    mean = (strength.square() * weight).sum(axes, True) / weight.sum(axes, True).clamp(min=1)
    return edges / (around + FLOOR**2 * mean).clamp(min=1e-12) ** (EVENED / 2)


def _widely(x: Tensor, sigma: float) -> Tensor:
    """Smoothed so widely that a coarser grid will do."""
    factor = max(int(sigma / 2), 1)
    small = functional.interpolate(x, [max(n // factor, 1) for n in x.shape[2:]], mode="area")
    return functional.interpolate(
        gaussian(small, sigma / factor),
        x.shape[2:],
        mode="bilinear" if x.ndim == 4 else "trilinear",
        align_corners=False,
    )


def _strongest(
    strength: Tensor, region: Tensor, inner: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """The edges that a share of the recorded pixels has room for, and the strong ones of them."""
    ranked = (strength * inner).flatten(1)
    values, order = ranked.sort(dim=1, descending=True, stable=True)
    border = strength * (region & ~inner)
    at_border = (border > 0).flatten(1).sum(1)
    room = (LARGEST_SHARE * ranked.shape[1] - at_border).clamp(min=0)
    allowed = torch.minimum(share * inner.flatten(1).sum(1), room).floor()
    place = torch.arange(ranked.shape[1], device=ranked.device)

    def first(count: Tensor) -> Tensor:
        taken = (place < count[:, None]) & (values > 0)
        chosen = torch.zeros_like(taken).scatter(1, order, taken).view_as(strength)
        # The weakest of those taken is what the border must reach as well.
        least = torch.where(taken, values, torch.inf).amin(1).view(-1, *[1] * (strength.ndim - 1))
        return (chosen | ((border > 0) & (border >= least))).float()

    found = torch.minimum(allowed, (values > 0).sum(1))
    return first(allowed), first((STRONG * found).ceil())


def _followed(weak: Tensor, strong: Tensor) -> Tensor:
    """Weak edges that a strong one leads to."""
    reached = strong
    for _ in range(FOLLOWED):
        reached = dilated(reached) * weak
    return reached


def _without_specks(edges: Tensor) -> Tensor:
    """Edges less those that are too short for a curve."""
    axes = edges.ndim - 2
    sides = tuple(min(WINDOW, 2 * ((n + 1) // 2) - 1) for n in edges.shape[2:])
    pool = functional.avg_pool2d if axes == 2 else functional.avg_pool3d
    count = pool(
        edges,
        sides,
        stride=1,
        padding=tuple(side // 2 for side in sides),
        divisor_override=1,
    )
    return edges * (count >= LEAST_LENGTH).float()
