"""What the network of `reference_shift` is shown of a case, and how wrong it is about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from augmint.case import Case
from augmint.data.pool import slice_position
from augmint.diffusion.path import add_noise, velocity
from augmint.diffusion.sampling import Job, generator_for, sample_jobs
from augmint.imaging.working import center
from augmint.methods.protocol import DatasetFacts, images_at_once
from augmint.methods.shift_strength import LEVELS
from augmint.precision import autocast

# The scanner that an image is of; 0 where the network is not told.
SOURCE, FOREIGN = 1.0, -1.0


def condition(
    masks: Tensor, shown: Tensor, positions: Tensor, origin: Tensor, num_classes: int
) -> Tensor:
    """What the denoiser is told; zeros stand for what it is not.

    Args:
        masks: (B, *spatial) int64.
        shown: (B,) whether it is told the mask.
        positions: (B,) of slices in their volumes, in [-1, 1].
        origin: (B,) 1 for the source's scanner, -1 for another.
        num_classes: Background included.

    Returns:
        (B, num_classes + 2, *spatial) float32: classes, position, origin.
    """
    spatial = masks.shape[1:]
    axes = [1] * len(spatial)
    classes = one_hot(masks.long(), num_classes).movedim(-1, 1) * shown.reshape(-1, 1, *axes)
    planes = torch.stack([positions, origin], 1).reshape(-1, 2, *axes).expand(-1, 2, *spatial)
    return torch.cat([classes.float(), planes.float()], 1)


@torch.no_grad()
def denoising_errors(
    networks: Mapping[str, Any], cases: Sequence[Case], facts: DatasetFacts, batch_size: int
) -> list[list[float]]:
    """How wrong the network is about each case at `LEVELS`: what it knows well it denoises well.

    One noise for all, so that errors differ by the images alone.

    Args:
        networks: {"image": the denoiser}.
        cases: On the canvas.
        facts: Those that the network was fitted with.
        batch_size: Of planes.

    Returns:
        For each case the mean squared error of the velocity at each level.
    """
    network = networks["image"]
    device = next(network.parameters()).device
    found: list[list[float]] = [[] for _ in cases]
    planes = [
        (number, torch.cat([image, told]))
        for number, case in enumerate(cases)
        for image, told in zip(*planes_of(on_window(case, facts), facts, SOURCE, False))
    ]
    for level in LEVELS:
        generator = generator_for("error", level)
        noise = torch.randn(facts.channels, *facts.grid.window, generator=generator)
        jobs = [Job(noise, given, (number,)) for number, given in planes]

        def run(jobs: Sequence[Job], level: float = level) -> Tensor:
            noise = torch.stack([j.noise for j in jobs]).to(device)
            given = torch.stack([j.given for j in jobs]).to(device)
            x_0, told = given[:, : facts.channels], given[:, facts.channels :]
            t = torch.full((len(jobs),), level, device=device)
            with autocast(device, "auto"):
                v = network(add_noise(x_0, noise, t), t, told).float()
            return (v - velocity(x_0, noise)).square().flatten(1).mean(1)

        sums: dict[int, list[float]] = {}
        batch = images_at_once(batch_size, facts)
        for job, error in sample_jobs(jobs, run, batch_size=batch):
            sums.setdefault(int(str(job.key[0])), []).append(float(error))
        for number, errors in sums.items():
            found[number].append(sum(errors) / len(errors))
    return found


def by_patient(
    cases: Sequence[Case], errors: Sequence[Sequence[float]], facts: DatasetFacts
) -> dict[str, list[float]]:
    """Patient -> the mean of its slices' errors at `LEVELS`; errors are those of the cases."""
    sums: dict[str, tuple[list[float], int]] = {}
    for case, own in zip(cases, errors):
        slices = case.image.shape[-1] if facts.grid.dims == 2 and case.dims == 3 else 1
        total, count = sums.get(case.patient_id, ([0.0] * len(own), 0))
        sums[case.patient_id] = (
            [t + slices * e for t, e in zip(total, own)], count + slices
        )  # fmt: skip
    return {patient: [t / count for t in total] for patient, (total, count) in sums.items()}


def on_window(case: Case, facts: DatasetFacts) -> Case:
    """The centred window of a case on the canvas."""
    by_slice = facts.grid.dims == 2 and case.dims == 3
    image = case.image.movedim(-1, 0) if by_slice else case.image
    image = center(image, facts.grid.window, -1.0)
    mask = case.mask
    if mask is not None:
        mask = center(mask.movedim(-1, 0) if by_slice else mask, facts.grid.window, 0)
        mask = mask.movedim(0, -1) if by_slice else mask
    image = image.movedim(0, -1) if by_slice else image
    grid = replace(case.grid, shape=tuple(image.shape[1:]))
    return replace(case, image=image, mask=mask, grid=grid)


def planes_of(
    window: Case, facts: DatasetFacts, origin: float, masks: bool
) -> tuple[Tensor, Tensor]:
    """Images (Z, C, *window) and conditions of a case's slices; of a frame or a 3-D case one."""
    by_slice = facts.grid.dims == 2 and window.dims == 3
    images = window.image.movedim(-1, 0) if by_slice else window.image[None]
    shown = masks and window.mask is not None
    mask = window.mask if window.mask is not None else torch.zeros(window.image.shape[1:]).long()
    mask = mask.movedim(-1, 0) if by_slice else mask[None]
    count = len(images)
    told = condition(
        mask,
        torch.full((count,), shown),
        torch.tensor([slice_position(z, count) for z in range(count)]),
        torch.full((count,), origin),
        facts.num_classes,
    )
    return images, told


def with_planes(window: Case, planes: Tensor, facts: DatasetFacts) -> Case:
    """The converse of `planes_of`: a case on the window with these images (Z, C, *window)."""
    by_slice = facts.grid.dims == 2 and window.dims == 3
    return replace(window, image=planes.movedim(0, -1) if by_slice else planes[0])
