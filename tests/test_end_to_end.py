"""Through the command line, from a dataset to a scored segmenter, with kills and leaks."""

import csv
import gzip
import json
import shutil
from importlib import import_module
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from augmint.cli import app
from augmint.data.phantoms import make_phantoms

FIT = ("--preset", "tiny", "--steps", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantoms"
    return make_phantoms("cine-mr", out=folder, patients=4, size=64, slices=4)


@pytest.fixture(scope="module")
def made(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "Dataset001_Made"
    done = call("augment", cohort, "-o", out, "--copies", 2, *FIT)
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def folded(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folded") / "out"
    with pytest.MonkeyPatch.context() as patch:
        # Two steps teach nothing; every pair is let through so that each fold has some.
        patch.setattr(import_module("augmint.quality.agreement"), "threshold", lambda dices: 0.0)
        done = call("augment", cohort, "-o", out, "--copies", 1, "--folds", 2, *FIT)
    assert done.exit_code == 0, done.stderr
    return out


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def read(path: Path):
    return json.loads(path.read_text())


def content(folder: Path) -> dict[str, bytes]:
    parts = (
        "imagesTr",
        "labelsTr",
        "rejected",
        "manifest.csv",
        "splits_final.json",
        "run/config.yaml",
    )
    paths = [p for part in parts for p in [folder / part, *(folder / part).rglob("*")]]
    files = [p for p in paths if p.is_file() and p.name != "run.json"]  # it holds times
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_new_masks_are_drawn_and_asked_for(cohort: Path, tmp_path: Path):
    out, more = tmp_path / "out", tmp_path / "more"
    small = ("--set", "label_stem=2", "--set", "label_network=tiny", "--set", "label_steps=2")
    done = call("augment", cohort, "-o", out, "--copies", 1, "--ask", "LV area > p95", *small, *FIT)
    assert done.exit_code == 0, done.stderr
    rows = [r for r in rows_of(out) if r["synthetic"] == "1"]
    assert {r["mask_to_image.masks"] for r in rows} == {"generated"}
    assert {r["evaluations"] for r in rows} == {"8"}
    assert all(0.95 <= float(r["mask_to_image.asked_LV"]) <= 1 for r in rows)
    # The fitted networks draw others without a new fit.
    done = call("generate", out / "run", cohort, "-o", more, "--ask", "RV area < p10")
    assert done.exit_code == 0, done.stderr
    made = [r for r in rows_of(more) if r["synthetic"] == "1"]
    assert all(0 <= float(r["mask_to_image.asked_RV"]) <= 0.1 for r in made)
    masks = [nibabel.load(more / "labelsTr" / f"{r['case']}.nii.gz") for r in made]
    real = nibabel.load(next((cohort / "labelsTr").iterdir()))
    assert all(m.shape == real.shape for m in masks)
    done = call("generate", "warped_pairs", cohort, "-o", tmp_path / "w", "--ask", "LV area > p5")
    assert done.exit_code == 2
    assert "no field" in done.stderr


def test_everything_of_a_synthetic_dataset_is_there(made: Path):
    for name in (
        "dataset.json", "imagesTr", "labelsTr", "manifest.csv", "run.json", "datalist.json",
        "splits_final.json", "cases.csv", "report.html", "sheets", "rejected", "run/config.yaml",
        "run/run.json", "run/metrics.jsonl", "run/checkpoints/best", "run/checkpoints/last",
    ):  # fmt: skip
        assert (made / name).exists(), name
    assert not made.with_name(made.name + ".partial").exists()
    assert not (made / ".work").exists()
    rows = rows_of(made)
    accepted = [r for r in rows if r["accepted"] == "1"]
    assert len(rows) == 8 + 2 * 6
    assert read(made / "dataset.json")["numTraining"] == len(accepted)
    for row in rows:
        where = made if row["accepted"] == "1" else made / "rejected"
        assert (where / "imagesTr" / f"{row['case']}_0000.nii.gz").is_file()
        assert (where / "labelsTr" / f"{row['case']}.nii.gz").is_file()
        assert (row["accepted"] == "1") == (row["reason"] == "")


def test_nothing_was_made_from_held_back_patients(made: Path):
    held = set(read(made / "run.json")["held_back_patients"])
    assert len(held) == 1
    assert not any(r["patient"] in held for r in rows_of(made) if r["synthetic"] == "1")
    (entry,) = read(made / "run.json")["folds"]
    assert not held & {*entry["generator_patients"], *entry["gate_patients"]}
    (split,) = read(made / "splits_final.json")
    assert {c.rpartition("_")[0] for c in split["val"]} == held


def test_real_cases_are_copied_byte_for_byte(cohort: Path, made: Path):
    for path in [*(cohort / "imagesTr").iterdir(), *(cohort / "labelsTr").iterdir()]:
        assert (made / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_synthetic_cases_lie_on_the_grid_of_their_source(made: Path):
    row = next(r for r in rows_of(made) if r["synthetic"] == "1")
    where = made if row["accepted"] == "1" else made / "rejected"
    new = nibabel.load(where / "imagesTr" / f"{row['case']}_0000.nii.gz")
    source = nibabel.load(made / "imagesTr" / f"{row['source_case']}_0000.nii.gz")
    assert new.shape == source.shape
    assert new.get_data_dtype() == source.get_data_dtype()
    assert np.allclose(new.affine, source.affine)


def test_a_killed_run_goes_on_to_the_same_bytes(
    cohort: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    generate = import_module("augmint.generate")
    write, calls = generate.write_case, []

    def killed(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return write(*arguments, **keywords)

    out = tmp_path / made.name
    asked = ("augment", cohort, "-o", out, "--copies", 2, *FIT)
    monkeypatch.setattr(generate, "write_case", killed)
    assert call(*asked).exit_code == 130
    monkeypatch.setattr(generate, "write_case", write)
    assert not out.exists()
    assert len(list((tmp_path / f"{out.name}.partial/.work/rows").iterdir())) == 4
    refused = call(*asked)
    assert refused.exit_code == 2
    assert "--continue" in refused.stderr
    other = call(*asked, "--continue", "--seed", 1)
    assert other.exit_code == 2
    done = call(*asked, "--continue", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["synthetic"] == 12
    assert content(out) == content(made)


def test_no_fold_trains_on_what_saw_its_validation_patients(cohort: Path, folded: Path):
    splits, run, rows = (
        read(folded / "splits_final.json"),
        read(folded / "run.json"),
        rows_of(folded),
    )
    patient = {r["case"]: r["patient"] for r in rows}
    made = {r["case"]: r for r in rows if r["synthetic"] == "1"}
    assert len(splits) == len(run["folds"]) == 2
    assert run["held_back_patients"] == []
    for k, (split, entry) in enumerate(zip(splits, run["folds"])):
        validation = {patient[c] for c in split["val"]}
        assert entry["fold"] == k
        assert not any(c in made for c in split["val"])
        assert set(entry["validation_patients"]) == validation
        own = [c for c in split["train"] if c in made]
        assert {made[c]["fold"] for c in own} == {str(k)}
        assert len(own) == 4
        assert not validation & {patient[c] for c in split["train"]}
        seen = {*entry["generator_patients"], *entry["gate_patients"]}
        seen |= set(read(folded / f"run/fold_{k}/run.json")["generator_patients"])
        seen |= set(read(folded / f"run/fold_{k}/gate/gate.json")["patients"])
        assert seen == set(patient.values()) - validation
    held = [c for split in splits for c in split["val"]]
    assert sorted(held) == sorted(c for c in patient if c not in made)
    listed = read(folded / "datalist.json")["training"]
    assert {e["fold"] for e in listed} == {0, 1}


def test_a_fold_is_trained_on_its_own_cases(folded: Path, tmp_path: Path):
    assert call("segment", folded, "-o", tmp_path / "r", *FIT).exit_code == 2
    done = call("segment", folded, "--fold", 1, "-o", tmp_path / "r", *FIT)
    assert done.exit_code == 0, done.stderr
    run = read(tmp_path / "r" / "run.json")
    assert run["counts"] == {"real": 4, "synthetic": 4, "validation": 4}
    assert (
        run["validation_patients"] == read(folded / "run.json")["folds"][1]["validation_patients"]
    )


def test_segment_refuses_a_generator_that_saw_the_validation_patients(folded: Path, tmp_path: Path):
    wrong = tmp_path / "out"
    shutil.copytree(folded, wrong)
    run = read(wrong / "run.json")
    run["folds"][0]["gate_patients"].append(run["folds"][0]["validation_patients"][0])
    (wrong / "run.json").write_text(json.dumps(run))
    done = call("segment", wrong, "--fold", 0, "-o", tmp_path / "r", *FIT, "--json")
    assert done.exit_code == 2
    assert "leak" in json.loads(done.stdout)["error"]
    assert list(tmp_path.iterdir()) == [wrong]


def test_segment_refuses_cases_of_another_fold(folded: Path, tmp_path: Path):
    wrong = tmp_path / "out"
    shutil.copytree(folded, wrong)
    rows = rows_of(wrong)
    for row in rows:
        row["fold"] = "0" if row["synthetic"] == "1" else ""
    with (wrong / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = call("segment", wrong, "--fold", 0, "-o", tmp_path / "r", *FIT)
    assert done.exit_code == 2
    assert "leak" in done.stderr


def test_segment_refuses_to_validate_on_patients_that_the_generator_saw(
    cohort: Path, tmp_path: Path
):
    assert call("fit", cohort, "-o", tmp_path / "fit", *FIT).exit_code == 0
    done = call("generate", tmp_path / "fit", cohort, "-o", tmp_path / "g", "--copies", 1, "--json")
    assert json.loads(done.stdout)["counts"] == {
        "real": 8, "synthetic": 8, "accepted": 8, "rejected": 0,
    }  # fmt: skip
    done = call("segment", cohort, tmp_path / "g", "--validation", 1, "-o", tmp_path / "r", *FIT)
    assert done.exit_code == 2
    assert "leak" in done.stderr
    done = call("segment", cohort, tmp_path / "g", "-o", tmp_path / "r", *FIT)
    assert done.exit_code == 0, done.stderr
    assert read(tmp_path / "r" / "run.json")["counts"]["synthetic"] == 8


def test_shards_are_the_parts_of_the_whole(cohort: Path, tmp_path: Path):
    assert call("fit", cohort, "-o", tmp_path / "fit", *FIT).exit_code == 0
    common = ("generate", tmp_path / "fit", cohort, "--copies", 1, "--patients", 2, "--quiet")
    assert call(*common, "-o", tmp_path / "all").exit_code == 0
    whole = {p.name: p.read_bytes() for p in (tmp_path / "all" / "imagesTr").glob("*__s0*")}
    parts = {}
    for i in range(2):
        assert call(*common, "-o", tmp_path / f"part{i}", "--shard", f"{i}/2").exit_code == 0
        new = {p.name: p.read_bytes() for p in (tmp_path / f"part{i}/imagesTr").glob("*__s0*")}
        assert not set(parts) & set(new)
        parts.update(new)
    assert len(whole) == 4
    assert parts == whole


def test_a_runs_config_repeats_it(made: Path, tmp_path: Path):
    patients = ",".join(read(made / "run" / "run.json")["generator_patients"])
    config = made / "run" / "config.yaml"
    done = call("fit", "--config", config, "-o", tmp_path / "r", "--patients", patients)
    assert done.exit_code == 0, done.stderr
    assert read(tmp_path / "r/run.json")["networks"] == read(made / "run/run.json")["networks"]


def test_demo_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from augmint import demo

    small = dict(patients=2, copies=1, preset="tiny")
    augment = import_module("augmint.augment")
    kept = augment.synthesise

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(augment, "synthesise", stop)
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "demo", **small)
    monkeypatch.setattr(augment, "synthesise", kept)
    made = demo(tmp_path / "demo", **small)
    assert (made / "report.html").is_file()
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"phantoms", "synthetic"}
    assert demo(tmp_path / "demo", **small) == made


def spoiled(cohort: Path, folder: Path) -> tuple[Path, Path, Path]:
    """A copy of the cohort, with the image and mask of its first case."""
    shutil.copytree(cohort, folder)
    image = sorted((folder / "imagesTr").iterdir())[0]
    return folder, image, sorted((folder / "labelsTr").iterdir())[0]


def rewrite(path: Path, value: float, kind: str) -> None:
    stored = nibabel.load(path)
    array = np.asarray(stored.dataobj).astype(kind)
    array[3, 4, 1] = value
    nibabel.save(nibabel.Nifti1Image(array, stored.affine), path)


@pytest.mark.parametrize("what", ["truncated", "label", "nan"])
def test_a_bad_case_is_named_and_leaves_no_output(what: str, cohort: Path, tmp_path: Path):
    data, image, mask = spoiled(cohort, tmp_path / "data")
    if what == "truncated":
        image.write_bytes(image.read_bytes()[:200])
    elif what == "label":
        rewrite(mask, 9, "uint8")
    else:
        rewrite(image, np.nan, "float32")
    done = call("augment", data, "-o", tmp_path / "out", "--copies", 1, *FIT, "--hold-back", 0)
    assert done.exit_code == 2
    assert (mask if what == "label" else image).name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    problems = json.loads(call("inspect", data, "--json").stdout)["problems"]
    assert any((mask if what == "label" else image).name in p for p in problems)


def test_truncated_means_gzip_cannot_read_it(cohort: Path, tmp_path: Path):
    _, image, _ = spoiled(cohort, tmp_path / "data")
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(EOFError), gzip.open(image) as stream:
        stream.read()
