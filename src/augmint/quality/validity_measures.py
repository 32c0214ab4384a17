"""What a mask measures: the figures that anatomical rules speak of. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from augmint.data.pool import slice_position
from augmint.errors import AugmintError
from augmint.quality.validity_rules import WORDS, Rule, Rules

THIN = 0.05


@dataclass(frozen=True)
class Item:
    """A mask to measure, and how it lies.

    Attributes:
        mask: (*spatial) class index, a plane or a volume.
        spacing: mm per axis; None where unknown.
        slice_axis: Of a volume.
        position: Where a single plane lies in its stack, -1 to 1; None where unknown.
        annotated: Classes that an annotator looked for; None for all.
        place: How messages speak of it.
    """

    mask: np.ndarray
    spacing: Sequence[float] | None = None
    slice_axis: int = -1
    position: float | None = None
    annotated: Collection[int] | None = None
    place: str = "mask"


@dataclass(frozen=True)
class Measure:
    """One figure of one mask.

    Attributes:
        rule: The rule that asks for it.
        value: In the unit of the rule's word.
        words: What is wrong, should it be too much or too little.
        z: The slice; None for a whole case.
        position: Of the slice in its stack, -1 to 1; None where it has none.
    """

    rule: Rule
    value: float
    words: str
    z: int | None = None
    position: float | None = None


class Planned(NamedTuple):
    """A rule with its classes' indices."""

    rule: Rule
    of: list[int]
    other: list[int]
    also: list[int]


class Units(NamedTuple):
    """What sizes, lengths, borders and turns are told in."""

    size: str
    length: str
    contact: str
    turn: str


def units(dims: int, known: bool) -> Units:
    """Of planes (2) or bodies (3), with a spacing or without."""
    if dims == 2:
        return Units("mm2" if known else "px", *(("mm",) * 2 if known else ("px",) * 2), "degrees")
    return Units(*(("mm3", "mm", "mm2") if known else ("voxels", "voxels", "voxel faces")), "%")


def plan(
    rules: Rules, labels: Mapping[str, int], annotated: Collection[int] | None
) -> list[Planned]:
    """The rules that can be judged: all, but those about classes that nobody looked for.

    Raises:
        AugmintError: if a rule names no label.
    """
    planned = []
    for rule in rules.rules:
        of = rules.classes(rule.of, labels)
        other = rules.classes(rule.other, labels) if rule.other else []
        also = [i for region in rule.also for i in rules.classes(region, labels)]
        if annotated is None or set(annotated).issuperset([*of, *other, *also]):
            planned.append(Planned(rule, of, other, also))
    return planned


def measure(item: Item, rules: Rules, labels: Mapping[str, int]) -> list[Measure]:
    """Every figure that the rules ask of a mask; of a volume, slice by slice unless `whole`.

    Raises:
        AugmintError: if the mask is no plane or volume, or holds anything but its labels.
    """
    _check(item, labels)
    planned = plan(rules, labels, item.annotated)
    num = max(labels.values()) + 1
    spacing = None if item.spacing is None else tuple(float(s) for s in item.spacing)
    if item.mask.ndim == 2 or rules.whole:
        scene = Scene(item.mask, spacing, num)
        return [*_of_plane(scene, planned, None, item.position), *_present(scene.counts, planned)]
    stack = _stack_of(item)
    if spacing is not None:
        spacing = tuple(s for i, s in enumerate(spacing) if i != item.slice_axis % 3)
    found: list[Measure] = []
    counts = np.zeros((len(stack), num), np.int64)
    for z, plane in enumerate(stack):
        scene = Scene(plane, spacing, num)
        counts[z] = scene.counts
        found += _of_plane(scene, planned, z, slice_position(z, len(stack)))
    found += _present(counts.sum(0), planned)
    return found + list(_of_stack(stack, counts, planned, spacing))


