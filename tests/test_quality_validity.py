import json
import time
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.quality.validity import (
    Limits,
    fit_limits,
    fit_limits_to,
    judge,
    judge_case,
    parse_rules,
    read_rules,
    rules_for,
    through_grid,
)
from augmint.quality.validity_measures import Item, measure
from augmint.quality.validity_rules import BUILT_IN, WORDS, Rules, choose_rules

HEART = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
APICAL = {"background": 0, "LV": 1, "MYO": 2, "LA": 3}
ORGAN = {"background": 0, "organ": 1, "tumour": 2}


def heart(radius=6, wall=3, *, rv=True, gap=0.0, size=48, at=(24, 28)):
    """A round LV in its wall, an RV to its left; `gap` degrees of the wall are open, right."""
    y, x = np.indices((size, size))
    away = np.hypot(y - at[0], x - at[1])
    plane = np.zeros((size, size), np.int64)
    if rv:
        plane[np.hypot((y - at[0]) / 1.1, x - at[1] + 10) < radius + 2] = HEART["RV"]
    plane[away < radius + wall] = HEART["MYO"]
    angle = np.rad2deg(np.abs(np.arctan2(y - at[0], x - at[1])))
    plane[(away < radius + wall) & (angle < gap / 2)] = 0
    plane[away < radius] = HEART["LV"]
    return plane


def stack(radii=(7, 8, 8, 7, 6, 5, 4), **change):
    """(H, W, Z): base first."""
    return np.stack([heart(r, **change) for r in radii], -1)


REAL = [stack(), stack((6, 7, 7, 7, 6, 4, 3)), stack((8, 9, 9, 8, 7, 6, 5))]
RULES = rules_for(HEART)
LIMITS = fit_limits(REAL, HEART, RULES)


def verdict(mask, **known):
    return judge(mask, HEART, RULES, LIMITS, **known)


def figures(mask, text, labels=HEART, **known):
    """What a mask measures by rules given as text, by quantity."""
    rules = parse_rules(f"rules:\n{text}", "rules")
    return {m.rule.quantity: m.value for m in measure(Item(mask, **known), rules, labels)}


# What is measured, by hand.


def test_pieces_outside_the_largest_are_measured_and_diagonal_neighbours_are_one():
    mask = np.zeros((12, 12), int)
    mask[2:5, 2:5] = 3
    mask[5, 5] = 3
    assert figures(mask, "- components: {of: LV}") == {"LV components": 0}
    mask[8:10, 8:10] = mask[11, 0] = 3
    assert figures(mask, "- components: {of: LV}") == {"LV components": 5}
    assert figures(mask, "- components: {of: LV, pieces: 2}") == {"LV components": 1}
    assert figures(mask, "- components: {of: LV}", spacing=(2, 3)) == {"LV components": 30}


def test_a_hole_is_background_that_a_class_closes_in_at_the_image_edge_too():
    mask = np.zeros((10, 10), int)
    mask[0:6, 0:6] = 2
    mask[2:4, 2:4] = 3
    assert figures(mask, "- solid: {of: MYO}") == {"MYO holes": 0}
    mask[2, 2] = mask[0, 3] = 0
    assert figures(mask, "- solid: {of: MYO}") == {"MYO holes": 1}
    assert figures(mask, "- solid: {of: MYO+LV}") == {"MYO+LV holes": 1}


def test_an_opening_is_the_part_of_the_outline_without_wall_in_degrees():
    mask = np.full((10, 10), 2)
    mask[3:6, 3:6] = 3
    rule = "- encloses: {outer: MYO, inner: LV}"
    assert figures(mask, rule) == {"MYO open around LV": 0}
    mask[6, 3:6] = 0
    assert figures(mask, rule)["MYO open around LV"] == pytest.approx(360 / 4)
    mask[6, 3:6] = 1
    assert figures(mask, rule)["MYO open around LV"] == pytest.approx(360 / 4)
    also = "- encloses: {outer: MYO, inner: LV, also: RV}"
    assert figures(mask, also)["MYO open around LV"] == pytest.approx(0)
    # Pixels of 1 x 2 mm: the open side is 6 mm of 18 mm.
    turned = figures(mask, rule, spacing=(1, 2))
    assert turned["MYO open around LV"] == pytest.approx(360 * 6 / 18)


