"""Strengths by hand-computed figures."""

import json
import math
from itertools import pairwise

import pytest
import torch

from augmint.errors import AugmintError
from augmint.imaging.style import Style
from augmint.methods.shift_strength import (
    LEVELS,
    Calibration,
    largest_strength,
    limit_of,
    load_calibration,
    save_calibration,
    source_errors,
)

STYLE = Style(torch.linspace(-1, 1, 8).reshape(1, 8), torch.randn(1, 4, 4))


def calibration(**changes):
    """Errors of source patients are e^0 = 1 at every level, give or take 10 %."""
    facts = {
        "mean": (0.0,) * 5, "deviation": (0.1,) * 5, "limit": 2.0,
        "strengths": {"sdedit": 0.3}, "movement": {"sdedit": {"0.1": 0.2, "0.3": 0.4, "0.5": 0.9}},
        "patients": ("a", "b", "c"), "style": STYLE,
    }  # fmt: skip
    return Calibration(**{**facts, **changes})


def errors(*deviations):
    return [math.exp(0.1 * z) for z in deviations]


def test_deviations_by_hand():
    found = calibration().deviations(errors(0, 1, -1, 2.5, -3))
    assert found == pytest.approx([0, 1, -1, 2.5, -3])


@pytest.mark.parametrize(
    ("deviations", "strength"),
    [
        ((0, 0, 0, 0, 0), 0.0),
        ((1.9, -1.9, 1.9, -1.9, 1.9), 0.0),
        ((2.1, 0, 0, 0, 0), 0.2),
        ((-2.1, 0, 0, 0, 0), 0.2),
        # The least level from which on nothing differs, whatever lies before it.
        ((0, 3, 0, 0, 0), 0.3),
        ((3, 0, 3, 0, 0), 0.4),
        ((9, 9, 9, 9, 0), 0.5),
        ((9, 9, 9, 9, 9), 0.5),
        ((0, 0, 0, 0, 9), 0.5),
    ],
)
def test_the_strength_is_the_least_level_from_which_on_nothing_differs(deviations, strength):
    assert calibration().strength_for(errors(*deviations), 1.0) == strength


def test_the_strength_is_capped():
    assert calibration().strength_for(errors(9, 9, 9, 9, 9), 0.25) == 0.25
    assert calibration().strength_for(errors(9, 0, 0, 0, 0), 0.25) == 0.2
    assert calibration().strength_for(errors(0, 0, 0, 0, 0), 0.25) == 0.0


@pytest.mark.parametrize(
    ("patients", "student"), [(2, 12.7062), (3, 4.3027), (12, 2.2010), (31, 2.0423)]
)
def test_the_limit_is_that_of_a_prediction_interval(patients, student):
    assert limit_of(patients) == pytest.approx(student * math.sqrt(1 + 1 / patients), rel=1e-4)


def test_a_further_patient_lies_within_the_limit_as_often_as_promised():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(20_000, 7, generator=generator, dtype=torch.float64)
    known, new = drawn[:, :6], drawn[:, 6]
    inside = (new - known.mean(1)).abs() <= limit_of(6) * known.std(1)
    assert float(inside.double().mean()) == pytest.approx(0.95, abs=0.005)


def test_source_errors_by_hand():
    mean, deviation, limit = source_errors([[1.0, math.e], [math.e**2, math.e]])
    assert mean == pytest.approx([1, 1])
    assert deviation == pytest.approx([2**0.5, 0])
    assert limit == limit_of(2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "got 0; give more training patients"),
        ([[1.0] * 5], "2 source patients or more .* got 1; give more"),
        ([[1.0] * 5, [float("nan")] * 5], "not finite numbers above 0"),
        ([[1.0] * 5, [0.0] * 5], "not finite numbers above 0"),
    ],
)
def test_too_few_or_broken_errors_are_refused(given, message):
    with pytest.raises(AugmintError, match=message):
        source_errors(given)


