"""Who trains a segmenter, who validates it, and which synthetic cases may join: no leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.layout import read_json
from augmint.data.splits import (
    check_leak,
    check_synthetic,
    draw_patients,
    patients_seen,
)
from augmint.errors import AugmintError


@dataclass(frozen=True)
class Roles:
    """The cases of one segmenter.

    Attributes:
        real: Real training cases.
        synthetic: Accepted synthetic training cases, or None.
        validation: Real cases of other patients, or None.
        seen: Patients that the synthetic cases were made from, or that their generator and gate
            were fitted on.
        datasets: Names of the datasets that these cases come from.
        seen_elsewhere: Those of `seen` whose dataset nobody recorded: `generate` may use a
            generator fitted on another one.
    """

    real: Dataset
    synthetic: Dataset | None
    validation: Dataset | None
    seen: tuple[str, ...]
    datasets: tuple[str, ...]
    seen_elsewhere: tuple[str, ...] = ()

    @property
    def validation_patients(self) -> tuple[str, ...]:
        """Sorted; empty without validation."""
        return () if self.validation is None else self.validation.patients

    def to_json(self) -> dict[str, Any]:
        """What a run remembers of it."""
        return {
            "train_patients": list(self.real.patients),
            "validation_patients": list(self.validation_patients),
            "seen_patients": list(self.seen),
            "counts": {
                "real": len(self.real),
                "synthetic": 0 if self.synthetic is None else len(self.synthetic),
                "validation": 0 if self.validation is None else len(self.validation),
            },
        }

    def in_words(self) -> str:
        """One line for the user."""
        count = 0 if self.synthetic is None else len(self.synthetic)
        held = len(self.validation_patients)
        return (
            f"{self.real.name}: {len(self.real)} real cases of {len(self.real.patients)} patients "
            f"({self.real.patient_rule}), {count} synthetic; "
            + (f"validated on {held} patients" if held else "no validation, the last weights count")
        )


def assign_roles(
    data: Dataset,
    synthetic: Dataset | None,
    *,
    patients: int | Sequence[str] | None,
    fold: int | None,
    validation: int | float | None,
    seed: int,
    unfiltered: bool = False,
) -> Roles:
    """Split real cases by patient, choose synthetic ones, and rule out every leak.

    Raises:
        AugmintError: for a leak, an unknown fold, labels that differ, or too few patients.
    """
    real = replace(data, items=tuple(i for i in data.items if i.masks and not i.synthetic))
    if not real.items:
        raise AugmintError(f"{data.root}: no real case has a mask; training needs labelled cases")
    source = synthetic
    if source is None and any(i.synthetic for i in data.items):
        source = data
    run = {} if source is None else _run_of(source)
    held = sorted({*_held(run, source, fold), *_held_by_data(data, source, fold)})
    train, held_here = _patients(real.patients, held, patients, validation, seed)
    check_leak(train, held_here)
    made: Dataset | None = None
    seen: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    if source is not None:
        follow = set(train) if synthetic is None and patients is not None else None
        made, seen = _synthetic(source, run, fold, follow, [*held, *held_here], unfiltered)
        if (run.get("request") or {}).get("command") != "augment":
            elsewhere = tuple(sorted(patients_seen(run, fold)))
        if dict(made.labels) != dict(real.labels):
            raise AugmintError(
                f"{made.root} has the labels {dict(made.labels)}, {real.name} has "
                f"{dict(real.labels)}; give both one label map"
            )
    return Roles(
        real.select(patients=train),
        made,
        real.select(patients=held_here) if held_here else None,
        seen,
        tuple(sorted({d.name for d in (real, made) if d is not None})),
        elsewhere,
    )


def _run_of(source: Dataset) -> Mapping[str, Any]:
    path = source.root / "run.json"
    if not path.is_file():
        raise AugmintError(
            f"{source.root} has no run.json, so a leak cannot be ruled out; give a dataset made "
            "by `augmint augment` or `augmint generate`"
        )
    run = read_json(path)
    if not isinstance(run, Mapping) or not isinstance(run.get("folds"), list):
        raise AugmintError(f"{path}: does not say which patients a generator saw; make it again")
    return run


def _held(run: Mapping[str, Any], source: Dataset | None, fold: int | None) -> list[str]:
    """The validation patients that the synthetic dataset names."""
    if source is None:
        if fold is not None:
            raise AugmintError("--fold names a part of a dataset made with --folds; there is none")
        return []
    known = [e.get("fold") for e in run["folds"]]
    if fold not in known:
        numbers = ", ".join(str(k) for k in known if k is not None)
        raise AugmintError(
            f"{source.root} has the folds {numbers}; name one with --fold, since each trains only "
            "on its own synthetic cases"
            if numbers
            else f"{source.root} was made without --folds; leave --fold out"
        )
    entry = run["folds"][known.index(fold)]
    extra = run.get("held_back_patients") or []
    return sorted({*entry.get("validation_patients", ()), *extra})


def _held_by_data(data: Dataset, source: Dataset | None, fold: int | None) -> list[str]:
    """The validation patients of the real cases, where they lie in a synthetic dataset too."""
    path = data.root / "run.json"
    if source is data or not path.is_file():
        return []
    run = read_json(path)
    if not isinstance(run, Mapping) or not isinstance(run.get("folds"), list):
        return []
    entries = [e for e in run["folds"] if e.get("fold") == fold]
    held = {p for e in entries for p in e.get("validation_patients", ())}
    return sorted(held | set(run.get("held_back_patients") or ()))


def _patients(
    everyone: Sequence[str],
    held: Sequence[str],
    patients: int | Sequence[str] | None,
    validation: int | float | None,
    seed: int,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation patients."""
    held_here = tuple(p for p in everyone if p in set(held))
    named = () if patients is None or isinstance(patients, int) else tuple(patients)
    if validation is not None:
        if held_here:
            raise AugmintError(
                f"the data name {len(held_here)} validation patient(s) themselves; leave "
                "--validation out"
            )
        others = [p for p in everyone if p not in set(named)]
        count = _count(validation, len(everyone))
        if count:
            kept = 0 if named else 1
            if count + kept > len(others):
                raise AugmintError(
                    f"{count} of {len(everyone)} patients cannot validate, "
                    f"{max(0, len(others) - kept)} can; ask for fewer"
                )
            held_here = draw_patients(others, count, seed)
    free = tuple(p for p in everyone if p not in set(held_here))
    if named:
        return named, held_here
    if not free:
        raise AugmintError("every patient validates, none is left to train on")
    return (draw_patients(free, patients, seed) if isinstance(patients, int) else free), held_here


