"""AMD GPUs, read from what the amdgpu driver tells in /sys: no ROCm is needed to look, nor for Vulkan.

A graphics card has memory of its own. An APU computes from the system's memory in two ways: a part that the
firmware set apart before Linux started (VRAM, which the system does not count as RAM), and RAM that the
driver lends it (GTT). With a small part set apart, the two are used as one pool, most of it RAM; with the
larger part set apart, the APU is like a card that has it for its own.

Sources: Documentation/gpu/amdgpu/driver-misc.rst and drivers/gpu/drm/amd/amdkfd/kfd_topology.c of Linux;
which targets are APUs: LLVM, AMDGPUUsage.rst, "Processors".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files, pci
from weigh.machine.machine import Gpu, Memory
from weigh.machine.pci import GpuDevice
from weigh.machine.pci_names import gpu_name, is_integrated
from weigh.machine.visible import left_visible
from weigh.units import gib

_APUS = (
    *("gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1037"),
    *("gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
)
# Targets that ROCm's math libraries are built for (rocBLAS of ROCm 7). From memory: unverified.
_ROCM = (
    *("gfx906", "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1101", "gfx1102"),
    *("gfx1103", "gfx1150", "gfx1151", "gfx1200", "gfx1201"),
)
_HIDING = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_UNTOLD = "its driver tells no memory"


def read_amd(
    cards: Sequence[GpuDevice],
    memory: Memory,
    root: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
    amdsmi: Any = None,
) -> list[Gpu]:
    """Every AMD GPU of the bus, in the order of ROCm (that of the kernel's nodes), the hidden ones last.

    Args:
        cards: what the bus shows; other vendors' are passed over.
        memory: RAM, which bounds what an APU can borrow.
        environment: `os.environ` unless a recording is played back.
        amdsmi: stands in for AMD's library, which is asked only where /sys tells no memory.
    """
    nodes = _kfd_nodes(root)
    own = sorted(
        (card for card in cards if card.vendor == pci.AMD),
        key=lambda card: list(nodes).index(card.address) if card.address in nodes else len(nodes),
    )
    gpus = [_read(card, nodes.get(card.address, {}), memory, root) for card in own]
    if any(gpu.problem == _UNTOLD for gpu in gpus):
        told = _asked_library(amdsmi)
        gpus = [_filled(gpu, told.get(card.address)) for gpu, card in zip(gpus, own, strict=True)]
    names = [_names(at, card) for at, card in enumerate(own)]
    return left_visible(gpus, names, _HIDING, os.environ if environment is None else environment)


def _names(at: int, card: GpuDevice) -> tuple[str, ...]:
    unique = kernel_files.text(card.folder / "unique_id")
    return (str(at), f"GPU-{unique}") if unique else (str(at),)


def _kfd_nodes(root: Path) -> dict[str, dict[str, int]]:
    """Slot -> properties of each GPU the compute driver knows, in its order."""
    nodes: dict[str, dict[str, int]] = {}
    folders = kernel_files.folders(root / "sys/class/kfd/kfd/topology/nodes")
    for folder in sorted(folders, key=lambda f: int(f.name) if f.name.isdigit() else 0):
        properties = kernel_files.table(folder / "properties")
        if properties.get("gfx_target_version"):
            nodes.setdefault(_slot(properties), properties)
    return nodes


def _slot(properties: Mapping[str, int]) -> str:
    """``0000:c1:00.0`` from a domain and a location of bus, device and function in 8, 5 and 3 bits."""
    location = properties.get("location_id", 0)
    domain, bus = properties.get("domain", 0), location >> 8
    return f"{domain:04x}:{bus:02x}:{location >> 3 & 31:02x}.{location & 7:x}"


def target_name(version: int) -> str:
    """``gfx90a`` from 90010: major, minor and stepping with two decimal digits for each of the latter."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if version > 0 else ""


def _read(card: GpuDevice, node: Mapping[str, int], memory: Memory, root: Path) -> Gpu:
    target = target_name(node.get("gfx_target_version", 0))
    gpu = Gpu(
        gpu_name(card, root),
        "AMD",
        driver=card.driver or None,
        problem=pci.unbound(card, "amdgpu"),
        pci_id=card.id,
        architecture=target,
    )
    if gpu.problem:
        return gpu
    gpu = _usable_through(gpu, card, root)
    vram, used = (kernel_files.number(card.folder / f"mem_info_vram_{what}") for what in ("total", "used"))
    if not vram or vram < 0:
        return replace(gpu, problem=gpu.problem or _UNTOLD)
    gpu = replace(gpu, total_bytes=vram, free_bytes=max(0, vram - (used or 0)))
    gpu = _as_apu(gpu, card, memory) if _is_apu(card, target) else gpu
    return _with_parts(gpu, card)


def _is_apu(card: GpuDevice, target: str) -> bool:
    """By the compiler's target when the compute driver tells it: MI300A and MI300X share one, so by name too."""
    return target in _APUS or bool(is_integrated(card))


def _as_apu(gpu: Gpu, card: GpuDevice, memory: Memory) -> Gpu:
    lent, used = (kernel_files.number(card.folder / f"mem_info_gtt_{what}") for what in ("total", "used"))
    own, lent = gpu.total_bytes or 0, min(lent or 0, memory.total_bytes)
    if "MI300A" in gpu.name:
        return replace(gpu, unified=True, notes=(*gpu.notes, "its memory is the system's"))
    if own >= lent:
        said = (
            f"{gib(own)} set apart for it by the firmware; up to {gib(lent)} of RAM could be borrowed beside"
        )
        return replace(gpu, notes=(*gpu.notes, said))
    free = (gpu.free_bytes or 0) + min(max(0, lent - (used or 0)), memory.available_bytes)
    said = f"{gib(own)} set apart by the firmware and up to {gib(lent)} of RAM lent by the driver"
    return replace(gpu, total_bytes=own + lent, free_bytes=free, unified=True, notes=(*gpu.notes, said))


def _with_parts(gpu: Gpu, card: GpuDevice) -> Gpu:
    """An Instinct can be shown to ROCm as several GPUs (DPX, QPX, CPX) that share its memory."""
    parts = kernel_files.text(card.folder / "current_compute_partition")
    if parts in ("", "SPX"):
        return gpu
    said = f"partitioned ({parts}): ROCm shows its parts as GPUs of their own, weigh counts it whole"
    return replace(gpu, notes=(*gpu.notes, said))


def _usable_through(gpu: Gpu, card: GpuDevice, root: Path) -> Gpu:
    """Vulkan goes through the render node alone; ROCm needs /dev/kfd too, and a target it is built for."""
    node, compute = pci.render_node(card, root), root / "dev/kfd"
    backends, problem, notes = [], None, gpu.notes
    if compute.exists() and gpu.architecture in _ROCM and os.access(compute, os.R_OK | os.W_OK):
        backends.append("ROCm")
    if node and os.access(node, os.R_OK | os.W_OK):
        backends.append("Vulkan")
    closed = pci.closed((compute, node), root)
    if closed and backends:
        notes = (*notes, closed)
    elif closed:
        problem = closed
    return replace(gpu, backends=tuple(backends), problem=problem, notes=notes)


def _asked_library(amdsmi: Any) -> dict[str, tuple[int, int]]:
    """Slot -> (total, used) bytes as AMD's own library tells; nothing where it is missing or fails.

    Without ROCm its import prints to stderr and raises KeyError, so whatever it does is caught here.
    """
    import contextlib
    import importlib
    import io

    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            amdsmi = amdsmi or importlib.import_module("amdsmi")
            amdsmi.amdsmi_init()
        try:
            kind = amdsmi.AmdSmiMemoryType.VRAM
            return {
                str(amdsmi.amdsmi_get_gpu_device_bdf(handle)).lower(): (
                    int(amdsmi.amdsmi_get_gpu_memory_total(handle, kind)),
                    int(amdsmi.amdsmi_get_gpu_memory_usage(handle, kind)),
                )
                for handle in amdsmi.amdsmi_get_processor_handles()
            }
        finally:
            amdsmi.amdsmi_shut_down()
    except Exception:  # a library of unknown version on an unknown system
        return {}


def _filled(gpu: Gpu, told: tuple[int, int] | None) -> Gpu:
    if gpu.problem != _UNTOLD or not told or told[0] <= 0:
        return gpu
    total, used = told
    return replace(
        gpu,
        total_bytes=total,
        free_bytes=max(0, total - used),
        problem=None,
        notes=(*gpu.notes, "memory by amdsmi"),
    )
