from pathlib import Path

import numpy as np
import pytest
import torch

from augmint.errors import AugmintError
from augmint.imaging.style import (
    BLACK,
    LEAST_AMPLITUDE,
    Style,
    bezier_curve,
    bezier_towards,
    fit_bezier,
    match_histogram,
    measure_style,
    random_bezier,
    swap_amplitude,
)

SHAPES = [(3, 1, 12, 16), (2, 2, 9, 8), (1, 1, 8, 6, 10)]
CONTROLS = [match_histogram, swap_amplitude, bezier_towards]
IDENTITY = torch.tensor([[-1 / 3, -1 / 3], [1 / 3, 1 / 3]])


def tissue(shape, seed=0, middle=0.0, spread=0.2):
    """Distinct values above black, far from both ends."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (middle + spread * noise).clamp(-0.95, 0.95)


def dense(shape, seed=0, low=-0.8, high=0.8, power=1.0):
    """Shuffled values without gaps, so that 256 quantiles say all of their distribution."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (low + (high - low) * torch.linspace(0, 1, count) ** power)[order].reshape(shape)


def amplitudes(images):
    axes = tuple(range(2, images.ndim))
    return torch.fft.fftn(images.double() + 1, dim=axes, norm="ortho")


def rises(before, after):
    """No pair of pixels of a channel changes its order, and equal ones stay equal."""
    for channel in range(before.shape[1]):
        values, order = before[:, channel].flatten().sort()
        mapped = after[:, channel].flatten()[order]
        steps = mapped.diff()
        assert bool((steps >= 0).all())
        assert bool((steps[values.diff() == 0] == 0).all())


# Style


@pytest.mark.parametrize("shape", SHAPES)
def test_a_style_holds_mean_quantiles_and_mean_log_amplitudes(shape):
    volumes = [tissue(shape, 1), tissue((5, *shape[1:]), 2, middle=0.3)]
    style = measure_style(iter(volumes))
    expected = [
        np.quantile(v.movedim(1, 0).flatten(1).double().numpy(), np.linspace(0, 1, 256), axis=1).T
        for v in volumes
    ]
    np.testing.assert_allclose(style.quantiles, np.mean(expected, 0), atol=1e-6)
    planes = torch.cat(volumes)
    axes = tuple(range(2, planes.ndim))
    logs = amplitudes(planes).abs().clamp_min(LEAST_AMPLITUDE).log().mean(0)
    logs = torch.fft.fftshift(logs, dim=[a - 1 for a in axes])
    torch.testing.assert_close(style.amplitude.double(), logs, atol=1e-3, rtol=0)
    assert style.quantiles.dtype == style.amplitude.dtype == torch.float32


def test_black_has_no_part_in_quantiles():
    volume = tissue((2, 1, 8, 8))
    padded = torch.nn.functional.pad(volume, [4, 4, 4, 4], value=-1.0)
    assert torch.equal(measure_style([padded]).quantiles, measure_style([volume]).quantiles)


def test_an_empty_plane_has_bounded_log_amplitudes():
    style = measure_style([torch.cat([tissue((1, 1, 8, 8)), -torch.ones(1, 1, 8, 8)])])
    half = np.log(LEAST_AMPLITUDE) / 2
    assert float(style.amplitude.min()) > half + np.log(1e-3) / 2
    assert bool(style.amplitude.isfinite().all())


