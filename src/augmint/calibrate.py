"""Calibrates how far images may be shifted, on source patients whom no network was fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augmint.case import Case, Grid
from augmint.data.pool import Pool
from augmint.data.splits import hold_back
from augmint.errors import AugmintError
from augmint.imaging.style import measure_style
from augmint.imaging.working import working_plane
from augmint.methods.protocol import DatasetFacts
from augmint.methods.reference_shift import ReferenceShift
from augmint.methods.shift_planes import by_patient, denoising_errors, on_window
from augmint.methods.shift_strength import (
    LEVELS,
    Calibration,
    save_calibration,
    source_errors,
)
from augmint.methods.shift_walk import LEARNED, PLAIN, TOWARDS, Shift
from augmint.prepare import Prepared
from augmint.progress import Talk
from augmint.quality.boundaries import boundary_movement
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.predict import predict_probabilities
from augmint.segmentation.training import SegmenterConfig, fit_segmenter

# Of the patients, kept from the fit; the interval of so few is wide, that of two useless.
SHARE, LEAST = 0.2, 3
# Cases whose contours are watched; more would make the means hardly surer.
WATCHED = 12
# Strengths of the translators without a network.
WEIGHTS: Mapping[str, Sequence[float]] = {
    "histogram": (0.25, 0.5, 0.75, 1.0),
    "bezier": (0.25, 0.5, 0.75, 1.0),
    "fourier": (0.02, 0.05, 0.1, 0.2),
}


def patients_for_calibration(patients: Sequence[str], seed: int) -> tuple[str, ...]:
    """Who is kept from the fit: a fifth of the patients, at least three.

    Raises:
        AugmintError: if fewer than two would be left to fit on.
    """
    everyone = sorted(set(patients))
    if len(everyone) < LEAST + 2:
        raise AugmintError(
            f"reference_shift keeps {LEAST} patients from the fit, to calibrate on, and fits on 2 "
            f"or more; got {len(everyone)}; give more training patients"
        )
    held = max(LEAST, round(SHARE * len(everyone)))
    return hold_back(everyone, n=held, seed=seed)[1]


def calibrate(
    method: ReferenceShift,
    networks: Mapping[str, Any],
    prepared: Prepared,
    held: Sequence[str],
    folder: Path,
    *,
    hashes: Mapping[str, str],
    config: SegmenterConfig,
    seed: int,
    device: torch.device,
    talk: Talk,
) -> Calibration:
    """Measure errors, style and movement on held-back source patients, and keep them in a folder.

    Args:
        method: The method that was fitted.
        networks: Its networks.
        prepared: The source, held-back patients included.
        held: Patients whom the networks never saw.
        folder: Where the calibration goes; the segmenter that watches contours stands beside it.
        hashes: Of the networks' weights, kept with what was measured.
        config: Of that segmenter, which is fitted on the patients that the networks saw.
        seed: Of the draws.
        device: Where to compute.
        talk: Where progress goes.
    """
    facts = prepared.facts
    kept = [p for p in sorted(set(prepared.pool.patient_ids)) if p not in set(held)]
    window = prepared.pool.crop(facts.grid.window).select(kept)
    watcher = _watcher(window, facts.num_classes, folder, config, device, talk)
    cases: list[Case] = []
    grids: list[Grid] = []
    for case in prepared.dataset.select(patients=list(held)):
        cases.append(facts.grid.to_working(case))
        grids.append(case.grid)
    mean: Sequence[float] = ()
    deviation: Sequence[float] = ()
    limit = 0.0
    if method.learned:
        errors = denoising_errors(networks, cases, facts, method.batch_size)
        pooled = by_patient(cases, errors, facts)
        mean, deviation, limit = source_errors(list(pooled.values()))
    found = Calibration(
        tuple(mean), tuple(deviation), limit, {}, {}, tuple(sorted(held)),
        measure_style(_volumes(window)), dict(hashes),
    )  # fmt: skip
    step = _every(len(cases))
    watched = [
        _Watched.of(case, grid, watcher, facts, device)
        for case, grid in zip(cases[::step], grids[::step])
    ]
    movement = _movement(
        method, {**networks, "calibration": found}, facts, watched, watcher,
        seed=seed, device=device, talk=talk,
    )  # fmt: skip
    found = replace(found, movement=movement)
    strengths = {name: found.largest(name, method.movement) for name in movement}
    found = replace(found, strengths=strengths)
    save_calibration(folder, found)
    return found


def evaluations_to_calibrate(method: ReferenceShift, cases: int, *, unlabelled: bool) -> int:
    """Of the network, for one plane of each case, watched ones shifted at every strength.

    Args:
        method: What is calibrated.
        cases: Of the held-back patients.
        unlabelled: Whether images of another scanner join the fit.
    """
    if not method.learned:
        return 0
    each = sum(
        replace(method, translator=translator).evaluations_of(1, strength, 0)
        for translator in LEARNED
        if _offered(translator, method, unlabelled)
        for strength in LEVELS
    )
    watched = len(range(0, cases, _every(cases)))
    return watched * each + cases * method.evaluations_of(1, 0.0, 1)


def _every(cases: int) -> int:
    """Each which case is watched."""
    return max(1, -(-cases // WATCHED))


def _movement(
    method: ReferenceShift,
    parts: Mapping[str, Any],
    facts: DatasetFacts,
    watched: Sequence[_Watched],
    watcher: Segmenter,
    *,
    seed: int,
    device: torch.device,
    talk: Talk,
) -> dict[str, dict[str, float]]:
    """Translator to, for each strength, how far contours move on average, in pixels."""
    offered = [t for t in TOWARDS if _offered(t, method, facts.unlabelled)]
    movement: dict[str, dict[str, float]] = {t: {} for t in offered}
    done = 0
    total = sum(len(WEIGHTS.get(t, LEVELS)) for t in offered)
    with talk.bar("calibrate strengths", total) as update:
        for translator in offered:
            shifter = replace(method, translator=translator, curve="none")
            for strength in WEIGHTS.get(translator, LEVELS):
                shifts = [Shift(one.case, 0, strength) for one in watched]
                made = shifter.translate(parts, shifts, facts, seed=seed, masks=False)
                moved = [one.moved(new, watcher, device) for one, new in zip(watched, made)]
                known = [m for m in moved if m is not None]
                mean_moved = sum(known) / len(known) if known else float("nan")
                movement[translator][f"{strength:g}"] = round(mean_moved, 4)
                done += 1
                update(done, translator)
    return movement


def _offered(translator: str, method: ReferenceShift, unlabelled: int) -> bool:
    if translator in PLAIN:
        return True
    return method.learned and (translator != "energy" or unlabelled > 0)


def _watcher(
    pool: Pool,
    classes: int,
    folder: Path,
    config: SegmenterConfig,
    device: torch.device,
    talk: Talk,
) -> Segmenter:
    """The segmenter whose contours are watched."""
    where = folder.parent / "watcher"
    if not where.exists():
        with talk.bar("fit the segmenter that watches contours", config.steps) as update:
            network = fit_segmenter(
                config, pool, num_classes=classes, folder=folder.parent.parent / "watcher_fit",
                device=device, progress=lambda done: update(done, ""), resume=True,
            )  # fmt: skip
        save_segmenter(where, network)
    return load_segmenter(where, device)[0]


def _volumes(pool: Pool) -> Iterator[Tensor]:
    """The planes (Z, C, *window) of each case of a pool."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(pool.case_ids):
        rows.setdefault(name.partition("#z")[0], []).append(index)
    return (pool.images[index].float() for index in rows.values())


