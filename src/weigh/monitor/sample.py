"""What the machine holds and does at one moment: memory under its limits, processors, GPUs, power, heat, engines.

What cannot be read is None, an empty tuple or a `problem`, never zero.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files
from weigh.machine.cgroup import Level, levels
from weigh.machine.machine import Memory
from weigh.machine.memory import read_memory
from weigh.machine.power import Counter, counters
from weigh.monitor.engines import EngineLoad, EngineReader, Named
from weigh.monitor.gpus import GpuLoad, GpuReader
from weigh.monitor.processors import SLOW_S, ProcessorReader, Processors

_PRESSURE = re.compile(r"^(some|full) avg10=(\d+\.\d+)", re.MULTILINE)


def used_bytes(memory: Memory) -> int:
    """Of what may be used, what cannot be had back: page cache that the kernel can drop is not in it."""
    return max(0, memory.usable_bytes - memory.available_bytes)


@dataclass(frozen=True, slots=True)
class Pressure:
    """Shares (0 to 1) of the last 10 s in which some, or all, tasks waited for memory. Source: psi.rst of Linux."""

    some: float
    full: float | None
    of: str  # `system` or `cgroup v2`


@dataclass(frozen=True, slots=True)
class Watts:
    """Power by one counter; see `weigh.machine.power` for what they cover."""

    name: str
    covers: str
    watts: float


@dataclass(frozen=True, slots=True)
class Heat:
    name: str
    celsius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The machine at one moment.

    Attributes:
        swapped_in_bytes_per_s, swapped_out_bytes_per_s: of the whole system, since the sample before.
    """

    when_unix_s: float
    memory: Memory
    pressure: Pressure | None = None
    swapped_in_bytes_per_s: float | None = None
    swapped_out_bytes_per_s: float | None = None
    processors: Processors
    gpus: tuple[GpuLoad, ...] = ()
    power: tuple[Watts, ...] = ()
    heat: tuple[Heat, ...] = ()
    engines: tuple[EngineLoad, ...] = ()

    @property
    def used_bytes(self) -> int:
        return used_bytes(self.memory)

    def to_json(self) -> dict[str, Any]:
        memory = self.memory
        return {
            "when_unix_s": round(self.when_unix_s, 3),
            "memory": {
                "usable_bytes": memory.usable_bytes,
                "used_bytes": self.used_bytes,
                "available_bytes": memory.available_bytes,
                "page_cache_bytes": memory.page_cache_bytes,
                "limited_by": memory.limited_by or None,
                "pressure": asdict(self.pressure) if self.pressure else None,
            },
            "swap": {
                "total_bytes": memory.swap_total_bytes,
                "used_bytes": memory.swap_total_bytes - memory.swap_free_bytes,
                "in_bytes_per_s": self.swapped_in_bytes_per_s,
                "out_bytes_per_s": self.swapped_out_bytes_per_s,
            },
            "processors": self.processors.to_json(),
            "gpus": [gpu.to_json() for gpu in self.gpus],
            "power": [asdict(one) for one in self.power] or None,
            "heat": [asdict(one) for one in self.heat] or None,
            "engines": [engine.to_json() for engine in self.engines],
        }


class MemoryReader:
    """Memory under the limits of some processes: the tightest counts.

    Which control groups they are in is looked up every `SLOW_S`, for that costs more than reading them.

    Args:
        pids: whose limits; while there are none, this process's own count.
    """

    def __init__(self, root: Path = Path("/"), pids: Callable[[], Iterable[int]] = tuple) -> None:
        self._root, self._pids = root, pids
        self._groups: list[Level] = []
        self._look_at_s = 0.0

    def read(self) -> Memory:
        if time.monotonic() >= self._look_at_s:
            self._look_at_s = time.monotonic() + SLOW_S
            found = [
                level for pid in self._one_of_each_group() for level in levels("memory", self._root, pid)
            ]
            self._groups = list(dict.fromkeys(found))
        return read_memory(self._root, within=self._groups)

    def _one_of_each_group(self) -> Iterable[int | str]:
        """A large tree mostly sits in one group, which need not be looked up for each process."""
        pids = list(self._pids())
        return {kernel_files.text(self._root / f"proc/{pid}/cgroup"): pid for pid in pids}.values() or (
            "self",
        )

    def pressure(self) -> Pressure | None:
        """Of the nearest v2 group that tells it, else of the system; None where the kernel has none."""
        for level in self._groups:
            if level.version == 2 and (level.folder / "memory.max").exists():  # the topmost has none
                return _pressure(kernel_files.text(level.folder / "memory.pressure"), "cgroup v2")
        return _pressure(kernel_files.text(self._root / "proc/pressure/memory"), "system")


