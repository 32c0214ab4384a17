"""Measured properties of images, from which words of style are made.

Each is defined so that it follows one change and hardly heeds the others: contrast is measured
where noise is smoothed away, noise is relative to contrast, sharpness is a ratio of two gradients.
Pixels are chosen by rank, so that a change of scale chooses the same. What lies outside the
recorded part, as the black around an ultrasound fan, counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from augmint.errors import AugmintError
from augmint.imaging.gradients import check_images, gaussian, gradient, recorded, shrunk

PROPERTIES = ("brightness", "contrast", "noise", "sharpness")
LEVELS = ("low", "medium", "high")
# Standard deviations in pixels: what tissue is, less its noise; and the two of an edge's width.
SMOOTH = 2.0
FINE, COARSE = 0.7, 2.0
# Quantiles between which contrast lies.
DARK, BRIGHT = 0.1, 0.9
# Of the recorded pixels: those that lie on edges.
STEEPEST = 0.05
# Of a standard normal distribution, the median of absolute values.
MEDIAN_OF_NORMAL = 0.6745
# A contrast of a grey level of 8 bits: below it, noise and sharpness have nothing to refer to.
FLAT = 2 / 255


def measure_properties(images: Tensor) -> dict[str, Tensor]:
    """Brightness, contrast, noise and sharpness of each image.

    - brightness: median of the smoothed image, in [-1, 1].
    - contrast: from its tenth to its ninetieth percentile, 0 to 2.
    - noise: standard deviation of grain of pixel size over contrast, 0 upwards. It is the median of
      the differences across two axes at once, among the brighter half of pixels, since noise is
      cut off at black. Blurring an image blurs its noise away too.
    - sharpness: gradient at 0.7 pixels over that at 2 pixels, along the latter, where it is
      steepest; about 1 for a very blurred image and at most 2.9 for steps. Noise has no
      preferred direction and cancels.

    Args:
        images: (B, C, *spatial) in [-1, 1]; channels are averaged.

    Returns:
        Name to (B,) float64, in the order of `PROPERTIES`; noise and sharpness of an image without
        contrast are 0. Each image's figures depend on it alone.

    Raises:
        AugmintError: for images of another shape, or of which one is black all over.

    Source: Immerkaer, CVIU 1996, and Donoho, IEEE TIT 1995, for noise; Zhuo and Sim, Pattern
    Recognition 2011, for the ratio of gradients.
    """
    check_images(images)
    regions = recorded(images)
    if not bool(regions.flatten(1).any(1).all()):
        black = int((~regions.flatten(1).any(1)).nonzero()[0])
        raise AugmintError(f"image {black} is black all over; it has no style to measure")
    grey = images.double().mean(1, keepdim=True)
    weight = regions.double()
    smooth = gaussian(grey * weight, SMOOTH) / gaussian(weight, SMOOTH).clamp(min=1e-6)
    grain = _grain(grey)
    fine, coarse = (gradient(gaussian(grey, sigma))[:, 0] for sigma in (FINE, COARSE))
    length = coarse.square().sum(1, keepdim=True).sqrt()
    along = (fine * coarse).sum(1, keepdim=True) / length.clamp(min=1e-12)
    inner = shrunk(regions, math.ceil(2 * COARSE))
    rows = [
        _measured(smooth[i], grain[i], along[i], length[i], regions[i], inner[i])
        for i in range(len(images))
    ]
    return {name: torch.stack([row[n] for row in rows]) for n, name in enumerate(PROPERTIES)}


def property_cuts(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Where low ends and high begins: the terciles of a training set.

    Args:
        values: Property to its values, one of each image.

    Raises:
        AugmintError: if a property has no values.
    """
    cuts = {}
    for name, listed in values.items():
        if len(listed) == 0:
            raise AugmintError(f"no image has a measured {name}; measure at least one")
        row = torch.as_tensor(listed, dtype=torch.float64)
        low, high = (float(torch.quantile(row, share)) for share in (1 / 3, 2 / 3))
        cuts[name] = (low, high)
    return cuts


def style_word(name: str, value: float, cuts: Sequence[float]) -> str:
    """`low contrast`, `medium contrast` or `high contrast`.

    Args:
        name: The property.
        value: Its measured value.
        cuts: Two numbers; below the first is low, above the second high.

    Raises:
        AugmintError: if the cuts are not two numbers that do not fall, or the value is no number.
    """
    if len(cuts) != len(LEVELS) - 1 or not cuts[0] <= cuts[1]:
        raise AugmintError(f"{name} is cut by two rising numbers, got {list(cuts)}; measure again")
    if not math.isfinite(value):
        raise AugmintError(f"a measured {name} of {value} is no number; measure it again")
    level = LEVELS[int(value >= cuts[0]) + int(value > cuts[1])]
    return f"{level} {name}"


def style_words(values: Mapping[str, float], cuts: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """The word of each property: `{"contrast": "low contrast", ...}`, in the order of the cuts.

    Raises:
        AugmintError: if a property was not measured, or a cut is wrong.
    """
    missing = [name for name in cuts if name not in values]
    if missing:
        raise AugmintError(f"no {', '.join(missing)} was measured; measure all of {list(cuts)}")
    return {name: style_word(name, values[name], pair) for name, pair in cuts.items()}


def _grain(grey: Tensor) -> Tensor:
    """Second differences across the last two axes longer than 2, of the noise's deviation.

    Lines, ramps and curved shading give next to nothing.
    """
    axes = [axis for axis in range(2, grey.ndim) if grey.shape[axis] > 2][-2:]
    for axis in axes:
        n = grey.shape[axis]
        ahead, behind = (
            grey.index_select(axis, (torch.arange(n, device=grey.device) + step).clamp(0, n - 1))
            for step in (1, -1)
        )
        # (-1, 2, -1) over its length: white noise keeps its deviation.
        grey = (2 * grey - ahead - behind) / math.sqrt(6)
    return grey


def _measured(
    smooth: Tensor, grain: Tensor, along: Tensor, length: Tensor, region: Tensor, inner: Tensor
) -> Tensor:
    """The properties of one image, (4,)."""
    # A region without an inner part is measured whole.
    inner = inner if bool(inner.any()) else region
    levels = smooth[region]
    brightness, dark, bright = (_quantile(levels, q) for q in (0.5, DARK, BRIGHT))
    contrast = bright - dark
    if contrast < FLAT:
        none = torch.zeros_like(contrast)
        return torch.stack([brightness, contrast, none, none])
    lit = inner & (smooth >= smooth[inner].median())
    # Edges have second differences of their own.
    plain = lit & (length <= length[lit].median())
    noise = grain[plain].abs().median() / MEDIAN_OF_NORMAL / contrast
    steep = inner & (length >= _quantile(length[inner], 1 - STEEPEST))
    sharpness = along[steep].sum() / length[steep].sum().clamp(min=1e-12)
    return torch.stack([brightness, contrast, noise, sharpness])


def _quantile(values: Tensor, share: float) -> Tensor:
    """The value of that rank; torch.quantile refuses more than 16 million."""
    return values.kthvalue(1 + round(share * (len(values) - 1))).values
