"""From a dataset to a verdict: what helps is called so, what does not is not."""

import json
import shutil
from importlib import import_module
from math import prod
from pathlib import Path

import pytest
from typer.testing import CliRunner

from augmint.cli import app
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.progress import Talk
from augmint.study import read_study
from augmint.study.plan import plan_study
from augmint.study.prove import FILE, HELD, Request, hours_in, plan_proof, prove

module = import_module("augmint.study.prove")
LEARNS = {"steps": 120, "width": 16, "lr": 0.01}
SMALL = dict(budget="2d", size=2, preset="tiny", augmentation="noise", device="cpu")


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prove")
    for name, patients, seed in (("data", 15, 0), ("hidden", 30, 9), ("few", 5, 1)):
        make_phantoms(
            "cine-mr", out=folder / name, vendor="A", patients=patients, seed=seed, slices=3,
            size=32,
        )  # fmt: skip
    return folder


def priced(monkeypatch, generate=0.2, train=0.1, evaluate=0.05):
    """Hours of one unit of each kind, instead of measured ones."""
    each = {"generate": generate, "train": train, "evaluate": evaluate}

    def hours_of(plan, *, device, talk):
        units = {k: plan.count(k) for k in each}
        hours = {k: units[k] * each[k] for k in each}
        return {"units": units, "hours": hours, "total_hours": sum(hours.values())}

    monkeypatch.setattr(module, "hours_of", hours_of)


def planned(data, **changes):
    asked = {"data": str(data), "method": "warped_pairs", "copies": 1, "preset": "tiny", **changes}
    return plan_proof(Request(**asked), device="cpu", talk=Talk(quiet=True))


def verdict(folder: Path) -> str:
    lines = (folder / "report.md").read_text().splitlines()
    return next(x for x in lines if x.startswith("**") and " of synthetic is " in x)


