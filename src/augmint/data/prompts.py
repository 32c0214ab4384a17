"""Prompts: what an image shows, in words of known fields, and sentences read into them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from augmint.case import Case
from augmint.data.dataset import Dataset, Item
from augmint.errors import AugmintError
from augmint.imaging.properties import LEVELS, PROPERTIES

# Fields of what an image shows, then those of its style.
CONTENT = ("modality", "organ", "finding", "view", "phase", "domain")
FIELDS = (*CONTENT, *PROPERTIES)

# Names of one thing. A vocabulary keeps the first that its data use.
SYNONYMS = (
    ("MR", "MRI", "magnetic resonance", "magnetic resonance imaging", "cine MR", "cine MRI"),
    ("CT", "computed tomography", "CAT"),
    ("ultrasound", "US", "echo", "echocardiography", "echocardiogram", "sonography", "sonogram"),
    ("X-ray", "xray", "radiograph", "radiography"),
    ("heart", "cardiac"),
    ("brain", "cerebral"),
    ("liver", "hepatic"),
    ("kidney", "renal"),
    ("lung", "lungs", "pulmonary"),
    ("normal", "healthy", "no finding", "no findings"),
    ("tumour", "tumor"),
    ("oedema", "edema"),
    ("2CH", "two-chamber", "2-chamber", "A2C", "apical two-chamber", "apical 2-chamber"),
    ("3CH", "three-chamber", "3-chamber", "A3C", "apical three-chamber", "apical 3-chamber"),
    ("4CH", "four-chamber", "4-chamber", "A4C", "apical four-chamber", "apical 4-chamber"),
    ("short-axis", "SAX"),
    ("long-axis", "LAX"),
    ("ED", "end-diastole", "end-diastolic", "diastole"),
    ("ES", "end-systole", "end-systolic", "systole"),
)
# What people say for the levels of a property, beside the levels' own names.
LEVEL_WORDS = {
    "low": ("little", "weak", "poor", "reduced", "less"),
    "medium": ("moderate", "average", "normal"),
    "high": ("strong", "enhanced", "increased", "much", "more"),
}
STYLE_WORDS = {
    "low noise": ("clean", "noiseless", "no noise", "without noise"),
    "high noise": ("noisy", "grainy"),
    "low sharpness": ("blurred", "blurry", "low resolution"),
    "high sharpness": ("sharp", "crisp", "high resolution"),
    "low brightness": ("dark",),
    "high brightness": ("bright",),
}
# Words of a sentence that say nothing of the image.
# fmt: off
FILLERS = frozenset((
    "a", "an", "and", "any", "at", "by", "for", "from", "generate", "image", "images", "in",
    "is", "it", "its", "make", "me", "of", "on", "one", "picture", "please", "scan", "scans",
    "show", "showing", "slice", "slices", "some", "that", "the", "there", "this", "to", "view",
    "views", "with",
))
# fmt: on
NEGATIONS = frozenset(("no", "not", "without", "non"))
# How alike two words are, from 0 to 1, to be named as near; letters dropped or exchanged.
LIKENESS = 0.6
NEAREST = 3


@dataclass(frozen=True)
class Vocabulary:
    """The words that a generator knows.

    Attributes:
        fields: Field to its words, in a fixed order; a word's place is its index in `encode`.

    Raises:
        AugmintError: if two words of a field are one but for case, hyphens or synonyms, or one is
            empty.
    """

    fields: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for field, words in self.fields.items():
            seen: dict[str, str] = {}
            for word in words:
                key = _canonical(word)
                if not key:
                    raise AugmintError(f"{field}: {word!r} is no word; give letters or digits")
                if key in seen:
                    raise AugmintError(
                        f"{field}: {seen[key]!r} and {word!r} are the same word; keep one of them"
                    )
                seen[key] = word

    @property
    def words(self) -> tuple[str, ...]:
        """All words, field by field."""
        return tuple(word for words in self.fields.values() for word in words)

    def find(self, text: str) -> dict[str, str]:
        """The fields that know this word or a synonym of it, and how they write it."""
        key = _canonical(text)
        return {
            field: word
            for field, words in self.fields.items()
            for word in words
            if _canonical(word) == key
        }

    def encode(self, words: Mapping[str, str]) -> tuple[int, ...]:
        """An index for each field: 0 where nothing is said, else 1 + the word's place.

        Args:
            words: Field to word, as `parse_prompt` gives it; synonyms are known.

        Raises:
            AugmintError: if a field or a word is unknown.
        """
        if unknown := sorted(set(words) - set(self.fields)):
            raise AugmintError(
                f"no field {', '.join(unknown)} in this vocabulary; choose from "
                f"{', '.join(self.fields)}"
            )
        indices = []
        for field, known in self.fields.items():
            if field not in words:
                indices.append(0)
                continue
            word = self.find(words[field]).get(field)
            if word is None:
                raise AugmintError(
                    f"{field} {words[field]!r} is unknown; choose from {', '.join(known)}"
                )
            indices.append(1 + known.index(word))
        return tuple(indices)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON files."""
        return {"fields": {field: list(words) for field, words in self.fields.items()}}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Vocabulary:
        """The converse of `to_json`.

        Raises:
            AugmintError: if it is not a vocabulary.
        """
        fields = stored.get("fields") if isinstance(stored, Mapping) else None
        if not isinstance(fields, Mapping) or not all(
            isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
            for words in fields.values()
        ):
            raise AugmintError(
                'a stored vocabulary is {"fields": {field: [words]}}; write it again with the fit'
            )
        return Vocabulary({str(field): tuple(words) for field, words in fields.items()})


