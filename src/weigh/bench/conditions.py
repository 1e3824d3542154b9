"""What the machine did during a turn: processor time of the engine, clocks, memory left, energy, GPUs."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weigh.bench.gpu_watch import GpuWatch, OnGpus, Reader
from weigh.machine import kernel_files
from weigh.machine.memory import read_memory
from weigh.machine.power import Counter, EnergyMeter, counters
from weigh.machine.processes import descendants
from weigh.machine.processor_time import cpu_s
from weigh.monitor.gpus import GpuReader

LEAST_S = 0.2  # of a turn whose processor time is told, in ticks of 10 ms


@dataclass(frozen=True, slots=True)
class During:
    """Of one turn; None where the system does not tell.

    Attributes:
        cores_busy: processor seconds of the engine's process tree over the turn's seconds.
        clock_hz: median over the processors at the turn's end; a virtual machine's is a nominal one.
        available_bytes: memory that could still be taken at its end, under the groups' limits.
        swapped_bytes: swap in use at its end.
        joules: of all counters; not less what the machine takes when idle.
        on_gpus: None where there is no GPU that can be read.
    """

    took_s: float
    cores_busy: float | None
    clock_hz: float | None
    available_bytes: int
    swapped_bytes: int
    joules: float | None
    on_gpus: OnGpus | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "took_s": self.took_s,
            "cores_busy": self.cores_busy,
            "clock_hz": self.clock_hz,
            "available_bytes": self.available_bytes,
            "swapped_bytes": self.swapped_bytes,
            "joules": self.joules,
            "gpus": self.on_gpus and self.on_gpus.to_json(),
        }


class Instruments:
    """What is looked for once and read in every turn."""

    def __init__(self) -> None:
        self.meters: list[Counter] = counters()
        self.gpus: Reader = GpuReader()


class Observed:
    """Watches while its block runs; `during` is there afterwards.

    Args:
        pid: of a process whose tree is the engine's; None for this one's children.
    """

    during: During

    def __init__(self, instruments: Instruments, pid: int | None = None) -> None:
        self._meter = EnergyMeter(instruments.meters)
        self._gpus = GpuWatch(instruments.gpus, self._pids)
        self._pid = pid

    def __enter__(self) -> Self:
        self._meter.__enter__()
        self._gpus.__enter__()
        self._began_s, self._cpu_s = time.monotonic(), self._tree_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_s, cpu_s = time.monotonic() - self._began_s, self._tree_s()
        self._gpus.__exit__(kind, error, trace)
        self._meter.__exit__(kind, error, trace)
        memory = read_memory()
        self.during = During(
            took_s=took_s,
            cores_busy=self._busy(cpu_s, took_s),
            clock_hz=clock_hz(),
            available_bytes=memory.available_bytes,
            swapped_bytes=memory.swap_total_bytes - memory.swap_free_bytes,
            joules=self._meter.joules,
            on_gpus=self._gpus.seen,
        )

    def _busy(self, cpu_s: float | None, took_s: float) -> float | None:
        if cpu_s is None or self._cpu_s is None or took_s < LEAST_S:
            return None
        return max(0.0, cpu_s - self._cpu_s) / took_s

    def _tree_s(self) -> float | None:
        told = [seconds for seconds in map(cpu_s, self._pids()) if seconds is not None]
        return sum(told) if told else None

    def _pids(self) -> tuple[int, ...]:
        if self._pid is None:
            return descendants(os.getpid())
        return self._pid, *descendants(self._pid)


def clock_hz(root: Path = Path("/")) -> float | None:
    """Median clock of the processors now; None where it is not told."""
    folder = root / "sys/devices/system/cpu"
    scaled = [kernel_files.number(path) for path in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    clocks = [khz * 1e3 for khz in scaled if khz]
    if not clocks:
        lines = kernel_files.text(root / "proc/cpuinfo").splitlines()
        clocks = [float(line.partition(":")[2]) * 1e6 for line in lines if line.startswith("cpu MHz")]
    return statistics.median(clocks) if clocks else None
