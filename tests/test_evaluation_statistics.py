from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from augmint.errors import AugmintError
from augmint.evaluation.score import ScoreRow
from augmint.evaluation.statistics import (
    Components,
    Measurements,
    Size,
    bootstrap_interval,
    conclude,
    group_differences,
    holm,
    mean_p_value,
    minimum_detectable_effect,
    paired_difference,
    permutation_p_value,
    power,
    variance_components,
    verdict,
)

NONE = Components(0.0, 0.0, 0.0, 0.0, 0.0)


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


def row(patient, dice, *, case="c1", label="lv", unit="mm", hd=None):
    none = dict.fromkeys(("precision", "recall", "hd95", "assd", "surface_dice"))
    status = "both_empty" if dice is None else "ok"
    return ScoreRow(case, patient, label, dice=dice, hd=hd, unit=unit, status=status, **none)


# --- measurements -------------------------------------------------------------------------------


def test_cases_are_averaged_within_a_patient_before_labels():
    rows = [
        row("a", 0.2, case="ed", label="lv"),
        row("a", 0.4, case="es", label="lv"),
        row("a", 0.9, case="ed", label="rv"),
        row("b", 0.5, label="lv"),
        row("b", None, label="rv"),
    ]
    both = Measurements.from_rows({(0, 0): rows}, "dice")
    assert both.patients == ("a", "b")
    np.testing.assert_allclose(both.figures, [[[0.6, 0.5]]])
    rv = Measurements.from_rows({(0, 0): rows}, "dice", "rv")
    np.testing.assert_allclose(rv.figures, [[[0.9, np.nan]]])


def test_fits_land_at_their_draw_and_seed():
    fits = {(d, s): [row("a", d + s / 10)] for s, d in product((5, 7), (2, 1))}
    found = Measurements.from_rows(fits, "dice")
    assert (found.draws, found.seeds) == ((2, 1), (5, 7))
    np.testing.assert_allclose(found.figures[..., 0], [[2.5, 2.7], [1.5, 1.7]])


@pytest.mark.parametrize(
    ("rows", "metric", "label", "message"),
    [
        ({(0, 0): [row("a", 1)]}, "iou", None, "'iou' is not a metric; choose one of dice"),
        ({(0, 0): [row("a", 1)]}, "dice", "rv", "no row of label 'rv'; the scores have lv"),
        ({}, "dice", None, "without scores: all"),
        ({(0, 0): []}, "dice", None, "the scores have none"),
        (
            {(0, 0): [row("a", 1)], (1, 1): [row("a", 1)]},
            "dice",
            None,
            r"without scores: \[\(0, 1\), \(1, 0\)\]",
        ),
        (
            {(0, 0): [row("a", 1)], (0, 1): [row("b", 1)]},
            "dice",
            None,
            r"fit \(0, 0\) has no rows of patients b",
        ),
        (
            {(0, 0): [row("a", 1, hd=3.0), row("b", 1, hd=3.0, unit="px")]},
            "hd",
            None,
            "hd is in mm and px",
        ),
    ],
)
def test_rows_that_make_no_table_are_refused(rows, metric, label, message):
    with pytest.raises(AugmintError, match=message):
        Measurements.from_rows(rows, metric, label)


def test_figures_must_fit_their_names():
    with pytest.raises(AugmintError, match="are not draws x seeds x patients"):
        Measurements(np.zeros((1, 1, 2)), ("a",), (0,), (0,))
    with pytest.raises(AugmintError, match="a patient stands twice"):
        Measurements(np.zeros((1, 1, 2)), ("a", "a"), (0,), (0,))
    with pytest.raises(AugmintError, match="infinite"):
        measured([[[np.inf]]])


# --- pairing ------------------------------------------------------------------------------------


def test_pairs_are_matched_by_name_not_by_place():
    arm = measured(np.arange(12.0).reshape(2, 2, 3))
    turned = Measurements(
        arm.figures[::-1, ::-1, ::-1], arm.patients[::-1], arm.draws[::-1], arm.seeds[::-1]
    )
    found = paired_difference(arm, turned)
    assert found.estimate == 0
    assert found.p == 1
    assert found.interval == (0, 0)
    assert found.wilcoxon_p == 1
    assert found.permutation_p == 1
    assert found.minimum_detectable == 0


