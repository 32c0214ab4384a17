"""A study's units: shared where equal, honest about patients."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.quality.validity_rules import read_rules
from augmint.study.arms import rules_of
from augmint.study.parts import fingerprint_of, open_part
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


def test_no_draw_starts_as_another_does(base):
    """One lucky start for all draws of an arm would look like a benefit of the arm."""
    plan = plan_study(study_of(), base)
    trained = [u.arguments for u in plan.units.values() if u.kind == "train"]
    for name in ("stack", "null"):
        runs = {
            (c.draw, c.seed): plan.units[plan.units[c.unit].arguments["run"]].arguments["seed"]
            for c in plan.cells
            if c.arm == name
        }
        assert len(set(runs.values())) == len(runs) == 4
    assert len({a["seed"] for a in trained}) == 8


def test_keys_follow_what_a_unit_depends_on(base):
    keys = set(plan_study(study_of(), base).units)
    assert set(plan_study(study_of(), base).units) == keys
    longer = set(plan_study(study_of(draws=3), base).units)
    assert keys < longer
    other = plan_study(study_of(segmenter_steps=7), base).units.values()
    kept = Counter(u.kind for u in other if u.key in keys)
    assert kept == {"generate": 2}


def test_changed_masks_are_another_dataset(base, tmp_path):
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


def names_of(folder: Path) -> list[str]:
    from augmint.data.dataset import open_dataset

    return list(open_dataset(folder).patients)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients of vendor A, three of B, two of C, and two who were seen by A and by C."""
    folder = tmp_path_factory.mktemp("mixed")
    make_phantoms("cine-mr", out=folder / "all", vendor="A", patients=11, slices=3, size=32)
    shutil.copytree(folder / "all", folder / "again")
    vendors = ["A", "A", "A", "A", "B", "B", "B", "C", "C", "AC", "AC"]
    rows = list(csv.DictReader((folder / "all" / "cases.csv").open()))
    of = dict(zip(sorted({r["patient"] for r in rows}), vendors))
    seen: set[str] = set()
    for row in rows:
        vendor = of[row["patient"]]
        row |= {"domain": vendor[-1 if row["patient"] in seen else 0], "kind": vendor}
        seen.add(row["patient"])
    for name in ("all", "again"):
        with (folder / name / "cases.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    facts = json.loads((folder / "again" / "dataset.json").read_text())
    (folder / "again" / "dataset.json").write_text(json.dumps({**facts, "name": "again"}))
    return folder


def patients_of(plan, kind: str, test: str | None = None) -> set[str]:
    cells = {c.unit for c in plan.cells if test in (None, c.test)}
    return {
        p
        for u in plan.units.values()
        if u.kind == kind and (kind != "evaluate" or u.key in cells)
        for p in u.arguments["patients"]
    }


def test_domains_choose_patients_and_their_cases(mixed):
    names = names_of(mixed / "all")
    tests = [{"name": "C", "data": "all", "domains": ["C"]}]
    study = study_of(
        data="all", domains=["A", "B"], sizes=None, tests=tests, endpoint={"test": "C"}
    )
    plan = plan_study(study, mixed)
    # Whoever has a case of C tests, and then trains with none.
    assert patients_of(plan, "train") == set(names[:7])
    assert patients_of(plan, "evaluate") == set(names[7:])
    parts = {u.kind: open_part(u.arguments) for u in plan.units.values()}
    assert parts["generate"].domains == parts["train"].domains == ("A", "B")
    assert parts["evaluate"].domains == ("C",)
    assert set(names[9:]) < set(parts["train"].patients)
    # Named patients count where they have a case of the domains.
    named = study_of(
        data="all", domains=["B"], patients=names[:7], sizes=None, tests=tests,
        endpoint={"test": "C"},
    )  # fmt: skip
    assert patients_of(plan_study(named, mixed), "train") == set(names[4:7])


def test_domains_of_another_dataset(mixed):
    names = names_of(mixed / "all")
    tests = [
        {"name": "A", "data": "again", "domains": ["A"], "allow_same_names": True},
        {"name": "all", "data": "again", "allow_same_names": True},
    ]
    study = study_of(
        data="all", domains=["B"], sizes=None, tests=[{"name": "A", "data": "again"}],
        endpoint={"test": "A"},
    )  # fmt: skip
    with pytest.raises(AugmintError, match="leak: 3 patients of test 'A' are named as patients"):
        plan_study(study, mixed)
    plan = plan_study(
        study_of(data="all", domains=["B"], sizes=None, tests=tests, endpoint={"test": "A"}), mixed
    )
    assert patients_of(plan, "evaluate", "A") == {*names[:4], *names[9:]}
    units = {c.test: plan.units[c.unit].arguments for c in plan.cells}
    assert units["A"]["allow_same_names"]
    assert units["all"]["patients"] is None
    assert units["A"]["fingerprint"] == units["all"]["fingerprint"]


def test_a_label_map_reaches_every_unit_and_yields_to_that_of_a_test(base):
    labels = names = {"LV": "heart", "MYO": "heart"}
    tests = [{"name": "T", "data": "other"}, {"name": "U", "data": "other", "label_map": {}}]
    plan = plan_study(study_of(label_map=labels, tests=tests), base)
    maps = {u.kind: u.arguments["label_map"] for u in plan.units.values() if u.kind != "evaluate"}
    assert maps == {"generate": names, "train": names}
    units = {c.test: plan.units[c.unit].arguments for c in plan.cells}
    assert units["T"]["label_map"] == names
    assert "label_map" not in units["U"]
    assert {"heart", "LV"} & set(open_part(units["T"]).labels) == {"heart"}
    assert {"heart", "LV"} & set(open_part(units["U"]).labels) == {"LV"}
    assert not set(plan.units) & set(plan_study(study_of(tests=tests), base).units)


def test_units_keep_their_keys_where_later_fields_say_nothing(base):
    plan = plan_study(study_of(), base)
    kinds = {u.kind: set(u.arguments) for u in plan.units.values()}
    data = {"data", "fingerprint", "patients"}
    assert kinds["train"] == data | {
        "settings",
        "preset",
        "dims",
        "seed",
        "synthetic",
        "unfiltered",
    }
    assert kinds["evaluate"] == data | {"run", "tolerance"}
    assert kinds["generate"] == data | {
        "method", "settings", "copies", "steps", "gate_steps", "preset", "dims", "seed",
    }  # fmt: skip


@pytest.mark.parametrize("reading", ["largest_component", "sliding"])
def test_another_reading_is_another_evaluation_of_one_training(base, reading):
    arms = {"stack": {}, "largest": {"like": "stack", reading: True}}
    plan = plan_study(study_of(arms=arms), base)
    assert plan.count("train") == 2 * 2
    assert plan.count("evaluate") == 2 * plan.count("train")
    pairs = {(c.draw, c.seed, c.arm): plan.units[c.unit].arguments for c in plan.cells}
    for draw in (0, 1):
        one, other = pairs[draw, 0, "stack"], pairs[draw, 0, "largest"]
        assert dict(other) == {**one, reading: True}


def test_larger_sizes_can_have_fewer_arms(base):
    study = study_of(sizes=["all", 2, 0.6], arms_at_larger_sizes=["ours", "stack"])
    plan = plan_study(study, base)
    at = {n: [c for c in plan.cells if c.size == n] for n in (2, 3, 5)}
    assert sum(map(len, at.values())) == len(plan.cells)
    assert {c.arm for c in at[2]} == {"stack", "null", "ours", "unfiltered"}
    assert [{c.arm for c in at[n]} for n in (3, 5)] == [{"stack", "ours"}] * 2
    # All patients can be drawn in one way only.
    assert [len({c.draw for c in at[n]}) for n in (2, 3, 5)] == [2, 2, 1]


def test_a_size_that_is_asked_for_twice_is_planned_once(base):
    once, twice = (plan_study(study_of(sizes=s), base) for s in ([2], [2, 0.4]))
    assert len(twice.cells) == len(once.cells)
    # A share of the folds' patients is one size, though folds differ by a patient.
    folded = study_of(sizes=[0.7], draws=1, folds=2, tests=[], endpoint={"test": HELD_OUT})
    plan = plan_study(folded, base)
    assert len({c.size for c in plan.cells}) == 1
    trained = {len(u.arguments["patients"]) for u in plan.units.values() if u.kind == "train"}
    assert trained == {1, 2}


def test_held_out_patients_in_groups(mixed):
    folded = {
        "data": "all", "sizes": None, "draws": 1, "folds": 3, "tests": [],
        "endpoint": {"test": HELD_OUT},
    }  # fmt: skip
    plan = plan_study(study_of(**folded, group="kind"), mixed)
    assert Counter(plan.groups[HELD_OUT].values()) == {"A": 4, "B": 3, "C": 2, "AC": 2}
    with pytest.raises(AugmintError, match=r"has cases with domain '.' and '.'; results are split"):
        plan_study(study_of(**folded, group="domain"), mixed)


def test_patients_one_a_line(base, tmp_path):
    names = names_of(base / "train")
    (base / "who.txt").write_text("\n".join(names[:3]) + "\n\n")
    plan = plan_study(study_of(patients="who.txt", sizes=None), base)
    assert patients_of(plan, "train") == set(names[:3])
    with pytest.raises(AugmintError, match=r"none.txt has no such list"):
        plan_study(study_of(patients="none.txt"), base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": ["D"]}, "no domain named D; choose from A, B, C"),
        ({"tests": [{"name": "T", "data": "all", "domains": ["A", "B", "C"]}]}, "none is left to"),
        (
            {"tests": [{"name": "T", "data": "all", "domains": ["B"], "patients": "A"}]},
            "test 'T': none of its 4 patients has a case in the domains B",
        ),
        ({"domains": ["B"], "patients": "A"}, "the training patients: none of its 4 patients"),
        ({"tests": [{"name": "T", "data": "again", "patients": ["x"]}]}, "again has no labels of"),
        ({"patients": "all", "tests": [{"name": "T", "data": "all", "domains": ["B"]}]}, "leak:"),
    ],
)
def test_domains_that_cannot_be_had(mixed, changes, message):
    names = names_of(mixed / "all")
    lists = {"A": names[:4], "all": names}
    for part in (changes, *changes.get("tests", ())):
        if isinstance(part.get("patients"), str):
            part["patients"] = lists[part["patients"]]
    plain = {"data": "all", "sizes": None, "tests": [{"name": "T", "data": "again"}]}
    with pytest.raises(AugmintError, match=message):
        plan_study(study_of(**{**plain, **changes}), mixed)


