"""The main job: fit, generate, gate, write, report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.splits import Fold, draw_patients, folds, hold_back
from augmint.errors import AugmintError
from augmint.fit import (
    fit_method,
    load_run,
    method_with_preset,
    resolve_device,
    training_config,
    versions,
    write_run,
)
from augmint.gating import fit_agreement, learn_gates, rejections
from augmint.generate import check_copies, signatures, synthesise
from augmint.methods import sees_whole_frames
from augmint.prepare import Prepared, prepare, real_labelled
from augmint.presets import Preset, preset_named
from augmint.progress import Talk
from augmint.quality.gates import check_enough_patients, check_gates
from augmint.quality.validity import Rules
from augmint.staging import output_folder, refuse_existing
from augmint.synthetic import check_cases, finish_dataset, write_real

HELD_FRACTION = 0.2


@dataclass(frozen=True)
class Plan:
    """Who trains and who validates, before anything is computed.

    Attributes:
        dataset: All real cases that the synthetic dataset will carry.
        held_back: Real patients that nothing is fitted on.
        folds: The cross-validation; empty for one split.
    """

    dataset: Dataset
    held_back: tuple[str, ...]
    folds: tuple[Fold, ...]

    @property
    def fits(self) -> list[tuple[int | None, tuple[str, ...]]]:
        """(fold, training patients) of each generator and gate."""
        if self.folds:
            return [(k, tuple(f.train)) for k, f in enumerate(self.folds)]
        held = set(self.held_back)
        return [(None, tuple(p for p in self.dataset.patients if p not in held))]


def plan_patients(
    dataset: Dataset,
    *,
    patients: int | Sequence[str] | None = None,
    held_fraction: float = HELD_FRACTION,
    num_folds: int = 0,
    seed: int = 0,
) -> Plan:
    """Draw training and held-back patients, or folds.

    Args:
        dataset: Real labelled cases.
        patients: How many patients to train on, or which; all that are not held back by default.
        held_fraction: Held-back patients as a share of the training patients (of all patients,
            where `patients` is None). 0 holds none back.
        num_folds: Above 0: that many folds over the chosen patients, and nobody held back.
        seed: Of the draws.

    Raises:
        AugmintError: if there are too few patients.
    """
    everyone = dataset.patients
    if num_folds and held_fraction not in (0, HELD_FRACTION):
        raise AugmintError(
            "folds hold every patient back in turn; give either --folds or --hold-back"
        )
    if not 0 <= held_fraction < 1:
        raise AugmintError(f"--hold-back is a share from 0 to below 1; got {held_fraction}")
    if isinstance(patients, int):
        if patients < 1:
            raise AugmintError(f"{patients} training patients asked for; ask for 1 or more")
        if patients > len(everyone):
            raise AugmintError(
                f"{patients} training patients asked for, {dataset.name} has {len(everyone)} with "
                "labels; ask for fewer"
            )
        chosen = draw_patients(everyone, patients, seed)
    else:
        chosen = everyone if patients is None else tuple(patients)
    if num_folds:
        if not 2 <= num_folds <= len(chosen):
            raise AugmintError(
                f"{num_folds} folds need 2 or more, and as many patients; there are {len(chosen)}"
            )
        part = dataset.select(patients=list(chosen))
        return Plan(part, (), tuple(folds(part, num_folds, seed)))
    if held_fraction == 0 or len(everyone) == 1:
        return Plan(dataset.select(patients=list(chosen)), (), ())
    if patients is None:
        _, held = hold_back(everyone, fraction=held_fraction, seed=seed)
        return Plan(dataset, tuple(held), ())
    others = [p for p in everyone if p not in set(chosen)]
    wanted = min(len(others), max(1, round(held_fraction * len(chosen))))
    held = draw_patients(others, wanted, seed) if wanted else ()
    return Plan(dataset.select(patients=[*chosen, *held]), tuple(held), ())


def augment(
    data: Path | str | Dataset,
    out: Path | str,
    *,
    method: str = "mask_to_image",
    settings: Mapping[str, Any] | None = None,
    preset: str = "quick",
    copies: int = 5,
    patients: int | Sequence[str] | None = None,
    held_fraction: float = HELD_FRACTION,
    num_folds: int = 0,
    steps: int | None = None,
    gate_steps: int | None = None,
    gates: Sequence[str] = ("agreement",),
    rules: Path | str | Rules | None = None,
    dims: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Make a checked synthetic dataset from a labelled one.

    Args:
        data: A dataset folder, or an opened dataset.
        out: The dataset to make, an nnU-Net raw dataset with the real cases and the accepted
            synthetic ones.
        method: A name in `METHODS` or `module:Class`.
        settings: Fields of the method.
        preset: `quick` (two cores), `standard` or `large` (a GPU).
        copies: Synthetic cases for each real training case.
        patients: How many patients to train on, or which.
        held_fraction: Real patients held back for validation, see `plan_patients`.
        num_folds: Cross-validation: one generator and one gate for each fold.
        steps: Optimiser steps of the generator, instead of the preset's.
        gate_steps: Optimiser steps of each gate segmenter, instead of the preset's.
        gates: Which of `agreement`, `validity` and `copies` reject pairs; none accepts all.
        rules: A YAML file of anatomical rules, the name of built-in ones, or rules that were read;
            those that are built in for the labels by default.
        dims: 2 or 3, instead of what the data suggest.
        seed: Seeds everything.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue unfinished work.
        talk: Where progress goes.

    Returns:
        The dataset's folder.
    """
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        raise AugmintError(
            "augment runs in one process; under torchrun use `augmint fit`, then `augmint generate`"
        )
    check_copies(copies)
    talk = talk or Talk()
    opened = data if isinstance(data, Dataset) else open_dataset(data)
    dataset = real_labelled(opened)
    plan = plan_patients(
        dataset, patients=patients, held_fraction=held_fraction, num_folds=num_folds, seed=seed
    )
    used, known_rules = check_gates(gates, dataset.labels, rules)
    check_enough_patients(used, min((train for _, train in plan.fits), key=len))
    sizes = preset_named(preset)
    request = dict(
        command="augment", data=str(dataset.root.resolve()), labels=dict(dataset.labels),
        method=method, settings=dict(settings or {}), preset=preset, copies=copies,
        patients=list(plan.dataset.patients), held_back=list(plan.held_back), folds=num_folds,
        steps=steps, gate_steps=gate_steps, gates=list(used),
        rules=None if known_rules is None else known_rules.fingerprint,
        dims=dims, seed=seed,
    )  # fmt: skip
    chosen = method_with_preset(method, settings, sizes)
    where = resolve_device(device)
    talk.say(
        f"{dataset.name}: {len(plan.dataset)} cases of {len(plan.dataset.patients)} patients "
        f"({dataset.patient_rule}); held back {len(plan.held_back)}; device {where}"
    )
    if unlabelled := len(opened) - len(dataset):
        talk.say(f"left out: {unlabelled} case(s) without a mask, or synthetic")
    if not plan.held_back and not plan.folds and held_fraction:
        talk.say("nobody is held back to validate on: every patient trains")
    refuse_existing(Path(out))
    check_cases(plan.dataset, talk, chosen)
    with output_folder(Path(out), request, resume=resume) as folder:
        write_real(plan.dataset, folder, talk)
        entries, gate_facts, costs = [], [], []
        for number, (fold, training) in enumerate(plan.fits):
            if fold is not None:
                talk.say(f"fold {fold + 1} of {len(plan.folds)}")
            part = plan.dataset.select(patients=list(training))
            run = folder / "run" if fold is None else folder / "run" / f"fold_{fold}"
            start = time.monotonic()
            prepared = prepare(part, sizes, dims=dims, whole=sees_whole_frames(chosen), talk=talk)
            judges = learn_gates(prepared, used, known_rules, chosen, run, where, talk)
            fit_seconds = _fit(
                run, prepared, request, method, settings, sizes, steps, seed, where, talk
            )
            gated = time.monotonic()
            judges = fit_agreement(judges, prepared, sizes, gate_steps, run, seed, where, talk)
            fitted = load_run(run, device=str(where))
            generated = time.monotonic()
            cost = synthesise(
                fitted, part, folder, copies=range(number * copies, (number + 1) * copies),
                seed=seed, gate=judges, device=where, talk=talk, fold=fold,
            )  # fmt: skip
            held = plan.held_back if fold is None else plan.folds[fold].validation
            entries.append(
                {
                    "fold": fold,
                    "generator_patients": list(fitted.generator_patients),
                    "gate_patients": list(training) if used else [],
                    "validation_patients": list(held),
                }
            )
            gate_facts.append(judges.facts())
            costs.append(
                {
                    "fold": fold,
                    "prepare_and_fit_seconds": round(gated - start, 1),
                    "fit_seconds_recorded": fit_seconds,
                    "gate_seconds": round(generated - gated, 1),
                    "generate_judge_write_seconds": round(time.monotonic() - generated, 1),
                    **cost,
                }
            )
        facts = {
            "request": request,
            "versions": versions(),
            "signature": signatures(folder),
            "folds": entries,
            "gates": gate_facts,
            "cost": costs,
        }
        rows = finish_dataset(
            plan.dataset, folder, facts, held_back=plan.held_back, folds=plan.folds,
            facts_grid=fitted.facts,
        )  # fmt: skip
    made = [r for r in rows if r["synthetic"]]
    kept = sum(r["accepted"] for r in made)
    talk.say(f"wrote {kept} accepted of {len(made)} synthetic cases to {out}")
    for line in rejections(made, used):
        talk.say(line)
    talk.say(
        f"look at {out}/report.html; train with: augmint segment {out} -o RUN"
        if kept
        else f"nothing to train on: {out}/sheets/rejected.png shows what was rejected and why; fit "
        "longer (--steps, or a larger preset), and look whether the real masks fit their images"
    )
    if not _nnunet_name(Path(out).name):
        talk.say(
            "hint: nnU-Net wants its raw datasets named DatasetNNN_Name; rename or link the folder"
        )
    return Path(out)


def _nnunet_name(name: str) -> bool:
    import re

    return re.fullmatch(r"Dataset\d{3}_\w+", name) is not None


def _fit(
    run: Path,
    prepared: Prepared,
    request: Mapping[str, Any],
    method: str,
    settings: Mapping[str, Any] | None,
    sizes: Preset,
    steps: int | None,
    seed: int,
    device: torch.device,
    talk: Talk,
) -> float:
    """Fit into OUT/run unless that is done; returns the seconds it took then."""
    import json

    if not (run / "run.json").exists():
        run.mkdir(parents=True, exist_ok=True)
        chosen = method_with_preset(method, settings, sizes)
        training = training_config(sizes, prepared.facts, steps, seed)
        start = time.monotonic()
        hashes = fit_method(
            chosen, prepared, run, training=training, device=device, sizes=sizes, talk=talk
        )
        seconds = time.monotonic() - start
        write_run(run, request, chosen, prepared, training, hashes, seconds, device)
    return float(json.loads((run / "run.json").read_text())["seconds"])
