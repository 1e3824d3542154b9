"""Processor time of processes, and of this program with all that it started, however that ended.

The kernel adds the time of a process to its parent's when the parent waits for it. What ends after its parent
is waited for by the system instead, as the workers of an engine that is killed as a whole: their time is handed
to `count_unwaited` before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from weigh.machine import kernel_files
from weigh.machine.processes import descendants

_unwaited_s: list[float] = []


def cpu_s(pid: int, root: Path = Path("/"), *, waited_for: bool = False) -> float | None:
    """Processor seconds a process has taken, user and system; None when it is gone.

    Source: proc_pid_stat(5), fields 14 to 17, in clock ticks.

    Args:
        waited_for: those of its children that have ended too.
    """
    _, _, after = kernel_files.text(root / f"proc/{pid}/stat").rpartition(")")
    fields = after.split()
    if len(fields) < 15:
        return None
    return sum(map(int, fields[11 : 15 if waited_for else 13])) / os.sysconf("SC_CLK_TCK")


def program_s() -> float:
    """Seconds of this process and of all that it has started, whether it runs or has ended."""
    running = [cpu_s(pid, waited_for=True) or 0.0 for pid in descendants(os.getpid())]
    return sum(os.times()[:4]) + sum(running) + sum(_unwaited_s)


def count_unwaited(pids: Iterable[int]) -> None:
    """Keep the time of processes that are killed now and whose parent will not wait for them."""
    _unwaited_s.append(sum(cpu_s(pid, waited_for=True) or 0.0 for pid in pids))
