"""Part 4 of an audit: are synthetic images distributed like real ones, and as diverse?"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augmint.audit.material import Material, Planes, evenly
from augmint.errors import AugmintError
from augmint.quality import fidelity
from augmint.quality.diversity import (
    WINDOW,
    beside_real,
    diversity,
    frechet_distance,
    precision_recall,
    principal_features,
)
from augmint.quality.fidelity import (
    SIGMAS,
    SplitDistance,
    kernel_distance,
    squared_mmd,
    standardise,
    texture_features,
)
from augmint.report import sheet, tile

MOST = 1200
AXES = 32
SUBSET = 300
SHOWN = 12
# Images of either half, for the third neighbour of each.
LEAST = 4
# Deviations at which a feature is cut: where real images are flat it would decide alone.
REACH = 5.0
NAMES = ("kernel_distance", "frechet_distance", "precision", "recall")


def measure_images(material: Material, folder: Path, *, seed: int) -> dict[str, Any]:
    """Distances and diversity of accepted synthetic images; writes sheets/samples.png.

    Where none is accepted, of rejected ones.
    """
    real, made = compared(material)
    _sheet(folder / "sheets" / "samples.png", real, made, material)
    told: dict[str, Any] = {
        "images": {"real": len(real), "synthetic": len(made)}, "real_patients": _count(real),
        **_diversity(real, made, seed),
    }  # fmt: skip
    sigmas = tuple(s for s in SIGMAS if 2 * int(3 * s + 0.5) + 1 <= min(real.images.shape[2:]))
    if not sigmas:
        told["missing"] = (
            f"distances need {2 * 3 + 1} pixels along either side of images; there are "
            f"{tuple(real.images.shape[2:])}"
        )
        return told
    told["extractor"] = extractor(sigmas)
    return told | measure_distances(
        lambda images: _features(images, sigmas), real, made,
        apart=held_apart(material, real, made), seed=seed,
    )  # fmt: skip


def compared(material: Material) -> tuple[Planes, Planes]:
    """The real images of the fit, and the synthetic ones that stand for the dataset."""
    return material.seen.planes().some(MOST), material.kept.planes().some(MOST)


def held_apart(material: Material, real: Planes, made: Planes) -> bool:
    """Whether an image can be kept from the patient that it was made from."""
    return material.parties.sources_known and set(made.patients) <= set(real.patients)


def measure_distances(
    describe: Callable[[Tensor], Tensor], real: Planes, made: Planes, *, apart: bool, seed: int
) -> dict[str, Any]:
    """Kernel and Frechet distance, precision and recall on some features, beside real halves.

    Args:
        describe: (N, C, H, W) in [-1, 1] to (N, D) features.
        real: Of the fit.
        made: Synthetic ones.
        apart: Compare no synthetic image with the patient that it was made from.
        seed: Of the splits.

    Returns:
        What could be measured; the key `missing` says what could not, and why.
    """
    if min(len(real), len(made)) < 8:
        return {
            "missing": f"distances need 8 images of either side; there are {len(real)} real and "
            f"{len(made)} synthetic"
        }
    a, b = (
        f.clamp(-REACH, REACH) for f in standardise(describe(real.images), describe(made.images))
    )
    size = min(SUBSET, len(a), len(b))
    distance = kernel_distance(a, b, subset_size=size, subsets=50, seed=seed)
    told: dict[str, Any] = {"kernel_distance_of_all": asdict(distance) | {"subset": size}}
    if _count(real) < 4:
        told["missing"] = (
            f"{_count(real)} real patient(s) cannot be halved, and 4 are needed: nothing says how "
            "far real images lie from each other"
        )
        return told
    try:
        told |= _beside(a, b, real, made, apart, seed)
    except AugmintError as error:
        told["missing"] = f"distances have nothing to stand beside: {error}"
    return told


def _beside(
    a: Tensor, b: Tensor, real: Planes, made: Planes, apart: bool, seed: int
) -> dict[str, Any]:
    """Every figure between halves of the patients, real and synthetic."""
    sources = made.patients if apart else None
    x, y = principal_features(a, b, count=min(AXES, len(a) // 4))
    kernel = beside_real(
        lambda p, q: [squared_mmd(p, q)], a, real.patients, b, sources, least=LEAST, seed=seed
    )
    others = beside_real(_figures, x, real.patients, y, sources, least=LEAST, seed=seed)
    of_all = [squared_mmd(a, b), *_figures(x, y)]
    told = {
        name: {**_told(*pair), "of_all": whole}
        for name, whole, pair in zip(NAMES, of_all, [*kernel, *others])
    }
    return {**told, "held_apart": apart}


def _figures(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    return frechet_distance(a, b), *precision_recall(a, b)


def _told(real: SplitDistance, made: SplitDistance) -> dict[str, Any]:
    """A figure of real against synthetic beside real against real, over the same splits."""
    apart = np.subtract(made.by_split, real.by_split)
    low, high = np.nanquantile(apart, (0.025, 0.975))
    return {
        "synthetic": made.value, "synthetic_deviation": made.deviation, "real": real.value,
        "real_deviation": real.deviation, "splits": len(real.by_split),
        "difference_over_splits": [float(low), float(high)],
        "share_of_real_splits_below": real.quantile(made.value),
    }  # fmt: skip


def _features(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Texture features of every channel."""
    parts = []
    for channel in range(images.shape[1]):
        one = images[:, channel : channel + 1]
        rows = [texture_features(p.float().clamp(-1, 1), sigmas=sigmas) for p in one.split(64)]
        parts.append(torch.cat(rows))
    return torch.cat(parts, 1)


