"""Translators against closed forms, what they leave alone, and what a patient's images share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Grid, Provenance
from augmint.diffusion.sampling import low_frequencies
from augmint.errors import AugmintError
from augmint.imaging.style import match_histogram, measure_style
from augmint.imaging.working import WorkingGrid
from augmint.methods import Samples
from augmint.methods.reference_shift import (
    ReferenceShift,
    by_patient,
    condition,
    denoising_errors,
    on_window,
)
from augmint.methods.shift_strength import LEVELS, Calibration, source_errors
from augmint.methods.shift_walk import LEARNED, TOWARDS, TRANSLATORS, Shift
from test_methods import case_of, facts_of, networks_of

# Source and foreign images have independent pixels of N(mean, STD^2).
SOURCE_MEAN, FOREIGN_MEAN, STD = -0.2, 0.4, 0.1
FACTS = facts_of(2)
BOTH = replace(FACTS, unlabelled=5)  # of a fit that saw images of the other scanner


class Oracle(torch.nn.Module):
    """The best velocity for Gaussian images, whose mean is the scanner's that it is told."""

    def __init__(self, source=SOURCE_MEAN, foreign=FOREIGN_MEAN):
        super().__init__()
        self.at, self.half = (source + foreign) / 2, (source - foreign) / 2
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.told, self.evaluations = [], 0

    def forward(self, x, t, given):
        self.told.append(given)
        self.evaluations += len(x)
        t = t.reshape(-1, 1, 1, 1)
        mean = self.at + self.half * given[:, -1:]
        variance = (1 - t) ** 2 * STD**2 + t**2
        return (t - (1 - t) * STD**2) * (x - (1 - t) * mean) / variance - mean


def flat(value, name="flat", *, size=24, slices=None, patient=None):
    shape = (size, size) if slices is None else (size, size, slices)
    case = case_of(shape, name)
    return replace(
        case, image=torch.full_like(case.image, value), patient_id=patient or f"patient of {name}"
    )


def drawn(name, mean, *, seed=0, slices=None, patient=None):
    case = flat(0.0, name, slices=slices, patient=patient)
    noise = torch.randn(case.image.shape, generator=torch.Generator().manual_seed(seed))
    return replace(case, image=(mean + STD * noise).clamp(-1, 1))


def calibrated(network, facts=FACTS, *, movement=None):
    """As six source patients would be measured, with room for whoever is like them."""
    cases = [drawn(f"s{k}", SOURCE_MEAN, seed=100 + k) for k in range(6)]
    errors = denoising_errors({"image": network}, cases, facts, 4)
    mean, deviation, _ = source_errors(errors)
    allowed = {f"{level:g}": 0.0 for level in LEVELS}
    return Calibration(
        tuple(mean), tuple(deviation), 6.0, {}, movement or dict.fromkeys(TOWARDS, allowed),
        tuple(c.patient_id for c in cases),
        measure_style([on_window(c, facts).image[None] for c in cases]),
    )  # fmt: skip


@pytest.fixture
def parts():
    oracle = Oracle()
    found = {"image": oracle, "calibration": calibrated(oracle)}
    oracle.evaluations, oracle.told = 0, []
    return found


def shifted(case, strength, *, networks=None, facts=FACTS, copy=0, seed=0, masks=False, **settings):
    method = ReferenceShift(**{"num_steps": 40, "batch_size": 4, **settings})
    networks = {"image": Oracle()} if networks is None else networks
    (new,) = method.translate(
        networks, [Shift(case, copy, strength)], facts, seed=seed, masks=masks
    )
    return new


def slope(t):
    """What remains of a difference from the mean after noising to t and denoising."""
    return STD / ((1 - t) ** 2 * STD**2 + t**2) ** 0.5


def test_sdedit_pulls_to_the_source_the_further_the_stronger():
    means = []
    for strength in (0.05, 0.1, 0.2, 0.4):
        image = shifted(flat(FOREIGN_MEAN, size=40), strength, facts=facts_of(2, window=32)).image
        pull = slope(strength) * (1 - strength)
        assert float(image.mean()) == pytest.approx(
            SOURCE_MEAN + pull * (FOREIGN_MEAN - SOURCE_MEAN), abs=0.02
        )
        means.append(float(image.mean()))
    assert means == sorted(means, reverse=True)


