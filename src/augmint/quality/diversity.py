"""Figures beside the kernel distance: Frechet distance, precision and recall, MS-SSIM diversity.

Frechet distance, precision and recall change with the number of images. `beside_real` therefore
gives each of them twice, for equally many images: between two halves of the real patients, and
between the first half and synthetic images that owe nothing to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augmint.errors import AugmintError
from augmint.quality.fidelity import SplitDistance, halves

RESAMPLES = 1000
# Exponents of the scales, from fine to coarse: Wang et al., Asilomar 2003.
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
# Of images from 0 to 1.
LUMINANCE, CONTRAST = 0.01**2, 0.03**2


@dataclass(frozen=True)
class Diversity:
    """How alike the images of one set are.

    Attributes:
        value: Mean MS-SSIM over pairs of different patients; 1 where all are one image.
        interval: 95 %, by bootstrap over patients.
        pairs: Number of pairs.
    """

    value: float
    interval: tuple[float, float]
    pairs: int


def principal_features(real: Tensor, *others: Tensor, count: int) -> tuple[Tensor, ...]:
    """Features along the leading principal axes of the real ones, so that covariances are known.

    Args:
        real: (N, D), N >= 2.
        *others: (M, D).
        count: Axes kept at most.

    Returns:
        (N, K) of the real ones, then of the others, in float64.
    """
    mean = real.double().mean(0)
    _, sizes, axes = torch.linalg.svd(real.double() - mean, full_matrices=False)
    kept = int((sizes > 1e-9 * sizes[0]).sum())
    return tuple((f.double() - mean) @ axes[: min(count, kept)].T for f in (real, *others))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance between normal distributions with the features' moments.

    It is above 0 for finite sets of one distribution and shrinks as they grow.

    Args:
        a: (M, D) features, M > 1.
        b: (N, D) features, N > 1.

    Source: Heusel et al., NeurIPS 2017, the FID, here on any features.
    """
    _check(a, b, least=2)
    x, y = a.double(), b.double()
    first, second = torch.cov(x.T).reshape(2 * x.shape[1:]), torch.cov(y.T).reshape(2 * x.shape[1:])
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # tr (AB)^(1/2) from the symmetric A^(1/2) B A^(1/2), which has the same eigenvalues.
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    return max(0.0, float(apart + first.trace() + second.trace() - 2 * shared))


def precision_recall(
    real: Tensor, synthetic: Tensor, *, neighbours: int = 3
) -> tuple[float, float]:
    """Precision: synthetic images that lie among real ones. Recall: real ones among synthetic ones.

    An image lies among others if it is nearer to one of them than that one's k-th neighbour is.

    Args:
        real: (M, D) features, M > k.
        synthetic: (N, D) features, N > k.
        neighbours: k.

    Source: Kynkaanniemi et al., NeurIPS 2019, Eq. 2 and 3.
    """
    _check(real, synthetic, least=neighbours + 1)

    def among(points: Tensor, others: Tensor) -> float:
        # The nearest of its own set is the point itself.
        radius = torch.cdist(others, others).kthvalue(neighbours + 1, dim=1).values
        return float((torch.cdist(points, others) <= radius).any(1).double().mean())

    x, y = real.double(), synthetic.double()
    return among(y, x), among(x, y)


