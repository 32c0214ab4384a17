import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid, center, resample_image, resample_mask


def ball(shape, radius=0.3, shift=0.05):
    axes = torch.meshgrid(*[(torch.arange(n) + 0.5) / n - 0.5 for n in shape], indexing="ij")
    return sum((a - shift) ** 2 for a in axes) < radius**2


def case_of(shape, spacing=None, *, mask=True, case_id="c1"):
    """A ball in every case; slices of volumes are told apart by their brightness."""
    inside = ball(shape)
    image = torch.where(inside, 0.6, -0.4)[None]
    affine = np.diag([*(spacing or [1.0] * len(shape)), 1.0])
    return Case(
        image=image,
        mask=inside.long() if mask else None,
        annotated=frozenset({1}),
        grid=Grid(shape, affine, spacing is not None),
        intensity=IntensityMap((0.0,), (255.0,), "uint8"),
        case_id=case_id,
        patient_id="p1",
    )


def dice(a, b):
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


BY_SIZE = WorkingGrid(2, (48, 48), (48, 48), longest=40)
IN_MM = WorkingGrid(2, (48, 48), (48, 48), spacing_mm=(1.5, 1.5))
SOLID = WorkingGrid(3, (40, 40, 40), (40, 40, 40), spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("grid", "case"),
    [
        (BY_SIZE, case_of((60, 60))),
        (BY_SIZE, case_of((61, 45))),
        (BY_SIZE, case_of((32, 33))),
        (IN_MM, case_of((60, 51), (1.0, 1.2))),
        (IN_MM, case_of((31, 30), (2.0, 2.1))),
        (IN_MM, case_of((61, 60, 5), (1.0, 1.0, 8.0))),
        (IN_MM, case_of((61, 5, 50), (1.0, 8.0, 1.1))),
        (IN_MM, case_of((5, 60, 51), (8.0, 1.0, 1.0))),
        (BY_SIZE, case_of((50, 41, 5))),
        (SOLID, case_of((30, 31, 33), (1.2, 1.1, 1.0))),
        (replace(SOLID, spacing_mm=None, longest=36), case_of((30, 31, 33))),
    ],
    ids=lambda x: str(x.grid.shape) if isinstance(x, Case) else f"{x.dims}d",
)
def test_there_and_back_keeps_the_shape_of_a_blob(grid, case):
    working = grid.to_working(case)
    assert working.mask is not None
    assert set(working.image.shape[1 : 1 + grid.dims]) == set(grid.canvas)
    back = grid.to_native(working, case.grid)
    assert back.grid.same_as(case.grid)
    assert back.mask is not None
    assert back.mask.dtype == torch.int64
    assert back.mask.shape == case.mask.shape
    assert back.image.shape == case.image.shape
    assert dice(back.mask == 1, case.mask == 1) > 0.95
    # The image keeps its place too: bright where the mask is.
    assert dice(back.image[0] > 0.1, case.mask == 1) > 0.95
    assert float(back.image.min()) >= -1
    assert float(back.image.max()) <= 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_keep_their_order(axis):
    shape, spacing = [24, 24, 24], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 6, 9.0
    case = case_of(tuple(shape), tuple(spacing))
    levels = torch.linspace(-0.9, 0.9, 6).reshape([6 if i == axis else 1 for i in range(3)])
    case = replace(case, image=levels.expand(1, *shape).contiguous())
    assert case.grid.slice_axis == axis
    grid = WorkingGrid(2, (16, 16), (16, 16), spacing_mm=(1.5, 1.5))
    working = grid.to_working(case)
    assert working.image.shape == (1, 16, 16, 6)
    assert [s.case_id for s in working.slices()] == [f"c1#z{z:03d}" for z in range(6)]
    middle = working.image[0, 8, 8]
    torch.testing.assert_close(middle, levels.flatten())
    torch.testing.assert_close(
        grid.to_native(working, case.grid).image, case.image, atol=1e-5, rtol=0
    )


