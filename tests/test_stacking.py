"""Slices that are cases of their own, stacked into volumes."""

import json
from pathlib import Path

import numpy as np
import pytest

from augmint.case import Grid
from augmint.data.dataset import open_dataset
from augmint.data.images import write_image, write_mask
from augmint.errors import AugmintError
from augmint.stacking import find_stacks, stack

LABELS = {"background": 0, "MYO": 2, "LV": 3}


def slices(root: Path, names, *, shape=(6, 8), masks=True, labels=LABELS) -> Path:
    """A dataset of pictures; the values of each tell its number."""
    for k, name in enumerate(names):
        rng = np.random.default_rng(k)
        grid = Grid(shape, np.eye(3), False)
        image = rng.integers(0, 255, (1, *shape), dtype=np.uint8)
        write_image(root / "imagesTr" / f"{name}_0000.png", image, grid)
        if masks:
            mask = rng.choice([0, 2, 3], shape)
            write_mask(root / "labelsTr" / f"{name}.png", mask, grid)
    description = {
        "channel_names": {"0": "cineMRI"}, "labels": labels, "file_ending": ".png",
        "numTraining": len(names) if masks else 0, "spacing_known": False,
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(description))
    rows = "".join(f"{n},{n.rpartition('_')[0]}\n" for n in names)
    (root / "cases.csv").write_text("case,patient\n" + rows)
    return root


def test_slices_become_volumes_in_the_order_of_their_numbers(tmp_path: Path):
    names = ["SC-1_0100", "SC-1_0020", "SC-1_0060", "SC-2_9", "SC-2_10"]
    source = open_dataset(slices(tmp_path / "in", names))
    made = open_dataset(stack(source, tmp_path / "out"))
    assert [i.case_id for i in made.items] == ["SC-1", "SC-2"]
    assert made.patients == ("SC-1", "SC-2")
    stored = {i.case_id: source.read_stored(i)[0][0] for i in source.items}
    for volume, order in (("SC-1", ["0020", "0060", "0100"]), ("SC-2", ["9", "10"])):
        item = next(i for i in made.items if i.case_id == volume)
        array, _, _ = made.read_stored(item)
        assert array.dtype == np.uint8
        # Pictures are rows, columns; volumes x, y, slice.
        pictures = [stored[f"{volume}_{n}"] for n in order]
        assert np.array_equal(array[0], np.stack([p.T for p in pictures], -1))
        case = made.load(item)
        assert not case.grid.spacing_known
        masks = [source.load(i).mask.numpy() for n in order for i in source.items
                 if i.case_id == f"{volume}_{n}"]  # fmt: skip
        assert np.array_equal(case.mask.numpy(), np.stack([m.T for m in masks], -1))
    # 2-D networks see each slice of the volume as they saw the picture.
    item = next(i for i in made.items if i.case_id == "SC-1")
    planes = list(made.load(item).slices())
    assert planes[0].image.shape == (1, 8, 6)
    assert made.labels == source.labels
    told = json.loads((tmp_path / "out" / "stack.json").read_text())["volumes"]
    assert told["SC-1"] == {"slices": ["SC-1_0020", "SC-1_0060", "SC-1_0100"], "missing": 0}
    assert (tmp_path / "out" / "sheets" / "stack.png").is_file()


def test_spacing_is_told_by_the_user_alone(tmp_path: Path):
    root = slices(tmp_path / "in", ["a_1", "a_2", "a_3"])
    made = open_dataset(stack(root, tmp_path / "out", spacing=(1.25, 1.5, 8.0)))
    grid = made.load(made.items[0]).grid
    assert grid.spacing_known
    assert grid.spacing == (1.25, 1.5, 8.0)
    with pytest.raises(AugmintError, match="three distances"):
        stack(root, tmp_path / "wrong", spacing=(1.0, 0.0, 1.0))


def test_unlabelled_slices_are_stacked_apart(tmp_path: Path):
    root = slices(tmp_path / "in", ["a_1", "a_2"], masks=False)
    out = stack(open_dataset(root, bare=True), tmp_path / "out")
    assert [p.name for p in (out / "imagesTs").iterdir()] == ["a_0000.nii.gz"]
    assert not (out / "labelsTr").exists()
    (case,) = open_dataset(out / "imagesTs", bare=True)
    assert case.mask is None
    assert case.grid.shape == (8, 6, 2)


def test_missing_slices_are_counted(tmp_path: Path):
    names = ["a_20", "a_40", "a_100", "b_7", "b_8"]
    found = {s.name: s for s in find_stacks(open_dataset(slices(tmp_path / "in", names)))}
    assert found["a"].missing == 2
    assert found["b"].missing == 0


def test_a_pattern_names_the_number(tmp_path: Path):
    names = ["p1_s2_ED", "p1_s1_ED", "p1_s1_ES", "p1_s2_ES"]
    root = slices(tmp_path / "in", names)
    (root / "cases.csv").unlink()
    dataset = open_dataset(root, patient_regex=r"^(p\d+)")
    found = find_stacks(dataset, r"_s(?P<number>\d+)")
    assert [(s.name, s.numbers) for s in found] == [("p1_s_ED", (1, 2)), ("p1_s_ES", (1, 2))]
    # The last number is meant by itself, whatever stands behind it.
    assert [s.name for s in find_stacks(dataset)] == ["p1_s_ED", "p1_s_ES"]


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        (["a_1", "b_x"], None, "case 'b_x' has no number"),
        (["a_1", "a_01"], None, "are both slice 1"),
        (["a_1"], r"\d+", "no group `number`"),
        (["a_1"], r"(", "no regular expression"),
    ],
)
def test_names_that_tell_no_order_are_refused(tmp_path: Path, names, pattern, message: str):
    dataset = open_dataset(slices(tmp_path / "in", names))
    with pytest.raises(AugmintError, match=message):
        find_stacks(dataset, *([] if pattern is None else [pattern]))


def test_slices_that_do_not_belong_together_are_refused(tmp_path: Path):
    root = slices(tmp_path / "in", ["a_1", "a_2"])
    grid = Grid((5, 8), np.eye(3), False)
    write_image(root / "imagesTr" / "a_2_0000.png", np.zeros((1, 5, 8), np.uint8), grid)
    write_mask(root / "labelsTr" / "a_2.png", np.zeros((5, 8)), grid)
    with pytest.raises(AugmintError, match=r"slices of 'a' differ.*'a_2'"):
        stack(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_volumes_are_refused(tmp_path: Path):
    root = tmp_path / "in"
    grid = Grid((4, 4, 3), np.eye(4), False)
    write_image(root / "imagesTr" / "a_1_0000.nii.gz", np.ones((1, 4, 4, 3), np.uint8), grid)
    write_mask(root / "labelsTr" / "a_1.nii.gz", np.zeros((4, 4, 3)), grid)
    facts = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz",
             "numTraining": 1}  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(AugmintError, match="a volume already"):
        stack(root, tmp_path / "out")


def test_slices_of_one_volume_are_of_one_patient(tmp_path: Path):
    root = slices(tmp_path / "in", ["a_1", "a_2"])
    (root / "cases.csv").write_text("case,patient\na_1,x\na_2,y\n")
    with pytest.raises(AugmintError, match=r"of the patients x, y.*--patient-regex"):
        find_stacks(open_dataset(root))
