"""The datum that everything passes on: one image, its mask, and where both came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from augmint.errors import AugmintError


@dataclass(frozen=True)
class Grid:
    """The voxel lattice of a case.

    Attributes:
        shape: Spatial shape, 2 or 3 numbers, in the order in which the file stores its axes.
        affine: Voxel index to mm, (n + 1, n + 1) for n spatial axes. Identity where unknown.
        spacing_known: False where the format has no spacing or the dataset disowns it; every
            distance is then in pixels, in plane, slice by slice.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    spacing_known: bool

    @property
    def dims(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size per axis in mm; all ones where the spacing is unknown."""
        if not self.spacing_known:
            return (1.0,) * self.dims
        n = self.dims
        return tuple(float(s) for s in np.linalg.norm(self.affine[:n, :n], axis=0))

    @property
    def slice_axis(self) -> int:
        """The axis across slices of a volume.

        An axis of length 1 comes first; then one that is more than 1.5 times as coarse as the
        others (their median); then the last, in which files store their slices.
        """
        single = [i for i, n in enumerate(self.shape) if n == 1]
        if single:
            return single[-1]
        spacing = self.spacing
        coarsest = int(np.argmax(spacing))
        others = [s for i, s in enumerate(spacing) if i != coarsest]
        tied = max(others) > 0.99 * spacing[coarsest]
        clear = not tied and spacing[coarsest] > 1.5 * float(np.median(others))
        return coarsest if clear else self.dims - 1

    def plane(self) -> Grid:
        """The grid of one slice of this volume (itself where it is a plane already)."""
        if self.dims == 2:
            return self
        axis = self.slice_axis
        spacing = [s for i, s in enumerate(self.spacing) if i != axis]
        shape = tuple(s for i, s in enumerate(self.shape) if i != axis)
        return Grid(shape, np.diag([*spacing, 1.0]), self.spacing_known)

    def same_as(self, other: Grid) -> bool:
        """Whether two grids have one shape and one affine (to 1e-3)."""
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=1e-3)


@dataclass(frozen=True)
class IntensityMap:
    """The map between stored values and [-1, 1], one line per channel.

    Values outside [low, high] saturate; inside, `to_stored(to_unit(x))` returns x up to the
    rounding of the stored type.

    Attributes:
        low: Stored value per channel that becomes -1.
        high: Stored value per channel that becomes +1.
        dtype: NumPy name of the stored type; integers are rounded and kept in range.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: str = "float32"

    def _bounds(self, dims: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (-1,) + (1,) * dims
        return np.reshape(self.low, shape), np.reshape(self.high, shape)

    def to_unit(self, stored: np.ndarray) -> Tensor:
        """Stored values (C, *spatial) to float32 in [-1, 1]."""
        low, high = self._bounds(stored.ndim - 1)
        unit = (stored.astype(np.float64) - low) / (high - low) * 2 - 1
        return torch.from_numpy(np.clip(unit, -1, 1).astype(np.float32))

    def to_stored(self, unit: Tensor) -> np.ndarray:
        """Values (C, *spatial) in [-1, 1] to the stored type."""
        low, high = self._bounds(unit.ndim - 1)
        values = (unit.double().clamp(-1, 1).numpy() + 1) / 2 * (high - low) + low
        kind = np.dtype(self.dtype)
        if kind.kind in "iu":
            info = np.iinfo(kind)
            values = np.clip(np.round(values), info.min, info.max)
        return values.astype(kind)


@dataclass(frozen=True)
class Provenance:
    """Where a synthetic case came from; one row of the manifest.

    Attributes:
        source_case: The real case whose mask or image it was made from.
        method: A name in `METHODS` or `module:Class`.
        run: The fitted run that made it.
        network_sha256: Hash of the weights.
        seed: The seed given by the user.
        copy: Which copy of the source, from 0.
        walk: The sampler's walk in words, for example `heun 3`.
        evaluations: Denoiser passes for one image (guidance counts twice).
        fold: The fold whose patients fitted the method, or None.
        details: The method's own columns.
    """

    source_case: str
    method: str
    run: str = ""
    network_sha256: str = ""
    seed: int = 0
    copy: int = 0
    walk: str = ""
    evaluations: int = 0
    fold: int | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One stored item: a volume or a 2-D frame, real or synthetic.

    Attributes:
        image: (C, *spatial) float32 in [-1, 1].
        mask: (*spatial) int64 class index, or None where unlabelled.
        annotated: Classes that an annotator looked for, background left out; any other class is
            unknown here, not background.
        grid: The voxel lattice of image and mask.
        intensity: Stored values <-> [-1, 1].
        case_id: Unique in its dataset; slices are `case#z003`.
        patient_id: The unit of every split and every statistic.
        domain: Vendor, centre or view: what a shift is measured across.
        text: (modality, organ, finding, ...), may be empty.
        provenance: None for a real case.
        frame: On a working canvas, its centred part that the stored frame covers; None for all.
    """

    image: Tensor
    mask: Tensor | None
    annotated: frozenset[int]
    grid: Grid
    intensity: IntensityMap
    case_id: str
    patient_id: str
    domain: str = ""
    text: tuple[str, ...] = ()
    provenance: Provenance | None = None
    frame: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        spatial = tuple(self.image.shape[1:])
        if self.mask is not None and tuple(self.mask.shape) != spatial:
            raise AugmintError(
                f"case {self.case_id!r}: image {tuple(self.image.shape)} and mask "
                f"{tuple(self.mask.shape)} differ in shape; resample the mask onto the image grid"
            )
        if spatial != self.grid.shape:
            raise AugmintError(
                f"case {self.case_id!r}: image {spatial} does not lie on its grid {self.grid.shape}"
            )

    @property
    def dims(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.grid.dims

    def slices(self) -> Iterator[Case]:
        """The 2-D slices of a volume along its slice axis; a frame yields itself."""
        if self.dims == 2:
            yield self
            return
        axis = self.grid.slice_axis
        plane = self.grid.plane()
        for z in range(self.grid.shape[axis]):
            yield replace(
                self,
                image=self.image.select(axis + 1, z),
                mask=None if self.mask is None else self.mask.select(axis, z),
                grid=plane,
                case_id=f"{self.case_id}#z{z:03d}",
            )

    def with_slices(self, slices: Sequence[Case]) -> Case:
        """This volume with image and mask replaced by those of its slices, in order.

        Raises:
            AugmintError: if the number of slices is not that of this volume.
        """
        if self.dims == 2:
            (only,) = slices
            return replace(self, image=only.image, mask=only.mask)
        axis = self.grid.slice_axis
        if len(slices) != self.grid.shape[axis]:
            raise AugmintError(
                f"case {self.case_id!r}: {len(slices)} slices given for a volume of "
                f"{self.grid.shape[axis]}; give one for each"
            )
        masks = [s.mask for s in slices if s.mask is not None]
        return replace(
            self,
            image=torch.stack([s.image for s in slices], dim=axis + 1),
            mask=torch.stack(masks, dim=axis) if len(masks) == len(slices) else None,
        )
