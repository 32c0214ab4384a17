import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from augmint.diffusion.networks import Denoiser, NetworkConfig, build_network
from augmint.diffusion.sampling import descend, generator_for, sample
from augmint.diffusion.training import (
    TrainingConfig,
    _accumulate,
    _batch,
    autocast,
    ema_exponent,
    fit_network,
    learning_rate_at,
)
from augmint.errors import AugmintError
from augmint.weights import module_tensors

CONFIG = TrainingConfig(
    steps=5, batch_size=4, learning_rate=1e-3, warmup=2, precision="fp32", save_every=0
)


def fresh(condition_channels=2):
    torch.manual_seed(3)
    return build_network(NetworkConfig(2, condition_channels=condition_channels, size="tiny"))


def draw(generator, count):
    """Images that are their condition's first channel, smooth."""
    condition = torch.randn(count, 2, 8, 8, generator=generator)
    return condition[:, :1].tanh(), condition


def same(one, two):
    a, b = module_tensors(one), module_tensors(two)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def difference(one, two):
    pairs = zip(module_tensors(one).values(), module_tensors(two).values())
    return max(float((a - b).abs().max()) for a, b in pairs)


class InterruptionError(Exception):
    pass


def stop_at(wanted):
    def progress(done, total, loss):
        if done == wanted:
            raise InterruptionError

    return progress


@pytest.fixture(scope="module")
def whole():
    return fit_network(fresh(), draw, CONFIG)


def test_a_fit_repeats_exactly_and_moves_the_weights(whole):
    torch.manual_seed(99)  # the global generator must not matter
    assert same(whole, fit_network(fresh(), draw, CONFIG))
    assert difference(whole, fresh()) > 1e-4
    assert not whole.training
    assert not same(whole, fit_network(fresh(), draw, replace(CONFIG, seed=1)))


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_interrupted_and_continued_equals_uninterrupted(tmp_path, whole, stop):
    state, metrics = tmp_path / "state", tmp_path / "metrics.jsonl"
    with pytest.raises(InterruptionError):
        fit_network(fresh(), draw, CONFIG, state=state, metrics=metrics, progress=stop_at(stop))
    said = []
    resumed = fit_network(fresh(), draw, CONFIG, state=state, metrics=metrics, log=said.append)
    assert same(whole, resumed)
    assert said == ([f"continuing at step {stop - 1} of 5"] if stop > 1 else [])
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [x["step"] for x in lines] == [1, 2, 3, 4, 5]


def test_lines_of_steps_done_again_are_replaced(tmp_path, whole):
    state, metrics = tmp_path / "state", tmp_path / "metrics.jsonl"
    metrics.write_text('{"network": "other", "step": 9, "loss": 1.0}\n')
    # Saved at the first step alone, so that steps 2 and 3 are in the metrics but not in the state.
    rare = replace(CONFIG, save_every=1e9)
    with pytest.raises(InterruptionError):
        fit_network(fresh(), draw, CONFIG, state=state, metrics=metrics, progress=stop_at(2))
    with pytest.raises(InterruptionError):
        fit_network(fresh(), draw, rare, state=state, metrics=metrics, progress=stop_at(4))
    resumed = fit_network(fresh(), draw, rare, state=state, metrics=metrics)
    assert same(whole, resumed)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [x["step"] for x in lines] == [9, 1, 2, 3, 4, 5]


def test_lines_of_a_fit_killed_before_its_first_save_are_replaced(tmp_path):
    state, metrics = tmp_path / "state", tmp_path / "metrics.jsonl"
    metrics.write_text('{"network": "other", "step": 9, "loss": 1.0}\n')
    rare = replace(CONFIG, save_every=1e9)
    with pytest.raises(InterruptionError):
        fit_network(fresh(), draw, rare, state=state, metrics=metrics, progress=stop_at(3))
    assert not state.exists()
    fit_network(fresh(), draw, rare, state=state, metrics=metrics)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [x["step"] for x in lines] == [9, 1, 2, 3, 4, 5]


def test_a_finished_fit_continues_to_itself(tmp_path, whole):
    fit_network(fresh(), draw, CONFIG, state=tmp_path / "state")
    called = []
    again = fit_network(
        fresh(), draw, CONFIG, state=tmp_path / "state", progress=lambda *a: called.append(a)
    )
    assert same(whole, again)
    assert called == []


