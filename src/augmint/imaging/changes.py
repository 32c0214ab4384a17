"""What was changed of an image on the working window, brought to the image as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from augmint.case import Grid
from augmint.imaging.style import BLACK
from augmint.imaging.working import WorkingGrid

# Of a curve of mean grey levels: so many parts of equally many pixels.
CURVE_KNOTS = 64


def same_curve(before: Tensor, after: Tensor, image: Tensor) -> Tensor:
    """An image through the curve that took the pixels `before` to those `after`.

    Values beyond those of `before` move as far as the nearest one did, but black stays black.
    """
    import numpy as np

    knots, first = np.unique(before.flatten().numpy(), return_index=True)
    moved = after.flatten().numpy()[first] - knots
    mapped = image + torch.from_numpy(np.interp(image.numpy(), knots, moved)).to(image)
    return torch.where(image <= BLACK, image, mapped.clamp(-1, 1))


def mean_curve(before: Tensor, after: Tensor) -> Callable[[Tensor], Tensor]:
    """The rising curve that follows the mean of pixels `after` for each grey level `before`.

    Args:
        before: Grey levels in [-1, 1], any shape.
        after: Those of the same pixels, changed in whichever way.

    Returns:
        What maps an image of any shape. Values beyond those of `before` move as far as the nearest
        one, and black stays black.
    """
    import numpy as np

    recorded = (before > BLACK).flatten().numpy()
    levels = before.flatten().numpy()[recorded].astype(np.float64)
    moved = after.flatten().numpy()[recorded].astype(np.float64)
    order = np.argsort(levels, kind="stable")
    parts = [p for p in np.array_split(order, CURVE_KNOTS) if len(p)]
    knots, first = np.unique([levels[p].mean() for p in parts], return_index=True)
    values = np.maximum.accumulate([moved[p].mean() for p in parts])[first] if parts else knots

    def curve(image: Tensor) -> Tensor:
        if not len(knots):
            return image
        change = torch.from_numpy(np.interp(image.numpy(), knots, values - knots)).to(image)
        return torch.where(image <= BLACK, image, (image + change).clamp(-1, 1))

    return curve


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
