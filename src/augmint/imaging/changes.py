"""What was changed of an image on the working window, brought to the image as it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from augmint.case import Grid
from augmint.imaging.style import BLACK
from augmint.imaging.working import WorkingGrid


def same_curve(before: Tensor, after: Tensor, image: Tensor) -> Tensor:
    """An image through the curve that took the pixels `before` to those `after`.

    Values beyond those of `before` move as far as the nearest one did, but black stays black.
    """
    import numpy as np

    knots, first = np.unique(before.flatten().numpy(), return_index=True)
    moved = after.flatten().numpy()[first] - knots
    mapped = image + torch.from_numpy(np.interp(image.numpy(), knots, moved)).to(image)
    return torch.where(image <= BLACK, image, mapped.clamp(-1, 1))


def native_change(change: Tensor, native: Grid, grid: WorkingGrid) -> Tensor:
    """A change on the window (C, *window[, Z]) as one of the stored image (C, *spatial)."""
    frame = grid.resampled_shape(native)
    change = change * _spread(change_taper(grid.window, frame), change, grid)
    if grid.dims == 3 or native.dims == 2:
        return grid.change_to_native(change, native)
    axis = native.slice_axis
    return torch.stack([grid.change_to_native(c, native) for c in change.unbind(-1)], axis + 1)


def _spread(weight: Tensor, change: Tensor, grid: WorkingGrid) -> Tensor:
    return weight[..., None] if change.ndim - 1 > grid.dims else weight


def change_taper(window: Sequence[int], frame: Sequence[int], width: int = 6) -> Tensor:
    """(*window) weights of a change: 1 inside, falling to 0 at sides that cut through the frame.

    Args:
        window: Where the image was changed.
        frame: What of the canvas the image covers; where it is no larger, nothing is cut.
        width: Pixels of the fall.
    """
    weight = torch.ones(tuple(window))
    for axis, (n, covered) in enumerate(zip(window, frame)):
        if covered <= n:
            continue
        steps = torch.arange(n, dtype=torch.float32)
        near = torch.minimum(steps, n - 1 - steps) + 0.5
        ramp = 0.5 - 0.5 * torch.cos(torch.pi * (near / width).clamp(max=1))
        weight = weight * ramp.reshape(-1, *[1] * (len(window) - axis - 1))
    return weight
