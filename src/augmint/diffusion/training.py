"""Fits one network: one visible loop, with EMA, exact resume and several GPUs.

Nothing random is carried from step to step: batch, noise and level of step k come from a
generator seeded with (seed, k). A fit that was interrupted goes on as if it had not been, and the
effective batch is the same for any number of processes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from augmint.diffusion.path import add_noise, logit_normal, velocity
from augmint.diffusion.sampling import generator_for
from augmint.errors import AugmintError
from augmint.precision import Precision, autocast
from augmint.staging import forget_steps
from augmint.weights import (
    folder_exists,
    module_tensors,
    optimizer_tensors,
    read_folder,
    restore_optimizer,
    write_folder,
)

Draw = Callable[[torch.Generator, int], tuple[Tensor, Tensor | None]]
"""(generator, batch size) to a target (B, C, *spatial) and its condition (B, K, *spatial)."""
Progress = Callable[[int, int, float], None]
"""(steps done, steps in all, mean loss of late)."""
Loss = Callable[[nn.Module, Tensor, Tensor | None, Tensor, Tensor], Tensor]
"""(network, x_0, condition, eps like x_0, t (B,)) to the mean loss of a micro-batch."""
Network = TypeVar("Network", bound=nn.Module)


def flow_matching(
    network: nn.Module, x_0: Tensor, condition: Tensor | None, eps: Tensor, t: Tensor
) -> Tensor:
    """The loss of a denoiser: the squared error of its velocity at (1 - t) x_0 + t eps."""
    v = network(add_noise(x_0, eps, t), t, condition)
    return (v.float() - velocity(x_0, eps)).square().mean()


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is fitted.

    Attributes:
        steps: Optimiser steps.
        batch_size: Effective batch, over all processes and micro-batches.
        micro_batch: Images that pass at once on one process; 0: the whole share. Halved by
            itself when a GPU runs out of memory.
        learning_rate: Peak rate of AdamW.
        warmup: Steps of linear warm-up; a cosine to zero follows.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        drop_condition: Share of samples whose condition is dropped, so that guidance is valid.
        ema_width: Relative width of the weight average: 0.1 averages about the last tenth.
        precision: `auto` (bf16 on GPUs and on processors with AMX), `bf16` or `fp32`.
        save_every: Seconds between two saves of the resumable state.
        seed: Seeds everything.
    """

    steps: int = 1200
    batch_size: int = 16
    micro_batch: int = 0
    learning_rate: float = 4e-4
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    drop_condition: float = 0.1
    ema_width: float = 0.1
    precision: Precision = "auto"
    save_every: float = 60.0
    seed: int = 0


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def ema_exponent(width: float) -> float:
    """gamma of a power-function average of the given relative width.

    Source: Karras et al., CVPR 2024, Eq. 123: width = sqrt(g + 1) / ((g + 2) sqrt(g + 3)).
    """
    if not 0 < width < 0.28:
        raise ValueError(f"the relative width of the average lies in (0, 0.28); got {width}")
    low, high = 0.0, 1e4
    for _ in range(80):
        mid = (low + high) / 2
        if math.sqrt(mid + 1) / ((mid + 2) * math.sqrt(mid + 3)) > width:
            low = mid
        else:
            high = mid
    return (low + high) / 2


