import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from augmint import report
from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.imaging.working import WorkingGrid
from augmint.methods.protocol import DatasetFacts
from augmint.report import (
    COLOURS,
    LINE,
    TILE,
    _agreement_table,
    _caption,
    _wrapped,
    data_sheet,
    sheet,
    shown_slice,
    tile,
    write_samples,
    write_sheets,
)

FACTS = DatasetFacts(
    channels=1,
    labels={"background": 0, "LV": 1},
    annotated=("LV",),
    grid=WorkingGrid(2, (32, 32), (32, 32), longest=32),
    modality="MR",
    domains=(),
)
MADE = [{"agreement_LV": 0.5}, {"agreement_LV": 0.7}, {"agreement_LV": None}]


GREY = np.zeros((8, 8), np.float32)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "phantoms"
    return make_phantoms("cine-mr", out=out, patients=2, size=32, slices=3)


def picture(path):
    return np.asarray(Image.open(path))


def strip_of(path, rows, below=0):
    """What stands above the headings of a sheet of so many rows of tiles and captions below."""
    found = picture(path)
    height = len(found) - 26 - rows * (TILE + 3 + below)
    assert height >= 0
    return found[:height]


def squares(strip, colour):
    """Where the squares of a colour begin, in rows and columns."""
    shown = (strip == colour).all(-1)
    begins = shown & ~np.roll(shown, 1, 0) & ~np.roll(shown, 1, 1)
    return np.argwhere(begins)


def gate(**others):
    return {"thresholds": {"LV": 0.31}, "real": {"LV": [0.8, 0.9]}, **others}


def test_synthetic_agreement_stands_beside_that_of_real_pairs():
    table = _agreement_table(MADE, {"gates": [gate()]}, FACTS)
    assert "<td>LV<td>0.600<td>0.100<td>0.850<td>0.310" in table
    assert "Warning" not in table


def test_warnings_of_a_gate_stand_above_its_table():
    one = _agreement_table(MADE, {"gates": [gate(warnings=["blind for <LV>"])]}, FACTS)
    assert "Warning: blind for &lt;LV&gt;.</b>" in one
    assert one.index("Warning") < one.index("<table>")
    folds = [gate(warnings=[]), gate(warnings=["blind for LV"])]
    two = _agreement_table(MADE, {"gates": folds}, FACTS)
    assert "Warning: fold 2: blind for LV." in two
    assert two.count("Warning") == 1


def test_cases_that_no_gate_judged_are_said_to_be_so():
    assert "No gate judged" in _agreement_table([{}], {}, FACTS)


