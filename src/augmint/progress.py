"""What a command says while it works: bars with time left on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Thing = TypeVar("Thing")


class Talk:
    """Where progress and remarks go; everything is on standard error."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One remark."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar of `total` steps; call what it yields with (done, note)."""
        if self.quiet:
            yield _silence
        elif sys.stderr.isatty():
            with _terminal_bar(title, total) as update:
                yield update
        else:
            yield _Lines(self, title, total)

    def counted(self, title: str, things: Iterable[Thing], total: int) -> Iterator[Thing]:
        """The things, `total` of them, with a bar of those that are done with."""
        with self.bar(title, total) as update:
            for number, thing in enumerate(things, start=1):
                yield thing
                update(number, "")


def _silence(done: int, note: str = "") -> None:
    """Say nothing."""


class _Lines:
    """At most a line every twenty seconds, and one at the end."""

    def __init__(self, talk: Talk, title: str, total: int):
        self.talk, self.title, self.total = talk, title, total
        self.start = self.spoken = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = done - 1
        if done < self.total and now - self.spoken < 20:
            return
        self.spoken = now
        rate = (now - self.start) / max(1, done - self.first)
        left = "" if done >= self.total else f", {_clock(rate * (self.total - done))} left"
        took = f"{_clock(now - self.start)}{left}"
        self.talk.say(f"{self.title}: {done}/{self.total} ({took}){' ' + note if note else ''}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def _terminal_bar(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, note="")

        def update(done: int, note: str = "") -> None:
            progress.update(task, completed=done, note=note)

        yield update
