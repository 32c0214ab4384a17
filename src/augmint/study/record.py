"""What is on record of each unit beside its result: how long it took, and under which versions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from augmint.report import write_json
from augmint.study.units import Unit

NOT_RECORDED = {"augmint": "not recorded"}


@contextmanager
def on_record(unit: Unit, folder: Path) -> Iterator[None]:
    """Puts an attempt on record.

    Seconds and versions add up over all attempts that went into what is kept, whether they ended
    well, with an error or with a kill.
    """
    from augmint.fit import versions

    known = _settled(unit, folder)
    if not _partial(unit, folder).exists():  # nothing is left of earlier attempts
        known |= {"seconds": 0.0, "versions": []}
    if (now := versions()) not in known["versions"]:
        known["versions"].append(now)
    write_json(_file(unit.key, folder), {**known, "running": True})
    start = time.monotonic()
    try:
        yield
    finally:
        known["seconds"] = round(known["seconds"] + time.monotonic() - start, 1)
        write_json(_file(unit.key, folder), known)


def seconds_of(unit: Unit, folder: Path) -> float:
    """That a unit took, over all its attempts; 0 where nothing is on record."""
    return float(_settled(unit, folder)["seconds"])


def versions_of(folder: Path, keys: Iterable[str]) -> list[dict[str, str]]:
    """The versions that made these units of a study's folder, each set of them once."""
    found: list[dict[str, str]] = []
    for key in keys:
        path = _file(key, folder)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for one in known.get("versions") or [NOT_RECORDED]:
            if one not in found:
                found.append(one)
    return found


def _file(key: str, folder: Path) -> Path:
    return folder / "units" / f"{key}.json"


def _partial(unit: Unit, folder: Path) -> Path:
    place = folder / unit.folder
    return place.with_name(place.name + ".partial")


def _settled(unit: Unit, folder: Path) -> dict[str, Any]:
    """The record of a unit that nobody works on.

    An attempt that a kill ended counts from its begin, the time of the record's file, to the last
    that it wrote: both are times of one file system, whichever machine worked.
    """
    path = _file(unit.key, folder)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known: dict[str, Any] = {
        "title": unit.title,
        "seconds": kept.get("seconds", 0.0),
        "versions": kept.get("versions", []),
    }
    if kept.get("running"):
        begun = path.stat().st_mtime
        written = (
            file.stat().st_mtime
            for place in (folder / unit.folder, _partial(unit, folder))
            for file in place.rglob("*")
        )
        known["seconds"] = round(known["seconds"] + max((begun, *written)) - begun, 1)
        write_json(path, known)
    return known
