"""Segmenters over whole cases: in on the native grid, out on the native grid."""

from __future__ import annotations

from collections.abc import Sequence

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
) -> Tensor:
    """The mask of a whole case on its native grid, (*spatial) int64.

    Args:
        networks: One segmenter, or several whose probabilities are averaged.
        case: On its native grid; its own mask is not looked at.
        grid: The working grid of the segmenters; they see its window.
        device: Where to compute.
        largest_component: Keep the largest connected part of each class of the whole case.
    """
    parts = list(case.slices()) if grid.dims == 2 else [case]
    images = torch.stack([grid.to_working(p, shape=grid.window).image for p in _bare(parts)])
    # A case is always batched alone, so its batch needs no more samples than it has slices.
    batch = min(16, len(images))
    share = torch.stack(
        [predict_probabilities(n, images, batch_size=batch, device=device) for n in networks]
    ).mean(0)
    native = []
    for one in share:
        # Probabilities lie in [0, 1]; the way back clamps and pads to [-1, 1].
        back = grid.image_to_native(one * 2 - 1, case.grid)
        # Outside the window every class is -1, and the first of equals is the background.
        native.append(back.argmax(0))
    if grid.dims == 2 and case.dims == 3:
        mask = torch.stack(native, case.grid.slice_axis)
    else:
        mask = native[0]
    return keep_largest(mask) if largest_component else mask


def _bare(cases: Sequence[Case]) -> list[Case]:
    from dataclasses import replace

    return [replace(c, mask=None) for c in cases]
