"""Networks on disk: weights as safetensors beside a config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from augmint.diffusion.autoencoder import Autoencoder, AutoencoderConfig
from augmint.diffusion.networks import Denoiser, NetworkConfig
from augmint.errors import AugmintError
from augmint.weights import read_folder, sha256, write_folder

Network = Denoiser | Autoencoder


def save_network(folder: Path, network: Network) -> str:
    """Write weights and config to `folder`; returns the weights' SHA-256."""
    weights = {k: v.detach().cpu() for k, v in network.state_dict().items()}
    write_folder(folder, {"network": weights}, network.config.to_json())
    return sha256(folder / "network.safetensors")


def load_network(folder: Path, device: torch.device | str = "cpu") -> tuple[Network, str]:
    """A network in evaluation mode and the SHA-256 of its weights.

    Raises:
        AugmintError: if the folder is no checkpoint or its weights do not fit its config.
    """
    tensors, facts = read_folder(folder, "network")
    try:
        network = _config(facts).build()
        network.load_state_dict(tensors["network"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise AugmintError(
            f"checkpoint {folder}: the weights do not fit config.json ({error}); fit again"
        ) from error
    network.to(device).eval()
    return network, sha256(folder / "network.safetensors")


def _config(facts: dict[str, Any]) -> NetworkConfig | AutoencoderConfig:
    """A config.json as a config; a denoiser's names no kind."""
    fields = {name: value for name, value in facts.items() if name != "kind"}
    if facts.get("kind") == "autoencoder":
        return AutoencoderConfig(**fields)
    return NetworkConfig(**facts)
