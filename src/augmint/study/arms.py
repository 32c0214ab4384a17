"""Whether a study's arms can be trained, and what their generators are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augmint.errors import AugmintError
from augmint.study.reading import Place

if TYPE_CHECKING:
    from augmint.quality.validity_rules import Rules
    from augmint.segmentation.training import SegmenterConfig
    from augmint.study.spec import Adaptation, Study


def faults_of_arms(study: Study) -> Iterator[tuple[Place, str]]:
    """Every reason why an arm cannot be trained with a network, and the field to tell it of.

    That is, as far as can be told without data.
    """
    from augmint.presets import preset_named
    from augmint.segmentation.networks import SEGMENTERS

    networks = [network for network in study.networks if network in SEGMENTERS]
    for number, network in enumerate(study.networks):
        if network not in networks:
            known = ", ".join(SEGMENTERS)
            yield ("networks", number), f"unknown network {network!r}; choose from {known}"
    try:
        preset_named(study.preset)
    except AugmintError as error:
        yield ("preset",), str(error)
        return
    told: set[str] = set()
    for name, arm in study.arms.items():
        # What an arm takes over is told of the other one.
        found = [m for m in _faults_of(study, name, networks) if arm.like is None or m not in told]
        told.update(found)
        yield from ((("arms", name), message) for message in found)
    for network in networks:
        misfits = (_misfit(study, name, network) for name in study.arms)
        yield from list(filter(None, misfits))[:1]


def faults_of_rules(study: Study, base: Path) -> Iterator[tuple[Place, str]]:
    """Every file of anatomical rules that cannot be read, and the field that names it."""
    for name, arm in study.arms.items():
        if arm.synthetic is None or arm.synthetic.rules is None:
            continue
        try:
            _read_rules(arm.synthetic.rules, base)
        except AugmintError as error:
            yield ("arms", name, "synthetic", "rules"), str(error)


def generations(study: Study, labels: Mapping[str, int], base: Path) -> dict[str, dict[str, Any]]:
    """What the generator of each arm that has one is asked for, beside patients and seed.

    Args:
        study: The study.
        labels: Of the training dataset.
        base: The folder that the study's paths are relative to.

    Raises:
        AugmintError: for gates and rules that do not go with the labels.
    """
    from augmint.quality.gates import check_gates

    found: dict[str, dict[str, Any]] = {}
    for name in study.arms:
        asked = study.arm(name).synthetic
        if asked is None:
            continue
        # Later fields that say nothing are left out: units keep their keys.
        unsaid = {k for k in ("gates", "rules") if getattr(asked, k) is None}
        found[name] = asked.model_dump(mode="json", exclude={"filtered", *unsaid})
        rules = None if asked.rules is None else _read_rules(asked.rules, base)
        try:
            check_gates(asked.gates or (), labels, rules)
        except AugmintError as error:
            raise AugmintError(f"arm {name!r}: {error}") from error
        if rules is not None:
            # What they ask and not where they stand, so that a unit is named by it.
            found[name]["rules"] = rules.to_json()
    return found


def rules_of(arguments: Mapping[str, Any]) -> Rules | None:
    """The anatomical rules that a generation is asked for; None for those of the labels."""
    from augmint.quality.validity_rules import Rules

    asked = arguments.get("rules")
    return None if asked is None else Rules.from_json(asked, "of the study")


def _read_rules(rules: str, base: Path) -> Rules:
    from augmint.quality.validity_rules import BUILT_IN, read_rules

    return read_rules(rules if rules in BUILT_IN else base / rules)


def _faults_of(study: Study, name: str, networks: list[str]) -> list[str]:
    from augmint.methods import build_method
    from augmint.segmentation.samples import NO_SYNTHETIC

    try:
        arm = study.arm(name)
    except ValueError as error:
        return [str(error)]
    generator, shift = arm.synthetic, arm.adapt
    found = [] if arm.oracle is None else _faults_of_oracle(study, name)
    if shift is not None:
        found += _faults_of_shift(study, shift)
    if generator is not None:
        try:
            build_method(generator.method, generator.settings)
        except AugmintError as error:
            found.append(str(error))
    for network in networks:
        try:
            config = _configured(study, name, network)
        except AugmintError as error:
            found.append(str(error))
            continue
        if config.needs_synthetic and generator is None:
            found.append(NO_SYNTHETIC)
        if config.mix_with == "augmented" and generator is not None:
            found.append(
                "mix_with augmented mixes real images with themselves; leave synthetic out"
            )
    return list(dict.fromkeys(found))


def _faults_of_shift(study: Study, shift: Adaptation) -> list[str]:
    from augmint.methods import build_method

    found = []
    if study.protocol != "adaptation":
        found.append(
            "it shifts test images, so it sees them; a study that allows that says so with "
            "protocol: adaptation"
        )
    try:
        method = build_method(shift.method, shift.settings)
        if not hasattr(method, "adapt"):
            found.append(f"{shift.method} cannot adapt images; use reference_shift")
    except AugmintError as error:
        found.append(str(error))
    return found


def _faults_of_oracle(study: Study, name: str) -> list[str]:
    arm, found = study.arm(name), []
    joined = [k for k in ("synthetic", "adapt", "null") if getattr(arm, k)]
    if joined:
        found.append(
            "an oracle trains on labels of the test and on nothing else; leave out "
            f"{' and '.join(joined)}"
        )
    if name == study.baseline:
        found.append("an oracle is no baseline: it trains with labels of the test")
    if not study.tests:
        found.append("an oracle needs tests of another dataset or domain, and there are none")
    return found


def _misfit(study: Study, name: str, network: str) -> tuple[Place, str] | None:
    """A width that a network cannot have, if the arm has no other fault."""
    from augmint.segmentation.networks import SEGMENTERS

    try:
        config = _configured(study, name, network)
    except (AugmintError, ValueError):
        return None
    step = SEGMENTERS[config.network].width_step
    if config.width % step == 0:
        return None
    return ("arms", name), (
        f"the width of {config.network} is a multiple of {step}, not {config.width}; set "
        "segmenter_width"
    )


def _configured(study: Study, name: str, network: str) -> SegmenterConfig:
    from augmint.presets import preset_named
    from augmint.segment import segmenter_config

    settings = study.segmenter_settings(name, network)
    return segmenter_config(preset_named(study.preset), study.dims or 2, 0, settings)
