"""Sector outpainting: what stays, what is new, and what the manifest says of both."""

import csv
import hashlib
import itertools
import json
import math
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from augmint.augment import augment
from augmint.case import Case, Grid, IntensityMap
from augmint.data import open_dataset, read_image, read_mask
from augmint.data.phantoms import make_phantoms
from augmint.diffusion.checkpoint import save_network
from augmint.diffusion.networks import build_network
from augmint.diffusion.training import TrainingConfig
from augmint.errors import AugmintError
from augmint.fit import load_run, write_run
from augmint.generate import generate, synthesise
from augmint.imaging.sector import Sector, SectorChange, change_view, places, pull_back
from augmint.imaging.warps import warp_image
from augmint.imaging.working import WorkingGrid
from augmint.methods import DatasetFacts, Samples, build_method
from augmint.methods.sector_outpaint import DRAWS, SectorOutpaint, find_sector
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.gates import Verdict
from augmint.synthetic import load_rows, write_real

QUIET = Talk(quiet=True)
LABELS = {"background": 0, "LV": 1, "MYO": 2}
PLAIN = ("black", "mirror", "speckle")
PAINTED = ("conditional", "repaint")
TINY = {
    "network": "tiny", "num_steps": 2, "repaint_steps": 4, "jump_length": 2, "num_resamples": 2,
    "batch_size": 4,
}  # fmt: skip


def facts_of(size, **options):
    grid = WorkingGrid(2, (size, size), (size, size), **({"longest": size} | options))
    return DatasetFacts(1, LABELS, ("LV", "MYO"), grid, "ultrasound", ("A",))


@cache
def fan_of(shape, tilt=0.0):
    """A sector that leaves some room in a frame of this shape."""
    rows, columns = shape
    far = min(0.9 * rows, 0.8 * columns)
    return Sector(0.04 * rows, columns / 2 - 0.5, -33.0 + tilt, 36.0 + tilt, 0.1 * far, far)


def frame_case(name, shape=(96, 96), *, mask=True, fan=None, fill=None):
    """A fan of speckle, an LV within its wall, nothing outside; as read from an 8-bit file."""
    rng = np.random.default_rng(sum(map(ord, name)))
    fan = fan or fan_of(shape, float(rng.uniform(-2, 2)))
    radius, angle = (p.numpy() for p in fan.polar(*places(shape)))
    apart = np.hypot(radius - 0.55 * fan.far, (angle - 0.05) * 0.55 * fan.far)
    labels = np.where(apart < 0.14 * fan.far, 1, 2 * (apart < 0.22 * fan.far))
    grey = np.array([110, 40, 190])[labels] - 0.3 * radius + rng.normal(0, 22, shape)
    stored = np.where(fan.mask(shape).numpy(), np.clip(np.round(grey), 4, 255), 0)
    if fill is not None:
        stored = fill(stored, fan.mask(shape).numpy())
    intensity = IntensityMap((0.0,), (255.0,), "uint8")
    return Case(
        image=intensity.to_unit(stored[None]),
        mask=torch.from_numpy(labels).long() if mask else None,
        annotated=frozenset({1, 2}),
        grid=Grid(tuple(shape), np.eye(len(shape) + 1), False),
        intensity=intensity,
        case_id=name,
        patient_id=f"patient of {name}",
        domain="A",
    )


