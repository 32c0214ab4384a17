"""Shifts images of another scanner towards the source that a run was fitted on.

No label of the target is read: its masks, where it has any, are copied beside the shifted images,
so that a segmentation of these can be scored.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from augmint.adapt_request import Asked, read_request
from augmint.case import Case
from augmint.data.dataset import Dataset, Item
from augmint.data.images import keep_header, read_image, write_image, write_mask
from augmint.data.splits import without_labels
from augmint.errors import AugmintError
from augmint.fit import FittedRun, describe_device, versions
from augmint.methods.shift_strength import Calibration
from augmint.progress import Talk
from augmint.report import plane_of, sheet, tile, write_json
from augmint.segmentation.cases import predict_case
from augmint.staging import WORK, copy_file, output_folder, write_text
from augmint.synthetic import converted_ending, keeps_files, write_cases, write_description

SCHEMA_VERSION = 1
SHOWN = 12
# Further translations of each image, a folder of images for each of them.
REPEATS = "repeats"


def adapt(
    run: Path | str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    settings: Mapping[str, Any] | None = None,
    patients: int | Sequence[str] | None = None,
    segmenter: Path | str | None = None,
    repeats: int = 1,
    largest_component: bool = False,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Shift images of another scanner towards the source, for a segmenter that knows the source.

    Writes an nnU-Net raw dataset of the images on their own grids, `adapt.csv` with what was done
    to each, a sheet, and with a segmenter its masks in `predictions`.

    Args:
        run: A folder made by `fit` with a method that adapts, such as reference_shift.
        data: A dataset, labelled or not, or a folder of images.
        out: The folder to make.
        settings: Fields of the method that need no new fit.
        patients: How many patients to draw, or which; all by default.
        segmenter: A run of `segment` that segments every image.
        repeats: Translations of each image under other noise: the second and further ones go to
            folders of images in `repeats`. With a segmenter the probabilities of all of them and,
            where there are several, of the image as it was are averaged.
        largest_component: Keep the largest connected part of each label of a prediction.
        seed: Seeds every draw.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Continue an unfinished dataset.
        talk: Where progress goes.

    Returns:
        The dataset's folder.

    Raises:
        AugmintError: if the run cannot adapt, or the images have other channels.
    """
    talk, started = talk or Talk(), time.monotonic()
    asked = read_request(
        run, data, settings=settings, patients=patients, segmenter=segmenter, repeats=repeats,
        seed=seed, device=device,
    )  # fmt: skip
    fitted, dataset, known = asked.fitted, asked.dataset, asked.known
    target = without_labels(dataset)
    for note in known.notes(len(dataset.patients), run, segmenter):
        talk.say(note)
    request = dict(
        command="adapt", run=str(Path(run).resolve()), data=str(dataset.root.resolve()),
        settings=dict(settings or {}), patients=list(dataset.patients), repeats=repeats,
        segmenter=None if segmenter is None else str(Path(segmenter).resolve()),
        largest_component=largest_component, seed=seed,
    )  # fmt: skip
    with output_folder(Path(out), request, resume=resume) as folder:
        writer = _Writer(asked, folder, largest_component, repeats, started)
        todo = _unfinished(target, writer)
        done = len(target) - len(todo)
        with talk.bar("adapt", len(target)) as update:
            for item, native, made in _shifted(fitted, target, todo, seed, repeats):
                writer.write(item, native, made)
                done += 1
                update(done, "")
        rows = writer.finish(request)
    talk.say(f"wrote {len(rows)} cases to {out}: {_in_words(rows)}; look at {out}/sheets/adapt.png")
    if segmenter is not None:
        talk.say(f"wrote the masks that {segmenter} finds in them to {out}/predictions")
    return Path(out)


def repeats_of(adapted: Path) -> list[Path]:
    """The folders of further translations in a dataset that `adapt` made."""
    numbered = (path for path in (adapted / REPEATS).glob("*") if path.name.isdecimal())
    return sorted(numbered, key=lambda path: int(path.name))


def _unfinished(target: Dataset, writer: _Writer) -> list[Item]:
    """The cases of patients who are not finished, patient by patient: they are judged together."""
    open_ = {i.patient_id for i in target.items if not writer.row_of(i).exists()}
    left = [i for i in target.items if i.patient_id in open_]
    return sorted(left, key=lambda item: (item.patient_id, item.case_id))


