"""Does an arm help? Paired differences over draws, seeds and patients, and one sentence.

The arms of a study are trained again on every draw of training patients and with every seed, and
all of these models meet the same test patients. A trained model's luck is common to all patients,
so a test that counts patients alone takes a lucky seed for a method. The primary test here treats
draws (or, where there is one draw, seeds) and patients as two crossed random samples.

This module is the door; each part lives in the module that it is imported from here.
"""

from __future__ import annotations

from augmint.evaluation.conclusion import Verdict, conclude, holm, verdict
from augmint.evaluation.crossed import (
    ALPHA,
    POWER,
    mean_p_value,
    minimum_detectable_effect,
    power,
)
from augmint.evaluation.difference import (
    Difference,
    Groups,
    group_differences,
    paired_difference,
)
from augmint.evaluation.measurements import LOWER_IS_BETTER, Measurements
from augmint.evaluation.resampling import bootstrap_interval, permutation_p_value
from augmint.evaluation.variance import Components, Size, variance_components

__all__ = [
    "ALPHA",
    "LOWER_IS_BETTER",
    "POWER",
    "Components",
    "Difference",
    "Groups",
    "Measurements",
    "Size",
    "Verdict",
    "bootstrap_interval",
    "conclude",
    "group_differences",
    "holm",
    "mean_p_value",
    "minimum_detectable_effect",
    "paired_difference",
    "permutation_p_value",
    "power",
    "variance_components",
    "verdict",
]
