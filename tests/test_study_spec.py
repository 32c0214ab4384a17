"""A study's file: what it says, and where it is wrong."""

import re
import textwrap
from pathlib import Path

import pytest

from augmint.errors import AugmintError
from augmint.study.spec import Study, read_study

GOOD = """\
name: few patients
data: train
sizes: [2, 0.5]
draws: 2
tests:
  - name: same scanner
    data: test
arms:
  real: {augmentation: none}
  stack: {}
  null: {like: stack, null: true}
  ours:
    synthetic:
      method: mask_to_image
      copies: 2
  unfiltered:
    like: ours
    synthetic:
      method: mask_to_image
      copies: 2
      filtered: false
baseline: stack
endpoint: {test: same scanner}
seeds: [0, 1]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_what_stands_in_the_file_is_what_comes(tmp_path):
    study = read_study(write(tmp_path, GOOD))
    assert study.baseline == "stack"
    assert study.arm("real").augmentation == "none"
    assert study.arm("null").null
    assert study.arm("null").augmentation == study.arm("stack").augmentation
    made, loose = study.arm("ours").synthetic, study.arm("unfiltered").synthetic
    assert made is not None
    assert loose is not None
    assert made.filtered
    assert not loose.filtered
    assert study.endpoint.metric == "dice"


def test_the_protocol_has_a_hash_that_changes_with_it(tmp_path):
    one = read_study(write(tmp_path, GOOD)).hash
    assert read_study(write(tmp_path, GOOD + "failure_hd: null\n")).hash == one
    assert read_study(write(tmp_path, GOOD + "failure_hd: 20\n")).hash != one
    assert read_study(write(tmp_path, GOOD + "# a remark\n")).hash == one
    assert read_study(write(tmp_path, GOOD.replace("draws: 2", "draws: 3"))).hash != one


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("draws: 2", "draws: 0", 4, "field draws: .*greater than or equal to 1, got 0"),
        (
            "draws: 2",
            "drwas: 2",
            4,
            "field drwas: unknown field 'drwas' of a study .did you mean 'draws'",
        ),
        ("copies: 2", "copies: many", 15, "field arms.ours.synthetic.copies: .*got 'many'"),
        ("sizes: [2, 0.5]", "sizes: [2.5]", 3, "neither a number of patients nor a share"),
        (
            "baseline: stack",
            "baseline: stcak",
            22,
            "field baseline: baseline 'stcak' is no arm; arms: real, stack",
        ),
        ("like: stack,", "", 11, "field arms.null: arm 'null' is null, but like no other"),
        ("test: same scanner}", "test: other}", 23, "endpoint.test 'other' is no test"),
        (
            "test: same scanner}",
            "test: same scanner, metric: failure}",
            23,
            "field endpoint.metric: an endpoint of failure needs failure_hd",
        ),
        ("draws: 2", "failure_hd: 0", 4, "field failure_hd: .*greater than 0, got 0"),
        ("seeds: [0, 1]", "networks: [vnet]", 24, "unknown network 'vnet'"),
        ("seeds: [0, 1]", "folds: 1", 24, "folds is 0 or at least 2"),
        ("seeds: [0, 1]", "preset: huge", 24, "unknown preset 'huge'"),
        ("method: mask_to_image", "method: mask2image", 12, "unknown method 'mask2image'"),
        ("augmentation: none", "augmentation: mild", 9, "unknown augmentation 'mild'"),
        ("data: train", "data: [train", None, "is no YAML"),
        ("sizes: [2, 0.5]", "sizes: [2, most]", 3, "most is neither a number of patients"),
        ("sizes: [2, 0.5]", "sizes: []", 3, "field sizes: .*at least 1 item"),
        ("draws: 2", "domains: []", 4, "field domains: .*at least 1 item"),
        ("draws: 2", "domains: A", 4, "field domains: .*valid list, got 'A'"),
        ("draws: 2", "label_map: {LV: 3}", 4, "field label_map.LV: .*valid string, got 3"),
        ("draws: 2", "group: sex", 4, "group splits the results of folds, and there are none"),
        ("draws: 2", "arms_at_larger_sizes: [stcak]", 4, "'stcak' is no arm; arms: real"),
        ("draws: 2", "arms_at_larger_sizes: [real]", 4, "lacks the baseline 'stack'"),
        (
            "sizes: [2, 0.5]",
            "arms_at_larger_sizes: [stack]",
            3,
            "there is one size only; leave it out, or give more sizes",
        ),
        ("stack: {}", "stack: {settings: {lrate: 1}}", 10, "field arms.stack: .*no field 'lrate'"),
        ("stack: {}", "stack: {settings: {mix: pixels}}", 10, "field mix cannot be 'pixels'"),
        ("stack: {}", "stack: {settings: {mix: image}}", 10, "mixing needs synthetic cases"),
        (
            "  ours:",
            "  ours:\n    settings: {mix: logit, mix_with: augmented}",
            12,
            "field arms.ours: mix_with augmented .* leave synthetic out",
        ),
        ("stack: {}", "stack: {largest_component: 2}", 10, "largest_component: .*boolean"),
        (
            "seeds: [0, 1]",
            "networks: [unet, swin_unetr]",
            9,
            "the width of swin_unetr is a multiple of 12, not 32; set segmenter_width",
        ),
        ("    data: test", "    data: test\n    allow_same_names: 3", 8, "boolean"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, old, new, line, message):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(AugmintError, match=message) as caught:
        read_study(path)
    assert str(path) in str(caught.value)
    if line is not None:
        assert f"line {line}" in str(caught.value)


def faults_of(folder: Path, *changes: tuple[str, str]) -> list[str]:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = write(folder, text)
    with pytest.raises(AugmintError) as caught:
        read_study(path)
    first, *others = str(caught.value).splitlines()
    assert first.startswith(f"study {path}, line ")
    return [first.removeprefix(f"study {path}, "), *others]


def test_a_mistyped_field_is_told_with_what_was_meant_and_what_there_is(tmp_path):
    (told,) = faults_of(tmp_path, ("baseline: stack", "baselin: stack"))
    assert told.startswith(
        "line 22, field baselin: unknown field 'baselin' of a study (did you mean 'baseline'?); "
        "the fields of a study are name, data, patients, "
    )
    assert set(Study.model_fields) <= set(told.rpartition(" are ")[2].split(", "))
    # It is read as what was meant, so that its value is checked as well.
    spelt, value = faults_of(tmp_path, ("baseline: stack", "baselin: stcak"))
    assert spelt == told
    assert value.startswith("line 22, field baseline: baseline 'stcak' is no arm")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stack: {}", "stack: {steps: 20}", "the segmenter's fields go under settings: {steps: 20};"
         " the generator's fields go under synthetic: {steps: 20};"),
        ("stack: {}", "stack: {lr: 0.1}", "'lr' of an arm; the segmenter's fields go under "
         "settings: {lr: 0.1}; the fields of an arm are like, augmentation,"),
        ("stack: {}", "stack: {copies: 4}", "generator's fields go under synthetic: {copies: 4};"),
        ("stack: {}", "stack: {seed: 4}", "'seed' of an arm; seed is one of the study's seeds;"),
        ("copies: 2", "warp: 0.2", "the method's fields go under settings: {warp: 0.2};"),
        ("copies: 2", "copy: 2", "'copy' of synthetic (did you mean 'copies'?); the fields of"),
        ("copies: 2", "augmentation: none", "of synthetic; augmentation is a field of the arm;"),
        ("seeds: [0", "steps: 9\nseeds: [0", "of a study (did you mean 'segmenter_steps'?);"),
        ("seeds: [0", "sliding: true\nseeds: [0", "'sliding' of a study; an arm has such a field"),
        ("    data: test", "    data: test\n    folds: 2", "of a test; a study has such a field"),
    ],
)  # fmt: skip
def test_a_misplaced_field_is_told_where_it_belongs(tmp_path, old, new, message):
    (told,) = faults_of(tmp_path, (old, new))
    assert "unknown field" in told
    assert message in told


def test_all_faults_are_told_at_once_in_the_order_of_the_lines(tmp_path):
    told = faults_of(
        tmp_path,
        ("draws: 2", "draws: 0"),
        ("    data: test", "    data: test\n    patients: 3"),
        ("stack: {}", "stack: {steps: 20, copies: 1}"),
        ("null: {like: stack, null: true}", "null:"),
        ("seeds: [0, 1]", "seeds: [0, x]\nseeds: [0, y]"),
        ("baseline: stack\n", ""),
    )
    assert [one.partition(": ")[0] for one in told] == [
        "line 1, field baseline",
        "line 4, field draws",
        "line 8, field tests.0.patients",
        "line 11, field arms.stack.copies",
        "line 11, field arms.stack.steps",
        "line 12, field arms.null",
        "line 25, field seeds",
        "line 25, field seeds.1",
    ]
    assert told[0].endswith("missing, and there is no default")
    assert told[2].endswith("Input should be a valid list or a valid string, got 3")
    assert told[5].endswith("write {} to leave all at their defaults, got None")
    assert told[6].endswith("stands in line 24 already; keep one of them")
    # The known fields of a part are listed once.
    assert sum("the fields of an arm are" in one for one in told) == 1


def test_faults_between_fields_are_told_at_once_too(tmp_path):
    told = faults_of(
        tmp_path,
        ("augmentation: none", "augmentation: mild, null: true"),
        ("stack: {}", "stack: {augmentation: loud, sttings: {lr: 1}}"),
        ("method: mask_to_image", "method: mask2image"),
        ("test: same scanner}", "test: other}"),
        ("seeds: [0, 1]", "networks: [vnet, unet]"),
    )
    assert [one.partition(": ")[0] for one in told] == [
        "line 9, field arms.real",
        "line 10, field arms.stack",
        "line 10, field arms.stack.sttings",
        "line 12, field arms.ours",
        "line 23, field endpoint.test",
        "line 24, field networks.0",
    ]
    # The null arm, which is like stack, has the same augmentation and adds no line.
    assert "unknown augmentation 'loud'" in told[1]


def test_a_field_that_resembles_another_but_does_not_fit_it_is_told_once(tmp_path):
    (told,) = faults_of(tmp_path, ("seeds: [0, 1]", "group_by: {a: b}\nseed: 3"), ("seed: 3", ""))
    assert "'group_by'" in told
    (told,) = faults_of(tmp_path, ("seeds: [0, 1]", "seed: 3"))
    assert "(did you mean 'seeds'?)" in told


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(AugmintError, match="is no UTF-8 text"):
        read_study(path)


def test_later_fields_are_read(tmp_path):
    text = GOOD.replace(
        "sizes: [2, 0.5]", "sizes: [2, 0.5, all]\narms_at_larger_sizes: [stack, null]"
    )
    text = text.replace("    data: test", "    data: test\n    domains: [C]\n    label_map: {}")
    text = text.replace(
        "  stack: {}", "  stack: {}\n  largest: {like: stack, largest_component: true}"
    )
    study = read_study(
        write(tmp_path, text + "domains: [A, B]\nlabel_map: {LA: null, LV: heart}\n")
    )
    assert study.sizes == [2, 0.5, "all"]
    # YAML takes the arm's name for nothing.
    assert study.arms_at_larger_sizes == ["stack", "null"]
    assert study.domains == ["A", "B"]
    assert study.label_map == {"LA": None, "LV": "heart"}
    assert study.tests[0].domains == ["C"]
    assert study.tests[0].label_map == {}
    assert study.arm("largest").largest_component
    assert not study.arm("stack").largest_component


def test_a_later_field_that_says_nothing_keeps_the_hash(tmp_path):
    # Protocols that are under way were hashed before these fields were known.
    assert read_study(write(tmp_path, GOOD)).hash == "4f532325948d8a7f"
    silent = GOOD.replace("    data: test", "    data: test\n    allow_same_names: false")
    silent = silent.replace("draws: 2", "draws: 2\ndomains:\ngroup:\nlabel_map:")
    assert read_study(write(tmp_path, silent)).hash == "4f532325948d8a7f"
    for line in ("domains: [A]", "label_map: {LA: null}", "arms_at_larger_sizes: [stack]"):
        assert read_study(write(tmp_path, f"{GOOD}{line}\n")).hash != "4f532325948d8a7f"


def test_a_fault_found_without_a_file_is_an_error_of_its_own():
    with pytest.raises(AugmintError, match="baseline 'b' is no arm; arms: a"):
        Study.model_validate(
            {
                "name": "s", "data": "d", "tests": [{"name": "t", "data": "d"}], "arms": {"a": {}},
                "baseline": "b", "endpoint": {"test": "t"},
            }
        )  # fmt: skip


def test_a_missing_file(tmp_path):
    with pytest.raises(AugmintError, match=r"none.yaml cannot be read: No such file"):
        read_study(tmp_path / "none.yaml")


RULES = "rules:\n  - area: {of: LV}\n"
ASKED = ("      copies: 2\n", "      copies: 2\n      rules: sets/own.yaml\n")


def test_rules_are_read_beside_the_study_or_at_its_base(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "sets").mkdir(parents=True)
    (elsewhere / "sets" / "own.yaml").write_text(RULES)
    made = read_study(write(elsewhere, GOOD.replace(*ASKED))).arm("ours").synthetic
    assert made is not None
    assert made.rules == "sets/own.yaml"
    path = write(tmp_path, GOOD.replace(*ASKED))
    with pytest.raises(AugmintError, match="cannot be read"):
        read_study(path)
    assert read_study(path, elsewhere).hash == read_study(path, str(elsewhere)).hash
    built_in = GOOD.replace("copies: 2", "copies: 2\n      rules: short-axis-heart", 1)
    assert read_study(write(tmp_path, built_in)).hash != read_study(write(tmp_path, GOOD)).hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "own.yaml: cannot be read"),
        ("rules:\n  - aera: {of: LV}\n", "own.yaml, rule 1: unknown word 'aera' .*'area'"),
        ("rules: [", "own.yaml: is no YAML"),
    ],
)
def test_faulty_rules_are_told_with_the_line_that_names_them(tmp_path, content, message):
    (tmp_path / "sets").mkdir()
    if content is not None:
        (tmp_path / "sets" / "own.yaml").write_text(content)
    told = faults_of(tmp_path, ASKED, ("test: same scanner}", "test: other}"))
    assert len(told) == 2
    assert told[0].startswith("line 16, field arms.ours.synthetic.rules: rules ")
    assert re.search(message, told[0])
    assert "'other' is no test" in told[1]
