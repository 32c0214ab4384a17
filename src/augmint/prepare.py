"""From a dataset to its working grid and pool: what every fit starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from augmint.case import Case, Grid
from augmint.data.dataset import Dataset
from augmint.data.pool import Pool, build_pool
from augmint.data.splits import draw_patients
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid, working_plane
from augmint.methods.protocol import (
    POSITIONS,
    QUANTILES,
    DatasetFacts,
    label_size,
    position_range,
)
from augmint.presets import Preset
from augmint.progress import Talk

CACHED_VOXELS = 50_000_000
# Room on either side of the labels that a window is chosen for, as a share of the canvas: masks are
# warped in it, and the organs of other patients lie elsewhere.
WINDOW_ROOM = 0.08


@dataclass(frozen=True)
class Prepared:
    """A dataset brought onto its working grid.

    Attributes:
        facts: What methods are told.
        pool: Labelled training samples on the canvas.
        dataset: The cases that the pool was made from.
    """

    facts: DatasetFacts
    pool: Pool
    dataset: Dataset


def real_labelled(dataset: Dataset) -> Dataset:
    """The real cases that carry a mask.

    Raises:
        AugmintError: if there is none.
    """
    items = tuple(i for i in dataset.items if i.masks and not i.synthetic)
    if not items:
        raise AugmintError(f"{dataset.root}: no real case has a mask; a fit needs labelled cases")
    return replace(dataset, items=items)


def prepare(
    dataset: Dataset,
    preset: Preset,
    *,
    dims: int | None = None,
    whole: bool = False,
    talk: Talk | None = None,
) -> Prepared:
    """Choose the working grid from training cases and bring them onto it.

    The canvas holds every case; the window is the centred part that holds 99.5 % of the labelled
    voxels, or the whole canvas if `whole`, and for ultrasound, whose fan must not be cut.
    """
    talk = talk or Talk(quiet=True)
    grids: list[Grid] = []
    cached: list[Case] = []
    voxels = 0
    for case in talk.counted("reading cases", dataset, len(dataset)):
        grids.append(case.grid)
        voxels += case.image.numel()
        if voxels <= CACHED_VOXELS:
            cached.append(case)
    channels = case.image.shape[0]
    grid = choose_canvas(grids, preset, dims)
    pool = build_pool(cached if len(cached) == len(grids) else dataset, grid)
    if dataset.modality != "ultrasound" and not whole:
        grid = replace(grid, window=choose_window(pool, grid))
    facts = DatasetFacts(
        channels=channels,
        labels=dict(dataset.labels),
        annotated=tuple(n for n, i in dataset.labels.items() if i in dataset.annotated),
        grid=grid,
        modality=dataset.modality,
        domains=dataset.domains,
        areas=label_areas(pool.crop(grid.window), dataset.labels),
    )
    return Prepared(facts, pool, dataset)


def label_areas(pool: Pool, labels: Mapping[str, int]) -> dict[str, tuple[tuple[float, ...], ...]]:
    """`DatasetFacts.areas` of the samples of a pool; a range without samples has those of all."""
    place = position_range(pool.positions)
    levels = np.linspace(0, 1, QUANTILES)
    found = {}
    for name, index in labels.items():
        if not index:
            continue
        size = label_size(pool.masks == index).numpy()
        rows = [size[(place == b).numpy()] for b in range(POSITIONS)]
        found[name] = tuple(
            tuple(round(float(q), 5) for q in np.quantile(row if len(row) else size, levels))
            for row in rows
        )
    return found


def choose_canvas(grids: Sequence[Grid], preset: Preset, dims: int | None = None) -> WorkingGrid:
    """The working grid of a dataset, window and canvas alike.

    3-D is chosen where every case is a volume of known spacing, at least 16 voxels thick and less
    than twice as coarse in one direction as in another; everything else goes by slices.
    """
    known = all(g.spacing_known for g in grids)
    if dims is None:
        thick = all(g.dims == 3 and min(g.shape) >= 16 for g in grids)
        dims = (
            3 if thick and known and all(max(g.spacing) < 2 * min(g.spacing) for g in grids) else 2
        )
    if dims == 3 and any(g.dims == 2 for g in grids):
        raise AugmintError(
            "a 3-D network needs volumes and this dataset has 2-D frames; use dims 2"
        )
    longest = preset.longest if dims == 2 else preset.longest_3d
    worked = [working_plane(g) if dims == 2 else g for g in grids]
    if known:
        extent = max(n * s for g in worked for n, s in zip(g.shape, g.spacing))
        finest = float(np.median([min(g.spacing) for g in worked]))
        spacing = max(finest, extent / longest)
        grid = WorkingGrid(dims, (), (), spacing_mm=(spacing,) * dims)
    else:
        grid = WorkingGrid(dims, (), (), longest=longest)
    shapes = [grid.resampled_shape(g) for g in grids]
    if dims == 2:
        # Frames lie both ways in one dataset, so the canvas is square.
        side = max(max(s) for s in shapes)
        canvas: tuple[int, ...] = (_multiple(side, 16),) * 2
    else:
        step = 16 if preset.network == "large" else 8
        canvas = tuple(_multiple(max(s[i] for s in shapes), step) for i in range(3))
    return replace(grid, canvas=canvas, window=canvas)


def choose_window(pool: Pool, grid: WorkingGrid) -> tuple[int, ...]:
    """A centred window with 99.5 % of the labelled voxels and room for masks to be warped in.

    All of the canvas if the window would be nearly as large.
    """
    step = 16 if grid.dims == 2 or all(n % 16 == 0 for n in grid.canvas) else 8
    labelled = (pool.masks > 0) & (pool.masks < 255)
    total = int(labelled.sum())
    window = list(grid.canvas)
    for axis, size in enumerate(grid.canvas):
        others = [i for i in range(labelled.ndim) if i != axis + 1]
        profile = labelled.sum(others).double()
        for smaller in range(2, size, 2):
            margin = (size - smaller) // 2
            if float(profile[margin : size - margin].sum()) >= 0.995 * total:
                window[axis] = min(size, _multiple(round(smaller + 2 * WINDOW_ROOM * size), step))
                break
    side = max(window)
    chosen = tuple(min(side, c) for c in grid.canvas) if grid.dims == 2 else tuple(window)
    small = np.prod(chosen) < 0.75 * np.prod(grid.canvas)
    return chosen if small and total else grid.canvas


def _multiple(n: int, of: int) -> int:
    return -(-n // of) * of


def choose_patients(dataset: Dataset, patients: int | Sequence[str] | None, seed: int) -> Dataset:
    """The dataset of all, of `patients` drawn, or of the named patients."""
    if patients is None:
        return dataset
    if isinstance(patients, int):
        if patients > len(dataset.patients):
            raise AugmintError(
                f"{patients} patients asked for, {dataset.name} has {len(dataset.patients)} with "
                "labels; ask for fewer"
            )
        patients = draw_patients(dataset.patients, patients, seed)
    return dataset.select(patients=list(patients))
