"""Trains a segmenter on real and synthetic cases, and scores it on patients it never saw."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.images import IMAGE_ENDINGS, LOSSY, write_mask
from augmint.data.layout import listed
from augmint.data.pool import Pool, build_pool
from augmint.data.splits import draw_patients
from augmint.errors import AugmintError
from augmint.evaluation.metrics import METRICS
from augmint.evaluation.score import ScoreRow, Summary, score_case, summarise, write_scores
from augmint.fit import describe_device, prepare, real_labelled, resolve_device, versions
from augmint.imaging.working import WorkingGrid
from augmint.presets import Preset, preset_named
from augmint.progress import Talk
from augmint.report import write_json
from augmint.roles import assign_roles
from augmint.segmentation.cases import predict_case
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.staging import output_folder, write_text

SCHEMA_VERSION = 1


def segment(
    data: Path | str | Dataset,
    out: Path | str,
    synthetic: Path | str | Dataset | None = None,
    *,
    patients: int | Sequence[str] | None = None,
    fold: int | None = None,
    validation: int | float | None = None,
    preset: str = "quick",
    network: str = "unet",
    width: int | None = None,
    steps: int | None = None,
    augmentation: str = "strong",
    synthetic_probability: float = 0.5,
    settings: Mapping[str, Any] | None = None,
    dims: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Train a segmenter on real cases, or on real and accepted synthetic ones.

    The working grid is chosen from the real training cases alone, so that arms with and without
    synthetic cases share it.

    Args:
        data: A labelled dataset, or one made by `augment`: then its synthetic cases join, and
            the patients it held back validate.
        out: The run folder to make.
        synthetic: A dataset whose accepted synthetic cases join; its real cases are not used.
        patients: How many real patients to train on, or which; all that do not validate by
            default. Synthetic cases in `data` follow their patients.
        fold: Which fold of a dataset made with folds.
        validation: Patients to validate on, a number or a share, where the data name none.
        preset: Sizes of network and fit.
        network: A key of `SEGMENTERS`.
        width: Channels of the first level, instead of the preset's.
        steps: Optimiser steps, instead of the preset's.
        augmentation: `none`, `weak` or `strong`.
        synthetic_probability: Chance of each sample to be synthetic, where there are any.
        settings: Other fields of `SegmenterConfig`.
        dims: 2 or 3, instead of what the data suggest.
        seed: Seeds everything.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished run.
        talk: Where progress goes.

    Returns:
        The run folder.

    Raises:
        AugmintError: for unusable data, or a leak between training and validation patients.
    """
    talk = talk or Talk()
    real = data if isinstance(data, Dataset) else open_dataset(data)
    extra = open_dataset(synthetic) if isinstance(synthetic, (str, Path)) else synthetic
    roles = assign_roles(
        real, extra, patients=patients, fold=fold, validation=validation, seed=seed
    )
    sizes = preset_named(preset)
    chosen = dict(
        network=network, width=width, steps=steps, augmentation=augmentation,
        synthetic_probability=synthetic_probability, **(settings or {}),
    )  # fmt: skip
    segmenter_config(sizes, 2, seed, chosen)
    request = dict(
        command="segment", data=str(real.root), synthetic=None if extra is None else str(extra.root),
        patients=list(roles.real.patients), validation=list(roles.validation_patients), fold=fold,
        preset=preset, dims=dims, seed=seed, **chosen,
    )  # fmt: skip
    where = resolve_device(device)
    talk.say(f"{roles.in_words()}; device {where}")
    with output_folder(Path(out), request, resume=resume) as run:
        start = time.monotonic()
        prepared = prepare(roles.real, sizes, dims=dims, talk=talk)
        grid = prepared.facts.grid
        config = segmenter_config(sizes, grid.dims, seed, chosen)
        with talk.bar("train", config.steps) as update:
            trained = fit_segmenter(
                config,
                prepared.pool.crop(grid.window),
                _pool(roles.synthetic, grid, "reading synthetic cases", talk),
                num_classes=prepared.facts.num_classes,
                validation=_pool(roles.validation, grid, "reading validation cases", talk),
                spacing=grid.spacing_mm,
                folder=run,
                device=where,
                progress=lambda done: update(done, ""),
                resume=True,
            )
        best = run / "checkpoints" / "best"
        if roles.validation is None:
            save_segmenter(best, trained, progress={"step": config.steps})
        facts = {
            "schema_version": SCHEMA_VERSION,
            "labels": dict(real.labels),
            "annotated": list(prepared.facts.annotated),
            "grid": grid.to_json(),
        }
        _write_config(run, {**facts, "request": request, "segmenter": asdict(config)})
        write_json(
            run / "run.json",
            {
                **facts,
                "request": request,
                "dataset": real.name,
                "licence": real.licence,
                **roles.to_json(),
                "best": load_segmenter(best)[1],
                "seconds": round(time.monotonic() - start, 1),
                "device": describe_device(where),
                "versions": versions(),
            },
        )
    talk.say(f"wrote the segmenter to {out}; next: augmint evaluate {out} DATA -o SCORES")
    return Path(out)


