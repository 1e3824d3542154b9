"""Processors this process may use, and what their instruction sets are worth to inference kernels.

Three things narrow the CPUs of the system: affinity and cpusets name the CPUs allowed, a control group's
quota says how much of their time. Hyper-thread siblings share one core's arithmetic units, so a matrix
product gains nothing from the second sibling: cores are counted apart from logical CPUs.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from weigh.errors import BadInput
from weigh.machine import kernel_files
from weigh.machine.arm_parts import ARM_PARTS
from weigh.machine.cgroup import Level, levels
from weigh.machine.machine import Cpu
from weigh.units import parse_bytes

# Kernel flag -> name, for the sets that ggml and oneDNN have kernels for, plainest first.
# Source of the flags: arch/x86/include/asm/cpufeatures.h and arch/arm64/kernel/cpuinfo.c of Linux.
_X86_FLAGS = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "bmi2": "BMI2",
    "avx_vnni": "AVX_VNNI",
    "avx_vnni_int8": "AVX_VNNI_INT8",
    "avx512f": "AVX512F",
    "avx512bw": "AVX512BW",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx512_fp16": "AVX512_FP16",
    "amx_int8": "AMX_INT8",
    "amx_bf16": "AMX_BF16",
    "amx_fp16": "AMX_FP16",
}
_ARM_FLAGS = {
    "neon": "NEON",  # 32-bit name
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "DOTPROD",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
    "sme2": "SME2",
}
_S390_FLAGS = {"vxe": "VXE", "nnpa": "NNPA"}
_FLAGS = _X86_FLAGS | _ARM_FLAGS | _S390_FLAGS
# A whole /proc/cpuinfo costs 20 ms and more on a large server; this is its first 40 or so processors.
_CPUINFO_CHARACTERS = 1 << 16
_VIRTUAL_MAKERS = ("qemu", "kvm", "vmware", "virtualbox", "xen", "virtual machine", "bochs", "parallels")


def read_cpu(root: Path = Path("/"), architecture: str = "") -> Cpu:
    """Processors as /proc and /sys tell them; on macOS as `sysctl` does, else psutil's counts.

    With psutil's counts (Windows: not tested there) instruction sets, cache and quota stay unknown.
    """
    info = kernel_files.text(root / "proc/cpuinfo", _CPUINFO_CHARACTERS)
    if not info:
        return _cpu_elsewhere()
    system = root / "sys/devices/system"
    allowed = _allowed_cpus(root)
    return Cpu(
        model=_model(info, root),
        architecture=architecture or platform.machine(),
        logical_cpus=len(_online_cpus(root)),
        physical_cores=_physical_cores(system / "cpu", allowed),
        allowed_cpus=_allowed_share(len(allowed), root),
        instruction_sets=_instruction_sets(info),
        l3_bytes=_last_level_cache_bytes(system / "cpu", allowed),
        numa_nodes=_numa_nodes(system / "node", allowed),
        virtual=_is_virtual(info, root),
    )


def _fields(info: str, name: str, value: str = ".+") -> list[str]:
    """Values of one /proc/cpuinfo field, in order, without repeats; those that look as asked."""
    found = re.findall(rf"^{name}[ \t]*:[ \t]*({value})$", info, re.MULTILINE)
    return list(dict.fromkeys(value.strip() for value in found))


def _model(info: str, root: Path) -> str:
    """x86 says its name; ARM only part numbers, several for big and little cores; boards say theirs."""
    named = _fields(info, "model name")
    implementers = [int(value, 16) for value in _fields(info, "CPU implementer", "0x[0-9a-f]+")]
    parts = [int(value, 16) for value in _fields(info, "CPU part", "0x[0-9a-f]+")]
    known = [ARM_PARTS[key] for key in ((i, p) for i in implementers for p in parts) if key in ARM_PARTS]
    board = _fields(info, "Model") or [kernel_files.text(root / "proc/device-tree/model")]
    other = _fields(info, "(?:cpu|uarch|cpu model|Hardware)")  # POWER, RISC-V, MIPS, old ARM
    if known:
        return " + ".join(known) + (f" ({board[0]})" if board[0] else "")
    return next((name for name in (*named, *board, *other) if name), "unknown processor")


def _instruction_sets(info: str) -> tuple[str, ...]:
    """Those that every listed processor has."""
    lines = _fields(info, "(?:flags|Features|features)")
    shared = frozenset.intersection(*(frozenset(line.split()) for line in lines)) if lines else frozenset()
    names = [name for flag, name in _FLAGS.items() if flag in shared]
    # RISC-V lists one letter per extension: rv64imafdcv_zicsr; v is the vector extension.
    if any("v" in isa.partition("_")[0][4:] for isa in _fields(info, "isa")):
        names.append("RVV")
    return tuple(dict.fromkeys(names))


def _is_virtual(info: str, root: Path) -> bool:
    """x86 guests carry the `hypervisor` flag; others are known by their firmware's maker or device tree."""
    if any("hypervisor" in flags.split() for flags in _fields(info, "flags")):
        return True
    firmware = [
        kernel_files.text(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")
    ]
    said = " ".join(firmware).lower()
    return any(maker in said for maker in _VIRTUAL_MAKERS) or (root / "proc/device-tree/hypervisor").exists()


def _online_cpus(root: Path) -> frozenset[int]:
    listed = kernel_files.cpu_list(kernel_files.text(root / "sys/devices/system/cpu/online"))
    return listed or frozenset(range(os.cpu_count() or 1))


def _allowed_cpus(root: Path) -> frozenset[int]:
    """Online CPUs left by the affinity mask and by the cpuset of every control group above."""
    status = kernel_files.text(root / "proc/self/status")
    affinity = re.search(r"^Cpus_allowed_list:\s*(.+)$", status, re.MULTILINE)
    masks = [kernel_files.cpu_list(affinity[1])] if affinity else []
    masks += [_cpuset(level) for level in levels("cpuset", root)]
    allowed = _online_cpus(root)
    for mask in masks:
        allowed = allowed & mask or allowed  # an empty or foreign mask says nothing
    return allowed


def _cpuset(level: Level) -> frozenset[int]:
    name = "cpuset.effective_cpus" if level.version == 1 else "cpuset.cpus.effective"
    return kernel_files.cpu_list(kernel_files.text(level.folder / name))


def _allowed_share(cpus: int, root: Path) -> float:
    """CPUs' worth of time: the CPUs allowed, or the tightest quota above when it is lower."""
    quotas = (_quota(level) for level in levels("cpu", root))
    return min([float(cpus), *(quota for quota in quotas if quota is not None)])


def _quota(level: Level) -> float | None:
    """CPU time per wall time that one control group allows: 150000 us in 100000 us is 1.5."""
    if level.version == 1:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = (kernel_files.number(level.folder / name) for name in names)
    else:
        quota, period = kernel_files.pair(level.folder / "cpu.max")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _physical_cores(cpus: Path, allowed: frozenset[int]) -> int:
    """Cores that have at least one allowed CPU; a CPU whose siblings are unknown counts as a core."""
    cores, seen = 0, frozenset[int]()
    for cpu in sorted(allowed):
        if cpu not in seen:
            cores += 1
            seen |= kernel_files.cpu_list(kernel_files.text(cpus / f"cpu{cpu}/topology/thread_siblings_list"))
    return cores


def _last_level_cache_bytes(cpus: Path, allowed: frozenset[int]) -> int | None:
    """Bytes of the highest cache level, summed over the instances that allowed CPUs reach."""
    total, seen = 0, frozenset[int]()
    for cpu in sorted(allowed):
        if cpu in seen:
            continue
        caches = [
            index for index in kernel_files.folders(cpus / f"cpu{cpu}/cache") if index.name[:5] == "index"
        ]
        last = max(caches, key=lambda cache: kernel_files.number(cache / "level") or 0, default=None)
        if last is not None:
            total += _cache_bytes(kernel_files.text(last / "size"))
            seen |= kernel_files.cpu_list(kernel_files.text(last / "shared_cpu_list"))
    return total or None


def _cache_bytes(written: str) -> int:
    """``107520K`` is 107520 * 1024 bytes."""
    try:
        return parse_bytes(written)
    except BadInput:
        return 0


def _numa_nodes(nodes: Path, allowed: frozenset[int]) -> int:
    """NUMA nodes that hold an allowed CPU; 1 where the kernel tells of none."""
    lists = (
        kernel_files.text(node / "cpulist") for node in kernel_files.folders(nodes) if node.name[:4] == "node"
    )
    return max(1, sum(1 for listed in lists if kernel_files.cpu_list(listed) & allowed))


def _cpu_elsewhere() -> Cpu:
    if platform.system() == "Darwin":
        from weigh.machine.apple import read_cpu_apple

        told = read_cpu_apple()
        if told is not None:
            return told
    import psutil

    logical = os.cpu_count() or 1
    return Cpu(
        model=platform.processor() or "unknown processor",
        architecture=platform.machine(),
        logical_cpus=logical,
        physical_cores=psutil.cpu_count(logical=False) or logical,
        allowed_cpus=float(logical),
        instruction_sets=(),
        l3_bytes=None,
        numa_nodes=1,
        virtual=False,
    )
