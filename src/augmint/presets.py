"""How much work a command does: quick for two cores, standard and large for a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from augmint.errors import AugmintError


@dataclass(frozen=True)
class Preset:
    """Sizes of everything that a command fits.

    Attributes:
        longest: Pixels along the longest side of a 2-D working grid.
        longest_3d: Voxels along the longest side of a 3-D one.
        network: Size of the denoiser.
        steps: Optimiser steps of a denoiser, for 2-D.
        steps_3d: Optimiser steps of a denoiser, for 3-D, whose batches are small.
        batch_size: Of a denoiser's fit, for 2-D.
        batch_size_3d: Of a denoiser's fit, for 3-D.
        segmenter_steps: Optimiser steps of a segmenter.
        segmenter_width: Channels of its first level.
        gate_steps: Optimiser steps of each of the gate's segmenters.
        gate_folds: Segmenters of the gate, each blind to its part of the patients.
    """

    longest: int
    longest_3d: int
    network: str
    steps: int
    steps_3d: int
    batch_size: int
    batch_size_3d: int
    segmenter_steps: int
    segmenter_width: int
    gate_steps: int
    gate_folds: int


PRESETS: dict[str, Preset] = {
    "tiny": Preset(32, 16, "tiny", 20, 20, 4, 2, 20, 8, 20, 2),
    "demo": Preset(96, 48, "small", 700, 1500, 12, 2, 250, 16, 300, 2),
    "quick": Preset(128, 64, "small", 1200, 2400, 16, 2, 1200, 32, 500, 2),
    "standard": Preset(192, 96, "medium", 20000, 20000, 32, 4, 6000, 32, 3000, 3),
    "large": Preset(256, 128, "large", 60000, 60000, 32, 4, 20000, 48, 6000, 5),
}


def preset_named(name: str) -> Preset:
    """A preset by name.

    Raises:
        AugmintError: if there is none of that name.
    """
    if name not in PRESETS:
        raise AugmintError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
