"""What was prepared for nnU-Net, noted beside its plans, and where its trainings go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from augmint.data.layout import read_json
from augmint.errors import AugmintError
from augmint.segmentation.nnunet.arms import STATE, TRAINER, Arm
from augmint.segmentation.nnunet.commands import Folders, require_nnunet
from augmint.segmentation.nnunet.planning import find_prepared
from augmint.staging import write_text

SCHEMA_VERSION = 1


def begin_state(target: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What was done before for these cases and this plan.

    Raises:
        AugmintError: if the folder was prepared from other cases or another plan.
    """
    path = target / STATE
    kept = {k: v for k, v in facts.items() if k != "splits"}
    fresh = {
        "schema_version": SCHEMA_VERSION, **kept, "planned": False, "preprocessed": [], "arms": [],
    }  # fmt: skip
    if not path.is_file():
        return fresh
    before = read_json(path)
    for key, what in (("cases_sha256", "cases or splits"), ("plan", "plans")):
        if before.get(key) != facts[key]:
            raise AugmintError(
                f"{target} was prepared from other {what}; delete it and nnU-Net's results of "
                "this dataset, or give another --id"
            )
    return {**fresh, **{k: before[k] for k in ("planned", "preprocessed", "arms")}}


def save_state(target: Path, state: dict[str, Any]) -> None:
    """Note what is done, as one rename."""
    write_text(target / STATE, json.dumps(state, indent=1))


def load_state(
    dataset: str | int | Path, arm: str, configuration: str, folders: Folders
) -> tuple[str, dict[str, Any]]:
    """The dataset's name and what preparing noted of it.

    Raises:
        AugmintError: if it, the arm or the configuration is not prepared.
    """
    require_nnunet()
    name = find_prepared(Path(str(dataset)).name, folders)
    path = folders.preprocessed / name / STATE
    if not path.is_file():
        raise AugmintError(f"{path} does not exist; run `augmint nnunet prepare` first")
    state = read_json(path)
    for kind, wanted, known in (
        ("arm", arm, state["arms"]),
        ("configuration", configuration, state["preprocessed"]),
    ):
        if wanted not in known:
            raise AugmintError(
                f"{name} has no {kind} {wanted!r}, only {', '.join(known) or 'none'}; prepare it, "
                "or name one of these"
            )
    return name, state


def spent_patients(state: dict[str, Any], folds: Sequence[str | int], arm: Arm) -> frozenset[str]:
    """Patients that the arm, or what made its synthetic cases, was fitted on."""
    chosen = state["folds"] if "all" in folds else [state["folds"][int(k)] for k in folds]
    spent = {p for fold in chosen for p in fold["train_patients"]}
    if "all" in folds:
        spent |= {p for fold in chosen for p in fold["validation"]}
    if arm.synthetic_probability > 0:
        spent |= {p for fold in chosen for p in fold["seen_patients"]}
    return frozenset(spent)


def train_command(
    dataset_id: int,
    configuration: str,
    fold: str,
    arm: str,
    *,
    device: str | None = None,
    resume: bool = False,
) -> list[str]:
    """nnU-Net's own training command of an arm."""
    words = [
        "nnUNetv2_train", f"{dataset_id:03d}", configuration, fold, "-p", arm, "-tr", TRAINER,
    ]  # fmt: skip
    return [*words, *(["-device", device] if device else []), *(["--c"] if resume else [])]


def model_folder(folders: Folders, name: str, arm: str, configuration: str) -> Path:
    """Where nnU-Net keeps the trainings of an arm."""
    return folders.results / name / f"{TRAINER}__{arm}__{configuration}"
