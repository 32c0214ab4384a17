"""What is on record of a unit, whatever ends its attempts."""

import json
import multiprocessing
import os
import shutil
import signal
from importlib import import_module
from pathlib import Path

import pytest

from augmint.progress import Talk
from augmint.study.record import NOT_RECORDED, versions_of
from augmint.study.units import Unit

runner, fit = import_module("augmint.study.run"), import_module("augmint.fit")
UNIT = Unit("generate", {"data": "nowhere"}, title="a generation")


def work(unit, folder, place, device, talk):
    """Writes something 100 s after it began, and ends as the folder's file `end` says."""
    partial, record = place.with_name(place.name + ".partial"), folder / f"units/{unit.key}.json"
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "written").write_text("")
    now = (partial / "written").stat().st_mtime
    os.utime(record, (now - 100, now - 100))
    end = (folder / "end").read_text()
    if end == "killed half-way":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "failed":
        raise RuntimeError("the lights went out")
    partial.rename(place)
    if end == "killed after all":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def doer(monkeypatch):
    monkeypatch.setitem(runner.DOERS, "generate", work)


def attempt(folder: Path, end: str):
    (folder / "end").write_text(end)
    if end.startswith("killed"):
        task = multiprocessing.get_context("fork").Process(
            target=runner.attempt, args=(UNIT, folder, "cpu", Talk(quiet=True))
        )
        task.start()
        task.join(60)
        assert task.exitcode == -signal.SIGKILL
        return None
    return runner.attempt(UNIT, folder, "cpu", Talk(quiet=True))


def test_seconds_add_up_over_kills_and_failures(tmp_path: Path):
    attempt(tmp_path, "killed half-way")
    failed = attempt(tmp_path, "failed")
    assert failed.status == "failed"
    assert failed.seconds == pytest.approx(100, abs=5)
    attempt(tmp_path, "killed half-way")
    done = attempt(tmp_path, "")
    assert done.status == "done"
    assert done.seconds == pytest.approx(200, abs=5)
    # What is done takes no more time, and stands without its old error.
    assert attempt(tmp_path, "") == done
    assert not list((tmp_path / "units").glob("*.error.txt"))


def test_a_kill_between_result_and_record_loses_no_time(tmp_path: Path):
    attempt(tmp_path, "killed after all")
    assert (tmp_path / UNIT.folder).exists()
    done = attempt(tmp_path, "failed")  # it is found done, not tried again
    assert done.status == "done"
    assert done.seconds == pytest.approx(100, abs=5)
    assert attempt(tmp_path, "failed") == done


def test_work_that_was_thrown_away_does_not_count(tmp_path: Path):
    attempt(tmp_path, "killed after all")
    shutil.rmtree(tmp_path / UNIT.folder)
    assert attempt(tmp_path, "").seconds < 5


def test_all_versions_that_worked_on_it_are_named(tmp_path: Path, monkeypatch):
    assert versions_of(tmp_path, [UNIT.key]) == [NOT_RECORDED]
    now = fit.versions()
    attempt(tmp_path, "failed")
    attempt(tmp_path, "failed")
    assert versions_of(tmp_path, [UNIT.key, UNIT.key]) == [now]
    monkeypatch.setattr(fit, "versions", lambda: {**now, "augmint": "99"})
    attempt(tmp_path, "")
    assert versions_of(tmp_path, [UNIT.key]) == [now, {**now, "augmint": "99"}]


def test_a_record_of_before_stands(tmp_path: Path):
    (tmp_path / UNIT.folder).mkdir(parents=True)
    old = {"title": UNIT.title, "seconds": 12.5, "note": ""}
    (tmp_path / "units" / f"{UNIT.key}.json").write_text(json.dumps(old))
    assert attempt(tmp_path, "").seconds == 12.5
    assert versions_of(tmp_path, [UNIT.key]) == [NOT_RECORDED]
