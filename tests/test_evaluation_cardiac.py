import csv
import json
import shutil
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from augmint.case import Grid
from augmint.data.dataset import open_dataset
from augmint.data.images import read_mask, write_image, write_mask
from augmint.data.patients import read_rows
from augmint.data.phantoms import KINDS, make_phantoms
from augmint.data.phantoms_apical import US_LABELS
from augmint.data.phantoms_heart import MR_LABELS
from augmint.errors import AugmintError
from augmint.evaluation.cardiac import measure_patients, pair_patients, phases_by_volume
from augmint.evaluation.discs import biplane_volume, measure_view
from augmint.evaluation.volumes import (
    MM3_PER_ML,
    CardiacFunction,
    ejection_fraction,
    stack_volume,
)

BOX = (12, 20, 24)  # slices, rows, columns of the toy cohort's stacks


@lru_cache(maxsize=32)
def drawn(kind, vendor, patient):
    size = 128 if kind == "cine-mr" else 224
    return KINDS[kind].draw(3, patient, vendor, size, 8)


# --- Against known truth ---------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["A", "B", "C"])
def test_ef_of_cine_mr_phantoms_is_their_truth(vendor):
    for patient in range(1, 4):
        volumes = {}
        for frame in drawn("cine-mr", vendor, patient):
            cavity = frame.mask == MR_LABELS["LV"]
            volume = stack_volume(cavity, spacing=frame.spacing_mm) / MM3_PER_ML
            assert volume == pytest.approx(frame.row["lv_volume_ml"], rel=0.015)
            volumes[frame.row["phase"]] = volume
        assert ejection_fraction(volumes["ED"], volumes["ES"]) == pytest.approx(
            frame.row["ef"], abs=1
        )


@pytest.mark.parametrize("base", ["shape", "LA", "MYO"])
@pytest.mark.parametrize("vendor", ["A", "B", "C"])
def test_ef_of_ultrasound_phantoms_is_their_truth(vendor, base):
    name = {"LA": "atrium", "MYO": "myocardium"}.get(base)
    for patient in range(1, 5):
        views = {}
        for frame in drawn("apical-ultrasound", vendor, patient):
            known = {name: frame.mask == US_LABELS[base]} if name else {}
            cavity = frame.mask == US_LABELS["LV"]
            view = measure_view(cavity, spacing=frame.spacing_mm, **known)
            views[frame.row["view"], frame.row["phase"]] = view
            row = frame.row
        ed, es = (
            biplane_volume(views["2CH", p], views["4CH", p]) / MM3_PER_ML for p in ("ED", "ES")
        )
        assert es == pytest.approx(row["lv_volume_ml"], rel=0.04)  # the last frame is ES
        assert ejection_fraction(ed, es) == pytest.approx(row["ef"], abs=2)


@pytest.mark.parametrize("base", ["shape", "LA", "MYO"])
def test_ef_of_camus_patients_is_that_of_their_cfg(real_data, base):
    folder = real_data / "camus_native"
    if not folder.is_dir():
        pytest.skip("camus_native is not there")
    import SimpleITK as sitk  # noqa: N813

    name, number = {"LA": ("atrium", 3), "MYO": ("myocardium", 2), "shape": (None, 0)}[base]
    patients = sorted(p for p in folder.iterdir() if p.is_dir())
    assert patients
    for patient in patients:
        lines = (patient / "Info_4CH.cfg").read_text().splitlines()
        info = dict(line.split(": ", 1) for line in lines if ": " in line)
        volumes = {}
        for phase in ("ED", "ES"):
            views = []
            for view in ("2CH", "4CH"):
                file = patient / f"{patient.name}_{view}_{phase}_gt.mhd"
                image = sitk.ReadImage(str(file))
                mask = sitk.GetArrayFromImage(image)[0]
                known = {name: mask == number} if name else {}
                spacing = image.GetSpacing()[1::-1]
                views.append(measure_view(mask == 1, spacing=spacing, **known))
            volumes[phase] = biplane_volume(*views) / MM3_PER_ML
            stated = float(info["LVedv" if phase == "ED" else "LVesv"])
            assert volumes[phase] == pytest.approx(stated, rel=0.05)
        ef = ejection_fraction(volumes["ED"], volumes["ES"])
        assert ef == pytest.approx(float(info["LVef"]), abs=5)


# --- Patients of a dataset -------------------------------------------------------------------


