"""Bytes of a model file wherever they lie: readers ask for stretches, so that a header costs its own length."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from weigh.errors import BadFile


class Source(Protocol):
    """A file that can be read in stretches: on this machine, or at the other end of ranged requests.

    Attributes:
        path: what messages call it; only a name when it is remote.
        size_bytes: of the whole file.
    """

    path: Path
    size_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end; raises BadFile when they cannot be had."""
        ...


class Files(Protocol):
    """Where a file and those that belong to it are looked up: this machine's folders, or a repository."""

    def exists(self, path: Path) -> bool: ...

    def open(self, path: Path) -> AbstractContextManager[Source]:
        """The file, for as long as it is read; raises BadFile when it cannot be had."""
        ...


class LocalFile:
    """A regular file, open while in use; pipes, devices and folders are refused before they are opened."""

    def __init__(self, path: Path, *, kind: str = "model file") -> None:
        self.path, self._kind = path, kind
        self.size_bytes = 0

    def __enter__(self) -> Self:
        try:
            self.size_bytes = self._regular_bytes()
            # a pipe put in the file's place meanwhile must not make us wait
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such path can be"
            raise BadFile(self.path, f"cannot be read ({reason})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _regular_bytes(self) -> int:
        info = self.path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise BadFile(self.path, f"is a folder, not a {self._kind}")
        if not stat.S_ISREG(info.st_mode):
            raise BadFile(self.path, "is a pipe or a device, not a file")
        return info.st_size

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise BadFile(self.path, f"cannot be read ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files of this machine; `kind` is what messages expected them to be."""

    kind: str = "model file"

    def exists(self, path: Path) -> bool:
        return path.exists()

    def open(self, path: Path) -> LocalFile:
        return LocalFile(path, kind=self.kind)
