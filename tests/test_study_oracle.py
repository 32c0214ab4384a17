"""Oracles: trained with labels of the test, each patient by those who did not see them."""

import csv
import json
from pathlib import Path

import pytest

from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.evaluation.function import read_rows
from augmint.progress import Talk
from augmint.study import study
from augmint.study.oracle import shared_labels
from augmint.study.parts import Parts
from augmint.study.plan import plan_study
from augmint.study.spec import Study, read_study
from augmint.study.units import Plan

FILE = """\
name: toy
data: train
patients: PATIENTS
sizes: [2, all]
draws: 2
tests:
  - {name: other, data: other}
  - {name: same, data: train, patients: HELD}
arms:
  stack: {}
  null: {like: stack, null: true}
  oracle: {like: stack, oracle: {folds: 2}}
baseline: stack
endpoint: {test: other}
seeds: [0]
preset: tiny
segmenter_steps: 2
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`other` has no RV, and its labels stand in another order."""
    folder = tmp_path_factory.mktemp("oracle")
    for name, vendor, patients in (("train", "A", 4), ("other", "C", 3)):
        make_phantoms(
            "cine-mr", out=folder / name, vendor=vendor, patients=patients, slices=3, size=32
        )
    path = folder / "other" / "dataset.json"
    facts = json.loads(path.read_text())
    facts["annotated_labels"] = [n for n in facts["labels"] if n not in ("background", "RV")]
    path.write_text(json.dumps(facts))
    names = list(open_dataset(folder / "train").patients)
    text = FILE.replace("PATIENTS", str(names[:3])).replace("HELD", str(names[3:]))
    (folder / "study.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return plan_study(read_study(base / "study.yaml"), base)


@pytest.fixture(scope="module")
def done(base: Path) -> Path:
    return study(base / "study.yaml", base / "out", talk=Talk(quiet=True))


def refused(base: Path, old: str, new: str) -> Path:
    path = base / "refused.yaml"
    text = (base / "study.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_each_patient_is_scored_by_who_did_not_see_them(base: Path, plan: Plan):
    joins = [u for u in plan.units.values() if u.kind == "join"]
    assert len(joins) == 1  # for all draws and sizes
    tested: list[str] = []
    for key in joins[0].arguments["parts"]:
        evaluation = plan.units[key].arguments
        trained = plan.units[evaluation["run"]].arguments
        assert trained["data"] == str((base / "other").resolve())
        assert not set(trained["patients"]) & set(evaluation["patients"])
        tested += evaluation["patients"]
    assert sorted(tested) == list(open_dataset(base / "other").patients)


def test_an_oracle_stands_where_others_pair_with_it_and_nowhere_else(plan: Plan):
    places = {(c.size, c.draw) for c in plan.cells if c.arm == "stack" and c.test == "other"}
    own = [c for c in plan.cells if c.arm == "oracle"]
    assert {(c.size, c.draw) for c in own} == places
    assert {c.test for c in own} == {"other"}  # the other test is of the training domain


def test_other_arms_keep_their_units(base: Path, plan: Plan):
    path = refused(base, "  oracle: {like: stack, oracle: {folds: 2}}\n", "")
    without = plan_study(read_study(path), base)
    assert set(without.units) < set(plan.units)
    assert read_study(path).hash != read_study(base / "study.yaml").hash


def test_labels_that_the_source_does_not_teach_are_background(base: Path, tmp_path: Path):
    parts = Parts(base)
    train, other = (parts.open(name, None, None) for name in ("train", "other"))
    assert shared_labels(other, train) == {}
    assert shared_labels(train, other) == {"RV": None}
    renamed = parts.open("train", {"RV": "right", "MYO": "LV"}, None)
    found = shared_labels(renamed, other)
    assert found == {"RV": None, "MYO": "LV"}
    mapped = open_dataset(base / "train", label_map=found)
    assert [n for n, i in mapped.labels.items() if i in mapped.annotated] == ["LV"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("oracle: {folds: 2}", "oracle: {}, null: true", "nothing else; leave out null"),
        ("oracle: {folds: 2}", "oracle: {}, adapt: {}", "nothing else; leave out adapt"),
        (
            "oracle: {folds: 2}",
            "oracle: {}, synthetic: {method: warped_pairs}",
            "nothing else; leave out synthetic",
        ),
        ("baseline: stack", "baseline: oracle", "an oracle is no baseline"),
        ("oracle: {folds: 2}", "oracle: {folds: 1}", "greater than or equal to 2"),
    ],
)
def test_an_oracle_is_nothing_but_an_oracle(base: Path, old: str, new: str, message: str):
    with pytest.raises(AugmintError, match=message):
        read_study(refused(base, old, new))


def test_an_oracle_of_the_training_domain_is_refused(base: Path):
    path = refused(base, "  - {name: other, data: other}\n", "")
    path.write_text(path.read_text().replace("endpoint: {test: other}", "endpoint: {test: same}"))
    with pytest.raises(AugmintError, match=r"arm 'oracle'.*there is no such test"):
        plan_study(read_study(path), base)


def test_a_vendor_of_the_training_dataset_is_another_domain(tmp_path: Path):
    make_phantoms("cine-mr", out=tmp_path / "d", patients=6, slices=3, size=32)
    with (tmp_path / "d" / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({r["patient"] for r in rows})
    with (tmp_path / "d" / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*{**rows[0], "domain": ""}])
        writer.writeheader()
        writer.writerows({**r, "domain": "AB"[r["patient"] in names[3:]]} for r in rows)
    plan = plan_study(
        Study.model_validate({
            "name": "s", "data": "d", "preset": "tiny", "baseline": "stack", "seeds": [0],
            "tests": [{"name": "B", "data": "d", "domains": ["B"]}], "endpoint": {"test": "B"},
            "arms": {"stack": {}, "oracle": {"oracle": {"folds": 3}}},
        }),
        tmp_path,
    )  # fmt: skip
    trained = [u.arguments for u in plan.units.values() if u.arguments.get("oracle")]
    assert len(trained) == 3
    assert all(a["domains"] == ["B"] and set(a["patients"]) < set(names[3:]) for a in trained)


def test_its_scores_stand_beside_the_others_marked_and_out_of_the_family(done: Path, plan: Plan):
    outcomes = json.loads((done / "outcomes.json").read_text())
    assert [o["message"] for o in outcomes if o["status"] != "done"] == []
    scores = list(csv.DictReader((done / "scores.csv").open()))
    of = {
        arm: [(r["case"], r["label"]) for r in scores
              if (r["arm"], r["test"], r["size"], r["draw"]) == (arm, "other", "2", "1")]
        for arm in ("stack", "oracle")
    }  # fmt: skip
    assert sorted(of["oracle"]) == sorted(of["stack"])
    assert {label for _, label in of["oracle"]} == {"LV", "MYO"}
    rows = [
        r for r in csv.DictReader((done / "comparisons.csv").open())
        if r["arm"] == "oracle" and r["test"] == "other"
    ]  # fmt: skip
    assert rows
    assert all(r["p_holm"] == "" for r in rows)
    assert any(r["p"] for r in rows)
    text = (done / "report.md").read_text()
    assert "oracle (oracle: trained with labels of the test; no method may do so)" in text
    assert "Every arm but oracle trains on the same" in text
    assert "it is no competitor" in text


def test_folds_are_joined_as_one_evaluation(done: Path, plan: Plan):
    joined = next(u for u in plan.units.values() if u.kind == "join")
    place = done / joined.folder
    cases = {i.case_id for i in open_dataset(done.parent / "other").items}
    found = {p.name.split(".")[0] for p in (place / "predictions").iterdir()}
    assert found - {"labels"} == cases
    patients = [row.patient for row in read_rows(place / "cardiac.csv")]
    assert sorted(patients) == list(open_dataset(done.parent / "other").patients)
    assert json.loads((place / "summary.json").read_text())["dataset"]
