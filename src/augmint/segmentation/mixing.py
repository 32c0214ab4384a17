"""Two views that share one label, mixed into one loss (Zhang et al., DiffBoost, IEEE TMI 2024).

The first view is a real image. The second one is a synthetic image that was made on the same mask,
or the real one again under other classical changes: the control that costs as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from augmint.errors import AugmintError
from augmint.segmentation.loss import dice_ce
from augmint.segmentation.samples import Samples

Mix = Literal["sample", "image", "logit", "loss"]
MixWith = Literal["synthetic", "augmented"]


@dataclass(frozen=True)
class Mixing:
    """How two views make one loss.

    Attributes:
        mode: `image`: one forward pass of an image whose patches come from either view; `logit`:
            two passes, whose logits are put together patch by patch; `loss`: two passes, whose
            losses are averaged.
        real_share: Chance of a patch to be that of the first view, or weight of its loss.
        patch: Side of a patch in pixels of the working grid; a volume has cubes.
    """

    mode: Mix
    real_share: float
    patch: int


def partners(real: Samples, synthetic: Samples | None) -> list[list[int]]:
    """For each real sample the places of the synthetic ones that share its mask, if any.

    Raises:
        AugmintError: for a synthetic sample whose real one is not here, or has another mask.
    """
    place = {name: i for i, name in enumerate(real.source_ids)}
    found: list[list[int]] = [[] for _ in real.source_ids]
    if synthetic is None:
        return found
    strangers, moved = [], []
    for i, source in enumerate(synthetic.source_ids):
        if source not in place:
            strangers.append(source)
        elif not torch.equal(synthetic.masks[i], real.masks[place[source]]):
            moved.append(source)
        else:
            found[place[source]].append(i)
    count = len(synthetic.source_ids)
    if strangers:
        raise AugmintError(
            f"{len(strangers)} of {count} synthetic samples were made from samples that are not "
            f"trained on, such as {strangers[0]!r}, so they have no real image to be mixed with; "
            "train on the patients that they were made from, or set mix to sample"
        )
    if moved:
        raise AugmintError(
            f"{len(moved)} of {count} synthetic samples have another mask than the real ones they "
            f"were made from, such as that of {moved[0]!r}, and two images are only mixed under "
            "one label; make them with a method that keeps masks, such as reference_shift, or "
            "set mix to sample"
        )
    return found


def patch_mask(
    count: int, spatial: Sequence[int], patch: int, real_share: float, generator: Generator
) -> Tensor:
    """Random patches, True where the first view is taken.

    Args:
        count: Samples; each has its own draw.
        spatial: Shape of a sample. Patches begin at its origin; those at the far end are cut.
        patch: Side of a patch; from the size of the sample on, samples are one patch each.
        real_share: Chance of a patch to be True.
        generator: A CPU generator.

    Returns:
        (B, 1, *spatial) booleans.
    """
    number = [math.ceil(n / patch) for n in spatial]
    real = torch.rand(count, 1, *number, generator=generator) < real_share
    for axis, size in enumerate(spatial, start=2):
        real = real.repeat_interleave(patch, axis).narrow(axis, 0, size)
    return real


def mixed_loss(
    forward: Callable[[Tensor], Tensor],
    views: Sequence[Tensor],
    mask: Tensor,
    known: Tensor,
    mixing: Mixing | None,
    generator: Generator,
) -> Tensor:
    """The loss of a batch of one view, or of two that share their mask.

    Args:
        forward: Images to float32 logits.
        views: (B, C, *spatial) each.
        mask: (B, *spatial) class index, of all views.
        known: (B, K), True where a class is annotated.
        mixing: How two views become one loss; None for one view.
        generator: A CPU generator; patches come from it.
    """
    if mixing is None:
        (image,) = views
        return dice_ce(forward(image), mask, known)
    first, second = views
    if mixing.mode == "loss":
        losses = [dice_ce(forward(view), mask, known) for view in views]
        return mixing.real_share * losses[0] + (1 - mixing.real_share) * losses[1]
    real = patch_mask(len(mask), mask.shape[1:], mixing.patch, mixing.real_share, generator)
    real = real.to(mask.device)
    if mixing.mode == "image":
        return dice_ce(forward(torch.where(real, first, second)), mask, known)
    return dice_ce(torch.where(real, forward(first), forward(second)), mask, known)
