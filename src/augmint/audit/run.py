"""Checks a synthetic dataset, made here or elsewhere, against the real one it stands for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augmint.audit.adherence import WEIGHTS, Judges, choose_judges, measure_adherence
from augmint.audit.copying import Search, measure_copies
from augmint.audit.images import measure_images
from augmint.audit.learned import measure_learned
from augmint.audit.masks import measure_validity
from augmint.audit.material import Material, gather
from augmint.audit.page import write_page
from augmint.audit.parties import Parties, read_parties
from augmint.audit.shapes import measure_shapes
from augmint.audit.words import in_words
from augmint.data.dataset import Dataset
from augmint.errors import AugmintError
from augmint.fit import describe_device, resolve_device, versions
from augmint.presets import Preset, preset_named
from augmint.progress import Talk
from augmint.quality.copies import FALSE_ALARMS, write_copies
from augmint.quality.validity import Rules
from augmint.quality.validity_rules import choose_rules
from augmint.report import write_json
from augmint.segment import load_segmenter_run
from augmint.staging import WORK, output_folder
from augmint.weights import sha256

SCHEMA_VERSION = 1


def audit(
    synthetic: Path | str | Dataset,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    rules: Path | str | None = None,
    judge: Path | str | None = None,
    judge_steps: int | None = None,
    copy_false_alarms: float = FALSE_ALARMS,
    quarter_turns: bool = False,
    generator_patients: int | Sequence[str] | None = None,
    fold: int | None = None,
    preset: str = "quick",
    dims: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Check a synthetic dataset: masks, agreement, copies, images, shapes; each beside real ones.

    Writes OUT/audit.json, copies.csv (the flagged pairs alone), report.html and sheets/*.png.

    Args:
        synthetic: A synthetic dataset: made by this package, then its synthetic cases are judged,
            rejected ones too (or those alone, of its folder `rejected`); or any labelled dataset,
            then all its cases.
        data: The real labelled dataset that the generator was fitted on a part of.
        out: The folder to make.
        rules: A YAML file of anatomical rules, all about labels of `data`, or a built-in name; by
            default those for the labels.
        judge: A run of `segment` that tells whether images follow their masks; by default two
            segmenters are fitted on real patients that neither generator nor gate saw.
        judge_steps: Their optimiser steps, instead of the preset's.
        copy_false_alarms: Share of unseen patients that may have an image called a copy.
        quarter_turns: Look for copies turned by 90 degrees, too.
        generator_patients: Who of `data` the generator saw, where `synthetic` does not tell: names,
            or how many were drawn with `seed`.
        fold: The synthetic cases of one fold alone.
        preset: Size of the working grid and of the judges.
        dims: 2 or 3, instead of what the data suggest.
        seed: Seeds everything.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished audit.
        talk: Where progress goes.

    Returns:
        The folder.

    Raises:
        AugmintError: if there is nothing to audit, or the two datasets do not fit together.
    """
    talk = talk or Talk()
    started = time.monotonic()
    _check(judge, judge_steps, copy_false_alarms)
    sizes = preset_named(preset)
    parties = read_parties(
        synthetic, data, generator_patients=generator_patients, fold=fold, seed=seed
    )
    chosen = choose_rules(rules, parties.real.labels)
    request = dict(
        command="audit", synthetic=str(parties.root.resolve()),
        data=str(parties.real.root.resolve()),
        rules=None if rules is None else str(rules),
        rules_fingerprint=None if chosen is None else chosen.fingerprint,
        judge=None if judge is None else str(Path(judge).resolve()),
        judge_sha256=None if judge is None else sha256(Path(judge) / WEIGHTS),
        record_sha256={path.name: sha256(path) for path in parties.record.files},
        judge_steps=judge_steps, copy_false_alarms=copy_false_alarms, quarter_turns=quarter_turns,
        generator_patients=list(parties.seen), fold=fold, preset=preset, dims=dims, seed=seed,
        labels=dict(parties.real.labels), cases=sorted(i.case_id for _, i in parties.made),
    )  # fmt: skip
    where = resolve_device(device)
    talk.say(_opening(parties, where))
    for line in parties.limitations:
        talk.say(f"note: {line}")
    with output_folder(Path(out), request, resume=resume) as folder:
        work = _Work(folder, parties, sizes, dims, talk, started)
        options = _Options(
            chosen, judge, judge_steps, copy_false_alarms, quarter_turns, seed, where
        )  # fmt: skip
        summary = _measure(work, options)
        summary |= {
            "request": {k: v for k, v in request.items() if k != "cases"},
            "seconds": round(work.seconds(), 1), "device": describe_device(where),
            "versions": versions(),
        }  # fmt: skip
        summary["words"] = in_words(summary)
        write_copies(folder / "copies.csv", summary["parts"]["copies"].pop("flagged"))
        write_json(folder / "audit.json", {"schema_version": SCHEMA_VERSION, **summary})
        write_page(folder, summary)
    talk.say(f"wrote the audit to {out}; look at {out}/report.html")
    return Path(out)