def test_inversion_under_one_scanner_returns_the_image():
    case = drawn("a", FOREIGN_MEAN)
    same = {"image": Oracle(foreign=SOURCE_MEAN)}
    new = shifted(case, 0.5, networks=same, translator="inversion", facts=BOTH)
    torch.testing.assert_close(new.image, case.image[:, 4:20, 4:20], atol=0.01, rtol=0)


def test_inversion_goes_up_as_the_foreign_scanner_where_the_fit_saw_it():
    case, t = drawn("a", FOREIGN_MEAN), 0.5
    new = shifted(case, t, translator="inversion", facts=BOTH, num_steps=100)
    moved = SOURCE_MEAN + (1 - t) * slope(t) * (FOREIGN_MEAN - SOURCE_MEAN) - FOREIGN_MEAN
    expected = case.image[:, 4:20, 4:20] + moved
    torch.testing.assert_close(new.image, expected, atol=0.01, rtol=0)
    # Untold, the oracle's images lie between the two.
    between = shifted(case, t, translator="inversion", num_steps=100).image
    unknown = (SOURCE_MEAN + FOREIGN_MEAN) / 2
    moved = (SOURCE_MEAN - unknown) * (1 - (1 - t) * slope(t))
    torch.testing.assert_close(between, case.image[:, 4:20, 4:20] + moved, atol=0.01, rtol=0)


def test_ilvr_keeps_low_frequencies_and_takes_the_texture_of_the_source():
    case, facts = flat(FOREIGN_MEAN, size=40), facts_of(2, window=32)
    held = shifted(case, 0.4, translator="ilvr", factor=4, facts=facts).image
    free = shifted(case, 0.4, facts=facts).image
    assert float(low_frequencies(held[None] - FOREIGN_MEAN, 4).abs().mean()) < 0.03
    assert float(free.mean()) < FOREIGN_MEAN - 0.4
    assert STD / 2 < float(held.std()) < 1.5 * STD


def test_energy_turns_away_from_the_foreign_scanner():
    case = flat(0.1)
    plain, weak, strong = (
        float(shifted(case, 0.4, translator=name, facts=BOTH, attraction=0.0, **more).image.mean())
        for name, more in (
            ("sdedit", {}), ("energy", {"repulsion": 0.2}), ("energy", {"repulsion": 0.4}),
        )
    )  # fmt: skip
    assert strong < weak - 0.05 < plain - 0.1
    still = shifted(case, 0.4, translator="energy", facts=BOTH, attraction=0.0, repulsion=0.0)
    assert float(still.image.mean()) == pytest.approx(plain, abs=1e-6)


def test_energy_is_held_to_the_reference():
    case = flat(0.1)
    free, held = (
        shifted(case, 0.4, translator="energy", facts=BOTH, attraction=a, repulsion=0.2).image
        for a in (0.0, 1.0)
    )
    assert abs(float(held.mean()) - 0.1) < 0.7 * abs(float(free.mean()) - 0.1)


def test_energy_needs_images_of_the_other_scanner():
    method = ReferenceShift(translator="energy", network="tiny")
    with pytest.raises(AugmintError, match="--unlabelled TARGET"):
        method.networks(FACTS)
    assert method.networks(BOTH).keys() == {"image"}


@pytest.mark.parametrize("translator", ["histogram", "fourier", "bezier"])
def test_controls_need_no_network_and_come_nearer_to_the_source(translator, parts):
    method = ReferenceShift(translator=translator)
    assert method.networks(FACTS) == {}
    networks = {"calibration": parts["calibration"]}
    case = drawn("a", FOREIGN_MEAN)
    new = shifted(case, 1.0, networks=networks, translator=translator)
    assert abs(float(new.image.mean()) - SOURCE_MEAN) < 0.05
    assert new.provenance.evaluations == 0
    assert new.provenance.walk == ""


def adapted(cases, parts, *, facts=FACTS, copies=1, seed=0, **settings):
    method = ReferenceShift(**{"num_steps": 3, "batch_size": 4, **settings})
    return list(method.adapt(parts, cases, facts, seed=seed, copies=copies))


