"""Tasks on a Ray cluster: what each is given, what all must see, and workers that die."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from augmint.errors import AugmintError
from augmint.progress import Talk

TRIES = 3
# Seconds: for a connection, and for a node's answer, whose worker may have to start first.
CONNECT, ANSWER = 5, 300
# Seconds: between looks at the nodes, and without a node that can run a task until that is told,
# and until waiting ends.
LOOK, TELL, GIVE_UP = 10, 120, 600
# Tasks carry no arrays; Ray would reserve a third of the memory. Its least is 75 MiB.
OBJECT_STORE = 100 * 2**20
CLIENT_PORT = 10001


@dataclass(frozen=True)
class Share:
    """What each task is given: a device, processors (and as many threads), GPUs."""

    device: str
    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        gpu = "1 GPU and " if self.gpus else ""
        return f"{gpu}{self.cpus} CPU{'s' if self.cpus > 1 else ''}"


@dataclass(frozen=True)
class Done:
    """The end of a task: what it returned, or the error that ended it."""

    name: str
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Task:
    name: str
    title: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    tries: int = 1


class Crew:
    """Workers of a cluster; at most as many tasks are with them as can run at once.

    Args:
        ray: The module, connected.
        share: Of each task.
        talk: Where deaths of workers are told.
    """

    def __init__(self, ray: Any, share: Share, talk: Talk):
        self.share = share
        self._ray, self._talk = ray, talk
        self._running: dict[Any, _Task] = {}
        # Ray itself tries nothing again, so that each death is told and counted once. A process
        # that has used a GPU holds it, so the next task there begins in a new one.
        self._remote = ray.remote(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, max_calls=share.gpus
        )(_work)

    @property
    def slots(self) -> int:
        """Tasks that run at once on the nodes there are now."""
        return sum(_fitting(node, self.share) for node in _nodes(self._ray))

    @property
    def free(self) -> bool:
        """Whether another task would start now.

        Without any node one is handed over all the same: clusters that grow need to be asked.
        """
        return len(self._running) < max(1, self.slots)

    @property
    def busy(self) -> bool:
        """Whether a task is under way."""
        return bool(self._running)

    def put(self, value: Any) -> Any:
        """Lay down what many tasks take as an argument; it is sent to each node once."""
        return self._ray.put(value)

    def submit(self, name: str, work: Callable[..., Any], *arguments: Any, title: str = "") -> None:
        """Start a task; `work` is a function of a module."""
        self._start(_Task(name, title or name, work, arguments))

    def collect(self) -> Done:
        """Wait for the next end of a task; one whose worker died was tried again before.

        Raises:
            AugmintError: if no node could have run any for some time.
        """
        while True:
            ref = self._ended()
            task = self._running.pop(ref)
            try:
                return Done(task.name, self._ray.get(ref))
            except self._deaths as error:
                why = _in_short(error)
                if task.tries == TRIES:
                    return Done(task.name, error=_given_up(task, why))
                self._talk.say(f"{task.title}: its worker died ({why}); trying again")
                self._start(replace(task, tries=task.tries + 1))
            except self._ray.exceptions.RayTaskError as error:
                return Done(task.name, error=_cause(error))
            except self._ray.exceptions.RayError as error:
                return Done(task.name, error=AugmintError(f"{task.title}: {_in_short(error)}"))

    def check(self, folder: Path, needed: Sequence[Path | str]) -> None:
        """Make sure that every node that may be given a task can write here and sees the data.

        Args:
            folder: Where the tasks write.
            needed: Files and folders that they read.

        Raises:
            AugmintError: naming the node and what it lacks.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from augmint import __version__

        folder = folder.absolute()
        token = f".seen-{uuid.uuid4().hex}"
        paths = [str(Path(p).absolute()) for p in needed]
        look = self._ray.remote(num_cpus=0, max_retries=1)(_look)
        (folder / token).write_text("")
        try:
            asked = [
                (
                    node.get("NodeManagerAddress", node["NodeID"]),
                    look.options(
                        scheduling_strategy=NodeAffinitySchedulingStrategy(
                            node["NodeID"], soft=False
                        )
                    ).remote(str(folder), token, paths),
                )
                for node in _nodes(self._ray)
                if _fitting(node, self.share)
            ]
            for node, ref in asked:
                try:
                    version, missing = self._ray.get(ref, timeout=ANSWER)
                except self._ray.exceptions.RayError as error:
                    raise AugmintError(
                        f"node {node} of the Ray cluster cannot run augmint ({_in_short(error)}); "
                        f"install augmint {__version__} there, for the same Python"
                    ) from error
                if missing:
                    raise AugmintError(
                        f"node {node} of the Ray cluster {missing}; data and output must lie on a "
                        "file system that all machines share, under the same path"
                    )
                if version != __version__:
                    raise AugmintError(
                        f"node {node} of the Ray cluster has augmint {version}, this machine has "
                        f"{__version__}; install the same"
                    )
        finally:
            (folder / token).unlink(missing_ok=True)

    def dismiss(self) -> None:
        """Stop what is under way and wait until it has stopped; what was written stays."""
        refs = list(self._running)
        self._running.clear()
        with contextlib.suppress(Exception):
            for ref in refs:
                self._ray.cancel(ref, force=True)
            if refs:
                self._ray.wait(refs, num_returns=len(refs), timeout=10)

    def _ended(self) -> Any:
        """The next task that ended; Ray itself would wait for lost nodes without a word."""
        since, told = time.monotonic(), False
        while True:
            ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK)
            if ended:
                return ended[0]
            if self.slots:
                since, told = time.monotonic(), False
                continue
            alone = time.monotonic() - since
            lack = f"no node of the Ray cluster has had {self.share} to give for {alone:.0f} s"
            if alone >= GIVE_UP:
                raise AugmintError(
                    f"{lack}; start its nodes again, --continue goes on from what is finished"
                )
            if alone >= TELL and not told:
                self._talk.say(
                    f"{lack}; start its nodes again (`ray start --address HOST:PORT`) and the work "
                    f"goes on, else it ends after {GIVE_UP} s"
                )
                told = True

    def _start(self, task: _Task) -> None:
        ref = self._remote.remote(task.work, self.share.cpus, *task.arguments)
        self._running[ref] = task

    @property
    def _deaths(self) -> tuple[type[Exception], ...]:
        e = self._ray.exceptions
        return (e.WorkerCrashedError, e.NodeDiedError, e.OutOfMemoryError, e.ObjectLostError)


