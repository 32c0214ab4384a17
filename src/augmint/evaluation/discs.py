"""LV volume from apical frames by the biplane method of discs (modified Simpson).

The long axis runs from the middle of the mitral annulus to the apex, 20 discs of equal height lie
across it, disc i is an ellipse with the i-th diameters of both views, and the height is a twentieth
of the longer of the two axes, each phase by its own. Source: Schiller et al., J Am Soc Echocardiogr
1989;2:358, as kept by Lang et al., J Am Soc Echocardiogr 2015;28:1. A disc's diameter is the mask's
area within the disc over its height, so that neither a slanting edge nor a coarse pixel decides it.
What lies beyond the annulus, which a slanting mitral plane leaves, belongs to no disc.

Lengths are in the unit of the spacing, volumes in its cube: 1000 mm^3 are 1 ml.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from augmint.errors import AugmintError

NUM_DISCS = 20


@dataclass(frozen=True)
class LongAxis:
    """The long axis of a cavity in one plane, in the unit of the spacing, in array order.

    Attributes:
        base: Middle of the mitral annulus, (2,).
        apex: The point of the cavity farthest from it, (2,).
    """

    base: tuple[float, float]
    apex: tuple[float, float]

    @property
    def length(self) -> float:
        """Distance from base to apex."""
        return math.dist(self.base, self.apex)


@dataclass(frozen=True)
class ApicalView:
    """What the method of discs needs of one view at one phase.

    Attributes:
        length: Of the long axis.
        diameters: Of the discs, from base to apex, in the unit of `length`.
        apart: Share of the mask outside its largest connected part, which alone is measured.
    """

    length: float
    diameters: tuple[float, ...]
    apart: float = 0.0


def find_long_axis(
    cavity: np.ndarray,
    *,
    spacing: Sequence[float],
    atrium: np.ndarray | None = None,
    myocardium: np.ndarray | None = None,
) -> LongAxis:
    """The axis from the middle of the mitral annulus to the apex of an apical LV cavity.

    The hinge points of the annulus are the ends of the cavity's edge that touches the atrium;
    without an atrium, of its longest edge free of myocardium; without either, the two corners of
    the wider end of the cavity.

    Args:
        cavity: (H, W) boolean, one connected part.
        spacing: Pixel size per axis.
        atrium: (H, W) boolean left atrium.
        myocardium: (H, W) boolean LV wall; not used where the atrium is given.

    Raises:
        AugmintError: if the cavity is empty or too small, or its base is not found.
    """
    cavity, step = _plane(cavity, spacing)
    points = np.argwhere(cavity) * step
    if len(points) < 3:
        what = "empty" if not len(points) else f"of {len(points)} pixel(s)"
        raise AugmintError(f"the LV cavity mask is {what}, so it has no long axis; check the mask")
    if atrium is None and myocardium is None:
        hinges = _corners(points)
    else:
        hinges = _valve_ends(cavity, step, atrium, myocardium)
    base = np.mean(hinges, axis=0)
    apex = points[((points - base) ** 2).sum(1).argmax()]
    along = apex - base
    if not np.linalg.norm(along) > 0:
        raise AugmintError("the LV cavity mask has no length; check the mask")
    # Both ends are centres of pixels inside the mask, half a pixel short of its edge.
    along = along / np.linalg.norm(along)
    half = along * np.linalg.norm(along * step) / 2
    base, apex = base - half, apex + half
    return LongAxis((float(base[0]), float(base[1])), (float(apex[0]), float(apex[1])))


def measure_view(
    cavity: np.ndarray,
    *,
    spacing: Sequence[float],
    atrium: np.ndarray | None = None,
    myocardium: np.ndarray | None = None,
    num_discs: int = NUM_DISCS,
) -> ApicalView:
    """Length and disc diameters of an apical LV cavity; of several parts the largest.

    Args:
        cavity: (H, W) boolean.
        spacing: Pixel size per axis, in mm or any one unit.
        atrium: As in `find_long_axis`.
        myocardium: As in `find_long_axis`.
        num_discs: 20 by convention.

    Raises:
        AugmintError: if the cavity is empty or too small, or its base is not found.
    """
    from scipy.ndimage import label

    cavity, step = _plane(cavity, spacing)
    parts, _ = label(cavity)
    sizes = np.bincount(parts.ravel())[1:]
    part = parts == 1 + sizes.argmax() if len(sizes) else cavity
    axis = find_long_axis(part, spacing=spacing, atrium=atrium, myocardium=myocardium)
    base = np.array(axis.base)
    along = (np.array(axis.apex) - base) / axis.length
    height = axis.length / num_discs
    # Pixels are split until a part is a sixteenth of a disc, so that area goes to its own disc.
    split = math.ceil(16 * step.max() / height)
    within = ((np.arange(split) + 0.5) / split - 0.5)[:, None] * step * along
    centres = (np.argwhere(part) * step - base) @ along
    down, across = within[:, 0], within[:, 1]
    places = centres[:, None, None] + down[:, None] + across[None, :]
    counts, _ = np.histogram(places, bins=num_discs, range=(0.0, axis.length))
    areas = counts * float(step.prod()) / split**2
    apart = 1 - part.sum() / cavity.sum()
    return ApicalView(axis.length, tuple(float(a) for a in areas / height), float(apart))


def biplane_volume(
    two_chamber: ApicalView, four_chamber: ApicalView, *, length: float | None = None
) -> float:
    """Volume by the biplane method of discs, pi / 4 * sum of a_i b_i * L / n.

    Args:
        two_chamber: Measured in the apical two-chamber view.
        four_chamber: Measured in the apical four-chamber view, in the same unit.
        length: L; the longer of the two axes unless told.

    Returns:
        In the cube of the views' unit: 1000 mm^3 are 1 ml.

    Raises:
        AugmintError: if the views have different numbers of discs.
    """
    a, b = np.array(two_chamber.diameters), np.array(four_chamber.diameters)
    if len(a) != len(b):
        raise AugmintError(
            f"discs are paired between views, got {len(a)} and {len(b)}; measure both alike"
        )
    chosen = max(two_chamber.length, four_chamber.length) if length is None else length
    return float(np.pi / 4 * np.sum(a * b) * chosen / len(a))


def single_plane_volume(view: ApicalView) -> float:
    """Volume by discs of one view, each a circle; in the cube of the view's unit.

    For a patient with one view only: a cavity that is wider in the other view is misjudged.
    """
    return biplane_volume(view, view)


def _plane(cavity: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    cavity, step = np.asarray(cavity, bool), np.asarray(spacing, float)
    if cavity.ndim != 2 or step.shape != (2,) or not (np.isfinite(step) & (step > 0)).all():
        raise AugmintError(
            f"discs need a frame and two spacings above 0, got shape {cavity.shape} and "
            f"{tuple(spacing)}"
        )
    return cavity, step


def _corners(points: np.ndarray) -> np.ndarray:
    """The two corners (2, 2) of the wider end of a cloud of points, seen along its long axis."""
    centre = points.mean(axis=0)
    toward = np.linalg.eigh(np.cov((points - centre).T))[1][:, -1]
    along = (points - centre) @ toward
    across = (points - centre) @ np.array([-toward[1], toward[0]])
    edge = 0.15 * np.ptp(along)
    ends = (along > along.max() - edge, along < along.min() + edge)
    if np.ptp(across[ends[1]]) > np.ptp(across[ends[0]]):
        along = -along
    corners = points[[(along + across).argmax(), (along - across).argmax()]]
    # Once more along the axis found: a slanting base turns the axis of inertia.
    base = corners.mean(axis=0)
    toward = base - points[((points - base) ** 2).sum(1).argmax()]
    toward = toward / max(np.linalg.norm(toward), 1e-12)
    along, across = points @ toward, points @ np.array([-toward[1], toward[0]])
    return points[[(along + across).argmax(), (along - across).argmax()]]


def _valve_ends(
    cavity: np.ndarray,
    step: np.ndarray,
    atrium: np.ndarray | None,
    myocardium: np.ndarray | None,
) -> np.ndarray:
    """The two ends (2, 2) of the cavity's edge that faces the atrium."""
    from scipy.ndimage import binary_erosion, distance_transform_edt, label
    from scipy.spatial.distance import pdist, squareform

    name, other = ("atrium", atrium) if atrium is not None else ("myocardium", myocardium)
    other = np.asarray(other, bool)
    if other.shape != cavity.shape:
        raise AugmintError(
            f"the {name} {other.shape} and the cavity {cavity.shape} differ in shape"
        )
    gap = distance_transform_edt(~other, sampling=step) if other.any() else np.inf
    near = gap <= 2 * step.max()
    edge = cavity & ~binary_erosion(cavity)
    parts, found = label(edge & (near if atrium is not None else ~near), np.ones((3, 3)))
    if not found or not other.any():
        why = "does not touch" if atrium is not None else "leaves no opening in"
        raise AugmintError(f"the {name} {why} the LV cavity; find the base without it")
    ends = np.argwhere(parts == 1 + np.bincount(parts.ravel())[1:].argmax()) * step
    if len(ends) == 1:
        return np.repeat(ends, 2, axis=0)
    distances = squareform(pdist(ends))
    return ends[list(np.unravel_index(distances.argmax(), distances.shape))]
