"""Memory of a tree of processes: cheap to read often, and right where processes share pages.

The sum of what each process holds (`/proc/PID/status`, 20 microseconds each) counts a page twice that two of
them share, as after a fork: it is never too low for what cannot be dropped. Their fair shares (PSS, in
`smaps_rollup`) count it once, but take 10 ms for each GiB of 4 KiB pages, so they are read rarely and what
they take off the sum is kept until the next time. Source: Linux, Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from weigh.engines.process_memory import Resident
from weigh.machine import kernel_files
from weigh.monitor.processes import Process, Tree, is_alive, resident_of
from weigh.units import KIB

SHARE_OF_TIME = 0.002  # of one core, for reading fair shares
SHARE_WHEN_NEAR = 0.05  # when a limit hangs on it
_PRIVATE = ("Pss_Anon", "Pss_Shmem", "SwapPss")


class TreeMemory:
    """Looks at a tree and keeps the most it was seen to hold.

    Args:
        lazily: who belongs to it is looked up no more often than `SHARE_OF_TIME` allows, as for engines with
            hundreds of threads.

    Attributes:
        members: as of the last look.
        peak_private_bytes: of what cannot be dropped (heap, KV cache, pages in swap).
        peak_bytes: with mapped file pages.
    """

    def __init__(self, tree: Tree, *, lazily: bool = False) -> None:
        self._tree, self._lazily = tree, lazily
        self._members_at_s = 0.0
        self._shared = Resident()  # what the sum counts too often
        self._shared_by: tuple[Process, ...] = ()
        self._read_at_s = self._took_s = 0.0
        self.members: tuple[Process, ...] = ()
        self.peak_private_bytes = self.peak_bytes = 0

    def look(self, near_bytes: int | None = None) -> Resident:
        """Now; `near_bytes`: from how much private memory on a limit hangs on it, so that more care is due."""
        self.members = self._members_now()
        total = resident_of(self.members)
        if len(self.members) < 2:
            self._shared, self._shared_by = Resident(), self.members
            self.at_least(total.peak_bytes)
        else:
            near = near_bytes is not None and total.private_bytes - self._shared.private_bytes >= near_bytes
            if self._is_due(near=near):
                self._read_shares(total)
        private = max(0, total.private_bytes - self._shared.private_bytes)
        mapped = max(0, total.file_bytes - self._shared.file_bytes)
        self.peak_private_bytes = max(self.peak_private_bytes, private)
        self.at_least(private + mapped)
        return Resident(private, mapped, self.peak_bytes)

    def _members_now(self) -> tuple[Process, ...]:
        if self._lazily and time.monotonic() < self._members_at_s:
            return tuple(filter(is_alive, self.members))
        began_s = time.thread_time()
        members = self._tree.members()
        self._members_at_s = time.monotonic() + (time.thread_time() - began_s) / SHARE_OF_TIME
        return members

    def at_least(self, total_bytes: int) -> None:
        """The kernel's own peak of one process, which falls between two looks."""
        self.peak_bytes = max(self.peak_bytes, total_bytes)

    def _is_due(self, *, near: bool) -> bool:
        changed = self.members != self._shared_by
        share = SHARE_WHEN_NEAR if near else SHARE_OF_TIME
        return (changed and near) or time.monotonic() - self._read_at_s >= self._took_s / share

    def _read_shares(self, total: Resident) -> None:
        began_s = time.thread_time()
        fair = fair_shares(self.members)
        self._took_s, self._read_at_s = time.thread_time() - began_s, time.monotonic()
        self._shared_by = self.members
        if fair is not None:
            private = max(0, total.private_bytes - fair.private_bytes)
            self._shared = Resident(private, max(0, total.file_bytes - fair.file_bytes))


def fair_shares(members: Sequence[Process]) -> Resident | None:
    """Each page divided among those that have it; None where one of them may not be asked."""
    if sys.platform != "linux":
        return None
    found = Resident()
    for process in members:
        table = kernel_files.table(Path(f"/proc/{process.pid}/smaps_rollup"))
        if not all(name in table for name in _PRIVATE):
            return None
        private = sum(table[name] for name in _PRIVATE) * KIB
        found += Resident(private, table.get("Pss_File", 0) * KIB)
    return found
