import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from augmint.case import Provenance
from augmint.data import open_dataset, read_image, read_mask
from augmint.data.splits import Fold
from augmint.generate import numbered_like, write_case
from augmint.progress import Talk
from augmint.synthetic import (
    _datalists,
    _sweep,
    converted_ending,
    files_of_cases,
    keeps_files,
    write_manifest,
    write_real,
)

QUIET = Talk(quiet=True)
LABELS = {"background": 0, "RV": 1, "LV": 2}


def pictures(folder: Path, ending: str, *, colour: bool = False, layout: str = "nnunet") -> Path:
    """Two 8 x 8 pictures with masks that hold both labels."""
    nnunet = layout == "nnunet"
    images, masks = (
        folder / n for n in (("imagesTr", "labelsTr") if nnunet else ("images", "masks"))
    )
    images.mkdir(parents=True)
    masks.mkdir()
    generator = np.random.default_rng(0)
    for case in ("a_1", "b_1"):
        pixels = generator.integers(0, 255, (8, 8, 3) if colour else (8, 8), dtype=np.uint8)
        mask = np.zeros((8, 8), np.uint8)
        mask[:3], mask[5:] = 1, 2
        Image.fromarray(pixels).save(images / f"{case}{'_0000' if nnunet else ''}{ending}")
        Image.fromarray(mask).save(masks / f"{case}{ending}")
    if nnunet:
        names = "RGB" if colour else ("ultrasound",)
        facts = {"channel_names": dict(enumerate(names)), "labels": LABELS, "file_ending": ending}
        (folder / "dataset.json").write_text(json.dumps({**facts, "numTraining": 2}))
    else:
        (folder / "labels.json").write_text(json.dumps(LABELS))
    return folder


def real_of(folder: Path, out: Path):
    dataset = open_dataset(folder)
    write_real(dataset, out, QUIET)
    return dataset, open_dataset(out)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_what_can_be_written_is_kept_byte_for_byte(tmp_path, ending):
    dataset, again = real_of(pictures(tmp_path / "data", ending), tmp_path / "out")
    assert keeps_files(dataset)
    for before, after in zip(dataset.items, again.items):
        assert before.images[0].read_bytes() == after.images[0].read_bytes()
        assert before.masks[0].read_bytes() == after.masks[0].read_bytes()


def test_a_frame_of_a_4d_file_is_never_copied_whole(tmp_path):
    dataset = open_dataset(pictures(tmp_path / "data", ".png"))
    one = replace(dataset, items=tuple(replace(item, frame=0) for item in dataset.items))
    assert keeps_files(dataset)
    assert not keeps_files(one)


def test_what_cannot_be_written_is_converted(tmp_path):
    dataset, again = real_of(pictures(tmp_path / "data", ".bmp"), tmp_path / "out")
    assert not keeps_files(dataset)
    assert converted_ending(dataset) == again.file_ending == ".png"
    for item, other in zip(dataset.items, again.items):
        assert (dataset.load(item).image == again.load(other).image).all()


@pytest.mark.parametrize("ending", [".tif", ".bmp"])
def test_an_unknown_spacing_stays_unknown(tmp_path, ending):
    dataset, again = real_of(
        pictures(tmp_path / "data", ending, layout="folders"), tmp_path / "out"
    )
    assert not dataset.load(dataset.items[0]).grid.spacing_known
    assert again.spacing_known is False
    assert not again.load(again.items[0]).grid.spacing_known


def test_a_colour_picture_is_one_file(tmp_path):
    dataset = open_dataset(pictures(tmp_path / "data", ".png", colour=True))
    assert files_of_cases(dataset, 3) == {"a_1": 1, "b_1": 1}
    folder = open_dataset(pictures(tmp_path / "data2", ".bmp", colour=True))
    assert files_of_cases(folder, 3) == {"a_1": 3, "b_1": 3}


def test_renumbered_masks_are_converted(tmp_path):
    dataset = open_dataset(pictures(tmp_path / "data", ".png"))
    other = numbered_like(dataset, {"background": 0, "LV": 1, "RV": 2})
    assert numbered_like(dataset, dict(dataset.labels)) is dataset
    assert not keeps_files(other)
    write_real(other, tmp_path / "out", QUIET)
    again = open_dataset(tmp_path / "out")
    assert dict(again.labels) == {"background": 0, "LV": 1, "RV": 2}
    for item, new in zip(dataset.items, again.items):
        before, after = read_mask(item.masks[0])[0], read_mask(new.masks[0])[0]
        assert ((before == LABELS["RV"]) == (after == 2)).all()
        assert ((before == LABELS["LV"]) == (after == 1)).all()