def test_the_working_grid_is_the_identity_where_nothing_has_to_change():
    case = case_of((48, 48))
    grid = replace(BY_SIZE, longest=48)
    working = grid.to_working(case)
    assert torch.equal(working.image, case.image)
    assert torch.equal(working.mask, case.mask)
    assert torch.equal(grid.to_native(working, case.grid).image, case.image)


@pytest.mark.parametrize("native", [33, 34, 46, 47, 30, 31, 21])
@pytest.mark.parametrize("window", [32, 24, 48])
def test_a_window_lies_where_it_was_cut_from_the_canvas(native, window):
    """Case -> canvas -> window -> case moves no pixel, for odd and even sizes."""
    case = case_of((native, native))
    noise = torch.rand(1, native, native, generator=torch.Generator().manual_seed(0))
    case = replace(case, image=noise)
    grid = WorkingGrid(2, (48, 48), (window, window), longest=native)
    canvas = grid.to_working(case)
    cut = replace(
        canvas,
        image=center(canvas.image, grid.window, -1.0),
        mask=center(canvas.mask, grid.window, 0),
        grid=Grid(grid.window, np.eye(3), False),
    )
    assert torch.equal(cut.image, grid.to_working(case, shape=grid.window).image)
    back = grid.to_native(cut, case.grid)
    inside = back.image != -1
    assert int(inside.sum()) == min(native, window) ** 2
    assert torch.equal(back.image[inside], case.image[inside])
    assert torch.equal(back.mask[inside[0]], case.mask[inside[0]])


def test_outside_the_window_is_black_and_background():
    case = case_of((40, 40))
    case = replace(case, image=torch.ones(1, 40, 40), mask=torch.ones(40, 40, dtype=torch.long))
    grid = WorkingGrid(2, (48, 48), (16, 16), longest=40)
    back = grid.to_native(grid.to_working(case, shape=grid.window), case.grid)
    window = torch.zeros(40, 40, dtype=torch.bool)
    window[12:28, 12:28] = True
    assert bool((back.image[0][window] == 1).all())
    assert bool((back.image[0][~window] == -1).all())
    assert bool((back.mask[window] == 1).all())
    assert bool((back.mask[~window] == 0).all())


def test_padding_of_the_canvas_is_black_and_background():
    working = BY_SIZE.to_working(replace(case_of((40, 40)), image=torch.ones(1, 40, 40)))
    assert bool((working.image[0, :4] == -1).all())
    assert bool((working.image[0, 4:44, 4:44] == 1).all())
    assert bool((working.mask[:4] == 0).all())


@pytest.mark.parametrize("have", [7, 8])
@pytest.mark.parametrize("want", [10, 11])
def test_a_crop_inverts_a_padding(have, want):
    x = torch.rand(1, have, have)
    assert torch.equal(center(center(x, (want, want), 0.0), (have, have), 0.0), x)


@pytest.mark.parametrize("sizes", [(9, 16, 12), (33, 48, 32), (20, 15, 10), (7, 9, 8)])
def test_two_steps_are_one(sizes):
    a, b, c = sizes
    x = torch.rand(1, a)
    assert torch.equal(center(center(x, (b,), 0.0), (c,), 0.0), center(x, (c,), 0.0)) or a > b < c


def test_a_heart_lies_one_way_in_pictures_and_in_volumes():
    grid = WorkingGrid(2, (16, 16), (16, 16), longest=16)
    picture = case_of((16, 12))
    # The same picture as a slice of a volume, which stores x, the columns, first.
    volume = replace(
        picture,
        image=picture.image.mT[..., None].expand(-1, -1, -1, 3),
        mask=picture.mask.mT[..., None].expand(-1, -1, 3),
        grid=Grid((12, 16, 3), np.diag([1.0, 1, 5, 1]), False),
    )
    flat, stack = grid.to_working(picture), grid.to_working(volume)
    for z in range(3):
        assert torch.equal(stack.image[..., z], flat.image)
        assert torch.equal(stack.mask[..., z], flat.mask)
    back = grid.to_native(stack, volume.grid)
    torch.testing.assert_close(back.image, volume.image)
    assert torch.equal(back.mask, volume.mask)


