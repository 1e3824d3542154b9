"""This machine, a device that is only named, and the devices there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.cli.screens.facts import disturbed, facts, not_kept

if TYPE_CHECKING:
    from weigh.bench.here import Here
    from weigh.estimate.site import Site
    from weigh.machine import Gpu, Machine
    from weigh.machine.device_sheets import GpuSheet, HostSheet
    from weigh.machine.doctor import Finding
    from weigh.machine.target import Device, Target

# Instruction sets a person knows by name, most telling first.
_TELLING = ("AMX_INT8", "AVX512_VNNI", "AVX_VNNI", "AVX512F", "AVX2", "SVE", "I8MM", "DOTPROD", "NEON")


def _machine_facts(machine: Machine) -> list[tuple[str, str]]:
    cpu, memory = machine.cpu, machine.memory
    kernels = [name for name in _TELLING if name in cpu.instruction_sets][:3]
    threads = f"{cpu.threads} core{'s' if cpu.threads > 1 else ''}"
    limit = f"limited by {memory.limited_by}" if memory.limited_by else "no container limit"
    return [
        ("This machine", f"{cpu.model}, {threads} to use ({', '.join(kernels) or cpu.architecture})"),
        ("Memory", f"{units.gib(memory.available_bytes)} free of {units.gib(memory.usable_bytes)}, {limit}"),
        *(("GPU", _gpu(gpu)) for gpu in machine.gpus),
        *([] if machine.gpus else [("GPU", "none found")]),
        ("Disk", f"{units.gib(machine.disk.free_bytes)} free"),
    ]


def _gpu(gpu: Gpu) -> str:
    if gpu.problem:
        return f"{gpu.name}: {gpu.problem}"
    total = units.gib(gpu.total_bytes) if gpu.total_bytes else "memory unknown"
    free = f"{units.gib(gpu.free_bytes)} of {total} free" if gpu.free_bytes is not None else total
    shared = ", shared with the system" if gpu.unified else ""
    return f"{gpu.name}, {free}{shared}" + "".join(f"; {note}" for note in gpu.notes)


def _engine_line(here: Here) -> str:
    if here.engine is None:
        return "none installed; speeds are unknown (pip install xllamacpp)"
    if here.calibration is None:
        return f"{here.engine.name} ({here.engine_version}), not calibrated: speeds are unknown"
    known = here.calibration
    runs = len(here.learned.lessons) if here.learned else 0
    learned = f", corrected by {runs} run{'s' if runs > 1 else ''}" if runs else ""
    return (
        f"{here.engine.name} ({here.engine_version}), calibrated {known.created[:16].replace('T', ' ')} UTC"
        f" on {known.threads} threads, noise {known.noise:.0%}{learned}"
    )


def site_facts(site: Site) -> list[tuple[str, str]]:
    """What a setup was weighed on: this machine and its engine, or a device that is only named."""
    from weigh.bench.here import Here

    if isinstance(site, Here):
        known = [*_machine_facts(site.machine), ("Engine", _engine_line(site)), *disturbed(site)]
        return [*known, *(("Note", note) for note in site.target.assumed)]
    return _target_facts(site.target)


def _target_facts(target: Target) -> list[tuple[str, str]]:
    gpus = Counter(_device(gpu) for gpu in target.gpus)
    rows = [("GPU", f"{n} x {said}" if n > 1 else said) for said, n in gpus.items()]
    cores = f"{target.host_cores} cores, " if target.host_cores else ""
    rows.append(("Processor", f"{target.host.name}: {cores}{_memory_of(target.host, 'RAM')}"))
    if target.assumed:
        rows.append(("Assumed", "; ".join(target.assumed)))
    return rows


def _device(device: Device) -> str:
    return f"{device.name}: {_memory_of(device, 'shared with the processor' if device.unified else 'of its own')}"


def _memory_of(device: Device, whose: str) -> str:
    speed = f" at {units.gb_per_s(device.bandwidth_bytes_per_s)}" if device.bandwidth_bytes_per_s else ""
    return f"{units.gib(device.memory_bytes)} {whose}{speed}"


def show_target(target: Target) -> None:
    """A device that is only named, as far as its data sheet goes."""
    show(Bold(target.name))
    show()
    facts(_target_facts(target))
    show()
    rates = Grid(
        ("device", "backend", "FP16 matrix", "FP32", "link", "power"),
        right=("FP16 matrix", "FP32", "link", "power"),
    )
    for device in dict.fromkeys((*target.gpus, target.host)):
        rates.add(
            device.name,
            str(device.backend),
            _tera(device.fp16_flops_per_s),
            _tera(device.fp32_flops_per_s),
            units.gb_per_s(device.link_bytes_per_s) if device.link_bytes_per_s else "unknown",
            f"{device.tdp_watts:.0f} W" if device.tdp_watts else "unknown",
        )
    show(rates)
    facts(
        [
            ("Source", source)
            for source in dict.fromkeys(d.source for d in (*target.gpus, target.host))
            if source
        ]
    )


def _tera(flops_per_s: float | None) -> str:
    return f"{flops_per_s / 1e12:.3g} TFLOP/s" if flops_per_s else "unknown"


def show_devices(found: Sequence[GpuSheet | HostSheet], asked: str) -> None:
    if not found:
        show(f"no device weigh knows has `{asked}` in its name")
        return
    listed = Grid(
        ("device", "memory GB", "bandwidth", "generation", "release"), right=("memory GB", "bandwidth")
    )
    for sheet in found:
        sizes = "/".join(f"{size:g}" for size in sheet.sizes_gb)
        rate = units.gb_per_s(sheet.usual_bandwidth_bytes_per_s)
        listed.add(sheet.name, sizes, rate, sheet.generation, sheet.release)
    show(listed)


def show_doctor(findings: Sequence[Finding]) -> None:
    """What each probe saw, file by file and call by call."""
    for probe in dict.fromkeys(finding.probe for finding in findings):
        show(Bold(probe))
        facts([(f.source, f.saw) for f in findings if f.probe == probe])
        show()


def show_machine(here: Here) -> None:
    machine, calibration = here.machine, here.calibration
    cpu, memory, disk = machine.cpu, machine.memory, machine.disk
    rows = [
        ("System", machine.os),
        ("Processor", f"{cpu.model} ({cpu.architecture}{', virtual' if cpu.virtual else ''})"),
        (
            "Cores",
            f"{cpu.allowed_cpus:g} of {cpu.logical_cpus} CPUs allowed, {cpu.physical_cores} physical cores,"
            f" {cpu.numa_nodes} NUMA node{'s' if cpu.numa_nodes > 1 else ''}; engines use {cpu.threads} threads",
        ),
        ("Kernels", ", ".join(cpu.instruction_sets) or "unknown"),
        ("Last cache", units.gib(cpu.l3_bytes) if cpu.l3_bytes else "unknown"),
        (
            "Memory",
            f"{units.gib(memory.available_bytes)} free of {units.gib(memory.usable_bytes)}"
            + (f" ({memory.limited_by} limit; the machine has {units.gib(memory.total_bytes)})"
               if memory.limited_by else " (no container limit)")
            + f"; {units.gib(memory.page_cache_bytes)} of page cache can be dropped",
        ),
        (
            "Swap",
            f"{units.gib(memory.swap_free_bytes)} free of {units.gib(memory.swap_total_bytes)}"
            if memory.swap_total_bytes
            else "none",
        ),
        *(("GPU", _gpu(gpu)) for gpu in machine.gpus or ()),
        ("Disk", f"{units.gib(disk.free_bytes)} free of {units.gib(disk.total_bytes)} at {disk.path}"),
    ]  # fmt: skip
    if not machine.gpus:
        rows.insert(-1, ("GPU", "none found"))
    facts([*rows, ("Engine", _engine_line(here)), *disturbed(here), *not_kept(here)])
    if calibration is None:
        return
    show()
    facts(
        [
            (
                "Memory read",
                ", ".join(
                    f"{units.gb_per_s(value)} on {threads} thread{'s' if threads > 1 else ''}"
                    for threads, value, _, _ in calibration.memory_read
                ),
            ),
            (
                "Disk read",
                f"{units.gb_per_s(calibration.read_bytes_per_s)} when not in memory"
                if calibration.read_bytes_per_s
                else "could not be measured",
            ),
        ]
    )
    show()
    columns = ("weights in", "decode reads", "prefill computes")
    rates = Grid(columns, right=columns[1:])
    for name, rate in calibration.formats.items():
        rates.add(
            name,
            units.gb_per_s(rate.decode_bytes_per_s),
            f"{rate.prefill_flops_per_s / 1e9:.0f} GFLOP/s",
        )
    show(rates)
    show(
        f"\nA model left out of the fit ran at {1 / calibration.check_decode:.2f} (decode) and"
        f" {1 / calibration.check_prefill:.2f} (prefill) of the prediction; noise {calibration.noise:.0%};"
        f" measured in {units.seconds(calibration.took_s)}."
    )
