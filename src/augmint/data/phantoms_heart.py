"""The heart of a cine MR phantom: its shape in mm, its walls on a plane, and its labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from augmint.data.phantoms_parts import ellipse

MR_LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@dataclass(frozen=True)
class Heart:
    """A ventricle pair in mm at one phase; angles in rad, x to the right, y down.

    Attributes:
        radius: Of the LV cavity at its widest.
        length: Of the LV cavity, base to apex.
        wall: Thickness of the LV wall.
        base: Position of the base along the stack (0 at end-diastole).
        toward_rv: Direction from the LV to the RV.
        rv_depth: How far the RV reaches beyond the septum.
        rv_width: RV width relative to the LV.
        rv_skew: Shift of the RV along the septum relative to the LV radius.
        rv_end: Where the RV ends along the LV, 0 base to 1 apex.
        waves: Amplitude and phase of the 2nd and 3rd harmonic of the LV outline.
        uneven: Relative excess of the septal wall.
        gap: Opening of the myocardium at the base, half width in rad (0 for a closed ring).
        drift: Shift of the LV from base to apex.
        papillary: Radius of the papillary muscles.
    """

    radius: float
    length: float
    wall: float
    base: float
    toward_rv: float
    rv_depth: float
    rv_width: float
    rv_skew: float
    rv_end: float
    waves: tuple[tuple[float, float], tuple[float, float]]
    uneven: float
    gap: float
    drift: tuple[float, float]
    papillary: float

    def level(self, z: float) -> float:
        """Position along the LV of a plane at z mm: 0 base, 1 apex."""
        return (z - self.base) / self.length

    def cavity_radius(self, z: float) -> float:
        """Mean LV radius at z mm; 0 beyond the apex, the basal one above the base."""
        s = float(np.clip(self.level(z), 0, 1))
        return self.radius * np.sqrt(1 - s**2.3) * (1 - 0.1 * (1 - s) ** 4)

    def outer_radius(self, z: float) -> float:
        """Mean radius of the epicardium at z mm."""
        s = float(np.clip((z - self.base) / (self.length + 0.8 * self.wall), 0, 1))
        thick = self.wall * (1 - 0.25 * s**3)
        return max((self.radius + thick) * np.sqrt(1 - s**2.5) * (1 - 0.08 * (1 - s) ** 4), 0.0)

    def has_cavity(self, z: float) -> bool:
        """Whether a reader would outline the LV on this plane."""
        return self.level(z) >= 0 and self.cavity_radius(z) > 4.0

    def area(self, z: float) -> float:
        """LV area in mm2 at z mm: the closed form of half the integral of the squared radius."""
        if not self.has_cavity(z):
            return 0.0
        (a2, _), (a3, _) = self.waves
        return np.pi * self.cavity_radius(z) ** 2 * (1 + a2**2 / 2 + a3**2 / 2)


DIAGNOSES = {
    # radius, wall, ejection fraction
    "normal": ((22, 27), (7.5, 10), (0.54, 0.70)),
    "dilated": ((29, 37), (6.5, 9), (0.15, 0.36)),
    "hypertrophic": ((19, 24), (13, 19), (0.60, 0.76)),
    "infarct": ((25, 31), (7, 9.5), (0.30, 0.48)),
    "abnormal_rv": ((20, 26), (7, 10), (0.48, 0.64)),
}


def draw_heart(rng: np.random.Generator) -> tuple[Heart, Heart, str]:
    """A random heart at end-diastole and end-systole, and its diagnosis."""
    u = rng.uniform
    diagnosis = str(rng.choice(list(DIAGNOSES)))
    radius, wall, ef = (u(*bounds) for bounds in DIAGNOSES[diagnosis])
    big_rv = diagnosis == "abnormal_rv"
    rest = Heart(
        radius=radius,
        length=u(70, 88) + 0.4 * (radius - 24),
        wall=wall,
        base=0.0,
        toward_rv=float(np.deg2rad(u(-110, -48))),
        rv_depth=u(34, 46) if big_rv else u(23, 34),
        rv_width=u(1.15, 1.35) if big_rv else u(1.0, 1.18),
        rv_skew=u(0.05, 0.35),
        rv_end=u(0.75, 0.98),
        waves=((u(0.01, 0.08), u(0, 6.3)), (u(0, 0.035), u(0, 6.3))),
        uneven=u(0.2, 0.5) if diagnosis == "hypertrophic" else u(-0.05, 0.15),
        gap=u(0.5, 1.0) if rng.random() < 0.45 else 0.0,
        drift=(u(-18, 2), u(-14, 6)),
        papillary=u(3.2, 5.0),
    )
    shorter = 1 - 0.2 * ef
    narrower = float(np.sqrt((1 - ef) / shorter))
    # The wall keeps its volume: (outer^2 - inner^2) * length is the same at both phases.
    ring = ((radius + wall) ** 2 - radius**2) / shorter
    inner = radius * narrower
    squeezed = replace(
        rest,
        radius=inner,
        length=rest.length * shorter,
        wall=float(np.sqrt(inner**2 + 0.93 * ring)) - inner,
        base=rest.length * (1 - shorter),
        rv_depth=rest.rv_depth * u(0.55, 0.8),
        rv_width=rest.rv_width * 0.95,
        papillary=rest.papillary * 1.1,
    )
    return rest, squeezed, diagnosis


@dataclass(frozen=True)
class Outline:
    """Pixels about the LV's centre on one plane, with the two walls' radii at their angles."""

    rho: np.ndarray
    theta: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    rv: np.ndarray


def outline_heart(
    heart: Heart, x: np.ndarray, y: np.ndarray, z: float, bend: tuple[np.ndarray, np.ndarray]
) -> Outline:
    """Distances of every pixel to the walls of the heart at z mm."""
    s = heart.level(z)
    dx, dy = x - heart.drift[0] * (s - 0.4), y - heart.drift[1] * (s - 0.4)
    rho, theta = np.hypot(dx, dy), np.arctan2(dy, dx)
    (a2, p2), (a3, p3) = heart.waves
    shape = 1 + a2 * np.cos(2 * (theta - p2)) + a3 * np.cos(3 * (theta - p3))
    septal = 0.5 + 0.5 * np.cos(theta - heart.toward_rv)
    r_in, r_out = float(heart.cavity_radius(z)), float(heart.outer_radius(z))
    thick = (r_out - r_in) * (1 + heart.uneven * (septal - 0.4))
    inner = r_in * shape
    outer = inner + thick

    grow = float(np.sqrt(1 - np.clip(s / heart.rv_end, 0, 1) ** 2.2))
    wide = 1 + 0.14 * float(np.clip(1 - s / 0.3, 0, 1))
    reach = heart.rv_depth * grow * wide
    along = np.array([np.cos(heart.toward_rv), np.sin(heart.toward_rv)])
    across = np.array([-along[1], along[0]])
    # The near end of the RV's ellipse hides inside the LV, so what shows is a crescent.
    near = 0.2 * r_out
    middle = along * (r_out + reach - near) / 2 + across * heart.rv_skew * r_out * grow
    centre = (float(middle[0]), float(middle[1]))
    semi = ((r_out + reach + near) / 2 + 1, r_out * heart.rv_width * (0.5 + 0.5 * grow) * wide + 1)
    free = ellipse(dx + bend[0], dy + bend[1], centre, semi, heart.toward_rv + 0.15)
    rv = np.maximum(free, outer + 0.4 - rho) if grow > 0.15 else np.full_like(rho, 99.0)
    return Outline(rho, theta, inner, outer, rv)


def label_plane(heart: Heart, p: Outline, z: float) -> np.ndarray:
    """Labels of one plane, as a reader of ACDC draws them."""
    mask = np.zeros(p.rho.shape, np.uint8)
    s = heart.level(z)
    if -0.12 < s < heart.rv_end and (p.rv < 0).sum() > 12:
        mask[p.rv < 0] = MR_LABELS["RV"]
    if not heart.has_cavity(z):
        # Above the base the RV is still outlined; past the apex nothing is.
        return mask if s < 0 else np.zeros_like(mask)
    ring = p.rho < p.outer
    if heart.gap and s < 0.13:
        ring &= from_gap(heart, p.theta) >= heart.gap
    mask[ring] = MR_LABELS["MYO"]
    mask[p.rho < p.inner] = MR_LABELS["LV"]
    return mask


def from_gap(heart: Heart, theta: np.ndarray) -> np.ndarray:
    """Angle in [0, pi] between a direction and the middle of the basal gap."""
    return np.abs(np.angle(np.exp(1j * (theta - heart.toward_rv - 2.4))))
