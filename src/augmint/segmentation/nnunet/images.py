"""Images under the names and in the format that a trained nnU-Net reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from augmint.data.dataset import Dataset, Item
from augmint.data.images import write_image
from augmint.errors import AugmintError
from augmint.segmentation.nnunet.commands import link_or_copy


def stage_images(
    dataset: Dataset,
    folder: Path,
    ending: str,
    channel_names: Mapping[str, str],
    num_files: int,
) -> None:
    """Links, or converted copies, of every case's images as `CASE_0000` and so on.

    Args:
        dataset: Whose images.
        folder: Where to put them; what is there already stays.
        ending: Of the files that the model was trained on.
        channel_names: Of the model.
        num_files: Image files of each of its training cases; one colour file may hold all.

    Raises:
        AugmintError: if a case has another number of channels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for item in dataset.items:
        whole = len(item.images) == num_files and item.frame is None
        if whole and all(p.name.endswith(ending) for p in item.images):
            for number, source in enumerate(item.images):
                target = folder / f"{item.case_id}_{number:04d}{ending}"
                if not target.exists():
                    link_or_copy(source.resolve(), target)
        else:
            _convert(dataset, item, folder, ending, len(channel_names), num_files)


def _convert(
    dataset: Dataset, item: Item, folder: Path, ending: str, channels: int, num_files: int
) -> None:
    stored, _, _ = dataset.read_stored(item)
    if len(stored) != channels:
        raise AugmintError(
            f"case {item.case_id!r} has {len(stored)} channel(s), the model was trained on "
            f"{channels}; give the same channels"
        )
    grid = dataset.load(item).grid
    step = 1 if num_files == channels else channels
    for number, first in enumerate(range(0, channels, step)):
        path = folder / f"{item.case_id}_{number:04d}{ending}"
        write_image(path, stored[first : first + step], grid)