def test_a_label_that_nobody_will_score_is_told_before_the_work(base, tmp_path):
    def end(label: str) -> dict:
        return {"test": "T", "label": label}

    plan_study(study_of(endpoint=end("LV")), base)
    with pytest.raises(AugmintError, match=r"label 'LVV' would have no score on test 'T'; .*LV"):
        plan_study(study_of(endpoint=end("LVV")), base)
    merged = {"label_map": {"LV": "heart", "MYO": "heart"}}
    plan_study(study_of(**merged, endpoint=end("heart")), base)
    with pytest.raises(
        AugmintError, match=r"'LV' would have no score .*there: (RV, heart|heart, RV);"
    ):
        plan_study(study_of(**merged, endpoint=end("LV")), base)
    # What no annotator of either side looked for is not scored, and the mean is over the rest.
    for part in ("train", "other"):
        folder = tmp_path / part
        shutil.copytree(base, folder)
        file = folder / part / "dataset.json"
        facts = json.loads(file.read_text())
        file.write_text(json.dumps({**facts, "annotated_labels": ["LV"]}))
        plan_study(study_of(endpoint=end("mean")), folder)
        plan_study(study_of(endpoint=end("LV")), folder)
        with pytest.raises(AugmintError, match="label 'RV' would have no score"):
            plan_study(study_of(endpoint=end("RV")), folder)


