"""The gates together: which synthetic pairs may be used, and why the others may not.

Agreement asks whether the image shows its mask, validity whether the mask is anatomically
possible, copies whether the image is one that the generator was fitted on. A pair is rejected if
any gate in use rejects it, and every one that does says why. Anatomical rules are looked at even
where they reject nothing, wherever some are known.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from augmint.case import Case
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.progress import Talk
from augmint.quality.agreement import AgreementGate
from augmint.quality.copies import LEAST_PATIENTS, SAME, calibrate, likest, worst_of_cases
from augmint.quality.memorisation import CopyIndex, Picture, index_pictures, nearest, pictures_of
from augmint.quality.validity import (
    Limits,
    Rules,
    fit_limits,
    judge,
    through_grid,
)
from augmint.quality.validity_rules import choose_rules
from augmint.staging import write_text

GATES = ("agreement", "validity", "copies")
# Training patients that the threshold of copies is learned from; each is compared with all.
LENDERS = 100


@dataclass(frozen=True)
class Verdict:
    """On one pair.

    Attributes:
        reasons: Gate to why it rejects the pair; empty for an accepted one.
        agreement: Label to Dice; None where neither mask nor prediction has it.
        broken: Quantities whose anatomical rule the mask breaks; None where no rules are known.
        similarity: To the likest training image, -1 to 1; None where copies were not looked for.
        nearest: The name of that image.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    agreement: Mapping[str, float | None] = field(default_factory=dict)
    broken: tuple[str, ...] | None = None
    similarity: float | None = None
    nearest: str = ""

    def columns(self) -> dict[str, Any]:
        """Of the manifest."""
        found: dict[str, Any] = {f"agreement_{k}": v for k, v in self.agreement.items()}
        if self.broken is not None:
            found |= {"validity": 0 if self.broken else 1, "broken": "; ".join(self.broken)}
        if self.similarity is not None:
            found |= {"similarity": self.similarity, "nearest": self.nearest}
        reason = "; ".join(self.reasons.values())
        return {**found, "accepted": 0 if reason else 1, "reason": reason}


@dataclass(frozen=True)
class ValidityGate:
    """Anatomical rules and the limits that real training masks set them, on the working window."""

    rules: Rules
    limits: Limits
    labels: Mapping[str, int]


@dataclass(frozen=True)
class CopyGate:
    """The images of the fit, and how like one of them is too like."""

    index: CopyIndex
    threshold: float
    facts: Mapping[str, Any]
    keeps_pixels: bool = False


@dataclass(frozen=True)
class Gates:
    """The judges of one fold.

    Attributes:
        used: Names of the gates that reject, of `GATES`.
        grid: The working grid; on its window masks are measured and images compared.
        agreement: None where it is not in use.
        validity: None where no rules are known.
        copies: None where it is not in use.
    """

    used: tuple[str, ...]
    grid: WorkingGrid
    agreement: AgreementGate | None = None
    validity: ValidityGate | None = None
    copies: CopyGate | None = None

    def judge(self, case: Case, device: torch.device | str = "cpu") -> Verdict:
        """Judge a whole synthetic case on its native grid, as a reader of its files will see it."""
        reasons: dict[str, str] = {}
        agreement: dict[str, float | None] = {}
        if self.agreement is not None:
            agreement, reason = self.agreement.judge(case, device)
            if reason:
                reasons["agreement"] = reason
        broken, similarity, name = None, None, ""
        if self.validity is None and self.copies is None:
            return Verdict(reasons, agreement)
        working = self.grid.to_working(case, shape=self.grid.window)
        if self.validity is not None:
            broken, why = _validity(self.validity, working, self.grid)
            if broken and "validity" in self.used:
                reasons["validity"] = f"validity {why}"
        if self.copies is not None:
            name, similarity, limit = _likeness(self.copies, working)
            if similarity is not None and similarity > limit:
                reasons["copies"] = f"copies {similarity:.3f} like {name} > {limit:.3f}"
        return Verdict(reasons, agreement, broken, similarity, name)

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        found: dict[str, Any] = {"used": list(self.used)}
        if self.agreement is not None:
            gate = self.agreement
            found |= {
                "thresholds": dict(gate.thresholds), "real": dict(gate.real),
                "warnings": list(gate.warnings),
            }  # fmt: skip
        if self.validity is not None:
            found["validity"] = self.validity.limits.to_json()
        if self.copies is not None:
            found["copies"] = dict(self.copies.facts)
        return found


def check_gates(
    gates: Collection[str], labels: Mapping[str, int], rules: Path | str | Rules | None = None
) -> tuple[tuple[str, ...], Rules | None]:
    """The gates in their order and the anatomical rules, if any are known; ask before a fit.

    Raises:
        AugmintError: for an unknown gate, for rules that cannot be read or name no label, and if
            `validity` is asked for where no rules are known.
    """
    if unknown := sorted(set(gates) - set(GATES)):
        raise AugmintError(
            f"--gates: there is no gate {unknown[0]!r}; choose from {', '.join(GATES)}, or none"
        )
    known = choose_rules(rules, labels)
    if known is None and "validity" in gates:
        names = ", ".join(n for n in labels if n != "background")
        raise AugmintError(
            f"--gates validity: no anatomical rules are known for the labels {names}; write some, "
            "a few lines of YAML, and give them with --rules FILE"
        )
    return tuple(g for g in GATES if g in set(gates)), known


