import numpy as np
import pytest

from augmint.errors import AugmintError
from augmint.evaluation.conclusion import conclude, holm, verdict
from augmint.evaluation.crossed import minimum_detectable_effect
from simulated_arms import compared

CLEAR = np.random.default_rng(16).normal(0.05, 0.005, (3, 2, 16))


def sentence(differences, **options):
    words = {"arm": "synthetic", "baseline": "stack", "figure": "Dice"}
    return conclude(compared(differences), **(words | options))


def test_holm_by_hand():
    # Ordered 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never falling.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
    with pytest.raises(AugmintError, match="not all in"):
        holm([0.1, float("nan")])


def test_a_benefit_is_said_with_all_its_figures():
    found = compared(CLEAR)
    smallest = minimum_detectable_effect(found.components, found.size)
    assert found.minimum_detectable == smallest
    low, high = found.interval
    assert sentence(CLEAR) == (
        f"A benefit was shown: Dice of synthetic is {found.estimate:.3g} above that of stack on "
        f"16 patients (3 draws, 2 seeds each; 95 % interval {low:+.3g} to {high:+.3g}, "
        f"p < 0.001); the smallest effect that this study finds with 80 % power is {smallest:.3g}."
    )


def test_harm_and_the_direction_of_distances():
    assert sentence(-CLEAR).startswith("Harm was shown: Dice of synthetic is 0.05")
    assert " below that of stack" in sentence(-CLEAR)
    assert sentence(CLEAR, lower_is_better=True).startswith("Harm was shown")
    assert sentence(-CLEAR, lower_is_better=True).startswith("A benefit was shown")


def test_no_benefit_is_an_outcome():
    noise = np.random.default_rng(17).normal(0, 0.05, (3, 2, 16))
    assert verdict(compared(noise)) == "none"
    text = sentence(noise)
    assert text.startswith("No benefit was shown, and no harm: ")
    assert "smallest effect" in text
    same = sentence(np.zeros((2, 2, 3)))
    assert "Dice of synthetic is equal to that of stack" in same


def test_the_adjusted_p_value_decides():
    text = sentence(CLEAR, p_adjusted=0.2, family=12)
    assert text.startswith("No benefit was shown")
    assert "p = 0.2 after Holm over 12 comparisons" in text
    found = compared(CLEAR)
    strict = minimum_detectable_effect(found.components, found.size, alpha=0.05 / 12)
    assert text.endswith(f"is {strict:.3g}.")
    assert sentence(CLEAR, p_adjusted=0.01, family=12).startswith("A benefit was shown")
    for options in ({"family": 3}, {"p_adjusted": 0.2}):
        with pytest.raises(AugmintError, match="give both, or neither"):
            sentence(CLEAR, **options)


def test_what_was_not_repeated_proves_nothing():
    one_model = sentence(CLEAR[:1, :1])
    assert one_model.startswith("No benefit was shown")
    assert one_model.endswith("one model an arm cannot tell a method from the luck of its seed.")
    one_patient = sentence(CLEAR[..., :1])
    assert one_patient.startswith("No benefit was shown")
    assert one_patient.endswith("one patient cannot speak for others.")
    neither = sentence(CLEAR[:1, :1, :1])
    assert neither.endswith("(1 draw, 1 seed); one model an arm on one patient allows no test.")
    one_draw = sentence(CLEAR[:1])
    assert "(1 draw, 2 seeds; " in one_draw
    assert "; this speaks of one draw of training patients only, and the smallest" in one_draw


def test_every_conclusion_is_one_sentence():
    for part in (CLEAR, -CLEAR, CLEAR[:1], CLEAR[:1, :1], CLEAR[..., :1], CLEAR[:1, :1, :1]):
        text = sentence(part)
        assert text.endswith(".")
        assert ". " not in text
