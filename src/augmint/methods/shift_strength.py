"""How far an image is shifted: as far as it looks foreign, and no further than contours stay.

Both are learned from source images that no network was fitted on. Their denoising errors say what a
source image looks like to the network; a segmenter says at which strength its contours move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from augmint.errors import AugmintError
from augmint.imaging.style import Style
from augmint.weights import read_folder, write_folder

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Noise levels at which an image is looked at, and the strengths of a shift."""
# Of the two-sided interval that a further source patient lies in. Errors at all levels tell much
# the same of a patient (they correlate by more than 0.9), so they share one interval.
COVERAGE = 0.95


@dataclass(frozen=True)
class Verdict:
    """What a look at a patient says.

    Attributes:
        strength: That it needs, or the largest allowed; 0 for one that looks like the source.
        deviation: From source patients, in standard deviations; the largest over `LEVELS`.
        still_foreign: Whether that strength leaves what tells the patient from the source.
    """

    strength: float
    deviation: float
    still_foreign: bool


@dataclass(frozen=True)
class Calibration:
    """What source images that no network was fitted on say about strengths.

    Attributes:
        mean: Of the logarithm of a patient's denoising error, at each of `LEVELS`; empty for a
            method without a network.
        deviation: Its standard deviation over patients.
        limit: How many deviations from the mean a further source patient may lie at any level.
        strengths: Translator to the largest strength at which contours stay; 0 where none does.
        movement: Translator to, for each strength, how far contours move, in pixels; not a number
            where no image showed a contour.
        patients: On whom this was measured.
        style: Of the source images, for the translators without a network.
        networks: Hashes of the networks that this was measured with; empty where not recorded.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    limit: float
    strengths: Mapping[str, float]
    movement: Mapping[str, Mapping[str, float]]
    patients: tuple[str, ...]
    style: Style
    networks: Mapping[str, str] = field(default_factory=dict)

    def largest(self, translator: str, allowed: float) -> float:
        """The largest strength up to which contours never move further than allowed; 0 if none.

        Raises:
            AugmintError: if the translator was not calibrated.
        """
        if translator not in self.movement:
            raise AugmintError(
                f"{translator} was not calibrated, only {', '.join(self.movement)}; choose one of "
                "these, set strength, or fit again"
            )
        rows = self.movement[translator]
        return largest_strength({float(s): moved for s, moved in rows.items()}, allowed)

    def deviations(self, errors: Sequence[float]) -> list[float]:
        """How many standard deviations errors at `LEVELS` lie from those of source patients.

        Raises:
            AugmintError: if an error is no finite number above 0, which would look like the source.
        """
        if not all(math.isfinite(e) and e > 0 for e in errors):
            raise AugmintError(
                f"denoising errors must be finite numbers above 0, got {list(errors)}; the network "
                "is broken or the image is not finite: fit again, or repair the image"
            )
        logs = torch.tensor(errors, dtype=torch.float64).log()
        apart = (logs - torch.tensor(self.mean)) / torch.tensor(self.deviation)
        return [float(a) for a in apart]

    def strength_for(self, errors: Sequence[float], largest: float) -> float:
        """The strength that an image needs; 0 for one that looks like the source.

        Noise hides what tells two scanners apart, fine things first. The strength is the least
        level from which on the network sees no difference any more, or the largest allowed.

        Args:
            errors: Of a patient, at `LEVELS`.
            largest: Above it contours would move.
        """
        outside = [abs(z) > self.limit for z in self.deviations(errors)]
        if not any(outside):
            return 0.0
        last = max(i for i, out in enumerate(outside) if out)
        needed = LEVELS[min(last + 1, len(LEVELS) - 1)]
        return min(needed, largest)

    def verdict(self, errors: Sequence[float], largest: float) -> Verdict:
        """What a patient's errors at `LEVELS` say; above `largest` contours would move."""
        strength = self.strength_for(errors, largest)
        deviation = max(self.deviations(errors), key=abs)
        return Verdict(strength, deviation, self.still_foreign(errors, strength))

    def still_foreign(self, errors: Sequence[float], strength: float) -> bool:
        """Whether a shift of this strength leaves what tells a patient from the source.

        It reaches what noise of its level hides, so that a difference seen through as much noise or
        more is there afterwards. That is told from the errors before the shift and costs nothing.

        Args:
            errors: Of the patient before the shift, at `LEVELS`.
            strength: Of the shift; 0 for none.
        """
        apart = zip(LEVELS, self.deviations(errors))
        return any(level >= strength and abs(z) > self.limit for level, z in apart)