@pytest.mark.parametrize("slices", [None, 3])
def test_what_looks_like_the_source_is_untouched_and_costs_the_look(slices, parts):
    cases = [drawn(f"t{k}", SOURCE_MEAN, seed=k, slices=slices) for k in range(4)]
    planes = slices or 1
    for case, (new,) in zip(cases, adapted(cases, parts, batch_size=1, copies=3)):
        assert torch.equal(new.image, case.image[:, 4:20, 4:20])
        assert new.provenance.details["strength"] == 0
        assert new.provenance.walk == ""
        assert new.provenance.evaluations == planes * len(LEVELS)
        assert [new.provenance.details[f"error_{level:g}"] > 0 for level in LEVELS] == [True] * 5
    assert parts["image"].evaluations == 4 * planes * len(LEVELS)


def test_what_looks_foreign_is_shifted_as_far_as_it_needs(parts):
    near, far = drawn("near", SOURCE_MEAN + 0.12), drawn("far", FOREIGN_MEAN)
    (errors,) = denoising_errors(parts, [near], FACTS, 4)
    calibration = parts["calibration"]
    # From the third level on, the nearer one looks like the source.
    mean = (*calibration.mean[:2], *torch.tensor(errors[2:]).log().tolist())
    parts["calibration"] = replace(calibration, mean=mean)
    (one,), (two,) = adapted([near, far], parts)
    assert one.provenance.details["strength"] == 0.3
    assert two.provenance.details["strength"] == 0.5
    assert [one.provenance.details[f"error_{level:g}"] for level in LEVELS] == errors
    for new, case in ((one, near), (two, far)):
        before, after = (abs(float(i.mean()) - SOURCE_MEAN) for i in (case.image, new.image))
        assert after < before


def test_a_patient_is_judged_as_one(parts):
    # One bright frame among those of the source: alone it is foreign, and so is the patient.
    mixed = [drawn(f"m{k}", m, seed=k, patient="m") for k, m in enumerate([SOURCE_MEAN, 0.4])]
    alone = [replace(mixed[0], patient_id="alone")]
    together, apart = adapted(mixed, parts), adapted(alone, parts)
    strengths = {new.provenance.details["strength"] for (new,) in together}
    assert len(strengths) == 1
    assert strengths != {0.0}
    assert apart[0][0].provenance.details["strength"] == 0.0


def test_a_curve_that_is_enough_leaves_the_network_nothing_to_do(parts):
    source, foreign = drawn("own", SOURCE_MEAN), drawn("other", FOREIGN_MEAN, slices=2)
    (own,), (one,) = adapted([source, foreign], parts, curve="histogram", copies=2)
    assert torch.equal(own.image, source.image[:, 4:20, 4:20])
    assert "curve" not in own.provenance.details
    assert one.provenance.details["curve"] == "histogram"
    assert one.provenance.details["strength"] == 0
    assert one.provenance.walk == ""
    # Two slices, looked at as they were and after the curve.
    assert one.provenance.evaluations == 2 * 2 * len(LEVELS)
    planes = foreign.image[:, 4:20, 4:20].movedim(-1, 0)
    wanted = match_histogram(planes, parts["calibration"].style, 1.0)
    assert torch.equal(one.image.movedim(-1, 0), wanted)


def test_what_looks_foreign_after_its_curve_is_walked_too(parts):
    # A style of half the way there, which is foreign still.
    half = drawn("half", (SOURCE_MEAN + FOREIGN_MEAN) / 2, seed=5)
    style = measure_style([on_window(half, FACTS).image[None]])
    parts["calibration"] = replace(parts["calibration"], style=style)
    foreign = drawn("other", FOREIGN_MEAN)
    ((one,),) = adapted([foreign], parts, curve="bezier")
    assert one.provenance.details["curve"] == "bezier"
    assert one.provenance.details["strength"] > 0
    assert one.provenance.evaluations == 2 * len(LEVELS) + 3


