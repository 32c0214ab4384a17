import math
from itertools import pairwise

import pytest
import torch

from augmint.diffusion.path import add_noise
from augmint.diffusion.sampling import (
    Job,
    Noise,
    ascend,
    descend,
    descend_with_jumps,
    follow_energy,
    generator_for,
    keep_known,
    low_frequencies,
    match_low_frequencies,
    sample,
    sample_jobs,
    with_guidance,
)

MEAN, STD = 0.4, 0.5


def ideal(mean=MEAN, std=STD):
    """E[eps | x_t] - E[x_0 | x_t] for Gaussian data N(mean, std^2)."""

    def denoise(x, t):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        variance = (1 - t) ** 2 * std**2 + t**2
        return (t - (1 - t) * std**2) * (x - (1 - t) * mean) / variance - mean

    return denoise


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator_for(seed), dtype=torch.float64)


def ends(walk):
    """Where the walk takes the states 0 and 1: the map of Gaussian data is a line."""
    a, b = sample(ideal(), torch.tensor([[0.0], [1.0]], dtype=torch.float64), walk).flatten()
    return float(a), float(b - a)  # the sampled mean and standard deviation, exactly


def error(walk):
    mean, std = ends(walk)
    return max(abs(mean - MEAN), abs(std - STD))


def test_the_oracle_is_the_minimum_of_the_flow_matching_loss():
    x_0, eps, t = MEAN + STD * normal(400_000, 1, seed=1), normal(400_000, 1, seed=2), 0.3
    x_t = add_noise(x_0, eps, torch.tensor([t]))
    residual = eps - x_0 - ideal()(x_t, torch.tensor([t]))
    # The residual of a regression has mean zero and is uncorrelated with its input.
    assert float(residual.mean()) == pytest.approx(0, abs=0.01)
    assert float((residual * x_t).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("multistep", 2)])
