import inspect

import pytest

from augmint.evaluation import conclusion, crossed, difference, measurements, resampling, variance
from augmint.evaluation import statistics as door

# What the parts share among themselves alone.
INSIDE = {"MeanSquares", "aligned", "check_alike", "crossed_test", "mean_squares"}


@pytest.mark.parametrize(
    "part", [conclusion, crossed, difference, measurements, resampling, variance]
)
def test_the_door_names_what_its_parts_offer(part):
    offered = {
        name
        for name, value in vars(part).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == part.__name__
    }
    assert offered
    assert offered - INSIDE <= set(door.__all__)
    assert all(getattr(door, name) is getattr(part, name) for name in offered - INSIDE)


def test_every_name_on_the_door_leads_somewhere():
    assert len(set(door.__all__)) == len(door.__all__)
    assert all(hasattr(door, name) for name in door.__all__)
