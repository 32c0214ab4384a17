"""Makes a survey: one page for readers, and its key for whoever made it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from augmint.case import Case
from augmint.data.dataset import Dataset, Item, open_dataset
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.progress import Talk
from augmint.report import shown_slice
from augmint.staging import output_folder, refuse_existing, write_text
from augmint.survey.answers import KEY
from augmint.survey.choose import Choice, choose_pairs
from augmint.survey.draw import as_if_written, picture_of, png_of, sector_of, working_grid

SCHEMA_VERSION = 1
PAGE = "survey.html"
SECRET = (
    "Readers must not get this file: it says which frames are real. Send them survey.html alone."
)
# Slices of volumes are shown between these places among those that carry a label.
PLACES = (0.1, 0.9)
SLOT = "{{survey}}"


@dataclass(frozen=True)
class Frame:
    """One picture and what the key says of it."""

    png: bytes
    facts: Mapping[str, Any]


def survey(
    synthetic: Path | str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    images: int = 60,
    seed: int = 0,
    accepted_only: bool = True,
    talk: Talk | None = None,
) -> Path:
    """Make a visual Turing test: OUT/survey.html for readers, and its key, which they never get.

    The page holds as many generated frames as real ones and works without a network. Real frames
    go through the working grid on which the generated ones were made, so that neither sharpness nor
    size tells; the question is what is in them. Of volumes it shows one slice.

    Args:
        synthetic: A dataset made by `augment` or `generate`.
        data: The real dataset, or another of its kind; its labelled real cases are shown.
        out: The folder to make.
        images: How many frames, half of them generated; an even number.
        seed: Draws the frames.
        accepted_only: Leave out generated cases that the gate rejected.
        talk: Where progress goes.

    Returns:
        The folder.

    Raises:
        AugmintError: if there are too few cases, or none that is synthetic.
    """
    talk = talk or Talk()
    if images < 2 or images % 2:
        raise AugmintError(
            f"images must be an even number from 2, half of them generated; got {images}"
        )
    refuse_existing(Path(out))
    made = open_dataset(synthetic)
    real = data if isinstance(data, Dataset) else open_dataset(data)
    rng = random.Random(f"survey {seed}")
    choice = choose_pairs(_generated(made, accepted_only), _real(real, made), images // 2, rng)
    request = dict(
        command="survey", synthetic=str(made.root.resolve()), data=str(real.root.resolve()),
        images=images, seed=seed, accepted_only=accepted_only,
    )  # fmt: skip
    frames, notes = _draw(made, real, choice, rng, talk)
    notes += _notes_of_choice(choice, made)
    with output_folder(Path(out), request) as folder:
        _write(folder, frames, request, notes, rng)
    for note in notes:
        talk.say(f"note: {note}")
    talk.say(f"wrote {out}; send {Path(out) / PAGE} alone to readers, {KEY} holds the answers")
    return Path(out)


def _generated(made: Dataset, accepted_only: bool) -> list[Item]:
    """The synthetic cases, each with the domain, view and phase of its source."""
    found = [item for item in made.items if item.synthetic]
    apart = made.root / "rejected"
    if not accepted_only and (apart / "dataset.json").is_file():
        found += [item for item in open_dataset(apart).items if item.synthetic]
    if not found:
        raise AugmintError(
            f"{made.root}: its manifest.csv marks no case as synthetic; give a dataset made by "
            "`augmint augment` or `augmint generate`"
        )
    sources = {item.case_id: item for item in made.items if not item.synthetic}
    known = []
    for item in found:
        assert item.provenance is not None
        source = sources.get(item.provenance.source_case, item)
        known.append(replace(item, domain=source.domain, columns=source.columns))
    return known


def _real(real: Dataset, made: Dataset) -> list[Item]:
    """The labelled real cases; those that the synthetic dataset knows keep its patients' names."""
    named = {item.case_id: item.patient_id for item in made.items if not item.synthetic}
    found = [
        replace(item, patient_id=named.get(item.case_id, item.patient_id))
        for item in real.items
        if item.masks and not item.synthetic
    ]
    if not found:
        raise AugmintError(
            f"{real.root}: no real case has a mask; give the labelled dataset that the synthetic "
            "cases were made from, or another of its kind"
        )
    return found


