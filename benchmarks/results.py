"""Where benchmark results go, and which commit made them."""

import json
import subprocess
from pathlib import Path
from typing import Any


def commit() -> str:
    """The commit of this checkout, with a mark if it has uncommitted changes."""
    call = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def commits(work: Path, started: str) -> str | list[str]:
    """The commit that work in a folder was started at; all of them, where it went on at others.

    They are kept in the folder's commits.json. Work without one is of an unknown commit.
    """
    path = work / "commits.json"
    known = ["unknown"] if work.exists() else []
    if path.exists():
        known = json.loads(path.read_text())
    if started not in known:
        known.append(started)
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    return one_or_all(known)


def one_or_all(found: list[Any]) -> Any:
    """What was the same all along stands for itself."""
    return found[0] if len(found) == 1 else found


def save(name: str, result: dict) -> Path:
    """Write benchmarks/results/NAME.json."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
    return path
