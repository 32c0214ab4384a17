"""In and out: one file per on-disk layout."""

from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.data.images import read_image, read_mask, write_image, write_mask

__all__ = [
    "Dataset",
    "Item",
    "open_dataset",
    "read_image",
    "read_mask",
    "write_image",
    "write_mask",
]
