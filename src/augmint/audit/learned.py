"""Part 4 of an audit again, on what a fitted segmenter sees: the judge's features of images."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from augmint.audit.adherence import LEAST_UNSEEN, Judges
from augmint.audit.images import REACH, compared, held_apart, measure_distances
from augmint.audit.material import Material, Planes
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid, center, resample_image
from augmint.quality import fidelity
from augmint.quality.fidelity import DEEPEST, network_features
from augmint.segmentation.networks import Segmenter

BATCH = 64
# Share of the real splits below what is called farther off.
FAR = 0.95


def measure_learned(
    material: Material, judges: Judges, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """The figures of `measure_images` on the deepest features of the judges, side by side.

    A segmenter sees images that it was fitted on otherwise than new ones. So only those judges look
    that know none of the patients whose images are compared; where there is none, or it cannot
    look, the key `missing` says why. Pooled features of a hardly trained judge tell little: the
    distance of real images with shuffled pixels stands beside, and must lie beyond real halves.

    Args:
        material: Everything on one grid.
        judges: Those of the second part.
        seed: Of the splits.
        device: Where to compute.
    """
    real, made = compared(material)
    chosen = _blind(judges, real, made)
    why = _cannot(judges, material.facts.grid, chosen)
    if why:
        return {"missing": why}
    scale = _scale(material.facts.grid, judges.grid)
    networks = [judges.networks[k] for k in chosen]

    def describe(images: Tensor) -> Tensor:
        parts = [
            torch.cat([network_features(n, seen, device=device) for n in networks], 1)
            for seen in (as_judged(b, judges.grid, scale) for b in images.split(BATCH))
        ]
        return torch.cat(parts)

    hashes = [judges.weights[k] for k in chosen]
    apart = held_apart(material, real, made)
    extractor = {"extractor": _extractor(networks, hashes, judges.grid, scale)}
    try:
        told = measure_distances(describe, real, made, apart=apart, seed=seed)
    except AugmintError as error:
        if "varies among" not in str(error):
            raise
        return extractor | {"missing": f"to the judge all real images are alike: {error}"}
    if "kernel_distance" not in told:
        return extractor | told
    noise = measure_distances(describe, real, shuffled(real, seed), apart=True, seed=seed)
    far = noise["kernel_distance"]
    if far["share_of_real_splits_below"] < FAR:
        return extractor | {
            "missing": "the judge does not tell real images from the same ones with their pixels "
            f"shuffled (kernel distance {far['synthetic']:.3f} beside {far['real']:.3f} of real "
            "halves), so its features say nothing; fit it longer with --judge-steps, or give "
            "another with --judge"
        }
    return extractor | told | {"kernel_distance_of_noise": far["synthetic"]}


def shuffled(planes: Planes, seed: int) -> Planes:
    """The pixels of each image in random order: the far end of the scale."""
    generator = torch.Generator().manual_seed(seed)
    flat = planes.images.flatten(2)
    mixed = [i[:, torch.randperm(flat.shape[2], generator=generator)] for i in flat]
    return replace(planes, images=torch.stack(mixed).view_as(planes.images))


def _blind(judges: Judges, real: Planes, made: Planes) -> list[int]:
    """The judges that know nobody who is compared, nor the source of a synthetic image."""
    shown = set(real.patients) | set(made.owners) - {""}
    return [k for k, known in enumerate(judges.known) if not known & shown]


def _cannot(judges: Judges, grid: WorkingGrid, chosen: Sequence[int]) -> str:
    """Why no judge can look at planes on this grid; empty where one can."""
    kind = judges.networks[0].spec.name
    if kind not in DEEPEST:
        known = ", ".join(DEEPEST)
        return f"the deepest features of {kind} are not known; give a judge that is one of {known}"
    if (grid.dims, judges.grid.dims) != (2, 2):
        return (
            f"images are compared plane by plane, on a {grid.dims}-D working grid, and the judge "
            f"works on a {judges.grid.dims}-D one; both must be 2-D"
        )
    if (grid.spacing_mm is None) != (judges.grid.spacing_mm is None):
        units = ("pixels", "mm") if grid.spacing_mm is None else ("mm", "pixels")
        return f"images are compared in {units[0]}, and the judge works in {units[1]}"
    if not chosen:
        return (
            "no judge is left that was fitted on none of the patients whose images are compared; "
            "give one with --judge that saw others alone, or keep "
            f"{LEAST_UNSEEN} patients from generator and gate"
        )
    return ""


def _scale(grid: WorkingGrid, judged: WorkingGrid) -> tuple[float, ...]:
    """Pixels of the judge for one pixel of the images, by axis."""
    if grid.spacing_mm is not None and judged.spacing_mm is not None:
        return tuple(a / b for a, b in zip(grid.spacing_mm, judged.spacing_mm))
    assert grid.longest is not None
    assert judged.longest is not None
    return (judged.longest / grid.longest,) * 2


def as_judged(images: Tensor, grid: WorkingGrid, scale: Sequence[float]) -> Tensor:
    """Images (N, C, H, W) at the judge's scale, on its window, in [-1, 1]."""
    shape = tuple(max(1, round(n * s)) for n, s in zip(images.shape[2:], scale))
    flat = images.float().clamp(-1, 1).flatten(0, 1)
    return center(resample_image(flat, shape).unflatten(0, images.shape[:2]), grid.window, -1.0)


def _extractor(
    networks: Sequence[Segmenter], hashes: Sequence[str], grid: WorkingGrid, scale: Sequence[float]
) -> dict[str, Any]:
    """The name of the features, the judges' weights, and a hash of these and of the code."""
    kinds = sorted({n.spec.name for n in networks})
    who = "the judge" if len(networks) == 1 else f"{len(networks)} judges, side by side"
    text = "".join(inspect.getsource(f) for f in (network_features, fidelity._deepest, as_judged))
    text += repr((kinds, tuple(hashes), tuple(grid.window), tuple(scale), REACH))
    return {
        "name": f"deepest features of {who} ({', '.join(kinds)})", "cut_at_deviations": REACH,
        "weights_sha256": list(hashes), "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
