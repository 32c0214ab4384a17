"""A study's units of work, each named by its content, and their places in the study's grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["generate", "train", "fit", "adapt", "evaluate", "join"]


@dataclass(frozen=True)
class Unit:
    """A part of the work that is done once and kept.

    Attributes:
        kind: `generate`, `train`, `fit` (of what shifts test images), `adapt`, `evaluate` or `join`
            (of the evaluations of an oracle's folds).
        arguments: What it depends on: plain values, and the keys of other units.
        needs: Keys of the units that come before it.
        key: A hash of all these: two arms that need the same thing share it.
        title: For progress.
    """

    kind: Kind
    arguments: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    title: str = field(default="", compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.kind, self.arguments], sort_keys=True, default=str)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:16])

    @property
    def folder(self) -> str:
        """Below the study's folder."""
        return f"units/{self.kind}_{self.key}"


@dataclass(frozen=True)
class Cell:
    """One evaluation's place in the study's grid.

    Attributes:
        size: Training patients.
        draw: Which draw of them, or which fold.
        network: The segmenter.
        arm: Name of the arm.
        seed: Of the study's seeds, also for a null arm, which trains under another.
        test: Name of the test.
        unit: Key of the evaluation.
    """

    size: int
    draw: int
    network: str
    arm: str
    seed: int
    test: str
    unit: str


@dataclass(frozen=True)
class Plan:
    """All units in an order that they can be done in, and where their results belong."""

    units: Mapping[str, Unit]
    cells: tuple[Cell, ...]
    groups: Mapping[str, Mapping[str, str]]

    def count(self, kind: Kind) -> int:
        """How many units of a kind."""
        return sum(unit.kind == kind for unit in self.units.values())
