"""The papers' studies, planned on fake trees of the right size."""

import csv
import gzip
import io
import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from augmint.data.dataset import open_dataset
from augmint.progress import Talk
from augmint.study import estimate
from augmint.study.parts import open_part
from augmint.study.plan import NULL_SEED, plan_study
from augmint.study.spec import HELD_OUT, Study, read_study
from augmint.study.units import Plan

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies"
QUIET = Talk(quiet=True)


def nifti(shape: tuple[int, ...], spacing: float, labels: int = 0) -> bytes:
    """A volume, or a mask with every label from 0 on."""
    array = np.random.default_rng(0).integers(0, 200, shape).astype(np.int16)
    if labels:
        array = (np.arange(array.size) % (labels + 1)).reshape(shape).astype(np.int16)
    image = nib.Nifti1Image(array, np.diag([spacing, spacing, 3.0, 1.0]))
    return image.to_bytes()


def png(rows: slice | None = None) -> bytes:
    """A frame, or a mask of some rows."""
    array = np.random.default_rng(0).integers(0, 200, (12, 16)).astype(np.uint8)
    if rows is not None:
        array = np.zeros((12, 16), np.uint8)
        array[rows] = 255
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") else data)


def camus(data: Path) -> None:
    """500 patients; the cine loops of the release lie beside the annotated frames."""
    frame, mask = nifti((12, 16), 0.3), nifti((12, 16), 0.3, labels=3)
    loop = nifti((12, 16, 4), 0.3)
    names = [f"patient{i:04d}" for i in range(1, 501)]
    for name in names:
        for view in ("2CH", "4CH"):
            stem = data / "CAMUS" / "database_nifti" / name / f"{name}_{view}"
            for phase in ("ED", "ES"):
                write(Path(f"{stem}_{phase}.nii"), frame)
                write(Path(f"{stem}_{phase}_gt.nii"), mask)
                case = f"{name}_{view}_{phase}"
                write(data / "CAMUS_narrow" / "imagesTr" / f"{case}_0000.nii", frame)
                write(data / "CAMUS_narrow" / "labelsTr" / f"{case}.nii", mask)
            if name == names[0]:
                write(Path(f"{stem}_half_sequence.nii"), loop)
                write(Path(f"{stem}_half_sequence_gt.nii"), loop)
    # As `augmint stress` writes it.
    description = {
        "name": "CAMUS", "channel_names": {"0": "ultrasound"},
        "file_ending": ".nii", "numTraining": 4 * len(names),
        "labels": {"background": 0, "LV": 1, "MYO": 2, "LA": 3},
    }  # fmt: skip
    write(data / "CAMUS_narrow" / "dataset.json", json.dumps(description))
    split = data / "CAMUS" / "database_split"
    for part, chosen in (
        ("training", names[:400]), ("validation", names[400:450]), ("testing", names[450:])
    ):  # fmt: skip
        write(split / f"subgroup_{part}.txt", "\n".join(chosen) + "\n")


def mnms(data: Path) -> None:
    """Vendors A and B train; all four test."""
    image, mask = nifti((8, 8, 2), 1.3), nifti((8, 8, 2), 1.3, labels=3)
    numbers = {
        "training": {"A": 75, "B": 75},
        "testing": {"A": 16, "B": 40, "C": 40, "D": 40},
    }
    for part, vendors in numbers.items():
        root = data / "MNMs" / part
        rows = []
        for vendor, count in vendors.items():
            for number in range(count):
                code = f"{part[1].upper()}{number}S{vendor}9"
                for phase, frame in (("ED", 0), ("ES", 9)):
                    case = f"{code}_frame{frame:02d}"
                    write(root / "imagesTr" / f"{case}_0000.nii.gz", image)
                    write(root / "labelsTr" / f"{case}.nii.gz", mask)
                    group = ("NOR", "HCM", "DCM")[number % 3]
                    rows.append([case, code, vendor, group, "FM"[number % 2], phase])
        stream = io.StringIO()
        csv.writer(stream).writerows(
            [["case", "patient", "domain", "pathology", "sex", "phase"], *rows]
        )
        write(root / "cases.csv", stream.getvalue())
        description = {
            "channel_names": {"0": "cineMRI"}, "file_ending": ".nii.gz",
            "labels": {"background": 0, "LV": 1, "MYO": 2, "RV": 3}, "numTraining": len(rows),
        }  # fmt: skip
        write(root / "dataset.json", json.dumps(description))


