"""The disk that holds models: room on it, and how fast a real file is read from it.

Load time depends on whether the file is already in the page cache, by a factor of ten and more, so the two
rates are told apart, and parts that did not leave the cache are not called cold.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from pathlib import Path

from weigh.figure import Figure
from weigh.machine import page_cache
from weigh.machine.machine import Disk
from weigh.machine.samples import measured_rate
from weigh.units import MIB

_SEGMENT_BYTES = 32 * MIB
_SEGMENTS = 8
_CHUNK_BYTES = 4 * MIB
_BUDGET_S = 2.0
_SMALLEST_BYTES = 4 * MIB


def models_folder() -> Path:
    """Where weigh keeps models unless told otherwise: the user's cache folder."""
    import platformdirs

    return platformdirs.user_cache_path("weigh")


def read_disk(models_dir: Path | None = None) -> Disk:
    """Room at `models_dir`, asked at its nearest folder that exists.

    A drive of which nothing exists has no room: 0 bytes.
    """
    path = (models_dir or models_folder()).expanduser().absolute()
    for folder in (path, *path.parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        return Disk(path, free_bytes=usage.free, total_bytes=usage.total)
    return Disk(path, free_bytes=0, total_bytes=0)


def measure_read_rate(path: Path, *, cached: bool = False) -> Figure | None:
    """Bytes/s at which a real file is read: from the disk, or with `cached` from the page cache.

    Reads up to eight stretches of 32 MiB spread over the file, for at most about 2 s; the figure is their
    median. The cold rate drops the file from the page cache first (the file itself is not changed); a host
    under a virtual machine may still hold it, which no guest can see. The engine maps files instead
    of reading them, which on most systems is no faster.

    Returns:
        None when the file is too small to say anything (under 4 MiB), cannot be read, or, for the cold
        rate, when its pages did not leave the cache or the system cannot say whether they did.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return _read_rate(file.fileno(), cached=cached)
    except OSError:
        return None


def _read_rate(file: int, *, cached: bool) -> Figure | None:
    size = os.fstat(file).st_size
    if size < _SMALLEST_BYTES:
        return None
    if cached:
        _rates(file, size)  # whatever was cold comes in
    elif not _dropped(file, size):
        return None
    where = "page cache" if cached else "page cache dropped first"
    return measured_rate(_rates(file, size), f"read of a real file, {where}")


def _stretches(size_bytes: int) -> list[tuple[int, int]]:
    """(offset, bytes) of up to eight stretches spread evenly over the file, page-aligned."""
    count = max(1, min(_SEGMENTS, size_bytes // _SEGMENT_BYTES))
    length = min(_SEGMENT_BYTES, size_bytes)
    step = (size_bytes - length) // max(1, count - 1)
    return [
        (i * step // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY, length) for i in range(count)
    ]


def _rates(file: int, size_bytes: int) -> list[float]:
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    deadline = time.perf_counter() + _BUDGET_S
    rates: list[float] = []
    for offset, length in _stretches(size_bytes):
        if rates and time.perf_counter() > deadline:
            break
        rates.append(_stretch_rate(file, offset, length, buffer))
    return rates


def _stretch_rate(file: int, offset: int, length: int, buffer: memoryview) -> float:
    os.lseek(file, offset, os.SEEK_SET)
    start, done = time.perf_counter(), 0
    while done < length:
        got = os.readv(file, [buffer[: length - done]])
        if got == 0:
            break
        done += got
    return done / (time.perf_counter() - start)


def _dropped(file: int, size_bytes: int) -> bool:
    """Ask the kernel to drop the file's clean pages; whether they went (False where that is unknown)."""
    if not page_cache.drop(file):
        return False
    return page_cache.is_cold(
        [page_cache.resident_fraction(file, offset, length) for offset, length in _stretches(size_bytes)]
    )
