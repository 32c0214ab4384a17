"""All seven figures of three classes in a 512 x 512 x 16 volume: time, and ratio to the peers.

    python benchmarks/metrics.py [--repeats 5]

MONAI and surface-distance are asked for the same figures in the way their documentation shows:
MONAI each by its own function, surface-distance all from one table of distances. Times are of one
thread: the best of the repeats, on the wall and on the processor (on a busy machine only the
second is worth a comparison). Masks that no organ looks like are timed too, for ours alone.
Writes benchmarks/results/metrics.json.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import surface_distance as peer
import torch
from monai import metrics as monai

from augmint.case import Grid
from augmint.evaluation.metrics import METRICS
from augmint.evaluation.score import score_case
from augmint.fit import describe_device, versions
from results import commit, save

SHAPE, SPACING = (512, 512, 16), (0.8, 0.8, 8.0)
LABELS = {"background": 0, "left": 1, "right": 2, "low": 3}
TOLERANCE = 2.0
parser = argparse.ArgumentParser()
parser.add_argument("--repeats", type=int, default=5)


def organs() -> np.ndarray:
    """Three ellipsoids, the largest 240 pixels wide."""
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    mask = np.zeros(SHAPE, np.int64)
    for label, (a, b, r) in enumerate([(180, 200, 90), (330, 300, 120), (250, 420, 60)], 1):
        mask[((x - a) / r) ** 2 + ((y - b) / r) ** 2 + ((z - 7.5) / 9) ** 2 < 1] = label
    return mask


def masks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reference and prediction by what is the matter with the prediction."""
    rng = np.random.default_rng(0)
    reference = organs()
    shifted = np.roll(reference, (3, -2, 0), (0, 1, 2))
    specks, noise = shifted.copy(), rng.random(SHAPE)
    for label in (1, 2, 3):
        specks[(noise > label / 4) & (noise < label / 4 + 0.002)] = label
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    cores = np.zeros_like(reference)
    for label, (a, b) in enumerate([(180, 200), (330, 300), (250, 420)], 1):
        cores[((x - a) / 12) ** 2 + ((y - b) / 12) ** 2 + ((z - 7.5) / 3) ** 2 < 1] = label
    return {
        "organs, off by three pixels": (reference, shifted),
        "the same with 0.2 % scattered specks": (reference, specks),
        "only the core of each organ found": (reference, cores),
        "noise against organs": (reference, rng.integers(0, 4, SHAPE)),
        "noise against noise": (rng.integers(0, 4, SHAPE), rng.integers(0, 4, SHAPE)),
    }


def ours(reference: np.ndarray, prediction: np.ndarray, *, known: bool = True) -> np.ndarray:
    grid = Grid(SHAPE, np.diag([*SPACING, 1.0]), known)
    rows = score_case(
        reference, prediction, LABELS, grid, "case", "patient", frozenset({1, 2, 3}),
        tolerance=TOLERANCE,
    )  # fmt: skip
    return np.array([[getattr(row, metric) for metric in METRICS] for row in rows])


def with_monai(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    one_hot = [
        torch.from_numpy(np.stack([m == k for k in (1, 2, 3)])[None]).float()
        for m in (prediction, reference)
    ]
    how = {"include_background": True}
    counts = monai.get_confusion_matrix(*one_hot, **how)
    figures = [
        monai.compute_dice(*one_hot, **how),
        monai.compute_confusion_matrix_metric("precision", counts),
        monai.compute_confusion_matrix_metric("recall", counts),
        monai.compute_hausdorff_distance(*one_hot, spacing=SPACING, **how),
        monai.compute_hausdorff_distance(*one_hot, percentile=95, spacing=SPACING, **how),
        monai.compute_average_surface_distance(*one_hot, symmetric=True, spacing=SPACING, **how),
        monai.compute_surface_dice(*one_hot, [TOLERANCE] * 3, spacing=SPACING, **how),
    ]
    return torch.cat([f.double() for f in figures]).numpy().T


def with_surface_distance(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    rows = []
    for label in (1, 2, 3):
        r, p = reference == label, prediction == label
        measured = peer.compute_surface_distances(r, p, SPACING)
        rows.append(
            [
                peer.compute_dice_coefficient(r, p),
                (r & p).sum() / p.sum(),
                (r & p).sum() / r.sum(),
                peer.compute_robust_hausdorff(measured, 100),
                peer.compute_robust_hausdorff(measured, 95),
                float(np.mean(peer.compute_average_surface_distance(measured))),
                peer.compute_surface_dice_at_tolerance(measured, TOLERANCE),
            ]
        )
    return np.array(rows)


def timed(function: Callable[[], np.ndarray], repeats: int) -> dict[str, float]:
    """Seconds of the fastest of the repeats; one before them warms up."""
    function()
    wall, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {"wall_s": round(min(wall), 3), "processor_s": round(min(processor), 3)}


def main() -> None:
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table: dict[str, dict] = {}
    for number, (name, (reference, prediction)) in enumerate(masks().items()):
        row: dict = {"ours": timed(lambda: ours(reference, prediction), args.repeats)}  # noqa: B023
        row["ours_in_plane"] = timed(
            lambda: ours(reference, prediction, known=False),  # noqa: B023
            args.repeats,
        )
        if number < 2:
            np.testing.assert_allclose(
                ours(reference, prediction), with_monai(reference, prediction), rtol=1e-4
            )
            row["monai"] = timed(lambda: with_monai(reference, prediction), 1)  # noqa: B023
            row["surface_distance"] = timed(
                lambda: with_surface_distance(reference, prediction),  # noqa: B023
                1,
            )
            for other in ("monai", "surface_distance"):
                ratio = row[other]["processor_s"] / row["ours"]["processor_s"]
                row[f"{other}_over_ours"] = round(ratio, 1)
        table[name] = row
        print(name, row, flush=True)
    save(
        "metrics",
        {
            "what": "seconds for Dice, precision, recall, HD, HD95, ASSD and surface Dice of 3 "
            "classes in one volume, one thread; best of the repeats; ratios of processor time",
            "shape": SHAPE, "spacing_mm": SPACING, "repeats": args.repeats, "masks": table,
            "device": describe_device(torch.device("cpu")), "commit": commit(),
            "versions": {
                **versions(),
                "scipy": version("scipy"),
                "surface-distance": version("Surface-Distance-Based-Measures"),
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