@pytest.fixture(scope="module")
def mr_cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("mr") / "mr"
    return open_dataset(make_phantoms("cine-mr", out=out, patients=2, size=64, slices=8))


@pytest.fixture(scope="module")
def us_cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("us") / "us"
    return open_dataset(make_phantoms("apical-ultrasound", out=out, patients=2, size=160))


def truth(dataset, patient, column="ef", phase="ED"):
    rows = read_rows(dataset.root / "cases.csv")
    found = {float(r[column]) for r in rows if r["patient"] == patient and r["phase"] == phase}
    (value,) = found
    return value


def relabelled(dataset, folder, change, *, spacing_known=None):
    """A copy of a dataset in which `change` edits cases.csv's rows."""
    shutil.copytree(dataset.root, folder)
    rows = change(read_rows(folder / "cases.csv"))
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if spacing_known is not None:
        facts = json.loads((folder / "dataset.json").read_text())
        text = json.dumps({**facts, "spacing_known": spacing_known})
        (folder / "dataset.json").write_text(text)
    return open_dataset(folder)


def test_patients_of_an_mr_cohort_have_their_volumes_and_ef(mr_cohort):
    measured = measure_patients(mr_cohort)
    assert [m.patient for m in measured] == list(mr_cohort.patients)
    for m in measured:
        assert (m.unit, m.method, m.note) == ("ml", "summation of slices", "")
        for phase, volume in (("ED", m.edv), ("ES", m.esv)):
            stated = truth(mr_cohort, m.patient, "lv_volume_ml", phase)
            assert volume == pytest.approx(stated, rel=0.03)
        assert m.ef == pytest.approx(truth(mr_cohort, m.patient), abs=2)


@pytest.mark.parametrize("atrium", [None, "LA"])
def test_patients_of_an_ultrasound_cohort_have_their_volumes_and_ef(us_cohort, atrium):
    for m in measure_patients(us_cohort, pixel_column="pixel_mm", atrium=atrium):
        assert (m.unit, m.method, m.note) == ("ml", "biplane discs", "")
        for phase, volume in (("ED", m.edv), ("ES", m.esv)):
            stated = truth(us_cohort, m.patient, "lv_volume_ml", phase)
            assert volume == pytest.approx(stated, rel=0.04)
        assert m.ef == pytest.approx(truth(us_cohort, m.patient), abs=2)


def test_unknown_spacing_gives_no_volumes_but_the_same_ef(mr_cohort, us_cohort, tmp_path):
    blind = relabelled(mr_cohort, tmp_path / "mr", list, spacing_known=False)
    for dataset in (blind, us_cohort):
        with pytest.raises(AugmintError, match=r"no volumes in ml.*ef_only"):
            measure_patients(dataset)
    sharp = measure_patients(mr_cohort)
    for seen, m in zip(sharp, measure_patients(blind, ef_only=True)):
        assert (m.unit, m.ef) == ("px^3", pytest.approx(seen.ef))
    for m in measure_patients(us_cohort, ef_only=True):
        assert m.unit == "px^3"
        assert m.ef == pytest.approx(truth(us_cohort, m.patient), abs=2)


def test_without_spacing_no_scale_of_a_view_moves_ef(us_cohort, tmp_path):
    def pixels_of_two_sizes(rows):
        return [{**r, "pixel_mm": "0.5" if r["view"] == "2CH" else "1.1"} for r in rows]

    scaled = relabelled(us_cohort, tmp_path / "us", pixels_of_two_sizes)
    blind = measure_patients(scaled, ef_only=True)
    assert [m.ef for m in blind] == [m.ef for m in measure_patients(us_cohort, ef_only=True)]
    # Both axes shorten alike in these phantoms, so the true scale yields the same EF.
    for m, n in zip(blind, measure_patients(scaled, pixel_column="pixel_mm")):
        assert m.ef == pytest.approx(n.ef, abs=1)


def test_pixels_that_are_not_square_distort_ef_little(us_cohort):
    masks = {}

    def squeezed(factor):
        efs = []
        for patient in us_cohort.patients:
            volume = dict.fromkeys(("ED", "ES"), 1.0)
            for phase in volume:
                views = []
                for view in ("2CH", "4CH"):
                    case = f"{patient}_{view}_{phase}"
                    if case not in masks:
                        path = us_cohort.root / "labelsTr" / f"{case}.png"
                        masks[case] = read_mask(path)[0] == US_LABELS["LV"]
                    views.append(measure_view(masks[case], spacing=(1.0, factor)))
                volume[phase] = biplane_volume(*views)
            efs.append(ejection_fraction(volume["ED"], volume["ES"]))
        return np.array(efs)

    square = squeezed(1.0)
    for factor in (0.75, 1.33):
        np.testing.assert_allclose(squeezed(factor), square, atol=2)


