"""Apical ultrasound phantoms: a left heart of known volumes behind simulated speckle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from augmint.data.phantoms_apical import (
    US_LABELS,
    VIEWS,
    Pose,
    Ventricle,
    biplane_volume,
    draw_ventricles,
    place,
)
from augmint.data.phantoms_parts import Frame, cover, ellipse, paint, smooth_field, stream


@dataclass(frozen=True)
class Probe:
    """How one vendor's probe and console show the heart.

    Attributes:
        half_angle: Half the opening of the fan, degrees.
        near: Depth at which the picture begins, mm.
        axial: Deviation of the pulse along the beam, mm.
        lateral: Deviation of the beam across it, degrees.
        range_db: Dynamic range of the display.
        gain_db: Added before display.
        floor: Electronic noise, amplitude at the centre of the depth.
        gamma: Exponent of the grey map.
    """

    half_angle: float
    near: float
    axial: float
    lateral: float
    range_db: float
    gain_db: float
    floor: float
    gamma: float


PROBES = {
    "A": Probe(37.0, 2.0, 0.5, 0.72, 54.0, -5.5, 0.02, 1.5),
    "B": Probe(41.5, 9.0, 0.85, 1.2, 62.0, -11.0, 0.02, 1.3),
    "C": Probe(33.0, 4.0, 0.4, 0.55, 47.0, -3.5, 0.024, 1.5),
}


def _echoes(
    heart: Ventricle,
    pose: Pose,
    view: str,
    rng: np.random.Generator,
    r: np.ndarray,
    angle: np.ndarray,
) -> np.ndarray:
    """Echo amplitude of the tissue at (depth, angle), from geometry alone."""
    x, y = r * np.sin(angle), r * np.cos(angle)
    a, b = pose.to_heart(x, y)
    shape = (r.shape[0], r.shape[1])
    wob = 1.6 * smooth_field(rng, shape, (14, 6))
    d = heart.distances(a, b + 0.6 * wob)
    lv, shell, la = d["LV"], d["shell"], d["LA"] + 0.6 * wob
    patch, grain = smooth_field(rng, shape, (5, 4)), smooth_field(rng, shape, (26, 16))
    px = 1.6
    rims = np.exp(0.5 * grain) * np.clip(0.5 + 0.9 * smooth_field(rng, shape, (7, 5)), 0.12, 1.3)

    side = np.where(b > 0, 1.0, -1.0)
    tissue = 0.15 * np.exp(0.65 * patch + 0.3 * grain + 0.35 * rng.normal() * side)
    tissue = tissue * np.exp(-0.9 * np.clip((r / pose.depth - 0.72) / 0.28, 0, 1))
    # Reflectors across the beam behind the heart: pericardium, lung surface, valve plane.
    arcs = np.exp(-((smooth_field(rng, shape, (9, 2.5)) / 0.22) ** 2)) * np.clip(patch + 0.2, 0, 2)
    tissue = tissue + 0.45 * arcs * np.clip((r / pose.depth - 0.45) / 0.3, 0, 1)
    tissue = tissue * np.clip(r / 26, 0.45, 1)
    echo = tissue.astype(np.float32)
    if view == "4CH":
        _right_heart(echo, heart, a, b, rng, wob, rims)
    muscle = 0.3 * np.exp(0.45 * patch + 0.5 * grain) * np.clip(r / 35, 0.4, 1)
    if view == "4CH":
        muscle = muscle * np.where(b < 0, rng.uniform(1.0, 1.7), rng.uniform(0.3, 0.9))
    else:
        muscle = muscle * np.where(b < 0, rng.uniform(0.6, 1.5), rng.uniform(0.4, 1.1))
    paint(echo, cover(shell, px), 0.75 * np.tanh(muscle / 0.75))
    rim = np.exp(-((shell / 1.8) ** 2)) * (a < heart.length) * np.clip(0.5 + patch, 0, 1.5)
    echo += rim * rng.uniform(0.2, 0.7)
    paint(echo, cover(la - 1.8, px) * (a > heart.length), rims * 0.42)
    paint(echo, cover(la, px), 0.035)
    paint(echo, cover(lv, px), 0.032)
    inner = np.exp(-((lv / 1.1) ** 2)) * (a < heart.length - 3)
    echo += inner * np.clip(0.1 + 0.4 * grain, 0, 1)
    _valve(echo, heart, a, b, rng, grain)
    if view == "2CH" or rng.random() < 0.4:
        for _ in range(2):
            at = (heart.length * rng.uniform(0.45, 0.7), heart.half[1] * rng.uniform(0.5, 0.85))
            echo += 0.22 * cover(ellipse(a, b, at, (5, 1.8), rng.normal(0, 0.3)), 2.0)
    return np.maximum(echo, 0.004)


def _right_heart(
    echo: np.ndarray,
    heart: Ventricle,
    a: np.ndarray,
    b: np.ndarray,
    rng: np.random.Generator,
    wob: np.ndarray,
    rims: np.ndarray,
) -> None:
    """Right ventricle and atrium beyond the septum; dark, unlabelled."""
    edge = -(heart.half[0] + heart.wall[0])
    wide = rng.uniform(11, 17)
    long = heart.length
    rv = ellipse(a, b, (long * 0.72, edge - wide * 0.75), (long * 0.42, wide), -0.22) + wob
    ra = ellipse(a, b, (long + 19, edge - wide * 0.55), (20, wide * 1.15), 0.1) + wob
    for room, rim in ((rv, 0.35), (ra, 0.4)):
        paint(echo, cover(room - 2.5, 2.0), rim * rims)
        paint(echo, cover(room, 2.0), 0.035)
    line = np.exp(-(((a - long - 3) / 1.5) ** 2)) * (b < edge) * (b > edge - 1.7 * wide)
    echo += 0.6 * line * rims


def _valve(
    echo: np.ndarray,
    heart: Ventricle,
    a: np.ndarray,
    b: np.ndarray,
    rng: np.random.Generator,
    grain: np.ndarray,
) -> None:
    """Closed mitral leaflets between two bright hinges, sagging a little to either side."""
    rim = float(heart.profile(np.array(1.0)))
    left, right = -heart.half[0] * rim, heart.half[1] * rim
    t = np.clip((b - left) / (right - left), 0, 1)
    sag = rng.uniform(-3, 5) * np.sin(np.pi * t)
    off = a - heart.length - 1.0 - sag + 0.8 * grain
    inside = (b > left) & (b < right)
    echo += (
        rng.uniform(0.15, 0.9)
        * np.exp(-((off / 1.2) ** 2))
        * inside
        * np.clip(0.6 + 0.5 * grain, 0, 2)
    )
    for hinge in (left - 1.5, right + 1.5):
        spot = ((a - heart.length - 1.5) / 3.2) ** 2 + ((b - hinge) / 3.0) ** 2
        echo += rng.uniform(0.5, 1.3) * np.exp(-spot)


def _speckle(
    echo: np.ndarray,
    probe: Probe,
    rng: np.random.Generator,
    step: tuple[float, float],
    depth: np.ndarray,
) -> np.ndarray:
    """Envelope of random scatterers under a point spread that widens away from the focus.

    Args:
        echo: (depths, angles) amplitude.
        probe: Pulse and beam.
        rng: Of this frame.
        step: mm per row, rad per column.
        depth: (depths, 1), 0 to 1.
    """
    from scipy.ndimage import gaussian_filter

    down, across = probe.axial / step[0], np.deg2rad(probe.lateral) / step[1]
    power = np.zeros(echo.shape, np.float32)
    blur = np.clip(np.abs(depth - 0.45) / 0.55, 0, 1) ** 1.5
    # Two looks, as frequency compounding makes them: each is complex, so four real fields.
    for _ in range(4):
        scatter = rng.standard_normal(echo.shape, dtype=np.float32) * echo
        field = np.zeros(echo.shape, np.float32)
        for weight, wider in ((1 - blur, 1.0), (blur, 1.6)):
            sigma = (down, across * wider)
            # A Gaussian of unit energy keeps the mean echo level whatever the spot's size.
            gain = np.sqrt(4 * np.pi * max(sigma[0], 0.3) * max(sigma[1], 0.3))
            field += np.sqrt(weight) * gain * gaussian_filter(scatter, sigma, truncate=3)
        power += field**2
    return np.sqrt(power / 2)


def _scan(
    heart: Ventricle,
    pose: Pose,
    view: str,
    probe: Probe,
    rng: np.random.Generator,
    speckle: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture in beam coordinates: grey (depths, angles) in [0, 1], depths and angles."""
    from scipy.ndimage import gaussian_filter

    wide = np.deg2rad(probe.half_angle)
    r = np.linspace(probe.near, pose.depth, 420, dtype=np.float32)
    angle = np.linspace(-wide, wide, 170, dtype=np.float32)
    rr, aa = np.meshgrid(r, angle, indexing="ij")
    depth = ((r - probe.near) / (pose.depth - probe.near))[:, None]
    echo = _echoes(heart, pose, view, rng, rr, aa)

    shape = echo.shape
    haze = 0.075 * np.exp(-depth / 0.1) * np.exp(0.4 * smooth_field(rng, (shape[0], shape[1]), 5))
    rings = np.exp(-depth / 0.07) * np.clip(np.sin(depth * rng.uniform(120, 190)), 0, 1)
    echo = echo + haze * rng.uniform(0.5, 1.6) + 0.12 * rings
    fog = np.exp(0.5 * smooth_field(rng, (shape[0], shape[1]), 3))
    smear = 0.026 * fog * np.exp(rng.normal(0, 0.45))
    loss = np.exp(0.45 * smooth_field(rng, (1, shape[1]), (1, 5)))
    edges = 1 - rng.uniform(0.1, 0.8) * (np.abs(aa) / wide) ** 5
    drop = np.ones(shape[1])
    for _ in range(rng.integers(0, 3)):
        at, half = rng.uniform(-0.9, 0.9) * wide, rng.uniform(0.03, 0.08)
        drop *= 1 - rng.uniform(0.4, 0.85) * np.exp(-(((angle - at) / half) ** 2))
    begins = np.clip((depth - rng.uniform(0.05, 0.3)) / 0.15, 0, 1)
    shadow = 1 - begins * (1 - drop * np.clip(loss, 0.2, 1.5))
    gain = np.exp(0.35 * smooth_field(rng, (shape[0], 1), (4, 1)) - 0.3 * (depth - 0.4))
    level = np.hypot((echo + smear) * shadow * edges * gain, probe.floor * (0.4 + depth))

    step = (float(r[1] - r[0]), float(angle[1] - angle[0]))
    envelope = _speckle(level, probe, speckle, step, depth)
    decibel = gaussian_filter(20 * np.log10(envelope + 1e-5), (1.0, 0.5)) + probe.gain_db
    grey = np.clip((decibel + probe.range_db - 8) / probe.range_db, 0, 1)
    return (grey**probe.gamma).astype(np.float32), r, angle


