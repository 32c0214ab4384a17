import json
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

import augmint
from augmint import AugmintError, options
from augmint.cli import app
from augmint.data.phantoms import make_phantoms

SHARED = {"--quiet", "--json", "--config", "--seed", "--device", "--continue"}
FOLDERS = {"--raw", "--preprocessed", "--results"}
RAY = {"--ray", "--ray-cpus"}
READS = {"--patient-regex", "--label-map"}
# Scripts of users depend on these names: add, never rename or take away.
FLAGS = {
    "inspect": {"--out", "--quiet", "--json", "--config", *READS},
    "methods": {"--json"},
    "fit": {
        "--out", "--method", "--set", "--preset", "--patients", "--steps", "--dims", "--init",
        "--unlabelled", "--dry-run", *SHARED, *READS,
    },
    "generate": {
        "--out", "--set", "--ask", "--copies", "--patients", "--shard", "--preset", "--dims",
        "--dry-run", *RAY, *SHARED, *READS,
    },
    "adapt": {
        "--out", "--set", "--segmenter", "--repeats", "--largest-component", "--patients",
        "--dry-run", *SHARED, *READS,
    },
    "augment": {
        "--out", "--method", "--set", "--ask", "--copies", "--preset", "--patients", "--folds",
        "--hold-back", "--gates", "--rules", "--steps", "--dims", "--dry-run", *SHARED, *READS,
    },
    "audit": {
        "--out", "--rules", "--judge", "--judge-steps", "--copy-false-alarms", "--quarter-turns",
        "--generator-patients", "--fold", "--preset", "--dims", *SHARED, *READS,
    },
    "segment": {
        "--out", "--network", "--width", "--set", "--preset", "--patients", "--fold",
        "--validation", "--augmentation", "--synthetic-probability", "--unfiltered", "--steps",
        "--dims", "--dry-run", *SHARED, *READS,
    },
    "evaluate": {
        "--out", "--patients", "--largest-component", "--tolerance", "--allow-same-names",
        "--sliding", "--cardiac", "--looks", *SHARED, *READS,
    },
    "score": {
        "--out", "--labels", "--split", "--patients", "--tolerance", "--cardiac", "--continue",
        "--quiet", "--json", "--config", *READS,
    },
    "study": {"--out", "--device", "--continue", "--dry-run", "--quiet", "--json", *RAY},
    "prove": {
        "--out", "--budget", "--method", "--set", "--copies", "--augmentation", "--segmenter",
        "--size", "--test", "--allow-same-names", "--preset", "--steps", "--dims", "--dry-run",
        *RAY, *SHARED,
    },
    "nnunet prepare": {
        "--id", "--plans-from", "--plans-name", "--configuration", "--synthetic-probability",
        "--epochs", "--iterations", "--copy", "--quiet", "--json", *FOLDERS,
    },
    "nnunet train": {
        "--configuration", "--fold", "--device", "--continue", "--quiet", "--json", *FOLDERS,
    },
    "nnunet predict": {
        "--out", "--configuration", "--fold", "--patients", "--device", "--continue", "--quiet",
        "--json", *FOLDERS,
    },
    "stack": {
        "--out", "--spacing", "--pattern", "--patients", "--seed", "--continue", "--quiet",
        "--json", "--config", *READS,
    },
    "stress": {
        "--out", "--width", "--depth", "--tilt", "--gain", "--attenuation", "--fixed", "--strength",
        "--fill", "--labels", "--patients", "--seed", "--continue", "--quiet", "--json", "--config",
        *READS,
    },
    "survey": {
        "--out", "--images", "--rejected", "--score", "--patient-regex", "--seed", "--quiet",
        "--json",
    },
    "phantoms": {"--out", "--vendor", "--patients", "--slices", "--size", "--seed", "--json"},
    "demo": {"--out", "--seed", "--device", "--quiet", "--json"},
    "doctor": {"--json"},
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantoms"
    return make_phantoms("cine-mr", out=folder, patients=3, size=64, slices=3)


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


def test_commands_and_flags_are_frozen():
    flags = {}
    for name, command in typer.main.get_command(app).commands.items():
        for word, one in getattr(command, "commands", {"": command}).items():
            names = {o for p in one.params for o in p.opts if o.startswith("--")}
            flags[f"{name} {word}".strip()] = names - {"--help"}
    assert flags == FLAGS


def test_every_command_is_a_public_function():
    renamed = {"methods": "list_methods"}
    for name in FLAGS:
        word = "_".join(reversed(name.split()))  # nnunet prepare -> prepare_nnunet
        assert callable(getattr(augmint, renamed.get(name, word)))


def test_public_names_exist_and_stay_functions_once_their_modules_are_imported():
    for name in augmint.__all__:
        assert getattr(augmint, name) is not None
        assert name in dir(augmint)
    import_module("augmint.fit")
    import_module("augmint.inspect")
    assert callable(augmint.fit)
    assert callable(augmint.inspect)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = augmint.no_such_name


def test_the_command_line_imports_nothing_heavy():
    heavy = "{'torch', 'monai', 'numpy', 'scipy', 'nibabel', 'SimpleITK', 'matplotlib'}"
    code = f"import augmint.cli, sys; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [(), ("methods",), ("augment",)])
def test_help_answers_in_under_a_second(command: tuple[str, ...]):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "augmint", *command, "--help"], capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    assert "--help" in done.stdout
    # Other work may share the processor; the figure is about a quarter of a second.
    assert seconds < 2


