"""Memory of one process, read often enough to catch peaks and cheaply enough not to disturb.

`/proc/PID/status` costs some 50 microseconds. `smaps_rollup` would be a little more exact and walks every
page of the process, which for a model of 20 GB takes longer than a token; hence not here.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes in memory now, and the highest total since the start as far as the kernel keeps it."""

    private_bytes: int = 0
    file_bytes: int = 0
    peak_bytes: int = 0

    def __add__(self, other: Resident) -> Resident:
        return Resident(
            self.private_bytes + other.private_bytes,
            self.file_bytes + other.file_bytes,
            self.peak_bytes + other.peak_bytes,
        )


def resident(pid: int) -> Resident:
    """Memory of one process; zeros when it is gone."""
    if sys.platform != "linux":
        return _resident_elsewhere(pid)
    fields = dict.fromkeys(("RssAnon", "RssShmem", "VmSwap", "RssFile", "VmHWM"), 0)
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in fields:
                fields[key] = int(value.split()[0]) * 1024
    private_bytes = fields["RssAnon"] + fields["RssShmem"] + fields["VmSwap"]
    return Resident(private_bytes, fields["RssFile"], fields["VmHWM"])


def _resident_elsewhere(pid: int) -> Resident:
    """All of it counts as private where the system does not tell file pages apart."""
    import psutil

    with contextlib.suppress(psutil.Error):
        total: int = psutil.Process(pid).memory_info().rss
        return Resident(total, 0, total)
    return Resident()
