"""The local structure of images, which neither brightness nor contrast changes.

An image becomes a map: band-passed within its visible part, so that neither brightness nor the rim
of a black surround counts, and divided by the local contrast, so that a changed gamma does not
either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from augmint.errors import AugmintError

SIDE = 96
COARSE = SIDE // 2
# Of the band-pass at SIDE pixels a side, and of the local contrast.
FINE_SIGMA, WIDE_SIGMA, CONTRAST_SIGMA = 1.0, 3.5, 5.0
# Contrast below this share of the whole image's is not raised to full size.
FLOOR = 0.5
# Darker than this share of the way from dark to bright, after smoothing, is surround.
DARK = 0.06
# Pixels that are left out along it.
RIM = 3


@dataclass(frozen=True)
class Tolerance:
    """What may lie between an image and its copy.

    Attributes:
        flips: Mirrored along rows, columns or both.
        quarter_turns: Turned by 90 or 270 degrees as well.
        rotation_deg: Turned by up to so many degrees, at most 15.
        shift: Moved by up to this share of the longer side, along each axis, at most 0.3.
        scale: Scaled and sheared by up to so much, each axis for itself, at most 0.3.
        inverted: Bright and dark exchanged.

    Raises:
        AugmintError: if a number is out of range.
    """

    flips: bool = True
    quarter_turns: bool = False
    rotation_deg: float = 12.0
    shift: float = 0.15
    scale: float = 0.15
    inverted: bool = False

    def __post_init__(self) -> None:
        shares = (self.shift, self.scale)
        if not 0 <= self.rotation_deg <= 15 or not all(0 <= s <= 0.3 for s in shares):
            raise AugmintError(
                f"a copy turned by up to {self.rotation_deg:g} degrees, shifted by {self.shift:g} "
                f"of the side and scaled by {self.scale:g}: give 0 to 15 degrees, and 0 to 0.3"
            )


@dataclass(frozen=True)
class Maps:
    """Local structure of images.

    Attributes:
        values: (N, C, SIDE, SIDE), zero where not visible.
        visible: (N, 1, SIDE, SIDE), 1 where the structure counts.
    """

    values: Tensor
    visible: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor | slice) -> Maps:
        return Maps(self.values[index], self.visible[index])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Maps:
        """Moved and converted."""
        return Maps(self.values.to(device, dtype), self.visible.to(device, dtype))

    def coarse(self) -> Maps:
        """At half the size."""
        visible = F.avg_pool2d(self.visible, 2)
        return Maps(F.avg_pool2d(self.values, 2), visible)


def joined(parts: Sequence[Maps]) -> Maps:
    """Several maps as one."""
    return Maps(torch.cat([p.values for p in parts]), torch.cat([p.visible for p in parts]))


def structure(images: Tensor, counted: Tensor | None = None) -> Maps:
    """The local structure of images.

    Args:
        images: (N, C, H, W) in [-1, 1].
        counted: (N, H, W) bool, where to compare; None is everywhere. The black surround is left
            out in any case.
    """
    n, _, height, width = images.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    frame = (left, side - width - left, top, side - height - top)
    images = F.pad((images.float() + 1) / 2, frame)
    inside = F.pad(torch.ones(n, 1, height, width, device=images.device), frame)
    chosen = inside if counted is None else F.pad(counted[:, None].float(), frame)
    images, inside, chosen = (_resized(x) for x in (images, inside, chosen))
    seen = _seen(images.amax(1, keepdim=True), inside > 0.99)
    part = seen * (chosen > 0.99)
    smooth, wide = (_blurred(images, part, s) for s in (FINE_SIGMA, WIDE_SIGMA))
    band = (smooth - wide) * part
    power = _blurred((band**2).mean(1, keepdim=True), part, CONTRAST_SIGMA)
    whole = ((band**2).mean(1, keepdim=True)).sum((2, 3), True) / part.sum((2, 3), True).clamp(1)
    return Maps(band / (power + FLOOR**2 * whole + 1e-8).sqrt(), part)


def _resized(x: Tensor) -> Tensor:
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _blurred(x: Tensor, part: Tensor, sigma: float) -> Tensor:
    """Gaussian means over a part of the image alone."""
    return _gaussian(x * part, sigma) / _gaussian(part, sigma).clamp(min=1e-3)


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(2.5 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = x.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, kernel, padding=(0, radius))
    return F.conv2d(flat, kernel.mT, padding=(radius, 0)).view_as(x)


def _seen(images: Tensor, inside: Tensor) -> Tensor:
    """1 within the first and last bright pixel of both its row and its column.

    A black surround is left out and dark cavities are kept. Smoothing makes noise harmless.
    """
    smooth = _blurred(images, inside.float(), 1.5)
    flat = smooth.flatten(1)
    low, high = (torch.quantile(flat, q, dim=1).view(-1, 1, 1, 1) for q in (0.01, 0.99))
    bright = ((smooth > low + DARK * (high - low)) & inside).float()

    def between(axis: int) -> Tensor:
        before = bright.cummax(axis).values
        after = bright.flip(axis).cummax(axis).values.flip(axis)
        return before * after

    hull = between(2) * between(3)
    # Smoothing has drawn the edge outwards, and the edge itself is alike in all images.
    black = (1 - hull) * inside
    return hull * (1 - F.max_pool2d(black, 2 * RIM + 1, stride=1, padding=RIM))
