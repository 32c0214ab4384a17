"""From the values stored in masks to the class indices of a dataset, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from augmint.errors import AugmintError


@dataclass(frozen=True)
class LabelTable:
    """How stored mask values become class indices.

    Attributes:
        labels: Class name -> index, consecutive from background: 0.
        annotated: Indices that an annotator looked for, background left out.
        indices: Stored value -> index; any other stored value is an error.
    """

    labels: Mapping[str, int]
    annotated: frozenset[int]
    indices: Mapping[int, int]

    def apply(self, stored: np.ndarray, place: str) -> np.ndarray:
        """Class indices (int64) for stored values of one mask.

        Raises:
            AugmintError: if a stored value is not among the dataset's labels.
        """
        values = np.unique(stored)
        allowed = sorted(self.indices)
        unknown = [int(v) for v in values if int(v) not in self.indices]
        if unknown:
            raise AugmintError(
                f"{place}: label value(s) {', '.join(map(str, unknown[:8]))} where only "
                f"{', '.join(map(str, allowed))} are allowed; correct the mask, or name every "
                "value in dataset.json or labels.json (JPEG masks: save as PNG)"
            )
        if {1, 255} <= {int(v) for v in values} and self.indices[1] == self.indices[255]:
            raise AugmintError(
                f"{place}: a binary mask holds both 1 and 255; use one value for the foreground, "
                "or name them in labels.json"
            )
        targets = np.array([self.indices[int(v)] for v in values], dtype=np.int64)
        return targets[np.searchsorted(values, stored)]


def build_table(
    stored: Mapping[str, int] | None,
    annotated: Collection[str] | None,
    label_map: Mapping[str, str | None] | None,
    *,
    strict: bool,
) -> LabelTable:
    """The table of a dataset, its label map applied.

    Args:
        stored: Label name -> stored value, background included; None where nobody named them:
            the masks are then binary, 0 and 1 or 255, and the one class is `foreground`.
        annotated: Names that an annotator looked for; None for all.
        label_map: Old name -> new name, or None to turn the label into background. Equal new
            names merge; labels left out keep their names.
        strict: False lets a single foreground label of value 1 be stored as 255 too.

    Returns:
        The table; a merged class is annotated only where all its parts are.

    Raises:
        AugmintError: if the map or the annotated names speak of unknown labels, if nothing is
            left, or if an ignore label is not mapped.
    """
    named = {"background": 0, "foreground": 1} if stored is None else dict(stored)
    names = [name for name in sorted(named, key=lambda name: named[name]) if name != "background"]
    looked_for = set(names) if annotated is None else set(annotated) - {"background"}
    mapping = dict(label_map or {})
    for what, given in (("the label map", set(mapping)), ("`annotated_labels`", looked_for)):
        unknown = sorted(given - set(names))
        if unknown:
            raise AugmintError(
                f"{what} names {', '.join(unknown)}, but the labels are {', '.join(names)}; "
                "labels are matched by name"
            )
    if "ignore" in names and "ignore" not in mapping:
        raise AugmintError(
            "the dataset has an `ignore` label, and partly annotated masks are not supported; "
            "map it to a class or drop it with the label map"
        )
    labels = {"background": 0}
    indices = {0: 0}
    partly: set[str] = set()
    for name in names:
        new = mapping.get(name, name)
        if new is None or new == "background":
            indices[named[name]] = 0
            continue
        indices[named[name]] = labels.setdefault(new, len(labels))
        if name not in looked_for:
            partly.add(new)
    if len(labels) == 1:
        raise AugmintError("no label is left beside background; keep one at least")
    if len(names) == 1 and named[names[0]] == 1 and (stored is None or not strict):
        indices[255] = indices[1]
    seen = frozenset(labels[name] for name in labels if name not in partly | {"background"})
    return LabelTable(labels, seen, indices)
