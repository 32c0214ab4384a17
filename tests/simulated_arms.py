"""Arms of known figures, and studies of known variances, for the tests of the statistics."""

import numpy as np

from augmint.evaluation.difference import paired_difference
from augmint.evaluation.measurements import Measurements


def measured(figures, patients=None):
    figures = np.asarray(figures, float)
    draws, seeds, count = figures.shape
    names = patients or [f"p{i:02}" for i in range(count)]
    return Measurements(figures, tuple(names), tuple(range(draws)), tuple(range(seeds)))


def pair(differences, *, level=0.8):
    differences = np.asarray(differences, float)
    baseline = np.random.default_rng(9).normal(level, 0.05, differences.shape[-1])
    return measured(baseline + differences), measured(baseline + 0 * differences)


def compared(differences):
    return paired_difference(*pair(differences))


def simulated(c, size, studies, seed):
    """Differences with the given variances, (studies, draws, seeds, patients)."""
    rng = np.random.default_rng(seed)
    d, s, p = size.draws, size.seeds, size.patients

    def effect(variance, *shape):
        return rng.normal(0, variance**0.5, (studies, *shape))

    return (
        effect(c.draw, d, 1, 1)
        + effect(c.seed, d, s, 1)
        + effect(c.patient, 1, 1, p)
        + effect(c.draw_patient, d, 1, p)
        + effect(c.noise, d, s, p)
    )
