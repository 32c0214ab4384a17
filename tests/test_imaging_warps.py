from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.errors import AugmintError
from augmint.imaging.warps import WarpRange, random_warp, warp_case, warp_image, warp_mask

STILL = WarpRange(rotation_deg=0, scale=0, shift=0, elastic=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blob(shape, centre, radius):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre)) < radius**2


@pytest.mark.parametrize(
    ("canvas", "window"), [((16, 16), (8, 12)), ((15, 17), (9, 5)), ((8, 10, 12), (4, 6, 12))]
)
def test_no_range_is_a_centre_crop(canvas, window):
    image = torch.rand(2, 3, *canvas, generator=seeded()) * 2 - 1
    mask = torch.randint(3, (2, *canvas), generator=seeded())
    grid = random_warp(STILL, 2, canvas, window, seeded())
    assert grid.shape == (2, *window, len(window))
    cut = tuple(slice((c - w) // 2, (c - w) // 2 + w) for c, w in zip(canvas, window))
    torch.testing.assert_close(warp_image(image, grid), image[:, :, *cut], atol=1e-5, rtol=0)
    assert torch.equal(warp_mask(mask, grid, 3), mask[:, *cut])


def test_one_seed_one_warp_and_every_draw_its_own():
    arguments = (WarpRange(), 2, (16, 16), (16, 16))
    one, same, other = (random_warp(*arguments, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])


@pytest.mark.parametrize("shape", [(48, 40), (20, 24, 28)])
def test_image_and_mask_stay_registered(shape):
    inside = blob(shape, [n / 2 - 2 for n in shape], min(shape) / 4)
    image = inside.float()[None, None] * 1.6 - 0.8
    grid = random_warp(WarpRange().scaled(1.5), 4, shape, shape, seeded(3))
    warped = warp_image(image.expand(4, *image.shape[1:]), grid)[:, 0] > 0
    masks = warp_mask(inside.long().expand(4, *shape), grid, 2) == 1
    for w, m in zip(warped, masks):
        # Frames are interpolated by cubics and masks linearly: they part by less than a pixel.
        assert 2 * int((w & m).sum()) > 0.98 * int(w.sum() + m.sum())
        centres = w.nonzero().double().mean(0), m.nonzero().double().mean(0)
        torch.testing.assert_close(*centres, atol=0.1, rtol=0)
        assert int(m.sum()) > 50
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("seed", range(4))
def test_image_and_mask_turn_the_same_way_and_as_far_as_asked(seed):
    arm = torch.zeros(1, 65, 65, dtype=torch.long)
    arm[0, 30:35, 32:60] = 1
    turn = WarpRange(rotation_deg=40, scale=0, shift=0, elastic=0)
    grid = random_warp(turn, 1, (65, 65), (65, 65), seeded(seed))
    mask = warp_mask(arm, grid, 2)[0]
    image = warp_image(arm[:, None].float() * 2 - 1, grid)[0, 0]

    def angle(weight):
        weight = weight.double()
        rows, columns = (torch.arange(65) - 32.0 for _ in range(2))
        y, x = (weight * rows[:, None]).sum(), (weight * columns[None]).sum()
        return float(torch.rad2deg(torch.atan2(y, x)))

    assert angle(mask) == pytest.approx(angle(image + 1), abs=0.5)
    drawn = float(torch.rand(1, 3, generator=seeded(seed))[0, 0] * 2 - 1) * 40
    assert abs(angle(mask)) == pytest.approx(abs(drawn), abs=1)
    assert int(mask.sum()) == pytest.approx(int(arm.sum()), rel=0.05)


def test_sizes_stay_in_their_range():
    disc = blob((64, 64), (31.5, 31.5), 12).long()
    grid = random_warp(
        WarpRange(rotation_deg=0, scale=0.3, shift=0, elastic=0), 50, (64, 64), (64, 64), seeded()
    )
    areas = (warp_mask(disc.expand(50, 64, 64), grid, 2) == 1).flatten(1).sum(1) / int(disc.sum())
    most = 1.3 ** (2 * 1.3)
    assert float(areas.max()) < most * 1.05
    assert float(areas.min()) > 1 / most * 0.95
    assert float(areas.max()) > 1.3
    assert float(areas.min()) < 1 / 1.3


def test_outside_the_canvas_is_black_and_background():
    image, mask = torch.ones(1, 1, 8, 8), torch.ones(1, 8, 8, dtype=torch.long)
    grid = random_warp(STILL, 1, (8, 8), (16, 16), seeded())
    out, labels = warp_image(image, grid)[0, 0], warp_mask(mask, grid, 3)[0]
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[4:12, 4:12] = False
    assert bool((out[outside] == -1).all())
    assert bool((labels[outside] == 0).all())
    assert bool((out[~outside] == 1).all())
    assert bool((labels[~outside] == 1).all())


def test_strength_scales_every_range():
    half, none = WarpRange().scaled(0.5), WarpRange().scaled(0)
    assert half.rotation_deg == WarpRange().rotation_deg / 2
    assert half.elastic == WarpRange().elastic / 2
    whole = random_warp(none, 1, (8, 8), (8, 8), seeded(1))
    torch.testing.assert_close(whole, random_warp(STILL, 1, (8, 8), (8, 8), seeded(2)))


def test_elastic_warps_of_moderate_strength_do_not_fold():
    grid = random_warp(WarpRange(), 8, (64, 64), (64, 64), seeded(5))
    along_y = grid[:, 1:, :-1] - grid[:, :-1, :-1]
    along_x = grid[:, :-1, 1:] - grid[:, :-1, :-1]
    jacobian = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    assert float((jacobian > 0).float().mean()) == 1


def labelled(shape):
    mask = blob(shape, [n / 2 for n in shape], 5).long()
    grid = Grid(shape, np.eye(len(shape) + 1), False)
    image = mask[None].float() - 0.5
    return Case(image, mask, frozenset({1}), grid, IntensityMap((0.0,), (1.0,)), "a", "a")


@pytest.mark.parametrize(
    ("shape", "window"), [((20, 20), (16, 12)), ((20, 20, 6), (16, 12)), ((20,) * 3, (16, 12, 8))]
)
def test_a_whole_case_is_moved_by_the_one_warp_of_its_seed(shape, window):
    case = labelled(shape)
    moved = warp_case(case, WarpRange(), window, 2, seeded(1))
    assert moved.grid.shape == (*window, *shape[len(window) :])
    grid = random_warp(WarpRange(), 1, shape[: len(window)], window, seeded(1))
    for part in [...] if case.dims == len(window) else [(..., z) for z in range(shape[-1])]:
        image = warp_image(case.image[part][None], grid)[0]
        torch.testing.assert_close(moved.image[part], image)
        assert torch.equal(moved.mask[part], warp_mask(case.mask[part][None], grid, 2)[0])
    still = warp_case(case, STILL, window, 2, seeded(1))
    assert not torch.equal(moved.mask, still.mask)


def test_a_blank_case_has_the_same_mask_and_an_image_to_be_made():
    case = labelled((20, 20, 3))
    full = warp_case(case, WarpRange(), (16, 16), 2, seeded())
    blank = warp_case(case, WarpRange(), (16, 16), 2, seeded(), blank=True)
    assert torch.equal(blank.mask, full.mask)
    assert blank.image.shape == full.image.shape
    assert not blank.image.any()


def test_a_case_without_a_mask_is_not_warped():
    bare = replace(labelled((20, 20)), mask=None)
    with pytest.raises(AugmintError, match=r"case 'a' has no mask; .*give labelled cases"):
        warp_case(bare, WarpRange(), (16, 16), 2, seeded())
