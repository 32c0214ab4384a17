"""Weights as safetensors beside a config.json; no pickle, ever."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augmint.diffusion.networks import Denoiser, NetworkConfig, build_network
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
    (temporary / "config.json").write_text(json.dumps(facts, indent=1))
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

    # A kill between the two renames leaves only the old folder.
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    try:
        facts = json.loads((folder / "config.json").read_text())
        return {n: load_file(folder / f"{n}.safetensors") for n in names}, facts
    except Exception as error:
        raise AugmintError(
            f"checkpoint {folder}: cannot be read ({error}); fit again, or point to a folder that "
            f"holds config.json and {', '.join(n + '.safetensors' for n in names)}"
        ) from error


def save_network(folder: Path, network: Denoiser) -> str:
    """Write weights and config to `folder`; returns the weights' SHA-256."""
    weights = {k: v.detach().cpu() for k, v in network.state_dict().items()}
    write_folder(folder, {"network": weights}, network.config.to_json())
    return sha256(folder / "network.safetensors")


def load_network(folder: Path, device: torch.device | str = "cpu") -> tuple[Denoiser, str]:
    """A network in evaluation mode and the SHA-256 of its weights.

    Raises:
        AugmintError: if the folder is no checkpoint or its weights do not fit its config.
    """
    tensors, facts = read_folder(folder, "network")
    try:
        network = build_network(NetworkConfig(**facts))
        network.load_state_dict(tensors["network"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise AugmintError(
            f"checkpoint {folder}: the weights do not fit config.json ({error}); fit again"
        ) from error
    network.to(device).eval()
    return network, sha256(folder / "network.safetensors")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    return {
        f"{index}.{name}": value.detach().cpu()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights, detached, on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
