"""A labelled dataset on disk: opened by its layout, loaded one case at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from augmint.case import Case, Grid, Provenance
from augmint.data.acdc import is_acdc, list_acdc
from augmint.data.bids import list_bids
from augmint.data.camus import is_camus, list_camus
from augmint.data.datalist import check_splits, list_datalist
from augmint.data.folders import find_folders, has_suffixed_masks, list_folders, list_images
from augmint.data.images import Stored, read_image, read_mask
from augmint.data.labels import LabelTable, build_table
from augmint.data.layout import Listing, listed, read_json
from augmint.data.mnms import is_mnms, list_mnms
from augmint.data.mnms2 import is_mnms2, list_mnms2
from augmint.data.nnunet import list_nnunet
from augmint.data.patients import find_origins
from augmint.errors import AugmintError
from augmint.imaging.intensity import fit_intensity

MODALITY_WORDS = {
    "ultrasound": re.compile(r"ultrasound|\becho(?:cardiography)?\b|\b(?:us|bus)\b", re.I),
    "CT": re.compile(r"\b(?:cb)?ct\b", re.I),
    "MR": re.compile(r"mri\b|\bmr\b|\bt[12](?:\b|w|c|gd)|\b(?:flair|adc|dwi|bssfp|lge|pd)\b", re.I),
}
# Published datasets in their native layouts.
RELEASES = (
    (is_camus, list_camus),
    (is_acdc, list_acdc),
    (is_mnms, list_mnms),
    (is_mnms2, list_mnms2),
)


@dataclass(frozen=True)
class Item:
    """One stored case, nothing loaded.

    Attributes:
        case_id: Unique in its dataset.
        images: One file per channel, or one RGB or 4-D file.
        masks: Empty where unlabelled; several are united.
        patient_id: The unit of every split.
        domain: Vendor, centre or view; empty where unknown.
        columns: The row of cases.csv and what the layout says (view, phase, fold, ...).
        synthetic: Listed as synthetic in the dataset's manifest.
        provenance: Where a synthetic case came from; None for a real one.
        frame: Which index on the last axis of 4-D files is this case; None for whole files.
    """

    case_id: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    patient_id: str
    domain: str
    columns: Mapping[str, str]
    synthetic: bool = False
    provenance: Provenance | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset, opened but not loaded; iterating it loads one case at a time.

    Attributes:
        root: Its folder.
        name: Its name.
        layout: `nnunet`, `folders`, `decathlon`, `datalist`, `bids`, `camus`, `acdc`, `mnms` or
            `mnms2`.
        items: Its cases, sorted by name.
        labels: Class name -> index, consecutive from background: 0, after the label map.
        annotated: Classes that an annotator looked for, background left out.
        channel_names: Empty where the layout names no channels.
        modality: `MR`, `CT`, `ultrasound`, or empty where no channel name tells.
        spacing_known: False where the dataset disowns it; None for as each file says.
        file_ending: Of the images.
        patient_rule: Which rule gave the patients, in words for the user.
        licence: As the dataset states it; may be empty.
        table: Stored mask values -> class indices.
        patient_regex: As it was opened with.
        label_map: As it was opened with.
        left_out: Names of the splits that were not opened, and how many cases they list.
        notes: What of the release is not read, and why, one sentence each.
    """

    root: Path
    name: str
    layout: str
    items: tuple[Item, ...]
    labels: Mapping[str, int]
    annotated: frozenset[int]
    channel_names: tuple[str, ...]
    modality: str
    spacing_known: bool | None
    file_ending: str
    patient_rule: str
    licence: str
    table: LabelTable = field(repr=False)
    patient_regex: str | None = None
    label_map: Mapping[str, str | None] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Case]:
        return (self.load(item) for item in self.items)

    @property
    def patients(self) -> tuple[str, ...]:
        """All patients, sorted."""
        return tuple(sorted({item.patient_id for item in self.items}))

    @property
    def domains(self) -> tuple[str, ...]:
        """All named domains, sorted."""
        return tuple(sorted({item.domain for item in self.items if item.domain}))

    def read_stored(self, item: Item) -> Stored:
        """The image of one case as its files store it, before intensities are mapped.

        Returns:
            The array (C, *spatial) in its stored type, the affine, and whether the format carries
            a spacing. Of a 4-D file only the case's own frame is read.

        Raises:
            AugmintError: if a file is missing, unreadable, truncated, empty or not finite.
        """
        return read_image(item.images, channels=len(self.channel_names) or None, frame=item.frame)

    def load(self, item: Item) -> Case:
        """Read one case.

        Raises:
            AugmintError: if a file is missing, unreadable, truncated, empty or not finite, if
                image and mask differ in shape, or if the mask holds anything but its labels.
        """
        stored, affine, known = self.read_stored(item)
        grid = Grid(stored.shape[1:], affine, known and self.spacing_known is not False)
        intensity = fit_intensity(stored, self.modality)
        details = (self.modality, item.columns.get("organ"), item.columns.get("finding"))
        return Case(
            image=intensity.to_unit(stored),
            mask=self._load_mask(item, grid),
            annotated=self.annotated,
            grid=grid,
            intensity=intensity,
            case_id=item.case_id,
            patient_id=item.patient_id,
            domain=item.domain,
            text=tuple(detail for detail in details if detail),
            provenance=item.provenance,
        )

    def select(
        self,
        *,
        patients: Collection[str] | None = None,
        domains: Collection[str] | None = None,
        cases: Collection[str] | None = None,
    ) -> Dataset:
        """The part of this dataset in all of the given patients, domains and cases.

        Raises:
            AugmintError: if a name is unknown here, or nothing is left.
        """
        wanted = {"patient": patients, "domain": domains, "case": cases}
        keep = list(self.items)
        for kind, names in wanted.items():
            if names is None:
                continue
            if isinstance(names, str):
                names = (names,)
            key = "domain" if kind == "domain" else f"{kind}_id"
            unknown = sorted(set(names) - {getattr(item, key) for item in self.items})
            if unknown:
                known = sorted({getattr(item, key) for item in self.items} - {""})
                raise AugmintError(
                    f"{self.name}: no {kind} named {listed(unknown)}; choose from "
                    f"{listed(known, 10) or 'none: it names no ' + kind}"
                )
            chosen = set(names)
            keep = [item for item in keep if getattr(item, key) in chosen]
        if not keep:
            raise AugmintError(f"{self.name}: the selection leaves no case")
        return replace(self, items=tuple(keep))

    def _load_mask(self, item: Item, grid: Grid) -> torch.Tensor | None:
        """The union of an item's masks as class indices, or None where it has none."""
        united: np.ndarray | None = None
        for path in item.masks:
            stored, _, _ = read_mask(path, frame=item.frame)
            if stored.shape != grid.shape:
                raise AugmintError(
                    f"case {item.case_id!r}: image {grid.shape} and mask {stored.shape} "
                    f"({path.name}) differ in shape; resample the mask onto the image grid"
                )
            mask = self.table.apply(stored, f"case {item.case_id!r}, {path}")
            if united is None:
                united = mask
                continue
            clash = (united > 0) & (mask > 0) & (united != mask)
            if clash.any():
                raise AugmintError(
                    f"case {item.case_id!r}: its masks disagree at {int(clash.sum())} pixels "
                    f"({path.name} against those before it); masks of one image are united"
                )
            united = np.maximum(united, mask)
        return None if united is None else torch.from_numpy(np.ascontiguousarray(united))


