"""This machine in one value, from files and system calls alone: nothing here takes time to measure."""

from __future__ import annotations

import platform
from pathlib import Path

from weigh.machine.boards import board_notes, read_board
from weigh.machine.cpu import read_cpu
from weigh.machine.disk import read_disk
from weigh.machine.gpus import read_gpus
from weigh.machine.machine import Machine
from weigh.machine.memory import read_memory
from weigh.machine.wsl import wsl_notes


def probe(models_dir: Path | None = None) -> Machine:
    """What this process may use of the machine, now.

    Args:
        models_dir: where models will be kept, which need not exist yet; by default the user's cache folder.
    """
    memory, board = read_memory(), read_board()
    return Machine(
        os=f"{platform.system()} {platform.release()}".strip() or "unknown",
        cpu=read_cpu(),
        memory=memory,
        gpus=read_gpus(memory=memory),
        disk=read_disk(models_dir),
        board=board.model if board else "",
        notes=(*wsl_notes(memory), *board_notes(board)),
    )
