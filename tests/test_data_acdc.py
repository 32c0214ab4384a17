"""ACDC as published: fake trees with and without the masks of the testing patients."""

import json
from pathlib import Path

import numpy as np
import pytest

from augmint.data.acdc import is_acdc
from augmint.data.checks import check_dataset
from augmint.data.dataset import open_dataset
from augmint.errors import AugmintError
from augmint.evaluation.cardiac import measure_patients
from fake_hearts import SHAPE, heart, image_of, write

# Numbers of ACDC.
HEART = {"lv": 3, "myo": 2, "rv": 1}
CFG = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def patient(folder: Path, number: int, *, cfg: str | None = CFG, masks=True, frames=(1, 12)):
    name = f"patient{number:03d}"
    place = folder / name
    for frame, squeeze in zip(frames, (1.0, 0.6)):
        mask = heart(**HEART, squeeze=squeeze)
        write(place / f"{name}_frame{frame:02d}.nii.gz", image_of(mask, number))
        if masks:
            write(place / f"{name}_frame{frame:02d}_gt.nii.gz", mask)
    write(place / f"{name}_4d.nii.gz", np.zeros((*SHAPE, 2), np.int16))
    if cfg is not None:
        (place / "Info.cfg").write_text(cfg)
    (place / "MANDATORY_CITATION.md").write_text("cite")
    (place / f"._{name}_frame01.nii.gz").write_text("no image")
    return place


def release(root: Path, *, test_masks: bool = True) -> Path:
    for number in (1, 2):
        patient(root / "training", number)
    patient(root / "testing", 101, masks=test_masks)
    return root


def test_the_release_opens_by_its_split(tmp_path):
    root = release(tmp_path)
    train, test = open_dataset(root), open_dataset(root, split="test")
    assert (train.layout, train.name, train.modality) == ("acdc", "ACDC", "MR")
    assert train.patients == ("patient001", "patient002")
    assert test.patients == ("patient101",)
    assert (train.left_out, test.left_out) == ({"test": 2}, {"train": 4})
    assert "Bernard" in train.licence
    assert train.file_ending == ".nii.gz"
    # Neither the cine nor the hidden file is a case.
    assert [i.case_id for i in train.items] == [
        f"patient{n:03d}_frame{f}" for n in (1, 2) for f in ("01", "12")
    ]
    with pytest.raises(AugmintError, match=r"no split 'validation', only train, test: it holds tr"):
        open_dataset(root, split="validation")


def test_the_patients_folder_itself_has_no_splits(tmp_path):
    root = release(tmp_path)
    assert open_dataset(root / "testing").patients == ("patient101",)
    with pytest.raises(AugmintError, match=r"no split 'test', only train.*open the one above"):
        open_dataset(root / "testing", split="test")


def test_testing_patients_may_have_no_masks(tmp_path):
    dataset = open_dataset(release(tmp_path, test_masks=False), split="test")
    assert [item.masks for item in dataset.items] == [(), ()]
    assert dataset.load(dataset.items[0]).mask is None


def test_info_cfg_becomes_columns_and_phases(tmp_path):
    patient(tmp_path, 1)
    ed, es = (dict(item.columns) for item in open_dataset(tmp_path).items)
    shared = {
        "view": "SAX", "vendor": "Siemens", "domain": "Siemens", "ed_frame": "1", "es_frame": "12",
        "diagnosis": "DCM", "height": "184.0", "frames": "30", "weight": "95.0",
    }  # fmt: skip
    assert ed == {**shared, "phase": "ED"}
    assert es == {**shared, "phase": "ES"}
    assert open_dataset(tmp_path).domains == ("Siemens",)


def test_ed_need_not_be_the_first_frame(tmp_path):
    patient(tmp_path, 90, cfg="ED: 11\nES: 4\n", frames=(11, 4))
    phases = {i.case_id: i.columns["phase"] for i in open_dataset(tmp_path).items}
    assert phases == {"patient090_frame04": "ES", "patient090_frame11": "ED"}


