"""The fan of every CAMUS frame: how well it explains the frame, its shape, and the time it took.

    python benchmarks/sector_fit.py DATA [--sheet PICTURE]

Fits all frames of Dataset050_CAMUS and, where the folder has them, those of camus_native with
their spacing; compares the fit with the fans marked by eye in tests/camus_fans.json; measures the
round trip to polar coordinates and back in grey levels of 255, on every fortieth frame. The sheet
shows the twenty frames that the fit explains worst, its outline drawn, brightened. Times are of
one thread's processor time. Writes benchmarks/results/sector_fit.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from augmint.data import open_dataset
from augmint.data.images import read_image
from augmint.fit import describe_device, versions
from augmint.imaging.sector import Sector, from_polar, to_polar
from augmint.imaging.sector_fit import SectorFit, fit_sector
from results import commit, save

ROOT = Path(__file__).parents[1]
POLAR = ((128, 96), (192, 128), (256, 192), (384, 256))
parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--sheet", type=Path, help="picture of the worst twenty")


def spread(values: list[float]) -> dict[str, float]:
    """Five figures of a distribution."""
    names = {"least": 0, "p5": 5, "median": 50, "p95": 95, "most": 100}
    return {n: round(float(np.percentile(values, q)), 4) for n, q in names.items()}


def timed_fit(frame: torch.Tensor, aspect: float | None = None) -> tuple[SectorFit, float]:
    start = time.process_time()
    return fit_sector(frame, aspect=aspect), time.process_time() - start


def round_trip(frame: torch.Tensor, sector: Sector) -> dict[str, float]:
    """Mean absolute error in grey levels of 255, where it is two rows or more off the edges."""
    inside = sector.mask(frame.shape, margin=2.0)
    errors = {}
    for size in POLAR:
        back = from_polar(to_polar(frame[None], sector, size), sector, frame.shape)[0]
        error = float((back - frame)[inside].abs().mean()) * 127.5
        errors[f"{size[0]} x {size[1]}"] = error
    return errors


def mark_distances(sector: Sector, marks: dict[str, list[list[float]]]) -> list[float]:
    """Distance of each point marked by eye from its own edge, pixel rows."""
    away: list[float] = []
    for edge, points in marks.items():
        at = torch.tensor(points, dtype=torch.float64)
        radius, angle = sector.polar(at[:, 0], at[:, 1])
        if edge in ("left", "right"):
            side = sector.left if edge == "left" else sector.right
            off = radius * torch.sin(angle - np.deg2rad(side))
        else:
            off = radius - (sector.far if edge == "far" else sector.near)
        away += off.abs().tolist()
    return away


def native(folder: Path) -> dict[str, dict[str, float]]:
    """The fits of frames with spacing: once with their aspect given, once with it fitted."""
    rows = {}
    for path in sorted(folder.glob("*/*_E[DS].mhd")):
        array, affine, _ = read_image(path)
        frame = torch.from_numpy(array[0].squeeze().T.astype(np.float32)) / 127.5 - 1
        aspect = float(abs(affine[0, 0]) / abs(affine[1, 1]))
        given, seconds = timed_fit(frame, aspect)
        free, _ = timed_fit(frame)
        if given.sector is None or free.sector is None:
            raise SystemExit(f"{path.stem}: {given.reason or free.reason}")
        row = {
            "rows": frame.shape[0], "columns": frame.shape[1], "aspect": aspect,
            "overlap": given.overlap, "width": given.sector.width, "seconds": seconds,
            "fitted_aspect": free.sector.aspect, "fitted_overlap": free.overlap,
        }  # fmt: skip
        rows[path.stem] = {name: round(value, 4) for name, value in row.items()}
    return rows


def outlined(frame: torch.Tensor, sector: Sector, title: str) -> Image.Image:
    """A frame twice its size, dark tones lifted, with the fit's outline."""
    grey = ((frame.double().clamp(-1, 1) + 1) / 2).sqrt().mul(255).byte().numpy()
    h, w = grey.shape
    picture = Image.fromarray(grey).resize((2 * w, 2 * h), Image.Resampling.NEAREST)
    fine = sector.moved((2.0, 2.0))
    rows, columns = torch.arange(2.0 * h)[:, None], torch.arange(2.0 * w)[None]
    edge = (fine.inside(rows, columns).abs() < 0.5).numpy()
    colour = np.stack([np.array(picture)] * 3, -1)
    colour[edge] = (255, 60, 60)
    picture = Image.fromarray(colour)
    ImageDraw.Draw(picture).text((3, 2), title, fill=(255, 255, 0))
    return picture


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(args.data / "Dataset050_CAMUS")
    marks = json.loads((ROOT / "tests" / "camus_fans.json").read_text())
    fits, seconds, without, away = {}, [], [], []
    trips: dict[str, list[float]] = {}
    for number, item in enumerate(dataset.items):
        frame = dataset.load(item).image[0]
        found, took = timed_fit(frame)
        seconds.append(took)
        if found.sector is None:
            without.append(f"{item.case_id}: {found.reason}")
            continue
        fits[item.case_id] = found
        if item.case_id in marks:
            away += mark_distances(found.sector, marks[item.case_id])
        if number % 40 == 0:
            for size, error in round_trip(frame, found.sector).items():
                trips.setdefault(size, []).append(error)
    sectors = [f.sector for f in fits.values() if f.sector is not None]
    worst = sorted(fits, key=lambda name: fits[name].overlap)[:20]
    if args.sheet:
        sheet = Image.new("RGB", (5 * 450, 4 * 450))
        items = {item.case_id: item for item in dataset.items}
        for k, name in enumerate(worst):
            frame, found = dataset.load(items[name]).image[0], fits[name]
            assert found.sector is not None
            cell = outlined(frame, found.sector, f"{name} {found.overlap:.4f}")
            sheet.paste(cell, (k % 5 * 450, k // 5 * 450))
        sheet.save(args.sheet)
    result = {
        "what": "fit of the fan on every frame of CAMUS (224 x 224, squeezed); processor seconds "
        "of one thread",
        "frames": len(seconds), "without_fan": without,
        "overlap": spread([f.overlap for f in fits.values()]),
        "aspect": spread([s.aspect for s in sectors]),
        "width_degrees": spread([s.width for s in sectors]),
        "near": spread([s.near for s in sectors]), "far": spread([s.far for s in sectors]),
        "cut_by_a_box": sum(s.box is not None for s in sectors),
        "seconds": spread(seconds),
        "worst": {name: round(fits[name].overlap, 4) for name in worst},
        "marked_frames": len(marks), "marks": len(away),
        "mark_distance_rows": spread(away),
        "round_trip_grey_levels": {size: spread(errors) for size, errors in trips.items()},
        "native": native(args.data / "camus_native"),
        "device": describe_device(torch.device("cpu")), "commit": commit(), "versions": versions(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    save("sector_fit", result)


if __name__ == "__main__":
    main()
