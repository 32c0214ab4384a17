"""A study as its YAML file declares it, checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from augmint.study.arms import faults_of_arms, faults_of_rules
from augmint.study.reading import Kind, Place, StudyError, Words, read_as

Metric = Literal["dice", "precision", "recall", "hd", "hd95", "assd", "surface_dice", "failure"]
ALL: Literal["all"] = "all"
Size = Literal["all"] | float
LabelMap = dict[str, str | None]
# Fields that came later: where they say nothing, a protocol keeps the hash it had before them.
LATER = (
    "domains", "label_map", "arms_at_larger_sizes", "allow_same_names", "largest_component",
    "sliding", "failure_hd", "gates", "rules", "adapt", "protocol", "oracle",
)  # fmt: skip
# Fields of a segmenter that a study says in its own words.
ELSEWHERE = {
    "augmentation": "a field of the arm",
    "synthetic_probability": "a field of the arm",
    "network": "one of the study's networks",
    "seed": "one of the study's seeds",
}


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
        gates: Which of agreement, validity and copies reject pairs; agreement alone by default.
        rules: A YAML file of anatomical rules, relative to the study's file, or the name of
            built-in ones; those that are built in for the labels by default.
        filtered: False uses rejected pairs too.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    copies: int = Field(5, ge=1)
    steps: int | None = Field(None, ge=1)
    gate_steps: int | None = Field(None, ge=1)
    gates: list[Literal["agreement", "validity", "copies"]] | None = None
    rules: str | None = None
    filtered: bool = True


class Adaptation(_Strict):
    """Test images shifted towards the training domain before they are segmented.

    The segmenter is that of the arm it is like; nothing is trained anew, and no label of a test is
    read.

    Attributes:
        method: A name in `METHODS`, or `module:Class`, of a method that adapts.
        settings: Fields of the method.
        steps: Optimiser steps of its networks, instead of the preset's.
        dims: 2 or 3, instead of the study's: a 2-D network shifts volumes slice by slice, all of a
            patient alike.
        repeats: Translations of each image; the probabilities of all of them and, where there are
            several, of the image as it was are averaged.
        unlabelled: Name of a test whose images join the fit without their labels.
    """

    method: str = "reference_shift"
    settings: dict[str, Any] = Field(default_factory=dict)
    steps: int | None = Field(None, ge=1)
    dims: Literal[2, 3] | None = None
    repeats: int = Field(1, ge=1)
    unlabelled: str | None = None


class Oracle(_Strict):
    """Training with labels of the test: what no method may do, and the most that one can reach.

    For each test of another dataset or domain its patients are cross-fitted: the segmenter is
    trained on some of them and segments the others. No image of the training dataset joins, so that
    all draws and sizes share these trainings; labels that the training dataset does not teach are
    background, as they are to the other arms.

    Attributes:
        folds: Parts of the test's patients; each is segmented by what was trained on the others.
    """

    folds: int = Field(5, ge=2)


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
        adapt: How test images are shifted before they are segmented, or None. The training is that
            of the arm it is like, again.
        null: Identical to the arm it is like, under other seeds: what it gains is noise.
        oracle: Train with labels of the test's other patients instead, or None. It is shown beside
            the others and takes no part in the correction for several comparisons.
    """

    like: str | None = None
    augmentation: str = "strong"
    synthetic: Generator | None = None
    synthetic_probability: float = Field(0.5, ge=0, le=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    largest_component: bool = False
    sliding: bool = False
    adapt: Adaptation | None = None
    null: bool = False
    oracle: Oracle | None = None

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
        metric: Of `scores.csv`, or `failure`: the share of cases that failed, see `failure_hd`.
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
        protocol: What may be seen of a test before it is segmented: with `generalisation`, which is
            meant by default, nothing; with `adaptation` its images, never a label.
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
        failure_hd: Hausdorff distance above which a label has failed, in the unit of the distances;
            20 mm by default, none for pixels. Needed where the endpoint is `failure`.
    """

    name: str
    data: str
    patients: list[str] | str | None = None
    domains: list[str] | None = Field(None, min_length=1)
    label_map: LabelMap | None = None
    sizes: list[Size] | None = Field(None, min_length=1)
    draws: int = Field(1, ge=1)
    folds: int = Field(0, ge=0)
    protocol: Literal["generalisation", "adaptation"] | None = None
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
    failure_hd: float | None = Field(None, gt=0, allow_inf_nan=False)

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
    def _whole(self, info: ValidationInfo) -> Study:
        faults = [*self._check_design(), *self._check_names(), *faults_of_arms(self)]
        if info.context is not None:
            faults += faults_of_rules(self, info.context)
        if faults:
            raise StudyError(faults)
        return self

    def _check_design(self) -> Iterator[tuple[Place, str]]:
        """Baseline, folds, draws and tests."""
        if self.baseline not in self.arms:
            arms = ", ".join(self.arms)
            yield ("baseline",), f"baseline {self.baseline!r} is no arm; arms: {arms}"
        if self.folds == 1:
            yield ("folds",), "folds is 0 or at least 2"
        if not self.folds and not self.tests:
            yield (), "a study needs tests, or folds"
        if self.folds and self.draws > 1:
            yield ("draws",), "folds are the draws of a cross-validation; leave draws at 1"
        if self.group is not None and not self.folds:
            yield (
                ("group",),
                "group splits the results of folds, and there are none; write it into a test",
            )

    def _check_names(self) -> Iterator[tuple[Place, str]]:
        """Tests, endpoint and the arms of larger sizes."""
        tests = [HELD_OUT] * bool(self.folds) + [t.name for t in self.tests]
        if len(set(tests)) < len(tests):
            yield ("tests",), f"tests share a name: {', '.join(tests)}"
        if tests and self.endpoint.test not in tests:
            yield (
                ("endpoint", "test"),
                f"endpoint.test {self.endpoint.test!r} is no test; tests: {', '.join(tests)}",
            )
        if self.endpoint.metric == "failure" and self.failure_hd is None:
            yield (
                ("endpoint", "metric"),
                "an endpoint of failure needs failure_hd, the Hausdorff distance above which a "
                "label has failed, such as failure_hd: 20 where distances are in mm",
            )
        known = [t.name for t in self.tests]
        for name, arm in self.arms.items():
            if arm.adapt and arm.adapt.unlabelled not in (None, *known):
                place = ("arms", name, "adapt", "unlabelled")
                yield place, f"{arm.adapt.unlabelled!r} is no test; tests: {', '.join(known)}"
        chosen, field = self.arms_at_larger_sizes, ("arms_at_larger_sizes",)
        for name in chosen or ():
            if name not in self.arms:
                yield field, f"{name!r} is no arm; arms: {', '.join(self.arms)}"
        if chosen is not None and self.baseline in {*self.arms} - {*chosen}:
            yield field, f"lacks the baseline {self.baseline!r}, which all arms are compared with"
        if chosen is not None and len(self.sizes or ()) < 2:
            yield field, "there is one size only; leave it out, or give more sizes"

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

    def competes(self, name: str) -> bool:
        """Whether an arm may win: a null arm measures noise, and an oracle does what none may."""
        arm = self.arm(name)
        return not arm.null and arm.oracle is None

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


CALLED: dict[Kind, str] = {
    Study: "a study", Arm: "an arm", Generator: "synthetic", Adaptation: "adapt",
    Oracle: "oracle", Test: "a test", Endpoint: "the endpoint",
}  # fmt: skip


def _belongs(kind: Kind, name: str, value: Any) -> str:
    """Where a field goes that stands where it does not belong; empty where nothing has it."""
    import yaml

    from augmint.methods import METHODS
    from augmint.segmentation.training import SegmenterConfig

    def written(inside: Any) -> str:
        return yaml.safe_dump(inside, default_flow_style=True, width=10**6).strip()

    pair = written({name: value})
    found = []
    if name in ELSEWHERE:
        found.append(f"{name} is {ELSEWHERE[name]}")
    elif name in {f.name for f in fields(SegmenterConfig)}:
        whose = "" if kind is Arm else " of an arm"
        found.append(f"the segmenter's fields go under settings: {pair}{whose}")
    if kind is Arm and name in Generator.model_fields:
        found.append(f"the generator's fields go under synthetic: {pair}")
    of_methods: set[str] = {f.name for method in METHODS.values() for f in fields(method)}
    if kind in (Arm, Generator, Adaptation) and name in of_methods - set(ELSEWHERE):
        whole = (
            f"settings: {pair}"
            if kind in (Generator, Adaptation)
            else f"synthetic: {{settings: {pair}}}"
        )
        found.append(f"the method's fields go under {whole}")
    inner = (Generator, Adaptation, Oracle)
    owners = [c for k, c in CALLED.items() if k not in inner and name in k.model_fields]
    if owners and not found:
        found.append(f"{' and '.join(owners)} has such a field")
    return "; ".join(found)


def read_study(path: Path | str, base: Path | str | None = None) -> Study:
    """Read and check a study's YAML file, and the files of rules that it names.

    Args:
        path: The file.
        base: The folder that the study's paths are relative to; that of the file by default.

    Raises:
        AugmintError: naming the file, and line and field of each fault.
    """
    folder = Path(path).parent if base is None else Path(base)
    return read_as(Study, Path(path), Words(CALLED, _belongs), folder)
