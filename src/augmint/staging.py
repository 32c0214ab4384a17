"""Output folders that appear complete or not at all, and finished work that survives a kill."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from augmint.errors import AugmintError

WORK = ".work"
UNWRITABLE = (
    errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST,
    errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


@contextmanager
def output_folder(out: Path, request: Mapping[str, Any], *, resume: bool = False) -> Iterator[Path]:
    """Work in OUT.partial, which becomes OUT when the work is done.

    A kill leaves OUT.partial with all that was finished; `resume` goes on there. The request and
    the folder `.work` stay until the rename, so that a kill at any moment loses nothing.

    Args:
        out: The folder to make.
        request: What was asked for; a continued run must ask for the same.
        resume: Continue unfinished work if there is any.

    Raises:
        AugmintError: if OUT exists, if unfinished work is there but `resume` was not asked for, if
            the unfinished work was asked for differently, or if the disk is full.
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    note = partial / "request.json"
    asked = json.loads(json.dumps(dict(request), default=str))
    if partial.exists():
        if not resume:
            raise AugmintError(
                f"{partial} holds unfinished work; add --continue to go on with it, or delete it"
            )
        if note.exists():
            before = json.loads(note.read_text())
            changed = [k for k in {**before, **asked} if before.get(k) != asked.get(k)]
            if changed:
                key = changed[0]
                raise AugmintError(
                    f"{partial} was begun with {key} = {before.get(key)!r}, now it is "
                    f"{asked.get(key)!r}; ask for the same, or delete the folder and start anew"
                )
    try:
        partial.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps(asked, indent=1))
        yield partial
        os.replace(partial, out)
    except Exception as error:
        # safetensors wraps the system's error in one of its own.
        number = getattr(error, "errno", None)
        if number == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
            raise AugmintError(
                f"no space left on the disk of {partial}; free some and go on with --continue, "
                "all finished work is kept"
            ) from error
        # Nothing was finished yet: there is nothing to go on with.
        with suppress(OSError):
            if not resume and [p.name for p in partial.iterdir()] == [note.name]:
                shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and number in UNWRITABLE:
            raise AugmintError(
                f"{error.filename or partial} cannot be written: {os.strerror(number)}; name a "
                "folder that you may write to"
            ) from error
        raise
    # OUT is complete; what cannot be swept from it harms nobody.
    with suppress(OSError):
        (out / note.name).unlink(missing_ok=True)
    shutil.rmtree(out / WORK, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Raise an AugmintError unless `out` names a folder that is still to be made."""
    if not out.name:
        raise AugmintError(f"{str(out)!r} is no name for a folder to make; name one")
    if out.exists():
        raise AugmintError(f"{out} exists and is never overwritten; name another folder or move it")


def write_text(path: Path, text: str) -> None:
    """Write a text file as one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes as one rename; an existing copy is kept if the bytes are the same.

    Work that goes on after a kill may find a copy of a file that was mended since.
    """
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".writing")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def forget_steps(metrics: Path, step: int, *, network: str | None = None) -> None:
    """Drop the lines of a metrics.jsonl that a continued fit writes again.

    Args:
        metrics: The file; it may be absent, and a kill may have left half a line at its end.
        step: Lines of later steps go.
        network: Only those of this network, where several share the file.
    """
    if not metrics.exists():
        return
    kept = []
    for text in metrics.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line["step"] <= step or (network is not None and line.get("network") != network):
            kept.append(text)
    write_text(metrics, "".join(text + "\n" for text in kept))
