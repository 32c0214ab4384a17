"""Segmenters over whole cases: in on the native grid, out on the native grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from augmint.case import Case
from augmint.imaging.working import WorkingGrid
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.predict import keep_largest, predict_probabilities


def predict_case(
    networks: Sequence[Segmenter],
    case: Case,
    grid: WorkingGrid,
    *,
    device: torch.device | str = "cpu",
    largest_component: bool = False,
    sliding: bool = False,
    looks: Sequence[Case] = (),
) -> Tensor:
    """The mask of a whole case on its native grid, (*spatial) int64.

    Args:
        networks: One segmenter, or several whose probabilities are averaged.
        case: On its native grid; its own mask is not looked at.
        grid: The working grid of the segmenters; they see its window.
        device: Where to compute.
        largest_component: Keep the largest connected part of each class of the whole case.
        sliding: Slide the window over what of the case lies outside it, which is background
            otherwise. Nothing changes for a case that the window holds.
        looks: Further images of the same case, such as translations of it, whose probabilities are
            averaged with those of the first.
    """
    by_slice = grid.dims == 2 and case.dims == 3
    shape = grid.window
    if sliding:
        shape = tuple(max(n, w) for n, w in zip(grid.resampled_shape(case.grid), grid.window))
    shares = []
    for look in (case, *looks):
        working = grid.to_working(replace(look, mask=None), shape=shape).image
        images = working.movedim(-1, 0) if by_slice else working[None]
        # A case is always batched alone, so its batch needs no more samples than it has slices.
        batch = min(16, len(images))
        shares += [
            predict_probabilities(n, images, batch_size=batch, device=device, window=grid.window)
            for n in networks
        ]
    share = torch.stack(shares).mean(0)
    native = []
    # Probabilities lie in [0, 1]; the way back clamps to [-1, 1] and pads with -1. The background
    # goes there with its sign turned, so that outside the window it is sure: a class that fell to
    # the pad's value at the edge would ring there, and leave specks.
    sign = torch.ones(share.shape[1])
    sign[0] = -1
    sign = sign.reshape(-1, *[1] * (share.ndim - 2))
    for one in share:
        back = grid.image_to_native((one * 2 - 1) * sign, case.grid)
        native.append((back * sign).argmax(0))
    mask = torch.stack(native, case.grid.slice_axis) if by_slice else native[0]
    return keep_largest(mask) if largest_component else mask