def random_weights(network, seed=7):
    """Fresh networks predict zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return network.eval()


def networks_of(method, facts):
    specs = method.networks(facts)
    return {name: random_weights(build_network(s.config)) for name, s in specs.items()}


def method_of(filler, **settings):
    return build_method("sector_outpaint", {**TINY, "filler": filler, **settings})


def make(filler, orders, facts, *, seed=0, **settings):
    method = method_of(filler, **settings)
    return list(method.generate(networks_of(method, facts), orders, facts, seed=seed))


def change_of(new):
    told = new.provenance.details
    return SectorChange(**{f.name: told[f.name] for f in fields(SectorChange)})


def sector_of(told, prefix="sector_"):
    names = ("row", "column", "left", "right", "near", "far", "aspect")
    return Sector(*[float(told[prefix + n]) for n in names])


def parts_of(new, source, facts, method):
    """The view, the resampled frame, what of it is kept and what is visible, on the canvas."""
    fan = find_sector(source.image, source.case_id, facts)
    shape = source.image.shape[1:]
    frame = (0.0, 0.0, float(shape[0]), float(shape[1]))
    view = change_view(fan, change_of(new), frame, widest=method.widest)
    grid = pull_back(*view.sources(*places(shape)), shape)
    recorded = warp_image(source.image[None], grid)[0]
    return view, recorded, view.known(shape, margin=method.margin), view.sector.mask(shape)


def away_from(region):
    """Distance of every pixel from the nearest one of a region."""
    if not region.any():
        return torch.full(region.shape, math.inf)
    return torch.from_numpy(distance_transform_edt(~region.numpy()))


@pytest.mark.parametrize(("fillers", "size"), [(PLAIN + PAINTED, 32), (PLAIN, 96)])
def test_with_one_seed_all_fillers_show_the_same_change(fillers, size):
    facts = facts_of(size)
    cases = [frame_case(f"f{i}", (size, size)) for i in range(2)]
    orders = [(case, copy) for case in cases for copy in range(3)]
    made = {filler: make(filler, orders, facts, seed=3) for filler in fillers}
    far_away = 0
    for i, (case, copy) in enumerate(orders):
        first = made["black"][i]
        assert change_of(first) != SectorChange()
        assert (first.case_id, first.patient_id) == (f"{case.case_id}__s3_c{copy}", case.patient_id)
        _, recorded, known, visible = parts_of(first, case, facts, method_of("black"))
        kept = known & (away_from(visible & ~known) > 4)
        far_away += int(kept.sum())
        for filler in fillers:
            new = made[filler][i]
            told = dict(new.provenance.details)
            assert told.pop("filler") == filler
            assert told == {k: v for k, v in first.provenance.details.items() if k != "filler"}
            assert torch.equal(new.image[:, kept], recorded[:, kept])
            assert (new.image[:, ~visible] == -1).all()
            assert new.image.shape == case.image.shape
            assert new.image.dtype == torch.float32
    assert far_away > 0.1 * len(orders) * size * size
    changes = {change_of(new) for new in made["black"]}
    assert len(changes) == len(orders)
    for one, two in itertools.pairwise(fillers):
        assert any(not torch.equal(a.image, b.image) for a, b in zip(made[one], made[two]))


@pytest.mark.parametrize("filler", PLAIN)
@pytest.mark.parametrize("band", [0, 4])
def test_kept_pixels_are_the_bits_of_the_resampled_frame(filler, band):
    facts, case = facts_of(96), frame_case("a")
    method = method_of(filler, band=band)
    for new in make(filler, [(case, c) for c in range(4)], facts, band=band):
        view, recorded, known, visible = parts_of(new, case, facts, method)
        told = new.provenance.details
        assert told["scale"] == view.scale
        for name, value in vars(sector_of(told)).items():
            assert name == "box" or value == getattr(view.sector, name)
        fresh = visible & ~known
        kept = known & (away_from(fresh) > (band if filler != "black" else 0))
        assert torch.equal(new.image[:, kept], recorded[:, kept])
        if filler == "black":
            assert (new.image[:, fresh] == -1).all()
        elif fresh.sum() > 200:
            assert float((new.image[:, fresh] > -0.98).float().mean()) > 0.95
        assert told["new"] == pytest.approx(float(fresh.sum() / visible.sum()))


def with_holes(stored, inside):
    """Black pixels all over the sector and one large black spot."""
    holes = np.random.default_rng(0).random(stored.shape) < 0.017
    holes[50:62, 40:52] = True
    return np.where(inside & holes, 0, stored)


def with_text(stored, inside):
    """Strokes beside the fan, some of them long."""
    text = np.zeros(stored.shape, bool)
    text[4:12:2, 3:16] = text[80:90, 4:14:3] = text[6:7, 76:93] = True
    return np.where(text & ~inside, 255, stored)


def on_grey(stored, inside):
    return np.where(inside, np.maximum(stored, 60), 45)


@pytest.mark.parametrize("fill", [with_holes, with_text, on_grey])
def test_holes_text_and_a_grey_background_do_no_harm(fill):
    facts = facts_of(96)
    plain, marked = frame_case("a"), frame_case("a", fill=fill)
    assert not torch.equal(plain.image, marked.image)
    orders = [(marked, c) for c in range(3)]
    clean_orders = [(plain, c) for c in range(3)]
    made = (make("mirror", one, facts) for one in (orders, clean_orders))
    for new, clean in zip(*made):
        _view, recorded, known, visible = parts_of(new, marked, facts, method_of("mirror"))
        assert (new.image[:, ~visible] == -1).all()
        kept = known & (away_from(visible & ~known) > 4)
        assert torch.equal(new.image[:, kept], recorded[:, kept])
        # The change and the share that is new are those of the frame without them.
        assert change_of(new) == change_of(clean)
        assert new.provenance.details["new"] == pytest.approx(
            clean.provenance.details["new"], abs=0.02
        )
        if fill is with_holes:
            black = recorded[0] < -0.99
            assert (black & kept).sum() > 20
            assert (new.image[0][black & kept] < -0.99).all()


@pytest.mark.parametrize("filler", ["mirror", "speckle", "repaint"])
def test_no_labelled_pixel_is_regenerated_by_a_filler_that_is_not_told(filler):
    size = 32 if filler == "repaint" else 96
    facts, case = facts_of(size), frame_case("a", (size, size))
    # The wall reaches beyond what was recorded, as it does in real annotations.
    case, lost = replace(case, mask=torch.where(case.mask == 1, 1, 2)), 0.0
    settings = {"fixed": True, "least_kept": 0.3}
    for new in make(filler, [(case, c) for c in range(6)], facts, **settings):
        _, _, known, _ = parts_of(new, case, facts, method_of(filler))
        assert not (new.mask[~known] > 0).any()
        assert (new.mask > 0).any()
        lost += new.provenance.details["new_LV"] + new.provenance.details["new_MYO"]
    assert lost > 0


def test_black_hides_tissue_and_keeps_its_labels():
    facts, case = facts_of(32), frame_case("a", (32, 32))
    orders = [(replace(case, mask=torch.where(case.mask == 1, 1, 2)), c) for c in range(4)]
    black, painted = (make(f, orders, facts) for f in ("black", "conditional"))
    assert all(torch.equal(one.mask, two.mask) for one, two in zip(black, painted))
    assert any((one.mask[one.image[0] == -1] > 0).any() for one in black)


def test_labels_that_cross_into_the_new_part_stand_there_and_are_told():
    facts, case = facts_of(32), frame_case("a", (32, 32))
    wide = torch.where(case.mask == 1, 1, 2)
    case, crossed = replace(case, mask=wide), 0
    for new in make("conditional", [(case, c) for c in range(4)], facts, least_kept=0.2):
        _, _, known, visible = parts_of(new, case, facts, method_of("conditional"))
        assert not (new.mask[~visible] > 0).any()
        told = new.provenance.details
        for name, index in (("LV", 1), ("MYO", 2)):
            there = new.mask == index
            share = float((there & ~known).sum() / max(1, int(there.sum())))
            assert told[f"new_{name}"] == pytest.approx(share)
            crossed += int((there & ~known).sum())
        assert told["outside_added"] < told["outside"]
    assert crossed > 0


def test_enough_of_the_labels_stays_in_view():
    facts, case = facts_of(96), frame_case("a")
    settings = {"fixed": True, "probability": 0.9}
    outside, draws = {}, {}
    for least in (0.2, 0.9):
        made = make("black", [(case, c) for c in range(8)], facts, least_kept=least, **settings)
        outside[least] = [new.provenance.details["outside"] for new in made]
        draws[least] = sum(new.provenance.details["draws"] for new in made)
    # Counted in whole pixels after resampling.
    assert max(outside[0.9]) <= 0.13 < max(outside[0.2])
    assert draws[0.9] > draws[0.2] >= 8


def test_a_change_that_must_be_weakened_says_so():
    facts = facts_of(96)
    case = frame_case("a")
    radius, angle = fan_of((96, 96)).polar(*places((96, 96)))
    broad = ((angle - 0.026).abs() < math.radians(24)) & (radius > 30) & (radius < 60)
    case = replace(case, mask=broad.long())
    only_tilt = {
        "depth": 0.0, "narrow": 1.0, "wide": 1.0, "shift": 0.0, "tilt": 40.0, "fixed": True,
        "probability": 1.0, "least_kept": 1.0,
    }  # fmt: skip
    for new in make("black", [(case, c) for c in range(3)], facts, **only_tilt):
        told = new.provenance.details
        assert told["draws"] == DRAWS
        assert 0 < told["weakened"] < 1
        assert abs(told["tilt"]) == pytest.approx(40 * told["weakened"])
        assert abs(told["tilt"]) > 3
        # Sides 33 to 38 degrees from straight down leave a little more than 10.
        assert abs(told["tilt"]) < 16
        assert told["outside_added"] < 0.01
    (free,) = make("black", [(case, 0)], facts, **{**only_tilt, "least_kept": 0.0})
    assert (free.provenance.details["weakened"], free.provenance.details["draws"]) == (1, 1)


def test_a_wide_sector_is_never_given_back_unchanged():
    wide = Sector(6.0, 47.5, -52.0, 52.0, 5.0, 56.0)
    facts, case = facts_of(96), frame_case("a", fan=wide)
    only_width = {"depth": 0.0, "tilt": 0.0, "shift": 0.0, "least_kept": 0.0, "probability": 1.0}
    old = find_sector(case.image, "a", facts)
    assert old.width > 100
    for new in make("black", [(case, c) for c in range(6)], facts, **only_width):
        told = new.provenance.details
        assert told["sector_right"] - told["sector_left"] == pytest.approx(
            old.width * told["width"], rel=1e-6
        )
        assert abs(told["width"] - 1) > 1e-3
    only_wider = only_width | {"narrow": 1.0}
    with pytest.raises(AugmintError, match=r"case 'a': its sector of 10\d degrees is not"):
        make("black", [(case, 0)], facts, **only_wider)


def shown_of(stored):
    return binary_fill_holes(stored > 0)


def overlap(one, two):
    return (one & two).sum() / (one | two).sum()


@pytest.mark.parametrize("shape", [(150, 110), (100, 144)])
@pytest.mark.parametrize("filler", ["mirror", "speckle"])
def test_the_stored_cone_is_the_requested_one_and_all_else_is_zero(shape, filler):
    native = frame_case("a", shape)
    facts = facts_of(96)
    working = facts.grid.to_working(native)
    covered = working.frame
    assert sorted(covered) != [96, 96]
    method = method_of(filler)
    for new in method.generate({}, [(working, c) for c in range(4)], facts, seed=0):
        stored = method.to_native(new, native, facts.grid)
        assert stored.image.shape == native.image.shape
        assert stored.grid is native.grid
        assert stored.frame is None
        sector = sector_of(stored.provenance.details)
        visible = sector.mask(shape).numpy()
        pixels = native.intensity.to_stored(stored.image)[0]
        assert (pixels[~visible] == 0).all()
        assert not (stored.mask.numpy()[~visible] > 0).any()
        assert overlap(shown_of(pixels), visible) >= 0.99
        # No tissue in the padding of the canvas either.
        out = torch.ones(96, 96, dtype=torch.bool)
        top, left = (48 - n // 2 for n in covered)
        out[top : top + covered[0], left : left + covered[1]] = False
        assert (new.image[:, out] == -1).all()
        # The geometry told on the native grid is that of the working one, seen there.
        before = sector_of(new.provenance.details)
        scale = shape[0] / covered[0]
        assert sector.far == pytest.approx(before.far * scale)
        assert sector.row == pytest.approx((before.row - top + 0.5) * scale - 0.5, abs=1e-6)


def write_mhd(path, picture, spacing=(0.3, 0.2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(picture.astype(np.uint8)[None])
    image.SetSpacing((*spacing, 1.0))
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("filler", ["mirror", "black"])
def test_frames_stored_as_volumes_of_one_slice_come_back_as_such(filler, tmp_path):
    # Pixels are half as wide again as high; in a picture the apex is at the top.
    shape, fan = (96, 72), Sector(3.0, 34.0, -28.0, 38.0, 6.0, 74.0, 1.5)
    case = frame_case("a", shape, fan=fan)
    for view in ("2CH", "4CH"):
        for phase in ("ED", "ES"):
            name = tmp_path / "training" / "patient0001" / f"patient0001_{view}_{phase}"
            write_mhd(name.with_suffix(".mhd"), case.intensity.to_stored(case.image)[0])
            write_mhd(name.with_name(f"{name.name}_gt.mhd"), case.mask.numpy())
    dataset = open_dataset(tmp_path)
    native = dataset.load(dataset.items[0])
    assert native.image.shape == (1, 72, 96, 1)
    facts = prepare(dataset, preset_named("demo")).facts
    assert facts.grid.spacing_mm is not None
    method = method_of(filler)
    working = facts.grid.to_working(native)
    for new in method.generate({}, [(working, c) for c in range(4)], facts, seed=0):
        assert new.image.shape == working.image.shape
        assert new.mask.shape == working.mask.shape
        stored = method.to_native(new, native, facts.grid)
        assert stored.image.shape == (1, 72, 96, 1)
        assert stored.mask.shape == (72, 96, 1)
        told = stored.provenance.details
        sector = sector_of(told)
        assert sector.aspect == pytest.approx(1.5, rel=0.03)
        assert (sector.row, sector.column) == pytest.approx((3, 34), abs=1.5)
        visible = sector.mask(shape).numpy()
        picture = native.intensity.to_stored(stored.image)[0, ..., 0].T
        assert (picture[~visible] == 0).all()
        if filler == "mirror":
            assert overlap(shown_of(picture), visible) >= 0.99
        assert not (stored.mask[..., 0].T.numpy()[~visible] > 0).any()
        # The LV, darkest of all, still lies under its label.
        inside = stored.mask[..., 0].T.numpy() == 1
        assert picture[inside].mean() < 0.6 * picture[visible & (picture > 0) & ~inside].mean()


@pytest.mark.parametrize("filler", PLAIN)
def test_a_case_that_cannot_be_used_is_one_clear_error(filler):
    facts = facts_of(48)
    box = frame_case("linear", (48, 48), fill=lambda stored, inside: np.full((48, 48), 99.0))
    rng = np.random.default_rng(0)
    box = replace(box, image=torch.full((1, 48, 48), -1.0))
    box.image[:, 6:40, 9:41] = torch.from_numpy(rng.uniform(-0.5, 0.9, (34, 32))).float()
    empty = replace(box, case_id="empty", image=torch.full((1, 48, 48), -1.0))
    bare = frame_case("bare", (48, 48), mask=False)
    film = frame_case("film", (48, 48))
    film = replace(
        film, image=torch.stack([film.image] * 3, -1), mask=torch.stack([film.mask] * 3, -1),
        grid=Grid((48, 48, 3), np.eye(4), False),
    )  # fmt: skip
    wrong = {
        "'linear' shows no sector: its picture is a rectangle": box,
        "'empty' shows no sector: nothing stands out": empty,
        "'bare' has no mask": bare,
        "'film' is a volume or a sequence": film,
    }
    for message, case in wrong.items():
        with pytest.raises(AugmintError, match=message):
            list(method_of(filler).generate({}, [(case, 0)], facts, seed=0))


@pytest.mark.parametrize("filler", ["black", "conditional"])
def test_volumes_and_windows_are_refused_for_the_whole_dataset(filler):
    method = method_of(filler)
    for grid, message in (
        (WorkingGrid(3, (32,) * 3, (32,) * 3, longest=32), "works on frames; use --dims 2"),
        (WorkingGrid(2, (32, 32), (16, 16), longest=32), "needs whole frames"),
    ):
        facts = replace(facts_of(32), grid=grid)
        with pytest.raises(AugmintError, match=message):
            method.networks(facts)
        with pytest.raises(AugmintError, match=message):
            list(method.generate({}, [], facts, seed=0))
    with pytest.raises(AugmintError, match="multiples of"):
        method_of("conditional", stem=4).networks(facts_of(36))


@pytest.mark.parametrize("filler", PLAIN + PAINTED)
def test_bytes_depend_on_nothing_but_seed_case_and_copy(filler):
    facts = facts_of(32)
    cases = [frame_case(f"f{i}", (32, 32)) for i in range(5)]
    method = method_of(filler)
    networks = networks_of(method, facts)

    def bytes_of(orders, seed=0):
        return {
            new.case_id: (new.image.numpy().tobytes(), new.mask.numpy().tobytes())
            for new in method.generate(networks, orders, facts, seed=seed)
        }

    whole = bytes_of([(c, copy) for c in cases for copy in (0, 1)])
    assert len(whole) == 10
    assert len(set(whole.values())) == 10
    others = [
        [(cases[3], 1)],
        [(c, 0) for c in reversed(cases)],
        [(cases[1], copy) for copy in (1, 4, 0)],
    ]
    for orders in others:
        part = bytes_of(orders)
        assert list(part) == [f"{c.case_id}__s0_c{copy}" for c, copy in orders]
        assert {k: v for k, v in part.items() if k in whole} == {
            k: whole[k] for k in part if k in whole
        }
    other = bytes_of([(cases[0], 0)], seed=1)
    assert set(other.values()).isdisjoint(whole.values())


def test_orders_are_read_lazily():
    read = []

    def orders():
        for i in range(9):
            read.append(i)
            yield frame_case(f"f{i}", (32, 32)), 0

    for filler in ("black", "conditional"):
        read.clear()
        method, facts = method_of(filler), facts_of(32)
        next(iter(method.generate(networks_of(method, facts), orders(), facts, seed=0)))
        assert len(read) <= 4


def test_evaluations_are_those_that_are_told():
    published = SectorOutpaint(
        filler="repaint", repaint_steps=250, jump_length=10, num_resamples=10
    )
    assert published.evaluations == 2410
    assert str(published.walk) == "euler 2410 with 2160 jumps"
    assert 0 < SectorOutpaint().evaluations <= 6
    assert SectorOutpaint().filler == "conditional"
    assert SectorOutpaint(filler="conditional", num_steps=3, solver="heun").evaluations == 5
    facts, case = facts_of(32), frame_case("a", (32, 32))
    for filler in PAINTED:
        method = method_of(filler)
        networks, passes = networks_of(method, facts), []
        assert list(networks) == [filler]
        networks[filler].register_forward_hook(lambda m, args, out: passes.append(len(args[0])))  # noqa: B023
        (new,) = method.generate(networks, [(case, 0)], facts, seed=0)
        assert new.provenance.evaluations == method.evaluations > 0
        assert sum(passes) == method.evaluations * method.batch_size
        assert new.provenance.walk == str(method.walk)
    for filler in PLAIN:
        (new,) = make(filler, [(case, 0)], facts)
        assert method_of(filler).networks(facts) == {}
        assert (new.provenance.evaluations, new.provenance.walk) == (0, "none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filler": "white"}, "field filler cannot be 'white'"),
        ({"depth": -0.1}, "depth is from 0 to 3; got -0.1"),
        ({"tilt": 61}, "tilt is from 0 to 60 degrees; got 61"),
        ({"narrow": 0}, "narrow is above 0, at most 1; got 0"),
        ({"wide": 0.9}, "wide is from 1 to 4; got 0.9"),
        ({"shift": 0.6}, "shift is from 0 to 0.5; got 0.6"),
        ({"probability": 0}, "probability is above 0, at most 1; got 0"),
        ({"strength": 2}, "strength is above 0, at most 2, and must leave .*; got 2"),
        ({"strength": 0}, "strength is above 0"),
        ({"widest": 180}, "widest is from 10 to 170 degrees; got 180"),
        ({"least_kept": 1.1}, "least_kept is from 0 to 1; got 1.1"),
        ({"margin": -1}, "margin is from 0 to 8; got -1"),
        ({"band": 5}, "band is from 0 to 4; got 5"),
        ({"stem": 0}, "stem is 1 or more; got 0"),
        ({"num_steps": 0}, "num_steps is 1 or more; got 0"),
        ({"time_power": 0}, "time_power is above 0; got 0"),
        ({"jump_length": 50}, "jump_length is 1 or more and below repaint_steps; got 50"),
        ({"num_resamples": 0}, "num_resamples is 1 or more; got 0"),
        ({"batch_size": 0}, "batch_size is 1 or more; got 0"),
        ({"depth": 0, "tilt": 0, "shift": 0, "narrow": 1, "wide": 1}, "nothing would change"),
        ({"solver": "rk4"}, "field solver cannot be 'rk4'"),
        ({"network": "huge"}, "field network cannot be 'huge'"),
        ({"colour": 1}, "no field 'colour'"),
    ],
)
def test_a_wrong_field_is_one_clear_error(settings, message):
    with pytest.raises(AugmintError, match=message):
        build_method("sector_outpaint", settings)


def examples(method, facts, cases):
    """What the network is, and (images, seed) to targets and conditions of these cases."""
    (spec,) = method.networks(facts).values()
    masks, names = torch.stack([c.mask for c in cases]), tuple(c.case_id for c in cases)

    def draw(images, seed):
        samples = Samples(images, masks, torch.zeros(len(cases)), names)
        return spec.example(samples, torch.Generator().manual_seed(seed))

    return spec, draw


@pytest.mark.parametrize("filler", PAINTED)
def test_examples_show_whole_frames_and_fit_their_network(filler):
    facts, cases = facts_of(48), [frame_case(f"f{i}", (48, 48)) for i in range(3)]
    method = method_of(filler)
    spec, draw = examples(method, facts, cases)
    assert spec.config.channels == 1
    images, smaller = torch.stack([c.image for c in cases]), 0
    for seed in range(4):
        target, given = draw(images, seed)
        again, _ = draw(images, seed)
        assert torch.equal(target, again)
        assert target.shape == (3, 1, 48, 48)
        if filler == "repaint":
            assert given is None
            assert spec.config.condition_channels == 0
            # A frame that is shown whole, but for its rim.
            smaller += sum(int((t > -1).sum()) < 0.9 * int((c.image > -1).sum())
                           for t, c in zip(target, cases))  # fmt: skip
            continue
        assert given.shape == (3, spec.config.condition_channels, 48, 48) == (3, 7, 48, 48)
        visible = given[:, 4].bool()
        assert (target[:, 0][~visible] == -1).all()
        smaller += sum(int(v.sum()) < 0.9 * int(fan_of((48, 48)).mask((48, 48)).sum())
                       for v in visible)  # fmt: skip
        with torch.no_grad():
            v = build_network(spec.config)(target, torch.full((3,), 0.5), given)
        assert v.shape == target.shape
    assert smaller == 0 if filler == "repaint" else 0 < smaller < 12


def test_the_condition_shows_nothing_of_unknown_pixels():
    facts, cases = facts_of(48), [frame_case(f"f{i}", (48, 48)) for i in range(4)]
    # Without a change of depth every pixel of an example lies where it lay.
    method = method_of("conditional", depth=0.0)
    _, draw = examples(method, facts, cases)
    images = torch.stack([c.image for c in cases])
    hidden = 0
    for seed in range(3):
        target, given = draw(images, seed)
        shown, known, depth, angle, visible = given[:, 0], given[:, 1], *given[:, 2:5].unbind(1)
        assert set(known.unique().tolist()) <= {0, 1}
        assert set(visible.unique().tolist()) <= {0, 1}
        assert ((known == 1) <= (visible == 1)).all()
        assert torch.equal(shown[known == 1], target[:, 0][known == 1])
        assert (shown[(known == 0) & (visible == 1)] == 0).all()
        assert (shown[visible == 0] == -1).all()
        assert (given[:, 5].bool() <= (torch.stack([c.mask for c in cases]) == 1)).all()
        assert depth.min() == 0
        assert 0.9 < depth.max() <= 1
        assert -1 <= angle.min() < -0.8
        assert 0.8 < angle.max() <= 1
        far = torch.stack([away_from(k == 1) > 3 for k in known])
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        other = torch.where(far[:, None], noise, images)
        hidden += int((far & (visible == 1)).sum())
        changed_target, again = draw(other, seed)
        assert torch.equal(again, given)
        assert not torch.equal(changed_target, target)
    assert hidden > 500


def test_labels_reach_the_network_only_within_the_sector():
    facts = facts_of(48)
    case = frame_case("a", (48, 48))
    case = replace(case, mask=torch.where(case.mask == 1, 1, 2))
    _, draw = examples(method_of("conditional"), facts, [case])
    for seed in range(3):
        _, given = draw(case.image[None], seed)
        assert (given[0, 5:].sum(0)[given[0, 4] == 0] == 0).all()


@pytest.mark.parametrize("filler", ["mirror", "speckle", "conditional", "repaint"])
def test_what_is_filled_for_practice_knows_nothing_of_the_truth(filler):
    facts, case = facts_of(48), frame_case("a", (48, 48))
    method = method_of(filler, num_steps=1, narrow=1.0, probability=1.0, fixed=True)
    networks = networks_of(method, facts)
    scene = method.pretend(case, facts, seed=1)
    # Cubic interpolation reaches two pixels, across corners three, and the margin is one more.
    hidden = away_from(scene.known) > 5
    hidden &= fan_of((48, 48)).mask((48, 48), margin=3)
    assert hidden.sum() > 30
    noise = torch.rand(48, 48, generator=torch.Generator().manual_seed(0)) - 0.5
    other = replace(case, image=torch.where(hidden, noise, case.image))
    scenes = [scene, method.pretend(other, facts, seed=1)]
    assert torch.equal(scenes[0].known, scenes[1].known)
    one, two = method.fill(networks, scenes[:1]), method.fill(networks, scenes[1:])
    (one,), (two,) = one, two
    assert torch.equal(one.image, two.image)
    assert one.case_id == "a"
    beyond = scene.known & (away_from(scene.visible & ~scene.known) > method.band)
    assert torch.equal(one.image[:, beyond], case.image[:, beyond])
    fresh = scene.visible & ~scene.known
    assert not torch.equal(one.image[:, fresh], case.image[:, fresh])


# Through files.


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "Dataset901_Phantoms"
    return open_dataset(make_phantoms("apical-ultrasound", out=folder, patients=3, size=64))


@pytest.fixture(scope="module")
def run(phantoms, tmp_path_factory):
    """A run of `conditional` as a fit leaves it, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    prepared = prepare(phantoms, preset_named("tiny"))
    method = method_of("conditional")
    (spec,) = method.networks(prepared.facts).values()
    network = random_weights(build_network(spec.config))
    digest = save_network(folder / "checkpoints" / "best" / "conditional", network)
    request = {"method": "sector_outpaint", "data": str(phantoms.root), "seed": 0}
    write_run(
        folder, request, method, prepared, TrainingConfig(), {"conditional": digest}, 0.0,
        torch.device("cpu"),
    )  # fmt: skip
    return folder