def decathlon(root: Path, organ: str, count: int, unlabelled: int, **facts) -> None:
    """As it is unpacked, with the hidden files of its archive."""
    names = [f"{organ}_{i:02d}" for i in range(count + unlabelled)]
    entries = [
        {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"}
        for n in names[:count]
    ]
    description = {
        "training": entries, "test": [f"./imagesTs/{n}.nii.gz" for n in names[count:]], **facts,
    }  # fmt: skip
    write(root / "dataset.json", json.dumps(description))
    write(root / "imagesTr" / f"._{names[0]}.nii.gz", "no image")


def prostate(data: Path) -> None:
    """T2 and ADC along the last axis."""
    root = data / "Task05_Prostate"
    decathlon(root, "prostate", 32, 16, name="PROSTATE", modality={"0": "T2", "1": "ADC"},
              labels={"0": "background", "1": "PZ", "2": "TZ"})  # fmt: skip
    for i in range(32):
        write(root / "imagesTr" / f"prostate_{i:02d}.nii.gz", nifti((16, 16, 3, 2), 0.6))
        write(root / "labelsTr" / f"prostate_{i:02d}.nii.gz", nifti((16, 16, 3), 0.6, labels=2))


def spleen(data: Path) -> None:
    root = data / "Task09_Spleen"
    decathlon(root, "spleen", 41, 20, name="Spleen", modality={"0": "CT"},
              labels={"0": "background", "1": "spleen"})  # fmt: skip
    for i in range(41):
        write(root / "imagesTr" / f"spleen_{i:02d}.nii.gz", nifti((16, 16, 5), 0.8))
        write(root / "labelsTr" / f"spleen_{i:02d}.nii.gz", nifti((16, 16, 5), 0.8, labels=1))


def busi(data: Path) -> None:
    """437 benign, 210 malignant; a few images have two or three masks."""
    frame, first, second = png(), png(slice(1, 4)), png(slice(7, 9))
    for kind, count in (("benign", 437), ("malignant", 210)):
        for i in range(1, count + 1):
            stem = data / "BUSI" / kind / f"{kind} ({i})"
            write(Path(f"{stem}.png"), frame)
            write(Path(f"{stem}_mask.png"), first)
            if i in (4, 163):
                write(Path(f"{stem}_mask_1.png"), second)
            if i == 163:
                write(Path(f"{stem}_mask_2.png"), second)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside whose parent the data stand, as they do beside benchmarks/."""
    top = tmp_path_factory.mktemp("papers")
    for make in (camus, mnms, prostate, spleen, busi):
        make(top / "data")
    folder = top / "benchmarks" / "studies"
    shutil.copytree(STUDIES, folder)
    return folder


# Generations, trainings, evaluations, and places in the grid of each study.
COUNTS = {
    # Smallest size: 3 draws x 3 seeds of 21 arms, six of them made; 10 larger draws x 3 seeds of 7
    # arms, three of them made.
    "sector_outpaint_camus": (18 * 3 + 30 * 3, 189 + 210, 399, 399),
    # 22 arms x 3 seeds on 2 tests; the largest component is one of the stack's predictions.
    "sector_outpaint_views": (6 * 3, 21 * 3, 132, 132),
    # 3 draws of 40 patients with 22 arms, all 400 with 8.
    "sector_outpaint_narrow": (18 * 3 + 3 * 3, 21 * 9 + 7 * 3, 444, 444),
    # Smallest size: 3 draws x 3 seeds of 17 arms; 10 larger draws x 3 seeds of 5 arms.
    "mask_to_image_mnms": (26 * 3, 153 + 150, 606, 606),
    # 10 generators and the warped masks for each of 3 draws.
    "mask_to_image_quality": (11 * 3, 13 * 9, 234, 234),
    # 3 folds x 3 seeds of 16 arms.
    "edge_text_prostate": (2 * 9, 16 * 9, 144, 144),
    "edge_text_spleen": (2 * 9, 16 * 9, 144, 144),
    "edge_text_busi": (2 * 9, 16 * 9, 144, 144),
    # Six numbers of copies and the warped masks; shares of real data use ten copies.
    "edge_text_ablation": (7 * 9, 14 * 9, 126, 126),
    "edge_text_networks": (2 * 9, 5 * 5 * 9, 225, 225),
    # 20 arms, of which 2 differ from others in the evaluation alone, with 2 networks on 2 tests.
    "reference_shift_mnms": (2 * 3, 18 * 2 * 3, 240, 240),
    "reference_shift_mnms_3d": (2 * 3, 18 * 2 * 3, 240, 240),
}
SINGLES = {
    "contrast", "gamma", "brightness", "noise", "low_resolution", "mirror", "rotation", "scaling",
    "deepstack",
}  # fmt: skip
CONTROLS = {"real", "stack", "null", "randomised", "warped", "synthetic", "unfiltered"}
WITHOUT_SINGLES = {"mask_to_image_quality", "edge_text_ablation", "edge_text_networks"}


def planned(name: str, base: Path) -> tuple[Study, Plan]:
    study = read_study(base / f"{name}.yaml")
    return study, plan_study(study, base)


def test_every_study_is_tested():
    assert {p.stem for p in STUDIES.glob("*.yaml")} == set(COUNTS)
    listed = (STUDIES / "README.md").read_text()
    assert all(f"`{name}.yaml`" in listed for name in COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_the_head_says_where_data_come_from_and_what_differs(name: str):
    head = (STUDIES / f"{name}.yaml").read_text().split("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "# Data: " in head
    assert "What differs from the paper" in head
    assert max(map(len, head.splitlines())) <= 110


@pytest.mark.parametrize("name", COUNTS)
def test_a_dry_run_finds_the_units_of_the_table(name: str, base: Path):
    study, plan = planned(name, base)
    found = *(plan.count(k) for k in ("generate", "train", "evaluate")), len(plan.cells)
    assert found == COUNTS[name]
    assert study.generator_seeds == "each" or study.draws >= 3
    assert len(study.seeds) >= 3
    # The baseline stands wherever another arm does.
    arms = Counter(c.arm for c in plan.cells)
    assert arms[study.baseline] == max(arms.values())
    if name not in WITHOUT_SINGLES:
        assert set(study.arms) >= SINGLES | CONTROLS
    for unit in plan.units.values():
        if unit.kind == "evaluate" and unit.arguments["patients"] is not None:
            train = plan.units[unit.arguments["run"]].arguments
            assert not set(train["patients"]) & set(unit.arguments["patients"])


@pytest.mark.parametrize("name", COUNTS)
def test_a_null_arm_repeats_the_stack_under_other_seeds(name: str, base: Path):
    _, plan = planned(name, base)
    trained = {
        (c.arm, c.size, c.draw, c.network, c.seed): plan.units[
            plan.units[c.unit].arguments["run"]
        ].arguments
        for c in plan.cells
    }
    pairs = [(a, trained["null", *place]) for (arm, *place), a in trained.items() if arm == "stack"]
    assert pairs
    assert all({**null, "seed": 0} == {**plain, "seed": 0} for plain, null in pairs)
    assert {null["seed"] - plain["seed"] for plain, null in pairs} == {NULL_SEED}


def sizes_of(plan: Plan) -> list[int]:
    return sorted({c.size for c in plan.cells})


def who_tests(plan: Plan) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for cell in plan.cells:
        found.setdefault(cell.test, set()).update(plan.units[cell.unit].arguments["patients"] or ())
    return found


def test_camus_trains_and_tests_on_its_own_lists(base: Path):
    _, plan = planned("sector_outpaint_camus", base)
    assert sizes_of(plan) == [20, 40, 100, 200, 400]
    assert who_tests(plan) == {"CAMUS testing": {f"patient{i:04d}" for i in range(451, 501)}}
    train = next(u for u in plan.units.values() if u.kind == "train").arguments
    assert dict(open_part(train).labels) == {"background": 0, "LV": 1, "MYO": 2}
    at = {size: {c.arm for c in plan.cells if c.size == size} for size in sizes_of(plan)}
    assert len(at[20]) == 21
    larger = {"stack", "null", "randomised", "warped", "synthetic", "unfiltered", "fill_black"}
    assert at[40] == at[400] == larger


@pytest.mark.parametrize("name", [n for n in COUNTS if n.startswith("sector_outpaint")])
def test_fillers_differ_in_the_filling_alone(name: str, base: Path):
    study, _ = planned(name, base)
    made = {
        arm: study.arm(arm).synthetic for arm in study.arms
        if arm == "unfiltered" or arm.startswith("fill_")
    }  # fmt: skip
    fillers = {arm: one.settings["filler"] for arm, one in made.items()}
    assert set(fillers.values()) == {"conditional", "repaint", "black", "mirror", "speckle"}
    rest = {json.dumps(one.model_dump() | {"settings": {}}) for one in made.values()}
    assert len(rest) == 1


def test_one_view_trains_and_the_other_tests(base: Path):
    _, plan = planned("sector_outpaint_views", base)
    made = {u.kind: u.arguments for u in plan.units.values() if u.kind != "evaluate"}
    assert all(a["domains"] == ["4CH"] for a in made.values())
    part = open_part(made["train"])
    assert part.domains == ("4CH",)
    assert len(part) == 1000
    asked = {c.test: plan.units[c.unit].arguments["domains"] for c in plan.cells}
    assert asked == {"unseen view": ["2CH"], "same view": ["4CH"]}
    stack, largest = (
        next(c for c in plan.cells if c.arm == arm and c.seed == 0) for arm in ("stack", "largest")
    )
    one, other = (plan.units[c.unit].arguments for c in (stack, largest))
    assert {**one, "largest_component": True} == dict(other)


def test_narrow_sectors_train_and_full_ones_test(base: Path):
    study, plan = planned("sector_outpaint_narrow", base)
    folders = {c.test: Path(plan.units[c.unit].arguments["data"]).name for c in plan.cells}
    assert folders == {"full sector": "database_nifti", "narrow sector": "CAMUS_narrow"}
    assert sizes_of(plan) == [40, 400]
    assert (study.endpoint.metric, study.failure_hd) == ("failure", 20)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mask_to_image_mnms", [5, 15, 38, 75, 150]),
        ("mask_to_image_quality", [15]),
        ("reference_shift_mnms", [150]),
        ("reference_shift_mnms_3d", [150]),
    ],
)
def test_two_vendors_train_and_two_others_test(name: str, sizes: list[int], base: Path):
    study, plan = planned(name, base)
    assert sizes_of(plan) == sizes
    testing = open_dataset(base / "../../data/MNMs/testing")
    vendor = {i.patient_id: i.domain for i in testing.items}
    found = {
        test: Counter(vendor[p] for p in patients) for test, patients in who_tests(plan).items()
    }
    assert found.pop("same vendors") == {"A": 16, "B": 40}
    assert list(found.values()) == [{"C": 40, "D": 40}]
    (unseen,) = found
    assert set(plan.groups[unseen].values()) == {"C", "D"}
    assert study.dims == (3 if name.endswith("3d") else 2)


def test_ten_generators_differ_in_their_steps_alone(base: Path):
    _, plan = planned("mask_to_image_quality", base)
    fits = [
        u.arguments for u in plan.units.values()
        if u.kind == "generate" and u.arguments["method"] == "mask_to_image"
        and u.arguments["seed"] == 0
    ]  # fmt: skip
    assert sorted(a["steps"] for a in fits)[::9] == [200, 20000]
    assert len(fits) == 10
    assert len({json.dumps({**a, "steps": 0}) for a in fits}) == 1
    trained = [u.arguments for u in plan.units.values() if u.kind == "train"]
    assert all(a["unfiltered"] for a in trained if a["synthetic"])


@pytest.mark.parametrize(
    ("name", "patients"),
    [("edge_text_prostate", 32), ("edge_text_spleen", 41), ("edge_text_busi", 647)],
)
def test_three_folds_test_everyone_once(name: str, patients: int, base: Path):
    _, plan = planned(name, base)
    stacks = [c for c in plan.cells if c.arm == "stack" and c.seed == 0]
    held = Counter(p for c in stacks for p in plan.units[c.unit].arguments["patients"])
    assert {c.test for c in stacks} == {HELD_OUT}
    assert {c.draw for c in stacks} == {0, 1, 2}
    assert len(held) == patients
    assert set(held.values()) == {1}


def test_real_shares_are_those_of_figure_6(base: Path):
    study, plan = planned("edge_text_ablation", base)
    shares = {
        name: round(1 - study.arm(name).synthetic_probability, 1)
        for name in study.arms if name.startswith("real_")
    }  # fmt: skip
    assert shares == {"real_0": 0.0, "real_20": 0.2, "real_40": 0.4, "real_80": 0.8}
    made = {u.arguments["copies"] for u in plan.units.values() if u.kind == "generate"}
    assert made == {1, 2, 5, 10, 20, 50}


def test_five_networks_train_at_one_width(base: Path):
    _, plan = planned("edge_text_networks", base)
    trained = Counter(
        (u.arguments["settings"]["network"], u.arguments["settings"]["width"])
        for u in plan.units.values() if u.kind == "train"
    )  # fmt: skip
    names = ("attention_unet", "unet", "residual_unet", "resnet50_unet", "swin_unetr")
    assert trained == {(name, 48): 45 for name in names}


def test_what_a_unit_opens_can_be_loaded(base: Path):
    def first(name: str):
        _, plan = planned(name, base)
        train = next(u for u in plan.units.values() if u.kind == "train").arguments
        part = open_part(train)
        return part, part.load(part.items[0])

    part, case = first("edge_text_prostate")
    assert case.image.shape == (2, 16, 16, 3)
    assert part.channel_names == ("T2", "ADC")
    assert dict(part.labels) == {"background": 0, "prostate": 1}
    assert set(case.mask.unique().tolist()) == {0, 1}
    part, case = first("edge_text_spleen")
    assert part.modality == "CT"
    assert case.grid.spacing == pytest.approx((0.8, 0.8, 3.0))
    part, case = first("mask_to_image_mnms")
    assert set(case.mask.unique().tolist()) == {0, 1, 2, 3}
    part, case = first("sector_outpaint_camus")
    # The left atrium has become background, the cine loops are no cases.
    assert set(case.mask.unique().tolist()) == {0, 1, 2}
    assert len(part) == 2000


def test_masks_of_one_image_are_united(base: Path):
    part = open_dataset(base / "../../data/BUSI")
    assert Counter(len(i.masks) for i in part.items) == {1: 643, 2: 2, 3: 2}
    rows = {}
    for name in ("benign (1)", "benign (4)", "malignant (163)"):
        item = next(i for i in part.items if i.case_id == name)
        rows[name] = torch.nonzero(part.load(item).mask.any(1)).flatten().tolist()
    assert rows == {
        "benign (1)": [1, 2, 3], "benign (4)": [1, 2, 3, 7, 8], "malignant (163)": [1, 2, 3, 7, 8],
    }  # fmt: skip
    _, plan = planned("edge_text_busi", base)
    assert Counter(plan.groups[HELD_OUT].values()) == {"benign": 437, "malignant": 210}


def test_hours_of_a_study(base: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def generation(data, out, *, method, patients, copies, steps, **rest):
        asked.append((method, len(patients), copies, len(data.channel_names)))
        fit = 0.0 if method == "warped_pairs" else 120 * (steps or 20000) / 20000
        minutes = {"fit": fit, "gate": 30.0, "generate": 60.0}
        return {"minutes": minutes, "steps": steps or 20000, "gate": {"steps": 3000}, "dims": 2}

    def training(data, out, *, settings, patients, **rest):
        asked.append((settings["network"], len(patients)))
        return {"minutes": {"total": 20.0}, "steps": 6000, "dims": 2}

    monkeypatch.setattr(estimate, "plan_augment", generation)
    monkeypatch.setattr(estimate, "plan_segment", training)
    found = estimate.estimate_study(base / "edge_text_networks.yaml", device="cpu", talk=QUIET)
    # 32 patients in 3 folds: 22 train at most. Each network and each method is measured once.
    assert sorted(asked[:2]) == [("mask_to_image", 22, 10, 2), ("warped_pairs", 22, 10, 2)]
    assert [a for a in asked[2:] if a[1] != 22] == []
    assert len(asked) == 2 + 5
    assert found["units"] == {"generate": 18, "train": 225, "evaluate": 225}
    # Folds train on 21, 21 and 22 patients.
    cases = 3 * (21 + 21 + 22) / 22
    assert found["hours"]["generate"] == pytest.approx(9 * (120 + 30 + 30) / 60 + 2 * cases, 0.001)
    assert found["hours"]["train"] == pytest.approx(225 * 20 / 60)
    # Each of 75 trainings of a fold reads that fold's patients, 32 in all.
    assert found["hours"]["evaluate"] > 75 * 32 * estimate.SCORING / 3600
    asked.clear()
    found = estimate.estimate_study(base / "mask_to_image_quality.yaml", device="cpu", talk=QUIET)
    # One fit is measured; the ten differ in steps: 66,900 in all, for each of three draws.
    assert len(asked) == 3
    fits = 3 * 120 * 66900 / 20000 / 60
    assert found["hours"]["generate"] == pytest.approx(fits + 3 * 11 * (30 + 60) / 60, 0.001)


def test_a_measured_dry_run(base: Path):
    text = (base / "edge_text_prostate.yaml").read_text()
    small = base / "small.yaml"
    small.write_text(text.replace("preset: standard", "preset: tiny"))
    found = estimate.estimate_study(small, device="cpu", talk=QUIET)
    assert found["units"] == {"generate": 18, "train": 144, "evaluate": 144}
    assert all(hours > 0 for hours in found["hours"].values())
    assert "21 training patients, 3 fold(s), 3 seed(s)" in found["study"]


def short_axis(root: Path, names: list[str], cases: tuple[str, ...], labels: dict) -> None:
    image = nifti((8, 8, 2), 1.0)
    for case in (f"{name}_{end}" for name in names for end in cases):
        write(root / "imagesTr" / f"{case}_0000.nii.gz", image)
        write(root / "labelsTr" / f"{case}.nii.gz", nifti((8, 8, 2), 1.0, max(labels.values())))
    description = {
        "channel_names": {"0": "cineMRI"}, "file_ending": ".nii.gz", "labels": labels,
        "numTraining": len(names) * len(cases),
    }  # fmt: skip
    write(root / "dataset.json", json.dumps(description))


def test_generators_of_quality_and_gain_differ_in_steps_and_evaluations(tmp_path: Path):
    names = [f"patient{i:03d}" for i in range(1, 25)]
    labels = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    short_axis(tmp_path / "Dataset027_ACDC", names, ("frame01", "frame09"), labels)
    other = [f"SC-HF-I-{i:02d}" for i in range(1, 4)]
    short_axis(tmp_path / "Dataset060_Sunnybrook", other, ("0048",), labels)
    parts = {"train": names[:20], "test": names[20:]}
    write(tmp_path / "splits.json", json.dumps({"Dataset027_ACDC": parts}))
    study = read_study(STUDIES.parent / "acdc" / "quality_and_gain.yaml")
    plan = plan_study(study, tmp_path)
    made = {n: study.arm(n).synthetic for n in study.arms if study.arm(n).synthetic is not None}
    assert len(made) >= 10
    found = [(one.steps, one.settings.get("num_steps", 6)) for one in made.values()]
    assert len(set(found)) == len(found)
    steps = sorted(n for n, evaluations in found if evaluations == 6)
    assert (steps[0], steps[-1]) == (25, 1600)
    assert {b / a for a, b in pairwise(steps)} == {2.0}
    rest = {json.dumps(m.model_dump() | {"steps": 0, "settings": {}}) for m in made.values()}
    assert len(rest) == 1
    assert all(one.gates == [] for one in made.values())
    # One draw of 2 + 11 arms on two tests.
    counts = *(plan.count(k) for k in ("generate", "train", "evaluate")), len(plan.cells)
    assert counts == (11, 13, 26, 26)
    # Patients are left whom no generator saw, to judge with.
    seen = {p for u in plan.units.values() if u.kind == "generate" for p in u.arguments["patients"]}
    assert set(parts["train"]) - seen


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("acdc_sunnybrook", "Dataset060_Sunnybrook"),
        ("acdc_sunnybrook_3d", "Sunnybrook_volumes"),
        ("sunnybrook_acdc", "Dataset060_Sunnybrook"),
    ],
)
def test_shifts_of_one_source_share_a_fit_and_see_no_label(tmp_path: Path, file, target):
    names = [f"patient{i:03d}" for i in range(1, 27)]
    labels = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    short_axis(tmp_path / "Dataset027_ACDC", names, ("frame01", "frame09"), labels)
    other = [f"SC-HF-I-{i:02d}" for i in range(1, 17)]
    short_axis(tmp_path / target, other, ("0048",), labels)
    parts = {
        "Dataset027_ACDC": {"train": names[:20], "test": names[20:]},
        "Dataset060_Sunnybrook": {"train": other[:10], "test": other[10:]},
    }
    write(tmp_path / "splits.json", json.dumps(parts))
    study = read_study(STUDIES.parent / "shift" / f"{file}.yaml")
    plan = plan_study(study, tmp_path)
    fits = [u for u in plan.units.values() if u.kind == "fit"]
    # One for each size, and one more where unlabelled images of the other scanner join.
    alone = [u for u in fits if u.arguments["unlabelled"] is None]
    sizes = len(study.sizes or ["all"])
    assert len(alone) == sizes
    # Volumes are shifted slice by slice.
    assert {u.arguments["dims"] for u in fits} == ({2} if file.endswith("3d") else {None})
    shifted = [u for u in plan.units.values() if u.kind == "adapt"]
    shifting = [n for n in study.arms if study.arm(n).adapt is not None]
    assert len(shifted) == len(shifting) * sizes * len(study.tests)
