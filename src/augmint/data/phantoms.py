"""Built-in cohorts to try everything on: drawn hearts with known truth, several vendors each.

They are pictures of geometry, made to look like short-axis cine MR and apical ultrasound; no
patient's data went into them. Patient k of a vendor and seed is the same in a cohort of any size.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from augmint.data.phantoms_apical import US_LABELS
from augmint.data.phantoms_heart import MR_LABELS
from augmint.data.phantoms_mr import SCANNERS, mr_patient
from augmint.data.phantoms_parts import Frame
from augmint.data.phantoms_ultrasound import PROBES, us_patient
from augmint.errors import AugmintError

__all__ = ["KINDS", "PhantomKind", "make_phantoms"]


@dataclass(frozen=True)
class PhantomKind:
    """One family of phantoms.

    Attributes:
        title: In words, for people.
        channel: nnU-Net's name of the only channel.
        labels: Name to number, as the real datasets of this kind have them.
        vendors: Names of the domains that can be drawn.
        file_ending: `.nii.gz` or `.png`.
        spacing_known: Whether the files carry a spacing.
        size: Pixels per side unless told.
        draw: (seed, patient, vendor, size, slices) to the patient's frames.
    """

    title: str
    channel: str
    labels: Mapping[str, int]
    vendors: tuple[str, ...]
    file_ending: str
    spacing_known: bool
    size: int
    draw: Callable[[int, int, str, int, int], list[Frame]]


def _draw_mr(seed: int, patient: int, vendor: str, size: int, slices: int) -> list[Frame]:
    return mr_patient(seed, patient, vendor=vendor, size=size, slices=slices)


def _draw_us(seed: int, patient: int, vendor: str, size: int, slices: int) -> list[Frame]:
    return us_patient(seed, patient, vendor=vendor, size=size)


KINDS: dict[str, PhantomKind] = {
    "cine-mr": PhantomKind(
        title="short-axis cine MR",
        channel="cine MR",
        labels=MR_LABELS,
        vendors=tuple(SCANNERS),
        file_ending=".nii.gz",
        spacing_known=True,
        size=128,
        draw=_draw_mr,
    ),
    "apical-ultrasound": PhantomKind(
        title="apical ultrasound, two and four chambers",
        channel="ultrasound",
        labels=US_LABELS,
        vendors=tuple(PROBES),
        file_ending=".png",
        spacing_known=False,
        size=224,
        draw=_draw_us,
    ),
}


def make_phantoms(
    kind: str,
    *,
    out: Path,
    vendor: str = "A",
    patients: int = 12,
    seed: int = 0,
    slices: int = 8,
    size: int | None = None,
) -> Path:
    """Write a cohort of phantoms as an nnU-Net raw dataset with `cases.csv`.

    `cases.csv` holds `case,patient,domain,view,phase,vendor` and the truth: `lv_volume_ml` and
    `ef` (percent) for both kinds, the fan's geometry in pixels and `pixel_mm` for ultrasound.
    The folder appears under its name only when it is complete.

    Args:
        kind: A key of `KINDS`.
        out: The folder to make; it must not exist.
        vendor: Whose pictures to imitate; becomes the domain.
        patients: How many, each at end-diastole and end-systole (and in two views).
        seed: The same seed gives the same bytes.
        slices: Planes of a cine MR stack; no meaning for ultrasound.
        size: Pixels per side, by default 128 for MR and 224 for ultrasound.

    Returns:
        `out`.

    Raises:
        AugmintError: if the kind or vendor is unknown, a number is out of range or `out` exists.
    """
    out = Path(out)
    family = _check(kind, vendor=vendor, patients=patients, seed=seed, slices=slices, size=size)
    partial = out.with_name(out.name + ".partial")
    for folder in (out, partial):
        if folder.exists():
            raise AugmintError(f"phantoms: {folder} exists; name a new folder or remove this one")
    try:
        rows = []
        for part in ("imagesTr", "labelsTr"):
            (partial / part).mkdir(parents=True)
        for patient in range(1, patients + 1):
            for frame in family.draw(seed, patient, vendor, size or family.size, slices):
                _write_frame(partial, frame, family.file_ending)
                rows.append({"case": frame.case, **frame.row})
        _write_tables(partial, family, f"phantoms {kind}, vendor {vendor}, seed {seed}", rows)
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _check(
    kind: str, *, vendor: str, patients: int, seed: int, slices: int, size: int | None
) -> PhantomKind:
    """The family of this kind, once every argument is found sound."""
    if kind not in KINDS:
        raise AugmintError(f"phantoms: no kind {kind!r}; choose one of {', '.join(KINDS)}")
    family = KINDS[kind]
    if vendor not in family.vendors:
        known = ", ".join(family.vendors)
        raise AugmintError(f"phantoms: {kind} has no vendor {vendor!r}; choose one of {known}")
    bounds = {
        "patients": (patients, 1, 999),
        "seed": (seed, 0, 2**63 - 1),
        "slices": (slices, 3, 64),
        "size": (family.size if size is None else size, 32, 1024),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise AugmintError(f"phantoms: {name} must be {low} to {high}, not {value}")
    if size is not None and size % 2:
        raise AugmintError(f"phantoms: size must be even, not {size}; take {size + 1}")
    return family


def _write_frame(folder: Path, frame: Frame, ending: str) -> None:
    """One image and its mask under nnU-Net's names."""
    targets = (
        (folder / "imagesTr" / f"{frame.case}_0000{ending}", frame.image),
        (folder / "labelsTr" / f"{frame.case}{ending}", frame.mask),
    )
    if ending == ".png":
        from PIL import Image

        for path, array in targets:
            Image.fromarray(array).save(path)
        return
    import nibabel as nib

    affine = np.diag([*frame.spacing_mm, 1.0])
    for path, array in targets:
        nib.save(nib.Nifti1Image(array, affine), path)


def _write_tables(
    folder: Path, family: PhantomKind, name: str, rows: list[dict[str, str | float]]
) -> None:
    """`dataset.json` and `cases.csv`."""
    facts = {
        "name": name,
        "description": f"Simulated {family.title}; no patient's data.",
        "licence": "CC0-1.0 (synthetic)",
        "channel_names": {"0": family.channel},
        "labels": dict(family.labels),
        "numTraining": len(rows),
        "file_ending": family.file_ending,
        "spacing_known": family.spacing_known,
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
