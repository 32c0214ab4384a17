"""What surrounds the heart of a cine MR phantom: chest wall, lung, belly, vessels, coil shading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from augmint.data.phantoms_parts import cover, ellipse, paint, smooth_field

LUNG, MUSCLE, FAT = 0.055, 0.2, 0.92


@dataclass(frozen=True)
class Chest:
    """A patient's trunk in mm; the heart sits at the origin, x to the right, y down.

    Attributes:
        turn: Rotation of the trunk about the heart, rad.
        centre: Of the body outline.
        semi: Half axes of the body outline.
        fat: Thickness of the subcutaneous fat.
        muscle: Thickness of the chest wall.
        diaphragm: x at which the belly begins on the most basal slice.
        rise: How far the diaphragm comes in from base to apex.
        liver: Brightness of the liver.
        bowel: Centres, sizes and brightness of the hollow organs, (n, 6).
    """

    turn: float
    centre: tuple[float, float]
    semi: tuple[float, float]
    fat: float
    muscle: float
    diaphragm: float
    rise: float
    liver: float
    bowel: np.ndarray


def draw_chest(rng: np.random.Generator, reach: float) -> Chest:
    """A random trunk whose front wall clears a heart that reaches so many mm forward."""
    u = rng.uniform
    count = 9
    bowel = np.column_stack(
        [
            u(30, 130, count),
            u(10, 130, count),
            u(10, 26, count),
            u(9, 20, count),
            u(0, 3.1, count),
            u(0.15, 0.6, count),
        ]
    )
    fat, muscle, down = u(8, 26), u(9, 15), u(22, 34)
    return Chest(
        turn=u(-0.5, 0.45),
        centre=(u(20, 45), down),
        semi=(u(160, 185), down + reach + fat + muscle - u(0, 8)),
        fat=fat,
        muscle=muscle,
        diaphragm=u(30, 50),
        rise=u(30, 65),
        liver=u(0.22, 0.34),
        bowel=bowel,
    )


def render_chest(
    chest: Chest,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    *,
    level: float,
    pixel: float,
) -> np.ndarray:
    """One slice of the trunk without its heart.

    Args:
        chest: The patient's trunk.
        rng: This slice's generator.
        x: (n, n) mm, to the right.
        y: (n, n) mm, down.
        level: 0 at the most basal slice, 1 at the most apical.
        pixel: mm.

    Returns:
        Signal, 0 in the air to about 1 in fat.
    """
    shape = x.shape
    c, s = float(np.cos(chest.turn)), float(np.sin(chest.turn))
    span = float(np.ptp(x))
    cells = span / 45
    wx = x * c + y * s + 4.5 * smooth_field(rng, shape, cells)
    wy = y * c - x * s + 4.5 * smooth_field(rng, shape, cells)
    fine = smooth_field(rng, shape, span / 6)
    coarse = smooth_field(rng, shape, span / 22)

    u, v = (wx - chest.centre[0]) / chest.semi[0], (wy - chest.centre[1]) / chest.semi[1]
    round_ = (np.abs(u) ** 2.5 + np.abs(v) ** 2.5) ** 0.4
    depth = (1 - round_) * chest.semi[1]
    along = np.arctan2(v, u)
    fat = chest.fat * (1 + 0.35 * np.sin(2 * along + 1.0 + level) + 0.12 * coarse)

    image = np.zeros(shape, np.float32)
    septa = np.clip(0.62 + np.abs(fine + 2 * coarse) * 3, 0.62, 1)
    paint(image, cover(-depth, pixel), FAT * septa * (1 + 0.03 * fine))
    paint(image, cover(1.6 - depth, pixel) - cover(3.2 - depth, pixel), 0.5)
    paint(image, cover(fat - depth, pixel), MUSCLE * (1 + 0.25 * coarse))
    # Ribs: marrow in a dark shell, and slips of fat between the muscles.
    beat = np.sin(13 * along + 2.2 * level * 6)
    mid = depth - fat - 0.62 * chest.muscle
    paint(image, cover(np.abs(mid) - 3.6, pixel) * np.clip(beat * 3 - 1.2, 0, 1), 0.1)
    paint(image, cover(np.abs(mid) - 2.4, pixel) * np.clip(beat * 3 - 1.6, 0, 1), 0.42)
    layer = depth - fat - 0.3 * chest.muscle
    paint(image, cover(np.abs(layer) - 1.0, pixel) * np.clip(coarse + 0.2, 0, 1), 0.8)

    inside = cover(fat + chest.muscle - depth, pixel)
    lining = depth - fat - chest.muscle
    lung = LUNG * (1 + 0.35 * fine + 0.3 * coarse)
    paint(image, inside, np.maximum(lung, 0.01))
    paint(image, cover(np.abs(lining) - 0.9, pixel) * np.clip(coarse, 0, 1), 0.75)
    _lung_vessels(image, rng, x, y, inside * (depth > fat + chest.muscle + 6), pixel)
    _belly(image, chest, rng, wx, wy, level=level, inside=inside, pixel=pixel)
    return np.maximum(image, 0)


def _lung_vessels(
    image: np.ndarray,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    room: np.ndarray,
    pixel: float,
) -> None:
    """Bright dots and short twigs, most of them near the hilum."""
    n = len(image)
    for _ in range(70):
        far, angle = 38 + 70 * rng.random() ** 1.4, rng.uniform(0.3, 3.7)
        at = np.array([far * np.cos(angle), far * np.sin(angle)])
        long, wide = rng.uniform(0.9, 2.2) * (1 + (rng.random() < 0.1) * 3), rng.uniform(0.8, 2.0)
        turn, bright = angle + rng.normal(0, 0.9), rng.uniform(0.12, 0.8) * 50 / (far + 12)
        j, i = ((at - [x[0, 0], y[0, 0]]) / pixel).astype(int)
        w = int(3 * long / pixel) + 2
        if not (w <= i < n - w and w <= j < n - w):
            continue
        box = np.s_[i - w : i + w + 1, j - w : j + w + 1]
        d = ellipse(x[box], y[box], (at[0], at[1]), (long, wide), turn)
        image[box] += cover(d, 2 * pixel) * room[box] * np.maximum(bright - image[box], 0)


def _belly(
    image: np.ndarray,
    chest: Chest,
    rng: np.random.Generator,
    wx: np.ndarray,
    wy: np.ndarray,
    *,
    level: float,
    inside: np.ndarray,
    pixel: float,
) -> None:
    """Right of the diaphragm: liver above, stomach, spleen and bowel in bright fat below."""
    shape, span = image.shape, float(np.ptp(wx))
    fine, mid = smooth_field(rng, shape, span / 5), smooth_field(rng, shape, span / 13)
    edge = chest.diaphragm - chest.rise * level
    bulge = 7 * smooth_field(rng, shape, 4.0)
    dome = (
        bulge + edge + 0.0045 * (wy - 20) ** 2 - np.where(wy > 40, 0.35 * (wy - 40) * level, 0) - wx
    )
    below = inside * cover(dome, pixel)
    paint(image, inside * cover(dome - 2.5, pixel), 0.14)
    strand = np.clip(np.abs(mid + 0.6 * fine) * 3, 0.65, 1)
    paint(image, below, (0.72 + 0.08 * mid) * strand)

    liver = ellipse(wx, wy, (edge + 72, -8 + 6 * level), (74, 46), 0.25)
    blotch = chest.liver * (1 + 0.09 * fine + 0.06 * mid)
    in_liver = below * cover(liver, pixel)
    paint(image, in_liver, blotch)
    veins = np.clip(3 * (smooth_field(rng, shape, span / 9) - 1.5), 0, 1)
    paint(image, in_liver * veins, 0.55)
    for cx, cy, a, b, turn, bright in chest.bowel.tolist():
        near = ellipse(wx, wy, (cx - 30 * level + 10, cy + 14), (a, b), turn)
        room = below * (1 - cover(liver, pixel))
        paint(image, room * cover(near, pixel), 0.13)
        lumen = bright + 0.14 * mid + 0.1 * fine
        paint(image, room * cover(near + 2.2, pixel), np.maximum(lumen, 0.05))
    spleen = ellipse(wx, wy, (edge - 8 + 12 * level, 88), (30 * (0.3 + level), 17), -0.5)
    paint(image, below * cover(spleen, pixel), 0.36 + 0.015 * fine)
    # Spine, then the aorta and the inferior vena cava with their dark walls.
    spine = ellipse(wx, wy, (112, 78), (23, 20), 0)
    paint(image, inside * cover(spine, pixel), 0.12)
    paint(image, inside * cover(spine + 2.5, pixel), 0.34 + 0.05 * fine)
    for at, radius, bright in (((76, 66), 11.5, 0.78), ((62 - 18 * level, 24), 10.5, 0.62)):
        tube = ellipse(wx, wy, at, (radius * 1.15, radius), 0.4)
        paint(image, inside * cover(tube - 1.6, pixel), 0.16)
        paint(image, inside * cover(tube, pixel), bright + 0.03 * mid)


def coil_shading(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, strength: float
) -> np.ndarray:
    """Smooth receive sensitivity, brightest at the anterior wall, about 1 at the heart."""
    tilt = rng.uniform(-0.5, 0.5)
    toward = -y * np.cos(tilt) + x * np.sin(tilt)
    field = np.exp(strength * toward / 110)
    back = 0.35 * strength * np.exp(-((x - 60) ** 2 + (y - 130) ** 2) / 2 / 70**2)
    side = 0.5 * strength * np.exp(-((x + 130) ** 2 + (y - 10) ** 2) / 2 / 60**2)
    return field + back + side


def banding(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Dark bSSFP bands where the field is off resonance, far from the shimmed heart."""
    at = rng.uniform(0, 2 * np.pi)
    far = np.hypot(x - 25 * np.cos(at), y - 25 * np.sin(at)) / 100
    phase = strength * far**5 + 0.6 * smooth_field(rng, (x.shape[0], x.shape[1]), 3.0)
    return 1 - 0.8 * np.exp(-((np.mod(phase, 2 * np.pi) - np.pi) ** 2) / 0.3)