def test_nothing_is_known_beyond_the_image_so_its_edge_is_no_opening():
    mask = np.full((6, 6), 2)
    mask[0:2, 2:4] = 3
    measured = figures(mask, "- encloses: {outer: MYO, inner: LV}")
    assert measured == {"MYO open around LV": 0}


def test_borders_are_lengths_and_shares():
    mask = np.zeros((10, 10), int)
    mask[2:5, 2:4] = 3
    mask[2:5, 4:8] = 1
    text = "- not_touching: {of: LV, with: RV}\n- touching: {of: LV, with: RV}"
    assert figures(mask, text) == {"LV touching RV": 3, "LV bordering RV": pytest.approx(30)}
    assert figures(mask, text, spacing=(2, 1))["LV touching RV"] == 6
    assert figures(np.where(mask == 1, 0, mask), text) == {}


def test_sizes_ratios_and_walls():
    mask = np.zeros((20, 20), int)
    mask[2:14, 2:14] = 2
    mask[5:11, 5:11] = 3
    text = "- area: {of: [LV, MYO, RV]}\n- ratio: {of: LV, to: MYO}\n- wall: {of: MYO, around: LV}"
    known = figures(mask, text)
    assert known == {
        "LV area": 36, "MYO area": 108, "LV to MYO ratio": pytest.approx(1 / 3),
        "MYO wall around LV": 3,
    }  # fmt: skip
    assert figures(mask, text, spacing=(2, 2))["LV area"] == 144
    assert figures(mask, text, spacing=(2, 2))["MYO wall around LV"] == 6


def test_jumps_are_measured_against_both_neighbours():
    volume = np.zeros((12, 12, 4), int)
    for z, rows in enumerate((6, 5, 4, 3)):
        volume[:rows, 2:6, z] = 3
    text = "- area_jump: {of: LV}\n- shift: {of: LV}"
    rules = parse_rules(f"rules:\n{text}", "rules")
    assert {m.value for m in measure(Item(volume), rules, HEART)} == {0}
    volume[:, :, 1] = np.roll(volume[:, :, 1], 3, 1)
    volume[0, :, 2] = 0
    found = {(m.rule.word, m.z): m.value for m in measure(Item(volume), rules, HEART)}
    radius = np.sqrt(24 / np.pi)
    assert found["area_jump", 1] == pytest.approx(100 * (20 - (24 + 12) / 2) / 24)
    # The third slice lost its first row: its centre is half a row further down.
    assert found["shift", 1] == pytest.approx(100 * np.hypot(3, (2.5 + 2) / 2 - 2) / radius)


def test_a_gap_between_slices_is_counted_and_named():
    volume = stack()
    volume[..., [2, 4]] = 0
    rules = parse_rules("rules:\n- continuous: {of: LV}", "rules")
    (found,) = measure(Item(volume), rules, HEART)
    assert (found.value, found.words) == (2, "LV vanishes at z=2, 4")


def test_a_volume_is_measured_alike_whichever_axis_its_slices_lie_on():
    volume = stack(gap=40)
    for axis in (0, 1, 2):
        turned = np.moveaxis(volume, 2, axis)
        spacing = list(np.insert([1.5, 1.5], axis, 8.0))
        found = measure(Item(turned, spacing, axis), RULES, HEART)
        expected = measure(Item(volume, (1.5, 1.5, 8.0), 2), RULES, HEART)
        assert found == expected


def test_a_whole_body_is_one_piece_though_its_slices_are_not():
    volume = np.zeros((9, 9, 5), int)
    volume[2:4, 2:4] = volume[6:8, 2:4] = 1
    volume[:, 2:4, 2][2:8] = 1
    text = "rules:\n- components: {of: organ}\n- area: {of: organ}"
    slices = parse_rules(text, "rules")
    body = parse_rules(f"whole: true\n{text}", "rules")
    apart = [m.value for m in measure(Item(volume), slices, ORGAN) if m.rule.word == "components"]
    assert apart == [4, 4, 0, 4, 4]
    one, size = measure(Item(volume, (1, 1, 2)), body, ORGAN)
    assert one.value == 0
    assert size.value == 2 * (volume == 1).sum()