def _count(validation: int | float, patients: int) -> int:
    """How many patients a number or a share of them is; a share is one patient at least."""
    if isinstance(validation, float):
        if not 0 <= validation < 1:
            raise AugmintError(f"a share to validate on lies from 0 to below 1, got {validation}")
        return max(1, round(validation * patients)) if validation else 0
    if validation < 0:
        raise AugmintError(f"the number of patients to validate on is {validation}; give 0 or more")
    return validation


def _synthetic(
    source: Dataset,
    run: Mapping[str, Any],
    fold: int | None,
    follow: set[str] | None,
    held: Sequence[str],
    unfiltered: bool,
) -> tuple[Dataset, tuple[str, ...]]:
    """The accepted synthetic cases, proven to owe nothing to the held patients.

    `unfiltered` takes the rejected ones, too.
    """
    from augmint.synthetic import load_rows

    rejected = source.root / "rejected"
    every = source.items
    if unfiltered and (rejected / "imagesTr").is_dir() and any((rejected / "imagesTr").iterdir()):
        every = (*every, *open_dataset(rejected).items)
    items = tuple(
        i
        for i in every
        if i.synthetic
        and i.provenance is not None
        and i.provenance.fold == fold
        and (follow is None or i.patient_id in follow)
    )
    if not items:
        raise AugmintError(
            f"{source.root}: no accepted synthetic case is left to train on; make more copies, "
            "look at rejected/, or train on the real dataset alone"
        )
    chosen = {i.case_id for i in items}
    rows = [{**r, "accepted": "1"} for r in load_rows(source.root) if r["case"] in chosen]
    check_synthetic(rows, run, held)
    # Masks of these cases were warped from those of their patients, whoever fitted the generator.
    seen = patients_seen(run, fold) | {i.patient_id for i in items}
    return replace(source, items=items), tuple(sorted(seen))
