"""What can stand where nothing was recorded, without a network; and how the two are joined."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from augmint.imaging.sector import Sector, View, from_polar, places, pull_back, to_polar
from augmint.imaging.warps import warp_image

if TYPE_CHECKING:
    import numpy as np


def mirrored(image: Tensor, view: View, *, margin: float = 1.0) -> Tensor:
    """The old frame in the new view, continued by its mirror images at the old sector's edges.

    Args:
        image: (C, H, W), the old frame.
        view: The change.
        margin: Rows along the old edges that are left out.

    Returns:
        (C, H, W); outside the new sector it means nothing.
    """
    radius, angle = view.kept.polar(*places(image.shape[1:]))
    source, turn = view.source, math.radians(view.tilt)
    depth = _folded(radius / view.scale, source.near + margin, source.far - margin)
    rim = (margin / depth).clamp(max=math.radians(source.width) / 4)
    left, right = math.radians(source.left) + rim, math.radians(source.right) - rim
    inside = source.cartesian(depth, _folded(angle + turn, left, right))
    # Where the old frame cut its fan there is nothing to mirror but the edge.
    image = continued(image, source.mask(image.shape[1:]))
    return warp_image(image[None], pull_back(*inside, image.shape[1:]))[0]


def _folded(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """x brought into [low, high] by reflections at both ends."""
    span = high - low
    return low + span - (torch.remainder(x - low, 2 * span) - span).abs()


def speckled(image: Tensor, view: View, generator: torch.Generator) -> Tensor:
    """Noise with the old frame's level by depth, histogram and grain; no anatomy.

    The grain is measured in polar coordinates, where that of a sector scan is about the same at
    all angles: the widths at which the autocorrelation falls to a half.

    Args:
        image: (C, H, W), the old frame.
        view: The change.
        generator: A CPU generator.

    Returns:
        (C, H, W); outside the new sector it means nothing.
    """
    import numpy as np
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    height, width = image.shape[1:]
    old, new = _shrunk(view.source, 0.01), view.sector
    whole = continued(image, view.source.mask(image.shape[1:]))
    polar = to_polar(whole, old, (height, width)).double().numpy()
    # As many samples for each unit of depth and angle as the old frame has.
    tall = max(2, round(height * (new.far - new.near) / view.scale / (old.far - old.near)))
    broad = max(2, round(width * new.width / old.width))
    # The same for all channels: a grey picture in three of them stays grey.
    white = torch.randn(tall, broad, generator=generator, dtype=torch.float64).numpy()
    # Deeper than the old frame its last level goes on.
    depth = np.minimum(np.arange(tall), height - 1)
    channels = []
    for one in polar:
        # The grain without the anatomy, whose parts are larger.
        fine = one - gaussian_filter(one, 0.03 * height)
        level, spread = (
            gaussian_filter1d(profile, 0.04 * height, mode="nearest")[:, None]
            for profile in (one.mean(1), fine.std(1))
        )
        rest = fine / (spread + 1e-6)
        noise = gaussian_filter(white, _grain(rest), mode="reflect")
        # The frame's own histogram, rank by rank.
        ranks = noise.ravel().argsort().argsort() * (rest.size - 1) // max(1, noise.size - 1)
        channels.append(
            level[depth] + spread[depth] * np.sort(rest.ravel())[ranks].reshape(noise.shape)
        )
    grey = torch.from_numpy(np.stack(channels)).float()
    return from_polar(grey, new, (height, width)).clamp(-1, 1)


def _shrunk(sector: Sector, share: float) -> Sector:
    """A sector without its outermost rim, which may be soft: a share of depth and angle."""
    return replace(
        sector,
        left=sector.left + share * sector.width,
        right=sector.right - share * sector.width,
        near=sector.near + share * (sector.far - sector.near),
        far=sector.far - share * (sector.far - sector.near),
    )


def _grain(rest: np.ndarray) -> tuple[float, float]:
    """Deviations of the Gaussian that gives white noise the grain of an image (depths, angles)."""
    import numpy as np

    power = np.abs(np.fft.fft2(rest - rest.mean())) ** 2
    correlation = np.fft.ifft2(power).real
    correlation /= correlation[0, 0]
    widths = []
    for line in (correlation[:, 0], correlation[0]):
        below = np.flatnonzero(line[: len(line) // 2] < 0.5)
        k = int(below[0]) if len(below) else 1
        half = k - 1 + (line[k - 1] - 0.5) / max(1e-9, line[k - 1] - line[k])
        # White noise blurred by s has the autocorrelation exp(-k^2 / (4 s^2)).
        widths.append(float(half / (2 * math.sqrt(math.log(2)))))
    return widths[0], widths[1]


def joined(filled: Tensor, recorded: Tensor, known: Tensor, sector: Tensor, band: int) -> Tensor:
    """Recorded pixels and filled ones in one frame; outside the sector -1.

    Recorded pixels farther than `band` pixels from filled ones are not touched; those nearer pass
    smoothly into the filling.

    Args:
        filled: (C, H, W).
        recorded: (C, H, W).
        known: (H, W) bool, where something was recorded.
        sector: (H, W) bool, what is visible.
        band: Width of the passage in pixels; 0 for none.
    """
    from scipy.ndimage import distance_transform_edt

    new = sector & ~known
    share = known.float()
    if band and bool(new.any()):
        away = torch.from_numpy(distance_transform_edt(~new.numpy())).float()
        # 1 beyond the band, so that pixels there stay as they are.
        step = torch.where(away > band, 1.0, ((away - 0.5) / band).clamp(0, 1))
        share = share * (step * step * (3 - 2 * step))
    mixed = torch.where(share >= 1, recorded, share * recorded + (1 - share) * filled)
    return torch.where(sector, mixed, torch.full_like(mixed, -1.0))


def continued(image: Tensor, visible: Tensor) -> Tensor:
    """A frame (C, H, W) whose pixels outside `visible` (H, W) are those of the nearest inside."""
    from scipy.ndimage import distance_transform_edt

    if not bool(visible.any()):
        return image
    nearest = distance_transform_edt(~visible.numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest)
    return image[:, rows.long(), columns.long()]
