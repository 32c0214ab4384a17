import math

import pytest
import torch
import torch.nn.functional as F

from augmint.errors import AugmintError
from augmint.quality.likeness import (
    coarse_search,
    likeness,
    overlap_correlation,
    refine,
    spectra,
    spectral_match,
)
from augmint.quality.structure import SIDE, Maps, Tolerance, structure

EXACT = Tolerance(flips=False, rotation_deg=0, shift=0, scale=0)


def blobs(seed, size=64, sigma=2.0):
    """A smooth random picture (1, size, size) within a black surround."""
    noise = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    at = torch.arange(-6, 7.0)
    kernel = torch.exp(-(at**2) / (2 * sigma**2)).view(1, 1, 1, -1)
    soft = F.conv2d(F.conv2d(noise, kernel, padding=(0, 6)), kernel.mT, padding=(6, 0))[0]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (y - size / 2 + 0.5) ** 2 + (x - size / 2 + 0.5) ** 2 < (0.46 * size) ** 2
    return torch.where(disc, (soft / soft.std() * 0.35).clamp(-0.9, 1), -1.0)


def moved(image, *, turn=0.0, scale=1.0, right=0.0):
    angle = math.radians(turn)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    theta = torch.tensor([[[cos, sin, -2 * right], [-sin, cos, 0.0]]])
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    shown = F.grid_sample(image[None] + 1, grid, mode="bicubic", align_corners=False) - 1
    return shown[0].clamp(-1, 1)


def alike(a, b, tolerance=None):
    one, other = structure(a[None]), structure(b[None])
    return float(likeness(one, [other], tolerance or Tolerance())[0][0])


