"""What a method is: a frozen dataclass that names its networks and generates cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from augmint.case import Case
from augmint.diffusion.autoencoder import AutoencoderConfig
from augmint.diffusion.networks import NetworkConfig
from augmint.diffusion.training import Draw, Loss
from augmint.imaging.working import WorkingGrid

Order = TypeVar("Order")
# Of `DatasetFacts.areas`.
QUANTILES = 41
POSITIONS = 5


@dataclass(frozen=True)
class DatasetFacts:
    """What is read once from the data, so that a method asks for nothing twice.

    Attributes:
        channels: Image channels.
        labels: Class name to index, background included.
        annotated: Names of the classes that were looked for.
        grid: The working grid.
        modality: MR, CT, ultrasound or empty.
        domains: Vendors, centres or views.
        areas: Label to `QUANTILES` evenly spaced quantiles of its size in a sample, the first and
            the last the least and the largest, for each of `POSITIONS` ranges of slice positions
            from first to last. Sizes are roots of the share of the window.
        unlabelled: Samples without masks that joined the fit.
    """

    channels: int
    labels: Mapping[str, int]
    annotated: tuple[str, ...]
    grid: WorkingGrid
    modality: str = ""
    domains: tuple[str, ...] = ()
    areas: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    unlabelled: int = 0

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return max(self.labels.values()) + 1

    def to_json(self) -> dict[str, Any]:
        """A plain dict for config files."""
        areas = {name: [list(row) for row in rows] for name, rows in self.areas.items()}
        return {
            **asdict(self),
            "labels": dict(self.labels),
            "grid": self.grid.to_json(),
            "areas": areas,
        }

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> DatasetFacts:
        """The converse of `to_json`."""
        return DatasetFacts(
            channels=facts["channels"],
            labels=dict(facts["labels"]),
            annotated=tuple(facts["annotated"]),
            grid=WorkingGrid.from_json(facts["grid"]),
            modality=facts["modality"],
            domains=tuple(facts["domains"]),
            areas={
                name: tuple(tuple(row) for row in rows)
                for name, rows in facts.get("areas", {}).items()
            },
            unlabelled=facts.get("unlabelled", 0),
        )


def label_size(inside: Tensor) -> Tensor:
    """(B,) size of a region (B, *spatial): the root of its share, about a length."""
    return inside.flatten(1).float().mean(1).sqrt()


def position_range(positions: Tensor) -> Tensor:
    """(B,) which of the `POSITIONS` ranges slice positions (B,) from -1 to 1 lie in."""
    return ((positions + 1) / 2 * POSITIONS).long().clamp(0, POSITIONS - 1)


@dataclass(frozen=True)
class Samples:
    """A batch on the working canvas: images (B, C, *canvas), masks (B, *canvas), positions (B,).

    Each sample has the name of its case, with `#z003` for a slice. `below` (B, *canvas) are the
    masks of the slices before them in their volumes, 255 where there is none. `labelled` (B,) tells
    which have a mask; the others' are all background.
    """

    images: Tensor
    masks: Tensor
    positions: Tensor
    case_ids: tuple[str, ...] = ()
    below: Tensor | None = None
    labelled: Tensor | None = None


@dataclass(frozen=True)
class NetworkSpec:
    """A network to fit and what it learns.

    Attributes:
        config: How the network is built.
        example: (samples, generator) to the target (B, C, *window) and its condition
            (B, K, *window) or None.
        labelled: It learns from labelled samples alone, whatever joins the fit.
        keeps_unlabelled: `example` itself says what is told of unlabelled samples; without it they
            are shown without any condition, as guidance does.
        loss: The networks named before it, fitted, to its loss; flow matching without one.
        finish: What is done to it once it is fitted, given what draws its batches.
    """

    config: NetworkConfig | AutoencoderConfig
    example: Callable[[Samples, torch.Generator], tuple[Tensor, Tensor | None]]
    labelled: bool = False
    keeps_unlabelled: bool = False
    loss: Callable[[Mapping[str, Any]], Loss] | None = None
    finish: Callable[[nn.Module, Draw], None] | None = None


@runtime_checkable
class Method(Protocol):
    """A generative method; its dataclass fields are its whole configuration.

    Seven things are optional: a class variable `whole_frames`, true for a method whose working
    window must not be a part of the frames; another, `keeps_pixels`, for one whose images are made
    of recorded pixels of their source; `to_native(new, source, grid)`, for one that knows
    better than the working grid what lies between its pixels; and `problem(case)`, why it cannot
    use a stored case, or an empty text. A class variable `calibrated` is true for a method that
    learns from source patients whom no network was fitted on; what it learns comes to it among the
    networks as "calibration"; `unlabelled_are` says what it takes unlabelled images for.
    `adapt(networks, cases, facts, seed, copies)` shifts images of another scanner towards those of
    the fit.
    """

    def networks(self, facts: DatasetFacts) -> Mapping[str, NetworkSpec]:
        """What to fit, in this order; empty for a method that needs no fit."""
        ...

    def generate(
        self,
        networks: Mapping[str, Any],
        orders: Iterable[tuple[Case, int]],
        facts: DatasetFacts,
        *,
        seed: int,
    ) -> Iterator[Case]:
        """One synthetic case on the working window for each (case, copy), in their order."""
        ...


def in_groups(orders: Iterable[Order], size: int) -> Iterator[list[Order]]:
    """Orders in groups of so many, read lazily; the last may be smaller."""
    source = iter(orders)
    while group := list(islice(source, size)):
        yield group


def images_at_once(batch_size: int, facts: DatasetFacts) -> int:
    """Images per sampling batch: volumes count an eighth of it."""
    return batch_size if facts.grid.dims == 2 else max(1, batch_size // 8)


def keeps_pixels(method: object) -> bool:
    """Whether a method's images are made of pixels of their source, so that they are like it."""
    return bool(getattr(method, "keeps_pixels", False))


def needs_no_fit(method: object) -> frozenset[str]:
    """The fields of a method that may change after its fit and its calibration."""
    return frozenset(getattr(method, "loose", ()))


def is_calibrated(method: object) -> bool:
    """Whether a method learns from patients whom no network was fitted on."""
    return bool(getattr(method, "calibrated", False))


def meaning_of_unlabelled(method: object) -> str:
    """What a method takes unlabelled images for; empty for more of what it is fitted on."""
    return str(getattr(method, "unlabelled_are", ""))


def sees_whole_frames(method: object) -> bool:
    """Whether a method's working window must hold the whole canvas."""
    return bool(getattr(method, "whole_frames", False))