@pytest.mark.parametrize("what", ["draws", "seeds", "patients"])
def test_arms_run_otherwise_are_refused(what):
    arm = measured(np.zeros((2, 2, 2)))
    other = replace(arm, **{what: ("x", "y")})
    with pytest.raises(AugmintError, match=f"differ in {what}: .*x, y in one only"):
        paired_difference(arm, other)


def test_a_patient_undefined_in_one_fit_is_left_out_of_all_and_named():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.8, 0.1, (2, 2, 2, 5))
    arm, baseline = measured(ours), measured(theirs)
    holes, more = ours.copy(), theirs.copy()
    holes[0, 1, 2] = more[1, 0, 4] = np.nan
    found = paired_difference(measured(holes), measured(more))
    kept = ["p00", "p01", "p03"]
    assert found.left_out == ("p02", "p04")
    assert found.size == Size(2, 2, 3)
    full = paired_difference(arm.of_patients(kept), baseline.of_patients(kept))
    assert replace(found, left_out=()) == full
    with pytest.raises(AugmintError, match="no patient has a figure in every fit"):
        paired_difference(measured(holes * np.nan), baseline)


def test_means_noise_and_estimate():
    figures = np.array([[[0.1, 0.3], [0.3, 0.5]]])  # seeds' means 0.2 and 0.4
    found = paired_difference(measured(figures + 0.25), measured(figures))
    assert found.arm_mean == pytest.approx(0.55)
    assert found.baseline_mean == pytest.approx(0.3)
    assert found.estimate == pytest.approx(0.25)
    assert found.seed_noise == pytest.approx(np.sqrt(0.02))
    assert compared(np.ones((3, 1, 4))).seed_noise is None


# --- the primary test ---------------------------------------------------------------------------


def test_one_model_an_arm_is_students_paired_test_over_patients():
    values = np.random.default_rng(1).normal(0.02, 0.03, 12)
    found = compared(values[None, None])
    expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("shape", [(4, 3, 1), (1, 4, 1)])
def test_one_patient_is_students_test_over_the_coarsest_replicates(shape):
    values = np.random.default_rng(2).normal(0.02, 0.03, shape)
    units = values.mean(1).ravel() if shape[0] > 1 else values.ravel()
    found = compared(values)
    expected = stats.ttest_1samp(units, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("over", ["draws", "seeds", "patients"])
def test_where_one_source_dominates_it_is_students_test_over_that_source(over):
    rng = np.random.default_rng(3)
    shape = {"draws": (4, 2, 9), "seeds": (1, 4, 9), "patients": (4, 2, 9)}[over]
    axis = {"draws": 0, "seeds": 1, "patients": 2}[over]
    along = [1, 1, 1]
    along[axis] = shape[axis]
    values = rng.normal(0.5, 1, along) + rng.normal(0, 1e-4, shape)
    means = values.mean(tuple({0, 1, 2} - {axis}))
    expected = stats.ttest_1samp(means, 0)
    found = compared(values)
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=0.02)


def test_no_replicates_no_test():
    found = compared([[[0.1]]])
    assert (found.p, found.interval, found.wilcoxon_p, found.welch_p) == (None,) * 4
    assert np.isnan(mean_p_value(np.full((1, 1, 1), 0.1)))


def test_the_interval_and_the_p_value_agree():
    # Studies moved so that zero lies just inside or just outside their interval.
    rng = np.random.default_rng(4)
    for shape in ((3, 2, 6), (1, 3, 5), (2, 1, 8)):
        values = rng.normal(0, 1, shape) + rng.normal(0, 0.5, (*shape[:2], 1))
        low, high = compared(values).interval
        for edge in (low, high):
            away = np.sign(edge - values.mean()) * 1e-3
            assert mean_p_value(values - edge - away) < 0.05
            assert mean_p_value(values - edge + away) > 0.05


def test_scale_sign_and_order_do_not_matter():
    values = np.random.default_rng(5).normal(0.3, 1, (3, 2, 7))
    p = mean_p_value(values)
    for other in (values * 40, -values, values[::-1], values[:, ::-1], values[..., ::-1]):
        assert mean_p_value(other) == pytest.approx(p, rel=1e-6)
    many = np.stack([values, values + 1, values * 2]).reshape(3, 1, 3, 2, 7)
    assert mean_p_value(many).shape == (3, 1)
    assert mean_p_value(many)[0, 0] == pytest.approx(p)


