"""Predictions on the working grid, in micro-batches of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from augmint.errors import AugmintError
from augmint.precision import Precision, autocast
from augmint.segmentation.networks import Segmenter


@torch.no_grad()
def predict_probabilities(
    network: Segmenter,
    image: Tensor,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    mirror_axes: Sequence[int] = (),
    precision: Precision = "auto",
) -> Tensor:
    """Class probabilities; a sample's do not depend on its companions.

    The last micro-batch is padded, since a convolution's rounding depends on the batch size.

    Args:
        network: Fitted; it is put into evaluation mode for the time of the call.
        image: (C, *spatial) or (N, C, *spatial) in [-1, 1].
        batch_size: Samples computed together.
        device: Where to compute; the network is there already.
        mirror_axes: Spatial axes to flip; probabilities are averaged over all their combinations.
        precision: See `autocast`; the figures differ slightly between precisions.

    Returns:
        (N, K, *spatial) float32 on the CPU; N is 1 for a single image.

    Raises:
        AugmintError: if the image does not fit the network.
    """
    dims, channels = network.spec.dims, network.spec.in_channels
    images = image[None] if image.ndim == dims + 1 else image
    if images.ndim != dims + 2 or images.shape[1] != channels:
        raise AugmintError(
            f"this segmenter takes images with {channels} channel(s) and {dims} spatial axes, "
            f"got shape {tuple(image.shape)}"
        )
    if batch_size < 1:
        raise AugmintError(f"batch_size must be at least 1, not {batch_size}")
    flips = _combinations(mirror_axes)
    training = network.training
    network.eval()
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].to(device).float()
        count = len(batch)
        batch = torch.cat([batch, batch[-1:].expand(batch_size - count, *batch.shape[1:])])
        if dims == 2:
            batch = batch.contiguous(memory_format=torch.channels_last)
        total = torch.zeros(())
        for axes in flips:
            with autocast(device, precision):
                logits = network(batch.flip(axes) if axes else batch)
            total = total.to(device) + logits.float().softmax(1).flip(axes)
        parts.append((total / len(flips))[:count].cpu().contiguous())
    network.train(training)
    shape = (0, network.spec.num_classes, *images.shape[2:])
    return torch.cat(parts) if parts else torch.zeros(shape)


def predict_mask(
    network: Segmenter,
    image: Tensor,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    mirror_axes: Sequence[int] = (),
    precision: Precision = "auto",
    largest_component: bool = False,
) -> Tensor:
    """Class indices, (N, *spatial) int64 on the CPU; arguments as in `predict_probabilities`.

    Args:
        network: Fitted.
        image: (C, *spatial) or (N, C, *spatial).
        batch_size: Samples computed together.
        device: Where to compute.
        mirror_axes: Spatial axes to flip.
        precision: See `autocast`.
        largest_component: Keep the largest connected part of each class, sample by sample.
    """
    probability = predict_probabilities(
        network,
        image,
        batch_size=batch_size,
        device=device,
        mirror_axes=mirror_axes,
        precision=precision,
    )
    mask = probability.argmax(1)
    if largest_component:
        mask = torch.stack([keep_largest(sample) for sample in mask]) if len(mask) else mask
    return mask


def keep_largest(mask: Tensor) -> Tensor:
    """Each class reduced to its largest face-connected part; the rest becomes background.

    Args:
        mask: (*spatial) class index.
    """
    from scipy.ndimage import label

    kept = torch.zeros_like(mask)
    for index in mask.unique().tolist():
        if index == 0:
            continue
        parts, count = label((mask == index).numpy())
        sizes = torch.from_numpy(parts).flatten().bincount(minlength=count + 1)
        largest = int(sizes[1:].argmax()) + 1
        kept[torch.from_numpy(parts) == largest] = index
    return kept


def _combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets of spatial axes, counted as axes of (N, C, *spatial)."""
    subsets = chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))
    return [tuple(axis + 2 for axis in subset) for subset in subsets]