def test_a_style_goes_through_a_file(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    style = measure_style([tissue((2, 2, 8, 8))])
    save_file(style.to_tensors(), tmp_path / "style.safetensors")
    back = Style.from_tensors(load_file(tmp_path / "style.safetensors"))
    assert torch.equal(back.quantiles, style.quantiles)
    assert torch.equal(back.amplitude, style.amplitude)
    with pytest.raises(AugmintError, match="lacks amplitude"):
        Style.from_tensors({"quantiles": style.quantiles})
    with pytest.raises(AugmintError, match="measure it again"):
        Style(quantiles=style.quantiles[:1], amplitude=style.amplitude)


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ([], "got none"),
        ([tissue((2, 1, 8, 8)), tissue((2, 1, 8, 9))], "source volume 2 has planes"),
        ([tissue((2, 1, 8, 8)), -torch.ones(2, 1, 8, 8)], "source volume 2: channel 0 is black"),
        ([tissue((2, 1, 8))], "2 or 3 spatial axes"),
        ([tissue((2, 1, 8, 8)).long()], "int64"),
        ([tissue((2, 1, 8, 8)).log()], "not finite"),
    ],
)
def test_a_style_is_not_measured_on_bad_images(volumes, message):
    with pytest.raises(AugmintError, match=message):
        measure_style(volumes)


# All three


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("control", CONTROLS)
def test_zero_strength_changes_no_bit(control, shape):
    images = tissue(shape)
    style = measure_style([tissue(shape, 5, middle=0.4)])
    kept = images.clone()
    assert torch.equal(control(images, style, 0.0), kept)
    assert not torch.allclose(control(images, style, 1.0), kept, atol=0.05)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("control", CONTROLS)
def test_an_image_in_its_own_style_stays(control, shape):
    images = dense(shape, power=1.5)
    images[..., :2] = -1
    images[..., 2:4] = 0.1
    style = measure_style([images])
    out = control(images, style, 1.0)
    # The quantiles of a volume are 256 of its ranks: the rest lies between them.
    torch.testing.assert_close(out, images, atol=0.02, rtol=0)
    assert float((out - images).abs().mean()) < 2e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("control", CONTROLS)
def test_images_stay_images(control, strength, shape):
    images = tissue(shape, spread=0.5)
    style = measure_style([tissue(shape, 5, middle=0.5, spread=0.4)])
    out = control(images, style, strength)
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert float(out.min()) >= -1
    assert float(out.max()) <= 1
    assert torch.equal(out, control(images, style, strength))


@pytest.mark.parametrize("control", CONTROLS)
def test_half_the_strength_goes_less_far(control):
    images = tissue((2, 1, 16, 16), middle=-0.3)
    style = measure_style([tissue((2, 1, 16, 16), 5, middle=0.2, spread=0.3)])
    half, whole = (float((control(images, style, s) - images).square().sum()) for s in (0.5, 1))
    assert 0 < half < whole


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("place", [6, 9, 13])
@pytest.mark.parametrize("control", CONTROLS)
def test_an_edge_does_not_move(control, place, axis):
    """A step between two tissues, under a target of another brightness, contrast and texture."""
    step = torch.where(torch.arange(20) < place, -0.4, 0.3)
    edge = step[:, None].expand(20, 20) if axis == 2 else step.expand(20, 20)
    images = (edge + tissue((3, 1, 20, 20), 1, spread=0.02)).clamp(-1, 1)
    style = measure_style([tissue((3, 1, 20, 20), s, middle=0.2, spread=0.3) for s in (2, 3)])
    out = control(images, style, 0.2 if control is swap_amplitude else 1.0)
    profile = out.mean(dim=(0, 1, 5 - axis))
    assert int(profile.diff().abs().argmax()) == place - 1
    assert not torch.allclose(out, images, atol=0.02)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_lies_between_nothing_and_all(control, strength):
    style = measure_style([tissue((2, 1, 8, 8))])
    with pytest.raises(AugmintError, match=r"strength lies in \[0, 1\]"):
        control(tissue((2, 1, 8, 8)), style, strength)


@pytest.mark.parametrize("control", CONTROLS)
def test_images_must_fit_the_style(control):
    style = measure_style([tissue((2, 1, 8, 8))])
    with pytest.raises(AugmintError, match="the style has 1 channels, the images 2"):
        control(tissue((2, 2, 8, 8)), style, 0.5)
    with pytest.raises(AugmintError, match="2 or 3 spatial axes"):
        control(tissue((1, 8, 8)), style, 0.5)


