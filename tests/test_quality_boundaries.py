"""Movements of contours, computed by hand."""

import numpy as np
import pytest

from augmint.quality.boundaries import boundary_movement

LABELS = {"background": 0, "ring": 1, "pool": 2}


def square(row, column, *, side=3, value=1, size=12):
    plane = np.zeros((size, size), np.int64)
    plane[row : row + side, column : column + side] = value
    return plane


def moved(before, after, **options):
    return boundary_movement(np.stack(before), np.stack(after), LABELS, **options)


def test_what_stays_does_not_move():
    plane = square(2, 3)
    assert moved([plane], [plane]) == {"ring": 0.0}


def test_a_square_moved_by_one_pixel():
    # Of the 8 contour pixels of each, the 3 that lead and, behind, the one whose place is now
    # inside the other are 1 away; the other 4 lie on the other's contour.
    assert moved([square(2, 3)], [square(3, 3)]) == {"ring": pytest.approx(0.5)}


def test_a_line_moved_by_one_pixel():
    before, after = np.zeros((6, 6), np.int64), np.zeros((6, 6), np.int64)
    before[2], after[3] = 2, 2
    assert moved([before], [after]) == {"pool": 1.0}
    assert moved([before], [after], spacing=(2.5, 1.0)) == {"pool": 2.5}
    assert moved([before], [after], spacing=(1.0, 2.5)) == {"pool": 1.0}
    assert moved([before.T], [after.T], spacing=(1.0, 2.5)) == {"pool": 2.5}


def test_a_contour_that_is_gone_has_moved_to_its_centre():
    nothing = np.zeros((12, 12), np.int64)
    # A square of 3: four pixels of its contour are 1 from the centre, four sqrt(2).
    expected = (4 + 4 * 2**0.5) / 8
    for pair in (([square(2, 3)], [nothing]), ([nothing], [square(2, 3)])):
        assert moved(*pair) == {"ring": pytest.approx(expected)}
    assert moved([square(2, 3)], [nothing], spacing=(2.0, 2.0)) == {
        "ring": pytest.approx(2 * expected)
    }


def test_a_vanished_disc_counts_about_its_radius():
    rows, columns = np.mgrid[:40, :40] - 20
    disc = (np.hypot(rows, columns) < 10).astype(np.int64)
    assert moved([disc], [0 * disc])["ring"] == pytest.approx(9.5, abs=0.3)


def test_labels_that_neither_shows_are_left_out():
    assert moved([square(2, 3, value=2)], [square(2, 3, value=2)]).keys() == {"pool"}
    assert moved([np.zeros((4, 4), np.int64)], [np.zeros((4, 4), np.int64)]) == {}
    assert boundary_movement(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), LABELS) == {}


def test_contours_are_compared_plane_by_plane_and_weigh_by_their_length():
    still, gone, line = square(2, 3), np.zeros((12, 12), np.int64), np.zeros((12, 12), np.int64)
    line[5] = 1
    # 16 contour pixels stay, a line of 12 and its twin of 12 moved by one.
    found = moved([still, line, gone], [still, np.roll(line, 1, 0), gone])
    assert found == {"ring": pytest.approx(24 / (16 + 24))}
    # Across planes nothing is near: an object that changes its plane is gone in both.
    swapped = moved([still, gone], [gone, still])
    assert swapped == {"ring": pytest.approx((4 + 4 * 2**0.5) / 8)}


def test_each_label_moves_by_itself():
    before = square(1, 1) + square(6, 6, value=2)
    after = square(1, 1) + square(7, 6, value=2)
    assert moved([before], [after]) == {"ring": 0.0, "pool": pytest.approx(0.5)}


def test_solids_are_compared_in_space():
    before, after = np.zeros((1, 6, 6, 6), np.int64), np.zeros((1, 6, 6, 6), np.int64)
    before[0, 2], after[0, 3] = 1, 1
    assert boundary_movement(before, after, LABELS, spacing=(1.5, 1, 1)) == {"ring": 1.5}


def test_planes_must_pair():
    plane = square(2, 3)
    with pytest.raises(ValueError, match="shorter"):
        moved([plane, plane], [plane])
