"""Paired folders: images and masks of the same stem, in two folders or side by side."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from augmint.data.images import ending_of, stem_of
from augmint.data.layout import Found, Listing, listed, name_cases, parse_labels, read_json
from augmint.errors import AugmintError

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "gt")
MASK_SUFFIX = re.compile(r"^(.+)_(?:mask|masks|seg|segmentation|gt|label|labels)(?:_\d+)?$", re.I)
# A channel of a case, as nnU-Net numbers them.
CHANNEL = re.compile(r"^(.+)_(\d{4})$")
# Whole cine loops, with or without masks, that CAMUS and ACDC store beside their annotated frames.
SEQUENCE_SUFFIX = re.compile(r"_(?:4d|sequence|half_sequence)(?:_gt)?$", re.I)


def find_folders(root: Path) -> tuple[Path, Path] | None:
    """The image and the mask folder below `root`, if it has both."""
    below = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    images = next((below[name] for name in IMAGE_FOLDERS if name in below), None)
    masks = next((below[name] for name in MASK_FOLDERS if name in below), None)
    return (images, masks) if images and masks else None


def has_suffixed_masks(root: Path) -> bool:
    """Whether any image below `root` is named as a mask of another (`x_mask.png`)."""
    return any(MASK_SUFFIX.match(stem_of(path)) for path in _image_files(root))


def list_folders(root: Path) -> Listing:
    """The cases of paired folders, or of one folder where masks carry a suffix.

    Masks are matched to images by their path and stem; the suffixes `_mask`, `_seg`, `_gt` and
    `_label` are understood, also numbered (`x_mask_1.png`), and several masks of one image are
    united. `labels.json` names the stored values ({"lesion": 1}); without it masks are binary.

    Raises:
        AugmintError: if a mask has no image or there is no pair.
    """
    pair = find_folders(root)
    if pair:
        images, masks = _image_files(pair[0]), _image_files(pair[1])
        image_root, mask_root = pair
    else:
        files = [p for p in _image_files(root) if not SEQUENCE_SUFFIX.search(stem_of(p))]
        masks = [path for path in files if MASK_SUFFIX.match(stem_of(path))]
        images = sorted(set(files) - set(masks))
        image_root = mask_root = root
    keys = {path: _key(path, image_root) for path in images}
    counts = Counter(keys.values())
    doubled = [key[-1] for key, count in counts.items() if count > 1]
    if doubled:
        raise AugmintError(f"{image_root}: two images share the stem of {listed(doubled)}")
    by_key: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    orphans = []
    for mask in masks:
        key = _key(mask, mask_root)
        match = MASK_SUFFIX.match(key[-1])
        if key not in counts and match:
            key = (*key[:-1], match[1])
        if key in counts:
            by_key[key].append(mask)
        else:
            orphans.append(mask.name)
    if orphans:
        raise AugmintError(
            f"{mask_root}: no image for the mask(s) {listed(orphans)}; an image and its mask "
            "share one stem"
        )
    if not by_key:
        raise AugmintError(f"{root}: no image has a mask of the same stem")
    names = name_cases(images, image_root)
    found = [
        Found(name, (path,), tuple(by_key.get(keys[path], ())), _columns(path, image_root))
        for name, path in zip(names, images)
    ]
    labels = root / "labels.json"
    return Listing(
        root=root,
        name=root.name,
        layout="folders",
        found=tuple(sorted(found, key=lambda case: case.case_id)),
        labels=parse_labels(read_json(labels), labels) if labels.is_file() else None,
        file_ending=ending_of(images[0]),
    )


def list_images(root: Path) -> Listing:
    """Every image below a folder as a case without a mask.

    Where all files are numbered and every case has the numbers 0 to n - 1, `CASE_0000` is a
    channel of CASE, as in nnU-Net.

    Raises:
        AugmintError: if two images share their stem.
    """
    files = _image_files(root)
    counts = Counter(_key(path, root) for path in files)
    doubled = [key[-1] for key, count in counts.items() if count > 1]
    if doubled:
        raise AugmintError(
            f"{root}: two images share the stem of {listed(doubled)}; keep one format of each"
        )
    cases = _channels(files) or {path: (path,) for path in files}
    found = [
        Found(name, paths, (), _columns(paths[0], root))
        for name, paths in zip(name_cases(list(cases), root), cases.values())
    ]
    return Listing(
        root=root,
        name=root.name,
        layout="images",
        found=tuple(sorted(found, key=lambda case: case.case_id)),
        labels=None,
        file_ending=ending_of(files[0]) if files else "",
    )


def _channels(files: Sequence[Path]) -> dict[Path, tuple[Path, ...]] | None:
    """CASE.ext to its files CASE_0000.ext, ..., or None where files are not numbered so."""
    cases: dict[Path, dict[int, Path]] = defaultdict(dict)
    for path in files:
        match = CHANNEL.match(stem_of(path))
        if not match:
            return None
        cases[path.with_name(match[1] + ending_of(path))][int(match[2])] = path
    count = max((len(numbered) for numbered in cases.values()), default=0)
    if any(set(numbered) != set(range(count)) for numbered in cases.values()):
        return None
    return {case: tuple(own[k] for k in range(count)) for case, own in cases.items()}


def _image_files(folder: Path) -> list[Path]:
    """Image files below a folder, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if ending_of(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _key(path: Path, root: Path) -> tuple[str, ...]:
    return (*path.parent.relative_to(root).parts, stem_of(path))


def _columns(path: Path, root: Path) -> dict[str, str]:
    """The folder of a case below the image folder, such as BUSI's `benign`."""
    inside = path.parent.relative_to(root).parts
    return {"folder": "/".join(inside)} if inside else {}
