"""The parts of datasets that a study trains and tests on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.layout import listed
from augmint.errors import AugmintError


def open_part(arguments: Mapping[str, Any]) -> Dataset:
    """The cases that a unit works on: its dataset with its label map, of its domains alone."""
    dataset = open_dataset(arguments["data"], label_map=arguments.get("label_map"))
    domains = arguments.get("domains")
    return dataset if domains is None else dataset.select(domains=domains)


def of_patients(dataset: Dataset, patients: Sequence[str] | None) -> Dataset:
    """The cases of some patients; None for all."""
    return dataset if patients is None else dataset.select(patients=list(patients))


@dataclass(frozen=True)
class Part:
    """Cases of a dataset; `arguments` open them again, see `open_part`."""

    dataset: Dataset
    labelled: frozenset[str]
    everywhere: frozenset[str]
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the dataset."""
        return self.dataset.name


@dataclass(frozen=True)
class Parts:
    """Opens parts of datasets, each dataset once."""

    base: Path
    known: dict[str, tuple[Dataset, str]] = field(default_factory=dict)

    def open(
        self, data: str, label_map: Mapping[str, str | None] | None, domains: Sequence[str] | None
    ) -> Part:
        """A part, and what opens it again."""
        key = json.dumps([data, label_map or None])
        if key not in self.known:
            opened = open_dataset(self.base / data, label_map=label_map or None)
            self.known[key] = opened, fingerprint_of(opened)
        whole, fingerprint = self.known[key]
        part = whole if domains is None else whole.select(domains=domains)
        arguments: dict[str, Any] = {"data": str(whole.root.resolve()), "fingerprint": fingerprint}
        # What is not asked for is not among the arguments: units keep their keys.
        if label_map:
            arguments["label_map"] = dict(label_map)
        if domains is not None:
            arguments["domains"] = sorted(set(domains))
        return Part(part, _labelled(part), _labelled(whole), arguments)


@dataclass(frozen=True)
class Target:
    """What a segmenter is tested on; `patients` is None for all."""

    name: str
    part: Part
    patients: Sequence[str] | None
    allow_same_names: bool = False

    @property
    def tested(self) -> frozenset[str]:
        """Its patients by name."""
        return self.part.labelled if self.patients is None else frozenset(self.patients)

    @property
    def arguments(self) -> dict[str, Any]:
        """What opens it again, with its patients."""
        patients = None if self.patients is None else list(self.patients)
        return {**self.part.arguments, "patients": patients}


def _labelled(dataset: Dataset) -> frozenset[str]:
    return frozenset(i.patient_id for i in dataset.items if i.masks and not i.synthetic)


def known_patients(
    asked: Sequence[str] | str | None, part: Part, base: Path, what: str
) -> list[str] | None:
    """Patients by name who have labelled cases in a part; None where nobody is named.

    Raises:
        AugmintError: for a patient without any labelled case, or where nobody is left.
    """
    names = named_patients(asked, base)
    if names is None:
        return None
    if unknown := sorted(set(names) - part.everywhere):
        raise AugmintError(f"patients that {part.name} has no labels of: {listed(unknown)}")
    found = [p for p in names if p in part.labelled]
    if not found:
        raise AugmintError(
            f"{what}: none of its {len(names)} patients has a case in the domains "
            f"{', '.join(part.arguments['domains'])}"
        )
    return found


def named_patients(patients: Sequence[str] | str | None, base: Path) -> list[str] | None:
    """Patients given by name, by `FILE.json#KEY.KEY`, or by `FILE.txt` with a name on each line.

    Raises:
        AugmintError: if there is no such list.
    """
    if patients is None or not isinstance(patients, str):
        return None if patients is None else list(patients)
    file, _, keys = patients.partition("#")
    try:
        text = (base / file).read_text(encoding="utf-8")
        found: Any = text.split() if file.endswith(".txt") else json.loads(text)
        for key in keys.split(".") if keys else ():
            found = found[key]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise AugmintError(
            f"patients {patients!r}: {base / file} has no such list ({error!r}); write "
            "FILE.json#KEY.KEY"
        ) from error
    if not isinstance(found, list) or not all(isinstance(p, str) for p in found) or not found:
        raise AugmintError(f"patients {patients!r} is no list of names; write FILE.json#KEY.KEY")
    return found


def fingerprint_of(dataset: Dataset) -> str:
    """Of a dataset's content: its labels, masks, and the names and sizes of its images."""
    digest = hashlib.sha256(json.dumps(dict(dataset.labels), sort_keys=True).encode())
    for item in dataset.items:
        frame = "" if item.frame is None else f" {item.frame}"
        digest.update(f"{item.case_id} {item.patient_id}{frame}".encode())
        for image in item.images:
            digest.update(f"{image.name} {image.stat().st_size}".encode())
        for mask in item.masks:
            digest.update(mask.read_bytes())
    return digest.hexdigest()[:16]


def groups_of(dataset: Dataset, column: str) -> dict[str, str]:
    """Patient -> value of a column of cases.csv.

    Raises:
        AugmintError: if no case has it, or a patient's cases differ in it.
    """
    found: dict[str, str] = {}
    for item in dataset.items:
        value = item.domain if column == "domain" else str(item.columns.get(column, ""))
        if found.setdefault(item.patient_id, value) != value:
            raise AugmintError(
                f"{dataset.name}: patient {item.patient_id} has cases with {column} "
                f"{found[item.patient_id]!r} and {value!r}; results are split by patient, so name "
                "a column that is the same for all cases of a patient, or write a test for each "
                "domain"
            )
    if not any(found.values()):
        raise AugmintError(
            f"{dataset.name}: no case has a value in column {column!r} of cases.csv; name another"
        )
    return {p: v or "not stated" for p, v in found.items()}
