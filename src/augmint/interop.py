"""A case as a MONAI dict or a TorchIO subject, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from augmint.case import Case, Grid, IntensityMap, Provenance
from augmint.errors import AugmintError
from augmint.imaging.intensity import fit_intensity

if TYPE_CHECKING:
    from torchio import Subject

# Interpolation may leave [-1, 1] by a rounding error; more means that the map no longer holds.
RANGE_TOLERANCE = 1e-4
AFFINE_TOLERANCE = 1e-2
ENTRIES = ("case_id", "patient_id", "domain", "text", "annotated", "spacing_known")


def to_monai(case: Case) -> dict[str, Any]:
    """A case as a MONAI dict of MetaTensors.

    Args:
        case: Real or synthetic. Its tensors are copied.

    Returns:
        `image` (C, *spatial) float32 in [-1, 1] and, where labelled, `label` (1, *spatial) int64,
        both with a (4, 4) affine in RAS, as MONAI's own readers give planes too. All else is
        plain: `case_id`, `patient_id`, `domain`, `text`, `annotated`, `spacing_known`,
        `intensity` (`low`, `high`, `dtype`), `provenance` (a dict, or None for a real case).
        Batch the tensors alone (`SelectItemsd`); `data | item` puts an item of the batch back.
    """
    from monai.data import MetaTensor

    affine = torch.from_numpy(_embedded(case.grid.affine))
    data: dict[str, Any] = {
        "image": MetaTensor(case.image.clone(), affine=affine.clone(), meta={"space": "RAS"})
    }
    if case.mask is not None:
        label = case.mask[None].clone()
        data["label"] = MetaTensor(label, affine=affine.clone(), meta={"space": "RAS"})
    return data | _entries_of(case)


def from_monai(
    data: Mapping[str, Any],
    *,
    case_id: str | None = None,
    patient_id: str | None = None,
    domain: str | None = None,
    text: Sequence[str] | None = None,
    annotated: Collection[int] | None = None,
    spacing_known: bool | None = None,
    intensity: IntensityMap | None = None,
) -> Case:
    """The case in a MONAI dict: one of `to_monai`, transformed or not, or a plain one.

    What the dict does not hold is given by name, nothing twice. Without an `intensity` entry the
    image holds stored values, else values in [-1, 1].

    Args:
        data: `image` (C, *spatial) and, where labelled, `label` (1, *spatial), one case.
        case_id: Unique in its dataset.
        patient_id: The unit of every split.
        domain: Vendor, centre or view, empty where unknown.
        text: (modality, organ, finding, ...), may be empty.
        annotated: Classes that an annotator looked for; needed with a label.
        spacing_known: Whether the affine is in mm. By default it is unless it is the identity,
            which MONAI also uses for formats without a spacing.
        intensity: The map of the stored values; fitted to the image by default.

    Returns:
        The case. A tilted plane keeps its spacing and loses its tilt.

    Raises:
        AugmintError: if something is missing, given twice, batched or not one case's.
    """
    entries = _entries(
        data,
        {
            "case_id": case_id,
            "patient_id": patient_id,
            "domain": domain,
            "text": text,
            "annotated": annotated,
            "spacing_known": spacing_known,
            "intensity": intensity,
        },
    )
    where = f"case {entries['case_id']!r}"
    image, affine = _unwrapped(data, "image", where)
    label, label_affine = _unwrapped(data, "label", where) if "label" in data else (None, None)
    return _case(image, label, affine, label_affine, entries)


def to_torchio(case: Case) -> Subject:
    """A case as a TorchIO subject.

    Args:
        case: Real or synthetic. Its tensors are copied.

    Returns:
        `image`, a ScalarImage in [-1, 1], and, where labelled, `label`, a LabelMap. Both are
        (C, W, H, D), a plane has D = 1. The plain entries are those of `to_monai`, and `dims`,
        2 or 3.

    Raises:
        AugmintError: if TorchIO is not installed.
    """
    torchio = _torchio()
    affine = _embedded(case.grid.affine)
    images = {"image": torchio.ScalarImage(tensor=_deep(case.image).clone(), affine=affine)}
    if case.mask is not None:
        images["label"] = torchio.LabelMap(tensor=_deep(case.mask[None]).clone(), affine=affine)
    return torchio.Subject(**images, dims=case.dims, **_entries_of(case))


def from_torchio(subject: Subject) -> Case:
    """The case in a TorchIO subject: one of `to_torchio`, transformed or not, or a plain one.

    Args:
        subject: `image` and, where labelled, `label`, with at least `case_id`, `patient_id` and,
            with a label, `annotated` beside them. The other entries of `to_torchio` may be left
            out and are then as in `from_monai`; without `dims` an image with D = 1 is a frame.

    Raises:
        AugmintError: if something is missing or not one case's, or if TorchIO is not installed.
    """
    torchio = _torchio()
    entries = _entries(subject, {})
    where = f"case {entries['case_id']!r}"
    found: dict[str, tuple[Tensor, np.ndarray]] = {}
    for name in ("image", "label"):
        if name in subject:
            part = subject[name]
            if not isinstance(part, torchio.Image):
                raise AugmintError(f"{where}: {name!r} is a {type(part).__name__}; give an Image")
            found[name] = part.data.detach().cpu(), part.affine
    if "image" not in found:
        raise AugmintError(f"{where}: the subject has no 'image'; rename its image to that")
    image, affine = found["image"]
    label, label_affine = found.get("label", (None, None))
    if subject.get("dims", 2 if image.shape[-1] == 1 else 3) == 2:
        image = _flat(image, where)
        label = None if label is None else _flat(label, where)
    return _case(image, label, affine, label_affine, entries)


def _torchio() -> ModuleType:
    try:
        import torchio
    except ImportError as error:
        raise AugmintError(f"TorchIO cannot be imported ({error}); pip install torchio") from error
    return torchio


def _entries_of(case: Case) -> dict[str, Any]:
    """Everything but the arrays, in plain values."""
    made = case.provenance
    history = None if made is None else {f.name: getattr(made, f.name) for f in fields(made)}
    if history is not None:
        history["details"] = dict(history["details"])
    return {
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "domain": case.domain,
        "text": tuple(case.text),
        "annotated": tuple(sorted(case.annotated)),
        "spacing_known": case.grid.spacing_known,
        "intensity": {
            "low": tuple(case.intensity.low),
            "high": tuple(case.intensity.high),
            "dtype": case.intensity.dtype,
        },
        "provenance": history,
    }


def _entries(data: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The plain entries of a dict and of the keyword arguments together.

    `unit` says whether the image is in [-1, 1].
    """
    named = {name: value for name, value in given.items() if value is not None}
    if twice := sorted(set(named) & set(data)):
        raise AugmintError(
            f"{', '.join(twice)}: held by the data and given by name too; leave the argument out, "
            "or change the case with dataclasses.replace"
        )
    held = {name: data[name] for name in (*ENTRIES, "intensity", "provenance") if name in data}
    entries = {"domain": "", "text": (), "provenance": None} | held | named
    entries["unit"] = "intensity" in held
    for name in ("case_id", "patient_id", "domain"):
        value = entries.get(name)
        if not isinstance(value, str) or not (value or name == "domain"):
            raise AugmintError(
                f"{name} is {value!r}, not a name; give one beside the image, and split a batch "
                "into its cases first (monai.data.decollate_batch)"
            )
    if isinstance(entries["text"], str):
        raise AugmintError(
            f"case {entries['case_id']!r}: text is {entries['text']!r}; give a tuple of words"
        )
    return entries


