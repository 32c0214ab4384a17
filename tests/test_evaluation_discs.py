from itertools import product

import numpy as np
import pytest

from augmint.errors import AugmintError
from augmint.evaluation.discs import (
    NUM_DISCS,
    ApicalView,
    biplane_volume,
    find_long_axis,
    measure_view,
    single_plane_volume,
)

LONG, CUT = 50.0, 0.5
LENGTH = LONG * (1 + CUT)


def plane(shape, spacing):
    """mm of every pixel from the middle of the frame."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
    return np.meshgrid(*axes, indexing="ij")


def left_heart(half=20.0, *, spacing=(0.5, 0.5), turn=0.0, cut=CUT, slant=0.0, length=LONG):
    """An ellipse of semi-axes `length` and `half` cut at the base, with wall and atrium.

    `turn` is the angle of the axis from straight down, `slant` that of the base, in degrees.
    """
    shape = tuple(int(170 / s) for s in spacing)
    y, x = plane(shape, spacing)
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    along, across = y * c + x * s, x * c - y * s
    below = along + across * np.tan(np.deg2rad(slant)) > cut * length
    level = np.hypot(along / length, across / half)
    wall = np.hypot(along / (length + 8), across / (half + 8))
    cavity = (level < 1) & ~below
    myocardium = (wall < 1) & ~below & ~cavity
    wide = 0.8 * half * np.sqrt(1 - min(cut, 0.99) ** 2)
    atrium = below & (np.abs(across) < wide) & (along < cut * length + 25)
    return cavity, myocardium, atrium


def truncated_volume(one, other, *, cut=CUT, length=LONG):
    """mm^3 of an ellipsoid of semi-axes length, one, other from apex to `cut`."""
    return np.pi * one * other * length * (cut - cut**3 / 3 + 2 / 3)


@pytest.mark.parametrize(("one", "other"), [(20, 20), (16, 25)])
def test_a_truncated_ellipsoid_has_its_closed_form_volume(one, other):
    two, four = (measure_view(left_heart(half)[0], spacing=(0.5, 0.5)) for half in (one, other))
    assert two.length == pytest.approx(LENGTH, rel=0.01)
    assert biplane_volume(two, four) == pytest.approx(truncated_volume(one, other), rel=0.01)


def test_a_whole_ellipsoid_has_its_closed_form_volume():
    view = measure_view(left_heart(cut=2.0)[0], spacing=(0.5, 0.5))
    assert single_plane_volume(view) == pytest.approx(4 / 3 * np.pi * 20**2 * LONG, rel=0.02)


def test_a_cone_is_twenty_discs_that_shrink_evenly_from_base_to_apex():
    y, x = plane((200, 140), (0.5, 0.5))
    cavity = np.abs(x) < (40 + y) * 20 / 80
    cavity &= (y > -40) & (y < 40)
    view = measure_view(cavity, spacing=(0.5, 0.5))
    assert len(view.diameters) == NUM_DISCS
    np.testing.assert_allclose(view.diameters, np.arange(39, 0, -2), atol=0.6)
    assert single_plane_volume(view) == pytest.approx(np.pi * 20**2 * 80 / 3, rel=0.02)


@pytest.mark.parametrize("base", ["shape", "atrium", "myocardium"])
@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.3, 0.9), (0.9, 0.3)])
@pytest.mark.parametrize("turn", [-200, -37, 0, 20, 90])
def test_volume_survives_rotation_and_anisotropic_pixels(base, spacing, turn):
    cavity, myocardium, atrium = left_heart(spacing=spacing, turn=turn)
    known = {"shape": {}, "atrium": {"atrium": atrium}, "myocardium": {"myocardium": myocardium}}
    view = measure_view(cavity, spacing=spacing, **known[base])
    assert view.length == pytest.approx(LENGTH, rel=0.02)
    assert single_plane_volume(view) == pytest.approx(truncated_volume(20, 20), rel=0.015)


@pytest.mark.parametrize("base", ["shape", "atrium", "myocardium"])
@pytest.mark.parametrize("slant", [-15, 15])
def test_the_axis_runs_from_the_middle_of_a_slanting_base_to_the_apex(base, slant):
    cavity, myocardium, atrium = left_heart(spacing=(0.3, 0.6), slant=slant)
    known = {"shape": {}, "atrium": {"atrium": atrium}, "myocardium": {"myocardium": myocardium}}
    axis = find_long_axis(cavity, spacing=(0.3, 0.6), **known[base])
    middle = (np.array(cavity.shape) - 1) / 2 * [0.3, 0.6]
    np.testing.assert_allclose(np.array(axis.apex) - middle, [-LONG, 0], atol=3)
    np.testing.assert_allclose(np.array(axis.base) - middle, [CUT * LONG, 0], atol=2.5)


def test_the_wider_end_is_the_base_whichever_way_the_picture_lies():
    cavity = left_heart(turn=10)[0]
    up, down = (find_long_axis(m, spacing=(0.5, 0.5)) for m in (cavity[::-1], cavity))
    assert down.base[0] > down.apex[0]
    assert up.base[0] < up.apex[0]
    assert up.length == pytest.approx(down.length)


@pytest.mark.parametrize("spacing", [(0.3, 0.7), (0.6, 0.6)])
def test_volume_scales_with_the_cube_of_the_unit(spacing):
    cavity = left_heart(spacing=(0.5, 0.5), turn=15)[0]
    here, there = (
        single_plane_volume(measure_view(cavity, spacing=[s * k for s in spacing])) for k in (1, 3)
    )
    assert there == pytest.approx(27 * here)


def test_biplane_takes_the_longer_axis_and_pairs_discs_from_the_base():
    one = ApicalView(80.0, tuple(float(d) for d in range(20, 0, -1)))
    other = ApicalView(70.0, (10.0,) * 20)
    assert biplane_volume(one, other) == pytest.approx(np.pi / 4 * 210 * 10 * 80 / 20)
    assert biplane_volume(other, one) == biplane_volume(one, other)
    assert biplane_volume(one, other, length=40) == pytest.approx(biplane_volume(one, other) / 2)
    squares = sum(d**2 for d in one.diameters)
    assert single_plane_volume(one) == pytest.approx(np.pi / 4 * squares * 80 / 20)
    with pytest.raises(AugmintError, match="paired"):
        biplane_volume(one, ApicalView(70.0, (10.0,) * 10))


def test_of_several_parts_the_largest_is_measured_and_the_rest_is_told():
    cavity = left_heart()[0]
    speckled = cavity.copy()
    speckled[2:8, 2:12] = True
    clean, view = (measure_view(m, spacing=(0.5, 0.5)) for m in (cavity, speckled))
    assert clean.apart == 0
    assert view.apart == pytest.approx(60 / speckled.sum())
    assert (view.length, view.diameters) == (clean.length, clean.diameters)


@pytest.mark.parametrize("side", [2, 3, 5])
def test_small_masks_are_measured_without_a_fault(side):
    for height, turned in product((2, 3, 9), (False, True)):
        cavity = np.zeros((12, 12), bool)
        cavity[1 : 1 + height, 1 : 1 + side] = True
        view = measure_view(cavity.T if turned else cavity, spacing=(0.4, 1.0))
        assert np.isfinite(view.diameters).all()
        assert 0 < single_plane_volume(view) < 400


@pytest.mark.parametrize(
    ("points", "words"), [([], "empty"), ([(3, 3)], r"1 pixel"), ([(3, 3), (3, 4)], r"2 pixel")]
)
def test_an_empty_or_tiny_cavity_is_an_error(points, words):
    cavity = np.zeros((8, 8), bool)
    for point in points:
        cavity[point] = True
    with pytest.raises(AugmintError, match=words):
        measure_view(cavity, spacing=(1, 1))


def test_a_base_that_cannot_be_found_is_an_error_not_a_guess():
    cavity, _, atrium = left_heart()
    away = np.roll(atrium, 30, axis=0)
    for wrong in (away, np.zeros_like(atrium)):
        with pytest.raises(AugmintError, match="does not touch the LV cavity"):
            measure_view(cavity, spacing=(0.5, 0.5), atrium=wrong)
    for wrong in (~cavity, np.zeros_like(atrium)):
        with pytest.raises(AugmintError, match="leaves no opening"):
            measure_view(cavity, spacing=(0.5, 0.5), myocardium=wrong)
    with pytest.raises(AugmintError, match="differ in shape"):
        measure_view(cavity, spacing=(0.5, 0.5), atrium=atrium[1:])


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, np.nan), (1.0, 1.0, 1.0)])
def test_spacings_must_fit_the_frame(spacing):
    with pytest.raises(AugmintError, match="two spacings above 0"):
        measure_view(left_heart()[0], spacing=spacing)
