import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from augmint.case import Case
from augmint.data import open_dataset, read_image, read_mask
from augmint.data.phantoms import make_phantoms
from augmint.diffusion.checkpoint import save_network
from augmint.diffusion.networks import build_network
from augmint.diffusion.training import TrainingConfig
from augmint.errors import AugmintError
from augmint.fit import FittedRun, write_run
from augmint.generate import check_labels, generate, synthesise, synthetic_name
from augmint.methods import build_method
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.gates import Verdict
from augmint.synthetic import load_rows, write_real

QUIET = Talk(quiet=True)
SETTINGS = {"network": "tiny", "num_steps": 2, "batch_size": 4}


@pytest.fixture(scope="module", params=["cine-mr", "apical-ultrasound"])
def dataset(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    return open_dataset(make_phantoms(request.param, out=folder, patients=2, slices=3, size=32))


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A run folder as a fit leaves it, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    prepared = prepare(dataset, preset_named("tiny"))
    method = build_method("mask_to_image", SETTINGS)
    network = build_network(method.networks(prepared.facts)["image"].config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
    digest = save_network(folder / "checkpoints" / "best" / "image", network)
    request = {"method": "mask_to_image", "data": str(dataset.root), "seed": 0}
    write_run(
        folder, request, method, prepared, TrainingConfig(), {"image": digest}, 0.0,
        torch.device("cpu"),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def fitted(run, dataset) -> FittedRun:
    from augmint.fit import load_run

    return load_run(run, device="cpu")


def files(folder: Path, *, rows=True) -> dict[str, str]:
    """The synthetic files of a dataset and their hashes."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*__s*_c*"))
        if p.is_file() and (rows or p.suffix != ".json")
    }


def begin(dataset, folder):
    write_real(dataset, folder, QUIET)
    return folder


def make(fitted, dataset, folder, *, copies=2, gate=None, seed=0):
    return synthesise(
        fitted, dataset, folder, copies=range(copies), seed=seed, gate=gate,
        device=torch.device("cpu"), talk=QUIET,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(fitted, dataset, tmp_path_factory):
    folder = begin(dataset, tmp_path_factory.mktemp("whole"))
    make(fitted, dataset, folder)
    return folder


def test_every_case_is_written_as_its_source_is_stored(whole, dataset):
    for item in dataset.items:
        for copy in range(2):
            name = f"{item.case_id}__s0_c{copy}"
            assert synthetic_name(item, 0, copy) == name
            image = whole / "imagesTr" / f"{name}_0000{dataset.file_ending}"
            stored, affine, known = read_image(image)
            source, source_affine, source_known = read_image(item.images)
            assert stored.dtype == source.dtype
            assert stored.shape == source.shape
            assert known == source_known
            assert abs(affine - source_affine).max() < 1e-5
            mask, _, _ = read_mask(whole / "labelsTr" / f"{name}{dataset.file_ending}")
            assert mask.shape == stored.shape[1:]
            assert set(mask.flatten().tolist()) <= set(dataset.labels.values())
            assert mask.any()


def test_the_rows_tell_where_a_case_comes_from(whole, fitted, dataset):
    rows = [json.loads(p.read_text()) for p in (whole / ".work" / "rows").glob("*.json")]
    assert len(rows) == 2 * len(dataset)
    by_id = {i.case_id: i for i in dataset.items}
    for row in rows:
        source = by_id[row["source_case"]]
        assert row["case"] == synthetic_name(source, 0, row["copy"])
        assert row["patient"] == source.patient_id
        assert row["network_sha256"] == fitted.hashes["image"]
        assert (row["method"], row["seed"], row["fold"]) == ("mask_to_image", 0, None)
        assert row["evaluations"] == fitted.method.evaluations
        assert row["accepted"] == 1


class InterruptionError(Exception):
    pass


class StoppingGate:
    """A gate that lets everything pass and fails at the n-th case."""

    def __init__(self, last):
        self.left = last

    def judge(self, case: Case, device):
        self.left -= 1
        if self.left < 0:
            raise InterruptionError
        return Verdict()


@pytest.mark.parametrize("stop", [0, 1, 6])
def test_interrupted_and_continued_gives_the_same_bytes(whole, fitted, dataset, tmp_path, stop):
    folder = begin(dataset, tmp_path)
    with pytest.raises(InterruptionError):
        make(fitted, dataset, folder, gate=StoppingGate(stop))
    before = files(folder)
    assert len([f for f in before if f.endswith(".json")]) == stop
    make(fitted, dataset, folder)
    after = files(folder)
    assert after == files(whole)
    assert before.items() <= after.items()
    # What is finished is not made again.
    assert make(fitted, dataset, folder)["images"] == 0


def test_two_shards_are_the_whole(whole, fitted, dataset, tmp_path):
    together = {}
    for i in range(2):
        part = replace(dataset, items=dataset.items[i::2])
        folder = begin(part, tmp_path / str(i))
        make(fitted, part, folder)
        made = files(folder)
        assert made
        assert not made.keys() & together.keys()
        together |= made
    assert together == files(whole)


def test_a_large_batch_keeps_every_source_that_it_has_in_flight(fitted, dataset, tmp_path):
    wide = replace(fitted, method=replace(fitted.method, batch_size=96))
    many = [replace(i, case_id=f"{i.case_id}-{k:02d}") for i in dataset.items for k in range(25)]
    folder = begin(dataset, tmp_path)
    make(wide, replace(dataset, items=tuple(many)), folder, copies=1)
    assert len(list((folder / ".work" / "rows").iterdir())) == len(many)


class PickyGate:
    """Rejects every first copy."""

    def judge(self, case: Case, device):
        first = case.case_id.endswith("_c0")
        reasons = {"agreement": "agreement LV 0.500 < 0.900"} if first else {}
        return Verdict(reasons, {"LV": 0.5})


def test_rejected_pairs_stand_apart_with_their_figures(fitted, dataset, tmp_path):
    folder = begin(dataset, tmp_path)
    make(fitted, dataset, folder, gate=PickyGate())
    ending = dataset.file_ending
    for item in dataset.items:
        for copy, place in ((0, folder / "rejected"), (1, folder)):
            name = synthetic_name(item, 0, copy)
            assert (place / "imagesTr" / f"{name}_0000{ending}").is_file()
            assert (place / "labelsTr" / f"{name}{ending}").is_file()
            row = json.loads((folder / ".work" / "rows" / f"{name}.json").read_text())
            assert row["accepted"] == copy
            assert bool(row["reason"]) == (copy == 0)
            assert row["agreement_LV"] == 0.5
        other = folder / "imagesTr" / f"{synthetic_name(item, 0, 0)}_0000{ending}"
        assert not other.exists()


def test_a_verdict_that_flips_leaves_no_orphan(fitted, dataset, tmp_path):
    folder = begin(dataset, tmp_path)
    one = replace(dataset, items=dataset.items[:1])
    name = synthetic_name(one.items[0], 0, 0)
    for gate, place, other in ((PickyGate(), "rejected", "."), (None, ".", "rejected")):
        make(fitted, one, folder, copies=1, gate=gate)
        for file in (f"imagesTr/{name}_0000", f"labelsTr/{name}"):
            assert (folder / place / f"{file}{dataset.file_ending}").is_file()
            assert not (folder / other / f"{file}{dataset.file_ending}").exists()
        (folder / ".work" / "rows" / f"{name}.json").unlink()


def test_a_gate_judges_what_a_reader_of_the_files_sees(fitted, dataset, tmp_path):
    seen = {}

    class Keeping:
        def judge(self, case, device):
            seen[case.case_id] = case
            return Verdict()

    folder = begin(dataset, tmp_path)
    one = replace(dataset, items=dataset.items[:1])
    make(fitted, one, folder, copies=1, gate=Keeping())
    (case,) = seen.values()
    stored, _, _ = read_image(folder / "imagesTr" / f"{case.case_id}_0000{dataset.file_ending}")
    assert torch.equal(case.image, case.intensity.to_unit(stored))


def test_a_generated_dataset_opens_and_names_its_origin(run, dataset, tmp_path):
    out = generate(run, dataset, tmp_path / "OUT", copies=1, device="cpu", talk=QUIET)
    again = open_dataset(out)
    made = [i for i in again.items if i.synthetic]
    assert len(made) == len(dataset)
    assert {i.provenance.source_case for i in made} == {i.case_id for i in dataset.items}
    assert {i.patient_id for i in made} == set(dataset.patients)
    rows = load_rows(out)
    assert len(rows) == 2 * len(dataset)
    for case in again:
        assert case.mask is not None
    facts = json.loads((out / "run.json").read_text())
    assert facts["folds"][0]["generator_patients"] == list(dataset.patients)


def test_other_labels_are_refused(run, dataset, tmp_path):
    other = replace(dataset, labels={"background": 0, "else": 1})
    with pytest.raises(AugmintError, match="label map"):
        generate(run, other, tmp_path / "OUT", device="cpu", talk=QUIET)
    assert not list(tmp_path.iterdir())


def test_a_label_that_the_run_was_never_taught_is_refused(fitted, dataset):
    name = next(n for n, i in dataset.labels.items() if i)
    taught = tuple(n for n in fitted.facts.annotated if n != name)
    ignorant = replace(fitted, facts=replace(fitted.facts, annotated=taught))
    with pytest.raises(AugmintError, match=f"has {name} annotated, but the run.*label map"):
        check_labels(ignorant, dataset)
    # Nobody annotated it here either.
    without = dataset.annotated - {dataset.labels[name]}
    check_labels(ignorant, replace(dataset, annotated=without))
    check_labels(fitted, dataset)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_is_none_is_refused(run, dataset, tmp_path, shard):
    with pytest.raises(AugmintError, match="0 <= i < n"):
        generate(run, dataset, tmp_path / "OUT", shard=shard, device="cpu", talk=QUIET)
