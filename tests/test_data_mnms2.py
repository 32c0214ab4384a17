"""M&Ms-2 as published: fake trees with both views, and the table with its empty rows."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from augmint.data.checks import check_dataset
from augmint.data.dataset import open_dataset
from augmint.errors import AugmintError
from fake_hearts import SHAPE, heart, image_of, write

# Numbers of M&Ms-2, which are those of M&Ms.
HEART = {"lv": 1, "myo": 2, "rv": 3}
VENDORS = {1: "SIEMENS", 2: "Philips Medical Systems", 161: "GE MEDICAL SYSTEMS", 360: "SIEMENS"}
TABLE = "dataset_information.csv"


def patient(folder: Path, number: int) -> Path:
    name = f"{number:03d}"
    for view in ("SA", "LA"):
        for phase, squeeze in (("ED", 1.0), ("ES", 0.6)):
            mask = heart(**HEART, squeeze=squeeze)[..., : SHAPE[2] if view == "SA" else 1]
            write(folder / name / f"{name}_{view}_{phase}.nii.gz", image_of(mask, number))
            write(folder / name / f"{name}_{view}_{phase}_gt.nii.gz", mask)
        write(folder / name / f"{name}_{view}_CINE.nii.gz", np.zeros((4, 4, 2, 3), np.int16))
    return folder / name


def table(path: Path, codes=None, empty=2000) -> None:
    lines = [
        f"{code},HCM,{VENDORS.get(int(float(code)), 'GE')},Avanto,1.5"
        for code in codes or map(str, VENDORS)
    ]
    path.write_text(
        "\n".join(["SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD", *lines, *empty * [",,,,"]])
    )


def release(root: Path, numbers=tuple(VENDORS)) -> Path:
    for number in numbers:
        patient(root / "dataset", number)
    table(root / TABLE)
    return root


def test_the_release_follows_the_split_of_the_challenge(tmp_path):
    root = release(tmp_path)
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.name, dataset.modality) == ("mnms2", "M&Ms-2", "MR")
    assert dict(dataset.labels) == {"background": 0, "LV": 1, "MYO": 2, "RV": 3}
    assert dataset.patients == ("001", "002")
    assert dataset.left_out == {"validation": 2, "test": 2}
    assert open_dataset(root, split="validation").patients == ("161",)
    assert open_dataset(root, split="test").patients == ("360",)
    assert "Martin-Isla" in dataset.licence
    assert "patient folders of M&Ms-2" in dataset.patient_rule
    # The cines are no cases.
    assert [i.case_id for i in dataset.items] == [
        f"{n}_SA_{p}" for n in ("001", "002") for p in ("ED", "ES")
    ]


def test_the_patients_folder_itself_has_no_splits(tmp_path):
    dataset = open_dataset(release(tmp_path) / "dataset")
    assert dataset.patients == ("001", "002", "161", "360")
    assert dataset.domains == ("GE", "Philips", "Siemens")
    assert dataset.select(domains=["GE"]).patients == ("161",)
    with pytest.raises(AugmintError, match=r"no split 'test', only train.*open the one above"):
        open_dataset(tmp_path / "dataset", split="test")


def test_a_split_without_patients_is_named(tmp_path):
    root = release(tmp_path, numbers=(1,))
    with pytest.raises(AugmintError, match="no split 'test', only train: patients 1 to 160 are tr"):
        open_dataset(root, split="test")


@pytest.mark.parametrize("codes", [("1", "2"), ("1.0", "2.0"), ("001", "002")])
def test_codes_of_the_table_need_no_zeros(tmp_path, codes):
    root = release(tmp_path, numbers=(1, 2))
    table(root / TABLE, codes)
    item = open_dataset(root).items[-1]
    assert dict(item.columns) == {
        "patient": "002", "view": "SAX", "phase": "ES", "vendor": "Philips", "domain": "Philips",
        "diagnosis": "HCM", "scanner": "Avanto", "field": "1.5",
    }  # fmt: skip


def test_one_dataset_holds_one_view(tmp_path):
    root = release(tmp_path)
    dataset = open_dataset(root)
    assert {i.columns["view"] for i in dataset.items} == {"SAX"}
    (note,) = dataset.notes
    assert "the 8 long-axis frame(s) are not read" in note
    assert note in check_dataset(dataset, deep=False)
    for path in (root / "dataset").glob("*/*_LA_*"):
        target = tmp_path / "long" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(root / TABLE, tmp_path / "long")
    long = open_dataset(tmp_path / "long")
    assert {i.columns["view"] for i in long.items} == {"LAX"}
    assert long.patients == dataset.patients
    assert not long.notes
    case = long.load(long.items[0])
    assert case.grid.shape == (*SHAPE[:2], 1)
    assert len(list(case.slices())) == 1


def test_without_its_table_vendors_are_unknown_and_it_is_said(tmp_path):
    root = release(tmp_path, numbers=(1, 2))
    (root / TABLE).unlink()
    dataset = open_dataset(root)
    assert dataset.domains == ()
    assert any("no dataset_information.csv lies beside" in p for p in dataset.notes)


def test_a_sound_release_has_no_problem_but_what_is_left_out(tmp_path):
    problems = check_dataset(open_dataset(release(tmp_path)), deep=True)
    assert [words in p for words, p in zip(("validation list", "long-axis"), problems)] == [
        True
    ] * 2
    assert len(problems) == 2


def test_a_patient_without_a_row_is_named(tmp_path):
    root = release(tmp_path)
    table(root / TABLE, ("1", "2"))
    with pytest.raises(AugmintError, match="no row for 161, 360, unpadded or not"):
        open_dataset(root)


def test_what_is_missing_or_misplaced_is_named(tmp_path):
    root = release(tmp_path, numbers=(1,))
    place = root / "dataset" / "001"
    (place / "001_SA_ES.nii.gz").rename(place / "002_SA_ES.nii.gz")
    with pytest.raises(AugmintError, match="folder of another patient"):
        open_dataset(root)
    (place / "002_SA_ES.nii.gz").unlink()
    with pytest.raises(AugmintError, match=r"no image for the mask\(s\) 001_SA_ES_gt"):
        open_dataset(root)
    (place / "001_SA_ES_gt.nii.gz").unlink()
    (root / "dataset" / "002").mkdir()
    with pytest.raises(AugmintError, match=r"no frame such as 002_SA_ED.nii.gz"):
        open_dataset(root)


@pytest.mark.parametrize("number", [0, 361])
def test_a_number_beyond_the_challenge_is_named(tmp_path, number):
    root = release(tmp_path, numbers=(1, number))
    table(root / TABLE, ("1", str(number)))
    with pytest.raises(AugmintError, match="M&Ms-2 has the patients 001 to 360"):
        open_dataset(root)
    assert len(open_dataset(root / "dataset").patients) == 2