def _shifted(
    fitted: FittedRun, target: Dataset, todo: Sequence[Item], seed: int, repeats: int
) -> Iterator[tuple[Item, Case, list[Case]]]:
    """Items, their images on their own grids, and translations on the window."""
    held: list[tuple[Item, Case]] = []

    def cases() -> Iterator[Case]:
        for item in todo:
            native = target.load(item)
            if native.image.shape[0] != fitted.facts.channels:
                raise AugmintError(
                    f"case {item.case_id!r} has {native.image.shape[0]} channel(s), the run was "
                    f"fitted on {fitted.facts.channels}; give the same channels (CASE_0000, "
                    "CASE_0001, ... are channels of CASE)"
                )
            held.append((item, native))
            yield fitted.facts.grid.to_working(native)

    method: Any = fitted.method
    stream = method.adapt(fitted.networks, cases(), fitted.facts, seed=seed, copies=repeats)
    for made in stream:
        item, native = held.pop(0)
        yield item, native, made


class _Writer:
    """Writes adapted cases; a case is finished when its row stands in the work folder."""

    def __init__(
        self, asked: Asked, folder: Path, largest_component: bool, repeats: int, started: float
    ):
        self.fitted, self.judge, self.known = asked.fitted, asked.judge, asked.known
        self.dataset = dataset = asked.dataset
        self.folder, self.largest, self.repeats = folder, largest_component, repeats
        self.device, self._started = asked.device, started
        self._spent = folder / WORK / "seconds.json"
        self._before = float(json.loads(self._spent.read_text())) if self._spent.exists() else 0.0
        self.as_is = keeps_files(replace(dataset, items=_masked(dataset)))
        self.ending = dataset.file_ending if self.as_is else converted_ending(dataset)
        # nnU-Net keeps images that nobody labelled apart.
        self.part = "Tr" if _masked(dataset) else "Ts"

    def seconds(self) -> float:
        """Of this session, and of those before it up to the last case that each finished."""
        return self._before + time.monotonic() - self._started

    def row_of(self, item: Item) -> Path:
        """Where the row of a case stands once it is finished."""
        return self.folder / WORK / "rows" / f"{item.case_id}.json"

    def write(self, item: Item, native: Case, made: Sequence[Case]) -> None:
        """The first translation, the mask that came with the image, a prediction, and the row."""
        method: Any = self.fitted.method
        images = [method.to_native(new, native, self.fitted.facts.grid) for new in made]
        origins = [new.provenance for new in made if new.provenance is not None]
        shifted = _is_shifted(origins[0].details)
        stored, _, _ = self.dataset.read_stored(item)
        self._write_image(item, native, stored, images[0] if shifted else None, self.images)
        for number in range(2, self.repeats + 1):
            # Every folder of repeats is whole: an untouched image stands in each as it is.
            place = self.folder / REPEATS / str(number)
            more = images[min(number, len(images)) - 1] if shifted else None
            self._write_image(item, native, stored, more, place)
        self._copy_mask(item)
        if self.judge is not None:
            self._predict(native, images if len(images) == 1 else [*images, native])
        row = {
            "case": native.case_id, "patient": native.patient_id, "domain": native.domain,
            **origins[0].details, "walk": origins[0].walk, "repeats": len(made),
            "evaluations": sum(origin.evaluations for origin in origins),
            "mean_change": round(float((images[0].image - native.image).abs().mean()), 5),
            "channels": len(stored), "spacing_known": native.grid.spacing_known,
        }  # fmt: skip
        write_text(self._spent, json.dumps(self.seconds()))
        write_text(self.row_of(item), json.dumps(row))

    @property
    def images(self) -> Path:
        """The folder of shifted images."""
        return self.folder / f"images{self.part}"

    def image_paths(self, item: Item, channels: int, place: Path) -> list[Path]:
        """Where a case's image stands in a folder of images."""
        return [place / f"{item.case_id}_{c:04d}{self.ending}" for c in range(channels)]

    def _write_image(
        self, item: Item, native: Case, stored: np.ndarray, new: Case | None, place: Path
    ) -> None:
        """The shifted image in the stored type, or the files as they are."""
        paths = self.image_paths(item, len(stored), place)
        each = len(item.images) == len(stored)
        if new is None and self.as_is and each:
            for source, path in zip(item.images, paths):
                copy_file(source, path)
            return
        values = stored if new is None else native.intensity.to_stored(new.image)
        for channel, path in enumerate(paths):
            write_image(path, values[channel : channel + 1], native.grid)
            if each:
                keep_header(path, item.images[channel])

    def _copy_mask(self, item: Item) -> None:
        real = next(i for i in self.dataset.items if i.case_id == item.case_id)
        if not real.masks:
            return
        path = self.folder / f"labels{self.part}" / f"{item.case_id}{self.ending}"
        if self.as_is:
            copy_file(real.masks[0], path)
            return
        case = self.dataset.load(real)
        assert case.mask is not None
        write_mask(path, case.mask.numpy(), case.grid)

    def _predict(self, native: Case, looks: Sequence[Case]) -> None:
        assert self.judge is not None
        found = predict_case(
            [self.judge.network], looks[0], self.judge.grid, device=self.device,
            largest_component=self.largest, looks=looks[1:],
        )  # fmt: skip
        path = self.folder / "predictions" / f"{native.case_id}{self.ending}"
        write_mask(path, found.numpy(), native.grid)

    def finish(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Tables, dataset.json, run.json and the sheet; returns the rows."""
        for path in self.folder.rglob(".*.tmp*"):  # half-written files that a kill left
            path.unlink()
        rows = [json.loads(self.row_of(i).read_text()) for i in self.dataset.items]
        _write_table(self.folder / "adapt.csv", rows)
        write_cases(self.folder, self.dataset)
        write_description(
            self.folder, self.dataset, cases=len(rows) if self.part == "Tr" else 0,
            channels=rows[0]["channels"], ending=self.ending,
            spacing_known=all(r["spacing_known"] for r in rows),
        )  # fmt: skip
        if self.judge is not None:
            write_json(self.folder / "predictions" / "labels.json", dict(self.judge.labels))
        calibration: Calibration = self.fitted.networks["calibration"]
        facts = {
            "schema_version": SCHEMA_VERSION,
            "request": dict(request),
            "method": self.fitted.method_name,
            "networks": dict(self.fitted.hashes),
            "source_patients": list(self.fitted.generator_patients),
            "calibration": dict(calibration.strengths),
            "limit": calibration.limit,
            **self.known.to_json(),
            "shifted": sum(_is_shifted(r) for r in rows),
            "still_foreign": _still_foreign(rows),
            "evaluations": sum(r["evaluations"] for r in rows),
            "most_evaluations_of_a_patient": max(_by_patient(rows).values()),
            "seconds": round(self.seconds(), 1),
            "device": describe_device(self.device),
            "versions": versions(),
        }
        write_json(self.folder / "run.json", facts)
        self._show(rows)
        return rows

    def _show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """OUT/sheets/adapt.png: images before and after, and what was changed."""
        step = max(1, -(-len(rows) // SHOWN))
        tiles, names = [], []
        bare = without_labels(self.dataset)
        for item, row in list(zip(bare.items, rows))[::step]:
            before = bare.load(item)
            stored, _, _ = read_image(self.image_paths(item, row["channels"], self.images))
            after = replace(before, image=before.intensity.to_unit(stored))
            (one, _), (two, _) = plane_of(before), plane_of(after)
            tiles.append([tile(one, None), tile(two, None), tile((two - one).clip(-1, 1), None)])
            names.append(f"{item.case_id}: strength {row['strength']:g}")
        columns = ("as it was", "shifted", "difference")
        sheet(self.folder / "sheets" / "adapt.png", tiles, columns=columns, names=names)


def _is_shifted(row: Mapping[str, Any]) -> bool:
    """Whether an image was changed, by a walk or by a curve of grey levels."""
    return bool(row["strength"] or row.get("curve"))


def _still_foreign(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """How many cases look foreign after all; None where nobody looked."""
    looked = [bool(r["still_foreign"]) for r in rows if "still_foreign" in r]
    return sum(looked) if looked else None


def _in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    shifted, left = sum(map(_is_shifted, rows)), _still_foreign(rows)
    if left is None:
        return f"{shifted} shifted; which ones look foreign was not asked"
    same = len(rows) - shifted
    text = f"{shifted} shifted, {same} looked like the source and stayed as they were"
    if left:
        text += f"; {left} still look foreign, since no safe strength takes away all that differs"
    return text


def _masked(dataset: Dataset) -> tuple[Item, ...]:
    return tuple(i for i in dataset.items if i.masks)


def _by_patient(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for row in rows:
        total[row["patient"]] = total.get(row["patient"], 0) + row["evaluations"]
    return total


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
