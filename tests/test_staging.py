import errno
import json
import os
from pathlib import Path

import pytest

from augmint.errors import AugmintError
from augmint.staging import copy_file, output_folder, write_text

REQUEST = {"command": "fit", "seed": 0, "patients": ("a", "b")}


class KillError(BaseException):
    """As a kill: no handler of ordinary errors sees it."""


def killed(out, request=REQUEST, **arguments):
    with (  # noqa: PT012
        pytest.raises(KillError),
        output_folder(out, request, **arguments) as folder,
    ):
        write_text(folder / "done.txt", "finished")
        raise KillError


def test_the_folder_appears_when_the_work_is_done(tmp_path):
    out = tmp_path / "deep" / "OUT"
    with output_folder(out, REQUEST) as folder:
        write_text(folder / "sub" / "a.txt", "a")
        assert folder == tmp_path / "deep" / "OUT.partial"
        assert not out.exists()
    assert (out / "sub" / "a.txt").read_text() == "a"
    assert sorted(p.name for p in out.rglob("*")) == ["a.txt", "sub"]
    assert not folder.exists()


def test_a_kill_leaves_what_was_finished_and_it_goes_on_there(tmp_path):
    out = tmp_path / "OUT"
    killed(out)
    assert not out.exists()
    assert (tmp_path / "OUT.partial" / "done.txt").read_text() == "finished"
    with output_folder(out, REQUEST, resume=True) as folder:
        assert (folder / "done.txt").read_text() == "finished"
    assert (out / "done.txt").exists()
    assert not (out / "request.json").exists()


def test_unfinished_work_is_not_taken_over_unasked(tmp_path):
    killed(tmp_path / "OUT")
    with pytest.raises(AugmintError, match="--continue"), output_folder(tmp_path / "OUT", REQUEST):
        pytest.fail("worked")


def test_request_and_work_stay_until_the_rename(tmp_path, monkeypatch):
    out, partial = tmp_path / "OUT", tmp_path / "OUT.partial"

    def kill(source, target):
        raise KillError

    rename = os.replace
    with (  # noqa: PT012
        pytest.raises(KillError),
        output_folder(out, REQUEST) as folder,
    ):
        write_text(folder / ".work" / "rows" / "a.json", "{}")
        monkeypatch.setattr(os, "replace", kill)
    monkeypatch.setattr(os, "replace", rename)
    assert (partial / "request.json").exists()
    assert (partial / ".work" / "rows" / "a.json").exists()
    with output_folder(out, REQUEST, resume=True) as folder:
        write_text(folder / "done.txt", "finished")
    assert [p.name for p in out.iterdir()] == ["done.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"patients": ["a"]}, r"patients = \['a', 'b'\], now it is \['a'\]"),
        ({"steps": 5}, "steps = None, now it is 5"),
    ],
)
def test_another_request_does_not_go_on(tmp_path, change, message):
    killed(tmp_path / "OUT")
    with (
        pytest.raises(AugmintError, match=message),
        output_folder(tmp_path / "OUT", {**REQUEST, **change}, resume=True),
    ):
        pytest.fail("worked")
    note = json.loads((tmp_path / "OUT.partial" / "request.json").read_text())
    assert note["seed"] == 0


@pytest.mark.parametrize("resume", [False, True])
def test_an_existing_folder_is_never_touched(tmp_path, resume):
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "mine.txt").write_text("mine")
    with (
        pytest.raises(AugmintError, match="never overwritten"),
        output_folder(tmp_path / "OUT", REQUEST, resume=resume),
    ):
        pytest.fail("worked")
    assert [p.name for p in tmp_path.iterdir()] == ["OUT"]
    assert (tmp_path / "OUT" / "mine.txt").read_text() == "mine"


def test_to_continue_where_nothing_was_begun_is_to_begin(tmp_path):
    with output_folder(tmp_path / "OUT", REQUEST, resume=True) as folder:
        write_text(folder / "a", "a")
    assert (tmp_path / "OUT" / "a").exists()


def test_a_full_disk_is_one_clear_error_and_keeps_the_work(tmp_path):
    with (  # noqa: PT012
        pytest.raises(AugmintError, match=r"no space left.*--continue"),
        output_folder(tmp_path / "OUT", REQUEST) as folder,
    ):
        write_text(folder / "done.txt", "finished")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "OUT.partial" / "done.txt").exists()
    with output_folder(tmp_path / "OUT", REQUEST, resume=True):
        pass
    assert (tmp_path / "OUT" / "done.txt").exists()


def test_a_forbidden_folder_is_one_clear_error(tmp_path):
    with (
        pytest.raises(AugmintError, match="cannot be written"),
        output_folder(tmp_path / "OUT", REQUEST) as folder,
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "x"))


@pytest.mark.parametrize("name", ["", "file.txt/OUT"])
def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("a file")
    message = "no name for a folder" if not name else "cannot be written: Not a directory"
    with pytest.raises(AugmintError, match=message), output_folder(Path(name), REQUEST):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_mended_file_is_copied_again(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"trunc")
    copy_file(source, target)
    source.write_bytes(b"truncated no more")
    copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(OSError, match="odd"), output_folder(tmp_path / "OUT", REQUEST):
        raise OSError(errno.EIO, "odd")
    with pytest.raises(ValueError, match="odd"), output_folder(tmp_path / "OUT2", REQUEST):
        raise ValueError("odd")
    assert not (tmp_path / "OUT").exists()


def test_an_error_before_anything_was_finished_leaves_nothing(tmp_path):
    with pytest.raises(AugmintError, match="bad"), output_folder(tmp_path / "OUT", REQUEST):
        raise AugmintError("bad input")
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_replaced_whole(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "zwölf")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "zwölf"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_complete_copy_is_not_written_again(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00one")
    copy_file(tmp_path / "a", tmp_path / "new" / "b")
    first = (tmp_path / "new" / "b").stat()
    copy_file(tmp_path / "a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").stat().st_ino == first.st_ino
    assert (tmp_path / "new" / "b").read_bytes() == b"\x00one"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b"]