# Limits.


def test_real_masks_pass_limits_from_themselves():
    assert all(verdict(mask).ok for mask in REAL)
    assert LIMITS.stacks
    assert LIMITS.base == "first"
    bound = LIMITS.bounds["LV area"]
    areas = [(m == HEART["LV"]).sum((0, 1)) for m in REAL]
    assert bound.low == pytest.approx(0.9 * np.min(areas))
    assert bound.high == pytest.approx(1.1 * np.max(areas))
    assert (bound.least, bound.most, bound.unit) == (np.min(areas), np.max(areas), "px")
    assert bound.count == 21


def test_the_worst_two_in_a_thousand_defects_are_set_aside_and_counted():
    clean, flawed = heart(), heart()
    flawed[2, 2] = HEART["LV"]
    rules = parse_rules("rules:\n- components: {of: LV}", "rules")
    few = fit_limits([clean] * 20 + [flawed], HEART, rules).bounds["LV components"]
    many = fit_limits([clean] * 999 + [flawed], HEART, rules).bounds["LV components"]
    assert (few.high, few.outside) == (1, 0)
    assert (many.high, many.most, many.outside) == (0, 1, 1)


def test_limits_survive_json_and_a_later_version_is_refused():
    content = json.loads(json.dumps(LIMITS.to_json()))
    assert Limits.from_json(content) == LIMITS
    with pytest.raises(AugmintError, match=r"schema_version 9.*learn them again"):
        Limits.from_json({**content, "schema_version": 9})


def test_what_a_rule_says_goes_before_what_was_learned():
    text = "rules:\n- components: {of: LV, most: 4}\n- area: {of: LV, least: 100}"
    rules = parse_rules(text, "rules")
    limits = fit_limits([heart(6), heart(7)], HEART, rules)
    assert limits.bounds["LV components"].high == 4
    assert limits.bounds["LV area"].low == 100
    assert limits.bounds["LV area"].high == pytest.approx(1.1 * (heart(7) == 3).sum())
    small = judge(heart(5), HEART, rules, limits)
    assert "LV area" in small.quantities


def test_the_wall_may_be_open_at_the_base_alone():
    opened = [m.copy() for m in REAL]
    for mask, radius in zip(opened, (7, 6, 8)):
        mask[..., 0] = heart(radius, gap=60)
    limits = fit_limits(opened, HEART, RULES)
    assert limits.bounds["MYO open around LV"].high == 0
    assert 40 < limits.bounds["MYO open around LV at the base"].high < 80
    middle = REAL[0].copy()
    middle[..., 3] = heart(7, gap=60)
    (words,) = [b for b in judge(middle, HEART, RULES, limits).broken if "open" in b]
    assert words.startswith("MYO open around LV by ")
    assert words.endswith(" degrees at z=3")
    alone = heart(7, gap=60)
    assert judge(alone, HEART, RULES, limits, slice_position=-1).ok
    assert not judge(alone, HEART, RULES, limits, slice_position=0).ok
    # Nobody knows where it lies: it may be at the base.
    assert judge(alone, HEART, RULES, limits).ok


def test_the_base_is_found_at_either_end():
    turned = [m[..., ::-1].copy() for m in REAL]
    for mask, radius in zip(turned, (7, 6, 8)):
        mask[..., -1] = heart(radius, gap=60)
    limits = fit_limits(turned, HEART, RULES)
    assert limits.base == "last"
    assert limits.bounds["MYO open around LV"].high == 0
    assert judge(heart(7, gap=60), HEART, RULES, limits, slice_position=1).ok
    mixed = fit_limits([turned[0], *REAL], HEART, RULES)
    assert mixed.base == ""


# Verdicts.


def test_each_broken_rule_is_told_in_words():
    blob = REAL[0].copy()
    blob[2:5, 40:43, 2] = HEART["LV"]
    told = verdict(blob)
    assert not told.ok
    assert any(b.startswith("LV: 2 components (") and "and 9 px) at z=2" in b for b in told.broken)
    assert str(told) == "; ".join(told.broken)

    touching = REAL[0].copy()
    plane = touching[..., 3]
    plane[22:27, :22][plane[22:27, :22] == HEART["MYO"]] = HEART["LV"]
    assert any(b.startswith("LV touches RV along 5 px at z=3") for b in verdict(touching).broken)


