"""What a command would do and how long that takes: the plans of --dry-run. Nothing is written.

Times come from a few real steps on the real samples. Generation is not run: one evaluation of a
denoiser is taken as a third of a training step's time for one image. Copies of a few real images
are looked for among a few.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from augmint.adapt_request import read_request
from augmint.augment import plan_patients
from augmint.calibrate import evaluations_to_calibrate, patients_for_calibration
from augmint.data.dataset import Dataset
from augmint.data.pool import Pool
from augmint.data.splits import without_labels
from augmint.diffusion.networks import count_parameters
from augmint.diffusion.training import TrainingConfig, fit_network, flow_matching
from augmint.errors import AugmintError
from augmint.fit import (
    describe_device,
    drawer,
    method_with_preset,
    resolve_device,
    training_config,
)
from augmint.generate import check_labels, fitted_or_ready, numbered_like
from augmint.imaging.working import WorkingGrid
from augmint.methods import Method, is_calibrated, sees_whole_frames
from augmint.prepare import Prepared, choose_patients, prepare, real_labelled
from augmint.presets import Preset, preset_named
from augmint.progress import Talk
from augmint.quality.agreement import gate_config
from augmint.quality.gates import check_enough_patients, check_gates, lenders
from augmint.quality.memorisation import SHORTLIST, Picture, index_pictures, nearest
from augmint.quality.validity import Rules
from augmint.segment import segmenter_config
from augmint.segmentation.cases import predict_case
from augmint.segmentation.training import SegmenterConfig, fit_segmenter

MEASURED_STEPS = 3
MEASURED_SEARCHES = 8
RULE = (
    f"from {MEASURED_STEPS} measured steps; an evaluation counts as a third of a step for one image"
)


def plan_fit(
    dataset: Dataset,
    out: Path | None,
    *,
    method: str,
    settings: Mapping[str, Any],
    preset: str,
    patients: int | Sequence[str] | None,
    steps: int | None,
    dims: int | None,
    seed: int,
    device: str,
    talk: Talk,
    unlabelled: bool = False,
) -> dict[str, Any]:
    """The plan of `fit`; arguments as there.

    `unlabelled` says whether unlabelled images join; how many matters to nothing that is measured.
    """
    _free(out)
    part = choose_patients(real_labelled(dataset), patients, seed)
    sizes, where = preset_named(preset), resolve_device(device)
    chosen = method_with_preset(method, settings, sizes)
    prepared = prepare(part, sizes, dims=dims, whole=sees_whole_frames(chosen), talk=talk)
    prepared = replace(prepared, facts=replace(prepared.facts, unlabelled=int(unlabelled)))
    training = training_config(sizes, prepared.facts, steps, seed)
    networks, seconds = _measure_fit(chosen, prepared, training, where)
    calibration = _calibration(chosen, prepared, sizes, training, seconds, where)
    return {
        **_facts("fit", dataset, part, prepared, where),
        "networks": networks,
        "steps": training.steps,
        "minutes": _minutes({"fit": seconds * training.steps, **calibration}),
    }


def plan_augment(
    dataset: Dataset,
    out: Path | None,
    *,
    method: str,
    settings: Mapping[str, Any],
    copies: int,
    preset: str,
    patients: int | Sequence[str] | None,
    num_folds: int,
    held_fraction: float,
    steps: int | None,
    dims: int | None,
    seed: int,
    device: str,
    talk: Talk,
    gates: Sequence[str] = ("agreement",),
    rules: Path | str | Rules | None = None,
) -> dict[str, Any]:
    """The plan of `augment`; arguments as there. Folds are taken to last as long as the first."""
    _free(out)
    plan = plan_patients(
        real_labelled(dataset), patients=patients, held_fraction=held_fraction,
        num_folds=num_folds, seed=seed,
    )  # fmt: skip
    used, _ = check_gates(gates, dataset.labels, rules)
    check_enough_patients(used, min((train for _, train in plan.fits), key=len))
    sizes, where = preset_named(preset), resolve_device(device)
    chosen = method_with_preset(method, settings, sizes)
    part = plan.dataset.select(patients=list(plan.fits[0][1]))
    prepared = prepare(part, sizes, dims=dims, whole=sees_whole_frames(chosen), talk=talk)
    training = training_config(sizes, prepared.facts, steps, seed)
    networks, step = _measure_fit(chosen, prepared, training, where)
    calibration = _calibration(chosen, prepared, sizes, training, step, where)
    grid = prepared.facts.grid
    config = segmenter_config(sizes, grid.dims, seed, {"steps": sizes.gate_steps})
    judging = _measure_segmenter(config, prepared.pool, grid, prepared.facts.num_classes, where)
    rounds = len(plan.fits)
    segmenters = min(sizes.gate_folds, len(part.patients)) if "agreement" in used else 0
    sampling = _sampling_seconds(chosen, step / training.batch_size, len(prepared.pool) * copies)
    search, rule = {}, {}
    if "copies" in used:
        search = {"copies": rounds * _measure_copies(prepared, copies, where)}
        rule = {"rule": f"{RULE}; the search for copies from that of {MEASURED_SEARCHES} images"}
    return {
        **_facts("augment", dataset, part, prepared, where),
        **rule,
        "held_back_patients": list(plan.held_back),
        "folds": num_folds,
        "networks": networks,
        "steps": training.steps,
        "gate": {"segmenters": segmenters, "steps": sizes.gate_steps},
        "synthetic_cases": copies * sum(
            len(plan.dataset.select(patients=list(train))) for _, train in plan.fits
        ),
        "minutes": _minutes({
            "fit": rounds * step * training.steps,
            **{k: rounds * v for k, v in calibration.items()},
            "gate": rounds * segmenters * judging * sizes.gate_steps,
            **search,
            "generate": rounds * sampling,
        }),
    }  # fmt: skip


def plan_generate(
    run: Path | str,
    dataset: Dataset,
    out: Path | None,
    *,
    copies: int,
    patients: int | Sequence[str] | None,
    shard: tuple[int, int],
    settings: Mapping[str, Any],
    preset: str,
    dims: int | None,
    seed: int,
    device: str,
    talk: Talk,
) -> dict[str, Any]:
    """The plan of `generate`; arguments as there. One evaluation is measured on one batch."""
    _free(out)
    dataset = choose_patients(real_labelled(dataset), patients, seed)
    fitted = fitted_or_ready(
        run, dataset, settings=settings, preset=preset, dims=dims, device=device, talk=talk
    )
    check_labels(fitted, dataset)
    dataset = numbered_like(dataset, fitted.facts.labels)
    part = replace(dataset, items=dataset.items[shard[0] :: shard[1]])
    case = fitted.facts.grid.to_working(dataset.load(dataset.items[0]))
    start = time.perf_counter()
    next(fitted.method.generate(fitted.networks, [(case, 0)], fitted.facts, seed=seed))
    seconds = (time.perf_counter() - start) * len(part) * copies
    return {
        "command": "generate",
        "dataset": dataset.name,
        "cases": len(part),
        "patients": list(part.patients),
        "device": describe_device(resolve_device(device)),
        "networks": {n: _millions(count_parameters(m)) for n, m in fitted.networks.items()},
        "synthetic_cases": len(part) * copies,
        "minutes": _minutes({"generate": seconds}),
        "rule": "from one case that was generated and not kept",
    }


def plan_adapt(
    run: Path | str,
    dataset: Dataset,
    out: Path | None,
    *,
    settings: Mapping[str, Any] | None,
    patients: int | Sequence[str] | None,
    segmenter: Path | str | None,
    repeats: int,
    largest_component: bool,
    seed: int,
    device: str,
    talk: Talk,
) -> dict[str, Any]:
    """The plan of `adapt`; arguments as there. One case is adapted and not kept.

    What an image needs is known once the network has looked at it, so evaluations have a least (all
    look like the source) and a most; the time is that of the most.
    """
    _free(out)
    asked = read_request(
        run, dataset, settings=settings, patients=patients, segmenter=segmenter, repeats=repeats,
        seed=seed, device=device,
    )  # fmt: skip
    fitted, part = asked.fitted, without_labels(asked.dataset)
    for note in asked.known.notes(len(part.patients), run, segmenter):
        talk.say(note)
    method: Any = fitted.method
    by_patient: dict[str, list[tuple[int, int]]] = {}
    for item in talk.counted("reading images", part.items, len(part)):
        grid = part.load(item).grid
        by_slice = fitted.facts.grid.dims == 2 and len(grid.shape) == 3
        planes = grid.shape[grid.slice_axis] if by_slice else 1
        expected = method.expected_evaluations(fitted.networks, planes, repeats)
        by_patient.setdefault(item.patient_id, []).append(expected)
    least, most = (sum(e[k] for rows in by_patient.values() for e in rows) for k in (0, 1))
    native = part.load(part.items[0])
    start = time.perf_counter()
    working = fitted.facts.grid.to_working(native)
    made = next(method.adapt(fitted.networks, [working], fitted.facts, seed=seed, copies=1))
    image = method.to_native(made[0], native, fitted.facts.grid)
    seconds = time.perf_counter() - start
    took = sum(one.provenance.evaluations for one in made)
    minutes = {"shift": seconds * (most / took if took else len(part))}
    if asked.judge is not None:
        start = time.perf_counter()
        predict_case(
            [asked.judge.network], image, asked.judge.grid, device=asked.device,
            largest_component=largest_component,
        )  # fmt: skip
        looks = 1 if repeats == 1 else repeats + 1
        minutes["segment"] = (time.perf_counter() - start) * len(part) * looks
    return {
        "command": "adapt",
        "dataset": part.name,
        "cases": len(part),
        "patients": list(part.patients),
        "device": describe_device(asked.device),
        "evaluations": {"least": least, "most": most},
        "most_evaluations_of_a_patient": max(sum(e[1] for e in r) for r in by_patient.values()),
        "minutes": _minutes(minutes),
        "rule": "from one case that was shifted and not kept, at most as many evaluations",
    }


def plan_segment(
    dataset: Dataset,
    out: Path | None,
    *,
    synthetic: Dataset | None,
    patients: int | Sequence[str] | None,
    fold: int | None,
    validation: int | float | None,
    preset: str,
    settings: Mapping[str, Any],
    dims: int | None,
    seed: int,
    device: str,
    talk: Talk,
    unfiltered: bool = False,
    **chosen: Any,
) -> dict[str, Any]:
    """The plan of `segment`; arguments as there."""
    from augmint.roles import assign_roles

    _free(out)
    roles = assign_roles(
        dataset, synthetic, patients=patients, fold=fold, validation=validation, seed=seed,
        unfiltered=unfiltered,
    )  # fmt: skip
    sizes, where = preset_named(preset), resolve_device(device)
    segmenter_config(sizes, 2, seed, {**chosen, **settings})
    prepared = prepare(roles.real, sizes, dims=dims, talk=talk)
    grid = prepared.facts.grid
    config = segmenter_config(sizes, grid.dims, seed, {**chosen, **settings})
    step = _measure_segmenter(config, prepared.pool, grid, prepared.facts.num_classes, where)
    return {
        **_facts("segment", dataset, roles.real, prepared, where),
        **roles.to_json(),
        "networks": {config.network: f"width {config.width}"},
        "steps": config.steps,
        "minutes": _minutes({"train": step * config.steps}),
    }


def _free(out: Path | None) -> None:
    if out is not None and out.exists():
        raise AugmintError(f"{out} exists and is never overwritten; name another folder or move it")


def _facts(
    command: str, dataset: Dataset, part: Dataset, prepared: Prepared, device: torch.device
) -> dict[str, Any]:
    grid = prepared.facts.grid
    return {
        "command": command,
        "dataset": dataset.name,
        "cases": len(part),
        "patients": list(part.patients),
        "patient_rule": dataset.patient_rule,
        "samples": len(prepared.pool),
        "dims": grid.dims,
        "window": list(grid.window),
        "spacing_mm": None if grid.spacing_mm is None else list(grid.spacing_mm),
        "device": describe_device(device),
        "rule": RULE,
    }


def _measure_fit(
    method: Method, prepared: Prepared, training: TrainingConfig, device: torch.device
) -> tuple[dict[str, str], float]:
    """Parameters of each network, and the seconds of one step of them all."""
    networks: dict[str, str] = {}
    total = 0.0
    few = replace(training, steps=MEASURED_STEPS + 1, warmup=1)
    before: dict[str, Any] = {}
    for name, spec in method.networks(prepared.facts).items():
        before[name] = network = spec.config.build()
        stamps: list[float] = []
        fit_network(
            network, drawer(spec, prepared.pool), few, device=device,
            loss=spec.loss(before) if spec.loss else flow_matching,
            progress=lambda done, steps, loss: stamps.append(time.perf_counter()),  # noqa: B023
        )  # fmt: skip
        networks[name] = _millions(count_parameters(network))
        total += _pace(stamps)
    return networks, total


def _calibration(
    method: Any,
    prepared: Prepared,
    sizes: Preset,
    training: TrainingConfig,
    step: float,
    device: torch.device,
) -> dict[str, float]:
    """The seconds to calibrate a method whose networks take a step in so many; empty for others."""
    if not is_calibrated(method):
        return {}
    facts, pool = prepared.facts, prepared.pool
    config = gate_config(sizes, facts.grid.dims, training.seed)
    watcher = _measure_segmenter(config, pool, facts.grid, facts.num_classes, device)
    held = patients_for_calibration(pool.patient_ids, training.seed)
    cases = len(prepared.dataset.select(patients=list(held)))
    passes = evaluations_to_calibrate(method, cases, unlabelled=facts.unlabelled > 0)
    images = passes * len(pool) / len(prepared.dataset)
    return {"calibrate": watcher * config.steps + images * step / training.batch_size / 3}


def _measure_segmenter(
    config: SegmenterConfig, pool: Pool, grid: WorkingGrid, num_classes: int, device: torch.device
) -> float:
    """The seconds of one step; a real sample stands for the synthetic one that it is mixed with."""
    stamps: list[float] = []
    window = pool.crop(grid.window)
    fit_segmenter(
        replace(config, steps=MEASURED_STEPS + 1),
        window,
        window if config.needs_synthetic else None,
        num_classes=num_classes,
        spacing=grid.spacing_mm,
        device=device,
        progress=lambda done: stamps.append(time.perf_counter()),
    )
    return _pace(stamps)


def _measure_copies(prepared: Prepared, copies: int, device: torch.device) -> float:
    """The seconds to index the real images, to learn the threshold, and to search the new ones.

    A search compares an image with a shortlist alone, so that it takes as long among few real
    images as among many.
    """
    pool, dims = prepared.pool.crop(prepared.facts.grid.window), prepared.facts.grid.dims
    own = [i for i, p in enumerate(pool.patient_ids) if p == pool.patient_ids[0]]
    others = [i for i, p in enumerate(pool.patient_ids) if p != pool.patient_ids[0]]
    some = [
        Picture(image.float(), pool.case_ids[i], pool.patient_ids[i])
        for i in own + others[:SHORTLIST]
        for image in (pool.images[i].unbind(-1) if dims == 3 else [pool.images[i]])
    ]
    slices = pool.images.shape[-1] if dims == 3 else 1
    mine = some[: slices * len(own)]
    asked = mine[:: -(-len(mine) // MEASURED_SEARCHES)]
    index = index_pictures(some, device=device)
    nearest(index, asked[:1])  # which also warms up
    start = time.perf_counter()
    index_pictures(some, device=device)
    indexed = time.perf_counter()
    nearest(index, asked)
    searched = time.perf_counter()
    lent = lenders(pool.patient_ids)
    searches = sum(p in lent for p in pool.patient_ids) + len(pool) * copies
    return slices * (
        len(pool) * (indexed - start) / len(some) + searches * (searched - indexed) / len(asked)
    )


def _pace(stamps: Sequence[float]) -> float:
    """Seconds from step to step; the first step, which also warms up, is not among them."""
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def _sampling_seconds(method: Method, seconds_per_image: float, images: int) -> float:
    return getattr(method, "evaluations", 0) * images * seconds_per_image / 3


def _minutes(seconds: Mapping[str, float]) -> dict[str, float]:
    parts = {k: round(v / 60, 4) for k, v in seconds.items()}
    return {**parts, "total": round(sum(seconds.values()) / 60, 4)}


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M parameters"


def in_words(plan: Mapping[str, Any]) -> str:
    """A plan as text."""
    lines = [f"plan of `augmint {plan['command']}` on {plan['dataset']}; nothing was written"]
    for key, value in plan.items():
        if key in ("command", "dataset", "minutes", "rule") or value in (None, [], {}, ""):
            continue
        if key.endswith("patients") and isinstance(value, list):
            more = ", ..." if len(value) > 6 else ""
            value = f"{len(value)} ({', '.join(value[:6])}{more})"
        elif isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = " x ".join(f"{v:.3g}" for v in value)
        lines.append(f"{key.replace('_', ' '):<20}{value}")
    parts = ", ".join(f"{k} {v:.1f}" for k, v in plan["minutes"].items() if k != "total")
    lines.append(f"{'about':<20}{plan['minutes']['total']:.1f} minutes ({parts})")
    lines.append(f"{'':<20}{plan['rule']}")
    return "\n".join(lines)
