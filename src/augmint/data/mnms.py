"""M&Ms as published: `Training/{Labeled,Unlabeled}/CODE/CODE_sa[_gt].nii.gz` and one table.

Short-axis cine MR of four vendors. A file holds all frames on its fourth axis, and the table names
ED and ES, counted from 0. The masks are valid at these two alone; those of `Unlabeled` hold
nothing.

Source: Campello et al., IEEE TMI 2021;40(12):3543.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from augmint.data.frames import Frame, frame_files, is_unknown, patient_folders, read_frames
from augmint.data.images import NIFTI, ending_of
from augmint.data.layout import Found, Listing, listed, parse_labels, read_json
from augmint.errors import AugmintError

# The reverse of ACDC, which stores RV 1 and LV 3. Names are what datasets are matched by.
LABELS = {"background": 0, "LV": 1, "MYO": 2, "RV": 3}
LICENCE = (
    "see the terms of the download; cite Campello et al., IEEE TMI 2021;40(12):3543, "
    "doi:10.1109/TMI.2021.3090082"
)
PATIENT = re.compile(r"^[A-Z]\d[A-Z]\d[A-Z]\d$")
CINE = re.compile(r"^([A-Z]\d[A-Z]\d[A-Z]\d)_sa(_gt)?$")
UNLABELLED = "Unlabeled"
# Folder below the one that is opened -> split. The last two are for `Training` itself.
PARTS = {
    "Training/Labeled": "train",
    "Training/Unlabeled": "train",
    "Training": "train",
    "Validation": "validation",
    "Testing": "test",
    "Labeled": "train",
    "Unlabeled": "train",
}
KEY = "External code"
COLUMNS = {
    "Centre": "centre",
    "Pathology": "diagnosis",
    "Age": "age",
    "Sex": "sex",
    "Height": "height",
    "Weight": "weight",
}
LETTERS = {"A": "Siemens", "B": "Philips", "C": "GE", "D": "Canon"}
VENDORS = {name: re.compile(rf"\b{name}\b", re.I) for name in LETTERS.values()}


def is_mnms(root: Path) -> bool:
    """Whether patients of M&Ms lie in this folder, or in a part of the release below it."""
    return any(_has_patients(folder) for folder in (root, *(root / part for part in PARTS)))


def list_mnms(root: Path, split: str = "train") -> Listing:
    """The ED and ES frames of M&Ms, each a case of its own.

    The folder of the release has the splits `train` (Labeled and Unlabeled), `validation` and
    `test`; a part of it, opened by itself, is all `train`. Patients of `Unlabeled` have no masks.
    The table (`*opendataset.csv`) is searched in the folder and above it; its columns are found by
    name, in any order.

    Each case's columns are `view` (SAX), `phase`, `frame_index` (from 0), `vendor` (Siemens,
    Philips, GE or Canon), `centre`, `diagnosis`, `age`, `sex`, `height` and `weight`; unknown
    values and columns that the table lacks are left out. The vendor is the domain. A `labels.json`
    in `root` renames the labels. The dataset's name is always M&Ms.

    Args:
        root: The folder of the release, or one that holds patients.
        split: `train`, `validation` or `test`.

    Raises:
        AugmintError: if the table is missing, a spreadsheet, doubled or wrong, a patient is not in
            it or lies in two parts, files are missing, or the split is not there.
    """
    here = [root] if _has_patients(root) else []
    below = {root / part: s for part, s in PARTS.items() if _has_patients(root / part)}
    if here and below:
        raise AugmintError(
            f"{root}: patients lie in it and in {listed([str(f) for f in below])}; open one of "
            "these folders, or move the patients"
        )
    path = _find_table(root)
    table = read_table(path, KEY, ("ED", "ES"))
    splits: dict[str, list[Found]] = {}
    places: dict[str, Path] = {}
    for folder, name in (below or {root: "train"}).items():
        for patient in patient_folders(folder, PATIENT):
            other = places.setdefault(patient.name, folder)
            if other != folder:
                raise AugmintError(f"{patient}: the patient lies in {other}, too; keep one folder")
            splits.setdefault(name, []).extend(_read_patient(patient, table, path))
    if split not in splits:
        why = (
            f"it holds {listed([str(f.relative_to(root)) for f in below])}"
            if below
            else ("a folder of patients has no splits; open the folder of the release")
        )
        raise AugmintError(f"{root}: no split {split!r}, only {', '.join(splits)}: {why}")
    named = root / "labels.json"
    found = sorted(splits[split], key=lambda case: case.case_id)
    return Listing(
        root=root,
        name="M&Ms",
        layout="mnms",
        found=tuple(found),
        labels=parse_labels(read_json(named), named) if named.is_file() else LABELS,
        channel_names=("cineMRI",),
        file_ending=ending_of(found[0].images[0]),
        licence=LICENCE,
        other_splits={name: tuple(f) for name, f in splits.items() if name != split},
        patient_rule="the patient folders of M&Ms",
    )


def read_table(path: Path, key: str, required: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """The rows of a patient table by patient, read line by line.

    Columns are found by name; an unnamed one, such as an index, is left out, and so are empty rows
    and unknown values. Commas or semicolons part the cells.

    Args:
        path: A CSV file.
        key: The column that names the patient.
        required: Other columns that must be there.

    Raises:
        AugmintError: if it is not readable, lacks a column, a row has more cells than the header
            or no patient, or a patient has two rows.
    """
    rows: dict[str, dict[str, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = ";" if header.count(";") > header.count(",") else ","
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            if missing := [name for name in (key, *required) if name not in names]:
                raise AugmintError(
                    f"{path}: no column {listed(missing)}; it has "
                    f"{listed([n for n in names if n], 12)}. Columns are found by name"
                )
            for number, cells in enumerate(csv.reader(file, delimiter=delimiter), start=2):
                if not any(map(str.strip, cells)):
                    continue  # a release has about a million of these
                row = {n: c.strip() for n, c in zip(names, cells) if n and not is_unknown(c)}
                if any(map(str.strip, cells[len(names) :])) or key not in row:
                    raise AugmintError(
                        f"{path}, row {number}: needs its {key!r} and no more cells than the "
                        f"header, got {cells}; correct the row"
                    )
                if row[key] in rows:
                    raise AugmintError(f"{path}, row {number}: {row[key]} has two rows; keep one")
                rows[row[key]] = row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AugmintError(f"{path}: not readable as CSV ({error}); save it as CSV") from error
    return rows


def vendor_named(words: str) -> str:
    """`Siemens`, `Philips`, `GE` or `Canon` of a table's words; other words as they are."""
    return next((name for name, pattern in VENDORS.items() if pattern.search(words)), words)


