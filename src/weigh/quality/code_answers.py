"""What models' answers on the same excerpts come to: figures of each, differences of every two, with intervals.

Files are the independent units: excerpts of one file are alike. See `clustered.py` and `paired.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

from weigh.figure import Basis, Figure
from weigh.quality.clustered import Ratio, ratio, student_t, summed
from weigh.quality.completion import Written
from weigh.quality.excerpts import Excerpt
from weigh.quality.paired import LEAST_FILES, SHOWN, of_differences


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


def is_clear(answers: Sequence[Sequence[Answer]]) -> bool:
    """Whether the order of the models by bits per byte is sure, each against the next."""
    order = ranked(answers)
    found = (
        _pair(answers, one, other, Quantity.BITS_PER_BYTE, any_time=True) for one, other in pairwise(order)
    )
    return all(pair is not None and pair.may_stop and pair.better is not None for pair in found)


def ranked(answers: Sequence[Sequence[Answer]]) -> tuple[int, ...]:
    """Models by bits per byte, the best first; those without an answer last."""

    def bits_per_byte(model: int) -> float:
        text_bytes = sum(answer.text_bytes for answer in answers[model])
        return sum(answer.bits for answer in answers[model]) / text_bytes if text_bytes else math.inf

    return tuple(sorted(range(len(answers)), key=bits_per_byte))


def pairs(answers: Sequence[Sequence[Answer]], *, any_time: bool) -> Iterator[Pair]:
    """Every two models in every quantity that both have; `any_time`: it may have been stopped by what it showed."""
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
    count = len(set(files))
    found = of_differences(amounts, sizes, files, by_file=count >= LEAST_FILES, any_time=any_time)
    better = None
    if found.decided:
        better = first if (found.stated.high < 0) == quantity.less_is_better else second
    figure = Figure(found.shown.value, found.shown.low, found.shown.high, quantity.unit, Basis.MEASURED)
    return Pair(first, second, quantity, figure, better, count, found.any_time)


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
