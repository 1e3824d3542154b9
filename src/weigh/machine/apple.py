"""Macs: processor, memory and GPU, as the system's own commands tell them.

On Apple silicon the GPU computes from the same memory as the processor, up to what macOS lets it keep there:
`iogpu.wired_limit_mb` when someone has set it, else the share of `devices.shared_share`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from weigh.machine.commands import Run, output
from weigh.machine.machine import Cpu, Gpu, Memory
from weigh.units import MIB, parse_bytes

SYSCTL = ("sysctl", "hw", "machdep.cpu", "iogpu", "kern.hv_vmm_present", "vm.swapusage")
VM_STAT = ("vm_stat",)
GPU_CORES = ("ioreg", "-r", "-d", "1", "-c", "AGXAccelerator")
DISPLAYS = ("system_profiler", "SPDisplaysDataType")
# Key of `sysctl` -> name, for the sets that ggml has kernels for. Source: Apple, "Determining Instruction
# Set Characteristics".
_FEATURES = {
    "hw.optional.neon": "NEON",
    "hw.optional.AdvSIMD": "NEON",
    "hw.optional.arm.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "I8MM",
    "hw.optional.arm.FEAT_BF16": "BF16",
    "hw.optional.arm.FEAT_SME": "SME",
    "hw.optional.arm.FEAT_SME2": "SME2",
}
_INTEL_FEATURES = {
    "AVX1.0": "AVX",
    "AVX2": "AVX2",
    "FMA": "FMA",
    "F16C": "F16C",
    "BMI2": "BMI2",
    "AVX512F": "AVX512F",
}


def read_cpu_apple(run: Run = output) -> Cpu | None:
    """The processor; None where `sysctl` tells nothing.

    Cores are the performance cores: engines compute on those, and a thread on an efficiency core makes all
    others wait. The last-level cache is what those cores share of L2; the system's own cache is not told.
    """
    told = _sysctl(run)
    logical = _number(told, "hw.logicalcpu") or _number(told, "hw.ncpu")
    if not logical:
        return None
    cores = _number(told, "hw.perflevel0.physicalcpu") or _number(told, "hw.physicalcpu") or logical
    return Cpu(
        model=told.get("machdep.cpu.brand_string", "unknown processor"),
        architecture="arm64" if told.get("hw.optional.arm64") == "1" else "x86_64",
        logical_cpus=logical,
        physical_cores=cores,
        allowed_cpus=float(logical),
        instruction_sets=_instruction_sets(told),
        l3_bytes=_cache_bytes(told),
        numa_nodes=1,
        virtual=told.get("kern.hv_vmm_present") == "1",
    )


def _sysctl(run: Run) -> dict[str, str]:
    """Name -> value, from lines such as ``hw.memsize: 38654705664``."""
    return _said(run(SYSCTL))


@lru_cache(maxsize=1)
def _said(printed: str) -> dict[str, str]:
    lines = (line.partition(": ") for line in printed.splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def _number(told: dict[str, str], name: str) -> int:
    value = told.get(name, "")
    return int(value) if value.isdigit() else 0


def _instruction_sets(told: dict[str, str]) -> tuple[str, ...]:
    names = [name for key, name in _FEATURES.items() if told.get(key) == "1"]
    keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
    flags = " ".join(told.get(key, "") for key in keys).split()
    names += [name for flag, name in _INTEL_FEATURES.items() if flag in flags]
    return tuple(dict.fromkeys(names))


def _cache_bytes(told: dict[str, str]) -> int | None:
    """L3 of an Intel Mac; on Apple silicon the L2 of a cluster, times the clusters of performance cores."""
    cores, sharing = (_number(told, f"hw.perflevel0.{name}") for name in ("physicalcpu", "cpusperl2"))
    clusters = -(-cores // sharing) if sharing else 1
    return _number(told, "hw.l3cachesize") or clusters * _number(told, "hw.perflevel0.l2cachesize") or None


def read_memory_apple(run: Run = output) -> Memory | None:
    """RAM; None where `sysctl` and `vm_stat` tell nothing.

    Available is what is free, read ahead (speculative) or inactive, as psutil counts it.
    """
    told, pages = _sysctl(run), _vm_stat(run(VM_STAT))
    total = _number(told, "hw.memsize")
    if not total or not pages:
        return None
    free = sum(pages.get(f"Pages {kind}", 0) for kind in ("free", "speculative", "inactive"))
    swap = {name: parse_bytes(value) for name, value in _swap(told.get("vm.swapusage", "")).items()}
    return Memory(
        total_bytes=total,
        available_bytes=min(total, free),
        page_cache_bytes=pages.get("File-backed pages", 0),
        swap_total_bytes=swap.get("total", 0),
        swap_free_bytes=swap.get("free", 0),
    )


def _vm_stat(printed: str) -> dict[str, int]:
    """Name -> bytes, from lines such as ``Pages free:    3857.`` below a line with the size of a page."""
    size = re.search(r"page size of (\d+) bytes", printed)
    rows = re.findall(r'^"?([^":\n]+)"?:\s+(\d+)\.?$', printed, re.MULTILINE)
    return {name: int(count) * int(size[1]) for name, count in rows} if size else {}


def _swap(said: str) -> dict[str, str]:
    """``total = 2048.00M  used = 1100.00M  free = 948.00M  (encrypted)``."""
    return dict(re.findall(r"(\w+) = ([\d.]+[KMG])", said))


def read_gpus_apple(memory: Memory, run: Run = output) -> list[Gpu]:
    """The GPU of Apple silicon; of an Intel Mac those that the system lists, which weigh does not read."""
    told = _sysctl(run)
    chip = told.get("machdep.cpu.brand_string", "")
    if not chip.startswith("Apple"):
        names = re.findall(r"^\s*Chipset Model: (.+)$", run(DISPLAYS), re.MULTILINE)
        return [
            Gpu(name, name.split()[0], problem="GPUs of Intel Macs are not read by weigh") for name in names
        ]
    cores = _gpu_cores(run)
    limit, why = _gpu_limit(told, memory)
    return [
        Gpu(
            name=f"{chip} ({cores}-core GPU)" if cores else chip,
            vendor="Apple",
            total_bytes=limit,
            free_bytes=min(limit, memory.available_bytes),
            unified=True,
            backends=("Metal",),
            notes=(why,),
        )
    ]


def _gpu_cores(run: Run) -> int:
    """From the registry of devices (some ms), else from `system_profiler` (a quarter of a second)."""
    found = re.search(r'"gpu-core-count" = (\d+)', run(GPU_CORES))
    found = found or re.search(r"Total Number of Cores: (\d+)", run(DISPLAYS))
    return int(found[1]) if found else 0


def _gpu_limit(told: dict[str, str], memory: Memory) -> tuple[int, str]:
    from weigh.machine.devices import shared_share

    limit = _number(told, "iogpu.wired_limit_mb") * MIB
    if limit:
        return min(limit, memory.total_bytes), "may take what `iogpu.wired_limit_mb` sets"
    share, why = shared_share("soc", "Apple", memory.total_bytes)
    return int(memory.total_bytes * share), f"may take {share:.0%} of RAM ({why})"