def open_dataset(
    path: Path | str,
    *,
    patient_regex: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    split: str = "train",
    bare: bool = False,
) -> Dataset:
    """Open a dataset by its layout; no image is read.

    Recognised are nnU-Net raw, Medical Decathlon, MONAI datalists, BIDS, paired folders, and
    CAMUS, ACDC, M&Ms and M&Ms-2 as published.

    Args:
        path: A folder, or a dataset.json or datalist.
        patient_regex: Searched in each case name; its first group, or the match, is the patient.
        label_map: Old label name -> new name, or None to turn it into background; equal new names
            merge.
        split: `train`, or `test` or `validation` where the layout has one.
        bare: A mere folder of images, none with a mask, is a dataset too.

    Raises:
        AugmintError: if the layout is not recognised or contradicts itself.
    """
    listing = list_cases(Path(path), split, bare=bare)
    counts = Counter(found.case_id for found in listing.found)
    if doubled := [case_id for case_id, count in counts.items() if count > 1]:
        raise AugmintError(
            f"{listing.root}: several cases are named {listed(doubled)}; name each case once, in a "
            "datalist by a `case` of its own"
        )
    origins, rule = find_origins(listing, patient_regex)
    check_splits(listing, {k: o.patient_id for k, o in origins.items()}, patient_regex)
    strict = listing.layout == "nnunet"
    try:
        table = build_table(listing.labels, listing.annotated, label_map, strict=strict)
    except AugmintError as error:
        raise AugmintError(f"{listing.root}: {error}") from None
    items = []
    for found in listing.found:
        origin = origins[found.case_id]
        items.append(
            Item(
                case_id=found.case_id,
                images=found.images,
                masks=found.masks,
                patient_id=origin.patient_id,
                domain=origin.domain,
                columns=origin.columns,
                synthetic=origin.provenance is not None,
                provenance=origin.provenance,
                frame=found.frame,
            )
        )
    return Dataset(
        root=listing.root,
        name=listing.name,
        layout=listing.layout,
        items=tuple(items),
        labels=table.labels,
        annotated=table.annotated,
        channel_names=listing.channel_names,
        modality=modality_of(listing.channel_names),
        spacing_known=listing.spacing_known,
        file_ending=listing.file_ending,
        patient_rule=rule,
        licence=listing.licence,
        table=table,
        patient_regex=patient_regex,
        label_map=label_map,
        left_out={name: len(found) for name, found in listing.other_splits.items()},
        notes=listing.notes,
    )


