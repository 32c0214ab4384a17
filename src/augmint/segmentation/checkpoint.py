"""Segmenters on disk: safetensors and JSON, written beside and renamed; no pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from augmint.errors import AugmintError
from augmint.segmentation.networks import Segmenter, build_segmenter

NETWORK, OPTIMIZER, STATE = "network.safetensors", "optimizer.safetensors", "config.json"


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
    from safetensors.torch import save_file

    temporary = folder.with_name(folder.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_contiguous(network.state_dict()), temporary / NETWORK)
    if optimizer is not None:
        tensors = {
            f"{index}/{name}": value
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        save_file(_contiguous(tensors), temporary / OPTIMIZER)
    facts = {"network": asdict(network.spec), "progress": dict(progress or {})}
    (temporary / STATE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_segmenter(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[Segmenter, dict[str, Any]]:
    """A segmenter in evaluation mode, and the progress stored with it.

    Raises:
        AugmintError: if the folder is no checkpoint of a segmenter.
    """
    from safetensors.torch import load_file

    try:
        _mend(folder)
        facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
        network = build_segmenter(**facts["network"])
        network.load_state_dict(load_file(folder / NETWORK))
    except AugmintError:
        raise
    except Exception as error:
        raise AugmintError(
            f"checkpoint {folder} cannot be read ({error}); fit the segmenter again, or point to "
            f"a folder that holds {STATE} and {NETWORK}"
        ) from error
    return network.to(device).eval(), facts["progress"]


@torch.no_grad()
def restore_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Puts the stored state back into an optimizer over the same parameters.

    Raises:
        AugmintError: if the file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / OPTIMIZER)
    except Exception as error:
        raise AugmintError(
            f"checkpoint {folder} has no readable {OPTIMIZER} ({error}); start the fit afresh"
        ) from error
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        states.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    # A fused step walks raw memory, so a moment must be laid out as its parameter is.
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint stands in this folder, also after a kill between the two renames."""
    _mend(folder)
    return folder.exists()


def _mend(folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
