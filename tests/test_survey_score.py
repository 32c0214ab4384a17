import json
from statistics import NormalDist

import pytest

from augmint.errors import AugmintError
from augmint.survey import score_survey

KINDS = ["generated"] * 5 + ["real"] * 5
NAMES = [f"{k:08x}" for k in range(10)]


def frame(k, kind):
    return {"kind": kind, "case": f"case{k}", "file": f"imagesTr/case{k}.png", "slice": ""}


@pytest.fixture
def key(tmp_path):
    """Five generated frames, then five real ones."""
    frames = {name: frame(k, kind) for k, (name, kind) in enumerate(zip(NAMES, KINDS))}
    content = {"survey": "abc", "frames": frames, "notes": ["made small"]}
    (tmp_path / "key.json").write_text(json.dumps(content))
    return tmp_path / "key.json"


def content_of(reader, said, *, seconds=None, survey="abc"):
    """One letter for each frame: g, r, or . for none."""
    answers = [
        {
            "id": name,
            "answer": {"g": "generated", "r": "real"}[letter],
            "milliseconds": 1000 * (seconds[k] if seconds else 2),
            "place": k + 1,
        }
        for k, (name, letter) in enumerate(zip(NAMES, said))
        if letter != "."
    ]
    return {"schema_version": 1, "survey": survey, "reader": reader, "answers": answers}


@pytest.fixture
def saved(tmp_path):
    def save(reader, said, **others):
        path = tmp_path / f"answers-{reader}.json"
        path.write_text(json.dumps(content_of(reader, said, **others)))
        return path

    return save


def test_one_reader_by_hand(key, saved):
    """8 of 10: the interval of Clopper and Pearson and the p-value are in every table."""
    path = saved("anna", "ggggr" + "rrrrg", seconds=[1, 2, 3, 4, 5, 6, 7, 8, 9, 20])
    result = score_survey([path], key)
    (anna,) = result.readers
    assert (anna.answered, anna.missing, anna.correct, anna.generated) == (10, 0, 8, 5)
    assert anna.accuracy == result.accuracy == 0.8
    assert anna.interval == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert anna.p_value == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert anna.found_generated == anna.found_real == 0.8
    assert anna.d_prime == pytest.approx(2 * NormalDist().inv_cdf(4.5 / 6))
    assert anna.seconds == 5.5


def test_who_calls_everything_generated_is_at_chance_without_d_prime(key, saved):
    (one,) = score_survey([saved("b", "g" * 10)], key).readers
    assert (one.accuracy, one.found_generated, one.found_real) == (0.5, 1.0, 0.0)
    assert one.d_prime == pytest.approx(0)
    assert one.p_value == pytest.approx(1)


def test_unfinished_answers_are_scored_and_say_what_is_missing(key, saved):
    result = score_survey([saved("c", "gg..." + "r....")], key)
    (one,) = result.readers
    assert (one.answered, one.missing, one.correct) == (3, 7, 3)
    assert len(result.judged) == 3
    assert "7 missing, 2 generated and 1 real judged" in result.in_words()
    assert "always the same answer would give 2 right" in result.in_words()
    (few,) = score_survey([saved("d", "g" + "." * 9)], key).readers
    assert few.found_real is few.d_prime is None


def test_readers_who_say_the_same_tell_no_more_than_one(key, saved):
    """Frames are what was drawn: a second reader's copy of the answers narrows nothing."""
    said = "ggggr" + "rrrrg"
    one = score_survey([saved("a", said)], key).interval
    two = score_survey([saved("a", said), saved("b", said)], key)
    assert two.accuracy == 0.8
    assert two.interval[0] <= one[0]
    assert two.interval[1] >= one[1]


def test_readers_who_differ_tell_more_than_one(key, saved):
    first, second = saved("a", "ggggr" + "rrrrg"), saved("b", "grggg" + "rgrrr")
    one, two = score_survey([first], key), score_survey([first, second], key)
    assert two.accuracy == one.accuracy == 0.8
    assert two.interval[1] - two.interval[0] < one.interval[1] - one.interval[0]


def test_the_pooled_interval_of_one_reader_by_hand(key, saved):
    """Korn and Graubard: 0.16 / (0.016 * 10 / 9) = 9 effective answers, 7.2 of them right."""
    from scipy.stats import beta

    found = score_survey([saved("a", "ggggr" + "rrrrg")], key).interval
    assert found == pytest.approx((beta.ppf(0.025, 7.2, 2.8), beta.ppf(0.975, 8.2, 1.8)))


