"""Two kept quality results held against each other on the pieces that both have: what is hard for both drops out.

They may have been measured on different days. What pairs them: of a text its digest and the place in it, of a
repository the digest of an excerpt, of a divergence the reference and the window, of tasks the task and its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weigh.figure import Basis, Figure
from weigh.quality.clustered import ratio, ratio_within, student_t
from weigh.quality.paired import LEAST_FILES, STATED, Difference, Piece, difference
from weigh.quality.tasks.passing import Outcome
from weigh.quality.tasks.passing import difference as outcomes_difference
from weigh.store.fields import Scalar
from weigh.store.quality_result import QualityResult, Way

_ASKED = ("style", "temperature", "max_tokens")  # settings of tasks that have to agree


@dataclass(frozen=True, slots=True)
class Gap:
    """How the second of two results differs from the first.

    Attributes:
        difference: the second less the first, with its 80 % interval: bits per byte, nats, or a share of tasks.
        better: 0 or 1, where the difference is sure at 95 %.
        count: bytes that both have read, windows, or tasks.
    """

    difference: Figure
    better: int | None
    count: int


def gap(first: QualityResult, second: QualityResult) -> Gap | None:
    """None where they have nothing in common, or too little for an interval."""
    if first.way is not second.way:
        return None
    match first.way:
        case Way.TEXT if first.material.digest and first.material.digest == second.material.digest:
            return _of_bits(_text_difference(first, second))
        case Way.REPOSITORY:
            return _of_bits(code_difference(first, second))
        case Way.DIVERGENCE:
            return _of_divergence(first, second)
        case Way.TASKS:
            return _of_tasks(first, second)
        case _:
            return None


def outcomes(result: QualityResult) -> dict[str, Outcome]:
    """Of a result of tasks, by task and what it was at that time; a row that cannot be is left out."""
    found = {}
    for name, version, need, *counts in result.pieces:
        if not all(isinstance(count, int) for count in counts):
            continue
        difficulty, samples, passed = (int(count or 0) for count in counts)
        if 0 <= passed <= samples and samples:
            found[f"{name} {version}"] = Outcome(f"{name} {version}", str(need), difficulty, samples, passed)
    return found


def code_difference(first: QualityResult, second: QualityResult) -> Difference | None:
    """Bits per byte of the first less those of the second, on the excerpts of a repository that both have read."""
    numbers: dict[Scalar, tuple[int, int]] = {}  # of each excerpt: the first's file, and a number of its own
    for excerpt, file, *_ in first.pieces:
        if isinstance(file, int):
            numbers.setdefault(excerpt, (file, len(numbers)))
    files = {numbers[excerpt][0] for excerpt, *_ in second.pieces if excerpt in numbers}
    mine, theirs = (_excerpts(one, numbers) for one in (first, second))
    return difference(mine, theirs, by_file=len(files) >= LEAST_FILES, any_time=True)


def _excerpts(one: QualityResult, numbers: Mapping[Scalar, tuple[int, int]]) -> list[Piece]:
    found = []
    for excerpt, _, bits, size, *_ in one.pieces:
        if excerpt in numbers and isinstance(bits, int | float) and isinstance(size, int) and size > 0:
            found.append(Piece(*numbers[excerpt], 0, float(bits), size))
    return found


def _text_difference(first: QualityResult, second: QualityResult) -> Difference | None:
    mine, theirs = (_blocks(one) for one in (first, second))
    files = {piece.file for piece in mine} & {piece.file for piece in theirs}
    return difference(mine, theirs, by_file=len(files) >= LEAST_FILES, any_time=True)


def _blocks(one: QualityResult) -> list[Piece]:
    found = []
    for *place, bits, size in one.pieces:
        if (
            all(isinstance(number, int) for number in place)
            and isinstance(bits, int | float)
            and isinstance(size, int)
            and size > 0
        ):
            file, part, block = (int(number or 0) for number in place)
            found.append(Piece(file, part, block, float(bits), size))
    return found


def _of_bits(found: Difference | None) -> Gap | None:
    """Turned round: the second less the first."""
    if found is None or not found.shown.bounded:
        return None
    shown = found.shown
    figure = Figure(-shown.value, -shown.high, -shown.low, "bits/byte", Basis.MEASURED)
    return Gap(figure, found.better, found.text_bytes)


def _of_divergence(first: QualityResult, second: QualityResult) -> Gap | None:
    one, other = first.reference, second.reference
    if one is None or other is None or not one.fingerprint or one.fingerprint != other.fingerprint:
        return None
    if not first.material.digest or first.material.digest != second.material.digest:
        return None
    moved, tokens = [], []
    for (size, mine, *_), (their_size, theirs, *_) in zip(first.pieces, second.pieces, strict=False):
        if not isinstance(size, int) or size <= 0 or size != their_size:
            return None
        if isinstance(mine, int | float) and isinstance(theirs, int | float):
            moved.append(float(theirs) - float(mine))
            tokens.append(float(size))
    if len(moved) < 2:
        return None
    shown, stated = ratio(moved, tokens), ratio_within(moved, tokens, student_t(STATED, len(moved) - 1))
    if not shown.bounded:
        return None
    better = None if stated.low <= 0 <= stated.high else int(stated.high < 0)
    return Gap(Figure(shown.value, shown.low, shown.high, "nats", Basis.MEASURED), better, len(moved))


def _of_tasks(first: QualityResult, second: QualityResult) -> Gap | None:
    if any(first.material.settings.get(name) != second.material.settings.get(name) for name in _ASKED):
        return None
    mine, theirs = (list(outcomes(one).values()) for one in (first, second))
    found = outcomes_difference(theirs, mine)
    if found is None:
        return None
    return Gap(found.figure, None if found.better is None else 1 - found.better, found.tasks)