def test_an_unlabelled_case_stays_unlabelled():
    for case in (case_of((40, 40), mask=False), case_of((40, 40, 5), (1, 1, 8.0), mask=False)):
        grid = BY_SIZE
        working = grid.to_working(case)
        assert working.mask is None
        assert grid.to_native(working, case.grid).mask is None


def test_a_frame_does_not_fit_a_network_for_volumes():
    with pytest.raises(AugmintError, match=r"'c1' is a 2-D frame"):
        SOLID.to_working(case_of((30, 30), (1.0, 1.0)))


def test_a_grid_in_mm_needs_a_spacing():
    with pytest.raises(AugmintError, match="has no spacing"):
        IN_MM.to_working(case_of((30, 30)))


def test_a_working_spacing_is_met():
    assert IN_MM.resampled_shape(Grid((60, 30), np.diag([1.0, 2.0, 1.0]), True)) == (40, 40)
    assert BY_SIZE.resampled_shape(Grid((80, 30), np.eye(3), False)) == (40, 15)


@pytest.mark.parametrize("grid", [BY_SIZE, IN_MM, SOLID])
def test_a_grid_survives_json(grid):
    assert WorkingGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


def test_shrinking_averages_instead_of_picking():
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 32, 32)
    assert float(resample_image(stripes, (8, 8)).abs().max()) < 0.3


def test_a_resampled_mask_holds_only_its_classes():
    mask = torch.randint(4, (17, 19), generator=torch.Generator().manual_seed(0)) * 2
    assert set(resample_mask(mask, (40, 13)).unique().tolist()) <= {0, 2, 4, 6}
    assert resample_mask(mask, (17, 19)) is mask


CUT = replace(IN_MM, window=(16, 16))


@pytest.mark.parametrize("shape", [(61, 60), (61, 60, 5)])
def test_a_change_goes_back_to_where_it_was_made(shape):
    case = case_of(shape, (1.0, 1.0, 8.0)[: len(shape)])
    plane = replace(case.grid, shape=shape)
    change = torch.zeros(1, 16, 16)
    change[0, 2:6, 9:14] = 1.5
    back = CUT.change_to_native(change, plane)
    assert back.shape == (1, 61, 60)
    # Outside the window nothing changes, and a change may exceed the range of an image.
    assert float(back.max()) == pytest.approx(1.5, abs=0.01)
    assert not back[:, :15].any()
    rows, columns = back[0].sum(1), back[0].sum(0)
    if len(shape) == 3:
        rows, columns = columns, rows  # volumes store x, the columns of a plane, first
    middle = [float((w * torch.arange(len(w))).sum() / w.sum()) for w in (rows, columns)]
    # The centre of the window lies in that of the image; a pixel is 1.5 native ones.
    centres = [(n - 1) / 2 for n in ((61, 60) if len(shape) == 2 else (60, 61))]
    wanted = [c + 1.5 * (k - 7.5) for c, k in zip(centres, (3.5, 11))]
    assert middle == pytest.approx(wanted, abs=0.8)


def test_no_change_is_none_anywhere():
    grid = case_of((61, 60), (1.0, 1.0)).grid
    assert not CUT.change_to_native(torch.zeros(2, 16, 16), grid).any()
    solid = case_of((30, 31, 33), (1.2, 1.1, 1.0)).grid
    change = torch.full((1, 40, 40, 40), -1.5)
    torch.testing.assert_close(
        SOLID.change_to_native(change, solid), torch.full((1, 30, 31, 33), -1.5)
    )
