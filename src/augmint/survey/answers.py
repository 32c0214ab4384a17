"""Reading a survey's key and the answers that readers saved."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augmint.data.layout import listed, read_json
from augmint.errors import AugmintError

KINDS = ("real", "generated")
KEY = "key.json"


@dataclass(frozen=True)
class Key:
    """What a survey's frames are: its name, name of frame -> facts, and remarks."""

    survey: str
    frames: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One answer: the frame, `real` or `generated`, and how long it took."""

    frame: str
    answer: str
    seconds: float


@dataclass(frozen=True)
class Sheet:
    """The answers of one reader."""

    path: Path
    reader: str
    answers: tuple[Answer, ...]


def open_key(path: Path) -> Key:
    """Read key.json, or that of a survey's folder.

    Raises:
        AugmintError: if it is no key of a survey.
    """
    if path.is_dir():
        path = path / KEY
    content = read_json(path)
    try:
        frames = {str(name): dict(facts) for name, facts in content["frames"].items()}
        if not frames or any(f["kind"] not in KINDS or not f["case"] for f in frames.values()):
            raise KeyError("kind")
        return Key(str(content["survey"]), frames, tuple(map(str, content.get("notes", ()))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AugmintError(
            f"{path}: not the key of a survey ({error!r}); give the {KEY} that `augmint survey` "
            "wrote, or its folder"
        ) from error


def read_answers(path: Path, survey: str, frames: Collection[str]) -> Sheet:
    """Read the answers that a reader saved.

    Args:
        path: The file.
        survey: The survey that they must be of.
        frames: Names of its frames.

    Raises:
        AugmintError: if it is unreadable, of another survey, or holds unknown or doubled frames,
            an unknown answer, or none.
    """
    content = read_json(path)
    try:
        named, reader = str(content["survey"]), str(content["reader"]).strip()
        answers = [
            Answer(str(one["id"]), str(one["answer"]), float(one["milliseconds"]) / 1000)
            for one in content["answers"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise AugmintError(
            f"{path}: not answers of a survey ({error!r}); give the file that the page saved, "
            "unchanged"
        ) from error
    if named != survey:
        raise AugmintError(
            f"{path}: answers of survey {named}, the key is of survey {survey}; give the key that "
            "was made with their page"
        )
    if not reader:
        raise AugmintError(f"{path}: names no reader; give the file as the page saved it")
    names = [one.frame for one in answers]
    if unknown := sorted(set(names) - set(frames)):
        raise AugmintError(
            f"{path}: survey {survey} has no frame {listed(unknown)}; give the file as the page "
            "saved it"
        )
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise AugmintError(
            f"{path}: frame {listed(doubled)} is answered twice; give the file as the page saved it"
        )
    for one in answers:
        if one.answer not in KINDS:
            raise AugmintError(
                f"{path}: frame {one.frame} has the answer {one.answer!r}; only real and generated "
                "are answers"
            )
        if not (math.isfinite(one.seconds) and one.seconds >= 0):
            raise AugmintError(
                f"{path}: frame {one.frame} took {1000 * one.seconds:g} milliseconds; give the "
                "file as the page saved it"
            )
    if not answers:
        raise AugmintError(f"{path}: reader {reader!r} has answered nothing; there is no score")
    return Sheet(path, reader, tuple(answers))
