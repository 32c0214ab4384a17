"""What readers could tell: accuracy against chance, time, and the frames that gave themselves away.

Each reader's accuracy has the exact interval of Clopper and Pearson and an exact binomial test
against 50 %. All readers together saw the same frames, so their answers are not independent: the
interval of the pooled accuracy is Clopper and Pearson's with the effective number of answers (Korn
and Graubard, Survey Methodology 24:193-201, 1998), frames being the clusters. It holds for these
readers on frames like these. A bootstrap over frames would have no width where all are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np

from augmint.errors import AugmintError
from augmint.survey.answers import Answer, Sheet, open_key, read_answers

# A frame gave itself away, or misled, where so many of its readers said so.
MOST = 0.75
SHOWN = 10
Interval = tuple[float, float]


@dataclass(frozen=True)
class ReaderResult:
    """What one reader could tell.

    Attributes:
        reader: As written on the page.
        answered: Frames that were judged.
        missing: Frames that were not.
        generated: Of those judged, how many are generated.
        correct: How many were right.
        accuracy: Their share.
        interval: 95 %, exact.
        p_value: Against 50 %, two-sided, exact.
        found_generated: Share of generated frames called generated; None without any.
        found_real: Share of real frames called real; None without any.
        d_prime: z(called generated | generated) - z(called generated | real), with half an answer
            added to each cell (log-linear rule); 0 is guessing. None without frames of both kinds.
        seconds: Median per frame.
    """

    reader: str
    answered: int
    missing: int
    generated: int
    correct: int
    accuracy: float
    interval: Interval
    p_value: float
    found_generated: float | None
    found_real: float | None
    d_prime: float | None
    seconds: float


@dataclass(frozen=True)
class FrameResult:
    """What readers said of one frame.

    Attributes:
        frame: Its name in the page.
        kind: `generated` or `real`.
        case: The case's name.
        file: Below its dataset.
        slice: Of a volume, in words; else empty.
        readers: How many judged it.
        called_generated: How many of them called it generated.
        seconds: Their median.
    """

    frame: str
    kind: str
    case: str
    file: str
    slice: str
    readers: int
    called_generated: int
    seconds: float

    @property
    def most_called_generated(self) -> bool:
        """Whether at least three in four of its readers called it generated."""
        return self.called_generated >= MOST * self.readers


@dataclass(frozen=True)
class SurveyResult:
    """What a survey found.

    Attributes:
        survey: Its name.
        frames: Frames in it.
        readers: One after the other.
        accuracy: Of all answers.
        interval: 95 %, for these readers on frames like these.
        judged: Every frame that was judged.
        expected: How many generated frames would give themselves away if all readers guessed.
        notes: What whoever made the survey was told of its frames.
    """

    survey: str
    frames: int
    readers: tuple[ReaderResult, ...]
    accuracy: float
    interval: Interval
    judged: tuple[FrameResult, ...]
    expected: float
    notes: tuple[str, ...] = ()

    @property
    def gave_themselves_away(self) -> tuple[FrameResult, ...]:
        """Generated frames that most readers called generated, the surest and quickest first."""
        return self._most("generated")

    @property
    def taken_for_generated(self) -> tuple[FrameResult, ...]:
        """Real frames that most readers called generated, likewise."""
        return self._most("real")

    def _most(self, kind: str) -> tuple[FrameResult, ...]:
        found = [f for f in self.judged if f.kind == kind and f.most_called_generated]
        return tuple(sorted(found, key=lambda f: (-f.called_generated / f.readers, f.seconds)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "gave_themselves_away": [f.case for f in self.gave_themselves_away],
            "taken_for_generated": [f.case for f in self.taken_for_generated],
        }

    def in_words(self) -> str:
        """For a terminal."""
        lines = [f"survey {self.survey}: {self.frames} frames, {_count(self.readers, 'reader')}"]
        lines += [_reader_in_words(reader) for reader in self.readers]
        if len(self.readers) > 1:
            lines.append(
                f"all readers: {_percent(self.accuracy, self.interval)}, for these readers on "
                "frames like these"
            )
        away, taken = self.gave_themselves_away, self.taken_for_generated
        lines.append(
            f"{_count(away, 'generated frame')} gave "
            f"{'itself' if len(away) == 1 else 'themselves'} away (called generated by at least "
            f"three in four readers; {self.expected:.1f} would if all guessed)"
        )
        lines += _listed(away)
        lines.append(f"{_count(taken, 'real frame')} called generated by as many")
        lines += _listed(taken)
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def score_survey(answers: Sequence[Path | str], key: Path | str) -> SurveyResult:
    """Score the answers of one reader or more.

    Unfinished answers are scored as far as they go; the result says how many are missing.

    Args:
        answers: Files that readers saved from the page.
        key: key.json, or the folder that holds it.

    Raises:
        AugmintError: if a file is unreadable or of another survey, has unknown or doubled frames
            or no answer at all, or if two files are of one reader.
    """
    truth = open_key(Path(key))
    if not answers:
        raise AugmintError("no answers to score; give the files that readers saved")
    sheets = [read_answers(Path(path), truth.survey, truth.frames) for path in answers]
    seen: dict[str, Path] = {}
    for sheet in sheets:
        name = sheet.reader.lower()
        if name in seen:
            raise AugmintError(
                f"{seen[name]} and {sheet.path} are both of reader {sheet.reader!r}; give the last "
                "file of each reader"
            )
        seen[name] = sheet.path
    kinds = {name: str(frame["kind"]) for name, frame in truth.frames.items()}
    judged = _frames(sheets, truth.frames)
    accuracy, interval = _pooled(judged)
    return SurveyResult(
        survey=truth.survey,
        frames=len(kinds),
        readers=tuple(_reader(sheet, kinds) for sheet in sheets),
        accuracy=accuracy,
        interval=interval,
        judged=judged,
        expected=_expected(judged),
        notes=truth.notes,
    )


def _reader(sheet: Sheet, kinds: Mapping[str, str]) -> ReaderResult:
    from scipy.stats import binomtest

    called: dict[str, list[bool]] = {"generated": [], "real": []}
    for one in sheet.answers:
        called[kinds[one.frame]].append(one.answer == "generated")
    hits, made = sum(called["generated"]), len(called["generated"])
    alarms, real = sum(called["real"]), len(called["real"])
    correct, answered = hits + real - alarms, made + real
    test = binomtest(correct, answered)
    low, high = test.proportion_ci(0.95, method="exact")
    d_prime = None
    if made and real:
        z = NormalDist().inv_cdf
        d_prime = z((hits + 0.5) / (made + 1)) - z((alarms + 0.5) / (real + 1))
    return ReaderResult(
        reader=sheet.reader,
        answered=answered,
        missing=len(kinds) - answered,
        generated=made,
        correct=correct,
        accuracy=correct / answered,
        interval=(float(low), float(high)),
        p_value=float(test.pvalue),
        found_generated=hits / made if made else None,
        found_real=1 - alarms / real if real else None,
        d_prime=d_prime,
        seconds=median(one.seconds for one in sheet.answers),
    )


def _frames(
    sheets: Sequence[Sheet], frames: Mapping[str, Mapping[str, Any]]
) -> tuple[FrameResult, ...]:
    said: dict[str, list[Answer]] = {name: [] for name in frames}
    for sheet in sheets:
        for one in sheet.answers:
            said[one.frame].append(one)
    return tuple(
        FrameResult(
            frame=name,
            kind=str(frames[name]["kind"]),
            case=str(frames[name]["case"]),
            file=str(frames[name]["file"]),
            slice=str(frames[name].get("slice", "")),
            readers=len(found),
            called_generated=sum(one.answer == "generated" for one in found),
            seconds=median(one.seconds for one in found),
        )
        for name, found in said.items()
        if found
    )


def _pooled(judged: Sequence[FrameResult]) -> tuple[float, Interval]:
    """Accuracy of all answers and its interval, frames being the clusters."""
    given = np.array([f.readers for f in judged], float)
    right = np.array(
        [f.called_generated if f.kind == "generated" else f.readers - f.called_generated
         for f in judged], float,
    )  # fmt: skip
    answers, share = given.sum(), right.sum() / given.sum()
    return float(share), _clustered_interval(given, right, float(answers), float(share))


def _clustered_interval(
    given: np.ndarray, right: np.ndarray, answers: float, share: float
) -> Interval:
    """Korn and Graubard's interval of a share.

    Args:
        given: Answers for each frame.
        right: Right ones among them.
        answers: Of all frames.
        share: Right ones of all.
    """
    from scipy.stats import beta, t

    frames = len(given)
    # Without any spread the answers to a frame may be one: frames are counted.
    effective = float(frames)
    residual = (right - share * given) / answers
    if frames > 1 and 0 < share < 1 and (spread := float((residual**2).sum())) > 0:
        effective = share * (1 - share) / (spread * frames / (frames - 1))
        if answers > 1:
            quantiles = t.ppf(0.975, [answers - 1, frames - 1])
            effective *= float((quantiles[0] / quantiles[1]) ** 2)
        effective = min(effective, answers)
    hits = share * effective
    low = 0.0 if share == 0 else float(beta.ppf(0.025, hits, effective - hits + 1))
    high = 1.0 if share == 1 else float(beta.ppf(0.975, hits + 1, effective - hits))
    return low, high


def _expected(judged: Sequence[FrameResult]) -> float:
    """How many generated frames most readers would call generated if all guessed."""
    from scipy.stats import binom

    least = [(int(np.ceil(MOST * f.readers)), f.readers) for f in judged if f.kind == "generated"]
    return float(sum(binom.sf(few - 1, readers, 0.5) for few, readers in least))


def _reader_in_words(one: ReaderResult) -> str:
    p = "p < 0.001" if one.p_value < 0.001 else f"p = {one.p_value:.3f}"
    text = (
        f"{one.reader}: {one.correct} of {one.answered} right, "
        f"{_percent(one.accuracy, one.interval)}, {p} against 50 %"
    )
    for name, share in (("generated", one.found_generated), ("real", one.found_real)):
        if share is not None:
            text += f"; {name} frames found {share:.0%}".replace("%", " %")
    if one.d_prime is not None:
        text += f"; d' {one.d_prime:.2f}"
    text += f"; median {one.seconds:.1f} s a frame"
    if one.missing:
        real = one.answered - one.generated
        text += (
            f"; unfinished: {one.missing} missing, {one.generated} generated and {real} real judged"
        )
        if one.generated != real:
            text += f" (always the same answer would give {max(one.generated, real)} right)"
    return text


def _percent(share: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * share:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _listed(frames: Sequence[FrameResult]) -> list[str]:
    lines = [
        f"  {f.file}{f.slice and f', slice {f.slice}'}: {f.called_generated} of {f.readers}, "
        f"{f.seconds:.1f} s"
        for f in frames[:SHOWN]
    ]
    return [*lines, f"  and {len(frames) - SHOWN} more"] if len(frames) > SHOWN else lines
