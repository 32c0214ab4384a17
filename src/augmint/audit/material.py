"""Real and synthetic cases on one working grid: what every part of an audit measures on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from augmint.audit.parties import Parties
from augmint.case import Case, Grid, IntensityMap
from augmint.data.dataset import Dataset, Item
from augmint.data.pool import Pool, build_pool, slice_position
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid, center
from augmint.methods.protocol import DatasetFacts
from augmint.prepare import prepare
from augmint.presets import Preset
from augmint.progress import Talk
from augmint.quality.memorisation import Picture
from augmint.quality.validity import through_grid


@dataclass(frozen=True)
class Planes:
    """2-D images of many cases.

    Attributes:
        images: (N, C, H, W) float16 in [-1, 1], on the window.
        masks: (N, H, W) uint8 class index, likewise.
        names: Of the frame, or `case#z003`.
        patients: Of each; of a synthetic one its source's, or where none is known the case itself.
        owners: Likewise, but "" for a synthetic one that shows nobody's anatomy, or nobody knows
            whose: it is compared with everybody.
        positions: Place in the stack, -1 to 1.
    """

    images: Tensor
    masks: Tensor
    names: tuple[str, ...]
    patients: tuple[str, ...]
    owners: tuple[str, ...]
    positions: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Sequence[int] | np.ndarray) -> Planes:
        """Some of them, in this order."""
        at = [int(i) for i in index]
        return Planes(
            self.images[at], self.masks[at], tuple(self.names[i] for i in at),
            tuple(self.patients[i] for i in at), tuple(self.owners[i] for i in at),
            tuple(self.positions[i] for i in at),
        )  # fmt: skip

    def some(self, most: int) -> Planes:
        """At most so many, evenly chosen."""
        return self if len(self) <= most else self.take(evenly(len(self), most))

    def pictures(self, *, owned: bool = True) -> Iterator[Picture]:
        """For the search for copies; without `owned` of no patient."""
        for image, name, owner in zip(self.images, self.names, self.owners):
            yield Picture(image, name, owner if owned else "")


@dataclass(frozen=True)
class Group:
    """Cases on the working grid, all real or all synthetic.

    Attributes:
        pool: Images and masks on the window.
        masks: (N, *canvas) uint8, for masks may be wrong where no window looks. Real ones have gone
            the way of synthetic ones, where those come from a grid like this one.
        canvas: The working grid.
        depths: Case to the spacing of its slices in mm; None where unknown or no volume.
        stacked: The cases that are volumes worked on slice by slice.
        unowned: The synthetic cases that show nobody's anatomy, or nobody knows whose.
        waived: Synthetic case to the quantities that it was asked for, which no rule limits then.
    """

    pool: Pool
    masks: Tensor
    canvas: WorkingGrid
    depths: dict[str, float | None]
    stacked: frozenset[str]
    unowned: frozenset[str] = frozenset()
    waived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, *, patients: Collection[str] | None = None, cases: Collection[str] | None = None
           ) -> Group:  # fmt: skip
        """The part of these patients and cases; it may be empty."""
        index = [
            i
            for i, (p, name) in enumerate(zip(self.pool.patient_ids, self.pool.case_ids))
            if (patients is None or p in patients) and (cases is None or case_of(name) in cases)
        ]
        pool = Pool(
            self.pool.images[index], self.pool.masks[index], self.pool.positions[index],
            tuple(self.pool.annotated[i] for i in index),
            tuple(self.pool.case_ids[i] for i in index),
            tuple(self.pool.patient_ids[i] for i in index),
        )  # fmt: skip
        return replace(self, pool=pool, masks=self.masks[index])

    @property
    def patients(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted(set(self.pool.patient_ids)))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the cases, in their order."""
        return tuple(dict.fromkeys(case_of(name) for name in self.pool.case_ids))

    def planes(self) -> Planes:
        """All slices and frames; of volumes worked on as such, those that show something."""
        pool = self.pool
        owners = tuple(
            "" if case_of(n) in self.unowned else p
            for n, p in zip(pool.case_ids, pool.patient_ids)
        )  # fmt: skip
        if pool.masks.ndim == 3:
            return Planes(
                pool.images, pool.masks, pool.case_ids, pool.patient_ids, owners,
                tuple(pool.positions.tolist()),
            )  # fmt: skip
        images = pool.images.movedim(-1, 1).flatten(0, 1)
        masks = pool.masks.movedim(-1, 1).flatten(0, 1)
        depth = pool.masks.shape[-1]
        rows = [
            (n, p, o, z)
            for n, p, o in zip(pool.case_ids, pool.patient_ids, owners) for z in range(depth)
        ]  # fmt: skip
        every = Planes(
            images, masks, tuple(f"{n}#z{z:03d}" for n, *_, z in rows),
            tuple(p for _, p, *_ in rows), tuple(o for *_, o, _ in rows),
            tuple(slice_position(z, depth) for *_, z in rows),
        )  # fmt: skip
        flat = images.flatten(1)
        return every.take(np.flatnonzero((flat.amax(1) > flat.amin(1)).numpy()))

    def cases(self, *, by_slice: bool = False) -> Iterator[Case]:
        """Masks on the canvas with their true spacing, stacks along the last axis.

        Images are blank: rules look at masks alone.
        """
        rows: dict[str, list[int]] = {}
        for i, name in enumerate(self.pool.case_ids):
            rows.setdefault(case_of(name), []).append(i)
        for name, index in rows.items():
            masks = self.masks[index].long()
            mask = masks.movedim(0, -1) if name in self.stacked else masks[0]
            grid = self._grid(name, tuple(mask.shape))
            case = Case(
                image=torch.zeros(1, *mask.shape, dtype=torch.float16), mask=mask,
                annotated=self.pool.annotated[index[0]], grid=grid,
                intensity=IntensityMap((-1.0,), (1.0,)), case_id=name,
                patient_id=self.pool.patient_ids[index[0]],
            )  # fmt: skip
            yield from case.slices() if by_slice else (case,)

    def _grid(self, name: str, shape: tuple[int, ...]) -> Grid:
        spacing = self.canvas.spacing_mm
        if spacing is None:
            return Grid(shape, np.eye(len(shape) + 1), False)
        depth = self.depths.get(name)
        steps = [*spacing, depth or spacing[-1]] if len(shape) > len(spacing) else [*spacing]
        return Grid(shape, np.diag([*steps, 1.0]), True)


