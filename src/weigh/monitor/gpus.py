"""What each GPU holds and does now: NVIDIA's by NVML, AMD's and Intel's by what their drivers tell in /sys.

Sources: the NVML API reference; Linux, Documentation/gpu/amdgpu/thermal.rst and driver-misc.rst,
ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files, pci
from weigh.machine.memory import read_memory
from weigh.machine.pci_names import gpu_name

# Bits of NVML's reasons for a lower clock that are not a setting of the user's. Source: nvml.h
_SLOWED = {
    0x04: "power limit",
    0x08: "hardware",
    0x20: "heat",
    0x40: "heat",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """One GPU now; None for what its driver does not tell.

    Attributes:
        busy: share (0 to 1) of the time in which it computed anything.
        slowed: why its clock is held down; empty when it is not.
        problem: why nothing is known, in plain words.
    """

    name: str
    vendor: str
    used_bytes: int | None = None
    total_bytes: int | None = None
    busy: float | None = None
    watts: float | None = None
    celsius: float | None = None
    clock_hz: float | None = None
    slowed: tuple[str, ...] | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class GpuReader:
    """Looks for the GPUs once and reads them often.

    Args:
        nvml: stands in for the `pynvml` module, to play back recorded answers.
    """

    def __init__(self, root: Path = Path("/"), nvml: Any = None) -> None:
        self._root = root
        self._nvml, self._handles, problem = _nvml_handles(root, nvml)
        self._cards: list[Callable[[], GpuLoad]] = []
        for card in pci.gpu_devices(root):
            name = gpu_name(card, root)
            if card.vendor == pci.AMD:
                self._cards.append(_Amd(card, name).read)
            elif card.vendor == pci.INTEL:
                self._cards.append(_Intel(card, name, root).read)
            elif not self._handles:
                said = GpuLoad(name=name, vendor="NVIDIA", problem=problem)
                self._cards.append(lambda said=said: said)  # type: ignore[misc]

    def read(self) -> tuple[GpuLoad, ...]:
        return (
            *(_nvidia(self._nvml, handle, at) for at, handle in enumerate(self._handles)),
            *(read() for read in self._cards),
        )

    def nvidia_memory(self) -> list[tuple[int, int]]:
        """(used, total) bytes of each NVIDIA GPU that tells it."""
        found = (_told(self._nvml, self._nvml.nvmlDeviceGetMemoryInfo, handle) for handle in self._handles)
        return [(memory.used, memory.total) for memory in found if memory is not None]

    def used_by(self, pids: Iterable[int]) -> int | None:
        """Bytes of NVIDIA GPUs' memory that these processes hold; None where NVML does not tell.

        Inside a container the driver may know them by other numbers: then it is not told.
        """
        wanted, found = set(pids), []
        for handle in self._handles:
            running = _told(self._nvml, self._nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
            found += [one.usedGpuMemory for one in running if one.pid in wanted and one.usedGpuMemory]
        return sum(found) if found else None


def _nvml_handles(root: Path, nvml: Any) -> tuple[Any, list[Any], str]:
    """NVML, its GPUs, and why it has none; not loaded where nothing hints at an NVIDIA driver."""
    if nvml is None:
        if not any((root / place).exists() for place in ("proc/driver/nvidia", "dev/nvidiactl")):
            return None, [], "no NVIDIA driver is loaded"
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
        return nvml, [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())], ""
    except nvml.NVMLError as error:
        return nvml, [], f"NVML could not be used: {error}"


def _told(nvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _nvidia(nvml: Any, handle: Any, index: int) -> GpuLoad:
    memory = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    busy = _told(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    megahertz = _told(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
    reasons = _told(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return GpuLoad(
        name=_told(nvml, nvml.nvmlDeviceGetName, handle) or f"NVIDIA GPU {index}",
        vendor="NVIDIA",
        used_bytes=memory.used if memory else None,
        total_bytes=memory.total if memory else None,
        busy=busy.gpu / 100 if busy else None,
        watts=None if milliwatts is None else milliwatts / 1000,
        celsius=_told(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        clock_hz=None if megahertz is None else megahertz * 1e6,
        slowed=None if reasons is None else _words(reasons),
    )


def _words(reasons: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for bit, word in _SLOWED.items() if reasons & bit))


class _Amd:
    def __init__(self, card: pci.GpuDevice, name: str) -> None:
        self._folder, self._name = card.folder, name
        self._sensor = _sensor(card)
        self._problem = pci.unbound(card, "amdgpu")

    def read(self) -> GpuLoad:
        percent = kernel_files.number(self._folder / "gpu_busy_percent")
        return GpuLoad(
            name=self._name,
            vendor="AMD",
            used_bytes=kernel_files.number(self._folder / "mem_info_vram_used"),
            total_bytes=kernel_files.number(self._folder / "mem_info_vram_total"),
            busy=None if percent is None else percent / 100,
            watts=_scaled(self._sensor, ("power1_average", "power1_input"), 1e-6),
            celsius=_scaled(self._sensor, ("temp1_input",), 1e-3),
            clock_hz=_scaled(self._sensor, ("freq1_input",), 1.0),
            problem=self._problem,
        )


class _Intel:
    def __init__(self, card: pci.GpuDevice, name: str, root: Path) -> None:
        self._card, self._name, self._root = card, name, root
        self._sensor = _sensor(card)
        self._problem = pci.unbound(card, "i915 xe")
        self._energy: tuple[float, float] | None = None

    def read(self) -> GpuLoad:
        from weigh.machine.intel import read_intel

        (gpu,) = read_intel([self._card], read_memory(self._root), self._root, {})
        own = not gpu.unified and gpu.total_bytes is not None and gpu.free_bytes is not None
        clocks = (kernel_files.number(path) for path in self._card.folder.glob("drm/card*/gt_act_freq_mhz"))
        megahertz = next((clock for clock in clocks if clock is not None), None)
        return GpuLoad(
            name=self._name,
            vendor="Intel",
            used_bytes=(gpu.total_bytes or 0) - (gpu.free_bytes or 0) if own else None,
            total_bytes=gpu.total_bytes if own else None,
            watts=self._watts(),
            celsius=_scaled(self._sensor, ("temp2_input", "temp1_input"), 1e-3),
            clock_hz=None if megahertz is None else megahertz * 1e6,
            problem=self._problem,
        )

    def _watts(self) -> float | None:
        """From the energy counter, over the time since it was read before."""
        joules, now = _scaled(self._sensor, ("energy1_input",), 1e-6), time.monotonic()
        if joules is None:
            return None
        before, self._energy = self._energy, (now, joules)
        if before is None or now <= before[0] or joules < before[1]:
            return None
        return (joules - before[1]) / (now - before[0])


def _sensor(card: pci.GpuDevice) -> Path | None:
    return next(iter(kernel_files.folders(card.folder / "hwmon")), None)


def _scaled(folder: Path | None, names: Iterable[str], unit: float) -> float | None:
    """The first of the sensor's files that holds a number, in `unit`."""
    if folder is None:
        return None
    told = (kernel_files.number(folder / name) for name in names)
    found = next((value for value in told if value is not None), None)
    return None if found is None else found * unit
