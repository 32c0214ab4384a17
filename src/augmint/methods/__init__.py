"""The methods by name. A new one is a file here and a line below, or any `module:Class`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from augmint.errors import AugmintError
from augmint.methods.mask_to_image import MaskToImage
from augmint.methods.protocol import (
    DatasetFacts,
    Method,
    NetworkSpec,
    Samples,
    is_calibrated,
    keeps_pixels,
    meaning_of_unlabelled,
    needs_no_fit,
    sees_whole_frames,
)
from augmint.methods.reference_shift import ReferenceShift
from augmint.methods.sector_outpaint import SectorOutpaint
from augmint.methods.warped_pairs import WarpedPairs

METHODS: dict[str, type] = {
    "mask_to_image": MaskToImage,
    "reference_shift": ReferenceShift,
    "sector_outpaint": SectorOutpaint,
    "warped_pairs": WarpedPairs,
}

__all__ = [
    "METHODS",
    "DatasetFacts",
    "Method",
    "NetworkSpec",
    "Samples",
    "build_method",
    "is_calibrated",
    "keeps_pixels",
    "meaning_of_unlabelled",
    "needs_no_fit",
    "sees_whole_frames",
]


def build_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A configured method.

    Args:
        name: A key of `METHODS`, or `module:Class` for one of your own.
        settings: Fields and values; strings are read as the field's type.

    Raises:
        AugmintError: for an unknown method or field, or a value that does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    kind = METHODS.get(name)
    if kind is None and ":" in name:
        module, _, attribute = name.partition(":")
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise AugmintError(f"method {name!r} cannot be imported: {error}") from error
    if kind is None or not dataclasses.is_dataclass(kind):
        raise AugmintError(
            f"unknown method {name!r}; known are {', '.join(METHODS)}, or give module:Class of a "
            "frozen dataclass"
        )
    fields = [f.name for f in dataclasses.fields(kind)]
    for key in settings or {}:
        if key not in fields:
            raise AugmintError(f"{name} has no field {key!r}; its fields are {', '.join(fields)}")
    try:
        method: Any = TypeAdapter(kind).validate_python(dict(settings or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise AugmintError(
            f"{name}: field {'.'.join(map(str, first['loc']))} cannot be "
            f"{first['input']!r}: {first['msg']}"
        ) from error
    if not isinstance(method, Method):
        raise AugmintError(f"{name} is no method; it needs the functions networks and generate")
    return method
