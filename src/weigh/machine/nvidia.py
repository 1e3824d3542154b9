"""NVIDIA GPUs, read through the driver's own library (NVML).

A card can be there and yet be unreadable: no driver, a driver of another version than its library, a
container without the devices, a card that fell off the bus. Each such card is reported with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files, pci
from weigh.machine.machine import Gpu

_NOT_SHOWN = "on the PCI bus, but the NVIDIA driver does not show it to this process"


def read_nvidia(devices: Sequence[pci.GpuDevice], root: Path = Path("/"), nvml: Any = None) -> list[Gpu]:
    """Every NVIDIA GPU in NVML's order, then those that only the PCI bus or the driver's files know of.

    NVML is not loaded where nothing hints at such a card, which saves tens of ms.

    Args:
        devices: what the PCI bus shows; other vendors' are passed over.
        nvml: stands in for the `pynvml` module, to play back recorded answers.
    """
    cards = [device for device in devices if device.vendor == pci.NVIDIA]
    if not cards and not _driver_traces(root):
        return []
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _unread(cards, f"NVML could not be used: {error}", root) or _nameless(error, root)
    try:
        return _read_all(nvml, cards, root)
    finally:
        nvml.nvmlShutdown()


def _driver_traces(root: Path) -> bool:
    """Whether a driver without a card on the PCI bus is about: WSL, Jetson, a container without /sys."""
    if not (root / "proc").exists():
        return True  # Windows: NVML itself must be asked. macOS: it answers that it is missing
    places = ("proc/driver/nvidia", "dev/nvidiactl", "dev/nvidia0", "usr/lib/wsl/lib/libnvidia-ml.so.1")
    return any((root / place).exists() for place in places)


def _read_all(nvml: Any, cards: list[pci.GpuDevice], root: Path) -> list[Gpu]:
    driver = nvml.nvmlSystemGetDriverVersion()
    gpus: list[Gpu] = []
    shown: set[str] = set()
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            shown.add(_address(nvml.nvmlDeviceGetPciInfo(handle)))
            gpus.append(_read(nvml, handle, driver))
        except nvml.NVMLError as error:
            gpus.append(Gpu(f"NVIDIA GPU {index}", "NVIDIA", driver=driver, problem=f"NVML: {error}"))
    return gpus + _unread([card for card in cards if card.address not in shown], _NOT_SHOWN, root)


def _read(nvml: Any, handle: Any, driver: str) -> Gpu:
    name = nvml.nvmlDeviceGetName(handle)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError as error:  # e.g. GB10, whose memory is the system's
        return Gpu(name, "NVIDIA", driver=driver, problem=f"memory not told by NVML: {error}")
    return Gpu(
        name,
        "NVIDIA",
        total_bytes=memory.total,
        free_bytes=memory.free,
        driver=driver,
        compute_capability=f"{major}.{minor}",
        problem="split by MIG; weigh does not read the parts yet" if _is_split(nvml, handle) else None,
    )


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most cards know no MIG
        return False
    return bool(current)


def _address(info: Any) -> str:
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def _unread(cards: Sequence[pci.GpuDevice], problem: str, root: Path) -> list[Gpu]:
    return [Gpu(_name(card, root), "NVIDIA", problem=problem) for card in cards]


def _name(card: pci.GpuDevice, root: Path) -> str:
    """The kernel module's name for the card when it is loaded, else its number on the bus."""
    told = kernel_files.text(root / f"proc/driver/nvidia/gpus/{card.address}/information")
    model = next((line.partition(":")[2].strip() for line in told.splitlines() if line[:5] == "Model"), "")
    return model or f"NVIDIA GPU (PCI 10de:{card.device:04x})"


def _nameless(error: Exception, root: Path) -> list[Gpu]:
    """One GPU for a driver that left traces though neither the bus nor NVML shows a card."""
    if not (root / "proc").exists():
        return []
    return [Gpu("NVIDIA GPU", "NVIDIA", problem=f"the driver is there, but NVML could not be used: {error}")]
