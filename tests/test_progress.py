"""What a command says while it works."""

from contextlib import contextmanager

import pytest

from augmint.progress import Talk


class Noted(Talk):
    def __init__(self):
        super().__init__()
        self.seen = []

    @contextmanager
    def bar(self, title, total):
        self.seen.append((title, total))
        try:
            yield lambda done, note="": self.seen.append(done)
        finally:
            self.seen.append("closed")


def test_things_are_counted_when_they_are_done_with():
    talk = Noted()
    for thing in talk.counted("read", iter("ab"), 2):
        talk.seen.append(thing)
    assert talk.seen == [("read", 2), "a", 1, "b", 2, "closed"]


def test_a_fault_on_the_way_closes_the_bar_before_it_is_told():
    talk = Noted()

    def work():
        for thing in talk.counted("read", "ab", 2):
            raise ValueError(thing)

    with pytest.raises(ValueError, match="a"):
        work()
    assert talk.seen == [("read", 2), "closed"]


def test_all_is_said_at_the_end(capsys):
    assert list(Talk().counted("read", range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err.startswith("read: 3/3 (0:00)")
    assert list(Talk(quiet=True).counted("read", range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
