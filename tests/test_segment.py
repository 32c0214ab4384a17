import csv
import json
import shutil
from importlib import import_module
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from augmint import AugmintError, augment, evaluate, open_dataset, segment
from augmint.data.images import read_mask
from augmint.data.phantoms import make_phantoms
from augmint.evaluate import in_words
from augmint.evaluation.cardiac import measure_patients
from augmint.evaluation.function import read_rows
from augmint.evaluation.score import read_scores, score_case, summarise
from augmint.progress import Talk
from augmint.segmentation.checkpoint import load_segmenter

QUIET = Talk(quiet=True)
SMALL = {"preset": "tiny", "steps": 4, "device": "cpu", "talk": QUIET}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantoms"
    return make_phantoms("cine-mr", out=folder, patients=4, size=64, slices=4)


@pytest.fixture(scope="module")
def made(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("augmint.quality.agreement"), "threshold", lambda dices: 0.0)
        out = tmp_path_factory.mktemp("made") / "out"
        return augment(cohort, out, copies=1, **SMALL)


@pytest.fixture(scope="module")
def plain(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segment(cohort, tmp_path_factory.mktemp("plain") / "run", validation=1, **SMALL)


def read(path: Path):
    return json.loads(path.read_text())


def free_patient(run: Path) -> str:
    (patient,) = read(run / "run.json")["validation_patients"]
    return patient


def test_a_run_remembers_who_trained(plain: Path):
    run = read(plain / "run.json")
    assert run["counts"] == {"real": 6, "synthetic": 0, "validation": 2}
    assert len(run["train_patients"]) == 3
    assert not set(run["train_patients"]) & set(run["validation_patients"])
    assert run["seen_patients"] == []
    assert (plain / "config.yaml").is_file()
    assert (plain / "metrics.jsonl").is_file()


def test_without_validation_the_best_weights_are_the_last(cohort: Path, tmp_path: Path):
    run = segment(cohort, tmp_path / "run", **SMALL)
    best, last = (load_segmenter(run / "checkpoints" / n)[0] for n in ("best", "last"))
    for a, b in zip(best.parameters(), last.parameters()):
        assert torch.equal(a, b)


def test_a_synthetic_dataset_joins_its_own_cases_and_validates_on_those_held_back(
    made: Path, tmp_path: Path
):
    run = read(segment(made, tmp_path / "run", **SMALL) / "run.json")
    assert run["counts"] == {"real": 6, "synthetic": 6, "validation": 2}
    assert run["validation_patients"] == read(made / "run.json")["held_back_patients"]
    assert run["seen_patients"] == run["train_patients"]


def test_arms_with_and_without_synthetic_cases_share_patients_and_grid(
    cohort: Path, made: Path, tmp_path: Path
):
    with_it = read(segment(cohort, tmp_path / "with", made, **SMALL) / "run.json")
    without = segment(cohort, tmp_path / "without", validation=0.2, **SMALL)
    without = read(without / "run.json")
    for key in ("train_patients", "validation_patients", "grid", "labels"):
        assert with_it[key] == without[key]
    assert (with_it["counts"]["synthetic"], without["counts"]["synthetic"]) == (6, 0)


def test_fewer_patients_take_only_their_own_synthetic_cases(made: Path, tmp_path: Path):
    run = read(segment(made, tmp_path / "run", patients=2, **SMALL) / "run.json")
    assert run["counts"] == {"real": 4, "synthetic": 4, "validation": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "forest"}, "forest"),
        ({"augmentation": "wild"}, "wild"),
        ({"settings": {"lr": "fast"}}, "lr"),
        ({"settings": {"colour": 1}}, "colour"),
        ({"validation": 4}, "cannot validate"),
        ({"validation": 1.5}, "share"),
        ({"fold": 0}, "--fold"),
        ({"patients": ["nobody"]}, "nobody"),
        ({"patients": 9}, "9"),
    ],
)
def test_wrong_requests_write_nothing(cohort: Path, tmp_path: Path, arguments, message):
    with pytest.raises(AugmintError, match=message):
        segment(cohort, tmp_path / "run", **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_images_made_on_the_masks_of_real_ones_are_mixed_with_them(cohort: Path, tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("augmint.quality.agreement"), "threshold", lambda dices: 0.0)
        styled = augment(
            cohort, tmp_path / "styled", method="reference_shift",
            settings={"translator": "styles"}, copies=1, **SMALL,
        )  # fmt: skip
    said: list[str] = []
    talk = Talk(quiet=True)
    talk.say = said.append  # type: ignore[method-assign]
    mixed = {"mix": "logit", "mix_lambda": 0.6, "patch": 8}
    run = segment(styled, tmp_path / "run", settings=mixed, **{**SMALL, "talk": talk})
    assert read(run / "run.json")["counts"]["synthetic"] == 6
    assert any(line.startswith("0 of 24 real samples have no synthetic one") for line in said)
    # A subset of the patients takes its own synthetic cases alone, so that all have partners.
    segment(styled, tmp_path / "fewer", patients=2, settings=mixed, **SMALL)


def test_what_cannot_be_mixed_is_told(cohort: Path, made: Path, tmp_path: Path):
    for synthetic, message in ((None, "mixing needs synthetic cases"), (made, "another mask")):
        with pytest.raises(AugmintError, match=message):
            segment(cohort, tmp_path / "run", synthetic, settings={"mix": "image"}, **SMALL)
    control = {"mix": "logit", "mix_with": "augmented"}
    run = segment(cohort, tmp_path / "control", settings=control, **SMALL)
    assert read(run / "run.json")["request"]["mix_with"] == "augmented"


def test_held_back_patients_and_validation_exclude_each_other(made: Path, tmp_path: Path):
    with pytest.raises(AugmintError, match="--validation"):
        segment(made, tmp_path / "run", validation=1, **SMALL)


def test_training_on_a_held_back_patient_is_a_leak(made: Path, tmp_path: Path):
    held = read(made / "run.json")["held_back_patients"]
    with pytest.raises(AugmintError, match="leak"):
        segment(made, tmp_path / "run", patients=held, **SMALL)


def test_a_synthetic_dataset_without_its_record_is_refused(made: Path, tmp_path: Path):
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(AugmintError, match=r"no run\.json"):
        segment(tmp_path / "out", tmp_path / "run", **SMALL)


def test_a_stopped_segmenter_goes_on_to_the_same_weights(
    cohort: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = import_module("augmint.segment")
    write = module.write_json

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        segment(cohort, tmp_path / "run", validation=1, **SMALL)
    monkeypatch.setattr(module, "write_json", write)
    segment(cohort, tmp_path / "run", validation=1, resume=True, **SMALL)
    name = "checkpoints/best/network.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (plain / name).read_bytes()


def test_evaluate_writes_what_it_says(cohort: Path, plain: Path, tmp_path: Path):
    patient = free_patient(plain)
    summary = evaluate(plain, cohort, tmp_path / "e", patients=[patient], talk=QUIET)
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "predictions", "scores.csv", "patients.csv", "summary.json", "cardiac.csv", "cardiac.json",
    }  # fmt: skip
    rows = read_scores(tmp_path / "e" / "scores.csv")
    assert {r.label for r in rows} == {"RV", "MYO", "LV"}
    assert {r.patient for r in rows} == {patient}
    dataset = open_dataset(cohort).select(patients=[patient])
    again = []
    for item in dataset.items:
        case = dataset.load(item)
        mask, _, _ = read_mask(tmp_path / "e" / "predictions" / f"{item.case_id}.nii.gz")
        again += score_case(
            case.mask, mask, dataset.labels, case.grid, case.case_id, patient, case.annotated
        )
    for one, other in zip(rows, again):
        assert (one.case, one.label, one.status) == (other.case, other.label, other.status)
        assert one.dice == pytest.approx(other.dice, rel=1e-4)
    assert read(tmp_path / "e" / "summary.json")["mean"]["dice"] == pytest.approx(
        summarise(again).mean("dice"), rel=1e-4
    )
    with (tmp_path / "e" / "patients.csv").open() as stream:
        assert [r["label"] for r in csv.DictReader(stream)] == ["LV", "MYO", "RV"]
    assert summary.policy in " ".join(in_words(summary).split())


def test_evaluate_measures_the_hearts_that_it_writes(cohort: Path, plain: Path, tmp_path: Path):
    chosen = {"patients": [free_patient(plain)], "talk": QUIET}
    evaluate(plain, cohort, tmp_path / "e", **chosen)
    (found,) = read_rows(tmp_path / "e" / "cardiac.csv")
    dataset = open_dataset(cohort).select(patients=chosen["patients"])

    def predicted(case):
        return read_mask(tmp_path / "e" / "predictions" / f"{case.case_id}.nii.gz")[0]

    (truth,) = measure_patients(dataset)
    (mine,) = measure_patients(dataset, mask_of=predicted)
    assert (found.edv_reference, found.ef_reference) == pytest.approx(
        (truth.edv, truth.ef), rel=1e-5
    )
    assert (found.status == "failed") == (mine.ef is None)
    if mine.ef is not None:
        assert found.ef_prediction == pytest.approx(mine.ef, rel=1e-5)
    evaluate(plain, cohort, tmp_path / "f", cardiac=False, **chosen)
    assert not list((tmp_path / "f").glob("cardiac*"))


@pytest.mark.parametrize("named", [False, True])
def test_evaluate_refuses_patients_that_trained(
    cohort: Path, plain: Path, tmp_path: Path, named: bool
):
    trained = read(plain / "run.json")["train_patients"]
    with pytest.raises(AugmintError, match=f"leak.*{trained[0]}") as caught:
        evaluate(plain, cohort, tmp_path / "e", patients=trained[:1] if named else None, talk=QUIET)
    assert free_patient(plain) in str(caught.value)
    assert not (tmp_path / "e").exists()


def test_evaluate_refuses_patients_that_only_the_generator_saw(
    cohort: Path, made: Path, tmp_path: Path
):
    seen = read(made / "run.json")["folds"][0]["generator_patients"]
    run = segment(cohort, tmp_path / "run", made, patients=seen[:1], **SMALL)
    with pytest.raises(AugmintError, match="leak"):
        evaluate(run, cohort, tmp_path / "e", patients=seen[1:2], talk=QUIET)


def renumbered(cohort: Path, folder: Path, numbers: dict[str, int]) -> Path:
    """The cohort with other numbers for its labels, as another group would have stored it."""
    shutil.copytree(cohort, folder)
    facts = read(folder / "dataset.json")
    table = np.zeros(4, np.uint8)
    for name, old in facts["labels"].items():
        table[old] = numbers[name]
    facts["labels"] = numbers
    (folder / "dataset.json").write_text(json.dumps(facts))
    for path in (folder / "labelsTr").iterdir():
        stored = nibabel.load(path)
        nibabel.save(
            nibabel.Nifti1Image(table[np.asarray(stored.dataobj).astype(int)], stored.affine), path
        )
    return folder


def test_labels_are_matched_by_name(cohort: Path, plain: Path, tmp_path: Path):
    numbers = {"background": 0, "LV": 1, "MYO": 2, "RV": 3}
    other = renumbered(cohort, tmp_path / "other", numbers)
    chosen = {"patients": [free_patient(plain)], "talk": QUIET}
    mine = evaluate(plain, cohort, tmp_path / "e", **chosen)
    theirs = evaluate(plain, other, tmp_path / "f", **chosen)
    assert {s.label: s.means for s in mine.labels} == {s.label: s.means for s in theirs.labels}
    assert read(tmp_path / "f" / "predictions" / "labels.json") == numbers
    case = f"{free_patient(plain)}_ED.nii.gz"
    a = read_mask(tmp_path / "e" / "predictions" / case)[0]
    b = read_mask(tmp_path / "f" / "predictions" / case)[0]
    labels = open_dataset(cohort).labels
    for name, number in numbers.items():
        assert np.array_equal(a == labels[name], b == number)


def test_labels_that_nobody_annotated_are_left_out(
    cohort: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    facts = {**read(data / "dataset.json"), "annotated_labels": ["MYO", "LV"]}
    (data / "dataset.json").write_text(json.dumps(facts))
    summary = evaluate(plain, data, tmp_path / "e", patients=[free_patient(plain)])
    assert {s.label for s in summary.labels} == {"MYO", "LV"}
    assert "'RV' is left out: nobody annotated it" in capsys.readouterr().err


def test_no_shared_label_is_an_error(cohort: Path, plain: Path, tmp_path: Path):
    names = {"RV": "x", "MYO": "y", "LV": "z"}
    data = open_dataset(cohort, label_map=names)
    with pytest.raises(AugmintError, match="none is shared"):
        evaluate(plain, data, tmp_path / "e", patients=[free_patient(plain)], talk=QUIET)


def test_a_stopped_evaluation_keeps_its_finished_cases(
    cohort: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = import_module("augmint.evaluate")
    predict, calls = module.predict_case, []

    def counted(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*arguments, **keywords)

    chosen = {"patients": [free_patient(plain)], "talk": QUIET}
    monkeypatch.setattr(module, "predict_case", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plain, cohort, tmp_path / "e", **chosen)
    evaluate(plain, cohort, tmp_path / "e", resume=True, **chosen)
    assert len(calls) == 3
    evaluate(plain, cohort, tmp_path / "f", **chosen)
    for name in ("scores.csv", "patients.csv", "cardiac.csv"):
        assert (tmp_path / "e" / name).read_bytes() == (tmp_path / "f" / name).read_bytes()


def test_a_fitted_method_is_no_segmenter(cohort: Path, made: Path, tmp_path: Path):
    with pytest.raises(AugmintError, match="augmint segment"):
        evaluate(made / "run", cohort, tmp_path / "e", talk=QUIET)


def test_patients_whose_masks_were_warped_are_seen(made: Path):
    dataset = open_dataset(made)
    facts = read(made / "run.json")
    (entry,) = facts["folds"]
    seen = sorted({*entry["generator_patients"], *entry["gate_patients"]})
    roles_of = import_module("augmint.roles")
    run = {"folds": [{**entry, "generator_patients": seen[:1], "gate_patients": []}]}
    assert roles_of._synthetic(dataset, run, None, None, [], False)[1] == tuple(seen)


def test_real_cases_of_a_synthetic_dataset_keep_their_held_back_patients(
    made: Path, tmp_path: Path
):
    other = tmp_path / "other"
    shutil.copytree(made, other)
    facts = read(other / "run.json")
    held = facts["held_back_patients"]
    facts["held_back_patients"] = []
    facts["folds"][0]["validation_patients"] = []
    (other / "run.json").write_text(json.dumps(facts))
    chosen = {"patients": None, "fold": None, "validation": None, "seed": 0}
    roles = import_module("augmint.roles").assign_roles(
        open_dataset(made), open_dataset(other), **chosen
    )
    assert list(roles.validation_patients) == held


def test_a_run_is_not_continued_with_other_labels(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("augmint.segment"), "prepare", stop)
    with pytest.raises(KeyboardInterrupt):
        segment(cohort, tmp_path / "run", **SMALL)
    merged = open_dataset(cohort, label_map={"RV": None})
    with pytest.raises(AugmintError, match="labels"):
        segment(merged, tmp_path / "run", resume=True, **SMALL)


def test_patients_of_another_dataset_may_have_the_same_names(
    cohort: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "other"
    shutil.copytree(cohort, other)
    facts = {**read(other / "dataset.json"), "name": "another hospital"}
    (other / "dataset.json").write_text(json.dumps(facts))
    trained = read(plain / "run.json")["train_patients"]
    evaluate(plain, other, tmp_path / "e", patients=trained[:1])
    said = capsys.readouterr().err
    assert "another hospital" in said
    assert f"({trained[0]})" in said
    forgetful = tmp_path / "run"
    shutil.copytree(plain, forgetful)
    run = read(plain / "run.json")
    del run["datasets"]
    (forgetful / "run.json").write_text(json.dumps(run))
    with pytest.raises(AugmintError, match="leak"):
        evaluate(forgetful, other, tmp_path / "f", patients=trained[:1], talk=QUIET)


def copy_of(cohort: Path, folder: Path, **facts: object) -> Path:
    """A copy of the cohort whose dataset.json says no name, or other facts."""
    shutil.copytree(cohort, folder)
    said = read(folder / "dataset.json")
    del said["name"]
    (folder / "dataset.json").write_text(json.dumps({**said, **facts}))
    return folder


def test_a_copy_of_the_data_in_a_folder_of_another_name_is_a_leak(
    cohort: Path, plain: Path, tmp_path: Path
):
    copy = copy_of(cohort, tmp_path / "copy")
    trained = read(plain / "run.json")["train_patients"]
    with pytest.raises(AugmintError, match=r"leak.*--allow-same-names.*dataset\.json") as caught:
        evaluate(plain, copy, tmp_path / "e", talk=QUIET)
    assert all(p in str(caught.value) for p in (*trained, free_patient(plain)))
    assert not (tmp_path / "e").exists()
    evaluate(plain, copy, tmp_path / "e", patients=1, talk=QUIET)
    assert {r.patient for r in read_scores(tmp_path / "e/scores.csv")} == {free_patient(plain)}
    assert read(tmp_path / "e" / "summary.json")["namesakes"] == []
    chosen = {"patients": trained[:1], "allow_same_names": True, "talk": QUIET}
    evaluate(plain, copy, tmp_path / "f", **chosen)
    assert read(tmp_path / "f" / "summary.json")["namesakes"] == trained[:1]
    with pytest.raises(AugmintError, match="leak"):
        evaluate(plain, cohort, tmp_path / "g", **chosen)


def test_phantoms_of_another_seed_are_other_patients(cohort: Path, plain: Path, tmp_path: Path):
    other = make_phantoms("cine-mr", out=tmp_path / "other", patients=4, size=64, slices=4, seed=1)
    trained = read(plain / "run.json")["train_patients"]
    evaluate(plain, other, tmp_path / "e", patients=trained[:1], talk=QUIET)
    assert read(tmp_path / "e" / "summary.json")["namesakes"] == trained[:1]


def test_a_run_in_mm_names_the_case_that_has_no_spacing(cohort: Path, plain: Path, tmp_path: Path):
    bare = copy_of(cohort, tmp_path / "bare", spacing_known=False)
    patient = free_patient(plain)
    with pytest.raises(AugmintError, match=rf"case '{patient}_E[DS]' has no spacing.*fitted on"):
        evaluate(plain, bare, tmp_path / "e", patients=[patient], talk=QUIET)


def test_a_fitted_method_is_told_from_a_segmenter(cohort: Path, made: Path, tmp_path: Path):
    with pytest.raises(AugmintError, match="is a run of `augmint fit`") as caught:
        evaluate(made / "run", cohort, tmp_path / "e", talk=QUIET)
    assert "KeyError" not in str(caught.value)


def test_a_segmenters_config_repeats_it(cohort: Path, tmp_path: Path):
    from typer.testing import CliRunner

    from augmint.cli import app

    data = open_dataset(cohort, label_map={"MYO": "heart", "LV": "heart"})
    chosen = {**SMALL, "settings": {"validate_every": 2}, "seed": 3}
    first = segment(data, tmp_path / "a", patients=2, validation=1, **chosen)
    asked = ["segment", "--config", str(first / "config.yaml"), "--device", "cpu", "-q"]
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "b")])
    assert done.exit_code == 0, done.stderr
    one, other = (read(tmp_path / n / "run.json") for n in "ab")
    for key in ("train_patients", "validation_patients", "labels", "grid"):
        assert one[key] == other[key]
    assert set(one["labels"]) == {"background", "RV", "heart"}
    name = "checkpoints/best/network.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "c"), "--network", "forest"])
    assert "forest" in done.stderr


def test_sliding_looks_outside_the_window(plain, cohort, tmp_path):
    narrow = shutil.copytree(plain, tmp_path / "narrow")
    run = read(narrow / "run.json")
    run["grid"]["window"] = [16, 16]
    (narrow / "run.json").write_text(json.dumps(run))

    def outside(name: str, sliding: bool) -> int:
        evaluate(narrow, cohort, tmp_path / name, patients=[free_patient(plain)], sliding=sliding,
                 device="cpu", talk=QUIET)  # fmt: skip
        masks = [
            np.asarray(read_mask(p)[0])
            for p in (tmp_path / name / "predictions").iterdir()
            if p.name != "labels.json"
        ]
        edge = np.concatenate([np.r_[m[0].ravel(), m[-1].ravel()] for m in masks])
        return int((edge > 0).sum())

    assert outside("plain", False) == 0
    assert outside("sliding", True) > 0
