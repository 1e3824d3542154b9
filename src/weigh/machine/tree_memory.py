"""Memory of a tree of processes: cheap to read often, and right where processes share pages.

The sum of what each process holds (`/proc/PID/status`, 20 microseconds each) counts a page twice that two of
them share, as after a fork or of a library both have loaded. Their fair shares (PSS, in `smaps_rollup`) count
it once, but take 10 ms for each GiB of 4 KiB pages, so they are read rarely, and what they take off the sum is
kept until the next time. A sum that was the highest between two such readings is told less the larger of what
the two took off: processes begin to share while they start, before they hold the most. Source: Linux,
Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from weigh.machine import kernel_files
from weigh.machine.process_memory import Resident, resident
from weigh.machine.processes import Process, Tree, is_alive
from weigh.units import KIB

SHARE_OF_TIME = 0.002  # of one core, for reading fair shares
SHARE_WHEN_NEAR = 0.05  # when something hangs on it
_PRIVATE = ("Pss_Anon", "Pss_Shmem", "SwapPss")


class TreeMemory:
    """Looks at a tree and keeps the most it was seen to hold.

    Args:
        lazily: who belongs to it is looked up no more often than `SHARE_OF_TIME` allows, as for engines with
            hundreds of threads.

    Attributes:
        members: as of the last look.
    """

    def __init__(self, tree: Tree, *, lazily: bool = False) -> None:
        self._tree, self._lazily = tree, lazily
        self._members_at_s = 0.0
        self._shared = Resident()  # what the sum counts too often
        self._shared_by: tuple[Process, ...] = ()
        self._read_at_s = self._took_s = 0.0
        self._peak = Resident()  # where shares are known; `peak_bytes` of both kinds together, as below
        self._highest = Resident()  # of the sums since
        self.members: tuple[Process, ...] = ()

    @property
    def peak_private_bytes(self) -> int:
        """Of what cannot be dropped: heap, KV cache, pages in swap."""
        return self._peak_now.private_bytes

    @property
    def peak_bytes(self) -> int:
        """With mapped file pages; no less than the kernel's own peak of each process."""
        return self._peak_now.peak_bytes

    @property
    def _peak_now(self) -> Resident:
        return _most(self._peak, _less(self._highest, self._shared))

    def look(self, near_bytes: int | None = None) -> Resident:
        """Now; `near_bytes`: from how much private memory on more depends on it, so that more care is due."""
        self.members = self._members_now()
        each = [resident(process.pid) for process in self.members]
        self.at_least(max((one.peak_bytes for one in each), default=0))
        found = sum(each, Resident())
        total = Resident(found.private_bytes, found.file_bytes, found.private_bytes + found.file_bytes)
        shares = self._shares(total, near_bytes)
        if shares is None:
            self._highest = _most(self._highest, total)
        else:
            before = _less(self._highest, _most(self._shared, shares))
            self._peak = _most(_most(self._peak, before), _less(total, shares))
            self._shared, self._highest = shares, Resident()
        now = _less(total, self._shared)
        return Resident(now.private_bytes, now.file_bytes, self.peak_bytes)

    def at_least(self, total_bytes: int) -> None:
        """The kernel's own peak of one process, which falls between two looks."""
        self._peak = _most(self._peak, Resident(0, 0, total_bytes))

    def _members_now(self) -> tuple[Process, ...]:
        if self._lazily and time.monotonic() < self._members_at_s:
            return tuple(filter(is_alive, self.members))
        began_s = time.thread_time()
        members = self._tree.members()
        self._members_at_s = time.monotonic() + (time.thread_time() - began_s) / SHARE_OF_TIME
        return members

    def _shares(self, total: Resident, near_bytes: int | None) -> Resident | None:
        """What the sum counts too often; None where it is not read this time."""
        if len(self.members) < 2:
            self._shared_by = self.members
            return Resident()
        if not self._is_due(total, near_bytes):
            return None
        began_s = time.thread_time()
        fair = fair_shares(self.members)
        self._took_s, self._read_at_s = time.thread_time() - began_s, time.monotonic()
        self._shared_by = self.members
        return None if fair is None else _less(total, fair)

    def _is_due(self, total: Resident, near_bytes: int | None) -> bool:
        # what one that has ended shared with another may be the other's alone now: too much rather than too little
        left = not set(self._shared_by) <= set(self.members)
        now = total if left else _less(total, self._shared)
        near = near_bytes is not None and now.private_bytes >= near_bytes
        if self.members != self._shared_by and (near or now.peak_bytes > self.peak_bytes):
            return True  # what a process has just been forked with is its parent's
        share = SHARE_WHEN_NEAR if near else SHARE_OF_TIME
        return time.monotonic() - self._read_at_s >= self._took_s / share


def _less(total: Resident, part: Resident) -> Resident:
    return Resident(
        max(0, total.private_bytes - part.private_bytes),
        max(0, total.file_bytes - part.file_bytes),
        max(0, total.peak_bytes - part.peak_bytes),
    )


def _most(one: Resident, other: Resident) -> Resident:
    return Resident(
        max(one.private_bytes, other.private_bytes),
        max(one.file_bytes, other.file_bytes),
        max(one.peak_bytes, other.peak_bytes),
    )


def fair_shares(members: Sequence[Process]) -> Resident | None:
    """Each page divided among those that have it; None where one of them may not be asked.

    `peak_bytes` is of both kinds together now.
    """
    if sys.platform != "linux":
        return None
    private = file = 0
    for process in members:
        table = kernel_files.table(Path(f"/proc/{process.pid}/smaps_rollup"))
        if not all(name in table for name in _PRIVATE):
            return None
        private += sum(table[name] for name in _PRIVATE) * KIB
        file += table.get("Pss_File", 0) * KIB
    return Resident(private, file, private + file)
