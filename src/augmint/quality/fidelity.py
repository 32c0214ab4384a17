"""Fidelity: how far the distribution of synthetic images lies from that of real ones.

The distance is the kernel distance of Binkowski et al., ICLR 2018: the squared maximum mean
discrepancy (MMD) under a cubic kernel. It depends on the features it is computed on. Figures on
`texture_features`, on `network_features` of one or another segmenter, and published KID values (on
Inception features) cannot be compared with each other. Each is read beside the same figure between
two halves of the real patients, on the same features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.precision import Precision, autocast
from augmint.segmentation.networks import Segmenter

SIGMAS = (1.0, 2.0, 4.0)
CELLS = 4
BINS = 8
# Below this deviation a feature of [-1, 1] images is constant but for rounding.
CONSTANT = 1e-6
ROUNDING = 1e-4


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance by random subsets.

    Attributes:
        value: Mean over the subsets; unbiased, so that it may be negative.
        deviation: Standard deviation over the subsets. They share images, so it is no standard
            error of `value`.
    """

    value: float
    deviation: float


@dataclass(frozen=True)
class SplitDistance:
    """Kernel distances between halves of patients, over random splits.

    Attributes:
        value: Mean over the splits.
        deviation: Standard deviation over the splits.
        by_split: Each split's distance.
    """

    value: float
    deviation: float
    by_split: tuple[float, ...]

    def quantile(self, distance: float) -> float:
        """The share of these splits at or below a distance; 1 where it exceeds all of them."""
        return float((np.array(self.by_split) <= distance).mean())


