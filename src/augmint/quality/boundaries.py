"""How far the contours of a segmentation move when its image is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from augmint.evaluation.distances import surface, surface_distances


def boundary_movement(
    before: np.ndarray,
    after: np.ndarray,
    labels: Mapping[str, int],
    *,
    spacing: Sequence[float] | None = None,
) -> dict[str, float]:
    """Mean symmetric distance (ASSD) between the contours of two segmentations, plane by plane.

    A contour that is there in one plane and gone in the other has moved to its centre: each of its
    pixels counts with its distance to the centroid, instead of with the diagonal of the grid, one
    of which would outweigh a hundred honest contours.

    Args:
        before: (Z, *spatial) class indices, one plane for each slice.
        after: Likewise.
        labels: Name -> index; the background is left out.
        spacing: Size of a pixel along each spatial axis; 1 by default.

    Returns:
        Label -> the mean over all contour pixels of both, for labels that either shows.
    """
    steps = tuple(spacing or [1.0] * (before.ndim - 1))
    found = {}
    for name, index in labels.items():
        if not index:
            continue
        moved = [
            _moved(one == index, two == index, steps)
            for one, two in zip(before, after, strict=True)
        ]
        distances = np.concatenate(moved) if moved else np.zeros(0)
        if len(distances):
            found[name] = float(distances.mean())
    return found


def _moved(one: np.ndarray, two: np.ndarray, steps: Sequence[float]) -> np.ndarray:
    if one.any() and two.any():
        return np.concatenate(surface_distances(one, two, spacing=steps))
    lost = one if one.any() else two
    if not lost.any():
        return np.zeros(0)
    centre = np.argwhere(lost).mean(0)
    away = (np.argwhere(surface(lost)) - centre) * np.asarray(steps)
    distances: np.ndarray = np.linalg.norm(away, axis=1)
    return distances
