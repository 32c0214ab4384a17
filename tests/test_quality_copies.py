import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from augmint.errors import AugmintError
from augmint.quality import copies as module
from augmint.quality.copies import (
    calibrate,
    clopper_pearson,
    closest,
    copy_rate,
    flagged,
    likest,
    membership_auc,
    worst_of_cases,
    write_copies,
)
from augmint.quality.memorisation import Match

NAN = float("nan")


def match(name, similarity, own="", own_similarity=NAN, real="r1"):
    return Match(name, own, real, similarity, "r0" if own else "", own_similarity)


def calibrated(monkeypatch, matches, **options):
    monkeypatch.setattr(module, "nearest", lambda index, pictures: list(matches))
    return calibrate(None, [], **options)


def test_few_patients_get_a_prediction_bound(monkeypatch):
    values = [0.3, 0.35, 0.32, 0.4, 0.38, 0.36]
    found = calibrated(monkeypatch, [match(f"i{k}", v, f"p{k}") for k, v in enumerate(values)])
    z = np.arctanh(values)
    # The one-sided 99 % point of Student's t with 5 degrees of freedom is 3.365.
    bound = np.tanh(z.mean() + 3.365 * z.std(ddof=1) * math.sqrt(7 / 6))
    assert found.threshold == pytest.approx(bound, abs=1e-4)
    assert "6 patients" in found.rule
    assert flagged(found.matches, found.threshold) == []


def test_an_outlier_is_below_the_threshold(monkeypatch):
    values = [*np.linspace(0.3, 0.31, 40), 0.7]
    found = calibrated(monkeypatch, [match(f"i{k}", v, f"p{k}") for k, v in enumerate(values)])
    assert found.threshold >= 0.7
    assert copy_rate(found.matches, found.threshold).copies == 0


def test_many_patients_get_an_order_statistic(monkeypatch):
    values = np.random.default_rng(0).permutation(np.linspace(0.2, 0.6, 199))
    found = calibrated(monkeypatch, [match(f"i{k}", v, f"p{k}") for k, v in enumerate(values)])
    assert found.threshold == sorted(values)[197]
    assert found.rule == "value 198 of 199 patients"


def test_unseen_patients_are_flagged_no_more_often_than_asked(monkeypatch):
    """Normal and skewed likeness, few patients and many; fresh patients, 300 calibrations."""
    rng = np.random.default_rng(1)
    for n, draw in (
        (12, lambda size: np.tanh(rng.normal(0.4, 0.1, size))),
        (64, lambda size: np.tanh(rng.gumbel(0.4, 0.05, size))),
        (120, lambda size: rng.beta(2, 5, size)),
    ):
        rates = []
        for _ in range(300):
            matches = [match(f"i{k}", v, f"p{k}") for k, v in enumerate(draw(n))]
            threshold = calibrated(monkeypatch, matches).threshold
            rates.append((draw(2000) > threshold).mean())
        assert np.mean(rates) <= 0.013, n


def test_the_patient_is_the_unit(monkeypatch):
    """Many slices of a patient are one value, the highest."""
    matches = [match(f"p{p}#z{z:03d}", 0.3 + 0.01 * z, f"p{p}") for p in range(6) for z in range(9)]
    found = calibrated(monkeypatch, [*matches, match("blank", NAN, "p0")])
    assert found.by_patient == {f"p{p}": pytest.approx(0.38) for p in range(6)}
    assert found.images == 54
    assert found.threshold == pytest.approx(0.38)


def test_one_person_under_two_names_does_not_blind_the_threshold(monkeypatch):
    plain = [match(f"i{k}", 0.3 + 0.01 * k, f"p{k}") for k in range(8)]
    twin = [match("t#z000", 0.4, "twin"), match("t#z001", 1.0, "twin", real="p3_ED")]
    found = calibrated(monkeypatch, plain + twin)
    assert found.threshold == calibrated(monkeypatch, plain).threshold < 0.6
    assert [(m.name, m.real) for m in found.doubles] == [("t#z001", "p3_ED")]
    assert "twin" not in found.by_patient
    assert calibrated(monkeypatch, plain).doubles == ()


def test_calibration_wants_patients(monkeypatch):
    with pytest.raises(AugmintError, match="4 patient"):
        calibrated(monkeypatch, [match(f"i{k}", 0.3, f"p{k % 4}") for k in range(20)])
    with pytest.raises(AugmintError, match="'nobody'"):
        calibrated(monkeypatch, [match("nobody", 0.3)])
    with pytest.raises(AugmintError, match="give more than 0"):
        calibrated(monkeypatch, [], false_alarms=0.7)


def test_rows_are_the_flagged_pairs_alone(tmp_path):
    matches = [match("a", 0.6), match("b", 0.9, real="r2"), match("c", 0.4), match("d", NAN)]
    rows = flagged(matches, 0.5)
    write_copies(tmp_path / "copies.csv", rows)
    assert (tmp_path / "copies.csv").read_text().splitlines() == [
        "synthetic,real,similarity,threshold",
        "b,r2,0.9000,0.5000",
        "a,r1,0.6000,0.5000",
    ]
    assert flagged([match("a", 0.5)], 0.5) == []


