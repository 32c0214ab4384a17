"""Pieces that both phantom families draw with: frames, soft edges and smooth random fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One case of a cohort before it is written.

    Attributes:
        case: Its name.
        image: int16 volume (row, column, slice) or uint8 frame (row, column).
        mask: uint8, the same shape.
        spacing_mm: Per axis.
        row: The columns of `cases.csv` behind `case`.
    """

    case: str
    image: np.ndarray
    mask: np.ndarray
    spacing_mm: tuple[float, ...]
    row: Mapping[str, str | float]


def stream(seed: int, patient: int, *parts: str | int) -> np.random.Generator:
    """A generator of its own for one patient and one purpose, whatever else is drawn."""
    words = [sum(ord(c) << (8 * i) for i, c in enumerate(str(p)[:4])) for p in parts]
    return np.random.default_rng([seed, patient, *words])


def cover(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Share of a pixel inside a shape, from its signed distance (negative inside)."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def paint(image: np.ndarray, share: np.ndarray, value: float | np.ndarray) -> None:
    """Blend a value over an image in place, by the share of each pixel that it covers."""
    image += share * (value - image)


def ellipse(
    x: np.ndarray, y: np.ndarray, at: tuple[float, float], semi: tuple[float, float], turn: float
) -> np.ndarray:
    """Signed distance to an ellipse, first order: exact at its edge, negative inside."""
    # Plain floats keep a float32 lattice in float32, which NumPy's own scalars would not.
    c, s = float(np.cos(turn)), float(np.sin(turn))
    a, b = 1 / float(semi[0]), 1 / float(semi[1])
    dx, dy = x - float(at[0]), y - float(at[1])
    u, v = dx * (c * a) + dy * (s * a), dy * (c * b) - dx * (s * b)
    u *= u
    v *= v
    k0 = np.sqrt(u + v)
    k1 = np.sqrt(u * (a * a) + v * (b * b))
    return k0 * (k0 - 1) / np.maximum(k1, 1e-6)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int], cells: float | tuple[float, float]
) -> np.ndarray:
    """A random field of about zero mean and unit deviation with `cells` features per axis.

    White noise on a coarse lattice, interpolated by cubic B-splines.
    """
    per_axis = cells if isinstance(cells, tuple) else (cells, cells)
    rows, cols = (_spline(n, float(c)) for n, c in zip(shape, per_axis))
    coarse = rng.standard_normal((rows.shape[1], cols.shape[1])).astype(np.float32)
    # A cubic B-spline of white noise has a deviation of about 0.69 along each axis.
    return rows @ coarse @ cols.T / 0.48


@lru_cache(maxsize=64)
def _spline(count: int, cells: float) -> np.ndarray:
    """(count, cells + 4) cubic B-spline weights along one axis."""
    at = np.arange(count)[:, None] * cells / count
    d = np.abs(at - (np.arange(int(np.ceil(cells)) + 4)[None] - 1))
    near = 2 / 3 - d**2 + d**3 / 2
    far = np.maximum(2 - d, 0) ** 3 / 6
    return np.where(d < 1, near, far).astype(np.float32)
