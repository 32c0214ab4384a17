"""CAMUS as published: fake trees of both releases, and two real patients where they are there."""

import json
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from augmint.data.camus import is_camus, list_camus, read_cfg
from augmint.data.checks import check_dataset
from augmint.data.dataset import open_dataset
from augmint.data.images import read_image, write_image
from augmint.errors import AugmintError
from augmint.evaluation.cardiac import measure_patients
from augmint.imaging.working import WorkingGrid, working_plane
from augmint.inspect import inspect
from augmint.progress import Talk
from augmint.report import plane_of

ROWS, COLUMNS = 12, 8
SPACING = (0.3, 0.15)  # mm along x, then along depth
CFG = (
    "ED: 1\nES: 18\nNbFrame: 20\nSex: F\nAge: 56\nImageQuality: Good\n"
    "LVedv: 94.0\nLVesv: 34.6\nLVef: 63.2\n"
)
CFG_NIFTI = (
    "ED: 1\nES: 18\nNbFrame: 20\nSex: F\nAge: 56\nImageQuality: Good\nEF: 63.2\nFrameRate: 48.1\n"
)
VIEWS, PHASES = ("2CH", "4CH"), ("ED", "ES")


def frame() -> np.ndarray:
    """(rows, columns) uint8: brighter with depth, black outside a fan with its apex on top."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    inside = np.abs(columns - (COLUMNS - 1) / 2) <= rows / 2 + 0.5
    return ((40 + 15 * rows) * inside).astype(np.uint8)


def reference() -> np.ndarray:
    """(rows, columns): the LV above the LA."""
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[3:8, 2:6], mask[4:8, 3:5], mask[8:11, 3:5] = 2, 1, 3
    return mask


def write(path: Path, array: np.ndarray, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mhd":
        image = sitk.GetImageFromArray(array.astype(dtype)[None])
        image.SetSpacing((*SPACING, 1.5))
        sitk.WriteImage(image, str(path))
        return
    image = nibabel.Nifti1Image(array.astype(dtype).T, np.diag([*SPACING, 1.0, 1.0]))
    nibabel.save(image, path)


def patient(folder: Path, number: int, ending: str, *, masks: bool = True, cfg: str = CFG) -> Path:
    """One patient as published, with the loops beside the frames."""
    name = f"patient{number:04d}"
    place = folder / name
    for view in VIEWS:
        for phase in PHASES:
            write(place / f"{name}_{view}_{phase}{ending}", frame())
            if masks:
                write(place / f"{name}_{view}_{phase}_gt{ending}", reference())
        (place / f"Info_{view}.cfg").write_text(cfg)
        loops = ("half_sequence", "half_sequence_gt") if ending != ".mhd" else ("sequence",)
        for loop in loops:
            write(place / f"{name}_{view}_{loop}{ending}", frame())
    (place / "._hidden_2CH_ED.mhd").write_text("no image")
    (place / "MANDATORY_CITATION.md").write_text("cite")
    return place


def nifti_release(root: Path, *, numbers=range(1, 6), lists=True) -> Path:
    for number in numbers:
        patient(root / "database_nifti", number, ".nii.gz", cfg=CFG_NIFTI)
    if lists:
        write_lists(root, training=[1, 2, 3], validation=[4], testing=[5])
    return root


def write_lists(root: Path, **numbers: list[int]) -> None:
    (root / "database_split").mkdir(exist_ok=True)
    for name, chosen in numbers.items():
        lines = "".join(f"patient{n:04d}\n" for n in chosen)
        (root / "database_split" / f"subgroup_{name}.txt").write_text(f"{lines}\n")


def meta_release(root: Path) -> Path:
    for number in (1, 2):
        patient(root / "training", number, ".mhd")
    patient(root / "testing", 1, ".mhd", masks=False, cfg="ED: 1\nES: 9\nNbFrame: 9\n")
    return root


# --- What is found -----------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["nifti", "mhd"])
def test_the_patients_folder_opens_without_further_words(tmp_path, release):
    folder = tmp_path / ("database_nifti" if release == "nifti" else "training")
    for number in (1, 2):
        patient(folder, number, ".nii.gz" if release == "nifti" else ".mhd")
    dataset = open_dataset(folder)
    assert (dataset.layout, dataset.name, dataset.modality) == ("camus", "CAMUS", "ultrasound")
    assert dict(dataset.labels) == {"background": 0, "LV": 1, "MYO": 2, "LA": 3}
    assert dataset.annotated == {1, 2, 3}
    assert dataset.domains == VIEWS
    assert dataset.patients == ("patient0001", "patient0002")
    assert "CC BY-NC-SA 4.0" in dataset.licence
    assert "Leclerc" in dataset.licence
    assert not dataset.left_out
    # The loops and the hidden file are no cases.
    wanted = [f"patient000{n}_{v}_{p}" for n in (1, 2) for v in VIEWS for p in PHASES]
    assert [item.case_id for item in dataset.items] == wanted
    assert all(item.masks[0].name.startswith(f"{item.case_id}_gt.") for item in dataset.items)
    assert {(i.columns["view"], i.columns["phase"]) for i in dataset.items} == {
        (v, p) for v in VIEWS for p in PHASES
    }


@pytest.mark.parametrize("ending", [".mhd", ".nii.gz"])
def test_a_sound_release_has_no_problem_but_its_two_views(tmp_path, ending):
    for number in (1, 2):
        patient(tmp_path, number, ending)
    (problem,) = check_dataset(open_dataset(tmp_path), deep=True)
    assert "more than one domain" in problem


def test_uncompressed_nifti_is_camus_too(tmp_path):
    patient(tmp_path, 1, ".nii")
    assert open_dataset(tmp_path).file_ending == ".nii"


@pytest.mark.parametrize("release", ["nifti", "mhd"])
def test_a_frame_has_its_apex_on_top_and_its_spacing(tmp_path, release):
    """Both releases show networks and readers the same plane, rows running with depth."""
    patient(tmp_path, 1, ".nii.gz" if release == "nifti" else ".mhd")
    dataset = open_dataset(tmp_path)
    case = dataset.load(dataset.items[0])
    image, mask = plane_of(case)
    assert image.shape == (ROWS, COLUMNS)
    assert np.array_equal(mask, reference())
    assert (image[frame() == 0] == -1).all()
    depth = [image[r, COLUMNS // 2] for r in range(2, ROWS - 1)]
    assert depth == sorted(depth)
    assert working_plane(case.grid).spacing == pytest.approx((SPACING[1], SPACING[0]))
    grid = WorkingGrid(2, (ROWS, COLUMNS), (ROWS, COLUMNS), spacing_mm=(SPACING[1], SPACING[0]))
    assert np.array_equal(grid.to_working(case).mask.squeeze(), reference())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_black_is_exactly_minus_one_in_any_type(tmp_path, dtype):
    write(tmp_path / "patient0001" / "patient0001_2CH_ED.nii.gz", frame(), dtype)
    dataset = open_dataset(tmp_path)
    case = dataset.load(dataset.items[0])
    black = frame() == 0
    assert case.intensity.dtype == np.dtype(dtype).name
    assert (case.image[0].numpy()[black] == -1).all()
    assert (case.image[0].numpy()[~black] > -1).all()
    assert (case.intensity.to_stored(case.image)[0][black] == 0).all()


@pytest.mark.parametrize("release", ["nifti", "mhd"])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".mhd"])
def test_anisotropic_spacing_survives_writing(tmp_path, release, ending):
    patient(tmp_path / "in", 1, ".nii.gz" if release == "nifti" else ".mhd")
    dataset = open_dataset(tmp_path / "in")
    case = dataset.load(dataset.items[0])
    stored, _, _ = read_image(dataset.items[0].images)
    write_image(tmp_path / f"out{ending}", stored, case.grid)
    again, affine, known = read_image(tmp_path / f"out{ending}")
    assert known
    assert np.array_equal(again, stored)
    assert again.dtype == stored.dtype == np.uint8
    assert np.allclose(affine, case.grid.affine, atol=1e-6)
    assert sorted(case.grid.spacing)[:2] == pytest.approx(sorted(SPACING))


# --- Splits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", (1, 2, 3)), ("validation", (4,)), ("test", (5,))]
)
def test_the_lists_split_what_lies_beside_them(tmp_path, split, numbers):
    dataset = open_dataset(nifti_release(tmp_path), split=split)
    assert dataset.root == tmp_path
    assert dataset.patients == tuple(f"patient{n:04d}" for n in numbers)
    assert len(dataset) == 4 * len(numbers)
    sizes = {"train": 12, "validation": 4, "test": 4}
    assert dataset.left_out == {k: n for k, n in sizes.items() if k != split}


def test_the_patients_folder_itself_has_no_splits(tmp_path):
    root = nifti_release(tmp_path)
    dataset = open_dataset(root / "database_nifti")
    assert len(dataset.patients) == 5
    assert not dataset.left_out
    with pytest.raises(AugmintError, match=r"no split 'test', only train.*holds database_split"):
        open_dataset(root / "database_nifti", split="test")


def test_without_lists_all_patients_train(tmp_path):
    dataset = open_dataset(nifti_release(tmp_path, lists=False))
    assert len(dataset.patients) == 5


def test_a_list_that_is_not_there_is_named(tmp_path):
    root = nifti_release(tmp_path, numbers=(1, 2), lists=False)
    write_lists(root, training=[1], testing=[2])
    assert open_dataset(root, split="test").patients == ("patient0002",)
    with pytest.raises(AugmintError, match=r"no split 'validation', only train, test.*subgroup_"):
        open_dataset(root, split="validation")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"training": [1], "testing": [3]},
            r"in no list: patient0002; listed, .*there: patient0003",
        ),
        ({"training": [1]}, r"in no list: patient0002\. "),
        ({"training": [1, 2], "testing": [7]}, r"but not there: patient0007\. "),
        (
            {"training": [1, 2], "testing": [2]},
            r"testing.txt, line 1: patient0002 is in subgroup_tr",
        ),
        ({}, r"in no list: patient0001, patient0002"),
    ],
)
def test_lists_and_folders_must_name_the_same_patients(tmp_path, lists, message):
    root = nifti_release(tmp_path, numbers=(1, 2), lists=False)
    write_lists(root, **lists)
    with pytest.raises(AugmintError, match=message):
        open_dataset(root)
    assert len(open_dataset(root / "database_nifti").patients) == 2


def test_a_line_that_names_no_patient_is_an_error(tmp_path):
    root = nifti_release(tmp_path, numbers=(1, 2), lists=False)
    write_lists(root, training=[1, 2])
    path = root / "database_split" / "subgroup_training.txt"
    path.write_text("patient0001\n2\n")
    with pytest.raises(AugmintError, match=r"subgroup_training.txt, line 2: '2' is no patient"):
        open_dataset(root)


def test_the_older_release_splits_by_folder(tmp_path):
    root = meta_release(tmp_path)
    train, test = open_dataset(root), open_dataset(root, split="test")
    assert train.left_out == {"test": 4}
    assert test.left_out == {"train": 8}
    # Its testing patients are numbered from 1 again and must not pass for training patients.
    assert train.patients == ("patient0001", "patient0002")
    assert test.patients == ("testing_patient0001",)
    assert test.items[0].case_id == "testing_patient0001_2CH_ED"
    assert test.items[0].columns["view"] == "2CH"
    assert open_dataset(root / "testing").patients == test.patients
    with pytest.raises(AugmintError, match=r"no split 'validation', only train, test"):
        open_dataset(root, split="validation")


def test_testing_patients_are_told_apart_from_inside_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(meta_release(tmp_path) / "testing")
    assert open_dataset(".").patients == ("testing_patient0001",)


def test_frames_without_masks_are_unlabelled(tmp_path):
    dataset = open_dataset(meta_release(tmp_path), split="test")
    assert all(not item.masks for item in dataset.items)
    case = dataset.load(dataset.items[0])
    assert case.mask is None
    assert case.image.min() == -1
    # What no mask needs is still there.
    assert dict(dataset.labels)["LA"] == 3
    assert dataset.items[0].columns["frames"] == "9"


def test_studies_choose_patients_by_the_lists(tmp_path):
    dataset = open_dataset(nifti_release(tmp_path) / "database_nifti")
    names = (tmp_path / "database_split" / "subgroup_testing.txt").read_text().split()
    assert dataset.select(patients=names).patients == ("patient0005",)


# --- Names and columns -------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["database_nifti", "."])
def test_labels_json_names_the_labels(tmp_path, place):
    root = nifti_release(tmp_path)
    named = {"background": 0, "left ventricle": 1, "myocardium": 2, "left atrium": 3}
    (root / place / "labels.json").write_text(json.dumps(named))
    assert dict(open_dataset(root).labels) == named
    mapped = open_dataset(root, label_map={"left atrium": None})
    assert int(mapped.load(mapped.items[0]).mask.max()) == 2


def test_cases_csv_adds_columns(tmp_path):
    place = patient(tmp_path, 1, ".nii.gz")
    rows = [f"{place.name}_{v}_{p},GE,Poor" for v in VIEWS for p in PHASES]
    (tmp_path / "cases.csv").write_text("\n".join(["case,domain,image_quality", *rows]))
    item = open_dataset(tmp_path).items[0]
    assert (item.domain, item.columns["image_quality"], item.columns["ef"]) == (
        "GE",
        "Poor",
        "63.2",
    )


@pytest.mark.parametrize(
    ("cfg", "more"),
    [
        (CFG, {"lv_edv_ml": "94.0", "lv_esv_ml": "34.6"}),
        (CFG_NIFTI, {"frame_rate": "48.1"}),
    ],
)
def test_cfg_files_become_columns(tmp_path, cfg, more):
    place = patient(tmp_path, 1, ".nii.gz", cfg=cfg)
    (place / "Info_4CH.cfg").write_text(cfg.replace("Good", "Medium").replace("18", "19"))
    shared = {"ed_frame": "1", "frames": "20", "sex": "F", "age": "56", "ef": "63.2", **more}
    for item in open_dataset(tmp_path).items:
        view, phase = item.columns["view"], item.columns["phase"]
        four = view == "4CH"
        own = {"image_quality": "Medium" if four else "Good", "es_frame": "19" if four else "18"}
        assert dict(item.columns) == {"view": view, "phase": phase, **shared, **own}


def test_a_missing_cfg_leaves_columns_out(tmp_path):
    place = patient(tmp_path, 1, ".mhd")
    (place / "Info_2CH.cfg").unlink()
    two, *_, four = (dict(item.columns) for item in open_dataset(tmp_path).items)
    assert two == {"view": "2CH", "phase": "ED"}
    assert four["ef"] == "63.2"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", {}),
        ("\ufeffED: 1\r\n\r\nSex : M \r\n", {"ed_frame": "1", "sex": "M"}),
        ("Age: nan\nEF:\nImageQuality: N/A\nED: 4", {"ed_frame": "4"}),
        ("Vendor: GE: E95\nAge: 56.5", {"age": "56.5"}),
    ],
)
def test_unknown_values_and_keys_are_no_columns(tmp_path, text, columns):
    path = tmp_path / "Info_2CH.cfg"
    path.write_bytes(text.encode())
    assert read_cfg(path) == columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ED: 1\nES 18\n", r"Info_2CH.cfg, line 2: 'ES 18' is not `key: value`"),
        ("ED: one\n", r"line 1: ED must be a whole number of 0 or more, got 'one'; correct"),
        ("ED: 1.5\n", r"line 1: ED must be a whole number"),
        ("ED: 1\nNbFrame: -3\n", r"line 2: NbFrame must be a whole number"),
        ("LVef: high\n", r"line 1: LVef must be a number of 0 or more, got 'high'"),
        ("LVedv: -94\n", r"line 1: LVedv must be a number"),
        ("EF: inf\n", r"line 1: EF must be a number"),
        ("LVef: 63\n\nEF: 63\n", r"line 3: EF is given twice"),
    ],
)
def test_a_bad_cfg_is_named_with_its_line(tmp_path, text, message):
    place = patient(tmp_path, 1, ".mhd")
    (place / "Info_2CH.cfg").write_text(text)
    with pytest.raises(AugmintError, match=message):
        open_dataset(tmp_path)


def test_a_cfg_that_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "Info_2CH.cfg"
    path.write_bytes(b"ED: \xff\xfe")
    with pytest.raises(AugmintError, match=r"Info_2CH\.cfg: not readable as text"):
        read_cfg(path)


# --- What contradicts itself -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_gt"])
def test_one_frame_in_two_formats_is_refused(tmp_path, suffix):
    place = patient(tmp_path, 1, ".nii.gz")
    write(place / f"patient0001_4CH_ES{suffix}.mhd", frame())
    with pytest.raises(AugmintError, match=rf"4CH_ES{suffix}\.mhd and .*{suffix}\.nii\.gz are one"):
        open_dataset(tmp_path)


def test_two_releases_in_one_folder_are_refused(tmp_path):
    root = meta_release(nifti_release(tmp_path))
    with pytest.raises(AugmintError, match=r"database_nifti, .*training, .*testing.*open one of"):
        open_dataset(root)
    assert len(open_dataset(root / "training")) == 8


def test_lists_beside_training_and_testing_are_refused(tmp_path):
    root = meta_release(tmp_path)
    write_lists(root, training=[1, 2])
    with pytest.raises(AugmintError, match="open one of these folders"):
        open_dataset(root)


def test_a_mask_without_its_frame_is_an_error(tmp_path):
    place = patient(tmp_path, 1, ".nii.gz")
    (place / "patient0001_2CH_ED.nii.gz").unlink()
    with pytest.raises(AugmintError, match=r"no image for the mask\(s\) patient0001_2CH_ED_gt"):
        open_dataset(tmp_path)


def test_an_empty_patient_is_an_error(tmp_path):
    patient(tmp_path, 1, ".nii.gz")
    (tmp_path / "patient0002").mkdir()
    with pytest.raises(AugmintError, match=r"no frame such as patient0002_2CH_ED.* in patient0002"):
        open_dataset(tmp_path)


def test_a_frame_in_the_folder_of_another_patient_is_an_error(tmp_path):
    place = patient(tmp_path, 1, ".nii.gz")
    write(place / "patient0002_2CH_ED.nii.gz", frame())
    with pytest.raises(AugmintError, match="folder of another patient"):
        open_dataset(tmp_path)


def test_a_wrong_label_names_its_mask(tmp_path):
    place = patient(tmp_path, 1, ".mhd")
    write(place / "patient0001_2CH_ED_gt.mhd", reference() + 4)
    dataset = open_dataset(tmp_path)
    with pytest.raises(AugmintError, match=r"2CH_ED_gt.mhd: label value\(s\) 4, 5"):
        dataset.load(dataset.items[0])


def test_other_folders_are_not_camus(tmp_path):
    (tmp_path / "patient0001").mkdir()
    write(tmp_path / "patient0001" / "patient0001_2CH_half_sequence.nii.gz", frame())
    # ACDC's patients have three digits.
    write(tmp_path / "patient001" / "patient001_frame01.nii.gz", frame())
    write(tmp_path / "patient001" / "patient001_frame01_gt.nii.gz", reference() > 0)
    assert not is_camus(tmp_path)
    assert open_dataset(tmp_path).layout == "acdc"


# --- Two real patients -------------------------------------------------------------------------


@pytest.fixture
def native(real_data: Path) -> Path:
    folder = real_data / "camus_native"
    if not folder.is_dir():
        pytest.skip("camus_native is not there")
    return folder


def test_real_ef_from_masks_is_that_of_the_cfg(native):
    """Within 5 % of the volumes and 5 points of EF, as for the same masks measured directly."""
    dataset = open_dataset(native)
    assert Counter(i.domain for i in dataset.items) == {"2CH": 4, "4CH": 4}
    for found in measure_patients(dataset, atrium="LA"):
        rows = [i.columns for i in dataset.items if i.patient_id == found.patient]
        assert {row["ef"] for row in rows} == {rows[0]["ef"]}
        assert found.unit == "ml"
        assert found.method == "biplane discs"
        assert found.edv == pytest.approx(float(rows[0]["lv_edv_ml"]), rel=0.05)
        assert found.esv == pytest.approx(float(rows[0]["lv_esv_ml"]), rel=0.05)
        assert found.ef == pytest.approx(float(rows[0]["ef"]), abs=5)


def test_real_frames_lie_as_the_pictures_do(native, real_data):
    """The PNG frames are the native ones, resized; turned or mirrored they would not correlate."""
    pictures = open_dataset(real_data / "Dataset050_CAMUS")
    stored = {item.case_id: item for item in pictures.items}
    dataset, compared = open_dataset(native), 0
    for item in dataset.items:
        if item.case_id not in stored:
            continue
        image, mask = plane_of(dataset.load(item))
        picture = pictures.load(stored[item.case_id])
        rows, columns = picture.grid.shape
        small = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
        found = np.corrcoef(np.ravel(small), picture.image.numpy().ravel())[0, 1]
        assert found > 0.98
        nearest = Image.fromarray(mask.astype(np.uint8)).resize((columns, rows), 0)
        agree = (np.asarray(nearest) == picture.mask.numpy()).mean()
        assert agree > 0.98
        compared += 1
    assert compared


def test_real_frames_hold_no_problem_but_their_two_views(native):
    facts = inspect(native, talk=Talk(quiet=True))
    assert (facts["layout"], facts["modality"], facts["cases"]) == ("camus", "ultrasound", 8)
    (problem,) = facts["problems"]
    assert "more than one domain" in problem
    listing = list_camus(native)
    assert {found.columns["frames"] for found in listing.found} == {"15", "17", "18", "20"}
