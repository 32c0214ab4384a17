"""Label maps as continuous channels that a diffusion model can paint, and back.

Source: one-hot channels, Fernandez et al., SASHIMI 2022 (brainSPADE); analog bits, Chen et al.,
ICLR 2023; signed distances, as in Bogensperger et al., GCPR 2023.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Coding = Literal["one_hot", "analog_bits", "signed_distance"]
# Pixels from a border at which the signed distance is as large as it gets.
REACH = 8.0


def code_channels(coding: Coding, num_classes: int) -> int:
    """How many channels a label map with `num_classes` classes, background included, takes."""
    if coding == "one_hot":
        return num_classes
    if coding == "analog_bits":
        return max(1, math.ceil(math.log2(num_classes)))
    return num_classes - 1


def encode(masks: Tensor, num_classes: int, coding: Coding) -> Tensor:
    """Label maps as channels from -1 to 1.

    Args:
        masks: (B, *spatial) class indices.
        num_classes: Background included, 2 or more.
        coding: `one_hot`; `analog_bits`, the digits of the class in base 2; or `signed_distance`,
            for each class but the background the distance to its border over `REACH` pixels,
            positive inside.

    Returns:
        (B, C, *spatial) float32, C as `code_channels` says.
    """
    if coding == "signed_distance":
        classes = [_signed_distance(masks == k) for k in range(1, num_classes)]
        return torch.stack(classes, 1)
    return _codewords(coding, num_classes)[masks.long()].movedim(-1, 1)


def decode(coded: Tensor, num_classes: int, coding: Coding) -> Tensor:
    """The label maps nearest to painted channels; the converse of `encode`.

    Args:
        coded: (B, C, *spatial).
        num_classes: Background included.
        coding: As for `encode`. Bits that spell no class become the nearest one that exists; of
            several positive distances the largest wins.

    Returns:
        (B, *spatial) int64.
    """
    if coding == "signed_distance":
        best, index = coded.max(1)
        return torch.where(best > 0, index + 1, 0)
    words = _codewords(coding, num_classes).to(coded)
    # All codewords are equally long, so the nearest one has the largest product.
    return (coded.movedim(1, -1) @ words.T).argmax(-1)


def _codewords(coding: Coding, num_classes: int) -> Tensor:
    """(num_classes, C) of -1 and 1."""
    if coding == "one_hot":
        return 2 * torch.eye(num_classes) - 1
    classes = torch.arange(num_classes)
    bits = [(classes >> b) & 1 for b in range(code_channels(coding, num_classes))]
    return 2 * torch.stack(bits, 1).float() - 1


def _signed_distance(inside: Tensor) -> Tensor:
    """(B, *spatial) from -1 to 1; -1 throughout where the class is absent."""
    from scipy.ndimage import distance_transform_edt as distance

    maps = []
    for one in inside.numpy():
        if one.all() or not one.any():
            maps.append(torch.full(one.shape, 1.0 if one.all() else -1.0))
            continue
        # The border runs between pixels, half a pixel from the centres on either side.
        signed = np.where(one, distance(one) - 0.5, 0.5 - distance(~one))
        maps.append(torch.from_numpy(signed / REACH).clamp(-1, 1).float())
    return torch.stack(maps)
