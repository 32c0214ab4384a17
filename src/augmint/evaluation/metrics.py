"""Overlap and surface distances of one label in one case, with a stated policy for empties.

A surface is the set of foreground voxels with a face neighbour outside the object (the array's
border counts as outside). Distances run between voxel centres, in the unit of `spacing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from augmint.errors import AugmintError

Status = Literal["ok", "both_empty", "false_positive", "missed"]
METRICS = ("dice", "precision", "recall", "hd", "hd95", "assd", "surface_dice")
POLICY = (
    "Empty in reference and prediction: left out of the means and counted. "
    "Found where the reference is empty: Dice, precision and surface Dice 0, recall undefined. "
    "Missed: Dice, precision, recall and surface Dice 0. A false positive or a miss has the "
    "diagonal of the native grid as its distances and counts as a failure."
)


@dataclass(frozen=True)
class LabelScore:
    """The figures of one label; None where a figure is undefined.

    Attributes:
        status: `ok`, `both_empty`, `false_positive` or `missed`.
        dice: 2 |R and P| / (|R| + |P|).
        precision: |R and P| / |P|.
        recall: |R and P| / |R|; undefined for a false positive.
        hd: Hausdorff distance, the larger of the two directed maxima.
        hd95: The larger of the two directed 95th percentiles.
        assd: Mean of all distances of both directions.
        surface_dice: Share of both surfaces within the tolerance of the other.
    """

    status: Status
    dice: float | None = None
    precision: float | None = None
    recall: float | None = None
    hd: float | None = None
    hd95: float | None = None
    assd: float | None = None
    surface_dice: float | None = None


def score_label(
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing: Sequence[float],
    tolerance: float = 2.0,
    slice_axis: int | None = None,
) -> LabelScore:
    """Scores one label.

    With `slice_axis` distances are taken in plane, slice by slice, and pooled: HD is the maximum
    over slices, HD95, ASSD and surface Dice use the distances of all slices together. In a slice
    where only one of the two is empty, every surface pixel of the other has the in-plane diagonal
    as its distance; the diagonal of a missed case is the in-plane one, too.

    Args:
        reference: (*spatial) boolean, 2 or 3 axes.
        prediction: (*spatial) boolean.
        spacing: Voxel size per axis.
        tolerance: Of the surface Dice, in the unit of `spacing`.
        slice_axis: The axis across slices of a volume whose spacing is unknown.

    Raises:
        AugmintError: if the shapes differ or are not 2-D or 3-D.
    """
    reference, prediction = np.asarray(reference, bool), np.asarray(prediction, bool)
    if reference.shape != prediction.shape:
        raise AugmintError(
            f"reference {reference.shape} and prediction {prediction.shape} differ in shape; "
            "resample the prediction onto the grid of the reference"
        )
    if reference.ndim not in (2, 3) or len(spacing) != reference.ndim:
        raise AugmintError(
            f"scores need 2 or 3 axes with one spacing each, got shape {reference.shape} "
            f"and spacing {tuple(spacing)}"
        )
    in_reference, in_prediction = int(reference.sum()), int(prediction.sum())
    diagonal = _diagonal(reference.shape, spacing, slice_axis)
    far = {"hd": diagonal, "hd95": diagonal, "assd": diagonal, "surface_dice": 0.0}
    if not in_reference and not in_prediction:
        return LabelScore("both_empty")
    if not in_reference:
        return LabelScore("false_positive", dice=0.0, precision=0.0, **far)
    if not in_prediction:
        return LabelScore("missed", dice=0.0, precision=0.0, recall=0.0, **far)
    both = int((reference & prediction).sum())
    forth, back = surface_distances(reference, prediction, spacing=spacing, slice_axis=slice_axis)
    pooled = np.concatenate([forth, back])
    return LabelScore(
        "ok",
        dice=2 * both / (in_reference + in_prediction),
        precision=both / in_prediction,
        recall=both / in_reference,
        hd=float(pooled.max()),
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        assd=float(pooled.mean()),
        # A distance equal to the tolerance counts, whatever the last bit of its square root.
        surface_dice=float((pooled <= tolerance * (1 + 1e-9)).mean()),
    )


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
        slice_axis: As in `score_label`.

    Returns:
        From the reference's surface to the prediction's, and back. Where one is empty, the other's
        distances are the diagonal.
    """
    diagonal = _diagonal(reference.shape, spacing, slice_axis)
    if slice_axis is None:
        return _distances(reference, prediction, spacing, diagonal)
    plane = [s for axis, s in enumerate(spacing) if axis != slice_axis]
    pairs = [
        _distances(reference.take(z, slice_axis), prediction.take(z, slice_axis), plane, diagonal)
        for z in range(reference.shape[slice_axis])
    ]
    forth, back = zip(*pairs)
    return np.concatenate(forth), np.concatenate(back)


def _diagonal(shape: Sequence[int], spacing: Sequence[float], slice_axis: int | None) -> float:
    sides = [n * s for axis, (n, s) in enumerate(zip(shape, spacing)) if axis != slice_axis]
    return float(np.linalg.norm(sides))


def _distances(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], diagonal: float
) -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = _crop(reference, prediction)
    edge_r, edge_p = _surface(reference), _surface(prediction)
    return (
        _to_surface(edge_r, edge_p, spacing, diagonal),
        _to_surface(edge_p, edge_r, spacing, diagonal),
    )


def _crop(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both within the bounding box of their union: no surface changes, most voxels go."""
    union = reference | prediction
    window = []
    for axis in range(union.ndim):
        others = tuple(a for a in range(union.ndim) if a != axis)
        hits = np.flatnonzero(union.any(axis=others))
        window.append(slice(hits[0], hits[-1] + 1) if len(hits) else slice(0, 0))
    return reference[tuple(window)], prediction[tuple(window)]


def _surface(mask: np.ndarray) -> np.ndarray:
    """Foreground voxels with a face neighbour outside; what lies beyond the array is outside."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        line, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        kept[1:] &= line[:-1]
        kept[:-1] &= line[1:]
        kept[:1] = False
        kept[-1:] = False
    return mask & ~inside


def _to_surface(
    start: np.ndarray, end: np.ndarray, spacing: Sequence[float], diagonal: float
) -> np.ndarray:
    if not end.any():
        return np.full(int(start.sum()), diagonal)
    if not start.any():
        return np.empty(0)
    # A tree over surface points costs what the surfaces cost; a distance transform costs what the
    # bounding box costs, which one stray speck blows up to the whole volume.
    from scipy.spatial import KDTree

    step = np.asarray(spacing, float)
    return KDTree(np.argwhere(end) * step).query(np.argwhere(start) * step)[0]