@dataclass(frozen=True)
class Ignored:
    """A part of a prompt that has no effect.

    Attributes:
        text: In small letters, hyphens parted.
        nearest: The known words that are nearest, best first.
        reason: Why, in a few words.
    """

    text: str
    nearest: tuple[str, ...] = ()
    reason: str = "unknown"

    def __str__(self) -> str:
        near = f"; nearest: {', '.join(self.nearest)}" if self.nearest else ""
        return f"{self.text!r} ({self.reason}{near})"


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was understood.

    Attributes:
        words: Field to word, in the vocabulary's order of fields and its spelling.
        ignored: What was not understood, in the order in which it was written.
    """

    words: Mapping[str, str]
    ignored: tuple[Ignored, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.words.values())


def describe_item(dataset: Dataset, item: Item) -> dict[str, str]:
    """What the dataset says of a case: field to word, of the fields of `CONTENT`.

    A domain that is the view is the view alone.
    """
    said = {field: item.columns.get(field, "").strip() for field in CONTENT}
    said["modality"] = dataset.modality or said["modality"]
    said["domain"] = "" if item.domain == said["view"] else item.domain
    return {field: word for field, word in said.items() if _tokens(word)}


def describe_case(case: Case, vocabulary: Vocabulary) -> dict[str, str]:
    """What a loaded case says of itself, as far as the vocabulary knows it: field to word.

    A case names no fields, so each of its words fills the first free field that knows it.
    """
    words: dict[str, str] = {}
    for text in (*case.text, case.domain):
        found = vocabulary.find(text)
        if field := next((name for name in found if name not in words), None):
            words[field] = found[field]
    return {field: words[field] for field in vocabulary.fields if field in words}


def build_vocabulary(
    described: Iterable[Mapping[str, str]], *, properties: Sequence[str] = PROPERTIES
) -> Vocabulary:
    """The vocabulary of cases: their words, and the levels of the properties of style.

    Args:
        described: Of each case its fields and words, as `describe_item` says them; more may be
            added, as an organ that the dataset does not name.
        properties: Which properties of style have words.

    Raises:
        AugmintError: if a field is none of `CONTENT`, or a property none of `PROPERTIES`.
    """
    found: dict[str, dict[str, str]] = {field: {} for field in CONTENT}
    for fields in described:
        if unknown := sorted(set(fields) - set(CONTENT)):
            raise AugmintError(
                f"no field {', '.join(unknown)} in prompts; choose from {', '.join(CONTENT)}"
            )
        for field, word in fields.items():
            found[field].setdefault(_canonical(word), word)
    if wrong := sorted(set(properties) - set(PROPERTIES)):
        raise AugmintError(
            f"no property {', '.join(wrong)} is measured; choose from {', '.join(PROPERTIES)}"
        )
    content = {field: tuple(sorted(words.values())) for field, words in found.items() if words}
    style = {name: tuple(f"{level} {name}" for level in LEVELS) for name in properties}
    return Vocabulary({**content, **style})


def parse_prompt(text: str, vocabulary: Vocabulary) -> Prompt:
    """Read a prompt: `ultrasound, heart, four-chamber, low contrast`, or a sentence.

    The longest known words are taken first, from left to right; case, hyphens and synonyms do not
    matter. What is left between them is ignored and listed, as are a second word of a field and a
    word that is denied.

    Args:
        text: The prompt.
        vocabulary: The words that are known.

    Raises:
        AugmintError: if nothing was understood; it names the nearest known words.
    """
    words: dict[str, str] = {}
    ignored: list[Ignored] = []
    for phrase in re.split(r"[,;.\n]", text):
        _read_phrase(phrase, vocabulary, words, ignored)
    if not words:
        said = ", ".join(str(part) for part in ignored) or repr(text)
        raise AugmintError(
            f"nothing of the prompt was understood: {said}; known are {', '.join(vocabulary.words)}"
        )
    return Prompt({f: words[f] for f in vocabulary.fields if f in words}, tuple(ignored))


def _read_phrase(
    phrase: str, vocabulary: Vocabulary, words: dict[str, str], ignored: list[Ignored]
) -> None:
    """Take the words of one phrase, and what is left of it."""
    tokens = _tokens(phrase)
    longest = max((len(_tokens(name)) for name in _names(vocabulary)), default=0)
    unknown: list[str] = []
    denied = False

    def leave() -> None:
        if unknown:
            left = " ".join(unknown)
            ignored.append(Ignored(left, _nearest(left, vocabulary)))
            unknown.clear()

    at = 0
    while at < len(tokens):
        size, found = 0, dict[str, str]()
        for size in range(min(longest, len(tokens) - at), 0, -1):
            if found := vocabulary.find(" ".join(tokens[at : at + size])):
                break
        if not found:
            word = tokens[at]
            denied = word in NEGATIONS or (denied and word in FILLERS)
            if word in FILLERS or denied:
                leave()
            else:
                unknown.append(word)
            at += 1
            continue
        leave()
        said = " ".join(tokens[at : at + size])
        # A word of two fields fills the first that is still free.
        field = next((name for name in found if name not in words), next(iter(found)))
        if denied:
            ignored.append(Ignored(f"no {said}", reason="a prompt cannot deny"))
        elif field not in words:
            words[field] = found[field]
        elif words[field] != found[field]:
            reason = f"{field} is {words[field]!r} already"
            ignored.append(Ignored(said, reason=reason))
        denied = False
        at += size
    leave()


def _nearest(text: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The known words that a text resembles, by their names or synonyms."""
    names = _names(vocabulary)
    # A word of several is near as well where one of them is meant: `lwo contrast wanted`.
    tried = [text, *text.split()] if " " in text else [text]
    near = [
        names[match]
        for part in tried
        for match in get_close_matches(part, names, n=NEAREST, cutoff=LIKENESS)
    ]
    return tuple(dict.fromkeys(near))[:NEAREST]


