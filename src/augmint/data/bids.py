"""BIDS: `sub-*/[ses-*/]anat/*.nii.gz` and `derivatives/*/sub-*/**/*_dseg.nii.gz`."""

from __future__ import annotations

from pathlib import Path

from augmint.data.images import NIFTI, ending_of, stem_of
from augmint.data.layout import Found, Listing, listed, read_json
from augmint.data.patients import read_rows
from augmint.errors import AugmintError

# Entities that a derivative adds to the name of its source.
DERIVED = {"space", "desc", "label", "atlas", "res", "den", "seg"}


def list_bids(root: Path) -> Listing:
    """The anatomical images of a BIDS dataset with their discrete segmentations.

    A segmentation belongs to the image of its subject and session that agrees in every entity
    both name. Label names come from a `dseg.tsv` with the columns index and name.

    Raises:
        AugmintError: if a segmentation fits no image or several, or an image has several.
    """
    images = _niftis(root, "sub-*/anat/*") + _niftis(root, "sub-*/ses-*/anat/*")
    if not images:
        raise AugmintError(f"{root}: no sub-*/anat/*.nii.gz or sub-*/ses-*/anat/*.nii.gz")
    masks = [
        path
        for path in _niftis(root, "derivatives/*/sub-*/**/*")
        if stem_of(path).endswith("_dseg")
    ]
    by_image: dict[Path, Path] = {}
    for mask in masks:
        fitting = [image for image in images if _belongs(mask, image)]
        named = [image for image in fitting if f"_{_suffix(image)}_" in mask.name]
        fitting = named or fitting
        if len(fitting) != 1:
            what = listed([image.name for image in fitting]) if fitting else "no image"
            raise AugmintError(
                f"{mask}: fits {what} where it must fit exactly one; pair them in a datalist.json"
            )
        if fitting[0] in by_image:
            raise AugmintError(
                f"{fitting[0]}: has two segmentations, {by_image[fitting[0]].name} and "
                f"{mask.name}; keep one or pair them in a datalist.json"
            )
        by_image[fitting[0]] = mask
    suffixes = sorted({_suffix(image) for image in images})
    description = root / "dataset_description.json"
    facts = read_json(description) if description.is_file() else {}
    return Listing(
        root=root,
        name=str(facts.get("Name") or root.name),
        layout="bids",
        found=tuple(
            Found(
                stem_of(image),
                (image,),
                (by_image[image],) if image in by_image else (),
                {"session": _entities(image).get("ses", ""), "suffix": _suffix(image)},
            )
            for image in sorted(images)
        ),
        labels=_labels(root, masks),
        channel_names=tuple(suffixes) if len(suffixes) == 1 else (),
        file_ending=ending_of(images[0]),
        licence=str(facts.get("License") or ""),
    )


def _niftis(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if ending_of(path) in NIFTI)


def _entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS name."""
    parts = stem_of(path).split("_")
    return {key: value for key, _, value in (part.partition("-") for part in parts) if value}


def _suffix(path: Path) -> str:
    return stem_of(path).rsplit("_", 1)[-1]


def _belongs(mask: Path, image: Path) -> bool:
    ours, theirs = _entities(mask), _entities(image)
    if (ours.get("sub"), ours.get("ses")) != (theirs.get("sub"), theirs.get("ses")):
        return False
    own = set(ours) - DERIVED
    return own <= set(theirs) and all(ours[key] == theirs[key] for key in own)


def _labels(root: Path, masks: list[Path]) -> dict[str, int] | None:
    """Label names of the dseg.tsv files, which must agree."""
    tables = [*root.glob("dseg.tsv"), *root.glob("derivatives/*/*dseg.tsv")]
    tables += [table for mask in masks if (table := mask.parent / f"{stem_of(mask)}.tsv").is_file()]
    named: dict[str, int] = {"background": 0}
    for table in sorted(set(tables)):
        for row in read_rows(table, delimiter="\t"):
            if not (row.get("index") or "").isdigit() or not row.get("name"):
                raise AugmintError(f"{table}: needs the columns index and name, got {row}")
            name, value = row["name"], int(row["index"])
            if value == 0:
                continue
            if named.setdefault(name, value) != value:
                raise AugmintError(f"{table}: {name} = {value}, elsewhere {named[name]}")
    if len(set(named.values())) < len(named):
        raise AugmintError(f"{root}: the dseg.tsv files give one index to two names")
    return named if len(named) > 1 else None
