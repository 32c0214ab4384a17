"""How alike two images are, whatever the flip, shift, small turn, scale and contrast between them.

Maps of local structure are compared by normalised cross-correlation over the part in which they
overlap: at half the size for many turns, flips and scales, and all shifts at once by Fourier
transform, then by gradient ascent from the best of these ways of laying one on the other. The
spectra tell beforehand which images are worth it (as in Reddy and Chatterji, IEEE TIP 1996).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from augmint.quality.structure import COARSE, Maps, Tolerance, joined

# Least share of the query's structure within the overlap.
OVERLAP = 0.5
RADII, ANGLES = 16, 48
# Candidates of a query that are compared exactly, and steps at half and at full size.
WAYS = 6
STEPS = (14, 8)


def spectra(maps: Maps, scale: float = 1.0) -> Tensor:
    """(N, RADII, ANGLES): size of the spectrum over radius and half a turn of angle.

    It does not change with a shift nor with half a turn; a turn moves it along the angle and a
    flip reverses that. Each radius has mean 0, the whole length 1.

    Args:
        maps: N maps.
        scale: Radii are read as those of images this much larger.
    """
    size = 2 * COARSE
    spectrum = torch.fft.fft2(maps.coarse().values, s=(size, size)).abs().square().sum(1, True)
    spectrum = torch.fft.fftshift(spectrum.sqrt(), dim=(-2, -1))
    radius = torch.linspace(4, COARSE * 0.8, RADII, device=spectrum.device)[:, None] * scale
    angle = (torch.arange(ANGLES, device=spectrum.device) * math.pi / ANGLES)[None]
    at = torch.stack([radius * angle.cos(), radius * angle.sin()], -1) / COARSE
    # fftshift puts frequency 0 at index size / 2, half a pixel past the centre.
    grid = (at + 1 / size).expand(len(maps), -1, -1, -1)
    polar = F.grid_sample(spectrum, grid, align_corners=False)[:, 0].sqrt()
    ends = torch.cat([polar[..., -1:], polar, polar[..., :1]], -1)
    polar = (ends[..., :-2] + 2 * polar + ends[..., 2:]) / 4
    polar = polar - polar.mean(-1, keepdim=True)
    return polar / polar.flatten(1).norm(dim=1).clamp(min=1e-6)[:, None, None]


def spectral_match(queries: Maps, reals: Tensor, tolerance: Tolerance) -> Tensor:
    """(Q, N) best cosine between spectra, over the turns, flips and scales that are tolerated.

    Args:
        queries: Q maps.
        reals: (N, RADII, ANGLES) `spectra`.
        tolerance: What may lie between.
    """
    mean = reals.mean(0)
    flat = _unit(reals - mean)
    reach = math.ceil(tolerance.rotation_deg / (180 / ANGLES))
    turns = list(range(-reach, reach + 1))
    if tolerance.quarter_turns:
        turns += [t + ANGLES // 2 for t in turns]
    best = torch.full((len(queries), len(reals)), -1.0, device=reals.device)
    for scale in {1 / (1 + 0.8 * tolerance.scale), 1.0, 1 + 0.8 * tolerance.scale}:
        upright = spectra(queries, scale)
        # A flip takes angle a to -a, and index i to -i modulo ANGLES.
        for shown in (upright, upright.flip(-1).roll(1, -1))[: 1 + tolerance.flips]:
            for turn in turns:
                best = torch.maximum(best, _unit(shown.roll(turn, -1) - mean) @ flat.T)
    return best


def _unit(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _poses(tolerance: Tolerance) -> list[tuple[int, bool]]:
    """Quarter turns and flips that differ."""
    turns = (0, 1, 2, 3) if tolerance.quarter_turns else (0, 2) if tolerance.flips else (0,)
    return [(turn, flip) for turn in turns for flip in (False, True)[: 1 + tolerance.flips]]


def _posed(maps: Maps, pose: tuple[int, bool]) -> Maps:
    parts = (torch.rot90(x, pose[0], (2, 3)) for x in (maps.values, maps.visible))
    return Maps(*(x.flip(3) if pose[1] else x for x in parts))


def _matrix(ways: Tensor) -> Tensor:
    """(M, 2, 3) affine maps from ways: angle, shear, log scales and shifts along rows, columns."""
    angle, shear, log_y, log_x, down, right = ways.unbind(1)
    cos, sin = angle.cos(), angle.sin()
    y, x = torch.exp(-log_y), torch.exp(-log_x)
    return torch.stack(
        [
            torch.stack([cos * x, (shear * cos - sin) * y, right], 1),
            torch.stack([sin * x, (shear * sin + cos) * y, down], 1),
        ],
        1,
    )


def _laid(maps: Maps, ways: Tensor) -> Maps:
    """Each map turned, scaled and shifted its own way."""
    grid = F.affine_grid(_matrix(ways), list(maps.values.shape), align_corners=False)
    values = F.grid_sample(maps.values, grid, mode="bilinear", align_corners=False)
    return Maps(values, F.grid_sample(maps.visible, grid, mode="bilinear", align_corners=False))


def _coarse_ways(tolerance: Tolerance, device: torch.device) -> Tensor:
    """(M, 6) turns and scales, close enough for `refine` to find those between them."""

    def spread(limit: float, step: float) -> list[float]:
        reach = math.ceil(max(limit - step / 2, 0) / step)
        return [k * step for k in range(-reach, reach + 1)]

    turns = spread(math.radians(tolerance.rotation_deg), math.radians(5))
    scales = spread(math.log1p(tolerance.scale), 0.12)
    rows = [[a, 0.0, s, s, 0.0, 0.0] for a in turns for s in scales]
    return torch.tensor(rows, device=device)


def coarse_search(
    query: Maps, reals: Maps, tolerance: Tolerance, *, scales: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The most promising way to lay one query on each of some real images, at half the size.

    Args:
        query: One map.
        reals: K maps.
        tolerance: What may lie between.
        scales: Whether to try scales too.

    Returns:
        (K) the correlation by the maps' whole norms, (K) the index of the pose, (K, 6) the way.
    """
    tried = tolerance if scales else replace(tolerance, scale=0.0)
    ways = _coarse_ways(tried, query.values.device)
    small = query.coarse()
    laid = torch.cat(
        [_laid(_each(_posed(small, pose), len(ways)), ways).values for pose in _poses(tolerance)]
    )
    norms = laid.flatten(1).norm(dim=1).clamp(min=1e-6)
    reach = round(tolerance.shift * COARSE)
    size = _fast(COARSE + reach)
    spectrum = torch.fft.rfft2(laid / norms.view(-1, 1, 1, 1), s=(size, size)).conj()
    best, where = [], []
    # In small chunks, which stay in a processor's cache.
    for start in range(0, len(reals), 8):
        chunk = reals[start : start + 8].coarse().values.float()
        product = (spectrum[None] * torch.fft.rfft2(chunk, s=(size, size))[:, None]).sum(2)
        found = _near(torch.fft.irfft2(product, s=(size, size)), reach).flatten(1)
        value, place = (found.abs() if tolerance.inverted else found).max(1)
        best.append(value / chunk.flatten(1).norm(dim=1).clamp(min=1e-6))
        where.append(place)
    place, shifts = torch.cat(where), (2 * reach + 1) ** 2
    way, shift = place // shifts, place % shifts
    start_ways = ways[way % len(ways)].clone()
    moved = torch.stack([shift % (2 * reach + 1), shift // (2 * reach + 1)], 1).float() - reach
    # The query moves by the shift; a grid tells where to read, in the query's own turned frame.
    read = -(_matrix(start_ways)[:, :, :2] @ (moved[..., None] * 2 / COARSE))
    start_ways[:, 4:] = read[:, [1, 0], 0]
    return torch.cat(best), way // len(ways), start_ways


def _near(correlation: Tensor, reach: int) -> Tensor:
    """Shifts of -reach to reach along both axes, of a correlation by Fourier transform."""
    if not reach:
        return correlation[..., :1, :1]
    rows = torch.cat([correlation[..., -reach:, :], correlation[..., : reach + 1, :]], -2)
    return torch.cat([rows[..., -reach:], rows[..., : reach + 1]], -1)


def _each(maps: Maps, times: int) -> Maps:
    return Maps(maps.values.expand(times, -1, -1, -1), maps.visible.expand(times, -1, -1, -1))


def _fast(least: int) -> int:
    """The next even length with no prime factor above 5, which Fourier transforms like."""
    rest = least
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return least if rest == 1 and least % 2 == 0 else _fast(least + 1)


def overlap_correlation(a: Maps, b: Maps) -> Tensor:
    """(M) normalised correlation of pairs of maps over their overlap, in [-1, 1].

    0 where there is no structure, or less than half of that of `a` lies in the overlap.
    """

    def total(x: Tensor) -> Tensor:
        return x.sum((1, 2, 3))

    energy_a = total(a.values.square() * b.visible)
    energy_b = total(b.values.square() * a.visible)
    product = total(a.values * b.values)
    enough = (energy_a > OVERLAP * total(a.values.square())) & (energy_a > 1e-3)
    scale = (energy_a * energy_b).clamp(min=1e-6).sqrt()
    return torch.where(enough, product / scale, 0.0).clamp(-1, 1)


def refine(a: Maps, b: Maps, start: Tensor, tolerance: Tolerance) -> Tensor:
    """(M) best correlation of pairs of maps over their overlap, near given ways of laying a on b.

    Gradient ascent over turn, shear, two scales and shift, first at half the size.
    """
    limits = torch.tensor(
        [
            math.radians(tolerance.rotation_deg), 0.5 * tolerance.scale,
            *(math.log1p(tolerance.scale),) * 2, *(2 * tolerance.shift,) * 2,
        ],
        device=start.device,
    )  # fmt: skip
    # A way at the limit may still be a little off.
    limits = limits * 1.2 + 0.02 * (limits > 0)
    best = torch.full((len(start),), -1.0, device=start.device)
    ways = start.clone()
    for steps, rate, size in (STEPS[0], 0.02, 1), (STEPS[1], 0.006, 2):
        x, y = (a.coarse(), b.coarse()) if size == 1 else (a, b)
        ways = ways.detach().requires_grad_()
        optimiser = torch.optim.Adam([ways], lr=rate, betas=(0.7, 0.95))
        for _ in range(steps):
            with torch.enable_grad():
                value = overlap_correlation(_laid(x, ways), y)
                value = value.abs() if tolerance.inverted else value
                optimiser.zero_grad()
                (-value.sum()).backward()
            if size == 2:
                best = torch.maximum(best, value.detach())
            optimiser.step()
            with torch.no_grad():
                ways.copy_(torch.minimum(torch.maximum(ways, -limits), limits))
    return best


def likeness(queries: Maps, reals: Sequence[Maps], tolerance: Tolerance) -> list[Tensor]:
    """How like each query its own candidates are; a list of (K) in [-1, 1].

    The `WAYS` most promising candidates of each are compared exactly; the others are not like it
    and get -1.

    Args:
        queries: Q maps.
        reals: For each query the maps of its candidates, at least one.
        tolerance: What may lie between.
    """
    poses = _poses(tolerance)
    left, right, starts, chosen = [], [], [], []
    for i, candidates in enumerate(reals):
        query = queries[i : i + 1]
        promise, pose, way = coarse_search(query, candidates, tolerance)
        top = promise.topk(min(WAYS, len(candidates))).indices
        left += [_posed(query, poses[int(pose[k])]) for k in top]
        right.append(candidates[top])
        starts.append(way[top])
        chosen.append(top)
    values = refine(joined(left), joined(right), torch.cat(starts), tolerance)
    found = []
    for candidates, top, value in zip(reals, chosen, values.split([len(t) for t in chosen])):
        found.append(torch.full((len(candidates),), -1.0, device=value.device))
        found[-1][top] = value
    return found
