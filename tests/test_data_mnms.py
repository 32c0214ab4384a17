"""M&Ms as published: a fake release with every trap of the real one."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from augmint.data.checks import check_dataset
from augmint.data.dataset import open_dataset
from augmint.data.images import read_affine, read_image, read_mask
from augmint.data.mnms import is_mnms, read_table, vendor_named, whole_number
from augmint.errors import AugmintError
from augmint.evaluation.cardiac import measure_patients
from augmint.generate import generate
from augmint.inspect import inspect
from augmint.progress import Talk
from augmint.segmentation.nnunet.images import stage_images
from augmint.synthetic import files_of_cases, keeps_files
from fake_hearts import PLAIN, SHAPE, SHEARED, heart, image_of, write

QUIET = Talk(quiet=True)
# Numbers of M&Ms.
HEART = {"lv": 1, "myo": 2, "rv": 3}
FRAMES = 5
TABLE = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
HEADER = [
    "", "External code", "VendorName", "Vendor", "Centre", "ED", "ES", "Age", "Pathology", "Sex",
    "Height", "Weight",
]  # fmt: skip
ROWS = {
    "A0S9V9": ["Siemens", "A", "1", "0", "3", "28", "HCM", "F", "", "60.0"],
    "B1D6E3": ["Philips", "B", "2", "2", "4", "61", "DCM", "M", "180", "90"],
    "C4K8M1": ["GE", "C", "4", "0", "2", "50", "NOR", "M", "175", "80"],
    "D2E8P4": ["Canon", "D", "5", "1", "3", "44", "NOR", "F", "170", "70"],
    "E9H1U4": ["Philips", "B", "3", "0", "1", "33", "Other", "M", "170", "70"],
}
PARTS = {
    "A0S9V9": "Training/Labeled",
    "B1D6E3": "Training/Labeled",
    "C4K8M1": "Training/Unlabeled",
    "D2E8P4": "Validation",
    "E9H1U4": "Testing",
}


def frames_of(code: str) -> tuple[int, int]:
    return int(ROWS[code][3]), int(ROWS[code][4])


def cine(code: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (x, y, z, t); the mask is drawn at ED and ES alone."""
    seed = sorted(ROWS).index(code)
    image = np.zeros((*SHAPE, FRAMES), np.int16)
    mask = np.zeros((*SHAPE, FRAMES), np.uint8)
    for t in range(FRAMES):
        drawn = heart(**HEART, squeeze=1.0 - 0.1 * t)
        image[..., t] = image_of(drawn, 10 * seed + t) + 1000 * t
        if t in frames_of(code) and "Unlabeled" not in PARTS[code]:
            mask[..., t] = drawn
    return image, mask


def patient(folder: Path, code: str, affine: np.ndarray = PLAIN) -> Path:
    image, mask = cine(code)
    write(folder / code / f"{code}_sa.nii.gz", image, affine)
    write(folder / code / f"{code}_sa_gt.nii.gz", mask, affine)
    return folder / code


def table(path: Path, *, header=HEADER, rows=ROWS, order=None) -> None:
    """The table, by default as released; `order` names its columns anew."""
    columns = order or header
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number, (code, values) in enumerate(rows.items()):
            cells = dict(zip(HEADER, [str(number), code, *values]))
            writer.writerow([cells[name] for name in columns])


def release(root: Path, *, affine: np.ndarray = PLAIN) -> Path:
    for code, part in PARTS.items():
        patient(root / part, code, affine)
    table(root / TABLE)
    return root


# --- What is found -----------------------------------------------------------------------------


def test_the_release_opens_by_its_splits(tmp_path):
    root = release(tmp_path)
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.name, dataset.modality) == ("mnms", "M&Ms", "MR")
    assert dict(dataset.labels) == {"background": 0, "LV": 1, "MYO": 2, "RV": 3}
    assert dataset.patients == ("A0S9V9", "B1D6E3", "C4K8M1")
    assert [i.case_id for i in dataset.items] == [
        f"{code}_sa_{phase}" for code in dataset.patients for phase in ("ED", "ES")
    ]
    assert dataset.left_out == {"validation": 2, "test": 2}
    assert open_dataset(root, split="validation").patients == ("D2E8P4",)
    assert open_dataset(root, split="test").patients == ("E9H1U4",)
    assert "Campello" in dataset.licence
    assert "patient folders of M&Ms" in dataset.patient_rule


