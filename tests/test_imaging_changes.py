"""Changes on the window, brought to the stored image."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from augmint.case import Grid
from augmint.imaging.changes import change_taper, mean_curve, native_change, same_curve
from augmint.imaging.working import WorkingGrid


def test_a_curve_reaches_pixels_outside_the_window_and_leaves_black():
    before = torch.tensor([-0.5, 0.0, 0.5])
    image = torch.tensor([-1.0, -0.5, 0.25, 0.9])
    # Half way between two pixels half of both moves; beyond the last, as much as that one.
    found = same_curve(before, before + torch.tensor([0.1, 0.2, 0.4]), image)
    assert found.tolist() == pytest.approx([-1.0, -0.4, 0.55, 1.0])


def test_a_mean_curve_is_found_beneath_noise():
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(1, 64, 64, generator=generator) * 1.2 - 0.6
    planted = before**3 + 0.2
    noise = 0.05 * torch.randn(before.shape, generator=generator)
    before[0, 0] = -1  # where nothing was recorded
    curve = mean_curve(before, planted + noise)
    image = torch.tensor([-1.0, -0.4, 0.0, 0.4, 0.9])
    wanted = [-1.0, -(0.4**3) + 0.2, 0.2, 0.4**3 + 0.2]
    found = curve(image).tolist()
    assert found[:4] == pytest.approx(wanted, abs=0.03)
    # Beyond the brightest pixel it moves as far as that one.
    assert found[4] == pytest.approx(0.9 + 0.6**3 + 0.2 - 0.6, abs=0.05)


def test_a_mean_curve_of_nothing_recorded_changes_nothing():
    image = torch.linspace(-1, 1, 9)
    assert torch.equal(mean_curve(torch.full((1, 4, 4), -1.0), torch.zeros(1, 4, 4))(image), image)


def test_a_change_of_the_window_lies_where_it_was_made():
    grid = WorkingGrid(2, (40, 40), (24, 24), longest=40)
    change = torch.zeros(1, 24, 24)
    change[0, 11:13, 11:13] = 1.5
    found = native_change(change, Grid((80, 80), np.eye(3), False), grid)[0]
    assert found.shape == (80, 80)
    assert found[39:41, 39:41].flatten().tolist() == pytest.approx([1.5] * 4)
    assert not found[:36].any()
    assert not found[:, 44:].any()


def test_slices_of_a_volume_change_each_on_its_own():
    grid = WorkingGrid(2, (8, 8), (8, 8), longest=8)
    change = torch.zeros(1, 8, 8, 3)
    change[..., 1] = 0.5
    found = native_change(change, Grid((8, 8, 3), np.diag([1.0, 1, 5, 1]), True), grid)
    assert found.shape == (1, 8, 8, 3)
    assert torch.allclose(found[..., 1], torch.tensor(0.5))
    assert not found[..., (0, 2)].any()


def test_a_change_is_whole_where_the_window_holds_the_frame():
    assert torch.equal(change_taper((8, 10), (8, 6)), torch.ones(8, 10))
    assert torch.equal(change_taper((4, 4, 4), (2, 4, 3)), torch.ones(4, 4, 4))


def test_a_change_fades_at_sides_that_cut_through_the_frame():
    weight = change_taper((20, 9), (30, 9), width=4)
    assert torch.equal(weight, weight[:, :1].expand(20, 9))
    profile = weight[:, 0]
    assert torch.equal(profile, profile.flip(0))
    wanted = [0.5 - 0.5 * math.cos(math.pi * (k + 0.5) / 4) for k in range(4)]
    assert profile[:4].tolist() == pytest.approx(wanted)
    assert (profile[4:16] == 1).all()
    assert all(a < b for a, b in pairwise(profile[:5].tolist()))


def test_a_corner_fades_along_both_sides():
    one, other = change_taper((12, 12), (20, 12)), change_taper((12, 12), (12, 20))
    torch.testing.assert_close(change_taper((12, 12), (20, 20)), one * other)
