import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from augmint.diffusion.autoencoder import (
    AutoencoderConfig,
    flow_matching_in,
    noise_like,
    normalise,
    reconstruction,
)
from augmint.diffusion.checkpoint import load_network, save_network
from augmint.diffusion.networks import Denoiser, NetworkConfig, build_network, unshuffle
from augmint.diffusion.training import TrainingConfig, fit_network, flow_matching
from augmint.errors import AugmintError
from augmint.weights import module_tensors

TINY = AutoencoderConfig(2, size="tiny")


def fresh(config=TINY):
    torch.manual_seed(0)
    return config.build().eval()


def discs(generator, count, size=16):
    """Soft discs of many sizes on dark ground."""
    at = torch.rand(count, 3, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    radius = ((rows - size * at[:, 0]) ** 2 + (columns - size * at[:, 1]) ** 2).sqrt()
    return (size / 8 * (1 + 2 * at[:, 2]) - radius).clamp(-1, 1)[:, None], None


@pytest.fixture(scope="module")
def fitted():
    config = TrainingConfig(steps=150, batch_size=8, warmup=5, learning_rate=3e-3, precision="fp32")
    network = fit_network(fresh(), discs, config, loss=reconstruction)
    normalise(network, discs)
    return network


@pytest.mark.parametrize(
    ("config", "shape", "latent"),
    [
        (TINY, (2, 1, 32, 16), (2, 4, 8, 4)),
        (replace(TINY, factor=2), (1, 1, 8, 8), (1, 4, 4, 4)),
        (replace(TINY, factor=8, channels=3), (1, 3, 32, 32), (1, 12, 4, 4)),
        (replace(TINY, dims=3), (1, 1, 8, 16, 8), (1, 8, 2, 4, 2)),
    ],
)
def test_the_grid_of_the_latents_is_coarser_by_the_factor(config, shape, latent):
    network = fresh(config)
    images = torch.rand(shape) * 2 - 1
    latents = network.encode(images)
    assert latents.shape == latent
    back = network.decode(3 * latents)
    assert back.shape == shape
    assert float(back.abs().max()) <= 1
    assert not latents.requires_grad
    assert not back.requires_grad


@pytest.mark.parametrize(("dims", "mode"), [(2, "bicubic"), (3, "trilinear")])
def test_a_fresh_one_halves_the_resolution_and_enlarges(dims, mode):
    network = fresh(replace(TINY, dims=dims))
    images = torch.rand(2, 1, *[16] * dims) * 2 - 1
    small = functional.interpolate(images, scale_factor=0.5, mode="area")
    torch.testing.assert_close(network.encode(images), unshuffle(small, 2))
    enlarged = functional.interpolate(small, scale_factor=2, mode=mode).clamp(-1, 1)
    torch.testing.assert_close(network.decode(network.encode(images)), enlarged)


def test_a_fit_starts_with_little_noise_in_the_latents():
    images, _ = discs(torch.Generator().manual_seed(0), 2)
    _, deviation = fresh().posterior(images)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.0183), atol=1e-3, rtol=0)


def test_fitting_brings_more_back_than_halving(fitted):
    images, _ = discs(torch.Generator().manual_seed(99), 16)
    before, after = (
        float((n.decode(n.encode(images)) - images).abs().mean()) for n in (fresh(), fitted)
    )
    assert after < 0.7 * before


def test_latents_of_training_images_have_mean_0_and_deviation_1(fitted):
    latents = fitted.encode(discs(torch.Generator().manual_seed(5), 64)[0])
    values = latents.movedim(1, 0).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(values.std(1), torch.ones(4), atol=0.15, rtol=0)
    assert float((fitted.deviation - 1).abs().max()) > 0.01


def test_normalising_does_not_change_what_comes_back(fitted):
    images, _ = discs(torch.Generator().manual_seed(3), 4)
    back = fitted.decode(fitted.encode(images))
    plain = fresh()
    plain.load_state_dict(fitted.state_dict())
    plain.mean.zero_()
    plain.deviation.fill_(1)
    torch.testing.assert_close(plain.decode(plain.encode(images)), back, atol=1e-4, rtol=0)


def test_the_same_numbers_give_the_same_autoencoder():
    config = TrainingConfig(steps=3, batch_size=4, warmup=1, precision="fp32")
    one, two = (fit_network(fresh(), discs, config, loss=reconstruction) for _ in range(2))
    for network in (one, two):
        normalise(network, discs)
    a, b = module_tensors(one), module_tensors(two)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_noise_of_the_latents_is_a_part_of_what_was_drawn():
    eps = torch.randn(3, 1, 8, 8)
    noise = noise_like(eps, torch.zeros(3, 4, 2, 2))
    assert noise.shape == (3, 4, 2, 2)
    assert set(noise[1].flatten().tolist()) <= set(eps[1].flatten().tolist())
    assert len(noise.unique()) == noise.numel()


def test_a_denoiser_learns_the_latents_and_leaves_the_autoencoder_alone(fitted):
    denoiser = build_network(NetworkConfig(2, channels=4, size="tiny", stem=1))
    images, _ = discs(torch.Generator().manual_seed(1), 2)
    eps, t = torch.randn(images.shape), torch.tensor([0.3, 0.7])
    loss = flow_matching_in(fitted)(denoiser, images, None, eps, t)
    latents = fitted.encode(images)
    noise = noise_like(eps, latents)
    assert torch.equal(loss, flow_matching(denoiser, latents, None, noise, t))
    # An untrained denoiser predicts 0.
    torch.testing.assert_close(loss, (noise - latents).square().mean())
    loss.backward()
    assert all(p.grad is None for p in fitted.parameters()) or all(
        p.grad is None or not p.grad.any() for p in fitted.parameters()
    )
    assert any(p.grad is not None and p.grad.any() for p in denoiser.parameters())


def test_an_autoencoder_returns_with_its_statistics(tmp_path, fitted):
    digest = save_network(tmp_path / "net", fitted)
    again, same = load_network(tmp_path / "net")
    assert again.config == TINY
    assert digest == same
    assert {p.name for p in (tmp_path / "net").iterdir()} == {"network.safetensors", "config.json"}
    images, _ = discs(torch.Generator().manual_seed(2), 2)
    assert torch.equal(again.encode(images), fitted.encode(images))
    assert not again.training


def test_a_denoiser_is_stored_as_before(tmp_path):
    config = NetworkConfig(2, size="tiny")
    save_network(tmp_path / "net", build_network(config))
    stored = json.loads((tmp_path / "net" / "config.json").read_text())
    assert stored == config.to_json()
    assert "kind" not in stored
    assert isinstance(load_network(tmp_path / "net")[0], Denoiser)


@pytest.mark.parametrize("change", [{"factor": 8}, {"size": "huge"}, {"colour": 1}, {"factor": 3}])
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, change):
    save_network(tmp_path / "net", fresh())
    path = tmp_path / "net" / "config.json"
    path.write_text(json.dumps({**TINY.to_json(), **change}))
    with pytest.raises(AugmintError, match=r"(?s)checkpoint .*net.*fit again"):
        load_network(tmp_path / "net")


@pytest.mark.parametrize("factor", [1, 0, 6])
def test_a_factor_that_is_no_power_of_two_is_refused(factor):
    with pytest.raises(ValueError, match=f"power of two, 2 or more; got {factor}"):
        replace(TINY, factor=factor).build()
