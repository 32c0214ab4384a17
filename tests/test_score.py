import json
import os
import shutil
from importlib import import_module
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from augmint.data.dataset import open_dataset
from augmint.errors import AugmintError
from augmint.evaluation.metrics import POLICY
from augmint.evaluation.score import read_scores
from augmint.progress import Talk
from augmint.score import score

QUIET = Talk(quiet=True)
CASES = ("p1_a", "p1_b", "p2_a")
LABELS = {"background": 0, "RV": 1, "LV": 2}
AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])


def mask_of(number: int, shift: int = 0) -> np.ndarray:
    """Two blocks in a small volume, another place for each case."""
    mask = np.zeros((10, 9, 4), np.uint8)
    mask[1 + number : 4 + number, 1 + shift : 4 + shift, :2] = 1
    mask[5 : 8 + number % 2, 4 + shift : 7 + shift, 1:3] = 2
    return mask


def save(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(mask, affine), path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An nnU-Net dataset of three cases of two patients."""
    root = tmp_path / "Dataset001_Toy"
    for number, case in enumerate(CASES):
        save(root / "imagesTr" / f"{case}_0000.nii.gz", mask_of(number).astype(np.float32) * 50)
        save(root / "labelsTr" / f"{case}.nii.gz", mask_of(number))
    facts = {
        "name": "Toy", "channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 3,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """A prediction of every case, one voxel off."""
    folder = tmp_path / "predictions"
    for number, case in enumerate(CASES):
        save(folder / f"{case}.nii.gz", mask_of(number, 1))
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The references alone, in a folder of their own."""
    for number, case in enumerate(CASES):
        save(tmp_path / "alone" / "refs" / f"{case}.nii.gz", mask_of(number))
    return tmp_path / "alone" / "refs"


def rows_in(out: Path) -> dict:
    return {(row.case, row.label): row for row in read_scores(out / "scores.csv")}


def figures_in(out: Path) -> dict:
    return {key: (row.dice, row.hd, row.assd, row.unit) for key, row in rows_in(out).items()}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_dataset_is_scored_case_by_case(data, predictions, tmp_path):
    summary = score(
        predictions, data, tmp_path / "out", patient_regex=r"^(p\d)", tolerance=1, talk=QUIET
    )
    rows = rows_in(tmp_path / "out")
    assert set(rows) == {(case, label) for case in CASES for label in ("RV", "LV")}
    for number, case in enumerate(CASES):
        for label, value in (("RV", 1), ("LV", 2)):
            row = rows[case, label]
            expected = dice(mask_of(number) == value, mask_of(number, 1) == value)
            assert row.dice == pytest.approx(expected, rel=1e-5)
            assert (row.hd, row.unit, row.patient) == (1.5, "mm", case[:2])
    by_patient = [np.mean([rows[c, "RV"].dice for c in g]) for g in (CASES[:2], CASES[2:])]
    assert summary.labels[0].means["dice"] == pytest.approx(np.mean(by_patient), rel=1e-5)


def test_the_files_are_those_of_evaluate(data, predictions, tmp_path):
    summary = score(predictions, data, tmp_path / "out", talk=QUIET)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "scores.csv", "patients.csv", "summary.json",
    }  # fmt: skip
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["policy"] == summary.policy == POLICY
    assert [one["failures"] for one in stored["labels"]] == [0, 0]
    assert stored["request"]["command"] == "score"
    assert stored["request"]["tolerance"] == 2.0
    assert stored["dataset"] == "Toy"
    assert "augmint" in stored["versions"]


def test_misses_and_false_positives_are_counted(data, predictions, tmp_path):
    missed, invented = mask_of(0, 1), mask_of(1, 1)
    missed[missed == 2] = 0
    save(predictions / "p1_a.nii.gz", missed)
    save(data / "labelsTr" / "p1_b.nii.gz", np.where(mask_of(1) == 2, 0, mask_of(1)))
    save(predictions / "p1_b.nii.gz", invented)
    summary = score(predictions, data, tmp_path / "out", talk=QUIET)
    lv = next(one for one in summary.labels if one.label == "LV")
    assert (lv.missed, lv.false_positives, lv.failures) == (1, 1, 2)
    assert rows_in(tmp_path / "out")["p1_a", "LV"].status == "missed"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["labels"][1]["failures"] == 2