def test_a_fault_in_several_slices_is_told_once_with_its_worst_slice():
    mask = stack(gap=20)
    mask[..., 4] = heart(6, gap=90)
    told = verdict(mask)
    assert told.quantities.count("MYO open around LV") == 1
    (words,) = [b for b in told.broken if b.startswith("MYO open")]
    assert "at z=4" in words
    assert words.endswith("and in 6 more slices")


@pytest.mark.parametrize(
    ("spoil", "quantity"),
    [
        (lambda m: m.__setitem__((slice(1, 3), slice(1, 3), 2), 1), "RV components"),
        (lambda m: m.__setitem__((24, 28, 3), 0), "LV holes"),
        (lambda m: m.__setitem__((..., 3), heart(7, gap=30)), "MYO open around LV"),
        (
            lambda m: m.__setitem__((..., 3), np.array([0, 3, 2, 1])[m[..., 3]]),
            "MYO open around LV",
        ),
        (lambda m: m.__setitem__((..., 3), np.where(m[..., 3] == 1, 0, m[..., 3])), "RV gaps"),
        (lambda m: m.__setitem__((..., 3), heart(16, 4)), "LV area"),
        (lambda m: m.__setitem__((..., 3), heart(8, 1)), "MYO wall around LV"),
        (lambda m: m.__setitem__((..., 3), heart(3, 7)), "LV area jump"),
        (lambda m: m.__setitem__((..., 3), np.roll(m[..., 3], 12, 1)), "LV shift"),
        (lambda m: m.__setitem__(m == 3, 2), "LV present"),
        (lambda m: m.__setitem__((..., 3), np.where(m[..., 3] == 2, 0, m[..., 3])), "LV with MYO"),
    ],
)
def test_every_spoilt_volume_is_caught_by_its_rule(spoil, quantity):
    mask = REAL[0].copy()
    spoil(mask)
    assert quantity in verdict(mask).quantities


def test_single_slices_are_judged_by_limits_from_volumes():
    assert verdict(heart(7), slice_position=0.0).ok
    blob = heart(7)
    blob[2:4, 2:4] = HEART["LV"]
    assert verdict(blob).broken[0].startswith("LV: 2 components (")
    # An empty slice is nothing wrong at an end, but in the middle of a stack.
    empty = np.zeros((48, 48), int)
    assert verdict(empty, slice_position=1.0).ok
    assert "LV present" in verdict(empty, slice_position=0.0).quantities


def test_an_empty_volume_is_not_valid():
    told = verdict(np.zeros((48, 48, 7), int))
    assert {"LV is missing", "MYO is missing", "RV is missing"} <= {
        b.split(" at z")[0] for b in told.broken
    }


def test_what_was_asked_for_has_no_limit():
    large = stack((13,) * 7, wall=4, at=(24, 30))
    assert "LV area" in verdict(large).quantities
    waived = verdict(large, waive=["LV area", "MYO area"])
    assert not {"LV area", "MYO area", "LV to MYO ratio"} & set(waived.quantities)
    assert verdict(large, waive="LV area").quantities != verdict(large).quantities
    with pytest.raises(AugmintError, match="no quantity is named LV aera; choose from"):
        verdict(large, waive=["LV aera"])


def test_classes_that_nobody_looked_for_are_not_judged():
    without = np.where(REAL[0] == HEART["RV"], 0, REAL[0])
    assert "RV present" in verdict(without).quantities
    assert verdict(without, annotated={2, 3}).ok
    limits = fit_limits([without], HEART, RULES, annotated={2, 3})
    assert not any("RV" in name for name in limits.bounds)


def test_a_class_that_no_real_mask_held_is_wrong():
    limits = fit_limits([np.where(m == 1, 0, m) for m in REAL], HEART, RULES)
    told = judge(REAL[0], HEART, RULES, limits)
    assert any(b.startswith("RV area") and "no real mask" in b for b in told.broken)