class _Options:
    """What the parts are asked for."""

    def __init__(
        self, rules: Rules | None, judge: Path | str | None, judge_steps: int | None,
        false_alarms: float, quarter_turns: bool, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.rules, self.judge, self.judge_steps = rules, judge, judge_steps
        self.false_alarms, self.quarter_turns = false_alarms, quarter_turns
        self.seed, self.device = seed, device


class _Work:
    """The unfinished audit: what was computed is found again, cases are read when needed."""

    def __init__(
        self, folder: Path, parties: Parties, preset: Preset, dims: int | None, talk: Talk,
        started: float,
    ) -> None:  # fmt: skip
        self.folder, self.talk, self.preset = folder, talk, preset
        self._parties, self._dims, self._started = parties, dims, started
        spent = folder / WORK / "seconds.json"
        self._before = float(json.loads(spent.read_text())) if spent.exists() else 0.0

    def seconds(self) -> float:
        """Of this session, and of those before it up to the last thing that each finished."""
        return self._before + time.monotonic() - self._started

    @cached_property
    def material(self) -> Material:
        """Every case on the working grid."""
        return gather(self._parties, self.preset, self._dims, self.talk)

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """The part of this name as plain values, made unless an earlier run finished it."""
        path = self.folder / WORK / f"{name}.json"
        if not path.exists():
            write_json(path, plain(make()))
            write_json(path.with_name("seconds.json"), self.seconds())
        return json.loads(path.read_text(encoding="utf-8"))


def _measure(work: _Work, o: _Options) -> dict[str, Any]:
    """All five parts, and what they are about."""
    talk, folder = work.talk, work.folder
    parts: dict[str, Any] = {}
    facts = work.keep("data", lambda: _data(work.material))
    talk.say("1 of 5: masks")
    parts["validity"] = work.keep(
        "validity", lambda: measure_validity(work.material, o.rules, folder, seed=o.seed)
    )

    @cache
    def judges() -> Judges:
        return choose_judges(
            work.material, o.judge, folder / WORK, preset=work.preset, steps=o.judge_steps,
            seed=o.seed, device=o.device, talk=talk,
        )  # fmt: skip

    talk.say("2 of 5: do images follow their masks?")
    parts["adherence"] = work.keep(
        "adherence",
        lambda: measure_adherence(
            work.material, judges(), work.keep, device=o.device, seed=o.seed, talk=talk
        ),
    )
    talk.say("3 of 5: copies")
    parts["copies"] = work.keep(
        "copies",
        lambda: measure_copies(
            Search(work.material, o.quarter_turns, str(o.device), talk), folder, work.keep,
            false_alarms=o.false_alarms, seed=o.seed,
        ),
    )  # fmt: skip
    talk.say("4 of 5: images")
    parts["images"] = work.keep(
        "images", lambda: measure_images(work.material, folder, seed=o.seed)
    )
    parts["images"]["learned"] = work.keep(
        "learned",
        lambda: measure_learned(work.material, judges(), seed=o.seed, device=o.device),
    )
    talk.say("5 of 5: shapes")
    parts["shapes"] = work.keep(
        "shapes", lambda: measure_shapes(work.material, folder, seed=o.seed)
    )
    limitations = [*facts.pop("limitations"), *_untold(parts)]
    return {"data": facts, "limitations": limitations, "parts": parts}


def _data(material: Material) -> dict[str, Any]:
    parties = material.parties
    made, real = parties.made[0][0], parties.real
    return {
        "synthetic": made.name, "real": real.name, "methods": list(parties.methods),
        "accepted": len(parties.accepted), "rejected": len(parties.made) - len(parties.accepted),
        "synthetic_are": parties.are,
        "real_cases": len(real), "seen_patients": len(parties.seen),
        "held_out_patients": len(parties.held), "sources_known": parties.sources_known,
        "labels": dict(material.facts.labels), "grid": material.facts.grid.to_json(),
        "limitations": [*parties.limitations, *material.limitations],
    }  # fmt: skip


def _untold(parts: dict[str, Any]) -> list[str]:
    """What the parts themselves could not tell."""
    found = [f"{name}: {p['missing']}" for name, p in parts.items() if "missing" in p]
    if parts["validity"].get("synthetic_favoured"):
        found.append(
            "validity: the generator saw the patients who set the limits, and synthetic masks may "
            "be any of these patients', so the comparison with real masks favours them"
        )
    if not parts["adherence"]["independent"]:
        found.append(f"agreement: {parts['adherence']['judge']}")
    learned, images = parts["images"]["learned"].get("missing"), parts["images"].get("missing")
    if learned and learned != images:
        found.append(f"images, on features of the judge: {learned}")
    if "threshold" in parts["copies"] and not parts["copies"]["held_out"]:
        found.append(
            "copies: no patient is held out, so the threshold comes from patients of the fit, each "
            "against the others, and nothing says how often an unseen patient would be flagged"
        )
    return found


def plain(value: Any) -> Any:
    """Values that JSON has: no NaN, nothing of numpy."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _check(judge: Path | str | None, steps: int | None, false_alarms: float) -> None:
    """What can be found wrong before any work.

    Raises:
        AugmintError: for a faulty option.
    """
    if judge is not None:
        load_segmenter_run(judge)
        if steps is not None:
            raise AugmintError("a given judge is not fitted: leave out --judge-steps or --judge")
    if steps is not None and steps < 1:
        raise AugmintError(f"--judge-steps must be 1 or more, got {steps}")
    if not 0 < false_alarms < 0.5:
        raise AugmintError(
            f"--copy-false-alarms is a share above 0 and below 0.5; got {false_alarms:g}"
        )


def _opening(parties: Parties, device: torch.device) -> str:
    refused = len(parties.made) - len(parties.accepted)
    more = f" and {refused} rejected ones" if refused else ""
    count = f"{len(parties.accepted)} synthetic cases{more}"
    if not parties.accepted:
        count = f"{refused} rejected synthetic cases"
    return (
        f"{count}; {len(parties.real)} real cases: "
        f"{len(parties.seen)} patients that the generator saw, "
        f"{len(parties.held)} that it never saw; device {device}"
    )
