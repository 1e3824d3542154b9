"""How busy the processors are, what the host takes from them, and what slows them down."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files
from weigh.machine.cgroup import Level, levels
from weigh.machine.disturbance import throttles

_MOST_STAT_CHARACTERS = 1 << 20
# How long what changes slowly or costs more is kept: on a large server a clock is a question to each core.
SLOW_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    """Shares (0 to 1) of the time since the reading before; None where the system does not tell.

    Attributes:
        busy: of all processors together.
        by_core: of each, in the kernel's order.
        stolen: by the host, for other virtual machines.
        clock_hz: mean over the cores, now.
        throttled: times that a core was slowed down for heat since the watch began.
        held_back: share of the time that a control group's quota kept its processes waiting.
    """

    busy: float | None = None
    by_core: tuple[float, ...] = ()
    stolen: float | None = None
    clock_hz: float | None = None
    throttled: int | None = None
    held_back: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ProcessorReader:
    """Keeps the counters of the reading before; the first one has no shares yet."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._ticks: dict[str, tuple[int, ...]] = {}
        self._groups = levels("cpu", root)
        self._held: tuple[float, float] | None = None  # when, seconds held back so far
        self._heat_before = throttles(root)
        self._slow_at_s = 0.0
        self._clock_hz: float | None = None
        self._throttled: int | None = None

    def read(self) -> Processors:
        if not (self._root / "proc/stat").exists():
            return _elsewhere()
        now = _ticks(self._root)
        shares = {
            name: _shares(self._ticks[name], ticks) for name, ticks in now.items() if name in self._ticks
        }
        self._ticks = now
        if time.monotonic() >= self._slow_at_s:
            self._slow_at_s = time.monotonic() + SLOW_S
            self._read_slowly()
        total = shares.pop("cpu", None)
        return Processors(
            busy=total[0] if total else None,
            by_core=tuple(share[0] for share in shares.values() if share),
            stolen=total[1] if total else None,
            clock_hz=self._clock_hz,
            throttled=self._throttled,
            held_back=self._read_held_back(),
        )

    def _read_slowly(self) -> None:
        folder = self._root / "sys/devices/system/cpu"
        told = [kernel_files.number(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
        clocks = [khz * 1000 for khz in told if khz]
        self._clock_hz = sum(clocks) / len(clocks) if clocks else None
        heat, before = throttles(self._root), self._heat_before
        self._throttled = heat - before if heat is not None and before is not None else None

    def _read_held_back(self) -> float | None:
        held = [found for found in map(_held_back_s, self._groups) if found is not None]
        if not held:
            return None
        before, now = self._held, (time.monotonic(), max(held))
        self._held = now
        if before is None or now[0] <= before[0]:
            return None
        return min(1.0, max(0.0, (now[1] - before[1]) / (now[0] - before[0])))


def _ticks(root: Path) -> dict[str, tuple[int, ...]]:
    """`cpu` (all) and `cpu0` … -> user, nice, system, idle, iowait, irq, softirq, steal. Source: proc_stat(5)."""
    rows = (row.split() for row in kernel_files.text(root / "proc/stat", _MOST_STAT_CHARACTERS).splitlines())
    return {
        row[0]: tuple(map(int, row[1:9]))
        for row in rows
        if row and row[0].startswith("cpu") and len(row) >= 9
    }


def _shares(before: tuple[int, ...], now: tuple[int, ...]) -> tuple[float, float] | None:
    """Of the time: busy for programs here, stolen by the host. None when no tick has passed."""
    change = [max(0, b - a) for a, b in zip(before, now, strict=True)]
    user, nice, system, _idle, _waiting, interrupt, soft, stolen = change
    total = sum(change)
    return ((user + nice + system + interrupt + soft) / total, stolen / total) if total else None


def _held_back_s(group: Level) -> float | None:
    """Seconds that a group's quota held its processes back; None for one without a quota.

    `cpu.stat` has them in microseconds (v2) and in nanoseconds (v1). Source: cgroup-v2.rst and
    scheduler/sched-bwc.rst of Linux.
    """
    quota = (
        kernel_files.pair(group.folder / "cpu.max")[0]
        if group.version == 2
        else kernel_files.number(group.folder / "cpu.cfs_quota_us")
    )
    if quota is None or quota <= 0:
        return None
    stat = kernel_files.table(group.folder / "cpu.stat")
    if group.version == 2:
        return stat["throttled_usec"] * 1e-6 if "throttled_usec" in stat else None
    return stat["throttled_time"] * 1e-9 if "throttled_time" in stat else None


def _elsewhere() -> Processors:
    import psutil

    by_core = tuple(share / 100 for share in psutil.cpu_percent(percpu=True))
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return Processors(
        busy=sum(by_core) / len(by_core) if by_core else None,
        by_core=by_core,
        clock_hz=clock.current * 1e6 if clock else None,
    )
