"""A copy of labelled ultrasound with a smaller field of view: crops of what was recorded.

Nothing is generated: narrower, shallower and tilted sectors are cut out of the recorded ones, with
another gain or attenuation if asked for. For training on narrow fields, and for testing.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augmint.case import Case, Grid
from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.images import TIFF, read_image, read_mask, write_image, write_mask
from augmint.diffusion.sampling import generator_for
from augmint.errors import AugmintError
from augmint.fit import versions
from augmint.imaging.sector import View
from augmint.imaging.sector_fit import fit_sector
from augmint.imaging.sector_stress import (
    FoundFan,
    Stress,
    StressRange,
    room_to_tilt,
    shows_recorded,
    stressed,
    stressed_view,
)
from augmint.prepare import choose_patients, real_labelled
from augmint.progress import Talk
from augmint.report import sheet, tile, write_json
from augmint.staging import WORK, output_folder, refuse_existing, write_text
from augmint.synthetic import KEPT, converted_ending, write_description

SCHEMA_VERSION = 1
SHOWN = 12


def stress(
    data: Path | str | Dataset,
    out: Path | str,
    *,
    width: tuple[float, float] | float = StressRange.width,
    depth: tuple[float, float] | float = StressRange.depth,
    tilt: float = StressRange.tilt,
    gain: float = StressRange.gain,
    attenuation: float = StressRange.attenuation,
    fixed: bool = False,
    strength: float = 1.0,
    fill: bool = False,
    labels: str = "clip",
    patients: int | Sequence[str] | None = None,
    seed: int = 0,
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Write a copy of a labelled ultrasound dataset with a smaller field of view.

    Each labelled real case keeps its name, its patient and its grid; what lies outside its new
    sector is 0. A patient's frames of one view change alike. Without a tilt and without `fill`
    what lies inside keeps its exact values. Writes an nnU-Net raw dataset, stress.json,
    sheets/stress.png, and cases.csv with what happened to each case: `stress_cut_<label>` is the
    share of a label inside the recorded sector that is not shown any more,
    `stress_outside_<label>` the share that an annotator had drawn outside of it.

    Args:
        data: A dataset folder, or an opened dataset.
        out: The folder to make.
        width: Least and largest factor of the angle between the sides, or one for all.
        depth: Least and largest factor of the depth.
        tilt: Largest tilt to either side, degrees; never so far that anything new would show.
        gain: Largest gain to either side, dB; 60 dB are the way from black to white.
        attenuation: Largest attenuation over the recorded depth, dB.
        fixed: Take the far ends of the ranges; directions stay random.
        strength: 0 to 1, scales every change; 0 changes nothing inside the sector.
        fill: Show the smaller field as large as the old one, as a scanner does; a known spacing
            shrinks with it.
        labels: `clip` cuts the masks to the new sector, `keep` leaves them whole.
        patients: How many patients to draw, or which; all by default.
        seed: Seeds the changes.
        resume: Continue an unfinished dataset.
        talk: Where progress goes.

    Returns:
        The dataset's folder.

    Raises:
        AugmintError: if a value is out of range, or cases show no fan; nothing is written then.
    """
    talk = talk or Talk()
    if labels not in ("clip", "keep"):
        raise AugmintError(f"--labels is clip or keep, got {labels!r}")
    if not 0 <= strength <= 1:
        raise AugmintError(f"--strength must be 0 to 1, got {strength:g}")
    ranges = StressRange(_pair(width), _pair(depth), tilt, gain, attenuation, fixed)  # type: ignore[arg-type]
    opened = data if isinstance(data, Dataset) else open_dataset(data)
    dataset = real_labelled(opened)
    if left := len(opened) - len(dataset):
        talk.say(f"left out: {left} case(s) without a mask, or synthetic")
    dataset = choose_patients(dataset, patients, seed)
    request = dict(
        command="stress", data=str(dataset.root.resolve()), labels=dict(dataset.labels),
        patients=list(dataset.patients), **asdict(ranges), strength=strength, fill=fill,
        masks=labels, seed=seed,
    )  # fmt: skip
    refuse_existing(Path(out))
    found = _find_fans(dataset, talk)
    stresses = _draw_all(dataset, found, ranges.scaled(strength), seed, fill)
    with output_folder(Path(out), request, resume=resume) as folder:
        rows, known = [], True
        for item in talk.counted("stress", dataset.items, len(dataset)):
            row = _write_case(
                dataset, item, folder, found[item.case_id], stresses[item.case_id],
                fill=fill, keep=labels == "keep",
            )  # fmt: skip
            known = known and row["spacing_known"]
            rows.append(row)
        cut = _finish(dataset, folder, rows, request, known=known)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in cut.items())
    talk.say(f"wrote {len(rows)} cases of {len(dataset.patients)} patients to {out}")
    verb = "was cut" if labels == "clip" else "left the frame"
    talk.say(f"median share of each label that {verb}: {shares or 'no label is there'}")
    talk.say(f"look at {out}/sheets/stress.png")
    return Path(out)


