"""How planes are shifted: the translators that `reference_shift` offers, with a network or without.

Those with a network are a walk and a guide of the one sampling loop; the others change grey levels
or amplitudes of frequencies alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from augmint.case import Case
from augmint.diffusion.path import add_noise
from augmint.diffusion.sampling import (
    Guide,
    Job,
    Noise,
    ascend,
    descend,
    follow_energy,
    generator_for,
    low_frequencies,
    match_low_frequencies,
    sample,
    sample_jobs,
    with_guidance,
)
from augmint.imaging.style import (
    Style,
    bezier_curve,
    bezier_towards,
    match_histogram,
    random_bezier,
    swap_amplitude,
)
from augmint.methods.protocol import DatasetFacts, images_at_once
from augmint.methods.shift_planes import FOREIGN, SOURCE, planes_of
from augmint.methods.shift_strength import Verdict
from augmint.precision import autocast

if TYPE_CHECKING:
    from augmint.methods.reference_shift import ReferenceShift

Translator = Literal[
    "sdedit", "ilvr", "inversion", "energy", "histogram", "fourier", "bezier", "styles"
]
Curve = Literal["none", "histogram", "bezier"]
Change = Callable[[Tensor, Style, float], Tensor]
CURVES: Mapping[str, Change] = {"histogram": match_histogram, "bezier": bezier_towards}
# Without a network, towards the source.
PLAIN: Mapping[str, Change] = {**CURVES, "fourier": swap_amplitude}
# Without a network, to a look that no scanner has: another one for each patient and copy.
STYLES: Translator = "styles"
TRANSLATORS: tuple[Translator, ...] = Translator.__args__  # type: ignore[attr-defined]
# All that shift towards the source.
TOWARDS = tuple(t for t in TRANSLATORS if t != STYLES)
LEARNED = tuple(t for t in TOWARDS if t not in PLAIN)


@dataclass(frozen=True)
class Shift:
    """A case to shift.

    Attributes:
        case: On the canvas, or on the window.
        copy: Number of the translation.
        strength: How far; 0 leaves the case as it is here.
        errors: Denoising errors that said so, of the image as it was stored.
        curve: What was done to its grey levels before.
        looks: How often the network was asked for its errors.
        verdict: On its patient, where the network was asked.
        ready: It is shifted already.
    """

    case: Case
    copy: int
    strength: float
    errors: tuple[float, ...] = ()
    curve: str = ""
    looks: int = 0
    verdict: Verdict | None = None
    ready: bool = False

    @property
    def random(self) -> bool:
        """Whether another copy would be another image."""
        return bool(self.strength) and not self.ready


def shifted_planes(
    method: ReferenceShift,
    networks: Mapping[str, Any],
    shifts: Sequence[Shift],
    windows: Sequence[Case],
    facts: DatasetFacts,
    *,
    seed: int,
    masks: bool,
) -> Iterator[Tensor]:
    """The planes of each case, (Z, C, *window), shifted; those of strength 0 as they are.

    Args:
        method: Whose translator and settings count.
        networks: The denoiser and the calibration.
        shifts: What to shift how far.
        windows: Their cases on the window.
        facts: Those that the network was fitted with.
        seed: With the patient and the copy it seeds every draw.
        masks: Show the network the masks of cases that have one.
    """
    ready: dict[int, Tensor] = {}
    by_strength: dict[float, list[Job]] = {}
    for number, (shift, window) in enumerate(zip(shifts, windows)):
        images, given = planes_of(window, facts, SOURCE, masks)
        key = (seed, shift.case.patient_id, shift.copy)
        if not shift.strength or shift.ready:
            ready[number] = images
        elif method.translator == STYLES:
            curves = random_bezier(generator_for(*key, STYLES), images.shape[1])
            ready[number] = images.lerp(bezier_curve(images, curves), shift.strength)
        elif method.translator in PLAIN:
            style = networks["calibration"].style
            ready[number] = PLAIN[method.translator](images, style, shift.strength)
        else:
            # One noise for all slices of a patient: what it makes of them stays consistent.
            noise = torch.randn(images.shape[1:], generator=generator_for(*key))
            jobs = by_strength.setdefault(shift.strength, [])
            for image, told in zip(images, given):
                jobs.append(Job(noise, torch.cat([image, told]), (number, *key)))
    batch = images_at_once(method.batch_size, facts)
    made: dict[int, list[Tensor]] = {}
    for strength, jobs in by_strength.items():
        run = _runner(method, networks["image"], facts, strength)
        for job, image in sample_jobs(jobs, run, batch_size=batch):
            made.setdefault(int(str(job.key[0])), []).append(image)
    for number in range(len(shifts)):
        found = ready.pop(number, None)
        yield torch.stack(made.pop(number)) if found is None else found


def evaluations_of_walk(method: ReferenceShift, strength: float) -> int:
    """Evaluations of the network that one plane takes, shifted by a strength; 0 without one."""
    if not strength or not method.learned:
        return 0
    walk = descend(method.num_steps, start=strength, solver=method.solver).evaluations
    if method.translator == "inversion":
        walk += ascend(method.num_steps, stop=strength, solver=method.solver).evaluations
    if method.translator == "energy" and method.repulsion:
        walk *= 2
    return walk


def _runner(
    method: ReferenceShift, network: Any, facts: DatasetFacts, strength: float
) -> Callable[[Sequence[Job]], Tensor]:
    """What translates a full batch of planes."""
    device = next(network.parameters()).device
    walk = descend(method.num_steps, start=strength, solver=method.solver)

    def run(jobs: Sequence[Job]) -> Tensor:
        noise = torch.stack([j.noise for j in jobs]).to(device)
        given = torch.stack([j.given for j in jobs]).to(device)
        reference, told = given[:, : facts.channels], given[:, facts.channels :]
        foreign = told.clone()
        foreign[:, -1] = FOREIGN
        fresh = Noise([generator_for(*j.key[1:], "guide") for j in jobs])
        scale = 1 + method.repulsion if method.translator == "energy" else 1.0
        denoise = with_guidance(network, told, scale=scale, null=foreign)
        with autocast(device, "auto"):
            if method.translator == "inversion":
                up = ascend(method.num_steps, stop=strength, solver=method.solver)
                # What the network was never shown it takes for unknown.
                below = with_guidance(network, foreign if facts.unlabelled else 0 * told)
                x = sample(lambda x, t: below(x, t).float(), reference, up)
            else:
                start = torch.full((len(jobs),), strength, device=device)
                x = add_noise(reference, noise, start)
            guides = _guides(method, reference, noise, fresh)
            x = sample(lambda x, t: denoise(x, t).float(), x, walk, guides=guides)
        return x.clamp(-1, 1)

    return run


def _guides(method: ReferenceShift, reference: Tensor, noise: Tensor, fresh: Noise) -> list[Guide]:
    if method.translator == "ilvr":
        return [match_low_frequencies(reference, method.factor, fresh)]
    if method.translator == "energy" and method.attraction:

        def gradient(x: Tensor, t: float) -> Tensor:
            level = torch.full((len(x),), t, device=x.device)
            held = add_noise(reference, noise, level)
            return low_frequencies(x - held, method.factor)

        return [follow_energy(gradient, method.attraction)]
    return []