def test_a_perfect_prediction_is_measured_as_its_reference(mr_cohort):
    perfect = measure_patients(mr_cohort, mask_of=lambda case: case.mask.numpy())
    assert perfect == measure_patients(mr_cohort)


def test_a_missed_prediction_has_no_figures_and_says_why(mr_cohort):
    first = mr_cohort.patients[0]

    def predict(case):
        classes = np.array(case.mask)
        return np.zeros_like(classes) if case.case_id == f"{first}_ES" else classes

    references = measure_patients(mr_cohort)
    failed, good = measure_patients(mr_cohort, mask_of=predict)
    assert (failed.patient, failed.esv, failed.ef) == (first, None, None)
    assert failed.edv == references[0].edv
    assert failed.note.startswith(f"case '{first}_ES': the LV cavity mask is empty")
    assert good == references[1]
    reference, prediction, failures = pair_patients(references, (good, failed))
    assert (list(reference), list(prediction)) == ([good.ef], [good.ef])
    assert failures == (first,)


def test_what_lies_apart_from_a_predicted_cavity_is_left_out_and_told(us_cohort):
    def predict(case):
        classes = np.array(case.mask)
        if case.case_id.endswith("2CH_ED"):
            classes[:3, :4] = US_LABELS["LV"]
        return classes

    clean = measure_patients(us_cohort, ef_only=True)
    for m, n in zip(measure_patients(us_cohort, ef_only=True, mask_of=predict), clean):
        assert "2CH_ED" in m.note
        assert "lies apart" in m.note
        assert (m.edv, m.esv, m.ef) == (n.edv, n.esv, n.ef)


def test_an_empty_reference_is_an_error(tmp_path, mr_cohort):
    dataset = relabelled(mr_cohort, tmp_path / "mr", list)
    path = sorted((dataset.root / "labelsTr").glob("*_ES.nii.gz"))[0]
    mask, affine, _ = read_mask(path)
    write_mask(path, mask * (mask != MR_LABELS["LV"]), Grid(mask.shape, affine, True))
    with pytest.raises(AugmintError, match=r"_ES': the LV cavity mask is empty"):
        measure_patients(dataset)


def test_a_lone_view_is_measured_only_when_asked_for(us_cohort):
    four = us_cohort.select(cases=[i.case_id for i in us_cohort.items if "4CH" in i.case_id])
    with pytest.raises(AugmintError, match=r"need 2CH and 4CH, 2CH is missing"):
        measure_patients(four, ef_only=True)
    for m in measure_patients(four, ef_only=True, single_plane=True):
        assert m.method == "single-plane discs 4CH"
        assert m.ef == pytest.approx(truth(us_cohort, m.patient), abs=4)


def test_cases_that_do_not_make_a_patient_are_refused(mr_cohort, us_cohort, tmp_path):
    def without(dataset, part):
        return dataset.select(cases=[i.case_id for i in dataset.items if part not in i.case_id])

    def no_view(rows):
        return [{**r, "view": "PLAX"} for r in rows]

    def one_patient(rows):
        return [{**r, "patient": "p"} for r in rows]

    def no_phase(rows):
        return [{**r, "phase": ""} for r in rows]

    copies = relabelled(mr_cohort, tmp_path / "copies", one_patient)
    unphased = relabelled(mr_cohort, tmp_path / "unphased", no_phase)
    long_axis = relabelled(us_cohort, tmp_path / "plax", no_view)
    long_axis = long_axis.select(cases=[i.case_id for i in long_axis.items if "4CH" in i.case_id])
    first = replace(mr_cohort.items[0], synthetic=True)
    minted = replace(mr_cohort, items=(first, *mr_cohort.items[1:]))
    refused = [
        (without(mr_cohort, "ES"), r"missing are volume ES"),
        (without(us_cohort, "2CH_ED"), r"missing are 2CH ED"),
        (copies, r"patient 'p' has two cases at ED"),
        (unphased, r"names no phase; add a column `phase`"),
        (long_axis, r"neither by discs"),
        (minted, r"is synthetic"),
    ]
    for dataset, words in refused:
        with pytest.raises(AugmintError, match=words):
            measure_patients(dataset, ef_only=True)
    with pytest.raises(AugmintError, match=r"no annotated label named 'ventricle'.*LV"):
        measure_patients(mr_cohort, lv="ventricle")
    with pytest.raises(AugmintError, match="no annotated label named 'background'"):
        measure_patients(mr_cohort, lv="background")
    with pytest.raises(AugmintError, match=r"'width' must hold the pixel size"):
        measure_patients(us_cohort, pixel_column="width")
    with pytest.raises(AugmintError, match="does not lie on the native grid"):
        measure_patients(mr_cohort, mask_of=lambda case: np.array(case.mask)[1:])