def test_a_bare_folder_names_labels_by_their_numbers(data, bare, predictions, tmp_path, capsys):
    score(predictions, data, tmp_path / "by_name", talk=QUIET)
    score(predictions, bare, tmp_path / "by_number")
    assert "named by their numbers, 1, 2" in capsys.readouterr().err
    by_name, by_number = figures_in(tmp_path / "by_name"), figures_in(tmp_path / "by_number")
    numbers = {"RV": "1", "LV": "2"}
    assert {(case, numbers[label]): f for (case, label), f in by_name.items()} == by_number


@pytest.mark.parametrize("place", ["inside", "above", "predictions"])
def test_a_bare_folder_has_its_labels_from_a_dataset_json(
    data, bare, predictions, tmp_path, capsys, place
):
    folder = {"inside": bare, "above": bare.parent, "predictions": predictions}[place]
    shutil.copy(data / "dataset.json", folder)
    score(predictions, data, tmp_path / "one", talk=QUIET)
    score(predictions, bare, tmp_path / "two")
    assert f"from {folder / 'dataset.json'}" in capsys.readouterr().err
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "two")


def test_labels_can_be_given(bare, predictions, tmp_path):
    score(predictions, bare, tmp_path / "one", labels=LABELS, talk=QUIET)
    path = tmp_path / "names.json"
    path.write_text(json.dumps(LABELS))
    score(predictions, bare, tmp_path / "two", labels=path, talk=QUIET)
    assert {label for _, label in figures_in(tmp_path / "one")} == {"RV", "LV"}
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "two")


def test_a_bare_folder_disowns_its_spacing_as_its_dataset(data, bare, predictions, tmp_path):
    facts = {**json.loads((data / "dataset.json").read_text()), "spacing_known": False}
    (bare / "dataset.json").write_text(json.dumps(facts))
    score(predictions, bare, tmp_path / "out", talk=QUIET)
    assert {row.unit for row in rows_in(tmp_path / "out").values()} == {"px"}
    assert rows_in(tmp_path / "out")["p1_a", "RV"].hd == 1


def test_the_test_split_of_a_dataset_is_scored(data, predictions, tmp_path):
    for kind in ("images", "labels"):
        (data / f"{kind}Tr").rename(data / f"{kind}Ts")
    score(predictions, data / "labelsTs", tmp_path / "one", talk=QUIET)
    score(predictions, data, tmp_path / "two", split="test", talk=QUIET)
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "two")
    assert {label for _, label in figures_in(tmp_path / "one")} == {"RV", "LV"}
    with pytest.raises(AugmintError, match="no splits"):
        score(predictions, data / "labelsTs", tmp_path / "three", split="test", talk=QUIET)


def test_patients_come_from_cases_csv_beside_the_references(bare, predictions, tmp_path):
    (bare / "cases.csv").write_text("case,patient\np1_a,anna\np1_b,anna\np2_a,ben\n")
    score(predictions, bare, tmp_path / "out", talk=QUIET)
    assert {row.patient for row in rows_in(tmp_path / "out").values()} == {"anna", "ben"}


def test_labels_are_matched_by_name(data, predictions, tmp_path, capsys):
    score(predictions, data, tmp_path / "one", talk=QUIET)
    for number, case in enumerate(CASES):
        table = np.array([0, 7, 3], np.uint8)
        other = table[mask_of(number, 1)]
        other[9, 8, 3] = 5
        save(predictions / f"{case}.nii.gz", other)
    names = {"background": 0, "LV": 3, "atrium": 5, "RV": 7}
    (predictions / "dataset.json").write_text(json.dumps({"labels": names}))
    score(predictions, data, tmp_path / "two")
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "two")
    assert "label 'atrium' is left out: Toy does not have it" in capsys.readouterr().err