def base_end(item: Item, rules: Rules, labels: Mapping[str, int]) -> str:
    """The end of a stack where the heart is larger, `first` or `last`; empty where not to tell."""
    asked = [p for p in plan(rules, labels, None) if p.rule.open_at]
    if not asked or item.mask.ndim != 3:
        return ""
    areas = _member(_stack_of(item), [*asked[0].of, *asked[0].other]).sum((1, 2))
    held = areas[slice(*_extent(areas > 0))]
    half = len(held) // 2
    first, last = held[:half].sum(), held[len(held) - half :].sum()
    return "" if first == last else "first" if first > last else "last"


class Scene:
    """A plane or a body, cropped to what is not background, with its lazily computed facts."""

    def __init__(self, mask: np.ndarray, spacing: Sequence[float] | None, num: int) -> None:
        self.num = num
        self.units = units(mask.ndim, spacing is not None)
        self.spacing = tuple(spacing) if spacing is not None else (1.0,) * mask.ndim
        self.cell = float(np.prod(self.spacing))
        self.part = _cropped(mask, range(mask.ndim))
        self.counts = np.bincount(self.part.ravel(), minlength=num)

    def region(self, classes: Sequence[int]) -> np.ndarray:
        """Where these classes are, bool."""
        return _member(self.part, classes)

    def holds(self, classes: Sequence[int]) -> bool:
        """Whether any of these classes is here."""
        return any(self.counts[i] for i in classes)

    def size(self, classes: Sequence[int]) -> float:
        """Their area or volume."""
        return float(self.counts[classes].sum()) * self.cell

    @cached_property
    def contacts(self) -> np.ndarray:
        """(num, num): length (area) of the border between two classes.

        The image's edge is no border: nothing is known of what lies beyond.
        """
        total = np.zeros(self.num**2)
        for axis in range(self.part.ndim):
            before, after = _neighbours(self.part, axis)
            pairs = np.bincount((before * self.num + after).ravel(), minlength=self.num**2)
            total += pairs * (self.cell / self.spacing[axis])
        square = total.reshape(self.num, self.num)
        return square + square.T

    def border(self, first: Sequence[int], second: Sequence[int]) -> float:
        """The border that two regions share."""
        return float(self.contacts[np.ix_(first, second)].sum())

    def outline(self, classes: Sequence[int]) -> float:
        """The border of a region with everything else."""
        return self.border(classes, [i for i in range(self.num) if i not in classes])


def _components(scene: Scene, p: Planned) -> tuple[float, str]:
    from scipy import ndimage

    here = scene.region(p.of)
    labelled, count = ndimage.label(here, np.ones((3,) * here.ndim))
    if count <= p.rule.pieces:
        return 0.0, ""
    sizes = np.sort(np.bincount(labelled.ravel())[1:])[::-1] * scene.cell
    shown = [tell(s) for s in sizes[:4]] + ([f"{count - 4} smaller"] if count > 4 else [])
    text = f"{', '.join(shown[:-1])} and {shown[-1]} {scene.units.size}"
    return float(sizes[p.rule.pieces :].sum()), f"{p.rule.of}: {count} components ({text})"


def _solid(scene: Scene, p: Planned) -> tuple[float, str]:
    from scipy import ndimage

    padded = np.ones(tuple(n + 2 for n in scene.part.shape), bool)
    inner = (slice(1, -1),) * scene.part.ndim
    padded[inner] = ~scene.region(p.of)
    labelled, count = ndimage.label(padded)
    if count <= 1:
        return 0.0, ""
    # The frame around is one with the corner; what is apart from it is closed in.
    closed = (labelled[inner] > 0) & (labelled[inner] != labelled.flat[0]) & (scene.part == 0)
    size = float(np.count_nonzero(closed)) * scene.cell
    return size, f"{p.rule.of}: holes of {tell(size)} {scene.units.size}"