def _unwrapped(data: Mapping[str, Any], name: str, where: str) -> tuple[Tensor, np.ndarray | None]:
    """A tensor of a MONAI dict and its affine; None where it carries none."""
    from monai.data import MetaTensor

    if name not in data:
        raise AugmintError(f"{where}: the data have no {name!r}; rename the image's key to that")
    value = data[name]
    if isinstance(value, MetaTensor):
        if value.is_batch:
            raise AugmintError(f"{where}: {name!r} is a batch; call monai.data.decollate_batch")
        if value.has_pending_operations:
            raise AugmintError(
                f"{where}: {name!r} has lazy transforms waiting; end them with ApplyPendingd"
            )
        space = str(value.meta.get("space", "RAS"))
        if space != "RAS":
            raise AugmintError(
                f"{where}: the affine of {name!r} is in {space}, not RAS; read with "
                "affine_lps_to_ras=True"
            )
        affine = value.affine.numpy().astype(np.float64)
        return value.as_tensor().detach().cpu(), affine
    if not isinstance(value, Tensor | np.ndarray):
        raise AugmintError(
            f"{where}: {name!r} is a {type(value).__name__}, not a tensor; load it first "
            "(LoadImaged)"
        )
    return torch.as_tensor(value).detach().cpu(), None


def _case(
    image: Tensor,
    label: Tensor | None,
    affine: np.ndarray | None,
    label_affine: np.ndarray | None,
    entries: Mapping[str, Any],
) -> Case:
    """The checked case of (C, *spatial), (1, *spatial) and the plain entries."""
    case_id = entries["case_id"]
    where = f"case {case_id!r}"
    dims = image.ndim - 1
    if dims not in (2, 3):
        raise AugmintError(
            f"{where}: image {tuple(image.shape)} is not (channels, 2 or 3 axes); add the channel "
            "axis (EnsureChannelFirstd) or split the batch"
        )
    if not torch.isfinite(image).all():
        raise AugmintError(f"{where}: the image holds NaN or infinity; replace these values")
    if affine is not None and label_affine is not None:
        one, other = (_fitted(a, dims, where) for a in (affine, label_affine))
        if not np.allclose(one, other, atol=AFFINE_TOLERANCE):
            raise AugmintError(
                f"{where}: the affines of image and label differ; resample the label onto the image"
            )
    if label is not None and entries.get("annotated") is None:
        raise AugmintError(
            f"{where}: it is not said which classes were looked for; give annotated={{1, ...}}"
        )
    unit, intensity = _intensities(image, entries, where)
    made = entries["provenance"]
    return Case(
        image=unit,
        mask=None if label is None else _classes(label, where),
        annotated=frozenset(int(c) for c in entries.get("annotated") or ()),
        grid=_grid(tuple(image.shape[1:]), affine, entries.get("spacing_known"), where),
        intensity=intensity,
        case_id=case_id,
        patient_id=entries["patient_id"],
        domain=entries["domain"],
        text=tuple(entries["text"]),
        provenance=None if made is None else _provenance(made, where),
    )