def whole_number(text: str) -> int | None:
    """The number in `12` or, as tables with gaps write it, `12.0`; None for anything else."""
    digits = re.fullmatch(r"(\d+)(?:\.0*)?", text.strip(), re.ASCII)
    return int(digits[1]) if digits else None


def _has_patients(folder: Path) -> bool:
    return any(frame_files(p, CINE, NIFTI) for p in patient_folders(folder, PATIENT))


def _find_table(root: Path) -> Path:
    """The one CSV with the column `External code`, beside the patients or above them."""
    folders, names = [root.absolute()], {part.split("/")[-1] for part in PARTS}
    while folders[-1].name in names:
        folders.append(folders[-1].parent)
    for folder in folders:
        tables = [p for p in sorted(folder.glob("*.csv")) if KEY in _first_line(p)]
        if len(tables) > 1:
            raise AugmintError(
                f"{folder}: {listed([p.name for p in tables])} all have the column {KEY!r}; keep "
                "the newest one there"
            )
        if tables:
            return tables[0]
    sheets = [path for folder in folders for path in sorted(folder.glob("*.xlsx"))]
    if sheets:
        # The current release is a CSV. What cells of a sheet show depends on their formats, so
        # the program that knows them shall write them out.
        raise AugmintError(
            f"{sheets[0]}: spreadsheets are not read; open it, save it as CSV in the same folder, "
            "or take the table of the current release"
        )
    raise AugmintError(
        f"{root}: no CSV with the column {KEY!r} in it or above it; put the release's table "
        "(*opendataset.csv) there: it names the frames at ED and ES"
    )


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline()


def _read_patient(patient: Path, table: Mapping[str, Mapping[str, str]], path: Path) -> list[Found]:
    """ED and ES of one patient."""
    code = patient.name
    files = read_frames(patient, CINE, NIFTI)
    if not files:
        raise AugmintError(
            f"{patient}: no {code}_sa.nii.gz; complete the download, or remove the folder"
        )
    if code not in table:
        raise AugmintError(f"{path}: no row for {code}, which lies in {patient.parent}; add it")
    row = table[code]
    indices = {phase: whole_number(row.get(phase, "")) for phase in ("ED", "ES")}
    if None in indices.values() or indices["ED"] == indices["ES"]:
        raise AugmintError(
            f"{path}: {code} needs two frames, counted from 0, got ED {row.get('ED', '')!r} and "
            f"ES {row.get('ES', '')!r}; correct them, or move the folder of the patient away"
        )
    vendor = _vendor(row, code, path)
    columns = {
        "patient": code,
        "view": "SAX",
        **({"vendor": vendor, "domain": vendor} if vendor else {}),
        **{column: row[name] for name, column in COLUMNS.items() if name in row},
    }
    cine: Frame = files[f"{code}_sa"]
    # The masks of this folder are there, and empty: nobody drew them.
    drawn = cine.mask is not None and patient.absolute().parent.name != UNLABELLED
    return [
        Found(
            case_id=f"{code}_sa_{phase}",
            images=(cine.image,),
            masks=(cine.mask,) if drawn and cine.mask is not None else (),
            columns={**columns, "phase": phase, "frame_index": str(index)},
            frame=index,
        )
        for phase, index in indices.items()
    ]


def _vendor(row: Mapping[str, str], code: str, path: Path) -> str:
    """The vendor's name, from its name or its letter; empty where the table has neither."""
    letter, name = row.get("Vendor", ""), vendor_named(row.get("VendorName", ""))
    by_letter = LETTERS.get(letter, vendor_named(letter))
    if name and by_letter and name != by_letter:
        raise AugmintError(
            f"{path}: {code} has VendorName {name} and Vendor {letter}, which is {by_letter}; "
            "correct one"
        )
    return name or by_letter
