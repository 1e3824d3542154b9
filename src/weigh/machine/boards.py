"""Boards with one chip: Raspberry Pi, Orange Pi, NVIDIA Jetson; known by the device tree they start with.

A Jetson's GPU computes from the system's memory. NVML is missing on its older systems; on newer ones it knows
the GPU's name (`Orin (nvgpu)`, `NVIDIA Thor`) and refuses to tell its memory, so memory is the system's here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from weigh.machine import kernel_files
from weigh.machine.commands import Run, output
from weigh.machine.machine import Gpu, Memory

POWER_MODE = ("nvpmodel", "-q")
# Chip -> (name of the GPU's family, compute capability). Source: NVIDIA, "CUDA GPUs", Jetson products.
_TEGRA = {
    "nvidia,tegra210": ("NVIDIA Jetson Nano", "5.3"),
    "nvidia,tegra186": ("NVIDIA Jetson TX2", "6.2"),
    "nvidia,tegra194": ("NVIDIA Jetson AGX Xavier", "7.2"),
    "nvidia,tegra234": ("NVIDIA Jetson AGX Orin", "8.7"),
    "nvidia,tegra264": ("NVIDIA Jetson T5000", "11.0"),
}
# Module -> name as the table of devices has it. Source: NVIDIA, Jetson Linux Developer Guide, "Quick Start".
_MODULES = {
    "p3448": "NVIDIA Jetson Nano",
    "p3668": "NVIDIA Jetson Xavier NX",
    "p2888": "NVIDIA Jetson AGX Xavier",
    "p3701": "NVIDIA Jetson AGX Orin",
    "p3767-0000": "NVIDIA Jetson Orin NX",
    "p3767-0001": "NVIDIA Jetson Orin NX",
    "p3767": "NVIDIA Jetson Orin Nano",
}


@dataclass(frozen=True, slots=True)
class Board:
    """What a device tree says of its board.

    Attributes:
        model: ``Raspberry Pi 5 Model B Rev 1.0``.
        compatible: board and chip, the closest first: ``("raspberrypi,5-model-b", "brcm,bcm2712")``.
    """

    model: str
    compatible: tuple[str, ...]

    @property
    def is_jetson(self) -> bool:
        return any(name.startswith("nvidia,tegra") for name in self.compatible)


def read_board(root: Path = Path("/")) -> Board | None:
    """None for a machine that does not start with a device tree, such as a PC."""
    tree = root / "proc/device-tree"
    model = kernel_files.text(tree / "model")
    names = kernel_files.text(tree / "compatible").split("\0")
    return Board(model, tuple(filter(None, names))) if model else None


def board_notes(board: Board | None, run: Run = output) -> tuple[str, ...]:
    """A Jetson's power mode, which sets the clocks of its cores and memory."""
    if board is None or not board.is_jetson:
        return ()
    mode = re.search(r"NV Power Mode: *(\S+)", run(POWER_MODE))
    return (f"power mode {mode[1]}: `nvpmodel` sets another, and with it other speeds",) if mode else ()


def jetson_gpu(board: Board | None, memory: Memory, root: Path = Path("/")) -> Gpu | None:
    """The GPU inside a Jetson's chip; None on other boards."""
    if board is None or not board.is_jetson:
        return None
    chip = next((name for name in board.compatible if name in _TEGRA), "")
    family, capability = _TEGRA.get(chip, ("NVIDIA Jetson", ""))
    return shared_gpu(
        Gpu(
            name=_module(board) or family,
            vendor="NVIDIA",
            driver=_release(root),
            compute_capability=capability or None,
            backends=("CUDA",),
        ),
        memory,
    )


def shared_gpu(gpu: Gpu, memory: Memory) -> Gpu:
    """An NVIDIA GPU inside a chip (Jetson, GB10) with its share of the system's memory."""
    from weigh.machine.devices import shared_share

    share, why = shared_share("soc", "NVIDIA", memory.total_bytes)
    total = int(memory.total_bytes * share)
    said = f"shares the system's memory, up to {share:.0%} of it ({why})"
    free = min(total, memory.available_bytes)
    return replace(gpu, total_bytes=total, free_bytes=free, unified=True, notes=(*gpu.notes, said))


def _module(board: Board) -> str:
    """By the module's part number in ``nvidia,p3768-0000+p3767-0005``; the super mode of a Nano by its name."""
    said = " ".join(board.compatible)
    name = next((name for part, name in _MODULES.items() if part in said), "")
    return f"{name} Super" if name.endswith("Orin Nano") and "super" in said + board.model.lower() else name


def _release(root: Path) -> str | None:
    """``L4T 36.4.4``, from ``# R36 (release), REVISION: 4.4, ...``."""
    found = re.search(r"R(\d+).*?REVISION: ([\d.]+)", kernel_files.text(root / "etc/nv_tegra_release", 4096))
    return f"L4T {found[1]}.{found[2]}" if found else None