@pytest.mark.parametrize(("said", "ends"), [("gggggrrrrr", "low"), ("rrrrrggggg", "high")])
def test_all_right_or_all_wrong_counts_frames_not_answers(key, saved, said, ends):
    result = score_survey([saved("a", said), saved("b", said)], key)
    edge = 0.025 ** (1 / 10)
    expected = (edge, 1.0) if ends == "low" else (0.0, 1 - edge)
    assert result.interval == pytest.approx(expected)


def test_frames_that_gave_themselves_away_are_named_the_quickest_first(key, saved):
    slow = [9, 1, 5, 5, 5, 5, 5, 5, 5, 5]
    paths = [
        saved("a", "gggrr" + "rrrrg", seconds=slow),
        saved("b", "ggrgr" + "rrrgg", seconds=slow),
        saved("c", "ggrrr" + "rrrrg", seconds=slow),
        saved("d", "ggrrg" + "rrrrr", seconds=slow),
    ]
    result = score_survey(paths, key)
    assert [f.case for f in result.gave_themselves_away] == ["case1", "case0"]
    assert [f.case for f in result.taken_for_generated] == ["case9"]
    # Three or four of four heads: 5 / 16, for each of five frames.
    assert result.expected == pytest.approx(5 * 5 / 16)
    words = result.in_words()
    assert "imagesTr/case1.png: 4 of 4, 1.0 s" in words
    assert "imagesTr/case9.png: 3 of 4" in words
    assert "note: made small" in words


def test_the_result_is_json(key, saved):
    facts = score_survey([saved("a", "ggggr" + "rrrrg")], key).to_dict()
    again = json.loads(json.dumps(facts))
    assert again["gave_themselves_away"] == ["case0", "case1", "case2", "case3"]
    assert again["readers"][0]["reader"] == "a"


def test_the_folder_of_the_survey_will_do_as_its_key(key, saved):
    path = saved("a", "g" * 10)
    assert score_survey([path], key.parent) == score_survey([path], key)


def broken(**changes):
    content = content_of("a", "g" * 10)
    return {**content, **changes}


ANSWER = {"id": NAMES[0], "answer": "real", "milliseconds": 5}
FAULTS = {
    "answers of survey xyz": broken(survey="xyz"),
    "no frame ffffffff": broken(answers=[{**ANSWER, "id": "ffffffff"}]),
    "answered twice": broken(answers=[ANSWER, ANSWER]),
    "only real and generated": broken(answers=[{**ANSWER, "answer": "yes"}]),
    "took -5 milliseconds": broken(answers=[{**ANSWER, "milliseconds": -5}]),
    "took nan milliseconds": broken(answers=[{**ANSWER, "milliseconds": float("nan")}]),
    "has answered nothing": broken(answers=[]),
    "not answers of a survey": [],
    "'milliseconds'": broken(answers=[{"id": NAMES[0], "answer": "real"}]),
    "names no reader": broken(reader=" "),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faulty_answers_are_named_with_their_file(key, tmp_path, message):
    path = tmp_path / "faulty.json"
    path.write_text(json.dumps(FAULTS[message]))
    with pytest.raises(AugmintError, match=message) as caught:
        score_survey([path], key)
    assert str(path) in str(caught.value)


def test_broken_and_absent_files(key, tmp_path, saved):
    good, bad = saved("a", "g" * 10), tmp_path / "bad.json"
    bad.write_text('{"survey": "abc", "ans')
    with pytest.raises(AugmintError, match="not readable as JSON"):
        score_survey([bad], key)
    with pytest.raises(AugmintError, match=r"absent\.json: no such file"):
        score_survey([tmp_path / "absent.json"], key)
    with pytest.raises(AugmintError, match="no answers to score"):
        score_survey([], key)
    with pytest.raises(AugmintError, match="not the key of a survey"):
        score_survey([good], good)


def test_two_files_of_one_reader_are_refused(key, tmp_path, saved):
    first, second = saved("Anna", "g" * 10), saved("anna", "r" * 10)
    with pytest.raises(AugmintError, match="both of reader 'anna'"):
        score_survey([first, second], key)
