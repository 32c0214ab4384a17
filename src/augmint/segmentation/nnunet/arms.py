"""Arms of a comparison with nnU-Net: who trains, how often a synthetic case is drawn, how long."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from augmint.errors import AugmintError

TRAINER = "nnUNetTrainerAugmint"
KEY = "augmint"
STATE = "augmint.json"
EPOCHS, ITERATIONS, VALIDATION_ITERATIONS = 1000, 250, 50


@dataclass(frozen=True)
class Arm:
    """One arm; it lives in a plans file of its own, whose name tells what differs.

    Arms share preprocessed data, architecture, patch and batch size.

    Attributes:
        synthetic_probability: Chance of each training sample to be synthetic: 0 trains on real
            cases alone, 1 on synthetic cases alone.
        epochs: nnU-Net's own is 1000.
        iterations: Batches of an epoch; nnU-Net's own is 250.
        validation_iterations: Batches that estimate the Dice after an epoch.
    """

    synthetic_probability: float
    epochs: int = EPOCHS
    iterations: int = ITERATIONS
    validation_iterations: int = VALIDATION_ITERATIONS

    def __post_init__(self) -> None:
        if not 0 <= self.synthetic_probability <= 1:
            raise AugmintError(
                f"the probability of a synthetic sample lies from 0 to 1, got "
                f"{self.synthetic_probability}"
            )
        for name in ("epochs", "iterations", "validation_iterations"):
            if getattr(self, name) < 1:
                raise AugmintError(f"{name} must be 1 or more, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        """Of its plans file, and so of its results: `augmintReal`, `augmintMixed50`, ..."""
        share = f"{100 * self.synthetic_probability:g}".replace(".", "p")
        kind = {"0": "Real", "100": "Synthetic"}.get(share, f"Mixed{share}")
        parts = [f"augmint{kind}"]
        if self.epochs != EPOCHS:
            parts.append(f"{self.epochs}epochs")
        if self.iterations != ITERATIONS:
            parts.append(f"{self.iterations}iterations")
        return "_".join(parts)

    def plans(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """The shared plans with this arm's name and settings; the data folders stay the same."""
        return {**shared, "plans_name": self.name, KEY: asdict(self)}


def arm_of(plans: Mapping[str, Any]) -> Arm:
    """The arm that a plans file describes.

    Raises:
        AugmintError: if it describes none.
    """
    try:
        return Arm(**plans[KEY])
    except (KeyError, TypeError) as error:
        raise AugmintError(
            f"the plans {plans.get('plans_name')!r} are not those of an arm; take the ones that "
            "`augmint nnunet prepare` printed"
        ) from error


def arm_cases(
    arm: Arm,
    splits: Sequence[Mapping[str, Sequence[str]]],
    fold: int | str,
    synthetic: Collection[str],
    everyone: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Training and validation cases of an arm; no synthetic case validates.

    Args:
        arm: The arm.
        splits: The content of splits_final.json.
        fold: Its number, or `all`: then every case trains, and the real ones among them stand in
            for a validation that there is not.
        synthetic: Names of the synthetic cases.
        everyone: Names of all preprocessed cases.

    Raises:
        AugmintError: if the fold is unknown or has no validation, a synthetic case would
            validate, or the arm has nothing to train on.
    """
    made = set(synthetic)
    if fold == "all":
        train = list(everyone)
        validation = [c for c in train if c not in made]
    else:
        number = int(fold)
        if not 0 <= number < len(splits):
            raise AugmintError(
                f"fold {number} is not among the {len(splits)} of splits_final.json; nnU-Net "
                "would draw a random one, with synthetic cases in its validation"
            )
        train, validation = list(splits[number]["train"]), list(splits[number]["val"])
    if wrong := sorted(made & set(validation)):
        raise AugmintError(f"synthetic case {wrong[0]!r} would validate; prepare the dataset again")
    if not validation:
        raise AugmintError(f"fold {fold} holds no patient back; train fold `all` instead")
    if arm.synthetic_probability == 0:
        train = [c for c in train if c not in made]
    elif arm.synthetic_probability == 1:
        train = [c for c in train if c in made]
    case_probabilities(train, made, arm.synthetic_probability)
    return train, validation


def case_probabilities(
    cases: Sequence[str], synthetic: Collection[str], probability: float
) -> np.ndarray | None:
    """The chance of each training case to be drawn, None where all are alike.

    Raises:
        AugmintError: if the arm needs real or synthetic cases and there are none.
    """
    is_synthetic = np.array([c in synthetic for c in cases], dtype=bool)
    made, real = int(is_synthetic.sum()), int((~is_synthetic).sum())
    if (probability > 0 and not made) or (probability < 1 and not real):
        raise AugmintError(
            f"{real} real and {made} synthetic training cases cannot be mixed at a probability of "
            f"{probability:g}; both are needed, or one of them for 0 and 1"
        )
    if not made or not real:
        return None
    return np.where(is_synthetic, probability / made, (1 - probability) / real)
