"""Who is who in an audit: what was generated, from whom, and who was never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.layout import listed, read_json
from augmint.errors import AugmintError
from augmint.generate import numbered_like
from augmint.prepare import choose_patients, real_labelled

# They keep recorded pixels of their sources, so that these are known whoever was fitted on.
KEEP_PIXELS = ("sector_outpaint", "warped_pairs")


@dataclass(frozen=True)
class Parties:
    """What is compared with what.

    Attributes:
        made: The synthetic cases, accepted or not, with the class indices of `real`.
        accepted: The names of those that no gate rejected.
        gated: Whether a gate judged them.
        sources_known: Whether each names the real case that it was made from.
        methods: What made them, as far as is known.
        real: The real labelled cases.
        seen: Patients of `real` that the generator saw.
        held: The others.
        gate: Patients of `real` that a gate saw.
        limitations: What cannot be told, one sentence each.
    """

    made: tuple[tuple[Dataset, Item], ...]
    accepted: frozenset[str]
    gated: bool
    sources_known: bool
    methods: tuple[str, ...]
    real: Dataset
    seen: tuple[str, ...]
    held: tuple[str, ...]
    gate: frozenset[str]
    limitations: tuple[str, ...]


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
    ours = any(item.synthetic for item in whole.items)
    limitations: list[str] = []
    main = _synthetic_part(whole, real, ours)
    rejected = _rejected(whole) if ours else None
    parts = [main] if rejected is None else [main, rejected]
    made = []
    for part in parts:
        renumbered = _like(part, real)
        wanted = [i for i in renumbered.items if fold is None or _fold(i) == fold]
        made += [(renumbered, i) for i in wanted if i.masks]
        if bare := sum(not i.masks for i in wanted):
            limitations.append(f"{bare} synthetic case(s) have no mask and are left out")
    accepted = frozenset(i.case_id for i in main.items) & {i.case_id for _, i in made}
    if not accepted:
        what = "" if fold is None else f" of fold {fold}"
        raise AugmintError(
            f"{whole.root}: no accepted synthetic case with a mask{what}; give a folder with "
            "synthetic pairs"
        )
    facts = _run_facts(whole.root) if ours else {}
    methods = tuple(sorted({i.provenance.method for _, i in made if i.provenance}))
    seen, gate, told = _seen(
        whole, real, facts, [i for _, i in made], methods, generator_patients, fold, seed
    )
    limitations += told
    return Parties(
        made=tuple(made), accepted=accepted, gated=_gated(facts), sources_known=ours,
        methods=methods, real=real, seen=seen,
        held=tuple(p for p in real.patients if p not in set(seen)),
        gate=gate, limitations=tuple(limitations),
    )  # fmt: skip


def _synthetic_part(whole: Dataset, real: Dataset, ours: bool) -> Dataset:
    """The cases to audit of the folder itself."""
    if ours:
        return replace(whole, items=tuple(i for i in whole.items if i.synthetic))
    if whole.root.resolve() == real.root.resolve() or (whole.root / "manifest.csv").exists():
        raise AugmintError(
            f"{whole.root}: holds no accepted synthetic case; give a folder with synthetic pairs "
            "(what a gate rejected stands in its folder `rejected`, a dataset of its own)"
        )
    if not whole.items:
        raise AugmintError(f"{whole.root}: holds no case; give a folder with synthetic pairs")
    return whole


def _rejected(whole: Dataset) -> Dataset | None:
    folder = whole.root / "rejected"
    if not (folder / "dataset.json").exists():
        return None
    return open_dataset(folder, label_map=whole.label_map)


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


def _fold(item: Item) -> int | None:
    return item.provenance.fold if item.provenance else None


def _run_facts(root: Path) -> dict[str, Any]:
    path = root / "run.json"
    content = read_json(path) if path.is_file() else {}
    return dict(content) if isinstance(content, Mapping) else {}


def _seen(
    whole: Dataset,
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
            f"{whole.root / 'run.json'} says whom the generator saw; leave out --generator-patients"
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
