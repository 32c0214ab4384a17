"""The working grid: where networks compute, and the way there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from augmint.case import Case, Grid
from augmint.errors import AugmintError


@dataclass(frozen=True)
class WorkingGrid:
    """A common lattice for cases of many shapes.

    A case is resampled (to `spacing_mm` where spacing is known, else so that its longest
    in-plane side has `longest` pixels), then padded or cropped about its centre, never about
    its mask.

    Attributes:
        dims: 2 (a volume is worked on slice by slice) or 3.
        canvas: Spatial shape that holds every case, d numbers.
        window: Centred part of the canvas that networks see, d numbers.
        longest: Pixels along the longest in-plane side; None where `spacing_mm` rules.
        spacing_mm: Working spacing per axis; None where spacing is unknown.
    """

    dims: int
    canvas: tuple[int, ...]
    window: tuple[int, ...]
    longest: int | None = None
    spacing_mm: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict for config files."""
        return asdict(self)

    @staticmethod
    def from_json(facts: dict[str, Any]) -> WorkingGrid:
        """The converse of `to_json`."""
        spacing = facts["spacing_mm"]
        return WorkingGrid(
            dims=facts["dims"],
            canvas=tuple(facts["canvas"]),
            window=tuple(facts["window"]),
            longest=facts["longest"],
            spacing_mm=None if spacing is None else tuple(spacing),
        )

    def resampled_shape(self, grid: Grid, case_id: str = "") -> tuple[int, ...]:
        """The shape of a case's worked axes after resampling, before padding or cropping.

        The case's name is for the message where it cannot be resampled.
        """
        plane = working_plane(grid) if self.dims == 2 else grid
        if self.spacing_mm is not None:
            if not grid.spacing_known:
                raise AugmintError(
                    f"the working grid is in mm, but {f'case {case_id!r}' if case_id else 'a case'}"
                    " has no spacing; store its spacing in its file, or work in pixels: declare "
                    "spacing_known: false in the dataset.json of the cases that were fitted on, "
                    "and fit again"
                )
            scales = [s / w for s, w in zip(plane.spacing, self.spacing_mm)]
        else:
            assert self.longest is not None
            scales = [self.longest / max(plane.shape)] * len(plane.shape)
        return tuple(max(1, round(n * s)) for n, s in zip(plane.shape, scales))

    def to_working(self, case: Case, *, shape: Sequence[int] | None = None) -> Case:
        """The case on the canvas (or on `shape`, a centred part of it).

        A volume under a 2-D working grid keeps its slices, turned to rows and columns (see
        `working_plane`) and stacked along the last axis.
        """
        target = tuple(shape or self.canvas)
        if self.dims == 3 and case.dims == 2:
            raise AugmintError(
                f"case {case.case_id!r} is a 2-D frame, the network is 3-D; use dims=2"
            )
        # The name of a slice ends in #z and its number; the user knows the case.
        resampled = self.resampled_shape(case.grid, case.case_id.partition("#z")[0])

        def one(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
            small = center(resample_image(image, resampled), target, -1.0)
            if mask is None:
                return small, None
            return small, center(resample_mask(mask, resampled), target, 0)

        if self.dims == 3 or case.dims == 2:
            image, mask = one(case.image, case.mask)
            return replace(case, image=image, mask=mask, grid=_index_grid(target), frame=resampled)
        pairs = [one(s.image.mT, None if s.mask is None else s.mask.mT) for s in case.slices()]
        masks = [m for _, m in pairs if m is not None]
        return replace(
            case,
            image=torch.stack([i for i, _ in pairs], -1),
            mask=torch.stack(masks, -1) if masks else None,
            grid=_index_grid((*target, len(pairs))),
            frame=resampled,
        )

    def image_to_native(self, image: Tensor, grid: Grid) -> Tensor:
        """Values (K, *part of the canvas) of one frame, slice or 3-D case to its native grid."""
        plane = working_plane(grid) if self.dims == 2 else grid
        whole = center(image, self.resampled_shape(grid), -1.0)
        back = resample_image(whole, plane.shape, smooth=True)
        return back.mT if self.dims == 2 and grid.dims == 3 else back

    def change_to_native(self, change: Tensor, grid: Grid) -> Tensor:
        """A change of values (K, *part of the canvas), as `image_to_native`; 0 outside the part."""
        plane = working_plane(grid) if self.dims == 2 else grid
        whole = center(change, self.resampled_shape(grid), 0.0)
        # A change of values from -1 to 1 spans twice their range, and resampling clamps to it.
        back = 2 * resample_image(whole / 2, plane.shape)
        return back.mT if self.dims == 2 and grid.dims == 3 else back

    def mask_to_native(self, mask: Tensor, grid: Grid) -> Tensor:
        """A mask (*part of the canvas) to the native grid of one frame, slice or 3-D case."""
        plane = working_plane(grid) if self.dims == 2 else grid
        back = resample_mask(center(mask, self.resampled_shape(grid), 0), plane.shape)
        return back.mT if self.dims == 2 and grid.dims == 3 else back

    def to_native(self, working: Case, grid: Grid) -> Case:
        """A whole case on (a centred part of) the canvas back to a native grid.

        Outside the part the image is -1 and the mask background.
        """
        if self.dims == 3 or grid.dims == 2:
            return replace(
                working,
                image=self.image_to_native(working.image, grid),
                mask=None if working.mask is None else self.mask_to_native(working.mask, grid),
                grid=grid,
                frame=None,
            )
        axis = grid.slice_axis
        images = [self.image_to_native(i, grid) for i in working.image.unbind(-1)]
        masks = []
        if working.mask is not None:
            masks = [self.mask_to_native(m, grid) for m in working.mask.unbind(-1)]
        return replace(
            working,
            image=torch.stack(images, axis + 1),
            mask=torch.stack(masks, axis) if masks else None,
            grid=grid,
            frame=None,
        )


def working_plane(grid: Grid) -> Grid:
    """The grid of the planes that 2-D networks see, rows first, then columns.

    Pictures are stored that way; volumes store x before y. Without the turn a heart would lie
    one way in a picture and another way in a volume.
    """
    if grid.dims == 2:
        return grid
    plane = grid.plane()
    spacing = plane.spacing[::-1]
    return Grid(plane.shape[::-1], np.diag([*spacing, 1.0]), grid.spacing_known)


def _index_grid(shape: Sequence[int]) -> Grid:
    return Grid(tuple(shape), np.eye(len(shape) + 1), False)


def resample_image(image: Tensor, shape: Sequence[int], *, smooth: bool = False) -> Tensor:
    """(C, *spatial) to (C, *shape); anti-aliased when it shrinks, cubic if `smooth` in 2-D."""
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    if len(shape) == 3:
        small = _resample_3d(image[None], shape)
    else:
        mode = "bicubic" if smooth else "bilinear"
        small = functional.interpolate(image[None], size=tuple(shape), mode=mode, antialias=True)
    return small[0].clamp(-1, 1)


def resample_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """(*spatial) int64 to (*shape): the class with the largest interpolated share."""
    if tuple(mask.shape) == tuple(shape):
        return mask
    one_hot = functional.one_hot(mask).movedim(-1, 0)[None].float()
    if len(shape) == 3:
        share = _resample_3d(one_hot, shape)
    else:
        share = functional.interpolate(one_hot, size=tuple(shape), mode="bilinear", antialias=True)
    return share[0].argmax(0)


def _resample_3d(x: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, *spatial), linear and anti-aliased; torch has that for planes, so axis by axis."""
    for axis, size in enumerate(shape, start=2):
        if x.shape[axis] == size:
            continue
        lines = x.movedim(axis, -1)
        flat = lines.reshape(1, 1, -1, lines.shape[-1])
        new = functional.interpolate(
            flat, size=(flat.shape[2], size), mode="bilinear", antialias=True
        )
        x = new.reshape(*lines.shape[:-1], size).movedim(-1, axis)
    return x


def center(x: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    """Pad with `fill` or crop the last len(shape) axes about their centres."""
    pads: list[int] = []
    for have, want in zip(reversed(x.shape), reversed(tuple(shape))):
        # Pixel n // 2 is the centre of every size, so that crops and paddings compose and invert.
        before = want // 2 - have // 2
        pads += [before, want - have - before]
    return functional.pad(x, pads, value=fill) if any(pads) else x
