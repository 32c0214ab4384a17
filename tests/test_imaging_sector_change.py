"""Changed fields of view against closed forms, and what must not change with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.evaluation.discs import measure_view
from augmint.evaluation.volumes import Cavity, measure_patient
from augmint.imaging.sector import (
    Sector,
    SectorChange,
    SectorRange,
    before_change,
    change_view,
    places,
    pull_back,
)
from augmint.imaging.warps import warp_image, warp_mask
from augmint.imaging.working import resample_mask

FAN = Sector(row=4.3, column=47.0, left=-33.0, right=36.0, near=7.0, far=62.0, aspect=1.3)
SHAPE = (80, 96)
FRAME = (0.0, 0.0, 80.0, 96.0)
CHANGES = [
    SectorChange(tilt=17.0),
    SectorChange(width=1.4),
    SectorChange(depth=1.5),
    SectorChange(down=0.1, across=-0.12),
    SectorChange(depth=1.45, tilt=-25.0, width=0.6, down=-0.08, across=0.15),
    SectorChange(depth=1.1, tilt=8.0, width=1.3, down=0.1, across=-0.02),
]


def draws(count, ranges=None, seed=0):
    ranges, generator = ranges or SectorRange(), torch.Generator().manual_seed(seed)
    return [ranges.draw(generator) for _ in range(count)]


def scale_that_fits(sector, change):
    """Of the new sector within SHAPE, its sides to the left and right of straight down."""
    half = sector.width * change.width / 2
    far = sector.far * change.depth
    middle = (sector.left + sector.right) / 2
    left, right = (math.sin(math.radians(half + s * middle)) / sector.aspect for s in (-1, 1))
    room = (79.5 - sector.row, sector.column + 0.5, 95.5 - sector.column)
    return min(1.0, room[0] / far, room[1] / (far * left), room[2] / (far * right))


def matrix_of(sector, change, scale):
    """(column, row, 1) in the new frame to (column, row, 1) in the old one."""
    turn = math.radians(change.tilt)
    cos, sin = math.cos(turn), math.sin(turn)
    x, y = change.across * sector.far, change.down * sector.far
    to_plane = np.array(
        [[sector.aspect, 0, -sector.column * sector.aspect], [0, 1, -sector.row], [0, 0, 1]]
    )
    shrink = np.diag([1 / scale, 1 / scale, 1])
    rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shift = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    return np.linalg.inv(to_plane) @ shift @ rotate @ shrink @ to_plane


def moved_by(matrix, rows, columns):
    """Rows and columns of places as a matrix moves them."""
    rows, columns = np.broadcast_arrays(rows, columns)
    x, y, _ = matrix @ np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    return y.reshape(rows.shape), x.reshape(rows.shape)


def assert_places(got, rows, columns, atol=2e-3):
    for one, wanted in zip(got, (rows, columns)):
        np.testing.assert_allclose(np.broadcast_to(one.numpy(), wanted.shape), wanted, atol=atol)


@pytest.mark.parametrize("tilt", [-28.0, 3.0, 20.0])
def test_a_tilted_place_at_angle_a_shows_what_was_at_a_plus_tilt(tilt):
    view = change_view(FAN, SectorChange(tilt=tilt), FRAME)
    radius, angle = np.meshgrid([8.0, 30.0, 61.0], np.radians([-30.0, 0.0, 12.0, 35.0]))
    rows, columns = 4.3 + radius * np.cos(angle), 47 + radius * np.sin(angle) / 1.3
    turned = angle + np.radians(tilt)
    seen = view.sources(torch.from_numpy(rows), torch.from_numpy(columns))
    assert_places(seen, 4.3 + radius * np.cos(turned), 47 + radius * np.sin(turned) / 1.3)
    # The picture of the sector stays where it was; its old sides turn the other way.
    assert replace(view.sector, box=None) == FAN
    assert (view.kept.left, view.kept.right) == pytest.approx((-33 - tilt, 36 - tilt))
    assert view.scale == 1


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_another_width_moves_the_sides_alike_and_nothing_else(factor):
    view = change_view(FAN, SectorChange(width=factor), FRAME)
    assert (view.sector.left, view.sector.right) == pytest.approx(
        (1.5 - 34.5 * factor, 1.5 + 34.5 * factor)
    )
    assert (view.sector.near, view.sector.far, view.scale) == (7, 62, 1)
    rows, columns = np.mgrid[:80.0, :96.0]
    assert_places(view.sources(*places(SHAPE)), rows, columns)


def test_depth_is_not_scaled_where_there_is_room():
    view = change_view(FAN, SectorChange(depth=1.15), FRAME)
    assert view.scale == 1
    assert view.sector.far == pytest.approx(1.15 * 62)
    rows, columns = np.mgrid[:80.0, :96.0]
    assert_places(view.sources(*places(SHAPE)), rows, columns)


def test_depth_beyond_the_frame_shrinks_the_anatomy_about_the_apex_until_it_fits():
    view = change_view(FAN, SectorChange(depth=1.5), FRAME)
    # The last row ends at 79.5.
    assert view.scale == pytest.approx((79.5 - 4.3) / (1.5 * 62))
    assert view.sector.row + view.sector.far == pytest.approx(79.5)
    assert view.sector.near == pytest.approx(7 * view.scale)
    rows, columns = np.mgrid[:80.0, :96.0]
    wanted = 4.3 + (rows - 4.3) / view.scale, 47 + (columns - 47) / view.scale
    assert_places(view.sources(*places(SHAPE)), *wanted)


def test_a_wide_sector_shrinks_until_its_corners_fit():
    fan = replace(FAN, left=-36.0, right=36.0, column=47.5, aspect=0.8)
    view = change_view(fan, SectorChange(width=1.4), FRAME, widest=150)
    corner = 62 * math.sin(math.radians(36 * 1.4)) / 0.8
    assert view.scale == pytest.approx(48 / corner)
    known = view.sector.mask(SHAPE)
    assert bool(known[:, 0].any() or known[:, 1].any())


def test_a_shifted_apex_shifts_the_anatomy_in_the_unsqueezed_plane():
    view = change_view(FAN, SectorChange(down=0.1, across=-0.15), FRAME)
    rows, columns = np.mgrid[:80.0, :96.0]
    # A tenth of the depth down, 0.15 of it to the left: fewer columns, which are wide.
    assert_places(view.sources(*places(SHAPE)), rows + 6.2, columns - 9.3 / 1.3)
    assert (view.kept.row, view.kept.column) == pytest.approx((4.3 - 6.2, 47 + 9.3 / 1.3))


@pytest.mark.parametrize("change", CHANGES + draws(8))
def test_all_kinds_together_are_one_affine_map(change):
    view = change_view(FAN, change, FRAME, widest=150)
    assert view.scale == pytest.approx(scale_that_fits(FAN, change), rel=1e-6)
    rows, columns = np.mgrid[:80.0, :96.0]
    wanted = moved_by(matrix_of(FAN, change, view.scale), rows, columns)
    assert_places(view.sources(*places(SHAPE)), *wanted, atol=5e-3)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_recorded_is_the_old_sector_where_the_new_frame_shows_it(change):
    view = change_view(FAN, change, FRAME)
    here = view.kept.inside(*places(SHAPE))
    there = FAN.inside(*view.sources(*places(SHAPE)))
    torch.testing.assert_close(here / view.scale, there, atol=2e-2, rtol=0)
    known = view.known(SHAPE)
    assert torch.equal(known, view.sector.mask(SHAPE) & (there >= 0))
    assert 0.1 < float(known.sum() / view.sector.mask(SHAPE).sum()) < 1
    # A margin takes rows of the old frame off all its edges.
    inner = view.known(SHAPE, margin=2.0)
    assert torch.equal(inner, view.sector.mask(SHAPE) & (there >= 2))
    assert inner.sum() < known.sum()


@pytest.mark.parametrize("change", CHANGES + draws(6, seed=3))
def test_what_a_fit_pretends_to_have_is_what_a_change_would_have_left(change):
    roomy = replace(FAN, row=104.3, column=200.0)
    view = change_view(roomy, change, (0.0, 0.0, 400.0, 400.0), widest=170)
    assert view.scale == 1
    pretended = before_change(view.sector, change)
    for name in ("row", "column", "left", "right", "near", "far", "aspect"):
        assert getattr(pretended, name) == pytest.approx(getattr(view.kept, name), abs=1e-9), name
    known = view.sector.mask((400, 400)) & pretended.mask((400, 400))
    assert torch.equal(known, view.known((400, 400)) | known)
    assert int((known != view.known((400, 400))).sum()) <= 2


LARGE = Sector(row=5.0, column=199.5, left=-30.0, right=40.0, near=0.0, far=290.0)
WHOLE = (0.0, 0.0, 400.0, 400.0)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (SectorChange(tilt=25.0), 45 / 70),
        (SectorChange(tilt=-10.0), 60 / 70),
        (SectorChange(width=1.25), 1 / 1.25),
        (SectorChange(width=0.5), 1.0),
        (SectorChange(depth=1.3), 1 / 1.3**2),
        (SectorChange(depth=1.58), 1 / 1.58**2),
        # Half of what a third more depth leaves.
        (SectorChange(depth=4 / 3, tilt=35.0), 0.5 * 9 / 16),
        (SectorChange(), 1.0),
    ],
)
def test_the_share_of_the_sector_that_was_recorded(change, share):
    view = change_view(LARGE, change, WHOLE)
    known, visible = view.known((400, 400)), view.sector.mask((400, 400))
    assert float(known.sum() / visible.sum()) == pytest.approx(share, abs=0.006)


def test_a_picture_may_be_enlarged_to_fill_its_frame():
    for change in (SectorChange(), SectorChange(depth=0.7), SectorChange(tilt=12.0, width=0.8)):
        view = change_view(FAN, change, FRAME, fill=True)
        assert view.scale > 1.05
        assert change_view(FAN, change, FRAME).scale == 1
        # It ends at an edge of the frame and not beyond.
        reach = view.sector.far
        left, right = (
            abs(math.sin(math.radians(a))) / 1.3 for a in (view.sector.left, view.sector.right)
        )
        gaps = [79.5 - 4.3 - reach, 47.5 - reach * left, 95.5 - 47 - reach * right]
        assert min(gaps) == pytest.approx(0, abs=1e-6)
        rows, columns = np.mgrid[:80.0, :96.0]
        wanted = moved_by(matrix_of(FAN, change, view.scale), rows, columns)
        assert_places(view.sources(*places(SHAPE)), *wanted)


def test_the_widest_angle_is_a_limit_that_wider_sectors_keep():
    view = change_view(FAN, SectorChange(width=1.5), FRAME, widest=90)
    assert view.sector.width == pytest.approx(90)
    assert view.sector.middle == pytest.approx(FAN.middle)
    wide = replace(FAN, left=-55.0, right=57.0)
    assert change_view(wide, SectorChange(width=1.5), FRAME).sector.width == pytest.approx(112)
    assert change_view(wide, SectorChange(width=0.5), FRAME).sector.width == pytest.approx(56)


def test_a_fan_that_the_frame_cuts_shows_no_more_than_was_recorded():
    cut = replace(FAN, far=90.0, box=(0.0, 0.0, 80.0, 96.0))
    still = change_view(cut, SectorChange(), FRAME)
    assert still.scale == 1
    assert torch.equal(still.sector.mask(SHAPE), cut.mask(SHAPE))
    assert torch.equal(still.known(SHAPE), cut.mask(SHAPE))
    # It may leave the frame as far as before, so a deeper one shrinks by its depth alone.
    deeper = change_view(cut, SectorChange(depth=1.25), FRAME)
    assert deeper.scale == pytest.approx(1 / 1.25)
    known, rows = deeper.known(SHAPE), places(SHAPE)[0]
    # Row 79.5 of the old frame, its end, now lies here.
    end = 4.3 + (79.5 - 4.3) / 1.25
    assert not known[(rows > end)[:, 0]].any()
    assert known[int(end), 40:54].all()


def test_only_a_part_of_the_canvas_may_show_anything():
    part = (10.0, 8.0, 74.0, 88.0)
    fan = replace(FAN, row=12.0, far=50.0)
    for change in CHANGES:
        view = change_view(fan, change, part)
        visible = view.sector.mask(SHAPE)
        rows, columns = torch.nonzero(visible, as_tuple=True)
        assert rows.min() >= 10
        assert rows.max() <= 73
        assert columns.min() >= 8
        assert columns.max() <= 87
        # Cut or not, the far edge lies in it.
        assert fan.row + view.sector.far <= 73.5 + 1e-6


def test_draws_stay_in_their_ranges_and_reach_them():
    ranges = SectorRange(depth=0.4, tilt=20.0, narrow=0.6, wide=1.2, shift=0.1)
    made = draws(2000, ranges)
    depth, tilt, width = (
        np.array([getattr(c, n) for c in made]) for n in ("depth", "tilt", "width")
    )
    shift = np.array([math.hypot(c.down, c.across) for c in made])
    assert depth.min() >= 1
    assert 1.39 < depth.max() <= 1.4
    assert -20 <= tilt.min() < -19
    assert 19 < tilt.max() <= 20
    assert 0.6 <= width.min() < 0.61
    assert 1.19 < width.max() <= 1.2
    assert 0.098 < shift.max() <= 0.1
    for happened in (depth > 1, tilt != 0, width != 1, shift > 0):
        assert happened.mean() == pytest.approx(0.5, abs=0.04)
    # Area-uniform: half of the shifts lie within 1 / sqrt(2) of the radius, in all directions.
    there = shift[shift > 0]
    assert (there < 0.1 / math.sqrt(2)).mean() == pytest.approx(0.5, abs=0.05)
    for name in ("down", "across"):
        assert np.mean([getattr(c, name) for c in made]) == pytest.approx(0, abs=0.003)
    assert (tilt[tilt != 0] > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert (width[width != 1] > 1).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("probability", "share"), [(1.0, 1.0), (0.2, 0.2)])
def test_each_kind_happens_with_its_probability(probability, share):
    made = draws(1500, SectorRange(probability=probability))
    for kind in (
        [c.depth > 1 for c in made],
        [c.tilt != 0 for c in made],
        [c.width != 1 for c in made],
        [(c.down, c.across) != (0, 0) for c in made],
    ):
        assert np.mean(kind) == pytest.approx(share, abs=0.04)


def test_a_fixed_strength_is_the_end_of_the_range():
    made = draws(200, SectorRange(fixed=True))
    assert {round(c.depth, 6) for c in made} == {1, 1.58}
    assert {c.tilt for c in made} == {-30, 0, 30}
    assert {round(c.width, 6) for c in made} == {0.5, 1, 1.5}
    assert {round(math.hypot(c.down, c.across), 6) for c in made} == {0, 0.19}
    assert len({round(math.atan2(c.down, c.across), 3) for c in made}) > 50


def test_streams_stay_in_step_whatever_the_ranges():
    states = []
    for ranges in (SectorRange(), SectorRange(fixed=True), SectorRange(0, 0, 1, 1, 0, 0.01)):
        generator = torch.Generator().manual_seed(5)
        ranges.draw(generator)
        states.append(generator.get_state())
    assert all(torch.equal(states[0], s) for s in states)
    one, two = draws(5), draws(5, SectorRange(tilt=15.0))
    assert [c.tilt for c in one] == pytest.approx([2 * c.tilt for c in two])
    assert [c.depth for c in one] == [c.depth for c in two]
    assert draws(3) == draws(3) != draws(3, seed=1)


def test_a_scaled_range_goes_as_many_times_as_far():
    half = SectorRange().scaled(0.5)
    wanted = (0.29, 15, 0.75, 1.25, 0.095, 0.5)
    got = (half.depth, half.tilt, half.narrow, half.wide, half.shift, half.probability)
    assert got == pytest.approx(wanted)
    for whole, weak in zip(draws(20), draws(20, half)):
        halfway = whole.weaker(0.5)
        for name in ("depth", "tilt", "width", "down", "across"):
            assert getattr(weak, name) == pytest.approx(getattr(halfway, name))
    assert CHANGES[4].weaker(0) == SectorChange()
    assert CHANGES[4].weaker(1) == CHANGES[4]


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """(view, phase) to a phantom's mask with its fan, 192 pixels a side."""
    folder = tmp_path_factory.mktemp("hearts") / "data"
    dataset = open_dataset(make_phantoms("apical-ultrasound", out=folder, patients=1, size=192))
    found = {}
    for item in dataset.items:
        told = {k: float(v) for k, v in item.columns.items() if k.startswith("fan_")}
        fan = Sector(
            told["fan_apex_row"], told["fan_apex_column"], told["fan_left_deg"],
            told["fan_right_deg"], told["fan_near_px"], told["fan_far_px"],
        )  # fmt: skip
        found[item.columns["view"], item.columns["phase"]] = dataset.load(item).mask, fan
    assert len(found) == 4
    return found, dataset.labels


