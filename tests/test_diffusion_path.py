from itertools import pairwise

import pytest
import torch

from augmint.diffusion.path import (
    add_noise,
    clean_from_velocity,
    epsilon_as_velocity,
    level_of_alpha_bar,
    levels,
    logit_normal,
    noise_from_velocity,
    renoise,
    velocity,
    velocity_as_epsilon,
)
from augmint.diffusion.sampling import descend, sample

MEAN, STD = 0.4, 0.3


def linear_alphas_cumprod(num_steps=1000):
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64), 0)


def ideal_noise(alphas_cumprod):
    """E[eps | x_vp] of Gaussian data N(MEAN, STD^2) at a fractional step of a DDPM."""
    known = level_of_alpha_bar(alphas_cumprod)

    def predict(x, step):
        below = step.long().clamp(max=len(known) - 2)
        t = known[below] + (step - below) * (known[below + 1] - known[below])
        bar = ((1 - t) ** 2 / ((1 - t) ** 2 + t**2)).reshape(-1, 1, 1, 1)
        variance = bar * STD**2 + 1 - bar
        return (1 - bar).sqrt() * (x - bar.sqrt() * MEAN) / variance

    return predict


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_clean_image_and_noise_are_recovered_from_the_velocity():
    x_0, eps, t = (
        normal(3, 1, 4, 5, seed=1),
        normal(3, 1, 4, 5, seed=2),
        torch.tensor([0.1, 0.5, 0.9]),
    )
    x_t, v = add_noise(x_0, eps, t), velocity(x_0, eps)
    torch.testing.assert_close(clean_from_velocity(x_t, v, t), x_0)
    torch.testing.assert_close(noise_from_velocity(x_t, v, t), eps)


def test_the_path_starts_at_the_image_and_ends_at_the_noise():
    x_0, eps = normal(2, 1, 4, seed=1), normal(2, 1, 4, seed=2)
    assert torch.equal(add_noise(x_0, eps, torch.zeros(2)), x_0)
    assert torch.equal(add_noise(x_0, eps, torch.ones(2)), eps)


@pytest.mark.parametrize(("t", "u"), [(0.0, 0.3), (0.2, 0.7), (0.6, 1.0), (0.5, 0.5)])
def test_a_jump_back_has_the_law_of_the_noisier_level(t, u):
    x_0, n = 0.7, 200_000
    x_t = (1 - t) * x_0 + t * normal(n, seed=1)
    x_u = renoise(x_t, normal(n, seed=2), t, u)
    assert float(x_u.mean()) == pytest.approx((1 - u) * x_0, abs=0.01)
    assert float(x_u.std()) == pytest.approx(u, abs=0.01)


def test_a_jump_to_a_cleaner_level_is_refused():
    with pytest.raises(ValueError, match="u >= t"):
        renoise(torch.zeros(1), torch.zeros(1), 0.5, 0.4)


def test_logit_normal_levels_have_the_logit_normal_law():
    t = logit_normal((torch.arange(10_000) + 0.5) / 10_000, mean=0.3, std=0.8)
    logits = torch.logit(t)
    assert float(logits.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.01)
    assert bool((t[1:] > t[:-1]).all())


def test_logit_normal_stays_inside_at_the_ends():
    t = logit_normal(torch.tensor([0.0, 1.0]))
    assert 0 < float(t[0]) < 0.02
    assert 0.98 < float(t[1]) < 1


@pytest.mark.parametrize("start", [0.35, 1.0])
@pytest.mark.parametrize("shift", [1.0, 0.5, 1.3, 3.0])
def test_levels_run_from_start_to_zero_whatever_the_shift(start, shift):
    ts = levels(7, start=start, shift=shift)
    assert len(ts) == 8
    assert ts[0] == start
    assert ts[-1] == 0
    assert all(a > b for a, b in pairwise(ts))


