import json

import numpy as np
import pytest
import torch
from PIL import Image

from augmint.case import Case, Grid, IntensityMap
from augmint.data.dataset import open_dataset
from augmint.data.prompts import (
    Vocabulary,
    build_vocabulary,
    describe_case,
    describe_item,
    parse_prompt,
)
from augmint.errors import AugmintError
from augmint.imaging.properties import LEVELS, PROPERTIES

DESCRIBED = (
    {"modality": "ultrasound", "organ": "heart", "view": "4CH", "phase": "ED"},
    {"modality": "ultrasound", "organ": "heart", "view": "2CH", "finding": "no finding"},
    {"modality": "MR", "organ": "heart", "finding": "dilated cardiomyopathy", "domain": "Siemens"},
    {"modality": "MR", "organ": "brain", "finding": "normal", "domain": "GE"},
)
VOCABULARY = build_vocabulary(DESCRIBED)


def texts(prompt):
    return [part.text for part in prompt.ignored]


# Reading


def test_phrases_parted_by_commas_become_fields():
    prompt = parse_prompt("ultrasound, heart, four-chamber, low contrast", VOCABULARY)
    assert prompt.words == {
        "modality": "ultrasound",
        "organ": "heart",
        "view": "4CH",
        "contrast": "low contrast",
    }
    assert prompt.ignored == ()
    assert str(prompt) == "ultrasound, heart, 4CH, low contrast"


@pytest.mark.parametrize(
    ("said", "field", "word"),
    [
        ("US", "modality", "ultrasound"),
        ("echo", "modality", "ultrasound"),
        ("MRI", "modality", "MR"),
        ("Magnetic Resonance", "modality", "MR"),
        ("4ch", "view", "4CH"),
        ("A4C", "view", "4CH"),
        ("apical four chamber", "view", "4CH"),
        ("two_chamber", "view", "2CH"),
        ("end-diastole", "phase", "ED"),
        ("cardiac", "organ", "heart"),
        ("DILATED   cardiomyopathy", "finding", "dilated cardiomyopathy"),
        ("siemens", "domain", "Siemens"),
        ("enhanced contrast", "contrast", "high contrast"),
        ("contrast low", "contrast", "low contrast"),
        ("normal contrast", "contrast", "medium contrast"),
        ("noisy", "noise", "high noise"),
        ("without noise", "noise", "low noise"),
        ("high resolution", "sharpness", "high sharpness"),
        ("blurry", "sharpness", "low sharpness"),
    ],
)
def test_case_hyphens_and_synonyms_do_not_matter(said, field, word):
    prompt = parse_prompt(said, VOCABULARY)
    assert prompt.words == {field: word}
    assert prompt.ignored == ()


def test_a_sentence_is_read_and_what_is_left_is_listed():
    prompt = parse_prompt(
        "Can you help to generate a noisy echo of the heart in the apical 4-chamber view?",
        VOCABULARY,
    )
    assert prompt.words == {
        "modality": "ultrasound", "organ": "heart", "view": "4CH", "noise": "high noise",
    }  # fmt: skip
    assert texts(prompt) == ["can you help"]


def test_ignored_words_come_with_the_nearest_known_ones():
    prompt = parse_prompt("MR, hart, ultrsound, lwo contrast, xyzzy", VOCABULARY)
    assert prompt.words == {"modality": "MR"}
    nearest = {part.text: part.nearest for part in prompt.ignored}
    assert nearest["hart"][0] == "heart"
    assert nearest["ultrsound"][0] == "ultrasound"
    assert nearest["lwo contrast"][0] == "low contrast"
    assert nearest["xyzzy"] == ()
    assert "'hart' (unknown; nearest: heart" in str(prompt.ignored[0])


def test_a_misspelt_synonym_leads_to_the_word_it_stands_for():
    (part,) = parse_prompt("heart, sonografy", VOCABULARY).ignored
    assert part.nearest[0] == "ultrasound"


def test_a_second_word_of_a_field_is_ignored_and_its_repetition_is_not_listed():
    prompt = parse_prompt("low contrast, high contrast, low contrast", VOCABULARY)
    assert prompt.words == {"contrast": "low contrast"}
    assert texts(prompt) == ["high contrast"]
    assert "already" in prompt.ignored[0].reason


def test_what_is_denied_is_not_asked_for():
    prompt = parse_prompt("MR of the brain without any dilated cardiomyopathy", VOCABULARY)
    assert "finding" not in prompt.words
    assert texts(prompt) == ["no dilated cardiomyopathy"]


def test_a_finding_that_begins_with_no_is_no_denial():
    assert parse_prompt("heart, no finding", VOCABULARY).words["finding"] == "no finding"


@pytest.mark.parametrize("text", ["", " , ", "a view of the", "spleen"])
def test_a_prompt_of_which_nothing_is_understood_is_an_error(text):
    with pytest.raises(AugmintError, match=r"nothing of the prompt was understood.*ultrasound"):
        parse_prompt(text, VOCABULARY)


