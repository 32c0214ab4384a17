"""Images from masks: a denoiser conditioned on the label map, by concatenation or SPADE.

The masks are warped real ones, or drawn by a second denoiser, or both in turn.

Source: Li, Ma and Shi, Bioengineering 12(8):812, 2025 (masks by diffusion, then images); Wang et
al., 2022 (SPADE in a diffusion decoder, guidance by dropping the mask).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from augmint.case import Case, Provenance
from augmint.data.pool import slice_position
from augmint.diffusion.autoencoder import (
    AutoencoderConfig,
    flow_matching_in,
    normalise,
    reconstruction,
)
from augmint.diffusion.networks import NetworkConfig, Size, unshuffle
from augmint.diffusion.sampling import (
    Job,
    Solver,
    Walk,
    descend,
    generator_for,
    sample,
    sample_jobs,
    with_guidance,
)
from augmint.errors import AugmintError
from augmint.imaging.label_codes import Coding
from augmint.imaging.warps import WarpRange, random_warp, warp_case, warp_image, warp_mask
from augmint.methods.label_diffusion import Stack, draw_stacks, label_spec, read_asks
from augmint.methods.protocol import (
    DatasetFacts,
    NetworkSpec,
    Samples,
    images_at_once,
    in_groups,
)
from augmint.precision import autocast

Masks = Literal["warped", "generated", "both"]
Space = Literal["pixel", "latent"]


@dataclass(frozen=True)
class MaskToImage:
    """New images for warped real masks or for new ones.

    Attributes:
        masks: `warped` real masks; `generated` ones, drawn by a network of their own, whole stacks
            where the source is a volume; or `both`, odd copies generated.
        conditioning: `concat` gives the mask to the input, `spade` to the decoder's norms.
        space: Where images are diffused: `pixel`, or `latent` for windows of 256 x 256 and above,
            where it is several times as fast: an autoencoder of the training images is fitted
            first. The mask keeps its resolution. Volumes work too, their detail suffers more.
        latent_factor: How much coarser the latents' grid is: 2, 4, 8 or 16. They have 4 channels
            for a grey frame, 8 for a grey volume.
        network: Size of the denoiser and the autoencoder: tiny, small, medium or large.
        stem: Pixel-unshuffle factor in front of the denoiser of pixels; latents need none.
        num_steps: Steps of the sampler; Heun evaluates twice a step, but for the last.
        solver: euler, heun or multistep.
        shift: Below 1, more of the steps near the finished image, where fine detail is made.
        guidance: Classifier-free guidance; 1 is none and halves the cost.
        warp: How far the masks of synthetic cases are warped; 1 is up to 15 degrees, 15 % of
            size, 1.2 % elastic.
        fit_warp: How far image and mask are warped together while fitting.
        shared_noise: Share of the noise's variance common to the slices of one volume.
        coding: How the label network paints classes: one_hot, analog_bits or signed_distance.
        label_network: Size of that network.
        label_stem: Pixel-unshuffle factor in front of it.
        label_steps: Its evaluations for one slice.
        label_warp: How far real masks are warped while it is fitted.
        ask: Sizes that generated masks shall have, such as `LV area > p95`, in percentiles of
            the real ones at the same slice position; several with semicolons.
        batch_size: Images per sampling batch, volumes count an eighth of it; part of the signature
            under which bytes repeat.
    """

    masks: Masks = "warped"
    conditioning: Literal["concat", "spade"] = "concat"
    space: Space = "pixel"
    latent_factor: int = 4
    network: Size = "small"
    stem: int = 2
    num_steps: int = 6
    solver: Solver = "multistep"
    shift: float = 0.6
    guidance: float = 1.0
    warp: float = 1.0
    fit_warp: float = 0.7
    shared_noise: float = 0.0
    coding: Coding = "one_hot"
    label_network: Size = "small"
    label_stem: int = 4
    label_steps: int = 10
    label_warp: float = 0.4
    ask: str = ""
    batch_size: int = 16

    def __post_init__(self) -> None:
        rules = {
            "num_steps": (self.num_steps >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "stem": (self.stem >= 1, "1 or more"),
            "latent_factor": (self.latent_factor in (2, 4, 8, 16), "2, 4, 8 or 16"),
            "shift": (self.shift > 0, "above 0"),
            "guidance": (self.guidance >= 0, "0 or more"),
            "warp": (self.warp >= 0, "0 or more"),
            "fit_warp": (self.fit_warp >= 0, "0 or more"),
            "shared_noise": (0 <= self.shared_noise <= 1, "from 0 to 1"),
            "label_stem": (self.label_stem >= 1, "1 or more"),
            "label_steps": (1 <= self.label_steps <= 1000, "from 1 to 1000"),
            "label_warp": (self.label_warp >= 0, "0 or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise AugmintError(f"mask_to_image: {name} is {rule}; got {getattr(self, name)}")
        if self.ask and self.masks == "warped":
            raise AugmintError(
                f"mask_to_image: ask={self.ask!r} needs generated masks; set masks=generated"
            )

    def networks(self, facts: DatasetFacts) -> Mapping[str, NetworkSpec]:
        """A denoiser of the image given the one-hot mask and the slice's position.

        Before it one of label maps, if masks are generated, and an autoencoder, if images are
        diffused as its latents.
        """
        if facts.num_classes < 2:
            raise AugmintError("mask_to_image needs at least one label beside the background")
        return self._label_spec(facts) | self._image_specs(facts)

    def _image_specs(self, facts: DatasetFacts) -> dict[str, NetworkSpec]:
        """The denoiser of images, with the autoencoder before it in latent space."""
        latent = self.space == "latent"
        autoencoder = AutoencoderConfig(
            dims=facts.grid.dims,
            channels=facts.channels,
            factor=self.latent_factor,
            size=self.network,
        )
        config = NetworkConfig(
            dims=facts.grid.dims,
            channels=autoencoder.latent_channels if latent else facts.channels,
            condition_channels=facts.num_classes * self._coarser**facts.grid.dims + 1,
            conditioning=self.conditioning,
            size=self.network,
            stem=1 if latent else self.stem,
        )
        if latent:
            _check_window(config, self.latent_factor, "latent_factor", facts)
        else:
            _check_window(config, self.stem, "stem", facts)

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
            return images, condition(masks, samples.positions, facts.num_classes, self._coarser)

        if not latent:
            return {"image": NetworkSpec(config=config, example=example)}
        return {
            "autoencoder": NetworkSpec(
                config=autoencoder,
                example=lambda samples, generator: (example(samples, generator)[0], None),
                loss=lambda fitted: reconstruction,
                finish=normalise,
            ),
            "image": NetworkSpec(
                config=config,
                example=example,
                loss=lambda fitted: flow_matching_in(fitted["autoencoder"]),
            ),
        }

    def _label_spec(self, facts: DatasetFacts) -> dict[str, NetworkSpec]:
        """The denoiser of label maps, if masks are generated."""
        if self.masks == "warped":
            return {}
        read_asks(self.ask, _foreground(facts))
        label = label_spec(
            facts, coding=self.coding, size=self.label_network, stem=self.label_stem,
            warp=self.label_warp,
        )  # fmt: skip
        assert isinstance(label.config, NetworkConfig)
        _check_window(label.config, self.label_stem, "label_stem", facts)
        return {"label": label}

    @property
    def _coarser(self) -> int:
        """How much coarser than the image the denoiser's grid is."""
        return self.latent_factor if self.space == "latent" else 1

    @property
    def evaluations(self) -> int:
        """Denoiser passes for one image and its mask; guidance counts twice."""
        walk = descend(self.num_steps, shift=self.shift, solver=self.solver)
        image = walk.evaluations * (1 if self.guidance == 1 else 2)
        return image + (0 if self.masks == "warped" else self.label_steps)

    @property
    def label_walk(self) -> Walk:
        """The sampler's walk for label maps."""
        return descend(self.label_steps, solver="multistep")

    def generate(
        self,
        networks: Mapping[str, Any],
        orders: Iterable[tuple[Case, int]],
        facts: DatasetFacts,
        *,
        seed: int,
    ) -> Iterator[Case]:
        """One new case on the window for each order, in their order.

        Args:
            networks: {"image": the fitted denoiser}, "label" if masks are generated, and
                "autoencoder" in latent space.
            orders: labelled cases on the canvas of `facts.grid`, each with the number of the copy
                to make; read lazily.
            facts: those that the networks were fitted with.
            seed: with the case and the copy it seeds every draw.

        Raises:
            AugmintError: for a case without a mask.
        """
        network, latent = networks["image"], self.space == "latent"
        device = next(network.parameters()).device
        walk = descend(self.num_steps, shift=self.shift, solver=self.solver)

        def run(jobs: Sequence[Job]) -> Tensor:
            noise, given = (torch.stack([getattr(j, n) for j in jobs]) for n in ("noise", "given"))
            denoise = with_guidance(network, given.to(device), scale=self.guidance)
            with autocast(device, "auto"):
                x_0 = sample(lambda x, t: denoise(x, t).float(), noise.to(device), walk)
                return networks["autoencoder"].decode(x_0) if latent else x_0.clamp(-1, 1)

        started: dict[tuple[object, ...], Case] = {}

        def jobs() -> Iterator[Job]:
            for new, generator in self._with_masks(networks, orders, facts, seed, str(walk)):
                assert new.provenance is not None
                key = (new.provenance.source_case, new.provenance.copy)
                started[key] = new
                yield from self._jobs(new, facts, generator, key, network.config.channels)

        done: list[Tensor] = []
        batch = images_at_once(self.batch_size, facts)
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

    def _with_masks(
        self,
        networks: Mapping[str, Any],
        orders: Iterable[tuple[Case, int]],
        facts: DatasetFacts,
        seed: int,
        walk: str,
    ) -> Iterator[tuple[Case, torch.Generator]]:
        """The new cases with their masks and empty images, and what draws their noise."""
        for group in in_groups(orders, 1 if self.masks == "warped" else self.batch_size):
            asked = [o for o in group if self._generates(o[1])]
            stacks: Iterator[Stack] = iter(())
            if asked:
                stacks = iter(
                    draw_stacks(
                        networks["label"], asked, facts, self.label_walk, coding=self.coding,
                        asks=read_asks(self.ask, _foreground(facts)), batch_size=self.batch_size,
                        seed=seed,
                    )
                )  # fmt: skip
            for case, copy in group:
                generator = generator_for(seed, case.case_id, copy)
                details: dict[str, float | str]
                passes = self.evaluations
                if self._generates(copy):
                    stack = next(stacks)
                    new = _as_drawn(case, stack)
                    details = {"masks": "generated", "label_evaluations": self.label_steps}
                    details |= {f"asked_{label}": q for label, q in stack.asked.items()}
                else:
                    warp = WarpRange().scaled(self.warp)
                    window, classes = facts.grid.window, facts.num_classes
                    new = warp_case(case, warp, window, classes, generator, blank=True)
                    details = {}
                    if self.masks == "both":
                        details, passes = {"masks": "warped"}, passes - self.label_steps
                origin = Provenance(
                    source_case=case.case_id,
                    method="mask_to_image",
                    seed=seed,
                    copy=copy,
                    walk=walk,
                    evaluations=passes,
                    details=details,
                )
                name = f"{case.case_id}__s{seed}_c{copy}"
                yield replace(new, case_id=name, provenance=origin), generator

    def _generates(self, copy: int) -> bool:
        return self.masks == "generated" or (self.masks == "both" and copy % 2 == 1)

    def _jobs(
        self,
        new: Case,
        facts: DatasetFacts,
        generator: torch.Generator,
        key: tuple[object, ...],
        channels: int,
    ) -> Iterator[Job]:
        assert new.mask is not None
        by_slice = facts.grid.dims == 2 and new.dims == 3
        masks = new.mask.movedim(-1, 0) if by_slice else new.mask[None]
        positions = torch.tensor([slice_position(z, len(masks)) for z in range(len(masks))])
        given = condition(masks, positions, facts.num_classes, self._coarser)
        shape = (channels, *given.shape[2:])
        common = torch.randn(shape, generator=generator)
        for one in given:
            own = torch.randn(shape, generator=generator)
            noise = self.shared_noise**0.5 * common + (1 - self.shared_noise) ** 0.5 * own
            yield Job(noise, one, key)


