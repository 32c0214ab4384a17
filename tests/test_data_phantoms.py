"""The built-in phantom cohorts: known truth, honest labels, one patient whatever the cohort."""

import csv
import hashlib
import json
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from augmint.data.phantoms import KINDS, make_phantoms
from augmint.data.phantoms_mr import mr_patient
from augmint.data.phantoms_ultrasound import us_patient
from augmint.errors import AugmintError

RV, MYO, LV = 1, 2, 3
SIZES = {"cine-mr": 64, "apical-ultrasound": 96}


@cache
def mr(vendor: str, patient: int):
    return mr_patient(0, patient, vendor=vendor, size=96, slices=7)


@cache
def us(vendor: str, patient: int):
    return us_patient(0, patient, vendor=vendor, size=160)


def digest(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=sorted(KINDS))
def cohort(request, tmp_path_factory):
    kind = request.param
    out = tmp_path_factory.mktemp(kind) / "Dataset900_Phantoms"
    made = make_phantoms(kind, out=out, patients=2, slices=5, size=SIZES[kind])
    assert made == out
    return kind, out


def test_cohort_is_an_nnunet_raw_dataset(cohort):
    kind, out = cohort
    facts = json.loads((out / "dataset.json").read_text())
    rows = read_rows(out)
    assert facts["numTraining"] == len(rows) == 2 * (2 if kind == "cine-mr" else 4)
    assert facts["labels"] == dict(KINDS[kind].labels)
    assert facts["licence"] == "CC0-1.0 (synthetic)"
    assert list(rows[0])[:6] == ["case", "patient", "domain", "view", "phase", "vendor"]
    ending = facts["file_ending"]
    images = {p.name for p in (out / "imagesTr").iterdir()}
    labels = {p.name for p in (out / "labelsTr").iterdir()}
    assert images == {f"{r['case']}_0000{ending}" for r in rows}
    assert labels == {f"{r['case']}{ending}" for r in rows}
    assert not out.with_name(out.name + ".partial").exists()


def test_same_seed_same_bytes_and_another_seed_other_pictures(cohort, tmp_path):
    kind, out = cohort
    size = SIZES[kind]
    again = make_phantoms(kind, out=tmp_path / "again", patients=2, slices=5, size=size)
    other = make_phantoms(kind, out=tmp_path / "other", patients=2, slices=5, size=size, seed=1)
    assert digest(again) == digest(out)
    first, second = digest(out), digest(other)
    pictures = [name for name in first if name.startswith("imagesTr")]
    assert all(first[name] != second[name] for name in pictures)


def test_a_patient_is_the_same_whatever_the_cohort_size(cohort, tmp_path):
    kind, out = cohort
    alone = make_phantoms(kind, out=tmp_path / "one", patients=1, slices=5, size=SIZES[kind])
    pair = digest(out)
    shared = {k: v for k, v in digest(alone).items() if k.startswith(("imagesTr", "labelsTr"))}
    assert shared
    assert all(pair[name] == value for name, value in shared.items())
    rows = read_rows(alone)
    assert rows == read_rows(out)[: len(rows)]


def test_files_carry_the_grid(tmp_path):
    out = make_phantoms("cine-mr", out=tmp_path / "mr", patients=1, slices=4, size=64)
    image = nib.load(out / "imagesTr" / "phantom_mr_A_001_ED_0000.nii.gz")
    mask = nib.load(out / "labelsTr" / "phantom_mr_A_001_ED.nii.gz")
    assert image.shape == mask.shape == (64, 64, 4)
    np.testing.assert_array_equal(image.affine, mask.affine)
    x, y, z = image.header.get_zooms()
    assert x == y
    assert 200 < 64 * x < 330
    assert 10 < z < 40
    out = make_phantoms("apical-ultrasound", out=tmp_path / "us", patients=1)
    assert Image.open(out / "imagesTr" / "phantom_us_A_001_4CH_ED_0000.png").size == (224, 224)


@pytest.mark.parametrize("vendor", KINDS["cine-mr"].vendors)
def test_mr_truth_is_what_the_masks_measure(vendor):
    for patient in (1, 2, 3, 4):
        frames = mr(vendor, patient)
        measured = [(f.mask == LV).sum() * np.prod(f.spacing_mm) / 1000 for f in frames]
        for frame, volume in zip(frames, measured):
            assert volume == pytest.approx(frame.row["lv_volume_ml"], rel=0.04)
        ef = 100 * (1 - measured[1] / measured[0])
        assert ef == pytest.approx(frames[0].row["ef"], abs=2)
        assert 10 < ef < 85


