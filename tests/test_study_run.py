"""A study from its file to its report, at toy size."""

import csv
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from augmint.cli import app
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.progress import Talk
from augmint.quality.validity_rules import read_rules
from augmint.study import study
from augmint.study.plan import plan_study
from augmint.study.spec import read_study
from augmint.synthetic import load_rows

runner = import_module("augmint.study.run")

FILE = """\
name: toy
data: train
sizes: [2]
draws: 2
tests:
  - {name: other, data: other, group: vendor}
arms:
  stack: {}
  null: {like: stack, null: true}
  warped:
    synthetic: {method: warped_pairs, copies: 1, gate_steps: 2}
  unfiltered:
    synthetic: {method: warped_pairs, copies: 1, gate_steps: 2, filtered: false}
baseline: stack
endpoint: {test: other}
seeds: [0, 1]
preset: tiny
segmenter_steps: 3
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name, seed in (("train", 0), ("other", 1)):
        make_phantoms(
            "cine-mr", out=folder / name, vendor="A", patients=3, seed=seed, slices=3, size=32
        )
    rows = list(csv.DictReader((folder / "other" / "cases.csv").open()))
    with (folder / "other" / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "vendor"])
        writer.writeheader()
        names = sorted({r["patient"] for r in rows})
        for row in rows:
            writer.writerow({**row, "vendor": "AB"[row["patient"] == names[0]]})
    (folder / "study.yaml").write_text(FILE)
    return folder


@pytest.fixture(scope="module")
def done(base: Path) -> Path:
    result = CliRunner().invoke(
        app, ["study", str(base / "study.yaml"), "-o", str(base / "out"), "--quiet"]
    )
    assert result.exit_code == 0, result.stderr
    return base / "out"


def test_everything_is_there(done: Path):
    for name in ("report.html", "report.md", "scores.csv", "comparisons.csv", "study.json",
                 "outcomes.json", "readings.jsonl", "figures/forest.png",
                 "figures/failures.png"):  # fmt: skip
        assert (done / name).exists(), name
    outcomes = json.loads((done / "outcomes.json").read_text())
    assert {o["status"] for o in outcomes} <= {"done", "failed", "skipped"}


def test_the_report_says_what_was_compared(done: Path):
    page = (done / "report.html").read_text()
    text = (done / "report.md").read_text()
    for word in ("benefit was shown", "Wilcoxon", "null", "smallest", "Protocol", "Holm"):
        assert word in page, word
        assert word in text, word
    assert "data:image/png;base64" in page
    assert "http" not in page.replace("http-equiv", "")


def test_rows_of_scores_and_comparisons(done: Path):
    scores = list(csv.DictReader((done / "scores.csv").open()))
    outcomes = json.loads((done / "outcomes.json").read_text())
    if all(o["status"] == "done" for o in outcomes):
        assert {r["arm"] for r in scores} == {"stack", "null", "warped", "unfiltered"}
    comparisons = list(csv.DictReader((done / "comparisons.csv").open()))
    primary = [r for r in comparisons if r["primary"] == "1"]
    assert {r["arm"] for r in primary} == {r["arm"] for r in scores} - {"stack"}
    for row in primary:
        assert row["baseline"] == "stack"
        assert float(row["mean"]) - float(row["baseline_mean"]) == pytest.approx(
            float(row["difference"])
        )
    # A null arm stands outside the family that is corrected for.
    assert next(r for r in primary if r["arm"] == "null")["p_holm"] == ""


def test_hearts_have_a_section_of_their_own(done: Path):
    text = (done / "report.md").read_text()
    assert "## Cardiac function: other: 2 training patients, unet" in text
    assert "crossed random samples, like all tests here" in text
    rows = list(csv.DictReader((done / "cardiac.csv").open()))
    fits = {(r["arm"], r["draw"], r["seed"]) for r in rows}
    assert len(fits) == 16
    assert len(rows) == 16 * 3
    assert {r["method"] for r in rows} == {"summation of slices"}
    arms = list(csv.DictReader((done / "cardiac_arms.csv").open()))
    failed = {a["arm"]: int(a["failed"]) for a in arms if a["figure"] == "ef"}
    for arm, number in failed.items():
        assert number == sum(r["status"] == "failed" for r in rows if r["arm"] == arm)


def test_nothing_is_done_twice_and_a_longer_study_goes_on(base: Path, done: Path, monkeypatch):
    ran = []
    for kind, doer in dict(runner.DOERS).items():

        def record(unit, *rest, kind=kind, doer=doer):
            ran.append(kind)
            return doer(unit, *rest)

        monkeypatch.setitem(runner.DOERS, kind, record)
    study(base / "study.yaml", done, resume=True)
    assert ran == []
    (base / "longer.yaml").write_text(FILE.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    study(base / "longer.yaml", done, resume=True)
    assert ran.count("generate") == 0
    assert ran.count("train") == 2 * 4
    # The labels were read under another protocol before, and the report says so.
    lines = [json.loads(x) for x in (done / "readings.jsonl").read_text().splitlines()]
    assert len({line["protocol"] for line in lines}) == 2
    assert "read before under another protocol" in (done / "report.md").read_text()


def test_an_existing_folder_is_not_taken_over(base: Path, done: Path):
    with pytest.raises(AugmintError, match="--continue"):
        study(base / "study.yaml", done)


def test_a_failed_unit_is_reported_while_others_go_on(base: Path, tmp_path: Path, monkeypatch):
    def broken(unit, *rest):
        raise RuntimeError("the lights went out")

    monkeypatch.setitem(runner.DOERS, "generate", broken)
    out = study(base / "study.yaml", tmp_path / "out")
    outcomes = json.loads((out / "outcomes.json").read_text())
    by_status = {s: sum(o["status"] == s for o in outcomes) for s in ("done", "failed", "skipped")}
    # Both generations fail; their 8 trainings and 8 evaluations wait; stack and null are done.
    assert by_status == {"done": 16, "failed": 2, "skipped": 16}
    text = (out / "report.md").read_text()
    assert "the lights went out" in text
    assert "null" in text
    monkeypatch.undo()
    study(base / "study.yaml", out, resume=True)
    assert {o["status"] for o in json.loads((out / "outcomes.json").read_text())} == {"done"}


def test_a_draw_without_any_accepted_case_still_counts(base: Path, tmp_path: Path, monkeypatch):
    """A user would train on the real cases alone; leaving the draw out would flatter the arm."""
    monkeypatch.setattr(runner, "_accepted", lambda made: [])
    out = study(base / "study.yaml", tmp_path / "out")
    outcomes = json.loads((out / "outcomes.json").read_text())
    assert {o["status"] for o in outcomes} == {"done"}
    alone = [o["key"] for o in outcomes if "trained on the real cases alone" in o["message"]]
    assert len(alone) == 4  # one arm, two draws, two seeds
    counts = [
        json.loads((out / "units" / f"train_{key}" / "run.json").read_text())["counts"]
        for key in alone
    ]
    assert {c["synthetic"] for c in counts} == {0}
    assert "4 unit(s) went unlike planned" in (out / "report.md").read_text()
    again = study(base / "study.yaml", out, resume=True)
    assert json.loads((again / "outcomes.json").read_text()) == outcomes
    # A kill between the unit's folder and its record loses no word of it.
    for key in alone:
        (out / "units" / f"{key}.json").unlink()
    study(base / "study.yaml", out, resume=True)
    later = json.loads((out / "outcomes.json").read_text())
    assert [o["message"] for o in later] == [o["message"] for o in outcomes]
    assert "4 unit(s) went unlike planned" in (out / "report.md").read_text()


def test_without_any_accepted_case_nothing_is_mixed(base: Path, tmp_path: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "_accepted", lambda made: [])
    monkeypatch.setattr(
        import_module("augmint.segment"),
        "segment",
        lambda data, out, made, *, settings, **rest: asked.append((made, settings)),
    )
    plan = plan_study(read_study(base / "study.yaml"), base)
    units = [u for u in plan.units.values() if u.kind == "train"]
    for unit in units:
        settings = {**unit.arguments["settings"], "mix": "image"}
        mixed = replace(unit, arguments={**unit.arguments, "settings": settings})
        runner._train(mixed, tmp_path, tmp_path / "run", "cpu", Talk(quiet=True))
    alone = [u.arguments["synthetic"] and not u.arguments["unfiltered"] for u in units]
    assert [made is None and "mix" not in settings for made, settings in asked] == [
        bool(a) for a in alone
    ]
    assert any(alone)
    assert not all(alone)


def test_processors_of_a_cluster_need_a_cluster(base: Path, tmp_path: Path):
    with pytest.raises(AugmintError, match=r"^--ray-cpus needs --ray, .* add --ray local"):
        study(base / "study.yaml", tmp_path / "out", ray_cpus=1)
    assert not list(tmp_path.iterdir())


def test_the_plan_without_the_work(base: Path, tmp_path: Path):
    file = str(base / "study.yaml")
    result = CliRunner().invoke(app, ["study", file, "--dry-run", "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["units"] == {"generate": 2, "train": 16, "evaluate": 16}
    assert set(plan["hours"]) == {"generate", "train", "evaluate"}
    assert plan["total_hours"] == pytest.approx(sum(plan["hours"].values()), abs=0.002)


def test_a_faulty_file_is_one_clear_error(base: Path, tmp_path: Path):
    (tmp_path / "study.yaml").write_text(FILE.replace("draws: 2", "draws: two"))
    result = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "-o", "x"])
    assert result.exit_code == 2
    assert "line 4, field draws" in result.stderr


def test_a_generation_is_judged_by_the_rules_of_its_arm(base: Path, tmp_path: Path):
    """The heart is larger than the rules allow, so that none is accepted."""
    (base / "narrow.yaml").write_text("rules:\n  - area: {of: LV, most: 0.001}\n")
    asked = "gate_steps: 2, gates: [validity], rules: narrow.yaml}"
    (tmp_path / "study.yaml").write_text(FILE.replace("gate_steps: 2}", asked))
    plan = plan_study(read_study(tmp_path / "study.yaml", base), base)
    unit = next(u for u in plan.units.values() if u.arguments.get("rules"))
    runner._generate(unit, tmp_path, tmp_path / "made", "cpu", Talk(quiet=True))
    run = json.loads((tmp_path / "made" / "run.json").read_text())
    assert run["request"]["rules"] == read_rules(base / "narrow.yaml").fingerprint
    made = [r for r in load_rows(tmp_path / "made") if r["synthetic"] == "1"]
    assert made
    assert {r["broken"] for r in made} == {"LV area"}
    assert {r["accepted"] for r in made} == {"0"}
