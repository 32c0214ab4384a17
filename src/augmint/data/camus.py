"""CAMUS as published: `patientNNNN/patientNNNN_{2CH,4CH}_{ED,ES}[_gt]`, cfg files, split lists.

Two releases are read. NIfTI: `database_nifti/patientNNNN/` with `database_split/` beside it.
MetaImage, the older one: `training/patientNNNN/` and `testing/patientNNNN/`, the latter without
masks. The cine loops (`_sequence`, `_half_sequence`) are left out: they run along time, those of
MetaImage have no masks, and the annotated ED and ES frames are stored as files of their own.

Source: Leclerc et al., IEEE TMI 2019;38(9):2198.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from augmint.data.frames import frame_files, patient_folders, read_frames, read_info, read_lines
from augmint.data.images import META, NIFTI, ending_of
from augmint.data.layout import Found, Listing, listed, parse_labels, read_json
from augmint.errors import AugmintError

LABELS = {"background": 0, "LV": 1, "MYO": 2, "LA": 3}
LICENCE = (
    "CC BY-NC-SA 4.0, research only; cite Leclerc et al., IEEE TMI 2019;38(9):2198, "
    "doi:10.1109/TMI.2019.2900516"
)
PATIENT = re.compile(r"^patient\d{4}$")
FRAME = re.compile(r"^(patient\d{4})_(2CH|4CH)_(ED|ES)(_gt)?$")
FOLDERS = ("database_nifti", "training", "testing")
LISTS = {
    "train": "subgroup_training.txt",
    "validation": "subgroup_validation.txt",
    "test": "subgroup_testing.txt",
}
# Key of a cfg file -> column. LVef is the older release's name of EF.
COLUMNS = {
    "ED": "ed_frame",
    "ES": "es_frame",
    "NbFrame": "frames",
    "FrameRate": "frame_rate",
    "Sex": "sex",
    "Age": "age",
    "ImageQuality": "image_quality",
    "LVedv": "lv_edv_ml",
    "LVesv": "lv_esv_ml",
    "LVef": "ef",
    "EF": "ef",
}
WHOLE = ("ed_frame", "es_frame", "frames")
WORDS = ("sex", "image_quality")

Splits = dict[str, tuple[Found, ...]]


def is_camus(root: Path) -> bool:
    """Whether patients of CAMUS lie in this folder, or in a release's folder below it."""
    return bool(_patient_folders(root))


def list_camus(root: Path, split: str = "train") -> Listing:
    """The annotated frames of CAMUS, as either release stores them.

    The folder that holds the patients has no splits: all of them are `train`. In the folder above
    it the lists of `database_split` give `train`, `validation` and `test`, or the folders
    `training` and `testing` give `train` and `test`. The older release numbers its testing patients
    from 1 again; they are other people, so their cases are named `testing_patientNNNN_...`.

    What `Info_{2CH,4CH}.cfg` says becomes columns: `ed_frame` and `es_frame` (from 1), `frames`,
    `frame_rate`, `sex`, `age`, `image_quality`, `lv_edv_ml`, `lv_esv_ml` and `ef` (percent). A
    missing file, key or value is a missing column. Other keys are not read. A `labels.json` beside
    the patients or in `root` renames the labels. The dataset's name is always CAMUS: wherever a
    copy lies, patients of equal names are the same people.

    Args:
        root: The folder that holds the patients, or the one above it.
        split: `train`, `validation` or `test`.

    Raises:
        AugmintError: if both releases are there, a file is doubled or misplaced, a cfg file or a
            list is wrong, lists and folders name different patients, or the split is not there.
    """
    folders = _one_release(root, _patient_folders(root))
    splits, why = _split(root, folders)
    if split not in splits:
        raise AugmintError(f"{root}: no split {split!r}, only {', '.join(splits)}: {why}")
    named = [f / "labels.json" for f in (*folders, root) if (f / "labels.json").is_file()]
    return Listing(
        root=root,
        name="CAMUS",
        layout="camus",
        found=splits[split],
        labels=parse_labels(read_json(named[0]), named[0]) if named else LABELS,
        channel_names=("ultrasound",),
        file_ending=ending_of(splits[split][0].images[0]),
        licence=LICENCE,
        other_splits={name: found for name, found in splits.items() if name != split},
    )


def read_cfg(path: Path) -> dict[str, str]:
    """The columns of one `Info_{2CH,4CH}.cfg`; empty where there is no such file.

    Raises:
        AugmintError: naming the line, if it is not `key: value`, repeats a key, or holds no number
            where one belongs.
    """
    return read_info(path, COLUMNS, whole=WHOLE, words=WORDS)


