"""What stands where nothing was recorded, and how it is joined to what was."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

from augmint.imaging.sector import Sector, SectorChange, change_view, places, to_polar
from augmint.imaging.sector_fill import joined, mirrored, speckled

FAN = Sector(row=-4.3, column=61.0, left=-32.0, right=34.0, near=20.0, far=96.0, aspect=1.2)
SHAPE = (120, 128)
FRAME = (0.0, 0.0, 120.0, 128.0)
CHANGES = [
    SectorChange(tilt=14.0),
    SectorChange(width=1.4),
    SectorChange(depth=1.4),
    SectorChange(down=0.06, across=-0.08),
    SectorChange(depth=1.25, tilt=-18.0, width=1.2, down=-0.05, across=0.04),
]


def polar_of(sector):
    radius, angle = sector.polar(*places(SHAPE))
    return radius.numpy(), np.degrees(angle.numpy())


def folded(x, low, high):
    """Reflected at both ends until it lies between them, one reflection at a time."""
    x = np.array(x, float)
    while ((x < low) | (x > high)).any():
        x = np.where(x < low, 2 * low - x, x)
        x = np.where(x > high, 2 * high - x, x)
    return x


def ramp(radius, angle):
    """A picture that tells its depth and its angle."""
    return 0.9 * (radius / 150 - 0.45) + 0.004 * angle


@pytest.mark.parametrize("change", CHANGES)
def test_mirrored_tissue_is_the_exact_reflection_of_a_polar_ramp(change):
    image = torch.from_numpy(ramp(*polar_of(FAN))).float()[None]
    view = change_view(FAN, change, FRAME)
    filled = mirrored(image, view, margin=1.0)[0].numpy()
    radius, angle = polar_of(view.kept)
    depth = folded(radius / view.scale, 21, 95)
    # One row off each side, at all depths.
    rim = np.degrees(1 / depth)
    wanted = ramp(depth, folded(angle + change.tilt, -32 + rim, 34 - rim))
    visible = view.sector.mask(SHAPE)
    new = visible & ~view.known(SHAPE)
    assert new.sum() > 400
    np.testing.assert_allclose(filled[visible], wanted[visible], atol=4e-3)


@pytest.mark.parametrize("change", CHANGES)
def test_mirrored_tissue_is_continuous_and_shows_no_background(change):
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    smooth = gaussian_filter(noise, 4) * 1.5
    tissue = torch.from_numpy(np.clip(smooth, -0.6, 0.9)).float()
    image = torch.where(FAN.mask(SHAPE), tissue, torch.tensor(-1.0))[None]
    view = change_view(FAN, change, FRAME)
    filled = mirrored(image, view, margin=2.5)[0].numpy()
    visible = view.sector.mask(SHAPE).numpy()
    assert filled[visible].min() > -0.65
    for axis in (0, 1):
        steps = np.abs(np.diff(filled, axis=axis))
        both = np.delete(visible, 0, axis) & np.delete(visible, -1, axis)
        # The texture's own steps are below 0.1; the fan's edges are above 0.4.
        assert steps[both].max() < 0.2


def test_mirrored_keeps_what_was_recorded():
    image = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    view = change_view(FAN, SectorChange(width=1.3), FRAME)
    filled = mirrored(image, view)
    known = view.known(SHAPE, margin=1.5)
    torch.testing.assert_close(filled[:, known], image[:, known], atol=2e-3, rtol=0)
    assert filled.shape == image.shape


def speckle_image(seed=0, *, blob=False):
    """Speckle whose level falls with depth; a bright wall as anatomy if told."""
    rng = np.random.default_rng(seed)
    radius, angle = polar_of(FAN)
    grain = gaussian_filter(rng.standard_normal(SHAPE), 0.9)
    grain /= grain.std()
    deep = (radius - 20) / 76
    grey = 0.35 - 0.9 * deep + (0.08 + 0.1 * deep) * grain
    if blob:
        grey = np.where((np.abs(angle - 10) < 9) & (np.abs(radius - 60) < 10), 0.8, grey)
    image = torch.from_numpy(np.clip(grey, -0.95, 1)).float()
    return torch.where(FAN.mask(SHAPE), image, torch.tensor(-1.0))[None]


def profile(image, sector):
    """Mean and deviation by depth, well inside the sector, depths within the frame."""
    polar = to_polar(image, sector, (80, 60))[0, 4:-4, 4:-4].numpy()
    return gaussian_filter(polar.mean(1), 2), gaussian_filter(polar.std(1), 2), polar


@pytest.mark.parametrize("change", [SectorChange(tilt=20.0), SectorChange(width=1.3)])
def test_speckle_has_the_levels_by_depth_and_the_histogram_of_the_frame(change):
    image = speckle_image()
    view = change_view(FAN, change, FRAME)
    made = speckled(image, view, torch.Generator().manual_seed(0))
    assert made.shape == image.shape
    assert made.abs().max() <= 1
    assert (made[0][~view.sector.mask(SHAPE)] == -1).all()
    mean, spread, real = profile(image, FAN)
    got_mean, got_spread, fake = profile(made, view.sector)
    np.testing.assert_allclose(got_mean, mean, atol=0.06)
    np.testing.assert_allclose(got_spread.mean(), spread.mean(), rtol=0.25)
    # Deviations rise with depth in the frame, and so they do in the noise.
    assert got_spread[-15:].mean() > 1.3 * got_spread[:15].mean()
    quantiles = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(
        np.quantile(fake, quantiles), np.quantile(real, quantiles), atol=0.06
    )


def test_the_grain_of_speckle_is_that_of_the_frame():
    view = change_view(FAN, SectorChange(tilt=20.0), FRAME)
    likeness = {}
    for width in (0.7, 1.8):
        noise = np.random.default_rng(0).standard_normal(SHAPE)
        grain = torch.from_numpy(gaussian_filter(noise, width)).float()
        grain = torch.where(FAN.mask(SHAPE), 0.25 * grain / grain.std(), torch.tensor(-1.0))[None]
        grain = grain.clamp(-1, 1)
        made = speckled(grain, view, torch.Generator().manual_seed(0))
        likeness[width] = []
        for image, sector in ((grain, FAN), (made, view.sector)):
            polar = profile(image, sector)[2]
            polar = polar - polar.mean()
            likeness[width].append(float((polar[:, 1:] * polar[:, :-1]).mean() / polar.var()))
    assert likeness[0.7][1] < likeness[1.8][1] - 0.1
    for real, made in likeness.values():
        assert made == pytest.approx(real, abs=0.2)


def test_speckle_shows_nothing_of_the_anatomy_and_follows_its_seed():
    image, view = speckle_image(blob=True), change_view(FAN, SectorChange(tilt=10.0), FRAME)
    made = [speckled(image, view, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    radius, angle = polar_of(view.sector)

    def contrast(shown, turn):
        """How much brighter the blob's place is than its depth beside it."""
        at = np.abs(radius - 60) < 8
        blob, beside = np.abs(angle + turn - 10) < 7, np.abs(angle + turn + 12) < 10
        return shown[at & blob].mean() - shown[at & beside].mean()

    assert contrast(image[0].numpy(), 0) > 0.8
    for one in made:
        assert abs(contrast(one[0].numpy(), 0)) < 0.15
        assert abs(contrast(one[0].numpy(), 10)) < 0.15


