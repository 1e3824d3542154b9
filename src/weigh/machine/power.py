"""Energy this machine takes, from the counters it has: RAPL, NVML, the GPUs' own sensors, Apple's powermetrics.

    with EnergyMeter() as meter:
        ...                          # what is to be measured
    meter.joules                     # None where no counter can be read

A counter either adds up energy by itself or tells power, which is then summed over time here. What they cover
differs (`Counter.covers`): none of them sees power supplies, fans and screens.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from weigh.machine import kernel_files
from weigh.machine.commands import Run, output

SAMPLE_S = 0.5  # a RAPL counter at 500 W wraps after 500 s; power is taken as even between samples
# Prints once, for the time between two samples; only root may run it.
POWERMETRICS = ("powermetrics", "-n", "1", "-i", "200", "--samplers", "cpu_power,gpu_power")

Clock = Callable[[], float]


class Counter(Protocol):
    """One source of energy figures. `read` gives joules since the counter's first reading; None when it fails."""

    name: str
    covers: str

    def read(self) -> float | None: ...


class _Rising:
    """A count that only rises, in steps of `unit_j`, and starts again after `range_counts`."""

    def __init__(
        self, name: str, covers: str, ask: Callable[[], int | None], unit_j: float, range_counts: int = 0
    ) -> None:
        self.name, self.covers = name, covers
        self._ask, self._unit_j, self._range = ask, unit_j, range_counts
        self._last: int | None = None
        self._counts = 0

    def read(self) -> float | None:
        now = self._ask()
        if now is None:
            return None
        if self._last is not None:
            step = now - self._last
            self._counts += step + self._range if step < 0 else step
        self._last = now
        return self._counts * self._unit_j


class _Power:
    """Watts, summed over time by the trapezoidal rule."""

    def __init__(self, name: str, covers: str, ask: Callable[[], float | None], clock: Clock) -> None:
        self.name, self.covers = name, covers
        self._ask, self._clock = ask, clock
        self._last: tuple[float, float] | None = None
        self._joules = 0.0

    def read(self) -> float | None:
        watts, now = self._ask(), self._clock()
        if watts is None:
            return None
        if self._last is not None:
            before_s, before_watts = self._last
            self._joules += (now - before_s) * (watts + before_watts) / 2
        self._last = (now, watts)
        return self._joules


def counters(
    root: Path = Path("/"), nvml: Any = None, run: Run = output, clock: Clock = time.monotonic
) -> list[Counter]:
    """Those that can be read here and now by this process; none in most virtual machines and containers.

    Args:
        nvml: stands in for the `pynvml` module, to play back recorded answers.
    """
    found: list[Counter] = [*_rapl(root), *_nvml(root, nvml, clock), *_hwmon(root, clock)]
    if not (root / "proc").exists():
        found += _apple(run, clock)
    return [counter for counter in found if counter.read() is not None]


def _rapl(root: Path) -> list[Counter]:
    """Processor packages, and the memory beside them where that is told apart (it is not in the package's count).

    Passed over: parts of a package (core, uncore), the platform's count (psys), which holds the packages, and
    the copy of the package's count that lies under `intel-rapl-mmio`. Since Linux 5.10 only root reads these
    files (CVE-2020-8694). Source: Linux, Documentation/power/powercap/powercap.rst.
    """
    found: list[Counter] = []
    for zone in kernel_files.folders(root / "sys/class/powercap"):
        if not re.fullmatch(r"intel-rapl:\d+(:\d+)?", zone.name):
            continue
        kind = kernel_files.text(zone / "name")
        if not kind.startswith(("package", "dram")):
            continue
        parent = kernel_files.text(zone.with_name(zone.name.rpartition(":")[0]) / "name")
        name = f"RAPL {parent} {kind}" if zone.name.count(":") > 1 else f"RAPL {kind}"
        wrap = kernel_files.number(zone / "max_energy_range_uj") or 0
        found.append(
            _Rising(
                name,
                "memory" if kind == "dram" else "processor",
                lambda at=zone / "energy_uj": kernel_files.number(at),  # type: ignore[misc]
                1e-6,
                wrap,
            )
        )
    return found