def test_folds_and_sides_without_a_common_label(base):
    folded = {"sizes": None, "draws": 1, "folds": 5, "tests": []}
    with pytest.raises(AugmintError, match="'LVV' would have no score on test 'held out'"):
        plan_study(study_of(**folded, endpoint={"test": HELD_OUT, "label": "LVV"}), base)
    renamed = {"LV": "a", "MYO": "a", "RV": "a"}
    tests = [{"name": "T", "data": "other", "label_map": renamed}]
    with pytest.raises(AugmintError, match=r"label 'mean' would have no score.* there: a; in"):
        plan_study(study_of(tests=tests), base)


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


def test_another_frame_of_the_same_file_is_other_data(base):
    dataset = open_dataset(base / "train")
    marks = {
        fingerprint_of(replace(dataset, items=(replace(dataset.items[0], frame=frame),)))
        for frame in (None, 0, 3)
    }
    assert len(marks) == 3


def test_gates_are_checked_before_the_work_and_are_units_of_their_own(base):
    def arm(gates):
        return {"synthetic": {"method": "mask_to_image", "copies": 1, "gates": gates}}

    with pytest.raises(AugmintError, match="--gates copies learns from 5 patients or more"):
        plan_study(study_of(arms={"stack": {}, "ours": arm(["copies"])}), base)
    plan = plan_study(study_of(arms={"stack": {}, "a": arm(None), "b": arm(["validity"])}), base)
    gates = [u.arguments.get("gates") for u in plan.units.values() if u.kind == "generate"]
    assert gates.count(None) == gates.count(["validity"]) == 2


def with_rules(rules, gates=("validity",)):
    made = {"method": "mask_to_image", "copies": 1, "gates": list(gates), "rules": rules}
    return study_of(arms={"stack": {}, "ours": {"synthetic": made}})