@pytest.mark.parametrize("settings", [{"translator": "histogram"}, {"curve": "histogram"}])
def test_frames_of_a_patient_have_one_curve(settings, parts):
    frames = [drawn(f"f{k}", m, seed=k, patient="p") for k, m in enumerate([0.5, 0.6])]
    (one,), (two,) = adapted(frames, parts, **settings)
    before = torch.cat([f.image[:, 4:20, 4:20].flatten() for f in frames])
    after = torch.cat([new.image.flatten() for new in (one, two)])
    order = before.argsort()
    assert (after[order].diff() >= 0).all()
    alone = [replace(f, patient_id=f.case_id) for f in frames]
    (first,), _ = adapted(alone, parts, **settings)
    assert not torch.equal(first.image, one.image)


def test_a_curve_beneath_a_walk_reaches_the_whole_stored_image():
    source = replace(native((48, 48)), mask=None)
    source = replace(source, image=torch.linspace(-0.6, 0.2, 48).expand(1, 48, 48).clone())
    window = GRID.to_working(source, shape=GRID.window)
    noise = 0.02 * torch.randn(window.image.shape, generator=torch.Generator().manual_seed(1))
    origin = Provenance("s", "reference_shift", details={"strength": 0.1, "curve": "bezier"})
    new = replace(window, image=window.image + 0.3 + noise, provenance=origin)
    change = ReferenceShift().to_native(new, source, GRID).image - source.image
    torch.testing.assert_close(change, torch.full_like(change, 0.3), atol=0.06, rtol=0)
    assert float(change[0, :, :4].mean()) == pytest.approx(0.3, abs=0.01)


def test_slices_of_a_patient_share_their_noise(parts):
    volume = flat(FOREIGN_MEAN, "v", slices=3, patient="p")
    frame = flat(FOREIGN_MEAN, "f", patient="p")
    networks = {"image": Oracle(), "calibration": parts["calibration"]}
    for translator in LEARNED:
        settings = {"translator": translator, "strength": 0.4}
        (new,), (other,) = adapted([volume, frame], networks, facts=BOTH, **settings)
        assert float((new.image[..., 0] - other.image).abs().max()) < 1e-5
        assert all(torch.equal(new.image[..., 0], new.image[..., z]) for z in (1, 2))
        (lonely,) = adapted([replace(frame, patient_id="q")], networks, facts=BOTH, **settings)
        if translator != "inversion":
            assert not torch.equal(lonely[0].image, other.image)


def small():
    """A real network, whose last bits depend on the size of its batch."""
    method = ReferenceShift(network="tiny", num_steps=2, batch_size=3)
    network = networks_of(method, FACTS)["image"]
    return {"image": network, "calibration": calibrated(network)}


@pytest.mark.parametrize("translator", LEARNED)
def test_bytes_depend_on_seed_patient_and_copy_alone(translator):
    networks = small()
    settings = {
        "translator": translator, "strength": 0.3, "num_steps": 2, "batch_size": 3,
        "network": "tiny",
    }  # fmt: skip
    cases = [case_of((24, 24), f"c{k}") for k in range(3)]
    whole = adapted(cases, networks, facts=BOTH, **settings)
    for case, (new,) in zip(cases, whole):
        (alone,) = adapted([case], networks, facts=BOTH, **settings)
        assert torch.equal(alone[0].image, new.image)
    if translator != "inversion":
        (other,) = adapted(cases[:1], networks, facts=BOTH, seed=1, **settings)
        assert not torch.equal(other[0].image, whole[0][0].image)
        (several,) = adapted(cases[:1], networks, facts=BOTH, copies=2, **settings)
        assert torch.equal(several[0].image, whole[0][0].image)
        assert not torch.equal(several[1].image, several[0].image)


def test_the_look_is_independent_of_companions():
    networks = small()
    cases = [case_of((24, 24, 2), f"c{k}") for k in range(3)]
    whole = denoising_errors(networks, cases, FACTS, 3)
    assert denoising_errors(networks, cases[1:2], FACTS, 3) == whole[1:2]


