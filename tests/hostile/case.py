"""A file, folder or store that means harm or is merely odd, and what has to come of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One thing a stranger could hand over.

    Attributes:
        make: puts it into an empty folder and returns what a person would type as MODEL.
        says: pattern of the one line that refuses it; "" when it has to be accepted.
        shows: figures of an accepted one, by their keys in the JSON document (`parameters` the total).
        around: environment variables, `{}` in their values standing for the folder.
    """

    name: str
    make: Callable[[Path], str]
    says: str = ""
    shows: Mapping[str, object] = field(default_factory=dict)
    around: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        return not self.says


def written(
    name: str, data: bytes | Callable[[], bytes], *, size: int | None = None
) -> Callable[[Path], str]:
    """A file of these bytes, made when they are needed, followed by a hole up to `size`."""

    def make(folder: Path) -> str:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data())
        if size is not None:
            with path.open("r+b") as file:
                file.truncate(size)
        return str(path)

    return make


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def text(value: str | bytes) -> bytes:
    """A string as GGUF has it: its length, then its bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw
