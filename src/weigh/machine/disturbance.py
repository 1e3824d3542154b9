"""What else the processors did while something was measured: other programs, other machines on the host, heat."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from weigh.machine import kernel_files
from weigh.machine.processor_time import program_s

MOST_OTHERS = 0.10  # share of processor time; above it a measurement is not to be trusted
MOST_STOLEN = 0.05


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Shares of the processors' time (0 to 1) while watched; None where the system does not tell.

    Attributes:
        others: taken by other programs than this one and what it started.
        stolen: taken by the host for other virtual machines.
        throttled: times a processor was slowed down for heat.
    """

    others: float | None = None
    stolen: float | None = None
    throttled: int | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What makes the measurement not to be trusted, in plain words."""
        found = []
        if self.others is not None and self.others > MOST_OTHERS:
            found.append(f"other programs took {self.others:.0%} of the processors' time")
        if self.stolen is not None and self.stolen > MOST_STOLEN:
            found.append(f"the host took {self.stolen:.0%} of the processors' time for other machines")
        if self.throttled:
            found.append(f"a processor was slowed down for heat {self.throttled} times")
        return tuple(found)


class Watch:
    """Counts from its making on.

    Source of the fields: proc(5), /proc/stat, in clock ticks; the times of a guest are in `user` already.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._before = _ticks(root), throttles(root), program_s(), time.monotonic()

    def so_far(self) -> Disturbance:
        ticks, slowed, own_s, began_s = self._before
        now = _ticks(self._root)
        heat = throttles(self._root)
        throttled = heat - slowed if heat is not None and slowed is not None else None
        if ticks is None or now is None or time.monotonic() - began_s < 0.1:
            return Disturbance(throttled=throttled)
        per_s = os.sysconf("SC_CLK_TCK")
        change = [(b - a) / per_s for a, b in zip(ticks, now, strict=True)]
        user, nice, system, _idle, _waiting, interrupt, soft, stolen = change
        total = max(sum(change), 1 / per_s)
        others = user + nice + system + interrupt + soft - (program_s() - own_s)
        return Disturbance(max(0.0, others) / total, stolen / total, throttled)


def _ticks(root: Path) -> tuple[int, ...] | None:
    """user, nice, system, idle, iowait, irq, softirq, steal of the processors this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    names = {f"cpu{n}" for n in allowed}
    rows = [line.split() for line in kernel_files.text(root / "proc/stat", 1 << 20).splitlines()]
    counts = [row[1:9] for row in rows if row and row[0] in names and len(row) >= 9]
    if not counts or not all(word.isdecimal() for row in counts for word in row):
        return None
    return tuple(sum(map(int, column)) for column in zip(*counts, strict=True))


def throttles(root: Path) -> int | None:
    """Times that cores were slowed down for heat; only bare machines of Intel count them."""
    folder = root / "sys/devices/system/cpu"
    counts = [
        kernel_files.text(path, 64).strip()
        for path in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    told = [int(count) for count in counts if count.isdecimal()]
    return sum(told) if told else None