def test_a_generator_that_helps_is_said_to_help(cohorts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DESIGNS", ((5, 1),))
    made = prove(
        cohorts / "data", tmp_path / "out", method="fresh_phantoms:FreshPhantoms",
        settings={"folder": str(cohorts / "hidden")}, segmenter=LEARNS, copies=8, gate_steps=2,
        talk=Talk(quiet=True), **SMALL,
    )  # fmt: skip
    assert verdict(made).startswith("**A benefit was shown")


def test_a_useless_generator_is_not(cohorts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DESIGNS", ((3, 1),))
    made = prove(
        cohorts / "data", tmp_path / "out", method="warped_pairs", settings={"warp": 0},
        segmenter=LEARNS, copies=1, gate_steps=2, talk=Talk(quiet=True), **SMALL,
    )  # fmt: skip
    assert verdict(made).startswith("**No benefit was shown")
    outcomes = json.loads((made / "outcomes.json").read_text())
    assert {o["status"] for o in outcomes} == {"done"}


def test_the_budget_decides_how_thorough_it_is(cohorts, monkeypatch):
    priced(monkeypatch)
    thorough = planned(cohorts / "data", budget="2d")
    assert (thorough.study.draws, len(thorough.study.seeds)) == module.DESIGNS[-1]
    # 3 draws, 1 seed: 3 generations, 12 trainings and evaluations.
    least = planned(cohorts / "data", budget="3h")
    assert (least.study.draws, len(least.study.seeds)) == (3, 1)
    assert least.hours["total"] == pytest.approx(3 * 0.2 + 12 * 0.15)
    between = planned(cohorts / "data", budget="6h")
    assert 2.4 < between.hours["total"] <= 6


def test_no_sound_study_fits(cohorts, monkeypatch, tmp_path):
    priced(monkeypatch)
    with pytest.raises(AugmintError, match=r"takes about 2.4 hours here, the budget is 2; raise"):
        planned(cohorts / "data", budget="2h")


def test_patients_are_held_back(cohorts, monkeypatch):
    priced(monkeypatch)
    one = planned(cohorts / "data").study
    assert one.tests[0].name == HELD
    assert len(one.patients) == 10
    assert len(one.tests[0].patients) == 5
    assert not set(one.patients) & set(one.tests[0].patients)
    assert one.sizes == [5]
    other = planned(cohorts / "data", seed=1).study
    assert other.tests[0].patients != one.tests[0].patients


def test_a_further_dataset_becomes_the_endpoint(cohorts, monkeypatch, tmp_path):
    priced(monkeypatch)
    other = shutil.copytree(cohorts / "hidden", tmp_path / "other")
    one = planned(cohorts / "data", tests=(str(other),), allow_same_names=True).study
    assert one.endpoint.test == "other"
    assert [t.name for t in one.tests] == [HELD, "other"]


def test_a_copy_under_another_name_is_no_test(cohorts, monkeypatch, tmp_path):
    """Its patients would train, too; that is said before anything is computed."""
    priced(monkeypatch)
    copy = shutil.copytree(cohorts / "data", tmp_path / "copy")
    facts = json.loads((copy / "dataset.json").read_text())
    facts.pop("name")
    (copy / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(AugmintError, match=r"leak: 10 patients of test 'copy' are named"):
        planned(cohorts / "data", tests=(str(copy),))


def test_the_training_dataset_is_no_further_test(cohorts, monkeypatch):
    priced(monkeypatch)
    with pytest.raises(AugmintError, match="is the training dataset, a third of which"):
        planned(cohorts / "data", tests=(str(cohorts / "data"),))


def test_no_draw_comes_twice(cohorts, monkeypatch, tmp_path):
    """Nine patients: two of the plain draws of three among six are the same."""
    priced(monkeypatch)
    make_phantoms("cine-mr", out=tmp_path / "nine", patients=9, slices=3, size=32)
    plan = plan_study(planned(tmp_path / "nine", budget="9d").study, Path())
    trained = {tuple(u.arguments["patients"]) for u in plan.units.values() if u.kind == "train"}
    assert len(trained) == 5
    assert plan.count("train") == len(plan.cells) == 4 * prod(module.DESIGNS[-1])


def test_the_moved_anatomy_has_an_arm_of_its_own(cohorts, monkeypatch):
    priced(monkeypatch)
    arms = planned(cohorts / "data", method="mask_to_image").study.arms
    assert arms["warped"].synthetic.method == "warped_pairs"
    assert "warped" not in planned(cohorts / "data").study.arms


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": "soon"}, "--budget 'soon' is no time; write 8h"),
        ({"budget": "0h"}, "is no time"),
        ({"size": 10}, "--size must be 1 to 9"),
        ({"augmentation": "magic"}, "magic"),
        ({"method": "magic"}, "unknown method"),
        ({"copies": 0}, "copies"),
        ({"segmenter": {"stepps": 3}}, "stepps"),
        ({"segmenter": {"augmentation": "noise"}}, "augmentation is no setting here"),
        ({"segmenter": {"synthetic_probability": 1}}, "synthetic_probability is no setting here"),
    ],
)
def test_what_does_not_fit_is_said(cohorts, monkeypatch, changes, said):
    priced(monkeypatch)
    with pytest.raises(AugmintError, match=said):
        planned(cohorts / "data", **changes)


def test_too_few_patients(cohorts):
    with pytest.raises(
        AugmintError, match=r"has 5 labelled patient\(s\); a study needs at least 6"
    ):
        planned(cohorts / "few")


def test_times():
    assert hours_in("8h") == 8
    assert hours_in("90min") == hours_in("90m") == hours_in("1.5h") == 1.5
    assert hours_in(" 2d ") == 48


def test_the_command(cohorts, monkeypatch, tmp_path):
    """A dry run writes nothing; a study that was begun is settled and goes on."""
    data, out = str(cohorts / "data"), tmp_path / "out"
    dry = CliRunner().invoke(
        app, ["prove", data, "--method", "warped_pairs", "--budget", "3h", "--dry-run", "--quiet",
              "--preset", "tiny", "--copies", "1", "--size", "2", "--segmenter", "steps=2"],
    )  # fmt: skip
    assert dry.exit_code == 0, dry.stderr
    assert "draws of 2 from 10" in dry.stdout
    assert "nothing was written" in dry.stdout
    priced(monkeypatch)
    monkeypatch.setattr(module, "DESIGNS", ((1, 1),))
    command = ["prove", data, "-o", str(out), "--method", "warped_pairs", "--set", "warp=0",
               "--copies", "1", "--preset", "tiny", "--segmenter", "steps=2", "--size", "2",
               "--device", "cpu", "--quiet"]  # fmt: skip
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.stderr
    assert read_study(out / FILE).arm("synthetic").synthetic.settings == {"warp": "0"}
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    other = CliRunner().invoke(app, [*command, "--continue", "--copies", "2"])
    assert other.exit_code == 2
    assert "was begun with copies 1, not 2" in other.stderr
    foreign = CliRunner().invoke(app, [*command, "--continue", "-o", str(cohorts)])
    assert foreign.exit_code == 2
    assert "exists" in foreign.stderr
    monkeypatch.setattr(module, "plan_proof", None)
    more = CliRunner().invoke(app, [*command, "--continue", "--json"])
    assert more.exit_code == 0, more.stderr
    assert json.loads(more.stdout)["report"] == str(out / "report.html")