def test_doubling_the_steps_shrinks_the_error_by_the_order(solver, order):
    errors = [error(descend(n, solver=solver)) for n in (20, 40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(
    ("solver", "shift"), [("heun", 0.5), ("heun", 3.0), ("multistep", 0.5), ("multistep", 0.7)]
)
def test_uneven_steps_keep_the_second_order(solver, shift):
    coarse, fine = (error(descend(n, solver=solver, shift=shift)) for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("num_steps", "tolerance"), [(3, 0.13), (6, 0.03), (12, 0.007)])
@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_few_steps_come_near(solver, num_steps, tolerance):
    assert error(descend(num_steps, solver=solver)) < tolerance
    assert error(descend(num_steps, solver=solver)) < error(descend(num_steps, solver="euler"))


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_evaluations_are_those_that_happen(solver):
    calls = []

    def counted(x, t):
        calls.append(len(x))
        return ideal()(x, t)

    for walk in (
        descend(5, solver=solver),
        ascend(4, solver=solver),
        descend(6, start=0.4, solver=solver),
        descend_with_jumps(6, jump_length=2, num_resamples=2, solver=solver),
    ):
        calls.clear()
        sample(counted, normal(1, 1), walk, noise=Noise([generator_for(0)]))
        assert len(calls) == walk.evaluations


def test_repaint_has_its_published_length():
    walk = descend_with_jumps(250, jump_length=10, num_resamples=10)
    assert len(walk.moves) == 4570
    assert walk.evaluations == 2410
    assert str(walk) == "euler 2410 with 2160 jumps"


def test_repaint_moves_join_and_jump_by_its_length():
    walk = descend_with_jumps(20, jump_length=5, num_resamples=3)
    assert walk.moves[0].start == 1
    assert walk.moves[-1].stop == 0
    for one, two in pairwise(walk.moves):
        assert one.stop == two.start
    assert all((m.stop > m.start) == m.renoise for m in walk.moves)


def test_repaint_preserves_the_law():
    n = 4000
    walk = descend_with_jumps(60, jump_length=10, num_resamples=4, solver="heun")
    # One sample of many pixels: the law is per pixel.
    x = sample(ideal(), normal(1, n), walk, noise=Noise([generator_for(1)]))
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / n**0.5)
    assert float(x.std()) == pytest.approx(STD, abs=4 * STD / (2 * n) ** 0.5)


def test_a_walk_with_jumps_needs_noise():
    with pytest.raises(ValueError, match="source of noise"):
        sample(ideal(), normal(1, 1), descend_with_jumps(4, jump_length=1, num_resamples=2))


def test_sdedit_starts_from_the_noised_reference():
    start, reference = 0.4, torch.full((1, 20_000), 0.9, dtype=torch.float64)
    x = add_noise(reference, normal(1, 20_000), torch.tensor([start]))
    seen = []

    def denoise(x, t):
        seen.append(float(t[0]))
        return ideal()(x, t)

    out = sample(denoise, x, descend(40, start=start, shift=2.0))
    assert seen[0] == start
    # The flow is x -> m + (x - (1 - t) m) s / sqrt((1 - t)^2 s^2 + t^2): a line, in closed form.
    slope = STD / ((1 - start) ** 2 * STD**2 + start**2) ** 0.5
    assert float(out.mean()) == pytest.approx(MEAN + slope * (1 - start) * (0.9 - MEAN), abs=0.01)
    assert float(out.std()) == pytest.approx(slope * start, abs=0.01)


@pytest.mark.parametrize(("solver", "tolerance"), [("euler", 0.1), ("heun", 0.002)])
def test_inversion_and_back_returns_the_image(solver, tolerance):
    x_0 = normal(1, 50) * STD + MEAN
    x_1 = sample(ideal(), x_0, ascend(60, solver=solver))
    assert float(x_1.std()) == pytest.approx(float(x_0.std()) / STD, abs=0.1)
    again = sample(ideal(), x_1, descend(60, solver=solver))
    assert float((again - x_0).abs().max()) < tolerance


def test_inversion_under_one_model_and_back_under_another_translates():
    x_0 = normal(1, 50) * STD + MEAN
    x_1 = sample(ideal(), x_0, ascend(100))
    moved = sample(ideal(-0.3, 0.2), x_1, descend(100))
    torch.testing.assert_close(moved, -0.3 + 0.2 * (x_0 - MEAN) / STD, atol=5e-3, rtol=0)


def conditional(x, t, condition):
    return x * t.reshape(-1, 1, 1, 1) + condition.mean(1, keepdim=True) ** 2


def test_guidance_in_one_batch_equals_two_passes():
    x, t, condition = normal(3, 1, 4, 4), torch.tensor([0.2, 0.5, 0.8]), normal(3, 2, 4, 4, seed=1)
    v = with_guidance(conditional, condition, scale=2.5)(x, t)
    v_null = conditional(x, t, torch.zeros_like(condition))
    expected = v_null + 2.5 * (conditional(x, t, condition) - v_null)
    torch.testing.assert_close(v, expected)
    other = with_guidance(conditional, condition, scale=2.0, null=condition)(x, t)
    torch.testing.assert_close(other, conditional(x, t, condition))


def test_guidance_of_one_is_a_single_pass():
    sizes = []

    def network(x, t, condition):
        sizes.append(len(x))
        return conditional(x, t, condition)

    x, t, condition = normal(3, 1, 4, 4), torch.full((3,), 0.5), normal(3, 2, 4, 4)
    torch.testing.assert_close(
        with_guidance(network, condition)(x, t), conditional(x, t, condition)
    )
    with_guidance(network, condition, scale=1.5)(x, t)
    assert sizes == [3, 6]


def generators(count):
    return [generator_for("test", i) for i in range(count)]


def test_known_pixels_are_exact_at_the_end():
    image = torch.rand(2, 1, 8, 8, generator=generator_for(5)) * 2 - 1
    known = torch.zeros(2, 1, 8, 8)
    known[:, :, :5] = 1
    noise = Noise(generators(2))
    walk = descend_with_jumps(6, jump_length=2, num_resamples=2, solver="heun")
    out = sample(
        ideal(), noise.like(image), walk, noise=noise, guides=[keep_known(image, known, noise)]
    )
    kept = known.bool().expand_as(image)
    assert torch.equal(out[kept], image[kept])
    assert not torch.equal(out[~kept], image[~kept])


def test_known_pixels_have_the_noise_of_their_level():
    image, known = torch.full((1, 1, 200, 200), 0.5), torch.ones(1, 1, 200, 200)
    at = keep_known(image, known, Noise(generators(1)))(torch.zeros_like(image), 0.6)
    assert float(at.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(at.std()) == pytest.approx(0.6, abs=0.02)


def test_known_pixels_steer_the_unknown_ones():
    # Two pixels of correlation 1: the unknown one must follow the known one.
    def denoise(x, t):
        t = t.reshape(-1, 1, 1)
        s = x.mean(-1, keepdim=True)
        common = (1 - t) * s / ((1 - t) ** 2 + t**2 / 2)
        return ((x - (1 - t) * common) / t.clamp(min=1e-3) - common).clamp(-1e3, 1e3)

    image, known = torch.tensor([[[0.8, 0.0]]]), torch.tensor([[[1.0, 0.0]]])
    noise = Noise(generators(1))
    walk = descend_with_jumps(50, jump_length=5, num_resamples=8)
    out = sample(
        denoise, noise.like(image), walk, noise=noise, guides=[keep_known(image, known, noise)]
    )
    assert float(out[0, 0, 1]) == pytest.approx(0.8, abs=0.1)


def test_known_image_and_mask_must_fit():
    with pytest.raises(ValueError, match="differ in spatial shape"):
        keep_known(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5), Noise(generators(1)))


@pytest.mark.parametrize("shape", [(32,), (32, 32), (32, 8, 8)])
def test_low_frequencies_are_those_of_the_reference_at_the_end(shape):
    axis = torch.linspace(0, 1, 32).reshape(1, 1, -1, *[1] * (len(shape) - 1))
    reference = (0.8 * torch.cos(math.pi * axis)).expand(1, 1, *shape)
    noise = Noise(generators(1))
    stripes = 0.3 * torch.tensor([1.0, -1.0]).repeat(16).reshape(axis.shape)
    start = (0.5 * torch.cos(2 * math.pi * axis) + stripes).expand(1, 1, *shape)

    def keep(x, t):
        return torch.zeros_like(x)

    guide = match_low_frequencies(reference, 4, noise)
    out = sample(keep, start, descend(1), noise=noise, guides=[guide])

    def low(x):
        return torch.nn.functional.interpolate(x, scale_factor=1 / 4, mode="area")

    # Bilinear interpolation is no exact inverse of averaging: a few percent remain.
    before, after = ((low(x) - low(reference)).abs().max() for x in (start, out))
    assert float(after) < 0.05 * float(before)
    # Where the reference is even the match is exact.
    even = match_low_frequencies(torch.full_like(reference, 0.3), 4, noise)(
        stripes + 0 * start, 0.0
    )
    torch.testing.assert_close(low(even), torch.full_like(low(even), 0.3))


def test_the_reference_is_noised_to_the_level_of_the_state():
    reference = torch.full((1, 1, 256, 256), 0.5)
    out = match_low_frequencies(reference, 2, Noise(generators(1)))(
        torch.zeros_like(reference), 0.6
    )
    assert float(out.mean()) == pytest.approx(0.2, abs=0.01)
    assert 0.1 < float(out.std()) < 0.3  # noise of 0.6, smoothed


def test_high_frequencies_are_left_alone():
    x, reference = normal(1, 1, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16).double()
    guide = match_low_frequencies(reference, 4, Noise(generators(1)))
    torch.testing.assert_close(guide(x + stripes, 0.0) - guide(x, 0.0), stripes)


def test_an_energy_is_descended_and_fades_with_the_level():
    guide = follow_energy(lambda x, t: 2 * x, scale=0.1)
    x = torch.ones(1, 1, 2)
    torch.testing.assert_close(guide(x, 1.0), torch.full_like(x, 0.8))
    torch.testing.assert_close(guide(x, 0.5), torch.full_like(x, 0.9))
    assert torch.equal(guide(x, 0.0), x)


def test_noise_of_a_sample_does_not_depend_on_its_companions():
    x = torch.zeros(3, 1, 4, 4)
    together = Noise(generators(3)).like(x)
    alone = Noise(generators(3)[2:]).like(x[:1])
    assert torch.equal(together[2:], alone)
    with pytest.raises(ValueError, match="generators for a batch"):
        Noise(generators(2)).like(x)


def test_generators_differ_by_every_part_of_their_key():
    keys = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1", ""), (0, "a")]
    draws = {float(torch.rand(1, generator=generator_for(*key))) for key in keys}
    assert len(draws) == len(keys)
    assert float(torch.rand(1, generator=generator_for(0, "a", 1))) in draws


def test_jobs_come_back_in_order_from_padded_batches_read_lazily():
    sizes, read = [], []

    def run(batch):
        sizes.append(len(batch))
        return torch.stack([job.noise + job.given for job in batch])

    def jobs():
        for i in range(7):
            read.append(i)
            yield Job(torch.full((1, 2), float(i)), torch.ones(1, 2), key=(i,))

    stream = sample_jobs(jobs(), run, batch_size=3)
    job, image = next(stream)
    assert read == [0, 1, 2]
    rest = list(stream)
    assert [job.key, *(j.key for j, _ in rest)] == [(i,) for i in range(7)]
    assert all(float(i[0, 0]) == j.key[0] + 1 for j, i in [(job, image), *rest])
    assert sizes == [3, 3, 3]


def test_no_jobs_no_evaluations():
    assert list(sample_jobs([], lambda jobs: pytest.fail("ran"), batch_size=3)) == []


@pytest.mark.parametrize("shape", [(40,), (40, 24), (16, 8, 24)])
def test_low_frequencies_keep_the_mean_and_lose_fine_detail(shape):
    x = torch.full((2, 1, *shape), 0.3)
    torch.testing.assert_close(low_frequencies(x, 8), x)
    stripes = torch.tensor([1.0, -1.0]).repeat(shape[-1] // 2).expand(2, 1, *shape)
    assert float(low_frequencies(x + stripes, 8).sub(0.3).abs().max()) < 1e-5
    assert low_frequencies(stripes, 8).shape == stripes.shape


def test_low_frequencies_of_an_image_smaller_than_the_factor_are_its_mean():
    x = normal(1, 2, 6, 5)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    torch.testing.assert_close(low_frequencies(x, 16), mean)