def function_of(masks, labels, spacing):
    """EDV, ESV and EF from (view, phase) to mask."""
    cavities = {
        key: Cavity(
            str(key), tuple(mask.shape), True,
            view=measure_view(
                mask.numpy() == labels["LV"], spacing=spacing, atrium=mask.numpy() == labels["LA"]
            ),
        )
        for key, mask in masks.items()
    }  # fmt: skip
    return measure_patient("phantom", cavities, known=True, forgiving=False)


@pytest.mark.parametrize("squeeze", [1.0, 0.75])
@pytest.mark.parametrize(
    "change",
    [
        SectorChange(tilt=12.0),
        SectorChange(tilt=-15.0),
        SectorChange(width=0.5),
        SectorChange(width=1.2),
        SectorChange(down=0.05, across=0.08),
        SectorChange(tilt=9.0, width=0.7, down=-0.04, across=-0.05),
    ],
)
def test_volumes_and_ef_survive_all_changes_that_do_not_scale(hearts, change, squeeze):
    found, labels = hearts
    before, after = {}, {}
    columns = round(192 * squeeze)
    for key, (whole, fan) in found.items():
        mask = resample_mask(whole, (192, columns))
        fan = fan.moved((1.0, columns / 192))
        # Far more room than the frame has: nothing shrinks.
        view = change_view(fan, change, (-500.0, -500.0, 700.0, 700.0), widest=150)
        assert view.scale == 1
        before[key] = mask
        grid = pull_back(*view.sources(*places(mask.shape)), mask.shape)
        after[key] = warp_mask(mask[None], grid, len(labels))[0]
    spacing = (1.0, 192 / columns)
    old, new = (function_of(m, labels, spacing) for m in (before, after))
    assert new.edv == pytest.approx(old.edv, rel=0.01)
    assert new.esv == pytest.approx(old.esv, rel=0.01)
    assert new.ef == pytest.approx(old.ef, rel=0.01)
    for key in before:
        for index in range(1, len(labels)):
            area, moved = (int((m[key] == index).sum()) for m in (before, after))
            assert moved == pytest.approx(area, rel=0.01), (key, index)


