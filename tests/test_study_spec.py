"""A study's file: what it says, and where it is wrong."""

import textwrap
from pathlib import Path

import pytest

from augmint.errors import AugmintError
from augmint.study.spec import read_study

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
        ("baseline: stack", "baseline: stcak", 1, "baseline 'stcak' is no arm; arms: real, stack"),
        ("like: stack,", "", 1, "'null' is null, but like no other"),
        ("test: same scanner}", "test: other}", 1, "endpoint.test 'other' is no test"),
        ("seeds: [0, 1]", "networks: [vnet]", 24, "unknown network 'vnet'"),
        ("seeds: [0, 1]", "folds: 1", 1, "folds is 0 or at least 2"),
        ("seeds: [0, 1]", "preset: huge", None, "unknown preset 'huge'"),
        ("method: mask_to_image", "method: mask2image", None, "unknown method 'mask2image'"),
        ("augmentation: none", "augmentation: mild", None, "unknown augmentation 'mild'"),
        ("data: train", "data: [train", None, "is no YAML"),
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


def test_a_missing_file(tmp_path):
    with pytest.raises(AugmintError, match=r"none.yaml cannot be read: No such file"):
        read_study(tmp_path / "none.yaml")