def segmenter_config(
    sizes: Preset, dims: int, seed: int, chosen: Mapping[str, Any]
) -> SegmenterConfig:
    """The preset's configuration with what was chosen; None keeps the preset's value.

    Raises:
        AugmintError: for an unknown field, or a value that does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    from augmint.segmentation.augmentation import named_augmentation
    from augmint.segmentation.networks import SEGMENTERS

    steps = int(chosen.get("steps") or sizes.segmenter_steps)
    plain = SegmenterConfig(
        width=sizes.segmenter_width, steps=steps, seed=seed, warmup=min(50, max(1, steps // 10)),
        batch_size=16 if dims == 2 else sizes.batch_size_3d, validate_every=min(200, steps),
    )  # fmt: skip
    fields = asdict(plain)
    given = {k: v for k, v in chosen.items() if v is not None}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise AugmintError(
            f"a segmenter has no field {unknown[0]!r}; its fields are {', '.join(fields)}"
        )
    try:
        config = TypeAdapter(SegmenterConfig).validate_python({**fields, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise AugmintError(
            f"segmenter: field {'.'.join(map(str, first['loc']))} cannot be {first['input']!r}: "
            f"{first['msg']}"
        ) from error
    named_augmentation(config.augmentation)
    if config.network not in SEGMENTERS:
        raise AugmintError(
            f"unknown network {config.network!r}; choose one of {', '.join(SEGMENTERS)}"
        )
    return config


def _pool(dataset: Dataset | None, grid: WorkingGrid, title: str, talk: Talk) -> Pool | None:
    if dataset is None:
        return None
    with talk.bar(title, len(dataset)) as update:
        pool = build_pool(dataset, grid, progress=lambda done: update(done, ""))
    return pool.crop(grid.window)


def _write_config(run: Path, config: Mapping[str, Any]) -> None:
    import yaml

    plain = json.loads(json.dumps(config, default=str))
    write_text(run / "config.yaml", yaml.safe_dump(plain, sort_keys=False))


@dataclass(frozen=True)
class SegmenterRun:
    """A trained segmenter, loaded.

    Attributes:
        network: With its best weights.
        grid: Its working grid.
        labels: Name to the class that it predicts.
        annotated: Names of the classes that it was taught.
        spent: Patients that it, or what made its synthetic cases, was fitted on.
        validation: Patients that chose its weights.
    """

    network: Segmenter
    grid: WorkingGrid
    labels: Mapping[str, int]
    annotated: tuple[str, ...]
    spent: frozenset[str]
    validation: frozenset[str]


def load_segmenter_run(run: Path | str, device: torch.device | str = "cpu") -> SegmenterRun:
    """Load a run folder made by `segment`.

    Raises:
        AugmintError: if the folder is no finished run of `segment`.
    """
    folder = Path(run)
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        taught = SegmenterRun(
            network=load_segmenter(folder / "checkpoints" / "best", device)[0],
            grid=WorkingGrid.from_json(facts["grid"]),
            labels=dict(facts["labels"]),
            annotated=tuple(facts["annotated"]),
            spent=frozenset(facts["train_patients"]) | frozenset(facts["seen_patients"]),
            validation=frozenset(facts["validation_patients"]),
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        hint = " (it is unfinished: go on with --continue)" if folder.suffix == ".partial" else ""
        raise AugmintError(
            f"{folder} is no trained segmenter{hint}: {error!r}; give a folder made by "
            "`augmint segment`"
        ) from error
    return taught


def evaluate(
    run: Path | str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    patients: int | Sequence[str] | None = None,
    largest_component: bool = False,
    tolerance: float = 2.0,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Summary:
    """Predict the real cases of a dataset on their native grids and score them.

    Writes OUT/predictions, scores.csv, patients.csv (means per patient) and summary.json. Labels
    are matched by name; those that the run was not taught, or that nobody annotated in the data,
    are left out and named.

    Args:
        run: A folder made by `segment`.
        data: A labelled dataset.
        out: The folder to make.
        patients: Which, or how many to draw of those that the run never saw; all by default.
        largest_component: Keep the largest connected part of each label of a case.
        tolerance: Of the surface Dice, in mm or pixels.
        seed: Of the draw of patients.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished evaluation.
        talk: Where progress goes.

    Raises:
        AugmintError: if the run was fitted on one of the patients, or no label is shared.
    """
    talk = talk or Talk()
    if not tolerance >= 0:
        raise AugmintError(f"--tolerance must be 0 or more, got {tolerance}")
    where = resolve_device(device)
    taught = load_segmenter_run(run, where)
    dataset = _unseen(
        real_labelled(data if isinstance(data, Dataset) else open_dataset(data)),
        taught, patients, seed,
    )  # fmt: skip
    shared = _shared_labels(taught, dataset, talk)
    if chose := sorted(taught.validation & set(dataset.patients)):
        talk.say(
            f"note: {len(chose)} of {len(dataset.patients)} patients chose the run's best weights, "
            "so their scores are optimistic"
        )
    request = dict(
        command="evaluate", run=str(run), data=str(dataset.root), patients=list(dataset.patients),
        largest_component=largest_component, tolerance=tolerance,
    )  # fmt: skip
    with output_folder(Path(out), request, resume=resume) as folder:
        work = folder / ".work"
        rows: list[ScoreRow] = []
        with talk.bar("predict and score", len(dataset)) as update:
            for number, item in enumerate(dataset.items):
                done = work / f"{item.case_id}.json"
                if not done.exists():
                    case = dataset.load(item)
                    mask = _predict(taught, case, dataset, where, largest_component)
                    ending = _ending(dataset)
                    path = folder / "predictions" / f"{item.case_id}{ending}"
                    write_mask(path, mask, case.grid)
                    scored = score_case(
                        np.asarray(case.mask), mask, dataset.labels, case.grid, case.case_id,
                        case.patient_id, case.annotated & shared, tolerance=tolerance,
                    )  # fmt: skip
                    write_json(done, [asdict(row) for row in scored])
                rows += [ScoreRow(**row) for row in json.loads(done.read_text())]
                update(number + 1, "")
        summary = summarise(rows)
        write_scores(rows, folder / "scores.csv")
        _write_patients(rows, folder / "patients.csv")
        names = {n: i for n, i in _numbers(taught, dataset).items()}
        write_json(folder / "predictions" / "labels.json", names)
        facts = {"schema_version": SCHEMA_VERSION, "request": request, "dataset": dataset.name}
        means = {metric: summary.mean(metric) for metric in METRICS}
        write_json(
            folder / "summary.json",
            {**facts, **summary.to_dict(), "mean": means, "versions": versions()},
        )
        shutil.rmtree(work, ignore_errors=True)
    talk.say(f"wrote predictions and scores to {out}")
    return summary


def _unseen(
    dataset: Dataset, taught: SegmenterRun, patients: int | Sequence[str] | None, seed: int
) -> Dataset:
    """The chosen patients, none of whom the run was fitted on."""
    free = [p for p in dataset.patients if p not in taught.spent]
    if isinstance(patients, int):
        return dataset.select(patients=draw_patients(free, patients, seed))
    chosen = dataset if patients is None else dataset.select(patients=list(patients))
    spent = [p for p in chosen.patients if p in taught.spent]
    if spent:
        others = f"--patients {','.join(free)}" if free else "another dataset; all of these trained"
        raise AugmintError(
            f"leak: the run, or what made its synthetic cases, was fitted on {len(spent)} of the "
            f"{len(chosen.patients)} patients to evaluate: {listed(spent, 10)}; score patients "
            f"that nothing was fitted on: {others}"
        )
    return chosen


def _shared_labels(taught: SegmenterRun, dataset: Dataset, talk: Talk) -> frozenset[int]:
    """Classes of the dataset to score; says which labels are left out and why."""
    names = {n: i for n, i in dataset.labels.items() if i > 0}
    shared = [n for n, i in names.items() if n in taught.annotated and i in dataset.annotated]
    for name in names:
        if name not in taught.annotated:
            talk.say(f"label {name!r} is left out: the run was not taught it")
        elif name not in shared:
            talk.say(f"label {name!r} is left out: nobody annotated it in {dataset.name}")
    for name in taught.annotated:
        if name not in names:
            talk.say(f"label {name!r} is left out: {dataset.name} does not have it")
    if not shared:
        raise AugmintError(
            f"{dataset.name} has the labels {listed(list(names))}, the run was taught "
            f"{listed(taught.annotated)}; none is shared, so rename with --label-map old=new"
        )
    return frozenset(names[n] for n in shared)


def _numbers(taught: SegmenterRun, dataset: Dataset) -> dict[str, int]:
    """Name -> number in the predictions: the dataset's, and new ones for labels it lacks."""
    numbers = dict(dataset.labels)
    for name in taught.labels:
        numbers.setdefault(name, max(numbers.values()) + 1)
    return numbers


