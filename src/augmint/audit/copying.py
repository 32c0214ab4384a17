"""Part 3 of an audit: which synthetic images are copies, and who of the fit is given away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from augmint.audit.material import Material, Planes, case_of, evenly
from augmint.audit.parties import KEEP_PIXELS
from augmint.errors import AugmintError
from augmint.progress import Talk
from augmint.quality.copies import (
    LEAST_PATIENTS,
    SAME,
    Calibration,
    Whose,
    calibrate,
    closest,
    copy_rate,
    flagged,
    likest,
    membership_auc,
    threshold_of,
)
from augmint.quality.memorisation import CopyIndex, Match, index_pictures, nearest
from augmint.quality.structure import Tolerance
from augmint.report import sheet, tile

# Seen patients who help to learn the threshold, each against the others.
LENDERS = 100
# Images of either side of the membership figure.
MEMBERSHIP = 400
SHOWN = 12
RED = (230, 60, 60)
Keep = Callable[[str, Callable[[], Any]], Any]


class Search:
    """The real images of the fit, indexed once when they are first needed."""

    def __init__(self, material: Material, quarter_turns: bool, device: str, talk: Talk) -> None:
        self.material, self.device, self.talk = material, device, talk
        self.tolerance = Tolerance(quarter_turns=quarter_turns)
        self.owned = bool(set(material.made.names) - material.made.unowned)

    @cached_property
    def seen(self) -> Planes:
        """Real images of the fit."""
        return self.material.seen.planes()

    @cached_property
    def held(self) -> Planes:
        """Real images of all other patients."""
        return self.material.held.planes()

    @cached_property
    def made(self) -> Planes:
        """Synthetic images, rejected ones too."""
        return self.material.made.planes()

    @cached_property
    def index(self) -> CopyIndex:
        """Of the real images of the fit."""
        return self._index(self.seen, "indexing real images")

    def _index(self, planes: Planes, title: str, *, owned: bool = True) -> CopyIndex:
        pictures = self.talk.counted(title, planes.pictures(owned=owned), len(planes))
        return index_pictures(pictures, tolerance=self.tolerance, device=self.device)

    def calibration(self, false_alarms: float) -> Calibration | str:
        """The threshold, or why there is none."""
        seen, held = self.seen, self.held
        patients = sorted(set(seen.patients))
        lenders = {patients[i] for i in evenly(len(patients), LENDERS)}
        lenders = lenders if len(patients) > 1 else set()
        usable = len(lenders) + len(set(held.patients))
        if usable < LEAST_PATIENTS:
            return (
                f"{usable} real patient(s) to learn a threshold from, and {LEAST_PATIENTS} are "
                "needed: the closest pairs are shown, none is called a copy"
            )
        lent = seen.take([i for i, p in enumerate(seen.patients) if p in lenders])
        both = (p for part in (held, lent) for p in part.pictures())
        total = len(held) + len(lent)
        try:
            return calibrate(
                self.index, self.talk.counted("likeness of real images", both, total),
                false_alarms=false_alarms,
            )  # fmt: skip
        except AugmintError as error:
            if "to learn from" not in str(error):
                raise
            return f"no threshold ({error}): the closest pairs are shown, none is called a copy"

    def matches(self) -> list[Match]:
        """Of every synthetic image."""
        # An index of nobody but the source has no others; then likeness to it is all there is.
        pictures = self.made.pictures(owned=len(set(self.seen.patients)) > 1)
        counted = self.talk.counted("looking for copies", pictures, len(self.made))
        return nearest(self.index, counted)

    def membership(self, seed: int) -> dict[str, Any] | None:
        """Whether likeness to synthetic images tells who was in the fit."""
        made = self.made.take([i for i, n in enumerate(self.made.names) if self.kept(n)])
        sides = [side.some(MEMBERSHIP) for side in (self.seen, self.held)]
        if min(len(set(side.patients)) for side in sides) < 2:
            return None
        index = self._index(made, "indexing synthetic images", owned=False)
        figures: list[list[float]] = []
        of: list[list[str]] = []
        for side, title in zip(sides, ("membership: seen", "membership: held out")):
            pictures = self.talk.counted(title, side.pictures(owned=False), len(side))
            found = nearest(index, pictures)
            kept = [(m.similarity, p) for m, p in zip(found, side.patients) if m.judged]
            figures.append([s for s, _ in kept])
            of.append([p for _, p in kept])
        if min(len(set(patients)) for patients in of) < 2:
            return None
        told = membership_auc(figures[0], of[0], figures[1], of[1], seed=seed)
        return {**asdict(told), "images": [len(f) for f in figures]}

    def kept(self, name: str) -> bool:
        """Whether an image is of the cases that stand for the dataset."""
        return case_of(name) in self.material.parties.kept


def measure_copies(
    search: Search, folder: Path, keep: Keep, *, false_alarms: float, seed: int
) -> dict[str, Any]:
    """Look for copies; writes sheets/copies.png. `keep` finds what an earlier run finished."""
    parties = search.material.parties
    stored = keep("calibration", lambda: _stored(search.calibration(false_alarms)))
    calibration = _calibration(stored)
    matches = [_match(row) for row in keep("matches", lambda: _rows(search.matches()))]
    member = keep("membership", lambda: search.membership(seed))
    kept = [m for m in matches if search.kept(m.name)]
    refused = [m for m in matches if not search.kept(m.name)]
    told: dict[str, Any] = {
        "tolerance": asdict(search.tolerance), "images": len(kept),
        "index": {"patients": len(parties.seen), "images": len(search.seen)},
        "membership": member, "sources_known": search.owned,
    }  # fmt: skip
    if isinstance(calibration, str):
        told |= {"missing": calibration, "flagged": []}
        limit = float("inf")
    else:
        limit = calibration.threshold
        told |= _rates(calibration, kept, refused, search, seed)
        # Likeness to the source is by design, but not being nearly identical to it.
        rows = flagged(kept, limit) + flagged(kept, SAME, whose="own")
        told["flagged"] = sorted(rows, key=lambda row: -row[2])
    near = closest(kept, SHOWN)
    told["closest"] = [
        {"synthetic": m.name, "real": likest(m, "others")[0], "similarity": m.similarity}
        for m in near
    ]
    if search.owned:
        own = closest(kept, SHOWN, whose="own")
        told["closest_own"] = [
            {"synthetic": m.name, "real": m.own_real, "similarity": m.own_similarity} for m in own
        ]
        _sheet(folder / "sheets" / "copies_own.png", search, own, SAME, "own")
    _sheet(folder / "sheets" / "copies.png", search, near, limit, "others")
    return told


def _rates(
    calibration: Calibration,
    kept: Sequence[Match],
    refused: Sequence[Match],
    search: Search,
    seed: int,
) -> dict[str, Any]:
    limit, parties = calibration.threshold, search.material.parties
    told: dict[str, Any] = {
        "threshold": limit, "rule": calibration.rule, "false_alarms": calibration.false_alarms,
        # With fewer patients the threshold takes their likeness for normally distributed.
        "normal_below": ceil(1 / calibration.false_alarms) - 1,
        "calibrated_on": {
            "held_out_patients": sum(p in set(parties.held) for p in calibration.by_patient),
            "seen_patients": sum(p in set(parties.seen) for p in calibration.by_patient),
            "images": calibration.images,
        },
        "doubles": [
            {"image": m.name, "real": m.real, "similarity": m.similarity}
            for m in calibration.doubles
        ],
        "others": _rate(kept, limit, seed), "rejected": _rate(refused, limit, seed),
        "held_out": held_rate(calibration, set(parties.held), seed),
    }  # fmt: skip
    if search.owned:
        own = [m for m in kept if m.own_real]
        told["own"] = _rate(own, limit, seed, whose="own")
        told["own_nearly_identical"] = _rate(own, SAME, seed, whose="own")
        told["by_design"] = sorted(set(parties.methods) & set(KEEP_PIXELS))
    return told


def _rate(
    matches: Sequence[Match], limit: float, seed: int, *, whose: Whose = "others"
) -> dict[str, Any] | None:
    """The rate with its interval by source, or by case where no source is known."""
    units = [m if m.own else replace(m, own=m.case) for m in matches]
    if not any(likest(m, whose)[1] == likest(m, whose)[1] for m in units):
        return None
    found = copy_rate(units, limit, whose=whose, seed=seed)
    cases = {m.case for m in units if likest(m, whose)[1] > limit}
    return {**asdict(found), "cases": len(cases), "of_cases": len({m.case for m in units})}


def held_rate(calibration: Calibration, held: set[str], seed: int) -> dict[str, Any] | None:
    """How many images of unseen patients would be taken for copies.

    Each patient is judged by the threshold that the others give, since one that a patient helped
    to set is never exceeded by that patient. Doubles are left out.
    """
    tops = calibration.by_patient
    judged = []
    for patient in sorted(held & set(tops)):
        others = [v for p, v in tops.items() if p != patient]
        if len(others) < LEAST_PATIENTS:
            continue
        limit, _ = threshold_of(others, calibration.false_alarms)
        mine = (m for m in calibration.matches if m.own == patient and m.judged)
        judged += [replace(m, similarity=m.similarity - limit) for m in mine]
    return asdict(copy_rate(judged, 0.0, seed=seed)) if judged else None


def _rows(matches: Sequence[Match]) -> list[list[Any]]:
    return [[v if v == v else None for v in asdict(m).values()] for m in matches]


def _match(row: Sequence[Any]) -> Match:
    name, own, real, similarity, own_real, own_similarity = row
    nan = float("nan")
    return Match(
        name, own, real, nan if similarity is None else similarity, own_real,
        nan if own_similarity is None else own_similarity,
    )  # fmt: skip


def _stored(found: Calibration | str) -> Any:
    if isinstance(found, str):
        return found
    rest = {k: v for k, v in vars(found).items() if k not in ("matches", "doubles")}
    return {**rest, "matches": _rows(found.matches), "doubles": _rows(found.doubles)}


def _calibration(stored: Any) -> Calibration | str:
    if isinstance(stored, str):
        return stored
    parts = {k: tuple(_match(row) for row in stored[k]) for k in ("matches", "doubles")}
    return Calibration(**{**stored, **parts})


def _sheet(path: Path, search: Search, near: Sequence[Match], limit: float, whose: Whose) -> None:
    """Pairs side by side, two in a row; those taken for copies have a red frame."""
    made = {n: i for i, n in enumerate(search.made.names)}
    seen = {n: i for i, n in enumerate(search.seen.names)}
    rows: list[list[np.ndarray | None]] = []
    captions: list[list[tuple[str, str]]] = []
    for k, match in enumerate(near):
        real, similarity = likest(match, whose)
        copy = similarity > limit
        pair = [
            tile(search.made.images[made[match.name], 0].float().numpy(), None),
            tile(search.seen.images[seen[real], 0].float().numpy(), None),
        ]
        if k % 2 == 0:
            rows.append([])
            captions.append([])
        rows[-1] += [_framed(t) if copy else t for t in pair]
        remark = f"{similarity:.2f} COPY" if copy else f"{similarity:.2f}"
        captions[-1] += [(f"{k + 1}: {match.name}", ""), (real, remark)]
    if rows:
        short = 4 - len(rows[-1])
        rows[-1] += [None] * short
        captions[-1] += [("", "")] * short
        who = "any patient's" if not search.owned else "another patient's"
        heading = f"the synthetic images that are most like {who} real image"
        if whose == "own":
            heading = "the synthetic images that are most like their source patient's own image"
        sheet(path, rows, columns=["synthetic", "nearest real"] * 2, captions=captions,
              heading=heading)  # fmt: skip


def _framed(picture: np.ndarray) -> np.ndarray:
    framed = picture.copy()
    for part in (framed[:4], framed[-4:], framed[:, :4], framed[:, -4:]):
        part[...] = RED
    return framed
