"""The words of anatomical rules, and rule sets read from YAML.

A rule set is a list of words, each with the classes it is about:

```yaml
name: kidneys with a tumour
rules:
  - components: {of: kidney, pieces: 2}
  - encloses: {outer: kidney, inner: tumour, most: 180}
  - area: {of: [kidney, tumour]}
  - continuous: {of: kidney}
```

`of` takes one class or a list of them (the rule then holds for each); `A+B` stands for two classes
as one. What a mask may measure is learned from real masks, unless a rule says `least` or `most`
itself, in the unit of its word. Sizes and lengths are in mm2 and mm where the spacing is known,
else in px. `whole: true` beside `name` judges a volume as one body (sizes in mm3 or voxels) and not
slice by slice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from augmint.data.layout import listed
from augmint.errors import AugmintError

BUILT_IN = ("short-axis-heart", "apical-view")


@dataclass(frozen=True)
class Word:
    """A word of the vocabulary.

    Attributes:
        meaning: What it asks of a mask, and in which unit it measures.
        quantity: The name of what it measures.
        kind: `defect`, which real masks hardly ever have; `range`, which they all have; `step`, of
            which only the most is limited.
        unit: `size`, `length`, `contact`, `turn`, or as it is written.
        first: Field of the class that the rule is about.
        second: Field of the other class, where the word has one.
        may: Further fields.
        stack: Whether it compares the slices of a volume.
    """

    meaning: str
    quantity: str
    kind: Literal["defect", "range", "step"]
    unit: str
    first: str = "of"
    second: str = ""
    may: tuple[str, ...] = ()
    stack: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """All its fields, the needed ones first."""
        return tuple(name for name in (self.first, self.second) if name) + self.may


WORDS: Mapping[str, Word] = {
    "present": Word(
        "the class is somewhere in the case, and in each slice of a stack's middle third if real "
        "stacks have it there",
        "{of} present", "defect", "missing",
    ),
    "needs": Word(
        "where the class is, the other is too", "{of} with {other}", "defect", "missing",
        second="with",
    ),
    "components": Word(
        "the class is in one piece (`pieces`: in so many at most), diagonal neighbours joined; "
        "measured is the size of all that lies outside the largest",
        "{of} components", "defect", "size", may=("pieces", "most"),
    ),
    "solid": Word(
        "the class has no holes; measured is the size of the background that it closes in",
        "{of} holes", "defect", "size", may=("most",),
    ),
    "encloses": Word(
        "the inner class borders on the outer one alone, and on those in `also`; measured is the "
        "rest of its outline, in degrees of 360 (of a body, in %). `open_at: base` gives the third "
        "of a stack nearest to the heart's base a limit of its own",
        "{other} open around {of}", "defect", "turn", first="inner", second="outer",
        may=("also", "open_at", "most"),
    ),
    "not_touching": Word(
        "the two share no border; measured is its length (of bodies, its area)",
        "{of} touching {other}", "defect", "contact", second="with", may=("most",),
    ),
    "touching": Word(
        "the two share a border where both are; measured is its part of the first one's outline "
        "in %",
        "{of} bordering {other}", "range", "%", second="with", may=("least", "most"),
    ),
    "area": Word("the size of the class", "{of} area", "range", "size", may=("least", "most")),
    "ratio": Word(
        "the size of the class as a multiple of the other's", "{of} to {other} ratio", "range", "",
        second="to", may=("least", "most"),
    ),
    "wall": Word(
        "how thick the class is around the other where it is thin: the 5th percentile of the "
        "distance from the inner side to the outside",
        "{of} wall around {other}", "range", "length", second="around", may=("least", "most"),
    ),
    "continuous": Word(
        "the class is in every slice between the first and the last that have it; measured is the "
        "number that lack it",
        "{of} gaps", "defect", "slices", may=("most",), stack=True,
    ),
    "area_jump": Word(
        "how far a slice's size is off the mean of the two beside it, in % of the class's largest",
        "{of} area jump", "step", "%", may=("most",), stack=True,
    ),
    "shift": Word(
        "how far a slice's centre is off the middle of those of the two beside it, in % of the "
        "radius of a circle as large as the class's largest slice",
        "{of} shift", "step", "%", may=("most",), stack=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One rule about one class.

    Attributes:
        word: A key of `WORDS`.
        of: The class, or `A+B`.
        other: The second class, where the word has one.
        also: Further classes that an enclosed one may border on.
        pieces: How many pieces the class may have.
        open_at: `base` where an enclosure may be more open there.
        least: The least value allowed; None to learn it.
        most: The largest value allowed; None to learn it.
    """

    word: str
    of: str
    other: str = ""
    also: tuple[str, ...] = ()
    pieces: int = 1
    open_at: str = ""
    least: float | None = None
    most: float | None = None

    @cached_property
    def quantity(self) -> str:
        """The name of what it measures, for example `LV area`."""
        return WORDS[self.word].quantity.format(of=self.of, other=self.other)

    @cached_property
    def waived_by(self) -> frozenset[str]:
        """The quantities that free a mask from this rule when they were asked for.

        Who asks for a large LV asks for a large share of it, too.
        """
        parts: tuple[str, ...] = ()
        if self.word in ("area", "ratio"):
            parts = self.regions
        elif self.word == "wall":
            parts = (self.of,)
        names = {name for region in parts for name in (region, *region.split("+"))}
        return frozenset({self.quantity, *(f"{name.strip()} area" for name in names)})

    @property
    def regions(self) -> tuple[str, ...]:
        """All classes that it speaks of."""
        return tuple(name for name in (self.of, self.other, *self.also) if name)


