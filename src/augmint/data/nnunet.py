"""nnU-Net raw datasets: `dataset.json`, `imagesTr/CASE_0000.ext`, `labelsTr/CASE.ext`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from augmint.data.images import PLAIN, TIFF
from augmint.data.layout import Found, Listing, facts_of, listed, names_of, parse_labels
from augmint.errors import AugmintError

FOLDERS = {"train": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


def list_nnunet(root: Path, description: Mapping[str, Any], split: str = "train") -> Listing:
    """The cases of an nnU-Net raw dataset.

    Args:
        root: The dataset's folder.
        description: The content of its `dataset.json`.
        split: `train`, or `test` for imagesTs (with labelsTs where present).

    Raises:
        AugmintError: if a key or a folder is missing, a case lacks a channel, or a label has no
            image.
    """
    path = root / "dataset.json"
    if split not in FOLDERS:
        raise AugmintError(f"{root}: an nnU-Net dataset has the splits train and test, not {split}")
    for key in ("labels", "file_ending"):
        if key not in description:
            raise AugmintError(f"{path}: `{key}` is missing; nnU-Net's version 2 format needs it")
    names = description.get("channel_names", description.get("modality"))
    if names is None:
        raise AugmintError(f'{path}: `channel_names` is missing; for example {{"0": "MRI"}}')
    channel_names = names_of(names, path, "channel_names")
    ending = str(description["file_ending"])
    images_folder, labels_folder = FOLDERS[split]
    if not (root / images_folder).is_dir():
        raise AugmintError(
            f"{root / images_folder}: no such folder; nnU-Net keeps the images of this split there"
        )
    channels = _channel_files(root / images_folder, ending)
    if not channels:
        raise AugmintError(f"{root / images_folder}: no file named CASE_0000{ending}")
    masks = {
        mask.name[: -len(ending)]: mask
        for mask in sorted((root / labels_folder).glob(f"*{ending}"))
        if not mask.name.startswith(".")
    }
    orphans = sorted(set(masks) - set(channels))
    if orphans:
        raise AugmintError(f"{root / labels_folder}: no image for {listed(orphans)}")
    found = []
    for case_id in sorted(channels):
        images = channels[case_id]
        _check_channels(case_id, images, channel_names, ending)
        mask = (masks[case_id],) if case_id in masks else ()
        found.append(Found(case_id, tuple(images[number] for number in sorted(images)), mask))
    return Listing(
        root=root,
        name=str(description.get("name") or root.name),
        layout="nnunet",
        found=tuple(found),
        labels=parse_labels(description["labels"], path),
        channel_names=channel_names,
        file_ending=ending,
        **facts_of(description, path),
    )


def _channel_files(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """Case name -> channel number -> file."""
    pattern = re.compile(rf"^(.+)_(\d{{4}}){re.escape(ending)}$")
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in folder.iterdir():
        match = pattern.match(path.name)
        if match and not path.name.startswith("."):
            cases[match[1]][int(match[2])] = path
    return cases


def _check_channels(
    case_id: str, images: Mapping[int, Path], channel_names: tuple[str, ...], ending: str
) -> None:
    """Every named channel has its file; one RGB file may hold three."""
    wanted = set(range(len(channel_names)))
    colour = ending.lower() in PLAIN + TIFF and set(images) == {0} and len(wanted) in (1, 3)
    if set(images) == wanted or colour:
        return
    missing = sorted(wanted - set(images))
    surplus = sorted(set(images) - wanted)
    what = f"lacks {case_id}_{missing[0]:04d}{ending}" if missing else f"has a channel {surplus[0]}"
    raise AugmintError(
        f"case {case_id!r} {what}, but dataset.json names {len(wanted)} channel(s): "
        f"{', '.join(channel_names)}; every case needs them all"
    )
