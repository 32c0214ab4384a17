"""Is a mask anatomically possible? Rules for each label set, their limits learned from real masks.

Which rules hold comes from the names of the labels (`rules_for`), or from a few lines of YAML
(`read_rules`). What they may measure is learned from real masks (`fit_limits`), which break such
rules, too: of defects the worst two in a thousand real values are set aside and the rest is
allowed; of sizes and shapes the real least and most are widened by a tenth. A mask is judged by
those limits (`judge`), a volume slice by slice and as a stack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from augmint.case import Case
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.quality.validity_measures import Item, Measure, base_end, measure, tell, units
from augmint.quality.validity_rules import WORDS, Rule, Rules, parse_rules, read_rules, rules_for

__all__ = [
    "Bound", "Limits", "Rule", "Rules", "Validity", "fit_limits", "fit_limits_to", "judge",
    "judge_case", "parse_rules", "read_rules", "rules_for", "through_grid",
]  # fmt: skip

SCHEMA_VERSION = 1
ALLOWED_DEFECTS = 0.998
MARGIN = 0.1
# Stacks that have the heart's base at the same end before that end is taken for all.
AGREED = 0.9


@dataclass(frozen=True)
class Bound:
    """What a quantity may be, and what it was in real masks.

    Attributes:
        low: The least allowed; None for no bound.
        high: The most allowed; None for no bound.
        unit: Of both.
        least: The least of the real values; None where no real mask had the quantity.
        most: The most of them.
        count: How many real values there were.
        outside: How many of them the bound does not allow.
    """

    low: float | None
    high: float | None
    unit: str
    least: float | None = None
    most: float | None = None
    count: int = 0
    outside: int = 0

    def breach(self, value: float) -> float:
        """How far a value is outside, as a share of the bound (plus 1); 0 inside."""
        if self.low is not None and value < self.low * (1 - 1e-9):
            return (self.low - value) / (self.low + 1)
        if self.high is not None and value > self.high * (1 + 1e-9) + 1e-9:
            return (value - self.high) / (self.high + 1)
        return 0.0

    def allowed(self) -> str:
        """In words; empty where nothing is allowed at all, which goes without saying."""
        if self.low is None:
            return f"allowed up to {tell(self.high)}" if self.high else ""
        if self.high is None:
            return f"allowed from {tell(self.low)}"
        return f"allowed {tell(self.low)} to {tell(self.high)}"


@dataclass(frozen=True)
class Limits:
    """The limits of a rule set on one dataset; stored with a run.

    Attributes:
        rules: Name of the rules.
        fingerprint: Of the rules; they judge no mask by the limits of others.
        spacing_known: Whether sizes and lengths are in mm2 and mm, or in pixels of the masks' grid.
        stacks: Whether they were learned from volumes.
        base: The end of a stack with the heart's base, `first` or `last`; empty where stacks
            disagree or no rule asks.
        masks: How many real masks they were learned from.
        bounds: Quantity to its bound.
    """

    rules: str
    fingerprint: str
    spacing_known: bool
    stacks: bool
    base: str
    masks: int
    bounds: Mapping[str, Bound]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Limits:
        """What `to_json` gave.

        Raises:
            AugmintError: if it is of another version.
        """
        values = dict(content)
        version = values.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise AugmintError(
                f"limits of validity have schema_version {version}, this program reads "
                f"{SCHEMA_VERSION}; learn them again from the real masks"
            )
        bounds = {name: Bound(**bound) for name, bound in values.pop("bounds").items()}
        return cls(**values, bounds=bounds)


@dataclass(frozen=True)
class Validity:
    """The verdict on one mask.

    Attributes:
        ok: Whether it breaks no rule.
        broken: Each broken rule in words, one for each quantity, its worst slice named.
        quantities: The quantity of each, for example `LV components`.
    """

    ok: bool
    broken: tuple[str, ...]
    quantities: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(self.broken)


def fit_limits(
    masks: Iterable[np.ndarray],
    labels: Mapping[str, int],
    rules: Rules,
    *,
    spacing: Sequence[float] | None = None,
    slice_axis: int = -1,
    slice_positions: Sequence[float] | None = None,
    annotated: Collection[int] | None = None,
) -> Limits:
    """Learn what the rules allow from real training masks that lie on one grid.

    Args:
        masks: Class indices, (H, W) or (*spatial) of volumes.
        labels: Label name to index.
        rules: What to ask.
        spacing: mm per axis of every mask; None where unknown: limits are then in pixels and hold
            for masks on the same grid alone.
        slice_axis: Of volumes.
        slice_positions: Of single slices, where each lies in its stack, -1 to 1.
        annotated: Classes that an annotator looked for; rules about others are left out. None: all.

    Raises:
        AugmintError: if there is no mask, one holds anything but its labels, a rule names no label,
            or planes and volumes are mixed.
    """
    positions: Iterable[float | None] = () if slice_positions is None else slice_positions
    where = list(positions)
    items = []
    for number, mask in enumerate(masks):
        position = where[number] if number < len(where) else None
        items.append(
            Item(np.asarray(mask), spacing, slice_axis, position, annotated, f"mask {number}")
        )
    if where and len(where) != len(items):
        raise AugmintError(
            f"{len(items)} masks and {len(where)} slice positions; give one for each"
        )
    return _fit(items, labels, rules)


def fit_limits_to(cases: Iterable[Case], labels: Mapping[str, int], rules: Rules) -> Limits:
    """As `fit_limits`, from real cases on their native grids; unlabelled ones are left out."""
    return _fit((_item(case) for case in cases if case.mask is not None), labels, rules)


def judge(
    mask: np.ndarray,
    labels: Mapping[str, int],
    rules: Rules,
    limits: Limits,
    *,
    waive: Collection[str] = (),
    spacing: Sequence[float] | None = None,
    slice_axis: int = -1,
    slice_position: float | None = None,
    annotated: Collection[int] | None = None,
) -> Validity:
    """Judge one mask.

    Args:
        mask: Class indices, a plane or a volume.
        labels: Label name to index.
        rules: Those that the limits were learned for.
        limits: What they allow.
        waive: Quantities that were asked for, such as `LV area`, and so have no limit here.
        spacing: mm per axis; None where unknown.
        slice_axis: Of a volume.
        slice_position: Of a single slice in its stack, -1 to 1; None where unknown.
        annotated: Classes that an annotator looked for; None for all.

    Raises:
        AugmintError: if limits and mask do not fit together, or as `fit_limits`.
    """
    item = Item(np.asarray(mask), spacing, slice_axis, slice_position, annotated)
    return _judge(item, labels, rules, limits, waive)


def judge_case(
    case: Case,
    labels: Mapping[str, int],
    rules: Rules,
    limits: Limits,
    *,
    waive: Collection[str] = (),
) -> Validity:
    """As `judge`, of a case on its native grid.

    Raises:
        AugmintError: as `judge`, or if the case has no mask.
    """
    if case.mask is None:
        raise AugmintError(f"case {case.case_id!r} has no mask to judge; give labelled cases")
    return _judge(_item(case), labels, rules, limits, waive)


def through_grid(case: Case, grid: WorkingGrid) -> Case:
    """A real case on the working window as a synthetic one gets there.

    A synthetic mask is made on the window, stored on its source's grid and read from there, so
    that it is resampled twice more than a real one; that smooths thin walls and shifts outlines.
    Limits and real masks that synthetic ones stand beside go the same way.

    Args:
        case: On its native grid.
        grid: The working grid.
    """
    window = grid.window
    stored = grid.to_native(grid.to_working(case, shape=window), case.grid)
    return grid.to_working(stored, shape=window)


def _item(case: Case) -> Item:
    assert case.mask is not None
    grid = case.grid
    return Item(
        case.mask.numpy(),
        grid.spacing if grid.spacing_known else None,
        grid.slice_axis if grid.dims == 3 else -1,
        None,
        case.annotated,
        f"case {case.case_id!r}",
    )


def _fit(items: Iterable[Item], labels: Mapping[str, int], rules: Rules) -> Limits:
    found: list[tuple[str, list[Measure]]] = []
    kinds: dict[tuple[int, bool], str] = {}
    for item in items:
        measures = measure(item, rules, labels)
        kinds.setdefault((item.mask.ndim, item.spacing is not None), item.place)
        found.append((base_end(item, rules, labels), measures))
    if len(kinds) != 1:
        both = " and ".join(
            f"{place} ({dims}-D, spacing {'known' if known else 'unknown'})"
            for (dims, known), place in kinds.items()
        )
        fault = f"{both} do not fit together; learn limits from each kind alone"
        raise AugmintError(fault if found else f"rules {rules.name!r}: no real mask to learn from")
    ((dims, known),) = kinds
    ends = [end for end, _ in found if end]
    base = max(("first", "last"), key=ends.count) if ends else ""
    if not ends or ends.count(base) < AGREED * len(ends):
        base = ""
    values: dict[str, list[float]] = {}
    for end, measures in found:
        for m in measures:
            for name in _names(m, base or end):
                values.setdefault(name, []).append(m.value)
    bounds = {}
    told = units(dims if rules.whole else 2, known)._asdict()
    for rule in rules.rules:
        unit = told.get(WORDS[rule.word].unit, WORDS[rule.word].unit)
        for name in (rule.quantity, *(f"{rule.quantity} {zone}" for zone in ZONES)):
            if name in values or (name == rule.quantity and (rule.least, rule.most) != (None,) * 2):
                bounds[name] = _bound(rule, np.array(values.get(name, [])), unit)
    stacks = dims == 3 and not rules.whole
    return Limits(rules.name, rules.fingerprint, known, stacks, base, len(found), bounds)


ZONES = ("at the base", "mid-stack")


def _names(m: Measure, base: str) -> tuple[str, ...]:
    """The quantities whose bounds a measure belongs to.

    A slice of which nobody knows where it lies teaches both what an enclosure is at the base and
    elsewhere, and is judged by whichever is looser.
    """
    name = m.rule.quantity
    if m.rule.word == "present" and m.position is not None:
        return (f"{name} mid-stack",)
    if not m.rule.open_at:
        return (name,)
    if m.position is None or not base:
        return (name, f"{name} at the base")
    toward_base = -m.position if base == "first" else m.position
    return (f"{name} at the base",) if toward_base >= 1 / 3 else (name,)


def _bound(rule: Rule, values: np.ndarray, unit: str) -> Bound:
    """The bound of one quantity: what its rule says, else what real values teach."""
    low, high = rule.least, rule.most
    kind = WORDS[rule.word].kind
    if len(values) and high is None:
        trimmed = float(np.quantile(values, ALLOWED_DEFECTS, method="higher"))
        high = trimmed if kind == "defect" else float(values.max()) * (1 + MARGIN)
    if len(values) and kind == "range" and low is None:
        low = float(values.min()) * (1 - MARGIN)
    if not len(values):
        return Bound(low, high, unit)
    bound = Bound(low, high, unit, float(values.min()), float(values.max()), len(values))
    outside = sum(bound.breach(float(v)) > 0 for v in values)
    return Bound(**{**asdict(bound), "outside": outside})


def _judge(
    item: Item,
    labels: Mapping[str, int],
    rules: Rules,
    limits: Limits,
    waive: Collection[str],
) -> Validity:
    _check_limits(item, rules, limits)
    waived = _waived(waive, labels, rules)
    measures = measure(item, rules, labels)
    base = limits.base or base_end(item, rules, labels)
    worst: dict[str, tuple[float, str]] = {}
    slices: dict[str, set[int | None]] = {}
    for m in measures:
        lone = limits.stacks and item.mask.ndim == 2 and m.position is None
        if m.rule.waived_by & waived or (lone and m.rule.word == "present"):
            continue
        breach, remark = _breach(m, _names(m, base), limits)
        if not breach:
            continue
        at = "" if m.z is None else f" at z={m.z}"
        name = m.rule.quantity
        slices.setdefault(name, set()).add(m.z)
        if name not in worst or breach > worst[name][0]:
            worst[name] = breach, f"{m.words}{at}" + (f" ({remark})" if remark else "")
    broken = []
    for name, (_, words) in worst.items():
        more = len(slices[name]) - 1
        broken.append(words + (f" and in {more} more slice{'s' * (more > 1)}" if more else ""))
    return Validity(not broken, tuple(broken), tuple(worst))


def _breach(m: Measure, names: Sequence[str], limits: Limits) -> tuple[float, str]:
    """How far a measure is outside the loosest of its bounds, and what would be allowed."""
    bounds = [limits.bounds[name] for name in names if name in limits.bounds]
    if bounds:
        loosest = min(bounds, key=lambda bound: bound.breach(m.value))
        return loosest.breach(m.value), loosest.allowed()
    if WORDS[m.rule.word].kind == "defect":
        return m.value, ""
    return 1.0, "no real mask has this to compare with"


def _check_limits(item: Item, rules: Rules, limits: Limits) -> None:
    if rules.fingerprint != limits.fingerprint:
        raise AugmintError(
            f"rules {rules.name!r} ({rules.fingerprint}) and limits of {limits.rules!r} "
            f"({limits.fingerprint}) do not belong together; learn the limits again"
        )
    if (item.spacing is not None) != limits.spacing_known:
        here, there = ("a", "none") if item.spacing is not None else ("no", "one")
        raise AugmintError(
            f"{item.place} has {here} spacing and the real masks had {there}, so mm and pixels "
            "would be compared; learn the limits from masks of the same kind"
        )
    if item.mask.ndim == 3 and not rules.whole and not limits.stacks:
        raise AugmintError(
            f"{item.place} is a volume, and the limits were learned from single slices, which say "
            "nothing of neighbours; learn them from volumes, or judge slice by slice"
        )


def _waived(waive: Collection[str], labels: Mapping[str, int], rules: Rules) -> frozenset[str]:
    """The waived quantities, all of them known.

    Raises:
        AugmintError: if one is unknown.
    """
    names = frozenset((waive,) if isinstance(waive, str) else waive)
    if names:
        known = {f"{name} area" for name, index in labels.items() if index > 0}
        known |= {name for rule in rules.rules for name in rule.waived_by}
        if unknown := sorted(names - known):
            raise AugmintError(
                f"waive: no quantity is named {listed(unknown)}; choose from "
                f"{listed(sorted(known), 40)}"
            )
    return names
