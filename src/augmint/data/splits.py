"""Splits by patient, and the guard against training on what a generator should not have seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from augmint.data.dataset import Dataset
from augmint.data.layout import listed
from augmint.errors import AugmintError

SEEN_KEYS = ("generator_patients", "gate_patients")
# What may be seen of a target domain: nothing, or its images without their labels.
Protocol = Literal["generalisation", "adaptation"]


@dataclass(frozen=True)
class Fold:
    """One fold: which patients train and which validate, each sorted."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class DomainSplit:
    """Trained on one domain, tested on another.

    Attributes:
        domain: Name of the domain that is held.
        train: The source: all of it may be seen.
        held: The target: no patient of it is in `train`.
        protocol: What may be seen of `held` before it is tested on.

    Raises:
        AugmintError: if a patient is on both sides. Datasets of different names have different
            patients.
    """

    domain: str
    train: Dataset
    held: Dataset
    protocol: Protocol = "generalisation"

    def __post_init__(self) -> None:
        if self.train.name == self.held.name:
            check_leak(self.train.patients, self.held.patients)

    def adaptation_images(self) -> Dataset:
        """All that a fit may see of the target: its images, without a label.

        Raises:
            AugmintError: under generalisation, which sees nothing of it.
        """
        if self.protocol != "adaptation":
            raise AugmintError(
                f"protocol {self.protocol}: nothing of {self.domain!r} may be seen before it is "
                "tested on; what sees its images without labels is adaptation"
            )
        return without_labels(self.held)


def folds(source: Dataset | Iterable[str], k: int, seed: int) -> tuple[Fold, ...]:
    """Random folds by patient; patients of each domain are spread evenly over them.

    Args:
        source: A dataset, or patients without domains.
        k: Number of folds, 2 or more.
        seed: The same seed gives the same folds whatever the order of the patients.

    Raises:
        AugmintError: if there are fewer patients than folds.
    """
    strata = _strata(source)
    patients = sorted(patient for members in strata.values() for patient in members)
    if not 2 <= k <= len(patients):
        raise AugmintError(
            f"{k} folds of {len(patients)} patient(s); give 2 folds or more and at most one per "
            "patient"
        )
    generator = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for key in sorted(strata):
        for patient in generator.permutation(sorted(strata[key])):
            # Counting on across domains keeps the folds' sizes within one of each other.
            fold_of[str(patient)] = len(fold_of) % k
    return tuple(
        Fold(
            index,
            tuple(p for p in patients if fold_of[p] != index),
            tuple(p for p in patients if fold_of[p] == index),
        )
        for index in range(k)
    )


def draw_patients(patients: Iterable[str], n: int, seed: int) -> tuple[str, ...]:
    """`n` patients at random, sorted; under one seed a smaller draw is part of a larger one.

    Raises:
        AugmintError: if there are fewer than `n`, or `n` is below 1.
    """
    pool = sorted(set(patients))
    if not 1 <= n <= len(pool):
        raise AugmintError(f"{n} of {len(pool)} patient(s) cannot be drawn; give 1 to {len(pool)}")
    order = np.random.default_rng(seed).permutation(len(pool))
    return tuple(sorted(pool[i] for i in order[:n]))


