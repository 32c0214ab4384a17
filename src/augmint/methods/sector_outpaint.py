"""New fields of view for ultrasound sectors: geometry in polar coordinates, new tissue painted.

Source: Van De Vyver et al., Sci Rep 2025 (the changes, outpainting with RePaint); Lugmayr et al.,
CVPR 2022 (RePaint); Saharia et al., SIGGRAPH 2022 (a network conditioned on the known pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from augmint.case import Case, Provenance
from augmint.diffusion.networks import Denoiser, NetworkConfig, Size
from augmint.diffusion.sampling import (
    Job,
    Noise,
    Solver,
    Walk,
    descend,
    descend_with_jumps,
    generator_for,
    keep_known,
    sample,
    sample_jobs,
)
from augmint.errors import AugmintError
from augmint.imaging.sector import (
    Sector,
    SectorChange,
    SectorRange,
    View,
    before_change,
    change_view,
)
from augmint.imaging.sector_fill import continued, joined, mirrored, speckled
from augmint.imaging.sector_fit import fit_sector
from augmint.imaging.sector_scene import (
    Scene,
    condition,
    frame_of,
    geometry,
    moved,
    sector_of,
    shown_at,
    shown_smaller,
)
from augmint.imaging.working import WorkingGrid, working_plane
from augmint.methods.protocol import DatasetFacts, NetworkSpec, Samples
from augmint.precision import autocast

Filler = Literal["conditional", "repaint", "black", "mirror", "speckle"]
# How often a change is drawn again before the last one is weakened.
DRAWS = 30


@dataclass(frozen=True)
class SectorOutpaint:
    """Changed fields of view of real ultrasound frames; a diffusion model paints what is new.

    With one seed all fillers draw the same changes, so that a comparison of two shows what the
    filling adds to the geometry.

    Attributes:
        filler: `conditional` (a network that sees what was recorded, the new sector and the
            moved labels), `repaint` (an unconditional network, the recorded pixels re-imposed at
            every step), or without a fit `black`, `mirror` or `speckle`.
        depth: The sector's depth grows by up to this share.
        tilt: Largest tilt of the probe to either side, degrees.
        narrow: Smallest factor of the angle between the sides.
        wide: Largest factor of it.
        shift: Largest shift of the apex, as a share of the depth.
        probability: Of each of these four kinds of change.
        strength: Scales all ranges.
        fixed: Changes as large as their ranges allow instead of random within them.
        widest: Largest angle between the sides of a new sector, degrees.
        least_kept: Least share of the labelled pixels that must stay in view.
        margin: Pixels along the recorded sector's edges that are not trusted.
        band: Pixels over which recorded tissue passes into painted tissue; a mean of both is
            smoother than either, so 0 is harder to find.
        network: Size of the denoiser: tiny, small, medium or large.
        stem: Pixel-unshuffle factor in front of it.
        num_steps: Evaluations of `conditional`.
        solver: Of `conditional`: euler, heun (twice the evaluations) or multistep.
        time_power: Of `conditional`: above 1, each step is shorter than the one before. The last
            ones make the speckle, and one long last step leaves a mean that is smooth.
        repaint_steps: Steps of `repaint`; the published schedule has 250.
        jump_length: Of `repaint`; published 10.
        num_resamples: Of `repaint`; published 10.
        batch_size: Images per sampling batch; part of the signature under which bytes repeat.
    """

    whole_frames: ClassVar[bool] = True
    keeps_pixels: ClassVar[bool] = True

    filler: Filler = "conditional"
    depth: float = 0.58
    tilt: float = 30.0
    narrow: float = 0.5
    wide: float = 1.5
    shift: float = 0.19
    probability: float = 0.5
    strength: float = 1.0
    fixed: bool = False
    widest: float = 100.0
    least_kept: float = 0.8
    margin: float = 1.0
    band: int = 0
    network: Size = "small"
    stem: int = 2
    num_steps: int = 6
    solver: Solver = "multistep"
    time_power: float = 2.0
    repaint_steps: int = 50
    jump_length: int = 5
    num_resamples: int = 5
    batch_size: int = 16

    def __post_init__(self) -> None:
        rules = {
            "filler": (self.filler in Filler.__args__, f"one of {', '.join(Filler.__args__)}"),  # type: ignore[attr-defined]
            "depth": (0 <= self.depth <= 3, "from 0 to 3"),
            "tilt": (0 <= self.tilt <= 60, "from 0 to 60 degrees"),
            "narrow": (0 < self.narrow <= 1, "above 0, at most 1"),
            "wide": (1 <= self.wide <= 4, "from 1 to 4"),
            "shift": (0 <= self.shift <= 0.5, "from 0 to 0.5"),
            "probability": (0 < self.probability <= 1, "above 0, at most 1"),
            "strength": (0 < self.strength <= 2 and 1 - (1 - self.narrow) * self.strength > 0,
                         "above 0, at most 2, and must leave the narrowest sector an angle"),
            "widest": (10 <= self.widest <= 170, "from 10 to 170 degrees"),
            "least_kept": (0 <= self.least_kept <= 1, "from 0 to 1"),
            "margin": (0 <= self.margin <= 8, "from 0 to 8"),
            "band": (0 <= self.band <= 4, "from 0 to 4"),
            "stem": (self.stem >= 1, "1 or more"),
            "num_steps": (self.num_steps >= 1, "1 or more"),
            "time_power": (self.time_power > 0, "above 0"),
            "jump_length": (1 <= self.jump_length < self.repaint_steps,
                            "1 or more and below repaint_steps"),
            "num_resamples": (self.num_resamples >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
        }  # fmt: skip
        for name, (holds, rule) in rules.items():
            if not holds:
                raise AugmintError(f"sector_outpaint: {name} is {rule}; got {getattr(self, name)}")
        if not (self.depth or self.tilt or self.shift or self.narrow < 1 or self.wide > 1):
            raise AugmintError("sector_outpaint: all ranges are empty, so nothing would change")

    @property
    def ranges(self) -> SectorRange:
        """Of the random changes."""
        plain = SectorRange(
            self.depth, self.tilt, self.narrow, self.wide, self.shift, self.probability, self.fixed
        )
        return plain.scaled(self.strength)

    @cached_property
    def walk(self) -> Walk | None:
        """The sampler's walk; None for fillers without a network."""
        if self.filler == "conditional":
            return descend(self.num_steps, power=self.time_power, solver=self.solver)
        if self.filler == "repaint":
            return descend_with_jumps(
                self.repaint_steps, jump_length=self.jump_length, num_resamples=self.num_resamples
            )
        return None

    @property
    def evaluations(self) -> int:
        """Denoiser passes for one image."""
        return self.walk.evaluations if self.walk else 0

    def networks(self, facts: DatasetFacts) -> Mapping[str, NetworkSpec]:
        """One denoiser of whole frames; of `conditional` given what `condition` lists."""
        _check_facts(facts)
        if self.walk is None:
            return {}
        given = facts.channels + 3 + facts.num_classes if self.filler == "conditional" else 0
        config = NetworkConfig(
            dims=2,
            channels=facts.channels,
            condition_channels=given,
            size=self.network,
            stem=self.stem,
        )
        if any(n % config.multiple for n in facts.grid.window):
            raise AugmintError(
                f"a {self.network} network with stem {self.stem} needs sizes that are multiples of "
                f"{config.multiple}, the working window is {facts.grid.window}; use a smaller "
                "network or stem, or another preset"
            )
        sectors: dict[str, Sector] = {}

        def example(samples: Samples, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
            targets, conditions = [], []
            for image, mask, name in zip(samples.images, samples.masks, samples.case_ids):
                if name not in sectors:
                    sectors[name] = find_sector(image, name, facts)
                target, given = self._example(image, mask, sectors[name], facts, generator)
                targets.append(target)
                conditions.append(given)
            return torch.stack(targets), torch.stack(
                conditions
            ) if config.condition_channels else None

        return {self.filler: NetworkSpec(config=config, example=example)}

    def _example(
        self,
        image: Tensor,
        mask: Tensor,
        sector: Sector,
        facts: DatasetFacts,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """A real frame and a part of it taken for recorded.

        `conditional` is shown its frames smaller half of the time, since a deeper view shows the
        tissue smaller. An unconditional network would learn to end sectors early from that, and
        paint black.
        """
        shape = image.shape[1:]
        away = 1 + self.ranges.depth * float(torch.rand(1, generator=generator))
        smaller = self.filler == "conditional" and bool(torch.rand(1, generator=generator) < 0.5)
        plain = View(sector, sector, 1.0, sector, 0.0)
        view = shown_smaller(sector, 1 / away) if smaller else plain
        target, labels = moved(image, mask, view, facts.num_classes)
        target = joined(target, target, view.sector.mask(shape), view.sector.mask(shape), 0)
        old = before_change(view.sector, self._draw(generator))
        visible = view.sector.mask(shape)
        known = visible & old.mask(shape, margin=self.margin)
        # As new cases have them: annotations may reach beyond the sector.
        labels = torch.where(visible, labels, 0)
        return target, condition(target, known, view.sector, labels, facts.num_classes)

    def _draw(self, generator: torch.Generator, most: float = float("inf")) -> SectorChange:
        """A change that is one; its factor of the width is `most` at most."""
        change = SectorChange()
        while change == SectorChange():
            drawn = self.ranges.draw(generator)
            change = replace(drawn, width=min(drawn.width, most))
        return change

    def problem(self, case: Case) -> str:
        """Why a stored case cannot be used; empty if it can."""
        image = case.image[0]
        if case.dims == 3:
            axis = case.grid.slice_axis
            if image.shape[axis] > 1:
                return "a volume or a sequence, where each frame must be a case of its own"
            image = image.select(axis, 0).T
        reason = fit_sector(image).reason
        return reason and f"no sector, {reason}"

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
            networks: {filler: the fitted denoiser}, empty for a filler without one.
            orders: labelled frames on the canvas of `facts.grid`, each with the number of the copy
                to make; read lazily.
            facts: those that the network was fitted with.
            seed: with the case and the copy it seeds every draw; the change is the same for all
                fillers.

        Raises:
            AugmintError: for a case without a mask or without a fan.
        """
        _check_facts(facts)
        return self.fill(networks, self._scenes(orders, facts, seed))

    def fill(self, networks: Mapping[str, Denoiser], scenes: Iterable[Scene]) -> Iterator[Case]:
        """The scenes' cases with what was not recorded filled, in their order.

        Args:
            networks: As for `generate`.
            scenes: Read lazily, no more than a batch at a time.
        """
        if self.walk is None:
            for scene in scenes:
                yield scene.finished(self._plain(scene), 0 if self.filler == "black" else self.band)
            return
        started: dict[tuple[object, ...], Scene] = {}

        def jobs() -> Iterator[Job]:
            for scene in scenes:
                key = (scene.new.case_id, self.filler)
                started[key] = scene
                noise = torch.randn(scene.recorded.shape, generator=generator_for(*key, "start"))
                yield Job(noise, scene.given, key)

        run = self._sampler(networks[self.filler])
        for job, image in sample_jobs(jobs(), run, batch_size=self.batch_size):
            yield started.pop(job.key).finished(image, self.band)

    def _sampler(self, network: Denoiser) -> Callable[[Sequence[Job]], Tensor]:
        """Jobs to painted frames."""
        device = next(network.parameters()).device
        walk = self.walk
        assert walk is not None

        def run(jobs: Sequence[Job]) -> Tensor:
            noise, given = (
                torch.stack([getattr(j, n) for j in jobs]).to(device) for n in ("noise", "given")
            )
            fresh, guides = None, []
            if self.filler == "repaint":
                fresh = Noise([generator_for(*j.key, "walk") for j in jobs])
                guides = [keep_known(given[:, :-1], given[:, -1:], fresh)]

            def denoise(x: Tensor, t: Tensor) -> Tensor:
                seen = given if self.filler == "conditional" else None
                return network(x, t, seen).float()

            with autocast(device, "auto"):
                painted = sample(denoise, noise, walk, noise=fresh, guides=guides)
            return painted.clamp(-1, 1)

        return run

    def _plain(self, scene: Scene) -> Tensor:
        """What stands in the new part without a network."""
        if self.filler == "mirror":
            return mirrored(scene.source.image, scene.view, margin=self.margin)
        if self.filler == "speckle":
            return speckled(scene.source.image, scene.view, scene.generator)
        return torch.full_like(scene.recorded, -1.0)

    def _scenes(
        self, orders: Iterable[tuple[Case, int]], facts: DatasetFacts, seed: int
    ) -> Iterator[Scene]:
        """The changed view of each order; the copies of a case share the search for its sector."""
        found: tuple[str, Sector] | None = None
        for case, copy in orders:
            if case.mask is None:
                raise AugmintError(
                    f"case {case.case_id!r} has no mask; image and mask move together here, so "
                    "give labelled cases"
                )
            if case.dims == 3 and case.image.shape[-1] > 1:
                raise AugmintError(
                    f"case {case.case_id!r} is a volume or a sequence; sector_outpaint works on "
                    "frames, so store each annotated frame as a case of its own"
                )
            if case.frame and any(f > c for f, c in zip(case.frame, facts.grid.canvas)):
                raise AugmintError(
                    f"case {case.case_id!r} covers {case.frame} working pixels, more than the "
                    f"canvas {facts.grid.canvas} of the run; its sector would be cut, so fit on "
                    "data that hold the largest frames"
                )
            single = case.dims == 3
            if single:
                assert case.mask is not None
                case = replace(
                    case, image=case.image[..., 0], mask=case.mask[..., 0], grid=case.grid.plane()
                )
            if found is None or found[0] != case.case_id:
                found = case.case_id, find_sector(case.image, case.case_id, facts)
            yield self._scene(case, found[1], copy, facts, seed, single=single)

    def _scene(
        self, case: Case, sector: Sector, copy: int, facts: DatasetFacts, seed: int, *, single: bool
    ) -> Scene:
        """The changed view of a case: what is known, what is new, what was labelled."""
        assert case.mask is not None
        generator = generator_for(seed, case.case_id, copy)
        shape = case.image.shape[1:]
        view, draws, weaker, change = self._view(case, sector, generator)
        image, mask = moved(case.image, case.mask, view, facts.num_classes)
        visible, known = view.sector.mask(shape), view.known(shape, margin=self.margin)
        labelled = mask > 0
        outside = _share(labelled & ~visible, labelled)
        before = case.mask > 0
        details: dict[str, float | str] = {
            "filler": self.filler,
            **asdict(change),
            "scale": view.scale,
            "new": _share(visible & ~known, visible),
            "outside": outside,
            "outside_added": outside - _share(before & ~sector.mask(shape), before),
            "draws": draws,
            "weakened": weaker,
        }
        shown = torch.where(visible, mask, 0)
        for name, index in facts.labels.items():
            if index:
                there = shown == index
                details[f"new_{name}"] = _share(there & ~known, there)
        if self.filler in ("repaint", "mirror", "speckle"):
            # Nothing tells these fillers what the label says, so it cannot stay there.
            shown = torch.where(known, shown, 0)
        new = replace(
            case,
            mask=shown,
            case_id=f"{case.case_id}__s{seed}_c{copy}",
            provenance=Provenance(
                source_case=case.case_id,
                method="sector_outpaint",
                seed=seed,
                copy=copy,
                walk=str(self.walk) if self.walk else "none",
                evaluations=self.evaluations,
                details=details | geometry(view.sector),
            ),
        )
        given = self._given(image, shown, known, view.sector, facts)
        return Scene(case, new, view, image, known, visible, given, generator, single)

    def _given(
        self, image: Tensor, mask: Tensor, known: Tensor, sector: Sector, facts: DatasetFacts
    ) -> Tensor:
        """What the filler is given: see `condition`; `repaint` known pixels and which they are."""
        if self.filler == "conditional":
            return condition(image, known, sector, mask, facts.num_classes)
        # Outside the sector black is known, so that the network cannot invent another sector.
        sure = known | ~sector.mask(known.shape)
        return torch.cat([torch.where(known, image, -1.0), sure[None].float()])

    def pretend(self, case: Case, facts: DatasetFacts, *, seed: int) -> Scene:
        """A part of a real frame taken for not recorded: a scene whose true filling is known.

        The new case keeps the frame's own sector and mask.

        Args:
            case: A labelled frame on the canvas.
            facts: Of its dataset.
            seed: With the case it seeds the change that could have led to its sector.

        Raises:
            AugmintError: if the ranges allow no change that would hide anything.
        """
        assert case.mask is not None
        generator = generator_for(seed, case.case_id, "pretend")
        sector = find_sector(case.image, case.case_id, facts)
        for _ in range(DRAWS):
            # Without a shift of the apex the old sector can be cut to what the new one shows.
            old = before_change(sector, replace(self._draw(generator), down=0.0, across=0.0))
            old = replace(
                old,
                left=max(old.left, sector.left),
                right=min(old.right, sector.right),
                far=min(old.far, sector.far),
            )
            if old.far < 0.97 * sector.far or old.width < 0.97 * sector.width:
                break
        else:
            raise AugmintError(
                f"case {case.case_id!r}: {DRAWS} changes of depth, tilt and width hid no part of "
                "it; widen these ranges"
            )
        visible = sector.mask(case.image.shape[1:])
        known = visible & old.mask(visible.shape, margin=self.margin)
        given = self._given(case.image, case.mask, known, sector, facts)
        view = View(sector, old, 1.0, old, 0.0)
        return Scene(case, case, view, case.image, known, visible, given, generator, False)

    def _view(
        self, case: Case, sector: Sector, generator: torch.Generator
    ) -> tuple[View, int, float, SectorChange]:
        """A change that keeps enough of the labels in view, drawn again or weakened until it does.

        Returns:
            The view, the number of draws, how much the last one was weakened (1 for not at all)
            and the change.
        """
        frame = frame_of(case)
        assert case.mask is not None
        points = (case.mask > 0).nonzero().float()

        def kept(view: View) -> float:
            if not len(points):
                return 1.0
            rows, columns = shown_at(view, points[:, 0], points[:, 1])
            return float((view.sector.inside(rows, columns) >= 0).float().mean())

        # What the old sector shows of the labels is all that can be kept.
        least = self.least_kept * kept(View(sector, sector, 1.0, sector, 0.0))
        most = max(self.widest, sector.width) / sector.width
        if most == 1 and not (self.depth or self.tilt or self.shift or self.narrow < 1):
            raise AugmintError(
                f"case {case.case_id!r}: its sector of {sector.width:.0f} degrees is not widened "
                f"beyond {self.widest:g}, and no other change is in range; raise widest"
            )
        for draw in range(1, DRAWS + 1):
            change = self._draw(generator, most)
            view = change_view(sector, change, frame, widest=self.widest)
            if kept(view) >= least:
                return view, draw, 1.0, change
        weaker = 1.0
        while kept(view) < least and weaker > 1e-4:
            weaker *= 0.8
            view = change_view(sector, change.weaker(weaker), frame, widest=self.widest)
        return view, DRAWS, weaker, change.weaker(weaker)

    def to_native(self, new: Case, source: Case, grid: WorkingGrid) -> Case:
        """The new case on its source's grid, its sector as sharp there as the pixels allow.

        Args:
            new: Made by `generate`, on the working window.
            source: The real case as stored.
            grid: The working grid.
        """
        assert new.provenance is not None
        details = dict(new.provenance.details)
        here = sector_of(details)
        single = new.image.ndim == 4
        image = new.image[..., 0] if single else new.image
        # Black pixels beside the sector would darken its edge in steps.
        image = continued(image, here.mask(image.shape[1:]))
        native = grid.to_native(
            replace(new, image=image[..., None] if single else image), source.grid
        )
        assert native.mask is not None
        plane, covered = working_plane(source.grid), grid.resampled_shape(source.grid)
        start = [w // 2 - c // 2 for w, c in zip(covered, grid.canvas)]
        scale = [n / w for n, w in zip(plane.shape, covered)]
        sector = here.moved((1.0, 1.0), (float(start[0]), float(start[1])))
        sector = sector.moved((scale[0], scale[1]))
        visible = sector.mask(plane.shape)
        if source.grid.dims == 3:
            visible = visible.T.unsqueeze(source.grid.slice_axis)
        return replace(
            native,
            image=torch.where(visible, native.image, torch.full_like(native.image, -1.0)),
            mask=torch.where(visible, native.mask, 0),
            provenance=replace(new.provenance, details=details | geometry(sector)),
        )


def find_sector(image: Tensor, name: str, facts: DatasetFacts) -> Sector:
    """The fan of a frame (C, H, W) on the working canvas.

    Raises:
        AugmintError: if there is none.
    """
    fit = fit_sector(image[0], aspect=1.0 if facts.grid.spacing_mm is not None else None)
    if fit.sector is None:
        raise AugmintError(
            f"case {name!r} shows no sector: {fit.reason}; sector_outpaint needs frames with their "
            "whole fan, so leave out those of linear probes and cropped ones"
        )
    return fit.sector


def _share(part: Tensor, whole: Tensor) -> float:
    total = int(whole.sum())
    return int(part.sum()) / total if total else 0.0


def _check_facts(facts: DatasetFacts) -> None:
    """The method needs whole frames.

    Raises:
        AugmintError: for volumes, or where the working window is a part of the frames.
    """
    if facts.grid.dims != 2:
        raise AugmintError("sector_outpaint works on frames; use --dims 2")
    if facts.grid.window != facts.grid.canvas:
        raise AugmintError(
            f"sector_outpaint needs whole frames, the working window {facts.grid.window} is a part "
            f"of the canvas {facts.grid.canvas}; use that for the window, too"
        )
