"""Generation on Ray: the bytes of a local one, whoever dies or stops on the way."""

import json
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch

from augmint.cluster import crew_at
from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.diffusion.checkpoint import save_network
from augmint.diffusion.networks import build_network
from augmint.diffusion.training import TrainingConfig
from augmint.errors import AugmintError
from augmint.fit import write_run
from augmint.generate import generate
from augmint.methods import build_method
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.shards import cut
from two_workers import Mortal, two_workers, wait_until  # noqa: F401

pytestmark = pytest.mark.usefixtures("two_workers")
QUIET = Talk(quiet=True)
MORTAL = f"{Mortal.__module__}:{Mortal.__name__}"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    return make_phantoms("cine-mr", out=folder, patients=3, slices=3, size=32)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A run folder as a fit leaves it, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    prepared = prepare(open_dataset(data), preset_named("tiny"))
    method = build_method("mask_to_image", {"network": "tiny", "num_steps": 2, "batch_size": 4})
    torch.manual_seed(0)
    network = build_network(method.networks(prepared.facts)["image"].config)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3))
    digest = save_network(folder / "checkpoints" / "best" / "image", network)
    request = {"method": "mask_to_image", "data": str(data), "seed": 0}
    write_run(
        folder, request, method, prepared, TrainingConfig(), {"image": digest}, 0.0,
        torch.device("cpu"),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def local(run, data, two_workers, tmp_path_factory) -> Path:  # noqa: F811
    return generate(
        run, data, tmp_path_factory.mktemp("local") / "OUT", copies=2, device="cpu", talk=QUIET
    )


def assert_same(one: Path, other: Path) -> None:
    """Every file has the same bytes, and run.json says the same but for what it cost."""
    names = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (one, other)]
    assert names[0] == names[1]
    for name in names[0] - {"run.json", "report.html"}:  # the report shows the cost too
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    facts = [json.loads((f / "run.json").read_text()) for f in (one, other)]
    costs = [f.pop("cost") for f in facts]
    assert facts[0] == facts[1]
    assert set(costs[0]) == set(costs[1])


def test_the_bytes_are_those_of_a_local_run(run, data, local, tmp_path):
    out = generate(run, data, tmp_path / "OUT", copies=2, ray="auto", device="cpu", talk=QUIET)
    assert_same(out, local)
    cost = [json.loads((f / "run.json").read_text())["cost"]["images"] for f in (out, local)]
    assert cost[0] == cost[1] == 3 * 2 * 2 * 3  # patients, phases, copies, slices


class StopError(Exception):
    pass


def test_begun_here_and_continued_on_ray(run, data, local, tmp_path, monkeypatch):
    module = import_module("augmint.generate")
    write, left = module.write_case, [5]

    def stopping(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise StopError
        return write(*arguments, **keywords)

    monkeypatch.setattr(module, "write_case", stopping)
    with pytest.raises(StopError):
        generate(run, data, tmp_path / "OUT", copies=2, device="cpu", talk=QUIET)
    part = {"precision": "fp32", "device": "another machine", "threads": 1}
    rows = sorted((tmp_path / "OUT.partial" / ".work" / "rows").iterdir())
    for row in rows[:2]:
        row.write_text(json.dumps(json.loads(row.read_text()) | {"signature": part}))
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "OUT.partial" / "labelsTr").glob("*__s*")}
    assert len(kept) == 5
    out = generate(
        run, data, tmp_path / "OUT", copies=2, ray="auto", device="cpu", resume=True, talk=QUIET
    )
    facts = json.loads((out / "run.json").read_text())
    here = json.loads((local / "run.json").read_text())["signature"]
    assert sorted(facts["signature"], key=lambda s: s["device"]) == sorted(
        [part, here], key=lambda s: s["device"]
    )
    (out / "run.json").write_text(json.dumps(facts | {"signature": here}))
    assert_same(out, local)
    # What was finished is not made again.
    for path, time in kept.items():
        assert (out / "labelsTr" / path.name).stat().st_mtime_ns == time


class Interrupting(Talk):
    """Ctrl-C when the first shard is done."""

    def __init__(self):
        super().__init__(quiet=True)

    def bar(self, title, total):
        def update(done, note=""):
            if title == "generate":
                raise KeyboardInterrupt

        return contextmanager(lambda: (yield update))()


def test_stopped_on_ray_and_continued_here(run, data, local, tmp_path, two_workers):  # noqa: F811
    with pytest.raises(KeyboardInterrupt):
        generate(
            run, data, tmp_path / "OUT", copies=2, ray="auto", device="cpu", talk=Interrupting()
        )
    assert list((tmp_path / "OUT.partial" / ".work" / "rows").iterdir())
    # Nothing goes on in the background.
    assert wait_until(lambda: two_workers.available_resources().get("CPU") == 2)
    out = generate(run, data, tmp_path / "OUT", copies=2, device="cpu", resume=True, talk=QUIET)
    assert_same(out, local)


@pytest.fixture
def notes(tmp_path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def test_a_killed_worker_costs_nothing_but_time(data, notes, tmp_path, capfd):
    asked = {
        "copies": 2, "preset": "tiny", "device": "cpu",
        "settings": {"notes": str(notes), "deaths": 1},
    }  # fmt: skip
    out = generate(MORTAL, data, tmp_path / "ray", ray="auto", talk=Talk(), **asked)
    assert len(list(notes.glob("death-*"))) == 1
    said = capfd.readouterr()
    assert "its worker died" in said.err
    assert not said.out  # where the answer of a command belongs
    assert_same(out, generate(MORTAL, data, tmp_path / "local", talk=QUIET, **asked))


def test_an_error_on_a_worker_is_the_error_here(data, notes, tmp_path):
    (notes / "refuse").touch()
    with pytest.raises(AugmintError, match=r"^this case is refused$"):
        generate(
            MORTAL, data, tmp_path / "OUT", copies=1, preset="tiny",
            settings={"notes": str(notes)}, ray="auto", device="cpu", talk=QUIET,
        )  # fmt: skip


def test_a_place_that_a_node_does_not_see_is_named(tmp_path, monkeypatch):
    with crew_at("auto", talk=QUIET) as crew:
        crew.check(tmp_path, [tmp_path])
        assert not list(tmp_path.iterdir())
        with pytest.raises(
            AugmintError, match=r"node .* does not see .*elsewhere; .* all machines"
        ):
            crew.check(tmp_path, [tmp_path / "elsewhere"])
        monkeypatch.setattr("augmint.__version__", "9.9")
        with pytest.raises(AugmintError, match=r"this machine has 9\.9; install the same"):
            crew.check(tmp_path, [])


def test_a_second_ray_is_refused():
    with (
        pytest.raises(AugmintError, match="this process has a Ray already"),
        crew_at("local", talk=QUIET),
    ):
        pass


@pytest.mark.parametrize("count", [0, 1, 5, 12, 100, 1001])
@pytest.mark.parametrize("workers", [1, 2, 30])
@pytest.mark.parametrize("batch", [1, 16])
def test_shards_are_a_partition_and_waste_no_batch(count, workers, batch):
    names = [str(n) for n in range(count)]
    shards = cut(names, workers=workers, each=8, batch=batch)
    assert [n for shard in shards for n in shard] == names
    assert all(shards)
    sizes = {len(s) for s in shards[:-1]}
    assert len(sizes) <= 1
    if count >= workers * batch:
        assert all(size % batch == 0 for size in sizes)
        assert len(shards) <= 8 * workers
    elif count >= workers:
        assert len(shards) >= workers / 2
