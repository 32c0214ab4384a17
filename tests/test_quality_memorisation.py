import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.data.phantoms_mr import mr_patient
from augmint.errors import AugmintError
from augmint.quality import memorisation as module
from augmint.quality.memorisation import (
    CopyIndex,
    Picture,
    index_pictures,
    nearest,
    pictures_of,
)
from augmint.quality.planted import KINDS, Change, draw_change, plant, plant_copies
from augmint.quality.structure import Tolerance

QUICK = Tolerance(flips=False, rotation_deg=0, shift=0, scale=0)


def phantom(patient, size=64, phase=0):
    """The middle slice of a short-axis phantom, (1, size, size) in [-1, 1]."""
    frame = mr_patient(5, patient, vendor="A", size=size, slices=3)[phase]
    image = torch.from_numpy(frame.image[:, :, 1].astype(np.float32))[None]
    return image / image.max() * 2 - 1


TRAIN = [
    Picture(phantom(k, phase=phase), f"p{k}_{name}", f"p{k}")
    for k in range(1, 5)
    for phase, name in enumerate(("ED", "ES"))
]
UNSEEN = [Picture(phantom(k), f"p{k}_ED", f"p{k}") for k in range(11, 15)]


@pytest.fixture(scope="module")
def index() -> CopyIndex:
    return index_pictures(TRAIN)


@pytest.fixture(scope="module")
def unseen(index):
    return nearest(index, UNSEEN)


def test_planted_copies_are_more_alike_than_any_unseen_patient(index, unseen):
    rng = np.random.default_rng(0)
    copies = [Picture(plant(p.image, draw_change(rng)), p.name) for p in TRAIN[::2]]
    least = min(m.similarity for m in nearest(index, copies))
    assert least > 0.85
    assert max(m.similarity for m in unseen) < least - 0.1


def test_copies_are_named(index):
    for kind, source in zip(KINDS, TRAIN):
        copy = plant(source.image, draw_change(np.random.default_rng(1), [kind]))
        (match,) = nearest(index, [Picture(copy, "new")])
        assert match.real == source.name, kind
        assert (match.own, match.own_real) == ("", "")
        assert math.isnan(match.own_similarity)


def test_the_source_is_told_apart(index):
    """Painted anew for a real mask, an image resembles its source: that is no copy of others."""
    source = TRAIN[2]
    (match,) = nearest(index, [Picture(source.image, "s__s0_c0", source.patient)])
    assert match.own_real == source.name
    assert match.own_similarity > 0.99
    assert match.real.split("_")[0] != source.patient
    assert match.similarity < 0.7


def test_a_patient_is_never_compared_with_itself(index):
    for match, picture in zip(nearest(index, TRAIN[:3]), TRAIN):
        assert match.real.split("_")[0] != picture.patient
        assert match.own_real.split("_")[0] == picture.patient


def test_only_the_painted_part_is_compared(index):
    """The left half was recorded and kept; what is new on the right is a copy of another."""
    kept, copied = TRAIN[0], TRAIN[5]
    painted = torch.zeros(64, 64, dtype=torch.bool)
    painted[:, 26:] = True
    image = torch.where(painted, copied.image, kept.image)
    (whole,) = nearest(index, [Picture(image, "x")])
    (part,) = nearest(index, [Picture(image, "x", counted=painted)])
    assert part.real == copied.name
    assert part.similarity > 0.9
    assert whole.similarity < part.similarity
    untouched = torch.where(painted, UNSEEN[0].image, kept.image)
    (fresh,) = nearest(index, [Picture(untouched, "x", counted=painted)])
    assert fresh.similarity < 0.8


def test_what_holds_too_little_is_not_judged(index):
    corner = torch.zeros(64, 64, dtype=torch.bool)
    corner[:9, :9] = True
    blank = Picture(torch.full((1, 64, 64), -1.0), "blank")
    for match in nearest(index, [replace(TRAIN[0], counted=corner), blank]):
        assert not match.judged
        assert match.real == match.own_real == ""


def test_images_may_differ_in_shape(index):
    wide = torch.nn.functional.pad(TRAIN[3].image, (0, 0, 8, 8), value=-1.0)[:, 4:-4]
    (match,) = nearest(index, [Picture(wide, "x")])
    assert match.real == TRAIN[3].name
    assert match.similarity > 0.9


