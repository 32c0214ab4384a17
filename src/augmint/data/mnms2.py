"""M&Ms-2 as published: `dataset/NNN/NNN_{SA,LA}_{ED,ES}[_gt].nii.gz`, dataset_information.csv.

Cine MR of three vendors, annotated in short-axis stacks (SA) and four-chamber planes (LA). The
cines, `NNN_{SA,LA}_CINE`, are left out.

Source: Martin-Isla et al., IEEE JBHI 2023;27(7):3302.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from augmint.data.frames import frame_files, patient_folders, read_frames
from augmint.data.images import NIFTI, ending_of
from augmint.data.layout import Found, Listing, listed, parse_labels, read_json
from augmint.data.mnms import LABELS, read_table, vendor_named, whole_number
from augmint.errors import AugmintError

LICENCE = (
    "see the terms of the download; cite Martin-Isla et al., IEEE JBHI 2023;27(7):3302, "
    "doi:10.1109/JBHI.2023.3267857, and Campello et al., IEEE TMI 2021;40(12):3543"
)
PATIENT = re.compile(r"^\d{3}$")
FRAME = re.compile(r"^(\d{3})_(SA|LA)_(ED|ES)(_gt)?$")
VIEWS = {"SA": "SAX", "LA": "LAX"}
TABLE = "dataset_information.csv"
KEY = "SUBJECT_CODE"
COLUMNS = {"DISEASE": "diagnosis", "SCANNER": "scanner", "FIELD": "field"}
# The last patient of each part of the challenge, which numbers them in this order.
SPLITS = {"train": 160, "validation": 200, "test": 360}


def is_mnms2(root: Path) -> bool:
    """Whether patients of M&Ms-2 lie in this folder, or in `dataset` below it."""
    return any(_has_patients(folder) for folder in (root, root / "dataset"))


def list_mnms2(root: Path, split: str = "train") -> Listing:
    """The annotated short-axis frames of M&Ms-2, or the long-axis ones of a folder without others.

    A short-axis stack and a four-chamber plane are different anatomy under the same labels, so one
    dataset holds one view. Where both are there, the long axis is left out, and `notes` says so.

    In the folder that holds `dataset` the challenge's split is read: patients 1 to 160 are `train`,
    161 to 200 `validation`, 201 to 360 `test`. The folder `dataset` itself has no splits.

    Each case's columns are `view` (SAX or LAX), `phase`, and of the table beside or above the
    patients `vendor` (Siemens, Philips or GE), `scanner`, `field` (tesla) and `diagnosis`. The
    vendor is the domain. A `labels.json` in `root` renames the labels. The dataset's name is always
    M&Ms-2.

    Args:
        root: The folder that holds `dataset`, or `dataset` itself.
        split: `train`, `validation` or `test`.

    Raises:
        AugmintError: if patients lie in `root` and below it, a file is misplaced or doubled, the
            table is wrong or lacks a patient, or the split is not there.
    """
    whole = _has_patients(root / "dataset")
    if whole and _has_patients(root):
        raise AugmintError(f"{root}: patients lie in it and in dataset; open one, move the others")
    folder = root / "dataset" if whole else root
    path = next((p for p in (root / TABLE, root.absolute().parent / TABLE) if p.is_file()), None)
    by_view = _by_view(folder, path)
    view = "SA" if "SA" in by_view else "LA"
    splits = _split(by_view[view]) if whole else {"train": tuple(by_view[view])}
    if split not in splits:
        why = (
            "patients 1 to 160 are train, 161 to 200 validation, 201 to 360 test"
            if whole
            else "the folder that holds the patients has no splits; open the one above it"
        )
        raise AugmintError(f"{root}: no split {split!r}, only {', '.join(splits)}: {why}")
    notes = []
    if len(by_view) > 1:
        notes.append(
            f"the {len(by_view['LA'])} long-axis frame(s) are not read: one dataset holds one "
            "view; copy the files *_LA_* into a folder of their own to open them"
        )
    if path is None:
        notes.append(f"no {TABLE} lies beside the patients, so no case names its vendor")
    named = root / "labels.json"
    return Listing(
        root=root,
        name="M&Ms-2",
        layout="mnms2",
        found=splits[split],
        labels=parse_labels(read_json(named), named) if named.is_file() else LABELS,
        channel_names=("cineMRI",),
        file_ending=ending_of(splits[split][0].images[0]),
        licence=LICENCE,
        other_splits={name: found for name, found in splits.items() if name != split},
        patient_rule="the patient folders of M&Ms-2",
        notes=tuple(notes),
    )


def _has_patients(folder: Path) -> bool:
    return any(frame_files(p, FRAME, NIFTI) for p in patient_folders(folder, PATIENT))


def _by_view(folder: Path, path: Path | None) -> dict[str, list[Found]]:
    """SA and LA -> the cases of that view, by patient."""
    table = {} if path is None else read_table(path, KEY)
    # The table writes 1 or 1.0 where folders write 001.
    rows = {f"{n:03d}": row for code, row in table.items() if (n := whole_number(code)) is not None}
    patients = patient_folders(folder, PATIENT)
    if path is not None and (unlisted := [p.name for p in patients if p.name not in rows]):
        raise AugmintError(f"{path}: no row for {listed(unlisted)}, unpadded or not; add them")
    by_view: dict[str, list[Found]] = {}
    for patient in patients:
        frames = read_frames(patient, FRAME, NIFTI)
        if not frames:
            raise AugmintError(
                f"{patient}: no frame such as {patient.name}_SA_ED.nii.gz; complete the download, "
                "or remove the folder"
            )
        columns = _columns(rows.get(patient.name, {}))
        for stem, frame in frames.items():
            number, view, phase = stem.split("_")
            by_view.setdefault(view, []).append(
                Found(
                    case_id=stem,
                    images=(frame.image,),
                    masks=() if frame.mask is None else (frame.mask,),
                    columns={"patient": number, "view": VIEWS[view], "phase": phase, **columns},
                )
            )
    return by_view


def _columns(row: Mapping[str, str]) -> dict[str, str]:
    vendor = vendor_named(row.get("VENDOR", ""))
    return {
        **({"vendor": vendor, "domain": vendor} if vendor else {}),
        **{column: row[name] for name, column in COLUMNS.items() if name in row},
    }


def _split(found: list[Found]) -> dict[str, tuple[Found, ...]]:
    """Split -> its cases, none of them empty."""
    splits: dict[str, list[Found]] = {}
    for case in found:
        number = int(case.columns["patient"])
        split = next((name for name, last in SPLITS.items() if number <= last), None)
        if split is None or number == 0:
            raise AugmintError(
                f"{case.images[0].parent}: M&Ms-2 has the patients 001 to 360; open the folder "
                "`dataset` itself to read others, without splits"
            )
        splits.setdefault(split, []).append(case)
    return {name: tuple(splits[name]) for name in SPLITS if name in splits}
