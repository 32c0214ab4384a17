"""What is found out before any work is given away."""

import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from augmint.cluster import Crew, Share, check_address, share_of
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.generate import generate
from augmint.progress import Talk


@pytest.fixture
def closed_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AugmintError, match=r'pip install "augmint\[ray\]"'):
        check_address("local")


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_no_cluster_at_an_address_is_said_at_once(prefix, closed_port):
    pytest.importorskip("ray")
    start = time.monotonic()
    with pytest.raises(AugmintError, match=r"no Ray cluster answers at .*ray start --head"):
        check_address(f"{prefix}127.0.0.1:{closed_port}")
    assert time.monotonic() - start < 30  # Ray itself tries for minutes


def test_a_cluster_that_is_gone_is_said_at_once(tmp_path, monkeypatch, closed_port):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}")
    with pytest.raises(AugmintError, match=f"no Ray cluster answers at 127.0.0.1:{closed_port}"):
        check_address("auto")


@pytest.mark.parametrize("address", ["somewhere", "http://127.0.0.1:x", "here:", ":6379", ""])
def test_what_is_no_address_is_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(AugmintError, match="is no address of a Ray cluster; give local, auto"):
        check_address(address)


def test_nothing_is_written_without_a_cluster(tmp_path: Path, closed_port):
    pytest.importorskip("ray")
    data = make_phantoms("cine-mr", out=tmp_path / "data", patients=1, slices=3, size=32)
    with pytest.raises(AugmintError, match="no Ray cluster answers"):
        generate(
            "warped_pairs", data, tmp_path / "OUT", preset="tiny", ray=f"127.0.0.1:{closed_port}",
            talk=Talk(quiet=True),
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_processors_of_a_cluster_need_a_cluster(tmp_path: Path):
    with pytest.raises(AugmintError, match=r"^--ray-cpus needs --ray, .* add --ray local"):
        generate("warped_pairs", tmp_path / "data", tmp_path / "OUT", ray_cpus=1)
    assert not list(tmp_path.iterdir())


class Deserted:
    """Looks like Ray with one task, whose nodes are lost until look number `back`."""

    def __init__(self, back: int | None = None):
        self.looks, self.back = 0, back

    def remote(self, **options):
        return lambda work: SimpleNamespace(remote=lambda *arguments: object())

    def wait(self, refs, *, num_returns, timeout):
        self.looks += 1
        time.sleep(timeout)
        return (refs, []) if self.back is not None and self.looks > self.back + 1 else ([], refs)

    def get(self, ref):
        return "made"

    def nodes(self):
        there = self.back is not None and self.looks >= self.back
        return [{"Alive": there, "Resources": {"CPU": 2.0}}]


class Heard(Talk):
    def __init__(self):
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {"LOOK": 0.02, "TELL": 0.1, "GIVE_UP": 0.4}.items():
        monkeypatch.setattr(f"augmint.cluster.{name}", seconds)


def waiting(ray: Deserted, talk: Talk) -> Crew:
    """A crew that waits for a task."""
    crew = Crew(ray, Share("cpu", 2), talk)
    assert crew.slots == 0
    assert crew.free  # a cluster that grows must be asked
    crew.submit("task", print)
    assert not crew.free
    return crew


def test_lost_nodes_are_told_of_and_not_waited_for_for_ever(impatient):
    talk = Heard()
    crew = waiting(Deserted(), talk)
    start = time.monotonic()
    with pytest.raises(AugmintError, match=r"no node .* has had 2 CPUs to give.*--continue goes"):
        crew.collect()
    assert 0.4 <= time.monotonic() - start < 10
    (said,) = talk.said
    assert "ray start --address" in said


def test_nodes_that_come_back_are_waited_for(impatient):
    talk = Heard()
    done = waiting(Deserted(back=8), talk).collect()
    assert (done.name, done.value, done.error) == ("task", "made", None)
    assert len(talk.said) == 1


def test_a_short_absence_is_no_matter(impatient):
    talk = Heard()
    assert waiting(Deserted(back=1), talk).collect().value == "made"
    assert not talk.said


def nodes(*resources):
    return [{"Resources": r} for r in resources]


def test_the_share_of_a_task(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    head, large, gpu = {"node:x": 1.0}, {"CPU": 16.0}, {"CPU": 32.0, "GPU": 4.0}
    # As many threads as here, so that bytes are those of this machine.
    assert share_of(nodes(head, large), "auto", None) == Share("cpu", 4)
    assert share_of(nodes({"CPU": 2.0}), "auto", None) == Share("cpu", 2)
    assert share_of(nodes(large), "auto", 3) == Share("cpu", 3)
    assert share_of(nodes(large, gpu), "auto", None) == Share("cuda", 8, 1)
    assert share_of(nodes(large, gpu), "cpu", None) == Share("cpu", 4)
    assert share_of(nodes(large, gpu), "cuda", 2) == Share("cuda", 2, 1)
    assert share_of(nodes({"CPU": 2.0, "GPU": 8.0}), "cuda", None) == Share("cuda", 1, 1)


@pytest.mark.parametrize(
    ("device", "cpus", "message"),
    [
        ("cuda", None, "no node of the Ray cluster has a GPU"),
        ("cuda:1", None, "on Ray the device is auto, cpu or cuda"),
        ("cpu", 17, "17 CPUs were asked for each task, .* has 16"),
        ("cpu", 0, "0 CPUs were asked"),
    ],
)
def test_a_share_that_no_node_has_is_refused(device, cpus, message):
    with pytest.raises(AugmintError, match=message):
        share_of(nodes({"CPU": 16.0}), device, cpus)


def test_a_cluster_without_processors_is_refused():
    with pytest.raises(AugmintError, match="no node of the Ray cluster has a CPU"):
        share_of(nodes({"node:x": 1.0}), "auto", None)