@dataclass(frozen=True)
class _Watched:
    """A source case whose contours are watched while it is shifted.

    Attributes:
        case: On the canvas.
        masks: What the segmenter finds in it as it is, (Z, *window).
        labels: Name -> index.
        dims: Of the working grid.
        pixel: Size of a working pixel along each axis, in pixels of the stored image.
    """

    case: Case
    masks: np.ndarray
    labels: Mapping[str, int]
    dims: int
    pixel: tuple[float, ...]

    @staticmethod
    def of(
        case: Case, native: Grid, watcher: Segmenter, facts: DatasetFacts, device: torch.device
    ) -> _Watched:
        """Watch a case on the canvas, whose stored image has the grid `native`."""
        plane = working_plane(native) if facts.grid.dims == 2 else native
        worked = facts.grid.resampled_shape(native)
        masks = _segmented(watcher, on_window(case, facts), facts.grid.dims, device)
        pixel = tuple(n / w for n, w in zip(plane.shape, worked))
        return _Watched(case, masks, facts.labels, facts.grid.dims, pixel)

    def moved(self, new: Case, watcher: Segmenter, device: torch.device) -> float | None:
        """Mean over labels of how far contours moved, in pixels; None where there are none."""
        masks = _segmented(watcher, new, self.dims, device)
        found = boundary_movement(self.masks, masks, self.labels, spacing=self.pixel)
        return sum(found.values()) / len(found) if found else None


def _segmented(watcher: Segmenter, case: Case, dims: int, device: torch.device) -> np.ndarray:
    by_slice = dims == 2 and case.dims == 3
    images = case.image.movedim(-1, 0) if by_slice else case.image[None]
    share = predict_probabilities(watcher, images, batch_size=min(16, len(images)), device=device)
    found: np.ndarray = share.argmax(1).numpy()
    return found