def test_a_legend_names_outlines_by_their_colours_and_covers_no_tile(tmp_path):
    mask = np.zeros((8, 8), np.int64)
    mask[:3], mask[5:] = 1, 9  # the ninth label has the colour of the first
    shown = tile(GREY, mask)
    assert {tuple(c) for c in shown[(shown != shown[TILE // 2, 0]).any(-1)]} == {COLOURS[0]}
    made = {}
    for name, labels in (("bare", None), ("named", {"background": 0, "LV": 1, "odd": 9, "RV": 2})):
        sheet(tmp_path / f"{name}.png", [[shown]], columns=["mask"], names=["one"], labels=labels)
        made[name] = picture(tmp_path / f"{name}.png")
    strip = strip_of(tmp_path / "named.png", 1)
    assert len(strip_of(tmp_path / "bare.png", 1)) == 0
    np.testing.assert_array_equal(made["named"][len(strip) :], made["bare"])
    assert len(squares(strip, COLOURS[0])) == 2
    assert len(squares(strip, COLOURS[1])) == 1
    # In the order of the indices, as the eye reads.
    (first, second), (third,) = squares(strip, COLOURS[0]), squares(strip, COLOURS[1])
    assert list(first) < list(third) < list(second)


def test_a_legend_takes_as_many_lines_as_it_needs(tmp_path):
    few = {"background": 0, "LV": 1}
    many = {"background": 0, **{f"structure number {k}": k for k in range(1, 9)}}
    strips = []
    for labels in (few, many):
        path = tmp_path / "sheet.png"
        sheet(path, [[tile(GREY, None)] * 2], columns=["a", "b"], names=["one"], labels=labels)
        strips.append(strip_of(path, 1))
    assert len(strips[1]) > 2 * len(strips[0])
    places = [tuple(squares(strips[1], colour)[0]) for colour in COLOURS]
    assert len(set(places)) == 8
    assert places == sorted(places)
    # The last pixels of the strip are free: no name runs over the edge.
    ground = strips[1][0, 0]
    assert (strips[1][:, -1] == ground).all()


def test_contact_sheets_of_a_dataset_and_of_pairs_have_a_legend(phantoms, tmp_path):
    dataset = open_dataset(phantoms)
    data_sheet(tmp_path / "data.png", dataset)
    case = dataset.load(dataset.items[0])
    write_samples(tmp_path / "pairs.png", [(case, case)], labels=dataset.labels)
    for name, rows, below in (("data.png", 1, LINE), ("pairs.png", 3, 0)):
        strip = strip_of(tmp_path / name, rows, below)
        found = [len(squares(strip, colour)) for colour in COLOURS[:4]]
        assert found == [1, 1, 1, 0]  # three labels
    write_samples(tmp_path / "bare.png", [(case, case)])
    assert len(strip_of(tmp_path / "bare.png", 3)) == 0


def test_sheets_of_what_was_made_and_rejected_have_a_legend(phantoms, tmp_path):
    folder = shutil.copytree(phantoms, tmp_path / "made")
    shutil.copytree(phantoms, folder / "rejected")
    dataset = open_dataset(phantoms)
    real, new, *_ = (item.case_id for item in dataset.items)
    row = {"synthetic": 1, "source_case": real, "case": new, "copy": 0, "reason": "agreement LV"}
    facts = replace(FACTS, labels=dataset.labels)
    rows = [{**row, "accepted": 1}, {**row, "accepted": 0}]
    written = write_sheets(folder, dataset, rows, facts)
    assert [path.name for path in written] == ["pairs.png", "rejected.png"]
    for path, lines in zip(written, (3, 1)):
        strip = strip_of(path, lines)
        assert all(len(squares(strip, colour)) == 1 for colour in COLOURS[:3])


@pytest.fixture
def asked(monkeypatch):
    """What `data_sheet` asks `sheet` to draw."""
    found = {}
    draw = report.sheet

    def kept(path, rows, **words):
        found.update(words, rows=rows)
        draw(path, rows, **words)

    monkeypatch.setattr(report, "sheet", kept)
    return found


def test_a_contact_sheet_names_each_case_and_its_slice(phantoms, tmp_path, asked):
    dataset = open_dataset(phantoms)
    data_sheet(tmp_path / "data.png", dataset)
    case = dataset.load(dataset.items[0])
    counted = f"slice {shown_slice(case) + 1} of {case.grid.shape[case.grid.slice_axis]}"
    (captions,) = asked["captions"]
    assert [name for name, _ in captions] == [item.case_id for item in dataset.items]
    assert captions[0][1] == counted
    assert asked["heading"] == f"{dataset.name}: all 4 cases"
    found = picture(tmp_path / "data.png")
    below = found[-LINE - 3 :]
    wide = found.shape[1] // 4
    assert all((below[:, k * wide : (k + 1) * wide].max((1, 2)) > 150).any() for k in range(4))


def test_frames_are_named_without_a_slice(tmp_path, asked):
    folder = make_phantoms("apical-ultrasound", out=tmp_path / "us", patients=1, size=32)
    data_sheet(tmp_path / "data.png", open_dataset(folder))
    assert {remark for row in asked["captions"] for _, remark in row} == {""}


def test_a_contact_sheet_says_what_it_leaves_out(phantoms, tmp_path, asked):
    folder = shutil.copytree(phantoms, tmp_path / "data")
    dataset = open_dataset(folder)
    data_sheet(tmp_path / "some.png", dataset, count=3)
    assert asked["heading"].endswith(": 3 of 4 cases, evenly chosen")
    assert len(asked["captions"][0]) == 4
    assert [name for name, _ in asked["captions"][0]][3] == ""
    dataset.items[0].masks[0].write_bytes(b"damaged")
    data_sheet(tmp_path / "less.png", dataset, count=3)
    assert asked["heading"].endswith(
        ": 3 of 4 cases, evenly chosen; 1 of them cannot be read and is missing"
    )


def test_long_captions_lose_the_middle_of_the_name_alone():
    font = ImageFont.load_default(13)
    name = "a_very_long_name_of_a_hospital_and_of_a_patient_0123_ES"
    assert _caption("short", "slice 2 of 3", font, 200) == "short  slice 2 of 3"
    found = _caption(name, "slice 2 of 3", font, 200)
    assert font.getlength(found) <= 200
    assert found.startswith("a_very")
    assert found.endswith("_ES  slice 2 of 3")
    assert "..." in found


def test_names_of_rows_are_wrapped_and_keep_every_letter():
    font = ImageFont.load_default(13)
    for text in ("phantoms cine-mr, vendor A, seed 0", "patient_0123_of_the_north_frame_17_ES"):
        lines = _wrapped(text, font, 150)
        assert len(lines) == 2
        assert all(font.getlength(line) <= 150 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert _wrapped("case\n\nmiddle", font, 150) == ["case", "", "middle"]
    endless = _wrapped("W" * 500, font, 150)
    assert len(endless) == TILE // 17
    assert endless[-1] == "..."