IMAGE, OTHER = blobs(0), blobs(1)
CHANGES = {
    "as it is": lambda i: i,
    "mirrored": lambda i: i.flip(2),
    "upside down": lambda i: i.flip(1),
    "half a turn": lambda i: i.flip(1, 2),
    "shifted": lambda i: moved(i, right=0.1),
    "turned": lambda i: moved(i, turn=10),
    "turned back": lambda i: moved(i, turn=-7.5),
    "larger": lambda i: moved(i, scale=1.13),
    "smaller": lambda i: moved(i, scale=0.88),
    "gamma": lambda i: ((i + 1) / 2) ** 1.4 * 2 - 1,
    "brighter, less contrast": lambda i: i * 0.6 + 0.3,
    "noise": lambda i: (i + 0.2 * torch.randn(i.shape, generator=torch.Generator())).clamp(-1, 1),
    "mirrored, turned, shifted": lambda i: moved(i.flip(2), turn=-8, right=-0.08),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_alike(change):
    assert alike(CHANGES[change](IMAGE), IMAGE) > 0.85


def test_another_image_is_not_alike():
    assert alike(OTHER, IMAGE) < 0.6


def test_an_image_is_like_itself():
    assert alike(IMAGE, IMAGE, EXACT) == pytest.approx(1, abs=1e-4)


def test_what_is_not_tolerated_is_not_alike():
    for change in ("mirrored", "shifted", "turned", "larger"):
        assert alike(CHANGES[change](IMAGE), IMAGE, EXACT) < 0.6, change


def test_quarter_turns_and_exchanged_contrast_are_tolerated_where_asked():
    turned = IMAGE.rot90(1, (1, 2))
    assert alike(turned, IMAGE) < 0.6
    assert alike(turned, IMAGE, Tolerance(quarter_turns=True)) > 0.95
    negative = torch.where(IMAGE > -1, -IMAGE, -1.0)
    assert alike(negative, IMAGE) < 0.6
    assert alike(negative, IMAGE, Tolerance(inverted=True)) > 0.85


def test_black_surrounds_make_nothing_alike():
    """Two discs without anything in common but their rim."""
    maps = structure(torch.stack([IMAGE, OTHER]))
    hidden = maps.visible == 0
    assert hidden.float().mean() > 0.2
    assert maps.values[hidden].abs().max() == 0
    plain = float(overlap_correlation(maps[:1], maps[1:])[0])
    assert abs(plain) < 0.3
    assert torch.corrcoef(torch.stack([IMAGE.flatten(), OTHER.flatten()]))[0, 1] > 0.5


def test_dark_parts_within_count():
    image = IMAGE.clone()
    image[:, 28:36, 28:36] = -1
    assert structure(image[None]).visible[0, 0, 45:51, 45:51].min() == 1


def test_structure_knows_no_gain_nor_level():
    a, b = structure(IMAGE[None] * 0.9), structure(IMAGE[None] * 0.45 + 0.2)
    assert torch.allclose(a.values, b.values, atol=0.02)


def test_a_blank_image_has_no_structure():
    blank = structure(torch.full((1, 1, 40, 40), -1.0))
    assert blank.values.abs().max() == 0
    assert float(likeness(blank, [structure(IMAGE[None])], Tolerance())[0][0]) == 0


def test_only_the_part_that_counts_is_compared():
    half = torch.zeros(1, 64, 64, dtype=torch.bool)
    half[:, :, 32:] = True
    mixed = torch.where(half, OTHER, IMAGE)
    real = structure(OTHER[None])
    part = likeness(structure(mixed[None], half), [real], EXACT)[0]
    assert float(part) > 0.95
    assert float(likeness(structure(mixed[None]), [real], EXACT)[0]) < 0.8


def test_wide_and_high_images_keep_their_proportions():
    wide = F.pad(IMAGE, (20, 20, 0, 0), value=-1.0)
    assert alike(wide[:, :, 20:-20], IMAGE, EXACT) == pytest.approx(1, abs=1e-4)
    maps = structure(wide[None])
    assert maps.values.shape == (1, 1, SIDE, SIDE)
    assert maps.visible[0, 0, : SIDE * 15 // 104].max() == 0


def test_spectra_ignore_shifts_and_half_turns():
    maps = structure(torch.stack([IMAGE, IMAGE.flip(1, 2), OTHER]))
    rolled = Maps(maps.values[:1].roll((2, -2), (2, 3)), maps.visible[:1])
    a, b, c = spectra(maps).flatten(1)
    assert a @ b == pytest.approx(1, abs=1e-3)
    assert a @ spectra(rolled).flatten() > 0.95
    assert a @ c < 0.7


def test_spectra_name_the_likeliest():
    reals = spectra(structure(torch.stack([blobs(k) for k in range(12)])))
    for change in CHANGES:
        query = structure(CHANGES[change](blobs(7))[None])
        assert int(spectral_match(query, reals, Tolerance()).argmax()) == 7, change


def test_the_coarse_way_lies_near_the_true_one():
    query = structure(moved(IMAGE.flip(2), turn=5, right=0.1)[None])
    promise, pose, _ = coarse_search(query, structure(IMAGE[None]), Tolerance())
    assert promise.item() > 0.7
    assert pose.item() == 1
    flat = Tolerance(rotation_deg=5, shift=0, scale=0)
    start = torch.zeros(1, 6)
    start[:, 0] = math.radians(2)
    turned = structure(moved(IMAGE, turn=4)[None])
    real = structure(IMAGE[None])
    assert refine(turned, real, start, flat) > 0.95
    assert overlap_correlation(turned, real) < 0.9


def test_one_query_does_not_depend_on_its_companions():
    maps = structure(torch.stack([moved(IMAGE, turn=4), OTHER]))
    real = structure(IMAGE[None])
    together = likeness(maps, [real, real], Tolerance())
    alone = likeness(maps[:1], [real], Tolerance())
    assert torch.allclose(together[0], alone[0], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"rotation_deg": 40}, {"shift": 0.5}, {"scale": -0.1}])
def test_tolerances_out_of_range_are_told(wrong):
    with pytest.raises(AugmintError, match="0 to 15 degrees"):
        Tolerance(**wrong)
