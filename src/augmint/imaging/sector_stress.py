"""Smaller fields of view cut out of recorded sectors, with another gain or attenuation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from augmint.case import IntensityMap
from augmint.errors import AugmintError
from augmint.imaging.sector import SectorChange, View, change_view, places, pull_back
from augmint.imaging.sector_fit import SectorFit
from augmint.imaging.warps import warp_image, warp_mask

# Grey is the logarithm of the echo; black to white stand for so many decibels.
DYNAMIC_RANGE_DB = 60.0


@dataclass(frozen=True)
class Stress:
    """What happens to one field of view.

    Attributes:
        width: New angle between the sides over the recorded one.
        depth: New depth over the recorded one.
        tilt: Degrees by which the probe turns about the apex, as in `SectorChange`.
        gain_db: Added to all of the picture.
        attenuation_db: Taken off at the recorded depth, in proportion less above it.
    """

    width: float = 1.0
    depth: float = 1.0
    tilt: float = 0.0
    gain_db: float = 0.0
    attenuation_db: float = 0.0

    @property
    def change(self) -> SectorChange:
        """Its geometry."""
        return SectorChange(depth=self.depth, tilt=self.tilt, width=self.width)


@dataclass(frozen=True)
class StressRange:
    """How far fields of view change.

    Attributes:
        width: Least and largest factor of the angle between the sides.
        depth: Least and largest factor of the depth.
        tilt: Largest tilt to either side, degrees.
        gain: Largest gain to either side, dB.
        attenuation: Largest attenuation over the recorded depth, dB.
        fixed: Take the far ends of the ranges; directions stay random.
    """

    width: tuple[float, float] = (0.6, 0.8)
    depth: tuple[float, float] = (0.65, 0.85)
    tilt: float = 8.0
    gain: float = 0.0
    attenuation: float = 0.0
    fixed: bool = False

    def __post_init__(self) -> None:
        for name, factors in (("width", self.width), ("depth", self.depth)):
            if len(factors) != 2 or not 0 < factors[0] <= factors[1] <= 1:
                raise AugmintError(
                    f"--{name} wants two factors, least and largest, above 0 and at most 1; got "
                    f"{' '.join(f'{f:g}' for f in factors)}"
                )
        for name, most in (
            ("tilt", self.tilt), ("gain", self.gain), ("attenuation", self.attenuation)
        ):  # fmt: skip
            if not (math.isfinite(most) and most >= 0):
                raise AugmintError(f"--{name} must be 0 or more, got {most:g}")

    def scaled(self, strength: float) -> StressRange:
        """The same range, `strength` (0 to 1) times as far from no change."""

        def nearer(factors: tuple[float, float]) -> tuple[float, float]:
            return 1 - strength * (1 - factors[0]), 1 - strength * (1 - factors[1])

        return replace(
            self,
            width=nearer(self.width),
            depth=nearer(self.depth),
            tilt=self.tilt * strength,
            gain=self.gain * strength,
            attenuation=self.attenuation * strength,
        )

    def draw(self, generator: torch.Generator) -> Stress:
        """One change; always the same number of draws, so that streams stay in step."""
        amount = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        sign = (torch.rand(2, generator=generator) * 2 - 1).sign().tolist()
        if self.fixed:
            amount = [1.0] * 5
        return Stress(
            width=self.width[1] + amount[0] * (self.width[0] - self.width[1]),
            depth=self.depth[1] + amount[1] * (self.depth[0] - self.depth[1]),
            tilt=self.tilt * amount[2] * sign[0],
            gain_db=self.gain * amount[3] * sign[1],
            attenuation_db=self.attenuation * amount[4],
        )


@dataclass(frozen=True)
class FoundFan:
    """What was found in a case before anything is written: its fan and the frame's (H, W)."""

    fit: SectorFit
    shape: tuple[int, int]


def room_to_tilt(found: FoundFan, stress: Stress, most: float, fill: bool) -> float:
    """The largest tilt up to `most`, to the side of the stress, that shows nothing new."""
    assert found.fit.sector is not None
    most = min(most, found.fit.sector.width * (1 - stress.width) / 2)

    def fits(tilt: float) -> bool:
        tilted = replace(stress, tilt=math.copysign(tilt, stress.tilt))
        return shows_recorded(stressed_view(found, tilted, fill), found.shape)

    if fits(most):
        return most
    # The frame cut the recorded fan, too.
    low, high = 0.0, most
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def shows_recorded(view: View, shape: tuple[int, int]) -> bool:
    """Whether the new sector shows only what was recorded, but for a rim of one pixel."""
    return bool((view.known(shape, margin=-1.0) == view.sector.mask(shape)).all())


