"""Tiny short-axis hearts in the files of published datasets."""

from pathlib import Path

import nibabel
import numpy as np

SHAPE = (20, 18, 3)
# Columns are not orthogonal to one another: SimpleITK refuses such a file.
SHEARED = np.array([[1.2, 0.1, 0, 5], [0, 1.4, 0.3, 6], [0, 0, 8.0, 7], [0, 0, 0, 1]])
PLAIN = np.diag([1.4, 1.2, 9.0, 1.0])


def heart(lv: int, myo: int, rv: int, *, squeeze: float = 1.0) -> np.ndarray:
    """(x, y, z): a ring of myocardium around the LV, and the RV beside it."""
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    away = np.hypot(x - 12, y - 9)
    plane = np.zeros(SHAPE[:2], np.uint8)
    plane[np.hypot(x - 6, y - 9) < 5] = rv
    plane[away < 6] = myo
    plane[away < 4 * squeeze] = lv
    return np.repeat(plane[..., None], SHAPE[2], axis=2)


def image_of(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 40, mask.shape)
    return (100 + 60 * mask.astype(int) + noise).astype(np.int16)


def write(path: Path, array: np.ndarray, affine: np.ndarray = PLAIN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
