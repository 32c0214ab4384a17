import csv
import json
from dataclasses import replace

import pytest
import torch

from augmint.augment import augment
from augmint.case import Provenance
from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.gates import (
    Gates,
    check_enough_patients,
    check_gates,
    fit_copies,
    fit_validity,
)
from augmint.quality.validity import parse_rules

QUIET = Talk(quiet=True)


class Told(Talk):
    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    return open_dataset(make_phantoms("cine-mr", out=folder, patients=6, slices=4, size=48))


@pytest.fixture(scope="module")
def prepared(dataset):
    return prepare(dataset, preset_named("tiny"))


@pytest.fixture(scope="module")
def gates(dataset, prepared, tmp_path_factory):
    used, rules = check_gates(["copies", "validity"], dataset.labels)
    grid = prepared.facts.grid
    copies = fit_copies(
        dataset, grid, folder=tmp_path_factory.mktemp("gate"), device="cpu", talk=QUIET
    )
    validity = fit_validity(dataset, dataset.labels, rules, grid)
    return Gates(used, grid, None, validity, copies)


def test_real_masks_are_valid_and_a_second_lv_is_not(gates, dataset):
    real = dataset.load(dataset.items[0])
    # As a synthetic case gets there: by way of the working grid.
    case = gates.grid.to_native(gates.grid.to_working(real), real.grid)
    assert gates.judge(case).broken == ()
    mask = case.mask.clone()
    mask[2:10, 2:10] = dataset.labels["LV"]
    verdict = gates.judge(replace(case, mask=mask))
    assert "LV components" in verdict.broken
    assert verdict.reasons["validity"].startswith("validity LV: 2 components")
    columns = verdict.columns()
    assert columns["validity"] == 0
    assert columns["accepted"] == 0


def test_training_masks_pass_limits_of_their_own_as_they_would_be_stored(gates, dataset):
    for case in dataset:
        made = gates.grid.to_native(gates.grid.to_working(case), case.grid)
        assert gates.judge(replace(case, mask=made.mask)).broken == (), case.case_id


def test_rules_that_are_not_used_reject_nothing(gates, dataset):
    case = dataset.load(dataset.items[0])
    mask = case.mask.clone()
    mask[2:10, 2:10] = dataset.labels["LV"]
    verdict = replace(gates, used=("copies",), copies=None).judge(replace(case, mask=mask))
    assert verdict.broken
    assert verdict.columns()["accepted"] == 1


def test_an_image_of_another_patient_of_the_fit_is_a_copy(gates, dataset):
    one, other = dataset.load(dataset.items[0]), dataset.load(dataset.items[-1])
    assert one.patient_id != other.patient_id
    stolen = replace(one, image=other.image.flip(1))
    verdict = gates.judge(stolen)
    assert verdict.nearest.startswith(other.case_id)
    assert verdict.similarity > gates.copies.threshold
    assert verdict.reasons["copies"].startswith("copies ")


def test_its_own_patient_counts_only_where_the_mask_is_new(gates, dataset):
    case = dataset.load(dataset.items[0])
    torch.manual_seed(0)
    like = (case.image + 0.4 * torch.randn(case.image.shape)).clamp(-1, 1)
    origin = Provenance(source_case=case.case_id, method="mask_to_image")
    made = replace(case, image=like, provenance=origin)
    plain = gates.judge(made)
    assert "copies" not in plain.reasons
    new = replace(origin, details={"masks": "generated"})
    verdict = gates.judge(replace(made, provenance=new))
    assert verdict.nearest.startswith(case.patient_id)
    assert gates.copies.threshold < verdict.similarity < 0.95
    assert "copies" in verdict.reasons


def test_the_very_image_of_its_own_patient_is_a_copy(gates, dataset):
    case = dataset.load(dataset.items[0])
    origin = Provenance(source_case=case.case_id, method="mask_to_image")
    verdict = gates.judge(replace(case, provenance=origin))
    assert verdict.similarity > 0.95
    assert verdict.nearest.startswith(case.case_id)
    assert "> 0.950" in verdict.reasons["copies"]
    # A method that is made to keep recorded pixels is not blamed for them.
    kept = replace(gates, copies=replace(gates.copies, keeps_pixels=True))
    assert "copies" not in kept.judge(replace(case, provenance=origin)).reasons