def _pair(factors: Sequence[float] | float) -> tuple[float, ...]:
    """One factor stands for both ends."""
    return (factors, factors) if isinstance(factors, (int, float)) else tuple(factors)


def _find_fans(dataset: Dataset, talk: Talk) -> dict[str, FoundFan]:
    """Case -> its fan.

    Raises:
        AugmintError: that names every case without one, and why.
    """
    found: dict[str, FoundFan] = {}
    failed: dict[str, list[str]] = defaultdict(list)
    for item in talk.counted("finding sectors", dataset.items, len(dataset)):
        case = dataset.load(item)
        frames = _planes(case.image[:1].numpy(), case.grid, item)[0]
        fit = fit_sector(torch.from_numpy(frames.copy()), aspect=_aspect(case.grid, item))
        least = _stored(dataset, item).min()
        if fit.sector is None:
            failed[fit.reason].append(item.case_id)
        elif least < 0:
            failed["values below 0, where black is 0"].append(item.case_id)
        else:
            found[item.case_id] = FoundFan(fit, (frames.shape[1], frames.shape[2]))
    if failed:
        count = sum(map(len, failed.values()))
        why = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in failed.items())
        raise AugmintError(
            f"{dataset.root}: stress needs the fan of a sector probe on black that is 0, and "
            f"{count} of {len(dataset)} cases cannot be used ({why}); name patients without them, "
            "or leave the cases out"
        )
    return found