def test_a_shift_spends_more_steps_near_noise():
    plain, shifted = levels(8), levels(8, shift=3.0)
    assert shifted[4] == pytest.approx(3 * 0.5 / 2)
    assert all(s > p for s, p in zip(shifted[1:-1], plain[1:-1]))


def test_a_power_shortens_each_step():
    ts = levels(4, power=2.0)
    assert ts == pytest.approx([1, 0.5625, 0.25, 0.0625, 0])
    steps = [a - b for a, b in pairwise(levels(6, start=0.8, shift=0.7, power=2.0))]
    assert sum(steps) == pytest.approx(0.8)
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize("wrong", [{"num_steps": 0}, {"num_steps": 3, "start": 1.2}])
def test_impossible_walks_are_refused(wrong):
    with pytest.raises(ValueError, match="a walk"):
        levels(**wrong)


def test_a_level_has_the_signal_to_noise_ratio_of_its_alpha_bar():
    bar = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    t = level_of_alpha_bar(bar)
    torch.testing.assert_close(((1 - t) / t) ** 2, bar / (1 - bar))


def test_a_ddpm_of_gaussian_data_is_sampled_to_its_mean_and_std():
    denoise = epsilon_as_velocity(ideal_noise(linear_alphas_cumprod()), linear_alphas_cumprod())
    x = sample(denoise, normal(20_000, 1, 1, 1), descend(100, solver="heun"))
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(x.std()) == pytest.approx(STD, abs=0.01)


def test_noise_prediction_becomes_the_ideal_velocity():
    bars = linear_alphas_cumprod()
    t = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
    x = normal(9, 1, 1, 1)
    v = epsilon_as_velocity(ideal_noise(bars), bars)(x, t)
    wide = t.reshape(-1, 1, 1, 1)
    # E[eps | x_t] - E[x_0 | x_t] of jointly Gaussian variables.
    variance = (1 - wide) ** 2 * STD**2 + wide**2
    centred = x - (1 - wide) * MEAN
    expected = wide * centred / variance - (MEAN + (1 - wide) * STD**2 * centred / variance)
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=1e-6)


def test_velocity_as_epsilon_is_the_inverse_of_epsilon_as_velocity():
    bars = linear_alphas_cumprod()

    def predict(x, step):
        return torch.sin(3 * x) + 0.01 * step.reshape(-1, 1, 1, 1)

    there_and_back = velocity_as_epsilon(epsilon_as_velocity(predict, bars), bars)
    x, step = normal(5, 1, 3, 3), torch.tensor([0, 17, 400, 800, 999])
    torch.testing.assert_close(
        there_and_back(x, step), predict(x, step.double()), rtol=1e-6, atol=1e-6
    )


def test_a_ddpm_checkpoint_of_diffusers_gives_what_its_own_sampler_gives(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    network.save_pretrained(tmp_path)
    network = diffusers.UNet2DModel.from_pretrained(tmp_path).eval().double()
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
    )
    noise = normal(1, 1, 8, 8)
    bars = scheduler.alphas_cumprod.double()

    def predict(x, step):
        return network(x, step).sample

    scheduler.set_timesteps(250)
    theirs = noise
    with torch.no_grad():
        for step in scheduler.timesteps:
            theirs = scheduler.step(predict(theirs, step), step, theirs).prev_sample
    # The noisiest state that the checkpoint knows, as a flow state.
    top = float(level_of_alpha_bar(bars[-1]))
    x_t = noise * ((1 - top) ** 2 + top**2) ** 0.5

    def ours(num_steps):
        # An untrained network's clean image explodes near pure noise: most steps go there.
        walk = descend(num_steps, start=top, shift=20.0, solver="heun")
        return sample(epsilon_as_velocity(predict, bars), x_t, walk)

    coarse, fine = ((ours(n) - theirs).norm() / theirs.norm() for n in (4, 50))
    assert float(fine) < 0.01
    assert float(fine) < 0.2 * float(coarse)