@pytest.mark.parametrize(
    ("part", "patients"),
    [
        ("Training", ("A0S9V9", "B1D6E3", "C4K8M1")),
        ("Training/Labeled", ("A0S9V9", "B1D6E3")),
        ("Training/Unlabeled", ("C4K8M1",)),
        ("Testing", ("E9H1U4",)),
    ],
)
def test_a_part_opens_by_itself_with_the_table_above_it(tmp_path, monkeypatch, part, patients):
    root = release(tmp_path)
    assert open_dataset(root / part).patients == patients
    monkeypatch.chdir(root / part)
    dataset = open_dataset(".")
    assert dataset.patients == patients
    assert all(bool(i.masks) == (i.patient_id != "C4K8M1") for i in dataset.items)
    with pytest.raises(AugmintError, match="no split 'test', only train"):
        open_dataset(".", split="test")


def test_vendor_and_centre_are_told_apart(tmp_path):
    dataset = open_dataset(release(tmp_path))
    assert dataset.domains == ("GE", "Philips", "Siemens")
    assert dataset.select(domains=["Philips"]).patients == ("B1D6E3",)
    assert dict(dataset.items[0].columns) == {
        "patient": "A0S9V9", "view": "SAX", "phase": "ED", "frame_index": "0", "vendor": "Siemens",
        "domain": "Siemens", "centre": "1", "age": "28", "diagnosis": "HCM", "sex": "F",
        "weight": "60.0",
    }  # fmt: skip


def test_the_masks_of_unlabeled_hold_nothing_and_are_none(tmp_path):
    dataset = open_dataset(release(tmp_path))
    unlabelled = [i for i in dataset.items if not i.masks]
    assert {i.patient_id for i in unlabelled} == {"C4K8M1"}
    assert dataset.load(unlabelled[0]).mask is None
    labelled = [i for i in dataset.items if i.masks]
    assert all(bool(dataset.load(i).mask.any()) for i in labelled)


@pytest.mark.parametrize("affine", [PLAIN, SHEARED], ids=["plain", "sheared"])
def test_each_case_is_its_own_frame(tmp_path, affine):
    """Frames count from 0, and axes need not be orthogonal."""
    dataset = open_dataset(release(tmp_path, affine=affine))
    for item in dataset.items:
        image, mask = cine(item.patient_id)
        index = frames_of(item.patient_id)[item.columns["phase"] == "ES"]
        stored, stored_affine, known = dataset.read_stored(item)
        assert np.array_equal(stored, image[None, ..., index])
        assert stored.dtype == np.int16
        assert np.allclose(stored_affine, affine)
        assert known
        case = dataset.load(item)
        assert case.grid.shape == SHAPE
        assert case.grid.slice_axis == 2
        if item.masks:
            assert np.array_equal(case.mask.numpy(), mask[..., index])


def test_a_patient_may_have_no_mask_file(tmp_path):
    root = release(tmp_path)
    (root / "Testing" / "E9H1U4" / "E9H1U4_sa_gt.nii.gz").unlink()
    assert [i.masks for i in open_dataset(root, split="test").items] == [(), ()]


def test_a_sound_release_is_inspected(tmp_path):
    facts = inspect(release(tmp_path), talk=QUIET)
    assert facts["domains"] == {"GE": 2, "Philips": 2, "Siemens": 2}
    assert facts["labelled"] == 4
    unlabelled, unused = facts["problems"]
    assert "2 case(s) have no mask: C4K8M1_sa_ED" in unlabelled
    assert "validation list" in unused


def test_exchanged_labels_are_found(tmp_path):
    root = release(tmp_path) / "Testing"
    assert not any("MYO" in p for p in check_dataset(open_dataset(root), deep=True))
    acdc = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    (root / "labels.json").write_text(json.dumps(acdc))
    assert any("2 mask(s) MYO does not" in p for p in check_dataset(open_dataset(root), deep=True))


def test_ejection_fraction_needs_no_more_than_the_release(tmp_path):
    dataset = open_dataset(release(tmp_path) / "Training" / "Labeled")
    for measured in measure_patients(dataset):
        ed, es = frames_of(measured.patient)
        _, mask = cine(measured.patient)
        volumes = (mask == 1).sum(axis=(0, 1, 2))
        assert measured.ef == pytest.approx(100 * (1 - volumes[es] / volumes[ed]))


# --- The table ---------------------------------------------------------------------------------


def test_columns_are_found_by_name(tmp_path):
    root = release(tmp_path)
    before = [dict(i.columns) for i in open_dataset(root).items]
    table(root / TABLE, order=sorted(HEADER, reverse=True))
    assert [dict(i.columns) for i in open_dataset(root).items] == before