def list_cases(path: Path, split: str = "train", *, bare: bool = False) -> Listing:
    """The cases at `path` by whichever layout it has; `bare`: images without any mask will do.

    Raises:
        AugmintError: if nothing is there or no layout fits; the message lists what was looked for.
    """
    if path.is_file() and path.suffix == ".json":
        content = read_json(path)
        if path.name != "dataset.json":
            return list_datalist(path, content, "datalist", split)
        path = path.parent
    if not path.is_dir():
        raise AugmintError(f"{path}: no such folder or JSON file; check the path's spelling")
    description, datalist = path / "dataset.json", path / "datalist.json"
    if description.is_file():
        content = read_json(description)
        if not isinstance(content, Mapping):
            raise AugmintError(f"{description}: must hold an object, got {type(content).__name__}")
        if isinstance(content.get("training"), list) and "file_ending" not in content:
            return list_datalist(description, content, "decathlon", split)
        return list_nnunet(path, content, split)
    if datalist.is_file():
        return list_datalist(datalist, read_json(datalist), "datalist", split)
    for is_release, list_release in RELEASES:
        if is_release(path):
            return list_release(path, split)
    if split != "train":
        raise AugmintError(f"{path}: this layout has no split {split!r}; open the other folder")
    if any(path.glob("sub-*/anat")) or any(path.glob("sub-*/ses-*/anat")):
        return list_bids(path)
    if find_folders(path) or has_suffixed_masks(path):
        return list_folders(path)
    if bare and (listing := list_images(path)).found:
        return listing
    raise AugmintError(
        f"{path}: not a dataset; looked for dataset.json with imagesTr (nnU-Net) or a training "
        "list (Decathlon), datalist.json (MONAI), sub-*/anat (BIDS), patientNNNN with "
        "patientNNNN_2CH_ED (CAMUS), patientNNN with patientNNN_frame01 (ACDC), CODE with CODE_sa, "
        "in Training/Labeled, Validation or Testing (M&Ms), dataset/NNN with NNN_SA_ED (M&Ms-2), "
        "images/ with masks/, labels/ or annotations/, and files with a mask x_mask, x_seg or x_gt "
        "beside them"
    )


def modality_of(channel_names: Sequence[str]) -> str:
    """`MR`, `CT` or `ultrasound` from channel names; empty where they name none or several."""
    words = " ".join(channel_names).replace("_", " ")
    named = [modality for modality, pattern in MODALITY_WORDS.items() if pattern.search(words)]
    return named[0] if len(named) == 1 else ""
