import numpy as np
import pytest
import torch

from augmint.imaging.intensity import fit_intensity


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("modality", ["MR", "CT", "ultrasound", ""])
def test_values_inside_the_range_survive_a_round_trip(dtype, modality):
    high = 200 if modality != "CT" else 250
    stored = np.linspace(0, high, 64).astype(dtype).reshape(1, 8, 8)
    fitted = fit_intensity(stored, modality)
    inside = (stored >= fitted.low[0]) & (stored <= fitted.high[0])
    again = fitted.to_stored(fitted.to_unit(stored))
    assert inside.sum() >= 60
    assert again.dtype == stored.dtype
    if np.dtype(dtype).kind in "iu":
        assert np.array_equal(again[inside], stored[inside])
    else:
        assert np.allclose(again[inside], stored[inside], atol=1e-4)


def test_percentiles_are_taken_per_channel():
    ramp = np.arange(1001, dtype=np.float32)
    fitted = fit_intensity(np.stack([ramp, 10 * ramp])[:, None], "MR")
    assert fitted.low == pytest.approx((5, 50))
    assert fitted.high == pytest.approx((995, 9950))


def test_ct_has_a_fixed_window():
    stored = np.array([[[-1000, -175], [275, 3000]]], dtype=np.int16)
    fitted = fit_intensity(stored, "CT")
    assert fitted.to_unit(stored).flatten().tolist() == [-1, -1, 1, 1]
    assert fit_intensity(stored, "CT", window=(-1000, 3000)).low == (-1000.0,)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("modality", ["MR", "CT", "ultrasound", ""])
def test_a_constant_image_has_an_invertible_map(value, modality):
    stored = np.full((1, 4, 4), value, dtype=np.uint8)
    fitted = fit_intensity(stored, modality)
    unit = fitted.to_unit(stored)
    assert torch.isfinite(unit).all()
    assert np.array_equal(fitted.to_stored(unit), stored)


def test_a_huge_constant_has_an_invertible_map():
    stored = np.full((1, 4, 4), 1e20)
    fitted = fit_intensity(stored, "MR")
    assert fitted.low[0] < fitted.high[0]
    assert np.array_equal(fitted.to_stored(fitted.to_unit(stored)), stored)


def test_an_almost_constant_image_is_scaled_between_its_extremes():
    stored = np.zeros((1, 100, 100), dtype=np.uint8)
    stored[0, 0, 0] = 90
    fitted = fit_intensity(stored, "MR")
    assert (fitted.low, fitted.high) == ((0.0,), (90.0,))


def test_black_of_ultrasound_is_exactly_minus_one():
    stored = np.zeros((1, 20, 20), dtype=np.uint8)
    stored[0, 5:15] = np.arange(200, dtype=np.uint8).reshape(10, 20)
    fitted = fit_intensity(stored, "ultrasound")
    unit = fitted.to_unit(stored)
    assert (unit[0, :5] == -1).all()
    assert (fitted.to_stored(unit)[0, :5] == 0).all()


def test_ultrasound_never_black_keeps_its_grey():
    stored = np.full((1, 20, 20), 3, dtype=np.uint8)
    stored[0, 5:15] = 100
    fitted = fit_intensity(stored, "ultrasound")
    assert fitted.low == (0.0,)
    assert fitted.to_stored(fitted.to_unit(stored)).min() == 3


def test_percentiles_must_increase():
    with pytest.raises(ValueError, match="percentiles must increase"):
        fit_intensity(np.zeros((1, 4, 4)), "MR", percentiles=(99, 1))