def test_the_last_columns_may_be_missing(tmp_path):
    root = release(tmp_path)
    table(root / TABLE, order=HEADER[1:7])
    item = open_dataset(root).items[0]
    assert item.domain == "Siemens"
    assert "age" not in item.columns


def test_numbers_with_a_point_and_semicolons_are_understood(tmp_path):
    root = release(tmp_path)
    table(
        root / TABLE, rows={c: [*v[:3], v[3] + ".0", v[4] + ".0", *v[5:]] for c, v in ROWS.items()}
    )
    text = (root / TABLE).read_text()
    (root / TABLE).write_text("\ufeff" + text.replace(",", ";"), encoding="utf-8")
    assert [i.frame for i in open_dataset(root).items] == [0, 3, 2, 4, 0, 2]


def test_the_letter_alone_names_the_vendor(tmp_path):
    root = release(tmp_path)
    table(root / TABLE, order=[name for name in HEADER if name != "VendorName"])
    assert open_dataset(root).domains == ("GE", "Philips", "Siemens")
    table(root / TABLE, order=[name for name in HEADER if not name.startswith("Vendor")])
    assert open_dataset(root).domains == ()


@pytest.mark.parametrize(
    ("code", "values", "message"),
    [
        ("A0S9V9", ["Siemens", "B", "1", "0", "3"], "Siemens and Vendor B, which is Philips"),
        ("A0S9V9", ["Siemens", "A", "1", "", "3"], "A0S9V9 needs two frames, .* got ED '' and"),
        ("A0S9V9", ["Siemens", "A", "1", "nan", "3"], "got ED '' and ES '3'"),
        ("A0S9V9", ["Siemens", "A", "1", "-1", "3"], "got ED '-1'"),
        ("A0S9V9", ["Siemens", "A", "1", "3", "3"], "got ED '3' and ES '3'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, code, values, message):
    root = release(tmp_path)
    table(root / TABLE, rows={**ROWS, code: [*values, *ROWS[code][5:]]})
    with pytest.raises(AugmintError, match=message):
        open_dataset(root)


def test_a_frame_beyond_the_cine_is_named_when_it_is_read(tmp_path):
    root = release(tmp_path)
    table(root / TABLE, rows={**ROWS, "A0S9V9": [*ROWS["A0S9V9"][:4], "5", *ROWS["A0S9V9"][5:]]})
    dataset = open_dataset(root)
    with pytest.raises(AugmintError, match=r"A0S9V9_sa.nii.gz: no frame 5, its 5 frames count fr"):
        dataset.load(dataset.items[1])
    assert any("no frame 5" in p for p in check_dataset(dataset, deep=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.unlink(), "no CSV with the column 'External code' in it or above it"),
        (lambda p: p.rename(p.with_suffix(".xlsx")), r"spreadsheets are not read; .*as CSV"),
        (lambda p: (p.parent / "old.csv").write_text(p.read_text()), "old.csv all have the column"),
        (lambda p: table(p, order=HEADER[:5]), "no column ED, ES; it has External code, VendorN"),
        (lambda p: table(p, rows={"A0S9V9": ROWS["A0S9V9"]}), "no row for B1D6E3, which lies in"),
        (lambda p: p.write_text(p.read_text() + "9,A0S9V9\n"), "row 7: A0S9V9 has two rows"),
        (lambda p: p.write_text(p.read_text() + "9,,GE\n"), "row 7: needs its 'External code'"),
        (lambda p: p.write_text(p.read_text() + "9,F0F0F0" + 11 * ",x"), "row 7: needs its 'Ext"),
        (lambda p: p.write_bytes(b"External code,\xff\xfe"), "not readable as CSV"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused(tmp_path, change, message):
    root = release(tmp_path)
    change(root / TABLE)
    with pytest.raises(AugmintError, match=message):
        open_dataset(root)


def test_a_million_empty_rows_are_passed_over(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("SUBJECT_CODE,VENDOR\n" + "1,GE\n" + ",\n" * 1_000_000 + "\n\n2,\n")
    assert read_table(path, "SUBJECT_CODE") == {
        "1": {"SUBJECT_CODE": "1", "VENDOR": "GE"},
        "2": {"SUBJECT_CODE": "2"},
    }


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("SIEMENS", "Siemens"),
        ("Philips Medical Systems", "Philips"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("Canon", "Canon"),
        ("General", "General"),
        ("", ""),
    ],
)
def test_vendors_have_one_name(words, name):
    assert vendor_named(words) == name


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("0.0", 0), (" 7. ", 7), ("1.5", None), ("-1", None), ("", None)],
)
def test_whole_numbers_of_tables(text, number):
    assert whole_number(text) == number


# --- What contradicts itself -------------------------------------------------------------------


def test_a_patient_in_two_parts_is_refused(tmp_path):
    root = release(tmp_path)
    patient(root / "Testing", "A0S9V9")
    with pytest.raises(AugmintError, match=r"Testing/A0S9V9: the patient lies in .*Labeled, too"):
        open_dataset(root)


def test_patients_in_and_below_a_folder_are_ambiguous(tmp_path):
    root = release(tmp_path)
    patient(root, "E9H1U4")
    with pytest.raises(AugmintError, match=r"patients lie in it and in .*Labeled"):
        open_dataset(root)


def test_an_empty_patient_folder_is_named(tmp_path):
    root = release(tmp_path)
    (root / "Testing" / "F1F1F1").mkdir()
    with pytest.raises(AugmintError, match=r"no F1F1F1_sa.nii.gz; complete the download"):
        open_dataset(root)


def test_no_expression_names_patients_that_have_folders(tmp_path):
    with pytest.raises(AugmintError, match="the patient folders of M&Ms name the patients already"):
        open_dataset(release(tmp_path), patient_regex="(.*)_sa")


def test_cases_csv_may_choose_another_domain(tmp_path):
    root = release(tmp_path) / "Testing"
    (root / "cases.csv").write_text("case,domain\nE9H1U4_sa_ED,centre 3\nE9H1U4_sa_ES,centre 3\n")
    dataset = open_dataset(root)
    assert dataset.domains == ("centre 3",)
    assert dataset.patients == ("E9H1U4",)


def test_other_folders_are_not_mnms(tmp_path):
    assert not is_mnms(tmp_path)
    write(tmp_path / "A0S9V9" / "A0S9V9_la.nii.gz", np.zeros(SHAPE, np.uint8))
    assert not is_mnms(tmp_path)


# --- From here to nnU-Net ----------------------------------------------------------------------


def test_a_synthetic_dataset_carries_the_frames_alone(tmp_path):
    """Real cases become files of their own that nnU-Net reads through ITK, on the native affine."""
    data = release(tmp_path / "data", affine=SHEARED) / "Training" / "Labeled"
    source = open_dataset(data)
    assert not keeps_files(source)
    assert files_of_cases(source, 1) == {i.case_id: 1 for i in source.items}
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(source.items[0].images[0]))
    out = tmp_path / "Dataset114_MnMs"
    generate("warped_pairs", source, out, preset="tiny", copies=1, talk=QUIET)
    made = open_dataset(out)
    assert (made.layout, made.name, len(made)) == ("nnunet", "M&Ms", 2 * len(source))
    assert dict(made.labels) == dict(source.labels)
    assert made.domains == source.domains
    again = {item.case_id: item for item in made.items}
    for item in source.items:
        image, mask = cine(item.patient_id)
        copied = again[item.case_id]
        assert (copied.frame, copied.patient_id) == (None, item.patient_id)
        assert dict(copied.columns).items() >= dict(item.columns).items()
        stored, _, _ = read_image(copied.images)
        assert np.array_equal(stored, image[None, ..., item.frame])
        assert np.array_equal(read_mask(copied.masks[0])[0], mask[..., item.frame])
        new = again[f"{item.case_id}__s0_c0"]
        for path in (*copied.images, *copied.masks, *new.images, *new.masks):
            assert np.allclose(read_affine(path), SHEARED, atol=1e-5)
            assert nibabel.load(path).shape == SHAPE
            spacing = np.linalg.norm(SHEARED[:3, :3], axis=0)
            assert sitk.ReadImage(str(path)).GetSpacing() == pytest.approx(spacing, rel=1e-3)


def test_images_for_nnunet_hold_one_frame(tmp_path):
    dataset = open_dataset(release(tmp_path / "data") / "Testing")
    stage_images(dataset, tmp_path / "staged", ".nii.gz", {"0": "cineMRI"}, 1)
    image, _ = cine("E9H1U4")
    for item in dataset.items:
        stored, _, _ = read_image(tmp_path / "staged" / f"{item.case_id}_0000.nii.gz")
        assert np.array_equal(stored[0], image[..., item.frame])