def limit_of(patients: int) -> float:
    """Deviations from the mean within which a further patient lies with probability `COVERAGE`.

    A prediction interval with Student's t.

    Args:
        patients: That mean and deviation come from, 2 or more.
    """
    from scipy.stats import t

    return float(t.ppf((1 + COVERAGE) / 2, patients - 1) * (1 + 1 / patients) ** 0.5)


def source_errors(errors: Sequence[Sequence[float]]) -> tuple[list[float], list[float], float]:
    """Mean and deviation of the logarithms of errors (patients, levels), and the limit.

    Raises:
        AugmintError: if there are fewer than two patients, an error is not finite, or all patients
            have the same one.
    """
    if len(errors) < 2:
        raise AugmintError(
            f"a strength is calibrated on 2 source patients or more that nothing was fitted on; "
            f"got {len(errors)}; give more training patients"
        )
    logs = torch.tensor(errors, dtype=torch.float64).log()
    if not bool(logs.isfinite().all()):
        raise AugmintError(
            "the network's denoising errors of source patients are not finite numbers above 0, so "
            "no strength can be calibrated; fit again, longer or with another seed"
        )
    deviation = logs.std(0)
    if not bool((deviation > 0).any()):
        raise AugmintError(
            f"the {len(errors)} source patients that a strength is calibrated on look exactly "
            "alike to the network; are their images copies of each other? Give other patients"
        )
    return logs.mean(0).tolist(), deviation.tolist(), limit_of(len(errors))


def largest_strength(movement: Mapping[float, float], allowed: float) -> float:
    """The largest strength up to which contours never move further than allowed; 0 if none."""
    best = 0.0
    for strength in sorted(movement):
        if not movement[strength] <= allowed:
            break
        best = strength
    return best


def save_calibration(folder: Path, found: Calibration) -> None:
    """Write it to a folder, as one rename."""
    facts: dict[str, Any] = {
        "mean": list(found.mean), "deviation": list(found.deviation), "limit": found.limit,
        "strengths": dict(found.strengths),
        # JSON knows no NaN.
        "movement": {
            name: {s: None if math.isnan(moved) else moved for s, moved in rows.items()}
            for name, rows in found.movement.items()
        },
        "patients": list(found.patients), "levels": list(LEVELS),
        "networks": dict(found.networks),
    }  # fmt: skip
    write_folder(folder, {"style": found.style.to_tensors()}, facts)


def load_calibration(folder: Path) -> Calibration:
    """The converse of `save_calibration`.

    Raises:
        AugmintError: if the folder is missing or damaged, or was measured at other levels.
    """
    tensors, facts = read_folder(folder, "style")
    names = ("mean", "deviation", "limit", "strengths", "movement", "patients")
    if facts.get("levels") != list(LEVELS) or not set(names) <= set(facts):
        raise AugmintError(
            f"calibration {folder}: damaged, or measured at other levels than {LEVELS}; fit again"
        )
    movement = {
        name: {s: math.nan if moved is None else moved for s, moved in rows.items()}
        for name, rows in facts["movement"].items()
    }
    return Calibration(
        tuple(facts["mean"]), tuple(facts["deviation"]), facts["limit"], facts["strengths"],
        movement, tuple(facts["patients"]), Style.from_tensors(tensors["style"]),
        facts.get("networks", {}),
    )  # fmt: skip
