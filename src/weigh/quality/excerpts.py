"""Excerpts of held-out files, and the line of each that a model is asked for: drawn by a seed, the same for all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from weigh.quality.repository import SourceFile

# Short, because many files tell more than much of a few: a processor reads some ten to hundreds of tokens a second.
EXCERPT_BYTES = 1024
PREFIX_BYTES, SUFFIX_BYTES = 1024, 384  # of the file, around the line
LEAST_PREFIX_BYTES = 128
LONGEST_LINE = 120  # characters


@dataclass(frozen=True, slots=True)
class Position:
    """A line of a file, with what stands around it.

    Attributes:
        number: of the line, from 1.
        before: whole lines with their newlines; `line` has none, and `after` begins with the one behind it.
    """

    path: str
    number: int
    before: str
    line: str
    after: str


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some lines of a file, and one of them that a model is asked for; None where none can be asked for."""

    path: str
    text: str
    position: Position | None


def excerpts(file: SourceFile, seed: int) -> list[Excerpt]:
    """The file cut into runs of whole lines of up to `EXCERPT_BYTES`, in an order drawn by `seed`.

    In each a line is drawn among those that hold a letter or digit, are no comment alone, are not too long and
    have some text before them.
    """
    draw = random.Random(f"{seed} {file.text}")
    lines = file.text.split("\n")
    found = []
    for first, end in _runs(lines):
        numbers = [number for number in range(first, end) if _can_be_asked(file, lines, number)]
        draw.shuffle(numbers)
        around = (_position(file, lines, number) for number in numbers)
        position = next(
            (one for one in around if len(one.before.strip().encode()) >= LEAST_PREFIX_BYTES), None
        )
        found.append(Excerpt(file.path, "".join(line + "\n" for line in lines[first:end]), position))
    draw.shuffle(found)
    return found


def _runs(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First line and the one behind the last of each run; what follows the last newline is no whole line."""
    first, size_bytes = 0, 0
    for number, line in enumerate(lines[:-1]):
        line_bytes = len(line.encode()) + 1
        if number > first and size_bytes + line_bytes > EXCERPT_BYTES:
            yield first, number
            first, size_bytes = number, 0
        size_bytes += line_bytes
    if size_bytes >= LEAST_PREFIX_BYTES:
        yield first, len(lines) - 1


def _can_be_asked(file: SourceFile, lines: Sequence[str], number: int) -> bool:
    line = lines[number]
    plain = any(letter.isalnum() for letter in line) and not file.language.is_comment(line)
    return plain and len(line) <= LONGEST_LINE


def _position(file: SourceFile, lines: Sequence[str], number: int) -> Position:
    before, size_bytes = [], 0
    for line in reversed(lines[:number]):
        size_bytes += len(line.encode()) + 1
        if size_bytes > PREFIX_BYTES:
            break
        before.append(line + "\n")
    after = "\n" + "\n".join(lines[number + 1 :])
    return Position(
        file.path,
        number + 1,
        "".join(reversed(before)),
        lines[number],
        after.encode()[:SUFFIX_BYTES].decode(errors="ignore"),
    )