def gradients(micro):
    network = fresh()
    with torch.no_grad():
        for p in network.parameters():  # zero weights would hide most gradients
            p.add_(0.05 * torch.randn(p.shape, generator=generator_for(tuple(p.shape))))
    share = _batch(draw, CONFIG, 0)
    loss = _accumulate(network, share, micro, "cpu", CONFIG, 1)
    return loss, [p.grad for p in network.parameters()]


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_accumulate_to_the_same_gradients(micro):
    (loss, expected), (other, parts) = gradients(4), gradients(micro)
    assert other == pytest.approx(loss, abs=1e-5)
    for one, two in zip(expected, parts):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert max(float(g.abs().max()) for g in expected) > 0.01


def test_micro_batches_give_the_same_weights():
    # Few and large gradients: Adam divides by them, and near zero it magnifies rounding.
    one, two = (fit_network(line(8), pixel, replace(CONFIG, micro_batch=micro)) for micro in (4, 3))
    assert difference(one, two) < 1e-5
    assert difference(one, line(8)) > 1e-4


def test_memory_running_out_halves_the_micro_batch(monkeypatch):
    config = replace(CONFIG, batch_size=8, steps=2)
    expected = fit_network(fresh(), draw, replace(config, micro_batch=2))
    forward, sizes, said = Denoiser.forward, [], []

    def small_gpu(self, x_t, t, condition=None):
        sizes.append(len(x_t))
        if len(x_t) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_t, t, condition)

    monkeypatch.setattr(Denoiser, "forward", small_gpu)
    fitted = fit_network(fresh(), draw, config, log=said.append)
    assert same(expected, fitted)
    assert [s for s in said if "halved to 4" in s]
    assert [s for s in said if "halved to 2" in s]
    assert len(said) == 2
    assert sizes == [8, 4, *[2] * 8]


def test_memory_that_is_not_enough_for_one_image_is_an_error(monkeypatch):
    def no_gpu(self, x_t, t, condition=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Denoiser, "forward", no_gpu)
    with pytest.raises(AugmintError, match=r"out of GPU memory.*smaller preset"):
        fit_network(fresh(), draw, CONFIG)


def test_a_loss_that_is_no_number_stops_the_fit(tmp_path):
    def broken(generator, count):
        target, condition = draw(generator, count)
        return target * float("nan"), condition

    with pytest.raises(AugmintError, match="loss of 'network' is nan at step 1"):
        fit_network(fresh(), broken, CONFIG, state=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_widths_have_their_published_exponents(width, gamma):
    # Karras et al., CVPR 2024, section 3.1.
    assert ema_exponent(width) == pytest.approx(gamma, abs=0.01)


class Line(nn.Module):
    """A backbone of a few numbers, so that a fit can be followed by hand."""

    def __init__(self, hidden=0):
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv2d(4, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1), nn.SiLU(),
            nn.Conv2d(hidden, 1, 1),
        ) if hidden else nn.Conv2d(4, 1, 1)  # fmt: skip

    def forward(self, x, steps):
        t = (steps / 1000).reshape(-1, 1, 1, 1).expand_as(x)
        return self.head(torch.cat([x, t, x * t, x / (t + 0.2)], 1))


def line(hidden=0, seed=0):
    torch.manual_seed(seed)
    return Denoiser(Line(hidden), NetworkConfig(2, stem=1))


def pixel(generator, count):
    return 0.4 + 0.3 * torch.randn(count, 1, 1, 1, generator=generator), None


def test_the_average_is_the_power_function_average_of_the_weights():
    network, seen = line(), []
    config = replace(CONFIG, steps=12, learning_rate=0.1)

    def keep(done, total, loss):
        seen.append([p.detach().clone() for p in network.parameters()])

    fit_network(network, pixel, config, progress=keep)
    gamma = ema_exponent(config.ema_width)
    # Unrolled: step k of n weighs prod_{j > k} beta_j (1 - beta_k), beta_j = (1 - 1/j)^(gamma + 1).
    beta = [(1 - 1 / j) ** (gamma + 1) for j in range(1, 13)]
    weights = [(1 - beta[k]) * math.prod(beta[k + 1 :]) for k in range(12)]
    assert sum(weights) == pytest.approx(1)
    for i, p in enumerate(network.parameters()):
        expected = sum(w * s[i] for w, s in zip(weights, seen))
        torch.testing.assert_close(p.detach(), expected)
        assert not torch.allclose(p, seen[-1][i])
    # An average with a history would grow by a graph node for each weight and step.
    assert all(p.grad_fn is None for p in network.parameters())