def us_patient(seed: int, patient: int, *, vendor: str, size: int) -> list[Frame]:
    """Both apical views of one phantom patient at end-diastole and end-systole.

    The truth is the biplane volume of the geometry behind both views.

    Args:
        seed: The cohort's seed.
        patient: Its number, from 1.
        vendor: A key of `PROBES`.
        size: Pixels per side.
    """
    rng = stream(seed, patient, "us", vendor, "body")
    hearts = draw_ventricles(rng)
    probe = PROBES[vendor]
    u = rng.uniform
    probe = replace(
        probe,
        half_angle=probe.half_angle * u(0.95, 1.05),
        range_db=probe.range_db * u(0.94, 1.06),
        gain_db=probe.gain_db + u(-3.5, 3),
        floor=probe.floor * u(0.6, 1.5),
    )
    volume = {p: biplane_volume(hearts["2CH", p], hearts["4CH", p]) for p in ("ED", "ES")}
    name = f"phantom_us_{vendor}_{patient:03d}"
    frames = []
    for view in VIEWS:
        pose = place(rng, hearts[view, "ED"], probe.half_angle)
        wide = 2 * pose.depth * np.sin(np.deg2rad(probe.half_angle))
        pixel = max(pose.depth, wide) * 1.01 / size
        for phase in ("ED", "ES"):
            heart = hearts[view, phase]
            image, mask = _picture(
                heart,
                pose,
                view,
                probe,
                # Tissue and shadows stay from phase to phase; the speckle does not.
                stream(seed, patient, "us", vendor, view),
                stream(seed, patient, "us", vendor, view, phase),
                size,
                pixel,
            )
            row: dict[str, str | float] = {
                "patient": name,
                "domain": vendor,
                "view": view,
                "phase": phase,
                "vendor": vendor,
                "lv_volume_ml": round(volume[phase], 2),
                "ef": round(100 * (1 - volume["ES"] / volume["ED"]), 2),
                "lv_area_mm2": round(heart.area(), 1),
                **_fan_columns(pose, probe, size, pixel),
            }
            frames.append(Frame(f"{name}_{view}_{phase}", image, mask, (pixel, pixel), row))
    return frames