@dataclass(frozen=True)
class Rules:
    """A set of rules.

    Attributes:
        name: In words.
        rules: In the order in which faults are told.
        labels: The class names that it is built in for; empty in a user's.
        whole: Judge a volume as one body, not slice by slice.
    """

    name: str
    rules: tuple[Rule, ...]
    labels: tuple[str, ...] = ()
    whole: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of what is asked; limits belong to it."""
        content = json.dumps([self.whole, self.to_json()["rules"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """What is asked as plain values, whatever it is named."""
        return {"whole": self.whole, "rules": [asdict(rule) for rule in self.rules]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: str) -> Rules:
        """The converse of `to_json`, under a name."""
        rules = (Rule(**{**rule, "also": tuple(rule["also"])}) for rule in content["rules"])
        return cls(name, tuple(rules), whole=content["whole"])

    def among(self, labels: Collection[str]) -> Rules:
        """The rules whose classes are all among these.

        Raises:
            AugmintError: if none is left.
        """
        known = {name: 1 for name in labels}
        kept = tuple(r for r in self.rules if all(_parts(p, known) is not None for p in r.regions))
        if not kept:
            raise AugmintError(
                f"rules {self.name!r}: none is about {listed(sorted(known)) or 'no class'} alone; "
                "give rules for these classes"
            )
        return replace(self, rules=kept)

    def classes(self, region: str, labels: Mapping[str, int]) -> list[int]:
        """The class indices of a name or of `A+B`.

        Raises:
            AugmintError: if there is no such label.
        """
        found = _parts(region, labels)
        if found is None:
            known = [name for name, index in labels.items() if index > 0]
            close = get_close_matches(region, known, 1)
            raise AugmintError(
                f"rules {self.name!r}: no label is named {region!r}"
                + (f" (did you mean {close[0]!r}?)" if close else "")
                + f"; the labels are {listed(known, 20)}. Correct the rules or the label map"
            )
        return found


def _parts(region: str, labels: Mapping[str, int]) -> list[int] | None:
    """Indices of a region's classes; a name with a plus in it goes before a sum of names."""
    names = [region] if region in labels else [name.strip() for name in region.split("+")]
    found = [labels[name] for name in names if name in labels]
    return found if len(found) == len(names) and 0 not in found else None


def rules_for(labels: Collection[str]) -> Rules | None:
    """The built-in rules of a label set, by its names; None where none fit.

    Args:
        labels: The names; `background` is left out.
    """
    names = set(labels) - {"background"}
    fitting = (rules for rules in map(read_rules, BUILT_IN) if set(rules.labels) == names)
    return next(fitting, None)


def choose_rules(rules: str | Path | Rules | None, labels: Mapping[str, int]) -> Rules | None:
    """The rules of a YAML file, a built-in name or that were read, else those built in for the
    labels, if any.

    Raises:
        AugmintError: if rules that were given speak of a class that the labels do not have.
    """
    if rules is None:
        return rules_for(labels)
    chosen = rules if isinstance(rules, Rules) else read_rules(rules)
    for region in (region for rule in chosen.rules for region in rule.regions):
        try:
            chosen.classes(region, labels)
        except AugmintError as error:
            if chosen is rules:
                raise
            classes = sorted({r for rule in chosen.rules for r in rule.regions})
            raise AugmintError(
                f"--rules {rules} speaks of {listed(classes, 20)}: {error}"
            ) from error
    return chosen


def read_rules(source: str | Path) -> Rules:
    """Rules from a YAML file, or built-in ones by their name (`BUILT_IN`).

    Raises:
        AugmintError: if there is no such file, it is no YAML, or a word, field or value is wrong;
            the message names the rule by its number in the list.
    """
    if str(source) in BUILT_IN:
        text = (resources.files("augmint.quality") / "rules" / f"{source}.yaml").read_text("utf-8")
        return parse_rules(text, f"rules {source}")
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AugmintError(
            f"rules {source}: cannot be read ({error}); give a YAML file, or one of "
            f"{', '.join(BUILT_IN)}"
        ) from error
    return parse_rules(text, f"rules {path}")


