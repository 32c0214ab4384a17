"""Who is who in an audit: what was generated, from whom, and who was never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.layout import listed, read_json
from augmint.data.patients import read_rows
from augmint.errors import AugmintError
from augmint.generate import numbered_like
from augmint.methods import METHODS, keeps_pixels
from augmint.prepare import choose_patients, real_labelled

# They keep recorded pixels of their sources, so that these are known whoever was fitted on.
KEEP_PIXELS = tuple(name for name, method in METHODS.items() if keeps_pixels(method))
TRUE = ("1", "true")


@dataclass(frozen=True)
class Record:
    """What a dataset of this package says of itself; empty for another generator's.

    Attributes:
        home: The folder with manifest and run.json: the one above a folder `rejected`.
        facts: The content of run.json.
        rows: Those of manifest.csv that are synthetic, by case.
    """

    home: Path
    facts: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, str]]

    @property
    def files(self) -> tuple[Path, ...]:
        """What it was read from."""
        both = (self.home / "manifest.csv", self.home / "run.json")
        return tuple(path for path in both if path.is_file())

    def verdicts(self, fold: int | None) -> dict[str, bool]:
        """Case to whether the gates accepted it; empty where the manifest does not say."""
        return {
            name: row["accepted"].lower() in TRUE
            for name, row in self.rows.items()
            if row.get("accepted") and (fold is None or row.get("fold") == str(fold))
        }


@dataclass(frozen=True)
class Parties:
    """What is compared with what.

    Attributes:
        root: The folder of the synthetic dataset.
        made: The synthetic cases, accepted or not, with the class indices of `real`.
        accepted: The names of those that no gate rejected; none where all were rejected.
        are: `all` that were made; or only the `accepted` or the `rejected` ones, the others being
            gone.
        gated: Whether a gate judged them.
        verdicts: Of every case that was made, here or not: whether a gate accepted it, and the
            patient of its source; empty where that is not known.
        gate_networks: Kinds of the networks of gates; None where nothing says.
        sources_known: Whether each names the real case that it was made from.
        methods: What made them, as far as is known.
        real: The real labelled cases.
        seen: Patients of `real` that the generator saw.
        held: The others.
        gate: Patients of `real` that a gate saw.
        record: What the synthetic dataset says of itself.
        limitations: What cannot be told, one sentence each.
    """

    root: Path
    made: tuple[tuple[Dataset, Item], ...]
    accepted: frozenset[str]
    are: str
    gated: bool
    verdicts: tuple[tuple[bool, str], ...]
    gate_networks: frozenset[str] | None
    sources_known: bool
    methods: tuple[str, ...]
    real: Dataset
    seen: tuple[str, ...]
    held: tuple[str, ...]
    gate: frozenset[str]
    record: Record
    limitations: tuple[str, ...]

    @property
    def kept(self) -> frozenset[str]:
        """The names of the cases that stand for the dataset: the accepted ones, else all."""
        return self.accepted or frozenset(i.case_id for _, i in self.made)

    def has_source(self, item: Item) -> bool:
        """Whether a synthetic case shows the anatomy of the patient that it names.

        A mask that a network drew is nobody's, though the manifest names a case for its grid.
        """
        details = item.provenance.details if item.provenance else {}
        return self.sources_known and details.get("masks") != "generated"

    def asked_of(self, dataset: Dataset, item: Item) -> tuple[str, ...]:
        """Quantities that a case was asked for, by its manifest's columns `<method>.asked_*`."""
        details = item.provenance.details if item.provenance else {}
        labels = [k.removeprefix("asked_") for k in details if k.startswith("asked_")]
        named = [(dataset.label_map or {}).get(label, label) for label in labels]
        return tuple(f"{name} area" for name in named if name in self.real.labels)


