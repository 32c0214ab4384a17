"""Images of another scanner: what is shifted, what is kept, and what is never read."""

import csv
import json
import shutil
from dataclasses import replace
from importlib import import_module

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from augmint import AugmintError, evaluate, generate, open_dataset, segment
from augmint.adapt import adapt
from augmint.adapt_request import read_request
from augmint.cli import app
from augmint.data.images import read_image, read_mask
from augmint.data.phantoms import make_phantoms
from augmint.data.splits import without_labels
from augmint.diffusion.checkpoint import save_network
from augmint.diffusion.training import TrainingConfig
from augmint.fit import load_run, write_run
from augmint.imaging.style import measure_style
from augmint.methods.reference_shift import ReferenceShift
from augmint.methods.shift_planes import denoising_errors, on_window
from augmint.methods.shift_strength import LEVELS, Calibration, save_calibration
from augmint.methods.shift_walk import PLAIN
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.segment import load_segmenter_run
from augmint.segmentation.cases import predict_case
from test_methods import networks_of

QUIET = Talk(quiet=True)
SMALL = {"device": "cpu", "talk": QUIET}
METHOD = ReferenceShift(network="tiny", num_steps=1, batch_size=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "data"
    return make_phantoms("cine-mr", out=folder, patients=1, slices=3, size=32)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Two patients of another scanner, with headers of their own."""
    folder = tmp_path_factory.mktemp("target") / "data"
    make_phantoms("cine-mr", out=folder, vendor="B", patients=2, slices=3, size=32, seed=5)
    for path in (folder / "imagesTr").iterdir():
        image = nibabel.load(path)
        header = image.header.copy()
        header["descrip"] = b"scanner B"
        header["cal_max"] = 77
        turned = image.affine @ np.diag([-1, 1, 1, 1])
        new = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, header)
        new.set_sform(turned, code=1)
        new.set_qform(turned, code=2)
        new.header["pixdim"][4] = 2.5
        nibabel.save(new, path)
    return folder


def facts_and_errors(source, target):
    prepared = prepare(open_dataset(source), preset_named("tiny"))
    networks = networks_of(METHOD, prepared.facts)
    cases = [prepared.facts.grid.to_working(case) for case in open_dataset(target)]
    return prepared, networks, denoising_errors(networks, cases, prepared.facts, 4)


@pytest.fixture(scope="module")
def run(source, target, tmp_path_factory):
    """A run as a fit leaves it, of random weights, to whom the first patient looks familiar."""
    folder = tmp_path_factory.mktemp("run") / "run"
    prepared, networks, errors = facts_and_errors(source, target)
    # A patient has two volumes of three slices.
    familiar = torch.tensor(errors[:2], dtype=torch.float64).mean(0).log()
    best = folder / "checkpoints" / "best"
    digest = save_network(best / "image", networks["image"])
    window = on_window(prepared.facts.grid.to_working(next(iter(open_dataset(source)))),
                       prepared.facts)  # fmt: skip
    allowed = {f"{level:g}": 0.1 for level in LEVELS}
    movement = {"sdedit": allowed, "ilvr": allowed} | {t: {"0.5": 0.1} for t in PLAIN}
    save_calibration(
        best / "calibration",
        Calibration(
            tuple(familiar.tolist()), (1e-4,) * len(LEVELS), 2.0, dict.fromkeys(movement, 0.5),
            movement, ("a", "b"), measure_style([window.image.movedim(-1, 0)]),
        ),
    )  # fmt: skip
    request = {"method": "reference_shift", "data": str(source), "seed": 0}
    write_run(
        folder, request, METHOD, prepared, TrainingConfig(), {"image": digest}, 0.0,
        torch.device("cpu"),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def made(run, target, tmp_path_factory):
    return adapt(run, target, tmp_path_factory.mktemp("made") / "OUT", **SMALL)


def rows_of(out):
    with (out / "adapt.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def content(out, *parts):
    names = parts or ("imagesTr", "imagesTs", "labelsTr", "predictions", "adapt.csv", "cases.csv",
                      "dataset.json")  # fmt: skip
    paths = [p for name in names for p in [out / name, *(out / name).rglob("*")]]
    return {str(p.relative_to(out)): p.read_bytes() for p in paths if p.is_file()}


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_who_looks_like_the_source_keeps_his_files_byte_by_byte(made, target):
    rows = rows_of(made)
    patients = open_dataset(target).patients
    assert [r["case"] for r in rows] == [i.case_id for i in open_dataset(target).items]
    for row in rows:
        same = [
            (made / "imagesTr" / f"{row['case']}_0000.nii.gz").read_bytes()
            == (target / "imagesTr" / f"{row['case']}_0000.nii.gz").read_bytes()
        ]
        untouched = row["patient"] == patients[0]
        assert same == [untouched]
        assert (float(row["strength"]) == 0) == untouched
        assert (float(row["mean_change"]) == 0) == untouched
        assert int(row["evaluations"]) == 3 * (len(LEVELS) + (not untouched))
        assert row["walk"] == ("" if untouched else f"multistep 1 from {row['strength']}")
        assert all(float(row[f"error_{level:g}"]) > 0 for level in LEVELS)
        # Of the source's are those within two deviations; half a level of noise is not enough here.
        assert (abs(float(row["deviation"])) <= 2) == untouched
        assert int(row["still_foreign"]) == (not untouched)
    # Both volumes of a patient are judged as one.
    assert len({(r["patient"], r["strength"]) for r in rows}) == 2


def test_masks_are_copied_and_never_looked_at(made, run, target, tmp_path):
    assert content(made, "labelsTr") == content(target, "labelsTr")
    other = tmp_path / "other"
    shutil.copytree(target, other)
    for path in (other / "labelsTr").iterdir():
        mask = nibabel.load(path)
        wrong = np.asanyarray(mask.dataobj)[::-1].copy()
        nibabel.save(nibabel.Nifti1Image(wrong, mask.affine), path)
    again = adapt(run, other, tmp_path / "OUT", **SMALL)
    assert content(again, "imagesTr", "adapt.csv") == content(made, "imagesTr", "adapt.csv")
    assert content(again, "labelsTr") == content(other, "labelsTr")
    bare = without_labels(open_dataset(target))
    assert all(case.mask is None for case in bare)


def test_geometry_and_header_are_those_of_the_target(made, target):
    for row in rows_of(made):
        name = f"{row['case']}_0000.nii.gz"
        new, old = nibabel.load(made / "imagesTr" / name), nibabel.load(target / "imagesTr" / name)
        assert np.array_equal(new.affine, old.affine)
        assert new.get_data_dtype() == old.get_data_dtype()
        assert np.linalg.det(new.affine[:3, :3]) < 0
        for key in ("qform_code", "sform_code", "descrip", "pixdim", "cal_max", "xyzt_units"):
            assert np.array_equal(new.header[key], old.header[key]), key
        assert np.array_equal(new.get_qform(), old.get_qform())


def test_the_folder_tells_what_was_done(made, run, target):
    facts = json.loads((made / "run.json").read_text())
    assert facts["method"] == "reference_shift"
    assert facts["shifted"] == facts["still_foreign"] == 2
    assert facts["limit"] == 2.0
    assert facts["target_patients_of_the_source"] == []
    assert facts["target_patients_seen_otherwise"] == []
    assert facts["evaluations"] == sum(int(r["evaluations"]) for r in rows_of(made))
    assert facts["most_evaluations_of_a_patient"] == 2 * 3 * (len(LEVELS) + 1)
    assert facts["networks"] == dict(load_run(run, device="cpu").hashes)
    assert (made / "sheets" / "adapt.png").stat().st_size > 1000
    assert not (made / ".work").exists()
    assert not (made / "predictions").exists()
    again = open_dataset(made)
    before = open_dataset(target)
    assert (again.labels, again.annotated) == (before.labels, before.annotated)
    assert (again.patients, again.domains) == (before.patients, before.domains)
    assert [i.case_id for i in again.items] == [i.case_id for i in before.items]
    assert not any(i.synthetic for i in again.items)


def test_a_stopped_run_goes_on_to_the_same_bytes(made, run, target, tmp_path, monkeypatch):
    module = import_module("augmint.adapt")
    write, calls = module.write_text, []

    def killed(path, text):
        # The patient's first volume is finished, his second one only half.
        if path.parent.name == "rows":
            calls.append(path)
            if len(calls) == 4:
                (path.parents[2] / "imagesTr" / ".half.1.tmp.nii.gz").write_bytes(b"half")
                raise KeyboardInterrupt
        write(path, text)

    out = tmp_path / made.name
    monkeypatch.setattr(module, "write_text", killed)
    asked = ("adapt", run, target, "-o", out, "--device", "cpu", "-q")
    assert call(*asked).exit_code == 130
    monkeypatch.undo()
    assert not out.exists()
    assert len(list((tmp_path / "OUT.partial" / ".work" / "rows").iterdir())) == 3
    refused = call(*asked)
    assert refused.exit_code == 2
    assert "--continue" in refused.stderr
    assert call(*asked, "--seed", 1, "--continue").exit_code == 2
    spent = tmp_path / "OUT.partial" / ".work" / "seconds.json"
    assert float(spent.read_text()) > 0
    spent.write_text("5000.0")
    done = call(*asked[:-1], "--continue")
    assert done.exit_code == 0, done.stderr
    assert content(out) == content(made)
    # Parts before a stop count.
    assert 5000 < json.loads((out / "run.json").read_text())["seconds"] < 5600
    assert "wrote 4 cases" in done.stderr
    assert (
        "2 shifted, 2 looked like the source and stayed as they were; 2 still look" in done.stderr
    )


def known(run, target, folder, **changes):
    facts = json.loads((run / "run.json").read_text()) | changes
    shutil.copytree(run, folder)
    (folder / "run.json").write_text(json.dumps(facts))
    return read_request(
        folder, target, settings=None, patients=None, segmenter=None, repeats=1, seed=0,
        device="cpu",
    ).known  # fmt: skip


def test_patients_whom_the_fit_has_seen_are_named(run, source, target, tmp_path):
    own = open_dataset(source)
    found = known(run, source, tmp_path / "own")
    assert found.source == own.patients
    (note,) = found.notes(1, "RUN", None)
    assert "1 of 1 target patients are patients of the source that RUN was fitted or " in note
    assert own.patients[0] in note
    # A mere folder may be a copy; a dataset of another name has patients of its own.
    shutil.copytree(source / "imagesTr", tmp_path / "copy")
    shutil.copy(source / "cases.csv", tmp_path / "copy")
    assert known(run, tmp_path / "copy", tmp_path / "bare").source == own.patients
    assert known(run, source, tmp_path / "apart", dataset="elsewhere").source == ()
    both = open_dataset(target).patients
    assert known(run, target, tmp_path / "none").source == ()
    seen = [*own.patients, both[1]]
    found = known(run, target, tmp_path / "more", generator_patients=seen)
    assert found.other == both[1:]
    assert "1 of 2 target patients were seen when RUN was fitted" in next(found.notes(2, "RUN", ""))


def test_patients_of_the_source_are_told_and_written_down(run, source, tmp_path):
    done = call("adapt", run, source, "-o", tmp_path / "OUT", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    (patient,) = open_dataset(source).patients
    assert (
        f"patients of the source that {run} was fitted or calibrated on ({patient})" in done.stderr
    )
    facts = json.loads((tmp_path / "OUT" / "run.json").read_text())
    assert facts["target_patients_of_the_source"] == [patient]


def test_patients_of_the_segmenter_are_named(run, source, segmenter, tmp_path):
    asked = read_request(
        run, source, settings=None, patients=None, segmenter=segmenter, repeats=1, seed=0,
        device="cpu",
    )  # fmt: skip
    assert asked.known.segmenter == open_dataset(source).patients
    assert "do not score the masks" in list(asked.known.notes(1, run, segmenter))[-1]


def strict(path):
    def never(word):
        pytest.fail(f"{path} holds {word}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=never)


def test_all_json_is_strict(made):
    names = {path.name for path in made.rglob("*.json") if strict(path) is not None}
    assert names == {"run.json", "dataset.json"}


def test_a_strength_that_is_set_asks_nobody(run, target, tmp_path):
    out = adapt(
        run, target, tmp_path / "OUT", settings={"strength": 0.3, "curve": "bezier"}, patients=1,
        **SMALL,
    )  # fmt: skip
    for row in rows_of(out):
        assert row["curve"] == "bezier"
        assert int(row["evaluations"]) == 3
        assert "deviation" not in row
    assert json.loads((out / "run.json").read_text())["still_foreign"] is None


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ((), (5, 6)),
        (("--repeats", 3), (5, 8)),
        (("--set", "curve=bezier"), (5, 11)),
        (("--set", "strength=0.3", "--set", "curve=bezier"), (1, 1)),
        (("--set", "translator=bezier"), (0, 0)),
    ],
)
def test_a_dry_run_counts_and_writes_nothing(run, target, made, tmp_path, options, each):
    done = call("adapt", run, target, "-o", tmp_path / "OUT", "--device", "cpu", "--dry-run",
                "--json", *options)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["cases"] == 4
    assert plan["patients"] == list(open_dataset(target).patients)
    # Four volumes of three slices, two for each patient.
    assert plan["evaluations"] == {"least": 12 * each[0], "most": 12 * each[1]}
    assert plan["most_evaluations_of_a_patient"] == 6 * each[1]
    assert plan["minutes"]["total"] > 0
    assert list(tmp_path.iterdir()) == []
    if not options:
        spent = json.loads((made / "run.json").read_text())["evaluations"]
        assert plan["evaluations"]["least"] <= spent <= plan["evaluations"]["most"]


def test_a_dry_run_says_so_in_words_and_counts_the_segmenter(run, target, segmenter, made):
    asked = ("adapt", run, target, "--device", "cpu", "--dry-run", "-q")
    done = call(*asked, "--segmenter", segmenter)
    assert "plan of `augmint adapt`" in done.stdout
    assert "nothing was written" in done.stdout
    assert "least 60, most 72" in done.stdout
    assert "segment" in done.stdout.splitlines()[-2]
    assert call(*asked, "-o", made).exit_code == 2


def test_a_patient_alone_is_shifted_as_among_others(made, run, target, tmp_path):
    patient = open_dataset(target).patients[1]
    alone = adapt(run, target, tmp_path / "OUT", patients=[patient], **SMALL)
    whole = content(made, "imagesTr")
    part = content(alone, "imagesTr")
    assert len(part) == 2
    assert part == {name: whole[name] for name in part}
    other = adapt(run, target, tmp_path / "two", patients=[patient], seed=1, **SMALL)
    assert content(other, "imagesTr") != part


@pytest.mark.parametrize("translator", ["ilvr", "histogram", "fourier", "bezier"])
def test_other_translators_need_no_new_fit(run, target, tmp_path, translator):
    out = adapt(
        run, target, tmp_path / "OUT", settings={"translator": translator}, patients=1, **SMALL
    )
    for row in rows_of(out):
        assert row["translator"] == translator
        assert (int(row["evaluations"]) == 0) == (translator in PLAIN)
        if translator in PLAIN:
            assert float(row["strength"]) == 0.5
            assert float(row["mean_change"]) > 0


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_mere_folder_of_volumes(made, run, target, tmp_path, ending):
    folder = tmp_path / "folder"
    folder.mkdir()
    names = [r["case"] for r in rows_of(made)]
    shutil.copy(target / "cases.csv", folder)
    for name in names:
        stored = nibabel.load(target / "imagesTr" / f"{name}_0000.nii.gz")
        nibabel.save(stored, folder / f"{name}{ending}")
    out = adapt(run, folder, tmp_path / "OUT", **SMALL)
    assert not (out / "labelsTr").exists()
    assert {p.name for p in (out / "imagesTs").iterdir()} == {f"{n}_0000.nii.gz" for n in names}
    for name in names:
        new, old = (
            nibabel.load(place / f"{name}_0000.nii.gz")
            for place in (out / "imagesTs", made / "imagesTr")
        )
        assert np.array_equal(np.asanyarray(new.dataobj), np.asanyarray(old.dataobj))
        assert np.array_equal(new.affine, old.affine)
        assert np.array_equal(new.header["descrip"], old.header["descrip"])
    assert len(open_dataset(out, split="test")) == len(names)


def test_a_mere_folder_of_pictures(run, source, target, tmp_path):
    """The run's working grid is in mm, of which pictures know nothing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 255, (40, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"subject{k}.png")
    with pytest.raises(AugmintError, match="'subject0' has no spacing"):
        adapt(run, folder, tmp_path / "mm", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    pixels = copy_run(run, tmp_path / "run")
    out = adapt(pixels, folder, tmp_path / "OUT", settings={"strength": 0.5}, **SMALL)
    for k in range(3):
        new = read_image(out / "imagesTs" / f"subject{k}_0000.png")[0]
        old = read_image(folder / f"subject{k}.png")[0]
        assert new.dtype == old.dtype
        assert new.shape == old.shape
        assert not np.array_equal(new, old)
    assert {r["patient"] for r in rows_of(out)} == {f"subject{k}" for k in range(3)}
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["spacing_known"] is False
    assert facts["numTraining"] == 0


def copy_run(run, folder):
    """The run, its working grid in pixels."""
    import yaml

    shutil.copytree(run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["facts"]["grid"] |= {"spacing_mm": None, "longest": 32}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def segmenter(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("segmenter") / "run"
    return segment(source, out, preset="tiny", steps=1, **SMALL)


def test_a_segmenter_averages_over_translations_and_the_original(
    run, made, target, segmenter, tmp_path
):
    out = adapt(run, target, tmp_path / "OUT", segmenter=segmenter, repeats=2, **SMALL)
    assert content(out, "imagesTr") == content(made, "imagesTr")
    names = sorted(path.name for path in (out / "imagesTr").iterdir())
    assert sorted(path.name for path in (out / "repeats" / "2").iterdir()) == names
    fitted, judge = load_run(run, device="cpu"), load_segmenter_run(segmenter)
    grid = fitted.facts.grid
    natives = list(without_labels(open_dataset(target)))
    stream = fitted.method.adapt(
        fitted.networks, map(grid.to_working, natives), fitted.facts, seed=0, copies=2
    )
    rows = {r["case"]: r for r in rows_of(out)}
    for native, own in zip(natives, stream):
        looks = [fitted.method.to_native(new, native, grid) for new in own]
        if len(looks) > 1:
            assert not torch.equal(looks[0].image, looks[1].image)
            looks.append(native)
        wanted = predict_case([judge.network], looks[0], judge.grid, looks=looks[1:])
        name = f"{native.case_id}.nii.gz"
        found, affine, _ = read_mask(out / "predictions" / name)
        assert np.array_equal(found, wanted.numpy())
        assert np.allclose(affine, native.grid.affine)
        row = rows[native.case_id]
        shifted = bool(float(row["strength"]))
        assert int(row["repeats"]) == (2 if shifted else 1)
        assert int(row["evaluations"]) == 3 * (len(LEVELS) + 2 * shifted)
    labels = json.loads((out / "predictions" / "labels.json").read_text())
    assert labels == dict(judge.labels)


def test_an_evaluation_averages_over_repeats(run, target, segmenter, tmp_path):
    patient = open_dataset(target).patients[1]
    asked = {"patients": [patient], **SMALL}
    out = adapt(run, target, tmp_path / "OUT", segmenter=segmenter, repeats=2, **asked)
    done = call(
        "evaluate", segmenter, out, "-o", tmp_path / "scores", "--looks", out, "--looks", target,
        "--allow-same-names", "--device", "cpu", "-q", "--no-cardiac",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    facts = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert facts["request"]["looks"] == [str(p.resolve()) for p in (out / "repeats" / "2", target)]
    judge = load_segmenter_run(segmenter)
    places = (out / "imagesTr", out / "repeats" / "2", target / "imagesTr")
    for item in open_dataset(out).items:
        looks = [
            next(iter(open_dataset(place, bare=True).select(cases=[item.case_id])))
            for place in places
        ]
        wanted = predict_case([judge.network], looks[0], judge.grid, looks=looks[1:])
        found, _, _ = read_mask(tmp_path / "scores" / "predictions" / f"{item.case_id}.nii.gz")
        assert np.array_equal(found, wanted.numpy())
    # Of images as they were: every translation is a further look.
    scores = evaluate(
        segmenter, target, tmp_path / "others", looks=[out], cardiac=False, allow_same_names=True,
        **asked,
    )  # fmt: skip
    facts = json.loads((tmp_path / "others" / "summary.json").read_text())
    assert facts["request"]["looks"] == [str(p.resolve()) for p in (out, out / "repeats" / "2")]
    assert scores is not None


def test_looks_are_further_images_on_the_same_grid(made, target, segmenter, tmp_path):
    asked = {"cardiac": False, "allow_same_names": True, **SMALL}
    with pytest.raises(AugmintError, match=r"--looks .*there are no further ones; make some with"):
        evaluate(segmenter, made, tmp_path / "one", looks=[made], **asked)
    other = tmp_path / "other"
    shutil.copytree(target, other)
    for path in (other / "imagesTr").iterdir():
        stored = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(stored.dataobj)[:-2], stored.affine), path)
    with pytest.raises(AugmintError, match=r"lies on another grid in .*other"):
        evaluate(segmenter, made, tmp_path / "two", looks=[other], **asked)


def test_a_prediction_of_the_untouched_is_that_of_the_image(run, target, segmenter, tmp_path):
    patient = open_dataset(target).patients[0]
    out = adapt(run, target, tmp_path / "OUT", segmenter=segmenter, patients=[patient], **SMALL)
    judge = load_segmenter_run(segmenter)
    for native in open_dataset(target).select(patients=[patient]):
        found, _, _ = read_mask(out / "predictions" / f"{native.case_id}.nii.gz")
        assert np.array_equal(found, predict_case([judge.network], native, judge.grid).numpy())


def test_the_same_run_makes_source_like_images_of_labelled_references(run, target, tmp_path):
    out = generate(run, target, tmp_path / "OUT", copies=1, **SMALL)
    dataset = open_dataset(out)
    made = [item for item in dataset.items if item.synthetic]
    assert len(made) == 4
    for item in made:
        real = item.provenance.source_case
        place = (out / "labelsTr" / f"{name}.nii.gz" for name in (item.case_id, real))
        assert np.array_equal(*(read_mask(path)[0] for path in place))
        new = out / "imagesTr" / f"{item.case_id}_0000.nii.gz"
        old = out / "imagesTr" / f"{real}_0000.nii.gz"
        assert not np.array_equal(read_image(new)[0], read_image(old)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "--repeats must be 1 or more, got 0"),
        ({"patients": ["nobody"]}, "nobody"),
        ({"settings": {"translator": "energy"}}, "energy turns away .* --unlabelled TARGET"),
        ({"settings": {"translator": "inversion"}}, "inversion was not calibrated"),
        ({"settings": {"movement": 0.05}}, "more than 0.05 px at every strength; set strength"),
        ({"settings": {"network": "small"}}, "need another network"),
        (
            {"settings": {"translator": "histogram", "curve": "bezier"}},
            "curve=bezier goes before the walk .* histogram has none; set curve=none",
        ),
    ],
)
def test_wrong_requests_write_nothing(run, target, tmp_path, options, message):
    with pytest.raises(AugmintError, match=message):
        adapt(run, target, tmp_path / "OUT", **{**SMALL, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_adapt_is_refused(run, source, target, tmp_path):
    other = tmp_path / "other"
    prepared = prepare(open_dataset(source), preset_named("tiny"))
    write_run(
        other, {"method": "warped_pairs", "data": str(source), "seed": 0},
        import_module("augmint.methods").build_method("warped_pairs"), prepared, TrainingConfig(),
        {}, 0.0, torch.device("cpu"),
    )  # fmt: skip
    done = call("adapt", other, target, "-o", tmp_path / "OUT", "--device", "cpu")
    assert done.exit_code == 2
    assert "fitted with warped_pairs, which cannot adapt images" in done.stderr
    assert "augmint fit SOURCE --method reference_shift" in done.stderr
    assert not (tmp_path / "OUT").exists()


def test_an_existing_folder_is_not_touched(run, target, tmp_path):
    out = tmp_path / "OUT"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    done = call("adapt", run, target, "-o", out, "--device", "cpu")
    assert done.exit_code == 2
    assert "never overwritten" in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["OUT", "mine.txt"]


def test_images_of_other_channels_are_refused_by_name(run, target, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for path in (target / "imagesTr").iterdir():
        for channel in range(2):
            shutil.copy(path, folder / path.name.replace("_0000", f"_{channel:04d}"))
    with pytest.raises(AugmintError, match=r"has 2 channel\(s\), the run was fitted on 1; give"):
        adapt(run, folder, tmp_path / "OUT", **SMALL)


def test_synthetic_images_are_no_target(run, target, tmp_path):
    dataset = open_dataset(target)
    items = tuple(replace(i, synthetic=True) for i in dataset.items)
    with pytest.raises(AugmintError, match="every case is synthetic; adapt real images"):
        adapt(run, replace(dataset, items=items), tmp_path / "OUT", **SMALL)
    some = replace(dataset, items=(items[0], *dataset.items[2:]))
    out = adapt(run, some, tmp_path / "OUT", **SMALL)
    assert [r["case"] for r in rows_of(out)] == [i.case_id for i in dataset.items[2:]]


def test_all_that_is_told_of_a_case_stays(made, target):
    before, after = open_dataset(target), open_dataset(made)
    assert "phase" in before.items[0].columns
    assert [dict(i.columns) for i in after.items] == [dict(i.columns) for i in before.items]


def test_a_translator_without_a_network_needs_a_fit_too(target, tmp_path):
    with pytest.raises(AugmintError, match="reference_shift needs a fit"):
        generate(
            "reference_shift", target, tmp_path / "OUT", settings={"translator": "histogram"},
            preset="tiny", **SMALL,
        )  # fmt: skip
    assert not (tmp_path / "OUT").exists()
