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
from typing import Any

import numpy as np

from augmint.errors import AugmintError

# Below the first no limits are drawn or told; below the second they are called rough: the interval
# of each limit is then 2.8 standard deviations wide or more, the limits lie 3.9 apart.
LEAST_FOR_LIMITS = 3
FEW_FOR_LIMITS = 10


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


def bland_altman_of_fits(
    reference: Sequence[float] | np.ndarray, measured: np.ndarray, *, confidence: float = 0.95
) -> BlandAltman:
    """Mean over several trained models, each compared with the same reference by itself.

    The intervals, means too, are those of one model for other patients. They hold the mean limits
    at least as often as they say, since models that err apart vary less in their mean than alone.
    They say nothing of other trainings.

    Args:
        reference: (n,) one value per patient.
        measured: (fits, n) in the same order.
        confidence: Level of the intervals, 0 to 1.

    Raises:
        AugmintError: as `bland_altman`.
    """
    each = [bland_altman(reference, row, confidence=confidence) for row in np.atleast_2d(measured)]

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in each]))

    def interval(name: str) -> tuple[float, float]:
        low, high = np.mean([getattr(one, name) for one in each], axis=0)
        return float(low), float(high)

    return BlandAltman(
        each[0].num, mean("bias"), mean("sd"), mean("lower"), mean("upper"),
        interval("bias_interval"), interval("lower_interval"), interval("upper_interval"),
        confidence, each[0].coverage,
    )  # fmt: skip


def remark_on_limits(num: int) -> str:
    """What to know of limits of agreement of so many patients; empty where they are enough."""
    patients = f"{num} patient{'s' * (num != 1)}"
    if num < LEAST_FOR_LIMITS:
        return f"{patients}: too few patients for limits of agreement"
    return f"{patients}: limits are rough" if num < FEW_FOR_LIMITS else ""


def draw_bland_altman(
    axes: Any,
    found: BlandAltman,
    across: np.ndarray,
    differences: np.ndarray,
    *,
    spread: np.ndarray | None = None,
    least: float = 1.0,
) -> None:
    """Draws a point per patient with bias, limits and their intervals into axes of matplotlib.

    Of fewer than three patients the bias alone is drawn.

    Args:
        axes: Where to.
        found: The lines.
        across: (n,) means of reference and measurement.
        differences: (n,) measurement less reference.
        spread: (2, n) lowest and highest difference of each patient, drawn as a bar.
        least: The axes reach so far to either side of their middle at least, in their units.
    """
    axes.axhline(0, color="0.75", linewidth=0.8)
    # Dots lie in the gaps of the dashes and both on a wider line, so that all three are seen where
    # they are one.
    lines: tuple[tuple[Any, ...], ...] = (
        ("bias", found.bias, found.bias_interval, "tab:blue", "-", 2.4),
        ("upper limit", found.upper, found.upper_interval, "tab:red", (0, (3.5, 2.5)), 1.4),
        ("lower limit", found.lower, found.lower_interval, "black", (1.9, (1.3, 4.7)), 1.4),
    )
    for name, value, (low, high), colour, style, width in lines:
        if name != "bias" and found.num < LEAST_FOR_LIMITS:
            continue
        axes.axhspan(low, high, color=colour, alpha=0.1, linewidth=0)
        text = f"{name} {_tenths(value)} ({_tenths(low)} to {_tenths(high)})"
        axes.axhline(value, color=colour, linestyle=style, linewidth=width, label=text)
    if spread is not None:
        axes.vlines(across, *spread, color="0.6", linewidth=0.8, zorder=2)
    axes.scatter(across, differences, s=16, color="0.15", zorder=3)
    for ends, setter in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        if ends[1] - ends[0] < 2 * least:
            middle = (ends[0] + ends[1]) / 2
            setter(middle - least, middle + least)


def _tenths(value: float) -> str:
    # Adding 0 turns -0.0, which would be printed with its sign, into 0.0.
    return f"{round(value, 1) + 0.0:.1f}"


@dataclass(frozen=True)
class Panel:
    """One quantity to draw.

    Attributes:
        reference: (n,) one value per patient.
        measured: (n,) in the same order.
        quantity: What is measured, for the axes.
        unit: Of the values, for example `%` or `ml`.
        difference_unit: Of the differences; unless told, `percentage points` for `%`, else `unit`.
    """

    reference: Sequence[float] | np.ndarray
    measured: Sequence[float] | np.ndarray
    quantity: str = "EF"
    unit: str = "%"
    difference_unit: str | None = None

    @property
    def between(self) -> str:
        """The unit of the differences."""
        return self.difference_unit or ("percentage points" if self.unit == "%" else self.unit)


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
    panel = Panel(reference, measured, quantity, unit, difference_unit)
    return plot_panels([panel], path, names=names, confidence=confidence)[0]


def plot_panels(
    panels: Sequence[Panel],
    path: Path,
    *,
    names: tuple[str, str] = ("reference", "prediction"),
    confidence: float = 0.95,
) -> tuple[BlandAltman, ...]:
    """Draws several quantities side by side; the rest as `plot_bland_altman`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise AugmintError(f"{path}: a Bland-Altman plot is written as .png; name such a file")
    figure = Figure(figsize=(6.4 * len(panels), 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(1, len(panels), squeeze=False)[0]
    drawn = []
    for part, panel in zip(parts, panels):
        found = bland_altman(panel.reference, panel.measured, confidence=confidence)
        first, second = _pairs(panel.reference, panel.measured)
        axes = part.subplots()
        draw_bland_altman(axes, found, (first + second) / 2, second - first)
        axes.set_xlabel(f"Mean of {names[0]} and {names[1]} {panel.quantity} ({panel.unit})")
        axes.set_ylabel(f"{names[1].capitalize()} - {names[0]} {panel.quantity} ({panel.between})")
        share = f"{found.coverage:.0%} limits of agreement, {confidence:.0%} intervals"
        if remark := remark_on_limits(found.num):
            share = f"{remark}\n{share}" if found.num >= LEAST_FOR_LIMITS else remark
        else:
            share = f"{found.num} patients, {share}"
        axes.set_title(f"{panel.quantity}: {share}", fontsize=9)
        part.legend(fontsize=8, loc="outside lower center", frameon=False)
        drawn.append(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.png")
    try:
        # Without the version of the drawing library the same values give the same bytes.
        figure.savefig(temporary, metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return tuple(drawn)


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
