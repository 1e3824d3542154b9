"""What every session, server and answer here has in common: a `with` block closes it."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Self


class ClosedAfterUse:
    """Used in a `with` block, or closed by hand."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; harmless when that is done already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