def files_of(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*__s*_c*"))
        if p.is_file()
    }


class InterruptionError(Exception):
    pass


class StoppingGate:
    """Lets everything pass and fails at the n-th case."""

    def __init__(self, last):
        self.left = last

    def judge(self, case, device):
        self.left -= 1
        if self.left < 0:
            raise InterruptionError
        return Verdict()


@pytest.mark.parametrize("filler", ["conditional", "speckle"])
def test_interrupted_and_continued_gives_the_same_files(run, phantoms, tmp_path, filler):
    part = replace(phantoms, items=phantoms.items[:3])
    settings = {} if filler == "conditional" else {"filler": filler}

    def work(folder, gate=None):
        if not folder.exists():
            folder.mkdir()
            write_real(part, folder, QUIET)
        fitted = load_run(run, settings=settings, device="cpu")
        return synthesise(
            fitted, part, folder, copies=range(2), seed=0, gate=gate,
            device=torch.device("cpu"), talk=QUIET,
        )  # fmt: skip

    work(tmp_path / "whole")
    with pytest.raises(InterruptionError):
        work(tmp_path / "cut", StoppingGate(3))
    before = files_of(tmp_path / "cut")
    work(tmp_path / "cut")
    after = files_of(tmp_path / "cut")
    assert before.items() < after.items()
    assert after == files_of(tmp_path / "whole")
    assert len(after) == 3 * 2 * 3


