"""Which precision a segmenter computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[Any]:
    """Autocast to bf16 where it is asked for; under `auto` where the processor computes in it."""
    kind = torch.device(device).type
    wanted = precision == "bf16" or (precision == "auto" and _fast_bf16(kind))
    return torch.autocast(kind, torch.bfloat16, enabled=wanted)


def _fast_bf16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A private function: under a torch without it, computing is in fp32.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return kind == "cpu" and supported is not None and bool(supported())