def check_enough_patients(gates: Collection[str], patients: Collection[str]) -> None:
    """Raises an AugmintError if a threshold for copies cannot be learned from so few patients."""
    if "copies" in gates and len(patients) < LEAST_PATIENTS:
        raise AugmintError(
            f"--gates copies learns from {LEAST_PATIENTS} patients or more how like real images of "
            f"two patients are; there are {len(patients)}, so leave it out"
        )


def fit_validity(
    cases: Iterable[Case], labels: Mapping[str, int], rules: Rules, grid: WorkingGrid
) -> ValidityGate:
    """Learn the limits of rules from real training cases, resampled as synthetic ones are.

    Args:
        cases: On their native grids.
        labels: Label name to index.
        rules: What to ask.
        grid: The working grid.

    Raises:
        AugmintError: if volumes and frames are mixed.
    """
    masks, annotated = [], []
    for case in cases:
        mask = through_grid(case, grid).mask
        assert mask is not None
        masks.append(mask.numpy())
        annotated.append(case.annotated)
    limits = fit_limits(
        masks, labels, rules, spacing=_spacing(grid, masks[0].ndim),
        annotated=frozenset.intersection(*annotated),
    )  # fmt: skip
    return ValidityGate(rules, limits, labels)


def lenders(patients: Iterable[str]) -> frozenset[str]:
    """The training patients that the threshold of copies is learned from."""
    names = sorted(set(patients))
    return frozenset(names[:: -(-len(names) // LENDERS)])


def fit_copies(
    training: Iterable[Case],
    grid: WorkingGrid,
    *,
    folder: Path,
    device: torch.device | str,
    talk: Talk,
    keeps_pixels: bool = False,
) -> CopyGate:
    """Index the images of the fit and learn how like the images of two of its patients are.

    Held-back patients teach nothing here, so that a segmenter can be validated on them.

    Args:
        training: Real cases that the generator was fitted on.
        grid: The working grid.
        folder: Gets copies.json; a threshold found there is not learned again.
        device: Where to compute.
        talk: Where progress goes.
        keeps_pixels: Synthetic images are made of pixels of their source, and so are like it.

    Raises:
        AugmintError: if there are fewer than five patients, of whom no image is stored under
            another patient's name.
    """
    known = list(_pictures(training, grid))
    index = index_pictures(known, device=device)
    path = folder / "copies.json"
    if not path.exists():
        lent = lenders(p.patient for p in known)
        asked = [p for p in known if p.patient in lent]
        try:
            found = calibrate(index, talk.counted("how like real patients are", asked, len(asked)))
        except AugmintError as error:
            raise AugmintError(
                f"--gates copies: {error} Patients with an image that is stored under another "
                "name do not count. Leave copies out of --gates where there are no more"
            ) from error
        for match in found.doubles:
            talk.say(f"WARNING: {match.name} is {match.real}, stored under another patient's name")
        facts = {
            "threshold": found.threshold, "false_alarms": found.false_alarms, "rule": found.rule,
            "patients": len(found.by_patient), "doubles": [[m.name, m.real] for m in found.doubles],
        }  # fmt: skip
        write_text(path, json.dumps(facts, indent=1))
    facts = json.loads(path.read_text(encoding="utf-8"))
    return CopyGate(index, float(facts["threshold"]), facts, keeps_pixels)


def _pictures(cases: Iterable[Case], grid: WorkingGrid) -> Iterator[Picture]:
    """Slices on the window, as the network sees them."""
    return pictures_of((grid.to_working(c, shape=grid.window) for c in cases), _own)


def _own(case: Case) -> str:
    """Whose image a case may well resemble: the patient's whose mask or image it was made from."""
    if case.provenance is not None and case.provenance.details.get("masks") == "generated":
        return ""
    return case.patient_id


def _likeness(gate: CopyGate, working: Case) -> tuple[str, float | None, float]:
    """The likest training image, the similarity, and what it may be at most.

    An image is meant to resemble the patient whose mask it was painted for, but not to be that
    patient's image.
    """
    matches = nearest(gate.index, pictures_of([working], _own))
    (own,) = worst_of_cases(matches, whose="own")
    name, value = likest(own, "own")
    if value > SAME and not gate.keeps_pixels:
        return name, value, SAME
    (worst,) = worst_of_cases(matches)
    name, value = likest(worst, "others")
    return name, value if value == value else None, gate.threshold


def _validity(gate: ValidityGate, working: Case, grid: WorkingGrid) -> tuple[tuple[str, ...], str]:
    """The broken quantities and the verdict in words; what was asked for is waived."""
    assert working.mask is not None
    asked = working.provenance.details if working.provenance is not None else {}
    found = judge(
        working.mask.numpy(), gate.labels, gate.rules, gate.limits,
        waive=[f"{k.removeprefix('asked_')} area" for k in asked if k.startswith("asked_")],
        spacing=_spacing(grid, working.dims), annotated=working.annotated,
    )  # fmt: skip
    return found.quantities, str(found)


def _spacing(grid: WorkingGrid, dims: int) -> tuple[float, ...] | None:
    """mm per axis of masks on the window; across slices 1, which no rule reads."""
    if grid.spacing_mm is None:
        return None
    return (*grid.spacing_mm, 1.0)[:dims]