def _patient_folders(root: Path) -> list[Path]:
    """`root` and those release folders in it that hold a patient's frame."""
    return [
        folder
        for folder in (root, *(root / name for name in FOLDERS))
        if any(frame_files(p, FRAME, NIFTI + META) for p in patient_folders(folder, PATIENT))
    ]


def _one_release(root: Path, folders: Sequence[Path]) -> Sequence[Path]:
    pair = {folder.name for folder in folders} == {"training", "testing"}
    both = len(folders) > 1 and (root in folders or not pair)
    if both or (len(folders) > 1 and (root / "database_split").is_dir()):
        raise AugmintError(
            f"{root}: patients lie in {listed([str(folder) for folder in folders])}, and nothing "
            "tells which of them are meant; open one of these folders"
        )
    return folders


def _split(root: Path, folders: Sequence[Path]) -> tuple[Splits, str]:
    """Split -> its cases, none of them empty, and in words what they follow from."""
    by_folder = {folder: _read_folder(folder) for folder in folders}
    first, lists = folders[0], root / "database_split"
    if lists.is_dir():
        patients = _read_lists(lists, first, by_folder[first])
        splits = {
            name: tuple(case for patient in chosen for case in by_folder[first][patient])
            for name, chosen in patients.items()
        }
        return splits, f"{lists} has no other list; its files are {', '.join(LISTS.values())}"
    if first != root and first.name in ("training", "testing"):
        names = {"training": "train", "testing": "test"}
        splits = {names[f.name]: _all_cases(by_folder[f]) for f in folders}
        return splits, f"{root} holds {' and '.join(f.name for f in folders)}; open one of them"
    return {"train": _all_cases(by_folder[first])}, (
        "without lists all patients are train; open the folder that holds database_split, or "
        "training and testing"
    )


def _all_cases(by_patient: Mapping[str, tuple[Found, ...]]) -> tuple[Found, ...]:
    return tuple(case for patient in sorted(by_patient) for case in by_patient[patient])


def _read_lists(
    lists: Path, folder: Path, by_patient: Mapping[str, object]
) -> dict[str, list[str]]:
    """Split -> its patients, sorted; each patient of the folder lies in one."""
    found: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}
    for split, name in LISTS.items():
        path = lists / name
        for number, patient in enumerate(read_lines(path) if path.is_file() else (), start=1):
            if not patient:
                continue
            if not PATIENT.match(patient):
                raise AugmintError(
                    f"{path}, line {number}: {patient!r} is no patient; write one patientNNNN a "
                    "line"
                )
            if patient in split_of:
                raise AugmintError(
                    f"{path}, line {number}: {patient} is in {split_of[patient]} already; keep "
                    "each patient in one list"
                )
            split_of[patient] = name
            found.setdefault(split, []).append(patient)
    unlisted, absent = (
        sorted(set(by_patient) - set(split_of)),
        sorted(set(split_of) - {*by_patient}),
    )
    if unlisted or absent:
        faults = [f"in no list: {listed(unlisted)}"] if unlisted else []
        faults += [f"listed, but not there: {listed(absent)}"] if absent else []
        raise AugmintError(
            f"{lists} and {folder} differ in their patients; {'; '.join(faults)}. Complete the "
            f"download or correct the lists, or open {folder} for all patients without splits"
        )
    return {split: sorted(patients) for split, patients in found.items()}


def _read_folder(folder: Path) -> dict[str, tuple[Found, ...]]:
    """Patient -> its cases."""
    by_patient = {
        patient.name: _read_patient(patient) for patient in patient_folders(folder, PATIENT)
    }
    if empty := [name for name, cases in by_patient.items() if not cases]:
        raise AugmintError(
            f"{folder}: no frame such as {empty[0]}_2CH_ED.nii.gz or .mhd in {listed(empty)}; "
            "complete the download, or remove these folders"
        )
    return by_patient


def _read_patient(patient: Path) -> tuple[Found, ...]:
    """The cases of one patient, with their masks and the columns of its cfg files."""
    columns = {view: read_cfg(patient / f"Info_{view}.cfg") for view in ("2CH", "4CH")}
    cases = []
    for stem, frame in read_frames(patient, FRAME, NIFTI + META).items():
        _, view, phase = stem.split("_")
        # Numbered from 1 as the training patients are, but other people.
        renumbered = patient.absolute().parent.name == "testing" and ending_of(frame.image) in META
        cases.append(
            Found(
                case_id=f"testing_{stem}" if renumbered else stem,
                images=(frame.image,),
                masks=() if frame.mask is None else (frame.mask,),
                columns={"view": view, "phase": phase, **columns[view]},
            )
        )
    return tuple(cases)
