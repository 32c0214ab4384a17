"""Scores as arrays, and the fits that count where some are missing."""

import numpy as np
import pytest

from augmint.study.results import collect, keep_fits, write_csv
from scored_studies import ARMS, planned, score

DRAWS, SEEDS = (0, 1, 2), (0, 1)
EVERY = {(d, s) for d in DRAWS for s in SEEDS}


def kept(missing, draws=DRAWS, seeds=SEEDS):
    every = {(d, s) for d in draws for s in seeds}
    found = keep_fits(draws, seeds, {"arm": every - set(missing)})
    return found.draws, found.seeds


def largest(missing, draws, seeds):
    """By brute force over all choices of seeds."""
    best = 0
    for number in range(1, 2 ** len(seeds)):
        chosen = [s for i, s in enumerate(seeds) if number >> i & 1]
        whole = [d for d in draws if not any((d, s) in missing for s in chosen)]
        best = max(best, len(whole) * len(chosen))
    return best


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([], ((0, 1, 2), (0, 1))),
        ([(1, 0)], ((0, 2), (0, 1))),
        ([(1, 0), (1, 1)], ((0, 2), (0, 1))),
        # A seed that fails everywhere costs its seed, not every draw.
        ([(0, 1), (1, 1), (2, 1)], ((0, 1, 2), (0,))),
        ([(0, 1), (2, 1)], ((0, 1, 2), (0,))),
        ([(0, 1), (1, 0)], ((0, 2), (0,))),
        (list(EVERY), ((), ())),
    ],
)
def test_the_largest_rectangle_is_kept(missing, expected):
    assert kept(missing) == expected


def test_of_choices_as_large_several_draws_then_all_seeds():
    assert kept([(1, 0)], draws=(0, 1)) == ((0, 1), (1,))
    # Two draws with two of three seeds, or four draws with one seed: none has all seeds.
    gone = [(0, 2), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert kept(gone, draws=(0, 1, 2, 3), seeds=(0, 1, 2)) == ((0, 1, 2, 3), (0,))


def test_no_rectangle_is_larger():
    rng = np.random.default_rng(0)
    for _ in range(200):
        draws, seeds = range(rng.integers(1, 6)), range(rng.integers(1, 5))
        gone = {(d, s) for d in draws for s in seeds if rng.random() < 0.3}
        d, s = kept(gone, tuple(draws), tuple(seeds))
        assert len(d) * len(s) == largest(gone, draws, seeds)
        assert not gone & {(x, y) for x in d for y in s}


def test_arms_keep_the_fits_that_all_of_them_have():
    found = keep_fits(DRAWS, SEEDS, {"a": EVERY - {(0, 0)}, "b": EVERY - {(2, 1)}, "c": EVERY})
    assert (found.draws, found.seeds) == ((0, 1), (1,))
    assert dict(found.missing) == {"a": {(0, 0)}, "b": {(2, 1)}}
    figures = np.arange(12).reshape(3, 2, 2)
    assert found.of(figures).tolist() == [[[2, 3]], [[6, 7]]]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({(1, 0)}, "draw 1, so that 4 of 6 fits remain, because fits are missing: a, draw 1 with"),
        ({(1, 0), (1, 1)}, "4 of 6 fits remain, because fits are missing: a, draw 1."),
        ({(0, 1), (1, 1), (2, 1)}, "seed 1, so that 3 of 6 fits remain"),
        ({(0, 0), (0, 1), (1, 0), (1, 1)}, "draws 0, 1, so that 2 of 6"),
        (EVERY, "0 of 6 fits remain, because fits are missing: a, all."),
    ],
)
def test_what_is_left_out_is_said_in_words(missing, words):
    found = keep_fits(DRAWS, SEEDS, {"a": EVERY - missing})
    text = found.in_words("it", folds=False)
    assert text.startswith("Left out of it: ")
    assert words in text
    assert found.in_words("it", folds=True) == text.replace("draw", "fold")


def test_where_nothing_is_missing_nothing_is_said():
    assert keep_fits(DRAWS, SEEDS, {"a": EVERY}).in_words("it", folds=False) == ""


def test_a_missing_fit_takes_nothing_from_the_others(tmp_path):
    plan, done = planned(tmp_path, missing=[("synthetic", 1, 0)])
    (table,) = collect(plan, tmp_path, ARMS, ("dice",), done)
    assert (table.draws, table.seeds, table.patients) == (DRAWS, SEEDS, tuple("abcdef"))
    figures = table.figures["dice", "mean"]
    for arm in ARMS:
        for draw, seed in EVERY:
            expected = [score((arm, draw, seed), p) for p in "abcdef"]
            if (arm, draw, seed) == ("synthetic", 1, 0):
                expected = [np.nan] * 6
            np.testing.assert_allclose(figures[arm][draw, seed], expected)
    assert table.finished["synthetic"] == EVERY - {(1, 0)}
    assert table.kept("stack", "null").missing == {}
    # Failures are counted on the fits that the means stand on.
    assert table.judged == {"stack": 36, "null": 36, "synthetic": 24}


def test_an_undefined_patient_is_no_missing_fit(tmp_path):
    plan, done = planned(tmp_path, dice=lambda k, p: None if p == "a" else score(k, p))
    (table,) = collect(plan, tmp_path, ARMS, ("dice",), done)
    assert np.isnan(table.figures["dice", "mean"]["stack"][..., 0]).all()
    assert table.kept(*ARMS).missing == {}
    assert table.kept(*ARMS).draws == DRAWS
    assert table.empty == dict.fromkeys(ARMS, 6)


def test_an_arm_without_any_fit_is_planned_but_has_no_figures(tmp_path):
    plan, done = planned(tmp_path, missing=[("null", *fit) for fit in EVERY])
    (table,) = collect(plan, tmp_path, ARMS, ("dice",), done)
    assert table.finished["null"] == frozenset()
    assert set(table.figures["dice", "mean"]) == set(table.judged) == {"stack", "synthetic"}


def test_a_place_without_any_evaluation_has_no_table(tmp_path):
    plan, _ = planned(tmp_path)
    assert collect(plan, tmp_path, ARMS, ("dice",), []) == ()


def test_none_is_an_empty_cell(tmp_path):
    write_csv(tmp_path / "x.csv", [["a", "b"], [1, None]])
    assert (tmp_path / "x.csv").read_text() == "a,b\n1,\n"
