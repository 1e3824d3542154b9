"""Score texts with several models: the same files in the same random order, until the answer is clear or time is up.

The order is random (and the same for everybody), so that what was scored when a run ends early stands for all.
With several models held at once the run ends as soon as every pair is decided by intervals that hold at any time
(`paired.py`). Models that do not fit into memory together run one after another, and nothing is stopped by what
it shows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Protocol

from weigh.errors import WeighError
from weigh.quality.paired import LEAST_FILES, Difference, Piece, difference
from weigh.quality.scorer import Scorer
from weigh.quality.text import Text, TextQuality, Texts, TextScore, score_text, text_quality

SEED = 0
Progress = Callable[[str, float], None]


class Ended(StrEnum):
    """Why a run ended."""

    ALL_READ = "all read"
    CLEAR = "every pair decided"
    TIME_UP = "time up"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Opener(Protocol):
    """How a model is loaded, under limits that its maker knows."""

    def __call__(self) -> Scorer: ...


@dataclass(slots=True)
class Candidate:
    """A model to score, and what it has made of the texts so far.

    Attributes:
        scorer: what runs it, in its own words; "" until it was opened.
    """

    name: str
    open: Opener
    scorer: str = ""
    scores: list[TextScore] = field(default_factory=list)

    @property
    def pieces(self) -> list[Piece]:
        return [piece for score in self.scores for piece in score.pieces]

    @property
    def quality(self) -> TextQuality | None:
        """None before the first text."""
        return text_quality(self.scores) if self.scores else None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models by their places, and how they differ."""

    first: int
    second: int
    difference: Difference


@dataclass(frozen=True, slots=True)
class TextRun:
    """What came of it. `error` is what ended it early, to be raised when this is shown."""

    candidates: tuple[Candidate, ...]
    pairs: tuple[Pair, ...]
    texts: Texts
    ended: Ended
    error: BaseException | None = None


def run_texts(
    candidates: Sequence[Candidate],
    texts: Texts,
    *,
    together: bool = True,
    stop_early: bool = True,
    most_s: float | None = None,
    progress: Progress | None = None,
) -> TextRun:
    """Score `texts` with each candidate; Ctrl-C ends the run and keeps what is scored, when anything is.

    Args:
        together: hold all models at once and take turns, text by text.
        stop_early: end when every pair is decided; takes several models, together.
        most_s: begin no text after this long, in all.

    Raises:
        EngineError, BadInput: as the scorers, before anything was scored.
    """
    order = in_random_order(texts)
    clock = Clock(most_s)
    early = stop_early and together and len(candidates) > 1
    caught: BaseException | None = None
    try:
        if together:
            ended = _in_turns(candidates, order, clock, early=early, progress=progress)
        else:
            ended = _one_by_one(candidates, order, clock, progress=progress)
    except (KeyboardInterrupt, WeighError) as error:
        if not any(one.scores for one in candidates):
            raise
        ended = Ended.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Ended.FAILED
        caught = error
    pairs = _pairs(candidates, by_file=texts.files >= LEAST_FILES, any_time=early)
    return TextRun(tuple(candidates), pairs, texts, ended, caught)


def in_random_order(texts: Texts) -> list[Text]:
    """Files in random order, parts of one in theirs; where files are few, their parts at random."""
    draw = random.Random(SEED)
    if texts.files < LEAST_FILES:
        return draw.sample(texts.texts, len(texts.texts))
    files = sorted({text.file for text in texts.texts})
    place = dict(zip(draw.sample(files, len(files)), range(len(files)), strict=True))
    return sorted(texts.texts, key=lambda text: (place[text.file], text.part))


class Clock:
    """Says when no more is to be begun; never, where there is no most."""

    def __init__(self, most_s: float | None) -> None:
        self._until_s = None if most_s is None else time.monotonic() + most_s

    def share(self, among: int) -> Clock:
        """An even part of the time that is left."""
        if self._until_s is None:
            return self
        return Clock(max(0.0, self._until_s - time.monotonic()) / among)

    def is_up(self) -> bool:
        return self._until_s is not None and time.monotonic() > self._until_s


def _in_turns(
    candidates: Sequence[Candidate],
    order: Sequence[Text],
    clock: Clock,
    *,
    early: bool,
    progress: Progress | None,
) -> Ended:
    total_bytes = sum(text.bytes for text in order) * len(candidates)
    done_bytes = 0
    few = len({text.file for text in order}) < LEAST_FILES
    with ExitStack() as held:
        scorers = []
        for one in candidates:
            _say(progress, f"loading {one.name}", 0.0)
            scorers.append(scorer := one.open())
            held.callback(scorer.close)
            one.scorer = scorer.name
        for number, text in enumerate(order):
            if number and clock.is_up():
                return Ended.TIME_UP
            for one, scorer in zip(candidates, scorers, strict=True):
                one.scores.append(score_text(scorer, text, _part(progress, text, done_bytes, total_bytes)))
                done_bytes += text.bytes
            rest = order[number + 1 :]
            whole = few or not rest or rest[0].file != text.file
            if early and rest and whole and _clear(candidates, by_file=not few):
                return Ended.CLEAR
    return Ended.ALL_READ


def _one_by_one(
    candidates: Sequence[Candidate], order: Sequence[Text], clock: Clock, *, progress: Progress | None
) -> Ended:
    """The time is shared out; later models read no more than the first did."""
    total_bytes = sum(text.bytes for text in order) * len(candidates)
    done_bytes, count = 0, len(order)
    for place, one in enumerate(candidates):
        share = clock.share(len(candidates) - place)
        _say(progress, f"loading {one.name}", done_bytes / total_bytes)
        scorer = one.open()
        one.scorer = scorer.name
        try:
            for number, text in enumerate(order[:count]):
                if number and share.is_up():
                    count = number
                    break
                one.scores.append(score_text(scorer, text, _part(progress, text, done_bytes, total_bytes)))
                done_bytes += text.bytes
        finally:
            scorer.close()
    return Ended.ALL_READ if count == len(order) else Ended.TIME_UP


def _clear(candidates: Sequence[Candidate], *, by_file: bool) -> bool:
    pairs = _pairs(candidates, by_file=by_file, any_time=True)
    return all(pair.difference.any_time and pair.difference.decided for pair in pairs)


def _pairs(candidates: Sequence[Candidate], *, by_file: bool, any_time: bool) -> tuple[Pair, ...]:
    pieces = [one.pieces for one in candidates]
    found = (
        (first, second, difference(pieces[first], pieces[second], by_file=by_file, any_time=any_time))
        for first, second in combinations(range(len(candidates)), 2)
    )
    return tuple(Pair(first, second, one) for first, second, one in found if one is not None)


def _say(progress: Progress | None, stage: str, done: float) -> None:
    if progress is not None:
        progress(stage, done)


def _part(
    progress: Progress | None, text: Text, done_bytes: int, total_bytes: int
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress(text.name, (done_bytes + share * text.bytes) / total_bytes)
