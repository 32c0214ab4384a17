"""Which precision networks compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def resolve_precision(device: torch.device | str, precision: Precision) -> Precision:
    """`auto` is bf16 on GPUs that have it and on processors with AMX, else fp32."""
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    if kind == "cuda":
        # Emulated bf16 is slower than fp32.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # A private function: under a torch without it, computing is in fp32.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bf16" if kind == "cpu" and supported is not None and supported() else "fp32"


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[Any]:
    """The context of a forward pass: bf16 where it pays or was asked for, otherwise nothing."""
    if resolve_precision(device, precision) == "bf16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()
