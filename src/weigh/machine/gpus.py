"""Every GPU of the machine, also those that weigh cannot read: a GPU is never left out silently."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weigh.machine import pci
from weigh.machine.amd import read_amd
from weigh.machine.boards import Board, jetson_gpu, read_board
from weigh.machine.commands import Run, output
from weigh.machine.intel import Query, read_intel
from weigh.machine.machine import Gpu, Memory
from weigh.machine.memory import read_memory
from weigh.machine.nvidia import read_nvidia
from weigh.machine.wsl import read_wsl_gpus


def read_gpus(
    root: Path = Path("/"),
    nvml: Any = None,
    *,
    memory: Memory | None = None,
    system: str = "",
    run: Run = output,
    query: Query | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Gpu, ...]:
    """All GPUs: NVIDIA's, AMD's, Intel's, then those that are known to be there and no more.

    Args:
        memory: RAM as `read_memory` tells it, which some GPUs share.
        nvml, run, query, environment: stand in for NVML, commands, Intel's drivers and `os.environ`, to play
            back a recording.
        system: as `platform.system` names it. On macOS the system's commands are asked.
    """
    memory = memory or read_memory(root, run=run)
    if (system or platform.system()) == "Darwin":
        from weigh.machine.apple import read_gpus_apple

        return tuple(read_gpus_apple(memory, run))
    devices, board = pci.gpu_devices(root), read_board(root)
    inside = jetson_gpu(board, memory, root)
    found = [inside] if inside else read_nvidia(devices, memory, root, nvml, environment)
    found += read_amd(devices, memory, root, environment)
    found += read_intel(devices, memory, root, environment, query)
    found += _asahi(board)
    return (*found, *read_wsl_gpus(found, root))


def _asahi(board: Board | None) -> list[Gpu]:
    """Linux on a Mac: the chip's name is in its model (`Apple MacBook Pro (14-inch, M1 Pro, 2021)`)."""
    if board is None or not any(name.startswith("apple,") for name in board.compatible):
        return []
    return [
        Gpu(
            f"GPU of {board.model}",
            "Apple",
            problem="Linux reaches it through Vulkan only; weigh does not read it",
        )
    ]