def _nvml(root: Path, nvml: Any, clock: Clock) -> list[Counter]:
    """Each NVIDIA GPU: its energy since the driver was loaded (Volta and later), else its power."""
    if nvml is None:
        if not any((root / place).exists() for place in ("proc/driver/nvidia", "dev/nvidiactl")):
            return []
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    found: list[Counter] = []
    for index, handle in enumerate(handles):
        name = f"NVML GPU {index}"
        energy = _asked(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        if energy() is not None:
            found.append(_Rising(name, "GPU", energy, 1e-3))
        else:
            milliwatts = _asked(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
            found.append(_Power(name, "GPU", _scaled(milliwatts, 1e-3), clock))
    return found


def _asked(nvml: Any, call: Callable[[Any], int], handle: Any) -> Callable[[], int | None]:
    def ask() -> int | None:
        try:
            return int(call(handle))
        except nvml.NVMLError:
            return None

    return ask


def _scaled(ask: Callable[[], int | None], unit: float) -> Callable[[], float | None]:
    def scaled() -> float | None:
        value = ask()
        return None if value is None else value * unit

    return scaled


def _hwmon(root: Path, clock: Clock) -> list[Counter]:
    """GPUs of AMD and Intel: energy in microjoules (i915, xe), else average power in microwatts (amdgpu).

    On an AMD processor with a GPU inside, that power is of the whole chip. Source: Linux,
    Documentation/gpu/amdgpu/thermal.rst and ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon.
    """
    found: list[Counter] = []
    for card in kernel_files.folders(root / "sys/class/drm"):
        if not re.fullmatch(r"card\d+", card.name):
            continue
        for sensor in kernel_files.folders(card / "device/hwmon"):
            driver = kernel_files.text(sensor / "name")
            if driver not in ("amdgpu", "i915", "xe"):
                continue
            name = f"{driver} {card.name}"
            if kernel_files.number(sensor / "energy1_input") is not None:
                found.append(_Rising(name, "GPU", _file(sensor / "energy1_input"), 1e-6))
            else:
                told = next((f for f in ("power1_average", "power1_input") if (sensor / f).exists()), "")
                found += [_Power(name, "GPU", _scaled(_file(sensor / told), 1e-6), clock)] if told else []
    return found


def _file(path: Path) -> Callable[[], int | None]:
    return lambda: kernel_files.number(path)


def _apple(run: Run, clock: Clock) -> list[Counter]:
    def ask() -> float | None:
        said = re.search(r"^Combined Power \(CPU \+ GPU \+ ANE\): (\d+) mW", run(POWERMETRICS), re.MULTILINE)
        return int(said[1]) / 1000 if said else None

    return [_Power("powermetrics", "processor and GPU", ask, clock)]


class EnergyMeter:
    """Joules taken while its block runs, by counter.

    A thread reads the counters every `SAMPLE_S`, so that none wraps twice unseen and power is followed.

    Args:
        found: the counters to read; None looks for them.

    Attributes:
        took_s: seconds the block ran.
    """

    def __init__(self, found: Sequence[Counter] | None = None, *, every_s: float = SAMPLE_S) -> None:
        self.counters = tuple(counters() if found is None else found)
        self.took_s = 0.0
        self._every_s = every_s
        self._readings: dict[str, tuple[float, float]] = {}  # name -> joules at the start, joules now
        self._broken: set[str] = set()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self.sample()
        if self.counters:
            self._thread = threading.Thread(target=self._watch, name="energy meter", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()
        self.took_s = time.monotonic() - self._started

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            self.sample()

    def sample(self) -> None:
        """Read all counters once; one that fails meanwhile counts no more, for half a sum would mislead."""
        for counter in self.counters:
            now = counter.read()
            if now is None:
                self._broken.add(counter.name)
            else:
                start, _ = self._readings.get(counter.name, (now, now))
                self._readings[counter.name] = (start, now)

    @property
    def by_counter(self) -> dict[str, float]:
        """Joules of each counter that answered throughout."""
        return {
            name: now - start for name, (start, now) in self._readings.items() if name not in self._broken
        }

    @property
    def joules(self) -> float | None:
        """Of all counters together; None where there is none to read."""
        found = self.by_counter
        return sum(found.values()) if found else None