def read_parties(
    synthetic: Path | str | Dataset,
    data: Path | str | Dataset,
    *,
    generator_patients: int | Sequence[str] | None = None,
    fold: int | None = None,
    seed: int = 0,
) -> Parties:
    """Find out who is who; no image is read.

    Args:
        synthetic: A synthetic dataset: one of this package, of which the cases that its manifest
            calls synthetic are taken, or a plain labelled one, of which all are.
        data: The real labelled dataset that the generator was fitted on a part of.
        generator_patients: Who of `data` the generator saw, where `synthetic` does not tell: their
            names, or how many were drawn with `seed`.
        fold: The synthetic cases of one fold alone.
        seed: Of the draw.

    Raises:
        AugmintError: if there is nothing to audit, or the two do not fit together.
    """
    real = real_labelled(data if isinstance(data, Dataset) else open_dataset(data))
    whole = synthetic if isinstance(synthetic, Dataset) else open_dataset(synthetic)
    main, rejected, ours = _synthetic_parts(whole, real)
    record = _read_record(whole.root) if ours else Record(whole.root, {}, {})
    limitations: list[str] = []
    kept, refused = (
        _cases(part, real, fold, limitations) if part else [] for part in (main, rejected)
    )
    if not kept and not refused:
        what = "" if fold is None else f" of fold {fold}"
        raise AugmintError(
            f"{whole.root}: no synthetic case with a mask{what}; give a folder with synthetic pairs"
        )
    are, told = _which(whole, record, kept, refused, fold)
    limitations += told
    made = kept if are == "accepted" else kept + refused
    methods = tuple(sorted({i.provenance.method for _, i in made if i.provenance}))
    seen, gate, told = _seen(
        record.home, real, record.facts, [i for _, i in made], methods, generator_patients, fold,
        seed,
    )  # fmt: skip
    verdicts = record.verdicts(fold)
    shares = [(ok, record.rows[name].get("patient", "")) for name, ok in verdicts.items()]
    if not shares and are == "all":
        names = {i.case_id for _, i in kept}
        shares = [(i.case_id in names, i.patient_id) for _, i in made]
    return Parties(
        root=whole.root, made=tuple(made), accepted=frozenset(i.case_id for _, i in kept), are=are,
        gated=_gated(record.facts), verdicts=tuple(shares), gate_networks=_gate_networks(record),
        sources_known=ours, methods=methods, real=real, seen=seen,
        held=tuple(p for p in real.patients if p not in set(seen)),
        gate=gate, record=record, limitations=tuple(limitations + told),
    )  # fmt: skip


def _synthetic_parts(whole: Dataset, real: Dataset) -> tuple[Dataset | None, Dataset | None, bool]:
    """The accepted cases of a folder, its rejected ones, and whether this package made them."""
    named = replace(whole, items=tuple(i for i in whole.items if i.synthetic))
    if named.items and _of_rejected(whole.root):
        return None, named, True
    made_here = (whole.root / "manifest.csv").exists()
    rejected = _rejected(whole) if made_here else None
    if named.items or rejected:
        return named if named.items else None, rejected, True
    if made_here or whole.root.resolve() == real.root.resolve():
        raise AugmintError(
            f"{whole.root}: holds no synthetic case, nor does its folder `rejected`; give a folder "
            "with synthetic pairs"
        )
    if not whole.items:
        raise AugmintError(f"{whole.root}: holds no case; give a folder with synthetic pairs")
    return whole, None, False


def _of_rejected(root: Path) -> bool:
    """Whether this is the folder `rejected` of a dataset, which has its own record above."""
    return root.resolve().name == "rejected" and (root.resolve().parent / "manifest.csv").is_file()


def _rejected(whole: Dataset) -> Dataset | None:
    folder = whole.root / "rejected"
    if not (folder / "dataset.json").exists():
        return None
    return open_dataset(folder, label_map=whole.label_map)


def _read_record(root: Path) -> Record:
    home = root.resolve().parent if _of_rejected(root) else root
    path = home / "run.json"
    content = read_json(path) if path.is_file() else {}
    rows = (r for r in read_rows(home / "manifest.csv") if r.get("synthetic", "").lower() in TRUE)
    return Record(
        home, dict(content) if isinstance(content, Mapping) else {}, {r["case"]: r for r in rows}
    )


def _cases(
    part: Dataset, real: Dataset, fold: int | None, limitations: list[str]
) -> list[tuple[Dataset, Item]]:
    """The cases of a fold that have masks, numbered as the real ones."""
    renumbered = _like(part, real)
    wanted = [i for i in renumbered.items if fold is None or _fold(i) == fold]
    if bare := sum(not i.masks for i in wanted):
        limitations.append(f"{bare} synthetic case(s) have no mask and are left out")
    return [(renumbered, i) for i in wanted if i.masks]


