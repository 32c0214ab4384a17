"""Smaller fields of view: what is inside is the recording, what is outside is black."""

import csv
import importlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from augmint.case import Grid
from augmint.data.dataset import open_dataset
from augmint.data.images import read_image, read_mask, write_image, write_mask
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.imaging.sector import Sector
from augmint.imaging.sector_fit import fit_sector
from augmint.progress import Talk
from augmint.stress import StressRange, stress

QUIET = Talk(quiet=True)
FAN = Sector(row=2.0, column=47.5, left=-36.0, right=36.0, near=4.0, far=88.0)
SHAPE = (96, 96)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    out = tmp_path_factory.mktemp("stress") / "Dataset901_Phantoms"
    return make_phantoms("apical-ultrasound", out=out, patients=2, size=96)


def made(data, out, **options):
    return stress(data, out, talk=QUIET, **options)


def rows_of(folder):
    with (folder / "cases.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def files_of(folder):
    parts = [folder / "imagesTr", folder / "labelsTr"]
    return {p.relative_to(folder): p.read_bytes() for part in parts for p in part.iterdir()}


def pair(folder, case, ending=".png"):
    image = read_image(folder / "imagesTr" / f"{case}_0000{ending}")[0][0]
    return image, read_mask(folder / "labelsTr" / f"{case}{ending}")[0]


def drawn_fan(sector=FAN, *, spot=None, noise=True, shape=SHAPE):
    """A grey fan, with a bright blob at (radius, degrees) that is also its label."""
    image = np.full(shape, 120.0)
    if noise:
        image += np.random.default_rng(0).integers(-30, 30, shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    mask = np.zeros(shape, np.uint8)
    if spot is not None:
        angle = torch.tensor(math.radians(spot[1]))
        row, column = sector.cartesian(torch.tensor(spot[0]), angle)
        apart = np.hypot(rows - float(row), (columns - float(column)) * sector.aspect)
        mask[apart < 7] = 1
        image[apart < 7] = 250
    inside = sector.mask(shape).numpy()
    return np.where(inside, image, 0).astype(np.uint8), mask


def dataset_of(folder, pairs, *, ending=".png", grid=None, **facts):
    """A small nnU-Net dataset of given pictures and masks."""
    for name, (image, mask) in pairs.items():
        at = grid or Grid(image.shape, np.eye(image.ndim + 1), False)
        write_image(folder / "imagesTr" / f"{name}_0000{ending}", image[None], at)
        write_mask(folder / "labelsTr" / f"{name}{ending}", mask, at)
    told = {
        "channel_names": {"0": "ultrasound"}, "labels": {"background": 0, "LV": 1},
        "numTraining": len(pairs), "file_ending": ending, **facts,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(told))
    return folder


def centre(weight):
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("fill", [False, True])
def test_the_output_shows_the_sector_that_was_asked_for(phantoms, tmp_path, fill):
    out = made(phantoms, tmp_path / "out", fixed=True, fill=fill)
    assert rows_of(out)
    for case, row in rows_of(out).items():
        old = fit_sector(torch.from_numpy(pair(phantoms, case)[0].astype(float))).sector
        new = fit_sector(torch.from_numpy(pair(out, case)[0].astype(float)), aspect=old.aspect)
        scale = float(row["stress_scale"])
        assert (scale > 1.1) == fill
        half = 0.6 * old.width / 2
        wanted = Sector(
            old.row, old.column, old.middle - half, old.middle + half, old.near * scale,
            old.far * 0.65 * scale, old.aspect,
        )  # fmt: skip
        size = pair(out, case)[0].shape
        assert overlap(wanted.mask(size), new.sector.mask(size)) >= 0.99
        shown = torch.from_numpy(pair(out, case)[0] > 0)
        assert not (shown & ~wanted.mask(size, margin=-0.5)).any()


def test_without_a_tilt_what_lies_inside_is_the_recording(phantoms, tmp_path):
    out = made(phantoms, tmp_path / "out", tilt=0)
    for case, row in rows_of(out).items():
        old, new = pair(phantoms, case), pair(out, case)
        sector = fit_sector(torch.from_numpy(old[0].astype(float))).sector
        half = float(row["stress_width"]) * sector.width / 2
        narrow = Sector(
            sector.row, sector.column, sector.middle - half, sector.middle + half, sector.near,
            sector.far * float(row["stress_depth"]), sector.aspect,
        )  # fmt: skip
        inside = narrow.mask(old[0].shape, margin=0.1).numpy()
        outside = ~narrow.mask(old[0].shape, margin=-0.1).numpy()
        assert inside.sum() > 500
        for before, after in zip(old, new):
            assert (before[inside] == after[inside]).all()
            assert not after[outside].any()


def test_no_strength_leaves_all_inside_the_sector(phantoms, tmp_path):
    out = made(phantoms, tmp_path / "out", strength=0, gain=10, attenuation=10, fill=True)
    for case, row in rows_of(out).items():
        old, new = pair(phantoms, case), pair(out, case)
        sector = fit_sector(torch.from_numpy(old[0].astype(float))).sector
        inside = sector.mask(old[0].shape, margin=0.01).numpy()
        assert (old[0][inside] == new[0][inside]).all()
        assert (old[1][inside] == new[1][inside]).all()
        assert {row[f"stress_cut_{name}"] for name in ("LV", "MYO", "LA")} == {"0.0000"}
        assert float(row["stress_scale"]) == float(row["stress_width"]) == 1


def test_half_the_strength_changes_half_as_much():
    whole = StressRange(fixed=True, gain=6, attenuation=12)
    one = whole.draw(torch.Generator().manual_seed(3))
    half = whole.scaled(0.5).draw(torch.Generator().manual_seed(3))
    assert (1 - half.width, 1 - half.depth) == pytest.approx((0.2, 0.175))
    assert half.tilt == pytest.approx(one.tilt / 2)
    assert half.gain_db == pytest.approx(one.gain_db / 2)
    assert half.attenuation_db == pytest.approx(6)


def test_draws_stay_in_their_ranges_and_reach_both_sides():
    ranges = StressRange(gain=6, attenuation=12)
    generator = torch.Generator().manual_seed(0)
    drawn = [ranges.draw(generator) for _ in range(300)]
    for name, low, high in (
        ("width", 0.6, 0.8), ("depth", 0.65, 0.85), ("tilt", -8, 8), ("gain_db", -6, 6),
        ("attenuation_db", 0, 12),
    ):  # fmt: skip
        values = [getattr(one, name) for one in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


@pytest.mark.parametrize("fill", [False, True])
def test_a_tilt_turns_image_and_label_alike(tmp_path, fill):
    data = dataset_of(tmp_path / "in", {"a": drawn_fan(spot=(38.0, 3.0), noise=False)})
    out = made(data, tmp_path / "out", fixed=True, fill=fill)
    row = rows_of(out)["a"]
    tilt, scale = float(row["stress_tilt"]), float(row["stress_scale"])
    assert abs(tilt) == pytest.approx(8)
    image, mask = pair(out, "a")
    spot = centre(np.where(image > 185, 1.0, 0.0))
    assert np.abs(spot - centre(mask == 1)).max() < 0.3
    angle = torch.tensor(math.radians(3.0 - tilt))
    wanted = [float(p) for p in FAN.cartesian(torch.tensor(38.0 * scale), angle)]
    assert np.abs(spot - wanted).max() < 0.5
    assert float(row["stress_cut_LV"]) == 0
    area = (drawn_fan(spot=(38.0, 3.0))[1] == 1).sum() * scale**2
    assert (mask == 1).sum() == pytest.approx(area, rel=0.06)


def test_a_tilt_stops_where_the_recording_ends(tmp_path):
    data = dataset_of(tmp_path / "in", {"a": drawn_fan()})
    out = made(data, tmp_path / "out", width=0.9, tilt=30, fixed=True)
    width = fit_sector(torch.from_numpy(drawn_fan()[0].astype(float))).sector.width
    tilt = abs(float(rows_of(out)["a"]["stress_tilt"]))
    assert tilt == pytest.approx(0.05 * width, abs=0.01)
    # Black beyond the recording would show within the new fan.
    image = pair(out, "a")[0]
    half = 0.45 * width
    new = Sector(FAN.row, FAN.column, -half, half, FAN.near, 0.65 * FAN.far)
    assert (image[new.mask(SHAPE, margin=1.5).numpy()] > 60).all()


def test_a_fan_that_the_frame_cuts_tilts_no_further_than_was_recorded(tmp_path):
    cut = Sector(-30.0, 47.5, -36.0, 36.0, 20.0, 110.0)
    data = dataset_of(tmp_path / "in", {"a": drawn_fan(cut)})
    fit = fit_sector(torch.from_numpy(drawn_fan(cut)[0].astype(float)))
    assert fit.sector is not None
    assert fit.sector.box is not None
    for fill in (False, True):
        out = made(data, tmp_path / f"out{fill}", fixed=True, fill=fill)
        row, image = rows_of(out)["a"], pair(out, "a")[0]
        scale = float(row["stress_scale"])
        assert 3 < abs(float(row["stress_tilt"])) < 8
        # A black wedge below the flat top would be a region that nobody recorded.
        top = cut.row + (-0.5 - cut.row) * scale + 0.5
        wanted = Sector(
            cut.row, cut.column, -21.6, 21.6, 0.0, 0.65 * cut.far * scale, box=(top, 0, 96, 96)
        )
        inside = wanted.mask(SHAPE, margin=1.5 * scale).numpy()
        assert inside.sum() > 1000
        assert (image[inside] > 0).all()


def test_gain_is_an_offset_of_the_grey_levels(tmp_path):
    old = drawn_fan()
    data = dataset_of(tmp_path / "in", {f"c{k}": old for k in range(6)})
    still = dict(width=(1, 1), depth=(1, 1), tilt=0, fixed=True)
    out = made(data, tmp_path / "out", gain=6, **still)
    inside = FAN.mask(SHAPE, margin=1).numpy()
    signs = set()
    for case, row in rows_of(out).items():
        gain = float(row["stress_gain_db"])
        signs.add(gain)
        wanted = np.round(np.clip(old[0] + gain / 60 * 255, 0, 255))
        new = pair(out, case)[0]
        assert (new[inside] == wanted[inside]).all()
        assert not new[~FAN.mask(SHAPE, margin=-1).numpy()].any()
    assert signs == {-6.0, 6.0}


def test_attenuation_grows_with_the_depth(tmp_path):
    old = drawn_fan(noise=False)[0]
    data = dataset_of(tmp_path / "in", {"a": (old, np.zeros_like(old))})
    out = made(
        data, tmp_path / "out", width=(1, 1), depth=(0.8, 0.8), tilt=0, attenuation=12, fixed=True
    )
    new = pair(out, "a")[0].astype(float)
    rows = np.arange(10, 68)
    # Straight below the apex the depth is the row; the fit knows it to a fraction of a pixel.
    deep = (rows - FAN.row - FAN.near) / (FAN.far - FAN.near)
    assert np.abs(new[rows, 47] - (120 - 12 / 60 * 255 * deep)).max() < 1.2
    assert not new[75:, 47].any()


def test_frames_of_one_view_share_their_field(phantoms, tmp_path):
    out = made(phantoms, tmp_path / "out")
    fields = {}
    for row in rows_of(out).values():
        drawn = tuple(row[f"stress_{name}"] for name in ("width", "depth", "tilt"))
        fields.setdefault((row["patient"], row["view"]), set()).add(drawn)
    assert len(fields) == 4
    assert all(len(drawn) == 1 for drawn in fields.values())
    assert len({next(iter(drawn)) for drawn in fields.values()}) == 4


def test_one_seed_gives_one_dataset_and_a_patient_alone_the_same(phantoms, tmp_path):
    first, again, other = (
        made(phantoms, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert files_of(first) == files_of(again)
    assert files_of(first) != files_of(other)
    patient = open_dataset(phantoms).patients[1]
    alone = made(phantoms, tmp_path / "d", patients=[patient])
    assert files_of(alone).items() <= files_of(first).items()
    assert set(rows_of(alone)) < set(rows_of(first))


def test_it_opens_again_as_the_same_patients(phantoms, tmp_path):
    source, copy = (
        open_dataset(folder) for folder in (phantoms, made(phantoms, tmp_path / "Dataset902_S"))
    )
    assert copy.labels == source.labels
    assert copy.licence == source.licence
    assert copy.spacing_known is False
    for old, new in zip(source.items, copy.items):
        assert (old.case_id, old.patient_id, old.domain) == (
            new.case_id, new.patient_id, new.domain
        )  # fmt: skip
        assert not new.synthetic
        assert old.columns.items() <= new.columns.items()
        assert copy.load(new).mask is not None
    told = json.loads((tmp_path / "Dataset902_S" / "stress.json").read_text())
    assert told["request"]["width"] == [0.6, 0.8]
    assert "torch" in told["versions"]
    assert Image.open(tmp_path / "Dataset902_S" / "sheets" / "stress.png").width > 900
    assert not (tmp_path / "Dataset902_S" / ".work").exists()


def test_the_share_that_is_cut_is_counted_and_labels_can_be_kept(tmp_path):
    data = dataset_of(tmp_path / "in", {"a": drawn_fan(spot=(60.0, 0.0)), "b": drawn_fan()})
    half = dict(width=(0.8, 0.8), depth=(0.68, 0.68), tilt=0)
    out = made(data, tmp_path / "out", **half)
    before, after = pair(data, "a")[1], pair(out, "a")[1]
    share = 1 - after.sum() / before.sum()
    assert 0.3 < share < 0.7
    assert float(rows_of(out)["a"]["stress_cut_LV"]) == pytest.approx(share, abs=1e-3)
    assert rows_of(out)["b"]["stress_cut_LV"] == ""
    kept = made(data, tmp_path / "kept", labels="keep", **half)
    assert (pair(kept, "a")[1] == before).all()
    assert float(rows_of(kept)["a"]["stress_cut_LV"]) == 0


def test_labels_drawn_outside_the_recording_are_told_apart(tmp_path):
    image, mask = drawn_fan(spot=(60.0, 36.0))
    data = dataset_of(tmp_path / "in", {"a": (image, mask)})
    row = rows_of(made(data, tmp_path / "out", strength=0))["a"]
    assert float(row["stress_cut_LV"]) == 0
    outside = (mask[~FAN.mask(SHAPE).numpy()] == 1).sum() / (mask == 1).sum()
    assert float(row["stress_outside_LV"]) == pytest.approx(outside, abs=0.05)


@pytest.mark.parametrize("fill", [False, True])
def test_a_known_spacing_shrinks_only_when_the_picture_grows(tmp_path, fill):
    squeezed = Sector(2.0, 47.5, -40.0, 40.0, 4.0, 88.0, aspect=1.25)
    affine = np.diag([-0.4, 0.5, 1.0])  # rows first: columns are 1.25 times as wide
    affine[:2, 2] = 7.0, -3.0
    grid = Grid(SHAPE, affine, True)
    pairs = {"a": drawn_fan(squeezed, spot=(45.0, 0.0))}
    data = dataset_of(tmp_path / "in", pairs, ending=".nii.gz", grid=grid)
    out = made(data, tmp_path / "out", tilt=0, fill=fill)
    old, new = (read_image(folder / "imagesTr" / "a_0000.nii.gz")[1] for folder in (data, out))
    scale = float(rows_of(out)["a"]["stress_scale"])
    assert (scale > 1.1) == fill
    assert np.abs(new[:2, :2] * scale - old[:2, :2]).max() < 1e-4
    places = [
        (affine @ [*centre(pair(folder, "a", ".nii.gz")[1] == 1), 1])[:2]
        for folder, affine in ((data, old), (out, new))
    ]
    assert np.abs(places[0] - places[1]).max() < 0.1  # mm
    assert open_dataset(out).spacing_known is not False


def test_a_sequence_in_one_file_changes_as_a_whole(tmp_path):
    first, second = drawn_fan(spot=(45.0, 0.0)), drawn_fan(spot=(45.0, 5.0))
    image, mask = (np.stack(pair, -1).swapaxes(0, 1) for pair in zip(first, second))  # x, y, t
    grid = Grid(image.shape, np.diag([0.5, 0.5, 1.0, 1.0]), True)
    data = dataset_of(tmp_path / "in", {"a": (image, mask)}, ending=".nii.gz", grid=grid)
    out = made(data, tmp_path / "out", tilt=0, depth=(0.7, 0.7), width=(0.6, 0.6))
    new, labels = pair(out, "a", ".nii.gz")
    assert new.shape == image.shape
    narrow = Sector(FAN.row, FAN.column, -21.6, 21.6, FAN.near, 0.7 * FAN.far)
    inside = narrow.mask(SHAPE, margin=1).numpy().T
    outside = ~narrow.mask(SHAPE, margin=-1).numpy().T
    for z in range(2):
        assert (new[..., z][inside] == image[..., z][inside]).all()
        assert (labels[..., z][inside] == mask[..., z][inside]).all()
        assert not new[..., z][outside].any()


def test_frames_without_a_fan_are_all_named_and_nothing_is_written(tmp_path):
    box = np.full(SHAPE, 90, np.uint8)
    empty = np.zeros(SHAPE, np.uint8)
    pairs = {"good": drawn_fan(), "linear": (box, empty), "black": (empty, empty)}
    pairs["second"] = (box, empty)
    data = dataset_of(tmp_path / "in", pairs)
    with pytest.raises(AugmintError, match=r"3 of 4 cases") as error:
        made(data, tmp_path / "out")
    assert all(name in str(error.value) for name in ("black", "linear, second"))
    assert "good" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_what_is_out_of_range_is_refused(phantoms, tmp_path):
    for wrong, told in (
        ({"width": (0.8, 0.6)}, "--width"), ({"depth": (0.5, 1.2)}, "--depth"),
        ({"depth": (0.0, 0.5)}, "--depth"), ({"tilt": -1}, "--tilt"),
        ({"gain": math.nan}, "--gain"), ({"strength": 2}, "--strength"),
        ({"labels": "cut"}, "--labels"), ({"patients": ["nobody"]}, "nobody"),
    ):  # fmt: skip
        with pytest.raises(AugmintError, match=told):
            made(phantoms, tmp_path / "out", **wrong)
    (tmp_path / "there").mkdir()
    with pytest.raises(AugmintError, match="never overwritten"):
        made(phantoms, tmp_path / "there")
    assert not (tmp_path / "out.partial").exists()


def test_a_killed_run_goes_on_to_the_same_files(phantoms, tmp_path, monkeypatch):
    pairs = {f"c{k}": drawn_fan(spot=(40.0, 5.0 * k)) for k in range(4)}
    data = dataset_of(tmp_path / "in", pairs)
    whole = made(data, tmp_path / "whole")
    written = []

    def dies(path, *rest):
        if len(written) == 2:
            path.with_name(f".{path.name}.7.tmp.png").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        write_mask(path, *rest)

    monkeypatch.setattr(importlib.import_module("augmint.stress"), "write_mask", dies)
    with pytest.raises(KeyboardInterrupt):
        made(data, tmp_path / "out")
    monkeypatch.undo()
    partial = tmp_path / "out.partial"
    kept = {p: p.stat().st_mtime_ns for p in written}
    with pytest.raises(AugmintError, match="--continue"):
        made(data, tmp_path / "out")
    with pytest.raises(AugmintError, match="seed"):
        made(data, tmp_path / "out", seed=5, resume=True)
    assert partial.is_dir()
    out = made(data, tmp_path / "out", resume=True)
    assert files_of(out) == files_of(whole)
    assert rows_of(out) == rows_of(whole)
    after = {p: out / p.relative_to(partial) for p in kept}
    assert all(after[p].stat().st_mtime_ns == when for p, when in kept.items())


def test_cases_without_masks_are_left_out_and_counted(phantoms, tmp_path, capsys):
    data = tmp_path / "in"
    shutil.copytree(phantoms, data)
    case = sorted(rows_of(data))[0]
    (data / "labelsTr" / f"{case}.png").unlink()
    out = stress(data, tmp_path / "out")
    said = capsys.readouterr().err
    assert "left out: 1 case(s)" in said
    assert "wrote 7 cases of 2 patients" in said
    assert case not in rows_of(out)


def test_real_frames(real_data, tmp_path):
    data = real_data / "Dataset050_CAMUS"
    if not data.is_dir():
        pytest.skip("no CAMUS here")
    out = made(data, tmp_path / "out", patients=["patient0007"])
    for row in rows_of(out).values():
        size = pair(out, row["case"])[0].shape
        old = fit_sector(torch.from_numpy(pair(data, row["case"])[0].astype(float))).sector
        half = float(row["stress_width"]) * old.width / 2
        wanted = Sector(
            old.row, old.column, old.middle - half, old.middle + half, old.near,
            old.far * float(row["stress_depth"]), old.aspect,
        )  # fmt: skip
        found = fit_sector(
            torch.from_numpy(pair(out, row["case"])[0].astype(float)), aspect=old.aspect
        )
        assert overlap(wanted.mask(size), found.sector.mask(size)) >= 0.99
        assert 0 <= float(row["stress_cut_LV"]) < 0.5
