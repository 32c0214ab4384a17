"""How many synthetic images are copies, and who of the training patients gives herself away.

The threshold comes from real patients, none of whose images can be a copy: those whom the generator
never saw, and, where these are few, training patients compared with each other. Neighbouring slices
and phases of a patient are alike, so the patient is the unit: at most 1 in 100 unseen ones may have
any image taken for a copy. With fewer than 99 patients that holds only as far as their likeness is
normally distributed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from augmint.errors import AugmintError
from augmint.quality.memorisation import CopyIndex, Match, Picture, nearest

FALSE_ALARMS = 0.01
LEAST_PATIENTS = 5
# Images of two patients as like as this are one image under two names.
SAME = 0.95
RESAMPLES = 2000
COLUMNS = ("synthetic", "real", "similarity", "threshold")
# Likeness to patients other than the source's, to the source's own, or to whichever is higher.
Whose = Literal["others", "own", "any"]


@dataclass(frozen=True)
class Calibration:
    """How like is too like.

    Attributes:
        threshold: An image more like a real one than this is a copy.
        false_alarms: The rate it was chosen for, by patient.
        rule: How, in words.
        by_patient: Patient to the highest similarity of any of the patient's images to an image of
            another patient.
        images: Number of images judged.
        matches: Of every image.
        doubles: For every patient who was left out, since an image of theirs is stored under
            another patient's name too, the likest match. Name them to the user: such patients also
            leak from training into test sets.
    """

    threshold: float
    false_alarms: float
    rule: str
    by_patient: dict[str, float]
    images: int
    matches: tuple[Match, ...]
    doubles: tuple[Match, ...] = ()


@dataclass(frozen=True)
class CopyRate:
    """The share of images taken for copies.

    Attributes:
        copies: Their number.
        images: Number of images judged.
        rate: Their quotient.
        interval: 95 % of Clopper and Pearson, as if images were independent.
        by_source: 95 % by bootstrap over source patients; where none or all of the images are
            copies, that of Clopper and Pearson for so many patients.
        sources: Number of source patients.
        flagged_sources: Of these, how many have a copy.
        not_judged: Images of which too little could be compared.
    """

    copies: int
    images: int
    rate: float
    interval: tuple[float, float]
    by_source: tuple[float, float]
    sources: int
    flagged_sources: int
    not_judged: int


@dataclass(frozen=True)
class Membership:
    """Can one tell from the synthetic images who was in the fit?

    Attributes:
        auc: The chance that an image of the fit is more like its nearest synthetic image than one
            outside the fit; 0.5 tells nothing.
        interval: 95 %, by bootstrap over the patients of both sides.
        members: Number of patients of the fit.
        others: Number of patients outside it.
    """

    auc: float
    interval: tuple[float, float]
    members: int
    others: int


def calibrate(
    index: CopyIndex, pictures: Iterable[Picture], *, false_alarms: float = FALSE_ALARMS
) -> Calibration:
    """The threshold, from real patients of whom no image can be a copy.

    Give patients whom the generator never saw. Those of the index may be given beside them, where
    these are few: no picture is ever compared with its own patient, so theirs is a likeness to the
    others. For synthetic images of which only a part counts give parts alike.

    With 99 patients or more (at 1 %) the threshold is the least value that keeps the rate for any
    distribution; with fewer it is the upper prediction bound of a normal distribution of Fisher's z
    of the patients' highest similarities, and not below the highest of them.

    Args:
        index: The real images of the fit.
        pictures: Real ones, each with its patient.
        false_alarms: The share of unseen patients that may be taken for copies.

    Raises:
        AugmintError: if fewer than five patients can be judged.

    Source: Vovk et al., Algorithmic Learning in a Random World, 2005, for any distribution.
    """
    if not 0 < false_alarms < 0.5:
        raise AugmintError(
            f"a rate of false alarms of {false_alarms:g}; give more than 0, below 0.5"
        )
    matches = tuple(nearest(index, pictures))
    if nameless := [m.name for m in matches if not m.own]:
        raise AugmintError(
            f"real image {nameless[0]!r} has no patient; a threshold is learned from images whose "
            "patients are named"
        )
    top: dict[str, Match] = {}
    for match in matches:
        if match.judged and (match.own not in top or match.similarity > top[match.own].similarity):
            top[match.own] = match
    doubles = tuple(m for m in top.values() if m.similarity > SAME)
    highest = {patient: m.similarity for patient, m in top.items() if m.similarity <= SAME}
    if len(highest) < LEAST_PATIENTS:
        raise AugmintError(
            f"{len(highest)} patient(s) to learn from how like real images are that are no "
            f"copies; give {LEAST_PATIENTS} or more that the generator never saw, or those of the "
            "fit too"
        )
    threshold, rule = threshold_of(list(highest.values()), false_alarms)
    judged = sum(match.judged for match in matches)
    return Calibration(threshold, false_alarms, rule, highest, judged, matches, doubles)


def threshold_of(highest: Sequence[float], false_alarms: float) -> tuple[float, str]:
    """The threshold of `calibrate` and its rule in words.

    Args:
        highest: The highest similarity of each patient, two patients or more.
        false_alarms: The share of further patients that may lie above.
    """
    from scipy.stats import t

    values = np.sort(highest)
    n = len(values)
    rank = math.ceil((n + 1) * (1 - false_alarms))
    if rank <= n:
        return float(values[rank - 1]), f"value {rank} of {n} patients"
    z = np.arctanh(np.clip(values, -0.999999, 0.999999))
    reach = t.ppf(1 - false_alarms, n - 1) * z.std(ddof=1) * math.sqrt(1 + 1 / n)
    threshold = float(max(np.tanh(z.mean() + reach), values[-1]))
    return threshold, f"normal prediction bound of {n} patients"


def likest(match: Match, whose: Whose) -> tuple[str, float]:
    """The real image and the similarity that count; NaN where there is none."""
    others, own = (match.real, match.similarity), (match.own_real, match.own_similarity)
    if whose == "any":
        return own if own[1] > others[1] or math.isnan(others[1]) else others
    return others if whose == "others" else own


def flagged(
    matches: Iterable[Match], threshold: float, *, whose: Whose = "others"
) -> list[tuple[str, str, float, float]]:
    """The pairs taken for copies, the likest first: synthetic, real, similarity, threshold."""
    rows = [(m.name, *likest(m, whose), threshold) for m in matches]
    return sorted((r for r in rows if r[2] > threshold), key=lambda r: (-r[2], r[0]))


def closest(matches: Iterable[Match], count: int, *, whose: Whose = "others") -> list[Match]:
    """The matches of highest similarity, the highest first, copies or not: to be looked at."""
    known = [m for m in matches if not math.isnan(likest(m, whose)[1])]
    return sorted(known, key=lambda m: -likest(m, whose)[1])[:count]


def worst_of_cases(matches: Iterable[Match], *, whose: Whose = "others") -> list[Match]:
    """For each case the match of its likest slice, in the order of the cases: a copied slice makes
    a copied volume. A case is not judged where none of its slices is.
    """
    worst: dict[str, Match] = {}
    for match in matches:
        before, value = worst.get(match.case), likest(match, whose)[1]
        if before is None or (not likest(before, whose)[1] >= value and value == value):
            worst[match.case] = match
    return list(worst.values())


def write_copies(path: Path, rows: Iterable[tuple[str, str, float, float]]) -> None:
    """Write `copies.csv`: the flagged pairs alone."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((a, b, f"{s:.4f}", f"{t:.4f}") for a, b, s, t in rows)


