"""Copies planted on purpose: would they be found?

A detector that finds no copies may be blind. Changed copies of real images of the fit, given among
others, tell how many it finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augmint.errors import AugmintError
from augmint.quality.memorisation import Picture

KINDS = ("flip", "shift", "rotation", "noise", "contrast")


@dataclass(frozen=True)
class Change:
    """What lies between an image and its planted copy.

    Attributes:
        flip_rows: Upside down.
        flip_columns: Mirrored, left to right.
        shift: Down and right, as shares of the longer side.
        rotation_deg: Clockwise, about the centre.
        noise: Standard deviation of Gaussian noise, as a share of the range.
        gamma: Exponent of the intensities in [0, 1].
        gain: Factor of the intensities, about 0.5.
        seed: Of the noise.
    """

    flip_rows: bool = False
    flip_columns: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0
    noise: float = 0.0
    gamma: float = 1.0
    gain: float = 1.0
    seed: int = 0


def draw_change(rng: np.random.Generator, kinds: Sequence[str] = KINDS) -> Change:
    """A random change made of the kinds named.

    Shifts up to 10 % of the side along each axis, turns up to 10 degrees, noise up to 0.1 of the
    range, gamma 0.7 to 1.4 and gain 0.7 to 1.3; of shift, turn and noise at least a fifth of that.

    Raises:
        AugmintError: if a kind is unknown.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise AugmintError(
            f"planted copies know no {unknown[0]!r}; the kinds are {', '.join(KINDS)}"
        )

    def size(most: float) -> float:
        return float(rng.uniform(0.2, 1) * most)

    flips = [(True, False), (False, True), (True, True)][rng.integers(3)]
    far, angle = size(0.1), rng.uniform(0, 2 * math.pi)
    along = max(abs(math.cos(angle)), abs(math.sin(angle)))
    shift = (far * math.sin(angle) / along, far * math.cos(angle) / along)
    turn = size(10.0) * rng.choice((-1, 1))
    noise, gamma, gain = size(0.1), math.exp(rng.uniform(math.log(0.7), math.log(1.4))), size(0.6)
    seed = int(rng.integers(2**31))
    return Change(
        *(flips if "flip" in kinds else (False, False)),
        shift if "shift" in kinds else (0.0, 0.0),
        float(turn) if "rotation" in kinds else 0.0,
        noise if "noise" in kinds else 0.0,
        gamma if "contrast" in kinds else 1.0,
        0.6 + gain if "contrast" in kinds else 1.0,
        seed,
    )


def plant(image: Tensor, change: Change) -> Tensor:
    """A changed copy of an image (C, H, W) in [-1, 1]; what comes in from outside is -1."""
    axes = [axis for axis, flip in ((1, change.flip_rows), (2, change.flip_columns)) if flip]
    shown = image.float().flip(axes)[None]
    if change.rotation_deg or any(change.shift):
        height, width = image.shape[1:]
        longer = max(height, width)
        cos, sin = (f(math.radians(change.rotation_deg)) for f in (math.cos, math.sin))
        down, right = (2 * s * longer for s in change.shift)
        # Read at R (x - shift), in coordinates that run from -1 to 1 along either axis.
        turn = torch.tensor([[cos, sin * height / width], [-sin * width / height, cos]])
        shift = turn @ torch.tensor([[right / width], [down / height]])
        grid = F.affine_grid(torch.cat([turn, -shift], 1)[None], list(shown.shape), False)
        shown = F.grid_sample(shown + 1, grid, mode="bicubic", align_corners=False) - 1
    level = ((shown[0].clamp(-1, 1) + 1) / 2) ** change.gamma
    level = (level - 0.5) * change.gain + 0.5 if change.gain != 1 else level
    generator = torch.Generator().manual_seed(change.seed)
    level = level + change.noise * torch.randn(level.shape, generator=generator)
    return level.clamp(0, 1) * 2 - 1


def plant_copies(
    pictures: Sequence[Picture], count: int, rng: np.random.Generator
) -> list[tuple[str, Picture]]:
    """Changed copies of as many different pictures, each with what was changed in words.

    The first half has one kind of change each, all kinds in turn; the others two to five. A copy of
    `p01#z002` is named `copy of p01#z002` and has no patient.

    Raises:
        AugmintError: if there are fewer pictures than copies to make.
    """
    if not 0 < count <= len(pictures):
        raise AugmintError(f"{count} copies of {len(pictures)} images; give 1 to as many as images")
    made = []
    for k, i in enumerate(rng.choice(len(pictures), count, replace=False)):
        kinds = [KINDS[k % len(KINDS)]]
        if k >= count // 2:
            kinds = list(rng.choice(KINDS, 2 + k % 4, replace=False))
        label = kinds[0] if len(kinds) == 1 else f"{len(kinds)} kinds"
        copy = plant(pictures[i].image, draw_change(rng, kinds))
        made.append((label, Picture(copy, f"copy of {pictures[i].name}")))
    return made