@pytest.mark.parametrize("vendor", KINDS["cine-mr"].vendors)
def test_mr_myocardium_encloses_the_lv_on_mid_slices(vendor):
    for frame in mr(vendor, 1) + mr(vendor, 2):
        for z in (3, 4):
            mask = frame.mask[:, :, z]
            cavity = mask == LV
            assert cavity.any()
            around = binary_dilation(cavity, np.ones((3, 3))) & ~cavity
            assert (mask[around] == MYO).all()


def test_mr_heart_tapers_from_base_to_apex():
    for vendor in "ABC":
        for frame in mr(vendor, 1) + mr(vendor, 2):
            areas = [(frame.mask[:, :, z] == LV).sum() for z in range(7)]
            rv = [(frame.mask[:, :, z] == RV).sum() for z in range(7)]
            assert areas[3] > areas[5] > areas[6]
            assert max(rv[:3]) > 2 * rv[6]
            assert set(np.unique(frame.mask)) == {0, RV, MYO, LV}


def test_mr_tissues_have_bssfp_contrast():
    for vendor in "ABC":
        for frame in mr(vendor, 1) + mr(vendor, 3):
            mean = {k: frame.image[frame.mask == k].mean() for k in (RV, MYO, LV)}
            assert mean[LV] > 1.5 * mean[MYO]
            assert mean[RV] > 1.3 * mean[MYO]
            assert frame.image.min() >= 0


def noise_of(image: np.ndarray) -> float:
    """Deviation of the air in the upper corners relative to the picture's bright end."""
    corner = image[:8, :8].astype(float)
    return float(corner.std() / np.percentile(image, 98))


def test_mr_vendors_differ_in_noise_contrast_and_field_of_view():
    noise, contrast, field = {}, {}, {}
    for vendor in "ABC":
        frames = [mr(vendor, p)[0] for p in (1, 2, 3, 4)]
        noise[vendor] = np.median([noise_of(f.image) for f in frames])
        contrast[vendor] = np.mean(
            [f.image[f.mask == LV].mean() / f.image[f.mask == MYO].mean() for f in frames]
        )
        field[vendor] = np.mean([f.spacing_mm[0] * 96 for f in frames])
    assert noise["C"] > 1.5 * noise["A"]
    assert contrast["A"] > 1.25 * contrast["B"]
    assert field["B"] > field["A"] + 15 > field["C"] + 25


def fan_of(frame) -> np.ndarray:
    """Pixels of the fan, from the truth columns alone."""
    row, size = frame.row, len(frame.image)
    down = np.arange(size)[:, None] - row["fan_apex_row"]
    right = np.arange(size)[None] - row["fan_apex_column"]
    depth, angle = np.hypot(down, right), np.rad2deg(np.arctan2(right, down))
    slack = 1e-3
    return (
        (depth >= row["fan_near_px"] - slack)
        & (depth <= row["fan_far_px"] + slack)
        & (angle >= row["fan_left_deg"] - slack)
        & (angle <= row["fan_right_deg"] + slack)
    )


@pytest.mark.parametrize("vendor", KINDS["apical-ultrasound"].vendors)
def test_us_picture_is_exactly_the_stated_fan(vendor):
    for patient in (1, 2):
        for frame in us(vendor, patient):
            fan = fan_of(frame)
            assert (frame.image[~fan] == 0).all()
            assert (frame.mask[~fan] == 0).all()
            # Pixels that lie on the fan's very edge may fall to either side.
            assert (frame.image[fan] == 0).sum() <= 2
            assert 0.25 < fan.mean() < 0.75


@pytest.mark.parametrize("vendor", KINDS["apical-ultrasound"].vendors)
def test_us_truth_follows_from_the_drawn_areas(vendor):
    for patient in (1, 2, 3):
        frames = us(vendor, patient)
        for frame in frames:
            area = (frame.mask == 1).sum() * frame.row["pixel_mm"] ** 2
            assert area == pytest.approx(frame.row["lv_area_mm2"], rel=0.02)
        volume = {f.row["phase"]: f.row["lv_volume_ml"] for f in frames}
        ef = 100 * (1 - volume["ES"] / volume["ED"])
        assert all(f.row["ef"] == pytest.approx(ef, abs=0.05) for f in frames)
        assert 15 < ef < 80


