import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.errors import AugmintError

UNIT = IntensityMap(low=(0.0,), high=(1.0,))


def make_case(shape, affine=None, *, known=True, mask=True):
    dims = len(shape)
    affine = np.eye(dims + 1) if affine is None else affine
    image = torch.linspace(-1, 1, int(np.prod(shape))).reshape(1, *shape)
    labels = (image[0] > 0).long() if mask else None
    grid = Grid(tuple(shape), affine, known)
    return Case(image, labels, frozenset({1}), grid, UNIT, "case", "patient")


def test_image_and_mask_of_different_shape_are_refused():
    with pytest.raises(AugmintError, match=r"case 'c'.*\(1, 4, 4\).*\(4, 5\).*resample"):
        Case(
            torch.zeros(1, 4, 4),
            torch.zeros(4, 5, dtype=torch.int64),
            frozenset(),
            Grid((4, 4), np.eye(3), False),
            UNIT,
            "c",
            "p",
        )


def test_image_off_its_grid_is_refused():
    with pytest.raises(AugmintError, match="does not lie on its grid"):
        Case(
            torch.zeros(1, 4, 4), None, frozenset(), Grid((4, 5), np.eye(3), False), UNIT, "c", "p"
        )


@pytest.mark.parametrize("spacings", [(1, 1, 8), (8, 1, 1), (1, 8, 1)])
def test_slices_run_along_the_coarsest_axis(spacings):
    case = make_case((3, 4, 5), np.diag([*spacings, 1.0]))
    axis = spacings.index(8)
    slices = list(case.slices())
    assert len(slices) == case.grid.shape[axis]
    assert [s.case_id for s in slices][:2] == ["case#z000", "case#z001"]
    assert slices[0].grid.spacing == (1.0, 1.0)
    assert torch.equal(slices[1].image, case.image.select(axis + 1, 1))
    assert torch.equal(slices[1].mask, case.mask.select(axis, 1))


def test_slices_of_equal_spacing_run_along_the_last_axis():
    assert len(list(make_case((3, 4, 5)).slices())) == 5


def test_unknown_spacing_is_one_pixel_whatever_the_affine_says():
    case = make_case((3, 4, 5), np.diag([9.0, 1, 1, 1]), known=False)
    assert case.grid.spacing == (1.0, 1.0, 1.0)
    assert case.grid.slice_axis == 2


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("spacings", [(1, 1, 8), (8, 1, 1), (1, 8, 1)])
def test_with_slices_puts_a_volume_together_again(spacings, mask):
    case = make_case((3, 4, 5), np.diag([*spacings, 1.0]), mask=mask)
    again = case.with_slices(list(case.slices()))
    assert torch.equal(again.image, case.image)
    assert (again.mask is None) == (not mask)
    assert not mask or torch.equal(again.mask, case.mask)
    assert again.case_id == "case"
    assert again.grid is case.grid


def test_with_slices_refuses_another_number_of_slices():
    case = make_case((3, 4, 5))
    with pytest.raises(AugmintError, match="4 slices given for a volume of 5"):
        case.with_slices(list(case.slices())[:4])


def test_a_frame_is_its_own_only_slice():
    case = make_case((4, 5))
    assert list(case.slices()) == [case]
    assert case.with_slices([case]).case_id == "case"


def test_one_slice_volume_stays_a_volume():
    case = make_case((4, 5, 1), np.diag([1.0, 1, 10, 1]))
    (only,) = case.slices()
    assert only.dims == 2
    assert case.with_slices([only]).grid.shape == (4, 5, 1)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((6, 6, 6), (1.1, 1.0, 1.0), 2),
        ((6, 6, 6), (1.0, 1.4, 1.0), 2),
        ((6, 6, 6), (1.0, 1.6, 1.0), 1),
        ((6, 6, 6), (5.0, 5.0, 1.0), 2),
        ((1, 6, 6), (1.0, 1.0, 8.0), 0),
        ((6, 1, 6), None, 1),
        ((6, 6, 6), None, 2),
    ],
)
def test_only_a_clearly_coarser_axis_or_one_of_length_one_is_not_the_last(shape, spacing, axis):
    affine = np.diag([*(spacing or (9.0, 1, 1)), 1.0])
    assert Grid(shape, affine, spacing is not None).slice_axis == axis