def parse_rules(text: str, place: str) -> Rules:
    """Rules from the text of a YAML file; `place` begins each message of a fault.

    Raises:
        AugmintError: as `read_rules`.
    """
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise AugmintError(f"{place}: is no YAML: {error}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("rules"), list):
        raise AugmintError(f"{place}: give a list named rules, such as `- area: {{of: LV}}`")
    known = ("name", "labels", "whole", "rules")
    if unknown := [str(key) for key in content if key not in known]:
        raise AugmintError(f"{place}: unknown field {listed(unknown)}; use {', '.join(known)}")
    whole = content.get("whole", False)
    if not isinstance(whole, bool):
        raise AugmintError(f"{place}, whole: must be true or false, not {whole!r}")
    name = content.get("name", place.removeprefix("rules "))
    if not isinstance(name, str):
        raise AugmintError(f"{place}, name: must be text, not {name!r}")
    labels = _names(content["labels"], f"{place}, labels") if "labels" in content else ()
    rules: list[Rule] = []
    for number, entry in enumerate(content["rules"], 1):
        rules += _read_entry(entry, f"{place}, rule {number}", whole)
    quantities = [rule.quantity for rule in rules]
    twice = sorted({q for q in quantities if quantities.count(q) > 1})
    if twice or not rules:
        what = f"{listed(twice)} is asked twice; ask once" if twice else "holds no rule; give one"
        raise AugmintError(f"{place}: {what}")
    return Rules(name, tuple(rules), labels, whole)


def _read_entry(entry: Any, place: str, whole: bool) -> list[Rule]:
    """One item of the list: a rule for each class that it names."""
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise AugmintError(f"{place}: must be one word with its fields, not {entry!r}")
    (word, given), *_ = entry.items()
    if word not in WORDS:
        close = get_close_matches(str(word), WORDS, 1)
        raise AugmintError(
            f"{place}: unknown word {word!r}"
            + (f" (did you mean {close[0]!r}?)" if close else "")
            + f"; the words are {', '.join(WORDS)}"
        )
    told, place = WORDS[word], f"{place}, {word}"
    if not isinstance(given, Mapping):
        raise AugmintError(f"{place}: give its fields, such as `{word}: {{{told.first}: LV}}`")
    unknown = [str(key) for key in given if key not in told.fields]
    missing = [key for key in (told.first, told.second) if key and key not in given]
    if unknown or missing:
        fault = f"unknown field {listed(unknown)}" if unknown else f"needs {listed(missing)}"
        raise AugmintError(f"{place}: {fault}; its fields are {', '.join(told.fields)}")
    if whole and (told.stack or "open_at" in given):
        raise AugmintError(
            f"{place}: compares slices, and `whole: true` has none; drop one of them"
        )
    other = _names(given[told.second], f"{place}, {told.second}") if told.second else ("",)
    if len(other) != 1:
        raise AugmintError(f"{place}, {told.second}: name one class, or two as one: `A+B`")
    same = {
        "other": other[0],
        "also": _names(given["also"], f"{place}, also") if "also" in given else (),
        "pieces": _number(given, "pieces", place, whole=True) or 1,
        "open_at": given.get("open_at", ""),
        "least": _number(given, "least", place),
        "most": _number(given, "most", place),
    }
    if same["open_at"] not in ("", "base"):
        raise AugmintError(f"{place}, open_at: must be base, not {same['open_at']!r}")
    if None not in (same["least"], same["most"]) and same["least"] > same["most"]:
        raise AugmintError(f"{place}: least {same['least']} is more than most {same['most']}")
    rules = [Rule(word, of, **same) for of in _names(given[told.first], f"{place}, {told.first}")]
    for rule in rules:
        parts = [part.strip() for region in rule.regions for part in region.split("+")]
        if len(set(parts)) < len(parts):
            raise AugmintError(f"{place}: names a class twice ({listed(parts, 20)})")
    return rules


def _names(value: Any, place: str) -> tuple[str, ...]:
    """One class name or a list of them."""
    names: Sequence[Any] = value if isinstance(value, list) else [value]
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong or not names:
        what = repr(wrong[0]) if wrong else "an empty list"
        raise AugmintError(
            f"{place}: must be a label's name or a list of them, not {what}; put names that look "
            "like numbers or yes and no in quotes"
        )
    return tuple(name.strip() for name in names)


def _number(given: Mapping[str, Any], field: str, place: str, *, whole: bool = False) -> Any:
    """A number of 0 or more, a whole one of 1 or more, or None where it is not given."""
    if field not in given:
        return None
    value = given[field]
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not (1 if whole else 0) <= value < float("inf"):
        kind = "a whole number of 1 or more" if whole else "a number of 0 or more"
        raise AugmintError(f"{place}, {field}: must be {kind}, not {value!r}")
    return value
