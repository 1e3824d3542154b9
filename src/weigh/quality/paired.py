"""Is A better than B on this text: differences on the same pieces of it, and an honest rule for stopping early.

Two models are compared where they have read the same bytes, so that what is hard for both drops out. Whoever looks
after every file and stops as soon as a usual 95 % interval lies off nought is wrong far more often than one time in
twenty. The bound here is wider and holds however often one looks, and whenever one stops.

Source: the bound is the anytime-valid t-test with a normal mixture over the effect size and the right Haar prior over
the spread: Gönen et al. 2005, The Bayesian two-sample t test, for the Bayes factor; Hendriksen, de Heide & Grünwald
2021, Optional stopping with Bayes factors, for its validity at any time. It is exact for normal differences, and
tests/quality/test_paired.py shows how often it errs on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weigh.quality.clustered import Ratio, ratio, ratio_within, student_t, summed

STATED = 0.95  # confidence of "A is better than B"
SHOWN = 0.8  # of the interval shown with every figure
LEAST_FILES = 8  # with fewer, pieces of files are taken for independent, and it is said
LEAST_UNITS = 40  # before one may stop: of skewed differences fewer are wrong too often
_Place = tuple[int, int, int]  # file, part, block
_EFFECT_VARIANCE = 1.0  # of the mixture, in squares of the differences' own spread


@dataclass(frozen=True, slots=True)
class Piece:
    """What one model needs for a piece of text: `bits` for its `text_bytes`.

    `file`, the file's `part` and the part's `block` say where it lies.
    """

    file: int
    part: int
    block: int
    bits: float
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Bits per byte of one model less those of another, on the text that both have read.

    Attributes:
        shown: with the 80 % interval.
        stated: with the 95 % interval on which `better` rests.
        any_time: whether that interval holds however often it was looked at, so that it may end the comparison.
        by_file: whether the files are the independent units; else pieces of them.
    """

    shown: Ratio
    stated: Ratio
    text_bytes: int
    any_time: bool
    by_file: bool

    @property
    def decided(self) -> bool:
        return self.stated.low > 0 or self.stated.high < 0

    @property
    def better(self) -> int | None:
        """0 for the first model, 1 for the second, which needs fewer bits; None when it cannot be said."""
        if not self.decided:
            return None
        return 0 if self.stated.high < 0 else 1


def difference(
    first: Sequence[Piece], second: Sequence[Piece], *, by_file: bool, any_time: bool
) -> Difference | None:
    """Compare two models on the pieces that both have; None when there are none.

    A part of which one model has only the whole is compared as a whole.

    Args:
        by_file: whether files are the independent units; to be settled before anything is read, by how many
            files there are (`LEAST_FILES`).
        any_time: whether the comparison may be stopped by what it shows. Below `LEAST_UNITS` units nothing stops
            it, so that the usual interval holds when it ends there.
    """
    one, other = _by_place(first), _by_place(second)
    cut_differently = {place[:2] for place in one.keys() ^ other.keys()}
    one, other = _with_whole_parts(one, cut_differently), _with_whole_parts(other, cut_differently)
    places = [place for place in one if place in other]
    if not places:
        return None
    bits = [one[place].bits - other[place].bits for place in places]
    sizes = [float(one[place].text_bytes) for place in places]
    return of_differences(bits, sizes, [place[0] for place in places], by_file=by_file, any_time=any_time)


def of_differences(
    amounts: Sequence[float], sizes: Sequence[float], files: Sequence[int], *, by_file: bool, any_time: bool
) -> Difference:
    """The same of differences that are known, each with the size it is of and the file it lies in."""
    if by_file:
        amounts, sizes = summed(amounts, files), summed(sizes, files)
    units = len(amounts)
    any_time = any_time and units >= LEAST_UNITS
    bound = any_time_t(units, STATED) if any_time else student_t(STATED, units - 1)
    return Difference(
        shown=ratio(amounts, sizes, SHOWN),
        stated=ratio_within(amounts, sizes, bound),
        text_bytes=round(sum(sizes)),
        any_time=any_time,
        by_file=by_file,
    )


def _by_place(pieces: Sequence[Piece]) -> dict[_Place, Piece]:
    return {(piece.file, piece.part, piece.block): piece for piece in pieces}


def _with_whole_parts(pieces: dict[_Place, Piece], parts: set[tuple[int, int]]) -> dict[_Place, Piece]:
    """Put these parts together again."""
    made: dict[_Place, Piece] = {}
    for (file, part, block), piece in pieces.items():
        place = (file, part, -1) if (file, part) in parts else (file, part, block)
        before = made.get(place, Piece(*place, 0.0, 0))
        made[place] = Piece(*place, before.bits + piece.bits, before.text_bytes + piece.text_bytes)
    return made


def any_time_t(count: int, confidence: float = STATED) -> float:
    """The bound on the t statistic of `count` differences that holds at all counts together; infinite for too few.

    From BF = (1 + n v)^-1/2 ((1 + t²/f) / (1 + t²/(f (1 + n v))))^(n/2), with n = `count`, f = n - 1 and v the
    mixture's variance, at BF = 1 / (1 - confidence).
    """
    spread = 1 + count * _EFFECT_VARIANCE
    factor = (math.sqrt(spread) / (1 - confidence)) ** (2 / count)
    if factor >= spread:
        return math.inf
    return math.sqrt((count - 1) * (factor - 1) / (1 - factor / spread))