def _check(a: Tensor, b: Tensor, *, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise AugmintError(
            f"features are (images, D) of one D, {least} images or more on either side; got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )


def beside_real(
    figures: Callable[[Tensor, Tensor], Sequence[float]],
    features: Tensor,
    groups: Sequence[str],
    synthetic: Tensor,
    sources: Sequence[str] | None,
    *,
    least: int = 2,
    splits: int = 50,
    seed: int = 0,
) -> list[tuple[SplitDistance, SplitDistance]]:
    """Figures between halves of the real patients, and between a half and synthetic images.

    Args:
        figures: Of two sets of features, one or several.
        features: (N, D) of real images.
        groups: The patient of each.
        synthetic: (M, D).
        sources: The patient that each was made from: then a split takes those made from patients
            of its second half alone. None where they owe nothing to single patients.
        least: Images that the figures need.
        splits: How often patients are split, 2 or more.
        seed: Of the splits and draws.

    Returns:
        For each figure that of real against real, and that of real against synthetic images.

    Raises:
        AugmintError: if there are fewer than four patients, or a half has too few real or
            synthetic images.
    """
    real_of, rng = np.array(groups), np.random.default_rng(seed)
    made_of = None if sources is None else np.array(sources)
    found: list[list[tuple[float, float]]] = []
    for first, second in halves(groups, splits, seed):
        a = np.flatnonzero(np.isin(real_of, first))
        b = np.flatnonzero(np.isin(real_of, second))
        c = np.arange(len(synthetic))
        if made_of is not None:
            c = np.flatnonzero(np.isin(made_of, second))
        size = min(len(b), len(c))
        if min(size, len(a)) < least:
            raise AugmintError(
                f"half of the patients have {len(b)} real and {len(c)} synthetic image(s), and "
                f"{least} are needed; give more of every patient"
            )
        real_half, made_half = (rng.choice(x, size, replace=False) for x in (b, c))
        real = figures(features[a], features[real_half])
        made = figures(features[a], synthetic[made_half])
        found.append(list(zip(real, made)))
    return [(_split([r for r, _ in row]), _split([m for _, m in row])) for row in zip(*found)]


def _split(values: Sequence[float]) -> SplitDistance:
    return SplitDistance(float(np.mean(values)), float(np.std(values, ddof=1)), tuple(values))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """(N) multi-scale structural similarity of pairs of images; 1 where both are equal.

    Small images have fewer scales than five; the exponents of those left are scaled to a sum of 1.
    A negative term counts as 0.

    Args:
        a: (N, C, H, W) in [-1, 1].
        b: (N, C, H, W) in [-1, 1].

    Raises:
        AugmintError: if they differ in shape, or a side has fewer than 11 pixels.

    Source: Wang et al., Asilomar 2003, Eq. 7.
    """
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[2:]) < WINDOW:
        raise AugmintError(
            f"MS-SSIM takes pairs of images (N, C, H, W) of {WINDOW} pixels or more along each "
            f"side, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    x, y = ((t.float() + 1) / 2 for t in (a, b))
    count = 1
    while count < len(SCALES) and min(a.shape[2:]) >= WINDOW * 2**count:
        count += 1
    exponents = np.array(SCALES[:count]) / sum(SCALES[:count])
    value = torch.ones(len(x), device=x.device)
    for scale, exponent in enumerate(exponents):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        light, structure = _ssim(x, y)
        term = light * structure if scale == count - 1 else structure
        value = value * term.mean((1, 2, 3)).clamp(min=0) ** float(exponent)
    return value


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at each place."""
    at = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    kernel = torch.exp(-(at**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)

    def mean(image: Tensor) -> Tensor:
        flat = F.conv2d(F.conv2d(image.flatten(0, 1)[:, None], kernel), kernel.mT)
        return flat.reshape(*image.shape[:2], *flat.shape[2:])

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    light = (2 * mx * my + LUMINANCE) / (mx**2 + my**2 + LUMINANCE)
    return light, (2 * both + CONTRAST) / (vx.clamp(min=0) + vy.clamp(min=0) + CONTRAST)


def diversity(
    images: Tensor, patients: Sequence[str], *, pairs: int = 400, seed: int = 0
) -> Diversity:
    """How alike the images of different patients are, by MS-SSIM over random pairs.

    Args:
        images: (N, C, H, W) in [-1, 1].
        patients: Of each; of synthetic images, their sources'.
        pairs: How many are drawn.
        seed: Of the draws.

    Raises:
        AugmintError: if there are fewer than two patients.
    """
    names, of = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        raise AugmintError("diversity is measured between images of two patients or more")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(images), size=(8 * pairs, 2))
    drawn = drawn[of[drawn[:, 0]] != of[drawn[:, 1]]][:pairs]
    values = torch.cat(
        [ms_ssim(images[part[:, 0]], images[part[:, 1]]).cpu() for part in _chunks(drawn, 32)]
    ).numpy()
    m = len(names)
    times = rng.multinomial(m, np.full(m, 1 / m), RESAMPLES)
    weight = times[:, of[drawn[:, 0]]] * times[:, of[drawn[:, 1]]]
    kept = weight.sum(1) > 0
    means = (weight @ values)[kept] / weight.sum(1)[kept]
    low, high = np.quantile(means, (0.025, 0.975))
    return Diversity(float(values.mean()), (float(low), float(high)), len(values))


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[k : k + size] for k in range(0, len(rows), size)]