def test_only_amplitudes_need_the_window_of_the_style():
    images, style = tissue((2, 1, 8, 10)), measure_style([tissue((2, 1, 8, 8))])
    with pytest.raises(AugmintError, match=r"window of \(8, 8\), the images have \(8, 10\)"):
        swap_amplitude(images, style, 0.5)
    for control in (match_histogram, bezier_towards):
        assert control(images, style, 0.5).shape == images.shape


@pytest.mark.parametrize("control", [match_histogram, bezier_towards])
def test_curves_keep_order_and_black(control):
    images = tissue((3, 2, 10, 10), spread=0.5)
    images[images < -0.7] = -1
    images = (images * 20).round() / 20
    style = measure_style([tissue((3, 2, 10, 10), 4, middle=0.3)])
    for strength in (0.4, 1.0):
        out = control(images, style, strength)
        rises(images, out)
        assert torch.equal(out <= BLACK, images <= BLACK)


@pytest.mark.parametrize("control", [match_histogram, bezier_towards])
def test_curves_refuse_a_black_image(control):
    style = measure_style([tissue((2, 1, 8, 8))])
    with pytest.raises(AugmintError, match="channel 0 is black"):
        control(-torch.ones(2, 1, 8, 8), style, 0.5)


# Histogram matching


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 2, 16, 16), (1, 1, 8, 8, 8)])
def test_matched_quantiles_are_those_of_the_style(shape):
    sources = [dense(shape, low=-0.9, power=2.0), dense(shape, high=0.9, power=0.5)]
    style = measure_style(sources)
    images = dense(shape, 7, low=-0.9, high=0.1, power=1.5)
    out = match_histogram(images, style, 1.0)
    torch.testing.assert_close(measure_style([out]).quantiles, style.quantiles, atol=5e-3, rtol=0)
    assert float((measure_style([images]).quantiles - style.quantiles).abs().max()) > 0.3
    between = (measure_style([images]).quantiles + style.quantiles) / 2
    half = measure_style([match_histogram(images, style, 0.5)]).quantiles
    torch.testing.assert_close(half, between, atol=5e-3, rtol=0)


def test_one_value_per_quantile_is_matched_exactly():
    style = measure_style([tissue((4, 1, 16, 16), 1, middle=0.4)])
    out = match_histogram(tissue((1, 1, 16, 16), 7), style, 1.0)
    torch.testing.assert_close(out.flatten().sort().values, style.quantiles[0], atol=1e-6, rtol=0)


def test_a_volume_gets_one_map():
    """Planes of different brightness: equal values in two planes stay equal."""
    values = torch.linspace(-0.8, 0.8, 33)
    planes = torch.stack([values[torch.randint(a, a + 20, (12, 12))] for a in (0, 6, 13)])[:, None]
    style = measure_style([tissue((3, 1, 12, 12), 2, middle=0.3)])
    out = match_histogram(planes, style, 1.0)
    rises(planes, out)
    alone = torch.cat([match_histogram(p[None], style, 1.0) for p in planes])
    assert float((alone - out).abs().max()) > 0.1
    order = torch.tensor([2, 0, 1])
    assert torch.equal(match_histogram(planes[order], style, 1.0), out[order])


def test_a_tie_gets_the_middle_of_its_ranks():
    images = torch.tensor([-0.9, 0.2, 0.2, 0.2, 0.9]).reshape(1, 1, 1, 5)
    line = Style(torch.linspace(-0.5, 0.5, 256)[None], torch.zeros(1, 1, 5))
    expected = torch.tensor([-0.5, 0.0, 0.0, 0.0, 0.5]).reshape(1, 1, 1, 5)
    torch.testing.assert_close(match_histogram(images, line, 1.0), expected)
    constant = match_histogram(torch.full((1, 1, 1, 5), 0.2), line, 1.0)
    torch.testing.assert_close(constant, torch.zeros(1, 1, 1, 5))