def test_cases_of_other_phases_take_no_part(mr_cohort, tmp_path):
    def more(rows):
        return rows + [{**rows[0], "case": "extra", "phase": "mid"}]

    folder = tmp_path / "mr"
    shutil.copytree(mr_cohort.root, folder)
    source = mr_cohort.items[0]
    for path, part in ((source.images[0], "extra_0000"), (source.masks[0], "extra")):
        shutil.copy(path, folder / path.parent.name / f"{part}.nii.gz")
    facts = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**facts, "numTraining": len(mr_cohort) + 1}))
    extended = relabelled(replace(mr_cohort, root=folder), tmp_path / "more", more)
    assert len(extended) == len(mr_cohort) + 1
    assert measure_patients(extended) == measure_patients(mr_cohort)


def test_unnamed_phases_follow_from_the_reference_volumes(mr_cohort, tmp_path):
    def no_phase(rows):
        return [{**r, "phase": ""} for r in rows]

    unnamed = relabelled(mr_cohort, tmp_path / "mr", no_phase)
    phases = phases_by_volume(unnamed)
    assert phases == {i.case_id: i.case_id[-2:] for i in mr_cohort.items}
    assert measure_patients(unnamed, phases=phases) == measure_patients(mr_cohort)
    lone = unnamed.select(cases=[unnamed.items[0].case_id])
    with pytest.raises(AugmintError, match="two cases of different LV volume"):
        phases_by_volume(lone)


def test_a_one_slice_file_of_an_apical_view_is_a_frame(us_cohort, tmp_path):
    """CAMUS stores its frames as volumes of one slice, with anisotropic pixels."""
    folder = tmp_path / "native"
    rows = []
    for item in us_cohort.items:
        mask, _, _ = read_mask(item.masks[0])
        size = float(item.columns["pixel_mm"])
        # Half the rows' spacing: every row is stored twice.
        mask = np.repeat(mask, 2, axis=0)[:, :, None]
        grid = Grid(mask.shape, np.diag([size / 2, size, 1.5, 1.0]), True)
        name = f"{item.case_id}.mhd"
        write_mask(folder / "labelsTr" / name, mask, grid)
        write_image(
            folder / "imagesTr" / f"{item.case_id}_0000.mhd", mask[None].astype(np.uint8), grid
        )
        rows.append({"case": item.case_id, **item.columns})
    facts = json.loads((us_cohort.root / "dataset.json").read_text())
    facts |= {"file_ending": ".mhd", "spacing_known": True}
    (folder / "dataset.json").write_text(json.dumps(facts))
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    native = measure_patients(open_dataset(folder))
    for m, n in zip(native, measure_patients(us_cohort, pixel_column="pixel_mm")):
        assert m.unit == "ml"
        assert m.edv == pytest.approx(n.edv, rel=0.02)
        assert m.ef == pytest.approx(n.ef, abs=1)


def made(patient, ef, unit="ml"):
    return CardiacFunction(patient, 100.0, 100.0 - ef, ef, unit, "slices")


def test_pairs_are_of_the_same_patients_in_one_order():
    references = [made("a", 60.0), made("b", 40.0)]
    predictions = [made("b", 41.0), made("a", 58.0)]
    reference, prediction, failed = pair_patients(references, predictions)
    assert (list(reference), list(prediction), failed) == ([60, 40], [58, 41], ())
    assert list(pair_patients(references, predictions, "esv")[1]) == [42, 59]
    with pytest.raises(AugmintError, match="not of the same patients: b"):
        pair_patients(references, predictions[1:])
    blind = [made("a", 60.0, "px^3"), made("b", 40.0, "px^3")]
    assert list(pair_patients(blind, blind)[0]) == [60, 40]
    with pytest.raises(AugmintError, match=r"px\^3"):
        pair_patients(blind, blind, "edv")
