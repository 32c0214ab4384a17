"""ACDC as published: `{training,testing}/patientNNN/patientNNN_frameFF[_gt].nii.gz`, Info.cfg.

Short-axis cine MR. The annotated ED and ES frames are files of their own; the cine of all frames,
`patientNNN_4d`, is left out. The challenge gave `testing` without masks, later copies have them.

Source: Bernard et al., IEEE TMI 2018;37(11):2514.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from augmint.data.frames import frame_files, patient_folders, read_frames, read_info
from augmint.data.images import NIFTI, ending_of, stem_of
from augmint.data.layout import Found, Listing, listed, parse_labels, read_json
from augmint.errors import AugmintError

# The reverse of M&Ms, which stores LV 1 and RV 3. Names are what datasets are matched by.
LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
LICENCE = (
    "CC BY-NC-SA 4.0; cite Bernard et al., IEEE TMI 2018;37(11):2514, doi:10.1109/TMI.2018.2837502"
)
VENDOR = "Siemens"  # both scanners of the one centre, says the paper; no file tells
PATIENT = re.compile(r"^patient\d{3}$")
FRAME = re.compile(r"^(patient\d{3})_frame(\d{2,3})(_gt)?$")
FOLDERS = {"training": "train", "testing": "test"}
COLUMNS = {
    "ED": "ed_frame",
    "ES": "es_frame",
    "NbFrame": "frames",
    "Group": "diagnosis",
    "Height": "height",
    "Weight": "weight",
}


def is_acdc(root: Path) -> bool:
    """Whether patients of ACDC lie in this folder, or in `training` or `testing` below it."""
    return any(_has_patients(folder) for folder in (root, *(root / name for name in FOLDERS)))


def list_acdc(root: Path, split: str = "train") -> Listing:
    """The annotated frames of ACDC.

    The folder that holds the patients has no splits: all of them are `train`. In the folder above
    it `training` is `train` and `testing` is `test`.

    What `Info.cfg` says becomes columns: `ed_frame` and `es_frame` (from 1), `frames`, `diagnosis`
    (its Group: NOR, MINF, DCM, HCM, RV), `height` (cm) and `weight` (kg); a missing file, key or
    value is a missing column. `phase` follows from the number of the frame, which need not be 1 at
    ED. `view` is SAX, `vendor` and the domain are Siemens. A `labels.json` beside the patients or
    in `root` renames the labels. The dataset's name is always ACDC.

    Args:
        root: The folder that holds the patients, or the one above it.
        split: `train` or `test`.

    Raises:
        AugmintError: if patients lie in `root` and below it, a file is misplaced or doubled, an
            Info.cfg is wrong or names other frames, or the split is not there.
    """
    here = {root: "train"} if _has_patients(root) else {}
    below = {f: s for name, s in FOLDERS.items() if _has_patients(f := root / name)}
    if here and below:
        raise AugmintError(
            f"{root}: patients lie in it and in {listed([f.name for f in below])}; open one of "
            "these folders, or move the patients"
        )
    splits = {name: _read_folder(folder) for folder, name in (here or below).items()}
    if split not in splits:
        why = (
            "the folder that holds the patients has no splits; open the one above it"
            if here
            else f"it holds {' and '.join(f.name for f in below)}"
        )
        raise AugmintError(f"{root}: no split {split!r}, only {', '.join(splits)}: {why}")
    named = [p for f in (*here, *below, root) if (p := f / "labels.json").is_file()]
    return Listing(
        root=root,
        name="ACDC",
        layout="acdc",
        found=splits[split],
        labels=parse_labels(read_json(named[0]), named[0]) if named else LABELS,
        channel_names=("cineMRI",),
        file_ending=ending_of(splits[split][0].images[0]),
        licence=LICENCE,
        other_splits={name: found for name, found in splits.items() if name != split},
    )


def _has_patients(folder: Path) -> bool:
    """Frames alone are not enough: other masks may lie beside frames of these names."""
    for patient in patient_folders(folder, PATIENT):
        stems = [stem_of(path) for path in frame_files(patient, FRAME, NIFTI)]
        if any(s.endswith("_gt") for s in stems) or (stems and (patient / "Info.cfg").is_file()):
            return True
    return False


def _read_folder(folder: Path) -> tuple[Found, ...]:
    patients = patient_folders(folder, PATIENT)
    by_patient = {patient.name: _read_patient(patient) for patient in patients}
    if empty := [name for name, cases in by_patient.items() if not cases]:
        raise AugmintError(
            f"{folder}: no frame such as {empty[0]}_frame01.nii.gz in {listed(empty)}; complete "
            "the download, or remove these folders"
        )
    return tuple(case for cases in by_patient.values() for case in cases)


def _read_patient(patient: Path) -> tuple[Found, ...]:
    """The cases of one patient."""
    info = patient / "Info.cfg"
    columns = read_info(
        info, COLUMNS, whole=("ed_frame", "es_frame", "frames"), words=("diagnosis",)
    )
    return tuple(
        Found(
            case_id=stem,
            images=(frame.image,),
            masks=() if frame.mask is None else (frame.mask,),
            columns={
                "view": "SAX",
                "vendor": VENDOR,
                "domain": VENDOR,
                **_phase(stem, columns, info),
                **columns,
            },
        )
        for stem, frame in read_frames(patient, FRAME, NIFTI).items()
    )


def _phase(stem: str, columns: Mapping[str, str], info: Path) -> dict[str, str]:
    """ED or ES by the number of the frame; nothing where Info.cfg does not tell."""
    match = FRAME.match(stem)
    assert match is not None
    named = {p: int(n) for p in ("ED", "ES") if (n := columns.get(f"{p.lower()}_frame"))}
    phases = [phase for phase, number in named.items() if number == int(match[2])]
    if len(phases) > 1 or (len(named) == 2 and not phases):
        is_neither = "is both ED and ES" if phases else "is neither ED nor ES"
        raise AugmintError(
            f"{info}: {stem} {is_neither} (ED {named['ED']}, ES {named['ES']}, from 1); correct "
            "the numbers, or move the frame"
        )
    return {"phase": phases[0]} if phases else {}
