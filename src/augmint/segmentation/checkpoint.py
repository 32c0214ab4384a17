"""Segmenters on disk: safetensors and JSON, written beside and renamed; no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from augmint.errors import AugmintError
from augmint.segmentation.networks import Segmenter, build_segmenter
from augmint.weights import module_tensors, optimizer_tensors, read_folder, write_folder
from augmint.weights import restore_optimizer as restore_tensors


def save_segmenter(
    folder: Path,
    network: Segmenter,
    *,
    optimizer: Optimizer | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint; a kill leaves the old one or the new one, never a mixture.

    Args:
        folder: Of this checkpoint; replaced as a whole.
        network: Its weights and its spec.
        optimizer: Given where the fit is to be resumed.
        progress: Plain values to resume from.
    """
    tensors = {"network": module_tensors(network)}
    if optimizer is not None:
        tensors["optimizer"] = optimizer_tensors(optimizer)
    facts = {"network": asdict(network.spec), "progress": dict(progress or {})}
    write_folder(folder, tensors, facts)


def load_segmenter(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[Segmenter, dict[str, Any]]:
    """A segmenter in evaluation mode, and the progress stored with it.

    Raises:
        AugmintError: if the folder is no checkpoint of a segmenter.
    """
    tensors, facts = read_folder(folder, "network")
    try:
        network = build_segmenter(**facts["network"])
        network.load_state_dict(tensors["network"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise AugmintError(
            f"checkpoint {folder} cannot be read ({error}); fit the segmenter again, or point to "
            "the folder of a segmenter"
        ) from error
    return network.to(device).eval(), facts["progress"]


def restore_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Puts the stored state back into an optimizer over the same parameters.

    Raises:
        AugmintError: if the file is missing or damaged.
    """
    restore_tensors(optimizer, read_folder(folder, "optimizer")[0]["optimizer"])
