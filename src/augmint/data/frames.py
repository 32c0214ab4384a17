"""Annotated frames in patient folders, and the small text files that published hearts come with."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from augmint.data.images import IMAGE_ENDINGS, ending_of, stem_of
from augmint.data.layout import listed
from augmint.errors import AugmintError

UNKNOWN = ("", "nan", "n/a", "na", "none")


@dataclass(frozen=True)
class Frame:
    """An image file and the mask beside it, None where it has none."""

    image: Path
    mask: Path | None


def patient_folders(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The folders named like a patient, sorted."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if pattern.match(p.name) and p.is_dir())


def frame_files(
    patient: Path, pattern: re.Pattern[str], endings: Collection[str] = IMAGE_ENDINGS
) -> list[Path]:
    """Images and masks whose stems match; neither loops nor hidden files do."""
    return sorted(
        path
        for path in patient.iterdir()
        if ending_of(path) in endings and pattern.match(stem_of(path))
    )


def read_frames(
    patient: Path, pattern: re.Pattern[str], endings: Collection[str] = IMAGE_ENDINGS
) -> dict[str, Frame]:
    """Stem of an image -> the image and its mask, whose stem ends with `_gt`.

    Raises:
        AugmintError: if a file is another patient's, a frame is there in two formats, or a mask
            has no image.
    """
    files: dict[str, Path] = {}
    for path in frame_files(patient, pattern, endings):
        stem = stem_of(path)
        if not stem.startswith(f"{patient.name}_"):
            raise AugmintError(f"{path}: lies in the folder of another patient; move it")
        if stem in files:
            raise AugmintError(
                f"{patient}: {files[stem].name} and {path.name} are one frame; keep one release "
                "in a folder"
            )
        files[stem] = path
    if orphans := [s for s in files if s.endswith("_gt") and s.removesuffix("_gt") not in files]:
        raise AugmintError(
            f"{patient}: no image for the mask(s) {listed(orphans)}; complete the download"
        )
    return {
        stem: Frame(path, files.get(f"{stem}_gt"))
        for stem, path in files.items()
        if not stem.endswith("_gt")
    }


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped.

    Raises:
        AugmintError: if it is not UTF-8 text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AugmintError(f"{path}: not readable as text ({error}); copy it again") from error


def is_unknown(value: str) -> bool:
    """Whether a cell says that nobody knows."""
    return value.strip().lower() in UNKNOWN


def read_info(
    path: Path, columns: Mapping[str, str], *, whole: Collection[str], words: Collection[str]
) -> dict[str, str]:
    """The columns of a cfg file of lines `key: value`; empty where there is no such file.

    Args:
        path: The file.
        columns: Key -> column; other keys are not read. Unknown values are no columns.
        whole: Columns that hold whole numbers.
        words: Columns that hold anything; all others hold numbers of 0 or more.

    Raises:
        AugmintError: naming the line, if it is not `key: value`, repeats a key, or holds no number
            where one belongs.
    """
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        place = f"{path}, line {number}"
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise AugmintError(
                f"{place}: {line!r} is not `key: value`; correct the line, or remove the file to "
                "read its frames without columns"
            )
        column = columns.get(key)
        if column is None or is_unknown(value):
            continue
        if column in found:
            raise AugmintError(f"{place}: {key} is given twice; keep one line")
        if column not in words and not _is_number(value, whole=column in whole):
            kind = "a whole number" if column in whole else "a number"
            raise AugmintError(
                f"{place}: {key} must be {kind} of 0 or more, got {value!r}; correct the line, or "
                "leave the value empty if it is unknown"
            )
        found[column] = value
    return found


def _is_number(value: str, *, whole: bool) -> bool:
    if whole:
        return value.isascii() and value.isdigit()
    try:
        return 0 <= float(value) < math.inf
    except ValueError:
        return False
