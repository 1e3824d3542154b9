"""Which pages of a file are in memory, and how to make them leave.

Asking the kernel to drop a file from its cache is only a request: pages that are dirty, on a memory disk, or
mapped by a running engine stay. So residency is looked up again after asking (mincore). A host under a virtual
machine may still hold the file, which no guest can see.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

_STILL_COLD_FRACTION = 0.02
_WINDOW_BYTES = 1 << 30  # mapped at once when a whole file is asked about


def drop(file: int) -> bool:
    """Ask for the pages of an open file to leave; False where the system knows no such request."""
    if not hasattr(os, "posix_fadvise"):  # macOS, Windows
        return False
    os.fsync(file)  # dirty pages are not dropped
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def is_cold(fractions: Sequence[float]) -> bool:
    """Whether parts of a file with these shares in memory count as not cached."""
    return max(fractions, default=1.0) <= _STILL_COLD_FRACTION


def resident_fraction(file: int, offset: int, length: int) -> float:
    """Share of the stretch's pages in memory, by mincore(2); 1.0 when the system does not say.

    Since Linux 5.2 mincore answers `all` for a file that the caller neither owns nor may write.

    Args:
        offset: a multiple of `mmap.ALLOCATIONGRANULARITY`.
    """
    if os.name != "posix":
        return 1.0
    pages = -(-length // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    # A private writable mapping of a read-only file is allowed, and gives ctypes an address to pass.
    with mmap.mmap(
        file, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
    ) as view:
        first = ctypes.c_char.from_buffer(view)
        libc = ctypes.CDLL(None)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), states)
        del first
    return 1.0 if failed else bytes(states).translate(_FIRST_BIT).count(1) / pages


_FIRST_BIT = bytes(value & 1 for value in range(256))


def make_cold(paths: Sequence[Path]) -> bool:
    """Drop the files' pages; whether they really went. False where that cannot be told."""
    return all(_dropped(path) for path in paths)


def cached_bytes(paths: Sequence[Path]) -> int | None:
    """Bytes of the files that are in memory; None where a file cannot be asked about."""
    try:
        return round(sum(_cached_bytes(path) for path in paths))
    except (OSError, ValueError):
        return None


def read_through(paths: Sequence[Path]) -> None:
    """Bring the files into memory, as far as there is room.

    Raises:
        OSError: a file cannot be read.
    """
    buffer = bytearray(4 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _dropped(path: Path) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return drop(file.fileno()) and is_cold(
                [resident_fraction(file.fileno(), offset, length) for offset, length in _windows(size)]
            )
    except (OSError, ValueError):
        return False


def _cached_bytes(path: Path) -> float:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return sum(
            resident_fraction(file.fileno(), offset, length) * length for offset, length in _windows(size)
        )


def _windows(size_bytes: int) -> list[tuple[int, int]]:
    """(offset, bytes) of stretches that make up the whole file."""
    return [(at, min(_WINDOW_BYTES, size_bytes - at)) for at in range(0, size_bytes, _WINDOW_BYTES)]