@pytest.mark.parametrize("cfg", [None, "Group: NOR\n"])
def test_without_frames_in_info_cfg_no_phase_is_guessed(tmp_path, cfg):
    patient(tmp_path, 1, cfg=cfg)
    assert all("phase" not in item.columns for item in open_dataset(tmp_path).items)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ("ED: 1\nES: 11\n", r"frame12 is neither ED nor ES \(ED 1, ES 11, from 1\)"),
        ("ED: 12\nES: 12\n", r"frame01 is neither ED nor ES"),
        ("ED: 1\nES: 1\n", r"frame01 is both ED and ES"),
        ("ED: first\n", r"Info.cfg, line 1: ED must be a whole number"),
        ("ED: 1\nHeight: tall\n", r"line 2: Height must be a number"),
        ("ED: 1\nED: 1\n", r"line 2: ED is given twice"),
        ("ED 1\n", r"line 1: 'ED 1' is not `key: value`"),
    ],
)
def test_a_bad_info_cfg_is_named(tmp_path, cfg, message):
    patient(tmp_path, 1, cfg=cfg)
    with pytest.raises(AugmintError, match=message):
        open_dataset(tmp_path)


def test_labels_are_matched_by_name(tmp_path):
    patient(tmp_path, 1)
    dataset = open_dataset(tmp_path)
    assert dict(dataset.labels) == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    mask = dataset.load(dataset.items[0]).mask.numpy()
    stored = heart(**HEART)
    assert (mask == stored).all()
    only = open_dataset(tmp_path, label_map={"RV": None})
    assert dict(only.labels) == {"background": 0, "MYO": 1, "LV": 2}
    mapped = only.load(only.items[0]).mask.numpy()
    assert ((mapped == 2) == (stored == 3)).all()


def test_myocardium_must_surround_the_lv(tmp_path):
    patient(tmp_path, 1)
    patient(tmp_path, 2)
    assert check_dataset(open_dataset(tmp_path), deep=True) == []
    exchanged = {"background": 0, "LV": 1, "MYO": 2, "RV": 3}  # the numbers of M&Ms
    (tmp_path / "labels.json").write_text(json.dumps(exchanged))
    (problem,) = check_dataset(open_dataset(tmp_path), deep=True)
    assert "in 4 mask(s) MYO does not surround LV: patient001_frame01" in problem


def test_volumes_are_measured_in_ml(tmp_path):
    patient(tmp_path, 1)
    (measured,) = measure_patients(open_dataset(tmp_path))
    areas = [(heart(**HEART, squeeze=s) == 3).sum() for s in (1.0, 0.6)]
    edv, esv = (area * 1.4 * 1.2 * 9 / 1000 for area in areas)
    assert (measured.edv, measured.esv) == (pytest.approx(edv), pytest.approx(esv))
    assert measured.unit == "ml"


def test_frames_in_two_parts_of_one_name_are_a_leak(tmp_path):
    patient(release(tmp_path) / "testing", 1)
    with pytest.raises(AugmintError, match=r"leak: patient patient001"):
        open_dataset(tmp_path)


def test_patients_in_and_below_a_folder_are_ambiguous(tmp_path):
    patient(release(tmp_path), 7)
    with pytest.raises(AugmintError, match=r"in it and in training, testing; open one"):
        open_dataset(tmp_path)


def test_what_is_missing_or_misplaced_is_named(tmp_path):
    place = patient(tmp_path, 1)
    write(place / "patient002_frame01.nii.gz", image_of(heart(**HEART)))
    with pytest.raises(AugmintError, match="folder of another patient"):
        open_dataset(tmp_path)
    (place / "patient002_frame01.nii.gz").unlink()
    (place / "patient001_frame01.nii.gz").unlink()
    with pytest.raises(AugmintError, match=r"no image for the mask\(s\) patient001_frame01_gt"):
        open_dataset(tmp_path)
    (place / "patient001_frame01_gt.nii.gz").unlink()
    (tmp_path / "patient003").mkdir()
    with pytest.raises(AugmintError, match=r"no frame such as patient003_frame01.nii.gz"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["_seg", "_mask"])
def test_masks_of_other_names_are_not_acdc(tmp_path, suffix):
    place = patient(tmp_path, 1, cfg=None, masks=False)
    assert not is_acdc(tmp_path)
    write(place / f"patient001_frame01{suffix}.nii.gz", heart(**HEART))
    assert not is_acdc(tmp_path)
    assert open_dataset(tmp_path).layout == "folders"
