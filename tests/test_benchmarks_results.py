"""What the benchmarks' results say of the commits and units behind them."""

import json
import sys
from pathlib import Path

import pytest

from augmint.errors import AugmintError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_every_commit_that_work_was_started_at_is_named(tmp_path: Path):
    from results import commits

    assert commits(tmp_path / "new", "a") == "a"
    assert commits(tmp_path / "new", "a") == "a"
    assert commits(tmp_path / "new", "b") == ["a", "b"]
    assert commits(tmp_path / "new", "a") == ["a", "b"]
    (tmp_path / "old").mkdir()
    assert commits(tmp_path / "old", "b") == ["unknown", "b"]


def test_a_failed_unit_names_its_pair(tmp_path: Path):
    from trained_nulls import finished

    out = tmp_path / "pair_07" / "study"
    out.mkdir(parents=True)
    unit = {"key": "k", "status": "done", "message": "", "seconds": 1.0}
    (out / "outcomes.json").write_text(json.dumps([unit]))
    assert finished(out) == [unit]
    failed = {**unit, "status": "failed", "message": "OSError: no space"}
    (out / "outcomes.json").write_text(json.dumps([unit, failed]))
    with pytest.raises(AugmintError, match=r"^pair_07: unit k failed: OSError: no space; .*again"):
        finished(out)