def squared_mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD under the kernel (x.y / D + 1)^3.

    Args:
        a: (M, D) features, M >= 2.
        b: (N, D) features, N >= 2.

    Raises:
        AugmintError: if they do not fit together, or hold NaN.

    Source: Gretton et al., JMLR 2012, Lemma 6; kernel of Binkowski et al., ICLR 2018.
    """
    _check_features(a, b)
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def kernel_distance(
    features_a: Tensor,
    features_b: Tensor,
    *,
    subset_size: int,
    subsets: int = 100,
    seed: int = 0,
) -> KernelDistance:
    """The kernel distance between two sets of images, over random subsets of both.

    Frames of a patient resemble each other. Where synthetic images owe pixels to real ones, take
    `held_apart_distance`, or images of other patients: a copy has no distance from its source.

    Args:
        features_a: (M, D), standardised.
        features_b: (N, D), standardised alike.
        subset_size: Images drawn from either side, without replacement.
        subsets: How often, 2 or more.
        seed: Of the draws.

    Raises:
        AugmintError: if a side has fewer images than a subset, or the features do not fit together.

    Source: Binkowski et al., ICLR 2018, the KID.
    """
    _check_features(features_a, features_b)
    least = min(len(features_a), len(features_b))
    if not 2 <= subset_size <= least or subsets < 2:
        raise AugmintError(
            f"{subsets} subsets of {subset_size} images from {len(features_a)} and "
            f"{len(features_b)}; give 2 subsets or more, of 2 to {least} images"
        )
    rng = np.random.default_rng(seed)

    def some(features: Tensor) -> Tensor:
        return features[rng.choice(len(features), subset_size, replace=False)]

    values = [squared_mmd(some(features_a), some(features_b)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(values)), float(np.std(values, ddof=1)))


def real_split_distance(
    features: Tensor, groups: Sequence[str], *, splits: int = 100, seed: int = 0
) -> SplitDistance:
    """The kernel distance between two random halves of the real patients.

    It is what a synthetic set is measured against. Its mean is above zero where frames of a
    patient resemble each other, and its spread is that of so many patients.

    Args:
        features: (N, D) of real images, standardised.
        groups: The patient of each.
        splits: How often patients are split, 2 or more.
        seed: Of the splits.

    Raises:
        AugmintError: if there are fewer than four patients.
    """
    return held_apart_distance(features, groups, features, groups, splits=splits, seed=seed)


def held_apart_distance(
    features: Tensor,
    groups: Sequence[str],
    synthetic: Tensor,
    sources: Sequence[str],
    *,
    splits: int = 100,
    seed: int = 0,
) -> SplitDistance:
    """The kernel distance from real images of half the patients to synthetic ones of the others.

    With one seed its halves are those of `real_split_distance`: split by split the two figures
    differ only in that the second half's images are synthetic. A split uses all images of its
    halves, since the estimator is unbiased at any size.

    Args:
        features: (N, D) of real images, standardised.
        groups: The patient of each.
        synthetic: (M, D), standardised by the real ones.
        sources: The patient that each was made from, among `groups`.
        splits: How often patients are split, 2 or more.
        seed: Of the splits.

    Raises:
        AugmintError: if there are fewer than four patients, a source is unknown, or a half has
            fewer than two synthetic images.
    """
    _check_features(features, synthetic)
    if len(groups) != len(features) or len(sources) != len(synthetic) or splits < 2:
        raise AugmintError(
            f"{len(features)} and {len(synthetic)} images, but {len(groups)} and {len(sources)} "
            f"patients, and {splits} splits; give one patient for each image and 2 splits or more"
        )
    if strangers := sorted(set(sources) - set(groups)):
        raise AugmintError(
            f"synthetic images come from patients without real ones: {listed(strangers, 5)}; give "
            "their real images too, or compare by kernel_distance"
        )
    real_of, made_of = np.array(groups), np.array(sources)
    values = []
    for first, second in halves(groups, splits, seed):
        a, b = features[np.isin(real_of, first)], synthetic[np.isin(made_of, second)]
        if len(b) < 2:
            raise AugmintError(
                f"half of the patients ({listed(second, 5)}) have {len(b)} synthetic image(s); "
                "give some of every patient"
            )
        values.append(squared_mmd(a, b))
    return SplitDistance(float(np.mean(values)), float(np.std(values, ddof=1)), tuple(values))


def halves(groups: Sequence[str], splits: int, seed: int) -> Iterator[tuple[list[str], list[str]]]:
    """Random splits of the patients into two halves, each sorted, the first the smaller one.

    Raises:
        AugmintError: if there are fewer than four patients.
    """
    names = sorted(set(groups))
    if len(names) < 4:
        raise AugmintError(f"{len(names)} patient(s) cannot be halved; give 4 or more")
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        order = [names[i] for i in rng.permutation(len(names))]
        yield sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])


def standardise(real: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features less the mean of the real ones, divided by their deviation.

    Features that do not vary among the real images have no scale and are dropped from all. NaN (a
    cell without visible pixels) becomes 0, the real mean: it tells nothing.

    Args:
        real: (N, D) features, N >= 2.
        *others: (M, D) features.

    Returns:
        The real features, then the others, in float64.

    Raises:
        AugmintError: if they differ in D, or nothing varies.
    """
    if any(f.ndim != 2 or f.shape[1] != real.shape[1] for f in (real, *others)):
        raise AugmintError(
            "features are (images, D) of one D; got "
            f"{', '.join(str(tuple(f.shape)) for f in (real, *others))}"
        )
    values = real.double().cpu().numpy()
    known = np.isfinite(values)
    count = known.sum(0).clip(1)
    mean = np.where(known, values, 0).sum(0) / count
    deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    kept = deviation > CONSTANT
    if not kept.any():
        raise AugmintError(
            f"none of {len(kept)} features varies among {len(real)} real image(s); give more images"
        )
    scaled = ((f.double().cpu().numpy() - mean)[:, kept] / deviation[kept] for f in (real, *others))
    return tuple(torch.from_numpy(np.nan_to_num(f, nan=0.0)) for f in scaled)