def test_cases_are_judged_on_their_grid():
    def case(mask, spacing):
        grid = Grid(mask.shape, np.diag([*spacing, 1.0]), True)
        image = torch.zeros(1, *mask.shape)
        known = frozenset({1, 2, 3})
        return Case(image, torch.from_numpy(mask), known, grid, IntensityMap((0,), (1,)), "c", "p")

    cases = [case(np.moveaxis(m, 2, 0).copy(), (8, 1.5, 1.5)) for m in REAL]
    limits = fit_limits_to(cases, HEART, RULES)
    assert limits.bounds["LV area"].unit == "mm2"
    largest = max((m == 3).sum((0, 1)).max() for m in REAL)
    assert limits.bounds["LV area"].most == pytest.approx(largest * 1.5**2)
    assert judge_case(cases[1], HEART, RULES, limits).ok
    # The same pixels at twice the size are a heart four times as large.
    doubled = replace(cases[2], grid=Grid(cases[2].grid.shape, np.diag([16, 3, 3, 1.0]), True))
    assert "LV area" in judge_case(doubled, HEART, RULES, limits).quantities
    with pytest.raises(AugmintError, match="no mask to judge"):
        judge_case(replace(cases[0], mask=None), HEART, RULES, limits)


def test_a_training_mask_passes_limits_that_went_the_way_of_a_synthetic_one():
    """Made on the window, stored on the native grid and read from there, its wall is thinner."""
    cases = []
    for mask in REAL:
        mask = np.pad(mask, ((0, 5), (3, 0), (0, 0)))
        cell = Grid(mask.shape, np.diag([1.5, 1.5, 8, 1.0]), True)
        image, known = torch.zeros(1, *mask.shape), frozenset({1, 2, 3})
        mask = torch.from_numpy(mask)
        cases.append(Case(image, mask, known, cell, IntensityMap((0,), (1,)), "c", "p"))
    grid = WorkingGrid(2, (66, 66), (62, 62), spacing_mm=(1.2, 1.2))
    spacing = (1.2, 1.2, 1)

    def valid(kind):
        limits = fit_limits([c.mask.numpy() for c in kind], HEART, RULES, spacing=spacing)
        return [judge(m, HEART, RULES, limits, spacing=spacing).ok for m in read]

    made = [grid.to_working(case, shape=grid.window) for case in cases]
    written = [grid.to_native(new, case.grid) for new, case in zip(made, cases)]
    read = [grid.to_working(case, shape=grid.window).mask.numpy() for case in written]
    assert not all(valid(made))
    assert all(valid([through_grid(case, grid) for case in cases]))


def test_limits_and_masks_of_different_kinds_are_refused():
    other = parse_rules("rules:\n- area: {of: LV}", "mine")
    with pytest.raises(AugmintError, match="do not belong together"):
        judge(REAL[0], HEART, other, LIMITS)
    with pytest.raises(AugmintError, match="mm and pixels would be compared"):
        verdict(REAL[0], spacing=(1, 1, 8))
    planes = fit_limits([heart(6), heart(7)], HEART, RULES)
    with pytest.raises(AugmintError, match="say nothing of neighbours"):
        judge(REAL[0], HEART, RULES, planes)
    with pytest.raises(AugmintError, match=r"mask 0 \(3-D.*mask 1 \(2-D.*do not fit together"):
        fit_limits([REAL[0], heart()], HEART, RULES)
    with pytest.raises(AugmintError, match="no real mask to learn from"):
        fit_limits([], HEART, RULES)
    with pytest.raises(AugmintError, match="1 masks and 2 slice positions"):
        fit_limits([heart()], HEART, RULES, slice_positions=[0, 1])


