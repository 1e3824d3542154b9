"""NVIDIA GPUs, read through the driver's own library (NVML).

A card can be there and yet be unreadable: no driver, a driver of another version than its library, a
container without the devices, a card that fell off the bus. Each such card is reported with the reason.

A card can be split into parts (MIG), each with memory and multiprocessors of its own; then the parts are
listed in its place. CUDA shows a process one part only, so all but one carry that as their problem.

GPUs inside a chip (GB10, Jetson) compute from the system's memory, of which NVML says nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files, pci
from weigh.machine.boards import shared_gpu
from weigh.machine.machine import Gpu, Memory
from weigh.machine.pci_names import gpu_name
from weigh.machine.visible import left_visible

_NOT_SHOWN = "on the PCI bus, but the NVIDIA driver does not show it to this process"
_ONE_PART = "CUDA shows a process one part of a split GPU: name this one in CUDA_VISIBLE_DEVICES to use it"
_VGPU = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU
_HIDING = ("CUDA_VISIBLE_DEVICES",)
# Names NVML has for GPUs without memory of their own. N1X's driver tells 8 GB, which is not all it can take.
_INSIDE_A_CHIP = re.compile(r"\b(GB10|N1X?|Orin|Thor|Xavier|Tegra)\b|nvgpu")
# Their memory is a node of the system's RAM as well: Grace reads it over NVLink.
_BESIDE_GRACE = re.compile(r"\bG[HB][23]00\b")

Names = tuple[str, ...]


def read_nvidia(
    devices: Sequence[pci.GpuDevice],
    memory: Memory,
    root: Path = Path("/"),
    nvml: Any = None,
    environment: Mapping[str, str] | None = None,
) -> list[Gpu]:
    """Every NVIDIA GPU in NVML's order, then those that only the PCI bus or the driver's files know of.

    NVML is not loaded where nothing hints at such a card, which saves tens of ms.

    Args:
        devices: what the PCI bus shows; other vendors' are passed over.
        memory: RAM, which GPUs inside a chip share.
        nvml: stands in for the `pynvml` module, to play back recorded answers.
        environment: `os.environ` unless a recording is played back.
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
        return _read_all(nvml, cards, memory, root, os.environ if environment is None else environment)
    finally:
        nvml.nvmlShutdown()


def _driver_traces(root: Path) -> bool:
    """Whether a driver without a card on the PCI bus is about: WSL, Jetson, a container without /sys."""
    if not (root / "proc").exists():
        return True  # Windows: NVML itself must be asked. macOS: it answers that it is missing
    places = ("proc/driver/nvidia", "dev/nvidiactl", "dev/nvidia0", "usr/lib/wsl/lib/libnvidia-ml.so.1")
    return any((root / place).exists() for place in places)


def _read_all(
    nvml: Any, cards: list[pci.GpuDevice], memory: Memory, root: Path, environment: Mapping[str, str]
) -> list[Gpu]:
    driver = nvml.nvmlSystemGetDriverVersion()
    found: list[tuple[Gpu, Names]] = []
    shown: set[str] = set()
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            shown.add(_address(nvml.nvmlDeviceGetPciInfo(handle)))
            found += _read(nvml, handle, index, driver, memory)
        except nvml.NVMLError as error:
            gpu = Gpu(f"NVIDIA GPU {index}", "NVIDIA", driver=driver, problem=f"NVML: {error}")
            found.append((gpu, (str(index),)))
    gpus = left_visible([gpu for gpu, _ in found], [names for _, names in found], _HIDING, environment)
    gpus = _one_part(_with_order(gpus, environment))
    return gpus + _unread([card for card in cards if card.address not in shown], _NOT_SHOWN, root)


