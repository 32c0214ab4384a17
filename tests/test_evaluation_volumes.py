import numpy as np
import pytest

from augmint.case import Grid
from augmint.errors import AugmintError
from augmint.evaluation.volumes import ejection_fraction, measure_cavity, stack_volume


def test_a_stack_is_voxels_times_voxel_volume():
    cavity = np.zeros((4, 5, 6), bool)
    cavity[1:3, 1:4, 2:4] = True
    assert stack_volume(cavity, spacing=(1.5, 1.5, 10)) == pytest.approx(12 * 22.5)


@pytest.mark.parametrize("spacing", [(1.4, 1.4, 5), (0.8, 1.6, 8), (5, 1.2, 1.2)])
def test_a_stack_through_an_ellipsoid_has_its_volume(spacing):
    axes = [(np.arange(int(110 / s)) + 0.5) * s - 55 for s in spacing]
    grid = np.meshgrid(*axes, indexing="ij")
    cavity = sum((x / r) ** 2 for x, r in zip(grid, (24, 30, 45))) < 1
    true = 4 / 3 * np.pi * 24 * 30 * 45
    assert stack_volume(cavity, spacing=spacing) == pytest.approx(true, rel=0.01)


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        ((4, 4, 4), (1, 1, 1), "empty"),
        ((4, 4), (1, 1), "measure_view"),
        ((4, 4, 4), (1, 1), "three spacings"),
        ((4, 4, 4), (1, 1, 0), "three spacings"),
    ],
)
def test_a_stack_that_cannot_be_measured_is_an_error(shape, spacing, words):
    with pytest.raises(AugmintError, match=words):
        stack_volume(np.zeros(shape, bool), spacing=spacing)


def test_ejection_fraction_is_a_percentage_of_the_edv():
    assert ejection_fraction(120, 48) == pytest.approx(60)
    assert ejection_fraction(120e6, 48e6) == pytest.approx(60)
    assert ejection_fraction(50, 60) == pytest.approx(-20)
    for volumes in ((0, 0), (-1, 0), (50, -1), (float("nan"), 5)):
        with pytest.raises(AugmintError, match="EDV above 0"):
            ejection_fraction(*volumes)


def grid_of(shape, spacing):
    return Grid(shape, np.diag([*spacing, 1.0]), True)


def test_a_case_that_cannot_be_measured_says_why_and_names_itself():
    found = measure_cavity("p1_ED", np.zeros((4, 4, 4), bool), grid_of((4, 4, 4), (1, 1, 1)), "")
    assert found.volume is None
    assert found.view is None
    assert "'p1_ED'" in found.fault
    assert "empty" in found.fault


def test_a_stack_has_a_volume_and_a_frame_has_discs():
    stack = measure_cavity("a", np.ones((3, 4, 5), bool), grid_of((3, 4, 5), (8, 1, 1)), "SAX")
    assert (stack.volume, stack.view, stack.fault) == (480, None, "")
    frame = measure_cavity("b", np.ones((20, 10), bool), grid_of((20, 10), (1, 1)), "4CH")
    assert frame.volume is None
    assert len(frame.view.diameters) == 20


def test_a_frame_without_a_view_is_an_error():
    with pytest.raises(AugmintError, match="name the view"):
        measure_cavity("a", np.ones((5, 5), bool), grid_of((5, 5), (1, 1)), "")