def test_masks_of_a_target_are_never_looked_at(parts):
    case = drawn("a", FOREIGN_MEAN)
    others = [replace(case, mask=1 - case.mask.clamp(max=1)), replace(case, mask=None)]
    ((new,),) = adapted([case], parts)
    assert new.mask is None
    for other in others:
        ((again,),) = adapted([other], parts)
        assert torch.equal(again.image, new.image)
    assert all(not given[:, :-2].any() for given in parts["image"].told)


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
@pytest.mark.parametrize("translator", LEARNED)
def test_evaluations_are_those_that_happen(translator, solver, parts):
    oracle = parts["image"]
    cases = [drawn("a", FOREIGN_MEAN, slices=3), drawn("b", SOURCE_MEAN)]
    settings = {"translator": translator, "solver": solver, "batch_size": 1}
    made = adapted(cases, parts, facts=BOTH, copies=2, **settings)
    assert [len(own) for own in made] == [2, 1]
    told = [new.provenance.evaluations for own in made for new in own]
    assert sum(told) == oracle.evaluations
    walk = {"euler": 3, "heun": 5, "multistep": 3}[solver]
    if translator == "inversion":
        walk += 6 if solver == "heun" else 3
    if translator == "energy":
        walk *= 2
    assert told == [3 * (walk + len(LEVELS)), 3 * walk, len(LEVELS)]


def test_energy_without_repulsion_evaluates_once_a_step(parts):
    case = drawn("a", FOREIGN_MEAN)
    settings = {"translator": "energy", "repulsion": 0.0, "strength": 0.3, "batch_size": 1}
    ((new,),) = adapted([case], parts, facts=BOTH, **settings)
    assert new.provenance.evaluations == parts["image"].evaluations == 3


def test_without_a_calibrated_strength_nothing_is_passed_as_source_like(parts):
    too_far = {name: {"0.1": 0.7, "0.2": 0.9} for name in ("sdedit", "histogram")}
    networks = {**parts, "calibration": replace(parts["calibration"], movement=too_far)}
    case = drawn("a", FOREIGN_MEAN)
    for name in ("sdedit", "histogram"):
        with pytest.raises(AugmintError, match=r"more than 0\.5 px at every .*; set strength"):
            adapted([case], networks, translator=name)
    with pytest.raises(AugmintError, match=r"more than 0\.5 px"):
        list(ReferenceShift().generate(networks, [(case, 0)], FACTS, seed=0))
    with pytest.raises(AugmintError, match="ilvr was not calibrated, only sdedit, histogram"):
        adapted([case], networks, translator="ilvr")
    ((new,),) = adapted([case], networks, movement=0.8)
    assert new.provenance.details["strength"] == 0.1
    ((new,),) = adapted([case], networks, strength=0.3)
    assert new.provenance.details["strength"] == 0.3


def test_generate_shifts_every_reference_and_keeps_its_mask(parts):
    method = ReferenceShift(num_steps=3, batch_size=4)
    cases = [case_of((24, 24, 2), "v"), case_of((24, 24), "f")]
    orders = [(case, copy) for case in cases for copy in (0, 2)]
    made = list(method.generate(parts, orders, FACTS, seed=5))
    for (case, copy), new in zip(orders, made):
        assert torch.equal(new.mask, case.mask[4:20, 4:20])
        assert new.case_id == f"{case.case_id}__s5_c{copy}"
        assert new.provenance.details["strength"] == 0.5
        assert new.provenance.walk == "multistep 3 from 0.5"
        assert not torch.equal(new.image, case.image[:, 4:20, 4:20])
    assert not torch.equal(made[0].image, made[1].image)


def test_generate_shows_masks_unless_it_must_not(parts):
    case = case_of((24, 24, 3), "v")
    for use in (True, False):
        parts["image"].told.clear()
        method = ReferenceShift(num_steps=2, batch_size=3, use_masks=use)
        list(method.generate(parts, [(case, 0)], FACTS, seed=0))
        for given in parts["image"].told:
            window = case.mask[4:20, 4:20].movedim(-1, 0)
            assert bool(given[:, :3].any()) == use
            if use:
                assert torch.equal(given[:, :3].argmax(1), window)
            assert given[:, 3, 0, 0].tolist() == [-1, 0, 1]
            assert (given[:, 4] == 1).all()


def test_the_condition_by_hand():
    masks = torch.tensor([[[0, 2]], [[1, 1]]])
    given = condition(
        masks, torch.tensor([True, False]), torch.tensor([-1.0, 0.5]), torch.tensor([1.0, -1.0]), 3
    )
    assert given.dtype == torch.float32
    assert given[0, :, 0].T.tolist() == [[1, 0, 0, -1, 1], [0, 0, 1, -1, 1]]
    assert given[1, :, 0].T.tolist() == [[0, 0, 0, 0.5, -1]] * 2


