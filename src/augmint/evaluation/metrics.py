"""Overlap and surface distances of one label in one case, with a stated policy for empties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from augmint.errors import AugmintError
from augmint.evaluation.distances import crop, diagonal_of, surface_distances

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


def dice(reference: np.ndarray, prediction: np.ndarray) -> float | None:
    """2 |A and B| / (|A| + |B|) of two boolean masks; None where both are empty."""
    total = np.count_nonzero(reference) + np.count_nonzero(prediction)
    return 2 * np.count_nonzero(reference & prediction) / total if total else None


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
        AugmintError: if the shapes differ or are not 2-D or 3-D, if a mask holds anything but 0
            and 1, or if spacing, tolerance or slice axis make no sense.
    """
    reference, prediction = _as_mask(reference, "reference"), _as_mask(prediction, "prediction")
    if reference.shape != prediction.shape:
        raise AugmintError(
            f"reference {reference.shape} and prediction {prediction.shape} differ in shape; "
            "resample the prediction onto the grid of the reference"
        )
    _check_measures(reference.shape, spacing, tolerance, slice_axis)
    diagonal = diagonal_of(reference.shape, spacing, slice_axis)
    if slice_axis is None:
        reference, prediction = crop(reference, prediction)
    in_reference, in_prediction = np.count_nonzero(reference), np.count_nonzero(prediction)
    far = {"hd": diagonal, "hd95": diagonal, "assd": diagonal, "surface_dice": 0.0}
    if not in_reference and not in_prediction:
        return LabelScore("both_empty")
    if not in_reference:
        return LabelScore("false_positive", dice=0.0, precision=0.0, **far)
    if not in_prediction:
        return LabelScore("missed", dice=0.0, precision=0.0, recall=0.0, **far)
    both = np.count_nonzero(reference & prediction)
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


def _as_mask(mask: np.ndarray, what: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask
    binary = mask.astype(bool)
    if not (mask == binary).all():
        raise AugmintError(
            f"{what}: a mask of one label must be boolean or hold 0 and 1, got values such as "
            f"{mask[mask != binary].flat[0]}; compare it with the label's number first"
        )
    return binary


def _check_measures(
    shape: Sequence[int], spacing: Sequence[float], tolerance: float, slice_axis: int | None
) -> None:
    dims = len(shape)
    if dims not in (2, 3) or len(spacing) != dims:
        raise AugmintError(
            f"scores need 2 or 3 axes with one spacing each, got shape {tuple(shape)} "
            f"and spacing {tuple(spacing)}"
        )
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise AugmintError(f"spacing must be positive, got {tuple(spacing)}; correct the header")
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise AugmintError(f"the tolerance of the surface Dice must be 0 or more, got {tolerance}")
    if slice_axis is not None and (dims != 3 or slice_axis not in range(3)):
        raise AugmintError(
            f"slice axis {slice_axis} of shape {tuple(shape)}: slices need a volume and one of its "
            "axes, 0, 1 or 2"
        )