@pytest.mark.parametrize(
    ("size", "components"),
    [
        (Size(3, 2, 16), Components(0.0, 2.0, 0.0, 0.0, 18.0)),
        (Size(3, 2, 16), Components(2.0, 2.0, 0.0, 0.0, 18.0)),
        (Size(1, 3, 16), Components(0.0, 2.0, 8.0, 0.0, 18.0)),
        (Size(5, 3, 56), Components(2.0, 2.0, 8.0, 2.0, 18.0)),
        (Size(3, 1, 16), Components(0.0, 0.0, 8.0, 0.0, 18.0)),
    ],
)
def test_identical_arms_differ_in_one_study_of_twenty(size, components):
    studies = 1500
    hits = int((mean_p_value(simulated(components, size, studies, 6)) < 0.05).sum())
    # 3.5 to 6.5 % and the binomial error of this many studies.
    low, high = stats.binom.ppf(0.001, studies, 0.035), stats.binom.ppf(0.999, studies, 0.065)
    assert low <= hits <= high


def test_flipping_patients_takes_a_lucky_model_for_a_method():
    # Why the permutation is not the primary test.
    differences = simulated(Components(0, 18.0, 0, 0, 18.0), Size(1, 3, 10), 100, 7)
    rng = np.random.default_rng(0)
    p = [permutation_p_value(d.mean((0, 1)), resamples=1, rng=rng) for d in differences]
    assert np.mean(np.array(p) < 0.05) > 0.3
    assert np.mean(mean_p_value(differences) < 0.05) < 0.12


# --- variances, power ---------------------------------------------------------------------------


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


def test_power_of_one_model_an_arm_is_the_noncentral_t():
    components, size = replace(NONE, patient=4.0), Size(1, 1, 16)
    shift, t = 1.5 / (2 / 4), stats.t.ppf(0.975, 15)
    expected = stats.nct.sf(t, 15, shift) + stats.nct.cdf(-t, 15, shift)
    assert power(1.5, components, size) == pytest.approx(expected, abs=0.003)
    assert power(0.0, components, size) == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize(
    ("size", "components"),
    [
        (Size(3, 2, 16), Components(0.0, 2.0, 0.0, 0.0, 18.0)),
        (Size(3, 3, 10), Components(2.0, 2.0, 8.0, 2.0, 18.0)),
        (Size(1, 3, 16), Components(0.0, 2.0, 8.0, 0.0, 18.0)),
    ],
)
def test_a_true_effect_is_found_as_often_as_computed(size, components):
    effect = minimum_detectable_effect(components, size)
    assert power(effect, components, size) == pytest.approx(0.8, abs=0.001)
    for share in (0.5, 1.0):
        studies = simulated(components, size, 1200, 9) + share * effect
        found = float(np.mean(mean_p_value(studies) < 0.05))
        assert found == pytest.approx(power(share * effect, components, size), abs=0.05)


def test_more_of_anything_and_larger_effects_are_easier_to_see():
    components = Components(1.0, 1.0, 1.0, 1.0, 4.0)
    base = minimum_detectable_effect(components, Size(3, 2, 10))
    for size in (Size(6, 2, 10), Size(3, 4, 10), Size(3, 2, 40)):
        assert minimum_detectable_effect(components, size) < base
    strict = minimum_detectable_effect(components, Size(3, 2, 10), alpha=0.01)
    assert strict > base
    chances = [power(e, components, Size(3, 2, 10)) for e in (0, 1, 2, 4, -4)]
    assert chances[0] < chances[1] < chances[2] < chances[3] == chances[4]
    with pytest.raises(AugmintError, match="no power"):
        power(1.0, components, Size(1, 1, 1))
    with pytest.raises(AugmintError, match="one or more"):
        Size(0, 1, 1)


# --- tests beside -------------------------------------------------------------------------------


