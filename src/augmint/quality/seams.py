"""Realism without experts: can a classifier tell filled seams from real tissue?

Where a generator fills part of an ultrasound sector, a seam runs between kept and new pixels. A
small network learns to tell patches on the seam of filled frames from patches at the same places
of real frames. An area under the ROC curve (AUC) of 0.5 means that it cannot. This is the
classifier two-sample test of Lopez-Paz and Oquab, ICLR 2017, with the AUC in place of the accuracy,
and folds by patient in place of one split.

A judge that sees nothing also says 0.5: set its figures on `control_images`
beside every AUC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augmint.data import splits
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.precision import Precision, autocast

BATCH = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
RESAMPLES = 2000


@dataclass(frozen=True)
class SeamResult:
    """How well filled seams are told from real tissue.

    Attributes:
        auc: Mean of `by_fold`. Below 0.5 is reported as it is: chance, or too few patients.
        interval: 95 %, by bootstrap over groups of patients within folds. The judges stay as they
            are: another seed trains others.
        by_fold: AUC of each fold, over its pooled patches. Scores of different judges cannot be
            compared, so they are never pooled across folds.
        by_frame: For each filled frame, the mean share of its fold's real patches that look less
            filled than its own; 1 is the plainest seam, 0.5 is chance, NaN had no patch.
        patches: Number of patches on each side.
        groups: Number of groups of patients linked by pairs, the units of folds and bootstrap.
    """

    auc: float
    interval: tuple[float, float]
    by_fold: tuple[float, ...]
    by_frame: tuple[float, ...]
    patches: int
    groups: int


@dataclass(frozen=True)
class _Patches:
    """Patches (M, C, patch, patch) of both sides at the same places; `frame` (M) is their pair."""

    real: Tensor
    filled: Tensor
    frame: np.ndarray


def draw_partners(patients: Sequence[str], seed: int) -> dict[str, str]:
    """For each patient another one to lend the real frame; in twos, so that folds stay clean.

    With an odd number the last three go round in a circle. Draw within a view and a phase, if the
    data have them, or give every frame of the patient the partner's frame of its view and phase.

    Raises:
        AugmintError: if there are fewer than two patients.
    """
    pool = sorted(set(patients))
    if len(pool) < 2:
        raise AugmintError(f"{len(pool)} patient(s) have no partner; give two patients or more")
    order = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]
    ends = len(order) - 3 if len(order) % 2 else len(order)
    partner = {a: b for i in range(0, ends, 2) for a, b in _circle(order[i : i + 2])}
    return partner | dict(_circle(order[ends:]))


def _circle(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, names[(i + 1) % len(names)]) for i, name in enumerate(names)]


def seam_points(kept: Tensor, sectors: Tensor) -> Tensor:
    """Where the seam runs: kept pixels (N, H, W) that touch new ones of the sector; bool."""
    new = sectors.bool() & ~kept.bool()
    near = F.max_pool2d(new[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
    return near & kept.bool() & sectors.bool()


def seam_auc(
    real_images: Tensor,
    filled_images: Tensor,
    seams: Tensor,
    patients_real: Sequence[str],
    patients_filled: Sequence[str],
    *,
    sectors: Tensor | None = None,
    patch: int = 24,
    per_frame: int = 8,
    spacing: int | None = None,
    folds: int = 5,
    seed: int = 0,
    steps: int = 300,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
) -> SeamResult:
    """The AUC of classifiers that tell filled seams from real tissue, out of fold.

    Frame i of both sides is a pair: the real one is of another patient, has the same sector and
    lends its patches at the same places, so that position gives nothing away. It must have been
    resampled as the filled one was: else its sharpness does. Patients linked by pairs form a group,
    and no group is on both sides of a fold; `draw_partners` keeps groups small.

    Args:
        real_images: (N, C, H, W) in [-1, 1].
        filled_images: Likewise.
        seams: (N, H, W) bool, true on the seam of the filled frame.
        patients_real: N patients.
        patients_filled: N patients, each other than its pair's.
        sectors: (N, H, W) bool, true where visible; patches lie wholly inside. None: everywhere.
        patch: Side of a patch in pixels.
        per_frame: Most patches of a frame.
        spacing: Least distance in pixels between centres in a frame; None is half a patch.
        folds: Number of folds; two groups in each, at least.
        seed: Of places, folds, weights and batches.
        steps: Optimiser steps of each judge.
        device: Where to compute.
        precision: See `autocast`.

    Raises:
        AugmintError: if the frames do not fit together, a pair is of one patient, or there are too
            few patients or places.
    """
    _check_frames(real_images, filled_images, seams, sectors, patients_real, patients_filled)
    if not 8 <= patch <= min(real_images.shape[2:]) or per_frame < 1 or steps < 1:
        raise AugmintError(
            f"seam patches of {patch} px, {per_frame} in a frame, {steps} steps: give 8 px or more "
            f"within a frame of {tuple(real_images.shape[2:])}, and 1 or more of the others"
        )
    group_of = _linked(patients_real, patients_filled)
    groups = [group_of[p] for p in patients_filled]
    if folds < 2 or len(set(groups)) < 2 * folds:
        raise AugmintError(
            f"{folds} folds of {len(set(groups))} group(s) of patients linked by pairs; give 2 "
            "folds or more and two groups for each: fewer folds, more patients, or partners from "
            "draw_partners"
        )
    spacing = patch // 2 if spacing is None else spacing
    rng = np.random.default_rng(seed)
    places = _places(seams, sectors, patch, per_frame, spacing, rng)
    patches = _cut(real_images, filled_images, places, patch)
    group = np.array([groups[i] for i in patches.frame])

    auc, placements, sums = [], np.full(len(patches.frame), np.nan), []
    for fold in splits.folds(set(groups), folds, seed):
        held = np.isin(group, fold.validation)
        if held.all() or not held.any():
            raise AugmintError(
                f"no seam patch of {patch} px fits in the frames of fold {fold.index} "
                f"({listed(list(fold.validation), 5)}) or of all others; give smaller patches or "
                "fewer folds"
            )
        judge = _fit(patches, ~held, steps, seed + fold.index, device, precision)
        real = _score(judge, patches.real[held], device, precision)
        filled = _score(judge, patches.filled[held], device, precision)
        wins = _wins(filled, real)
        placements[held] = wins.mean(1)
        auc.append(float(wins.mean()))
        sums.append(_by_group(wins, group[held]))
    frames = [placements[patches.frame == i] for i in range(len(seams))]
    return SeamResult(
        auc=float(np.mean(auc)),
        interval=_interval(sums, rng),
        by_fold=tuple(auc),
        by_frame=tuple(float(f.mean()) if len(f) else float("nan") for f in frames),
        patches=len(patches.frame),
        groups=len(set(groups)),
    )


def control_images(
    untouched: Tensor, new: Tensor, *, sigma: float = 1.0, shift: int = 6
) -> dict[str, Tensor]:
    """Second sides for `seam_auc` of which the answer is known.

    `real` is the frames as they are: the AUC must be about 0.5. `blurred` smooths the new part a
    little and `black` empties it: it must be about 1. If it is not, the judge is too weak (more
    steps, more patches) or there are too few patients, and its AUC of filled frames says nothing.
    `shifted` moves the new part down: its texture is real, and only its continuation is broken. No
    value is required there; it is what a bare seam is worth to this judge.

    Args:
        untouched: (N, C, H, W) in [-1, 1], the filled frames before anything was hidden.
        new: (N, H, W) bool, true where the filler painted.
        sigma: Standard deviation in pixels of the smoothing.
        shift: Of `shifted`, in pixels.

    Raises:
        AugmintError: if the two do not fit together.
    """
    from scipy.ndimage import gaussian_filter

    if untouched.ndim != 4 or new.shape != (len(untouched), *untouched.shape[2:]):
        raise AugmintError(
            "untouched frames are (N, C, H, W) and their new parts (N, H, W); got "
            f"{tuple(untouched.shape)} and {tuple(new.shape)}"
        )
    where = new.bool()[:, None]
    smooth = gaussian_filter(untouched.cpu().float().numpy(), (0, 0, sigma, sigma), mode="nearest")
    top = untouched[:, :, :1].expand(-1, -1, shift, -1)
    moved = torch.cat([top, untouched[:, :, : untouched.shape[2] - shift]], 2)
    return {
        "real": untouched,
        "shifted": torch.where(where, moved, untouched),
        "blurred": torch.where(where, torch.from_numpy(smooth).to(untouched), untouched),
        "black": untouched.masked_fill(where, -1.0),
    }


def _check_frames(
    real: Tensor,
    filled: Tensor,
    seams: Tensor,
    sectors: Tensor | None,
    patients_real: Sequence[str],
    patients_filled: Sequence[str],
) -> None:
    count = (len(real), *real.shape[2:])
    maps = [tuple(m.shape) for m in (seams, sectors) if m is not None]
    if real.ndim != 4 or real.shape != filled.shape or any(m != count for m in maps):
        raise AugmintError(
            "real and filled frames are (N, C, H, W) alike, seams and sectors (N, H, W); got "
            f"{tuple(real.shape)}, {tuple(filled.shape)}, {', '.join(map(str, maps))}"
        )
    if len(patients_real) != len(real) or len(patients_filled) != len(real):
        raise AugmintError(
            f"{len(real)} pairs of frames, but {len(patients_real)} patients of real and "
            f"{len(patients_filled)} of filled ones; give one for each frame"
        )
    for name, frames in (("real", real), ("filled", filled)):
        if not bool(torch.isfinite(frames).all()):
            raise AugmintError(f"the {name} frames hold NaN or infinite pixels; repair them first")
    same = sorted({a for a, b in zip(patients_real, patients_filled) if a == b})
    if same:
        raise AugmintError(
            f"real and filled frame of a pair are of one patient ({listed(same, 5)}); take the "
            "real frame of another patient, see draw_partners"
        )


def _linked(first: Sequence[str], second: Sequence[str]) -> dict[str, str]:
    """Each patient's group, named by its first patient: all whom pairs link, directly or not."""
    near: dict[str, set[str]] = {}
    for a, b in zip(first, second):
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    group: dict[str, str] = {}
    for start in sorted(near):
        waiting = [] if start in group else [start]
        while waiting:
            patient = waiting.pop()
            group[patient] = start
            waiting += [p for p in near[patient] if p not in group]
    return group


