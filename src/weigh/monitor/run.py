"""Any command under the guard: its output and exit code are its own, and nothing of it is left running.

What the command's children leave behind becomes a child of this process (PR_SET_CHILD_SUBREAPER), so that
the whole tree is known to the end; and the command ends when this process is killed (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from weigh import units
from weigh.errors import BadInput, NotSupported
from weigh.machine.power import EnergyMeter
from weigh.machine.processes import Process, Tree, children, process_of, send
from weigh.machine.tree_memory import TreeMemory
from weigh.monitor.acts import Said, guarded_by
from weigh.monitor.guard import RESUME_SHARE, Act, Gauge, Guard, Limit, OnLimit
from weigh.monitor.sample import MemoryReader
from weigh.monitor.watch import Guarding, machine_gauges

FIRST_LOOK_S = 0.01  # then twice as long each time, up to
LOOK_S = 0.25  # between two looks at the tree's memory, for its peak
UNKILLABLE_S = 5.0  # that one is waited for which a driver or a disk holds
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_FROM_KERNEL = 0x80  # SI_KERNEL: a key pressed at the terminal, which the command has got as well
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_FORWARDED = _ENDING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
_WATCHED = _FORWARDED | {signal.SIGCHLD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that has ended.

    Attributes:
        exit_code: as a shell says it: 128 and the signal for one that was ended by a signal.
        peak_private_bytes: the highest seen of what cannot be dropped, over the tree; None when it ended before
            it was looked at.
        peak_bytes: the same with mapped file pages, or the kernel's own peak of one process if that is higher.
        cpu_s: processor time of the tree.
        joules: that the machine's counters rose by meanwhile; None where none can be read.
        energy_of: those counters.
        left: processes it left running, which were ended.
        acts: what the guard did.
    """

    command: tuple[str, ...]
    exit_code: int
    took_s: float
    peak_private_bytes: int | None
    peak_bytes: int | None
    cpu_s: float
    joules: float | None
    energy_of: tuple[str, ...]
    left: int
    acts: tuple[Act, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    command: Sequence[str],
    guarding: Guarding,
    *,
    max_memory_bytes: int | None = None,
    interval_s: float,
    said: Said = lambda _act: None,
) -> Finished | Act:
    """Run `command` to its end; an `Act` instead when the limit is reached already, so that it is not started.

    Args:
        guarding: of the machine's memory.
        max_memory_bytes: of the command's tree, what cannot be dropped; above it the tree is stopped (or
            warned of), since pausing it would free nothing.
        said: is told what the guard did, in another thread.

    Raises:
        BadInput: there is no such program, or no memory is left to it.
        NotSupported: outside Linux.
    """
    if sys.platform != "linux":
        raise NotSupported("commands are run under a guard on Linux only")
    if max_memory_bytes is not None and max_memory_bytes <= 0:
        raise BadInput("a limit of 0 leaves no memory to use")
    program = shutil.which(command[0])
    if program is None:
        raise BadInput(f"`{command[0]}` is not a program")
    on_limit = guarding.on_limit or OnLimit.STOP
    this = process_of(os.getpid())
    assert this is not None

    def own() -> list[Process]:
        return children(this)

    tree, seen, guarded = Tree(own), TreeMemory(Tree(own)), TreeMemory(Tree(own))  # one for each thread
    gauges = machine_gauges(guarding, on_limit, MemoryReader().read, interval_s)
    if (act := _reached_already(gauges)) is not None:
        return act
    if max_memory_bytes is not None:
        gauges.append(_tree_gauge(guarded, max_memory_bytes, on_limit, interval_s))
    guard = Guard(gauges, tree, what=os.path.basename(command[0]), grace_s=guarding.grace_s)  # noqa: PTH119
    return _Run(command, program, tree, guard, (seen, guarded), guarding.grace_s).to_the_end(said)


def _reached_already(gauges: Sequence[Gauge]) -> Act | None:
    for gauge in gauges:
        outlook = gauge.look(time.monotonic())
        if outlook is not None and outlook.reached and gauge.on_limit is not OnLimit.WARN:
            return Act(time.time(), "failed", f"{gauge.told(outlook)}: the command was not started", {})
    return None


def _tree_gauge(memory: TreeMemory, max_bytes: int, on_limit: OnLimit, interval_s: float) -> Gauge:
    usable_bytes = max(max_bytes, MemoryReader().read().usable_bytes)
    near_bytes = int(max_bytes * RESUME_SHARE)

    def read() -> tuple[int, int]:
        return memory.look(near_bytes).private_bytes, usable_bytes

    acts = OnLimit.WARN if on_limit is OnLimit.WARN else OnLimit.STOP
    return Gauge("the command's memory", read, Limit(bytes=max_bytes), acts, interval_s)


