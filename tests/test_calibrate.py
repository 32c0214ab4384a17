"""Strengths learned on patients whom no network saw."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import yaml

from augmint import AugmintError, fit, open_dataset
from augmint.calibrate import (
    WEIGHTS,
    _Watched,
    evaluations_to_calibrate,
    patients_for_calibration,
)
from augmint.data.phantoms import make_phantoms
from augmint.fit import load_run
from augmint.imaging.working import WorkingGrid
from augmint.methods import DatasetFacts, is_calibrated
from augmint.methods.reference_shift import ReferenceShift
from augmint.methods.shift_strength import LEVELS, load_calibration
from augmint.methods.shift_walk import PLAIN, TOWARDS
from augmint.presets import PRESETS
from augmint.progress import Talk
from augmint.segmentation.networks import Segmenter, SegmenterSpec

QUIET = Talk(quiet=True)
SETTINGS = {"network": "tiny", "num_steps": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "data"
    return make_phantoms("cine-mr", out=folder, patients=5, slices=3, size=32)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target") / "data"
    return make_phantoms("cine-mr", out=folder, vendor="B", patients=1, slices=3, size=32, seed=9)


@pytest.fixture(scope="module", autouse=True)
def little_work():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], gate_steps=2))
        patch.setattr(import_module("augmint.calibrate"), "WATCHED", 2)
        yield


def fitted(data, out, **options):
    settings = {**SETTINGS, **options.pop("settings", {})}
    return fit(
        data, out, method="reference_shift", preset="tiny", steps=2, settings=settings,
        device="cpu", talk=QUIET, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    """Who was shown to the denoiser and to the segmenter that watches contours."""
    return {}


@pytest.fixture(scope="module")
def run(source, target, seen, tmp_path_factory):
    fits, calibrates = import_module("augmint.fit"), import_module("augmint.calibrate")
    drawer, fit_segmenter = fits.drawer, calibrates.fit_segmenter

    def draws(spec, pool, unlabelled=None):
        seen["network"] = set(pool.patient_ids)
        return drawer(spec, pool, unlabelled)

    def segments(config, pool, **options):
        seen["watcher"] = set(pool.patient_ids)
        return fit_segmenter(config, pool, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "drawer", draws)
        patch.setattr(calibrates, "fit_segmenter", segments)
        return fitted(source, tmp_path_factory.mktemp("run") / "run", unlabelled=target)


def calibration_of(run):
    return load_calibration(run / "checkpoints" / "best" / "calibration")


def test_nobody_who_is_calibrated_on_was_fitted_on(run, seen, source, target):
    held = set(calibration_of(run).patients)
    everyone = set(open_dataset(source).patients)
    assert len(held) == 3
    assert seen["network"] == seen["watcher"] == everyone - held
    facts = json.loads((run / "run.json").read_text())
    assert set(facts["generator_patients"]) == everyone | set(open_dataset(target).patients)


def test_every_translator_is_measured_at_every_strength(run):
    found = calibration_of(run)
    assert set(found.movement) == set(TOWARDS)
    for name, rows in found.movement.items():
        assert [float(s) for s in rows] == list(WEIGHTS.get(name, LEVELS))
    assert set(found.strengths) == set(TOWARDS)
    for name, strength in found.strengths.items():
        assert strength == found.largest(name, 0.5)
    assert len(found.mean) == len(found.deviation) == len(LEVELS)
    assert all(d > 0 for d in found.deviation)
    assert found.limit > 0


def test_all_that_was_calibrated_is_strict_json(run):
    def never(word):
        pytest.fail(f"{word} is no JSON")

    names = {"run.json", "request.json", "config.json"}
    paths = [path for path in run.rglob("*.json") if path.name in names]
    assert run / "checkpoints" / "best" / "calibration" / "config.json" in paths
    for path in paths:
        json.loads(path.read_text(), parse_constant=never)


def test_a_fit_says_what_it_takes_unlabelled_images_for(source, target, tmp_path, capfd):
    settings = {**SETTINGS, "translator": "histogram"}
    fit(
        source, tmp_path / "run", method="reference_shift", preset="tiny", steps=2,
        settings=settings, device="cpu", unlabelled=target,
    )  # fmt: skip
    told = capfd.readouterr().err
    assert "reference_shift takes the 2 unlabelled cases for another scanner's than" in told


def test_other_weights_are_calibrated_anew(run, tmp_path, monkeypatch):
    module, asked = import_module("augmint.fit"), []
    monkeypatch.setattr(module, "calibrate", lambda *a, **k: asked.append(k["hashes"]))
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    stored = json.loads((run / "run.json").read_text())["networks"]
    same = {"image": stored["image"]}

    def calibrated(hashes):
        rest = (PRESETS["tiny"], 0, torch.device("cpu"), QUIET)
        return module._calibrate(None, {}, hashes, load_prepared, [], folder, *rest)

    load_prepared = SimpleNamespace(facts=load_run(run, device="cpu").facts)
    assert calibrated(same) == stored["calibration"]
    assert asked == []
    calibrated({"image": "other"})
    assert asked == [{"image": "other"}]
    path = folder / "checkpoints" / "best" / "calibration" / "config.json"
    facts = json.loads(path.read_text())
    assert facts["networks"] == same
    path.write_text(json.dumps(facts | {"networks": {"image": "other"}}))
    with pytest.raises(AugmintError, match=r"calibrated with other weights of image .*; fit again"):
        load_run(folder, device="cpu")


def test_the_hash_of_a_calibration_covers_the_look_of_the_source(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / "checkpoints" / "best" / "calibration" / "style.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(bytes(changed))
    one, two = (load_run(place, device="cpu").hashes for place in (run, folder))
    assert one["image"] == two["image"]
    assert one["calibration"] != two["calibration"]


def test_a_run_carries_its_calibration(run):
    loaded = load_run(run, device="cpu")
    assert loaded.facts.unlabelled == 6
    assert loaded.networks["calibration"].strengths == calibration_of(run).strengths
    assert set(loaded.hashes) == {"image", "calibration"}
    stored = json.loads((run / "run.json").read_text())["networks"]
    assert dict(loaded.hashes) == stored
    assert yaml.safe_load((run / "config.yaml").read_text())["facts"]["unlabelled"] == 6


@pytest.fixture(scope="module")
def control(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("control") / "run"
    return fitted(source, out, settings={"translator": "histogram"})


def test_without_a_network_only_controls_are_offered(control):
    found = calibration_of(control)
    assert set(found.movement) == set(PLAIN)
    assert found.mean == found.deviation == ()
    assert load_run(control, device="cpu").networks.keys() == {"calibration"}
    with pytest.raises(AugmintError, match="need another network"):
        load_run(control, settings={"translator": "sdedit"}, device="cpu")


def test_without_unlabelled_images_energy_is_not_offered(source, tmp_path):
    with pytest.raises(AugmintError, match=r"energy turns away .* --unlabelled TARGET"):
        fitted(source, tmp_path / "energy", settings={"translator": "energy"})
    assert not list(tmp_path.iterdir())
    run = fitted(source, tmp_path / "run")
    assert set(calibration_of(run).movement) == set(TOWARDS) - {"energy"}
    with pytest.raises(AugmintError, match=r"energy turns away .* --unlabelled TARGET"):
        load_run(run, settings={"translator": "energy", "strength": 0.3}, device="cpu")


def test_a_stop_before_the_calibration_is_gone_on_with(control, source, tmp_path, monkeypatch):
    out, module = tmp_path / "run", import_module("augmint.calibrate")
    save, segments = module.save_calibration, module.fit_segmenter

    def stops(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_calibration", stops)
    with pytest.raises(KeyboardInterrupt):
        fitted(source, out, settings={"translator": "histogram"})
    monkeypatch.setattr(module, "save_calibration", save)
    monkeypatch.setattr(module, "fit_segmenter", lambda *a, **k: pytest.fail("fitted twice"))
    fitted(source, out, settings={"translator": "histogram"}, resume=True)
    monkeypatch.setattr(module, "fit_segmenter", segments)
    assert load_run(out, device="cpu").hashes == load_run(control, device="cpu").hashes


def test_a_fit_that_goes_on_from_another_calibrates_on_nobody_whom_that_saw(
    control, source, tmp_path
):
    settings = {"translator": "histogram"}
    with pytest.raises(AugmintError, match="whom this fit keeps to calibrate on; give the same"):
        fitted(source, tmp_path / "other", settings=settings, init=control, seed=3)
    assert not list(tmp_path.iterdir())
    again = fitted(source, tmp_path / "same", settings=settings, init=control)
    assert calibration_of(again).patients == calibration_of(control).patients


def test_a_mere_folder_of_images_joins_a_fit(source, target, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(target / "imagesTr", folder)
    settings = {"translator": "histogram"}
    run = fitted(source, tmp_path / "run", settings=settings, unlabelled=folder)
    assert load_run(run, device="cpu").facts.unlabelled == 6


def test_who_is_kept():
    names = [f"p{k:02d}" for k in range(40)]
    held = patients_for_calibration(names * 2, 0)
    assert len(held) == 8
    assert set(held) < set(names)
    assert held == patients_for_calibration(names[::-1], 0)
    assert held != patients_for_calibration(names, 1)
    assert len(patients_for_calibration(names[:5], 0)) == 3


def test_too_few_patients_are_refused_before_anything_is_fitted(source, tmp_path):
    with pytest.raises(AugmintError, match="got 4; give more training patients"):
        fitted(source, tmp_path / "run", patients=4)
    assert not list(tmp_path.iterdir())


class Bright(torch.nn.Module):
    """Sees a label wherever an image is bright."""

    def forward(self, image):
        return torch.cat([-image, image], 1) * 9


def test_contours_move_in_pixels_of_the_stored_image(source):
    device, sees = torch.device("cpu"), Segmenter(SegmenterSpec("unet", 2, 1, 2, 8), Bright(), 1)
    grid = WorkingGrid(2, (16, 16), (16, 16), longest=16)
    facts = DatasetFacts(1, {"background": 0, "bright": 1}, ("bright",), grid)
    case = next(iter(open_dataset(source)))
    image = torch.full((1, 32, 32, 1), -1.0)
    image[:, 10:20, 12:24] = 1
    native = replace(case.grid, shape=(32, 32, 1))
    working = grid.to_working(replace(case, image=image, mask=None, grid=native))
    watched = _Watched.of(working, native, sees, facts, device)
    assert watched.pixel == (2.0, 2.0)
    assert watched.moved(working, sees, device) == 0
    aside = replace(working, image=working.image.roll(1, 1))
    assert 0.5 < watched.moved(aside, sees, device) < 2
    gone = replace(working, image=torch.full_like(working.image, -1.0))
    # A contour of 10 by 12 stored pixels lies about 5 from its centre.
    assert watched.moved(gone, sees, device) == pytest.approx(5.0, abs=1.0)
    nothing = _Watched.of(gone, native, sees, facts, device)
    assert nothing.moved(gone, sees, device) is None


@pytest.mark.parametrize("translator", ["sdedit", "histogram"])
def test_evaluations_of_a_calibration_are_those_that_it_makes(source, tmp_path, translator):
    """Every pass of the network over a plane counts; the fit's own steps do not."""
    module, passes = import_module("augmint.calibrate"), []
    measure = module.calibrate

    def counting(method, networks, *rest, **more):
        for network in networks.values():
            network.register_forward_hook(lambda net, given, out: passes.append(len(out)))
        return measure(method, networks, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("augmint.fit"), "calibrate", counting)
        fitted(source, tmp_path / "run", settings={"translator": translator, "batch_size": 3})
    method = load_run(tmp_path / "run").method
    held = load_calibration(tmp_path / "run" / "checkpoints" / "best" / "calibration").patients
    data = open_dataset(source)
    cases = len(data.select(patients=list(held)))
    slices = data.load(data.items[0]).grid.shape[-1]
    expected = slices * evaluations_to_calibrate(method, cases, unlabelled=False)
    assert sum(passes) == expected
    assert (expected > 0) == (translator == "sdedit")


def test_styles_need_no_calibration():
    assert not is_calibrated(ReferenceShift(translator="styles"))
    assert is_calibrated(ReferenceShift(translator="histogram"))
