"""The machine that was probed as a target of estimates, with what its data sheets add."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from weigh.machine.device_names import (
    Ram,
    words,
)
from weigh.machine.device_sheets import GpuSheet, HostSheet, gpu_index, host_index
from weigh.machine.devices import backend_of, device_of, meant, said_memory
from weigh.machine.machine import Cpu, Gpu, Machine
from weigh.machine.target import Backend, Device, Target
from weigh.units import GIB


def target_here(machine: Machine, cpu_features: Sequence[str] | None = None) -> Target:
    """This machine as probed, with the data sheets of what it holds, whose names its GPUs then bear.

    Args:
        cpu_features: instruction sets the engine's build uses; all of the processor's when not given.
    """
    notes = list(machine.notes)
    sheet = host_sheet_of(machine.cpu)
    gpus = tuple(
        device for device in (_gpu_here(gpu, machine, notes) for gpu in machine.gpus) if device is not None
    )
    host = Device(
        name=machine.cpu.model,
        vendor=sheet.vendor if sheet else "",
        backend=Backend.CPU,
        memory_bytes=machine.memory.usable_bytes,
        free_bytes=machine.memory.available_bytes,
        bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s(Ram()) if sheet else None,
        fp32_flops_per_s=_fp32_here(machine.cpu, sheet),
        generation=sheet.generation if sheet else "",
        tdp_watts=sheet.tdp_watts if sheet else None,
        source=f"{sheet.source}; memory as probed" if sheet else "as probed",
    )
    if sheet:
        notes.append(f"memory of the processor: {said_memory(sheet, Ram())}")
    features = machine.cpu.instruction_sets if cpu_features is None else cpu_features
    return Target(
        name="this machine",
        host=host,
        gpus=gpus,
        host_cores=machine.cpu.threads,
        cpu_features=tuple(features),
        probed=True,
        assumed=tuple(notes),
    )


def _fp32_here(cpu: Cpu, sheet: HostSheet | None) -> float | None:
    return cpu.threads * sheet.clock_hz * sheet.fp32_flops_per_clock if sheet else None


def host_sheet_of(cpu: Cpu) -> HostSheet | None:
    """The processor's sheet; None for one that is not tabled, or of which a virtual machine has a part."""
    if cpu.virtual:
        return None
    board = re.search(r"\((.+)\)$", cpu.model)
    for said in ([board[1]] if board else []) + [cpu.model]:
        plain = re.sub(
            r"@.*|\b\d+(st|nd|rd|th) Gen\b|\b\d+-Cores?\b|\bw/.*|\bwith\b.*|\bModel\b.*|\bRev\b.*|0(?= @)",
            " ",
            said,
        )
        asked = words(plain)
        found = meant(asked, host_index())
        if len(found) == 1:
            return found[0]
    return None


def _gpu_here(gpu: Gpu, machine: Machine, notes: list[str]) -> Device | None:
    sheet = gpu_sheet_of(gpu, machine.memory.total_bytes)
    problem = gpu.problem or _better_without(gpu, sheet, machine)
    if problem or not gpu.total_bytes:
        notes.append(f"{gpu.name} left out: {problem or 'its memory is not known'}")
        return None
    notes.extend(f"{gpu.name}: {note}" for note in gpu.notes)
    free = gpu.total_bytes if gpu.free_bytes is None else gpu.free_bytes
    if sheet is None:
        notes.append(f"{gpu.name} is not in the table of devices: its speed is not known")
        backend = _backend_here(gpu, backend_of(gpu.vendor, ""))
        return Device(
            gpu.name, gpu.vendor, backend, gpu.total_bytes, free, unified=gpu.unified, source="as probed"
        )
    device = device_of(sheet, gpu.total_bytes, "memory as probed")
    here = replace(
        device,
        backend=_backend_here(gpu, device.backend),
        free_bytes=free,
        compute_capability=gpu.compute_capability or device.compute_capability,
        unified=gpu.unified,
    )
    return _part(here, gpu) if gpu.part_of else here


def _better_without(gpu: Gpu, sheet: GpuSheet | None, machine: Machine) -> str | None:
    """Why a GPU inside a PC's processor is no help: it reads the same memory no faster than the processor."""
    if not gpu.unified or gpu.vendor not in ("AMD", "Intel"):
        return None
    if any(other.total_bytes and not (other.unified or other.problem) for other in machine.gpus):
        return "it shares the system's memory, and there is a card with its own"
    return None if sheet else "it shares the system's memory, and its speed is not known"


def _backend_here(gpu: Gpu, usual: Backend) -> Backend:
    """The usual code path, or the best of those that the driver allows when it is not among them."""
    return usual if not gpu.backends or usual in gpu.backends else Backend(gpu.backends[0])


def _part(whole: Device, gpu: Gpu) -> Device:
    """A part of a split card: its share of the bandwidth and of the arithmetic.

    It keeps its own name, since what is published of the whole card does not hold for it.
    """

    def share(figure: float | None, of: float) -> float | None:
        return None if figure is None else figure * of

    return replace(
        whole,
        name=gpu.name,
        bandwidth_bytes_per_s=share(whole.bandwidth_bytes_per_s, gpu.memory_share),
        fp16_flops_per_s=share(whole.fp16_flops_per_s, gpu.compute_share),
        fp32_flops_per_s=share(whole.fp32_flops_per_s, gpu.compute_share),
    )


def gpu_sheet_of(gpu: Gpu, ram_bytes: int) -> GpuSheet | None:
    """The sheet of a GPU as its driver names it, of a part that of the whole; of variants the nearest in memory."""
    asked = words(gpu.part_of or gpu.name)
    found = meant(asked, gpu_index())
    if not found:
        return None
    size_gb = (ram_bytes if found[0].unified else (gpu.total_bytes or 0) / gpu.memory_share) / GIB

    def misfit(sheet: GpuSheet) -> tuple[float, bool]:
        gaps = [abs(size - size_gb) for size in sheet.sizes_gb]
        return round(min(gaps, default=0.0) / 2), not sheet.commonest

    return min(found, key=misfit)
