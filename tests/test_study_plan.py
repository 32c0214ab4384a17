"""A study's units: shared where equal, honest about patients."""

import json
from collections import Counter
from pathlib import Path

import pytest

from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.study.plan import NULL_SEED, plan_study
from augmint.study.spec import HELD_OUT, Study


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name, seed in (("train", 0), ("other", 1)):
        make_phantoms(
            "cine-mr", out=folder / name, vendor="A", patients=5, seed=seed, slices=3, size=32
        )
    return folder


def study_of(**changes) -> Study:
    plain = {
        "name": "s", "data": "train", "sizes": [2], "draws": 2, "seeds": [0, 1], "preset": "tiny",
        "tests": [{"name": "T", "data": "other"}],
        "arms": {
            "stack": {},
            "null": {"like": "stack", "null": True},
            "ours": {"synthetic": {"method": "mask_to_image", "copies": 1}},
            "unfiltered": {
                "synthetic": {"method": "mask_to_image", "copies": 1, "filtered": False}
            },
        },
        "baseline": "stack", "endpoint": {"test": "T"},
    }  # fmt: skip
    return Study.model_validate({**plain, **changes})


def test_arms_that_need_the_same_share_it(base):
    plan = plan_study(study_of(), base)
    # 2 draws; filtered and unfiltered draw on one dataset; 4 arms x 2 seeds are trained.
    assert plan.count("generate") == 2
    assert plan.count("train") == 2 * 4 * 2
    assert plan.count("evaluate") == 2 * 4 * 2
    assert len(plan.cells) == 2 * 4 * 2
    own = plan_study(study_of(generator_seeds="each"), base)
    assert own.count("generate") == 4


def test_a_unit_comes_after_what_it_needs(base):
    seen = set()
    for unit in plan_study(study_of(), base).units.values():
        assert set(unit.needs) <= seen
        seen.add(unit.key)


def test_null_differs_from_its_baseline_in_the_seed_alone(base):
    plan = plan_study(study_of(), base)
    runs = {
        (c.arm, c.draw, c.seed): plan.units[plan.units[c.unit].arguments["run"]].arguments
        for c in plan.cells
    }
    for draw in (0, 1):
        plain, null = runs["stack", draw, 1], runs["null", draw, 1]
        assert null["seed"] - plain["seed"] == NULL_SEED
        assert {**null, "seed": 0} == {**plain, "seed": 0}
    assert runs["stack", 0, 0]["patients"] != runs["stack", 1, 0]["patients"]


def test_keys_follow_what_a_unit_depends_on(base):
    keys = set(plan_study(study_of(), base).units)
    assert set(plan_study(study_of(), base).units) == keys
    longer = set(plan_study(study_of(draws=3), base).units)
    assert keys < longer
    other = plan_study(study_of(segmenter_steps=7), base).units.values()
    kept = Counter(u.kind for u in other if u.key in keys)
    assert kept == {"generate": 2}


def test_changed_masks_are_another_dataset(base, tmp_path):
    import shutil

    shutil.copytree(base, tmp_path / "copy")
    before = set(plan_study(study_of(), tmp_path / "copy").units)
    labels = sorted((tmp_path / "copy" / "train" / "labelsTr").iterdir())
    labels[0].write_bytes(labels[1].read_bytes())
    assert not before & set(plan_study(study_of(), tmp_path / "copy").units)


def test_folds_test_on_whom_they_did_not_train(base):
    study = study_of(sizes=None, draws=1, folds=5, tests=[], endpoint={"test": HELD_OUT})
    plan = plan_study(study, base)
    tested = Counter()
    for cell in plan.cells:
        unit = plan.units[cell.unit]
        train = plan.units[unit.arguments["run"]].arguments["patients"]
        assert not set(train) & set(unit.arguments["patients"])
        assert cell.test == HELD_OUT
        if cell.arm == "stack" and cell.seed == 0:
            tested.update(unit.arguments["patients"])
    assert set(tested.values()) == {1}
    assert len(tested) == 5


def test_patients_from_a_file(base):
    from augmint.data.dataset import open_dataset

    names = list(open_dataset(base / "train").patients)
    (base / "splits.json").write_text(json.dumps({"a": {"train": names[:3], "test": names[3:]}}))
    inside = {"name": "T", "data": "train", "patients": "splits.json#a.test"}
    plan = plan_study(study_of(patients="splits.json#a.train", tests=[inside]), base)
    evaluations = [u for u in plan.units.values() if u.kind == "evaluate"]
    assert all(u.arguments["patients"] == names[3:] for u in evaluations)
    with pytest.raises(AugmintError, match=r"leak: .* are trained on"):
        plan_study(study_of(patients=names, tests=[inside]), base)
    with pytest.raises(AugmintError, match=r"splits.json#a.none.*has no such list"):
        plan_study(study_of(patients="splits.json#a.none"), base)
    # Who tests does not train, where nobody says who trains.
    rest = plan_study(study_of(sizes=None, draws=1, tests=[inside]), base)
    assert all(set(u.arguments["patients"]) == set(names[:3]) for u in rest.units.values()
               if u.kind == "train")  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [9]}, "9 patients was asked for, 5 may train"),
        ({"patients": ["nobody"]}, "no labels of: nobody"),
        ({"tests": [{"name": "T", "data": "train"}]}, "lies in the training dataset"),
        ({"tests": [{"name": "T", "data": "other", "group": "shoe"}]}, "column 'shoe'"),
    ],
)
def test_patients_that_cannot_be_had(base, changes, message):
    with pytest.raises(AugmintError, match=message):
        plan_study(study_of(**changes), base)