def test_masks_of_other_values_or_shapes_are_refused():
    with pytest.raises(AugmintError, match=r"label value\(s\) 7 where only 0, 1, 2, 3"):
        verdict(np.where(REAL[0] == 1, 7, REAL[0]))
    with pytest.raises(AugmintError, match=r"label value\(s\) -1"):
        verdict(REAL[0] - 1)
    sparse = {"background": 0, "a": 1, "c": 3}
    rules = parse_rules("rules:\n- area: {of: a}", "rules")
    with pytest.raises(AugmintError, match=r"label value\(s\) 2 where only 0, 1, 3"):
        fit_limits([np.array([[1, 2], [3, 0]])], sparse, rules)
    with pytest.raises(AugmintError, match="float"):
        verdict(REAL[0].astype(float))
    with pytest.raises(AugmintError, match="give one number above 0 for each axis"):
        fit_limits([REAL[0]], HEART, RULES, spacing=(1.0, 1.0))


# Rules.


def test_rules_are_chosen_by_the_names_of_labels():
    assert rules_for({"background": 0, "LV": 9, "RV": 1, "MYO": 4}).name == "short-axis heart"
    assert rules_for(APICAL).name == "apical view"
    assert rules_for(["LV", "MYO"]) is None
    assert rules_for(["background", "LV", "MYO", "RV", "scar"]) is None
    few = read_rules("short-axis-heart").among(["LV", "MYO"])
    assert {c for rule in few.rules for c in rule.regions} == {"LV", "MYO"}
    with pytest.raises(AugmintError, match="none is about liver alone"):
        few.among(["liver"])


def test_every_built_in_file_is_packaged_and_every_word_explained():
    files = {f.name for f in (resources.files("augmint.quality") / "rules").iterdir()}
    assert {f"{name}.yaml" for name in BUILT_IN} == files
    assert all(len(word.meaning) > 20 for word in WORDS.values())
    used = {rule.word for name in BUILT_IN for rule in read_rules(name).rules}
    assert used == set(WORDS)


def test_rules_for_another_organ_take_a_few_lines(tmp_path):
    path = tmp_path / "organ.yaml"
    path.write_text(
        "name: organ with a tumour\nrules:\n"
        "  - components: {of: organ+tumour}\n"
        "  - encloses: {outer: organ, inner: tumour, most: 90}\n"
        "  - area: {of: [organ+tumour, tumour]}\n"
    )
    rules = read_rules(path)
    assert [r.quantity for r in rules.rules] == [
        "organ+tumour components", "organ open around tumour", "organ+tumour area", "tumour area",
    ]  # fmt: skip
    mask = np.zeros((16, 16), int)
    mask[3:12, 3:12] = 1
    mask[6:8, 6:8] = 2
    limits = fit_limits([mask], ORGAN, rules)
    assert judge(mask, ORGAN, rules, limits).ok
    outside = np.where(mask == 2, 1, mask)
    outside[0:2, 13:15] = 2
    told = judge(outside, ORGAN, rules, limits)
    assert told.quantities == ("organ+tumour components", "organ open around tumour")
    assert "by 360 degrees (allowed up to 90)" in told.broken[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [", "is no YAML"),
        ("- area: {of: LV}", "give a list named rules"),
        ("rules: []", "holds no rule"),
        ("rule: 1\nrules: []", "unknown field rule; use name, labels, whole, rules"),
        ("whole: 1\nrules: []", "whole: must be true or false, not 1"),
        ("name: 3\nrules: []", "name: must be text"),
        ("rules:\n- area", "rule 1: must be one word with its fields, not 'area'"),
        ("rules:\n- area: {of: LV}\n- aera: {of: LV}", "rule 2: unknown word 'aera' .*'area'"),
        ("rules:\n- area: LV", "rule 1, area: give its fields, such as `area: {of: LV}`"),
        ("rules:\n- area: {class: LV}", "unknown field class; its fields are of, least, most"),
        ("rules:\n- ratio: {of: LV}", "needs to; its fields are of, to, least, most"),
        ("rules:\n- area: {of: no}", "area, of: must be a label's name .*not False.*quotes"),
        ("rules:\n- area: {of: []}", "not an empty list"),
        ("rules:\n- area: {of: LV, most: big}", "most: must be a number of 0 or more, not 'big'"),
        ("rules:\n- area: {of: LV, most: -1}", "most: must be a number of 0 or more, not -1"),
        ("rules:\n- area: {of: LV, least: 2, most: 1}", "least 2 is more than most 1"),
        ("rules:\n- components: {of: LV, pieces: 1.5}", "pieces: must be a whole number"),
        ("rules:\n- ratio: {of: LV, to: [MYO, RV]}", "to: name one class"),
        ("rules:\n- ratio: {of: LV, to: LV}", "names a class twice"),
        ("rules:\n- encloses: {outer: A, inner: B, open_at: apex}", "open_at: must be base"),
        ("rules:\n- area: {of: [LV, LV]}", "LV area is asked twice"),
        ("whole: true\nrules:\n- shift: {of: LV}", "compares slices, and `whole: true` has none"),
    ],
)
def test_faulty_rules_get_one_clear_message(text, message):
    with pytest.raises(AugmintError, match=message):
        parse_rules(text, "rules mine.yaml")


