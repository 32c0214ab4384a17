"""Fits the gates of a synthetic dataset and tells what they rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from augmint.errors import AugmintError
from augmint.methods import Method, keeps_pixels
from augmint.prepare import Prepared
from augmint.presets import Preset
from augmint.progress import Talk
from augmint.quality.agreement import check_masks, fit_gate, gate_config
from augmint.quality.gates import Gates, ValidityGate, fit_copies, fit_validity
from augmint.quality.validity import Rules
from augmint.synthetic import rejected_by


def learn_gates(
    prepared: Prepared,
    used: Sequence[str],
    rules: Rules | None,
    method: Method,
    run: Path,
    device: torch.device,
    talk: Talk,
) -> Gates:
    """All that gates learn without a segmenter; it stands before the generator's long fit.

    Args:
        prepared: The real training cases; gates see nobody else.
        used: Names of the gates that reject.
        rules: Anatomical rules, if any are known.
        method: That of the generator.
        run: Its folder; `gate/` in it keeps what is learned.
        device: Where to compute.
        talk: Where progress goes.

    Raises:
        AugmintError: if a gate in use cannot be had with these cases.
    """
    # Cases are read anew: the pool keeps images in half precision, which moves the threshold for
    # copies, and masks without the grids that synthetic ones are stored on.
    grid = prepared.facts.grid
    if "agreement" in used:
        check_masks(prepared.pool)
    copies = None
    if "copies" in used:
        copies = fit_copies(
            prepared.dataset, grid, folder=run / "gate", device=device, talk=talk,
            keeps_pixels=keeps_pixels(method),
        )  # fmt: skip
    return Gates(tuple(used), grid, None, _validity(prepared, used, rules, talk), copies)


def _validity(
    prepared: Prepared, used: Sequence[str], rules: Rules | None, talk: Talk
) -> ValidityGate | None:
    """The limits of the rules; None without rules, or where they cannot be learned nor are used."""
    if rules is None:
        return None
    try:
        facts = prepared.facts
        return fit_validity(prepared.dataset, facts.labels, rules, facts.grid)
    except AugmintError as error:
        if "validity" in used:
            raise
        talk.say(f"anatomical rules are not looked at: {error}")
        return None


def fit_agreement(
    gates: Gates,
    prepared: Prepared,
    sizes: Preset,
    steps: int | None,
    run: Path,
    seed: int,
    device: torch.device,
    talk: Talk,
) -> Gates:
    """The gates with agreement's segmenters, those found in OUT/run/gate not fitted again."""
    if "agreement" not in gates.used:
        return gates
    config = gate_config(sizes, gates.grid.dims, seed, steps=steps)
    agreement = fit_gate(
        prepared.pool.crop(gates.grid.window),
        prepared.dataset.items,
        prepared.dataset.load,
        prepared.facts.labels,
        gates.grid,
        config=config,
        num_folds=sizes.gate_folds,
        folder=run / "gate",
        device=device,
        talk=talk,
    )
    return replace(gates, agreement=agreement)


def rejections(made: Sequence[Mapping[str, Any]], used: Sequence[str]) -> list[str]:
    """How many each gate rejected, and how many break a rule that rejects nothing.

    Args:
        made: The manifest's rows of synthetic cases.
        used: Names of the gates that reject.
    """
    lines = []
    if len(used) > 1 and made:
        shares = (
            f"{name} {count} ({count / len(made):.0%})"
            for name, count in rejected_by(made, used).items()
        )
        lines.append(f"rejected by {', '.join(shares)}")
    broken = sum(r.get("validity") == 0 for r in made)
    if broken and "validity" not in used:
        lines.append(
            f"{broken} of {len(made)} synthetic masks break an anatomical rule, see the column "
            f"broken of manifest.csv; --gates {','.join([*used, 'validity'])} would reject them"
        )
    return lines
