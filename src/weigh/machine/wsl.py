"""Linux under Windows (WSL2): memory is what Windows lends, and GPUs are reached through /dev/dxg.

NVIDIA's driver brings its own library for that road, so NVML works there as usual. AMD's cards are reached by
ROCm with AMD's librocdxg, Intel's by oneAPI; neither tells Linux how much memory they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weigh.machine import kernel_files
from weigh.machine.machine import Gpu, Memory
from weigh.units import gib

_LIBRARIES = "usr/lib/wsl"
_ROCM_LIBRARIES = ("opt/rocm/lib/librocdxg.so", "usr/lib/x86_64-linux-gnu/librocdxg.so")
# A folder of a Windows driver -> its maker, by the names they give their .inf files.
_DRIVERS = {"nv": "NVIDIA", "u0": "AMD", "iigd": "Intel"}


def is_wsl(root: Path = Path("/")) -> bool:
    """Windows' kernel names itself so: ``5.15.167.4-microsoft-standard-WSL2``."""
    return "microsoft" in kernel_files.text(root / "proc/version", 4096).lower()


def wsl_notes(memory: Memory, root: Path = Path("/")) -> tuple[str, ...]:
    """Where memory's limit comes from: `.wslconfig` itself lies on Windows' side."""
    if not is_wsl(root):
        return ()
    return (
        f"WSL: Windows lends Linux {gib(memory.total_bytes)} of RAM, half of its own unless"
        " `memory=` in `.wslconfig` says otherwise",
    )


def read_wsl_gpus(found: Sequence[Gpu], root: Path = Path("/")) -> list[Gpu]:
    """GPUs of Windows that no other reader has found, each with the reason why its memory is unknown."""
    if not is_wsl(root) or not (root / "dev/dxg").exists():
        return []
    missing = sorted(_driver_makers(root) - {gpu.vendor for gpu in found})
    if not missing and not found:
        return [
            Gpu("GPU of Windows", "unknown", problem="reached only through /dev/dxg: its maker is not told")
        ]
    return [Gpu(f"{maker} GPU of Windows", maker, problem=_reason(maker, root)) for maker in missing]


def _driver_makers(root: Path) -> set[str]:
    folders = kernel_files.folders(root / _LIBRARIES / "drivers")
    starts = _DRIVERS.items()
    return {maker for folder in folders for start, maker in starts if folder.name.startswith(start)}


def _reason(maker: str, root: Path) -> str:
    if maker == "NVIDIA":
        return "NVML of the Windows driver could not be used: is it in /usr/lib/wsl/lib?"
    reached = "reached only through /dev/dxg, which tells no memory"
    if maker == "AMD":
        there = any((root / place).exists() for place in _ROCM_LIBRARIES)
        return (
            f"{reached}; ROCm {'can use it (librocdxg is there)' if there else 'needs librocdxg to use it'}"
        )
    return f"{reached}; oneAPI can use it"