def _predict(
    taught: SegmenterRun,
    case: Case,
    dataset: Dataset,
    device: torch.device,
    largest_component: bool,
) -> np.ndarray:
    """The predicted mask in the dataset's numbers."""
    channels = taught.network.spec.in_channels
    if case.image.shape[0] != channels:
        raise AugmintError(
            f"case {case.case_id!r} has {case.image.shape[0]} channel(s), the run was trained on "
            f"{channels}; give the same channels"
        )
    found = predict_case(
        [taught.network], replace(case, mask=None), taught.grid, device=device,
        largest_component=largest_component,
    )  # fmt: skip
    numbers = _numbers(taught, dataset)
    table = np.zeros(max(taught.labels.values()) + 1, dtype=np.int64)
    for name, index in taught.labels.items():
        table[index] = numbers[name]
    return table[found.numpy()]


def _ending(dataset: Dataset) -> str:
    """The dataset's own ending where it stores masks without loss, else PNG."""
    ending = dataset.file_ending.lower()
    if ending == ".mhd":
        return ".mha"
    return ending if ending in IMAGE_ENDINGS and ending not in (*LOSSY, ".bmp") else ".png"


def _write_patients(rows: Sequence[ScoreRow], path: Path) -> None:
    """Means of each patient and label over its cases that count."""
    import csv

    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        groups.setdefault((row.patient, row.label), []).append(row)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["patient", "label", "cases", *METRICS, "unit", "failures"])
        for (patient, label), group in sorted(groups.items()):
            (one,) = summarise(group).labels
            cells = ["" if (v := one.means[m]) is None else f"{v:.6g}" for m in METRICS]
            counted = one.cases - one.both_empty
            writer.writerow([patient, label, counted, *cells, one.unit, one.failures])


def in_words(summary: Summary) -> str:
    """The table of a summary, with the policy that its figures follow."""
    shown = ("dice", "hd95", "assd", "surface_dice")
    lines = [f"{'label':<16}{'patients':>9}" + "".join(f"{m:>14}" for m in shown) + "  failures"]
    for one in summary.labels:
        cells = ["-" if (v := one.means[m]) is None else f"{v:.3f}" for m in shown]
        figures = "".join(f"{c:>14}" for c in cells)
        failed = f"{one.failures} of {one.cases - one.both_empty}"
        lines.append(f"{one.label:<16}{one.patients:>9}{figures}  {failed}")
    mean = summary.mean("dice")
    units = " and ".join(sorted({one.unit for one in summary.labels}))
    lines.append(f"mean Dice {'-' if mean is None else f'{mean:.3f}'}; distances in {units}")
    return "\n".join([*lines, summary.policy])
