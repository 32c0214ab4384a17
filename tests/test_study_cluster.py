"""A study on Ray: the results of a local one, with a worker killed and the driver stopped."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from augmint.data.phantoms import make_phantoms
from augmint.progress import Talk
from augmint.study import study
from two_workers import Mortal, made, two_workers, wait_until  # noqa: F401

pytestmark = pytest.mark.usefixtures("two_workers")
MORTAL = f"{Mortal.__module__}:{Mortal.__name__}"

FILE = """\
name: toy
data: train
sizes: [3]
tests:
  - {{name: other, data: other}}
arms:
  stack: {{}}
  mortal:
    synthetic:
      method: {method}
      copies: 1
      gate_steps: 2
      settings: {{notes: {notes}, deaths: {deaths}, at: 1}}
baseline: stack
endpoint: {{test: other}}
seeds: [0]
preset: tiny
segmenter_steps: 3
"""
UNITS = 5  # two trainings, their evaluations, one generation


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name, seed in (("train", 0), ("other", 1)):
        make_phantoms("cine-mr", out=folder / name, patients=3, seed=seed, slices=3, size=32)
    return folder


class Heard(Talk):
    """Keeps what is said; `stop` says where the driver is stopped, as Ctrl-C does."""

    def __init__(self, stop: Callable[[str], bool] = lambda text: False):
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.stop = stop

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.stop(text):
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Stage:
    """Where a study stands after a run of it."""

    file: Path
    notes: Path
    out: Path
    said: list[str]
    outcomes: list[dict]
    deaths: int


@pytest.fixture(scope="module")
def stopped(base: Path, two_workers) -> Stage:  # noqa: F811
    """The driver was stopped in the middle of a generation, once a training was done."""
    notes, file, out = base / "notes", base / "study.yaml", base / "out"
    notes.mkdir()
    (notes / "pause").touch()
    file.write_text(FILE.format(method=MORTAL, notes=notes, deaths=4))
    talk = Heard(lambda t: "done: train" in t and wait_until((notes / "paused").exists))
    with pytest.raises(KeyboardInterrupt):
        study(file, out, ray="auto", device="cpu", talk=talk)
    # Nothing goes on in the background.
    assert wait_until(lambda: two_workers.available_resources().get("CPU") == 2)
    (notes / "pause").unlink()
    left = {p.name for p in (out / "units").iterdir() if p.is_dir()}
    assert any(n.startswith("train_") and not n.endswith(".partial") for n in left)
    assert [n.endswith(".partial") for n in left if n.startswith("generate_")] == [True]
    return Stage(file, notes, out, talk.said, [], 0)


def go_on(stage: Stage) -> Stage:
    talk = Heard()
    study(stage.file, stage.out, ray="auto", device="cpu", resume=True, talk=talk)
    return replace(
        stage,
        said=talk.said,
        outcomes=json.loads((stage.out / "outcomes.json").read_text()),
        deaths=len(list(stage.notes.glob("death-*"))),
    )


@pytest.fixture(scope="module")
def failed(stopped: Stage) -> Stage:
    """Every worker died that tried the generation."""
    return go_on(stopped)


@pytest.fixture(scope="module")
def finished(failed: Stage) -> Stage:
    """One more worker was killed, and replaced."""
    return go_on(failed)


def test_a_unit_that_kills_every_worker_is_reported_while_others_go_on(failed: Stage):
    assert failed.deaths == 3
    by_status = Counter(o["status"] for o in failed.outcomes)
    assert by_status == {"done": 2, "failed": 1, "skipped": 2}
    message = next(o["message"] for o in failed.outcomes if o["status"] == "failed")
    assert "its worker died 3 times" in message
    assert "--continue" in message
    assert sum("its worker died" in t and "trying again" in t for t in failed.said) == 2


def test_a_killed_worker_is_replaced_and_the_study_ends(finished: Stage):
    assert finished.deaths == 4
    assert sum("trying again" in t for t in finished.said) == 1
    assert [o["status"] for o in finished.outcomes] == ["done"] * UNITS
    assert (finished.out / "report.html").exists()
    # Each try went on from what was finished before: no case was made twice.
    cases = list(made(finished.notes))
    assert len(cases) == len(set(cases)) == 3 * 2


def test_what_is_said_counts_the_units(finished: Stage):
    started = [t for t in finished.said if t.startswith("[") and "] done" not in t]
    ended = [t for t in finished.said if t.startswith("[") and "] done: " in t]
    # The units of the other arm were done before and are not done again.
    assert len(started) == len(ended) == 3
    assert all(f"/{UNITS}] " in t for t in started + ended)


def test_the_results_are_those_of_a_local_study(base: Path, finished: Stage):
    out = finished.out
    here = study(finished.file, base / "here", device="cpu", talk=Talk(quiet=True))
    assert (here / "scores.csv").read_bytes() == (out / "scores.csv").read_bytes()
    assert (here / "comparisons.csv").read_bytes() == (out / "comparisons.csv").read_bytes()
    exact = (".nii.gz", ".safetensors", "scores.csv", "manifest.csv")
    names = [
        {str(p.relative_to(f)) for p in (f / "units").rglob("*") if p.name.endswith(exact)}
        for f in (here, out)
    ]
    assert names[0] == names[1]
    assert {Path(n).name for n in names[0]} > {"network.safetensors", "manifest.csv", "scores.csv"}
    for name in names[0]:
        assert (here / name).read_bytes() == (out / name).read_bytes(), name
