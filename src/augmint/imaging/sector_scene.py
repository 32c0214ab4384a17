"""A frame in a changed view, ready to be painted: what is known, what is new, what was labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from augmint.case import Case
from augmint.imaging.sector import Sector, View, places, pull_back
from augmint.imaging.sector_fill import joined
from augmint.imaging.warps import warp_image, warp_mask

Frame = tuple[float, float, float, float]
"""First row, first column, one past the last row, one past the last column."""


@dataclass(frozen=True)
class Scene:
    """A case in its changed view, before anything is painted.

    Attributes:
        source: The real frame.
        new: The new case; its image is still that of the source.
        view: The change.
        recorded: (C, H, W), the source's pixels in the new view.
        known: (H, W) bool, which of them are to be kept.
        visible: (H, W) bool, the new sector.
        given: What the network is given.
        generator: Of this case and copy, after the change was drawn.
        single: Whether the case is stored as a volume of one slice.
    """

    source: Case
    new: Case
    view: View
    recorded: Tensor
    known: Tensor
    visible: Tensor
    given: Tensor
    generator: torch.Generator
    single: bool

    def finished(self, painted: Tensor, band: int) -> Case:
        """The new case with what was painted where nothing was recorded."""
        image = joined(painted, self.recorded, self.known, self.visible, band)
        new = self.new
        assert new.mask is not None
        if self.single:
            grid = replace(new.grid, shape=(*new.grid.shape, 1))
            return replace(new, image=image[..., None], mask=new.mask[..., None], grid=grid)
        return replace(new, image=image)


def condition(
    image: Tensor, known: Tensor, sector: Sector, mask: Tensor, num_classes: int
) -> Tensor:
    """What the conditional network sees beside the noisy frame.

    Args:
        image: (C, H, W), the frame; only its known pixels are shown.
        known: (H, W) bool.
        sector: The one to fill.
        mask: (H, W) int64, labels in the new view, known and new parts alike.
        num_classes: Background included.

    Returns:
        (C + 3 + num_classes, H, W): known pixels (0 where unknown, -1 outside the sector), which
        these are, depth and angle from 0 and -1 to 1 within the sector, which pixels it has, and
        the one-hot labels without the background.
    """
    shape = image.shape[1:]
    visible = sector.mask(shape)
    shown = torch.where(known, image, 0.0)
    shown = torch.where(visible, shown, torch.full_like(shown, -1.0))
    radius, angle = sector.polar(*places(shape))
    middle, half = (torch.tensor(a).deg2rad() for a in (sector.middle, sector.width / 2))
    planes = [known.float(), radius / sector.far * visible, (angle - middle) / half * visible]
    one_hot = torch.nn.functional.one_hot(mask.long(), num_classes).movedim(-1, 0).float()
    return torch.cat([shown, torch.stack(planes), visible[None].float(), one_hot[1:]])


def moved(image: Tensor, mask: Tensor, view: View, num_classes: int) -> tuple[Tensor, Tensor]:
    """Image and mask as the new view shows them; outside the old frame -1 and background."""
    shape = image.shape[1:]
    if view.source == view.sector == view.kept:
        return image, mask
    grid = pull_back(*view.sources(*places(shape)), shape)
    return warp_image(image[None], grid)[0], warp_mask(mask[None], grid, num_classes)[0]


def shown_at(view: View, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Where places of the old frame lie in the new one; the converse of `View.sources`."""
    radius, angle = view.source.polar(rows, columns)
    turn = torch.tensor(view.tilt).deg2rad()
    return view.kept.cartesian(radius * view.scale, angle - turn)


def shown_smaller(sector: Sector, scale: float) -> View:
    """The same field of view, shown smaller."""
    small = sector.zoomed(scale)
    return View(small, replace(small, box=None), scale, sector, 0.0)


def frame_of(case: Case) -> Frame:
    """The part of the canvas that the stored frame covers."""
    shape = case.image.shape[1:]
    covered = [min(c, n) for c, n in zip(case.frame or shape, shape)]
    start = [n // 2 - c // 2 for c, n in zip(covered, shape)]
    top, first = start
    return float(top), float(first), float(top + covered[0]), float(first + covered[1])


def geometry(sector: Sector) -> dict[str, float]:
    """The sector's columns of the manifest."""
    return {f"sector_{k}": v for k, v in asdict(sector).items() if k != "box"}


def sector_of(details: Mapping[str, float | str]) -> Sector:
    """The converse of `geometry`."""
    row, column, left, right, near, far, aspect = (
        float(details[f"sector_{name}"])
        for name in ("row", "column", "left", "right", "near", "far", "aspect")
    )
    return Sector(row, column, left, right, near, far, aspect)
