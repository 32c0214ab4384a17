"""Generation on a Ray cluster: small shards of the cases, written into one dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from augmint.cluster import Crew, crew_at
from augmint.data.dataset import Dataset
from augmint.diffusion.networks import Denoiser
from augmint.errors import AugmintError
from augmint.fit import FittedRun, load_run, resolve_device
from augmint.generate import synthesise, synthetic_name, unfinished
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
) -> dict[str, float]:
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
        The cost, summed over the workers.

    Raises:
        AugmintError: if there is no cluster, if a machine of it does not see data, run or folder,
            or if a shard cannot be finished.
    """
    place = fitted.folder.absolute()
    needed = [dataset.root, dataset.items[0].images[0], *([place] if fitted.networks else ())]
    with crew_at(address, device=device, cpus=cpus, talk=talk) as crew:
        crew.check(folder, needed)
        before()
        everywhere = replace(fitted, networks={})
        order = Order(
            everywhere, _anywhere(dataset), folder.absolute(), copies, seed, crew.share.device
        )
        return _make_all(order, str(place), crew, talk)


def _make_all(order: Order, place: str, crew: Crew, talk: Talk) -> dict[str, float]:
    """Cut what is unfinished into shards and hand them out; returns the cost of all."""
    todo = unfinished(order.dataset, order.folder, copies=order.copies, seed=order.seed)
    names = [synthetic_name(item, order.seed, copy) for item, copy in todo]
    each = PER_GPU if crew.share.gpus else PER_WORKER
    batch = getattr(order.fitted.method, "batch_size", 1)
    waiting = cut(names, workers=max(1, crew.slots), each=each, batch=batch)
    sizes = {shard[0]: len(shard) for shard in waiting}
    shared = crew.put(order)
    cost = {"images": 0.0, "sampling_seconds": 0.0}
    total = len(order.dataset) * len(order.copies)
    finished = total - len(names)
    with talk.bar("generate", total) as update:
        while waiting or crew.busy:
            while waiting and crew.free:
                shard = waiting.pop(0)
                crew.submit(shard[0], make_shard, shared, place, shard, title="a shard")
            done = crew.collect()
            if done.error is not None:
                raise done.error
            cost = {k: round(v + done.value[k], 2) for k, v in cost.items()}
            finished += sizes[done.name]
            update(finished, "")
    return cost


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


def make_shard(order: Order, place: str, names: Sequence[str]) -> dict[str, float]:
    """On a worker: write these synthetic cases; returns the cost."""
    return synthesise(
        _with_networks(order.fitted, place, order.device), order.dataset, order.folder,
        copies=order.copies, seed=order.seed, gate=None, device=resolve_device(order.device),
        talk=Talk(quiet=True), only=frozenset(names),
    )  # fmt: skip


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
