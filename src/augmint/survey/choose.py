"""Which frames a reader sees: as many generated as real, alike in what is known of them, apart."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from augmint.data.dataset import Item
from augmint.errors import AugmintError

COLUMNS = ("domain", "view", "phase")


@dataclass(frozen=True)
class Choice:
    """The frames of a survey.

    Attributes:
        pairs: (generated, real), of one domain, view and phase as far as there are enough.
        apart: `patients` where no patient is in both kinds, `cases` where no source is shown
            beside its own synthetic case.
        balanced: Columns that generated and real frames were matched on.
        unmatched: Pairs that differ in them.
        repeated: Generated frames of a source that an earlier one has, too.
    """

    pairs: tuple[tuple[Item, Item], ...]
    apart: str
    balanced: tuple[str, ...]
    unmatched: int
    repeated: int


def choose_pairs(
    generated: Sequence[Item], real: Sequence[Item], count: int, rng: random.Random
) -> Choice:
    """Draw `count` generated and as many real cases.

    Patients are split between the two kinds, so that a reader sees no patient in both. Where there
    are too few patients for that, cases are split: no source is shown beside what was made of it.

    Args:
        generated: Synthetic cases.
        real: Real cases.
        count: How many of each.
        rng: Source of randomness.

    Raises:
        AugmintError: if there are too few cases to keep sources and their synthetic cases apart.
    """
    for apart, unit in (("patients", _patient), ("cases", _source)):
        parts = _separate(generated, real, count, unit, rng)
        if parts is not None:
            columns = tuple(c for c in COLUMNS if _has(generated, c) and _has(real, c))
            pairs, unmatched = _matched(*parts, count, columns, rng)
            sources = {_source(made) for made, _ in pairs}
            return Choice(tuple(pairs), apart, columns, unmatched, count - len(sources))
    less = range(count - 1, 0, -1)
    most = next((k for k in less if _separate(generated, real, k, _source, rng)), 0)
    remedy = f"ask for at most {2 * most} images" if most else "give more real cases"
    raise AugmintError(
        f"{2 * count} images need {count} generated and {count} real ones, no real one the source "
        f"of a generated one; there are {len(generated)} generated and {len(real)} real cases, too "
        f"few for that: {remedy}, generate from more cases, or name other real data of the kind"
    )


def _patient(item: Item) -> str:
    return item.patient_id


def _source(item: Item) -> str:
    return item.provenance.source_case if item.provenance else item.case_id


def _has(items: Sequence[Item], column: str) -> bool:
    return any(_value(item, column) for item in items)


def _value(item: Item, column: str) -> str:
    return item.domain if column == "domain" else item.columns.get(column, "")


def _separate(
    generated: Sequence[Item],
    real: Sequence[Item],
    count: int,
    unit: Callable[[Item], str],
    rng: random.Random,
) -> tuple[list[Item], list[Item]] | None:
    """Generated and real cases without a common unit, `count` of each at least; None if too few."""
    made, found = Counter(map(unit, generated)), Counter(map(unit, real))
    domain = {unit(item): item.domain for item in real}
    shared = sorted(made.keys() & found.keys())
    rng.shuffle(shared)
    shared.sort(key=lambda one: domain[one])  # alternate within each domain
    ours, theirs = set(shared[::2]), set(shared[1::2])
    room_made = len(generated) - sum(made[one] for one in theirs)
    room_real = len(real) - sum(found[one] for one in ours)
    for one in shared:
        if room_real < count and one in ours and room_made - made[one] >= count:
            ours.remove(one)
            theirs.add(one)
            room_made, room_real = room_made - made[one], room_real + found[one]
        elif room_made < count and one in theirs and room_real - found[one] >= count:
            theirs.remove(one)
            ours.add(one)
            room_made, room_real = room_made + made[one], room_real - found[one]
    if min(room_made, room_real) < count:
        return None
    return (
        [item for item in generated if unit(item) not in theirs],
        [item for item in real if unit(item) not in ours],
    )


def _matched(
    generated: Sequence[Item],
    real: Sequence[Item],
    count: int,
    columns: Sequence[str],
    rng: random.Random,
) -> tuple[list[tuple[Item, Item]], int]:
    """Pairs of the same values in `columns`, each combination in turn; and how many could not be.

    Sources and patients that were drawn least come first.
    """
    drawn: Counter[str] = Counter()
    left, right = _groups(generated, columns, rng), _groups(real, columns, rng)
    groups = sorted(left.keys() & right.keys())
    rng.shuffle(groups)
    pairs: list[tuple[Item, Item]] = []
    while len(pairs) < count and (groups := [g for g in groups if left[g] and right[g]]):
        turn = groups[: count - len(pairs)]
        pairs += [(_take(left[group], drawn), _take(right[group], drawn)) for group in turn]
    unmatched = count - len(pairs)
    rest_made = [item for items in left.values() for item in items]
    rest_real = [item for items in right.values() for item in items]
    pairs += [(_take(rest_made, drawn), _take(rest_real, drawn)) for _ in range(unmatched)]
    return pairs, unmatched


def _groups(
    items: Sequence[Item], columns: Sequence[str], rng: random.Random
) -> dict[tuple[str, ...], list[Item]]:
    groups: dict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in rng.sample(items, len(items)):
        groups[tuple(_value(item, column) for column in columns)].append(item)
    return groups


def _take(items: list[Item], drawn: Counter[str]) -> Item:
    best = min(
        items, key=lambda i: (drawn[f"source {_source(i)}"], drawn[f"patient {_patient(i)}"])
    )
    items.remove(best)
    drawn.update((f"source {_source(best)}", f"patient {_patient(best)}"))
    return best
