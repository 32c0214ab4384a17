"""Samples on the working grid, in memory: what every fit draws from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from augmint.case import Case
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid, center


@dataclass(frozen=True)
class Pool:
    """N samples: the slices of volumes under a 2-D working grid, else whole cases.

    Attributes:
        images: (N, C, *spatial) float16 in [-1, 1].
        masks: (N, *spatial) uint8 class index; 255 where a case is unlabelled.
        positions: (N,) place of a slice in its volume, -1 to 1; 0 for frames and volumes.
        annotated: Per sample, the classes an annotator looked for.
        case_ids: Per sample, the case (with `#z003` for slices).
        patient_ids: Per sample.
        source_ids: Per sample, the one that a synthetic sample was made from (with its slice); its
            own name by default, as of a real one.
    """

    images: Tensor
    masks: Tensor
    positions: Tensor
    annotated: tuple[frozenset[int], ...]
    case_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    source_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.source_ids:
            object.__setattr__(self, "source_ids", self.case_ids)

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, window: Sequence[int]) -> Pool:
        """The centred window of every sample."""
        return replace(
            self, images=center(self.images, window, -1.0), masks=center(self.masks, window, 0)
        )

    def select(self, patients: Iterable[str]) -> Pool:
        """The samples of some patients."""
        wanted = set(patients)
        index = [i for i, p in enumerate(self.patient_ids) if p in wanted]
        return Pool(
            self.images[index],
            self.masks[index],
            self.positions[index],
            tuple(self.annotated[i] for i in index),
            tuple(self.case_ids[i] for i in index),
            tuple(self.patient_ids[i] for i in index),
            tuple(self.source_ids[i] for i in index),
        )


def build_pool(cases: Iterable[Case], grid: WorkingGrid) -> Pool:
    """Bring cases onto the canvas of a working grid.

    Raises:
        AugmintError: if there is no case.
    """
    images: list[Tensor] = []
    masks: list[Tensor] = []
    positions: list[float] = []
    annotated: list[frozenset[int]] = []
    case_ids: list[str] = []
    patient_ids: list[str] = []
    source_ids: list[str] = []
    for case in cases:
        working = grid.to_working(case)
        if images and working.image.shape[0] != images[0].shape[0]:
            raise AugmintError(
                f"case {case.case_id!r} has {working.image.shape[0]} channel(s), "
                f"{case_ids[0]!r} has {images[0].shape[0]}; store all cases with the same channels"
            )
        source = case.case_id if case.provenance is None else case.provenance.source_case
        parts = list(working.slices()) if grid.dims == 2 else [working]
        for z, part in enumerate(parts):
            images.append(part.image.half())
            none = torch.full(part.image.shape[1:], 255, dtype=torch.uint8)
            masks.append(none if part.mask is None else part.mask.to(torch.uint8))
            positions.append(slice_position(z, len(parts)))
            annotated.append(case.annotated)
            case_ids.append(part.case_id)
            patient_ids.append(case.patient_id)
            source_ids.append(source + part.case_id.removeprefix(case.case_id))
    if not images:
        raise AugmintError("a fit needs at least one case; none was selected")
    return Pool(
        torch.stack(images),
        torch.stack(masks),
        torch.tensor(positions),
        tuple(annotated),
        tuple(case_ids),
        tuple(patient_ids),
        tuple(source_ids),
    )


def slice_position(z: int, count: int) -> float:
    """Where slice z of `count` lies, from -1 to 1; 0 for a single one."""
    return 2 * z / (count - 1) - 1 if count > 1 else 0.0
