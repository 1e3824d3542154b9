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
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, pairwise
from typing import Protocol

from weigh.errors import WeighError
from weigh.figure import Basis, Figure
from weigh.quality.clustered import Ratio, ratio, ratio_within, student_t, summed
from weigh.quality.completion import Written, judged
from weigh.quality.excerpts import Excerpt, excerpts
from weigh.quality.paired import LEAST_FILES, LEAST_UNITS, SHOWN, STATED, any_time_t
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


class Quantity(StrEnum):
    """What is measured; of the first less is better, of the others more."""

    BITS_PER_BYTE = "bits_per_byte"
    NEXT_LINE_EXACT = "next_line_exact"
    NEXT_LINE_SIMILARITY = "next_line_similarity"
    MIDDLE_EXACT = "middle_exact"
    MIDDLE_SIMILARITY = "middle_similarity"

    @property
    def unit(self) -> str:
        return "bits/byte" if self is Quantity.BITS_PER_BYTE else "share"

    @property
    def less_is_better(self) -> bool:
        return self is Quantity.BITS_PER_BYTE


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
class Answer:
    """One model on one excerpt; the lines are None where it was not asked, or has no tokens for it."""

    excerpt: Excerpt
    file: int
    bits: float
    text_bytes: int
    next_line: Written | None
    middle: Written | None

    def amount(self, quantity: Quantity) -> tuple[float, float] | None:
        """What it adds to a ratio: amount and size."""
        if quantity is Quantity.BITS_PER_BYTE:
            return (self.bits, float(self.text_bytes)) if self.text_bytes else None
        written = (
            self.next_line
            if quantity in (Quantity.NEXT_LINE_EXACT, Quantity.NEXT_LINE_SIMILARITY)
            else self.middle
        )
        if written is None:
            return None
        exact = quantity in (Quantity.NEXT_LINE_EXACT, Quantity.MIDDLE_EXACT)
        return float(written.exact) if exact else written.similarity, 1.0


