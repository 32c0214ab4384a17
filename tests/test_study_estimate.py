"""How long a study takes, from a few measured steps."""

from pathlib import Path

import pytest

from augmint.data.phantoms import make_phantoms
from augmint.progress import Talk
from augmint.quality.validity_rules import read_rules
from augmint.segmentation.training import SegmenterConfig
from augmint.study import estimate
from augmint.study.estimate import estimate_study, in_words

STUDY = """\
name: toy
data: train
sizes: [2, all]
draws: 2
tests: [{name: other, data: other}]
arms:
  stack: {}
  long: {settings: {steps: 60}}
  wide: {settings: {width: 16}}
  few:
    synthetic: {method: mask_to_image, copies: 1, steps: 10, gate_steps: 10}
  many:
    synthetic: {method: mask_to_image, copies: 3, steps: 30}
baseline: stack
endpoint: {test: other}
seeds: [0]
preset: tiny
"""
QUIET = Talk(quiet=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    for name, seed in (("train", 0), ("other", 1)):
        make_phantoms(
            "cine-mr", out=folder / name, vendor="A", patients=4, seed=seed, slices=3, size=32
        )
    path = folder / "study.yaml"
    path.write_text(STUDY)
    return path


def test_units_scale_with_steps_patients_and_copies(file, monkeypatch):
    asked = []

    def generation(data, out, *, patients, copies, steps, **rest):
        asked.append((len(patients), copies, steps))
        minutes = {"fit": 2.0 * steps, "gate": 40.0, "generate": 5.0 * len(patients) * copies}
        return {"minutes": minutes, "steps": steps, "gate": {"steps": 20}, "dims": 2}

    def training(data, out, *, patients, settings, **rest):
        asked.append((len(patients), settings["width"]))
        steps = settings["steps"] or 20
        return {"minutes": {"total": 3.0 * steps}, "steps": steps, "dims": 2}

    monkeypatch.setattr(estimate, "plan_augment", generation)
    monkeypatch.setattr(estimate, "plan_segment", training)
    found = estimate_study(file, device="cpu", talk=QUIET)
    # One generation is measured, with the most patients, and one training of each width.
    assert [a[0] for a in asked] == [4, 4, 4]
    assert {a[1] for a in asked[1:]} == {None, 16}
    # Two draws of 2 patients and one of 4.
    fits = 3 * 2.0 * (10 + 30)
    gates = 3 * (20.0 + 40.0)
    cases = 5.0 * (2 + 2 + 4) * (1 + 3)
    trainings = 3 * 3.0 * (20 + 60 + 20 + 20 + 20)
    assert found["units"] == {"generate": 6, "train": 15, "evaluate": 15}
    assert found["hours"]["generate"] == pytest.approx((fits + gates + cases) / 60, abs=1e-3)
    assert found["hours"]["train"] == pytest.approx(trainings / 60, abs=1e-3)
    # 15 times the 8 cases of 3 slices of the 4 other patients, a third of a step for each image.
    image = 3.0 / SegmenterConfig().batch_size / 3
    evaluations = 15 * 8 * (3 * image + estimate.SCORING / 60)
    assert found["hours"]["evaluate"] == pytest.approx(evaluations / 60, abs=1e-3)
    assert found["total_hours"] == pytest.approx(sum(found["hours"].values()), abs=2e-3)


def test_the_search_for_copies_is_that_of_units_with_the_gate(tmp_path, monkeypatch):
    make_phantoms("cine-mr", out=tmp_path / "train", patients=6, slices=3, size=32)
    make_phantoms("cine-mr", out=tmp_path / "other", patients=2, seed=1, slices=3, size=32)
    file = tmp_path / "study.yaml"
    file.write_text(
        STUDY.replace("sizes: [2, all]", "sizes: [5, all]").replace(
            "copies: 3, steps: 30}", "copies: 3, steps: 10, gate_steps: 10, gates: [copies]}"
        )
    )
    asked = []

    def generation(data, out, *, patients, copies, steps, gates, **rest):
        asked.append(tuple(gates))
        minutes = {"fit": 0.0, "gate": 0.0, "generate": 0.0}
        if "copies" in gates:
            minutes["copies"] = 7.0 * len(patients) * (1 + copies)
        return {"minutes": minutes, "steps": steps, "gate": {"steps": 20}, "dims": 2}

    monkeypatch.setattr(estimate, "plan_augment", generation)
    found = estimate_study(file, device="cpu", talk=QUIET)
    assert sorted(asked) == [("agreement",), ("copies",)]
    # Two draws of 5 patients and one of 6, of the arm with the gate alone.
    search = 7.0 * (5 + 5 + 6) * (1 + 3)
    assert found["hours"]["generate"] == pytest.approx(search / 60, abs=1e-3)


def test_the_measured_part_is_what_units_open(file, monkeypatch):
    study = STUDY + "label_map: {LV: heart, MYO: heart}\n"
    mapped = file.with_name("mapped.yaml")
    mapped.write_text(study)
    seen = []

    def stop(data, *rest, **named):
        seen.append(dict(data.labels))
        raise KeyboardInterrupt

    monkeypatch.setattr(estimate, "plan_augment", stop)
    with pytest.raises(KeyboardInterrupt):
        estimate_study(mapped, device="cpu", talk=QUIET)
    assert "heart" in seen[0]
    assert "LV" not in seen[0]


def test_a_measured_study_takes_time(file):
    before = sorted(file.parent.rglob("*"))
    found = estimate_study(file, device="cpu", talk=QUIET)
    assert all(hours > 0 for hours in found["hours"].values())
    assert "nothing was written" in in_words(found)
    assert sorted(file.parent.rglob("*")) == before


def test_arms_of_two_passes_are_measured_apart(file):
    """Their synthetic cases do not exist yet; real ones stand for them."""
    mixed = file.with_name("mixed.yaml")
    mixed.write_text(
        STUDY.replace(
            "  long:", "  control: {settings: {mix: loss, mix_with: augmented}}\n  long:"
        ).replace("  many:\n", "  many:\n    settings: {mix: logit}\n")
    )
    said: list[str] = []
    talk = Talk(quiet=True)
    talk.say = said.append  # type: ignore[method-assign]
    found = estimate_study(mixed, device="cpu", talk=talk)
    assert found["hours"]["train"] > 0
    # unet at its width, twice as wide, and with two passes.
    assert said.count("measuring a few steps of unet") == 3


def test_rules_of_an_arm_are_asked_of_its_plan(file, monkeypatch):
    (file.parent / "own.yaml").write_text("rules:\n  - area: {of: LV}\n")
    ruled = file.with_name("ruled.yaml")
    ruled.write_text(
        STUDY.replace("copies: 3, steps: 30}", "copies: 3, gates: [validity], rules: own.yaml}")
    )
    seen = []

    def generation(*rest, rules, steps, **named):
        seen.append(None if rules is None else rules.fingerprint)
        minutes = {"fit": 1.0, "gate": 1.0, "generate": 1.0}
        return {"minutes": minutes, "steps": 20, "gate": {"steps": 20}, "dims": 2}

    monkeypatch.setattr(estimate, "plan_augment", generation)
    estimate_study(ruled, device="cpu", talk=QUIET)
    assert set(seen) == {None, read_rules(file.parent / "own.yaml").fingerprint}