def _intensities(
    image: Tensor, entries: Mapping[str, Any], where: str
) -> tuple[Tensor, IntensityMap]:
    """The image in [-1, 1] and the map to its stored values."""
    held = entries.get("intensity")
    if held is None:
        stored = image.numpy()
        modality = entries["text"][0] if entries["text"] else ""
        fitted = fit_intensity(stored, modality)
        return fitted.to_unit(stored), fitted
    if isinstance(held, IntensityMap):
        intensity = held
    else:
        try:
            low, high = (tuple(float(v) for v in held[k]) for k in ("low", "high"))
            intensity = IntensityMap(low=low, high=high, dtype=str(held["dtype"]))
        except (KeyError, TypeError, ValueError) as error:
            raise AugmintError(
                f"{where}: intensity {held!r} is not low, high and dtype; keep what to_monai or "
                "to_torchio gave"
            ) from error
    if len(intensity.low) != image.shape[0] or len(intensity.high) != image.shape[0]:
        raise AugmintError(
            f"{where}: {image.shape[0]} channels, but an intensity map for {len(intensity.low)}; "
            "give low and high for each channel"
        )
    if not entries["unit"]:
        return intensity.to_unit(image.numpy()), intensity
    low_seen, high_seen = image.min().item(), image.max().item()
    if max(-low_seen, high_seen) > 1 + RANGE_TOLERANCE:
        raise AugmintError(
            f"{where}: image values {low_seen:.4g} to {high_seen:.4g} leave [-1, 1], where the "
            "intensity map holds; end the transforms with a clamp or leave out those that rescale"
        )
    return image.to(torch.float32, copy=True), intensity


