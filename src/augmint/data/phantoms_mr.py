"""Short-axis cine MR phantoms: a beating heart with known volumes in a drawn chest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from augmint.data.phantoms_chest import Chest, banding, coil_shading, draw_chest, render_chest
from augmint.data.phantoms_heart import (
    Heart,
    Outline,
    draw_heart,
    from_gap,
    label_plane,
    outline_heart,
)
from augmint.data.phantoms_parts import Frame, cover, ellipse, paint, smooth_field, stream


@dataclass(frozen=True)
class Scanner:
    """How one vendor sees the same tissue.

    Attributes:
        field_mm: Field of view.
        blood: Signal of blood (fat is 1).
        myocardium: Signal of heart muscle.
        gamma: Exponent on the signal before acquisition; above 1 darkens the mid greys.
        cutoff: Share of k-space acquired, up to 1: lower is blurrier.
        apodise: Softness of the k-space edge, 0 rings, 1 does not.
        noise: Deviation of the complex noise.
        shading: Strength of the coil shading.
        bands: Strength of the off-resonance bands.
        scale: Stored value of signal 1.
    """

    field_mm: float
    blood: float
    myocardium: float
    gamma: float
    cutoff: float
    apodise: float
    noise: float
    shading: float
    bands: float
    scale: float


SCANNERS = {
    "A": Scanner(255, 0.86, 0.24, 1.0, 1.0, 0.4, 0.014, 0.35, 0.45, 900),
    "B": Scanner(290, 0.72, 0.3, 0.85, 0.86, 0.9, 0.02, 0.45, 0.0, 1600),
    "C": Scanner(228, 0.78, 0.2, 1.15, 0.92, 0.1, 0.035, 0.5, 0.9, 500),
}


def _draw_on(
    image: np.ndarray,
    heart: Heart,
    p: Outline,
    z: float,
    rng: np.random.Generator,
    scanner: Scanner,
    pixel: float,
    field: float,
) -> None:
    """Paint the heart over a slice of the chest, in place."""
    shape = (image.shape[0], image.shape[1])
    s = heart.level(z)
    fine, mid = smooth_field(rng, shape, field / 4), smooth_field(rng, shape, field / 14)
    blood, muscle = scanner.blood, scanner.myocardium
    free = p.rv
    edge = np.minimum(p.rho - p.outer, free - 3.0)
    side = np.cos(p.theta - heart.toward_rv)
    groove = np.exp(-(((p.rho - p.outer) / 7) ** 2) - ((free - 3) / 7) ** 2)
    fat = np.clip(0.4 + 0.8 * side + 2.2 * mid + 6 * groove, 0, 9)
    paint(image, cover(edge - fat - 1.6, pixel), 0.16)
    paint(image, cover(edge - fat, pixel), 0.7 + 0.08 * mid)
    if s > 1 + 0.9 * heart.wall / heart.length:
        return
    paint(image, cover(free - 2.8, pixel), muscle * 1.05)
    pool = blood * (0.9 + 0.04 * mid)
    ragged = np.clip(1.4 * fine - 0.5 + 1.1 * max(s, 0), 0, 1) * np.clip(1 + (free + 1) / 9, 0, 1)
    paint(image, cover(free, pixel), pool - ragged * 0.55 * (blood - muscle))

    if s < 0:
        _draw_atrium(image, heart, p, rng, blood, muscle, pixel, mid)
        return
    closed = np.ones(shape, np.float32)
    if heart.gap and s < 0.13:
        away = from_gap(heart, p.theta)
        closed = np.clip((away - heart.gap) / 0.12 + 0.5, 0, 1)
        atrium = p.rho - p.outer - 7 * np.cos(np.minimum(away / heart.gap, 1) * np.pi / 2)
        paint(image, cover(atrium - 1.5, pixel) * (away < 1.15 * heart.gap), muscle)
        paint(image, cover(atrium, pixel) * (away < heart.gap), blood * 0.93)
        leaflet = cover(np.abs(p.rho - p.inner - 1.5) - 0.6, pixel) * (1 - closed)
    paint(image, cover(p.rho - p.outer, pixel) * closed, muscle * (1 + 0.06 * mid + 0.05 * fine))
    flow = blood * (1 + 0.05 * mid + 0.02 * fine - 0.08 * np.clip(0.25 - s, 0, 1) * (1 + mid))
    paint(image, cover(p.rho - p.inner, pixel), flow)
    if heart.gap and s < 0.13:
        paint(image, 0.6 * leaflet, muscle)
    # Trabeculae: muscle that juts into the pool, more of it toward the apex.
    waves = range(5, 24)
    jut = sum(
        float(rng.normal()) / k**0.5 * np.cos(k * p.theta + rng.uniform(0, 6.3)) for k in waves
    )
    jut = np.clip(jut * (0.5 + 1.6 * s) + 0.5 * fine, 0, 0.3 * p.inner)
    rough = cover(p.rho - p.inner, pixel) * cover(p.inner - jut - p.rho, 2 * pixel)
    paint(image, 0.8 * rough, muscle * 1.1)
    _draw_papillary(image, heart, p, s, rng, muscle, pixel, mid)


def _draw_papillary(
    image: np.ndarray,
    heart: Heart,
    p: Outline,
    s: float,
    rng: np.random.Generator,
    muscle: float,
    pixel: float,
    mid: np.ndarray,
) -> None:
    """Two dark muscles in the LV blood pool; readers of ACDC count them to the cavity."""
    if not 0.22 < s < 0.85:
        return
    x, y = p.rho * np.cos(p.theta), p.rho * np.sin(p.theta)
    inside = cover(p.rho - p.inner, pixel)
    mean = float(p.inner.mean())
    for side in (-1, 1):
        angle = heart.toward_rv + np.pi + side * 0.95 + rng.normal(0, 0.12)
        size = min(heart.papillary * rng.uniform(0.8, 1.2), 0.32 * mean)
        far = mean * (0.76 + 0.14 * (s - 0.22) / 0.6) - 0.2 * size
        heads = 1 + int(rng.random() < 0.5)
        for _ in range(heads):
            turn = angle + rng.normal(0, 0.2) * (heads > 1)
            at = (far * np.cos(turn), far * np.sin(turn))
            blob = ellipse(x, y, at, (size * 1.5 / heads**0.5, size * 0.85 / heads**0.5), turn)
            paint(image, inside * cover(blob + 0.8 * mid, 2 * pixel), muscle * 1.1)


def _draw_atrium(
    image: np.ndarray,
    heart: Heart,
    p: Outline,
    rng: np.random.Generator,
    blood: float,
    muscle: float,
    pixel: float,
    mid: np.ndarray,
) -> None:
    """Above the base: left atrium, aortic root with its dark wall, right atrium; no labels."""
    x, y = p.rho * np.cos(p.theta), p.rho * np.sin(p.theta)
    r = float(p.outer.mean())
    across = heart.toward_rv + np.pi / 2
    toward = heart.toward_rv
    rooms = [
        (toward + 2.6, 0.3 * r, (0.9 * r, 0.68 * r), 1.8),
        (across - 0.2, 0.95 * r, (0.6 * r, 0.48 * r), 1.8),
        (toward + np.pi + rng.uniform(-0.9, 0.9), 0.95 * r, (0.4 * r, 0.2 * r), 1.2),
        (toward + rng.uniform(0.1, 0.7), 0.35 * r, (r * 0.46, r * 0.42), 1.3),
    ]
    rooms = [(a + rng.normal(0, 0.12), f * rng.uniform(0.85, 1.1), s, w) for a, f, s, w in rooms]
    for angle, far, semi, wall in rooms:
        at = (far * np.cos(angle), far * np.sin(angle))
        ragged = 1.8 * mid + rng.normal(0, 0.6)
        room = ellipse(x, y, at, semi, angle) + ragged
        paint(image, cover(room - wall, pixel) * np.clip(0.75 + 0.3 * mid, 0.3, 1), muscle * 1.2)
        pool = blood * rng.uniform(0.85, 1.0) * (1 + 0.07 * mid)
        paint(image, cover(room, 2 * pixel), pool)


def _acquire(
    signal: np.ndarray, scanner: Scanner, rng: np.random.Generator, size: int
) -> np.ndarray:
    """Sample k-space of a picture at twice the resolution, add noise, take the magnitude."""
    spectrum = np.fft.fftshift(np.fft.fft2(signal)) / 4
    middle = np.s_[size // 2 : size // 2 + size]
    spectrum = spectrum[middle, middle]
    k = np.abs(np.arange(size) - size // 2) / (size / 2) / scanner.cutoff
    roll = np.clip((1 - k) / max(0.6 * scanner.apodise, 1e-3), 0, 1)
    window = 0.5 - 0.5 * np.cos(np.pi * roll)
    spectrum = spectrum * window[:, None] * window[None]
    noise = rng.normal(0, scanner.noise * size, (2, size, size))
    pass_ = (k <= 1)[:, None] & (k <= 1)[None]
    spectrum = spectrum + (noise[0] + 1j * noise[1]) * pass_
    return np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum)))


def mr_patient(seed: int, patient: int, *, vendor: str, size: int, slices: int) -> list[Frame]:
    """The end-diastolic and end-systolic stack of one phantom patient.

    The truth is the sum over slices of the closed-form LV area times the slice distance.

    Args:
        seed: The cohort's seed.
        patient: Its number, from 1.
        vendor: A key of `SCANNERS`.
        size: Pixels per side.
        slices: Planes from just above the base to about the apex.
    """
    rng = stream(seed, patient, "mr", vendor, "body")
    rest, squeezed, diagnosis = draw_heart(rng)
    chest = draw_chest(rng, rest.radius + rest.wall + rest.rv_depth)
    scanner = SCANNERS[vendor]
    field = scanner.field_mm * rng.uniform(0.94, 1.06)
    scanner = replace(
        scanner,
        blood=scanner.blood * rng.uniform(0.92, 1.08),
        myocardium=scanner.myocardium * rng.uniform(0.88, 1.12),
        shading=scanner.shading * rng.uniform(0.7, 1.3),
        noise=scanner.noise * rng.uniform(0.8, 1.25),
    )
    offset = rng.uniform(-0.07, 0.07, 2) * field
    above, beyond = rng.uniform(-2, 7), rng.uniform(-5, 9)
    gap_mm = round((rest.length + above + beyond) / slices, 1)
    hearts = {"ED": rest, "ES": squeezed}
    places = [(k + 0.5) * gap_mm - above for k in range(slices)]
    stacks = _render(seed, patient, vendor, hearts, chest, scanner, field, offset, places, size)
    volumes = {
        phase: sum(heart.area(z) for z in places) * gap_mm / 1000 for phase, heart in hearts.items()
    }
    name = f"phantom_mr_{vendor}_{patient:03d}"
    frames = []
    for phase, (image, mask) in stacks.items():
        row: dict[str, str | float] = {
            "patient": name,
            "domain": vendor,
            "view": "SAX",
            "phase": phase,
            "vendor": vendor,
            "diagnosis": diagnosis,
            "lv_volume_ml": round(volumes[phase], 2),
            "ef": round(100 * (1 - volumes["ES"] / volumes["ED"]), 2),
        }
        spacing = (field / size, field / size, gap_mm)
        frames.append(Frame(f"{name}_{phase}", image, mask, spacing, row))
    return frames


def _render(
    seed: int,
    patient: int,
    vendor: str,
    hearts: dict[str, Heart],
    chest: Chest,
    scanner: Scanner,
    field: float,
    offset: np.ndarray,
    places: list[float],
    size: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image and mask of both phases; the chest of a plane is drawn once for the two."""
    # Sample 2k of the fine lattice is sample k of the stored one, so labels and image agree.
    fine = ((np.arange(2 * size) - size) * field / size / 2).astype(np.float32)
    x, y = np.meshgrid(fine - np.float32(offset[0]), fine - np.float32(offset[1]))
    pixel = field / size / 2
    shade_rng = stream(seed, patient, "mr", vendor, "coil")
    shade = coil_shading(shade_rng, x, y, scanner.shading)
    if scanner.bands:
        shade = shade * banding(shade_rng, x, y, scanner.bands)
    images = {phase: np.zeros((size, size, len(places)), np.int16) for phase in hearts}
    masks = {phase: np.zeros((size, size, len(places)), np.uint8) for phase in hearts}
    for k, z in enumerate(places):
        rng = stream(seed, patient, "mr", vendor, "z", k)
        level = k / max(len(places) - 1, 1)
        background = render_chest(chest, rng, x, y, level=level, pixel=pixel)
        bend = tuple(3.0 * smooth_field(rng, x.shape, field / 40) for _ in range(2))
        for phase, heart in hearts.items():
            outline = outline_heart(heart, x, y, z, (bend[0], bend[1]))
            masks[phase][:, :, k] = label_plane(heart, outline, z)[::2, ::2]
            signal = background.copy()
            _draw_on(signal, heart, outline, z, rng, scanner, pixel, field)
            signal = np.maximum(signal, 0) ** scanner.gamma * shade
            stored = _acquire(signal, scanner, rng, size) * scanner.scale
            images[phase][:, :, k] = np.round(np.minimum(stored, 2.2 * scanner.scale))
    return {phase: (images[phase], masks[phase]) for phase in hearts}
