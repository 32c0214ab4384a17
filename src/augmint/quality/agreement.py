"""The first gate: does a segmenter fitted on real pairs find the mask in the synthetic image?

The gate's segmenters are fitted on real training patients in folds. The threshold of each label
comes from their out-of-fold predictions on those real pairs, each by the segmenters that did not
see its patient; a synthetic pair is judged by the average of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augmint.case import Case
from augmint.data.pool import Pool
from augmint.data.splits import folds
from augmint.imaging.working import WorkingGrid
from augmint.progress import Talk
from augmint.segmentation.cases import predict_case
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.staging import write_text

QUANTILE = 0.05


@dataclass(frozen=True)
class AgreementGate:
    """Segmenters, and the least Dice per label that a pair must reach.

    Attributes:
        segmenters: One for each fold of the training patients; their probabilities are averaged.
        thresholds: Label name to the least Dice.
        real: Label name to the out-of-fold Dice of every real training case that has the label.
        labels: Label name to index.
        grid: The segmenters' working grid.
        patients: Those that the segmenters or the thresholds saw.
    """

    segmenters: Sequence[Segmenter]
    thresholds: Mapping[str, float]
    real: Mapping[str, Sequence[float]]
    labels: Mapping[str, int]
    grid: WorkingGrid
    patients: Sequence[str]

    def judge(
        self, case: Case, device: torch.device | str = "cpu"
    ) -> tuple[dict[str, float | None], str]:
        """Agreement per label of a whole native case, and why it is rejected ("" if it is not).

        None stands for a label that neither mask nor prediction has.
        """
        assert case.mask is not None
        found = predict_case(self.segmenters, case, self.grid, device=device)
        agreement = agreement_of(case, found.numpy(), self.labels)
        for name, value in agreement.items():
            least = self.thresholds.get(name)
            # The threshold is that of real cases with the label; a mask without it is not judged.
            asked = bool((case.mask == self.labels[name]).any())
            if asked and value is not None and least is not None and value < least:
                return agreement, f"agreement {name} {value:.3f} < {least:.3f}"
        return agreement, ""


def agreement_of(
    case: Case, prediction: np.ndarray, labels: Mapping[str, int]
) -> dict[str, float | None]:
    """Dice per annotated label between a case's mask and a prediction; None where both lack it."""
    assert case.mask is not None
    mask = case.mask.numpy()
    return {
        name: dice(mask == index, prediction == index)
        for name, index in labels.items()
        if index in case.annotated
    }


def dice(reference: np.ndarray, prediction: np.ndarray) -> float | None:
    """2 |A and B| / (|A| + |B|) of two boolean masks; None where both are empty."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else None


def threshold(dices: Sequence[float], quantile: float = QUANTILE) -> float:
    """The least Dice asked for: a low quantile of real pairs, but half their median at least.

    The floor matters where a few real cases fail altogether: a quantile near 0 would let
    everything pass.
    """
    values = np.asarray(dices, dtype=float)
    return float(max(np.quantile(values, quantile), 0.5 * np.median(values)))


def fit_gate(
    pool: Pool,
    cases: Sequence[Any],
    load: Any,
    labels: Mapping[str, int],
    grid: WorkingGrid,
    *,
    config: SegmenterConfig,
    num_folds: int,
    folder: Path,
    device: torch.device,
    talk: Talk,
) -> AgreementGate:
    """Fit one segmenter for each fold and calibrate the thresholds out of fold.

    Args:
        pool: Real training samples on the segmenters' window.
        cases: The items of the same real cases.
        load: Turns an item into its native case.
        labels: Label name to index.
        grid: The working grid.
        config: Of the segmenters.
        num_folds: At most the number of patients.
        folder: Gets the segmenters and gate.json; what is found there is not done again.
        device: Where to compute.
        talk: Where progress goes.
    """
    if (folder / "gate.json").exists():
        return load_gate(folder, grid, device)
    patients = sorted(set(pool.patient_ids))
    parts = folds(patients, min(num_folds, len(patients)), config.seed) if len(patients) > 1 else ()
    blind = [set(f.validation) for f in parts] or [set()]
    segmenters: list[Segmenter] = []
    for k, held in enumerate(blind):
        where = folder / f"segmenter_{k}"
        if not where.exists():
            train = pool.select(p for p in patients if p not in held)
            with talk.bar(f"gate segmenter {k + 1}/{len(blind)}", config.steps) as update:
                network = fit_segmenter(
                    replace(config, seed=config.seed + k),
                    train,
                    num_classes=max(labels.values()) + 1,
                    folder=folder / f"fit_{k}",
                    device=device,
                    progress=lambda done: update(done, ""),
                    resume=True,
                )
            save_segmenter(where, network)
        segmenters.append(load_segmenter(where, device)[0])
    real: dict[str, list[float]] = {n: [] for n, i in labels.items() if i > 0}
    for item in cases:
        # With one patient there is no unseen fold, and the threshold is optimistic.
        eyes = [s for s, held in zip(segmenters, blind) if item.patient_id in held] or segmenters
        case = load(item)
        found = predict_case(eyes, case, grid, device=device)
        for name, value in agreement_of(case, found.numpy(), labels).items():
            if value is not None and bool((case.mask == labels[name]).any()):
                real[name].append(value)
    thresholds = {n: threshold(v) for n, v in real.items() if v}
    gate = AgreementGate(segmenters, thresholds, real, labels, grid, patients)
    facts = {
        "thresholds": thresholds,
        "quantile": QUANTILE,
        "real_out_of_fold_dice": real,
        "patients": patients,
        "labels": dict(labels),
        "grid": grid.to_json(),
        "segmenter": asdict(config),
        "folds": [sorted(h) for h in blind],
    }
    write_text(folder / "gate.json", json.dumps(facts, indent=1))
    return gate


def load_gate(folder: Path, grid: WorkingGrid, device: torch.device | str = "cpu") -> AgreementGate:
    """The gate that `fit_gate` left in a folder."""
    facts = json.loads((folder / "gate.json").read_text())
    return AgreementGate(
        [load_segmenter(folder / f"segmenter_{k}", device)[0] for k in range(len(facts["folds"]))],
        facts["thresholds"],
        facts["real_out_of_fold_dice"],
        facts["labels"],
        grid,
        facts["patients"],
    )