def hold_back(
    patients: Iterable[str], *, fraction: float | None = None, n: int | None = None, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split patients at random into those kept and those held back, each sorted.

    Args:
        patients: All of them.
        fraction: Share to hold back, at least one patient; or
        n: their number.
        seed: Of the draw.

    Returns:
        Kept, held back; neither is empty.

    Raises:
        AugmintError: if not exactly one of `fraction` and `n` is given, or one side were empty.
    """
    pool = sorted(set(patients))
    if (fraction is None) == (n is None):
        raise AugmintError("give either the fraction or the number of patients to hold back")
    if fraction is not None:
        if not 0 < fraction < 1:
            raise AugmintError(
                f"the fraction to hold back must lie between 0 and 1, got {fraction}"
            )
        n = max(1, round(fraction * len(pool)))
    if n is None or not 1 <= n < len(pool):
        raise AugmintError(
            f"{n} of {len(pool)} patient(s) cannot be held back; one must remain on either side"
        )
    held = draw_patients(pool, n, seed)
    return tuple(p for p in pool if p not in set(held)), held


def leave_one_domain_out(
    dataset: Dataset,
    *,
    shared_fraction: float = 0.3,
    seed: int = 0,
    protocol: Protocol = "generalisation",
) -> Iterator[DomainSplit]:
    """For each domain: train on the others, hold that domain.

    Where patients appear in several domains (views of one heart), `shared_fraction` of them is
    held back: the held side has only their cases of this domain, the train side only cases of
    the other domains and of other patients.

    Raises:
        AugmintError: if there are fewer than two domains, or a case has none.
    """
    nameless = [item.case_id for item in dataset.items if not item.domain]
    if nameless or len(dataset.domains) < 2:
        raise AugmintError(
            f"{dataset.name}: leaving a domain out needs two or more, got "
            f"{', '.join(dataset.domains) or 'none'}"
            f"{f' and {len(nameless)} case(s) without' if nameless else ''}; name them in the "
            "column `domain` of cases.csv"
        )
    where = _domains_of(dataset)
    shared = [patient for patient, domains in where.items() if len(domains) > 1]
    held_shared: set[str] = set()
    if shared:
        held_shared = set(hold_back(shared, fraction=shared_fraction, seed=seed)[1])
    for domain in dataset.domains:
        held = {p for p, domains in where.items() if domains == {domain}} | {
            p for p in held_shared if domain in where[p]
        }
        others = [name for name in dataset.domains if name != domain]
        kept = {p for p, domains in where.items() if p not in held and domains & set(others)}
        yield DomainSplit(
            domain,
            train=dataset.select(patients=kept, domains=others),
            held=dataset.select(patients=held, domains=[domain]),
            protocol=protocol,
        )


def without_labels(dataset: Dataset) -> Dataset:
    """The same cases as if nobody had labelled them: what may be seen of a target domain.

    Their masks cannot be read through it, so that no label of the target reaches a fit.
    """
    return replace(dataset, items=tuple(replace(item, masks=()) for item in dataset.items))


def check_leak(
    train_patients: Iterable[str], held_patients: Iterable[str], *, seen: Iterable[str] = ()
) -> None:
    """Make sure that no held patient trains, and that no fitted network saw one.

    Args:
        train_patients: Patients trained on.
        held_patients: Patients of validation or test.
        seen: Patients that a generator, a gate or a threshold was fitted on.

    Raises:
        AugmintError: naming the patients on both sides.
    """
    held = set(held_patients)
    for what, patients in (("trained on", train_patients), ("seen by a fitted network", seen)):
        both = sorted(held & set(patients))
        if both:
            raise AugmintError(
                f"leak: {len(both)} validation or test patient(s) are {what}: {listed(both, 10)}; "
                "split by patient, and refit the generator and its gate inside the fold"
            )


def check_protocol(
    protocol: Protocol,
    tested: Mapping[str, Collection[str]],
    *,
    labels: Mapping[str, Collection[str]],
    images: Mapping[str, Collection[str]],
    what: str,
) -> None:
    """Make sure that no label of a test is read before it is scored, nor an image that may not be.

    Args:
        protocol: What may be seen of a test.
        tested: Dataset to its patients who test.
        labels: Dataset to the patients whose images and labels are read.
        images: Likewise, of images alone.
        what: What reads them.

    Raises:
        AugmintError: naming dataset and patients.
    """
    hidden = [("labels", labels)]
    if protocol != "adaptation":
        hidden.append(("images", images))
    for part, read in hidden:
        for dataset, patients in read.items():
            both = sorted(set(patients) & set(tested.get(dataset, ())))
            if both:
                raise AugmintError(
                    f"leak: {what} reads {part} of {len(both)} test patient(s) of {dataset}: "
                    f"{listed(both, 10)}; under the protocol {protocol} "
                    + (
                        "images of a test may be seen, labels never"
                        if protocol == "adaptation"
                        else "nothing of a test may be seen"
                    )
                )


def check_synthetic(
    rows: Iterable[Mapping[str, Any]], run: Mapping[str, Any], held_patients: Iterable[str]
) -> None:
    """Make sure that synthetic cases owe nothing to the held patients.

    Args:
        rows: Rows of the manifest that would be trained on; rejected and real rows are passed
            over. Values may be strings or numbers.
        run: The synthetic dataset's run.json, whose `folds` name the patients that each fold's
            generator and gate saw.
        held_patients: Patients of validation or test.

    Raises:
        AugmintError: naming the patients, or if the run does not say what a fold saw.
    """
    held = set(held_patients)
    by_fold: dict[int | None, list[str]] = defaultdict(list)
    for row in rows:
        synthetic, accepted = (str(row.get(k, "")).lower() for k in ("synthetic", "accepted"))
        if synthetic in ("1", "true") and accepted not in ("0", "false"):
            number = row.get("fold")
            fold = None if number in (None, "") else int(number)
            by_fold[fold].append(str(row.get("case", "")))
            if row.get("patient") in held:
                raise AugmintError(
                    f"leak: synthetic case {row.get('case')!r} was made from the validation or "
                    f"test patient {row['patient']}; generate from training patients only"
                )
    for index, cases in by_fold.items():
        leaked = sorted(held & patients_seen(run, index))
        if leaked:
            raise AugmintError(
                f"leak: {len(cases)} synthetic case(s) such as {cases[0]!r} come from a generator "
                f"or gate that saw {len(leaked)} validation or test patient(s): "
                f"{listed(leaked, 10)}; generate with --folds, or from training patients only"
            )


def patients_seen(run: Mapping[str, Any], fold: int | None) -> frozenset[str]:
    """The patients that the generator and the gate of one fold were fitted on.

    Raises:
        AugmintError: if run.json does not say so.
    """
    entries = run.get("folds")
    matching: Sequence[Any] = [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, Mapping) and entry.get("fold") == fold
    ]
    if len(matching) != 1 or any(not isinstance(matching[0].get(k), list) for k in SEEN_KEYS):
        name = "without folds" if fold is None else f"of fold {fold}"
        raise AugmintError(
            f"run.json does not say which patients the generator and gate {name} saw; without it "
            "a leak cannot be ruled out, so generate again"
        )
    return frozenset(str(patient) for key in SEEN_KEYS for patient in matching[0][key])


def _domains_of(dataset: Dataset) -> dict[str, set[str]]:
    """Patient -> the domains of its cases."""
    where: dict[str, set[str]] = defaultdict(set)
    for item in dataset.items:
        where[item.patient_id].add(item.domain)
    return where


def _strata(source: Dataset | Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    """Patients grouped by the domains they appear in; one group without domains."""
    if not isinstance(source, Dataset):
        return {(): {source} if isinstance(source, str) else set(source)}
    strata: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for patient, domains in _domains_of(source).items():
        strata[tuple(sorted(domains))].add(patient)
    return strata