@contextlib.contextmanager
def crew_at(
    address: str, *, device: str = "auto", cpus: int | None = None, talk: Talk
) -> Iterator[Crew]:
    """The workers of a cluster, for as long as the context lasts.

    Args:
        address: `local` starts a Ray on this machine for that time; `auto` finds one that runs, or
            takes that of this process; else host:port, or ray://host:port from outside.
        device: `auto` (GPUs if the cluster has any), `cpu` or `cuda`.
        cpus: Processors and threads of each task. By default as many threads as PyTorch has here,
            so that bytes are those of a run without Ray; beside a GPU its share of its node.
        talk: Where progress goes.

    Raises:
        AugmintError: if Ray is not installed, if there is no cluster, or if no node has as much as
            a task is to be given.
    """
    ray, own = _find(address)
    # Ray tells of dead workers on standard output, where the answer of a command belongs.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if own:
                _connect(ray, address)
            crew = Crew(ray, share_of(_nodes(ray), device, cpus), talk)
            talk.say(f"Ray at {address}: {crew.share} for each task, {crew.slots} at a time")
            try:
                yield crew
            finally:
                crew.dismiss()
        finally:
            if own:
                ray.shutdown()


def check_address(address: str) -> None:
    """Find out at once whether Ray is here and something answers at the address.

    Raises:
        AugmintError: if not.
    """
    _find(address)


def check_cpus(address: str | None, cpus: int | None) -> None:
    """Refuse processors for tasks of a cluster that is not asked for.

    Raises:
        AugmintError: for `cpus` without an address.
    """
    if cpus is not None and address is None:
        raise AugmintError(
            f"--ray-cpus needs --ray, without which there are no tasks to give {cpus} CPUs each; "
            "add --ray local or the address of a cluster, or leave --ray-cpus out"
        )