def _classes(label: Tensor, where: str) -> Tensor:
    """(1, *spatial) of any type to (*spatial) int64."""
    if label.shape[0] != 1:
        raise AugmintError(
            f"{where}: label {tuple(label.shape)} has {label.shape[0]} channels; give one of class "
            "indices (AsDiscreted with argmax=True, keepdim=True)"
        )
    classes = label[0].to(torch.int64, copy=True)
    if (
        not torch.equal(classes.to(torch.float64), label[0].to(torch.float64))
        or (classes < 0).any()
    ):
        raise AugmintError(
            f"{where}: the label holds values that are no class index; interpolate it by nearest "
            "neighbour"
        )
    return classes


def _grid(
    shape: tuple[int, ...], affine: np.ndarray | None, known: bool | None, where: str
) -> Grid:
    dims = len(shape)
    if affine is None:
        if known:
            raise AugmintError(
                f"{where}: the spacing is said to be known, but the image has no affine; keep it a "
                "MetaTensor or give spacing_known=False"
            )
        return Grid(shape, np.eye(dims + 1), False)
    fitted = _fitted(affine, dims, where)
    if known is None:
        known = not np.array_equal(fitted, np.eye(dims + 1))
    return Grid(shape, fitted, bool(known))


def _fitted(affine: np.ndarray, dims: int, where: str) -> np.ndarray:
    """An affine for 2 or 3 axes; a tilted plane keeps its spacing and loses its tilt."""
    fitted = np.array(affine, dtype=np.float64)
    if dims == 2 and fitted.shape == (4, 4):
        if np.allclose(fitted[2, :2], 0):
            fitted = fitted[np.ix_([0, 1, 3], [0, 1, 3])]
        else:
            fitted = np.diag([*np.linalg.norm(fitted[:3, :2], axis=0), 1.0])
    if fitted.shape != (dims + 1, dims + 1):
        raise AugmintError(
            f"{where}: an affine {fitted.shape} for {dims} axes; give ({dims + 1}, {dims + 1})"
        )
    if not (np.isfinite(fitted).all() and abs(np.linalg.det(fitted)) > 1e-12):
        raise AugmintError(f"{where}: its affine cannot be inverted; correct it")
    return fitted


def _embedded(affine: np.ndarray) -> np.ndarray:
    """(3, 3) or (4, 4) as (4, 4), with a third axis of its own for a plane."""
    n = len(affine) - 1
    embedded = np.eye(4)
    embedded[:n, :n], embedded[:n, 3] = affine[:n, :n], affine[:n, n]
    return embedded


def _deep(tensor: Tensor) -> Tensor:
    """(C, W, H) or (C, W, H, D) as (C, W, H, D)."""
    return tensor[..., None] if tensor.ndim == 3 else tensor


def _flat(tensor: Tensor, where: str) -> Tensor:
    """(C, W, H, 1) as (C, W, H)."""
    if tensor.shape[-1] != 1:
        raise AugmintError(
            f"{where}: a frame, but {tuple(tensor.shape)} has {tensor.shape[-1]} planes; keep its "
            "last axis at 1"
        )
    return tensor[..., 0]


def _provenance(made: object, where: str) -> Provenance:
    try:
        return Provenance(**made)  # type: ignore[arg-type]
    except TypeError as error:
        raise AugmintError(
            f"{where}: provenance {made!r} does not name a synthetic case's source ({error}); keep "
            "what to_monai or to_torchio gave"
        ) from error
