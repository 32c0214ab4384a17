"""Smooth gradients of images, and where something was recorded at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from augmint.errors import AugmintError

# Of [-1, 1]: 2.5 grey levels of 255. Lossy compression leaves as much beside a fan.
DARKEST = -1 + 0.02
# Smoothing ends after so many standard deviations.
REACH = 3.0


def check_images(images: Tensor) -> None:
    """Make sure of (B, C, *spatial) floating-point images with 2 or 3 spatial axes.

    Raises:
        AugmintError: if they are anything else, or not finite.
    """
    if images.ndim not in (4, 5) or images.numel() == 0 or not images.is_floating_point():
        raise AugmintError(
            "expected images (B, C, *spatial) in [-1, 1] with 2 or 3 spatial axes, got "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    if not bool(images.isfinite().all()):
        raise AugmintError("some values of the images are not finite; repair the images first")


def recorded(images: Tensor) -> Tensor:
    """Where an image shows something: without a black surround, with the dark parts inside.

    A pixel counts if something brighter than black lies to both sides of it along every axis.
    Black specks count as bright, and bright specks in the surround do not.

    Args:
        images: (B, C, *spatial) in [-1, 1].

    Returns:
        (B, 1, *spatial) bool.
    """
    bright = (images.amax(1, keepdim=True) > DARKEST).float()
    # An axis of two or fewer pixels has no room for specks.
    axes = [axis for axis in range(2, images.ndim) if images.shape[axis] > 2]
    bright = 1 - dilated(1 - dilated(bright, axes=axes), axes=axes)
    bright = dilated(1 - dilated(1 - bright, axes=axes), axes=axes)
    inside = torch.ones_like(bright)
    for axis in range(2, bright.ndim):
        before = bright.cummax(axis).values
        after = bright.flip(axis).cummax(axis).values.flip(axis)
        inside = inside * before * after
    return inside > 0


def shrunk(region: Tensor, pixels: int) -> Tensor:
    """A region (B, 1, *spatial) without what lies so near to its border; the frame is no border."""
    outside = dilated((~region).float(), times=pixels)
    return outside < 0.5


def dilated(x: Tensor, *, times: int = 1, axes: Sequence[int] | None = None) -> Tensor:
    """The greatest value within one pixel along each axis, diagonals included, so many times."""
    for axis in range(2, x.ndim) if axes is None else axes:
        n = x.shape[axis]
        for _ in range(times):
            wider = x.clone()
            wider.narrow(axis, 1, n - 1).copy_(
                torch.maximum(x.narrow(axis, 1, n - 1), x.narrow(axis, 0, n - 1))
            )
            x = torch.maximum(
                wider, torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)], axis)
            )
    return x


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Smooth (B, C, *spatial) by a Gaussian of `sigma` pixels; the frame's last pixel goes on."""
    radius = math.ceil(REACH * sigma)
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    return _along_axes(x, [kernel / kernel.sum()] * (x.ndim - 2))


def gradient(x: Tensor) -> Tensor:
    """Central differences per pixel of (B, C, *spatial): (B, C, axes, *spatial)."""
    return torch.stack([_along_axis(x, _difference(x), axis) for axis in range(2, x.ndim)], 2)


def scharr(x: Tensor) -> Tensor:
    """Scharr's gradient of (B, C, *spatial): (B, C, axes, *spatial), 0.5 on either side of a step.

    Source: Scharr, dissertation, Heidelberg 2000: (3, 10, 3) / 16 across the difference.
    """
    across = torch.tensor([3.0, 10.0, 3.0], dtype=x.dtype, device=x.device) / 16
    axes = range(x.ndim - 2)
    return torch.stack(
        [_along_axes(x, [_difference(x) if a == axis else across for a in axes]) for axis in axes],
        dim=2,
    )


def _difference(x: Tensor) -> Tensor:
    return torch.tensor([-0.5, 0.0, 0.5], dtype=x.dtype, device=x.device)


def _along_axes(x: Tensor, kernels: list[Tensor]) -> Tensor:
    for axis, kernel in enumerate(kernels, start=2):
        x = _along_axis(x, kernel, axis)
    return x


def _along_axis(x: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Correlate with an odd kernel along one axis; by shifts, for one channel a layer is slower."""
    n, radius = x.shape[axis], len(kernel) // 2
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
    padded = torch.cat([*[first] * radius, x, *[last] * radius], axis)
    total = torch.zeros_like(x)
    for shift, weight in enumerate(kernel.tolist()):
        total += weight * padded.narrow(axis, shift, n)
    return total