def _which(
    whole: Dataset,
    record: Record,
    kept: Sequence[tuple[Dataset, Item]],
    refused: Sequence[tuple[Dataset, Item]],
    fold: int | None,
) -> tuple[str, list[str]]:
    """`Parties.are`, and what is gone."""
    here = {i.case_id for _, i in refused}
    verdicts = record.verdicts(fold)
    count = sum(not ok for ok in verdicts.values())
    gone = sum(not ok for name, ok in verdicts.items() if name not in here)
    if not verdicts and fold is None:
        count = int((record.facts.get("counts") or {}).get("rejected") or 0)
        gone = max(0, count - len(here))
    if kept and not gone:
        return "all", []
    if kept:
        return "accepted", [
            f"{gone} of {count} cases that the gates rejected are not in {whole.root}/rejected, so "
            "accepted ones alone are measured, and nothing tells how good all of them were"
        ]
    if gone:
        return "rejected", [
            f"no accepted case is here, and {gone} of {count} rejected ones are gone, too; the "
            "others are measured"
        ]
    if _of_rejected(whole.root) and (any(verdicts.values()) or not verdicts):
        return "rejected", [
            f"{whole.root} holds rejected cases alone; audit the folder above for accepted ones, "
            "too"
        ]
    if any(verdicts.values()):
        return "rejected", [
            f"none of {sum(verdicts.values())} accepted cases is in {whole.root}, so rejected ones "
            "alone are measured"
        ]
    return "all", ["the gates accepted no case, so rejected ones are measured throughout"]


def _like(part: Dataset, real: Dataset) -> Dataset:
    """The part with the class indices of the real cases.

    Raises:
        AugmintError: if labels differ by name, or channels in number.
    """
    if set(part.labels) != set(real.labels):
        raise AugmintError(
            f"{part.root} has the labels {listed(sorted(part.labels), 20)}, {real.root} has "
            f"{listed(sorted(real.labels), 20)}; labels are matched by name, so rename or drop "
            "some with --label-map old=new"
        )
    here, there = len(part.channel_names), len(real.channel_names)
    if here and there and here != there:
        raise AugmintError(
            f"{part.root} has {here} channel(s), {real.root} has {there}; give datasets of the "
            "same channels"
        )
    return numbered_like(part, real.labels)


def _gated(facts: Mapping[str, Any]) -> bool:
    """Whether any gate judged the cases."""
    return any(g.get("used", g.get("thresholds")) for g in facts.get("gates") or ())


def _gate_networks(record: Record) -> frozenset[str] | None:
    """Kinds of the networks that judged agreement, from gate.json; None where it is not there."""
    gates = record.facts.get("gates") or ()
    if not any("agreement" in g.get("used", ()) or g.get("thresholds") for g in gates):
        return frozenset()
    run = record.home / "run"
    paths = [*run.glob("gate/gate.json"), *run.glob("fold_*/gate/gate.json")]
    found = [str((read_json(path).get("segmenter") or {}).get("network", "")) for path in paths]
    return frozenset(found) if found and all(found) else None


def _fold(item: Item) -> int | None:
    return item.provenance.fold if item.provenance else None


def _seen(
    home: Path,
    real: Dataset,
    facts: Mapping[str, Any],
    items: Sequence[Item],
    methods: Sequence[str],
    given: int | Sequence[str] | None,
    fold: int | None,
    seed: int,
) -> tuple[tuple[str, ...], frozenset[str], list[str]]:
    """Who of DATA the generator saw, whom a gate saw, and what is not known of that."""
    entries = [
        e for e in facts.get("folds", ())
        if isinstance(e, Mapping) and (fold is None or e.get("fold") == fold)
    ]  # fmt: skip
    known = [e for e in entries if isinstance(e.get("generator_patients"), list)]
    told: list[str] = []
    if known and given is not None:
        raise AugmintError(
            f"{home / 'run.json'} says whom the generator saw; leave out --generator-patients"
        )
    everyone = set(real.patients)
    if not known:
        if given is not None:
            return tuple(choose_patients(real, given, seed).patients), frozenset(), told
        told.append(
            f"nothing says whom the generator saw, so all {len(everyone)} patients of "
            f"{real.name} count as seen and none is held out; name them with --generator-patients"
        )
        return real.patients, frozenset(), told
    saw = {str(p) for e in known for p in e["generator_patients"]}
    if not saw or set(methods) & set(KEEP_PIXELS):
        saw |= {i.patient_id for i in items}
    if not saw & everyone:
        raise AugmintError(
            f"{real.root}: none of the {len(saw)} patients that the generator saw "
            f"({listed(sorted(saw))}) is here; give the dataset that it was fitted on"
        )
    if away := sorted(saw - everyone):
        told.append(
            f"{len(away)} of the {len(saw)} patients that the generator saw are not in {real.name} "
            f"({listed(away)}), so copies of their images are not found"
        )
    if len(known) > 1:
        told.append(
            f"the cases come from {len(known)} generators, one for each fold, and all patients "
            "that any of them saw count as seen; audit one fold with --fold"
        )
    gate = {str(p) for e in known for p in e.get("gate_patients") or ()}
    return tuple(sorted(saw & everyone)), frozenset(gate & everyone), told
