"""What can go wrong, as a caller would tell it apart.

    WeighError
    +- BadInput            what was asked or given is wrong (exit code 2)
    |  +- BadFile          a model file or config is damaged or not what it claims (path, offset)
    |  +- UnknownName      no such model, device, task or quantization (close names attached)
    |  +- NotSupported     a true model or setting that weigh does not handle yet
    |  +- Unreachable      what was asked for lies on a network that does not give it
    +- NotKept             what was measured cannot be stored (the file it was written to instead)
    +- EngineError         the engine failed (exit code 3)
       +- EngineMissing    no engine is installed
       +- EngineCrashed    the child process died or would not load the model
       +- EngineTimeout    it did not answer in time
       +- OutOfMemory      it hit the memory limit set on it
       +- NoSpace          the disk is too small for what has to be written

"It does not fit" and "unknown" are answers, not errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_LETTERS = 2000  # of a message; files and people can name things at any length


def _one_line(text: str) -> str:
    cut = text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def first_line(error: BaseException) -> str:
    """What another library's error says first; its kind, when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class WeighError(Exception):
    """Root of all errors weigh raises on purpose. `hint` says what to try, without naming a face.

    Messages quote files, paths and answers, so what a terminal would obey is escaped here, once for all.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = _one_line(message)
        self.hint = hint and _one_line(hint)
        super().__init__(self.message)


class BadInput(WeighError):
    """What was asked or given is wrong."""


class BadFile(BadInput):
    """A file is damaged or not what it claims to be."""

    def __init__(
        self, path: Path | str, problem: str, *, offset: int | None = None, hint: str | None = None
    ) -> None:
        where = f" at byte {offset}" if offset is not None else ""
        super().__init__(f"{path}: {problem}{where}", hint=hint)
        self.path = Path(path)
        self.offset = offset


class UnknownName(BadInput):
    """No such model, device, task or quantization."""

    def __init__(self, kind: str, name: str, *, close: Sequence[str] = (), hint: str | None = None):
        said = f"; did you mean {' or '.join(f'`{c}`' for c in close)}?" if close else ""
        super().__init__(f"unknown {kind} `{name}`{said}", hint=hint)
        self.name = name
        self.close = tuple(close)


class NotSupported(BadInput):
    """A true model or setting that weigh does not handle yet."""


class Unreachable(BadInput):
    """What was asked for lies on a network that does not give it: none there, no leave, or a strange answer."""


class NotKept(WeighError):
    """A measurement could not be stored.

    Attributes:
        path: the file it was written to instead, for import later; None when there was no room for one.
        document: its JSON form, as in that file.
    """

    def __init__(self, why: WeighError, path: Path | None, document: Mapping[str, Any]) -> None:
        said = (
            f"the measurement was written to {path} instead" if path else "the measurement is not on the disk"
        )
        later = f"{why.hint}, then import that file as your own" if path else why.hint
        super().__init__(f"{why.message}; {said}", hint=later)
        self.path, self.document = path, document


class EngineError(WeighError):
    """The engine failed."""


class EngineMissing(EngineError):
    """No engine is installed."""


class EngineCrashed(EngineError):
    """The child process died or refused the model."""


class EngineTimeout(EngineError):
    """The engine did not answer in the time allowed."""


class OutOfMemory(EngineError):
    """The engine hit the memory limit set on it."""


class NoSpace(EngineError):
    """The disk has too little room for the file to be written."""