def test_the_average_holds_no_graph(monkeypatch):
    averages = []
    lerp = torch._foreach_lerp_

    def spied(average, values, weight):
        lerp(average, values, weight)
        averages.extend(average)

    monkeypatch.setattr(torch, "_foreach_lerp_", spied)
    fit_network(line(), pixel, CONFIG)
    assert averages
    assert not any(a.requires_grad for a in averages)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = replace(CONFIG, steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.5 * 0.5 * (1 + math.cos(0.04 * math.pi)))
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate_at(0, replace(config, warmup=0)) == pytest.approx(1)


def test_conditions_are_dropped_by_their_share(monkeypatch):
    seen = []
    forward = Denoiser.forward

    def spied(self, x_t, t, condition=None):
        seen.append(condition.flatten(1).any(1))
        return forward(self, x_t, t, condition)

    monkeypatch.setattr(Denoiser, "forward", spied)
    for share in (0.0, 0.3, 1.0):
        seen.clear()
        fit_network(fresh(), draw, replace(CONFIG, steps=3, batch_size=64, drop_condition=share))
        assert float(1 - torch.cat(seen).float().mean()) == pytest.approx(share, abs=0.1)


def test_precision_is_what_was_asked_for():
    x = torch.ones(2, 2)
    with autocast("cpu", "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast("cpu", "fp32"):
        assert (x @ x).dtype == torch.float32


def test_the_loss_falls_where_the_condition_tells_the_image(tmp_path):
    def flat(generator, count):
        level = torch.randn(count, 1, 1, 1, generator=generator).tanh().expand(-1, 2, 8, 8)
        return level[:, :1], level

    metrics = tmp_path / "metrics.jsonl"
    config = replace(CONFIG, steps=60, batch_size=8, learning_rate=3e-3, warmup=5)
    fit_network(fresh(), flat, config, metrics=metrics)
    losses = [json.loads(row)["loss"] for row in metrics.read_text().splitlines()]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_flow_matching_learns_a_gaussian_pixel():
    config = replace(CONFIG, steps=400, batch_size=256, learning_rate=2e-2, warmup=50)
    network = fit_network(line(hidden=32), pixel, config)
    noise = torch.randn(4000, 1, 1, 1, generator=generator_for(0))
    x = sample(network, noise, descend(20))
    assert float(x.mean()) == pytest.approx(0.4, abs=0.06)
    assert float(x.std()) == pytest.approx(0.3, abs=0.06)


PROCESS = """
import sys
import torch
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[1])
from test_diffusion_training import CONFIG, draw_pixels, line
from augmint.weights import module_tensors
from augmint.diffusion.training import fit_network, leave
import os
from dataclasses import replace
from pathlib import Path
out, batch, micro, holds = Path(sys.argv[2]), *map(int, sys.argv[3:])
network = line(8)
if os.environ["RANK"] == "1":
    forward = network.forward
    def small_gpu(x_t, t, condition=None):
        if len(x_t) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x_t, t, condition)
    network.forward = small_gpu
network = fit_network(network, draw_pixels, replace(CONFIG, batch_size=batch, micro_batch=micro),
                      state=out / "state", metrics=out / "metrics.jsonl")
save_file(module_tensors(network), out / f"rank{os.environ['RANK']}.safetensors")
leave()
"""


def draw_pixels(generator, count):
    return torch.randn(count, 1, 2, 2, generator=generator), None


@pytest.mark.parametrize(
    ("batch", "micro", "holds"),
    [
        (5, 2, 9),  # the shares differ, the effective batch must not
        (5, 3, 1),  # one process runs out of memory, in its last micro-batch: both halve
        (1, 1, 9),  # one process has no image at all
    ],
)
def test_two_processes_give_the_weights_of_one(tmp_path, batch, micro, holds):
    from safetensors.torch import load_file

    alone = fit_network(line(8), draw_pixels, replace(CONFIG, batch_size=batch))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What torchrun sets.
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", PROCESS, os.path.dirname(__file__), str(tmp_path)]
    command += [str(batch), str(micro), str(holds)]
    started = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in started:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error[-2000:]
    for rank in range(2):
        weights = load_file(tmp_path / f"rank{rank}.safetensors")
        for name, value in module_tensors(alone).items():
            torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    assert difference(alone, line(8)) > 1e-3
