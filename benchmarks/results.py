"""Where benchmark results go, and which commit made them."""

import json
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of this checkout, with a mark if it has uncommitted changes."""
    call = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def save(name: str, result: dict) -> Path:
    """Write benchmarks/results/NAME.json."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
    return path
