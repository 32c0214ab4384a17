"""Agreement of two measurements of the same patients: bias, limits of agreement, and their plot.

Source: Bland and Altman, Lancet 1986;1:307 and Stat Methods Med Res 1999;8:135. The intervals are
exact for independent, normal differences: Student's t for the bias, the noncentral t for each limit
taken alone (Carkeet, Optom Vis Sci 2015;92:e71), not the approximation of 1999, whose intervals of
the limits lie too near the bias where patients are few. One pair per patient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from augmint.errors import AugmintError


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement of `measured - reference`, in the unit of the values.

    Attributes:
        num: Pairs.
        bias: Mean difference; above 0 where the measurement reads high.
        sd: Standard deviation of the differences (n - 1).
        lower: Lower limit of agreement, bias - 1.96 sd.
        upper: Upper limit of agreement, bias + 1.96 sd.
        bias_interval: Confidence interval of the bias.
        lower_interval: Of the lower limit.
        upper_interval: Of the upper limit.
        confidence: Level of the intervals.
        coverage: Share of differences that the limits are to hold.
    """

    num: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_interval: tuple[float, float]
    lower_interval: tuple[float, float]
    upper_interval: tuple[float, float]
    confidence: float = 0.95
    coverage: float = 0.95


def bland_altman(
    reference: Sequence[float] | np.ndarray,
    measured: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    coverage: float = 0.95,
) -> BlandAltman:
    """Bias and limits of agreement with exact confidence intervals.

    Args:
        reference: (n,) one value per patient.
        measured: (n,) in the same order.
        confidence: Level of the intervals, 0 to 1.
        coverage: Share of differences within the limits, 0 to 1.

    Raises:
        AugmintError: if there are fewer than two pairs, or values are missing or unpaired.
    """
    from scipy.stats import norm

    first, second = _pairs(reference, measured)
    for name, level in (("confidence", confidence), ("coverage", coverage)):
        if not 0 < level < 1:
            raise AugmintError(f"Bland-Altman: {name} must lie between 0 and 1, got {level}")
    differences = second - first
    num, bias = len(differences), float(differences.mean())
    sd = float(differences.std(ddof=1))
    z = float(norm.ppf(0.5 + coverage / 2))
    t, near, far = _quantiles(num, confidence, z)
    error = sd / math.sqrt(num)
    return BlandAltman(
        num=num,
        bias=bias,
        sd=sd,
        lower=bias - z * sd,
        upper=bias + z * sd,
        bias_interval=(bias - t * error, bias + t * error),
        lower_interval=(bias - far * error, bias - near * error),
        upper_interval=(bias + near * error, bias + far * error),
        confidence=confidence,
        coverage=coverage,
    )


def plot_bland_altman(
    reference: Sequence[float] | np.ndarray,
    measured: Sequence[float] | np.ndarray,
    path: Path,
    *,
    quantity: str = "EF",
    unit: str = "%",
    difference_unit: str | None = None,
    names: tuple[str, str] = ("reference", "prediction"),
    confidence: float = 0.95,
) -> BlandAltman:
    """Draws differences over means with bias, limits and their intervals; writes one PNG.

    Args:
        reference: (n,) one value per patient.
        measured: (n,) in the same order.
        path: The file to write, ending in .png.
        quantity: What is measured, for the axes.
        unit: Of the values, for example `%` or `ml`.
        difference_unit: Of the differences; unless told, `percentage points` for `%`, else `unit`.
        names: Of reference and measured, for the axes.
        confidence: Level of the intervals.

    Returns:
        The figures drawn.

    Raises:
        AugmintError: as `bland_altman`, or if the path does not end in .png.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise AugmintError(f"{path}: a Bland-Altman plot is written as .png; name such a file")
    found = bland_altman(reference, measured, confidence=confidence)
    first, second = _pairs(reference, measured)
    between = difference_unit or ("percentage points" if unit == "%" else unit)

    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(0, color="0.75", linewidth=0.8)
    lines = (
        ("bias", found.bias, found.bias_interval, "tab:blue", "-"),
        ("upper limit", found.upper, found.upper_interval, "tab:red", "--"),
        ("lower limit", found.lower, found.lower_interval, "tab:red", "--"),
    )
    for name, value, (low, high), colour, style in lines:
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)
        text = f"{name} {value:.1f} ({low:.1f} to {high:.1f})"
        axes.axhline(value, color=colour, linestyle=style, linewidth=1.2, label=text)
    axes.scatter((first + second) / 2, second - first, s=16, color="0.15", zorder=3)
    axes.set_xlabel(f"Mean of {names[0]} and {names[1]} {quantity} ({unit})")
    axes.set_ylabel(f"{names[1].capitalize()} - {names[0]} {quantity} ({between})")
    axes.set_title(
        f"{quantity}: {found.num} patients, {found.coverage:.0%} limits of agreement, "
        f"{confidence:.0%} intervals",
        fontsize=9,
    )
    figure.legend(fontsize=8, loc="outside lower center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.png")
    try:
        # Without the version of the drawing library the same values give the same bytes.
        figure.savefig(temporary, metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return found


def _pairs(
    reference: Sequence[float] | np.ndarray, measured: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(reference, float), np.asarray(measured, float)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise AugmintError(
            "Bland-Altman needs one reference and one measurement for each of two patients or "
            f"more, got shapes {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise AugmintError(
            "Bland-Altman needs finite values; leave patients without a measurement out and "
            "report how many they are"
        )
    return first, second


@lru_cache(maxsize=256)
def _quantiles(num: int, confidence: float, z: float) -> tuple[float, float, float]:
    """Half width of the bias interval, and both ends of a limit's, in standard errors."""
    from scipy.stats import nct, t

    tail = (1 - confidence) / 2
    freedom, shift = num - 1, z * math.sqrt(num)
    near, far = (float(nct.ppf(q, freedom, shift)) for q in (tail, 1 - tail))
    return float(t.ppf(1 - tail, freedom)), near, far
