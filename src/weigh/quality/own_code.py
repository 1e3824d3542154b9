"""How good models are on the user's own code: the same excerpts and lines of held-out files for all of them.

Files are visited in an order drawn by a seed, one excerpt each, then a second of each, until the budget is spent or
the order of the models is clear. Every comparison is of the same bytes and lines; its bound allows looking at
any time (see `paired.py`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from weigh.errors import WeighError
from weigh.quality.code_answers import Answer, ModelOnCode, Pair, Quantity, is_clear, pairs, ranked
from weigh.quality.completion import judged
from weigh.quality.excerpts import Excerpt, excerpts
from weigh.quality.paired import LEAST_FILES
from weigh.quality.repository import HeldOut

Progress = Callable[[str, float], None]


class Judge(Protocol):
    """A model that reads and continues code.

    Attributes:
        writes: whether it can be asked for lines; else it reads alone.
    """

    name: str
    writes: bool

    def bits(self, text: str) -> tuple[float, int]:
        """What it needs for `text`, and for how many bytes of it."""
        ...

    def next_line(self, before: str) -> str: ...

    def middle(self, before: str, after: str) -> str | None:
        """None where it has no tokens for fill-in-the-middle."""
        ...


Opener = Callable[[], AbstractContextManager[Judge]]


class Ended(StrEnum):
    """Why measuring ended."""

    CLEAR = "clear"
    BUDGET = "budget"
    ALL_READ = "all read"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent: seconds of all models together once they are loaded, and bytes that each of them reads."""

    seconds: float = math.inf
    text_bytes: float = math.inf


@dataclass(frozen=True, slots=True)
class OwnCode:
    """What was found.

    Attributes:
        models: in the order in which they were named.
        pairs: of every two models, in every quantity that both have.
        error: what ended it early, to be raised when this is shown.
    """

    chosen: HeldOut
    models: tuple[ModelOnCode, ...]
    seed: int
    took_s: float
    ended: Ended
    pairs: tuple[Pair, ...] = ()
    error: BaseException | None = None

    @property
    def ranking(self) -> tuple[int, ...]:
        """Models by bits per byte, the best first; those without an answer last."""
        return ranked([model.answers for model in self.models])

    def pair(self, first: int, second: int, quantity: Quantity) -> Pair | None:
        """The comparison of two models, whichever way round."""
        both = {first, second}
        found = (one for one in self.pairs if one.quantity is quantity and {one.first, one.second} == both)
        return next(found, None)


@dataclass
class _Run:
    chosen: HeldOut
    seed: int
    budget: Budget
    progress: Progress
    answers: list[list[Answer]]
    names: list[str]
    any_time: bool  # whether it may be stopped by what it shows
    started_s: float

    @property
    def took_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def spent(self) -> bool:
        return self.took_s >= self.budget.seconds or self._read_bytes() >= self.budget.text_bytes

    def _read_bytes(self) -> int:
        return min(sum(answer.text_bytes for answer in own) for own in self.answers)

    def tell(self, stage: str) -> None:
        done = max(self.took_s / self.budget.seconds, self._read_bytes() / self.budget.text_bytes)
        self.progress(stage, min(1.0, done))

    def result(self, ended: Ended, error: BaseException | None = None) -> OwnCode:
        models = tuple(
            ModelOnCode(name, tuple(own)) for name, own in zip(self.names, self.answers, strict=True)
        )
        compared = tuple(pairs(self.answers, any_time=self.any_time))
        return OwnCode(self.chosen, models, self.seed, self.took_s, ended, compared, error)


def own_code(
    openers: Sequence[tuple[str, Opener]],
    chosen: HeldOut,
    *,
    budget: Budget,
    seed: int = 0,
    together: bool = True,
    progress: Progress = lambda stage, done: None,
) -> OwnCode:
    """Measure models, by name, on what was chosen.

    What is interrupted, or fails under way, gives what there is so far, with the error.

    Args:
        together: all models are held at once and take turns, so that it can end when their order is clear;
            else they come one after another, and are compared on the excerpts that all had time for.

    Raises:
        WeighError: a model does not load, or fails before there is anything to show.
    """
    names = [name for name, _ in openers]
    answers: list[list[Answer]] = [[] for _ in openers]
    run = _Run(chosen, seed, budget, progress, answers, names, any_time=together, started_s=time.monotonic())
    measure = _in_turns if together else _one_by_one
    try:
        return run.result(measure(run, [opener for _, opener in openers]))
    except (KeyboardInterrupt, WeighError) as error:
        if not any(run.answers):
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        return run.result(Ended.INTERRUPTED if interrupted else Ended.FAILED, error)


def _in_turns(run: _Run, openers: Sequence[Opener]) -> Ended:
    with ExitStack() as held:
        judges = []
        for name, opener in zip(run.names, openers, strict=True):
            run.progress(f"loading {name}", 0.0)
            judges.append(held.enter_context(opener()))
        run.started_s = time.monotonic()
        for count, visit in enumerate(_visits(run.chosen, run.seed), start=1):
            for judge, own in zip(judges, run.answers, strict=True):
                run.tell(f"excerpt {count}, {judge.name}")
                own.append(_answer(judge, visit))
            if len(judges) > 1 and visit.may_stop and is_clear(run.answers):
                return Ended.CLEAR
            if run.spent:
                return Ended.BUDGET
    return Ended.ALL_READ


def _one_by_one(run: _Run, openers: Sequence[Opener]) -> Ended:
    """The time left is shared out evenly; later models read no more than those before them did."""
    ended = Ended.ALL_READ
    visits = list(_visits(run.chosen, run.seed))
    for number, (opener, own) in enumerate(zip(openers, run.answers, strict=True)):
        until_s = run.took_s + (run.budget.seconds - run.took_s) / (len(openers) - number)
        with opener() as judge:
            for count, visit in enumerate(visits, start=1):
                run.tell(f"{judge.name}, excerpt {count} of {len(visits)}")
                own.append(_answer(judge, visit))
                read_bytes = sum(answer.text_bytes for answer in own)
                if run.took_s >= until_s or read_bytes >= run.budget.text_bytes:
                    ended = Ended.BUDGET
                    break
        visits = visits[: len(own)]
    return ended


@dataclass(frozen=True, slots=True)
class _Visit:
    """An excerpt to be read next; `may_stop` says whether what is known after it may end the run."""

    file: int
    excerpt: Excerpt
    may_stop: bool


def _visits(chosen: HeldOut, seed: int) -> Iterator[_Visit]:
    """One excerpt of every file, then a second of those that have one, and so on.

    In the first round every excerpt is a new file, and so a new unit of the statistics; later ones add to a unit,
    and only whole rounds are looked at. Where files are few the excerpts are the units.
    """
    order = list(enumerate(chosen.files))
    random.Random(seed).shuffle(order)
    left = [(number, excerpts(file, seed)) for number, file in order]
    anywhere = True
    while left := [(number, rest) for number, rest in left if rest]:
        for place, (number, rest) in enumerate(left, start=1):
            yield _Visit(number, rest.pop(), may_stop=anywhere or place == len(left))
        anywhere = len(order) < LEAST_FILES


def _answer(judge: Judge, visit: _Visit) -> Answer:
    excerpt = visit.excerpt
    bits, text_bytes = judge.bits(excerpt.text)
    line, filled = None, None
    if excerpt.position is not None and judge.writes:
        asked = excerpt.position
        line = judged(judge.next_line(asked.before), asked.line)
        middle = judge.middle(asked.before, asked.after)
        filled = None if middle is None else judged(middle, asked.line)
    return Answer(excerpt, visit.file, bits, text_bytes, line, filled)