def _as_drawn(case: Case, stack: Stack) -> Case:
    """The case with a drawn mask and an empty image."""
    shape = tuple(stack.mask.shape)
    return replace(
        case,
        image=torch.zeros(len(case.image), *shape),
        mask=stack.mask,
        grid=replace(case.grid, shape=shape),
    )


def _foreground(facts: DatasetFacts) -> list[str]:
    return [name for name, index in facts.labels.items() if index]


def _check_window(config: NetworkConfig, factor: int, name: str, facts: DatasetFacts) -> None:
    multiple = config.multiple // config.stem * factor
    if any(n % multiple for n in facts.grid.window):
        raise AugmintError(
            f"a {config.size} network with {name} {factor} needs sizes that are multiples of "
            f"{multiple}, the working window is {facts.grid.window}; use a smaller network "
            f"or {name}, or another preset"
        )


def condition(masks: Tensor, positions: Tensor, num_classes: int, factor: int = 1) -> Tensor:
    """One-hot classes, background included, and a plane of the slice's position.

    All zeros is no valid label map, and so it can stand for a dropped condition. A coarser grid is
    told all the same: its channels are the pixels of each cell, class by class, and so a thin wall
    is not lost.

    Args:
        masks: (B, *spatial) int64.
        positions: (B,) in [-1, 1].
        num_classes: background included.
        factor: How much coarser the denoiser's grid is, by which the sizes can be divided.

    Returns:
        (B, num_classes * factor^d + 1, *spatial / factor) float32.
    """
    one_hot = torch.nn.functional.one_hot(masks.long(), num_classes).movedim(-1, 1).float()
    one_hot = unshuffle(one_hot, factor)
    plane = positions.reshape(-1, *[1] * (one_hot.ndim - 1)).expand(-1, 1, *one_hot.shape[2:])
    return torch.cat([one_hot, plane], 1)