def test_a_run_serves_the_fillers_that_need_no_network_too(run):
    for filler in PLAIN:
        fitted = load_run(run, settings={"filler": filler}, device="cpu")
        assert fitted.method.filler == filler
        assert not fitted.networks
    assert list(load_run(run, device="cpu").networks) == ["conditional"]
    with pytest.raises(AugmintError, match="need another network"):
        load_run(run, settings={"filler": "repaint"}, device="cpu")
    quick = load_run(run, settings={"num_steps": 1, "band": 0}, device="cpu").method
    assert (quick.evaluations, quick.band) == (1, 0)


def rows_of(out):
    with (out / "manifest.csv").open(newline="") as stream:
        return [r for r in csv.DictReader(stream) if r["synthetic"] == "1"]


COLUMNS = {
    "filler", "depth", "tilt", "width", "down", "across", "scale", "new", "outside",
    "outside_added", "draws", "weakened", "new_LV", "new_MYO", "new_LA", "sector_row",
    "sector_column", "sector_left", "sector_right", "sector_near", "sector_far", "sector_aspect",
}  # fmt: skip


def check_files(out, dataset, filler, copies):
    rows = rows_of(out)
    assert len(rows) == len(dataset) * copies
    for row in rows:
        told = {k.split(".", 1)[1]: v for k, v in row.items() if k.startswith("sector_outpaint.")}
        assert set(told) == COLUMNS
        assert told["filler"] == filler
        place = out if row["accepted"] == "1" else out / "rejected"
        image = read_image(place / "imagesTr" / f"{row['case']}_0000.png")[0][0]
        mask = read_mask(place / "labelsTr" / f"{row['case']}.png")[0]
        assert image.shape == mask.shape == (64, 64)
        sector = sector_of(told)
        # The manifest rounds to four places.
        assert (image[~sector.mask((64, 64), margin=-0.01).numpy()] == 0).all()
        assert (mask[~sector.mask((64, 64), margin=-0.01).numpy()] == 0).all()
        assert (mask > 0).any()
        change = [float(told[n]) for n in ("depth", "tilt", "width", "down", "across")]
        assert change != [1, 0, 1, 0, 0]
        if filler in ("mirror", "speckle"):
            assert overlap(shown_of(image), sector.mask((64, 64)).numpy()) >= 0.99
    return rows