def stressed_view(found: FoundFan, stress: Stress, fill: bool) -> View:
    """The changed field of view in a frame of the same size."""
    sector, box = found.fit.sector, found.fit.box
    assert sector is not None
    assert box is not None
    whole = (0.0, 0.0, float(found.shape[0]), float(found.shape[1]))
    frame = sector.box or whole
    if not fill or stress.change == SectorChange():
        return change_view(sector, stress.change, frame)
    # As large as the old picture, so that no change leaves everything where it is.
    view = change_view(sector, stress.change, box, fill=True)
    if sector.box is not None:
        # The edges at which the old frame cut the fan grow with the picture.
        grown = sector.zoomed(view.scale).box
        assert grown is not None
        frame = (*map(max, box[:2], grown[:2]), *map(min, box[2:], grown[2:]))  # type: ignore[assignment]
    return replace(view, sector=replace(view.sector, box=frame))


def stressed(
    view: View, stress: Stress, image: np.ndarray, mask: np.ndarray, *, keep: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (C, S, H, W) and mask (S, H, W) in the new field of view, both as stored.

    Also returns the old pixels (H, W) whose labels stay, bool.
    """
    shape = (mask.shape[1], mask.shape[2])
    rows, columns = places(shape)
    if stress.tilt == 0 and abs(view.scale - 1) < 1e-6:
        visible = (view.sector.mask(shape) & view.source.mask(shape)).numpy()
        stays = np.ones_like(visible) if keep else visible
    else:
        visible = view.known(shape).numpy()
        grid = pull_back(*view.sources(rows, columns), shape).expand(len(mask), -1, -1, -1)
        image = _resampled(image, grid)
        classes = int(mask.max()) + 1
        stays = _stays(view, shape, keep=keep)
        if classes > 1:
            mask = warp_mask(torch.from_numpy(mask), grid, classes).numpy()
    if stress.gain_db or stress.attenuation_db:
        radius, _ = view.kept.polar(rows, columns)
        deep = ((radius - view.kept.near) / (view.kept.far - view.kept.near)).clamp(0, 1)
        image = _louder(image, (stress.gain_db - stress.attenuation_db * deep.double()).numpy())
    shown = np.where(visible, image, np.zeros((), image.dtype))
    return shown, mask if keep else np.where(visible, mask, 0), stays


def _resampled(image: np.ndarray, grid: Tensor) -> np.ndarray:
    """(C, S, H, W) as stored, read at the places of a pull-back grid, cubic."""
    most = [float(max(1e-6, channel.max())) for channel in image]
    scale = IntensityMap((0.0,) * len(image), tuple(most), image.dtype.name)
    unit = scale.to_unit(image).movedim(0, 1)
    return scale.to_stored(warp_image(unit, grid).movedim(1, 0))


def _louder(image: np.ndarray, decibels: np.ndarray) -> np.ndarray:
    """Values as stored with an offset (H, W) in dB, within black and white."""
    white = full_scale(image)
    values = (image + decibels / DYNAMIC_RANGE_DB * white).clip(0, white)
    whole = image.dtype.kind in "iu"
    return (np.round(values) if whole else values).astype(image.dtype)


def full_scale(stored: np.ndarray) -> float:
    """The stored value of white: 1 or 255 where nothing is beyond, else the largest one."""
    most = float(stored.max())
    if stored.dtype.kind == "f" and most <= 1:
        return 1.0
    return max(255.0, most)


def _stays(view: View, shape: tuple[int, int], *, keep: bool) -> np.ndarray:
    """Pixels (H, W) of the old frame whose places the new sector (or frame) still shows."""
    radius, angle = view.source.polar(*places(shape))
    rows, columns = view.kept.cartesian(radius * view.scale, angle - math.radians(view.tilt))
    if keep:
        inside = (rows > -0.5) & (rows < shape[0] - 0.5)
        return (inside & (columns > -0.5) & (columns < shape[1] - 0.5)).numpy()
    return ((view.sector.inside(rows, columns) >= 0) & view.source.mask(shape)).numpy()
