"""What a family of comparisons has shown, in one sentence for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from augmint.errors import AugmintError
from augmint.evaluation.crossed import ALPHA, minimum_detectable_effect
from augmint.evaluation.difference import Difference

Verdict = Literal["benefit", "harm", "none"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts a family of p-values after Holm, in the order given."""
    p = np.asarray(p_values, float)
    if not np.all((p >= 0) & (p <= 1)):
        raise AugmintError(f"p-values {list(p_values)} are not all in [0, 1]; leave others out")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def verdict(
    difference: Difference, *, p_adjusted: float | None = None, lower_is_better: bool = False
) -> Verdict:
    """What was shown at 0.05; one model an arm, or one patient, shows nothing about a method."""
    p, size = difference.p if p_adjusted is None else p_adjusted, difference.size
    if p is None or p >= ALPHA or size.draws * size.seeds == 1 or size.patients == 1:
        return "none"
    return "benefit" if (difference.estimate > 0) != lower_is_better else "harm"


def conclude(
    difference: Difference,
    *,
    arm: str,
    baseline: str,
    figure: str,
    p_adjusted: float | None = None,
    family: int = 1,
    lower_is_better: bool = False,
) -> str:
    """The conclusion in one sentence.

    Args:
        difference: What was found.
        arm: Its name.
        baseline: Its name.
        figure: Name of the figure, with its unit if it has one.
        p_adjusted: After Holm; the plain p-value by default.
        family: Number of comparisons in the family of Holm; the smallest detectable effect is then
            that of the strictest step.
        lower_is_better: As for distances.

    Raises:
        AugmintError: if a family is named without its adjusted p-value.
    """
    if (family > 1) != (p_adjusted is not None):
        raise AugmintError(
            f"family of {family} with p_adjusted {p_adjusted}; give both, or neither for a single "
            "comparison"
        )
    shown = verdict(difference, p_adjusted=p_adjusted, lower_is_better=lower_is_better)
    size, p = difference.size, difference.p if p_adjusted is None else p_adjusted
    lead = {
        "benefit": "A benefit was shown",
        "harm": "Harm was shown",
        "none": "No benefit was shown, and no harm",
    }[shown]
    text = (
        f"{lead}: {figure} of {arm} is {_change(difference.estimate)} that of {baseline} on "
        f"{_count(size.patients, 'patient')} ({_count(size.draws, 'draw')}, "
        f"{_count(size.seeds, 'seed')}{' each' if size.draws > 1 else ''}"
    )
    if difference.interval is None or p is None:
        return f"{text}); one model an arm on one patient allows no test."
    low, high = difference.interval
    adjusted = f" after Holm over {family} comparisons" if family > 1 else ""
    text += f"; 95 % interval {low:+.3g} to {high:+.3g}, {_p_text(p)}{adjusted})"
    if size.draws * size.seeds == 1:
        return f"{text}; one model an arm cannot tell a method from the luck of its seed."
    if size.patients == 1:
        return f"{text}; one patient cannot speak for others."
    limit = "this speaks of one draw of training patients only, and " if size.draws == 1 else ""
    if difference.minimum_detectable is None:
        return f"{text}; {limit}nothing varied, so that no smallest effect can be told."
    smallest = minimum_detectable_effect(difference.components, size, alpha=ALPHA / family)
    return (
        f"{text}; {limit}the smallest effect that this study finds with 80 % power is "
        f"{smallest:.3g}."
    )


def _change(value: float) -> str:
    if value == 0:
        return "equal to"
    return f"{abs(value):.3g} {'above' if value > 0 else 'below'}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