def test_what_was_asked_for_is_waived(gates, dataset):
    case = dataset.load(dataset.items[0])
    mask = torch.full_like(case.mask, dataset.labels["LV"])
    asked = Provenance(source_case="a", method="m", details={"asked_LV": 0.99})
    plain, waived = (
        gates.judge(replace(case, mask=mask, provenance=p)).broken for p in (None, asked)
    )
    assert "LV area" in plain
    assert "LV area" not in waived


def test_the_threshold_for_copies_is_learned_once(dataset, prepared, tmp_path):
    grid = prepared.facts.grid
    fit_copies(dataset, grid, folder=tmp_path, device="cpu", talk=QUIET)
    facts = json.loads((tmp_path / "copies.json").read_text())
    assert facts["patients"] == 6
    (tmp_path / "copies.json").write_text(json.dumps({**facts, "threshold": 0.123}))
    again = fit_copies(dataset, grid, folder=tmp_path, device="cpu", talk=QUIET)
    assert again.threshold == 0.123


def test_gates_are_checked_before_anything_is_computed(dataset, tmp_path):
    kidney = tmp_path / "rules.yaml"
    kidney.write_text("name: k\nlabels: [kidney]\nrules:\n  - solid: {of: [LV, kidney]}\n")
    with pytest.raises(AugmintError, match="there is no gate 'agrement'; choose from agreement"):
        check_gates(["agrement"], dataset.labels)
    with pytest.raises(AugmintError, match="no anatomical rules are known for the labels spleen"):
        check_gates(["validity"], {"background": 0, "spleen": 1})
    assert check_gates(["agreement"], {"background": 0, "spleen": 1}) == (("agreement",), None)
    with pytest.raises(AugmintError, match="no label is named 'kidney'"):
        check_gates(["validity"], dataset.labels, kidney)
    with pytest.raises(AugmintError, match="learns from 5 patients or more"):
        check_enough_patients(["copies"], ["a", "b", "c", "d"])


def test_limits_of_rules_in_mm_are_read_in_mm(dataset, prepared):
    text = "name: own\nlabels: [LV]\nrules:\n  - area: {of: LV, most: 1}\n"
    rules = parse_rules(text, "own")
    assert prepared.facts.grid.spacing_mm is not None
    gate = fit_validity(dataset, dataset.labels, rules, prepared.facts.grid)
    assert gate.limits.spacing_known
    assert gate.limits.bounds["LV area"].unit == "mm2"


def test_the_main_job_with_all_gates_together(dataset, tmp_path):
    talk = Told()
    out = augment(
        dataset, tmp_path / "out", preset="tiny", steps=4, gate_steps=4, copies=1,
        settings={"num_steps": 2}, held_fraction=0, device="cpu", talk=talk,
        gates=("validity", "copies", "agreement"),
    )  # fmt: skip
    run = json.loads((out / "run.json").read_text())
    assert run["gates"][0]["used"] == ["agreement", "validity", "copies"]
    with (out / "manifest.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["synthetic"] == "1"]
    assert {r["validity"] for r in rows} <= {"0", "1"}
    assert all(-1 <= float(r["similarity"]) <= 1 for r in rows)
    broken = [r for r in rows if r["validity"] == "0"]
    assert all(r["broken"] and "validity " in r["reason"] for r in broken)
    assert run["rejected_by"].get("validity", 0) == len(broken)
    assert "<h2>Gates</h2>" in (out / "report.html").read_text()
    assert any(line.startswith("rejected by agreement") for line in talk.said)


def test_without_gates_all_is_accepted_and_no_segmenter_is_fitted(dataset, tmp_path):
    talk = Told()
    out = augment(
        dataset, tmp_path / "out", preset="tiny", steps=2, copies=1, settings={"num_steps": 2},
        held_fraction=0, device="cpu", gates=(), talk=talk,
    )  # fmt: skip
    run = json.loads((out / "run.json").read_text())
    assert run["counts"]["rejected"] == 0
    assert run["folds"][0]["gate_patients"] == []
    assert not (out / "run" / "gate").exists()
