"""Distances between the surfaces of two masks: exact, and fast whatever the masks look like.

A surface is the set of foreground voxels with a face neighbour outside the object (the array's
border counts as outside). Distances run between voxel centres, in the unit of `spacing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

# Voxels around a surface voxel that are looked at one by one before a search is worth its start.
REACH = 2
# What a voxel costs in a distance transform over what a pair of point and row costs in a search.
TRANSFORM_COST = 60
# Entries of the table of rows, and of the pairs compared at once: they bound the memory.
TABLE, PAIRS = 2**22, 2**16


def surface_distances(
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing: Sequence[float],
    slice_axis: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each surface voxel of one object to the surface of the other.

    Args:
        reference: (*spatial) boolean.
        prediction: (*spatial) boolean.
        spacing: Voxel size per axis.
        slice_axis: Take distances in plane, across this axis slice by slice; None: in space.

    Returns:
        From the reference's surface to the prediction's, and back. Where one is empty, the other's
        distances are the diagonal of the grid, with `slice_axis` that of the plane.
    """
    diagonal = diagonal_of(reference.shape, spacing, slice_axis)
    if slice_axis is None:
        return _distances(reference, prediction, np.asarray(spacing, float), diagonal)
    plane = np.array([s for axis, s in enumerate(spacing) if axis != slice_axis], float)
    pairs = [
        _distances(reference.take(z, slice_axis), prediction.take(z, slice_axis), plane, diagonal)
        for z in range(reference.shape[slice_axis])
    ]
    forth, back = zip(*pairs)
    return np.concatenate(forth), np.concatenate(back)


def diagonal_of(shape: Sequence[int], spacing: Sequence[float], slice_axis: int | None) -> float:
    """The diagonal of a grid, or of its plane where distances are taken slice by slice."""
    sides = [n * s for axis, (n, s) in enumerate(zip(shape, spacing)) if axis != slice_axis]
    return float(np.linalg.norm(sides))


def surface(mask: np.ndarray) -> np.ndarray:
    """Foreground voxels with a face neighbour outside; what lies beyond the array is outside."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        line, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        kept[1:] &= line[:-1]
        kept[:-1] &= line[1:]
        kept[:1] = False
        kept[-1:] = False
    return mask & ~inside


def crop(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both within the bounding box of their union: no surface changes, most voxels go."""
    for axis in range(reference.ndim):
        others = tuple(a for a in range(reference.ndim) if a != axis)
        hits = np.flatnonzero(reference.any(axis=others) | prediction.any(axis=others))
        window = [slice(None)] * reference.ndim
        window[axis] = slice(hits[0], hits[-1] + 1) if len(hits) else slice(0, 0)
        reference, prediction = reference[tuple(window)], prediction[tuple(window)]
    return reference, prediction


def _distances(
    reference: np.ndarray, prediction: np.ndarray, step: np.ndarray, diagonal: float
) -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = crop(reference, prediction)
    edge_r, edge_p = surface(reference), surface(prediction)
    if not edge_r.any() or not edge_p.any():
        return np.full(int(edge_r.sum()), diagonal), np.full(int(edge_p.sum()), diagonal)
    return _to_surface(edge_r, edge_p, step), _to_surface(edge_p, edge_r, step)


def _to_surface(start: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The distance of each voxel of `start` to the nearest of `end`.

    Most points lie near the other surface: their neighbourhoods answer. The others are searched
    for row by row, or, where they are many, looked up in a distance transform. Neither a k-d tree
    (slow far from smooth surfaces) nor a transform alone (slow where a stray speck blows up the
    bounding box) is fast on all masks.
    """
    points = np.argwhere(start)
    distances = _near(points, end, step)
    far = np.flatnonzero(np.isinf(distances))
    if len(far):
        axis = int(np.argmax(end.shape))
        rows = int(np.count_nonzero(end.any(axis=axis)))
        few = len(far) * rows < TRANSFORM_COST * end.size
        points = points[far]
        distances[far] = _by_rows(points, end, step, axis) if few else _by_map(points, end, step)
    return distances


def _near(points: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Distances to the nearest voxel of `end` within reach; infinite beyond."""
    offsets = np.array(list(product(range(-REACH, REACH + 1), repeat=end.ndim)))
    lengths = np.linalg.norm(offsets * step, axis=1)
    # A voxel outside the neighbourhood is at least this far.
    complete = lengths < (REACH + 1) * step.min()
    order = np.argsort(lengths[complete], kind="stable")
    offsets, lengths = offsets[complete][order], lengths[complete][order]

    padded = np.pad(end, REACH)
    strides = np.cumprod((1, *padded.shape[:0:-1]))[::-1]
    flat, at = padded.ravel(), (points + REACH) @ strides
    distances = np.full(len(points), np.inf)
    left = np.arange(len(points))
    for jump, length in zip(offsets @ strides, lengths):
        hit = flat[at + jump]
        distances[left[hit]] = length
        left, at = left[~hit], at[~hit]
        if not len(left):
            break
    return distances


def _by_rows(points: np.ndarray, end: np.ndarray, step: np.ndarray, axis: int) -> np.ndarray:
    """Nearest distances over the rows of `end` along one axis that hold anything.

    The square of a distance is that between the rows plus that along the nearest row to its
    nearest voxel, which is tabulated first.
    """
    across = [a for a in range(end.ndim) if a != axis]
    lines = np.moveaxis(end, axis, 0)
    rows = np.argwhere(lines.any(axis=0))
    # In the order of the table, so that what is read from it stays in the cache.
    order = np.argsort(points[:, axis], kind="stable")
    ours, places = (points[:, across] * step[across])[order], points[order, axis]

    best = np.full(len(points), np.inf)
    size = max(1, TABLE // len(lines))
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        # Fancy indexing leaves the table transposed in memory, and reading it then takes ages.
        gaps = (_gaps(np.ascontiguousarray(lines[(slice(None), *part.T)])) * step[axis]) ** 2
        theirs = part * step[across]
        # The square of a distance but for a term of the point alone.
        fixed, mixed = gaps + (theirs**2).sum(axis=1), np.ascontiguousarray(-2 * theirs.T)
        count = max(1, PAIRS // len(part))
        for first in range(0, len(points), count):
            some = slice(first, first + count)
            rank = ours[some] @ mixed
            rank += fixed[places[some]]
            winner = rank.argmin(axis=1)
            # Computed afresh: differences of large squares have lost their last digits.
            squared = ((ours[some] - theirs[winner]) ** 2).sum(axis=1) + gaps[places[some], winner]
            best[some] = np.minimum(best[some], squared)
    distances = np.empty(len(points))
    distances[order] = np.sqrt(best)
    return distances


def _gaps(lines: np.ndarray) -> np.ndarray:
    """Voxels along axis 0 to the nearest one that is set; each column holds one at least."""
    length = len(lines)
    at = np.arange(length, dtype=np.int32)[:, None]
    before = np.maximum.accumulate(np.where(lines, at, np.int32(-2 * length)), axis=0)
    after = np.minimum.accumulate(np.where(lines, at, np.int32(3 * length))[::-1], axis=0)[::-1]
    return np.minimum(at - before, after - at)


def _by_map(points: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Nearest distances from a transform of the whole box."""
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(
        ~end, sampling=step, return_distances=False, return_indices=True
    )
    there = nearest[(slice(None), *points.T)].T
    return np.linalg.norm((points - there) * step, axis=1)
