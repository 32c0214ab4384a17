"""Appearance moved towards a source domain without any network: three controls.

Histogram matching and Bezier curves change values alone and know no place; the swap of Fourier
amplitudes changes low frequencies and keeps every phase. Masks of the images stay true.

The planes of one volume are translated together, by one map, so that they stay consistent. Black
(-1) is where nothing was recorded: padding, or outside the field of view. Its share can be half of
a scan and says nothing of the look of tissue, so quantiles leave it out, and matching and curves
keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from augmint.errors import AugmintError

QUANTILES = 256
# Resampling may leave black a rounding error brighter; a grey level of 12 bits is five times this.
BLACK = -1 + 1e-4
# Of an amplitude (orthonormal transform: the standard deviation of white noise is its amplitude).
# An eighth of a grey level of 8 bits: below it the logarithm of an empty frequency would rule.
LEAST_AMPLITUDE = 1e-3
CURVE_POINTS = 1024
# In [-1, 1]: the identity, brighter, darker, more and less contrast.
STARTS = (
    ((-1 / 3, -1 / 3), (1 / 3, 1 / 3)),
    ((-0.8, 0.0), (0.0, 0.8)),
    ((0.0, -0.8), (0.8, 0.0)),
    ((0.0, -0.8), (0.0, 0.8)),
    ((-0.8, 0.0), (0.8, 0.0)),
)


@dataclass(frozen=True)
class Style:
    """What is kept of the images of a source domain.

    Attributes:
        quantiles: (C, Q) in [-1, 1], ascending: evenly spaced quantiles from least to greatest of
            the values above black, averaged over volumes.
        amplitude: (C, *window): logarithm of the amplitudes of brightness above black (image + 1),
            averaged over planes, under the orthonormal transform, frequency 0 in the middle
            (fftshift).

    Raises:
        AugmintError: if the two tensors do not fit each other.
    """

    quantiles: Tensor
    amplitude: Tensor

    def __post_init__(self) -> None:
        quantiles, amplitude = tuple(self.quantiles.shape), tuple(self.amplitude.shape)
        if len(quantiles) != 2 or len(amplitude) not in (3, 4) or quantiles[0] != amplitude[0]:
            raise AugmintError(
                "a style has quantiles (C, Q) and amplitudes (C, *window) with 2 or 3 spatial axes,"
                f" got {quantiles} and {amplitude}; measure it again on the source images"
            )

    def to_tensors(self) -> dict[str, Tensor]:
        """Named tensors, as safetensors stores them."""
        return {"quantiles": self.quantiles, "amplitude": self.amplitude}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Style:
        """The converse of `to_tensors`.

        Raises:
            AugmintError: if a tensor is missing or the two do not fit each other.
        """
        missing = {"quantiles", "amplitude"} - set(tensors)
        if missing:
            raise AugmintError(
                f"a stored style lacks {', '.join(sorted(missing))}; measure it again on the "
                "source images"
            )
        return Style(quantiles=tensors["quantiles"], amplitude=tensors["amplitude"])


def measure_style(volumes: Iterable[Tensor]) -> Style:
    """The style of source images, read once, one volume in memory at a time.

    Args:
        volumes: each (Z, C, *window) in [-1, 1], the planes of one case; a 3-D case is one plane
            with 3 spatial axes.

    Returns:
        Every volume counts alike in the quantiles, every plane in the amplitudes; float32, on the
        device of the volumes.

    Raises:
        AugmintError: if there is no volume, shapes differ, or a channel is black all over.
    """
    quantiles: list[Tensor] = []
    total: Tensor | None = None
    planes = 0
    for number, volume in enumerate(volumes, start=1):
        _check_images(volume, f"source volume {number}")
        if total is not None and volume.shape[1:] != total.shape:
            raise AugmintError(
                f"source volume {number} has planes {tuple(volume.shape[1:])}, those before it "
                f"{tuple(total.shape)}; bring all to one working window"
            )
        quantiles.append(_quantiles(volume, f"source volume {number}"))
        logs = _log_amplitudes(_spectrum(volume)).double().sum(0)
        total = logs if total is None else total + logs
        planes += len(volume)
    if total is None:
        raise AugmintError("a style is measured on source images, got none; give at least one")
    return Style(
        quantiles=torch.stack(quantiles).mean(0).float(), amplitude=(total / planes).float()
    )


def match_histogram(images: Tensor, style: Style, strength: float = 1.0) -> Tensor:
    """Histogram matching: values get the style's quantile of their rank.

    The map is exact (made of all ranks, not of a table of quantiles) and one per channel for the
    whole batch. Equal values share the middle of their ranks, so they stay equal. The order of
    pixels is never reversed, and black stays black.

    Args:
        images: (B, C, *spatial) in [-1, 1], the planes of one volume; the spatial shape is free.
        style: the target.
        strength: in [0, 1], mixes the map with the identity; 0 returns the images untouched.

    Returns:
        The shape of the images, float32 in [-1, 1].

    Raises:
        AugmintError: for a strength outside [0, 1], other channels than the style's, or a channel
            that is black all over.

    Source: Gonzalez and Woods, Digital Image Processing, histogram specification.
    """
    _check(images, style, strength)
    if strength == 0:
        return images
    target = style.quantiles.to(images.device, torch.float64)
    matched = images.clone()
    for channel in range(images.shape[1]):
        values = images[:, channel]
        recorded = values > BLACK
        levels, place, counts = torch.unique(
            values[recorded], return_inverse=True, return_counts=True
        )
        if len(levels) == 0:
            raise _black(channel, "images")
        last = counts.sum() - 1
        # Of each level, the mean of its first and its last rank, as a share of all ranks.
        middle = counts.cumsum(0) - (counts + 1) / 2
        share = middle.double() / last if last > 0 else torch.full_like(middle, 0.5).double()
        points = torch.linspace(0, 1, target.shape[1], dtype=torch.float64, device=images.device)
        # A sum of two rising products cannot fall, even rounded: the order of pixels is kept.
        mixed = (1 - strength) * levels.double() + strength * _interpolate(
            share, points, target[channel]
        )
        matched[:, channel][recorded] = mixed.to(images.dtype)[place]
    return matched


def swap_amplitude(images: Tensor, style: Style, strength: float) -> Tensor:
    """Fourier domain adaptation: low frequencies get the style's amplitudes and keep their phases.

    At each frequency inside a centred box the planes of a volume share one factor, the one that
    moves the mean of their log amplitudes to the style's. For a single plane that is the published
    swap. For a volume, a swap plane by plane would give each plane, a dim apex too, the amplitudes
    of an average plane and amplify what little a nearly empty plane holds; one factor keeps the
    differences between planes and treats neighbours alike.

    Deviations: amplitudes are of image + 1, so that black is 0 and the mean of a plane keeps its
    sign; the source is a mean of many images (geometric, so that a bright one does not rule), not
    one drawn image. Values that leave [-1, 1] are clamped, after which amplitudes fit less exactly.
    Black parts of a plane are not kept: slow waves reach into them, as in the published method.

    Args:
        images: (B, C, *window) in [-1, 1], the planes of one volume on the style's window.
        style: the target.
        strength: in [0, 1], the paper's beta: the box reaches floor(strength * n / 2) frequencies
            to either side of 0 on an axis of n pixels, the same in cycles per pixel on every axis,
            and 1 takes all of them. (The public code's L is half of it.) 0 returns the images
            untouched; less than 2 / n moves the mean alone.

    Returns:
        The shape of the images, float32 in [-1, 1].

    Raises:
        AugmintError: for a strength outside [0, 1], or other channels or another window than the
            style's.

    Source: Yang and Soatto, CVPR 2020, section 3.1.
    """
    _check(images, style, strength)
    window = tuple(images.shape[2:])
    if window != tuple(style.amplitude.shape[1:]):
        raise AugmintError(
            f"the style was measured on a window of {tuple(style.amplitude.shape[1:])}, the images "
            f"have {window}; bring them to the style's window"
        )
    if strength == 0:
        return images
    spectrum = _spectrum(images)
    wanted = style.amplitude.to(images.device, torch.float32)
    change = wanted - _log_amplitudes(spectrum).mean(0)
    factor = torch.where(_box(window, strength, images.device), change, 0).exp()
    axes = tuple(range(2, images.ndim))
    moved = torch.fft.ifftshift(spectrum * factor, dim=axes)
    back = torch.fft.ifftn(moved, dim=axes, norm="ortho").real - 1
    return back.clamp(-1, 1).to(images.dtype)


def bezier_curve(images: Tensor, controls: Tensor) -> Tensor:
    """Intensities through rising cubic Bezier curves from (-1, -1) to (1, 1).

    Any two control points inside the square give a curve that rises in both coordinates, so no
    order needs to be imposed on them. Black stays black.

    Args:
        images: (B, C, *spatial) in [-1, 1].
        controls: (2, 2), two points (x, y) in [-1, 1], or (C, 2, 2), those of each channel.
            Points on the diagonal, as (-1/3, -1/3) and (1/3, 1/3), give the identity.

    Returns:
        The shape of the images, float32 in [-1, 1]; evaluated by linear interpolation between
        points of the curve.

    Raises:
        AugmintError: for control points of another shape or outside [-1, 1].

    Source: Zhou et al., Medical Image Analysis 67, 2021 (Models Genesis), non-linear
    transformation; rising curves only.
    """
    _check_images(images, "images")
    channels = images.shape[1]
    if tuple(controls.shape) not in ((2, 2), (channels, 2, 2)):
        raise AugmintError(
            f"control points of images with {channels} channels are (2, 2) or ({channels}, 2, 2), "
            f"got {tuple(controls.shape)}"
        )
    if not bool((controls.abs() <= 1).all()):
        raise AugmintError(f"control points lie in [-1, 1], got {controls.tolist()}")
    each = controls.to(images.device, torch.float64).expand(channels, 2, 2)
    curved = [_curve(images[:, c].double(), each[c]) for c in range(channels)]
    return torch.stack(curved, 1).to(images.dtype)


def fit_bezier(images: Tensor, style: Style) -> Tensor:
    """The control points whose curve brings the images' quantiles nearest to the style's.

    Least squares over the quantiles of the whole batch, from a few starts. With four numbers per
    channel it cannot follow every bump of a histogram, as histogram matching does.

    Args:
        images: (B, C, *spatial) in [-1, 1], the planes of one volume; the spatial shape is free.
        style: the target.

    Returns:
        (C, 2, 2) float64 in [-1, 1], for `bezier_curve`.

    Raises:
        AugmintError: for other channels than the style's, or a channel that is black all over.
    """
    from scipy.optimize import least_squares

    _check(images, style, 1.0)
    own = _quantiles(images, "images", style.quantiles.shape[1]).cpu()
    wanted = style.quantiles.to("cpu", torch.float64)
    starts = np.array(STARTS).reshape(len(STARTS), 4)
    fitted = []
    for pair in zip(own, wanted):
        tries = [
            least_squares(_misfit, start, bounds=(-1, 1), max_nfev=100, args=pair)
            for start in starts
        ]
        best = min(tries, key=lambda one: one.cost)
        fitted.append(torch.from_numpy(best.x).reshape(2, 2))
    return torch.stack(fitted)


def bezier_towards(images: Tensor, style: Style, strength: float = 1.0) -> Tensor:
    """The fitted Bezier curve of `fit_bezier`, mixed with the identity.

    Args:
        images: (B, C, *spatial) in [-1, 1], the planes of one volume; the spatial shape is free.
        style: the target.
        strength: in [0, 1]; 0 returns the images untouched, 1 applies the whole curve.

    Returns:
        The shape of the images, float32 in [-1, 1].

    Raises:
        AugmintError: for a strength outside [0, 1], other channels than the style's, or a channel
            that is black all over.
    """
    _check(images, style, strength)
    if strength == 0:
        return images
    curved = bezier_curve(images, fit_bezier(images, style))
    return (1 - strength) * images + strength * curved


def random_bezier(generator: Generator, channels: int = 1) -> Tensor:
    """Control points of a random rising curve per channel, for styles that no scanner has.

    Args:
        generator: a CPU generator.
        channels: number of curves.

    Returns:
        (C, 2, 2) float64, uniform in [-1, 1], for `bezier_curve`.

    Source: Zhou et al., Medical Image Analysis 67, 2021 (Models Genesis), whose falling curves are
    left out: they turn bright blood dark, which is another tissue and not another style.
    """
    return torch.rand(channels, 2, 2, generator=generator, dtype=torch.float64) * 2 - 1


def _check_images(images: Tensor, name: str) -> None:
    if images.ndim not in (4, 5) or images.numel() == 0 or not images.is_floating_point():
        raise AugmintError(
            f"{name}: expected numbers (B, C, *spatial) in [-1, 1] with 2 or 3 spatial axes, got "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    if not bool(images.isfinite().all()):
        raise AugmintError(f"{name}: some values are not finite; repair the images first")


def _check(images: Tensor, style: Style, strength: float) -> None:
    _check_images(images, "images")
    if not 0 <= strength <= 1:
        raise AugmintError(f"strength lies in [0, 1], got {strength}")
    if images.shape[1] != len(style.quantiles):
        raise AugmintError(
            f"the style has {len(style.quantiles)} channels, the images {images.shape[1]}; give "
            "images of the kind that the style was measured on"
        )


def _black(channel: int, name: str) -> AugmintError:
    return AugmintError(f"{name}: channel {channel} is black all over, so it has no style")


def _quantiles(images: Tensor, name: str, count: int = QUANTILES) -> Tensor:
    """Evenly spaced quantiles of what is above black, (C, count) float64."""
    rows = []
    for channel in range(images.shape[1]):
        values = images[:, channel]
        values = values[values > BLACK].double().sort().values
        if len(values) == 0:
            raise _black(channel, name)
        place = torch.linspace(0, 1, count, dtype=torch.float64, device=values.device)
        place = place * (len(values) - 1)
        below = place.floor().long()
        above = (below + 1).clamp_max(len(values) - 1)
        rows.append(torch.lerp(values[below], values[above], place - below))
    return torch.stack(rows)


def _interpolate(x: Tensor, x_points: Tensor, y_points: Tensor) -> Tensor:
    """Linear interpolation at x between points that ascend; constant beyond them. float64."""
    after = torch.searchsorted(x_points, x.contiguous()).clamp(1, len(x_points) - 1)
    x_0, x_1 = x_points[after - 1], x_points[after]
    # Points that coincide (a vertical piece of a curve) would divide by zero.
    along = ((x - x_0) / (x_1 - x_0).clamp_min(1e-300)).clamp(0, 1)
    return torch.lerp(y_points[after - 1], y_points[after], along)


def _curve(x: Tensor, controls: Tensor) -> Tensor:
    """A Bezier curve's y at x, float64, with black kept; controls (2, 2)."""
    t = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64, device=x.device)[:, None]
    ends = torch.ones(2, dtype=torch.float64, device=x.device)
    points = (
        -((1 - t) ** 3) * ends
        + 3 * (1 - t) ** 2 * t * controls[0]
        + 3 * (1 - t) * t**2 * controls[1]
        + t**3 * ends
    )
    # Rounding can turn a level piece back by its last bit.
    x_points, y_points = points.cummax(0).values.T.contiguous()
    return torch.where(x > BLACK, _interpolate(x, x_points, y_points), x)


def _misfit(parameters: np.ndarray, own: Tensor, wanted: Tensor) -> np.ndarray:
    """Of each quantile, under the curve of four numbers."""
    return (_curve(own, torch.from_numpy(parameters).reshape(2, 2)) - wanted).numpy()


def _spectrum(images: Tensor) -> Tensor:
    """Orthonormal transform of brightness above black, frequency 0 in the middle."""
    axes = tuple(range(2, images.ndim))
    spectrum = torch.fft.fftn(images.float() + 1, dim=axes, norm="ortho")
    return torch.fft.fftshift(spectrum, dim=axes)


def _log_amplitudes(spectrum: Tensor) -> Tensor:
    return spectrum.abs().clamp_min(LEAST_AMPLITUDE).log()


def _box(window: tuple[int, ...], strength: float, device: torch.device) -> Tensor:
    """(*window) bool: frequencies within floor(strength * n / 2) of 0 on every axis."""
    inside = torch.ones(window, dtype=torch.bool, device=device)
    for axis, n in enumerate(window):
        frequency = torch.arange(n, device=device) - n // 2
        shape = [-1 if a == axis else 1 for a in range(len(window))]
        inside = inside & (frequency.abs() <= int(strength * n / 2)).reshape(shape)
    return inside