def test_a_unit_is_named_by_what_its_rules_ask_wherever_they_stand(base, tmp_path):
    def keys(text, name="a.yaml"):
        (tmp_path / name).write_text(text)
        plan = plan_study(with_rules(str(tmp_path / name)), base)
        return {u.key for u in plan.units.values() if u.kind == "generate"}

    one = keys("rules:\n  - area: {of: LV}\n")
    assert keys("# a remark\nrules:\n  - area:\n      of: LV\n", "b.yaml") == one
    assert not keys("rules:\n  - area: {of: LV, most: 900}\n") & one
    plain = plan_study(with_rules(None), base)
    assert not one & set(plain.units)
    assert all("rules" not in u.arguments for u in plain.units.values())


def test_rules_of_a_unit_are_those_of_the_file(base):
    (base / "own.yaml").write_text("rules:\n  - encloses: {inner: LV, outer: MYO, also: RV}\n")
    plan = plan_study(with_rules("own.yaml"), base)
    (unit, *_) = (u for u in plan.units.values() if u.kind == "generate")
    found = rules_of(json.loads(json.dumps(unit.arguments)))
    assert found.rules == read_rules(base / "own.yaml").rules
    assert rules_of({}) is None


def test_rules_that_do_not_go_with_the_labels_are_told_with_their_arm(base):
    (base / "kidney.yaml").write_text("rules:\n  - area: {of: kidney}\n")
    with pytest.raises(AugmintError, match=r"arm 'ours': rules .*no label is named 'kidney'"):
        plan_study(with_rules("kidney.yaml"), base)
    with pytest.raises(AugmintError, match="cannot be read"):
        plan_study(with_rules("nowhere.yaml"), base)
    renamed = {"LV": "kidney", "MYO": None, "RV": None}
    study = with_rules("kidney.yaml").model_copy(update={"label_map": renamed})
    assert plan_study(study, base).count("generate") == 2
    with pytest.raises(AugmintError, match=r"arm 'ours': .*no anatomical rules are known"):
        plan_study(with_rules(None).model_copy(update={"label_map": renamed}), base)


def checked(base: Path, study: Study, change: dict[str, object], kind: str) -> None:
    """The guard on a plan in which the units of a kind read something else."""
    from augmint.study.parts import Parts, Target
    from augmint.study.plan import _check_units

    parts = Parts(base)
    train, other = (parts.open(name, None, None) for name in ("train", "other"))
    units = {}
    for unit in plan_study(study, base).units.values():
        if unit.kind == kind:
            unit = replace(unit, arguments={**unit.arguments, **change})
        units[unit.key] = replace(unit, needs=())
    _check_units(units, study, [train, other], [Target("T", other, None)])


@pytest.mark.parametrize("kind", ["train", "generate", "fit"])
@pytest.mark.parametrize("protocol", ["adaptation", None])
def test_no_label_of_a_test_reaches_a_fit(base, kind, protocol):
    arms = {"stack": {}, "made": {"synthetic": {"method": "warped_pairs"}}}
    if protocol:
        arms["shifted"] = {"like": "stack", "adapt": {"unlabelled": "T"}}
    elif kind == "fit":
        return
    study = study_of(arms=arms, protocol=protocol, sizes=["all"], draws=1)
    checked(base, study, {}, kind)
    target = {"data": str((base / "other").resolve()), "patients": None}
    with pytest.raises(AugmintError, match=f"leak: unit {kind} .* reads labels of 5 test patient"):
        checked(base, study, target, kind)
    if kind == "train":
        checked(base, study, {**target, "oracle": True}, kind)


def test_images_of_a_test_reach_a_fit_under_adaptation_alone(base):
    arms = {"stack": {}, "shifted": {"like": "stack", "adapt": {"unlabelled": "T"}}}
    study = study_of(arms=arms, protocol="adaptation", sizes=["all"], draws=1)
    plan = plan_study(study, base)
    blind = study.model_copy(update={"protocol": "generalisation"})
    assert plan.count("fit") == 1
    with pytest.raises(AugmintError, match="reads images of 5 test patient"):
        plan_study(blind, base)


def test_an_evaluation_on_who_trained_is_refused(base):
    from augmint.study.parts import Parts
    from augmint.study.plan import _check_units

    study = study_of(arms={"stack": {}}, folds=2, sizes=None, draws=1, tests=[],
                     endpoint={"test": HELD_OUT})  # fmt: skip
    units = dict(plan_study(study, base).units)
    source = Parts(base).open("train", None, None)
    _check_units(units, study, [source], [])
    found = next(u for u in units.values() if u.kind == "evaluate")
    seen = units[found.needs[0]].arguments["patients"]
    units[found.key] = replace(found, arguments={**found.arguments, "patients": seen})
    with pytest.raises(AugmintError, match=r"leak: unit train .* reads labels"):
        _check_units(units, study, [source], [])