def _pressure(told: str, of: str) -> Pressure | None:
    shares = {kind: float(percent) / 100 for kind, percent in _PRESSURE.findall(told)}
    return Pressure(shares["some"], shares.get("full"), of) if "some" in shares else None


class Sampler:
    """Reads everything; rates are since the sample before, so the first has none.

    Args:
        wanted: engines and other programs to read; without any, engines that are known by name.
    """

    def __init__(self, wanted: Named | None = None, root: Path = Path("/"), nvml: Any = None) -> None:
        self._root = root
        self._gpus = GpuReader(root, nvml)
        self._engines = EngineReader(wanted, self._gpus.used_by)
        self._memory = MemoryReader(root, self._engines.wanted_pids)
        self._processors = ProcessorReader(root)
        self._power = _PowerReader(counters(root, nvml))
        self._swap: tuple[float, int, int] | None = None
        self._heat: tuple[Heat, ...] = ()
        self._heat_at_s = 0.0

    def read(self) -> Sample:
        engines = self._engines.read()  # first, for their limits are those that count
        swapped_in, swapped_out = self._read_swapped()
        return Sample(
            when_unix_s=time.time(),
            memory=self._memory.read(),
            pressure=self._memory.pressure(),
            swapped_in_bytes_per_s=swapped_in,
            swapped_out_bytes_per_s=swapped_out,
            processors=self._processors.read(),
            gpus=self._gpus.read(),
            power=self._power.read(),
            heat=self._read_heat(),
            engines=engines,
        )

    def close(self) -> None:
        self._engines.close()

    def _read_swapped(self) -> tuple[float | None, float | None]:
        told = kernel_files.table(self._root / "proc/vmstat")
        if "pswpin" not in told or "pswpout" not in told:
            return None, None
        import resource

        before, now = self._swap, (time.monotonic(), told["pswpin"], told["pswpout"])
        self._swap = now
        if before is None or now[0] <= before[0]:
            return None, None
        per_page = resource.getpagesize() / (now[0] - before[0])
        return (now[1] - before[1]) * per_page, (now[2] - before[2]) * per_page

    def _read_heat(self) -> tuple[Heat, ...]:
        if time.monotonic() >= self._heat_at_s:
            self._heat_at_s = time.monotonic() + SLOW_S
            self._heat = read_heat()
        return self._heat


def read_heat() -> tuple[Heat, ...]:
    """The hottest sensor of each chip, as the system names them; nothing in most virtual machines."""
    import psutil

    told: dict[str, list[Any]] = {}
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        told = getattr(psutil, "sensors_temperatures", dict)()
    hottest = {chip: max((s.current for s in sensors), default=0.0) for chip, sensors in told.items()}
    return tuple(Heat(chip, celsius) for chip, celsius in hottest.items() if celsius > 0)


class _PowerReader:
    def __init__(self, found: Sequence[Counter]) -> None:
        self._counters = found
        self._before: dict[str, tuple[float, float]] = {}

    def read(self) -> tuple[Watts, ...]:
        found = []
        for counter in self._counters:
            joules, now = counter.read(), time.monotonic()
            before = self._before.get(counter.name)
            if joules is None:
                continue
            self._before[counter.name] = (now, joules)
            if before is not None and now > before[0]:
                found.append(Watts(counter.name, counter.covers, (joules - before[1]) / (now - before[0])))
        return tuple(found)