def test_more_padding_changes_no_tissue():
    images = tissue((2, 1, 8, 8))
    padded = torch.nn.functional.pad(images, [6, 6, 6, 6], value=-1.0)
    style = measure_style([tissue((2, 1, 8, 8), 3, middle=0.4)])
    for control in (match_histogram, bezier_towards):
        out = control(padded, style, 1.0)
        torch.testing.assert_close(out[..., 6:-6, 6:-6], control(images, style, 1.0))


# Fourier


@pytest.mark.parametrize("shape", [(1, 1, 12, 16), (1, 2, 9, 7), (1, 1, 8, 6, 10)])
@pytest.mark.parametrize("strength", [0.1, 0.34, 1.0])
def test_amplitudes_inside_the_box_are_the_styles_and_all_else_stays(shape, strength):
    images = tissue(shape, 1, spread=0.1)
    style = measure_style([tissue(shape, s, middle=0.1, spread=0.15) for s in range(2, 8)])
    out = swap_amplitude(images, style, strength)
    assert float(out.abs().max()) < 1, "the oracle is for images that are not clamped"
    before, after = amplitudes(images), amplitudes(out)
    axes = tuple(range(1, len(shape) - 1))
    target = torch.fft.ifftshift(style.amplitude.double(), dim=axes).exp()[None]
    # What an image lacks altogether is not blown up.
    target = target * (before.abs() / LEAST_AMPLITUDE).clamp_max(1)
    inside = torch.ones(shape[2:], dtype=torch.bool)
    for axis, n in enumerate(shape[2:]):
        near = np.abs(np.fft.fftfreq(n) * n) <= int(strength * n / 2) + 1e-9
        inside &= torch.from_numpy(near).reshape([-1 if a == axis else 1 for a in range(len(axes))])
    assert bool(inside.all()) == (strength == 1.0)
    inside = inside.expand(shape)
    torch.testing.assert_close(after.abs()[inside], target[inside], rtol=5e-3, atol=1e-4)
    torch.testing.assert_close(after[~inside], before[~inside], rtol=1e-3, atol=1e-4)
    turned = after / after.abs() - before / before.abs()
    assert float(turned[before.abs() > LEAST_AMPLITUDE].abs().max()) < 0.01


def test_planes_of_a_volume_share_their_factors():
    images = (
        tissue((4, 1, 10, 12), 1, spread=0.05) + torch.linspace(-0.3, 0, 4)[:, None, None, None]
    )
    style = measure_style([tissue((6, 1, 10, 12), 2, spread=0.08)])
    out = swap_amplitude(images, style, 1.0)
    assert float(out.abs().max()) < 1
    factors = amplitudes(out).abs() / amplitudes(images).abs()
    torch.testing.assert_close(factors, factors[:1].expand_as(factors), rtol=0.02, atol=0.01)
    measured = measure_style([out]).amplitude
    torch.testing.assert_close(measured, style.amplitude, atol=0.01, rtol=0)


def test_a_black_plane_stays_black():
    images = torch.cat([tissue((2, 1, 8, 8)), -torch.ones(1, 1, 8, 8)])
    style = measure_style([tissue((2, 1, 8, 8), 3, middle=0.4)])
    torch.testing.assert_close(swap_amplitude(images, style, 1.0)[2], images[2])


def test_the_smallest_box_moves_the_mean_alone():
    """Dark images become bright ones, though their mean changes its sign."""
    images = tissue((1, 1, 16, 16), 1, middle=-0.4, spread=0.1)
    style = measure_style([tissue((1, 1, 16, 16), 2, middle=0.3, spread=0.2)])
    out = swap_amplitude(images, style, 0.01)
    assert float(out.mean()) == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(out - out.mean(), images - images.mean(), atol=1e-5, rtol=0)


# Bezier curves