def _draw_all(
    dataset: Dataset, found: Mapping[str, FoundFan], ranges: StressRange, seed: int, fill: bool
) -> dict[str, Stress]:
    """Case -> its change: one for a patient's cases of one view where views are named."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item in dataset.items:
        view = item.columns.get("view")
        groups[(item.patient_id, view) if view else (item.case_id,)].append(item.case_id)
    stresses = {}
    for key, cases in groups.items():
        drawn = ranges.draw(generator_for(seed, "stress", *key))
        if drawn.tilt:
            # All of the range still happens, as far as there is room.
            room = min(room_to_tilt(found[c], drawn, ranges.tilt, fill) for c in cases)
            drawn = replace(drawn, tilt=drawn.tilt * room / ranges.tilt)
        for case_id in cases:
            fan = found[case_id].fit.sector
            assert fan is not None
            if fan.far * drawn.depth <= 1.05 * fan.near:
                raise AugmintError(
                    f"case {case_id!r}: {drawn.depth:.2f} of its depth ends above the near edge of "
                    "its sector, so nothing would be shown; raise --depth"
                )
            view_of = stressed_view(found[case_id], drawn, fill)
            assert shows_recorded(view_of, found[case_id].shape), (
                f"{case_id}: {drawn} shows new places"
            )
            stresses[case_id] = drawn
    return stresses


def _write_case(
    dataset: Dataset,
    item: Item,
    folder: Path,
    found: FoundFan,
    stress: Stress,
    *,
    fill: bool,
    keep: bool,
) -> dict[str, Any]:
    """Write one case unless that is done; its row is written last."""
    done = folder / WORK / "rows" / f"{item.case_id}.json"
    if done.exists():
        row: dict[str, Any] = json.loads(done.read_text())
        return row
    case = dataset.load(item)
    assert case.mask is not None
    view = stressed_view(found, stress, fill)
    image = _planes(_stored(dataset, item), case.grid, item)
    mask = _planes(case.mask.numpy()[None], case.grid, item)[0]
    new_image, new_mask, stays = stressed(view, stress, image, mask, keep=keep)
    grid = _shrunk(case.grid, view, item) if case.grid.spacing_known else case.grid
    ending = _ending(dataset)
    for channel, one in enumerate(_unplaned(new_image, case.grid, item)):
        write_image(folder / "imagesTr" / f"{item.case_id}_{channel:04d}{ending}", one[None], grid)
    written = _unplaned(new_mask[None], case.grid, item)[0]
    write_mask(folder / "labelsTr" / f"{item.case_id}{ending}", written, grid)
    row = {f"stress_{name}": value for name, value in asdict(stress).items()}
    row |= {"stress_scale": view.scale, "spacing_known": case.grid.spacing_known}
    row["channels"] = len(image)
    recorded = view.source.mask(found.shape).numpy()
    for name, index in dataset.labels.items():
        if index in dataset.annotated:
            here = mask == index
            row[f"stress_cut_{name}"] = _share(here & recorded, ~stays)
            row[f"stress_outside_{name}"] = _share(here, ~recorded)
    write_text(done, json.dumps(row))
    return row


def _share(of: np.ndarray, where: np.ndarray) -> float | None:
    """How much of a region lies in another; None for an empty one."""
    return float((of & where).sum() / of.sum()) if of.any() else None


def _shrunk(grid: Grid, view: View, item: Item) -> Grid:
    """The grid whose pixels are smaller by the view's scale; the apex keeps its place in mm."""
    n = grid.dims
    across = [axis for axis in range(n) if n == 2 or axis != grid.slice_axis]
    apex = (view.source.row, view.source.column)
    step = np.eye(n + 1)
    for axis, place in zip(across, apex[::-1] if _turned(grid, item) else apex):
        step[axis, axis] = 1 / view.scale
        step[axis, n] = place * (1 - 1 / view.scale)
    return replace(grid, affine=grid.affine @ step)


def _turned(grid: Grid, item: Item) -> bool:
    """Whether slices run columns, rows: volumes are stored x, y, but for stacks of TIFF."""
    return grid.dims == 3 and not item.images[0].name.lower().endswith(TIFF)


def _planes(array: np.ndarray, grid: Grid, item: Item) -> np.ndarray:
    """(C, *spatial) as pictures (C, S, H, W); one slice for a frame."""
    if grid.dims == 2:
        return array[:, None]
    planes = np.moveaxis(array, grid.slice_axis + 1, 1)
    return planes.swapaxes(2, 3) if _turned(grid, item) else planes


def _unplaned(planes: np.ndarray, grid: Grid, item: Item) -> np.ndarray:
    """The converse of `_planes`."""
    if grid.dims == 2:
        return planes[:, 0]
    planes = planes.swapaxes(2, 3) if _turned(grid, item) else planes
    return np.ascontiguousarray(np.moveaxis(planes, 1, grid.slice_axis + 1))


def _aspect(grid: Grid, item: Item) -> float | None:
    """Width of a pixel over its height where the spacing is known."""
    if not grid.spacing_known:
        return None
    first, second = grid.plane().spacing
    return first / second if _turned(grid, item) else second / first


def _stored(dataset: Dataset, item: Item) -> np.ndarray:
    return dataset.read_stored(item)[0]


def _ending(dataset: Dataset) -> str:
    """Formats that are kept, else PNG or NIfTI."""
    ending = dataset.file_ending.lower()
    return ending if ending in KEPT else converted_ending(dataset)


