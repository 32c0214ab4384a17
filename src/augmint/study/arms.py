"""Whether a study's arms can be trained, as far as can be told without data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from augmint.errors import AugmintError
from augmint.study.reading import Place

if TYPE_CHECKING:
    from augmint.segmentation.training import SegmenterConfig
    from augmint.study.spec import Study


def faults_of_arms(study: Study) -> Iterator[tuple[Place, str]]:
    """Every reason why an arm cannot be trained with a network, and the field to tell it of."""
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


def _faults_of(study: Study, name: str, networks: list[str]) -> list[str]:
    from augmint.methods import build_method

    try:
        generator = study.arm(name).synthetic
    except ValueError as error:
        return [str(error)]
    found = []
    if generator is not None:
        try:
            build_method(generator.method, generator.settings)
        except AugmintError as error:
            found.append(str(error))
    for network in networks:
        try:
            _configured(study, name, network)
        except AugmintError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


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