def _fan_columns(pose: Pose, probe: Probe, size: int, pixel: float) -> dict[str, float]:
    """The fan in pixels: apex, edges in degrees from straight down (right positive), depths."""
    return {
        "pixel_mm": round(float(pixel), 5),
        "fan_apex_row": 0.0,
        "fan_apex_column": (size - 1) / 2,
        "fan_left_deg": round(-probe.half_angle, 4),
        "fan_right_deg": round(probe.half_angle, 4),
        "fan_near_px": round(float(probe.near / pixel), 4),
        "fan_far_px": round(float(pose.depth / pixel), 4),
    }


def _picture(
    heart: Ventricle,
    pose: Pose,
    view: str,
    probe: Probe,
    rng: np.random.Generator,
    speckle: np.random.Generator,
    size: int,
    pixel: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Scan-converted frame and its mask; both exactly 0 outside the fan."""
    from scipy.ndimage import map_coordinates

    grey, r, angle = _scan(heart, pose, view, probe, rng, speckle)
    x, y = np.meshgrid((np.arange(size) - (size - 1) / 2) * pixel, np.arange(size) * pixel)
    depth, turn = np.hypot(x, y), np.arctan2(x, y)
    fan = (depth >= r[0]) & (depth <= r[-1]) & (np.abs(turn) <= angle[-1])
    at = ((depth - r[0]) / (r[1] - r[0]), (turn - angle[0]) / (angle[1] - angle[0]))
    # Inside the fan the darkest stored value is 1, so that 0 means outside it.
    shown = np.maximum(np.round(255 * map_coordinates(grey, at, order=1, mode="nearest")), 1)
    d = heart.distances(*pose.to_heart(x, y))
    mask = np.zeros((size, size), np.uint8)
    mask[d["shell"] < 0] = US_LABELS["MYO"]
    mask[d["LA"] < 0] = US_LABELS["LA"]
    mask[d["LV"] < 0] = US_LABELS["LV"]
    return (shown * fan).astype(np.uint8), mask * fan
