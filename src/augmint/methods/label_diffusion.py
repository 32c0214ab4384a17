"""New anatomy: label maps drawn by a diffusion model, slice by slice up a stack.

A denoiser of label maps is told the slice's position, the slice below and, where it is asked for,
the size of each class; each may be unknown. A stack is drawn from its first slice to its last.

Source: Li, Ma and Shi, Bioengineering 12(8):812, 2025 (masks by diffusion, then images); the
conditions are our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from augmint.case import Case
from augmint.data.pool import slice_position
from augmint.diffusion.networks import LEAST_LEVEL, Denoiser, NetworkConfig, Size
from augmint.diffusion.path import add_noise, expand
from augmint.diffusion.sampling import Job, Walk, generator_for, sample, sample_jobs
from augmint.errors import AugmintError
from augmint.imaging.label_codes import Coding, code_channels, decode, encode
from augmint.imaging.warps import WarpRange, random_warp, warp_mask
from augmint.methods.protocol import (
    QUANTILES,
    DatasetFacts,
    NetworkSpec,
    Samples,
    label_size,
    position_range,
)
from augmint.precision import autocast

ASKED = re.compile(r"^(?P<label>.+?)\s+area\s*(?P<sign>[<>])\s*p(?P<percent>\d+(\.\d+)?)$")
# What is hidden from the network while it is fitted, and how often.
HIDE_SIZES = 0.5
HIDE_BELOW = 0.15
# The slice below as the sampler draws it is less right than a real one.
BELOW_WARP = 0.3
UNKNOWN = 255
# How large codes are beside noise of deviation 1. A region of many equal pixels shines through
# almost any noise: at full size one step of the walk would decide its shape.
# Source: Chen, On the Importance of Noise Scheduling for Diffusion Models, 2023.
AMPLITUDE = 0.15


@dataclass(frozen=True)
class Ask:
    """A size that is asked for: a label's area between two quantiles of the real ones, 0 to 1."""

    label: str
    low: float
    high: float


@dataclass(frozen=True)
class Stack:
    """A drawn label map (*window) or a stack of them (*window, Z), and what was asked for.

    Attributes:
        mask: int64.
        asked: Label -> the quantile of its area that was asked for.
    """

    mask: Tensor
    asked: Mapping[str, float]


def read_asks(text: str, labels: Sequence[str]) -> tuple[Ask, ...]:
    """What is asked for: `LV area > p95`, several with semicolons.

    Raises:
        AugmintError: if it is anything else, or names an unknown label or one twice.
    """
    asks: list[Ask] = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        found = ASKED.match(part)
        if not found or not 0 <= float(found["percent"]) <= 100:
            raise AugmintError(
                f"--ask wants LABEL area > pNN or LABEL area < pNN, with NN from 0 to 100; got "
                f"{part!r}"
            )
        if found["label"] not in labels:
            raise AugmintError(
                f"--ask {part!r}: no label named {found['label']!r}; choose from "
                f"{', '.join(labels)}"
            )
        at = float(found["percent"]) / 100
        low, high = (at, 1.0) if found["sign"] == ">" else (0.0, at)
        if any(ask.label == found["label"] for ask in asks):
            raise AugmintError(f"--ask: {found['label']} is asked for twice; ask once for a label")
        asks.append(Ask(found["label"], low, high))
    return tuple(asks)


