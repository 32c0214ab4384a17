"""The first gate: does a segmenter fitted on real pairs find the mask in the synthetic image?

The gate's segmenters are fitted on real training patients in folds, so that each is blind to some
of them. The threshold of each label comes from real pairs, each predicted by the segmenter that is
blind to its patient; a synthetic pair is judged by the segmenter that is blind to the patient of
its source, by the same rule.
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
from augmint.errors import AugmintError
from augmint.evaluation.metrics import dice
from augmint.imaging.working import WorkingGrid
from augmint.presets import Preset
from augmint.progress import Talk
from augmint.segmentation.cases import predict_case
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.staging import write_text

QUANTILE = 0.05
# Below this median of real pairs a gate says little.
NEARLY_BLIND = 0.5
# Of gate.json. 2: label by label also where only the prediction has the label, real and synthetic
# pairs alike. Thresholds of an older rule are worked out again.
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class AgreementGate:
    """Segmenters, and the least Dice per label that a pair must reach.

    Attributes:
        segmenters: One for each fold of the training patients.
        unseen: For each segmenter, the patients that it is blind to; each patient is in one of
            them, and in none where there is a single patient.
        thresholds: Label name to the least Dice; none for a label that no real mask holds.
        real: Label name to the out-of-fold Dice of every real training case where mask or
            prediction has the label.
        labels: Label name to index.
        grid: The segmenters' working grid.
        patients: Those that the segmenters or the thresholds saw.
        warnings: Why not to trust its verdicts; see `warnings_of`.
    """

    segmenters: Sequence[Segmenter]
    unseen: Sequence[frozenset[str]]
    thresholds: Mapping[str, float]
    real: Mapping[str, Sequence[float]]
    labels: Mapping[str, int]
    grid: WorkingGrid
    patients: Sequence[str]
    warnings: Sequence[str] = ()

    def judge(
        self, case: Case, device: torch.device | str = "cpu"
    ) -> tuple[dict[str, float | None], str]:
        """Agreement per label of a whole native case, and why it is rejected ("" if it is not).

        None stands for a label that neither mask nor prediction has. A label that only one of them
        has is an agreement of 0.
        """
        agreement = self.agreement(case, device)
        for name, value in agreement.items():
            least = self.thresholds.get(name)
            if value is not None and least is not None and value < least:
                return agreement, f"agreement {name} {value:.3f} < {least:.3f}"
        return agreement, ""

    def agreement(self, case: Case, device: torch.device | str = "cpu") -> dict[str, float | None]:
        """Dice per annotated label between a native case's mask and what its segmenter finds.

        The segmenter is one that is blind to the case's patient. Where all of them are blind to
        the patient the first judges: thresholds are those of single segmenters, and an average
        would see better than they did.
        """
        blind = [s for s, held in zip(self.segmenters, self.unseen) if case.patient_id in held]
        eyes = blind[:1] or self.segmenters[:1]
        found = predict_case(eyes, case, self.grid, device=device)
        return agreement_of(case, found.numpy(), self.labels)


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


def threshold(dices: Sequence[float], quantile: float = QUANTILE) -> float:
    """The least Dice asked for: a low quantile of real pairs, but half their median at least.

    The floor matters where a few real cases fail altogether: a quantile near 0 would let
    everything pass.
    """
    values = np.asarray(dices, dtype=float)
    return float(max(np.quantile(values, quantile), 0.5 * np.median(values)))


def warnings_of(
    thresholds: Mapping[str, float], real: Mapping[str, Sequence[float]], annotated: Sequence[str]
) -> list[str]:
    """Sentences on labels where "accepted" says little: hardly found in real pairs, or not judged.

    Args:
        thresholds: As in the gate.
        real: As in the gate.
        annotated: Names of the labels that were looked for.
    """
    found = []
    for name in annotated:
        if name not in thresholds:
            found.append(f"the gate does not judge {name}: no real training mask holds it")
            continue
        median = float(np.median(real[name]))
        if median < NEARLY_BLIND:
            found.append(
                f"the gate is nearly blind for {name}: it finds real ones with a Dice of only "
                f"{median:.2f} (median, out of fold), so accepted says little; fit it longer "
                "(a larger --preset; from Python and in studies, gate_steps)"
            )
    return found


def check_masks(pool: Pool) -> None:
    """Make sure that there is something to judge by; cheap, so ask before a long fit.

    Raises:
        AugmintError: if no mask holds any label.
    """
    if not bool(((pool.masks > 0) & (pool.masks < 255)).any()):
        raise _nothing_to_judge()


def _nothing_to_judge() -> AugmintError:
    return AugmintError(
        "no real training mask holds any label, so no gate can tell whether a pair agrees; check "
        "the mask files and the label map with `augmint inspect`, or choose training patients "
        "whose masks are not empty"
    )


def gate_config(
    sizes: Preset, dims: int, seed: int, *, steps: int | None = None
) -> SegmenterConfig:
    """Of the small segmenters that judge images: the gate's, and others that only look.

    Args:
        sizes: The preset.
        dims: Of the working grid.
        seed: Of the fit.
        steps: Instead of the preset's.
    """
    return SegmenterConfig(
        width=sizes.segmenter_width,
        steps=steps or sizes.gate_steps,
        batch_size=16 if dims == 2 else sizes.batch_size_3d,
        seed=seed,
    )


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
        talk: Where progress and warnings go.

    Raises:
        AugmintError: if no real mask holds any label.
    """
    if (folder / "gate.json").exists() and _facts(folder).get("schema_version") == SCHEMA_VERSION:
        gate = load_gate(folder, grid, device)
    else:
        check_masks(pool)
        patients = sorted(set(pool.patient_ids))
        # With one patient there is no unseen fold, and the threshold is optimistic.
        parts: Sequence[Any] = ()
        if len(patients) > 1:
            parts = folds(patients, min(num_folds, len(patients)), config.seed)
        unseen = [frozenset(f.validation) for f in parts] or [frozenset()]
        segmenters = _fit_segmenters(pool, unseen, labels, config, folder, device, talk)
        bare = AgreementGate(segmenters, unseen, {}, {}, labels, grid, patients)
        gate = _calibrate(bare, cases, load, device)
        facts = {
            "schema_version": SCHEMA_VERSION,
            "thresholds": gate.thresholds,
            "quantile": QUANTILE,
            "real_out_of_fold_dice": gate.real,
            "warnings": gate.warnings,
            "patients": patients,
            "labels": dict(labels),
            "grid": grid.to_json(),
            "segmenter": asdict(config),
            "folds": [sorted(held) for held in unseen],
        }
        write_text(folder / "gate.json", json.dumps(facts, indent=1))
    for warning in gate.warnings:
        talk.say(f"WARNING: {warning}")
    return gate