def test_version():
    assert call("--version").stdout == f"augmint {augmint.__version__}\n"
    assert call("-v").exit_code == 0


def test_missing_data_folder(tmp_path: Path):
    done = call("augment", tmp_path / "nothing", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "nothing" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_under_json_is_one_object(tmp_path: Path):
    done = call("inspect", tmp_path / "nothing", "--json")
    assert done.exit_code == 2
    assert "nothing" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("augment", "--nonsense"), ("augment", "x", "--copies", "0"), ("augment",)],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]):
    assert call(*arguments).exit_code == 2


def test_an_existing_output_is_refused(cohort: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    for command in ("fit", "augment", "segment"):
        done = call(command, cohort, "--preset", "tiny", "-o", tmp_path / "out")
        assert done.exit_code == 2
        assert "never overwritten" in done.stderr


def test_a_method_without_its_fit(cohort: Path, tmp_path: Path):
    done = call("generate", "mask_to_image", cohort, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "augmint fit" in done.stderr
    assert "mask_to_image" in done.stderr


def test_a_method_that_needs_no_fit_generates_at_once(cohort: Path, tmp_path: Path):
    out = tmp_path / "Dataset105_Warped"
    done = call(
        "generate", "warped_pairs", cohort, "-o", out, "--preset", "tiny", "--copies", "2",
        "--set", "warp=0.5",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    made = [p for p in (out / "imagesTr").iterdir() if "__s0_c" in p.name]
    assert len(made) == 2 * len([p for p in (cohort / "imagesTr").iterdir()])
    again = call("generate", "warped_pairs", cohort, "--dry-run", "--preset", "tiny")
    assert again.exit_code == 0, again.stderr


@pytest.mark.parametrize("held", [False, True])
def test_a_faulty_file_stops_before_anything_is_written(cohort: Path, tmp_path: Path, held: bool):
    import shutil

    from augmint.augment import plan_patients
    from augmint.data.dataset import open_dataset

    data = shutil.copytree(cohort, tmp_path / "data")
    plan = plan_patients(open_dataset(data))
    patient = plan.held_back[0] if held else plan.fits[0][1][0]
    image = next(i.images[0] for i in plan.dataset.items if i.patient_id == patient)
    image.write_bytes(image.read_bytes()[:500])
    done = call("augment", data, "-o", tmp_path / "out", "--preset", "tiny", "--steps", "2")
    assert done.exit_code == 2
    assert image.name in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_interrupt_is_exit_code_130(cohort: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("augmint.inspect"), "inspect", stop)
    done = call("inspect", cohort)
    assert done.exit_code == 130
    assert "--continue" in done.stderr


@pytest.mark.parametrize("command", ["fit", "augment", "segment"])
def test_dry_run_writes_nothing(command: str, cohort: Path, tmp_path: Path):
    before = everything(cohort)
    done = call(command, cohort, "-o", tmp_path / "out", "--preset", "tiny", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["samples"] == 3 * plan["cases"]
    assert plan["steps"] == 20
    assert plan["minutes"]["total"] > 0
    assert everything(cohort) == before
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_an_existing_output_is_refused(cohort: Path, tmp_path: Path):
    done = call("augment", cohort, "-o", tmp_path, "--preset", "tiny", "--dry-run")
    assert done.exit_code == 2


def test_inspect(cohort: Path, tmp_path: Path):
    done = call("inspect", cohort, "-o", tmp_path / "look", "--json")
    facts = json.loads(done.stdout)
    assert facts["cases"] == 6
    assert facts["patients"] == 3
    assert facts["sizes"] == [{"shape": [64, 64, 3], "cases": 6}]
    assert facts["problems"] == []
    shares = {label["name"]: label["voxel_share"] for label in facts["labels"]}
    assert sum(shares.values()) == pytest.approx(1)
    assert json.loads((tmp_path / "look" / "inspect.json").read_text()) == facts
    assert (tmp_path / "look" / "sheet.png").is_file()
    assert "phantom" in call("inspect", cohort, "--quiet").stdout


def test_inspect_with_a_label_map_and_a_patient_expression(cohort: Path):
    done = call(
        "inspect", cohort, "--label-map", "MYO=heart", "--label-map", "LV=heart", "--label-map",
        "RV=", "--json",
    )  # fmt: skip
    assert [x["name"] for x in json.loads(done.stdout)["labels"]] == ["background", "heart"]
    done = call("inspect", cohort, "--label-map", "XX=heart")
    assert done.exit_code == 2
    assert "XX" in done.stderr


def test_methods():
    found = json.loads(call("methods", "--json").stdout)["methods"]
    fields = {f["name"]: f for m in found if m["name"] == "mask_to_image" for f in m["fields"]}
    assert fields["conditioning"]["type"] == "concat | spade"
    assert all(f["meaning"] for f in fields.values())
    text = call("methods").stdout
    assert "mask_to_image" in text
    assert "conditioning = concat" in text


def test_doctor():
    facts = json.loads(call("doctor", "--json").stdout)
    assert facts["broken"] == {}
    assert facts["core"]["augmint"] == augmint.__version__
    extras = {e["name"]: e for e in facts["extras"]}
    assert {"dicom", "nnunet", "openvino", "ray", "sd", "survey"} <= set(extras)
    assert set(extras["dicom"]["packages"]) == {"pydicom", "highdicom"}
    assert extras["dicom"]["install"] == "pip install 'augmint[dicom]'"
    assert call("doctor").exit_code == 0


def test_a_broken_core_is_exit_code_1(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(import_module("augmint.doctor"), "CORE", ("torch", "no_such_library"))
    done = call("doctor", "--json")
    assert done.exit_code == 1
    assert "no_such_library" in json.loads(done.stdout)["broken"]


def test_phantoms(tmp_path: Path):
    size = ("--patients", 1, "--size", 64)
    done = call("phantoms", "apical-ultrasound", *size, "-o", tmp_path / "p", "--json")
    assert json.loads(done.stdout)["out"] == str(tmp_path / "p")
    assert (tmp_path / "p" / "dataset.json").is_file()
    assert call("phantoms", "feet", "-o", tmp_path / "q").exit_code == 2


def test_config_gives_options_and_the_command_line_wins(cohort: Path, tmp_path: Path):
    config = tmp_path / "options.yaml"
    config.write_text(
        yaml.safe_dump(
            {"data": str(cohort), "preset": "tiny", "hold-back": 0.0, "copies": 3, "dry-run": True,
             "folds": 0, "settings": {"stem": 1}, "json": True}
        )
    )  # fmt: skip
    plan = json.loads(call("augment", "--config", config).stdout)
    assert plan["held_back_patients"] == []
    assert plan["synthetic_cases"] == 3 * 6
    plan = json.loads(call("augment", "--config", config, "--copies", 1).stdout)
    assert plan["synthetic_cases"] == 6


def test_config_with_an_unknown_option(cohort: Path, tmp_path: Path):
    config = tmp_path / "options.yaml"
    config.write_text("copys: 3\n")
    done = call("augment", cohort, "--config", config, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 2
    assert "copys" in json.loads(done.stdout)["error"]


def test_settings_of_the_command_line_stand_over_those_of_the_config():
    assert options.read_settings(["a=2", "c=[1, 2]"], {"a": 1, "b": 3}) == {
        "a": "2", "b": 3, "c": [1, 2],
    }  # fmt: skip
    with pytest.raises(AugmintError, match="name=value"):
        options.read_settings(["a"], {})


def test_an_unknown_setting_is_refused(cohort: Path, tmp_path: Path):
    done = call("fit", cohort, "-o", tmp_path / "r", "--preset", "tiny", "--set", "steam=2")
    assert done.exit_code == 2
    assert "steam" in done.stderr


def test_patients_are_a_number_or_names():
    assert options.read_patients(None) is None
    assert options.read_patients("5") == 5
    assert options.read_patients("a, b") == ["a", "b"]
    assert options.read_patients("001,") == ["001"]


def test_label_map():
    assert options.read_label_map(["a=b", "c="]) == {"a": "b", "c": None}
    for wrong in (["a"], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(AugmintError, match="label-map"):
            options.read_label_map(wrong)


def test_shard():
    assert options.read_shard(None) == (0, 1)
    assert options.read_shard("3/4") == (3, 4)
    for wrong in ("4/4", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(AugmintError, match="shard"):
            options.read_shard(wrong)


def test_amount():
    assert options.read_amount("5", "--validation") == 5
    assert options.read_amount("0.2", "--validation") == 0.2
    with pytest.raises(AugmintError, match="--validation"):
        options.read_amount("some", "--validation")


def test_settings_stand_over_the_options_of_segment(cohort: Path, tmp_path: Path):
    sets = [x for s in ("steps=2", "width=4", "seed=3") for x in ("--set", s)]
    done = call("segment", cohort, "-o", tmp_path / "r", "--preset", "tiny", "-q", *sets)
    assert done.exit_code == 0, done.stderr
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["segmenter"]
    assert (config["steps"], config["width"], config["seed"]) == (2, 4, 3)
    done = call("segment", cohort, "-o", tmp_path / "s", "--preset", "tiny", "--set", "steps=few")
    assert done.exit_code == 2
    assert "few" in done.stderr


def test_unlabelled_images_follow_the_patient_expression(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = {}

    def record(data: object, out: Path, **asked: object) -> Path:
        given.update(asked)
        return out

    other = tmp_path / "other"
    for data in (other, tmp_path / "data"):
        shutil.copytree(cohort, data)
        (data / "cases.csv").unlink(missing_ok=True)
    monkeypatch.setattr(import_module("augmint.fit"), "fit", record)
    done = call(
        "fit", tmp_path / "data", "-o", tmp_path / "r", "--unlabelled", other, "--patient-regex",
        "(.+)_E[DS]",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert given["unlabelled"].patient_rule == "the expression (.+)_E[DS]"
