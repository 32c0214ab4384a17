import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.data.pool import build_pool
from augmint.imaging.working import WorkingGrid
from augmint.progress import Talk
from augmint.quality.agreement import agreement_of, dice, fit_gate, threshold
from augmint.segmentation.training import SegmenterConfig

LABELS = {"background": 0, "bright": 1, "dark": 2, "never looked for": 3}
GRID = WorkingGrid(2, (32, 32), (32, 32), longest=32)
CONFIG = SegmenterConfig(
    width=8, steps=120, batch_size=4, warmup=5, lr=5e-3, augmentation="none", precision="fp32"
)


def pair(name, *, moved=0, without=()):
    """A bright and a dark disc on grey; `moved` displaces the bright mask from its image."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    row, column = torch.randint(9, 15, (2,), generator=generator).tolist()
    axes = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")

    def disc(y, x, radius):
        return (axes[0] - y) ** 2 + (axes[1] - x) ** 2 < radius**2

    mask = torch.zeros(32, 32, dtype=torch.long)
    image = 0.1 * torch.randn(1, 32, 32, generator=generator)
    for index, level, at in ((1, 0.8, (row, column)), (2, -0.8, (row + 12, column + 8))):
        if index in without:
            continue
        image[0][disc(*at, 5)] += level
        shift = moved if index == 1 else 0
        mask[disc(at[0], at[1] + shift, 5)] = index
    return Case(
        image=image.clamp(-1, 1),
        mask=mask,
        annotated=frozenset({1, 2}),
        grid=Grid((32, 32), np.eye(3), False),
        intensity=IntensityMap((0.0,), (255.0,), "uint8"),
        case_id=name,
        patient_id=name[:2],
    )


CASES = [pair(f"p{i}_{view}") for i in range(4) for view in "ab"] + [pair("p3_c", without=(2,))]


def fitted(folder, cases=CASES, num_folds=2):
    return fit_gate(
        build_pool(cases, GRID), cases, lambda case: case, LABELS, GRID, config=CONFIG,
        num_folds=num_folds, folder=folder, device=torch.device("cpu"), talk=Talk(quiet=True),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def gate(folder):
    return fitted(folder)


def test_dice_by_hand():
    a = np.array([1, 1, 1, 0, 0], dtype=bool)
    b = np.array([0, 1, 1, 1, 0], dtype=bool)
    assert dice(a, b) == pytest.approx(4 / 6)
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a & ~a, b) == 0
    assert dice(a & ~a, b & ~b) is None


def test_agreement_is_per_annotated_label():
    case = pair("p1")
    found = case.mask.numpy().copy()
    found[found == 2] = 0
    assert agreement_of(case, found, LABELS) == {"bright": 1.0, "dark": 0.0}
    empty = pair("p1", without=(2,))
    assert agreement_of(empty, empty.mask.numpy(), LABELS) == {"bright": 1.0, "dark": None}


def test_a_threshold_is_a_low_quantile_of_real_pairs():
    # 0.80, 0.81, ..., 1.00: the 5 % quantile of 21 even values is the second.
    assert threshold([0.80 + 0.01 * i for i in range(21)]) == pytest.approx(0.81)
    assert threshold([0.9]) == pytest.approx(0.9)
    assert threshold([0.6, 0.8], quantile=0.5) == pytest.approx(0.7)


def test_a_threshold_is_half_the_median_at_least():
    assert threshold([0.0, 0.0, 0.9, 0.9, 0.9]) == pytest.approx(0.45)
    assert threshold([0.0, 0.0, 0.0]) == 0


def test_a_gate_tells_what_it_saw(gate, folder):
    facts = json.loads((folder / "gate.json").read_text())
    assert facts["patients"] == list(gate.patients) == ["p0", "p1", "p2", "p3"]
    assert len(gate.segmenters) == 2
    assert sorted(p for fold in facts["folds"] for p in fold) == ["p0", "p1", "p2", "p3"]
    # A case without a label says nothing of that label.
    assert len(gate.real["bright"]) == 9
    assert len(gate.real["dark"]) == 8
    assert set(gate.thresholds) == {"bright", "dark"}
    for name in ("bright", "dark"):
        assert gate.thresholds[name] == pytest.approx(threshold(gate.real[name]))
        assert gate.thresholds[name] > 0.6


def test_every_real_case_is_judged_by_eyes_that_never_saw_it(gate, folder, monkeypatch):
    import augmint.quality.agreement as module

    judged = []

    def spied(networks, case, grid, **arguments):
        judged.append((case.patient_id, [gate_of[id(n)] for n in networks]))
        return case.mask

    loaded = module.load_segmenter
    gate_of = {}

    def numbered(where, device):
        network, facts = loaded(where, device)
        gate_of[id(network)] = int(where.name.rpartition("_")[2])
        return network, facts

    monkeypatch.setattr(module, "predict_case", spied)
    monkeypatch.setattr(module, "load_segmenter", numbered)
    kept = (folder / "gate.json").read_text()
    again = fitted(folder)
    assert not judged  # what stands in gate.json is not done again
    assert again.thresholds == gate.thresholds
    (folder / "gate.json").unlink()
    fitted(folder)
    (folder / "gate.json").write_text(kept)
    held = json.loads(kept)["folds"]
    assert len(judged) == len(CASES)
    for patient, eyes in judged:
        assert [patient in held[k] for k in eyes] == [True]


def test_a_true_pair_passes(gate):
    agreement, reason = gate.judge(pair("q1_new"))
    assert reason == ""
    assert set(agreement) == {"bright", "dark"}
    assert min(agreement.values()) > 0.8


def test_a_shifted_mask_is_rejected_by_name(gate):
    agreement, reason = gate.judge(pair("q1_new", moved=7))
    assert reason.startswith("agreement bright 0.")
    assert f"< {gate.thresholds['bright']:.3f}" in reason
    assert agreement["bright"] < gate.thresholds["bright"] < agreement["dark"]


def test_a_structure_that_the_image_lacks_is_rejected(gate):
    true, bare = pair("q2"), pair("q2", without=(2,))
    agreement, reason = gate.judge(replace(true, image=bare.image))
    assert agreement["dark"] < 0.3
    assert "agreement dark" in reason


def test_a_label_that_is_nowhere_is_no_reason(gate):
    agreement, reason = gate.judge(pair("q3", without=(2,)))
    assert agreement["dark"] is None
    assert agreement["bright"] > 0.8
    assert reason == ""


def test_a_finished_gate_is_not_fitted_again(gate, folder):
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("network.safetensors")}
    again = fitted(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("network.safetensors")} == stamps
    assert again.thresholds == gate.thresholds