def test_a_frame_without_texture_gives_a_filling_without_texture():
    image = torch.where(FAN.mask(SHAPE), torch.tensor(0.2), torch.tensor(-1.0))[None]
    view = change_view(FAN, SectorChange(tilt=20.0), FRAME)
    made = speckled(image, view, torch.Generator().manual_seed(0))
    inside = view.sector.mask(SHAPE, margin=2)
    # All but a few pixels: the fan's rim is in the frame's histogram.
    assert float(((made[0][inside] - 0.2).abs() < 0.05).float().mean()) > 0.95


def parts(change=CHANGES[0]):
    view = change_view(FAN, change, FRAME)
    generator = torch.Generator().manual_seed(2)
    filled, recorded = torch.rand(2, 1, *SHAPE, generator=generator)
    known, visible = view.known(SHAPE, margin=1.0), view.sector.mask(SHAPE)
    away = distance_transform_edt(~(visible & ~known).numpy())
    return filled, recorded, known, visible, torch.from_numpy(away)


@pytest.mark.parametrize("band", [0, 1, 2, 3, 4])
def test_recorded_pixels_beyond_the_band_are_the_same_bits(band):
    filled, recorded, known, visible, away = parts()
    made = joined(filled, recorded, known, visible, band)
    assert torch.equal(made[0][~visible], torch.full((int((~visible).sum()),), -1.0))
    new = visible & ~known
    assert torch.equal(made[0][new], filled[0][new])
    beyond = known & (away > band)
    assert beyond.sum() > 1000
    assert torch.equal(made[0][beyond], recorded[0][beyond])
    passage = known & (away <= band) & (recorded[0] != filled[0])
    if not band:
        assert not passage.any()
        return
    share = (made[0] - filled[0]) / (recorded[0] - filled[0])
    far_apart = passage & ((recorded[0] - filled[0]).abs() > 0.05)
    assert share[far_apart].min() > 0
    assert share[far_apart].max() < 1
    # Ever more of the recording the farther from the filling.
    rise = [float(share[far_apart & (away > d - 0.5) & (away <= d + 0.5)].mean())
            for d in range(1, band + 1)]  # fmt: skip
    assert rise == sorted(rise)
    assert len(set(rise)) == band