def test_labels_that_were_not_predicted_or_not_annotated_are_left_out(
    data, predictions, tmp_path, capsys
):
    (predictions / "labels.json").write_text(json.dumps({"background": 0, "RV": 1, "other": 2}))
    score(predictions, data, tmp_path / "one")
    assert {label for _, label in rows_in(tmp_path / "one")} == {"RV"}
    said = capsys.readouterr().err
    assert "'LV' is left out" in said
    assert "does not name it" in said
    (predictions / "labels.json").unlink()
    facts = {**json.loads((data / "dataset.json").read_text()), "annotated_labels": ["LV"]}
    (data / "dataset.json").write_text(json.dumps(facts))
    score(predictions, data, tmp_path / "two")
    assert {label for _, label in rows_in(tmp_path / "two")} == {"LV"}
    assert "'RV' is left out: nobody annotated it in Toy" in capsys.readouterr().err


def test_no_shared_label_is_an_error(data, predictions, tmp_path):
    (predictions / "labels.json").write_text(json.dumps({"background": 0, "a": 1, "b": 2}))
    with pytest.raises(AugmintError, match=r"RV, LV.*a, b.*--label-map"):
        score(predictions, data, tmp_path / "out", talk=QUIET)


def test_a_label_map_merges_in_references_and_predictions(data, bare, predictions, tmp_path):
    whole = {"RV": "heart", "LV": "heart"}
    score(predictions, data, tmp_path / "one", label_map=whole, talk=QUIET)
    (predictions / "labels.json").write_text(json.dumps(LABELS))
    score(predictions, data, tmp_path / "two", label_map=whole, talk=QUIET)
    score(predictions, bare, tmp_path / "three", label_map=whole, talk=QUIET)
    opened = open_dataset(data, label_map=whole)
    for case in CASES:
        number = CASES.index(case)
        expected = dice(mask_of(number) > 0, mask_of(number, 1) > 0)
        assert rows_in(tmp_path / "one")[case, "heart"].dice == pytest.approx(expected, rel=1e-5)
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "two")
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "three")
    with pytest.raises(AugmintError, match="open_dataset"):
        score(predictions, opened, tmp_path / "four", label_map=whole, talk=QUIET)
    (predictions / "labels.json").unlink()
    score(predictions, opened, tmp_path / "four", talk=QUIET)
    assert figures_in(tmp_path / "one") == figures_in(tmp_path / "four")


def test_missing_predictions_are_all_named_and_nothing_is_written(data, predictions, tmp_path):
    (predictions / "p1_b.nii.gz").unlink()
    (predictions / "p2_a.nii.gz").rename(predictions / "p2_a_0000.nii.gz")
    with pytest.raises(AugmintError, match=r"2 of 3 cases: p1_b, p2_a \(.*p2_a_0000") as caught:
        score(predictions, data, tmp_path / "out", talk=QUIET)
    assert "--patients" in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_many_missing_predictions_are_shortened(tmp_path):
    for number in range(30):
        save(tmp_path / "refs" / f"case{number:02d}.nii.gz", mask_of(0))
    save(tmp_path / "found" / "case00.nii.gz", mask_of(0))
    with pytest.raises(AugmintError, match=r"29 of 30 cases: case01.* and 19 more"):
        score(tmp_path / "found", tmp_path / "refs", tmp_path / "out", talk=QUIET)


def test_foreign_predictions_are_told_by_their_names_first(data, tmp_path):
    for number in range(5):
        save(tmp_path / "found" / f"other_{number}.nii.gz", mask_of(0))
    with pytest.raises(AugmintError) as caught:
        score(tmp_path / "found", data, tmp_path / "out", talk=QUIET)
    said = str(caught.value)
    assert said.startswith(f"no prediction is named after a case of {data}; ")
    assert "holds other_0, other_1, other_2 and 2 more, cases are named p1_a, p1_b, p2_a;" in said
    assert "are these predictions of another dataset?" in said
    assert not list(tmp_path.glob("out*"))


