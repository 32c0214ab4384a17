"""Fitting the map between an image's stored values and [-1, 1]."""

from __future__ import annotations

import numpy as np

from augmint.case import IntensityMap

MODALITIES = ("MR", "CT", "ultrasound", "")


def fit_intensity(
    stored: np.ndarray,
    modality: str,
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    window: tuple[float, float] = (-175.0, 275.0),
) -> IntensityMap:
    """The intensity map of one image.

    CT gets a fixed window in Hounsfield units; any other modality is scaled between two
    percentiles of each channel. A channel too flat for that is scaled between its extremes, and
    a constant one between its value and one more. Black stays exactly -1 in ultrasound, where
    the low percentile is the minimum.

    Args:
        stored: (C, *spatial) as stored, finite.
        modality: `MR`, `CT`, `ultrasound`, or empty where unknown.
        percentiles: Low and high, in percent.
        window: Low and high for CT, in Hounsfield units.

    Raises:
        ValueError: if the percentiles or the window do not increase.
    """
    for name, (first, second) in (("percentiles", percentiles), ("window", window)):
        if not first < second:
            raise ValueError(f"{name} must increase, got {first} and {second}")
    if modality == "CT":
        bounds = [(float(window[0]), float(window[1]))] * stored.shape[0]
    else:
        bounds = [_bounds(channel, modality, percentiles) for channel in stored]
    low, high = zip(*bounds)
    return IntensityMap(low=tuple(low), high=tuple(high), dtype=stored.dtype.name)


def _bounds(
    channel: np.ndarray, modality: str, percentiles: tuple[float, float]
) -> tuple[float, float]:
    """Low and high of one channel (*spatial)."""
    least, most = float(channel.min()), float(channel.max())
    low, high = (float(p) for p in np.percentile(channel.astype(np.float64), percentiles))
    if modality == "ultrasound" and channel.dtype.kind == "u":
        low = 0.0
    if not low < high:
        low, high = min(low, least), most
    return (low, high) if low < high else (low, low + max(1.0, abs(low)))
