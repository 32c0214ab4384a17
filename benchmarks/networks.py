"""MONAI's against diffusers' U-Net, with and without a pixel-unshuffle stem, and SPADE.

    python benchmarks/networks.py DATA fit VARIANT [--steps 200] [--work scratch/networks]
    python benchmarks/networks.py DATA judge --judge FOLDER [--work scratch/networks]

`fit` trains one variant with the same batches, noise and levels as all others and keeps the
averaged weights at a quarter, a half, three quarters and all of its steps. `judge` asks an
independent segmenter how well images of masks from patients that no network saw follow them
(Dice), times one training step and one sampled image of each variant in turn on a quiet machine,
and writes benchmarks/results/networks.json: adherence against steps and two-core seconds.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from augmint.data.dataset import open_dataset
from augmint.data.pool import build_pool
from augmint.diffusion.networks import CHANNELS, Denoiser, NetworkConfig, build_network
from augmint.diffusion.networks import count_parameters as count
from augmint.diffusion.path import add_noise, logit_normal
from augmint.diffusion.sampling import descend, generator_for, sample
from augmint.diffusion.training import ema_exponent
from augmint.fit import describe_device, versions
from augmint.imaging.warps import WarpRange, random_warp, warp_image, warp_mask
from augmint.imaging.working import WorkingGrid
from augmint.methods.mask_to_image import condition
from augmint.segmentation.checkpoint import load_segmenter
from augmint.segmentation.predict import predict_mask
from augmint.weights import write_folder
from results import commit, save

GRID = WorkingGrid(2, (128, 128), (80, 80), longest=128)
WARP = WarpRange(15.0, 0.15, 0.03, 0.02, 6).scaled(0.7)
STEM_1 = (32, 64, 128)
VARIANTS = {
    "monai_concat_stem2": ("monai", "concat", 2),
    "diffusers_concat_stem2": ("diffusers", "concat", 2),
    "monai_concat_stem1": ("monai", "concat", 1),
    "diffusers_concat_stem1": ("diffusers", "concat", 1),
    "monai_spade_stem2": ("monai", "spade", 2),
}
parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("stage", choices=("fit", "judge"))
parser.add_argument("variant", nargs="?", choices=VARIANTS)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--judge", type=Path)
parser.add_argument("--work", type=Path, default=Path("scratch/networks"))


class Diffusers(nn.Module):
    """diffusers' U-Net of the same channels, blocks and attention."""

    def __init__(self, channels: tuple[int, ...], stem: int):
        super().__init__()
        from diffusers import UNet2DModel

        fold = stem**2
        self.network = UNet2DModel(
            sample_size=80 // stem, in_channels=6 * fold, out_channels=fold,
            block_out_channels=channels, layers_per_block=2, norm_num_groups=16,
            down_block_types=["DownBlock2D"] * 2 + ["AttnDownBlock2D"],
            up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * 2, attention_head_dim=32,
        )  # fmt: skip

    def forward(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return self.network(x, steps).sample


def build(variant: str) -> Denoiser:
    library, conditioning, stem = VARIANTS[variant]
    config = NetworkConfig(2, 1, 5, conditioning, "small", stem)
    torch.manual_seed(0)
    kept = CHANNELS[2, "small"]
    try:
        if stem == 1:  # comparable cost needs fewer channels at full resolution
            CHANNELS[2, "small"] = STEM_1
        if library == "diffusers":
            network = Denoiser(Diffusers(CHANNELS[2, "small"], stem), config)
            return network.to(memory_format=torch.channels_last)
        return build_network(config)
    finally:
        CHANNELS[2, "small"] = kept


def pool_of(data: Path, part: str, number: int | None):
    split = json.loads((data / "splits.json").read_text())["Dataset027_ACDC"][part]
    return build_pool(open_dataset(data / "Dataset027_ACDC").select(patients=split[:number]), GRID)


def batch(pool, step: int):
    g = generator_for("b", step)
    index = torch.randint(len(pool), (16,), generator=g)
    grid = random_warp(WARP, 16, GRID.canvas, GRID.window, g)
    masks = warp_mask(pool.masks[index].long(), grid, 4)
    x_0 = warp_image(pool.images[index].float(), grid)
    eps = torch.randn(x_0.shape, generator=g)
    t = logit_normal((torch.arange(16) + torch.rand(16, generator=g)) / 16)
    kept = torch.rand(16, 1, 1, 1, generator=g) > 0.1
    return x_0, eps, t, condition(masks, pool.positions[index], 4) * kept


def train_step(network, optimizer, data) -> float:
    x_0, eps, t, given = data
    with torch.autocast("cpu", torch.bfloat16):
        v = network(add_noise(x_0, eps, t), t, given)
    loss = (v.float() - (eps - x_0)).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def adam(network):
    return torch.optim.AdamW(network.parameters(), 4e-4, betas=(0.9, 0.99), weight_decay=0.01)


def fit(a: argparse.Namespace) -> None:
    pool, network = pool_of(a.data, "train", 10), build(a.variant)
    optimizer = adam(network)
    average = [p.detach().clone() for p in network.parameters()]
    gamma = ema_exponent(0.1)
    marks = [a.steps * k // 4 for k in (1, 2, 3, 4)]
    for step in range(a.steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-4 * min(1, (step + 1) / 100)
        loss = train_step(network, optimizer, batch(pool, step))
        keep = (1 - 1 / (step + 1)) ** (gamma + 1)
        torch._foreach_lerp_(average, list(network.parameters()), 1 - keep)
        if step + 1 in marks:
            tensors = {str(i): p for i, p in enumerate(average)}
            facts = {"name": a.variant, "step": step + 1, "loss": loss}
            folder = a.work / f"{a.variant}_{marks.index(step + 1) + 1}"
            write_folder(folder, {"network": tensors}, facts)
            print(a.variant, step + 1, round(loss, 4), flush=True)


def judge(a: argparse.Namespace) -> None:
    pool = pool_of(a.data, "validation", None)
    segmenter, _ = load_segmenter(a.judge)
    chosen = torch.arange(0, len(pool), 2)
    masks = pool.crop(GRID.window).masks[chosen].long()
    given = condition(masks, pool.positions[chosen], 4)
    noise = torch.randn(len(chosen), 1, *GRID.window, generator=torch.Generator().manual_seed(0))
    networks = {v: build(v) for v in VARIANTS}
    seconds = time_steps(a, networks)
    curves: dict[str, list[dict]] = {v: [] for v in VARIANTS}
    for folder in sorted(a.work.glob("*_[1-4]")):
        facts = json.loads((folder / "config.json").read_text())
        network = networks[facts["name"]].eval()
        weights = load_file(folder / "network.safetensors")
        with torch.no_grad():
            for i, p in enumerate(network.parameters()):
                p.copy_(weights[str(i)])
        images = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for s in range(0, len(chosen), 16):
                part = given[s : s + 16]
                walk = descend(6, solver="multistep")
                denoise = lambda x, t: network(x, t, part).float()  # noqa: B023, E731
                images.append(sample(denoise, noise[s : s + 16], walk))
        found = predict_mask(segmenter, torch.cat(images).clamp(-1, 1))
        curves[facts["name"]].append(
            {
                "step": facts["step"],
                "two_core_seconds": facts["step"] * seconds[facts["name"]]["train_step"],
                "loss": facts["loss"],
                "dice": {n: dice(masks == k, found == k) for n, k in open_labels(a).items()},
            }
        )
    real = predict_mask(segmenter, pool.crop(GRID.window).images[chosen].float())
    result = {
        "what": "Dice of an independent judge over all slices pooled, masks of validation patients",
        "real": {n: dice(masks == k, real == k) for n, k in open_labels(a).items()},
        "parameters": {v: count(n) for v, n in networks.items()},
        "seconds": seconds,
        "curves": curves,
        "device": describe_device(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
    }
    save("networks", result)
    print("judge on the real images:", {n: round(v, 3) for n, v in result["real"].items()})
    for name, points in curves.items():
        cost = seconds[name]
        print(f"{name}: {cost['train_step']:.2f} s a step, {cost['image'] * 1e3:.0f} ms an image")
        for point in points:
            found = {n: round(v, 3) for n, v in point["dice"].items()}
            print(f"  {point['step']} steps, {point['two_core_seconds']:.0f} s: {found}")


def open_labels(a: argparse.Namespace) -> dict[str, int]:
    labels = open_dataset(a.data / "Dataset027_ACDC").labels
    return {n: i for n, i in labels.items() if i}


def dice(reference: torch.Tensor, found: torch.Tensor) -> float:
    return 2 * int((reference & found).sum()) / max(1, int(reference.sum() + found.sum()))


def time_steps(a: argparse.Namespace, networks: dict) -> dict:
    """Best of four rounds in turn, so that a noisy moment strikes all variants alike."""
    pool = pool_of(a.data, "train", 2)
    optimizers = {v: adam(n) for v, n in networks.items()}
    steps: dict[str, list[float]] = {v: [] for v in networks}
    images: dict[str, list[float]] = {v: [] for v in networks}
    for round_ in range(4):
        data = batch(pool, round_)
        for name, network in networks.items():
            start = time.perf_counter()
            train_step(network.train(), optimizers[name], data)
            steps[name].append(time.perf_counter() - start)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                start = time.perf_counter()
                sample(
                    lambda x, t: network(x, t, data[3]).float(),  # noqa: B023
                    data[1], descend(6, solver="multistep"),
                )  # fmt: skip
            images[name].append((time.perf_counter() - start) / 16)
    return {v: {"train_step": min(steps[v]), "image": min(images[v])} for v in networks}


if __name__ == "__main__":
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    fit(arguments) if arguments.stage == "fit" else judge(arguments)
