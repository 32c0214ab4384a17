"""Finding the sector of an ultrasound frame from what stands out from its background."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from augmint.imaging.sector import Sector

# A sector must explain this much of what stands out from the background; at the second share
# there is no need to look for a better outline.
LEAST_OVERLAP = 0.9
GOOD_OVERLAP = 0.985
RECTANGLE = "its picture is a rectangle"
# Share of the outline that lies on the fan's edges: a body's outline wanders.
LEAST_OUTLINE = 0.65
ANGLES = (15.0, 160.0)
# Grey levels of 255 that stand out. One is enough on a clean background; lossy compression leaves
# several beside the fan.
LEVELS = (0.6, 4.0, 16.0)


@dataclass(frozen=True)
class SectorFit:
    """What was found in a frame.

    Attributes:
        sector: None where the frame has no fan.
        box: The rectangle of what stands out: first row, first column, one past the last ones;
            None for an empty frame. The picture of a linear probe is this box.
        overlap: Intersection over union of the sector (or of the box, where there is no sector)
            and what stands out, holes filled.
        reason: Why there is no sector; empty where there is one.
    """

    sector: Sector | None
    box: tuple[float, float, float, float] | None
    overlap: float
    reason: str = ""


def fit_sector(frame: Tensor, *, aspect: float | None = None) -> SectorFit:
    """Fit the fan of a frame, or of a sequence of frames that share it.

    The sides are lines fitted robustly to the first and last pixels of the rows that stand out,
    the far edge is an ellipse through the last pixels of the columns, and all are then refined
    together. Black pixels inside, text beside the fan and a background that is not black do no
    harm as long as the outline prevails. Where the fan explains the outline poorly, others are
    tried: of what is brighter, and without strokes that enclose background.

    Args:
        frame: (H, W), or (T, H, W) for a sequence: what any of its frames shows is inside.
        aspect: Width of a pixel over its height, where it is known; fitted otherwise. A fan
            whose far edge the frame cuts off altogether does not tell it and has 1.

    Returns:
        The fit; `reason` says why there is no fan.
    """
    values = frame.detach().double().numpy()
    values = values if values.ndim == 3 else values[None]
    found = _search(values, aspect)
    if found.reason == RECTANGLE and found.box is not None:
        # A frame whose background is not black, padded with black, is a rectangle with a fan in it.
        top, first, bottom, last = (int(edge) for edge in found.box)
        inner = _search(values[:, top:bottom, first:last], aspect)
        if inner.sector is not None and inner.box is not None:
            a, b, c, d = inner.box
            box = (a + top, b + first, c + top, d + first)
            return SectorFit(inner.sector.moved((1, 1), (top, first)), box, inner.overlap)
    return found


def _search(frames: np.ndarray, aspect: float | None) -> SectorFit:
    """The best fan over the outlines of a sequence (T, H, W)."""
    best = SectorFit(None, None, 0.0, "nothing stands out from the background")
    for level, strokes in product(LEVELS, (True, False)):
        fit = _fit_outline(_stands_out(frames, level, strokes), aspect)
        if best.box is None or (fit.sector is not None and fit.overlap > best.overlap):
            best = fit
        if fit.reason == RECTANGLE or (best.sector is not None and best.overlap >= GOOD_OVERLAP):
            break
    return best


def _fit_outline(shown: np.ndarray, aspect: float | None) -> SectorFit:
    """The fan that is nearest to a region (H, W)."""
    if shown.sum() < 0.005 * shown.size:
        return SectorFit(None, None, 0.0, "nothing stands out from the background")
    box = _box(shown)
    filled = float(shown.sum() / ((box[2] - box[0]) * (box[3] - box[1])))
    if filled > 0.95:
        return SectorFit(None, box, filled, RECTANGLE)
    if aspect is None and _far_edge_is_cut(shown, box):
        aspect = 1.0
    start = _first_guess(shown, aspect)
    if start is None:
        return SectorFit(None, box, filled, "its sides are not two lines that meet above it")
    overlap = _overlap(start, shown)
    if overlap < 0.7:
        return SectorFit(None, box, overlap, _explains(overlap))
    sector = _refine(start, shown, box, aspect)
    overlap = _overlap(sector, shown)
    for _ in range(2):
        if not LEAST_OVERLAP < overlap < GOOD_OVERLAP:
            break
        # What lies clearly beyond the fan is text or a curve, and draws the fit outwards.
        own = _largest(shown & sector.mask(shown.shape, margin=-1.5).numpy())
        sector = _refine(sector, own, _box(own), aspect)
        overlap = _overlap(sector, shown)
    if not ANGLES[0] <= sector.width <= ANGLES[1]:
        return SectorFit(None, box, overlap, f"its sides meet at {sector.width:.0f} degrees")
    if overlap < LEAST_OVERLAP:
        return SectorFit(None, box, overlap, _explains(overlap))
    if 1 - overlap > 0.15 * (1 - filled):
        return SectorFit(None, box, overlap, "a fan explains it hardly better than a rectangle")
    if _outline_share(sector, shown, box) < LEAST_OUTLINE:
        return SectorFit(None, box, overlap, "its outline is not that of a fan")
    return SectorFit(sector, box, overlap)


def _explains(overlap: float) -> str:
    return f"the best fan explains only {100 * overlap:.0f} % of the picture"


def _outline_share(
    sector: Sector, shown: np.ndarray, box: tuple[float, float, float, float]
) -> float:
    """Share of a region's outline, where its box does not cut it, that lies on the fan's edges."""
    from scipy import ndimage

    rim = shown & ~ndimage.binary_erosion(shown, border_value=1)
    rows, columns = (p.astype(float) for p in np.nonzero(rim))
    cut = np.minimum(rows - box[0], box[2] - 1 - rows) < 1
    cut |= np.minimum(columns - box[1], box[3] - 1 - columns) < 1
    if cut.mean() > 0.7:
        return 0.0
    edges = replace(sector, box=None)
    away = edges.inside(torch.from_numpy(rows[~cut]), torch.from_numpy(columns[~cut])).abs()
    return float((away < max(2.0, 0.01 * sector.far)).double().mean())


def _overlap(sector: Sector, shown: np.ndarray) -> float:
    mask = sector.mask(shown.shape).numpy()
    return float((mask & shown).sum() / (mask | shown).sum())


def _stands_out(frames: np.ndarray, level: float, strokes: bool) -> np.ndarray:
    """Where a sequence (T, H, W) differs from its background: one region without holes, bool.

    Args:
        frames: Any grey values.
        level: Least difference in 255ths of their range.
        strokes: Whether to fill what thin strokes enclose: black cavities at the fan's edge, but
            also background between the fan and a line across it.
    """
    from scipy import ndimage

    least, most = frames.min(), frames.max()
    if most <= least:
        return np.zeros(frames.shape[1:], bool)
    background, noise = _background(frames)
    apart = max(level * (most - least) / 255, 6 * noise)
    away = np.abs(frames - background) > apart
    if background > least + apart:
        # Padding beside a background that is not black.
        away &= frames > least + apart
    height = np.abs(frames - background).max(0)
    found = away.any(0)
    found = ndimage.binary_closing(np.pad(found, 4), iterations=2)[4:-4, 4:-4] | found
    found = _largest(ndimage.binary_fill_holes(found) if strokes else found)
    # Text touches the fan at a few pixels at most; thin strokes do not survive an opening.
    opened = _largest(ndimage.binary_opening(found, iterations=max(1, min(found.shape) // 64)))
    near = ndimage.binary_dilation(opened, iterations=2 + min(found.shape) // 64)
    found = _largest(found & near)
    return ndimage.binary_fill_holes(_without_soft_rim(found, height))


def _background(frames: np.ndarray) -> tuple[float, float]:
    """Grey value beside the fan and its deviation, from the upper corners and the sides' rims."""
    h, w = frames.shape[1:]
    a, b = max(2, h // 6), max(2, w // 8)
    corners = np.concatenate([frames[:, :a, :b].ravel(), frames[:, :a, -b:].ravel()])
    middle = float(np.median(corners))
    return middle, 1.4826 * float(np.median(np.abs(corners - middle)))


def _largest(region: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    parts, count = ndimage.label(region)
    if count < 2:
        return region
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _without_soft_rim(found: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Drop the outermost pixels that interpolation left, which are fainter than half the inside."""
    from scipy import ndimage

    inner = ndimage.binary_erosion(found)
    rim = found & ~inner
    weight = ndimage.gaussian_filter(inner.astype(float), 2)
    level = ndimage.gaussian_filter(np.where(inner, height, 0.0), 2) / np.maximum(weight, 1e-9)
    ratio = height[rim] / np.maximum(level[rim], 1e-9)
    if not rim.any() or np.median(ratio) > 0.75:
        return found
    faint = rim & (height < 0.5 * level)
    return found & ~faint


def _box(shown: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1)


def _first_guess(shown: np.ndarray, aspect: float | None) -> Sector | None:
    """Sides from the rows' ends, the far edge from the columns' lower ends."""
    top, first, bottom, last = _box(shown)
    rows = np.arange(int(top), int(bottom))
    rows = rows[shown[rows].any(1)]
    left = shown[rows].argmax(1).astype(float)
    right = shown.shape[1] - 1 - shown[rows][:, ::-1].argmax(1).astype(float)
    # The sides end where the fan is widest; below, the far edge closes it.
    wide = right - left
    stop = int(np.flatnonzero(wide >= 0.97 * wide.max())[0])
    sides = []
    for ends, limit in ((left, first), (right, last - 1)):
        use = np.arange(len(rows)) <= max(stop, 4)
        free = np.abs(ends - limit) > 1.5
        use = use & free if (use & free).sum() >= 5 else use
        line = _robust_line(rows[use].astype(float), ends[use])
        if line is None:
            return None
        sides.append(line)
    (a, b), (c, d) = sides
    if not b < 0.999 * d or d - b < 0.1:
        return None
    row = (a - c) / (d - b)
    column = a + b * row
    if row > top + 0.35 * (bottom - top):
        return None
    ratio, far = _far_edge(shown, row, column, aspect)
    if not (math.isfinite(far) and far > 0):
        return None
    sector = Sector(
        row, column, math.degrees(math.atan(b * ratio)), math.degrees(math.atan(d * ratio)),
        0.0, far, ratio,
    )  # fmt: skip
    return replace(sector, near=_near_edge(shown, sector))


def _robust_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """y = a + b x by repeated medians, then least squares on what lies near."""
    if len(x) < 5 or np.ptp(x) == 0:
        return None
    pick = np.linspace(0, len(x) - 1, min(len(x), 120)).round().astype(int)
    u, v = x[pick], y[pick]
    apart = u[:, None] - u[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(apart == 0, np.nan, (v[:, None] - v[None]) / apart)
    slope = float(np.median(np.nanmedian(slopes, 1)))
    offset = float(np.median(v - slope * u))
    for reach in (4.0, 2.0):
        near = np.abs(y - offset - slope * x) <= reach
        if near.sum() < 5:
            break
        slope, offset = (float(p) for p in np.polyfit(x[near], y[near], 1))
    return offset, slope


def _far_edge_is_cut(shown: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    """Whether the frame cuts the fan off in a straight line from side to side."""
    last = shown[int(box[2]) - 1].sum()
    return bool(last > 0.9 * shown.sum(1).max())


def _far_edge(
    shown: np.ndarray, row: float, column: float, aspect: float | None
) -> tuple[float, float]:
    """Aspect and far radius from the columns' lower ends, those that the frame cuts left out."""
    columns = np.flatnonzero(shown.any(0))
    ends = shown.shape[0] - 1 - shown[::-1][:, columns].argmax(0) + 0.5
    x, y = columns - column, ends - row
    # Near the corners the sides end the columns, not the far edge.
    use = (np.abs(x) < 0.85 * np.abs(x).max()) & (y > 0.5 * y.max())
    if aspect is not None:
        return aspect, float(np.median(np.hypot(x[use] * aspect, y[use])))
    ratio = 1.0
    for _ in range(8):
        # y^2 = far^2 - aspect^2 x^2 is a line in x^2.
        line = _robust_line(x[use] ** 2 / 100, y[use] ** 2 / 100)
        if line is None or line[1] >= 0:
            return 1.0, float(np.median(np.hypot(x[use], y[use])))
        ratio, far = math.sqrt(-line[1]), 10 * math.sqrt(max(line[0], 0.0))
        off = np.hypot(x * ratio, y) - far
        use = np.abs(off) < 3.0
        if use.sum() < 8:
            break
    return ratio, far


def _near_edge(shown: np.ndarray, sector: Sector) -> float:
    """Radius of the columns' upper ends well between the sides."""
    columns = np.flatnonzero(shown.any(0))
    ends = shown[:, columns].argmax(0) - 0.5
    radius, angle = sector.polar(torch.from_numpy(ends), torch.from_numpy(columns.astype(float)))
    turn = np.degrees(angle.numpy())
    between = np.abs(turn - sector.middle) < 0.3 * sector.width
    if not between.any():
        return float(max(0.0, radius.numpy().min()))
    return float(max(0.0, np.median(radius.numpy()[between])))


def _refine(
    start: Sector,
    shown: np.ndarray,
    box: tuple[float, float, float, float],
    aspect: float | None,
) -> Sector:
    """All parameters together: the soft-edged sector nearest to what stands out."""
    from scipy.optimize import least_squares

    rows, columns = np.mgrid[0.0 : shown.shape[0], 0.0 : shown.shape[1]]
    clipped = _clipping(start, box)
    band = np.abs(_signed(_numbers(start), start.aspect, clipped, rows, columns)) < 8
    band |= shown != start.mask(shown.shape).numpy()
    y, x, wanted = rows[band], columns[band], shown[band].astype(float)
    numbers = _numbers(start)
    lengths = np.array([1.0, 1.0, 0.02, 0.02, 1.0, 1.0])
    first = np.append(numbers / lengths, start.aspect / 0.02)
    if aspect is not None:
        first = first[:-1]

    def residuals(p: np.ndarray) -> np.ndarray:
        ratio = aspect if aspect is not None else p[-1] * 0.02
        inside = _signed(p[:6] * lengths, ratio, clipped, y, x)
        return np.asarray(1 / (1 + np.exp(-np.clip(inside / 0.4, -30, 30))) - wanted)

    best = least_squares(residuals, first, loss="soft_l1", f_scale=0.3, max_nfev=30).x
    row, column, left, right, near, far = (float(v) for v in best[:6] * lengths)
    ratio = aspect if aspect is not None else float(best[-1] * 0.02)
    if not (far > max(near, 0.0) and right > left and ratio > 0):
        return start
    return Sector(
        row, column, math.degrees(left), math.degrees(right), max(0.0, near), far, ratio, clipped
    )


def _numbers(sector: Sector) -> np.ndarray:
    angles = math.radians(sector.left), math.radians(sector.right)
    return np.array([sector.row, sector.column, *angles, sector.near, sector.far])


def _signed(
    numbers: np.ndarray,
    aspect: float,
    box: tuple[float, float, float, float] | None,
    rows: np.ndarray,
    columns: np.ndarray,
) -> np.ndarray:
    """`Sector.inside` on plain arrays, for the search."""
    row, column, left, right, near, far = (float(v) for v in numbers)
    sector = Sector(row, column, math.degrees(left), math.degrees(right), near, far, aspect, box)
    return sector.inside(torch.from_numpy(rows), torch.from_numpy(columns)).numpy()


def _clipping(
    sector: Sector, box: tuple[float, float, float, float]
) -> tuple[float, float, float, float] | None:
    """The box where the fan would reach clearly beyond it, else None."""
    left, right = math.radians(sector.left), math.radians(sector.right)
    bottom = sector.row + sector.far * (
        1.0 if left < 0 < right else math.cos(min(abs(left), abs(right)))
    )
    first = sector.column + sector.far * math.sin(left) / sector.aspect
    last = sector.column + sector.far * math.sin(right) / sector.aspect
    beyond = bottom > box[2] + 1.5 or first < box[1] - 2.5 or last > box[3] + 1.5
    above = sector.row + sector.near * math.cos(max(abs(left), abs(right))) < box[0] - 2.5
    return box if beyond or above else None