def label_spec(
    facts: DatasetFacts, *, coding: Coding, size: Size, stem: int, warp: float
) -> NetworkSpec:
    """The denoiser of label maps, and what it learns from.

    Args:
        facts: Of the dataset.
        coding: How a label map is written as channels.
        size: Of the network.
        stem: Its pixel-unshuffle factor.
        warp: How far real masks are warped while fitting; 1 as far as `WarpRange` goes.
    """
    config = NetworkConfig(
        dims=facts.grid.dims,
        channels=code_channels(coding, facts.num_classes),
        condition_channels=1 + facts.num_classes + 2 * (facts.num_classes - 1),
        size=size,
        stem=stem,
        predicts="data",
    )

    def example(samples: Samples, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, canvas = len(samples.masks), samples.masks.shape[1:]
        grid = random_warp(WarpRange().scaled(warp), count, canvas, facts.grid.window, generator)
        masks = warp_mask(samples.masks, grid, facts.num_classes)
        below = _seen_below(samples, grid, facts, generator)
        sizes = torch.stack([label_size(masks == k) for k in range(1, facts.num_classes)], 1)
        hidden = torch.rand(count, 1, generator=generator) < HIDE_SIZES
        hidden = hidden | (torch.rand(sizes.shape, generator=generator) < HIDE_SIZES)
        sizes = torch.where(hidden, torch.nan, sizes)
        coded = AMPLITUDE * encode(masks, facts.num_classes, coding)
        return coded, label_condition(samples.positions, below, sizes, facts.num_classes)

    return NetworkSpec(config, example, labelled=True, loss=lambda fitted: label_loss)


def label_loss(
    network: nn.Module, x_0: Tensor, condition: Tensor | None, eps: Tensor, t: Tensor
) -> Tensor:
    """The squared error of the codes that a denoiser's velocity points at, in units of their size.

    All levels count alike. By the error of the velocity those near the finished map, where only
    the outlines are open, would outweigh those where the shapes are decided.
    """
    x_t = add_noise(x_0, eps, t)
    level = expand(t, x_t).clamp(min=LEAST_LEVEL)
    found = x_t - level * network(x_t, t, condition).float()
    return (found - x_0).square().mean() / AMPLITUDE**2


def _seen_below(
    samples: Samples, grid: Tensor, facts: DatasetFacts, generator: torch.Generator
) -> Tensor:
    """(B, *window) the slices below, each moved like its sample and a little more, or unknown."""
    count = len(samples.masks)
    if samples.below is None or facts.grid.dims == 3:
        return torch.full((count, *facts.grid.window), UNKNOWN)
    known = (samples.below < UNKNOWN).flatten(1).all(1)
    known &= torch.rand(count, generator=generator) >= HIDE_BELOW
    below = warp_mask(
        torch.where(samples.below < UNKNOWN, samples.below, 0), grid, facts.num_classes
    )
    more = random_warp(
        WarpRange().scaled(BELOW_WARP), count, facts.grid.window, facts.grid.window, generator
    )
    below = warp_mask(below, more, facts.num_classes)
    return torch.where(known.reshape(-1, 1, 1), below, UNKNOWN)


def label_condition(positions: Tensor, below: Tensor, sizes: Tensor, num_classes: int) -> Tensor:
    """What the denoiser of label maps is told.

    Args:
        positions: (B,) in [-1, 1].
        below: (B, *spatial) class indices of the slice below, 255 throughout where unknown.
        sizes: (B, num_classes - 1) as `label_size` gives them, NaN where unknown.
        num_classes: Background included.

    Returns:
        (B, 3 num_classes - 1, *spatial) float32: a plane of the position, the classes below (zeros
        where unknown), a plane of each size and one of whether it is known.
    """
    spatial = below.shape[1:]
    known = (below < UNKNOWN).unsqueeze(1)
    classes = torch.where(below < UNKNOWN, below, 0).long()
    one_hot = torch.nn.functional.one_hot(classes, num_classes).movedim(-1, 1) * known
    given = torch.stack([sizes.nan_to_num(), (~sizes.isnan()).float()], 2).flatten(1)
    planes = torch.cat([positions[:, None], given], 1)
    planes = planes.reshape(*planes.shape, *[1] * len(spatial)).expand(-1, -1, *spatial)
    return torch.cat([planes[:, :1], one_hot, planes[:, 1:]], 1).float()


def draw_stacks(
    network: Denoiser,
    orders: Sequence[tuple[Case, int]],
    facts: DatasetFacts,
    walk: Walk,
    *,
    coding: Coding,
    asks: Sequence[Ask],
    batch_size: int,
    seed: int,
) -> list[Stack]:
    """A new label map for each order, as many slices as its case has.

    Args:
        network: As `label_spec` has it fitted.
        orders: Cases, of which only the name and the number of slices count, and copies.
        facts: Those that the network was fitted with.
        walk: Of the sampler.
        coding: As it was fitted.
        asks: What is asked for.
        batch_size: Of the sampler.
        seed: With the case and the copy it seeds every draw.
    """
    device = next(network.parameters()).device
    by_slice = facts.grid.dims == 2
    counts = [case.image.shape[-1] if by_slice and case.dims == 3 else 1 for case, _ in orders]
    generators = [generator_for(seed, case.case_id, copy, "labels") for case, copy in orders]
    # One quantile for all slices of a stack: a heart is large all along.
    quantiles = [
        {a.label: a.low + (a.high - a.low) * float(torch.rand(1, generator=g)) for a in asks}
        for g in generators
    ]
    channels = code_channels(coding, facts.num_classes)
    drawn: list[list[Tensor]] = [[] for _ in orders]

    def job(number: int, z: int) -> Job:
        position = torch.tensor([slice_position(z, counts[number])])
        below = drawn[number][-1] if z else torch.full(facts.grid.window, UNKNOWN)
        sizes = _sizes(quantiles[number], position, facts)
        given = label_condition(position, below[None], sizes, facts.num_classes)[0]
        noise = torch.randn(channels, *facts.grid.window, generator=generators[number])
        return Job(noise, given, (number,))

    def run(jobs: Sequence[Job]) -> Tensor:
        noise, given = (torch.stack([getattr(j, n) for j in jobs]) for n in ("noise", "given"))
        given = given.to(device)
        with autocast(device, "auto"):
            return sample(lambda x, t: network(x, t, given).float(), noise.to(device), walk)

    for z in range(max(counts, default=0)):
        jobs = [job(n, z) for n, count in enumerate(counts) if z < count]
        for done, coded in sample_jobs(jobs, run, batch_size=batch_size):
            number = int(str(done.key[0]))
            drawn[number].append(decode(coded[None], facts.num_classes, coding)[0])
    return [
        Stack(torch.stack(masks, -1) if by_slice and case.dims == 3 else masks[0], asked)
        for (case, _), masks, asked in zip(orders, drawn, quantiles)
    ]


def _sizes(quantiles: Mapping[str, float], position: Tensor, facts: DatasetFacts) -> Tensor:
    """(1, classes) sizes at the quantiles that are asked for, of real slices thereabouts."""
    place = int(position_range(position))
    sizes = torch.full((1, facts.num_classes - 1), torch.nan)
    for label, quantile in quantiles.items():
        table = torch.tensor(facts.areas[label][place])
        at = quantile * (QUANTILES - 1)
        low = min(int(at), QUANTILES - 2)
        sizes[0, facts.labels[label] - 1] = table[low] + (at - low) * (table[low + 1] - table[low])
    return sizes
