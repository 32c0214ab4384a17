"""What `adapt` works on, opened and checked, and whom of it somebody has seen before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.layout import listed
from augmint.errors import AugmintError
from augmint.fit import FittedRun, load_run, resolve_device
from augmint.prepare import choose_patients
from augmint.segment import SegmenterRun, load_segmenter_run


@dataclass(frozen=True)
class Known:
    """Patients of a target whom somebody has seen before.

    Attributes:
        source: The run was fitted or calibrated on them, with their masks.
        other: They joined the fit without masks, or the run that it started from saw them.
        segmenter: The segmenter was trained on them.
    """

    source: tuple[str, ...]
    other: tuple[str, ...]
    segmenter: tuple[str, ...]

    def notes(self, total: int, run: Path | str, segmenter: Path | str | None) -> Iterator[str]:
        """What a user should know of them."""
        if self.source:
            yield (
                f"note: {len(self.source)} of {total} target patients are patients of the source "
                f"that {run} was fitted or calibrated on ({listed(self.source)}); their images are "
                "adapted as asked, but tell nothing of how the run does on a scanner it never saw"
            )
        if self.other:
            yield (
                f"note: {len(self.other)} of {total} target patients were seen when {run} was "
                f"fitted, without masks or by the run before it ({listed(self.other)})"
            )
        if self.segmenter:
            yield (
                f"note: {len(self.segmenter)} of {total} target patients trained {segmenter} "
                f"({listed(self.segmenter)}); do not score the masks that it finds in them"
            )

    def to_json(self) -> dict[str, list[str]]:
        """For run.json."""
        return {
            "target_patients_of_the_source": list(self.source),
            "target_patients_seen_otherwise": list(self.other),
            "target_patients_of_the_segmenter": list(self.segmenter),
        }


@dataclass(frozen=True)
class Asked:
    """What `adapt` was asked to do, opened and checked."""

    fitted: FittedRun
    dataset: Dataset
    judge: SegmenterRun | None
    known: Known
    device: torch.device


def read_request(
    run: Path | str,
    data: Path | str | Dataset,
    *,
    settings: Mapping[str, Any] | None,
    patients: int | Sequence[str] | None,
    segmenter: Path | str | None,
    repeats: int,
    seed: int,
    device: str,
) -> Asked:
    """Open what `adapt` works on; arguments and errors as there."""
    if repeats < 1:
        raise AugmintError(f"--repeats must be 1 or more, got {repeats}")
    where = resolve_device(device)
    fitted = load_run(run, settings=settings, device=str(where))
    if not hasattr(fitted.method, "adapt"):
        raise AugmintError(
            f"{run} was fitted with {fitted.method_name}, which cannot adapt images; use "
            "`augmint fit SOURCE --method reference_shift -o RUN`"
        )
    opened = data if isinstance(data, Dataset) else open_dataset(data, bare=True)
    real = tuple(i for i in opened.items if not i.synthetic)
    if not real:
        raise AugmintError(f"{opened.root}: every case is synthetic; adapt real images")
    dataset = choose_patients(replace(opened, items=real), patients, seed)
    judge = None if segmenter is None else load_segmenter_run(segmenter, where)
    return Asked(fitted, dataset, judge, _known(fitted, judge, dataset), where)


def _known(fitted: FittedRun, judge: SegmenterRun | None, dataset: Dataset) -> Known:
    """Patients are known by name, within one dataset; a mere folder may be a copy of any."""
    bare = dataset.name == dataset.root.name
    names = set(dataset.patients)
    labelled = set(fitted.labelled_patients)
    source = names & labelled if bare or fitted.dataset in ("", dataset.name) else set()
    other = names & (set(fitted.generator_patients) - labelled)
    taught = set(judge.spent) if judge and (bare or judge.may_know(dataset)) else set()
    return Known(tuple(sorted(source)), tuple(sorted(other)), tuple(sorted(names & taught)))
