"""A fitted method over cases: a synthetic dataset, written case by case and able to go on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from augmint.case import Case
from augmint.cluster import check_address, check_cpus
from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.images import write_image, write_mask
from augmint.diffusion.training import autocast
from augmint.errors import AugmintError
from augmint.fit import (
    FittedRun,
    describe_device,
    load_run,
    resolve_device,
    versions,
)
from augmint.methods import build_method, is_calibrated, sees_whole_frames
from augmint.prepare import choose_patients, prepare, real_labelled
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.gates import Gates, Verdict
from augmint.staging import WORK, output_folder, refuse_existing, write_text
from augmint.synthetic import check_cases, files_of_cases, finish_dataset, write_real


def generate(
    run: Path | str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    copies: int = 5,
    patients: int | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
    preset: str = "quick",
    dims: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    ray: str | None = None,
    ray_cpus: int | None = None,
    talk: Talk | None = None,
) -> Path:
    """Make a synthetic dataset from a fitted run, or by a method without a fit; no gate judges.

    Args:
        run: A folder made by `fit`, or the name of a method that needs no fit.
        data: The labelled dataset whose masks are used.
        out: The dataset to make: the real cases and the synthetic ones.
        copies: Synthetic cases for each real one.
        patients: How many patients to draw, or which; all by default.
        settings: Fields of the method that need no new fit.
        shard: (i, n) makes the i-th of n parts of the cases, for n machines.
        preset: Size of the working grid, for a method without a fit; a run has its own.
        dims: 2 or 3, likewise.
        seed: Seeds everything.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished dataset, whether it was begun with Ray or without.
        ray: Address of a Ray cluster: `local` starts one here for that time, `auto` finds one that
            runs, else host:port or ray://host:port. Data, run and OUT must lie on a file system
            that all its machines share.
        ray_cpus: Processors and threads of each task there; by default as many as PyTorch has
            threads here, or beside a GPU its share of its node.
        talk: Where progress goes.

    Returns:
        The dataset's folder.
    """
    check_copies(copies)
    check_cpus(ray, ray_cpus)
    talk = talk or Talk()
    if not 0 <= shard[0] < shard[1]:
        raise AugmintError(f"shard (i, n) needs 0 <= i < n; got {tuple(shard)}")
    dataset = real_labelled(data if isinstance(data, Dataset) else open_dataset(data))
    dataset = choose_patients(dataset, patients, seed)
    if ray is not None:
        check_address(ray)
    here = device if ray is None else "cpu"
    fitted = fitted_or_ready(
        run, dataset, settings=settings, preset=preset, dims=dims, device=here, talk=talk
    )
    check_labels(fitted, dataset)
    dataset = numbered_like(dataset, fitted.facts.labels)
    part = _shard_of(dataset, shard)
    where = resolve_device(here)
    request = dict(
        command="generate", run=run_name(run), data=str(dataset.root.resolve()),
        copies=copies,
        patients=list(dataset.patients), settings=dict(settings or {}), shard=list(shard),
        preset=preset, dims=dims, seed=seed,
    )  # fmt: skip
    refuse_existing(Path(out))
    check_cases(part, talk, fitted.method)
    with output_folder(Path(out), request, resume=resume) as folder:
        if ray is None:
            write_real(part, folder, talk)
            cost = synthesise(
                fitted, part, folder, copies=range(copies), seed=seed, gate=None,
                device=where, talk=talk,
            )  # fmt: skip
        else:
            from augmint.shards import synthesise_on_ray

            cost = synthesise_on_ray(
                fitted, part, folder, copies=range(copies), seed=seed, address=ray, device=device,
                cpus=ray_cpus, before=lambda: write_real(part, folder, talk), talk=talk,
            )  # fmt: skip
        facts = _run_facts(request, fitted, folder, cost)
        finish_dataset(part, folder, facts, held_back=(), folds=(), facts_grid=fitted.facts)
    talk.say(f"wrote {len(part) * copies} synthetic cases to {out}; look at {out}/report.html")
    return Path(out)


def _shard_of(dataset: Dataset, shard: tuple[int, int]) -> Dataset:
    part = replace(dataset, items=dataset.items[shard[0] :: shard[1]])
    if not part.items:
        raise AugmintError(
            f"shard {shard[0]}/{shard[1]} has no case, there are {len(dataset)}; use fewer shards"
        )
    return part


def _run_facts(
    request: Mapping[str, Any], fitted: FittedRun, folder: Path, cost: Mapping[str, float]
) -> dict[str, Any]:
    """For run.json."""
    return {
        "request": request,
        "versions": versions(),
        # Machines of a cluster may differ, and those that went on after a stop.
        "signature": signatures(folder),
        "folds": [
            {
                "fold": None,
                "generator_patients": list(fitted.generator_patients),
                "gate_patients": [],
                "validation_patients": [],
            }
        ],
        "cost": cost,
    }


def is_method(run: Path | str) -> bool:
    """Whether this names a method rather than a run folder; a folder of that name comes first."""
    from augmint.methods import METHODS

    return not Path(run).exists() and (str(run) in METHODS or ":" in str(run))


def run_name(run: Path | str) -> str:
    """How a request names its run or method."""
    return str(run) if is_method(run) else str(Path(run).resolve())


def fitted_or_ready(
    run: Path | str,
    dataset: Dataset,
    *,
    settings: Mapping[str, Any] | None,
    preset: str,
    dims: int | None,
    device: str,
    talk: Talk,
) -> FittedRun:
    """A run folder loaded, or a method that needs no fit with the facts of the dataset.

    Raises:
        AugmintError: if the method does need a fit, or there is no such run.
    """
    if not is_method(run):
        return load_run(run, settings=settings, device=device)
    name = str(run)
    method = build_method(name, settings)
    facts = prepare(
        dataset, preset_named(preset), dims=dims, whole=sees_whole_frames(method), talk=talk
    ).facts
    if method.networks(facts) or is_calibrated(method):
        raise AugmintError(
            f"{name} needs a fit; first `augmint fit DATA --method {name} -o RUN`, then "
            "`augmint generate RUN DATA -o OUT`"
        )
    return FittedRun(Path(name), method, name, facts, {}, {}, ())


def signature(fitted: FittedRun, device: torch.device) -> dict[str, Any]:
    """What the bytes of synthetic images depend on beside weights, masks and seeds."""
    from contextlib import nullcontext

    half = not isinstance(autocast(device, "auto"), nullcontext)
    return {
        "batch_size": getattr(fitted.method, "batch_size", None),
        "precision": "bf16" if half else "fp32",
        "threads": torch.get_num_threads(),
        "device": describe_device(device),
        "torch": torch.__version__,
    }


def signatures(folder: Path) -> Any:
    """What the finished cases of a dataset were made under: one signature, or a list of several.

    Each case keeps its own in the work folder, whoever made it; None is that of cases which have
    none, from an unfinished dataset of an earlier version.
    """
    found: list[dict[str, Any] | None] = []
    for path in sorted((folder / WORK / "rows").glob("*.json")):
        one = json.loads(path.read_text(encoding="utf-8")).get("signature")
        if one not in found:
            found.append(one)
    return found[0] if len(found) == 1 else found


def check_copies(copies: int) -> None:
    """Raises an AugmintError unless at least one copy is asked for."""
    if copies < 1:
        raise AugmintError(f"copies must be 1 or more for each case; got {copies}")


def check_labels(fitted: FittedRun, dataset: Dataset) -> None:
    """Labels are matched by name; `numbered_like` evens out their numbers.

    Raises:
        AugmintError: if the dataset lacks a label of the run or has others, or if its masks show
            a label that nobody annotated in the data of the run.
    """
    if set(fitted.facts.labels) != set(dataset.labels):
        raise AugmintError(
            f"{dataset.name} has the labels {dict(dataset.labels)}, the run was fitted on "
            f"{dict(fitted.facts.labels)}; use a label map, or fit on this dataset"
        )
    taught = set(fitted.facts.annotated)
    foreign = [n for n, i in dataset.labels.items() if i in dataset.annotated and n not in taught]
    if foreign:
        raise AugmintError(
            f"{dataset.name} has {', '.join(foreign)} annotated, but the run never learned what "
            "that looks like: it was fitted on data where nobody annotated it; drop or merge such "
            "labels with a label map, for the fit too, or fit on this dataset"
        )


def numbered_like(dataset: Dataset, labels: Mapping[str, int]) -> Dataset:
    """The dataset with its masks renumbered to other numbers for the same label names.

    Args:
        dataset: Its label names are those of `labels`.
        labels: Class name -> index.
    """
    if dict(dataset.labels) == dict(labels):
        return dataset
    number = {index: labels[name] for name, index in dataset.labels.items()}
    table = replace(
        dataset.table,
        labels=dict(labels),
        annotated=frozenset(number[i] for i in dataset.table.annotated),
        indices={stored: number[i] for stored, i in dataset.table.indices.items()},
    )
    annotated = frozenset(number[i] for i in dataset.annotated)
    return replace(dataset, labels=dict(labels), annotated=annotated, table=table)


def synthesise(
    fitted: FittedRun,
    dataset: Dataset,
    folder: Path,
    *,
    copies: Sequence[int],
    seed: int,
    gate: Gates | None,
    device: torch.device,
    talk: Talk,
    fold: int | None = None,
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """Write every copy of every case that is not there yet; returns what it cost.

    A case is finished when its row stands in the work folder; image and mask are there before it.
    `only` names the synthetic cases to write, all by default.
    """
    todo = unfinished(dataset, folder, copies=copies, seed=seed)
    if only is not None:
        todo = [(i, c) for i, c in todo if synthetic_name(i, seed, c) in only]
    rows, made_under = folder / WORK / "rows", signature(fitted, device)
    natives: dict[str, Case] = {}
    stored_files = files_of_cases(dataset, 0)

    def orders() -> Iterator[tuple[Case, int]]:
        working: Case | None = None
        for item, copy in todo:
            if working is None or working.case_id != item.case_id:
                natives[item.case_id] = native = dataset.load(item)
                working = fitted.facts.grid.to_working(native)
            yield working, copy

    made = fitted.method.generate(fitted.networks, orders(), fitted.facts, seed=seed)
    total = len(dataset) * len(copies)
    images, sampling, accepted = 0, 0.0, 0
    with talk.bar("generate", total) as update:
        for number in range(total - len(todo), total):
            start = time.perf_counter()
            new = next(made)
            sampling += time.perf_counter() - start
            by_slice = fitted.facts.grid.dims == 2 and new.dims == 3
            images += new.image.shape[-1] if by_slice else 1
            assert new.provenance is not None
            source = natives[new.provenance.source_case]
            # Cases come in order, so those read before this one are done with.
            while (oldest := next(iter(natives))) != source.case_id:
                del natives[oldest]
            one_file = stored_files[source.case_id] == 1
            row = write_case(new, source, fitted, folder, gate, fold, device, one_file=one_file)
            write_text(rows / f"{new.case_id}.json", json.dumps(row | {"signature": made_under}))
            accepted += row["accepted"]
            update(number + 1, f"{accepted} accepted" if gate else "")
    return {"images": images, "sampling_seconds": round(sampling, 2)}


def unfinished(
    dataset: Dataset, folder: Path, *, copies: Sequence[int], seed: int
) -> list[tuple[Item, int]]:
    """Real cases and the numbers of their copies that are still to be made."""
    rows = folder / WORK / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    there = {path.stem for path in rows.glob("*.json")}
    return [
        (item, copy)
        for item in dataset.items
        for copy in copies
        if synthetic_name(item, seed, copy) not in there
    ]


def synthetic_name(item: Item, seed: int, copy: int) -> str:
    """`<source>__s<seed>_c<copy>`."""
    return f"{item.case_id}__s{seed}_c{copy}"


def write_case(
    new: Case,
    source: Case,
    fitted: FittedRun,
    folder: Path,
    gate: Gates | None,
    fold: int | None,
    device: torch.device,
    *,
    one_file: bool = False,
) -> dict[str, Any]:
    """Bring one new case to its source's native grid, judge what is stored, write it.

    Args:
        new: On the working window.
        source: The real case whose mask it has, as stored.
        fitted: The run that made it.
        folder: The dataset.
        gate: Its judges, or None to accept everything.
        fold: The fold that made it.
        device: Where the gate computes.
        one_file: All channels in one file, as the source has them.

    Returns:
        The row of the manifest.
    """
    # A method may know better than the grid what lies between the working pixels.
    restore = getattr(fitted.method, "to_native", None)
    grid = fitted.facts.grid
    native = restore(new, source, grid) if restore else grid.to_native(new, source.grid)
    stored = source.intensity.to_stored(native.image)
    # The gate judges what a reader of the files will see: rounded to the stored type.
    written = replace(native, image=source.intensity.to_unit(stored))
    verdict = Verdict() if gate is None else gate.judge(written, device)
    target, other = folder, folder / "rejected"
    if verdict.reasons:
        target, other = other, target
    ending = output_ending(folder)
    # A kill may have left this case with another verdict.
    for channel in range(len(stored)):
        (other / "imagesTr" / f"{new.case_id}_{channel:04d}{ending}").unlink(missing_ok=True)
    (other / "labelsTr" / f"{new.case_id}{ending}").unlink(missing_ok=True)
    assert native.mask is not None
    parts = [stored] if one_file else [stored[c : c + 1] for c in range(len(stored))]
    for number, part in enumerate(parts):
        path = target / "imagesTr" / f"{new.case_id}_{number:04d}{ending}"
        write_image(path, part, source.grid)
    write_mask(target / "labelsTr" / f"{new.case_id}{ending}", native.mask.numpy(), source.grid)
    assert native.provenance is not None
    origin = dataclasses.asdict(native.provenance)
    details = origin.pop("details")
    return {
        "case": new.case_id,
        "synthetic": 1,
        "patient": new.patient_id,
        **origin,
        "method": fitted.method_name,
        "run": str(fitted.folder.name),
        "network_sha256": "+".join(fitted.hashes.values()),
        "fold": fold,
        **verdict.columns(),
        "rejected_by": list(verdict.reasons),
        **{f"{fitted.method_name}.{k}": v for k, v in details.items()},
    }


def output_ending(folder: Path) -> str:
    """The file ending that `write_real` chose for this dataset."""
    return str(json.loads((folder / "dataset.json").read_text())["file_ending"])