def _find(address: str) -> tuple[Any, bool]:
    """Ray, and whether this process is still to be connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Under `uv run` Ray would upload the folder that it was started in.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    try:
        import ray
    except ImportError as error:
        raise AugmintError(f'--ray needs Ray ({error}); pip install "augmint[ray]"') from error
    if ray.is_initialized():
        if address != "auto":
            raise AugmintError(
                f"this process has a Ray already, {address!r} would be another; give 'auto' to use "
                "it, or call ray.shutdown() first"
            )
        return ray, False
    # Ray itself finds out what `auto` means: only then it takes the token of its last cluster.
    known = address
    if address == "auto":
        known = os.environ.get("RAY_ADDRESS") or _started_last() or address
    if known not in ("auto", "local"):
        _reach(known)
    return ray, True


def _started_last() -> str:
    """The address of the Ray that was started last on this machine, as Ray notes it."""
    place = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    with contextlib.suppress(OSError):
        return (place / "ray" / "ray_current_cluster").read_text().strip()
    return ""


def _reach(address: str) -> None:
    """Ray itself would try for minutes."""
    client = address.startswith("ray://")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if client and not colon:
        host, port = port, str(CLIENT_PORT)
    if not host or not port.isdigit():
        raise AugmintError(
            f"{address!r} is no address of a Ray cluster; give local, auto, host:port or "
            "ray://host:port"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        raise AugmintError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, "
            "or give --ray local"
        ) from error


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False}
    if not address.startswith("ray://"):
        options["logging_level"] = logging.ERROR
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(address=address, **options)
    except Exception as error:
        remedy = (
            "`ray start --head` says more"
            if address == "local"
            else "start one with `ray start --head`, or give --ray local; a cluster that asks for "
            "a token needs RAY_AUTH_MODE=token here"
        )
        raise AugmintError(f"no Ray at {address}: {_in_short(error)}; {remedy}") from error


def share_of(nodes: Sequence[Mapping[str, Any]], device: str, cpus: int | None) -> Share:
    """What each task is given on these nodes.

    Args:
        nodes: As Ray describes those that are alive.
        device: `auto`, `cpu` or `cuda`.
        cpus: Asked for, or None.

    Raises:
        AugmintError: if no node has that much.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise AugmintError(f"on Ray the device is auto, cpu or cuda; got {device!r}")
    resources = [node["Resources"] for node in nodes]
    with_gpu = [r for r in resources if r.get("GPU", 0) >= 1 and r.get("CPU", 0) >= 1]
    if device == "cuda" and not with_gpu:
        raise AugmintError(
            "no node of the Ray cluster has a GPU that Ray knows of; start its nodes with "
            "`ray start --num-gpus N`, or give --device cpu"
        )
    gpus = int(device != "cpu" and bool(with_gpu))
    usable = with_gpu if gpus else [r for r in resources if r.get("CPU", 0) >= 1]
    most = max((int(r["CPU"]) for r in usable), default=0)
    if most == 0:
        raise AugmintError("no node of the Ray cluster has a CPU to give; add one")
    if cpus is not None and not 1 <= cpus <= most:
        raise AugmintError(
            f"{cpus} CPUs were asked for each task, the largest node of the Ray cluster has "
            f"{most}; ask for 1 up to that many"
        )
    if cpus is None and gpus:
        cpus = max(1, min(int(r["CPU"] // r["GPU"]) for r in usable))
    return Share("cuda" if gpus else "cpu", min(cpus or torch.get_num_threads(), most), gpus)


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _fitting(node: dict[str, Any], share: Share) -> int:
    """How many tasks fit on a node at once."""
    has = node["Resources"]
    by_cpu = int(has.get("CPU", 0) // share.cpus)
    return min(by_cpu, int(has.get("GPU", 0) // share.gpus)) if share.gpus else by_cpu


def _work(work: Callable[..., Any], threads: int, *arguments: Any) -> Any:
    """On a worker: as many threads as it was given processors."""
    import torch

    torch.set_num_threads(threads)
    return work(*arguments)


def _look(folder: str, token: str, needed: Sequence[str]) -> tuple[str, str]:
    """On a worker: its version, and what it cannot see or write."""
    from augmint import __version__

    if not (Path(folder) / token).is_file():
        return __version__, f"does not see {folder}"
    own = Path(folder) / f"{token}-{uuid.uuid4().hex}"
    try:
        own.write_text("")
        own.unlink()
    except OSError as error:
        return __version__, f"cannot write to {folder} ({error.strerror})"
    missing = [p for p in needed if not Path(p).exists()]
    return __version__, f"does not see {missing[0]}" if missing else ""


def _given_up(task: _Task, why: str) -> AugmintError:
    return AugmintError(
        f"its worker died {task.tries} times, last: {why}; if memory ran out, give each task more "
        "CPUs so that fewer run at once (--ray-cpus); --continue goes on from what is finished"
    )


def _cause(error: Any) -> Exception:
    """The error that was raised on the worker, with its traceback behind it."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return RuntimeError(str(error))
    cause.__cause__ = error
    return cause


def _in_short(error: BaseException) -> str:
    """The first line that says something, without Ray's name of the task."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].partition(". ")[0] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