def test_a_half_annotated_dataset_keeps_which_when_renumbered(tmp_path):
    data = pictures(tmp_path / "data", ".png")
    facts = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**facts, "annotated_labels": ["RV"]}))
    other = numbered_like(open_dataset(data), {"background": 0, "LV": 1, "RV": 2})
    assert other.annotated == other.table.annotated == frozenset({2})


def rows():
    made = {"synthetic": 1, "accepted": 1, "method": "m"}
    real = {"synthetic": 0, "accepted": 1}
    return [
        {**real, "case": "a_1", "patient": "a"},
        {**real, "case": "b_1", "patient": "b"},
        {**made, "case": "b_1__s0_c0", "patient": "b", "source_case": "b_1", "fold": 0},
        {**made, "case": "a_1__s0_c1", "patient": "a", "source_case": "a_1", "fold": 1},
    ]


def lists_of(tmp_path, held, folds, accepted=None):
    dataset, _ = real_of(pictures(tmp_path / "data", ".png"), tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    return _datalists(accepted or rows(), dataset, facts, held, folds)


def cases(entries):
    return [e["case"] for e in entries]


def test_no_list_validates_on_synthetic_cases_or_mixes_folds(tmp_path):
    lists = lists_of(tmp_path, (), (Fold(0, ("b",), ("a",)), Fold(1, ("a",), ("b",))))
    assert sorted(lists) == ["datalist.json", "datalist_fold0.json", "datalist_fold1.json"]
    whole = lists["datalist.json"]
    assert {e["case"]: e["fold"] for e in whole["training"]} == {"a_1": 0, "b_1": 1}
    assert whole["validation"] == []
    for k, (train, val) in enumerate([("b_1", "a_1"), ("a_1", "b_1")]):
        one = lists[f"datalist_fold{k}.json"]
        assert cases(one["training"]) == [train, f"{train}__s0_c{k}"]
        assert cases(one["validation"]) == [val]
        assert one["numTraining"] == 2
        assert not any("fold" in e for e in one["training"])
    entry = lists["datalist_fold0.json"]["training"][1]
    assert entry["image"] == "imagesTr/b_1__s0_c0_0000.png"
    assert entry["label"] == "labelsTr/b_1__s0_c0.png"


def test_without_folds_one_list_has_both(tmp_path):
    accepted = [{**r, "fold": None} for r in rows()[:3]]
    (one,) = lists_of(tmp_path, ["a"], (), accepted).values()
    assert cases(one["training"]) == ["b_1", "b_1__s0_c0"]
    assert cases(one["validation"]) == ["a_1"]


def test_a_label_with_a_dot_is_no_column_of_the_method(tmp_path):
    row = {**rows()[2], "agreement_L.V": 0.5, "m.scale": 2, "other.x": 1}
    write_manifest(tmp_path / "manifest.csv", [rows()[0], row], ["L.V"])
    with (tmp_path / "manifest.csv").open(newline="") as stream:
        header = next(csv.reader(stream))
    assert header.count("agreement_L.V") == 1
    assert header[-1] == "m.scale"
    assert "other.x" not in header


def test_half_written_files_are_swept(tmp_path):
    kept = tmp_path / "imagesTr" / "a_0000.nii.gz"
    left = [
        tmp_path / "imagesTr" / ".a_0001.77.tmp.nii.gz",
        tmp_path / "labelsTr" / "a.nii.gz.writing",
        tmp_path / "rejected" / "labelsTr" / ".a.77.tmp.png",
    ]
    for path in (kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    _sweep(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [kept]


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_a_synthetic_case_has_the_files_of_its_source(tmp_path, ending):
    dataset, again = real_of(pictures(tmp_path / "data", ending, colour=True), tmp_path / "out")
    source = dataset.load(dataset.items[0])
    origin = Provenance("a_1", "m", "run", "0", 0, 0, "", 0, None, {})
    new = replace(source, case_id="a_1__s0_c0", provenance=origin)
    grid = SimpleNamespace(to_native=lambda case, _: case)
    fitted = SimpleNamespace(
        facts=SimpleNamespace(grid=grid), method=object(), method_name="m", folder=tmp_path,
        hashes={"image": "0"},
    )  # fmt: skip
    one_file = files_of_cases(dataset, 0)["a_1"] == 1
    write_case(
        new, source, fitted, tmp_path / "out", None, None, torch.device("cpu"), one_file=one_file
    )
    made = next(i for i in open_dataset(tmp_path / "out").items if "__" in i.case_id)
    assert len(made.images) == len(again.items[0].images) == (1 if ending == ".png" else 3)
    stored, _, _ = read_image(made.images)
    assert (stored == source.intensity.to_stored(source.image)).all()
