"""Frames as a reader sees them: generated and real ones drawn in the same way, to the last step."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from augmint.case import Case
from augmint.data.dataset import Dataset
from augmint.errors import AugmintError
from augmint.generate import is_method
from augmint.imaging.intensity import fit_intensity
from augmint.imaging.working import WorkingGrid, center, resample_image
from augmint.methods import build_method, sees_whole_frames
from augmint.prepare import prepare, real_labelled
from augmint.presets import preset_named
from augmint.report import plane_of

# Pixels along each side of every picture.
SIDE = 384


def working_grid(dataset: Dataset, fold: int | None = None) -> WorkingGrid | None:
    """The grid on which the synthetic cases of a dataset were made; None where it is not on record.

    Args:
        dataset: As `augment` or `generate` wrote it.
        fold: The fold whose generator is meant.
    """
    run = dataset.root / "run" / ("" if fold is None else f"fold_{fold}")
    if (run / "config.yaml").is_file():
        return _fitted_grid(run)
    try:
        request = json.loads((dataset.root / "run.json").read_text(encoding="utf-8"))["request"]
        named = str(request["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if (Path(named) / "config.yaml").is_file():
        return _fitted_grid(Path(named))
    # A method without a fit chose its grid from all cases, of which a shard has a part only.
    if is_method(named) and list(request.get("shard", (0, 1))) == [0, 1]:
        preset, dims = preset_named(str(request["preset"])), request["dims"]
        whole = sees_whole_frames(build_method(named))
        return prepare(real_labelled(dataset), preset, dims=dims, whole=whole).facts.grid
    return None


def _fitted_grid(run: Path) -> WorkingGrid:
    try:
        config: Mapping[str, Any] = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
        return WorkingGrid.from_json(config["facts"]["grid"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise AugmintError(
            f"{run / 'config.yaml'}: no working grid in it ({error!r}); copy the folder again, or "
            "move it away: real frames are then shown as stored"
        ) from error


def sector_of(case: Case) -> Tensor | None:
    """Where the fan of an ultrasound case lies, (*spatial) bool; None where there is none."""
    from augmint.imaging.sector_fit import fit_sector

    if case.dims == 2:
        sector = fit_sector(case.image[0]).sector
        return None if sector is None else sector.mask(case.grid.shape)
    axis = case.grid.slice_axis
    planes = case.image[0].movedim(axis, 0).mT
    sector = fit_sector(planes).sector
    if sector is None:
        return None
    return sector.mask(planes.shape[1:]).T.unsqueeze(axis).expand(case.grid.shape)


def as_if_written(
    case: Case, grid: WorkingGrid, modality: str, *, visible: Tensor | None = None
) -> Case:
    """A real case resampled, cropped, rounded and read again as synthetic ones were.

    Otherwise a real frame could be told by its sharpness, by what lies outside the window that the
    network sees, or by the number of its grey levels.

    Args:
        case: On its native grid.
        grid: The working grid.
        modality: As the synthetic dataset names it; it rules how intensities are read.
        visible: (*spatial) bool, the fan, for methods that blacken all beside it pixel by pixel.
    """
    native = grid.to_native(grid.to_working(case, shape=grid.window), case.grid)
    if visible is not None:
        dark = torch.full_like(native.image, -1.0)
        native = replace(native, image=torch.where(visible, native.image, dark))
    stored = case.intensity.to_stored(native.image)
    intensity = fit_intensity(stored, modality)
    return replace(native, image=intensity.to_unit(stored), intensity=intensity)


def picture_of(case: Case, grid: WorkingGrid | None, where: float) -> np.ndarray:
    """(SIDE, SIDE) uint8: the window that networks see, or the whole frame if `grid` is None.

    Args:
        case: On its native grid; of several channels the first is shown.
        grid: The working grid.
        where: For volumes, the place among the slices that carry a label: 0 to 1.
    """
    plane, _ = plane_of(case, where)
    shape, side = tuple(plane.shape), max(plane.shape)
    if grid is not None:
        shape, window = grid.resampled_shape(case.grid, case.case_id), grid.window
        if grid.dims == 3:
            kept = [i for i in range(3) if i != case.grid.slice_axis]
            # Volumes run x, y; the picture runs rows, columns.
            shape, window = tuple(shape[i] for i in kept[::-1]), tuple(window[i] for i in kept)
        side = max(window)
    shown = [max(1, round(n * SIDE / side)) for n in shape]
    image = resample_image(torch.from_numpy(plane.copy())[None], shown, smooth=True)
    square = center(image, (SIDE, SIDE), -1.0)[0].numpy()
    return np.asarray(((square + 1) * 127.5).round().clip(0, 255), dtype=np.uint8)


def png_of(pixels: np.ndarray) -> bytes:
    """A grey PNG that is stored, not compressed: of one shape all have the same size.

    What is smooth compresses well, so that the size of a compressed file could give it away.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=0)
    return stream.getvalue()