def _finish(
    dataset: Dataset,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    request: Mapping[str, Any],
    *,
    known: bool,
) -> dict[str, float]:
    """Tables and sheet; returns the median share of each label that was cut."""
    for name in ("imagesTr", "labelsTr"):
        for path in (folder / name).glob(".*.tmp*"):  # half-written files that a kill left
            path.unlink()
    write_description(
        folder, dataset, cases=len(dataset), channels=rows[0]["channels"], ending=_ending(dataset),
        spacing_known=known,
    )  # fmt: skip
    cut = {}
    for name, index in dataset.labels.items():
        shares = [r[f"stress_cut_{name}"] for r in rows if r.get(f"stress_cut_{name}") is not None]
        if index in dataset.annotated and shares:
            cut[name] = float(np.median(shares))
    _write_cases(folder / "cases.csv", dataset, rows)
    _write_sheet(folder, dataset, rows)
    everything = {
        "schema_version": SCHEMA_VERSION, "request": dict(request), "versions": versions(),
        "dataset": dataset.name, "licence": dataset.licence, "cases": len(rows),
        "median_cut": cut,
    }  # fmt: skip
    write_json(folder / "stress.json", everything)
    return cut


def _write_cases(path: Path, dataset: Dataset, rows: Sequence[Mapping[str, Any]]) -> None:
    """cases.csv: the source's columns, then what happened."""
    own = [k for k in rows[0] if k.startswith("stress_")]
    named = {k for item in dataset.items for k in item.columns}
    extra = sorted(named - {"case", "patient", "domain", *own})
    temporary = path.with_name(path.name + ".writing")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "patient", "domain", *extra, *own])
        for item, row in zip(dataset.items, rows):
            cells = [item.columns.get(k, "") for k in extra]
            told = ["" if row[k] is None else f"{row[k]:.4f}" for k in own]
            writer.writerow([item.case_id, item.patient_id, item.domain, *cells, *told])
    temporary.replace(path)


def _write_sheet(folder: Path, dataset: Dataset, rows: Sequence[Mapping[str, Any]]) -> None:
    """sheets/stress.png: recorded and stressed cases beside each other, with their outlines."""
    count = min(SHOWN, len(dataset))
    chosen = sorted({round(k * (len(dataset) - 1) / max(1, count - 1)) for k in range(count)})
    tiles: list[np.ndarray | None] = []
    captions: list[tuple[str, str]] = []
    for k in chosen:
        item, row = dataset.items[k], rows[k]
        case = dataset.load(item)
        assert case.mask is not None
        for image, mask in (
            (case.image.numpy(), case.mask.numpy()),
            _read_back(folder, item, case, row["channels"], _ending(dataset)),
        ):
            planes = _planes(image, case.grid, item)[0]
            z = len(planes) // 2
            tiles.append(tile(planes[z], _planes(mask[None], case.grid, item)[0, z]))
        remark = f"{row['stress_width']:.2f} {row['stress_depth']:.2f} {row['stress_tilt']:+.1f}"
        captions.append((item.case_id, remark))
    per_row = 3
    tiles += [None] * (-len(captions) % per_row * 2)
    captions += [("", "")] * (-len(captions) % per_row)
    sheet(
        folder / "sheets" / "stress.png",
        [tiles[k : k + 2 * per_row] for k in range(0, len(tiles), 2 * per_row)],
        columns=["recorded", "stressed"] * per_row, labels=dataset.labels,
        heading=f"{dataset.name}: {len(chosen)} of {len(dataset)} cases; below each: factors of "
        "width and depth, tilt in degrees",
        captions=[captions[k : k + per_row] for k in range(0, len(captions), per_row)],
    )  # fmt: skip


def _read_back(
    folder: Path, item: Item, case: Case, channels: int, ending: str
) -> tuple[np.ndarray, np.ndarray]:
    """A written case in the greys of its source, so that a gain is seen."""
    files = [folder / "imagesTr" / f"{item.case_id}_{k:04d}{ending}" for k in range(channels)]
    unit = case.intensity.to_unit(read_image(files, channels=channels)[0])
    return unit.numpy(), read_mask(folder / "labelsTr" / f"{item.case_id}{ending}")[0]
