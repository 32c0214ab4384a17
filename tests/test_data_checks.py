import json

import numpy as np
import pytest

from augmint.data.checks import check_dataset, surrounded_share
from augmint.data.dataset import open_dataset
from test_data_dataset import labels_picture, make_nnunet, picture, save


def test_a_sound_dataset_has_no_problems(tmp_path):
    dataset = open_dataset(make_nnunet(tmp_path / "D", ["a_001", "a_002"]))
    seen = []
    assert check_dataset(dataset, deep=True, on_case=seen.append) == []
    assert seen == ["a_001", "a_002"]


def test_every_damaged_case_is_listed_and_the_rest_is_read(tmp_path):
    names = [f"a_{i:03d}" for i in range(5)]
    root = make_nnunet(tmp_path / "D", names, ending=".nii.gz", shape=(16, 17, 4))
    image = root / "imagesTr" / "a_000_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:200])
    save(root / "labelsTr" / "a_001.nii.gz", labels_picture((16, 17, 4), value=7))
    bad = np.ones((16, 17, 4), np.float32)
    bad[0, 0, 0] = np.nan
    save(root / "imagesTr" / "a_002_0000.nii.gz", bad)
    save(root / "labelsTr" / "a_003.nii.gz", labels_picture((16, 16, 4)))
    dataset = open_dataset(root)
    assert check_dataset(dataset, deep=False) == []
    problems = check_dataset(dataset, deep=True)
    assert len(problems) == 4
    for problem, words in zip(problems, ("truncated", "label value", "NaN", "differ in shape")):
        assert words in problem


def test_legal_oddities_are_counted(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001", "a_002"], ending=".nii.gz", shape=(8, 9, 4))
    save(root / "labelsTr" / "a_001.nii.gz", np.zeros((8, 9, 4), np.int64))
    shifted = np.diag([1.0, 1.0, 2.0, 1.0])
    save(root / "labelsTr" / "a_002.nii.gz", labels_picture((8, 9, 4)), shifted)
    dataset = open_dataset(root)
    assert len(list(dataset)) == 2
    problems = check_dataset(dataset, deep=True)
    assert len(problems) == 2
    assert "1 mask(s) have no foreground: a_001" in problems[0]
    assert "1 mask(s) have another affine than their image: a_002" in problems[1]


@pytest.mark.parametrize("deep", [True, False])
def test_missing_files_are_found_without_reading(tmp_path, deep):
    save(tmp_path / "x.png", picture())
    save(tmp_path / "y.png", labels_picture(value=1))
    entries = [
        {"image": "x.png", "label": "y.png"},
        {"image": "gone.png", "label": "y.png"},
    ]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries}))
    problems = check_dataset(open_dataset(tmp_path), deep=deep)
    assert len(problems) == 1
    assert "1 file(s) do not exist" in problems[0]
    assert "gone.png" in problems[0]


def test_missing_masks_shared_patients_and_too_few_are_found(tmp_path):
    root = make_nnunet(tmp_path / "D", ["patient0001_2CH_ED", "patient0001_4CH_ED"])
    (root / "labelsTr" / "patient0001_4CH_ED.png").unlink()
    problems = check_dataset(open_dataset(root), deep=False)
    assert len(problems) == 3
    assert "1 case(s) have no mask: patient0001_4CH_ED" in problems[0]
    assert "patient0001 in 2CH, 4CH" in problems[1]
    assert "fewer than 2 patients" in problems[2]


def test_real_datasets_have_no_unexpected_problems(real_data):
    dataset = open_dataset(real_data / "Dataset004_Hippocampus")
    assert check_dataset(dataset, deep=True) == []


def test_an_unused_validation_list_is_said(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001", "a_002", "a_003"])
    entries = [
        {"image": f"imagesTr/{n}_0000.png", "label": f"labelsTr/{n}.png"}
        for n in ("a_001", "a_002", "a_003")
    ]
    content = json.loads((root / "dataset.json").read_text())
    lists = {"labels": content["labels"], "training": entries[:2], "validation": entries[2:]}
    (root / "mine.json").write_text(json.dumps(lists))
    (problem,) = check_dataset(open_dataset(root / "mine.json"), deep=False)
    assert "the 1 case(s) of its validation list are not used" in problem


def test_the_share_of_a_border_counts_neighbours_within_a_slice():
    plane = np.array([[0, 2, 0, 0], [2, 1, 2, 0], [0, 3, 0, 0]])
    assert surrounded_share(plane, 1, 2, across=None) == 3 / 4
    assert surrounded_share(plane, 1, 3, across=None) == 1 / 4
    # The other slice counts by itself: there the class touches the edge of the image.
    volume = np.stack([plane, np.array([[1, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])], axis=2)
    assert surrounded_share(volume, 1, 2, across=2) == 4 / 6
    assert np.isnan(surrounded_share(plane, 7, 2, across=None))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"background": 0, "LV": 1, "MYO": 2, "RV": 3}, False),
        ({"background": 0, "RV": 1, "MYO": 2, "LV": 3}, True),
        ({"background": 0, "RV": 1, "wall": 2, "LV": 3}, False),
    ],
)
def test_a_heart_without_a_wall_is_found(tmp_path, labels, found):
    plane = np.zeros((12, 13), np.int64)
    plane[2:9, 2:9], plane[4:7, 4:7], plane[2:9, 9:12] = 2, 1, 3
    root = make_nnunet(tmp_path / "D", ["a_001", "a_002"], shape=(12, 13), labels=labels)
    for name in ("a_001", "a_002"):
        save(root / "labelsTr" / f"{name}.png", plane)
    problems = check_dataset(open_dataset(root), deep=True)
    assert [("2 mask(s) MYO does not surround LV" in p) for p in problems] == [True] * found


@pytest.mark.parametrize("name", ["Dataset027_ACDC", "Dataset060_Sunnybrook", "camus_native"])
def test_real_hearts_have_walls(real_data, name):
    if not (real_data / name).is_dir():
        pytest.skip(f"{name} is not there")
    dataset = open_dataset(real_data / name)
    some = dataset.select(patients=dataset.patients[:6])
    assert not any("MYO" in problem for problem in check_dataset(some, deep=True))