def test_us_volume_agrees_with_discs_counted_in_the_masks():
    for vendor in "ABC":
        frames = {(f.row["view"], f.row["phase"]): f for f in us(vendor, 1)}
        for phase in ("ED", "ES"):
            pair = [frames[view, phase] for view in ("2CH", "4CH")]
            areas = [(f.mask == 1).sum() * f.row["pixel_mm"] ** 2 for f in pair]
            # Area-length estimate: a prolate gives 8 A B / (3 pi L), a truncated one a little more.
            rows = [np.argwhere(f.mask == 1)[:, 0] for f in pair]
            length = max(np.ptp(r) * f.row["pixel_mm"] for r, f in zip(rows, pair))
            estimate = 8 * areas[0] * areas[1] / (3 * np.pi * length) / 1000
            assert estimate == pytest.approx(pair[0].row["lv_volume_ml"], rel=0.15)


def test_us_myocardium_is_open_at_the_mitral_plane_only():
    for vendor in "ABC":
        for frame in us(vendor, 1) + us(vendor, 2):
            assert set(np.unique(frame.mask)) == {0, 1, 2, 3}
            cavity = frame.mask == 1
            around = binary_dilation(cavity, np.ones((3, 3))) & ~cavity
            rows = np.nonzero(around)[0]
            upper = np.zeros_like(around)
            upper[: int(rows.min() + 0.6 * np.ptp(rows))] = True
            inside = fan_of(frame)
            assert (frame.mask[around & upper & inside] == 2).all()
            assert (frame.mask[around & ~upper] == 3).any()


def speckle_width(image: np.ndarray, fan: np.ndarray) -> float:
    """Correlation of the fine texture with itself two columns away."""
    picture = image.astype(float)
    rest = picture - gaussian_filter(picture, 4)
    inner = fan & np.roll(fan, 2, axis=1)
    return float(np.corrcoef(rest[inner], np.roll(rest, 2, axis=1)[inner])[0, 1])


def test_us_vendors_differ_in_fan_speckle_and_contrast():
    grain, contrast, angle = {}, {}, {}
    for vendor in "ABC":
        frames = [f for p in (1, 2, 3) for f in us(vendor, p)]
        grain[vendor] = np.mean([speckle_width(f.image, fan_of(f)) for f in frames])
        means = [[f.image[f.mask == k].mean() for k in (1, 2)] for f in frames]
        contrast[vendor] = np.mean([muscle / cavity for cavity, muscle in means])
        angle[vendor] = np.mean([f.row["fan_right_deg"] for f in frames])
    assert grain["B"] > grain["C"] + 0.05
    assert contrast["C"] > 1.3 * contrast["B"]
    assert angle["B"] > angle["A"] > angle["C"]


def test_existing_out_is_refused_and_left_alone(tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep")
    with pytest.raises(AugmintError, match="exists"):
        make_phantoms("cine-mr", out=out, patients=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "notes.txt"]


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("ct", {}, "cine-mr"),
        ("cine-mr", {"vendor": "Z"}, "A, B, C"),
        ("cine-mr", {"patients": 0}, "patients"),
        ("cine-mr", {"slices": 1}, "slices"),
        ("cine-mr", {"seed": -1}, "seed"),
        ("apical-ultrasound", {"size": 8}, "size"),
        ("apical-ultrasound", {"size": 0}, "size"),
        ("apical-ultrasound", {"size": 101}, "even"),
    ],
)
def test_wrong_arguments_are_named_with_the_remedy(tmp_path, kind, wrong, words):
    with pytest.raises(AugmintError, match=words):
        make_phantoms(kind, out=tmp_path / "out", **wrong)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_cohort_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("augmint.data.phantoms._write_tables", stop)
    with pytest.raises(KeyboardInterrupt):
        make_phantoms("cine-mr", out=tmp_path / "out", patients=1, slices=3, size=32)
    assert not list(tmp_path.iterdir())