def _fit_segmenters(
    pool: Pool,
    unseen: Sequence[frozenset[str]],
    labels: Mapping[str, int],
    config: SegmenterConfig,
    folder: Path,
    device: torch.device,
    talk: Talk,
) -> list[Segmenter]:
    """A segmenter for each fold, but those that stand in the folder."""
    segmenters = []
    for k, held in enumerate(unseen):
        where = folder / f"segmenter_{k}"
        if not where.exists():
            train = pool.select(p for p in sorted(set(pool.patient_ids)) if p not in held)
            with talk.bar(f"gate segmenter {k + 1}/{len(unseen)}", config.steps) as update:
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
    return segmenters


def _calibrate(
    gate: AgreementGate, cases: Sequence[Any], load: Any, device: torch.device
) -> AgreementGate:
    """The gate with thresholds from real cases, judged as synthetic ones will be.

    Raises:
        AugmintError: if no mask holds any label.
    """
    real: dict[str, list[float]] = {n: [] for n, i in gate.labels.items() if i > 0}
    annotated: set[str] = set()
    held: set[str] = set()
    for item in cases:
        case = load(item)
        for name, value in gate.agreement(case, device).items():
            if name not in real:
                continue
            annotated.add(name)
            # A label that the segmenter only imagines counts as 0 here, as it does in `judge`.
            if value is not None:
                real[name].append(value)
            if bool((case.mask == gate.labels[name]).any()):
                held.add(name)
    if not held:
        raise _nothing_to_judge()
    thresholds = {n: threshold(v) for n, v in real.items() if n in held}
    known = [n for n in real if n in annotated]
    warnings = warnings_of(thresholds, real, known)
    return replace(gate, thresholds=thresholds, real=real, warnings=warnings)


def load_gate(folder: Path, grid: WorkingGrid, device: torch.device | str = "cpu") -> AgreementGate:
    """The gate that `fit_gate` left in a folder."""
    facts = _facts(folder)
    return AgreementGate(
        [load_segmenter(folder / f"segmenter_{k}", device)[0] for k in range(len(facts["folds"]))],
        [frozenset(held) for held in facts["folds"]],
        facts["thresholds"],
        facts["real_out_of_fold_dice"],
        facts["labels"],
        grid,
        facts["patients"],
        facts.get("warnings", []),
    )


def _facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "gate.json").read_text()))
