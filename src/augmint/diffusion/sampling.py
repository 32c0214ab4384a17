"""The one sampling loop, the walks it follows, the guides it takes.

A walk says which noise levels to visit; a guide may correct the state at each of them. Plain
sampling, SDEdit, RePaint, ILVR, inversion and energy guidance are walks and guides, not loops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from augmint.diffusion.path import Velocity, add_noise, levels, renoise

Solver = Literal["euler", "heun", "multistep"]
Guide = Callable[[Tensor, float], Tensor]
"""Corrects the state: x_t (B, C, *spatial) at level t to the state to go on from."""


@dataclass(frozen=True)
class Move:
    """From level `start` to level `stop`, along the flow or by adding fresh noise."""

    start: float
    stop: float
    renoise: bool = False


@dataclass(frozen=True)
class Walk:
    """The moves of one run of the sampler and the solver of its flow moves."""

    moves: tuple[Move, ...]
    solver: Solver = "heun"

    @property
    def evaluations(self) -> int:
        """Network evaluations for one image, guidance not counted."""
        flow = [m for m in self.moves if not m.renoise]
        corrected = sum(m.stop > 0 for m in flow) if self.solver == "heun" else 0
        return len(flow) + corrected

    def __str__(self) -> str:
        flow = sum(not m.renoise for m in self.moves)
        jumps = len(self.moves) - flow
        start = "" if self.moves[0].start in (0.0, 1.0) else f" from {self.moves[0].start:g}"
        return f"{self.solver} {flow}{start}" + (f" with {jumps} jumps" if jumps else "")


def descend(
    num_steps: int,
    *,
    start: float = 1.0,
    shift: float = 1.0,
    power: float = 1.0,
    solver: Solver = "heun",
) -> Walk:
    """From `start` (1: pure noise; less: a noised reference, SDEdit) down to 0; see `levels`."""
    ts = levels(num_steps, start=start, shift=shift, power=power)
    return Walk(tuple(Move(a, b) for a, b in pairwise(ts)), solver)


def ascend(num_steps: int, *, stop: float = 1.0, solver: Solver = "heun") -> Walk:
    """From an image at 0 up along the flow to its noise at `stop` (inversion, DDIB)."""
    ts = levels(num_steps, start=stop)[::-1]
    return Walk(tuple(Move(a, b) for a, b in pairwise(ts)), solver)


def descend_with_jumps(
    num_steps: int, *, jump_length: int, num_resamples: int, solver: Solver = "euler"
) -> Walk:
    """RePaint's walk: after every `jump_length` steps jump back as many, `num_resamples` - 1 times.

    Source: Lugmayr et al., CVPR 2022, appendix B ("jump length" j, "resampling" r). The published
    250 / 10 / 10 here makes 4,570 moves in RePaint's own count, 2,410 of them evaluations.
    """
    ts = levels(num_steps)
    left = {i: num_resamples - 1 for i in range(0, num_steps - jump_length, jump_length)}
    moves: list[Move] = []
    remaining = num_steps
    while remaining > 0:
        here = num_steps - remaining
        moves.append(Move(ts[here], ts[here + 1]))
        remaining -= 1
        if left.get(remaining, 0) > 0:
            left[remaining] -= 1
            for _ in range(jump_length):
                here = num_steps - remaining
                moves.append(Move(ts[here], ts[here - 1], renoise=True))
                remaining += 1
    return Walk(tuple(moves), solver)


class Noise:
    """Gaussian noise with one generator per sample, so that companions never matter."""

    def __init__(self, generators: Sequence[torch.Generator]):
        self.generators = list(generators)

    def like(self, x: Tensor) -> Tensor:
        """Fresh noise of the shape of x (B, ...), B = the number of generators."""
        if len(x) != len(self.generators):
            raise ValueError(f"{len(self.generators)} generators for a batch of {len(x)}")
        drawn = [
            torch.randn(x.shape[1:], generator=g, dtype=torch.float32) for g in self.generators
        ]
        return torch.stack(drawn).to(x)


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator seeded from (seed, source case, copy, ...), the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


@torch.no_grad()
def sample(
    denoise: Velocity,
    x: Tensor,
    walk: Walk,
    *,
    noise: Noise | None = None,
    guides: Sequence[Guide] = (),
) -> Tensor:
    """Walk the state x from the level of the walk's first move to that of its last.

    Args:
        denoise: (x_t, t (B,)) to v; see `with_guidance` for classifier-free guidance.
        x: (B, C, *spatial), the state at the first level.
        walk: the moves and the solver.
        noise: the source of fresh noise; needed only where the walk jumps back.
        guides: applied in order to the state at every level reached.

    Returns:
        The state at the last level, (B, C, *spatial).
    """

    def v_at(state: Tensor, t: float) -> Tensor:
        return denoise(state, torch.full((len(state),), t, dtype=state.dtype, device=state.device))

    last: tuple[float, Tensor] | None = None  # step length and velocity, for multistep
    for move in walk.moves:
        t, u = move.start, move.stop
        if move.renoise:
            if noise is None:
                raise ValueError("this walk jumps back and needs a source of noise")
            x, last = renoise(x, noise.like(x), t, u), None
        else:
            h = u - t
            v = v_at(x, t)
            # At level 0 a network's velocity holds noise that it cannot know, so Heun's last step
            # is Euler's. Source: Karras et al., NeurIPS 2022, Algorithm 1, line 6.
            if walk.solver == "heun" and u > 0:
                x = x + h * (v + v_at(x + h * v, u)) / 2
            elif walk.solver == "multistep" and last is not None:
                # Adams-Bashforth of second order on uneven steps.
                ratio = h / last[0]
                x = x + h * ((1 + ratio / 2) * v - ratio / 2 * last[1])
            else:
                x = x + h * v
            last = (h, v)
        for guide in guides:
            x = guide(x, u)
    return x


def with_guidance(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    condition: Tensor,
    *,
    scale: float = 1.0,
    null: Tensor | None = None,
) -> Velocity:
    """Bind a condition to a network, with classifier-free guidance batched as one pass.

    v = v_null + scale (v_condition - v_null); a scale of 1 costs one evaluation, any other two.

    Args:
        network: (x_t, t, condition) to v.
        condition: (B, K, *spatial).
        scale: guidance; 1 is none.
        null: the dropped condition, zeros by default.

    Source: Ho and Salimans, 2022, Eq. 6.
    """
    if scale == 1.0:
        return lambda x, t: network(x, t, condition)
    dropped = torch.zeros_like(condition) if null is None else null
    both = torch.cat([condition, dropped])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        v, v_null = network(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return v_null + scale * (v - v_null)

    return denoise


def keep_known(known_image: Tensor, known: Tensor, noise: Noise) -> Guide:
    """Re-impose the observed pixels at the current noise level.

    Args:
        known_image: (B, C, *spatial), in [-1, 1].
        known: (B, 1, *spatial), 1 where observed, 0 where to generate.
        noise: where the noise of the observed pixels is drawn.

    Raises:
        ValueError: if the two differ in spatial shape.

    Source: Lugmayr et al., CVPR 2022, Eq. 8, restated for the flow path.
    """
    if known_image.shape[2:] != known.shape[2:]:
        raise ValueError(
            f"known image {tuple(known_image.shape)} and known mask {tuple(known.shape)} "
            "differ in spatial shape"
        )

    def guide(x: Tensor, t: float) -> Tensor:
        observed = known_image
        if t > 0:
            at = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
            observed = add_noise(known_image, noise.like(x), at)
        return torch.where(known > 0.5, observed, x)

    return guide


def match_low_frequencies(reference: Tensor, factor: int, noise: Noise) -> Guide:
    """Give the state the low frequencies of the reference noised to the same level.

    Args:
        reference: (B, C, *spatial), in [-1, 1].
        factor: frequencies below 1 / factor of the sampling rate are matched.
        noise: where the reference's noise is drawn.

    Source: Choi et al., ICCV 2021 (ILVR), Eq. 8, with reference and sample at the same level
    (the public code takes them one step apart).
    """

    def guide(x: Tensor, t: float) -> Tensor:
        at = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        target = add_noise(reference, noise.like(x), at) if t > 0 else reference
        return x + low_frequencies(target - x, factor)

    return guide


def low_frequencies(x: Tensor, factor: int) -> Tensor:
    """x (B, C, *spatial) without what is finer than about `factor` pixels: shrunk and stretched."""
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    size = [max(1, round(n / factor)) for n in x.shape[2:]]
    small = torch.nn.functional.interpolate(x, size=size, mode="area")
    return torch.nn.functional.interpolate(small, size=x.shape[2:], mode=mode, align_corners=False)


def follow_energy(gradient: Callable[[Tensor, float], Tensor], scale: float) -> Guide:
    """Descend an energy of the state: x - scale t grad E(x, t).

    The loop runs without gradients; a `gradient` that uses autograd enables them for itself.

    Source: Zhao et al., NeurIPS 2022 (EGSDE), Eq. 9, as a correction between moves.
    """
    return lambda x, t: x - scale * t * gradient(x, t)


@dataclass(frozen=True)
class Job:
    """One image to sample: its noise (C, *spatial), what is given of it (K, *spatial), its name."""

    noise: Tensor
    given: Tensor
    key: tuple[object, ...] = ()


def sample_jobs(
    jobs: Iterable[Job], run: Callable[[Sequence[Job]], Tensor], *, batch_size: int
) -> Iterator[tuple[Job, Tensor]]:
    """Sample a stream of jobs in padded micro-batches of one size, in order.

    A convolution's result depends on the size of its batch in the last bits, so every batch is
    filled up to `batch_size` by repeating its last job; an image is then the same whatever came
    with it.

    Args:
        jobs: lazily read; at most `batch_size` are held.
        run: a full batch of jobs to their images (B, C, *spatial). A job may stand in it twice:
            random numbers drawn while it runs must come from its key.
        batch_size: the recorded size of every batch.
    """
    held: list[Job] = []

    def flush() -> Iterator[tuple[Job, Tensor]]:
        padded = held + [held[-1]] * (batch_size - len(held))
        yield from zip(held, run(padded).cpu())

    for job in jobs:
        held.append(job)
        if len(held) == batch_size:
            yield from flush()
            held.clear()
    if held:
        yield from flush()