def test_wilcoxon_and_welch_are_those_of_scipy():
    rng = np.random.default_rng(10)
    ours, theirs = rng.normal(0.82, 0.05, (3, 2, 9)), rng.normal(0.8, 0.05, (3, 2, 9))
    found = paired_difference(measured(ours), measured(theirs))
    a, b = ours.mean((0, 1)), theirs.mean((0, 1))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.welch_p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_permutation_equals_scipys_and_a_count_by_hand():
    rng = np.random.default_rng(11)
    # Of the eight flips of 1, 2, 4 two reach a sum of 7, and four one of 5.
    assert permutation_p_value(np.array([1.0, 2.0, 4.0]), resamples=1, rng=rng) == 2 / 8
    assert permutation_p_value(np.array([-1.0, 2.0, 4.0]), resamples=1, rng=rng) == 4 / 8
    values = rng.normal(0.4, 1, 9)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert permutation_p_value(values, resamples=1, rng=rng) == pytest.approx(expected.pvalue)
    many = rng.normal(0.4, 1, 30)
    p = permutation_p_value(many, resamples=20000, rng=rng)
    assert p == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.3)


def test_bootstrap_of_patients_alone_is_scipys():
    values = np.random.default_rng(12).normal(0.02, 0.03, 25)
    rng = np.random.default_rng(0)
    found = bootstrap_interval(values[None, None], resamples=20000, rng=rng)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=rng
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=5e-4)


def test_bootstrap_resamples_draws_and_seeds_within_them():
    rng = np.random.default_rng(13)
    draws = np.array([-3.0, 1.0, 2.0])[:, None, None] + np.zeros((3, 4, 5))
    # The mean of three out of {-3, 1, 2}: -3 has probability 1/27, 2 likewise.
    assert bootstrap_interval(draws, resamples=4000, rng=rng) == (-3.0, 2.0)
    seeds = np.array([[-1.0, 1.0], [-10.0, 10.0]])[:, :, None] + np.zeros((2, 2, 5))
    # Both draws taken as the second and its two seeds alike twice: 1/4 x 1/16 at either end.
    low, high = bootstrap_interval(seeds, resamples=40000, rng=rng)
    assert low < -5
    assert high > 5


def test_the_same_seed_gives_the_same_comparison():
    arm, baseline = pair(np.random.default_rng(14).normal(0, 1, (2, 2, 16)))
    assert paired_difference(arm, baseline) == paired_difference(arm, baseline)


def test_holm_by_hand():
    # Ordered 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never falling.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
    with pytest.raises(AugmintError, match="not all in"):
        holm([0.1, float("nan")])


# --- groups -------------------------------------------------------------------------------------


def test_groups_name_the_worst_and_the_least_helped():
    rng = np.random.default_rng(15)
    level = np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.5]) + rng.normal(0, 0.01, (2, 2, 6))
    gain = np.array([0.0, 0.0, 0.0, 0.1, 0.1, 0.1])
    arm, baseline = measured(level + gain), measured(level)
    groups = {p: "GE" if i < 3 else "Philips" for i, p in enumerate(arm.patients)}
    found = group_differences(arm, baseline, groups)
    assert list(found.differences) == ["GE", "Philips"]
    assert found.differences["Philips"].estimate == pytest.approx(0.1)
    assert found.differences["GE"].size == Size(2, 2, 3)
    assert (found.worst, found.least_helped) == ("Philips", "GE")
    turned = group_differences(arm, baseline, groups, lower_is_better=True)
    assert (turned.worst, turned.least_helped) == ("GE", "Philips")


def test_patients_without_a_group_are_named():
    arm, baseline = pair(np.zeros((1, 2, 3)))
    with pytest.raises(AugmintError, match="patients p01, p02 have no group"):
        group_differences(arm, baseline, {"p00": "GE", "p01": ""})


# --- the sentence -------------------------------------------------------------------------------

CLEAR = np.random.default_rng(16).normal(0.05, 0.005, (3, 2, 16))


def sentence(differences, **options):
    words = {"arm": "synthetic", "baseline": "stack", "figure": "Dice"}
    return conclude(compared(differences), **(words | options))


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


def test_a_comparison_is_plain_for_json():
    found = compared(CLEAR).to_dict()
    assert found["size"] == {"draws": 3, "seeds": 2, "patients": 16}
    assert set(found["components"]) == {"draw", "seed", "patient", "draw_patient", "noise"}
    assert isinstance(found["p"], float)
