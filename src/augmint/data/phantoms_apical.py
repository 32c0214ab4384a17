"""The left heart of an apical ultrasound phantom: its shape in mm and where the fan finds it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

US_LABELS = {"background": 0, "LV": 1, "MYO": 2, "LA": 3}


VIEWS = ("2CH", "4CH")


_MIDDLES = (np.arange(400) + 0.5) / 400


@dataclass(frozen=True)
class Ventricle:
    """A left heart in one view and phase; mm, along its axis from LV apex (0) to mitral plane.

    Attributes:
        length: Of the LV cavity.
        half: Half widths at the equator, left and right of the axis.
        cut: Where the mitral plane cuts the prolate, 0 equator to 1 far pole.
        wall: Thickness of the myocardium, left and right.
        bend: Sideways bow of the axis.
        sway: Amplitude of its S-shaped part.
        atrium: Length and half width of the left atrium.
        lean: Sideways lean of the atrium per mm.
    """

    length: float
    half: tuple[float, float]
    cut: float
    wall: tuple[float, float]
    bend: float
    sway: float
    atrium: tuple[float, float]
    lean: float

    def profile(self, u: np.ndarray) -> np.ndarray:
        """Half width of the cavity relative to `half`, at u = 0 apex to 1 mitral plane."""
        along = np.clip(u, 0, 1) * (1 + self.cut) - 1
        return np.sqrt(np.maximum(1 - np.abs(along) ** 2.2, 0))

    def bow(self, u: np.ndarray) -> np.ndarray:
        """Sideways shift of the axis in mm; a shear, so it changes no width and no area."""
        u = np.clip(u, 0, 1)
        return self.bend * np.sin(np.pi * u) + self.sway * np.sin(2 * np.pi * u)

    def distances(self, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        """Signed distances, negative inside, at a mm along and b mm to the right of the axis."""
        u = a / self.length
        b = b - self.bow(u)
        right = b > 0
        half = np.where(right, self.half[1], self.half[0])
        wall = np.where(right, self.wall[1], self.wall[0])
        pole = self.length / (1 + self.cut)
        cap = 0.75 * (self.wall[0] + self.wall[1]) / 2

        def prolate(more: np.ndarray | float, tip: float) -> np.ndarray:
            along, side = (a - pole) / (pole + tip), np.abs(b) / (half + more)
            level = (np.abs(along) ** 2.2 + side**2) ** 0.5
            return (level - 1) * (half + more)

        cavity = np.maximum(prolate(0.0, 0.0), a - self.length)
        shell = np.maximum(prolate(wall, cap), a - self.length - 2.5)
        down = (a - self.length) / self.atrium[0]
        c = b - self.lean * (a - self.length)
        mouth = 0.86 * float(self.profile(np.array(1.0))) * np.mean(self.half)
        belly = np.clip(down, 0, 1)
        round_ = np.sqrt(np.maximum(1 - np.clip((belly - 0.45) / 0.55, 0, 1) ** 2.3, 0))
        bulge = np.sin(np.pi / 2 * np.clip(belly / 0.45, 0, 1))
        width = (mouth + (self.atrium[1] - mouth) * bulge) * round_
        atrium = np.maximum(np.abs(c) - width, np.maximum(-down, down - 1) * self.atrium[0])
        return {"LV": cavity, "shell": shell, "LA": atrium}

    def area(self) -> float:
        """Area of the cavity in mm2."""
        return float(self.length * np.mean(self.profile(_MIDDLES)) * sum(self.half))


def biplane_volume(two: Ventricle, four: Ventricle) -> float:
    """LV volume in ml by Simpson's biplane rule, discs of both views across one length."""
    length = max(two.length, four.length)
    across = two.profile(_MIDDLES) * sum(two.half) * four.profile(_MIDDLES) * sum(four.half)
    return float(np.pi / 4 * length * np.mean(across) / 1000)


@dataclass(frozen=True)
class Pose:
    """Where the fan and the heart lie.

    Attributes:
        apex: LV apex in mm, right of and below the fan's apex.
        tilt: Of the LV's axis, rad; positive leans the base to the right.
        depth: Greatest depth, mm.
    """

    apex: tuple[float, float]
    tilt: float
    depth: float

    def to_heart(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """mm from the fan's apex to mm along and to the right of the LV's axis."""
        dx, dy = x - self.apex[0], y - self.apex[1]
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        return dx * s + dy * c, dx * c - dy * s


def draw_ventricles(rng: np.random.Generator) -> dict[tuple[str, str], Ventricle]:
    """Both views at both phases, by (view, phase)."""
    u = rng.uniform
    ill = rng.random() < 0.45
    ef = u(0.2, 0.48) if ill else u(0.5, 0.72)
    length, wide = u(74, 94), u(17.5, 23) + (u(0, 6) if ill else 0)
    wall = u(8.5, 13.5)
    shorter = 1 - 0.24 * ef
    narrower = np.sqrt((1 - ef) / shorter)
    hearts: dict[tuple[str, str], Ventricle] = {}
    cut = u(0.42, 0.66)
    for view in VIEWS:
        skew, w = u(0.86, 1.14), wide * u(0.92, 1.08)
        septum = 1.1 if view == "4CH" else 1.0
        rest = Ventricle(
            length=length,
            half=(w * (2 - skew), w * skew),
            cut=cut,
            wall=(wall * septum * u(0.9, 1.1), wall * u(0.9, 1.15)),
            bend=u(-4, 7),
            sway=u(-2.5, 2.5),
            atrium=(u(24, 40), u(15, 22)),
            lean=u(-0.25, 0.2),
        )
        thicker = 1 + 0.55 * ef
        hearts[view, "ED"] = rest
        hearts[view, "ES"] = replace(
            rest,
            length=length * shorter,
            half=(rest.half[0] * narrower, rest.half[1] * narrower),
            wall=(rest.wall[0] * thicker, rest.wall[1] * thicker),
            bend=rest.bend * 1.15,
            sway=rest.sway * 1.1,
            atrium=(rest.atrium[0] * u(1.25, 1.5), rest.atrium[1] * u(1.15, 1.4)),
        )
    return hearts


def place(rng: np.random.Generator, rest: Ventricle, half_angle: float) -> Pose:
    """A pose in which the whole LV cavity lies inside the fan, deep enough for some atrium."""
    tilt, aside = rng.uniform(-0.16, 0.16), rng.uniform(-4, 4)
    u = np.linspace(0, 1, 60)
    left, right = (h + 0.6 * w for h, w in zip(rest.half, rest.wall))
    bow = rest.bow(u)
    b = np.stack([bow - left * rest.profile(u), bow + right * rest.profile(u)])
    c, s = np.cos(tilt), np.sin(tilt)
    x, y = aside + b * c + u * rest.length * s, u * rest.length * c - b * s
    slope = np.tan(np.deg2rad(half_angle - 1.5))
    down = max(rng.uniform(17, 30), float((np.abs(x) / slope - y).max()))
    base = down + rest.length * c
    depth = base + rng.uniform(0.45, 1.2) * rest.atrium[0] + 6
    return Pose((aside, down), tilt, max(depth, float(np.hypot(x, y + down).max()) + 4))
