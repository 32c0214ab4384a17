"""The sector of an ultrasound frame: where it lies, how it changes, its polar coordinates.

All geometry happens in the plane in which the sector's far edge is a circle. Frames may have been
squeezed, so that it is an ellipse in pixels; `aspect` undoes that. Lengths are in pixel rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Sector:
    """The visible part of a frame: an annular sector, cut by the frame where it reaches beyond.

    Pixel (0, 0) has its centre at row 0, column 0.

    Attributes:
        row: Of the apex, where the two sides meet; may lie above the frame.
        column: Of the apex.
        left: Angle of the left side in degrees from straight down, right positive.
        right: Angle of the right side.
        near: Radius at which the picture begins, in pixel rows.
        far: Radius at which it ends, in pixel rows.
        aspect: Width of a pixel over its height, as the tissue has them.
        box: Part of the frame that shows anything: first row, first column, one past the last row,
            one past the last column; None for all of it.
    """

    row: float
    column: float
    left: float
    right: float
    near: float
    far: float
    aspect: float = 1.0
    box: tuple[float, float, float, float] | None = None

    @property
    def middle(self) -> float:
        """Angle of the middle line, degrees."""
        return (self.left + self.right) / 2

    @property
    def width(self) -> float:
        """Angle between the sides, degrees."""
        return self.right - self.left

    def polar(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Radius (pixel rows) and angle (radians, right positive) of places in the frame."""
        x, y = (columns - self.column) * self.aspect, rows - self.row
        return torch.hypot(x, y), torch.atan2(x, y)

    def cartesian(self, radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of places in polar coordinates, the converse of `polar`."""
        return (
            self.row + radius * angle.cos(),
            self.column + radius * angle.sin() / self.aspect,
        )

    def inside(self, rows: Tensor, columns: Tensor) -> Tensor:
        """How far places lie inside the nearest edge, in pixel rows; negative outside.

        Exact where one edge alone is near, else an upper bound.
        """
        radius, angle = self.polar(rows, columns)
        left, right = math.radians(self.left), math.radians(self.right)
        # Beyond a right angle from an edge its distance is that of the apex.
        edges = [
            radius - self.near,
            self.far - radius,
            radius * torch.sin((angle - left).clamp(-math.pi / 2, math.pi / 2)),
            radius * torch.sin((right - angle).clamp(-math.pi / 2, math.pi / 2)),
        ]
        if self.box is not None:
            top, first, bottom, last = self.box
            edges += [rows - top + 0.5, bottom - 0.5 - rows]
            edges += [(columns - first + 0.5) * self.aspect, (last - 0.5 - columns) * self.aspect]
        return torch.stack(torch.broadcast_tensors(*edges)).amin(0)

    def mask(self, shape: Sequence[int], *, margin: float = 0.0) -> Tensor:
        """Pixels (H, W) whose centres lie at least `margin` rows inside, bool."""
        rows, columns = places(shape)
        return self.inside(rows, columns) >= margin

    def zoomed(self, scale: float) -> Sector:
        """The same sector shown larger or smaller about its apex; its box grows with it."""
        box = self.box
        if box is not None:
            row, column = self.row + 0.5, self.column + 0.5
            box = (
                row + (box[0] - row) * scale, column + (box[1] - column) * scale,
                row + (box[2] - row) * scale, column + (box[3] - column) * scale,
            )  # fmt: skip
        return replace(self, near=self.near * scale, far=self.far * scale, box=box)

    def moved(self, scale: tuple[float, float], offset: tuple[float, float] = (0.0, 0.0)) -> Sector:
        """The same sector after the frame was resampled and then padded or cropped.

        Args:
            scale: New pixels for each old one, along rows and columns.
            offset: New pixels before the first one, along rows and columns.
        """

        def to(value: float, axis: int) -> float:
            return (value + 0.5) * scale[axis] - 0.5 + offset[axis]

        box = self.box
        if box is not None:
            box = (
                box[0] * scale[0] + offset[0], box[1] * scale[1] + offset[1],
                box[2] * scale[0] + offset[0], box[3] * scale[1] + offset[1],
            )  # fmt: skip
        return replace(
            self,
            row=to(self.row, 0),
            column=to(self.column, 1),
            near=self.near * scale[0],
            far=self.far * scale[0],
            aspect=self.aspect * scale[0] / scale[1],
            box=box,
        )


@dataclass(frozen=True)
class SectorChange:
    """A change of the field of view; the anatomy keeps its shape.

    Attributes:
        depth: New depth over the old one; the far edge moves.
        tilt: Degrees by which the probe turns about the apex; a place at angle a shows what was
            at a + tilt.
        width: New angle between the sides over the old one.
        down: How far the apex moves along the frame's rows, as a share of the far radius.
        across: Likewise along its columns.
    """

    depth: float = 1.0
    tilt: float = 0.0
    width: float = 1.0
    down: float = 0.0
    across: float = 0.0

    def weaker(self, factor: float) -> SectorChange:
        """The same change, `factor` (0 to 1) times as far from no change."""
        return SectorChange(
            depth=1 + factor * (self.depth - 1),
            tilt=factor * self.tilt,
            width=1 + factor * (self.width - 1),
            down=factor * self.down,
            across=factor * self.across,
        )


@dataclass(frozen=True)
class SectorRange:
    """How far random changes go; each kind happens with its own probability.

    Attributes:
        depth: Depth grows by up to this share.
        tilt: Largest tilt to either side, degrees.
        narrow: Smallest factor of the width.
        wide: Largest factor of the width.
        shift: Largest shift of the apex as a share of the far radius.
        probability: Of each of the four kinds.
        fixed: Take the end of the range instead of a place within it; directions stay random.

    Source: Van De Vyver et al., Sci Rep 2025 (the ranges, restated in polar coordinates).
    """

    depth: float = 0.58
    tilt: float = 30.0
    narrow: float = 0.5
    wide: float = 1.5
    shift: float = 0.19
    probability: float = 0.5
    fixed: bool = False

    def scaled(self, strength: float) -> SectorRange:
        """The same range, `strength` times as far."""
        return replace(
            self,
            depth=self.depth * strength,
            tilt=self.tilt * strength,
            narrow=1 - (1 - self.narrow) * strength,
            wide=1 + (self.wide - 1) * strength,
            shift=self.shift * strength,
        )

    def draw(self, generator: torch.Generator) -> SectorChange:
        """One change; always the same number of draws, so that streams stay in step."""
        happens = (torch.rand(4, generator=generator) < self.probability).tolist()
        amount = torch.rand(4, generator=generator)
        # Area-uniform in the disk of shifts.
        amount[3] = amount[3].sqrt()
        far = [1.0] * 4 if self.fixed else amount.tolist()
        sign = (torch.rand(2, generator=generator) * 2 - 1).sign().tolist()
        turn = float(torch.rand(1, generator=generator)) * 2 * math.pi
        width = 1 + far[2] * ((self.wide - 1) if sign[1] > 0 else (self.narrow - 1))
        return SectorChange(
            depth=1 + self.depth * far[0] * happens[0],
            tilt=self.tilt * far[1] * sign[0] if happens[1] else 0.0,
            width=width if happens[2] else 1.0,
            down=self.shift * far[3] * math.cos(turn) if happens[3] else 0.0,
            across=self.shift * far[3] * math.sin(turn) if happens[3] else 0.0,
        )


@dataclass(frozen=True)
class View:
    """A changed field of view, in the frame that shows it.

    Attributes:
        sector: The new sector.
        kept: The old sector as it lies in the new frame; what is in both was recorded.
        scale: Size of the anatomy in the new frame over that in the old one.
        source: The old sector in the old frame.
        tilt: Degrees, as in the change.
    """

    sector: Sector
    kept: Sector
    scale: float
    source: Sector
    tilt: float

    def sources(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Places in the old frame that places in the new one show."""
        # Both sectors' polar coordinates name the same tissue, up to scale and tilt.
        radius, angle = self.kept.polar(rows, columns)
        return self.source.cartesian(radius / self.scale, angle + math.radians(self.tilt))

    def known(self, shape: Sequence[int], *, margin: float = 0.0) -> Tensor:
        """Pixels (H, W) of the new sector that the old one recorded, bool.

        Args:
            shape: Of both frames.
            margin: Rows of the old frame along the old sector's edges that are not trusted.
        """
        recorded = self.source.inside(*self.sources(*places(shape))) >= margin
        return self.sector.mask(shape) & recorded


def change_view(
    sector: Sector,
    change: SectorChange,
    frame: tuple[float, float, float, float],
    *,
    widest: float = 100.0,
    fill: bool = False,
) -> View:
    """How a change of the field of view looks in a frame of the same size.

    The apex keeps its place in the frame. Where the new sector would leave the frame (more than
    the old one did) the picture is shown smaller, as a scanner does when its depth is raised.

    Args:
        sector: The old sector.
        change: What changes.
        frame: What may show anything: first row, first column, one past the last ones.
        widest: Largest angle between the sides, degrees; wider ones stay at it.
        fill: Show the picture larger, too, where the new sector leaves room.
    """
    half = min(sector.width * change.width, max(widest, sector.width)) / 2
    left, right = sector.middle - half, sector.middle + half
    far = sector.far * change.depth
    scale = _room(replace(sector, left=left, right=right, far=far), sector, frame)
    if not fill:
        scale = min(1.0, scale)
    new = replace(
        sector, left=left, right=right, near=sector.near * scale, far=far * scale, box=frame
    )
    return View(new, old_sector(new, sector, change, scale), scale, sector, change.tilt)


def old_sector(new: Sector, old: Sector, change: SectorChange, scale: float) -> Sector:
    """Where the old sector lies in the frame that shows the new one, uncut by the old frame.

    Args:
        new: The new sector in the new frame.
        old: The old sector in the old frame.
        change: From the old to the new.
        scale: Size of the anatomy in the new frame over that in the old one.
    """
    # The new apex lies at (across, down) from the old one, seen in the old frame's directions.
    x, y = change.across * old.far, change.down * old.far
    tilt = math.radians(change.tilt)
    back_x = -(x * math.cos(tilt) - y * math.sin(tilt)) * scale
    back_y = -(x * math.sin(tilt) + y * math.cos(tilt)) * scale
    return Sector(
        row=new.row + back_y,
        column=new.column + back_x / new.aspect,
        left=old.left - change.tilt,
        right=old.right - change.tilt,
        near=old.near * scale,
        far=old.far * scale,
        aspect=new.aspect,
    )


def before_change(new: Sector, change: SectorChange) -> Sector:
    """The old sector of a change whose new sector is given: what a fit pretends to have.

    Args:
        new: The sector after the change, in its frame.
        change: A change that could have led to it.
    """
    half = new.width / change.width / 2
    old = replace(new, left=new.middle - half, right=new.middle + half, far=new.far / change.depth)
    return old_sector(new, old, change, 1.0)


def _room(new: Sector, old: Sector, frame: tuple[float, float, float, float]) -> float:
    """The largest scale about the apex at which the new sector leaves the frame no more than the
    old one did.
    """

    def reach(one: Sector) -> tuple[float, float, float]:
        """Rows below the apex, columns to its left and to its right."""
        flat = one.left < 0 < one.right
        down = one.far * (
            1.0 if flat else math.cos(math.radians(min(abs(one.left), abs(one.right))))
        )
        across = [math.sin(math.radians(max(-90.0, min(90.0, a)))) for a in (-one.left, one.right)]
        before, behind = (max(1e-6, one.far * s / one.aspect) for s in across)
        return down, before, behind

    _, first, bottom, last = frame
    have = (bottom - 0.5 - old.row, old.column - first + 0.5, last - 0.5 - old.column)
    return min(max(h, o) / n for h, o, n in zip(have, reach(old), reach(new)))


def places(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W) of all pixel centres."""
    rows = torch.arange(shape[0], dtype=torch.float32)[:, None]
    return rows, torch.arange(shape[1], dtype=torch.float32)[None]


def pull_back(rows: Tensor, columns: Tensor, shape: Sequence[int]) -> Tensor:
    """A grid (1, H, W, 2) for `grid_sample` that reads places in a frame of this shape."""
    rows, columns = torch.broadcast_tensors(rows, columns)
    x, y = ((p + 0.5) * 2 / n - 1 for p, n in ((columns, shape[1]), (rows, shape[0])))
    return torch.stack([x, y], -1)[None]


def to_polar(image: Tensor, sector: Sector, size: tuple[int, int]) -> Tensor:
    """A frame (C, H, W) in polar coordinates (C, depths, angles), cubic.

    The first and the last row lie at the near and the far radius, the first and the last column
    on the left and the right side.
    """
    radius = torch.linspace(sector.near, sector.far, size[0])[:, None]
    angle = torch.linspace(math.radians(sector.left), math.radians(sector.right), size[1])[None]
    grid = pull_back(*sector.cartesian(radius, angle), image.shape[1:])
    return functional.grid_sample(
        image[None], grid, mode="bicubic", padding_mode="border", align_corners=False
    )[0]


def from_polar(
    image: Tensor, sector: Sector, shape: Sequence[int], *, fill: float = -1.0
) -> Tensor:
    """The converse of `to_polar`: (C, depths, angles) to a frame (C, H, W), `fill` outside it."""
    rows, columns = places(shape)
    radius, angle = sector.polar(rows, columns)
    y = (radius - sector.near) / (sector.far - sector.near) * 2 - 1
    left, right = math.radians(sector.left), math.radians(sector.right)
    x = (angle - left) / (right - left) * 2 - 1
    frame = functional.grid_sample(
        image[None], torch.stack([x, y], -1)[None], mode="bicubic", padding_mode="border",
        align_corners=True,
    )[0]  # fmt: skip
    return torch.where(sector.mask(shape), frame, torch.full_like(frame, fill))