def _names(vocabulary: Vocabulary) -> dict[str, str]:
    """Every name that is understood, in plain letters, to the vocabulary's word."""
    by_key = {_canonical(word): word for word in vocabulary.words}
    names = {_plain(word): word for word in vocabulary.words}
    for name, key in _ALIASES.items():
        if key in by_key:
            names.setdefault(name, by_key[key])
    return names


def _tokens(text: str) -> list[str]:
    """Words in small letters; hyphens and underscores part them."""
    return re.findall(r"[^\W_]+", text.casefold())


def _plain(text: str) -> str:
    return " ".join(_tokens(text))


def _canonical(text: str) -> str:
    """One name for all synonyms."""
    plain = _plain(text)
    return _ALIASES.get(plain, plain)


def _aliases() -> dict[str, str]:
    """Each synonym, in plain letters, to the first of its group."""
    groups = [tuple(_plain(name) for name in group) for group in SYNONYMS]
    for name in PROPERTIES:
        for level, others in LEVEL_WORDS.items():
            pairs = [f"{word} {name}" for word in (level, *others)]
            turned = [f"{name} {word}" for word in (level, *others)]
            own = STYLE_WORDS.get(f"{level} {name}", ())
            groups.append((*pairs, *turned, *own))
    return {name: group[0] for group in groups for name in group}


_ALIASES = _aliases()
