import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.imaging.working import WorkingGrid
from augmint.methods.protocol import DatasetFacts
from augmint.report import (
    COLOURS,
    TILE,
    _agreement_table,
    data_sheet,
    sheet,
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


def strip_of(path, rows):
    """What stands above the headings of a sheet of so many rows of tiles."""
    found = picture(path)
    height = len(found) - 26 - rows * (TILE + 3)
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
    for name, rows in (("data.png", 1), ("pairs.png", 3)):
        strip = strip_of(tmp_path / name, rows)
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