def copy_rate(
    matches: Iterable[Match], threshold: float, *, whose: Whose = "others", seed: int = 0
) -> CopyRate:
    """The share of images taken for copies, with its intervals.

    Read it beside the rate of held-out real patients against the same index. Those that the
    threshold was learned from show fewer than others would. Images without a source are each a
    source of their own.

    Args:
        matches: Of images, or of cases by `worst_of_cases`.
        threshold: See `calibrate`.
        whose: Whose likeness counts.
        seed: Of the bootstrap.

    Raises:
        AugmintError: if no image was judged.
    """
    every = [(m.own or m.name, likest(m, whose)[1]) for m in matches]
    known = [(source, value > threshold) for source, value in every if not math.isnan(value)]
    if not known:
        raise AugmintError(
            f"none of {len(every)} image(s) could be compared with real ones; give larger parts, "
            "or images that are not blank"
        )
    groups, index = np.unique([source for source, _ in known], return_inverse=True)
    count = np.bincount(index)
    hits = np.bincount(index, [hit for _, hit in known])
    total, copies = int(count.sum()), int(hits.sum())
    if copies in (0, total):
        by_source = clopper_pearson(len(groups) if copies else 0, len(groups))
    else:
        rng = np.random.default_rng(seed)
        m = len(groups)
        times = rng.multinomial(m, np.full(m, 1 / m), RESAMPLES)
        low, high = np.quantile((times @ hits) / (times @ count), (0.025, 0.975))
        by_source = float(low), float(high)
    return CopyRate(
        copies,
        total,
        copies / total,
        clopper_pearson(copies, total),
        by_source,
        len(groups),
        int((hits > 0).sum()),
        len(every) - total,
    )


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share.

    Source: Clopper and Pearson, Biometrika 1934.
    """
    from scipy.stats import beta

    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, n - hits + 1))
    return low, 1.0 if hits == n else float(beta.ppf(0.975, hits + 1, n - hits))


def membership_auc(
    members: Sequence[float],
    member_patients: Sequence[str],
    others: Sequence[float],
    other_patients: Sequence[str],
    *,
    seed: int = 0,
) -> Membership:
    """A simple attack: who is more like a synthetic image was in the fit.

    The similarities are those of `nearest` with an index of the synthetic images, by
    `Match.similarity` of real pictures without an own patient. Images that a method made from the
    masks or pixels of members point at them without any memory of the network: then an AUC above
    0.5 says what the dataset gives away, not what the network remembers.

    Args:
        members: Similarity of each image of the fit to its nearest synthetic one.
        member_patients: The patient of each.
        others: Likewise of images outside the fit.
        other_patients: The patient of each.
        seed: Of the bootstrap.

    Raises:
        AugmintError: if a side has fewer than two patients, a patient is on both, or a similarity
            is NaN.
    """
    if both := set(member_patients) & set(other_patients):
        raise AugmintError(
            f"patient {min(both)!r} is of the fit and outside it; sort patients apart"
        )
    if min(len(set(member_patients)), len(set(other_patients))) < 2:
        raise AugmintError("membership needs two patients or more of the fit, and outside it")
    a, b = np.asarray(members, dtype=float), np.asarray(others, dtype=float)
    if len(a) != len(member_patients) or len(b) != len(other_patients):
        raise AugmintError(
            f"{len(a)} and {len(b)} similarities of {len(member_patients)} and "
            f"{len(other_patients)} patients' images; give one patient for each"
        )
    if np.isnan(a).any() or np.isnan(b).any():
        raise AugmintError("a similarity is NaN; leave out images that were not judged")
    wins = (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])
    rows, row_count = _summed(wins, member_patients)
    both_ways, column_count = _summed(rows.T, other_patients)
    rng = np.random.default_rng(seed)

    def drawn(m: int) -> np.ndarray:
        return rng.multinomial(m, np.full(m, 1 / m), RESAMPLES)

    left, right = drawn(len(row_count)), drawn(len(column_count))
    sums = np.einsum("rg,gh,rh->r", left, both_ways.T, right)
    values = sums / ((left @ row_count) * (right @ column_count))
    low, high = np.quantile(values, (0.025, 0.975))
    return Membership(
        float(wins.mean()), (float(low), float(high)), len(row_count), len(column_count)
    )


def _summed(rows: np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows summed within patients, and how many each has."""
    names, index = np.unique(patients, return_inverse=True)
    member = np.eye(len(names))[index]
    return member.T @ rows, member.sum(0)