def test_only_the_patients_asked_for_need_a_prediction(data, predictions, tmp_path):
    (predictions / "p1_b.nii.gz").unlink()
    chosen = {"patient_regex": r"^(p\d)", "talk": QUIET}
    score(predictions, data, tmp_path / "out", patients=["p2"], **chosen)
    assert {case for case, _ in rows_in(tmp_path / "out")} == {"p2_a"}
    with pytest.raises(AugmintError, match="no patient named p9"):
        score(predictions, data, tmp_path / "two", patients=["p2", "p9"], **chosen)
    with pytest.raises(AugmintError, match="names nobody"):
        score(predictions, data, tmp_path / "two", patients=[], **chosen)


def test_extra_predictions_are_named_in_a_remark(data, predictions, tmp_path, capsys):
    save(predictions / "stranger.nii.gz", mask_of(0))
    (predictions / "plans.json").write_text("{}")
    (predictions / "p1_a.npz").write_bytes(b"")
    score(predictions, data, tmp_path / "out")
    said = capsys.readouterr().err
    assert "1 prediction(s) have no reference and are not scored: stranger" in said


@pytest.mark.parametrize(
    ("mask", "affine"),
    [
        (np.zeros((10, 9, 5), np.uint8), AFFINE),
        (np.zeros((9, 10, 4), np.uint8), AFFINE),
        (mask_of(1), np.diag([1.5, 1.5, 4.0, 1.0])),
        (mask_of(1), AFFINE + np.array([[0, 0, 0, 9.0], *[[0.0] * 4] * 3])),
    ],
    ids=["slices", "axes", "spacing", "position"],
)
def test_a_prediction_on_another_grid_is_refused(data, predictions, tmp_path, mask, affine):
    save(predictions / "p1_b.nii.gz", mask, affine)
    with pytest.raises(AugmintError, match=r"'p1_b'.*p1_b\.nii\.gz lies on another grid.*resample"):
        score(predictions, data, tmp_path / "out", talk=QUIET)


def test_values_that_are_no_label_are_refused(data, bare, predictions, tmp_path):
    wrong = mask_of(1)
    wrong[0, 0, 0] = 9
    save(predictions / "p1_b.nii.gz", wrong)
    for number, references in enumerate((data, bare)):
        with pytest.raises(AugmintError, match=r"p1_b\.nii\.gz: label value\(s\) 9"):
            score(predictions, references, tmp_path / f"out{number}", talk=QUIET)


