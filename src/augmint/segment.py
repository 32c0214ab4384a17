"""Trains a segmenter on real cases, or on real and synthetic ones."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.pool import Pool, build_pool
from augmint.errors import AugmintError
from augmint.fit import describe_device, resolve_device, versions
from augmint.imaging.working import WorkingGrid
from augmint.prepare import prepare
from augmint.presets import Preset, preset_named
from augmint.progress import Talk
from augmint.report import write_json
from augmint.roles import assign_roles
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.mixing import partners
from augmint.segmentation.networks import Segmenter
from augmint.segmentation.samples import NO_SYNTHETIC
from augmint.segmentation.training import SegmenterConfig, check_config, fit_segmenter
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
    unfiltered: bool = False,
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
        augmentation: A key of `AUGMENTATIONS`: `none`, `weak`, `strong`, `oriented` (strong, never
            mirrored), or a single step such as `gamma`.
        synthetic_probability: Chance of each sample to be synthetic, where there are any.
        unfiltered: Let rejected synthetic cases join, too: to learn what the gate is worth.
        settings: Fields of `SegmenterConfig`; they stand over the arguments above.
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
        real, extra, patients=patients, fold=fold, validation=validation, seed=seed,
        unfiltered=unfiltered,
    )  # fmt: skip
    sizes = preset_named(preset)
    chosen = {
        "network": network, "width": width, "steps": steps, "augmentation": augmentation,
        "synthetic_probability": synthetic_probability, **(settings or {}),
    }  # fmt: skip
    if segmenter_config(sizes, 2, seed, chosen).needs_synthetic and roles.synthetic is None:
        raise AugmintError(NO_SYNTHETIC)
    request = dict(
        command="segment", data=str(real.root.resolve()),
        synthetic=extra and str(extra.root.resolve()),
        patients=list(roles.real.patients), validation=list(roles.validation_patients), fold=fold,
        unfiltered=unfiltered, preset=preset, dims=dims, labels=dict(real.labels),
        **{"seed": seed, **chosen},
    )  # fmt: skip
    where = resolve_device(device)
    talk.say(f"{roles.in_words()}; device {where}")
    with output_folder(Path(out), request, resume=resume) as run:
        start = time.monotonic()
        prepared = prepare(roles.real, sizes, dims=dims, talk=talk)
        grid = prepared.facts.grid
        config = segmenter_config(sizes, grid.dims, seed, chosen)
        own = prepared.pool.crop(grid.window)
        made = _pool(roles.synthetic, grid, "reading synthetic cases", talk)
        if config.needs_synthetic:
            alone = sum(not found for found in partners(own, made))
            talk.say(f"{alone} of {len(own)} real samples have no synthetic one to be mixed with")
        with talk.bar("train", config.steps) as update:
            trained = fit_segmenter(
                config,
                own,
                made,
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
        options = {
            "patients": patients if patients is None or isinstance(patients, int)
            else list(patients),
            "validation": validation, "patient_regex": real.patient_regex,
            "label_map": real.label_map,
        }  # fmt: skip
        _write_config(
            run, {**facts, "request": request, "segmenter": asdict(config), "options": options}
        )
        write_json(
            run / "run.json",
            {
                **facts,
                "request": request,
                "dataset": real.name,
                "licence": real.licence,
                **roles.to_json(),
                "datasets": list(roles.datasets),
                "seen_elsewhere": list(roles.seen_elsewhere),
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

    try:
        steps = int(chosen.get("steps") or sizes.segmenter_steps)
    except ValueError:
        raise AugmintError(
            f"segmenter: field steps cannot be {chosen['steps']!r}; give a whole number"
        ) from None
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
    check_config(config)
    named_augmentation(config.augmentation)
    if config.network not in SEGMENTERS:
        raise AugmintError(
            f"unknown network {config.network!r}; choose one of {', '.join(SEGMENTERS)}"
        )
    return config


def _pool(dataset: Dataset | None, grid: WorkingGrid, title: str, talk: Talk) -> Pool | None:
    if dataset is None:
        return None
    return build_pool(talk.counted(title, dataset, len(dataset)), grid).crop(grid.window)


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
        datasets: Names of the datasets that all of these belong to; empty where not recorded.
        spent_elsewhere: Those of `spent` whose dataset is not known.
    """

    network: Segmenter
    grid: WorkingGrid
    labels: Mapping[str, int]
    annotated: tuple[str, ...]
    spent: frozenset[str]
    validation: frozenset[str]
    datasets: frozenset[str]
    spent_elsewhere: frozenset[str]

    def may_know(self, dataset: Dataset) -> bool:
        """Whether its patients may be those of a dataset: of one name, or nobody knows."""
        return not self.datasets or dataset.name in self.datasets


def load_segmenter_run(run: Path | str, device: torch.device | str = "cpu") -> SegmenterRun:
    """Load a run folder made by `segment`.

    Raises:
        AugmintError: if the folder is no finished run of `segment`.
    """
    folder = Path(run)
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if "generator_patients" in facts:
            raise AugmintError(
                f"{folder} is a run of `augmint fit`, which segments nothing; give a folder made "
                "by `augmint segment`"
            )
        spent = frozenset(facts["train_patients"]) | frozenset(facts["seen_patients"])
        grid = WorkingGrid.from_json(facts["grid"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        hint = " (it is unfinished: go on with --continue)" if folder.suffix == ".partial" else ""
        why = "its run.json lacks " if isinstance(error, KeyError) else ""
        raise AugmintError(
            f"{folder} is no trained segmenter{hint}: {why}{error}; give a folder made by "
            "`augmint segment`"
        ) from error
    return SegmenterRun(
        network=load_segmenter(folder / "checkpoints" / "best", device)[0],
        grid=grid,
        labels=dict(facts["labels"]),
        annotated=tuple(facts["annotated"]),
        spent=spent,
        validation=frozenset(facts["validation_patients"]),
        datasets=frozenset(facts.get("datasets", ())),
        spent_elsewhere=frozenset(facts.get("seen_elsewhere", ())),
    )