@dataclass(frozen=True)
class Material:
    """All that an audit measures on.

    Attributes:
        parties: Who is who.
        facts: Of the real cases that the generator saw.
        real: All real cases.
        made: All synthetic cases, rejected ones too.
        limitations: What was found while reading, one sentence each.
    """

    parties: Parties
    facts: DatasetFacts
    real: Group
    made: Group
    limitations: tuple[str, ...]

    @property
    def seen(self) -> Group:
        """Real cases of patients that the generator saw."""
        return self.real.of(patients=set(self.parties.seen))

    @property
    def held(self) -> Group:
        """Real cases of all other patients."""
        return self.real.of(patients=set(self.parties.held))

    @property
    def kept(self) -> Group:
        """Synthetic cases that no gate rejected; where all were, these."""
        return self.made.of(cases=self.parties.kept)

    @property
    def by_slice(self) -> bool:
        """Whether one side has volumes and the other frames, so that only slices compare."""
        kinds = {bool(g.stacked) or g.pool.masks.ndim == 4 for g in (self.real, self.made)}
        return len(kinds) > 1


def case_of(name: str) -> str:
    """The case of a slice `case#z003`."""
    return name.partition("#z")[0]


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` indices, evenly chosen."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def gather(parties: Parties, preset: Preset, dims: int | None, talk: Talk) -> Material:
    """Read every case and bring it onto the working grid of the patients that were seen.

    Raises:
        AugmintError: if a case cannot be read, or channels differ.
    """
    limitations: list[str] = []
    parties, told = _same_spacing(parties)
    limitations += told
    training = parties.real.select(patients=list(parties.seen))
    facts = prepare(training, preset, dims=dims, talk=talk).facts
    grid = facts.grid
    real = _group(
        [(parties.real, i) for i in parties.real.items], grid, "real cases", talk,
        regridded=parties.sources_known,
    )  # fmt: skip
    made = replace(
        _group(parties.made, grid, "synthetic cases", talk),
        unowned=frozenset(i.case_id for _, i in parties.made if not parties.has_source(i)),
        waived={i.case_id: q for d, i in parties.made if (q := parties.asked_of(d, i))},
    )
    if made.waived:
        asked = sorted({q for quantities in made.waived.values() for q in quantities})
        limitations.append(
            f"{len(made.waived)} synthetic case(s) were asked for a {' or '.join(asked)}: it has "
            "no limit there, and sizes differ from real ones by design"
        )
    if real.pool.images.shape[1] != made.pool.images.shape[1]:
        raise AugmintError(
            f"real cases have {real.pool.images.shape[1]} channel(s), synthetic ones "
            f"{made.pool.images.shape[1]}; give datasets of the same channels"
        )
    if not parties.sources_known:
        # Its names may be those of real patients, and it would be told apart as their own.
        alone = tuple(case_of(name) for name in made.pool.case_ids)
        made = replace(made, pool=replace(made.pool, patient_ids=alone))
    return Material(parties, facts, real, made, tuple(limitations))


def _same_spacing(parties: Parties) -> tuple[Parties, list[str]]:
    """Pixels for both sides where only one knows its spacing."""
    (first, item), real = parties.made[0], parties.real
    made_known = first.load(item).grid.spacing_known
    real_known = real.load(real.items[0]).grid.spacing_known
    if made_known == real_known:
        return parties, []
    who = "synthetic" if real_known else "real"
    made = tuple((replace(d, spacing_known=False), i) for d, i in parties.made)
    told = (
        f"{who} files carry no spacing, so both sides are compared in pixels, each scaled to one "
        "longest side: sizes compare only if both show the same field of view"
    )
    return replace(parties, made=made, real=replace(real, spacing_known=False)), [told]


def _group(
    items: Sequence[tuple[Dataset, Item]],
    grid: WorkingGrid,
    title: str,
    talk: Talk,
    *,
    regridded: bool = False,
) -> Group:
    """The cases; `regridded` sends their masks the way of a synthetic one."""
    depths: dict[str, float | None] = {}
    stacked: set[str] = set()
    again: list[Tensor] = []

    def loaded() -> Iterator[Case]:
        for dataset, item in talk.counted(f"reading {title}", items, len(items)):
            case = dataset.load(item)
            native = case.grid
            volume = grid.dims == 2 and native.dims == 3
            if volume:
                stacked.add(case.case_id)
            known = volume and native.spacing_known
            depths[case.case_id] = native.spacing[native.slice_axis] if known else None
            if regridded:
                mask = through_grid(replace(case, image=case.image[:1]), grid).mask
                assert mask is not None
                again.extend(mask.unbind(-1) if volume else [mask])
            yield case

    pool = build_pool(loaded(), grid)
    masks = pool.masks
    if regridded:
        masks = center(torch.stack(again), grid.canvas, 0).to(torch.uint8)
    return Group(pool.crop(grid.window), masks, grid, depths, frozenset(stacked))