@pytest.mark.parametrize(
    ("movement", "largest"),
    [
        ({}, 0.0),
        ({0.1: 0.6}, 0.0),
        ({0.1: 0.5}, 0.1),
        ({0.1: 0.1, 0.2: 0.3, 0.3: 0.51, 0.4: 0.2}, 0.2),
        ({0.3: 0.3, 0.1: 0.1, 0.2: 0.2}, 0.3),
        ({0.1: 0.1, 0.2: float("nan"), 0.3: 0.1}, 0.1),
        ({0.1: float("nan")}, 0.0),
    ],
)
def test_the_largest_strength_stops_at_the_first_excess(movement, largest):
    assert largest_strength(movement, 0.5) == largest


def test_a_calibration_bounds_strengths_by_what_is_allowed():
    found = calibration()
    assert [found.largest("sdedit", m) for m in (0.1, 0.2, 0.5, 1.0)] == [0, 0.1, 0.3, 0.5]
    with pytest.raises(AugmintError, match="energy was not calibrated, only sdedit; choose"):
        found.largest("energy", 0.5)


def test_what_is_saved_is_loaded(tmp_path):
    before = calibration()
    save_calibration(tmp_path / "c", before)
    after = load_calibration(tmp_path / "c")
    for name in ("mean", "deviation", "limit", "strengths", "movement", "patients"):
        assert getattr(after, name) == getattr(before, name)
    assert torch.equal(after.style.quantiles, before.style.quantiles)
    assert torch.equal(after.style.amplitude, before.style.amplitude)
    # Of a method without a network there are no errors.
    save_calibration(tmp_path / "d", calibration(mean=(), deviation=()))
    assert load_calibration(tmp_path / "d").mean == ()


def test_a_damaged_calibration_is_named(tmp_path):
    save_calibration(tmp_path / "c", calibration())
    (tmp_path / "c" / "config.json").write_text("{}")
    with pytest.raises(AugmintError, match="fit again"):
        load_calibration(tmp_path / "c")
    with pytest.raises(AugmintError, match="fit again"):
        load_calibration(tmp_path / "nothing")


def test_levels_rise_within_a_walk():
    assert all(0 < a < b < 1 for a, b in pairwise(LEVELS))


@pytest.mark.parametrize(
    ("deviations", "strength", "left"),
    [
        ((0, 0, 0, 0, 0), 0.0, False),
        ((3, 0, 0, 0, 0), 0.0, True),
        # A walk reaches what noise of its level hides: what is seen at that level or above stays.
        ((3, 0, 0, 0, 0), 0.2, False),
        ((3, 3, 0, 0, 0), 0.2, True),
        ((-3, -3, -3, -3, 0), 0.5, False),
        ((0, 0, 0, 0, -3), 0.5, True),
    ],
)
def test_what_a_shift_leaves(deviations, strength, left):
    found = calibration()
    assert found.still_foreign(errors(*deviations), strength) == left
    needed = found.strength_for(errors(*deviations), 1.0)
    if needed and deviations[-1] == 0:
        assert not found.still_foreign(errors(*deviations), needed)


@pytest.mark.parametrize("broken", [math.nan, math.inf, 0.0])
def test_errors_that_are_no_numbers_do_not_look_like_the_source(broken):
    with pytest.raises(AugmintError, match=r"must be finite numbers above 0.*fit again"):
        calibration().strength_for([1.0, 1.0, broken, 1.0, 1.0], 0.5)


def test_patients_who_are_copies_are_refused():
    with pytest.raises(AugmintError, match="look exactly alike"):
        source_errors([[0.5] * 5] * 3)


def test_movement_that_nobody_could_measure_is_null_on_disk(tmp_path):
    movement = {"sdedit": {"0.1": 0.2, "0.2": math.nan}}
    save_calibration(tmp_path / "c", calibration(movement=movement, networks={"image": "abc"}))
    text = (tmp_path / "c" / "config.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["movement"] == {"sdedit": {"0.1": 0.2, "0.2": None}}
    found = load_calibration(tmp_path / "c")
    assert math.isnan(found.movement["sdedit"]["0.2"])
    assert found.largest("sdedit", 0.5) == 0.1
    assert found.networks == {"image": "abc"}