def texture_features(
    images: Tensor, areas: Tensor | None = None, *, sigmas: Sequence[float] = SIGMAS
) -> Tensor:
    """A fixed bank of texture features; nothing in it is learned.

    At each scale (a Gaussian of `sigma` pixels) there are three responses: the derivatives along
    rows and columns, times sigma, and the Laplacian, times sigma squared, so that scales are alike.
    Each of the 4 x 4 cells of the visible area's bounding box has the mean and the root mean square
    of every response, and the shares of 8 equal grey-level bins over [-1, 1]. A response counts
    where its kernel (cut at 3 sigma) lies wholly inside the visible area, so that the sector's edge
    is no texture. A cell without such pixels is NaN, see `standardise`.

    Args:
        images: (N, 1, H, W) in [-1, 1].
        areas: (N, H, W) bool, the visible area of each; None is the whole frame.
        sigmas: Scales in pixels.

    Returns:
        (N, 16 * (6 * scales + 8)) float32.

    Raises:
        AugmintError: if images and areas do not fit, or an area is too small for a scale.
    """
    if images.ndim != 4 or images.shape[1] != 1 or not len(images):
        raise AugmintError(f"texture features take images (N, 1, H, W), got {tuple(images.shape)}")
    if not bool((images.abs() <= 1 + ROUNDING).all()):
        raise AugmintError(
            f"texture features take images in [-1, 1], got {float(images.min()):.3g} to "
            f"{float(images.max()):.3g}; rescale or clip them first"
        )
    areas = torch.ones_like(images[:, 0]) if areas is None else areas.bool()
    if areas.shape != images[:, 0].shape:
        raise AugmintError(
            f"images {tuple(images.shape)} and visible areas {tuple(areas.shape)} do not fit"
        )
    return torch.cat(
        [
            _textures(image, area, sigmas, start)
            for start, image, area in zip(
                range(0, len(images), 16), images.float().split(16), areas.float().split(16)
            )
        ]
    )


