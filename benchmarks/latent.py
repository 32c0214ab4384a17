"""Images diffused as latents: how blurred the autoencoder is, and what is saved.

    python benchmarks/latent.py DATA [--steps 500] [--work scratch/latent]

Fits the autoencoder of `mask_to_image` with `space=latent` on ACDC slices of 256 x 256, as the
preset `large` brings them there, and reconstructs those of patients that it never saw. Beside it
stands plain halving of the resolution, which keeps as many numbers of an image. Then one training
step and one sampled image are timed in pixels and in latents, with networks of one size on one
thread. Writes benchmarks/results/latent.json, and a sheet to the work folder.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional

from augmint.data.dataset import open_dataset
from augmint.diffusion.checkpoint import load_network, save_network
from augmint.diffusion.networks import count_parameters
from augmint.diffusion.training import TrainingConfig, fit_network, flow_matching
from augmint.fit import describe_device, drawer, versions
from augmint.methods.mask_to_image import MaskToImage
from augmint.prepare import prepare
from augmint.presets import preset_named
from results import commit, save

MARGIN = 8
SHOWN = 5
STEPS_TIMED = 4
parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--patients", type=int, default=12)
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--work", type=Path, default=Path("scratch/latent"))


def prepared_of(data: Path, part: str, number: int | None):
    split = json.loads((data / "splits.json").read_text())["Dataset027_ACDC"][part]
    dataset = open_dataset(data / "Dataset027_ACDC").select(patients=split[:number])
    return prepare(dataset, preset_named("large"), dims=2, whole=True)


def fit_autoencoder(a: argparse.Namespace, prepared):
    """The autoencoder of the work folder, fitted unless it is there."""
    spec = MaskToImage(space="latent").networks(prepared.facts)["autoencoder"]
    folder = a.work / f"autoencoder_{a.steps}"
    if not folder.exists():
        torch.manual_seed(0)
        network, draw = spec.config.build(), drawer(spec, prepared.pool)
        config = TrainingConfig(steps=a.steps, batch_size=a.batch)
        fit_network(
            network, draw, config, loss=spec.loss({}), state=a.work / f"state_{a.steps}",
            metrics=a.work / f"metrics_{a.steps}.jsonl", name="autoencoder",
        )  # fmt: skip
        spec.finish(network, draw)
        save_network(folder, network)
    return load_network(folder)[0]


def boxes(masks: torch.Tensor) -> list[tuple[slice, slice]]:
    """Of each mask with a heart, its bounding box and a margin."""
    found = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        found.append(
            tuple(
                slice(max(0, int(x.min()) - MARGIN), int(x.max()) + 1 + MARGIN)
                for x in (rows, columns)
            )
        )
    return found


def measures(images: torch.Tensor, back: torch.Tensor) -> dict[str, float]:
    """PSNR, SSIM and MAE of (1, 1, H, W) in [-1, 1], the share of edges and of texture left."""
    from monai.metrics.regression import compute_ssim_and_cs

    ssim, _ = compute_ssim_and_cs(
        back, images, spatial_dims=2, kernel_size=[11, 11], kernel_sigma=[1.5, 1.5], data_range=2.0
    )
    error = back - images
    return {
        "psnr": float(10 * torch.log10(4 / error.square().mean())),
        "ssim": float(ssim.mean()),
        "mae": float(error.abs().mean()),
        "edges": gradient(back) / gradient(images),
        "texture": fine(back) / fine(images),
    }


def gradient(x: torch.Tensor) -> float:
    return float(x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean())


def fine(x: torch.Tensor) -> float:
    """Power at frequencies above a quarter of the sampling rate."""
    power = torch.fft.fft2(x).abs().square()
    rows, columns = (torch.fft.fftfreq(n).abs() for n in x.shape[2:])
    return float(power[..., (rows[:, None] > 0.25) | (columns[None] > 0.25)].sum())


def reconstruct(network, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([network.decode(network.encode(x)) for x in images.split(8)])


def halved(images: torch.Tensor) -> torch.Tensor:
    small = functional.avg_pool2d(images, 2)
    return functional.interpolate(small, scale_factor=2, mode="bicubic").clamp(-1, 1)


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}


def compare(images: torch.Tensor, back: torch.Tensor, masks: torch.Tensor) -> dict:
    whole = [measures(x[None], y[None]) for x, y in zip(images, back)]
    heart = [
        measures(x[None, :, r, c], y[None, :, r, c])
        for x, y, (r, c) in zip(images, back, boxes(masks))
    ]
    found = {"whole": mean_of(whole), "heart": mean_of(heart)}
    # The cut through the image around a heart has frequencies of its own.
    del found["heart"]["texture"]
    return found


def sheet(images: torch.Tensor, others: list[torch.Tensor], masks: torch.Tensor, path: Path):
    """Rows: hearts as recorded, by the autoencoder, halved; three times as large."""
    chosen = torch.linspace(0, len(images) - 1, SHOWN).long().tolist()
    rows = []
    for stack in (images, *others):
        tiles = []
        for i in chosen:
            r, c = boxes(masks[i : i + 1])[0]
            middle = [(s.start + s.stop) // 2 for s in (r, c)]
            top, left = (min(max(0, m - 48), n - 96) for m, n in zip(middle, stack.shape[2:]))
            tiles.append(stack[i, 0, top : top + 96, left : left + 96])
        rows.append(torch.cat(tiles, 1))
    pixels = ((torch.cat(rows) + 1) * 127.5).round().byte().numpy()
    image = Image.fromarray(pixels)
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(path)


def step_seconds(prepared, spec, network, before) -> float:
    """Of a training step, for each of its images."""
    stamps: list[float] = []
    config = TrainingConfig(steps=STEPS_TIMED, batch_size=4, warmup=1)
    fit_network(
        network, drawer(spec, prepared.pool), config,
        loss=spec.loss(before) if spec.loss else flow_matching,
        progress=lambda *_: stamps.append(time.process_time()),
    )  # fmt: skip
    return min(b - a for a, b in pairwise(stamps)) / config.batch_size


def timed(prepared, case, space: str, autoencoder) -> dict[str, float]:
    """Seconds of a training step and of a sampled image, and the denoiser's size."""
    method = MaskToImage(space=space, batch_size=4)
    spec = method.networks(prepared.facts)["image"]
    network, before = spec.config.build(), {"autoencoder": autoencoder}
    step = step_seconds(prepared, spec, network, before)
    start = time.process_time()
    next(method.generate({**before, "image": network}, [(case, 0)], prepared.facts, seed=0))
    sampled = (time.process_time() - start) / case.image.shape[-1]
    return {
        "parameters": count_parameters(network),
        "step_seconds_per_image": step,
        "sample_seconds_per_image": sampled,
    }