def test_probabilities_and_damaged_files_are_refused(data, predictions, tmp_path):
    save(predictions / "p1_b.nii.gz", mask_of(1) * np.float32(0.3))
    with pytest.raises(AugmintError, match=r"p1_b.*whole numbers"):
        score(predictions, data, tmp_path / "one", talk=QUIET)
    whole = (predictions / "p1_a.nii.gz").read_bytes()
    (predictions / "p1_b.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AugmintError, match=r"p1_b.*unreadable"):
        score(predictions, data, tmp_path / "two", talk=QUIET)


def test_wrong_places_are_refused(data, bare, predictions, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(AugmintError, match="no such folder"):
        score(tmp_path / "nowhere", data, out, talk=QUIET)
    with pytest.raises(AugmintError, match="no mask in this folder"):
        score(data, data, out, talk=QUIET)
    with pytest.raises(AugmintError, match="nowhere"):
        score(predictions, tmp_path / "nowhere", out, talk=QUIET)
    with pytest.raises(AugmintError, match="one file"):
        score(bare, bare, out, talk=QUIET)
    with pytest.raises(AugmintError, match="one file"):
        score(data / "labelsTr", data, out, talk=QUIET)
    with pytest.raises(AugmintError, match="--labels"):
        score(predictions, data, out, labels=LABELS, talk=QUIET)
    with pytest.raises(AugmintError, match="--tolerance"):
        score(predictions, data, out, tolerance=-1, talk=QUIET)
    shutil.copy(predictions / "p1_a.nii.gz", predictions / "p1_a.nii")
    with pytest.raises(AugmintError, match="both named after one case"):
        score(predictions, data, out, talk=QUIET)
    assert not list(tmp_path.glob("out*"))


def test_references_without_any_label_are_refused(tmp_path):
    for folder in ("refs", "found"):
        save(tmp_path / folder / "a.nii.gz", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(AugmintError, match="holds any label"):
        score(tmp_path / "found", tmp_path / "refs", tmp_path / "out", talk=QUIET)


def test_plain_frames_are_scored_in_pixels(tmp_path):
    for folder, shift in (("refs", 0), ("found", 1)):
        (tmp_path / folder).mkdir()
        frame = np.zeros((12, 10), np.uint8)
        frame[2:6, 2 + shift : 6 + shift] = 1
        Image.fromarray(frame).save(tmp_path / folder / "frame_seg.png")
    score(tmp_path / "found", tmp_path / "refs", tmp_path / "out", talk=QUIET)
    row = rows_in(tmp_path / "out")["frame_seg", "1"]
    assert (row.dice, row.hd, row.unit) == (0.75, 1, "px")


def test_cases_without_a_mask_are_left_out_and_counted(data, predictions, tmp_path, capsys):
    (data / "labelsTr" / "p1_b.nii.gz").unlink()
    (predictions / "p1_b.nii.gz").unlink()
    score(predictions, data, tmp_path / "out")
    assert "1 case(s) without a mask" in capsys.readouterr().err
    assert {case for case, _ in rows_in(tmp_path / "out")} == {"p1_a", "p2_a"}


def test_a_stopped_scoring_goes_on_and_reads_what_has_changed(
    data, predictions, tmp_path, monkeypatch
):
    module = import_module("augmint.score")
    measure, calls, stop = module.score_case, [], 3

    def counted(*arguments, **keywords):
        calls.append(arguments[4])
        if len(calls) == stop:
            raise KeyboardInterrupt
        return measure(*arguments, **keywords)

    monkeypatch.setattr(module, "score_case", counted)
    for path in [*predictions.iterdir(), *(data / "labelsTr").iterdir()]:
        os.utime(path, (1, 1))
    with pytest.raises(KeyboardInterrupt):
        score(predictions, data, tmp_path / "out", talk=QUIET)
    with pytest.raises(AugmintError, match="--continue"):
        score(predictions, data, tmp_path / "out", talk=QUIET)
    with pytest.raises(AugmintError, match="tolerance"):
        score(predictions, data, tmp_path / "out", tolerance=1, resume=True, talk=QUIET)
    save(predictions / "p1_a.nii.gz", mask_of(0))
    later = (tmp_path / "out.partial" / ".work" / "p1_a.json").stat().st_mtime + 5
    os.utime(predictions / "p1_a.nii.gz", (later, later))
    calls, stop = [], None
    score(predictions, data, tmp_path / "out", resume=True, talk=QUIET)
    assert calls == ["p1_a", "p2_a"]
    assert rows_in(tmp_path / "out")["p1_a", "RV"].dice == 1
    score(predictions, data, tmp_path / "again", talk=QUIET)
    for name in ("scores.csv", "patients.csv"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("out", "again"))
        assert one == two
    assert not list(tmp_path.glob("*.partial"))


def test_an_existing_folder_is_never_overwritten(data, predictions, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(AugmintError, match="never overwritten"):
        score(predictions, data, tmp_path / "out", talk=QUIET)


def test_real_references_score_perfectly_against_a_copy(real_data, tmp_path):
    labels = real_data / "Dataset027_ACDC" / "labelsTr"
    if not labels.is_dir():
        pytest.skip("no ACDC among the real data")
    for path in sorted(labels.glob("*.nii.gz"))[:2]:
        (tmp_path / "found").mkdir(exist_ok=True)
        (tmp_path / "refs").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "found" / path.name)
        shutil.copy(path, tmp_path / "refs" / path.name)
    shutil.copy(labels.parent / "dataset.json", tmp_path / "found")
    summary = score(tmp_path / "found", tmp_path / "refs", tmp_path / "out", talk=QUIET)
    assert {one.label for one in summary.labels} == {"RV", "MYO", "LV"}
    assert {one.unit for one in summary.labels} == {"px"}
    assert [one.means["dice"] for one in summary.labels] == [1, 1, 1]
    assert [one.means["hd"] for one in summary.labels] == [0, 0, 0]


def hearts(folder: Path, name: str, tall: int, short: int, patients: int = 3) -> Path:
    """A folder of masks: two phases of each patient, LV columns of given heights."""
    for number in range(patients):
        for phase, height in (("ED", tall + number), ("ES", short)):
            mask = np.zeros((6, 6, 12), np.uint8)
            mask[1:3, 1:3, :height] = 2
            save(folder / name / f"p{number}_{phase}.nii.gz", mask)
    return folder / name


def scored_hearts(tmp_path: Path, **more) -> Path:
    out = tmp_path / more.pop("out", "out")
    score(
        tmp_path / "found", tmp_path / "true", out, labels=LABELS, patient_regex=r"^(p\d)",
        talk=QUIET, **more,
    )  # fmt: skip
    return out


def test_patients_with_both_phases_have_their_ef_compared(tmp_path):
    hearts(tmp_path, "true", 8, 4)
    hearts(tmp_path, "found", 8, 2)
    out = scored_hearts(tmp_path)
    assert (out / "bland_altman.png").exists()
    lines = [line.split(",") for line in (out / "cardiac.csv").read_text().splitlines()]
    first = dict(zip(lines[0], lines[1]))
    assert (first["patient"], first["method"], first["unit"]) == ("p0", "summation of slices", "ml")
    # A column of one slice: 2 x 2 voxels of 1.5 x 1.5 x 8 mm.
    assert float(first["edv_reference"]) == pytest.approx(8 * 0.072)
    assert (float(first["ef_reference"]), float(first["ef_prediction"])) == (50, 75)
    stored = json.loads((out / "cardiac.json").read_text())
    truth = [100 * (1 - 4 / n) for n in (8, 9, 10)]
    found = [100 * (1 - 2 / n) for n in (8, 9, 10)]
    assert stored["ef"]["bias"] == pytest.approx(np.mean(found) - np.mean(truth), rel=1e-5)
    assert stored["edv"]["mae"] == 0


def test_ef_can_be_left_alone(tmp_path):
    hearts(tmp_path, "true", 8, 4)
    hearts(tmp_path, "found", 8, 2)
    out = scored_hearts(tmp_path, cardiac=False)
    assert not list(out.glob("cardiac*"))
    assert not (out / "bland_altman.png").exists()


def test_work_begun_without_ef_is_measured_when_it_goes_on(tmp_path, monkeypatch):
    hearts(tmp_path, "true", 8, 4)
    hearts(tmp_path, "found", 8, 2)
    module = import_module("augmint.score")
    write = module.write_evaluation

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_evaluation", killed)
    with pytest.raises(KeyboardInterrupt):
        scored_hearts(tmp_path, cardiac=False)
    monkeypatch.setattr(module, "write_evaluation", write)
    out = scored_hearts(tmp_path, resume=True)
    assert len((out / "cardiac.csv").read_text().splitlines()) == 4


def test_without_phases_one_line_says_why_there_is_no_ef(data, predictions, tmp_path, capsys):
    score(predictions, data, tmp_path / "out")
    said = [line for line in capsys.readouterr().err.splitlines() if "EF" in line]
    assert len(said) == 1
    assert "column `phase`" in said[0]