@pytest.mark.parametrize("filler", PLAIN)
def test_generate_without_a_fit(phantoms, tmp_path, filler):
    out = generate(
        "sector_outpaint", phantoms, tmp_path / "OUT", copies=1, settings={"filler": filler},
        preset="tiny", device="cpu", talk=QUIET,
    )  # fmt: skip
    rows = check_files(out, phantoms, filler, 1)
    assert {r["patient"] for r in rows} == set(phantoms.patients)
    assert {(r["walk"], r["evaluations"], r["accepted"]) for r in rows} == {("none", "0", "1")}
    again = open_dataset(out)
    assert sum(i.synthetic for i in again.items) == len(phantoms)
    assert len(load_rows(out)) == 2 * len(phantoms)
    assert json.loads((out / "run.json").read_text())["request"]["settings"] == {"filler": filler}


def test_painting_needs_a_fit(phantoms, tmp_path):
    for filler in PAINTED:
        with pytest.raises(AugmintError, match="sector_outpaint needs a fit"):
            generate(
                "sector_outpaint", phantoms, tmp_path / "OUT", preset="tiny", device="cpu",
                settings={"filler": filler, "network": "tiny"}, talk=QUIET,
            )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_augment_fits_paints_judges_and_writes(phantoms, tmp_path):
    out = augment(
        phantoms, tmp_path / "OUT", method="sector_outpaint", preset="tiny", copies=1, steps=4,
        gate_steps=2, settings={"filler": "conditional"}, device="cpu", talk=QUIET,
    )  # fmt: skip
    held = json.loads((out / "run.json").read_text())["folds"][0]["validation_patients"]
    assert len(held) == 1
    taught = phantoms.select(patients=[p for p in phantoms.patients if p not in held])
    rows = check_files(out, taught, "conditional", 1)
    assert {r["evaluations"] for r in rows} == {"6"}
    assert all(r["network_sha256"] for r in rows)