def _places(
    seams: Tensor,
    sectors: Tensor | None,
    patch: int,
    per_frame: int,
    spacing: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """For each frame the upper left corners (n, 2) of patches centred on its seam."""
    half = patch // 2
    visible = torch.ones_like(seams) if sectors is None else sectors
    hidden = F.max_pool2d((~visible.bool())[:, None].float(), patch, stride=1)[:, 0] > 0
    centred = seams.bool()[:, half : half + hidden.shape[1], half : half + hidden.shape[2]]
    places = []
    for allowed in (centred & ~hidden).cpu().numpy():
        chosen: list[np.ndarray] = []
        for place in rng.permutation(np.argwhere(allowed)):
            if len(chosen) == per_frame:
                break
            if all(((place - other) ** 2).sum() >= spacing**2 for other in chosen):
                chosen.append(place)
        places.append(np.array(chosen, dtype=int).reshape(-1, 2))
    if not any(len(p) for p in places):
        raise AugmintError(
            f"no seam patch of {patch} px fits into any sector; check seams and sectors, or give "
            "smaller patches"
        )
    return places


def _cut(real: Tensor, filled: Tensor, places: Sequence[np.ndarray], patch: int) -> _Patches:
    frame = np.repeat(np.arange(len(places)), [len(p) for p in places])
    corners = [(i, int(y), int(x)) for i, (y, x) in zip(frame, np.concatenate(places))]
    both = [
        torch.stack([f[i, :, y : y + patch, x : x + patch] for i, y, x in corners]).float()
        for f in (real, filled)
    ]
    return _Patches(both[0], both[1], frame)


def _judge(channels: int) -> nn.Module:
    """About 51,000 weights. No norm of the input: a wrong brightness gives a filling away."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]

    return nn.Sequential(
        *block(channels, 16),
        *block(16, 16),
        nn.MaxPool2d(2),
        *block(16, 48),
        nn.MaxPool2d(2),
        *block(48, 96),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 1),
    )


def _fit(
    patches: _Patches,
    train: np.ndarray,
    steps: int,
    seed: int,
    device: torch.device | str,
    precision: Precision,
) -> nn.Module:
    """A judge fitted on the chosen pairs of patches; half of each batch is real."""
    real, filled = (side[train].to(device) for side in (patches.real, patches.filled))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = _judge(real.shape[1]).to(device)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    half = BATCH // 2
    answer = torch.cat([torch.zeros(half), torch.ones(half)]).to(device)
    for _ in range(steps):
        draw = torch.randint(len(real), (2, half), generator=generator)
        batch = torch.cat([real[draw[0].to(device)], filled[draw[1].to(device)]])
        flips = torch.rand(2, BATCH, 1, 1, 1, generator=generator).to(device) < 0.5
        batch = torch.where(flips[0], batch.flip(2), batch)
        batch = torch.where(flips[1], batch.flip(3), batch)
        with autocast(device, precision):
            logits = judge(batch)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits.float(), answer)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return judge.eval()


@torch.no_grad()
def _score(
    judge: nn.Module, patches: Tensor, device: torch.device | str, precision: Precision
) -> np.ndarray:
    """(M) logits, higher where a patch looks filled; the mean over the four flips."""
    parts = []
    for batch in patches.split(4 * BATCH):
        total = torch.zeros(len(batch))
        for axes in ((), (2,), (3,), (2, 3)):
            with autocast(device, precision):
                total += judge(batch.to(device).flip(axes))[:, 0].float().cpu()
        parts.append(total / 4)
    return torch.cat(parts).numpy()


def _wins(filled: np.ndarray, real: np.ndarray) -> np.ndarray:
    """(filled, real): 1 where the filled patch scores higher, 0.5 at a tie. Its mean is the AUC."""
    above = (filled[:, None] > real[None]).astype(np.float64)
    return above + 0.5 * (filled[:, None] == real[None])


def _by_group(wins: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wins summed over groups x groups, and the patches of each group."""
    names, index = np.unique(group, return_inverse=True)
    member = np.eye(len(names))[index]
    return member.T @ wins @ member, member.sum(0)


def _interval(
    sums: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the mean AUC; groups are drawn within folds.

    Of a fold's m groups m - 1 are drawn, with replacement: drawing m of few understates the spread
    (Rao and Wu, JASA 1988).
    """
    means = np.zeros(RESAMPLES)
    for wins, count in sums:
        m = len(count)
        times = rng.multinomial(max(m - 1, 1), np.full(m, 1 / m), RESAMPLES)
        means += np.einsum("rg,gh,rh->r", times, wins, times) / (times @ count) ** 2 / len(sums)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