def _encloses(scene: Scene, p: Planned) -> tuple[float, str] | None:
    outline = scene.outline(p.of)
    if not outline:
        return None
    shut = scene.border(p.of, [*p.other, *p.also])
    turn = max(1 - shut / outline, 0.0) * (360 if scene.part.ndim == 2 else 100)
    return turn, f"{p.rule.other} open around {p.rule.of} by {tell(turn)} {scene.units.turn}"


def _not_touching(scene: Scene, p: Planned) -> tuple[float, str] | None:
    if not scene.holds(p.other):
        return None
    length = scene.border(p.of, p.other)
    return length, f"{p.rule.of} touches {p.rule.other} along {tell(length)} {scene.units.contact}"


def _touching(scene: Scene, p: Planned) -> tuple[float, str] | None:
    outline = scene.outline(p.of)
    if not outline or not scene.holds(p.other):
        return None
    share = 100 * scene.border(p.of, p.other) / outline
    return share, f"{p.rule.of} borders on {p.rule.other} with {tell(share)} % of its outline"


def _area(scene: Scene, p: Planned) -> tuple[float, str]:
    size = scene.size(p.of)
    return size, f"{p.rule.quantity} {tell(size)} {scene.units.size}"


def _ratio(scene: Scene, p: Planned) -> tuple[float, str] | None:
    if not scene.holds(p.other):
        return None
    ratio = scene.size(p.of) / scene.size(p.other)
    return ratio, f"{p.rule.quantity} {tell(ratio)}"


def _needs(scene: Scene, p: Planned) -> tuple[float, str]:
    return float(not scene.holds(p.other)), f"{p.rule.of} without {p.rule.other}"


def _wall(scene: Scene, p: Planned) -> tuple[float, str] | None:
    from scipy import ndimage

    wall, cavity = scene.region(p.of), scene.region(p.other)
    inner = ndimage.binary_dilation(cavity) & wall
    outside = ~(wall | cavity)
    if not inner.any() or not outside.any():
        return None
    away = ndimage.distance_transform_edt(~outside, sampling=scene.spacing)[inner]
    thin = float(np.sort(away)[int(THIN * (len(away) - 1))])
    return thin, f"{p.rule.quantity} {tell(thin)} {scene.units.length} where thin"


OF_PLANE: Mapping[str, Callable[[Scene, Planned], tuple[float, str] | None]] = {
    "needs": _needs,
    "components": _components,
    "solid": _solid,
    "encloses": _encloses,
    "not_touching": _not_touching,
    "touching": _touching,
    "area": _area,
    "ratio": _ratio,
    "wall": _wall,
}


def _of_plane(
    scene: Scene, planned: Sequence[Planned], z: int | None, position: float | None
) -> Iterator[Measure]:
    """The figures of one plane or body, for the classes that it holds."""
    for p in planned:
        held = scene.holds(p.of)
        if p.rule.word == "present" and position is not None and abs(position) <= 1 / 3:
            yield Measure(p.rule, float(not held), f"{p.rule.of} is missing", z, position)
        elif held and p.rule.word in OF_PLANE:
            told = OF_PLANE[p.rule.word](scene, p)
            if told is not None:
                yield Measure(p.rule, *told, z, position)


def _present(counts: np.ndarray, planned: Sequence[Planned]) -> Iterator[Measure]:
    """Whether a case as a whole has its classes."""
    for p in planned:
        if p.rule.word == "present":
            yield Measure(p.rule, float(not counts[p.of].any()), f"{p.rule.of} is missing")