def extractor(sigmas: Sequence[float]) -> dict[str, Any]:
    """The name of the features, and a hash of the code and numbers that they come from."""
    functions: tuple[Callable[..., Any], ...] = (
        fidelity.texture_features, fidelity._textures, fidelity._cells, fidelity._responses,
    )  # fmt: skip
    text = "".join(inspect.getsource(f) for f in functions)
    text += repr((tuple(sigmas), fidelity.CELLS, fidelity.BINS, REACH))
    return {
        "name": "texture statistics, no weights", "sigmas_px": list(sigmas),
        "cut_at_deviations": REACH,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip


def _diversity(real: Planes, made: Planes, seed: int) -> dict[str, Any]:
    """MS-SSIM within either set; None where there are too few patients or pixels."""
    found: dict[str, Any] = {}
    for name, planes in (("real", real), ("synthetic", made)):
        shown = planes.take(np.flatnonzero((planes.masks > 0).flatten(1).any(1).numpy()))
        small = min(planes.images.shape[2:]) < WINDOW
        alone = small or len(set(shown.patients)) < 2
        found[f"ms_ssim_{name}"] = (
            None if alone else asdict(diversity(shown.images, shown.patients, seed=seed))
        )
    return found


def _count(planes: Planes) -> int:
    return len(set(planes.patients))


def _sheet(path: Path, real: Planes, made: Planes, material: Material) -> None:
    """Real and synthetic images with labels, evenly chosen, ordered by their place in the stack."""
    tiles: list[list[np.ndarray]] = []
    for planes in (real, made):
        shown = np.flatnonzero((planes.masks > 0).flatten(1).any(1).numpy())
        if not len(shown):
            return
        picked = planes.take(shown[evenly(len(shown), SHOWN)])
        order = np.argsort(picked.positions, kind="stable")
        pairs = []
        for k in order:
            image, mask = picked.images[int(k), 0].float().numpy(), picked.masks[int(k)].numpy()
            pairs.append([tile(image, None), tile(image, mask)])
        tiles.append([t for pair in pairs for t in pair])
    half = 6
    rows: list[list[np.ndarray | None]] = []
    names = []
    longest = max(len(t) for t in tiles)
    for start in range(0, longest, half):
        for name, row in zip(("real", "synthetic"), tiles):
            part: list[np.ndarray | None] = [*row[start : start + half]]
            rows.append(part + [None] * (half - len(part)))
            names.append(name)
    sheet(path, rows, columns=["image", "mask"] * (half // 2), names=names,
          labels=material.facts.labels)  # fmt: skip