def _textures(images: Tensor, areas: Tensor, sigmas: Sequence[float], start: int) -> Tensor:
    rows, columns = _cells(areas.amax(2)), _cells(areas.amax(1))

    def pooled(maps: Tensor, area: Tensor) -> Tensor:
        """(N, maps * 16) means over each cell's share of an area (N, 1, H, W)."""
        total = torch.einsum("nah,nchw,nbw->ncab", rows, maps * area, columns)
        return (total / torch.einsum("nah,nchw,nbw->ncab", rows, area, columns)).flatten(1)

    parts = []
    for sigma in sigmas:
        maps, radius = _responses(images, sigma)
        outside = F.pad(1 - areas[:, None], (radius,) * 4, value=1.0)
        outside = F.max_pool2d(outside, (2 * radius + 1, 1), stride=1)
        inner = 1 - F.max_pool2d(outside, (1, 2 * radius + 1), stride=1)
        if empty := [i + start for i, n in enumerate(inner.sum((1, 2, 3))) if n == 0]:
            raise AugmintError(
                f"image {empty[0]} has no visible square of {2 * radius + 1} pixels, which scale "
                f"{sigma:g} needs; give a larger area or smaller scales"
            )
        parts += [pooled(maps, inner), pooled(maps**2, inner).sqrt()]
    level = ((images + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    shares = F.one_hot(level[:, 0], BINS).permute(0, 3, 1, 2).float()
    return torch.cat([*parts, pooled(shares, areas[:, None])], 1)


def _cells(extent: Tensor) -> Tensor:
    """(N, 4, L): which of four equal parts of the extent (N, L) each row or column is in."""
    place = torch.arange(extent.shape[1], device=extent.device)
    first = extent.argmax(1, keepdim=True)
    length = extent.shape[1] - extent.flip(1).argmax(1, keepdim=True) - first
    part = torch.div((place - first) * CELLS, length, rounding_mode="floor")
    return torch.stack([(part == cell).float() for cell in range(CELLS)], 1)


def _responses(images: Tensor, sigma: float) -> tuple[Tensor, int]:
    """(N, 3, H, W) d/drow, d/dcolumn and Laplacian, and the radius of their kernels."""
    radius = int(3 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    smooth = torch.exp(-(x**2) / (2 * sigma**2))
    smooth = smooth / smooth.sum()
    # Exact on ramps and parabolas, although the kernels are sampled and cut.
    slope = x * smooth / (x**2 * smooth).sum() * sigma
    curve = (x**2 - (x**2 * smooth).sum()) * smooth
    curve = 2 * curve / (x**2 * curve).sum() * sigma**2
    padded = F.pad(images, (radius,) * 4, mode="replicate")

    def response(along_rows: Tensor, along_columns: Tensor) -> Tensor:
        return F.conv2d(
            F.conv2d(padded, along_rows[None, None, :, None]), along_columns[None, None, None]
        )

    laplacian = response(curve, smooth) + response(smooth, curve)
    return torch.cat([response(slope, smooth), response(smooth, slope), laplacian], 1), radius


@torch.no_grad()
def network_features(
    segmenter: Segmenter,
    images: Tensor,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Tensor:
    """The deepest features of a fitted segmenter, pooled: what its task taught it to see.

    Mean and standard deviation over positions of each channel, before the norm. Another segmenter,
    or the same one fitted again, gives other features: compare figures of one and the same only,
    and never with published KID values. It should not have been fitted on the images compared.

    Args:
        segmenter: Of an architecture in `DEEPEST`; it is put into evaluation mode for the call.
        images: (N, C, *spatial) in [-1, 1].
        batch_size: Images computed together.
        device: Where to compute; the network is there already.
        precision: See `autocast`.

    Returns:
        (N, 2 * channels) float32 on the CPU.

    Raises:
        AugmintError: for another architecture, or images that do not fit.
    """
    spec = segmenter.spec
    if images.ndim != spec.dims + 2 or images.shape[1] != spec.in_channels or not len(images):
        raise AugmintError(
            f"this segmenter takes images (N, {spec.in_channels}, ...) with {spec.dims} spatial "
            f"axes, got {tuple(images.shape)}"
        )
    features: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        flat = output.float().flatten(2)
        features.append(torch.cat([flat.mean(2), flat.std(2, correction=0)], 1).cpu())

    training = segmenter.training
    hook = _deepest(segmenter).register_forward_hook(keep)
    segmenter.eval()
    try:
        for batch in images.float().split(batch_size):
            with autocast(device, precision):
                segmenter(batch.to(device))
    finally:
        hook.remove()
        segmenter.train(training)
    return torch.cat(features)


def _deepest(segmenter: Segmenter) -> nn.Module:
    """The layer whose output is the bottleneck. An instance norm would level its means."""
    name = segmenter.spec.name
    if name not in DEEPEST:
        raise AugmintError(
            f"the deepest features of {name} are not known; give one of {', '.join(DEEPEST)}"
        )
    return DEEPEST[name](segmenter.network)


def _innermost(part: Any) -> Any:
    """Of MONAI's U-Nets, each level of which holds the next."""
    while isinstance(part, nn.Sequential) and hasattr(part[1], "submodule"):
        part = part[1].submodule
    return part


# At a total stride of 32 few pixels are left, and instance norms there make much of rounding: the
# features of a `resnet50_unet` hang on the size of the batch.
DEEPEST: dict[str, Callable[[Any], nn.Module]] = {
    "unet": lambda network: _innermost(network.model).conv,
    "residual_unet": lambda network: network.down_layers[-1],
    "attention_unet": lambda network: _innermost(network.model).conv[-1].conv,
}


def _check_features(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise AugmintError(
            "features are (images, D) of one D, two images or more on either side; got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise AugmintError("features hold NaN or infinite values; standardise them first")
