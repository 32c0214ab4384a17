"""What a segmenter's fit draws its batches from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from augmint.errors import AugmintError
from augmint.segmentation.loss import annotated_classes

NO_SYNTHETIC = (
    "mixing needs synthetic cases, and there are none; give some, or set mix to sample or mix_with "
    "to augmented"
)


class Samples(Protocol):
    """What a fit draws from: N samples on one working grid.

    Attributes:
        images: (N, C, *spatial) in [-1, 1].
        masks: (N, *spatial) class index.
        annotated: Per sample, the classes an annotator looked for.
        patient_ids: Per sample.
        source_ids: Per sample, the real one that a synthetic one was made from; a real one's own
            name. Only asked for where images are mixed.
    """

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def masks(self) -> Tensor: ...  # noqa: D102
    @property
    def annotated(self) -> Sequence[frozenset[int]]: ...  # noqa: D102
    @property
    def patient_ids(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def source_ids(self) -> Sequence[str]: ...  # noqa: D102


class Stock:
    """Samples on the device, with the annotated classes as a table."""

    def __init__(self, samples: Samples, num_classes: int, device: torch.device | str) -> None:
        """The samples, copied to the device."""
        self.images = samples.images.to(device)
        self.masks = samples.masks.to(device)
        self.known = annotated_classes(samples.annotated, num_classes).to(device)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images, masks and annotated classes of some samples."""
        index = index.to(self.images.device)
        return self.images[index].float(), self.masks[index].long(), self.known[index]


def draw_samples(
    stocks: Sequence[Stock], count: int, synthetic_share: float, generator: Generator
) -> tuple[list[Tensor], Tensor, Tensor]:
    """A batch of one view: each sample's stock first, real or synthetic, then its place there.

    Returns:
        The view (B, C, *spatial) in a list, the mask and the annotated classes.
    """
    synthetic, places = _draw(count, generator)
    parts = []
    for kind, stock in enumerate(stocks):
        chosen = places[(synthetic < synthetic_share) == bool(kind)] if len(stocks) > 1 else places
        parts.append(stock.take((chosen * len(stock.images)).long()))
    image, mask, known = (torch.cat(tensors) for tensors in zip(*parts))
    return [image], mask, known


def draw_pairs(
    stocks: Sequence[Stock],
    partners: Sequence[Sequence[int]],
    count: int,
    generator: Generator,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """A batch of two views: real samples, those that a fit on real ones draws, and their partners.

    Args:
        stocks: Real samples, whose masks and annotated classes count, and synthetic ones if any.
        partners: For each real sample the places of its synthetic ones. One of them is drawn; a
            sample without any is its own partner.
        count: Samples in the batch.
        generator: A CPU generator.
    """
    which, places = _draw(count, generator)
    index = (places * len(stocks[0].images)).long()
    image, mask, known = stocks[0].take(index)
    other = image.clone()
    for i, share in enumerate(which.tolist()):
        own = partners[int(index[i])]
        if own:
            other[i] = stocks[1].images[own[int(share * len(own))]].float()
    return [image, other], mask, known


def _draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two numbers in [0, 1) for each sample, in this order whatever they are used for."""
    first = torch.rand(count, generator=generator)
    return first, torch.rand(count, dtype=torch.float64, generator=generator)


def check_samples(
    real: Samples,
    synthetic: Samples | None,
    validation: Samples | None,
    num_classes: int,
    *,
    needs_synthetic: bool = False,
) -> None:
    """Refuse samples that no segmenter can be fitted on.

    Raises:
        AugmintError: naming which.
    """
    if needs_synthetic and synthetic is None:
        raise AugmintError(NO_SYNTHETIC)
    for name, samples in (("real", real), ("synthetic", synthetic), ("validation", validation)):
        if samples is None:
            continue
        if not len(samples.images):
            raise AugmintError(f"there are no {name} samples to fit a segmenter on; give some")
        if samples.images.shape[1:] != real.images.shape[1:]:
            raise AugmintError(
                f"{name} samples have shape {tuple(samples.images.shape[1:])}, real ones "
                f"{tuple(real.images.shape[1:])}; bring both onto one working grid"
            )
        if int(samples.masks.max()) >= num_classes:
            raise AugmintError(
                f"the masks of the {name} samples hold class {int(samples.masks.max())}, but there "
                f"are {num_classes} classes (255 marks an unlabelled case); leave unlabelled cases "
                "out, or correct the labels"
            )
