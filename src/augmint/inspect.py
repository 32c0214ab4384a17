"""What a dataset holds and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from augmint.case import Case
from augmint.data.checks import check_dataset
from augmint.data.dataset import Dataset, open_dataset
from augmint.progress import Talk
from augmint.report import data_sheet, write_json
from augmint.staging import output_folder

SCHEMA_VERSION = 1


def inspect(
    data: Path | str | Dataset, out: Path | str | None = None, *, talk: Talk | None = None
) -> dict[str, Any]:
    """Read every case of a dataset and say what is there.

    Args:
        data: A dataset folder, or an opened dataset.
        out: A folder to make with inspect.json and a contact sheet; None writes nothing.
        talk: Where progress goes.

    Returns:
        Plain values: cases, patients and their rule, domains, sizes, spacing, labels,
        intensities, problems.
    """
    talk = talk or Talk()
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    total = len(dataset)
    count = _Count(dataset)
    with talk.bar("reading", total) as update:
        seen = iter(range(1, total + 1))
        problems = check_dataset(
            dataset, deep=True, on_case=lambda _: update(next(seen), ""), on_load=count.add
        )
    facts = {
        **_facts(dataset),
        "unreadable": total - sum(count.sizes.values()),
        **count.facts(),
        "problems": problems,
    }
    if out is not None:
        request = {"command": "inspect", "data": str(dataset.root)}
        with output_folder(Path(out), request, resume=True) as folder:
            write_json(folder / "inspect.json", facts)
            data_sheet(folder / "sheet.png", dataset)
        talk.say(f"wrote {out}/inspect.json and {out}/sheet.png")
    return facts


def _facts(dataset: Dataset) -> dict[str, Any]:
    domains = Counter(i.domain for i in dataset.items if i.domain)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": dataset.name,
        "folder": str(dataset.root),
        "layout": dataset.layout,
        "licence": dataset.licence,
        "cases": len(dataset),
        "labelled": sum(bool(i.masks) for i in dataset.items),
        "synthetic": sum(i.synthetic for i in dataset.items),
        "patients": len(dataset.patients),
        "patient_rule": dataset.patient_rule,
        "domains": dict(sorted(domains.items())),
        "channels": list(dataset.channel_names),
        "modality": dataset.modality,
    }


class _Count:
    """Sums over cases."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self.spacings: list[tuple[float, ...]] = []
        self.unknown_spacing = 0
        self.types: Counter[str] = Counter()
        self.ranges: list[tuple[float, float]] = []
        self.voxels = 0
        self.empty_masks = 0
        self.label_voxels: dict[str, int] = defaultdict(int)
        self.label_cases: dict[str, int] = defaultdict(int)
        self.label_values: dict[str, list[float]] = defaultdict(list)

    def add(self, case: Case) -> None:
        self.sizes[case.grid.shape] += 1
        if case.grid.spacing_known:
            self.spacings.append(case.grid.spacing)
        else:
            self.unknown_spacing += 1
        self.types[case.intensity.dtype] += 1
        self.ranges.append((min(case.intensity.low), max(case.intensity.high)))
        if case.mask is None:
            return
        mask, image = case.mask.numpy(), case.image[0].numpy()
        self.voxels += mask.size
        self.empty_masks += not mask.any()
        for name, index in self.dataset.labels.items():
            where = mask == index
            number = int(where.sum())
            self.label_voxels[name] += number
            if number:
                self.label_cases[name] += 1
                self.label_values[name].append(float(image[where].mean()))

    def facts(self) -> dict[str, Any]:
        labels = [
            {
                "name": name,
                "index": index,
                "annotated": index == 0 or index in self.dataset.annotated,
                "cases": self.label_cases[name],
                "voxel_share": self.label_voxels[name] / self.voxels if self.voxels else None,
                "mean_intensity": _mean(self.label_values[name]),
            }
            for name, index in self.dataset.labels.items()
        ]
        dims = {len(s) for s in self.spacings}
        return {
            "sizes": [{"shape": list(shape), "cases": n} for shape, n in self.sizes.most_common()],
            "spacing_mm": {
                "unknown": self.unknown_spacing,
                "median": np.median(self.spacings, axis=0).tolist() if len(dims) == 1 else None,
                "least": np.min(self.spacings, axis=0).tolist() if len(dims) == 1 else None,
                "most": np.max(self.spacings, axis=0).tolist() if len(dims) == 1 else None,
            },
            "labels": labels,
            "empty_masks": self.empty_masks,
            "intensities": {
                "types": dict(self.types),
                "low": float(np.median([low for low, _ in self.ranges])) if self.ranges else None,
                "high": float(np.median([high for _, high in self.ranges]))
                if self.ranges
                else None,
            },
        }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def in_words(facts: dict[str, Any]) -> str:
    """The facts of `inspect` as a page of text."""
    sizes = facts["sizes"]
    shown = ", ".join(f"{'x'.join(map(str, s['shape']))} ({s['cases']})" for s in sizes[:4])
    if len(sizes) > 4:
        shown += f" and {len(sizes) - 4} more"
    spacing, light = facts["spacing_mm"], facts["intensities"]
    if spacing["median"] is None:
        known = "differs in dimensions" if spacing["unknown"] < facts["cases"] else "unknown"
    else:
        known = " x ".join(f"{s:.3g}" for s in spacing["median"]) + " mm (median)"
        known += f", unknown for {spacing['unknown']}" if spacing["unknown"] else ""
    domains = ", ".join(f"{n} ({c})" for n, c in facts["domains"].items()) or "none named"
    types = ", ".join(facts["intensities"]["types"])
    low, high = light["low"], light["high"]
    made = f", {facts['synthetic']} synthetic" if facts["synthetic"] else ""
    lines = [
        f"{facts['name']} ({facts['layout']} in {facts['folder']})",
        f"cases        {facts['cases']}, {facts['labelled']} labelled{made}",
        f"patients     {facts['patients']}, by {facts['patient_rule']}",
        f"domains      {domains}",
        f"channels     {', '.join(facts['channels']) or 'not named'}"
        f" (modality: {facts['modality'] or 'unknown'})",
        f"sizes        {shown or 'none readable'}",
        f"spacing      {known}",
        f"intensities  {types or '-'}"
        + (f", typically {low:g} to {high:g}" if low is not None else ""),
        f"licence      {facts['licence'] or 'not stated'}",
        "",
        f"{'label':<16}{'index':>6}{'cases':>8}{'share':>9}{'mean':>8}",
    ]
    for label in facts["labels"]:
        share, mean = label["voxel_share"], label["mean_intensity"]
        cells = "-" if share is None else f"{share:.2%}", "-" if mean is None else f"{mean:.2f}"
        line = f"{label['name']:<16}{label['index']:>6}{label['cases']:>8}"
        line += f"{cells[0]:>9}{cells[1]:>8}"
        lines.append(line if label["annotated"] else f"{line}  not annotated")
    lines.append("share: of all voxels; mean: intensity inside, from -1 to 1")
    problems = facts["problems"]
    lines += ["", f"problems: {len(problems)}" if problems else "no problems found"]
    return "\n".join([*lines, *(f"- {p}" for p in problems)])
