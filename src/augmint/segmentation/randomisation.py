"""Images drawn from masks alone, in the manner of SynthSeg (Billot et al., Med Image Anal 2023).

A mask is warped, each class gets its own random Gaussian intensities, and the image is degraded
as an acquisition would: bias field, gamma curve, blur, low resolution, noise. The background holds
many tissues, so it is divided into pseudo-classes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from augmint.errors import AugmintError
from augmint.segmentation.augmentation import Augmentation, augment
from augmint.segmentation.transforms import BLACK, Draw, Range

PIXELS_FOR_CENTRES = 4096
KMEANS_STEPS = 10
WARP = Augmentation(
    rotation_p=1.0,
    rotation_deg_2d=20.0,
    rotation_deg_3d=20.0,
    scaling_p=1.0,
    scaling=(0.8, 1.2),
    deformation_p=1.0,
    deformation_px=(0.0, 2.7),
)
ACQUISITION = Augmentation(
    blur_p=1.0,
    blur_sigma_px=(0.3, 1.2),
    low_resolution_p=0.5,
    low_resolution=(0.25, 1.0),
    gamma_p=1.0,
    gamma=(0.5, 2.0),
)
NOISE = Augmentation(noise_p=0.5, noise_variance=(0.0, 0.05))


@dataclass(frozen=True)
class Randomisation:
    """What a random image may look like; intensities on the scale of [-1, 1].

    Defaults follow the hyperparameters of SynthSeg where it has them: means over the whole range,
    standard deviations up to 35 of 255 grey levels, bias up to 0.6, rotations of 20 degrees,
    sizes of 0.8 to 1.2. Shear is left out, and the elastic part is smaller than its 4 voxels, since
    its points lie closer here.

    Attributes:
        background_classes: Fewest and most pseudo-classes of a background.
        mean: Of a class's intensities.
        std: Of a class's intensities.
        bias: Standard deviation of the bias field's logarithm, at points a third of the longest
            side apart.
        warp: Changes of geometry, before intensities are drawn.
        acquisition: Changes of the image, after the bias field.
        noise: The noise of the end.
    """

    background_classes: tuple[int, int] = (3, 10)
    mean: Range = (-1.0, 1.0)
    std: Range = (0.0, 0.27)
    bias: Range = (0.0, 0.6)
    warp: Augmentation = WARP
    acquisition: Augmentation = ACQUISITION
    noise: Augmentation = NOISE


def randomise(
    mask: Tensor,
    generator: Generator,
    *,
    channels: int = 1,
    image: Tensor | None = None,
    randomisation: Randomisation | None = None,
    spacing: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """A random image for each mask, and the warped mask that it shows.

    Args:
        mask: (B, *spatial) integer classes, 2 or 3 spatial axes, on any device.
        generator: A CPU generator; every draw comes from it, in a fixed order.
        channels: Of the images; each has its own intensities.
        image: (B, C, *spatial) the masks' real images: the background is divided by k-means of
            their intensities, so that it keeps real shapes, and nothing else of them is used.
            None divides it into smooth random regions.
        randomisation: Ranges of everything that is drawn; None for the defaults.
        spacing: Voxel size per axis, for rotations; None for equal sizes.

    Returns:
        Images (B, C, *spatial) float32 in [-1, 1], scaled between percentiles as real ones are,
        and masks of the input's type.

    Raises:
        AugmintError: if shapes or numbers of pseudo-classes are impossible.
    """
    chosen = randomisation or Randomisation()
    fewest, most = chosen.background_classes
    _check(mask, image, fewest, most)
    draw = Draw(generator, mask)
    counts = torch.randint(fewest, most + 1, (len(mask),), generator=generator).tolist()
    parts = []
    for i, count in enumerate(counts):
        if image is None:
            parts.append(_smooth_regions(draw, mask.shape[1:], count))
        else:
            parts.append(_intensity_regions(image[i], mask[i] == 0, count, generator))
    # One label for each thing that gets a Gaussian: pseudo-classes, then the classes from 1 on.
    labels = torch.where(mask > 0, mask.long() + most - 1, torch.stack(parts))
    blank = mask.new_zeros((len(mask), 1, *mask.shape[1:]), dtype=torch.float32)
    _, labels = augment(blank, labels, chosen.warp, generator, spacing=spacing)
    drawn = _intensities(labels, channels, chosen, draw)
    light = (drawn - BLACK) * _bias(draw, drawn, chosen.bias)
    drawn = _scaled(light + BLACK)
    for change in (chosen.acquisition, chosen.noise):
        drawn, _ = augment(drawn, labels, change, generator)
    return _scaled(drawn), (labels - most + 1).clamp_min(0).to(mask.dtype)


def randomise_some(
    image: Tensor,
    mask: Tensor,
    probability: float,
    generator: Generator,
    *,
    spacing: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """A batch in which each sample's image is, by chance, replaced by a random one.

    Args:
        image: (B, C, *spatial) in [-1, 1].
        mask: (B, *spatial) integer classes.
        probability: Chance of a sample; 0 draws nothing from the generator.
        generator: A CPU generator.
        spacing: Voxel size per axis, for rotations.

    Returns:
        A new batch; the backgrounds of random images follow the real ones, see `randomise`.
    """
    if probability <= 0:
        return image, mask
    chosen = Draw(generator, image).chosen(probability)
    if not len(chosen):
        return image, mask
    new_image, new_mask = randomise(
        mask[chosen], generator, channels=image.shape[1], image=image[chosen], spacing=spacing
    )
    image, mask = image.clone(), mask.clone()
    image[chosen], mask[chosen] = new_image.to(image.dtype), new_mask
    return image, mask


def _check(mask: Tensor, image: Tensor | None, fewest: int, most: int) -> None:
    if mask.ndim not in (3, 4):
        raise AugmintError(
            f"randomise takes masks (B, *spatial) of 2 or 3 spatial axes, got {tuple(mask.shape)}"
        )
    if not 1 <= fewest <= most:
        raise AugmintError(
            "background_classes are the fewest and the most, at least 1 and in this order; "
            f"got {fewest} and {most}"
        )
    if image is not None and (
        image.ndim != mask.ndim + 1 or (image.shape[0], *image.shape[2:]) != tuple(mask.shape)
    ):
        raise AugmintError(
            f"images {tuple(image.shape)} do not belong to masks {tuple(mask.shape)}; give one "
            "image (C, *spatial) for each mask, on its grid"
        )


def _smooth_regions(draw: Draw, spatial: Sequence[int], count: int) -> Tensor:
    """Regions 0 to count - 1: wherever that one of `count` smooth fields is the largest."""
    return draw.smooth(1, count, spatial, max(1, max(spatial) // 5))[0].argmax(0)


def _intensity_regions(
    image: Tensor, background: Tensor, count: int, generator: Generator
) -> Tensor:
    """Regions 0 to count - 1 by k-means of the background's intensities, (*spatial).

    Centres are fitted to a sample of the background's pixels; those of a background with fewer
    distinct intensities than `count` coincide, and it gets fewer regions.
    """
    pixels = image.movedim(0, -1).float()
    known = pixels[background]
    if not len(known):
        return torch.zeros_like(background, dtype=torch.long)
    order = torch.randint(len(known), (PIXELS_FOR_CENTRES,), generator=generator)
    sample = known[order.to(image.device)]
    centres = sample[:count]
    for _ in range(KMEANS_STEPS):
        # A product, not index_add_, whose sum on a GPU differs from run to run.
        member = F.one_hot(_nearest(sample, centres), count).float()
        size = member.sum(0)[:, None]
        centres = torch.where(size > 0, member.T @ sample / size.clamp_min(1), centres)
    nearest = _nearest(pixels.reshape(-1, pixels.shape[-1]), centres)
    return nearest.reshape(background.shape)


def _nearest(values: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(values, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def _intensities(labels: Tensor, channels: int, chosen: Randomisation, draw: Draw) -> Tensor:
    """Each label's own Gaussian, (B, C, *spatial)."""
    batch, number = len(labels), int(labels.max()) + 1
    mean = draw.uniform(chosen.mean, batch, channels, number)
    std = draw.uniform(chosen.std, batch, channels, number)
    place = labels.flatten(1)[:, None].expand(-1, channels, -1)
    shape = (batch, channels, *labels.shape[1:])
    values = mean.gather(2, place).reshape(shape)
    return values + std.gather(2, place).reshape(shape) * draw.normal(values)


def _bias(draw: Draw, like: Tensor, strength: Range) -> Tensor:
    """A smooth positive field of its own for each sample and channel."""
    spatial = like.shape[2:]
    pixels = max(1, max(spatial) // 3)
    field = draw.smooth(like.shape[0], like.shape[1], spatial, pixels)
    return (field * draw.per_channel(strength, like)).exp()


def _scaled(image: Tensor) -> Tensor:
    """Each channel between its 0.5th and 99.5th percentile, as `fit_intensity` scales real ones."""
    flat = image.flatten(2)
    least = max(1, round(0.005 * flat.shape[2]))
    low = flat.kthvalue(least, 2).values[..., None]
    high = flat.kthvalue(flat.shape[2] + 1 - least, 2).values[..., None]
    scaled = (flat - low) / (high - low).clamp_min(1e-6) * 2 - 1
    return scaled.clamp(-1, 1).reshape(image.shape)