def test_own_likeness_counts_where_asked():
    one = match("a", 0.3, "p1", 0.9)
    assert likest(one, "others") == ("r1", 0.3)
    assert likest(one, "own") == likest(one, "any") == ("r0", 0.9)
    assert likest(match("a", 0.3), "any") == ("r1", 0.3)
    assert flagged([one], 0.5) == []
    assert flagged([one], 0.5, whose="own") == [("a", "r0", 0.9, 0.5)]
    assert copy_rate([one], 0.5).copies == 0
    assert copy_rate([one], 0.5, whose="any").copies == 1


def test_closest_first_and_blanks_left_out():
    matches = [match("a", 0.2), match("b", 0.8), match("c", NAN), match("d", 0.5)]
    assert [m.name for m in closest(matches, 2)] == ["b", "d"]
    assert len(closest(matches, 9)) == 3


def test_the_likest_slice_speaks_for_the_volume():
    matches = [
        match("v#z000", NAN), match("v#z001", 0.3), match("v#z002", 0.7), match("v#z003", 0.5),
        match("w#z000", NAN), match("w#z001", NAN),
    ]  # fmt: skip
    worst = worst_of_cases(matches)
    assert [m.case for m in worst] == ["v", "w"]
    assert worst[0].name == "v#z002"
    assert not worst[1].judged


def test_rates_and_intervals():
    matches = [match(f"i{k}", 0.9 if k < 3 else 0.1, f"p{k // 10}") for k in range(100)]
    rate = copy_rate([*matches, match("blank", NAN)], 0.5)
    assert (rate.copies, rate.images, rate.rate, rate.not_judged) == (3, 100, 0.03, 1)
    assert rate.interval == pytest.approx((0.0062, 0.0852), abs=1e-4)
    assert (rate.sources, rate.flagged_sources) == (10, 1)
    # All three are of one patient: they tell less than three of three.
    assert rate.by_source[1] > rate.interval[1]
    assert rate.by_source[0] == 0


def test_no_copies_among_few_sources_leave_room():
    matches = [match(f"i{k}", 0.1, f"p{k // 20}") for k in range(100)]
    rate = copy_rate(matches, 0.5)
    assert rate.interval[1] == pytest.approx(1 - 0.025 ** (1 / 100))
    assert rate.by_source == (0.0, pytest.approx(1 - 0.025 ** (1 / 5)))
    every = copy_rate(matches, 0.0)
    assert every.by_source == (pytest.approx(0.025 ** (1 / 5)), 1.0)


def test_nothing_judged_is_told():
    with pytest.raises(AugmintError, match="none of 2"):
        copy_rate([match("a", NAN), match("b", NAN)], 0.5)


def test_the_exact_interval_leaves_a_fortieth_on_either_side():
    low, high = clopper_pearson(299, 300)
    assert binom.sf(298, 300, low) == pytest.approx(0.025)
    assert binom.cdf(299, 300, high) == pytest.approx(0.025)


def test_membership_of_known_order():
    found = membership_auc([0.9, 0.8, 0.3], ["a", "b", "c"], [0.5, 0.2], ["x", "y"])
    assert found.auc == pytest.approx(5 / 6)
    assert found.interval[0] < found.auc < found.interval[1] == 1
    assert (found.members, found.others) == (3, 2)
    tied = membership_auc([0.5, 0.5], ["a", "b"], [0.5, 0.5], ["x", "y"])
    assert (tied.auc, *tied.interval) == (0.5, 0.5, 0.5)


def test_the_membership_interval_covers_the_spread_between_patients():
    rng = np.random.default_rng(3)
    hits = 0
    members = np.repeat([f"m{k}" for k in range(25)], 6)
    others = np.repeat([f"o{k}" for k in range(25)], 6)
    truth = norm.cdf(0.5 / math.sqrt(2 * 1.25))
    for trial in range(120):
        a = np.repeat(rng.normal(0.5, 1, 25), 6) + rng.normal(0, 0.5, 150)
        b = np.repeat(rng.normal(0.0, 1, 25), 6) + rng.normal(0, 0.5, 150)
        low, high = membership_auc(a, members, b, others, seed=trial).interval
        hits += low <= truth <= high
    assert 0.87 <= hits / 120 <= 0.99


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"other_patients": ["a", "y"]}, "both|outside"),
        ({"other_patients": ["x", "x"]}, "two patients"),
        ({"members": [0.1]}, "one patient for each"),
        ({"others": [0.1, NAN]}, "NaN"),
    ],
)
def test_bad_membership_is_told(change, words):
    given = {
        "members": [0.1, 0.2], "member_patients": ["a", "b"],
        "others": [0.1, 0.2], "other_patients": ["x", "y"],
    }  # fmt: skip
    with pytest.raises(AugmintError, match=words):
        membership_auc(**given | change)