def test_control_points_on_the_diagonal_give_the_identity():
    images = tissue((2, 2, 8, 8), spread=0.5)
    torch.testing.assert_close(bezier_curve(images, IDENTITY), images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_every_pair_of_control_points_gives_a_rising_curve(seed):
    controls = random_bezier(torch.Generator().manual_seed(seed))
    if seed == 0:
        controls = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    if seed == 1:
        controls = torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]])
    x = torch.linspace(-1, 1, 2001).reshape(1, 1, 1, -1)
    y = bezier_curve(x, controls)
    rises(x, y)
    assert float(y[..., 0]) == -1
    assert float(y[..., -1]) == 1
    # A point of the curve itself, by de Casteljau's halving.
    points = torch.cat([-torch.ones(1, 2), controls[0].float(), torch.ones(1, 2)])
    while len(points) > 1:
        points = (points[1:] + points[:-1]) / 2
    at = bezier_curve(points[0, 0].reshape(1, 1, 1, 1), controls)
    slope = float((y.diff() / x.diff()).max())
    assert float(at) == pytest.approx(float(points[0, 1]), abs=1e-4 * max(slope, 1))


@pytest.mark.parametrize(
    "planted",
    [[[-0.6, 0.1], [0.2, 0.7]], [[0.3, -0.5], [0.6, -0.1]], [[0.1, -0.8], [-0.2, 0.9]]],
)
def test_the_fit_recovers_a_planted_curve(planted):
    controls = torch.tensor(planted)
    images = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1) * 0.95
    bent = bezier_curve(images, controls)
    style = measure_style([bent])
    fitted = fit_bezier(images, style)
    assert fitted.shape == (1, 2, 2)
    assert float(fitted.abs().max()) <= 1
    torch.testing.assert_close(bezier_curve(images, fitted), bent, atol=5e-3, rtol=0)
    torch.testing.assert_close(bezier_towards(images, style, 1.0), bent, atol=5e-3, rtol=0)
    half = bezier_towards(images, style, 0.5)
    torch.testing.assert_close(half, (images + bent) / 2, atol=5e-3, rtol=0)


def test_each_channel_gets_its_own_curve():
    images = tissue((2, 2, 16, 16), spread=0.5)
    controls = torch.tensor([[[-0.6, 0.1], [0.2, 0.7]], [[0.3, -0.5], [0.6, -0.1]]])
    bent = bezier_curve(images, controls)
    assert torch.equal(bent[:, :1], bezier_curve(images[:, :1], controls[0]))
    torch.testing.assert_close(
        bezier_towards(images, measure_style([bent]), 1.0), bent, atol=5e-3, rtol=0
    )


def test_the_fit_comes_nearer_than_any_random_curve():
    images = tissue((2, 1, 16, 16), middle=-0.4)
    style = measure_style([tissue((2, 1, 16, 16), 3, middle=0.2, spread=0.3)])

    def misfit(controls):
        quantiles = measure_style([bezier_curve(images, controls)]).quantiles
        return float((quantiles - style.quantiles).square().mean())

    best = misfit(fit_bezier(images, style))
    generator = torch.Generator().manual_seed(0)
    assert best < 0.2 * misfit(IDENTITY)
    assert all(best <= misfit(random_bezier(generator)) for _ in range(50))


def test_random_curves_follow_their_generator():
    one, same, other = (random_bezier(torch.Generator().manual_seed(s), 3) for s in (1, 1, 2))
    assert one.shape == (3, 2, 2)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    many = random_bezier(torch.Generator().manual_seed(3), 4000)
    assert float(many.abs().max()) <= 1
    torch.testing.assert_close(many.mean(0), torch.zeros(2, 2).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(many.std(0), torch.full((2, 2), 3**-0.5).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (torch.zeros(3, 2, 2), r"got \(3, 2, 2\)"),
        (torch.zeros(4), r"got \(4,\)"),
        (torch.tensor([[0.0, 1.2], [0.0, 0.0]]), r"lie in \[-1, 1\]"),
        (torch.full((2, 2), float("nan")), r"lie in \[-1, 1\]"),
    ],
)
def test_control_points_are_checked(controls, message):
    with pytest.raises(AugmintError, match=message):
        bezier_curve(tissue((1, 2, 8, 8)), controls)