def _with_order(gpus: list[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """CUDA numbers unlike cards by speed unless told otherwise, NVML by slot: then a number may mean another."""
    value = environment.get("CUDA_VISIBLE_DEVICES", "")
    by_number = any(part.strip().isdigit() for part in value.split(","))
    alike = len({gpu.name for gpu in gpus}) < 2
    if not by_number or alike or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return gpus
    said = "CUDA may number these unlike cards differently: CUDA_DEVICE_ORDER=PCI_BUS_ID makes it sure"
    return [replace(gpu, notes=(*gpu.notes, said)) for gpu in gpus]


def _one_part(gpus: list[Gpu]) -> list[Gpu]:
    parts = [gpu for gpu in gpus if gpu.part_of and not gpu.problem]
    return [
        replace(gpu, problem=_ONE_PART) if any(gpu is part for part in parts[1:]) else gpu for gpu in gpus
    ]


def _read(nvml: Any, handle: Any, index: int, driver: str, memory: Memory) -> list[tuple[Gpu, Names]]:
    """The GPU, or the parts it is split into; each with the names CUDA_VISIBLE_DEVICES knows it by."""
    name = nvml.nvmlDeviceGetName(handle)
    names = (str(index), *_told(nvml, lambda: (nvml.nvmlDeviceGetUUID(handle),), ()))
    gpu = Gpu(name, "NVIDIA", driver=driver, backends=("CUDA", "Vulkan"), pci_id=_pci_id(nvml, handle))
    version = _told(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle), None)
    gpu = replace(gpu, compute_capability="{}.{}".format(*version) if version else None)
    if _INSIDE_A_CHIP.search(name):
        return [(shared_gpu(gpu, memory), names)]
    try:
        own = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        return [(replace(gpu, problem=f"memory not told by NVML: {error}"), names)]
    gpu = replace(gpu, total_bytes=own.total, free_bytes=own.free, notes=_notes(nvml, handle, name))
    return _parts(nvml, handle, gpu, names) if _is_split(nvml, handle) else [(gpu, names)]


def _notes(nvml: Any, handle: Any, name: str) -> Names:
    notes = []
    if _told(nvml, lambda: nvml.nvmlDeviceGetVirtualizationMode(handle), 0) == _VGPU:
        notes.append("a vGPU: its card is shared with other machines, which may slow it")
    if _BESIDE_GRACE.search(name):
        notes.append("its memory may be counted in the system's RAM too, as a NUMA node without processors")
    return tuple(notes)


def _is_split(nvml: Any, handle: Any) -> bool:
    current, _pending = _told(
        nvml, lambda: nvml.nvmlDeviceGetMigMode(handle), (0, 0)
    )  # most cards know no MIG
    return bool(current)


def _parts(nvml: Any, handle: Any, whole: Gpu, names: Names) -> list[tuple[Gpu, Names]]:
    found: list[tuple[Gpu, Names]] = []
    for at in range(_told(nvml, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle), 0)):
        part = _told(nvml, lambda: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, at), None)  # noqa: B023
        if part is not None:
            found.append((_part(nvml, part, whole), _part_names(nvml, part, names, first=not found)))
    problem = "split by MIG, and no part has been made yet (`nvidia-smi mig -cgi`)"
    return found or [(replace(whole, free_bytes=None, problem=problem), names)]


def _part(nvml: Any, part: Any, whole: Gpu) -> Gpu:
    own = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(part), None)
    has = _told(nvml, lambda: nvml.nvmlDeviceGetAttributes(part), None)
    name = _told(nvml, lambda: nvml.nvmlDeviceGetName(part), whole.name)
    if "MIG" not in name:
        profile = f" {has.gpuInstanceSliceCount}g.{round(has.memorySizeMB / 1024)}gb" if has else ""
        name = f"{whole.name} MIG{profile}"
    slices = (
        4 if "A30" in whole.name else 7
    )  # of a whole GPU. Source: NVIDIA MIG User Guide, supported profiles
    return replace(
        whole,
        name=name,
        total_bytes=own.total if own else None,
        free_bytes=own.free if own else None,
        problem=None if own else "memory not told by NVML",
        part_of=whole.name,
        memory_share=own.total / whole.total_bytes if own and whole.total_bytes else 1.0,
        compute_share=min(1.0, has.gpuInstanceSliceCount / slices) if has else 1.0,
    )


def _part_names(nvml: Any, part: Any, names: Names, *, first: bool) -> Names:
    """``MIG-<uuid>``, the older ``MIG-GPU-<uuid>/<instance>/<compute>``; a card's number means its first part."""
    own = _told(nvml, lambda: (nvml.nvmlDeviceGetUUID(part),), ())
    instances = _told(
        nvml, lambda: (nvml.nvmlDeviceGetGpuInstanceId(part), nvml.nvmlDeviceGetComputeInstanceId(part)), None
    )
    older = tuple(f"MIG-{uuid}/{instances[0]}/{instances[1]}" for uuid in names[1:]) if instances else ()
    return (*(names[:1] if first else ()), *own, *older)


def _told(nvml: Any, ask: Callable[[], Any], otherwise: Any) -> Any:
    """What NVML answers, or `otherwise` where this driver or card does not."""
    try:
        return ask()
    except nvml.NVMLError:
        return otherwise


def _pci_id(nvml: Any, handle: Any) -> str:
    """Vendor and device as 10de:2335; NVML has the device in the upper and the vendor in the lower half."""
    both = getattr(nvml.nvmlDeviceGetPciInfo(handle), "pciDeviceId", 0)
    return f"{both & 0xFFFF:04x}:{both >> 16:04x}" if both else ""


def _address(info: Any) -> str:
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def _unread(cards: Sequence[pci.GpuDevice], problem: str, root: Path) -> list[Gpu]:
    reasons = (
        (card, pci.unbound(card, "nvidia") if card.driver in ("vfio-pci", "nouveau") else None)
        for card in cards
    )
    return [
        Gpu(_name(card, root), "NVIDIA", problem=reason or problem, pci_id=card.id)
        for card, reason in reasons
    ]


def _name(card: pci.GpuDevice, root: Path) -> str:
    """The kernel module's name for the card when it is loaded, else its name or number on the bus."""
    told = kernel_files.text(root / f"proc/driver/nvidia/gpus/{card.address}/information")
    model = next((line.partition(":")[2].strip() for line in told.splitlines() if line[:5] == "Model"), "")
    return model or gpu_name(card, root)


def _nameless(error: Exception, root: Path) -> list[Gpu]:
    """One GPU for a driver that left traces though neither the bus nor NVML shows a card."""
    if not (root / "proc").exists():
        return []
    return [Gpu("NVIDIA GPU", "NVIDIA", problem=f"the driver is there, but NVML could not be used: {error}")]
