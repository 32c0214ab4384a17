"""Images from masks: a denoiser conditioned on the label map, by concatenation or SPADE.

Source: Li, Ma and Shi, Bioengineering 12(8):812, 2025 (image stage); Wang et al., 2022 (SPADE in
a diffusion decoder, guidance by dropping the mask). Masks here are warped real masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from augmint.case import Case, Provenance
from augmint.data.pool import slice_position
from augmint.diffusion.networks import Denoiser, NetworkConfig, Size
from augmint.diffusion.sampling import (
    Job,
    Solver,
    descend,
    generator_for,
    sample,
    sample_jobs,
    with_guidance,
)
from augmint.errors import AugmintError
from augmint.imaging.warps import WarpRange, random_warp, warp_case, warp_image, warp_mask
from augmint.methods.protocol import DatasetFacts, NetworkSpec, Samples
from augmint.precision import autocast


@dataclass(frozen=True)
class MaskToImage:
    """New images for warped real masks.

    Attributes:
        conditioning: `concat` gives the mask to the input, `spade` to the decoder's norms.
        network: Size of the denoiser: tiny, small, medium or large.
        stem: Pixel-unshuffle factor in front of it.
        num_steps: Steps of the sampler; Heun evaluates twice a step, but for the last.
        solver: euler, heun or multistep.
        shift: Below 1, more of the steps near the finished image, where fine detail is made.
        guidance: Classifier-free guidance; 1 is none and halves the cost.
        warp: How far the masks of synthetic cases are warped; 1 is up to 15 degrees, 15 % of
            size, 1.2 % elastic.
        fit_warp: How far image and mask are warped together while fitting.
        shared_noise: Share of the noise's variance common to the slices of one volume.
        batch_size: Images per sampling batch, volumes count an eighth of it; part of the signature
            under which bytes repeat.
    """

    conditioning: Literal["concat", "spade"] = "concat"
    network: Size = "small"
    stem: int = 2
    num_steps: int = 6
    solver: Solver = "multistep"
    shift: float = 0.6
    guidance: float = 1.0
    warp: float = 1.0
    fit_warp: float = 0.7
    shared_noise: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        rules = {
            "num_steps": (self.num_steps >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "stem": (self.stem >= 1, "1 or more"),
            "shift": (self.shift > 0, "above 0"),
            "guidance": (self.guidance >= 0, "0 or more"),
            "warp": (self.warp >= 0, "0 or more"),
            "fit_warp": (self.fit_warp >= 0, "0 or more"),
            "shared_noise": (0 <= self.shared_noise <= 1, "from 0 to 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise AugmintError(f"mask_to_image: {name} is {rule}; got {getattr(self, name)}")

    def networks(self, facts: DatasetFacts) -> Mapping[str, NetworkSpec]:
        """One denoiser of the image given the one-hot mask and the slice's position."""
        if facts.num_classes < 2:
            raise AugmintError("mask_to_image needs at least one label beside the background")
        config = NetworkConfig(
            dims=facts.grid.dims,
            channels=facts.channels,
            condition_channels=facts.num_classes + 1,
            conditioning=self.conditioning,
            size=self.network,
            stem=self.stem,
        )
        if any(n % config.multiple for n in facts.grid.window):
            raise AugmintError(
                f"a {self.network} network with stem {self.stem} needs sizes that are multiples of "
                f"{config.multiple}, the working window is {facts.grid.window}; use a smaller "
                "network or stem, or another preset"
            )

        def example(samples: Samples, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            canvas = samples.images.shape[2:]
            grid = random_warp(
                WarpRange().scaled(self.fit_warp),
                len(samples.images),
                canvas,
                facts.grid.window,
                generator,
            )
            masks = warp_mask(samples.masks, grid, facts.num_classes)
            images = warp_image(samples.images, grid)
            return images, condition(masks, samples.positions, facts.num_classes)

        return {"image": NetworkSpec(config=config, example=example)}

    @property
    def evaluations(self) -> int:
        """Denoiser passes for one image; guidance counts twice."""
        walk = descend(self.num_steps, shift=self.shift, solver=self.solver)
        return walk.evaluations * (1 if self.guidance == 1 else 2)

    def generate(
        self,
        networks: Mapping[str, Denoiser],
        orders: Iterable[tuple[Case, int]],
        facts: DatasetFacts,
        *,
        seed: int,
    ) -> Iterator[Case]:
        """One new case on the window for each order, in their order.

        Args:
            networks: {"image": the fitted denoiser}.
            orders: labelled cases on the canvas of `facts.grid`, each with the number of the copy
                to make; read lazily.
            facts: those that the networks were fitted with.
            seed: with the case and the copy it seeds every draw.

        Raises:
            AugmintError: for a case without a mask.
        """
        network = networks["image"]
        device = next(network.parameters()).device
        walk = descend(self.num_steps, shift=self.shift, solver=self.solver)

        def run(jobs: Sequence[Job]) -> Tensor:
            noise, given = (torch.stack([getattr(j, n) for j in jobs]) for n in ("noise", "given"))
            denoise = with_guidance(network, given.to(device), scale=self.guidance)
            with autocast(device, "auto"):
                return sample(lambda x, t: denoise(x, t).float(), noise.to(device), walk).clamp(
                    -1, 1
                )

        started: dict[tuple[object, ...], Case] = {}

        def jobs() -> Iterator[Job]:
            for case, copy in orders:
                key = (case.case_id, copy)
                generator = generator_for(seed, case.case_id, copy)
                started[key] = new = self._warped(case, facts, generator, seed, copy, str(walk))
                yield from self._jobs(new, facts, generator, key)

        done: list[Tensor] = []
        batch = self.batch_size if facts.grid.dims == 2 else max(1, self.batch_size // 8)
        for job, image in sample_jobs(jobs(), run, batch_size=batch):
            new = started[job.key]
            done.append(image)
            if facts.grid.dims == 3 or new.dims == 2:
                yield replace(new, image=done.pop())
            elif len(done) == new.image.shape[-1]:
                yield replace(new, image=torch.stack(done, -1))
                done.clear()
            else:
                continue
            del started[job.key]

    def _warped(
        self,
        case: Case,
        facts: DatasetFacts,
        generator: torch.Generator,
        seed: int,
        copy: int,
        walk: str,
    ) -> Case:
        """The new case with its warped mask and an empty image; one warp for all its slices."""
        moved = warp_case(
            case,
            WarpRange().scaled(self.warp),
            facts.grid.window,
            facts.num_classes,
            generator,
            blank=True,
        )
        return replace(
            moved,
            case_id=f"{case.case_id}__s{seed}_c{copy}",
            provenance=Provenance(
                source_case=case.case_id,
                method="mask_to_image",
                seed=seed,
                copy=copy,
                walk=walk,
                evaluations=self.evaluations,
            ),
        )

    def _jobs(
        self, new: Case, facts: DatasetFacts, generator: torch.Generator, key: tuple[object, ...]
    ) -> Iterator[Job]:
        assert new.mask is not None
        by_slice = facts.grid.dims == 2 and new.dims == 3
        masks = new.mask.movedim(-1, 0) if by_slice else new.mask[None]
        positions = torch.tensor([slice_position(z, len(masks)) for z in range(len(masks))])
        given = condition(masks, positions, facts.num_classes)
        shape = (facts.channels, *masks.shape[1:])
        common = torch.randn(shape, generator=generator)
        for one in given:
            own = torch.randn(shape, generator=generator)
            noise = self.shared_noise**0.5 * common + (1 - self.shared_noise) ** 0.5 * own
            yield Job(noise, one, key)


def condition(masks: Tensor, positions: Tensor, num_classes: int) -> Tensor:
    """One-hot classes, background included, and a plane of the slice's position.

    All zeros is no valid label map, and so it can stand for a dropped condition.

    Args:
        masks: (B, *spatial) int64.
        positions: (B,) in [-1, 1].
        num_classes: background included.

    Returns:
        (B, num_classes + 1, *spatial) float32.
    """
    one_hot = torch.nn.functional.one_hot(masks.long(), num_classes).movedim(-1, 1).float()
    plane = positions.reshape(-1, *[1] * (one_hot.ndim - 1)).expand(-1, 1, *masks.shape[1:])
    return torch.cat([one_hot, plane], 1)
