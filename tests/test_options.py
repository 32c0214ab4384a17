import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from augmint import AugmintError, fit, open_dataset
from augmint.cli import app
from augmint.data.phantoms import make_phantoms
from augmint.options import read_patients
from augmint.progress import Talk

SMALL = {"preset": "tiny", "steps": 3, "device": "cpu", "talk": Talk(quiet=True)}


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def run_of(folder: Path):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_phantoms(
        "cine-mr", out=tmp_path_factory.mktemp("cohort") / "D", patients=3, size=64, slices=4
    )
    (folder / "cases.csv").unlink()
    return folder


@pytest.fixture(scope="module")
def fitted(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = open_dataset(cohort, patient_regex=r"_(\d+)_E", label_map={"MYO": "LV", "RV": None})
    out = tmp_path_factory.mktemp("fitted") / "run"
    return fit(data, out, patients=["002"], dims=2, seed=4, **SMALL)


def test_a_fits_config_repeats_it_with_its_patients_labels_and_expression(
    fitted: Path, tmp_path: Path
):
    out = tmp_path / "again"
    done = call("fit", "--config", fitted / "config.yaml", "-o", out, "--device", "cpu", "-q")
    assert done.exit_code == 0, done.stderr
    one, other = run_of(fitted), run_of(out)
    assert other["networks"] == one["networks"]
    assert other["generator_patients"] == ["002"]
    assert other["request"]["labels"] == {"background": 0, "LV": 1}
    assert (other["request"]["dims"], other["request"]["steps"]) == (2, 3)


def test_the_command_line_stands_over_a_runs_config(fitted: Path, tmp_path: Path):
    config = fitted / "config.yaml"
    done = call("fit", "--config", config, "-o", tmp_path / "r", "--patients", "001,003", "-q")
    assert done.exit_code == 0, done.stderr
    assert run_of(tmp_path / "r")["generator_patients"] == ["001", "003"]


def test_other_commands_take_the_data_of_a_fit_but_not_its_patients(fitted: Path):
    config = fitted / "config.yaml"
    facts = json.loads(call("inspect", "--config", config, "--json", "-q").stdout)
    assert (facts["patients"], [x["name"] for x in facts["labels"]]) == (3, ["background", "LV"])
    done = call("augment", "--config", config, "--dry-run", "--json", "-q", "--copies", 1)
    plan = json.loads(done.stdout)
    assert len(plan["held_back_patients"]) == 1
    assert plan["synthetic_cases"] == 4
    done = call("segment", "--config", config, "--dry-run", "--json", "-q")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    "content",
    [
        {"schema_version": 1, "settings": {}, "facts": {}},
        {"schema_version": 1, "segmenter": {}, "request": {}},
    ],
)
def test_a_config_that_cannot_repeat_its_run_is_refused(tmp_path: Path, content: dict):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    done = call("fit", "--config", tmp_path / "config.yaml", "-o", tmp_path / "r")
    assert done.exit_code == 2
    assert "earlier augmint" in done.stderr


def test_patients_are_a_number_or_names():
    assert read_patients("5") == 5
    assert read_patients("5,") == ["5"]
    assert read_patients("a, b") == ["a", "b"]
    with pytest.raises(AugmintError, match="--patients 0: ask for 1 patient or more"):
        read_patients("0")
