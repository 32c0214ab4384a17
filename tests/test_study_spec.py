"""A study's file: what it says, and where it is wrong."""

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
    assert read_study(write(tmp_path, GOOD + "# a remark\n")).hash == one
    assert read_study(write(tmp_path, GOOD.replace("draws: 2", "draws: 3"))).hash != one


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("draws: 2", "draws: 0", 4, "field draws: .*greater than or equal to 1, got 0"),
        ("draws: 2", "drwas: 2", 4, "field drwas: Extra inputs"),
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
