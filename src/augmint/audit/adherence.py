"""Part 2 of an audit: does a judge that made and chose nothing find the masks in the images?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augmint.audit.intervals import difference, mean, share
from augmint.audit.material import Material
from augmint.case import Case
from augmint.data.dataset import Dataset, Item
from augmint.data.layout import listed
from augmint.data.splits import folds
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.presets import Preset
from augmint.progress import Talk
from augmint.quality.agreement import agreement_of
from augmint.segment import SegmenterRun, load_segmenter_run
from augmint.segmentation.cases import predict_case
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.weights import sha256

# Real patients that neither generator nor gate saw: as many make a judge of their own.
LEAST_UNSEEN = 5
NETWORK = "attention_unet"
FILE = "network.safetensors"
# Of a segmenter's run.
WEIGHTS = Path("checkpoints", "best", FILE)
# Apart from those of generators, gates and studies.
SEED = 100
# Case, patient, Dice by label; None for a label that its mask does not hold.
Row = tuple[str, str, dict[str, float | None]]
Keep = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Judges:
    """Segmenters, each blind to some of the real patients.

    Attributes:
        networks: One for each fold, or a single given one.
        blind: For each the real patients that it is blind to and scores.
        grid: Their working grid.
        table: Their classes as those of the data; None where they are the same.
        labels: Names of the labels that they were taught, with the data's indices.
        words: Who they are, one sentence.
        independent: Whether they saw nobody that generator or gate saw, and are of another kind
            than the gate's networks.
        known: For each the real patients that it was fitted on or chosen by.
        weights: For each the SHA-256 of the file of its weights.
    """

    networks: Sequence[Segmenter]
    blind: Sequence[frozenset[str]]
    grid: WorkingGrid
    table: np.ndarray | None
    labels: Mapping[str, int]
    words: str
    independent: bool
    known: Sequence[frozenset[str]]
    weights: Sequence[str]

    def agreement(self, case: Case, number: int, device: torch.device) -> dict[str, float | None]:
        """Dice of each label that the case's mask holds.

        The judge is one that is blind to the case's patient; where all are, they take turns.
        """
        own = [k for k, held in enumerate(self.blind) if case.patient_id in held]
        judge = self.networks[own[0] if own else number % len(self.networks)]
        channels = judge.spec.in_channels
        if case.image.shape[0] != channels:
            raise AugmintError(
                f"case {case.case_id!r} has {case.image.shape[0]} channel(s), the judge takes "
                f"{channels}; give a judge of the same channels"
            )
        found = predict_case([judge], case, self.grid, device=device).numpy()
        if self.table is not None:
            found = self.table[found]
        assert case.mask is not None
        return {
            name: value if bool((case.mask == self.labels[name]).any()) else None
            for name, value in agreement_of(case, found, self.labels).items()
        }


def choose_judges(
    material: Material,
    run: Path | str | None,
    folder: Path,
    *,
    preset: Preset,
    steps: int | None,
    seed: int,
    device: torch.device,
    talk: Talk,
) -> Judges:
    """A given run of `segment`, or segmenters fitted here on two halves of the real patients.

    Args:
        material: Everything on one grid.
        run: The given one.
        folder: Gets those fitted here; what is found there is not done again.
        preset: Width and steps of those fitted here.
        steps: Instead of the preset's.
        seed: Of the halves and fits.
        device: Where to compute.
        talk: Where progress goes.

    Raises:
        AugmintError: if the run is none, or shares no label with the data.
    """
    if run is not None:
        return _given(material, run, device)
    parties, facts = material.parties, material.facts
    unseen = [p for p in parties.held if p not in parties.gate]
    enough = len(unseen) >= LEAST_UNSEEN
    chosen = unseen if enough else list(parties.real.patients)
    blind = [frozenset(chosen)]
    if len(chosen) > 1:
        blind = [frozenset(f.validation) for f in folds(chosen, 2, seed)]
    samples = material.real.pool
    config = SegmenterConfig(
        network=NETWORK, width=max(8, preset.segmenter_width // 2), lr=1e-3, seed=SEED + seed,
        steps=steps or preset.segmenter_steps, warmup=min(50, (steps or 50) // 2),
        batch_size=16 if facts.grid.dims == 2 else 2 * preset.batch_size_3d,
    )  # fmt: skip
    networks, known = [], []
    for k, held in enumerate(blind):
        where = folder / f"judge_{k}"
        own = frozenset(chosen) - held if len(blind) > 1 else frozenset(chosen)
        if not where.exists():
            with talk.bar(f"judge {k + 1} of {len(blind)}", config.steps) as update:
                network = fit_segmenter(
                    config, samples.select(sorted(own)), num_classes=facts.num_classes,
                    folder=folder / f"judge_fit_{k}", device=device, resume=True,
                    progress=_telling(update),
                )  # fmt: skip
            save_segmenter(where, network)
        networks.append(load_segmenter(where, device)[0])
        known.append(own)
    words = f"two {NETWORK}, each fitted on half of {len(chosen)} real patients and blind to the "
    words += "other half"
    if len(blind) == 1:
        words, blind = f"one {NETWORK}, fitted on the only real patient", [frozenset()]
    faults = []
    if not enough:
        faults.append(
            f"{len(unseen)} real patient(s) were seen by neither generator nor gate, and "
            f"{LEAST_UNSEEN} are needed"
        )
    if NETWORK in (parties.gate_networks or ()):
        faults.append(f"the gate is an {NETWORK}, too")
    if faults:
        words += f"; they are not independent: {', and '.join(faults)}"
    labels = {n: i for n, i in facts.labels.items() if n in facts.annotated}
    weights = [sha256(folder / f"judge_{k}" / FILE) for k in range(len(networks))]
    return Judges(networks, blind, facts.grid, None, labels, words, not faults, known, weights)


def _telling(update: Callable[[int, str], None]) -> Callable[[int], None]:
    return lambda done: update(done, "")


def _given(material: Material, run: Path | str, device: torch.device) -> Judges:
    taught = load_segmenter_run(run, device)
    parties, facts = material.parties, material.facts
    labels = {n: i for n, i in facts.labels.items() if n in facts.annotated and n in taught.labels}
    labels = {n: i for n, i in labels.items() if n in taught.annotated}
    if not labels:
        raise AugmintError(
            f"{run} was taught {listed(taught.annotated)}, the data have "
            f"{listed(facts.annotated)}; none is shared, so rename with --label-map old=new"
        )
    # A class that the data do not have becomes one that no mask holds.
    other = max(facts.labels.values()) + 1
    table = np.full(max(taught.labels.values()) + 1, other, dtype=np.int64)
    for name, index in taught.labels.items():
        table[index] = facts.labels.get(name, other)
    used = _known_to(taught, parties.real)
    free = frozenset(p for p in parties.real.patients if p not in used)
    network = taught.network
    words = f"the segmenter {Path(run).name}, {network.spec.name}"
    faults = []
    if both := used & (set(parties.seen) | parties.gate):
        faults.append(f"it saw {len(both)} patient(s) that the generator or a gate saw")
    if parties.gate_networks is None:
        faults.append("nothing says what network the gate is, for run/gate/gate.json is not there")
    elif network.spec.name in parties.gate_networks:
        faults.append(f"the gate is a network of its kind, {network.spec.name}")
    if faults:
        words += f"; it is not independent: {', and '.join(faults)}"
    if left := sorted(set(facts.annotated) - set(labels)):
        words += f"; it was not taught {listed(left, 10)}"
    weights = sha256(Path(run) / WEIGHTS)
    return Judges(
        [network], [free], taught.grid, table, labels, words, not faults, [used], [weights]
    )


def _known_to(taught: SegmenterRun, real: Dataset) -> frozenset[str]:
    """Patients of these names that a segmenter saw or was chosen by.

    In a dataset of another name they are other people; a mere folder, though, is named anew with
    each copy.
    """
    if not taught.may_know(real) and real.name != real.root.name:
        return taught.spent_elsewhere
    return taught.spent | taught.validation


def measure_adherence(
    material: Material, judges: Judges, keep: Keep, *, device: torch.device, seed: int, talk: Talk
) -> dict[str, Any]:
    """Score all pairs, rejected ones too, and real ones that the judge never saw.

    Whole cases on their native grid, as a gate judges them. `keep` finds what an earlier run
    finished.
    """
    parties = material.parties
    scored = frozenset().union(*judges.blind)
    real = [(parties.real, i) for i in parties.real.items if i.patient_id in scored]

    def rows(items: Sequence[tuple[Dataset, Item]], title: str) -> list[Row]:
        found: list[Row] = []
        for number, (dataset, item) in enumerate(talk.counted(title, items, len(items))):
            case = dataset.load(item)
            if dataset.root != parties.real.root and not parties.sources_known:
                # Its patients may be named as real ones, and be others.
                case = replace(case, patient_id=case.case_id)
            value = judges.agreement(case, number, device)
            found.append((case.case_id, case.patient_id, value))
        return found

    made_rows = keep("judged_synthetic", lambda: rows(parties.made, "judging synthetic cases"))
    real_rows = keep("judged_real", lambda: rows(real, "judging real cases"))
    kept = [r for r in made_rows if r[0] in parties.accepted]
    flags, patients = [ok for ok, _ in parties.verdicts], [p for _, p in parties.verdicts]
    return {
        "judge": judges.words, "independent": judges.independent,
        "network": judges.networks[0].spec.name,
        "real_are": {"patients": len({r[1] for r in real_rows}), "cases": len(real_rows)},
        "labels": {
            name: {
                "synthetic": _mean(made_rows, name, seed), "accepted": _mean(kept, name, seed),
                "real": _mean(real_rows, name, seed), "difference": _gap(made_rows, real_rows,
                name, seed),
            } for name in judges.labels
        },
        "accepted_share": share(flags, patients, seed=seed) if parties.gated and flags else None,
        "worst": _worst(made_rows),
    }  # fmt: skip


def _column(rows: Sequence[Row], name: str) -> tuple[list[float], list[str]]:
    pairs = [(v[name], p) for _, p, v in rows if v.get(name) is not None]
    return [float(v) for v, _ in pairs if v is not None], [p for _, p in pairs]


def _mean(rows: Sequence[Row], name: str, seed: int) -> dict[str, Any] | None:
    values, patients = _column(rows, name)
    return mean(values, patients, seed=seed) if values else None


def _gap(made: Sequence[Row], real: Sequence[Row], name: str, seed: int) -> dict[str, Any] | None:
    first, second = _column(made, name), _column(real, name)
    return difference(*first, *second, seed=seed) if first[0] and second[0] else None


def _worst(rows: Sequence[Row], count: int = 8) -> list[dict[str, Any]]:
    """The cases of lowest mean Dice: to be looked at."""
    scored = []
    for name, _, values in rows:
        known = [v for v in values.values() if v is not None]
        if known:
            scored.append({"case": name, "dice": float(np.mean(known))})
    return sorted(scored, key=lambda one: (one["dice"], one["case"]))[:count]
