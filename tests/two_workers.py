"""A local Ray of two workers, and a method that dies in them."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from augmint.errors import AugmintError
from augmint.methods.warped_pairs import WarpedPairs


@dataclass(frozen=True)
class Mortal(WarpedPairs):
    """Kills its process before its case number `at`, until `deaths` are noted in `notes`."""

    notes: str = ""
    deaths: int = 0
    at: int = 0

    def generate(self, *arguments, **keywords):
        notes = Path(self.notes)
        for number, case in enumerate(super().generate(*arguments, **keywords)):
            while (notes / "pause").exists():
                (notes / "paused").touch()
                time.sleep(0.1)
            if (notes / "refuse").exists():
                raise AugmintError("this case is refused")
            if number == self.at and len(list(notes.glob("death-*"))) < self.deaths:
                (notes / f"death-{os.getpid()}-{time.time()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (notes / f"made-{case.case_id}-{os.getpid()}-{time.time()}").touch()
            yield case


@pytest.fixture(scope="module")
def two_workers():
    """Ray in this process; PyTorch has one thread here, as in each task."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    before, threads = os.environ.get("PYTHONPATH"), torch.get_num_threads()
    # Workers are other processes and find the method above only this way.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    torch.set_num_threads(1)
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=100 * 2**20,
        # Ray lets its workers yield to everything else that a machine does.
        _system_config={"worker_niceness": 0},
    )  # fmt: skip
    yield ray
    ray.shutdown()
    torch.set_num_threads(threads)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def wait_until(holds, seconds: float = 20) -> bool:
    """Whether it came to hold."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def made(notes: Path) -> Iterator[str]:
    """The cases that were made, as often as they were."""
    return (p.name.split("-")[1] for p in notes.glob("made-*"))
