"""Processes told apart by number and start time, so that a number given anew is never mistaken; their trees.

A signal goes through a handle of the process (`pidfd`) whose start time is looked at again once it is held:
no other process can come in between. Source of the fields: proc_pid_stat(5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

_INTERPRETERS = ("python", "node", "bash", "sh", "env", "ruby", "perl", "uv")
_LISTEN = "LISTEN"


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """`started` is in clock ticks since boot on Linux, in seconds of the system's clock elsewhere."""

    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    parent: int
    state: str


def process_of(pid: int) -> Process | None:
    """The process that has this number now; None when it has ended, a zombie included."""
    stat = _stat(pid)
    return stat.process if stat is not None and stat.state not in "ZX" else None


def is_alive(process: Process) -> bool:
    return process_of(process.pid) == process


def is_stopped(process: Process) -> bool:
    """Whether it was paused, by whomever."""
    stat = _stat(process.pid)
    return stat is not None and stat.process == process and stat.state in "Tt"


def send(process: Process, number: signal.Signals) -> bool:
    """Signal this very process; False when it has ended.

    Raises:
        PermissionError: it is another user's.
    """
    if not hasattr(os, "pidfd_open"):
        return _send_by_number(process, number)
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel before 5.3, or a container that forbids the call
        return _send_by_number(process, number)
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def _send_by_number(process: Process, number: signal.Signals) -> bool:
    if not is_alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


# --- trees -----------------------------------------------------------------------------------------------


class Tree:
    """Processes that were named and all they started; who once belonged stays when its parent ends.

    This very process never belongs, whoever started it.

    Args:
        roots: the named ones, asked again each time.
    """

    def __init__(self, roots: Callable[[], Iterable[Process]]) -> None:
        self._roots = roots
        self._known: dict[Process, None] = {}

    def members(self) -> tuple[Process, ...]:
        """Those alive now, parents before their children."""
        found: dict[Process, None] = {}
        waiting = [*self._roots(), *self._known]
        while waiting:
            process = waiting.pop(0)
            if process in found or process.pid == os.getpid() or not is_alive(process):
                continue
            found[process] = None
            waiting += children(process)
        self._known = found
        return tuple(found)

    @property
    def last_members(self) -> tuple[Process, ...]:
        """As of the last look, which costs nothing."""
        return tuple(self._known)

    def signal(self, number: signal.Signals, which: Callable[[Process], bool] | None = None) -> list[Process]:
        """Signal all members, or those that `which` picks; the ones that got it.

        What they start meanwhile is caught too: the tree is looked at again until nobody is new. Another
        user's process is passed over.
        """
        reached: dict[Process, None] = {}
        refused: set[Process] = set()
        while fresh := [p for p in self.members() if p not in reached and p not in refused]:
            for process in fresh:
                with contextlib.suppress(PermissionError):
                    if (which is None or which(process)) and send(process, number):
                        reached[process] = None
            refused |= {process for process in fresh if process not in reached}
        return list(reached)


def children(process: Process) -> list[Process]:
    """What a process started itself and has not ended; zombies are passed over."""
    if not _tells_children():
        return _children_elsewhere(process.pid)
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process.pid}/task"):  # noqa: PTH208, half the cost of paths
            with contextlib.suppress(OSError):
                pids += map(int, _read(f"/proc/{process.pid}/task/{thread}/children").split())
    stats = (_stat(pid) for pid in pids)
    return [
        stat.process
        for stat in stats
        if stat is not None and stat.parent == process.pid and stat.state not in "ZX"
    ]


@cache
def _tells_children() -> bool:
    return Path("/proc/thread-self/children").exists()


def _children_elsewhere(pid: int) -> list[Process]:
    import psutil

    with contextlib.suppress(psutil.Error):
        found = (process_of(child.pid) for child in psutil.Process(pid).children())
        return [process for process in found if process is not None]
    return []


def descendants(pid: int) -> tuple[int, ...]:
    """Numbers of all that a process started and that runs, without itself."""
    found = [child.pid for child in children(Process(pid, 0))]
    return (*found, *(below for child in found for below in descendants(child)))


# --- by name ---------------------------------------------------------------------------------------------


def everyone() -> Iterator[tuple[Process, tuple[str, ...]]]:
    """Each process that runs a program, with the names it goes by; not this one, nor those that led to it."""
    own = _line_of_descent()
    for pid in _pids():
        if pid in own:
            continue
        process, names = process_of(pid), names_of(pid)
        if process is not None and names:
            yield process, names


def named(name: str) -> list[Process]:
    return [process for process, names in everyone() if name in names]


def names_of(pid: int) -> tuple[str, ...]:
    """The program's, the one it gave itself, and the script's or module's that an interpreter runs."""
    if sys.platform != "linux":
        return _names_elsewhere(pid)
    try:
        own = _read(f"/proc/{pid}/comm").decode(errors="replace").strip()
        line = _read(f"/proc/{pid}/cmdline").decode(errors="replace")
    except OSError:
        return ()
    words = [word for word in line.split("\0") if word]
    return _names(own, words) if words else ()  # without words: a thread of the kernel


def _names(own: str, words: list[str]) -> tuple[str, ...]:
    names = [own, PurePath(words[0]).name]
    if names[1].startswith(_INTERPRETERS):
        names.append(_script(words[1:]))
    return tuple(dict.fromkeys(name for name in names if name))


def _script(words: list[str]) -> str:
    """The first word that is no option of the interpreter's; a module's name follows `-m`. "" for none."""
    rest = iter(words)
    for word in rest:
        if word == "-c":
            return ""
        if word == "-m" or not word.startswith("-"):
            return PurePath(next(rest, "") if word == "-m" else word).name
        if word in ("-W", "-X"):
            next(rest, None)
    return ""


def _names_elsewhere(pid: int) -> tuple[str, ...]:
    import psutil

    with contextlib.suppress(psutil.Error, IndexError):
        process = psutil.Process(pid)
        return _names(process.name(), process.cmdline())
    return ()


def leads_here(process: Process) -> bool:
    """Whether it is this process or one of those that started it."""
    return process.pid in _line_of_descent()


def _line_of_descent() -> set[int]:
    pid, line = os.getpid(), set[int]()
    while pid > 0 and pid not in line:
        line.add(pid)
        stat = _stat(pid)
        pid = stat.parent if stat else 0
    return line


def listening_ports(members: Iterable[Process]) -> tuple[int, ...]:
    """TCP ports on which they wait for connections, as far as this user may know."""
    import psutil

    ports: set[int] = set()
    for process in members:
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(process.pid).net_connections(kind="tcp"):
                if connection.status == _LISTEN and connection.laddr:
                    ports.add(connection.laddr.port)
    return tuple(sorted(ports))


# --- what the system tells -------------------------------------------------------------------------------


def _pids() -> list[int]:
    if sys.platform != "linux":
        import psutil

        return psutil.pids()
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _stat(pid: int) -> _Stat | None:
    if sys.platform != "linux":
        return _stat_elsewhere(pid)
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        return _Stat(Process(pid, int(fields[19])), int(fields[1]), fields[0].decode())
    except (OSError, IndexError, ValueError):
        return None


def _stat_elsewhere(pid: int) -> _Stat | None:
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        state = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}.get(process.status(), "R")
        return _Stat(Process(pid, process.create_time()), process.ppid(), state)
    return None


def _read(path: str) -> bytes:
    """Without the cost of a file object: these are read many times a second."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 1 << 16)
    finally:
        os.close(handle)
