"""Predictions on the working grid, in micro-batches of a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

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
    window: Sequence[int] | None = None,
    overlap: float = 0.5,
) -> Tensor:
    """Class probabilities; a sample's do not depend on its companions.

    The last micro-batch is padded, since a convolution's rounding depends on the batch size.
    Where images are larger than `window`, each is covered by windows of its own, and their
    probabilities are averaged with a Gaussian weight about each window's centre.

    Args:
        network: Fitted; it is put into evaluation mode for the time of the call.
        image: (C, *spatial) or (N, C, *spatial) in [-1, 1].
        batch_size: Samples computed together.
        device: Where to compute; the network is there already.
        mirror_axes: Spatial axes to flip; probabilities are averaged over all their combinations.
        precision: See `autocast`; the figures differ slightly between precisions.
        window: Spatial size that the network sees at once, where images may be larger; None shows
            it whole images.
        overlap: Of neighbouring windows, as a share of the window, in [0, 1).

    Returns:
        (N, K, *spatial) float32 on the CPU; N is 1 for a single image.

    Raises:
        AugmintError: if the image does not fit the network, or the window is impossible.
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
    _check_window(window, overlap, dims)
    if not len(images):
        return torch.zeros(0, network.spec.num_classes, *images.shape[2:])
    flips = _combinations(mirror_axes)

    def probabilities(batch: Tensor) -> Tensor:
        if dims == 2:
            batch = batch.contiguous(memory_format=torch.channels_last)
        total = torch.zeros((), device=device)
        for axes in flips:
            with autocast(device, precision):
                logits = network(batch.flip(axes) if axes else batch)
            total = total + logits.float().softmax(1).flip(axes)
        return total / len(flips)

    training = network.training
    network.eval()
    try:
        if window is not None and any(n > w for n, w in zip(images.shape[2:], window)):
            return _slide(probabilities, images, window, overlap, batch_size, device)
        return _whole(probabilities, images, batch_size, device)
    finally:
        network.train(training)


def _whole(
    probabilities: Callable[[Tensor], Tensor],
    images: Tensor,
    batch_size: int,
    device: torch.device | str,
) -> Tensor:
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].to(device).float()
        count = len(batch)
        batch = torch.cat([batch, batch[-1:].expand(batch_size - count, *batch.shape[1:])])
        parts.append(probabilities(batch)[:count].cpu().contiguous())
    return torch.cat(parts)


def _slide(
    probabilities: Callable[[Tensor], Tensor],
    images: Tensor,
    window: Sequence[int],
    overlap: float,
    batch_size: int,
    device: torch.device | str,
) -> Tensor:
    """Each image alone: windows of several images in one batch would tie them together."""
    from monai.inferers import sliding_window_inference

    # Along an axis where the image is smaller than the window, the network pads as it always does.
    size = [min(n, w) for n, w in zip(images.shape[2:], window)]
    parts: list[Any] = [
        sliding_window_inference(
            image[None].float(),
            size,
            batch_size,
            probabilities,
            overlap=overlap,
            mode="gaussian",
            sw_device=torch.device(device),
            device=torch.device("cpu"),
        )
        for image in images
    ]
    return torch.cat(parts)


def _check_window(window: Sequence[int] | None, overlap: float, dims: int) -> None:
    if window is not None and (len(window) != dims or min(window) < 1):
        raise AugmintError(f"window must be {dims} sizes of at least 1, not {tuple(window)}")
    if not 0 <= overlap < 1:
        raise AugmintError(f"overlap must lie in [0, 1), not {overlap}")


def predict_mask(
    network: Segmenter,
    image: Tensor,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    mirror_axes: Sequence[int] = (),
    precision: Precision = "auto",
    window: Sequence[int] | None = None,
    overlap: float = 0.5,
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
        window: Spatial size that the network sees at once.
        overlap: Of neighbouring windows.
        largest_component: Keep the largest connected part of each class, sample by sample.
    """
    probability = predict_probabilities(
        network,
        image,
        batch_size=batch_size,
        device=device,
        mirror_axes=mirror_axes,
        precision=precision,
        window=window,
        overlap=overlap,
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