def test_where_nothing_is_new_nothing_changes():
    _, recorded, _, visible, _ = parts()
    filled = torch.full_like(recorded, 9.0)
    for band in (0, 3):
        made = joined(filled, recorded, visible, visible, band)
        assert torch.equal(made[:, visible], recorded[:, visible])
        assert (made[:, ~visible] == -1).all()


def test_a_smooth_filling_meets_the_recording_without_a_step():
    _, _, known, visible, _away = parts()
    filled, recorded = torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)
    hard, soft = (joined(filled, recorded, known, visible, b)[0] for b in (0, 4))
    both = (visible[1:] & visible[:-1]).numpy()
    steps = [np.abs(np.diff(one.numpy(), axis=0))[both].max() for one in (hard, soft)]
    assert steps[0] == 1
    assert steps[1] < 0.6


def test_channels_are_joined_alike():
    filled, recorded, known, visible, _ = parts()
    two = [torch.cat([x, -x]) for x in (filled, recorded)]
    made = joined(*two, known, visible, 3)
    one = joined(filled, recorded, known, visible, 3)
    assert torch.equal(made[0], one[0])
    assert torch.equal(made[1][visible], -one[0][visible])


def test_a_sector_of_another_aspect_is_mirrored_in_its_own_plane():
    fan = replace(FAN, aspect=0.8, left=-25.0, right=25.0)
    radius, angle = fan.polar(*places(SHAPE))
    image = torch.from_numpy(ramp(radius.numpy(), np.degrees(angle.numpy()))).float()[None]
    view = change_view(fan, SectorChange(width=1.2), FRAME)
    made = mirrored(image, view)[0]
    for turn in (27.0, 29.0):
        for r in (50.0, 80.0):
            row, column = fan.cartesian(torch.tensor(r), torch.tensor(math.radians(turn)))
            i, j = round(float(row)), round(float(column))
            here_r, here_a = fan.polar(torch.tensor(float(i)), torch.tensor(float(j)))
            rim = math.degrees(1 / float(here_r))
            wanted = ramp(float(here_r), 2 * (25 - rim) - math.degrees(float(here_a)))
            assert float(made[i, j]) == pytest.approx(wanted, abs=5e-3)