class _Run:
    """The command's life: started, looked after, waited for; then what it left is ended."""

    def __init__(
        self,
        command: Sequence[str],
        program: str,
        tree: Tree,
        guard: Guard,
        memories: tuple[TreeMemory, TreeMemory],
        grace_s: float,
    ) -> None:
        self._command, self._program = tuple(command), program
        self._tree, self._guard, self._grace_s = tree, guard, grace_s
        self._memory, self._guarded = memories
        self._cpu_s = 0.0
        self._status: int | None = None
        self._child: Process | None = None

    def to_the_end(self, said: Said) -> Finished:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        own_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units.KIB
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        began_s = time.monotonic()
        left: list[Process] = []
        try:
            popen = self._start(before)
            with EnergyMeter() as meter, guarded_by(self._guard, said):
                try:
                    look_s = FIRST_LOOK_S
                    while self._status is None:
                        self._wait(look_s, own_peak_bytes)
                        look_s = min(LOOK_S, look_s * 2)
                finally:
                    left = self._end_what_is_left(own_peak_bytes)
            popen.returncode = self._status  # it was waited for here
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0)
        return Finished(
            command=self._command,
            exit_code=self._exit_code(),
            took_s=time.monotonic() - began_s,
            peak_private_bytes=max(self._memory.peak_private_bytes, self._guarded.peak_private_bytes) or None,
            peak_bytes=max(self._memory.peak_bytes, self._guarded.peak_bytes) or None,
            cpu_s=self._cpu_s,
            joules=meter.joules,
            energy_of=tuple(meter.by_counter),
            left=0 if self._guard.stopped else len(left),
            acts=tuple(self._guard.acts),
        )

    def _start(self, mask: set[int | signal.Signals]) -> subprocess.Popen[bytes]:
        libc, this = ctypes.CDLL(None), os.getpid()

        def prepare() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != this:  # it was killed before that took effect
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        try:
            popen = subprocess.Popen(
                self._command,
                executable=self._program,
                close_fds=False,
                preexec_fn=prepare,  # noqa: PLW1509, no other thread of ours runs yet
            )
        except OSError as error:
            raise BadInput(f"`{self._command[0]}` cannot be started: {error.strerror}") from None
        self._child = process_of(popen.pid)
        self._pid = popen.pid
        return popen

    def _wait(self, at_most_s: float, own_peak_bytes: int) -> None:
        """Until something happens: a child ends, a signal comes, or it is time to look at the memory."""
        came = signal.sigtimedwait(_WATCHED, at_most_s)
        if came is None:
            self._memory.look()
        elif came.si_signo == signal.SIGCHLD:
            self._reap(own_peak_bytes)
        elif came.si_code != _FROM_KERNEL:
            self._forward(signal.Signals(came.si_signo))
        elif came.si_signo in _ENDING:
            self._guard.let_go("it is asked to end")

    def _forward(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(PermissionError):
                send(self._child, number)
        if number in _ENDING:
            self._guard.let_go("it is asked to end")

    def _reap(self, own_peak_bytes: int) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._cpu_s += used.ru_utime + used.ru_stime
            peak_bytes = used.ru_maxrss * units.KIB
            if peak_bytes > own_peak_bytes:  # else it may be ours: a process starts as a copy of its parent
                self._memory.at_least(peak_bytes)
            if pid == self._pid:
                self._status = status

    def _end_what_is_left(self, own_peak_bytes: int) -> list[Process]:
        """SIGTERM, then SIGKILL when the grace time is over or a second signal comes."""
        self._guard.let_go("the command has ended")
        left = self._tree.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + self._grace_s
        while self._tree.members() and time.monotonic() < deadline_s + UNKILLABLE_S:
            came = signal.sigtimedwait(_WATCHED, max(0.0, min(LOOK_S, deadline_s - time.monotonic())))
            self._reap(own_peak_bytes)
            asked = came is not None and came.si_signo in _ENDING
            if asked or time.monotonic() >= deadline_s:
                self._tree.signal(signal.SIGKILL)
        self._reap(own_peak_bytes)
        return left

    def _exit_code(self) -> int:
        """What the guard has stopped has not done what it should: it never counts as done."""
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        code = 128 - code if code < 0 else code
        return code or (128 + signal.SIGTERM if self._guard.stopped else 0)