def test_depth_scales_the_area_of_labels_by_the_square_of_the_anatomy(hearts):
    found, labels = hearts
    for mask, fan in found.values():
        view = change_view(fan, SectorChange(depth=1.4), (0.0, 0.0, 192.0, 192.0))
        grid = pull_back(*view.sources(*places(mask.shape)), mask.shape)
        moved = warp_mask(mask[None], grid, len(labels))[0]
        share = int((moved == labels["LV"]).sum()) / int((mask == labels["LV"]).sum())
        assert share == pytest.approx(view.scale**2, rel=0.02)
        assert view.scale < 0.75


@pytest.mark.parametrize("change", CHANGES)
def test_image_and_label_move_together(hearts, change):
    found, labels = hearts
    mask, fan = found["4CH", "ED"]
    grey = torch.tensor([-0.8, 0.7, -0.1, 0.3])
    view = change_view(fan, change, (0.0, 0.0, 192.0, 192.0))
    grid = pull_back(*view.sources(*places(mask.shape)), mask.shape)
    image = warp_image(grey[mask][None, None], grid)[0, 0]
    moved = warp_mask(mask[None], grid, len(labels))[0]
    rows, columns = view.sources(*places(mask.shape))
    framed = (rows > 3) & (rows < 188) & (columns > 3) & (columns < 188)
    same = torch.zeros_like(framed)
    for index in range(len(labels)):
        same |= torch.from_numpy(binary_erosion(moved.numpy() == index, np.ones((7, 7))))
    away = framed & same
    assert set(moved[away].tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(image[away], grey[moved][away], atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_bright_spot_lies_where_the_map_says_in_image_and_label(change):
    view = change_view(FAN, change, FRAME)
    rows, columns = np.mgrid[:80.0, :96.0]
    centre = (36.0, 45.0)
    # Round in the plane, so its centroid is its centre.
    apart = np.hypot(rows - centre[0], (columns - centre[1]) * 1.3)
    image = torch.from_numpy(np.exp(-((apart / 4) ** 2)) * 2 - 1).float()
    mask = torch.from_numpy(apart < 5).long()
    grid = pull_back(*view.sources(*places(SHAPE)), SHAPE)
    weight = (warp_image(image[None, None], grid)[0, 0].numpy() + 1) / 2
    label = warp_mask(mask[None], grid, 2)[0].numpy()
    back = np.linalg.inv(matrix_of(FAN, change, view.scale))
    row, column = moved_by(back, np.array([36.0]), np.array([45.0]))
    for shown, tolerance in ((weight, 0.05), (label, 0.35)):
        seen = [(shown * p).sum() / shown.sum() for p in (rows, columns)]
        assert seen == pytest.approx([row[0], column[0]], abs=tolerance)


def test_a_grid_that_reads_every_pixel_in_its_place_changes_nothing():
    image = torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    grid = pull_back(*places(SHAPE), SHAPE)
    assert grid.shape == (1, *SHAPE, 2)
    torch.testing.assert_close(warp_image(image, grid), image, atol=1e-4, rtol=0)
