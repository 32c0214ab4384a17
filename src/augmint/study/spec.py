"""A study as its YAML file declares it, checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from augmint.errors import AugmintError

Metric = Literal["dice", "precision", "recall", "hd", "hd95", "assd", "surface_dice"]
ALL: Literal["all"] = "all"
Size = Literal["all"] | float
LabelMap = dict[str, str | None]
# Fields that came later: where they say nothing, a protocol keeps the hash it had before them.
LATER = (
    "domains", "label_map", "arms_at_larger_sizes", "allow_same_names", "largest_component",
    "sliding",
)  # fmt: skip


# Fields of a segmenter that a study says in its own words.
ELSEWHERE = {
    "augmentation": "a field of the arm",
    "synthetic_probability": "a field of the arm",
    "network": "one of the study's networks",
    "seed": "one of the study's seeds",
}


class StudyError(AugmintError):
    """A fault of a study that more than one field has a part in.

    Attributes:
        place: The field that it is told of.
    """

    def __init__(self, place: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.place = place


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
        settings: Further fields of `SegmenterConfig`; not those that the study or arm has itself.
        largest_component: Keep the largest connected part of each label of a prediction. The
            training is that of the arm it is like.
        sliding: Slide the window over what of a case lies outside it. The training is that of the
            arm it is like, too.
        null: Identical to the arm it is like, under other seeds: what it gains is noise.
    """

    like: str | None = None
    augmentation: str = "strong"
    synthetic: Generator | None = None
    synthetic_probability: float = Field(0.5, ge=0, le=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    largest_component: bool = False
    sliding: bool = False
    null: bool = False

    @field_validator("settings")
    @classmethod
    def _settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name, where in ELSEWHERE.items():
            if name in settings:
                raise ValueError(f"{name} is no setting here, but {where}")
        return settings


class Test(_Strict):
    """Patients to test on, whom nothing is fitted on or chosen by.

    Attributes:
        name: In tables.
        data: A dataset, relative to the study's file.
        patients: Their names, `FILE.json#KEY.KEY` or `FILE.txt` for a list in a file, or all.
        domains: Only cases of these domains.
        group: A column of cases.csv to split results by.
        label_map: Of this test, instead of the study's; `{}` for none.
        allow_same_names: Patients who are named as training patients, in a dataset of another
            name, are other people.
    """

    name: str
    data: str
    patients: list[str] | str | None = None
    domains: list[str] | None = Field(None, min_length=1)
    group: str | None = None
    label_map: LabelMap | None = None
    allow_same_names: bool = False


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
        patients: Patients who may train: names, `FILE.json#KEY.KEY` or `FILE.txt`, or all who do
            not test.
        domains: Only their cases of these domains train.
        label_map: Old label name to new name, or to null for background; of every dataset.
        sizes: Numbers of training patients, shares of them below 1, or `all`; all by default.
        draws: Random draws of patients for each size, at sizes below all.
        folds: Cross-validation of the training dataset instead of draws; each fold's held
            patients are tested on under the name `held out`.
        group: A column of cases.csv to split the results on `held out` by.
        tests: External or held-out patients.
        arms: Name to arm.
        arms_at_larger_sizes: Arms that sizes above the smallest are worth; all by default.
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
    domains: list[str] | None = Field(None, min_length=1)
    label_map: LabelMap | None = None
    sizes: list[Size] | None = Field(None, min_length=1)
    draws: int = Field(1, ge=1)
    folds: int = Field(0, ge=0)
    group: str | None = None
    tests: list[Test] = Field(default_factory=list)
    arms: dict[str, Arm]
    arms_at_larger_sizes: list[str] | None = None
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

    @field_validator("arms_at_larger_sizes", mode="before")
    @classmethod
    def _null_too(cls, arms: Any) -> Any:
        return ["null" if a is None else a for a in arms] if isinstance(arms, list) else arms

    @field_validator("sizes", mode="before")
    @classmethod
    def _sizes(cls, sizes: Any) -> Any:
        for size in sizes if isinstance(sizes, list) else ():
            number = isinstance(size, int | float) and not isinstance(size, bool)
            if size != ALL and not (number and (0 < size < 1 or (size >= 1 and size == int(size)))):
                raise ValueError(f"{size} is neither a number of patients nor a share below 1")
        return sizes

    @model_validator(mode="after")
    def _whole(self) -> Study:
        if self.baseline not in self.arms:
            raise StudyError(
                ("baseline",),
                f"baseline {self.baseline!r} is no arm; arms: {', '.join(self.arms)}",
            )
        if self.folds == 1:
            raise StudyError(("folds",), "folds is 0 or at least 2")
        if not self.folds and not self.tests:
            raise StudyError((), "a study needs tests, or folds")
        if self.folds and self.draws > 1:
            raise StudyError(
                ("draws",), "folds are the draws of a cross-validation; leave draws at 1"
            )
        if self.group is not None and not self.folds:
            raise StudyError(
                ("group",),
                "group splits the results of folds, and there are none; write it into a test",
            )
        self._check_names()
        self._check_arms()
        return self

    def _check_names(self) -> None:
        """Tests, endpoint and the arms of larger sizes."""
        tests = [HELD_OUT] * bool(self.folds) + [t.name for t in self.tests]
        if len(set(tests)) < len(tests):
            raise StudyError(("tests",), f"tests share a name: {', '.join(tests)}")
        if self.endpoint.test not in tests:
            raise StudyError(
                ("endpoint", "test"),
                f"endpoint.test {self.endpoint.test!r} is no test; tests: {', '.join(tests)}",
            )
        chosen, field = self.arms_at_larger_sizes, ("arms_at_larger_sizes",)
        for name in chosen or ():
            if name not in self.arms:
                raise StudyError(field, f"{name!r} is no arm; arms: {', '.join(self.arms)}")
        if chosen is not None and self.baseline not in chosen:
            raise StudyError(
                field, f"lacks the baseline {self.baseline!r}, which all arms are compared with"
            )
        if chosen is not None and len(self.sizes or ()) < 2:
            raise StudyError(field, "there is one size only; leave it out, or give more sizes")

    def _check_arms(self) -> None:
        """Each arm can be trained with each network, as far as can be told without data."""
        from augmint.methods import build_method
        from augmint.presets import preset_named
        from augmint.segment import segmenter_config
        from augmint.segmentation.networks import SEGMENTERS

        try:
            preset = preset_named(self.preset)
        except AugmintError as error:
            raise StudyError(("preset",), str(error)) from error
        for number, network in enumerate(self.networks):
            if network not in SEGMENTERS:
                raise StudyError(
                    ("networks", str(number)),
                    f"unknown network {network!r}; choose from {', '.join(SEGMENTERS)}",
                )
        for name in self.arms:
            try:
                arm = self.arm(name)
            except ValueError as error:
                raise StudyError(("arms", name), str(error)) from error
            try:
                if arm.synthetic is not None:
                    build_method(arm.synthetic.method, arm.synthetic.settings)
                for network in self.networks:
                    config = segmenter_config(
                        preset, self.dims or 2, 0, self.segmenter_settings(name, network)
                    )
                    step = SEGMENTERS[config.network].width_step
                    if config.width % step:
                        raise AugmintError(
                            f"the width of {config.network} is a multiple of {step}, not "
                            f"{config.width}; set segmenter_width"
                        )
            except AugmintError as error:
                raise StudyError(("arms", name), str(error)) from error

    def segmenter_settings(self, name: str, network: str) -> dict[str, Any]:
        """Fields of `SegmenterConfig` that an arm is trained with; None keeps the preset's."""
        arm = self.arm(name)
        settings = {
            "network": network, "width": self.segmenter_width, "steps": self.segmenter_steps,
            "augmentation": arm.augmentation, **arm.settings,
        }  # fmt: skip
        if arm.synthetic is not None:
            settings["synthetic_probability"] = arm.synthetic_probability
        return settings

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
        told = _outspoken(self.model_dump(mode="json"))
        if self.group is None:
            told.pop("group")
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


HELD_OUT = "held out"


def _outspoken(value: Any) -> Any:
    """Without later fields that say nothing."""
    if isinstance(value, list):
        return [_outspoken(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: _outspoken(v) for k, v in value.items() if k not in LATER or v not in (None, False)}


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
        place = tuple(first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        came = "" if not place or isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise AugmintError(f"{_where(path, root, place)}: {what}{came}") from error
    except StudyError as error:
        raise AugmintError(f"{_where(path, root, error.place)}: {error}") from error


def _where(path: Path, root: Any, place: tuple[int | str, ...]) -> str:
    field = ".".join(str(part) for part in place)
    return f"study {path}, line {_line(root, place)}{f', field {field}' if field else ''}"


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
