"""Generation on a Ray cluster: small shards of the cases, written into one dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from augmint.cluster import crew_at
from augmint.data.dataset import Dataset
from augmint.diffusion.networks import Denoiser
from augmint.errors import AugmintError
from augmint.fit import FittedRun, load_run, resolve_device
from augmint.generate import signature, synthesise, synthetic_name, unfinished
from augmint.progress import Talk

# Shards for each worker: the last ones even out what nodes and cases differ in. On a GPU each one
# starts a process and reads the run.
PER_WORKER, PER_GPU = 8, 3


@dataclass(frozen=True)
class Order:
    """What all shards have in common.

    Attributes:
        fitted: The method; its networks are read from its folder.
        dataset: All real cases: how one is stored may depend on the others.
        folder: The dataset to write into.
        copies: Numbers of the copies.
        seed: Seeds everything.
        device: Where the networks compute.
    """

    fitted: FittedRun
    dataset: Dataset
    folder: Path
    copies: Sequence[int]
    seed: int
    device: str


def synthesise_on_ray(
    fitted: FittedRun,
    dataset: Dataset,
    folder: Path,
    *,
    copies: Sequence[int],
    seed: int,
    address: str,
    device: str,
    cpus: int | None,
    before: Callable[[], None],
    talk: Talk,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """As `synthesise`, on the workers of a cluster.

    Args:
        fitted: The method, its networks anywhere.
        dataset: The real cases.
        folder: The dataset to write into, on a file system that all machines share.
        copies: Numbers of the copies.
        seed: Seeds everything.
        address: Of the cluster, see `crew_at`.
        device: `auto`, `cpu` or `cuda`, of the workers.
        cpus: Processors and threads of each task.
        before: Called once it is sure that all machines see data and folder.
        talk: Where progress goes.

    Returns:
        The cost, summed over the workers, and their signatures, each once.

    Raises:
        AugmintError: if there is no cluster, if a machine of it does not see data, run or folder,
            or if a shard cannot be finished.
    """
    place = fitted.folder.absolute()
    needed = [dataset.root, dataset.items[0].images[0], *([place] if fitted.networks else ())]
    with crew_at(address, device=device, cpus=cpus, talk=talk) as crew:
        crew.check(folder, needed)
        before()
        todo = unfinished(dataset, folder, copies=copies, seed=seed)
        names = [synthetic_name(item, seed, copy) for item, copy in todo]
        each = PER_GPU if crew.share.gpus else PER_WORKER
        batch = getattr(fitted.method, "batch_size", 1)
        waiting = cut(names, workers=max(1, crew.slots), each=each, batch=batch)
        order = crew.put(
            Order(
                replace(fitted, networks={}), _anywhere(dataset), folder.absolute(), copies, seed,
                crew.share.device,
            )
        )  # fmt: skip
        sizes = {shard[0]: len(shard) for shard in waiting}
        cost = {"images": 0.0, "sampling_seconds": 0.0}
        signatures: list[dict[str, Any]] = []
        total = len(dataset) * len(copies)
        finished = total - len(names)
        with talk.bar("generate", total) as update:
            while waiting or crew.busy:
                while waiting and crew.free:
                    shard = waiting.pop(0)
                    crew.submit(shard[0], make_shard, order, str(place), shard, title="a shard")
                done = crew.collect()
                if done.error is not None:
                    raise done.error
                made, under = done.value
                cost = {k: round(v + made[k], 2) for k, v in cost.items()}
                if under not in signatures:
                    signatures.append(under)
                finished += sizes[done.name]
                update(finished, "")
    return cost, signatures or [signature(fitted, resolve_device("cpu"))]


def cut(names: Sequence[str], *, workers: int, each: int, batch: int) -> list[list[str]]:
    """Shards of whole batches, about `each` for every worker; of few cases some for everyone."""
    if not names:
        return []
    size = max(
        math.ceil(len(names) / (each * workers)), min(batch, math.ceil(len(names) / workers))
    )
    if size > batch:
        size = math.ceil(size / batch) * batch
    return [list(names[i : i + size]) for i in range(0, len(names), size)]


def make_shard(
    order: Order, place: str, names: Sequence[str]
) -> tuple[dict[str, float], dict[str, Any]]:
    """On a worker: write these synthetic cases; returns the cost and the signature."""
    fitted = _with_networks(order.fitted, place, order.device)
    device = resolve_device(order.device)
    cost = synthesise(
        fitted, order.dataset, order.folder, copies=order.copies, seed=order.seed, gate=None,
        device=device, talk=Talk(quiet=True), only=frozenset(names),
    )  # fmt: skip
    return cost, signature(fitted, device)


def _with_networks(fitted: FittedRun, place: str, device: str) -> FittedRun:
    """The fitted method with its networks, if it has any."""
    if not fitted.hashes:
        return fitted
    return replace(fitted, networks=_networks(place, device, tuple(fitted.hashes.items())))


@lru_cache(maxsize=1)
def _networks(
    place: str, device: str, hashes: tuple[tuple[str, str], ...]
) -> Mapping[str, Denoiser]:
    """The networks of a run; a worker reads those of its last run once."""
    loaded = load_run(place, device=device)
    if dict(loaded.hashes) != dict(hashes):
        raise AugmintError(
            f"{place} holds other networks on a node of the Ray cluster than here; run and output "
            "must lie on a file system that all machines share"
        )
    return loaded.networks


def _anywhere(dataset: Dataset) -> Dataset:
    """The dataset with absolute paths: workers may start in another folder."""
    items = tuple(
        replace(
            item,
            images=tuple(p.absolute() for p in item.images),
            masks=tuple(p.absolute() for p in item.masks),
        )
        for item in dataset.items
    )
    return replace(dataset, root=dataset.root.absolute(), items=items)