def _draw(
    made: Dataset, real: Dataset, choice: Choice, rng: random.Random, talk: Talk
) -> tuple[list[Frame], list[str]]:
    """Both frames of every pair, and what is to be said of how they were drawn."""
    grids: dict[int | None, WorkingGrid | None] = {}
    frames: list[Frame] = []
    without = soft = 0
    for new, old in talk.counted("draw frames", choice.pairs, len(choice.pairs)):
        assert new.provenance is not None
        fold = new.provenance.fold
        if fold not in grids:
            grids[fold] = working_grid(made, fold)
        grid, where = grids[fold], rng.uniform(*PLACES)
        shown, source = made.load(new), real.load(old)
        if grid is not None:
            # Methods that change the fan cut it out sharply on the native grid.
            cut = "sector_row" in new.provenance.details
            fan = sector_of(source) if cut else None
            source = as_if_written(source, grid, made.modality, visible=fan)
            soft += cut and fan is None
        without += grid is None
        for item, kind, case, home in (
            (new, "generated", shown, made),
            (old, "real", source, real),
        ):
            png = png_of(picture_of(case, grid, where))
            frames.append(Frame(png, _facts(item, kind, home.root, _slice(case, where))))
    return frames, _notes_of_drawing(len(choice.pairs), without, soft)


def _slice(case: Case, where: float) -> str:
    """The slice of a volume that is shown, in words; of a frame nothing."""
    if case.dims == 2:
        return ""
    return f"{shown_slice(case, where) + 1} of {case.grid.shape[case.grid.slice_axis]}"


def _facts(item: Item, kind: str, root: Path, slice_shown: str) -> dict[str, Any]:
    """What the key says of a frame."""
    path = item.images[0]
    near = path.is_relative_to(root)
    facts = {
        "kind": kind,
        "case": item.case_id,
        "file": path.relative_to(root).as_posix() if near else str(path),
        "patient": item.patient_id,
        "domain": item.domain,
        "view": item.columns.get("view", ""),
        "phase": item.columns.get("phase", ""),
        "slice": slice_shown,
    }
    if item.provenance is not None:
        facts["source_case"] = item.provenance.source_case
    return facts


def _notes_of_drawing(pairs: int, without_grid: int, soft: int) -> list[str]:
    """What whoever reads the result should know of how the frames were drawn."""
    notes = []
    if without_grid:
        notes.append(
            f"no working grid is on record for {without_grid} of {pairs} generated frames, so the "
            "real ones beside them are shown as stored; readers may tell them by sharpness alone"
        )
    if without_grid < pairs:
        notes.append(
            "real frames went through the working grid of the generator, as generated ones did; "
            "the test is of what they show, not of how sharp they are"
        )
    if soft:
        notes.append(
            f"no fan was found in {soft} of {pairs} real frames; readers may tell them by the "
            "softer edge of their fan"
        )
    return notes


def _notes_of_choice(choice: Choice, made: Dataset) -> list[str]:
    """What they should know of how the frames were chosen."""
    notes = []
    if choice.apart == "cases":
        notes.append(
            "there are too few patients to show each as real or as generated alone; no source is "
            "shown beside its own synthetic case, but other frames of its patient may be"
        )
    if choice.balanced:
        short = f", but for {choice.unmatched} frames of each" if choice.unmatched else ""
        notes.append(f"real and generated frames are matched on {_and(choice.balanced)}{short}")
    if choice.repeated:
        notes.append(
            f"{choice.repeated} generated frames have a source that another one has, too; readers "
            "may notice that they are alike"
        )
    if len(made.channel_names) > 1:
        notes.append(f"of {len(made.channel_names)} channels the first is shown")
    return notes


def _and(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1]) if len(names) > 1 else names)


def _write(
    folder: Path,
    frames: Sequence[Frame],
    request: Mapping[str, Any],
    notes: Sequence[str],
    rng: random.Random,
) -> None:
    """The page and its key; names are random, and frames stand in the order of their names."""
    names = rng.sample(range(16**8), len(frames))
    named = {f"{name:08x}": frame for name, frame in sorted(zip(names, frames), key=lambda n: n[0])}
    digest = hashlib.sha256(b"".join(k.encode() + frame.png for k, frame in named.items()))
    identity = digest.hexdigest()[:16]
    shown = [{"id": k, "png": base64.b64encode(f.png).decode()} for k, f in named.items()]
    template = files("augmint.survey").joinpath("page.html").read_text(encoding="utf-8")
    content = json.dumps({"survey": identity, "frames": shown}, separators=(",", ":"))
    write_text(folder / PAGE, template.replace(SLOT, content))
    key = {
        "schema_version": SCHEMA_VERSION,
        "secret": SECRET,
        "survey": identity,
        "request": dict(request),
        "notes": list(notes),
        "frames": {k: dict(frame.facts) for k, frame in named.items()},
    }
    write_text(folder / KEY, json.dumps(key, indent=1))
