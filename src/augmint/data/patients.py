"""Which patient and which domain a case belongs to, and by what rule."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from augmint.case import Provenance
from augmint.data.layout import Found, Listing, listed
from augmint.errors import AugmintError

BUILT_IN_RULES = {
    "sub-*": re.compile(r"^(sub-[A-Za-z0-9]+)"),
    "patientNNN": re.compile(r"^((?:testing_)?patient\d{3,4})(?!\d)"),
    "SC-*-NN": re.compile(r"^(SC-[A-Z]+-(?:[A-Z]+-)?\d+)(?!\d)"),
    "codes of M&Ms": re.compile(r"^([A-Z]\d[A-Z]\d[A-Z]\d)(?=_)"),
    "numbers of M&Ms-2": re.compile(r"^(\d{3})(?=_(?:SA|LA)_E[DS])"),
}
APICAL_VIEW = re.compile(r"_(2CH|4CH)(?:_|$)")
CARDIAC_PHASE = re.compile(r"_(ED|ES)(?:_|$)")


@dataclass(frozen=True)
class Origin:
    """What is known about one case beside its files."""

    patient_id: str
    domain: str
    columns: Mapping[str, str] = field(default_factory=dict)
    provenance: Provenance | None = None


def read_rows(path: Path, *, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file with a header; empty where there is no such file.

    Raises:
        AugmintError: if it is not UTF-8 text, or a row is longer or shorter than the header.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AugmintError(f"{path}: not readable as CSV ({error})") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise AugmintError(f"{path}, row {number}: its columns are not those of the header")
    return rows


def find_origins(
    listing: Listing, patient_regex: str | None = None
) -> tuple[dict[str, Origin], str]:
    """Patient, domain, columns and provenance of every case.

    The manifest of a synthetic dataset comes first, then `cases.csv`, the regular expression, the
    built-in rules, and last each case is its own patient.

    Args:
        listing: The cases of a layout.
        patient_regex: Searched in each case name; the first group is the patient, or the match.

    Returns:
        Case name -> origin, and the rule in words.

    Raises:
        AugmintError: if a case is missing in `cases.csv`, the expression does not match, or
            patients are named twice.
    """
    manifest = _by_case(listing.root / "manifest.csv")
    table = _by_case(listing.root / "cases.csv")
    rows = {found.case_id: _row_of(found, table, manifest) for found in listing.found}
    missing = [case_id for case_id, row in rows.items() if table and row is None]
    if missing:
        raise AugmintError(f"{listing.root / 'cases.csv'}: no row for {listed(missing)}; add them")
    columns = {f.case_id: {**f.columns, **(rows[f.case_id] or {})} for f in listing.found}
    patients = {c: manifest[c]["patient"] for c in columns if manifest.get(c, {}).get("patient")}
    unlisted = {case_id: row for case_id, row in columns.items() if case_id not in patients}
    rule = "the column `patient` of manifest.csv"
    if unlisted:
        in_table = any("patient" in row for row in table.values())
        source = "" if in_table else listing.patient_rule
        named, other = _name_patients(unlisted, patient_regex, source)
        rule = f"{rule}, else {other}" if patients else other
        patients.update(named)
    origins = {}
    for case_id, row in columns.items():
        for column, pattern in (("view", APICAL_VIEW), ("phase", CARDIAC_PHASE)):
            if match := pattern.search(case_id):
                row.setdefault(column, match[1])
        apical = APICAL_VIEW.search(case_id)
        made = manifest.get(case_id)
        synthetic = made is not None and made.get("synthetic", "").lower() in ("1", "true")
        origins[case_id] = Origin(
            patient_id=patients[case_id],
            domain=row.get("domain") or (apical[1] if apical else ""),
            columns=row,
            provenance=_provenance(made, listing.root / "manifest.csv")
            if made is not None and synthetic
            else None,
        )
    return origins, rule


def _name_patients(
    columns: Mapping[str, Mapping[str, str]], regex: str | None, source: str
) -> tuple[dict[str, str], str]:
    """Patients of real cases from their `patient` column, which `source` gave, or their names."""
    if not any("patient" in row for row in columns.values()):
        return _patients_by_name(list(columns), regex)
    if regex is not None and source:
        raise AugmintError(f"{source} name the patients already; leave out the patient expression")
    if regex is not None:
        raise AugmintError(
            "cases.csv or the datalist names the patients already; leave out the patient "
            "expression, or their `patient` column"
        )
    patients = {case_id: row.get("patient", "").strip() for case_id, row in columns.items()}
    nameless = [case_id for case_id, patient in patients.items() if not patient]
    if nameless:
        raise AugmintError(f"the column `patient` is empty for {listed(nameless)}; fill it in")
    return patients, source or "the column `patient` of cases.csv or the datalist"


def _by_case(path: Path) -> dict[str, dict[str, str]]:
    rows = read_rows(path)
    by_case: dict[str, dict[str, str]] = {}
    for row in rows:
        case_id = row.get("case", "")
        if not case_id:
            raise AugmintError(f"{path}: every row needs a `case`, got the columns {list(row)}")
        if case_id in by_case:
            raise AugmintError(f"{path}: case {case_id!r} has two rows; keep one")
        by_case[case_id] = row
    return by_case


def _row_of(
    found: Found, table: Mapping[str, dict[str, str]], manifest: Mapping[str, dict[str, str]]
) -> dict[str, str] | None:
    """The case's row of cases.csv; a synthetic case without one has its source's."""
    source = manifest.get(found.case_id, {}).get("source_case", "")
    return table.get(found.case_id, table.get(source) if source else None)


def _provenance(row: Mapping[str, str], path: Path) -> Provenance:
    """The provenance in one row of a manifest."""
    for column in ("patient", "source_case", "method"):
        if not row.get(column):
            raise AugmintError(
                f"{path}: synthetic case {row['case']!r} has no `{column}`; without it no leak "
                "can be ruled out"
            )
    try:
        method = row["method"]
        return Provenance(
            source_case=row["source_case"],
            method=method,
            run=row.get("run", ""),
            network_sha256=row.get("network_sha256", ""),
            seed=int(row.get("seed") or 0),
            copy=int(row.get("copy") or 0),
            walk=row.get("walk", ""),
            evaluations=int(row.get("evaluations") or 0),
            fold=int(row["fold"]) if row.get("fold") else None,
            details={
                k.removeprefix(f"{method}."): v
                for k, v in row.items()
                if v and k.startswith(f"{method}.")
            },
        )
    except ValueError as error:
        raise AugmintError(f"{path}: case {row['case']!r}: {error}") from error


def _patients_by_name(names: Sequence[str], regex: str | None) -> tuple[dict[str, str], str]:
    """Patients from case names by the user's expression or a built-in rule."""
    if regex is not None:
        try:
            pattern = re.compile(regex)
        except re.error as error:
            raise AugmintError(f"patient expression {regex!r}: {error}") from error
        matches = {name: pattern.search(name) for name in names}
        failed = [name for name, match in matches.items() if match is None]
        if failed:
            raise AugmintError(f"patient expression {regex!r} does not match {listed(failed)}")
        group = 1 if pattern.groups else 0
        patients = {name: match[group] or "" for name, match in matches.items() if match}
        return patients, f"the expression {regex}"
    for rule, pattern in BUILT_IN_RULES.items():
        matches = {name: pattern.match(name) for name in names}
        hits = sum(match is not None for match in matches.values())
        if hits:
            patients = {name: match[1] if match else name for name, match in matches.items()}
            rest = "" if hits == len(names) else f" for {hits} of {len(names)}, others themselves"
            return patients, f"the built-in rule {rule} on case names{rest}"
    return {name: name for name in names}, "each case is its own patient"