def test_batches_change_nothing(index, unseen, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    for one, together in zip(nearest(index, UNSEEN[:2]), unseen):
        assert one.real == together.real
        assert one.similarity == pytest.approx(together.similarity, abs=1e-4)


def test_learned_features_name_candidates_that_spectra_miss(monkeypatch):
    monkeypatch.setattr(module, "SHORTLIST", 4)
    monkeypatch.setattr(module, "spectral_match", lambda maps, reals, _: torch.arange(8.0)[None])

    def describe(images):
        return images.flatten(1)

    blind = index_pictures(TRAIN, tolerance=QUICK)
    seeing = index_pictures(TRAIN, tolerance=QUICK, describe=describe)
    query = [Picture(TRAIN[0].image, "x")]
    assert nearest(blind, query)[0].real in {p.name for p in TRAIN[4:]}
    assert nearest(seeing, query)[0].real == TRAIN[0].name


def test_channels_count_together():
    def two(picture):
        return replace(picture, image=torch.cat([picture.image, picture.image.flip(1)]))

    index = index_pictures([two(p) for p in TRAIN[:4]], tolerance=QUICK)
    (same,) = nearest(index, [replace(two(TRAIN[1]), patient="")])
    assert (same.real, round(same.similarity, 2)) == (TRAIN[1].name, 1.0)
    with pytest.raises(AugmintError, match="same channels"):
        nearest(index, TRAIN[:1])


def test_pictures_of_volumes_are_their_slices():
    grid = Grid((6, 6, 3), np.eye(4), True)
    image = torch.linspace(-1, 1, 108).reshape(1, 6, 6, 3)
    unit = IntensityMap((-1.0,), (1.0,))
    case = Case(image, None, frozenset(), grid, unit, "c", "p")
    found = list(pictures_of([case]))
    assert [p.name for p in found] == ["c#z000", "c#z001", "c#z002"]
    assert torch.equal(found[1].image, image[..., 1])
    assert {p.patient for p in found} == {"p"}
    assert {p.patient for p in pictures_of([case], own=lambda c: "source")} == {"source"}


def test_bad_pictures_are_told(index):
    image = TRAIN[0].image
    for wrong, words in (
        (Picture(image * 3, "x"), "rescaled"),
        (Picture(image * float("nan"), "x"), "rescaled"),
        (Picture(image[0], "x"), "slices"),
        (Picture(image, "x", counted=torch.ones(3, 3)), "differ in shape"),
    ):
        with pytest.raises(AugmintError, match=words):
            nearest(index, [wrong])
    with pytest.raises(AugmintError, match="no real images"):
        index_pictures([])
    with pytest.raises(AugmintError, match="other patients"):
        nearest(index_pictures(TRAIN[:2]), TRAIN[:1])


def test_no_change_plants_the_image_itself():
    assert torch.allclose(plant(TRAIN[0].image, Change()), TRAIN[0].image, atol=1e-6)


def test_planted_changes_are_what_they_say():
    image = torch.full((1, 40, 60), -1.0)
    image[:, 10:14, 20:24] = 0.5
    moved = plant(image, Change(shift=(0.1, -0.2)))
    # 0.1 and 0.2 of 60 pixels: down by 6, left by 12.
    assert torch.allclose(moved[:, 16:20, 8:12], torch.tensor(0.5), atol=0.01)
    assert torch.equal(plant(image, Change(flip_rows=True)), image.flip(1))
    # From the upper left to the upper right, about the centre at (19.5, 29.5).
    turned = plant(image, Change(rotation_deg=90))
    assert torch.allclose(turned[:, 10:14, 36:40], torch.tensor(0.5), atol=0.01)
    assert (turned > 0).sum() == 16
    grey = torch.zeros(1, 64, 64)
    noisy = plant(grey, Change(noise=0.1))
    assert noisy.std().item() == pytest.approx(0.2, rel=0.1)
    assert plant(grey, Change(gamma=2)).unique().tolist() == [-0.5]
    assert plant(grey + 0.5, Change(gain=0.5)).unique().tolist() == [0.25]


def test_draws_hold_the_kinds_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(50):
        change = draw_change(rng, ["shift", "noise"])
        assert 0.02 <= max(map(abs, change.shift)) <= 0.1 + 1e-9
        assert 0.02 <= change.noise <= 0.1
        assert (change.rotation_deg, change.gamma, change.gain) == (0, 1, 1)
        assert not change.flip_rows
        assert not change.flip_columns
        both = draw_change(rng, ["rotation", "flip", "contrast"])
        assert 2 <= abs(both.rotation_deg) <= 10
        assert both.flip_rows or both.flip_columns
        assert 0.7 <= both.gamma <= 1.4
        assert 0.7 <= both.gain <= 1.3
    with pytest.raises(AugmintError, match="kinds are"):
        draw_change(rng, ["blur"])


def test_planted_copies_hold_single_kinds_and_several():
    made = plant_copies(TRAIN, 8, np.random.default_rng(0))
    assert [label for label, _ in made[:4]] == list(KINDS[:4])
    assert all(label.endswith("kinds") for label, _ in made[4:])
    assert {p.name for _, p in made} == {f"copy of {p.name}" for p in TRAIN}
    with pytest.raises(AugmintError, match="9 copies of 8"):
        plant_copies(TRAIN, 9, np.random.default_rng(0))
