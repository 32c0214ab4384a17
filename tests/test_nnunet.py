"""nnU-Net on a synthetic dataset: arms, splits, commands; end to end where nnU-Net is there."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from augmint.data.phantoms import make_phantoms
from augmint.data.splits import Fold
from augmint.errors import AugmintError
from augmint.nnunet import nnunet_device, predict_nnunet, prepare_nnunet, read_splits, train_nnunet
from augmint.progress import Talk
from augmint.segmentation.nnunet import commands
from augmint.segmentation.nnunet.arms import TRAINER, Arm, arm_cases, arm_of, case_probabilities
from augmint.segmentation.nnunet.commands import Folders, nnunet_folders, place_raw
from augmint.segmentation.nnunet.images import stage_images
from augmint.segmentation.nnunet.planning import (
    find_prepared,
    planned_configurations,
    real_description,
    take_plan,
)
from augmint.segmentation.nnunet.state import spent_patients, train_command

QUIET = Talk(quiet=True)
THERE = importlib.util.find_spec("nnunetv2") is not None
without = pytest.mark.skipif(THERE, reason="nnU-Net is installed")


def write_synthetic(folder: Path, *, held: int = 1, folds: bool = False) -> Path:
    """Phantoms of four patients and a noisy copy of each training case, laid out as `augment`."""
    from augmint.data.dataset import open_dataset
    from augmint.data.images import read_image, read_mask, write_image, write_mask
    from augmint.synthetic import _splits, write_cases, write_manifest

    cohort = make_phantoms(
        "cine-mr", out=folder.with_name("phantoms"), patients=4, size=32, slices=3
    )
    real = open_dataset(cohort)
    shutil.copytree(cohort, folder)
    patients = real.patients
    parts = [Fold(k, patients[:k] + patients[k + 1 :], (patients[k],)) for k in range(4)]
    train = patients[: len(patients) - held]
    rows = [
        {"case": i.case_id, "synthetic": 0, "patient": i.patient_id, "accepted": 1, "reason": ""}
        for i in real.items
    ]
    generator = np.random.default_rng(0)
    for fold in parts if folds else [Fold(0, train, ())]:
        for item in real.items:
            if item.patient_id not in fold.train:
                continue
            case = f"{item.case_id}__s0_c{fold.index}"
            grid = real.load(item).grid
            stored, _, _ = read_image(item.images)
            noisy = stored + generator.normal(0, 5, stored.shape)
            write_image(
                folder / "imagesTr" / f"{case}_0000.nii.gz", noisy.astype(stored.dtype), grid
            )
            write_mask(folder / "labelsTr" / f"{case}.nii.gz", read_mask(item.masks[0])[0], grid)
            rows.append(
                {
                    "case": case, "synthetic": 1, "source_case": item.case_id, "accepted": 1,
                    "patient": item.patient_id, "fold": fold.index if folds else None,
                    "method": "noise", "seed": 0, "copy": fold.index, "evaluations": 1,
                }
            )  # fmt: skip
    write_manifest(folder / "manifest.csv", rows, list(real.labels)[1:])
    write_cases(folder, real)
    splits = _splits(rows, real, patients[len(train) :], parts if folds else [])
    (folder / "splits_final.json").write_text(json.dumps(splits))
    entries = [
        {
            "fold": f.index, "generator_patients": list(f.train), "gate_patients": list(f.train),
            "validation_patients": list(f.validation),
        }
        for f in parts
    ]  # fmt: skip
    whole = {"fold": None, "generator_patients": list(train), "gate_patients": list(train)}
    run = {"dataset": real.name, "folds": entries if folds else [whole]}
    (folder / "run.json").write_text(json.dumps(run))
    facts = json.loads((folder / "dataset.json").read_text())
    facts["numTraining"] = len(rows)
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("made") / "Dataset502_Toy")


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("folded") / "Dataset503_Toy", folds=True)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))


def edit(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


# ---- arms


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        (Arm(0), "augmintReal"),
        (Arm(0.5), "augmintMixed50"),
        (Arm(0.125), "augmintMixed12p5"),
        (Arm(1), "augmintSynthetic"),
        (Arm(0, epochs=100), "augmintReal_100epochs"),
        (Arm(0.5, 2, 3), "augmintMixed50_2epochs_3iterations"),
    ],
)
def test_an_arm_is_named_by_what_it_changes(arm: Arm, name: str):
    assert arm.name == name
    assert "__" not in name  # nnU-Net splits its result folders there


def test_arms_share_everything_but_name_and_settings():
    shared = {"plans_name": "augmintPlans", "configurations": {"2d": {"batch_size": 7}}, "x": 1}
    one, two = Arm(0).plans(shared), Arm(0.5).plans(shared)
    assert {k for k in one if one[k] != two[k]} == {"plans_name", "augmint"}
    assert arm_of(two) == Arm(0.5)
    with pytest.raises(AugmintError, match="not those of an arm"):
        arm_of(shared)


@pytest.mark.parametrize("wrong", [{"synthetic_probability": 1.5}, {"epochs": 0}])
def test_an_arm_refuses_what_cannot_be(wrong):
    with pytest.raises(AugmintError, match="got"):
        Arm(**{"synthetic_probability": 0.5, **wrong})


def test_the_probability_is_that_of_all_synthetic_cases_together():
    cases = ["a", "b", "c", "a1", "a2", "a3", "a4", "a5"]
    chances = case_probabilities(cases, {"a1", "a2", "a3", "a4", "a5"}, 0.25)
    assert chances is not None
    assert chances.sum() == pytest.approx(1)
    assert chances[3:].sum() == pytest.approx(0.25)
    assert np.ptp(chances[:3]) == np.ptp(chances[3:]) == 0
    assert case_probabilities(["a", "b"], {"a1"}, 0) is None
    with pytest.raises(AugmintError, match="2 real and 0 synthetic"):
        case_probabilities(["a", "b"], {"a1"}, 0.5)


SPLITS = [{"train": ["a", "b", "a1"], "val": ["c"]}]


def test_each_arm_trains_on_its_own_cases_and_validates_on_the_same_real_ones():
    everyone = ["a", "b", "c", "a1"]
    found = {p: arm_cases(Arm(p), SPLITS, 0, {"a1"}, everyone) for p in (0, 0.5, 1)}
    assert found == {
        0: (["a", "b"], ["c"]),
        0.5: (["a", "b", "a1"], ["c"]),
        1: (["a1"], ["c"]),
    }
    assert arm_cases(Arm(0), [], "all", {"a1"}, everyone) == (["a", "b", "c"], ["a", "b", "c"])
    assert arm_cases(Arm(0.5), [], "all", {"a1"}, everyone) == (everyone, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("splits", "fold", "message"),
    [
        (SPLITS, 1, "random one"),
        ([{"train": ["a", "a1"], "val": []}], 0, "fold `all`"),
        ([{"train": ["a", "b"], "val": ["a1"]}], 0, "would validate"),
    ],
)
def test_a_fold_that_would_mislead_is_refused(splits, fold, message: str):
    with pytest.raises(AugmintError, match=message):
        arm_cases(Arm(0.5), splits, fold, {"a1"}, ["a", "b", "a1"])


# ---- what a synthetic dataset says


def test_real_synthetic_and_patients_are_read_from_the_dataset(made: Path, folded: Path):
    facts = read_splits(made)
    assert len(facts["real"]) == 8
    assert len(facts["synthetic"]) == 6
    assert all("__s0_c0" in c for c in facts["synthetic"])
    (fold,) = facts["folds"]
    assert len(fold["train_patients"]) == 3
    assert set(fold["seen_patients"]).isdisjoint(fold["validation"])
    assert [len(f["validation"]) for f in read_splits(folded)["folds"]] == [1, 1, 1, 1]


def test_no_fold_trains_on_what_another_fold_made(folded: Path):
    facts = read_splits(folded)
    for number, split in enumerate(facts["splits"]):
        made = set(split["train"]) & set(facts["synthetic"])
        assert len(made) == 6
        assert all(c.endswith(f"_c{number}") for c in made)


def test_a_leak_in_the_splits_is_stopped(made: Path, folded: Path, tmp_path: Path):
    spoiled = shutil.copytree(made, tmp_path / "one")
    facts = read_splits(spoiled)
    held = facts["splits"][0]["val"][0]
    edit(spoiled, "splits_final.json", lambda s: s[0]["train"].append(held))
    with pytest.raises(AugmintError, match="leak: 1 validation"):
        read_splits(spoiled)
    spoiled = shutil.copytree(folded, tmp_path / "two")
    foreign = next(c for c in facts["synthetic"]).replace("_c0", "_c1")
    edit(spoiled, "splits_final.json", lambda s: s[0]["train"].append(foreign))
    with pytest.raises(AugmintError, match="leak"):
        read_splits(spoiled)


def test_a_dataset_that_augment_did_not_make_is_refused(made: Path, tmp_path: Path):
    with pytest.raises(AugmintError, match=r"no manifest\.csv"):
        read_splits(made.with_name("phantoms"))
    bare = shutil.copytree(made, tmp_path / "bare")
    with (bare / "manifest.csv").open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["synthetic"] == "0"]
    with (bare / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(AugmintError, match="no accepted synthetic case"):
        read_splits(bare)


def test_nnunet_is_shown_the_real_cases_alone_to_plan_on(made: Path):
    from augmint.data.dataset import open_dataset

    facts = read_splits(made)
    shown = real_description({"labels": {"a": 1}}, open_dataset(made), set(facts["real"]))
    assert sorted(shown["dataset"]) == facts["real"]
    assert shown["numTraining"] == 8
    for files in shown["dataset"].values():
        assert all(Path(p).is_file() for p in (*files["images"], files["label"]))


# ---- folders and commands


def test_folders_come_from_arguments_or_variables(tmp_path: Path, monkeypatch):
    for name in commands.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AugmintError, match="--raw FOLDER, or set the variable nnUNet_raw"):
        nnunet_folders()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "p"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    found = nnunet_folders(tmp_path / "r", None, tmp_path / "s")
    environment = found.environment()
    assert environment["nnUNet_preprocessed"] == str(tmp_path / "p")
    ours, theirs = environment["nnUNet_extTrainer"].split(os.pathsep)
    assert (Path(ours) / "augmint_trainer.py").is_file()
    assert theirs == str(tmp_path)


def test_a_dataset_is_linked_once_under_a_name_that_nnunet_takes(made: Path, folders: Folders):
    assert place_raw(made, folders) == "Dataset502_Toy"
    assert (folders.raw / "Dataset502_Toy").resolve() == made
    assert place_raw(made, folders) == "Dataset502_Toy"
    assert place_raw(folders.raw / "Dataset502_Toy", folders) == "Dataset502_Toy"
    assert place_raw(made, folders, dataset_id=7, copy=True) == "Dataset007_Toy"
    assert not (folders.raw / "Dataset007_Toy").is_symlink()
    (folders.preprocessed / "Dataset008_Other").mkdir(parents=True)
    with pytest.raises(AugmintError, match="id 008 belongs to Dataset008_Other"):
        place_raw(made, folders, dataset_id=8)
    namesake = folders.results.with_name("elsewhere") / "Dataset502_Toy"
    namesake.mkdir(parents=True)
    with pytest.raises(AugmintError, match="another dataset"):
        place_raw(namesake, folders)


def test_a_plain_name_needs_an_id(made: Path, folders: Folders):
    with pytest.raises(AugmintError, match="give --id 502"):
        place_raw(made.with_name("phantoms"), folders)
    assert place_raw(made.with_name("phantoms"), folders, dataset_id=9) == "Dataset009_phantoms"


def test_the_training_command_is_nnunets_own():
    words = train_command(502, "2d", "0", "augmintReal", device="cpu", resume=True)
    assert words[:8] == (["nnUNetv2_train", "502", "2d", "0", "-p", "augmintReal", "-tr", TRAINER])
    assert words[8:] == ["-device", "cpu", "--c"]
    assert nnunet_device("cpu") == ("cpu", {})


def test_configurations_without_volumes_are_told_apart():
    plans = {"configurations": {"2d": {}}}
    assert planned_configurations(plans, ("2d", "3d_fullres")) == (("2d",), ("3d_fullres",))
    with pytest.raises(AugmintError, match="needs volumes"):
        planned_configurations(plans, ("3d_fullres",))


def test_a_plan_to_take_must_be_there_and_fit(folders: Folders):
    with pytest.raises(AugmintError, match="no dataset 77"):
        take_plan("77", "nnUNetPlans", "Dataset502_Toy", 1, folders)
    other = folders.preprocessed / "Dataset077_Other"
    other.mkdir(parents=True)
    assert find_prepared("77", folders) == find_prepared("Dataset077_Other", folders)
    with pytest.raises(AugmintError, match="plan that dataset first"):
        take_plan("77", "nnUNetPlans", "Dataset502_Toy", 1, folders)
    (other / "dataset_fingerprint.json").write_text("{}")
    plans = {"configurations": {"2d": {"normalization_schemes": ["a", "b"]}}}
    (other / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(AugmintError, match=r"2 channel\(s\), Dataset502_Toy has 1"):
        take_plan("77", "nnUNetPlans", "Dataset502_Toy", 1, folders)


def test_patients_of_the_generator_are_spent_only_where_it_joined():
    state = {"folds": [{"train_patients": ["a"], "seen_patients": ["a", "b"], "validation": ["c"]}]}
    assert spent_patients(state, [0], Arm(0)) == {"a"}
    assert spent_patients(state, [0], Arm(0.5)) == {"a", "b"}
    assert spent_patients(state, ["all"], Arm(0)) == {"a", "c"}


def test_images_are_staged_in_the_models_format(made: Path, tmp_path: Path):
    from augmint.data.dataset import open_dataset
    from augmint.data.images import read_image

    cohort = open_dataset(made.with_name("phantoms"))
    stage_images(cohort, tmp_path / "same", ".nii.gz", {"0": "MR"}, 1)
    stage_images(cohort, tmp_path / "other", ".mha", {"0": "MR"}, 1)
    for item in cohort.items:
        same = tmp_path / "same" / f"{item.case_id}_0000.nii.gz"
        assert same.read_bytes() == item.images[0].read_bytes()
        converted = read_image([tmp_path / "other" / f"{item.case_id}_0000.mha"])
        assert np.array_equal(converted[0], read_image(item.images)[0])
    with pytest.raises(AugmintError, match="trained on 2"):
        stage_images(cohort, tmp_path / "more", ".nii.gz", {"0": "a", "1": "b"}, 2)


def prepare(dataset: Path, folders: Folders, **more):
    return prepare_nnunet(
        dataset, raw=folders.raw, preprocessed=folders.preprocessed, results=folders.results,
        processes=1, talk=QUIET, **more,
    )  # fmt: skip


@without
def test_a_missing_extra_is_one_clear_message(made: Path, folders: Folders):
    with pytest.raises(AugmintError, match=r'pip install "augmint\[nnunet\]"'):
        prepare(made, folders)
    with pytest.raises(AugmintError, match=r'pip install "augmint\[nnunet\]"'):
        train_nnunet(
            502, "augmintReal", raw=folders.raw, preprocessed=folders.preprocessed,
            results=folders.results,
        )  # fmt: skip
    assert not folders.raw.exists()


# ---- with nnU-Net itself

SHORT = dict(epochs=1, iterations=2, validation_iterations=1)


@pytest.fixture(scope="module")
def prepared(made: Path, tmp_path_factory: pytest.TempPathFactory):
    """Prepared for 2d at toy length; the variables keep nnU-Net from starting many processes."""
    pytest.importorskip("nnunetv2")
    pytest.importorskip("sklearn", reason="nnU-Net's training needs scikit-learn")
    work = tmp_path_factory.mktemp("nnunet")
    folders = Folders(*(work / name for name in ("raw", "preprocessed", "results")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_n_proc_DA", "0")
        for name, value in folders.environment().items():
            patch.setenv(name, value)
        yield prepare(made, folders, configurations=("2d",), probabilities=(0.8,), **SHORT), folders


def test_prepare_plans_on_real_cases_and_shares_the_plan(prepared, made: Path):
    ready, _ = prepared
    facts = read_splits(made)
    fingerprint = json.loads((ready.folder / "dataset_fingerprint.json").read_text())
    assert len(fingerprint["spacings"]) == len(facts["real"]) == 8
    assert json.loads((ready.folder / "splits_final.json").read_text()) == facts["splits"]
    data = ready.folder / "augmintPlans_2d"
    assert len(list(data.glob("*.pkl"))) == 14
    plans = [json.loads((ready.folder / f"{arm}.json").read_text()) for arm in ready.arms]
    assert plans[0]["configurations"] == plans[1]["configurations"]
    assert ready.commands == tuple(
        f"nnUNetv2_train 502 2d 0 -p {arm} -tr {TRAINER}" for arm in ready.arms
    )
    assert not list(ready.folder.glob(".planning*"))


def test_prepared_again_it_adds_an_arm_and_repeats_nothing(prepared, made: Path):
    ready, folders = prepared
    times = {p: p.stat().st_mtime_ns for p in (ready.folder / "augmintPlans_2d").iterdir()}
    again = prepare(made, folders, configurations=("2d",), probabilities=(1,), **SHORT)
    assert again.arms == (ready.arms[0], "augmintSynthetic_1epochs_2iterations")
    assert times == {p: p.stat().st_mtime_ns for p in times}
    with pytest.raises(AugmintError, match="prepared from other plans"):
        prepare(made, folders, gpu_memory_gb=2)


def test_a_command_that_fails_is_named_with_the_end_of_its_log(prepared, tmp_path: Path):
    _, folders = prepared
    log = tmp_path / "new" / "log.txt"
    with pytest.raises(AugmintError, match=r"code 2 in `nnUNetv2_train 7`; see .*required: conf"):
        commands.run_nnunet(["nnUNetv2_train", "7"], folders, log=log)
    assert log.read_text().startswith("+ nnUNetv2_train 7\n")


def test_samples_are_synthetic_as_often_as_asked(prepared):
    ready, _ = prepared
    import torch
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    # As nnU-Net itself searches the folders of `nnUNet_extTrainer`.
    trainers = str(commands.TRAINERS)
    found = recursive_find_python_class(trainers, TRAINER, None, trainers)
    plans = json.loads((ready.folder / f"{ready.arms[1]}.json").read_text())
    facts = json.loads((ready.folder / "dataset.json").read_text())
    trainer = found({**plans, "continue_training": False}, "2d", 0, facts, torch.device("cpu"))
    trainer.initialize()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (1, 2)
    np.random.seed(0)  # noqa: NPY002  (nnU-Net draws from this)
    train, validation = trainer.get_dataloaders()
    drawn = [c for _ in range(150) for c in next(train)["keys"]]
    share = np.mean([c in trainer.synthetic for c in drawn])
    assert abs(share - 0.8) < 3.3 * np.sqrt(0.8 * 0.2 / len(drawn))
    held = {c for _ in range(10) for c in next(validation)["keys"]}
    assert held == set(read_splits_of(ready)["val"])


def read_splits_of(ready) -> dict[str, list[str]]:
    return json.loads((ready.folder / "splits_final.json").read_text())[0]


def test_trained_predicted_and_scored_end_to_end(prepared, made: Path, tmp_path: Path):
    from augmint.score import score

    ready, folders = prepared
    where = dict(
        raw=folders.raw, preprocessed=folders.preprocessed, results=folders.results,
        device="cpu", talk=QUIET,
    )  # fmt: skip
    arm = ready.arms[1]
    model = train_nnunet(502, arm, **where)
    assert (model / "checkpoint_final.pth").is_file()
    with pytest.raises(AugmintError, match="holds a training"):
        train_nnunet(502, arm, **where)
    cohort = made.with_name("phantoms")
    with pytest.raises(AugmintError, match=r"leak: .* 3 of the 4 patients"):
        predict_nnunet(502, arm, cohort, tmp_path / "leak", **where)
    state = json.loads((ready.folder / "augmint.json").read_text())
    held = state["folds"][0]["validation"]
    out = predict_nnunet(502, arm, cohort, tmp_path / "predictions", patients=held, **where)
    names = sorted(p.name for p in out.glob("*.nii.gz"))
    assert names == sorted(f"{c}.nii.gz" for c in read_splits_of(ready)["val"])
    summary = score(out, cohort, tmp_path / "scores", patients=held, talk=QUIET)
    # nnU-Net scored the same cases itself after the training.
    theirs = json.loads((model / "validation" / "summary.json").read_text())
    assert summary.mean("dice") == pytest.approx(theirs["foreground_mean"]["Dice"], abs=1e-6)
