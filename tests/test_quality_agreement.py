import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.data.pool import build_pool
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.progress import Talk
from augmint.quality.agreement import agreement_of, dice, fit_gate, load_gate, threshold
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


def fitted(folder, cases=CASES, num_folds=2, *, quiet=True):
    return fit_gate(
        build_pool(cases, GRID), cases, lambda case: case, LABELS, GRID, config=CONFIG,
        num_folds=num_folds, folder=folder, device=torch.device("cpu"), talk=Talk(quiet=quiet),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def gate(folder):
    return fitted(folder)


@pytest.fixture
def uncalibrated(gate, folder, tmp_path):
    """A folder with the segmenters of the gate, and no gate.json."""
    shutil.copytree(folder, tmp_path / "gate")
    (tmp_path / "gate" / "gate.json").unlink()
    return tmp_path / "gate"


def finding(monkeypatch, find):
    """Let `find(case)` be what every segmenter finds in a case."""
    monkeypatch.setattr(
        "augmint.quality.agreement.predict_case", lambda networks, case, grid, **_: find(case)
    )


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
    assert len(gate.real["bright"]) == 9
    # p3_c has no dark disc: nothing if none is found in it, and 0 if one is imagined.
    assert len([v for v in gate.real["dark"] if v > 0.6]) == 8
    assert [v for v in gate.real["dark"] if v <= 0.6] in ([], [0])
    assert set(gate.thresholds) == {"bright", "dark"}
    for name in ("bright", "dark"):
        assert gate.thresholds[name] == pytest.approx(threshold(gate.real[name]))
    assert gate.thresholds["bright"] > 0.6
    assert gate.thresholds["dark"] > 0.4


def test_every_case_is_judged_by_one_segmenter_that_never_saw_its_patient(
    gate, uncalibrated, monkeypatch
):
    import augmint.quality.agreement as module

    judged = []
    number_of = {}
    loaded = module.load_segmenter

    def numbered(where, device):
        network, facts = loaded(where, device)
        number_of[id(network)] = int(where.name.rpartition("_")[2])
        return network, facts

    def spied(networks, case, grid, **arguments):
        judged.append((case.patient_id, [number_of[id(n)] for n in networks]))
        return case.mask

    monkeypatch.setattr(module, "load_segmenter", numbered)
    monkeypatch.setattr(module, "predict_case", spied)
    again = fitted(uncalibrated)
    held = json.loads((uncalibrated / "gate.json").read_text())["folds"]
    blind = {p: k for k, patients in enumerate(held) for p in patients}
    assert judged == [(c.patient_id, [blind[c.patient_id]]) for c in CASES]
    assert set(blind.values()) == {0, 1}
    for known in (again, load_gate(uncalibrated, GRID)):
        judged.clear()
        for patient in ("p0", "p1", "p2", "p3", "q1"):
            known.judge(pair(f"{patient}_new"))
        # None of them saw q1: the first judges.
        assert judged == [(p, [blind.get(p, 0)]) for p in ("p0", "p1", "p2", "p3", "q1")]
    judged.clear()
    assert fitted(uncalibrated).thresholds == again.thresholds
    assert not judged  # what stands in gate.json is not done again


def test_verdicts_do_not_depend_on_the_cases_judged_before(gate):
    cases = [pair("p0_new"), pair("p1_new"), pair("q1_new")]
    forwards = [gate.judge(c) for c in cases]
    assert [gate.judge(c) for c in reversed(cases)] == forwards[::-1]


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


def test_a_mask_that_lost_a_structure_of_its_image_is_rejected(gate):
    whole = pair("q2")
    lost = replace(whole, mask=torch.where(whole.mask == 2, 0, whole.mask))
    agreement, reason = gate.judge(lost)
    assert agreement["dark"] == 0
    assert agreement["bright"] > 0.8
    assert reason == f"agreement dark 0.000 < {gate.thresholds['dark']:.3f}"


def test_real_pairs_calibrate_what_a_segmenter_imagines(uncalibrated, monkeypatch):
    def imagining(case):
        mask = case.mask.clone()
        mask[0, 0] = 2
        return mask

    finding(monkeypatch, imagining)
    gate = fitted(uncalibrated)
    # p3_c has no dark disc, and a speck is found: 0, as the same speck is in a synthetic pair.
    assert sorted(gate.real["dark"])[0] == 0
    assert len(gate.real["dark"]) == 9
    assert gate.judge(pair("q1", without=(2,)))[0]["dark"] == 0
    assert gate.thresholds["dark"] == pytest.approx(threshold(gate.real["dark"]))
    # Where most real pairs are like that, such synthetic pairs are no worse than they.
    without = [replace(c, mask=torch.where(c.mask == 2, 0, c.mask)) for c in CASES[:-2]]
    (uncalibrated / "gate.json").unlink()
    lax = fitted(uncalibrated, [*without, *CASES[-2:]])
    assert lax.thresholds["dark"] == 0
    assert lax.judge(pair("q1", without=(2,)))[1] == ""
    assert len(lax.warnings) == 1
    assert "nearly blind for dark" in lax.warnings[0]


def test_a_gate_that_hardly_finds_a_real_label_says_so(uncalibrated, monkeypatch, capsys):
    def short_sighted(case):
        mask = case.mask.clone()
        mask[:, :24][mask[:, :24] == 2] = 0
        return mask

    finding(monkeypatch, short_sighted)
    gate = fitted(uncalibrated, quiet=False)
    median = np.median(gate.real["dark"])
    assert 0 <= median < 0.5
    assert [w.partition(":")[0] for w in gate.warnings] == ["the gate is nearly blind for dark"]
    assert f"a Dice of only {median:.2f}" in gate.warnings[0]
    assert "--preset" in gate.warnings[0]
    assert "gate_steps" in gate.warnings[0]
    assert f"WARNING: {gate.warnings[0]}" in capsys.readouterr().err
    assert json.loads((uncalibrated / "gate.json").read_text())["warnings"] == gate.warnings
    again = fitted(uncalibrated, quiet=False)
    assert again.warnings == gate.warnings
    assert f"WARNING: {gate.warnings[0]}" in capsys.readouterr().err


def test_a_gate_that_sees_well_does_not_warn(gate, folder):
    assert list(gate.warnings) == []
    assert json.loads((folder / "gate.json").read_text())["warnings"] == []


def test_a_label_without_a_real_example_has_no_threshold_and_is_named(uncalibrated):
    gate = fitted(uncalibrated, [replace(c, annotated=frozenset({1, 2, 3})) for c in CASES])
    assert set(gate.thresholds) == {"bright", "dark"}
    assert gate.warnings == [
        "the gate does not judge never looked for: no real training mask holds it"
    ]


def test_masks_without_any_label_are_refused_before_anything_is_fitted(tmp_path):
    bare = [pair(f"p{i}", without=(1, 2)) for i in range(4)]
    with pytest.raises(AugmintError, match=r"no real training mask holds any label.*label map"):
        fitted(tmp_path, bare)
    assert not list(tmp_path.iterdir())


def test_thresholds_of_an_older_rule_are_worked_out_again(gate, folder, uncalibrated):
    facts = json.loads((folder / "gate.json").read_text())
    for key in ("schema_version", "warnings"):
        del facts[key]
    facts["thresholds"] = {"bright": 0.01, "dark": 0.01}
    (uncalibrated / "gate.json").write_text(json.dumps(facts))
    weights = {p: p.stat().st_mtime_ns for p in uncalibrated.rglob("*.safetensors")}
    assert load_gate(uncalibrated, GRID).thresholds["dark"] == 0.01
    again = fitted(uncalibrated)
    assert again.thresholds == pytest.approx(gate.thresholds)
    assert {p: p.stat().st_mtime_ns for p in uncalibrated.rglob("*.safetensors")} == weights


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
