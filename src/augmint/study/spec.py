"""A study as its YAML file declares it, checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from augmint.errors import AugmintError

Metric = Literal["dice", "precision", "recall", "hd", "hd95", "assd", "surface_dice"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generator(_Strict):
    """Where the synthetic cases of an arm come from: `augment` on the arm's training patients.

    Attributes:
        method: A name in `METHODS`, or `module:Class`.
        settings: Fields of the method.
        copies: Synthetic cases for each real one.
        steps: Optimiser steps of each network, instead of the preset's.
        gate_steps: Optimiser steps of each gate segmenter, instead of the preset's.
        filtered: False uses rejected pairs too.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    copies: int = Field(5, ge=1)
    steps: int | None = Field(None, ge=1)
    gate_steps: int | None = Field(None, ge=1)
    filtered: bool = True


class Arm(_Strict):
    """One way to train; all arms take the same number of steps on the same real patients.

    Attributes:
        like: Another arm, whose fields this one starts from.
        augmentation: Classical augmentation, a key of `AUGMENTATIONS`.
        synthetic: Synthetic cases that join, or None.
        synthetic_probability: Chance of each sample to be synthetic.
        settings: Further fields of `SegmenterConfig`.
        null: Identical to the arm it is like, under other seeds: what it gains is noise.
    """

    like: str | None = None
    augmentation: str = "strong"
    synthetic: Generator | None = None
    synthetic_probability: float = Field(0.5, ge=0, le=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    null: bool = False


class Test(_Strict):
    """Patients to test on, whom nothing is fitted on or chosen by.

    Attributes:
        name: In tables.
        data: A dataset, relative to the study's file.
        patients: Their names, `FILE.json#KEY.KEY` for a list in a file, or all.
        group: A column of cases.csv to split results by.
    """

    name: str
    data: str
    patients: list[str] | str | None = None
    group: str | None = None


class Endpoint(_Strict):
    """The one figure that the study was made for.

    Attributes:
        test: Name of a test.
        metric: Of `scores.csv`.
        label: Name of a label, or `mean` over all.
    """

    test: str
    metric: Metric = "dice"
    label: str = "mean"


class Study(_Strict):
    """A study.

    Attributes:
        name: Of the report.
        data: The training dataset, relative to the study's file.
        patients: Patients who may train: names, `FILE.json#KEY.KEY`, or all who do not test.
        sizes: Numbers of training patients, or shares of them below 1; all by default.
        draws: Random draws of patients for each size, at sizes below all.
        folds: Cross-validation of the training dataset instead of draws; each fold's held
            patients are tested on under the name `held out`.
        tests: External or held-out patients.
        arms: Name to arm.
        baseline: The arm that the others are compared with.
        endpoint: The primary endpoint.
        networks: Segmenters, keys of `SEGMENTERS`.
        seeds: Of the segmenters.
        generator_seeds: `draw`: one generator for each draw; `each`: one for each seed too.
        preset: Sizes of everything.
        dims: 2 or 3, instead of what the data suggest.
        segmenter_steps: Of every arm, instead of the preset's.
        segmenter_width: Of every arm, instead of the preset's.
        tolerance: Of the surface Dice.
    """

    name: str
    data: str
    patients: list[str] | str | None = None
    sizes: list[float] | None = None
    draws: int = Field(1, ge=1)
    folds: int = Field(0, ge=0)
    tests: list[Test] = Field(default_factory=list)
    arms: dict[str, Arm]
    baseline: str
    endpoint: Endpoint
    networks: list[str] = Field(default_factory=lambda: ["unet"], min_length=1)
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    generator_seeds: Literal["draw", "each"] = "draw"
    preset: str = "quick"
    dims: Literal[2, 3] | None = None
    segmenter_steps: int | None = Field(None, ge=1)
    segmenter_width: int | None = Field(None, ge=1)
    tolerance: float = Field(2.0, ge=0)

    @field_validator("sizes")
    @classmethod
    def _sizes(cls, sizes: list[float] | None) -> list[float] | None:
        for size in sizes or ():
            if not (0 < size < 1 or (size >= 1 and size == int(size))):
                raise ValueError(f"{size} is neither a number of patients nor a share below 1")
        return sizes

    @field_validator("preset")
    @classmethod
    def _preset(cls, name: str) -> str:
        from augmint.presets import preset_named

        preset_named(name)
        return name

    @field_validator("networks")
    @classmethod
    def _networks(cls, names: list[str]) -> list[str]:
        from augmint.segmentation.networks import SEGMENTERS

        for name in names:
            if name not in SEGMENTERS:
                raise ValueError(f"unknown network {name!r}; choose from {', '.join(SEGMENTERS)}")
        return names

    @model_validator(mode="after")
    def _whole(self) -> Study:
        from augmint.methods import build_method
        from augmint.segmentation.augmentation import named_augmentation

        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is no arm; arms: {', '.join(self.arms)}")
        if self.folds == 1:
            raise ValueError("folds is 0 or at least 2")
        if not self.folds and not self.tests:
            raise ValueError("a study needs tests, or folds")
        if self.folds and self.draws > 1:
            raise ValueError("folds are the draws of a cross-validation; leave draws at 1")
        tests = [HELD_OUT] * bool(self.folds) + [t.name for t in self.tests]
        if len(set(tests)) < len(tests):
            raise ValueError(f"tests share a name: {', '.join(tests)}")
        if self.endpoint.test not in tests:
            raise ValueError(
                f"endpoint.test {self.endpoint.test!r} is no test; tests: {', '.join(tests)}"
            )
        for name in self.arms:
            arm = self.arm(name)
            named_augmentation(arm.augmentation)
            if arm.synthetic is not None:
                build_method(arm.synthetic.method, arm.synthetic.settings)
        return self

    def arm(self, name: str) -> Arm:
        """An arm with what it takes over from the arm that it is like.

        Raises:
            ValueError: if that one is no arm, or is like another in turn.
        """
        arm = self.arms[name]
        if arm.like is None:
            if arm.null:
                raise ValueError(f"arm {name!r} is null, but like no other; name one with like")
            return arm
        other = self.arms.get(arm.like)
        if other is None or other.like is not None:
            raise ValueError(
                f"arm {name!r} is like {arm.like!r}, which is no arm of its own; arms: "
                f"{', '.join(k for k, v in self.arms.items() if v.like is None)}"
            )
        given = {k: getattr(arm, k) for k in arm.model_fields_set - {"like"}}
        return other.model_copy(update=given)

    @property
    def hash(self) -> str:
        """Of the protocol: what was fixed before the test labels were read."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


HELD_OUT = "held out"


def read_study(path: Path | str) -> Study:
    """Read and check a study's YAML file.

    Raises:
        AugmintError: naming the file, the line and the field.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise AugmintError(f"study {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise AugmintError(f"study {path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise AugmintError(f"study {path}: must map names to values")
    try:
        return Study.model_validate(_named_null(values))
    except ValidationError as error:
        first = error.errors()[0]
        place, line = tuple(first["loc"]), _line(root, first["loc"])
        field = ".".join(str(part) for part in place)
        what = first["msg"].removeprefix("Value error, ")
        came = "" if not place or isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise AugmintError(
            f"study {path}, line {line}{f', field {field}' if field else ''}: {what}{came}"
        ) from error
    except AugmintError as error:
        raise AugmintError(f"study {path}: {error}") from error


def _named_null(value: Any) -> Any:
    """YAML reads the key `null` as nothing; here it is the name of an arm or a field."""
    if isinstance(value, dict):
        return {"null" if k is None else k: _named_null(v) for k, v in value.items()}
    return value


def _line(node: Any, place: tuple[int | str, ...]) -> int:
    """The line of a field, or of the nearest one that stands in the file."""
    import yaml

    line = 1 if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            key, node = found[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)