def test_examples_hide_masks_and_tell_the_scanner():
    count = 200
    method = ReferenceShift(network="tiny", fit_warp=0.0)
    case = case_of((24, 24), "a")
    labelled = torch.arange(count) % 4 > 0
    samples = Samples(
        case.image.expand(count, 1, 24, 24), case.mask.expand(count, 24, 24), torch.zeros(count),
        labelled=labelled,
    )  # fmt: skip
    spec = method.networks(FACTS)["image"]
    assert spec.keeps_unlabelled
    images, given = spec.example(samples, torch.Generator().manual_seed(0))
    shown = given[:, :3].flatten(1).any(1)
    assert not shown[~labelled].any()
    assert 0.35 < float(shown[labelled].float().mean()) < 0.65
    assert torch.equal(given[:, 4, 0, 0], torch.where(labelled, 1.0, -1.0))
    masks = given[shown][:, :3].argmax(1)
    assert torch.equal(masks, case.mask[4:20, 4:20].expand_as(masks))
    torch.testing.assert_close(images[0], case.image[:, 4:20, 4:20], atol=1e-5, rtol=0)
    # Who does not say that samples are bare has labelled ones.
    _, given = spec.example(replace(samples, labelled=None), torch.Generator().manual_seed(0))
    assert (given[:, 4] == 1).all()


def test_by_patient_weighs_slices_alike():
    cases = [
        case_of((24, 24, 3), "v"), case_of((24, 24), "f"), case_of((24, 24), "g"),
    ]  # fmt: skip
    cases[1] = replace(cases[1], patient_id=cases[0].patient_id)
    pooled = by_patient(cases, [[1.0, 0.0], [5.0, 8.0], [3.0, 3.0]], FACTS)
    assert pooled == {"patient of v": [2.0, 2.0], "patient of g": [3.0, 3.0]}


def native(shape, name="n", *, seed=0):
    """A case finer than its working grid, its slices last."""
    case = case_of(shape, name)
    spacing = [1.0] * (len(shape) + 1)
    if len(shape) == 3:
        spacing[2] = 8.0
    return replace(case, grid=Grid(shape, np.diag(spacing), True))


GRID = WorkingGrid(2, (24, 24), (16, 16), spacing_mm=(2.0, 2.0))


@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 3)])
@pytest.mark.parametrize("translator", TRANSLATORS)
def test_what_was_not_changed_comes_back_as_it_was_stored(translator, shape):
    source = native(shape)
    window = on_window(GRID.to_working(source), replace(FACTS, grid=GRID))
    new = ReferenceShift(translator=translator).to_native(window, source, GRID)
    assert torch.equal(new.image, source.image)
    assert torch.equal(new.mask, source.mask)
    assert new.grid is source.grid


@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 3)])
def test_a_change_keeps_detail_and_what_lies_outside_the_window(shape):
    source = native(shape)
    source = replace(source, image=source.image * 0.5)
    window = GRID.to_working(source, shape=GRID.window)
    new = replace(window, image=window.image + 0.25, mask=None)
    back = ReferenceShift().to_native(new, source, GRID)
    change = back.image - source.image
    # The window covers rows 4 to 36 and columns 8 to 40; near its sides the change fades.
    assert torch.equal(back.mask, source.mask)
    torch.testing.assert_close(
        change[:, 18:22, 22:26], torch.full_like(change[:, 18:22, 22:26], 0.25), atol=1e-4, rtol=0
    )
    assert not change[:, :2].any()
    assert not change[:, 38:].any()
    assert not change[:, :, :6].any()
    assert not change[:, :, 42:].any()
    assert 0 < float(change[:, 5, 24].mean()) < 0.12