def test_the_error_names_the_nearest_words():
    with pytest.raises(AugmintError, match=r"'hart' .*nearest: heart"):
        parse_prompt("hart", VOCABULARY)


def test_a_word_of_two_fields_fills_the_first_and_then_the_other():
    vocabulary = Vocabulary({"organ": ("heart",), "domain": ("heart", "lung")})
    assert parse_prompt("heart", vocabulary).words == {"organ": "heart"}
    assert parse_prompt("heart, heart", vocabulary).words == {"organ": "heart", "domain": "heart"}


def test_every_word_of_a_vocabulary_is_understood_as_itself():
    for field, words in VOCABULARY.fields.items():
        for word in words:
            assert parse_prompt(word, VOCABULARY).words == {field: word}


# Vocabularies


def test_a_vocabulary_holds_what_was_described_and_the_levels_of_style():
    assert VOCABULARY.fields["modality"] == ("MR", "ultrasound")
    assert VOCABULARY.fields["view"] == ("2CH", "4CH")
    assert len(VOCABULARY.words) == 11 + len(LEVELS) * len(PROPERTIES)
    assert "noise" not in build_vocabulary(DESCRIBED, properties=("contrast",)).fields


def test_synonyms_in_the_data_are_one_word():
    merged = build_vocabulary([{"modality": "MRI"}, {"modality": "mr"}], properties=())
    assert merged.fields == {"modality": ("MRI",)}
    # "no finding" and "normal" above.
    assert VOCABULARY.fields["finding"] == ("dilated cardiomyopathy", "no finding")
    with pytest.raises(AugmintError, match="same word"):
        Vocabulary({"modality": ("MR", "MRI")})


def test_json_there_and_back():
    stored = json.loads(json.dumps(VOCABULARY.to_json()))
    assert Vocabulary.from_json(stored) == VOCABULARY


@pytest.mark.parametrize("stored", [{}, {"fields": []}, {"fields": {"organ": "heart"}}, []])
def test_a_broken_file_is_refused(stored):
    with pytest.raises(AugmintError, match="stored vocabulary"):
        Vocabulary.from_json(stored)


def test_indices_start_at_one_and_zero_says_nothing():
    fields = {"modality": ("MR", "ultrasound"), "contrast": ("low contrast", "high contrast")}
    vocabulary = Vocabulary(fields)
    assert vocabulary.encode({}) == (0, 0)
    assert vocabulary.encode({"contrast": "high contrast"}) == (0, 2)
    assert vocabulary.encode({"modality": "MRI", "contrast": "weak contrast"}) == (1, 1)


def test_unknown_fields_words_and_properties_are_refused():
    with pytest.raises(AugmintError, match="no field colour"):
        VOCABULARY.encode({"colour": "red"})
    with pytest.raises(AugmintError, match="organ 'spleen' is unknown; choose from brain, heart"):
        VOCABULARY.encode({"organ": "spleen"})
    with pytest.raises(AugmintError, match="no field colour"):
        build_vocabulary([{"colour": "red"}])
    with pytest.raises(AugmintError, match="no property hue"):
        build_vocabulary([], properties=("hue",))
    with pytest.raises(AugmintError, match="is no word"):
        Vocabulary({"organ": ("--",)})


# Data


def test_cases_of_a_dataset_describe_themselves(tmp_path):
    rows = ["case,patient,domain,view,organ,finding"]
    for number, (domain, view) in enumerate((("4CH", "4CH"), ("GE", "2CH"))):
        for folder, stem in (("imagesTr", f"c{number}_0000"), ("labelsTr", f"c{number}")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / folder / f"{stem}.png")
        rows.append(f"c{number},p{number},{domain},{view},heart,")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    facts = {
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, "LV": 1},
        "numTraining": 2,
        "file_ending": ".png",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    dataset = open_dataset(tmp_path)
    common = {"modality": "ultrasound", "organ": "heart"}
    first, second = (describe_item(dataset, item) for item in dataset.items)
    assert first == {**common, "view": "4CH"}
    assert second == {**common, "view": "2CH", "domain": "GE"}
    vocabulary = build_vocabulary([first, second])
    loaded = dataset.load(dataset.items[0])
    assert describe_case(loaded, vocabulary) == first


def test_words_that_the_vocabulary_does_not_know_are_left_out_of_a_case():
    case = Case(
        image=torch.zeros(1, 4, 4),
        mask=None,
        annotated=frozenset(),
        grid=Grid((4, 4), np.eye(3), False),
        intensity=IntensityMap(low=(0.0,), high=(1.0,), dtype="uint8"),
        case_id="a",
        patient_id="a",
        domain="Philips",
        text=("MRI", "spleen"),
    )
    assert describe_case(case, VOCABULARY) == {"modality": "MR"}