def passes(network, images: torch.Tensor) -> dict[str, float]:
    """Seconds to encode and to decode an image, best of three."""
    best = {"encode": float("inf"), "decode": float("inf")}
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            start = time.process_time()
            latents = network.encode(images)
            middle = time.process_time()
            network.decode(latents)
            end = time.process_time()
            best["encode"] = min(best["encode"], (middle - start) / len(images))
            best["decode"] = min(best["decode"], (end - middle) / len(images))
    return best


def main(a: argparse.Namespace) -> None:
    a.work.mkdir(parents=True, exist_ok=True)
    prepared = prepared_of(a.data, "train", a.patients)
    network = fit_autoencoder(a, prepared)
    unseen = prepared_of(a.data, "validation", None)
    unseen = replace(unseen, facts=prepared.facts)
    kept = (unseen.pool.masks > 0).flatten(1).any(1)
    images, masks = unseen.pool.images[kept].float(), unseen.pool.masks[kept] > 0
    back, half = reconstruct(network, images), halved(images)
    sheet(images, [back, half], masks, a.work / "reconstructions.png")
    case = prepared.facts.grid.to_working(unseen.dataset.load(unseen.dataset.items[0]))
    latents = network.encode(images[:64])
    spec = MaskToImage(space="latent").networks(prepared.facts)["autoencoder"]
    result = {
        "what": "slices with a heart, of patients never seen; seconds of one thread",
        "window": list(prepared.facts.grid.window),
        "spacing_mm": prepared.facts.grid.spacing_mm,
        "fit": {
            "patients": a.patients,
            "slices": len(prepared.pool),
            "steps": a.steps,
            "batch": a.batch,
            "parameters": count_parameters(network),
        },
        "slices": len(images),
        "autoencoder": compare(images, back, masks),
        "halved": compare(images, half, masks),
        "latents": {
            "mean": latents.mean((0, 2, 3)).tolist(),
            "deviation": latents.std((0, 2, 3)).tolist(),
        },
        "seconds": {
            "autoencoder": {
                **passes(network, images[:4]),
                "step_seconds_per_image": step_seconds(prepared, spec, copy.deepcopy(network), {}),
            },
            "pixel": timed(prepared, case, "pixel", None),
            "latent": timed(prepared, case, "latent", network),
        },
        "device": describe_device(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
    }
    save("latent", result)
    print(json.dumps({k: result[k] for k in ("autoencoder", "halved", "seconds")}, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(parser.parse_args())