@dataclass(frozen=True, slots=True)
class ModelOnCode:
    """A model's answers in the order of the excerpts, and what they come to.

    Attributes:
        figures: None where the model cannot be asked for it.
        lines: it was asked for.
    """

    name: str
    answers: tuple[Answer, ...]

    @property
    def figures(self) -> dict[Quantity, Figure | None]:
        return {quantity: _figure(self.answers, quantity) for quantity in Quantity}

    @property
    def files(self) -> int:
        return len({answer.file for answer in self.answers})

    @property
    def lines(self) -> int:
        return sum(answer.next_line is not None for answer in self.answers)

    @property
    def text_bytes(self) -> int:
        return sum(answer.text_bytes for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Pair:
    """One model less another on the same excerpts.

    Attributes:
        difference: of the first less the second, with its 80 % interval.
        better: the index of the better model, where that is sure at 95 % however often one has looked.
        files: that both have read.
        may_stop: whether there are enough of them, or of excerpts where files are few, for `better` to end it.
    """

    first: int
    second: int
    quantity: Quantity
    difference: Figure
    better: int | None
    files: int
    may_stop: bool


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
        return _ranking([model.answers for model in self.models])

    def pair(self, first: int, second: int, quantity: Quantity) -> Pair | None:
        """The comparison of two models, whichever way round."""
        found = (
            {one.first, one.second} == {first, second} and one.quantity is quantity for one in self.pairs
        )
        return next((one for one, hit in zip(self.pairs, found, strict=True) if hit), None)


@dataclass
class _Run:
    chosen: HeldOut
    seed: int
    budget: Budget
    progress: Progress
    answers: list[list[Answer]]
    names: list[str]
    any_time: bool  # whether it may be stopped by what it shows
    started_s: float = field(default_factory=time.monotonic)

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
        pairs = tuple(_pairs(self.answers, any_time=self.any_time))
        return OwnCode(self.chosen, models, self.seed, self.took_s, ended, pairs, error)


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
            else they come one after another, on the excerpts that the first had time for.

    Raises:
        WeighError: a model does not load, or fails before there is anything to show.
    """
    names = [name for name, _ in openers]
    run = _Run(chosen, seed, budget, progress, [[] for _ in openers], names, any_time=together)
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
            if len(judges) > 1 and visit.may_stop and _is_clear(run.answers):
                return Ended.CLEAR
            if run.spent:
                return Ended.BUDGET
    return Ended.ALL_READ


def _one_by_one(run: _Run, openers: Sequence[Opener]) -> Ended:
    share_s = run.budget.seconds / len(openers)
    ended = Ended.ALL_READ
    visits = list(_visits(run.chosen, run.seed))
    for number, opener in enumerate(openers):
        with opener() as judge:
            own, started_s = run.answers[number], time.monotonic()
            for count, visit in enumerate(visits, start=1):
                run.tell(f"{judge.name}, excerpt {count} of {len(visits)}")
                own.append(_answer(judge, visit))
                read_bytes = sum(answer.text_bytes for answer in own)
                spent = time.monotonic() - started_s >= share_s or read_bytes >= run.budget.text_bytes
                if number == 0 and spent:
                    ended = Ended.BUDGET
                    break
        visits = visits[: len(run.answers[0])]
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


# --- what the answers come to --------------------------------------------------------------------------


def _is_clear(answers: Sequence[Sequence[Answer]]) -> bool:
    order = _ranking(answers)
    found = (
        _pair(answers, one, other, Quantity.BITS_PER_BYTE, any_time=True) for one, other in pairwise(order)
    )
    return all(pair is not None and pair.may_stop and pair.better is not None for pair in found)


def _ranking(answers: Sequence[Sequence[Answer]]) -> tuple[int, ...]:
    def bits_per_byte(model: int) -> float:
        text_bytes = sum(answer.text_bytes for answer in answers[model])
        return sum(answer.bits for answer in answers[model]) / text_bytes if text_bytes else math.inf

    return tuple(sorted(range(len(answers)), key=bits_per_byte))


def _pairs(answers: Sequence[Sequence[Answer]], *, any_time: bool) -> Iterator[Pair]:
    for first, second in combinations(range(len(answers)), 2):
        for quantity in Quantity:
            found = _pair(answers, first, second, quantity, any_time=any_time)
            if found is not None:
                yield found


def _pair(
    answers: Sequence[Sequence[Answer]], first: int, second: int, quantity: Quantity, *, any_time: bool
) -> Pair | None:
    """None where there is nothing that both have answered."""
    amounts, sizes, files = [], [], []
    for one, other in zip(answers[first], answers[second], strict=False):
        mine, theirs = one.amount(quantity), other.amount(quantity)
        if mine is None or theirs is None or mine[1] != theirs[1]:
            continue
        amounts.append(mine[0] - theirs[0])
        sizes.append(mine[1])
        files.append(one.file)
    if not amounts:
        return None
    amounts, sizes = _clustered(amounts, sizes, files)
    units = len(amounts)
    may_stop = any_time and units >= LEAST_UNITS  # before that nothing stops it, and the usual interval holds
    shown = ratio(amounts, sizes, SHOWN)
    stated = ratio_within(amounts, sizes, any_time_t(units) if may_stop else student_t(STATED, units - 1))
    lower = None if stated.low <= 0 <= stated.high else stated.high < 0
    better = None if lower is None else first if lower == quantity.less_is_better else second
    figure = Figure(shown.value, shown.low, shown.high, quantity.unit, Basis.MEASURED)
    return Pair(first, second, quantity, figure, better, len(set(files)), may_stop)


def _clustered(amounts: list[float], sizes: list[float], files: list[int]) -> tuple[list[float], list[float]]:
    """By file, since excerpts of one file are alike; where files are few, excerpts have to do."""
    if len(set(files)) < LEAST_FILES:
        return amounts, sizes
    return summed(amounts, files), summed(sizes, files)


def _figure(answers: Sequence[Answer], quantity: Quantity) -> Figure | None:
    found = [(one.amount(quantity), one.file) for one in answers]
    known = [(amount, file) for amount, file in found if amount is not None]
    if not known:
        return None
    amounts, sizes = [amount for (amount, _), _ in known], [size for (_, size), _ in known]
    amounts, sizes = _clustered(amounts, sizes, [file for _, file in known])
    made = ratio(amounts, sizes, SHOWN)
    low, high = made.low, made.high
    if quantity is not Quantity.BITS_PER_BYTE:
        low, high = _of_a_share(made, amounts, sizes)
    return Figure(made.value, max(0.0, low), high, quantity.unit, Basis.MEASURED)


def _of_a_share(made: Ratio, amounts: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """Wilson's interval, for as many independent draws as the spread between clusters is worth.

    Source: Wilson 1927, Probable inference, J. Am. Stat. Assoc. 22; it holds near 0 and 1, where others collapse.
    """
    share, clusters = made.value, made.clusters
    off = [amount - share * size for amount, size in zip(amounts, sizes, strict=True)]
    variance = sum(one * one for one in off) / sum(sizes) ** 2
    draws = share * (1 - share) / variance if variance > 0 else float(clusters)
    t2 = student_t(SHOWN, max(1, clusters - 1)) ** 2
    centre = (share + t2 / (2 * draws)) / (1 + t2 / draws)
    half = math.sqrt(t2 * share * (1 - share) / draws + (t2 / (2 * draws)) ** 2) / (1 + t2 / draws)
    return max(0.0, centre - half), min(1.0, centre + half)
