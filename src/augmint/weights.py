"""Folders of safetensors beside a config.json, replaced as a whole; no pickle, ever."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augmint.errors import AugmintError


def write_folder(
    folder: Path, tensors: dict[str, dict[str, Tensor]], facts: dict[str, Any]
) -> None:
    """Write {file: {name: tensor}} and facts.json beside each other, as one rename.

    A kill leaves the old folder or the new one, never a mixture.
    """
    from safetensors.torch import save_file

    temporary = folder.with_name(folder.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, group in tensors.items():
        save_file({k: v.contiguous() for k, v in group.items()}, temporary / f"{name}.safetensors")
    (temporary / "config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_folder(folder: Path, *names: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `write_folder` wrote.

    Raises:
        AugmintError: if a file is missing or damaged.
    """
    from safetensors.torch import load_file

    folder_exists(folder)
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {n: load_file(folder / f"{n}.safetensors") for n in names}, facts
    except Exception as error:
        raise AugmintError(
            f"checkpoint {folder}: cannot be read ({error}); fit again, or point to a folder that "
            f"holds config.json and {', '.join(n + '.safetensors' for n in names)}"
        ) from error


def folder_exists(folder: Path) -> bool:
    """Whether a folder of `write_folder` stands here, also after a kill between its renames."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    return folder.exists()


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Hex digest of all that `write_folder` wrote: names and contents, config.json among them."""
    parts = (f"{path.name} {sha256(path)}" for path in sorted(folder.iterdir()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights, detached, on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    return {
        f"{index}/{name}": value.detach().cpu()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took, into an optimizer over the same parameters."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    # A fused step walks raw memory, so a moment must be laid out as its parameter is.
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