def fit_network(
    network: Network,
    draw: Draw,
    config: TrainingConfig,
    *,
    loss: Loss = flow_matching,
    state: Path | None = None,
    metrics: Path | None = None,
    name: str = "network",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Network:
    """Fit `network`; returns it with averaged weights, in evaluation mode.

    Args:
        network: freshly built, or holding the weights to start from.
        draw: gives the targets and conditions of a batch.
        config: see `TrainingConfig`.
        loss: what it is fitted by.
        state: folder of the resumable state. A state found there is continued.
        metrics: a file of JSON lines, one for each step.
        name: the network's name in those lines.
        device: where to compute. Under torchrun each process computes its share of every batch.
        progress: called after each step on the first process.
        log: told in words of anything unusual.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    network.to(device).train()
    if world > 1:
        _join(network, device)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
    )
    average = [p.detach().clone() for p in network.parameters()]
    gamma = ema_exponent(config.ema_width)
    first, micro = 0, config.micro_batch or math.ceil(config.batch_size / world)
    if state is not None and folder_exists(state):
        first = _restore(state, network, optimizer, average)
        log(f"continuing at step {first} of {config.steps}")
    if metrics is not None and rank == 0:
        # A kill before the first save leaves lines, too.
        forget_steps(metrics, first, network=name)
    saved, smooth = time.monotonic(), float("nan")
    for step in range(first, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config)
        batch = _batch(draw, config, step)
        share = [None if x is None else x[rank::world] for x in batch]
        while True:
            reached = _accumulate(network, share, micro, device, config, world, loss)
            if _all_have_memory(reached is not None, device, world):
                break
            optimizer.zero_grad(set_to_none=True)
            if micro == 1:
                raise AugmintError(
                    f"out of GPU memory: {name!r} cannot be fitted on one image at a time; choose "
                    "a smaller preset or --set network=small"
                )
            micro = (micro + 1) // 2
            torch.cuda.empty_cache()
            log(f"out of GPU memory: micro-batch halved to {micro}, effective batch kept")
        assert reached is not None
        if world > 1:
            _average_gradients(network, world)
        if not math.isfinite(reached):
            raise AugmintError(
                f"the loss of {name!r} is {reached} at step {step + 1}; lower learning_rate "
                f"({config.learning_rate}) or set precision to fp32"
            )
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        keep = (1 - 1 / (step + 1)) ** (gamma + 1)
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1 - keep)
        smooth = reached if math.isnan(smooth) else 0.98 * smooth + 0.02 * reached
        if rank == 0:
            if progress is not None:
                progress(step + 1, config.steps, smooth)
            if metrics is not None:
                line = {"network": name, "step": step + 1, "loss": round(reached, 6)}
                with metrics.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
            due = time.monotonic() - saved > config.save_every or step + 1 == config.steps
            if state is not None and due:
                _save(state, network, optimizer, average, step + 1)
                saved = time.monotonic()
    with torch.no_grad():
        for p, mean in zip(network.parameters(), average):
            p.copy_(mean)
    return network.eval()


def _batch(draw: Draw, config: TrainingConfig, step: int) -> list[Tensor | None]:
    """Targets, conditions, noise and levels of one step, on the CPU."""
    generator = generator_for("fit", config.seed, step)
    target, condition = draw(generator, config.batch_size)
    eps = torch.randn(target.shape, generator=generator)
    # One level from each of as many strata as the batch has samples: less variance.
    offset = torch.rand(len(target), generator=generator)
    t = logit_normal((torch.arange(len(target)) + offset) / len(target))
    if condition is not None:
        dropped = torch.rand(len(target), generator=generator) < config.drop_condition
        condition = condition * (~dropped).reshape(-1, *[1] * (condition.ndim - 1))
    return [target, condition, eps, t]


def _accumulate(
    network: nn.Module,
    share: list[Tensor | None],
    micro: int,
    device: torch.device | str,
    config: TrainingConfig,
    world: int,
    loss: Loss = flow_matching,
) -> float | None:
    """Gradients of this process's share of a batch, in micro-batches; returns the mean loss.

    None if the GPU's memory does not hold a micro-batch.
    """
    target, condition, eps, t = share
    assert target is not None
    assert eps is not None
    assert t is not None
    total = 0.0
    for start in range(0, len(target), micro):
        part = slice(start, start + micro)
        try:
            x_0, noise, level = (x[part].to(device) for x in (target, eps, t))
            given = None if condition is None else condition[part].to(device)
            with autocast(device, config.precision):
                mean = loss(network, x_0, given, noise, level)
            # Gradients are averaged over processes, whose shares may differ by one image.
            part_of_batch = mean * (len(x_0) * world / config.batch_size)
            part_of_batch.backward()
        except torch.OutOfMemoryError:
            return None
        total += float(part_of_batch.detach())
    return total


def _join(network: nn.Module, device: torch.device | str) -> None:
    """Join torchrun's other processes, with the first one's weights."""
    import torch.distributed as dist

    if not dist.is_initialized():
        cuda = torch.device(device).type == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo")
    for tensor in network.state_dict().values():
        dist.broadcast(tensor, 0)


def leave() -> None:
    """Leave torchrun's other processes, once all have come this far.

    The first process serves the others' store: it must not end while one of them still asks.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _all_have_memory(mine: bool, device: torch.device | str, world: int) -> bool:
    """Whether every process got through its share: all halve their micro-batch, or none."""
    if world == 1:
        return mine
    import torch.distributed as dist

    flag = torch.tensor(float(mine), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


def _average_gradients(network: nn.Module, world: int) -> None:
    """Average gradients over torchrun's processes.

    Done here after the whole share rather than by DistributedDataParallel during its last
    micro-batch, where a process that runs out of memory would leave the others waiting.
    """
    import torch.distributed as dist

    parameters = list(network.parameters())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    parts = (flat / world).split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts):
        parameter.grad = part.view_as(parameter).clone()


def _save(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: list[Tensor],
    step: int,
) -> None:
    write_folder(
        folder,
        {
            "network": module_tensors(network),
            "optimizer": optimizer_tensors(optimizer),
            "average": {str(i): a.detach().cpu() for i, a in enumerate(average)},
        },
        {"step": step},
    )


def _restore(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: list[Tensor]
) -> int:
    tensors, facts = read_folder(folder, "network", "optimizer", "average")
    network.load_state_dict(tensors["network"])
    restore_optimizer(optimizer, tensors["optimizer"])
    for i, mean in enumerate(average):
        mean.copy_(tensors["average"][str(i)])
    return int(facts["step"])