def test_unknown_labels_and_files_are_named(tmp_path):
    rules = parse_rules("rules:\n- area: {of: LVV}", "rules")
    with pytest.raises(AugmintError, match=r"no label is named 'LVV' .did you mean 'LV'"):
        fit_limits([heart()], HEART, rules)
    with pytest.raises(AugmintError, match="give a YAML file, or one of short-axis-heart"):
        read_rules(tmp_path / "none.yaml")


# Drawn and real hearts.


@pytest.mark.parametrize("kind", ["cine-mr", "apical-ultrasound"])
def test_drawn_hearts_pass_and_swapped_ones_do_not(kind, tmp_path):
    size = {"cine-mr": 64, "apical-ultrasound": 96}[kind]
    data = open_dataset(make_phantoms(kind, out=tmp_path / "p", patients=3, size=size))
    rules = rules_for(data.labels)
    cases = list(data)
    limits = fit_limits_to(cases, data.labels, rules)
    assert all(judge_case(case, data.labels, rules, limits).ok for case in cases)
    table = torch.tensor([0, 3, 2, 1])
    swapped = [replace(case, mask=table[case.mask]) for case in cases]
    assert not any(judge_case(case, data.labels, rules, limits).ok for case in swapped)


def test_a_slice_takes_milliseconds():
    plane = np.kron(heart(), np.ones((2, 2), int))[:96, :96]
    limits = fit_limits([plane], HEART, RULES)
    start = time.process_time()
    for _ in range(20):
        judge(plane, HEART, RULES, limits)
    assert (time.process_time() - start) / 20 < 0.02


def test_held_out_real_hearts_have_no_defects_and_spoilt_ones_do(real_data):
    splits = json.loads((real_data / "splits.json").read_text())["Dataset027_ACDC"]
    data = open_dataset(real_data / "Dataset027_ACDC")
    rules = rules_for(data.labels)
    limits = fit_limits_to(data.select(patients=splits["train"][::6]), data.labels, rules)
    assert limits.base == "first"
    # A stray pixel of the RV is not that rare: four slices of 885 have one.
    defects = {
        rule.quantity
        for rule in rules.rules
        if WORDS[rule.word].kind == "defect" and "RV" not in rule.regions
    }
    for case in data.select(patients=splits["validation"][:3]):
        assert not defects & set(judge_case(case, data.labels, rules, limits).quantities)
        broken = case.mask.clone()
        middle = broken[..., broken.shape[-1] // 2]
        row = torch.nonzero(middle == data.labels["LV"])[:, 0].float().mean().int()
        middle[row][middle[row] == data.labels["MYO"]] = 0
        told = judge_case(replace(case, mask=broken), data.labels, rules, limits)
        assert "MYO open around LV" in told.quantities


def test_rules_survive_json_under_another_name():
    for name in ("short-axis-heart", "apical-view"):
        rules = read_rules(name)
        again = Rules.from_json(json.loads(json.dumps(rules.to_json())), "again")
        assert again.rules == rules.rules
        assert (again.name, again.whole) == ("again", rules.whole)
        assert again.fingerprint == rules.fingerprint
    whole = parse_rules("whole: true\nrules:\n  - area: {of: LV}\n", "own")
    again = Rules.from_json(whole.to_json(), "again")
    assert again.whole
    assert choose_rules(again, {"background": 0, "LV": 1}) is again
    with pytest.raises(AugmintError, match="rules 'again': no label is named 'LV'"):
        choose_rules(again, {"background": 0, "kidney": 1})
