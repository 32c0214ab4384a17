from dataclasses import replace

import numpy as np
import pytest

from augmint.evaluation.variance import Components, Size, variance_components
from simulated_arms import simulated

NONE = Components(0.0, 0.0, 0.0, 0.0, 0.0)


def test_components_are_unbiased_where_none_is_cut_at_zero():
    truth = Components(4.0, 3.0, 2.0, 1.5, 1.0)
    studies = simulated(truth, Size(12, 4, 20), 300, 8)
    found = [variance_components(d) for d in studies]
    for name in ("draw", "seed", "patient", "draw_patient", "noise"):
        values = [getattr(c, name) for c in found]
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(getattr(truth, name), abs=4 * error)


def test_components_of_small_studies_keep_what_they_can_tell():
    one_draw = simulated(Components(0, 3.0, 2.0, 0, 1.0), Size(1, 30, 40), 1, 8)[0]
    found = variance_components(one_draw)
    assert (found.draw, found.draw_patient) == (0, 0)
    assert found.noise == pytest.approx(1, rel=0.2)
    assert found.seed == pytest.approx(3, rel=0.6)
    assert found.patient == pytest.approx(2, rel=0.6)
    alone = np.array([1.0, 2.0, 4.0])
    assert variance_components(alone[None, None]) == replace(NONE, patient=alone.var(ddof=1))
    assert variance_components(alone[None, :, None]) == replace(NONE, seed=alone.var(ddof=1))
    found = variance_components(alone[:, None, None])
    assert found.draw == pytest.approx(alone.var(ddof=1))
