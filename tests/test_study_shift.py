"""Studies that shift test images towards the training domain before they are segmented."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.progress import Talk
from augmint.study import study
from augmint.study.estimate import hours_of
from augmint.study.plan import plan_study
from augmint.study.spec import Study, read_study
from augmint.study.units import Plan

FILE = """\
name: toy
data: train
tests:
  - {name: other, data: other}
protocol: adaptation
arms:
  stack: {}
  histogram: {like: stack, adapt: {settings: {translator: histogram}, steps: 2}}
  twice: {like: stack, adapt: {settings: {strength: 0.3}, steps: 2, repeats: 2}}
  energy:
    like: stack
    adapt: {settings: {translator: energy, strength: 0.3}, steps: 2, unlabelled: other}
baseline: stack
endpoint: {test: other}
seeds: [0]
preset: tiny
segmenter_steps: 2
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shifts")
    for name, vendor, patients in (("train", "A", 5), ("other", "C", 2)):
        make_phantoms(
            "cine-mr", out=folder / name, vendor=vendor, patients=patients, slices=3, size=32
        )
    (folder / "study.yaml").write_text(FILE)
    return folder


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return plan_study(read_study(base / "study.yaml"), base)


@pytest.fixture(scope="module")
def done(base: Path) -> Path:
    return study(base / "study.yaml", base / "out", talk=Talk(quiet=True))


def test_arms_share_a_training_and_what_needs_no_new_fit(plan: Plan):
    assert plan.count("train") == 1
    assert plan.count("fit") == 2  # with images of the test and without
    assert plan.count("adapt") == 3
    assert plan.count("evaluate") == 4


def test_each_seed_may_have_a_shift_of_its_own(base: Path, plan: Plan):
    path = base / "seeds.yaml"
    path.write_text(FILE.replace("seeds: [0]", "seeds: [0, 1]"))
    shared = plan_study(read_study(path), base)
    assert set(plan.units) < set(shared.units)
    assert (shared.count("fit"), shared.count("adapt")) == (2, 3)
    path.write_text(path.read_text() + "generator_seeds: each\n")
    own = plan_study(read_study(path), base)
    assert (own.count("fit"), own.count("adapt")) == (4, 6)
    for cell in own.cells:
        if cell.arm != "stack":
            shifted = own.units[own.units[cell.unit].arguments["shifted"]].arguments
            assert shifted["seed"] == own.units[shifted["run"]].arguments["seed"] == cell.seed


def test_only_a_study_that_says_so_may_see_test_images(base: Path):
    told = FILE.replace("protocol: adaptation", "protocol: generalisation")
    for text in (told, FILE.replace("protocol: adaptation\n", "")):
        path = base / "blind.yaml"
        path.write_text(text)
        with pytest.raises(AugmintError, match=r"sees them.*protocol: adaptation"):
            read_study(path)


def test_unlabelled_images_are_those_of_a_test(base: Path):
    path = base / "unknown.yaml"
    path.write_text(FILE.replace("unlabelled: other", "unlabelled: elsewhere"))
    with pytest.raises(AugmintError, match="'elsewhere' is no test; tests: other"):
        read_study(path)


def test_a_method_that_cannot_adapt_is_told(base: Path):
    path = base / "faulty.yaml"
    path.write_text(FILE.replace("{settings: {translator: histogram}", "{method: warped_pairs"))
    with pytest.raises(AugmintError, match="warped_pairs cannot adapt images"):
        read_study(path)


def test_fields_that_say_nothing_leave_the_protocol_as_it_was(base: Path):
    plain = read_study(base / "study.yaml").model_dump(mode="json")
    plain["arms"] = {"stack": plain["arms"]["stack"]}
    plain["protocol"] = None
    one = Study.model_validate(plain)
    del plain["protocol"], plain["arms"]["stack"]["adapt"]
    assert Study.model_validate(plain).hash == one.hash
    assert Study.model_validate({**plain, "protocol": "adaptation"}).hash != one.hash


def test_the_unlabelled_fit_sees_the_test_without_its_labels(base: Path, monkeypatch):
    fit_module, runner = import_module("augmint.fit"), import_module("augmint.study.run")
    seen = {}
    monkeypatch.setattr(fit_module, "fit", lambda data, out, **more: seen.update(more))
    plan = plan_study(read_study(base / "study.yaml"), base)
    units = [u for u in plan.units.values() if u.kind == "fit" and u.arguments["unlabelled"]]
    runner._fit(units[0], base, base / "nowhere", "cpu", Talk(quiet=True))
    assert len(seen["unlabelled"]) == 4
    assert not any(item.masks for item in seen["unlabelled"].items)


def test_every_arm_is_scored_on_its_own_images(base: Path, done: Path, plan: Plan):
    outcomes = {o["key"]: o for o in json.loads((done / "outcomes.json").read_text())}
    assert [o["status"] for o in outcomes.values()] == ["done"] * len(plan.units)
    plain = open_dataset(base / "other")
    looks = {}
    for cell in plan.cells:
        unit = plan.units[cell.unit]
        request = json.loads((done / unit.folder / "summary.json").read_text())["request"]
        looks[cell.arm] = len(request.get("looks", ()))
        if cell.arm == "stack":
            assert Path(request["data"]) == plain.root.resolve()
            continue
        shifted = open_dataset(request["data"])
        assert shifted.name == plain.name
        before, after = plain.load(plain.items[0]), shifted.load(shifted.items[0])
        assert not np.allclose(before.image, after.image, atol=0.01)
        assert (before.mask == after.mask).all()
    # The second translation, and the image as it was.
    assert looks == {"stack": 0, "histogram": 0, "twice": 2, "energy": 0}


def test_the_report_says_how_images_were_shifted(done: Path):
    text = (done / "report.md").read_text()
    assert 'test images shifted by reference_shift {"translator": "histogram"}' in text
    assert "2 times" in text
    assert "fitted with images of other too" in text


def test_hours_of_calibrations_are_counted(plan: Plan, monkeypatch):
    asked = []

    def fitting(data, out, *, unlabelled, **rest):
        asked.append(unlabelled)
        return {"steps": 2, "dims": 2, "minutes": {"fit": 0.0, "calibrate": 6.0, "total": 6.0}}

    module = import_module("augmint.study.estimate")
    monkeypatch.setattr(module, "plan_fit", fitting)
    told = hours_of(plan, device="cpu", talk=Talk(quiet=True))
    assert sorted(asked) == [False, True]
    assert told["hours"]["fit"] == pytest.approx(0.2)


def test_hours_of_fits_and_shifts_are_counted(plan: Plan):
    told = hours_of(plan, device="cpu", talk=Talk(quiet=True))
    assert told["units"]["fit"] == 2
    assert told["units"]["adapt"] == 3
    assert told["hours"]["fit"] > 0
    assert told["hours"]["adapt"] > 0