def _of_stack(
    stack: np.ndarray,
    counts: np.ndarray,
    planned: Sequence[Planned],
    spacing: Sequence[float] | None,
) -> Iterator[Measure]:
    """What only a stack of slices (Z, H, W) has; counts (Z, classes) are pixels."""
    for p in planned:
        if not WORDS[p.rule.word].stack:
            continue
        areas = counts[:, p.of].sum(1)
        start, stop = _extent(areas > 0)
        if stop == start:
            continue
        if p.rule.word == "continuous":
            gone = [z for z in range(start, stop) if not areas[z]]
            where = ", ".join(map(str, gone))
            yield Measure(p.rule, float(len(gone)), f"{p.rule.of} vanishes at z={where}")
            continue
        if p.rule.word == "area_jump":
            off = 100 * np.abs(_off(areas)) / areas.max()
            words = f"{p.rule.of} area is {{}} % off the slices beside it"
        else:
            off = _shifts(_member(stack, p.of), areas, spacing or (1.0, 1.0))
            words = f"{p.rule.of} is shifted by {{}} % of its radius"
        held = areas > 0
        for z in np.flatnonzero(held[:-2] & held[1:-1] & held[2:]):
            value = float(off[z])
            yield Measure(p.rule, value, words.format(tell(value)), int(z) + 1)


def _off(values: np.ndarray) -> np.ndarray:
    """How far each value, but the first and last, is off the mean of its neighbours."""
    return values[1:-1] - (values[:-2] + values[2:]) / 2


def _shifts(here: np.ndarray, areas: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """(Z - 2,) how far centres are off their neighbours', in % of the largest slice's radius."""
    held = np.maximum(areas, 1)
    rows = here.sum(2) @ np.arange(here.shape[1]) / held * spacing[0]
    columns = here.sum(1) @ np.arange(here.shape[2]) / held * spacing[1]
    radius = np.sqrt(areas.max() * spacing[0] * spacing[1] / np.pi)
    return 100 * np.hypot(_off(rows), _off(columns)) / radius


def tell(value: float) -> str:
    """A number to about three digits, for a sentence."""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _check(item: Item, labels: Mapping[str, int]) -> None:
    mask = item.mask
    if mask.ndim not in (2, 3) or not mask.size or mask.dtype.kind not in "iu":
        raise AugmintError(
            f"{item.place}: a mask of shape {mask.shape}, {mask.dtype}; rules judge whole numbers "
            "(the class index) on 2 or 3 axes"
        )
    if item.spacing is not None and (
        len(item.spacing) != mask.ndim or not all(s > 0 for s in item.spacing)
    ):
        raise AugmintError(
            f"{item.place}: spacing {tuple(item.spacing)} for a mask of shape {mask.shape}; give "
            "one number above 0 for each axis"
        )
    allowed = sorted({0, *labels.values()})
    held = {int(mask.min()), int(mask.max())}
    if held.issubset(range(allowed[-1] + 1)) and len(allowed) <= allowed[-1]:
        held = set(np.unique(mask).tolist())
    unknown = sorted(held - set(range(allowed[-1] + 1)) | held - set(allowed))
    if unknown:
        raise AugmintError(
            f"{item.place}: label value(s) {', '.join(map(str, unknown[:8]))} where only "
            f"{', '.join(map(str, allowed))} are allowed; judge class indices of these labels"
        )


def _member(mask: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Where a mask is one of few classes."""
    here = mask == classes[0]
    for other in classes[1:]:
        here |= mask == other
    return here


def _stack_of(item: Item) -> np.ndarray:
    """(Z, H, W): a volume's slices, cropped in plane to what is not background."""
    return _cropped(np.moveaxis(item.mask, item.slice_axis, 0), (1, 2))


def _cropped(mask: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """The foreground with a margin of 1 where the image has one; one corner where it is empty."""
    held = mask > 0
    box = [slice(None)] * mask.ndim
    for axis in axes:
        others = tuple(i for i in range(mask.ndim) if i != axis)
        start, stop = _extent(np.any(held, axis=others))
        box[axis] = slice(max(start - 1, 0), max(stop, 1) + 1)
    return np.ascontiguousarray(mask[tuple(box)], dtype=np.int64)


def _extent(held: np.ndarray) -> tuple[int, int]:
    """The first true one and one past the last; (0, 0) where there is none."""
    places = np.flatnonzero(held)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _neighbours(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of each element and of the next along an axis."""
    all_of = (slice(None),) * axis
    return array[(*all_of, slice(None, -1))], array[(*all_of, slice(1, None))]
