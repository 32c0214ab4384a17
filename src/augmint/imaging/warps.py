"""Smooth random changes of geometry that image and mask share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from augmint.case import Case
from augmint.errors import AugmintError


@dataclass(frozen=True)
class WarpRange:
    """How far a random warp may go.

    Attributes:
        rotation_deg: Largest rotation, in plane for 2-D, about each axis for 3-D.
        scale: Largest relative change of size per axis; 0.2 draws from [1 / 1.2, 1.2].
        shift: Largest translation as a share of the longest side.
        elastic: Standard deviation of the control points' displacement, as a share of the
            longest side.
        control: Control points per axis of the elastic part.
    """

    rotation_deg: float = 15.0
    scale: float = 0.15
    shift: float = 0.03
    elastic: float = 0.012
    control: int = 5

    def scaled(self, strength: float) -> WarpRange:
        """The same range, `strength` times as far."""
        return replace(
            self,
            rotation_deg=self.rotation_deg * strength,
            scale=self.scale * strength,
            shift=self.shift * strength,
            elastic=self.elastic * strength,
        )


def random_warp(
    warp: WarpRange,
    batch: int,
    canvas: Sequence[int],
    window: Sequence[int],
    generator: torch.Generator,
) -> Tensor:
    """Draw warps that read a centred window out of a larger canvas.

    Args:
        warp: the ranges; all zeros give a plain centre crop.
        batch: number of independent draws.
        canvas: spatial shape that is read.
        window: spatial shape that is made, at the canvas's resolution.
        generator: a CPU generator.

    Returns:
        A pull-back grid for `grid_sample`, (B, *window, d), in the canvas's normalised
        coordinates (last axis in x, y(, z) order).
    """
    d, longest = len(window), max(window)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in window]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, d)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    matrix = _rotations(uniform(batch, 3) * torch.deg2rad(torch.tensor(warp.rotation_deg)), d)
    # One common and one small own factor per axis: size varies more than shape does.
    exponent = uniform(batch, 1) + 0.3 * uniform(batch, d)
    matrix = matrix * ((1 + warp.scale) ** -exponent).reshape(batch, 1, d)
    moved = points @ matrix + uniform(batch, 1, d) * warp.shift * longest
    displacement = torch.randn(batch, d, *[warp.control] * d, generator=generator)
    mode = "bicubic" if d == 2 else "trilinear"
    smooth = functional.interpolate(displacement, size=tuple(window), mode=mode, align_corners=True)
    moved = moved + smooth.flatten(2).transpose(1, 2) * warp.elastic * longest
    # Pixel offsets from the centre to normalised coordinates (align_corners=False), x first.
    normalised = moved * 2 / torch.tensor(canvas, dtype=torch.float32)
    return normalised.flip(-1).reshape(batch, *window, d)


def _rotations(angles: Tensor, dims: int) -> Tensor:
    """Rotation matrices (B, d, d) from angles (B, 3); 2-D uses the first angle."""
    cos, sin = angles.cos(), angles.sin()
    total = torch.eye(dims).expand(len(angles), dims, dims).clone()
    for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)][: 1 if dims == 2 else 3]):
        one = torch.eye(dims).expand(len(angles), dims, dims).clone()
        one[:, i, i], one[:, j, j] = cos[:, k], cos[:, k]
        one[:, i, j], one[:, j, i] = -sin[:, k], sin[:, k]
        total = total @ one
    return total


def warp_image(image: Tensor, grid: Tensor) -> Tensor:
    """Cubic (3-D: linear) interpolation; outside the canvas is -1. (B, C, *canvas) in [-1, 1].

    Linear interpolation took a quarter of the fine detail of cine MR at half resolution, and a
    network fitted on such images makes such images.
    """
    mode = "bicubic" if image.ndim == 4 else "bilinear"
    warped = functional.grid_sample(image + 1, grid, mode=mode, align_corners=False) - 1
    return warped.clamp(-1, 1)


def warp_mask(mask: Tensor, grid: Tensor, num_classes: int) -> Tensor:
    """The class with the largest interpolated share; outside is background. (B, *canvas) int64."""
    one_hot = functional.one_hot(mask, num_classes).movedim(-1, 1).float()
    # Background by default outside: sample the foreground, let background be what remains.
    share = functional.grid_sample(one_hot[:, 1:], grid, mode="bilinear", align_corners=False)
    return torch.cat([1 - share.sum(1, keepdim=True), share], 1).argmax(1)


def warp_case(
    case: Case,
    warp: WarpRange,
    window: Sequence[int],
    num_classes: int,
    generator: torch.Generator,
    *,
    blank: bool = False,
) -> Case:
    """A case on the window as one random warp moves it, image and mask together.

    Args:
        case: Labelled, on the canvas. With a 2-D window all slices of a volume, along the last
            axis, move alike.
        warp: The ranges.
        window: Spatial shape that is made.
        num_classes: Background included.
        generator: A CPU generator.
        blank: Leave the image empty (zeros), for one that is still to be made.

    Raises:
        AugmintError: for a case without a mask.
    """
    if case.mask is None:
        raise AugmintError(
            f"case {case.case_id!r} has no mask; real masks are warped here, so give labelled cases"
        )
    by_slice = case.dims > len(window)
    masks = case.mask.movedim(-1, 0) if by_slice else case.mask[None]
    grid = random_warp(warp, 1, masks.shape[1:], window, generator)
    grid = grid.expand(len(masks), *grid.shape[1:])
    warped = warp_mask(masks, grid, num_classes)
    mask = warped.movedim(0, -1) if by_slice else warped[0]
    if blank:
        image = torch.zeros(len(case.image), *mask.shape)
    else:
        images = warp_image(case.image.movedim(-1, 0) if by_slice else case.image[None], grid)
        image = images.movedim(0, -1) if by_slice else images[0]
    return replace(case, image=image, mask=mask, grid=replace(case.grid, shape=tuple(mask.shape)))
