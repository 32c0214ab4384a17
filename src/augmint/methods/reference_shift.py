"""Images of another scanner shifted towards those that the network was fitted on, anatomy kept.

One network of source images serves four translators, each a walk and a guide of the one sampling
loop; three more need no network and are what the four must beat. All change what an image looks
like and leave where things lie, so that a mask, or a reader's eye, still fits. An eighth, `styles`,
gives the source's images many looks to train on.

Source: Wong et al., ICONIP 2025 (reference-guided shift; its abstract alone is public); the
translators are those of Meng et al., ICLR 2022 (SDEdit), Choi et al., ICCV 2021 (ILVR), Su et al.,
ICLR 2023 (DDIB) and Zhao et al., NeurIPS 2022 (EGSDE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from augmint.case import Case, Provenance
from augmint.diffusion.networks import NetworkConfig, Size
from augmint.diffusion.sampling import Solver, descend
from augmint.errors import AugmintError
from augmint.imaging.changes import mean_curve, native_change, same_curve
from augmint.imaging.warps import WarpRange, random_warp, warp_image, warp_mask
from augmint.imaging.working import WorkingGrid
from augmint.methods.protocol import DatasetFacts, NetworkSpec, Samples, in_groups
from augmint.methods.shift_planes import (
    FOREIGN,
    SOURCE,
    by_patient,
    condition,
    denoising_errors,
    on_window,
    planes_of,
    with_planes,
)
from augmint.methods.shift_strength import LEVELS, Calibration, Verdict
from augmint.methods.shift_walk import (
    CURVES,
    LEARNED,
    PLAIN,
    STYLES,
    TRANSLATORS,
    Curve,
    Shift,
    Translator,
    evaluations_of_walk,
    shifted_planes,
)

# How often the mask is hidden from the network while it is fitted: at a new centre nobody has one.
HIDE_MASK = 0.5


@dataclass(frozen=True)
class ReferenceShift:
    """Reference images as the source's scanner would have taken them, anatomy kept.

    Attributes:
        translator: `sdedit` (noised to the strength's level and denoised), `ilvr` (likewise, its
            low frequencies held to the reference's), `inversion` (integrated up to that level and
            back, upwards as the foreign scanner's where the fit saw unlabelled images of it),
            `energy` (SDEdit that turns away from the foreign scanner; its fit needs such images),
            or without a network `histogram`, `fourier` or `bezier`. `styles` bends grey levels by a
            random rising curve, another for each patient and copy: to train on, not to adapt with.
        curve: What `adapt` does to a foreign patient's grey levels before a network sees them:
            `none`, or the curve of `histogram` or `bezier`. Where that alone makes them look like
            the source's, nothing more is done. Both curves rise, so that no contour of equal
            brightness moves and `movement` need not bound them. With `strength` set every patient
            has the curve and the walk.
        strength: Level that the walk starts from, or share of what is changed without a network; 0
            takes what was calibrated.
        movement: Pixels that contours may move on average on source images; it bounds what
            strength is chosen.
        num_steps: Of the walk; `inversion` walks it twice, `energy` evaluates twice a step.
        solver: euler, heun or multistep.
        factor: Of `ilvr` and `energy`: frequencies below 1 / factor of the sampling rate are held.
        repulsion: Of `energy`: how strongly it turns away from the foreign scanner.
        attraction: Of `energy`: how strongly low frequencies are held to the reference's.
        use_masks: Show the network the masks of references that have one, when a synthetic dataset
            is generated.
        network: Size of the denoiser: tiny, small, medium or large.
        stem: Pixel-unshuffle factor in front of it.
        fit_warp: How far image and mask are warped together while fitting.
        batch_size: Images per sampling batch, volumes count an eighth of it; part of the signature
            under which bytes repeat.
    """

    keeps_pixels: ClassVar[bool] = True
    unlabelled_are: ClassVar[str] = (
        "another scanner's than the source's; leave out images of the source without masks"
    )
    loose: ClassVar[tuple[str, ...]] = (
        "translator", "curve", "strength", "movement", "use_masks", "batch_size",
    )  # fmt: skip

    translator: Translator = "sdedit"
    curve: Curve = "none"
    strength: float = 0.0
    movement: float = 0.5
    num_steps: int = 6
    solver: Solver = "multistep"
    factor: int = 8
    repulsion: float = 1.0
    attraction: float = 0.5
    use_masks: bool = True
    network: Size = "small"
    stem: int = 2
    fit_warp: float = 0.5
    batch_size: int = 16

    def __post_init__(self) -> None:
        rules = {
            "translator": (self.translator in TRANSLATORS, f"one of {', '.join(TRANSLATORS)}"),
            "curve": (self.curve in ("none", *CURVES), f"none or one of {', '.join(CURVES)}"),
            "strength": (0 <= self.strength <= 1, "from 0 to 1"),
            "movement": (self.movement > 0, "above 0"),
            "num_steps": (self.num_steps >= 1, "1 or more"),
            "factor": (self.factor >= 2, "2 or more"),
            "repulsion": (self.repulsion >= 0, "0 or more"),
            "attraction": (0 <= self.attraction <= 1, "from 0 to 1"),
            "stem": (self.stem >= 1, "1 or more"),
            "fit_warp": (self.fit_warp >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise AugmintError(f"reference_shift: {name} is {rule}; got {getattr(self, name)}")
        if self.curve != "none" and not self.learned:
            raise AugmintError(
                f"reference_shift: curve={self.curve} goes before the walk of a network, and "
                f"{self.translator} has none; set curve=none, or a translator with a network: "
                f"{', '.join(LEARNED)}"
            )

    @property
    def calibrated(self) -> bool:
        """Whether the fit has to learn how far images may be shifted."""
        return self.translator != STYLES

    @property
    def learned(self) -> bool:
        """Whether the translator needs the network."""
        return self.translator in LEARNED

    def networks(self, facts: DatasetFacts) -> Mapping[str, NetworkSpec]:
        """A denoiser of source images, told what is known of mask, slice position and scanner."""
        if not self.learned:
            return {}
        if self.translator == "energy" and not facts.unlabelled:
            raise AugmintError(
                "reference_shift: energy turns away from another scanner, whose images the fit "
                "never saw; fit with --unlabelled TARGET, or set another translator"
            )
        config = NetworkConfig(
            dims=facts.grid.dims,
            channels=facts.channels,
            condition_channels=facts.num_classes + 2,
            size=self.network,
            stem=self.stem,
        )

        def example(samples: Samples, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            count, canvas = len(samples.images), samples.images.shape[2:]
            grid = random_warp(
                WarpRange().scaled(self.fit_warp), count, canvas, facts.grid.window, generator
            )
            masks = warp_mask(samples.masks, grid, facts.num_classes)
            known = torch.ones(count).bool() if samples.labelled is None else samples.labelled
            shown = known & (torch.rand(count, generator=generator) >= HIDE_MASK)
            origin = torch.where(known, SOURCE, FOREIGN)
            given = condition(masks, shown, samples.positions, origin, facts.num_classes)
            return warp_image(samples.images, grid), given

        return {"image": NetworkSpec(config=config, example=example, keeps_unlabelled=True)}

    def generate(
        self,
        networks: Mapping[str, Any],
        orders: Iterable[tuple[Case, int]],
        facts: DatasetFacts,
        *,
        seed: int,
    ) -> Iterator[Case]:
        """Source-like images of references, masks kept; one for each order, in their order.

        Every image is shifted, by `strength` or as far as contours stay; by `styles` all the way.

        Args:
            networks: {"image": the denoiser, "calibration": of the fit}.
            orders: labelled cases on the canvas of `facts.grid`, each with the number of the copy.
            facts: those that the network was fitted with.
            seed: with the patient and the copy it seeds every draw.

        Raises:
            AugmintError: if no strength was calibrated or set.
        """
        largest = self._largest(networks)
        for group in in_groups(orders, self.batch_size):
            shifts = [Shift(case, copy, largest) for case, copy in group]
            yield from self.translate(networks, shifts, facts, seed=seed, masks=self.use_masks)

    def adapt(
        self, networks: Mapping[str, Any], cases: Iterable[Case], facts: DatasetFacts, *,
        seed: int, copies: int = 1,
    ) -> Iterator[list[Case]]:  # fmt: skip
        """Images of another scanner shifted towards the source, each as far as it needs.

        A patient's images come from one scanner and are judged and shifted alike; those of one
        who looks like the source come back as they were. Masks are never looked at.

        Args:
            networks: {"image": the denoiser, "calibration": of the fit}.
            cases: On the canvas of `facts.grid`, those of a patient one after the other.
            facts: Those that the network was fitted with.
            seed: With the patient and the copy it seeds every draw.
            copies: Translations of each case, under other noise.

        Yields:
            The translations of a case, in the order of the cases.

        Raises:
            AugmintError: if no strength was calibrated or set, or for `styles`.
        """
        if self.translator == STYLES:
            raise AugmintError(
                "reference_shift: styles makes looks that no scanner has, to train on; set another "
                "translator to adapt with"
            )
        for group in _whole_patients(cases, self.batch_size):
            windows = [on_window(replace(case, mask=None), facts) for case in group]
            plans = self._plans(networks, windows, facts)
            shifts = [
                replace(plan, copy=copy)
                for plan in plans
                for copy in range(copies if plan.random else 1)
            ]
            made = self.translate(networks, shifts, facts, seed=seed, masks=False)
            for plan in plans:
                yield list(islice(made, copies if plan.random else 1))

    def _plans(
        self, networks: Mapping[str, Any], windows: Sequence[Case], facts: DatasetFacts
    ) -> list[Shift]:
        """What is done to each case of whole patients, in their order."""
        calibration: Calibration = networks["calibration"]
        largest, style = self._largest(networks), calibration.style
        if not self.learned:
            changed = _together(windows, facts, lambda x: PLAIN[self.translator](x, style, largest))
            return [Shift(case, 0, largest, ready=True) for case in changed]
        bent = "" if self.curve == "none" else self.curve

        def bend(planes: Tensor) -> Tensor:
            return CURVES[self.curve](planes, style, 1.0)

        if self.strength:
            cases = _together(windows, facts, bend) if bent else windows
            return [Shift(case, 0, largest, curve=bent) for case in cases]

        def look(cases: Sequence[Case]) -> tuple[list[list[float]], dict[str, Verdict]]:
            errors = denoising_errors(networks, cases, facts, self.batch_size)
            pooled = by_patient(cases, errors, facts)
            return errors, {p: calibration.verdict(e, largest) for p, e in pooled.items()}

        errors, found = look(windows)
        plans = []
        for case, own in zip(windows, errors):
            verdict = found[case.patient_id]
            plans.append(Shift(case, 0, verdict.strength, tuple(own), looks=1, verdict=verdict))
        foreign = [n for n, plan in enumerate(plans) if plan.strength]
        if not bent or not foreign:
            return plans
        curved = _together([windows[n] for n in foreign], facts, bend)
        _, again = look(curved)
        for n, case in zip(foreign, curved):
            # How foreign a patient is, is said of the images as they came.
            verdict = replace(again[case.patient_id], deviation=found[case.patient_id].deviation)
            plans[n] = replace(
                plans[n], case=case, strength=verdict.strength, curve=bent, looks=2, verdict=verdict
            )
        return plans

    def _largest(self, networks: Mapping[str, Any]) -> float:
        """The strength that was set, or else the largest that was calibrated."""
        if self.strength or self.translator == STYLES:
            return self.strength or 1.0
        calibration: Calibration = networks["calibration"]
        largest = calibration.largest(self.translator, self.movement)
        if not largest:
            raise AugmintError(
                f"reference_shift: {self.translator} moves contours by more than "
                f"{self.movement:g} px at every strength; set strength, allow more movement, "
                "choose another translator, or fit longer"
            )
        return largest

    def translate(
        self, networks: Mapping[str, Any], shifts: Sequence[Shift], facts: DatasetFacts, *,
        seed: int, masks: bool,
    ) -> Iterator[Case]:  # fmt: skip
        """The shifted cases on the window; those of strength 0 as they are.

        Args:
            networks: The denoiser and the calibration.
            shifts: What to shift how far.
            facts: Those that the network was fitted with.
            seed: With the patient and the copy it seeds every draw.
            masks: Show the network the masks of cases that have one.
        """
        windows = [on_window(shift.case, facts) for shift in shifts]
        made = shifted_planes(self, networks, shifts, windows, facts, seed=seed, masks=masks)
        for shift, window, planes in zip(shifts, windows, made):
            yield self._finished(shift, window, planes, facts, seed)

    @property
    def evaluations(self) -> int:
        """Of the network for one generated image, at most."""
        return self.evaluations_of(1, self.strength or LEVELS[-1], 0)

    def evaluations_of(self, planes: int, strength: float, looks: int) -> int:
        """Evaluations of the network for a case with so many planes.

        Args:
            planes: Slices of the case.
            strength: That it was shifted by; 0 for not at all.
            looks: How often its denoising errors were measured.
        """
        return planes * (evaluations_of_walk(self, strength) + len(LEVELS) * looks)

    def expected_evaluations(
        self, networks: Mapping[str, Any], planes: int, copies: int
    ) -> tuple[int, int]:
        """Fewest and most evaluations that `adapt` needs for a case, before anyone looked at it.

        Args:
            networks: {"calibration": of the fit}.
            planes: Slices of the case.
            copies: Translations of it.

        Raises:
            AugmintError: if no strength was calibrated or set.
        """
        largest = self._largest(networks)
        if not self.learned:
            return 0, 0
        walks = self.evaluations_of(planes, largest, 0) * copies
        if self.strength:
            return walks, walks
        look = self.evaluations_of(planes, 0.0, 1)
        return look, walks + look * (1 + (self.curve != "none"))

    def _finished(
        self, shift: Shift, case: Case, planes: Tensor, facts: DatasetFacts, seed: int
    ) -> Case:
        """The case on the window with its shifted planes, and what was done to it."""
        walk = descend(self.num_steps, start=shift.strength or 1.0, solver=self.solver)
        details: dict[str, float | str] = {
            "translator": self.translator, "strength": shift.strength,
            **({"curve": shift.curve} if shift.curve else {}),
        }  # fmt: skip
        details |= {f"error_{level:g}": e for level, e in zip(LEVELS, shift.errors)}
        if shift.verdict:
            details["deviation"] = round(shift.verdict.deviation, 4)
            details["still_foreign"] = int(shift.verdict.still_foreign)
        return replace(
            with_planes(case, planes, facts),
            case_id=f"{case.case_id}__s{seed}_c{shift.copy}",
            provenance=Provenance(
                source_case=case.case_id,
                method="reference_shift",
                seed=seed,
                copy=shift.copy,
                walk=str(walk) if self.learned and shift.strength else "",
                evaluations=self.evaluations_of(
                    # The first of several translations stands for the look that all of them share.
                    len(planes),
                    shift.strength,
                    0 if shift.copy else shift.looks,
                ),
                details=details,
            ),
        )

    def to_native(self, new: Case, source: Case, grid: WorkingGrid) -> Case:
        """The source on its own grid with the change that was made of it on the window.

        Detail finer than the working grid and what lies outside the window stay, and the mask
        stays bit by bit. A curve of grey levels is the same for all pixels, in the window or not.
        """
        before = grid.to_working(replace(source, mask=None), shape=grid.window).image
        if torch.equal(before, new.image):
            image = source.image
        elif self.translator in (*CURVES, STYLES):
            image = torch.stack(
                [same_curve(b, n, i) for b, n, i in zip(before, new.image, source.image)]
            )
        else:
            whole, inside = source.image, before
            if new.provenance is not None and new.provenance.details.get("curve"):
                found = [mean_curve(b, n) for b, n in zip(before, new.image)]
                whole = torch.stack([curve(i) for curve, i in zip(found, whole)])
                inside = torch.stack([curve(i) for curve, i in zip(found, inside)])
            change = native_change(new.image - inside, source.grid, grid)
            image = (whole + change).clamp(-1, 1)
        return replace(new, image=image, mask=source.mask, grid=source.grid, frame=None)


def _together(
    windows: Sequence[Case], facts: DatasetFacts, change: Callable[[Tensor], Tensor]
) -> list[Case]:
    """Cases changed by one map for all planes of a patient."""
    changed: list[Case] = []
    for _, own in groupby(windows, key=lambda case: case.patient_id):
        cases = list(own)
        planes = [planes_of(case, facts, SOURCE, False)[0] for case in cases]
        new = change(torch.cat(planes)).split([len(p) for p in planes])
        changed += [with_planes(case, p, facts) for case, p in zip(cases, new)]
    return changed


def _whole_patients(cases: Iterable[Case], size: int) -> Iterator[list[Case]]:
    """Cases in groups of at least so many that part no patient; the last may be smaller."""
    held: list[Case] = []
    for _, own in groupby(cases, key=lambda case: case.patient_id):
        held += own
        if len(held) >= size:
            yield held
            held = []
    if held:
        yield held