def test_a_change_lands_where_it_was_made():
    source = native((40, 48, 3))
    source = replace(source, image=torch.zeros_like(source.image))
    window = GRID.to_working(source, shape=GRID.window)
    image = window.image.clone()
    image[0, 5, 9, 1] = 0.5  # row 5 and column 9 of the window in the middle slice
    back = ReferenceShift().to_native(replace(window, image=image, mask=None), source, GRID).image
    assert not back[..., 0].any()
    assert not back[..., 2].any()
    # Planes of 24 by 20 working pixels, of which the window leaves 4 rows and 2 columns on either
    # side; volumes store columns first, and a working pixel is 2 stored ones.
    peak = torch.nonzero(back[0, ..., 1] == back.max()).float().mean(0)
    assert peak.tolist() == [2 * (9 + 2) + 0.5, 2 * (5 + 4) + 0.5]


def test_a_change_saturates_at_white_and_black():
    source = replace(native((32, 32)), image=torch.full((1, 32, 32), 0.9))
    window = GRID.to_working(source, shape=GRID.window)
    back = ReferenceShift().to_native(replace(window, image=window.image + 0.1), source, GRID)
    assert float(back.image.max()) <= 1
    assert float(back.image[0, 16, 16]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("translator", ["histogram", "bezier"])
def test_a_curve_changes_pixels_outside_the_window_too(translator, parts):
    source = replace(native((48, 48, 2)), mask=None)
    axis = torch.linspace(-0.6, 0.6, 48)
    source = replace(source, image=axis.reshape(1, 48, 1, 1).expand(1, 48, 48, 2).clone())
    source.image[:, :, :4] = -1  # where nothing was recorded
    source.image[:, :, 4:6] = 0.9  # brighter than all that the window holds
    facts = replace(FACTS, grid=GRID)
    method = ReferenceShift(translator=translator)
    networks = {"calibration": parts["calibration"]}
    working = GRID.to_working(source)
    (new,) = method.translate(networks, [Shift(working, 0, 1.0)], facts, seed=0, masks=False)
    back = method.to_native(new, source, GRID)
    assert (back.image[:, :, :4] == -1).all()
    inside = back.image[0, 8:40, 24]
    assert (inside.diff(dim=0) >= -1e-6).all()
    # A row is one value, so each row of the ramp maps to one value, in the window or not.
    ramp = back.image[0, :, 6:, 0]
    assert float((ramp - ramp[:, :1]).abs().max()) < 1e-6
    assert not torch.equal(back.image[0, 0, 8:], source.image[0, 0, 8:])
    moved = back.image[0, :, 4:6] - source.image[0, :, 4:6]
    last = GRID.to_working(source, shape=GRID.window).image.argmax()
    expected = (new.image.flatten()[last] - working.image[:, 4:20, 4:20].max()).item()
    assert float(moved.mean()) == pytest.approx(max(-2.0, min(0.1, expected)), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"translator": "cycle"}, "translator is one of sdedit, ilvr, inversion, energy"),
        ({"curve": "fourier"}, "curve is none or one of histogram, bezier"),
        ({"strength": 1.5}, "strength is from 0 to 1; got 1.5"),
        ({"movement": 0.0}, "movement is above 0"),
        ({"num_steps": 0}, "num_steps is 1 or more"),
        ({"factor": 1}, "factor is 2 or more"),
        ({"repulsion": -1.0}, "repulsion is 0 or more"),
        ({"attraction": 2.0}, "attraction is from 0 to 1"),
        ({"stem": 0}, "stem is 1 or more"),
        ({"fit_warp": -0.1}, "fit_warp is 0 or more"),
        ({"batch_size": 0}, "batch_size is 1 or more"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(settings, rule):
    with pytest.raises(AugmintError, match=rule):
        ReferenceShift(**settings)


def test_solids_are_shifted_whole():
    facts = facts_of(3)
    method = ReferenceShift(network="tiny", num_steps=1, batch_size=8, stem=2, strength=0.3)
    networks = networks_of(method, facts)
    case = case_of((24, 24, 24), "s")
    (new,) = method.generate(networks, [(case, 0)], facts, seed=0)
    assert new.image.shape == (1, 16, 16, 16)
    assert torch.equal(new.mask, case.mask[4:20, 4:20, 4:20])
    assert new.provenance.evaluations == 1


@pytest.mark.parametrize("curve", ["histogram", "bezier"])
def test_curves_rise_so_that_no_contour_of_equal_brightness_moves(curve, parts):
    patient = [drawn(f"r{k}", FOREIGN_MEAN, seed=k, slices=2, patient="p") for k in range(2)]
    made = adapted(patient, parts, curve=curve)
    assert made[0][0].provenance.details["curve"] == curve
    assert made[0][0].provenance.details["strength"] == 0
    before = torch.cat([c.image[:, 4:20, 4:20].flatten() for c in patient])
    after = torch.cat([new.image.flatten() for (new,) in made])
    ranks = before.argsort()
    assert (after[ranks].diff() >= 0).all()
    # So the pixels above any grey level after it are those above some grey level before it.
    level = after.median()
    threshold = before[after >= level].min()
    assert torch.equal(after >= level, before >= threshold)


@pytest.mark.parametrize("translator", LEARNED)
def test_a_curve_goes_before_a_strength_that_is_set(translator, parts):
    foreign = drawn("other", FOREIGN_MEAN)
    settings = {"translator": translator, "strength": 0.2, "facts": BOTH}
    ((bent,),) = adapted([foreign], parts, curve="histogram", **settings)
    ((plain,),) = adapted([foreign], parts, **settings)
    assert bent.provenance.details["curve"] == "histogram"
    assert bent.provenance.details["strength"] == 0.2
    assert bent.provenance.evaluations == plain.provenance.evaluations
    assert "curve" not in plain.provenance.details
    window = foreign.image[:, 4:20, 4:20]
    curved = match_histogram(window[None], parts["calibration"].style, 1.0)[0]
    assert float((bent.image - curved).abs().mean()) < float((bent.image - window).abs().mean())


@pytest.mark.parametrize("translator", sorted(set(TRANSLATORS) - set(LEARNED)))
def test_a_curve_before_a_control_is_refused(translator):
    with pytest.raises(AugmintError, match=f"{translator} has none; set curve=none"):
        ReferenceShift(translator=translator, curve="histogram")


@pytest.mark.parametrize(
    "settings", [{}, {"strength": 0.3}, {"curve": "bezier"}, {"translator": "inversion"}]
)
def test_evaluations_lie_between_those_that_were_expected(settings, parts):
    method = ReferenceShift(num_steps=3, batch_size=4, **settings)
    cases = [drawn("own", SOURCE_MEAN, slices=2), drawn("far", FOREIGN_MEAN, slices=2)]
    least, most = method.expected_evaluations(parts, 2, 3)
    for made in method.adapt(parts, cases, FACTS, seed=0, copies=3):
        assert least <= sum(new.provenance.evaluations for new in made) <= most


def styled(cases, *, copies=2, seed=0):
    """Images of `styles`, which needs no network and no calibration, by case and copy."""
    method = ReferenceShift(translator="styles", batch_size=4)
    orders = [(case, copy) for case in cases for copy in range(copies)]
    return list(method.generate({}, orders, FACTS, seed=seed))


def test_styles_are_rising_curves_that_differ_by_patient_and_copy():
    one = drawn("a", 0.0, seed=1)
    other = replace(drawn("b", 0.0, seed=1), patient_id="another")
    made = styled([one, other])
    window = one.image[:, 4:20, 4:20].flatten()
    order = window.argsort()
    for new, case in zip(made, (one, one, other, other)):
        assert (new.image.flatten()[order].diff() >= 0).all()
        assert torch.equal(new.mask, on_window(case, FACTS).mask)
        assert new.provenance.evaluations == 0
        assert new.provenance.details["translator"] == "styles"
    images = [new.image for new in made]
    apart = [float((a - b).abs().mean()) for k, a in enumerate(images) for b in images[:k]]
    assert min(apart) > 0.01
    again = styled([one, other])
    assert all(torch.equal(a.image, b.image) for a, b in zip(made, again))


def test_all_images_of_a_patient_have_one_style():
    grey = torch.linspace(-1, 1, 24).expand(1, 24, 24)
    cases = [replace(flat(0.0, name, patient="p"), image=grey.clone()) for name in ("ED", "ES")]
    first, second = styled(cases, copies=1)
    assert torch.equal(first.image, second.image)


def test_styles_are_not_to_adapt_with(parts):
    with pytest.raises(AugmintError, match="to train on; set another translator"):
        adapted([drawn("a", FOREIGN_MEAN)], parts, translator="styles")
