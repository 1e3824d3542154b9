"""A program in a process of its own: watched, limited, and ended with all it started.

The process is a child of the thread that watches it, which lives as long as the process does: Linux ends
the child when the *thread* that started it is gone (PR_SET_PDEATHSIG), so even a killed weigh leaves
nothing running.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from weigh import units
from weigh.engines import engine_log
from weigh.engines.engine import Limits, ProcessMemory
from weigh.errors import EngineCrashed, EngineError, EngineMissing, EngineTimeout, OutOfMemory
from weigh.machine.processes import Tree, process_of
from weigh.machine.processor_time import count_unwaited
from weigh.machine.tree_memory import TreeMemory

SAMPLE_S = 0.05
SLOW_SAMPLE_S = 0.5  # for what costs more to ask: the machine's memory
LEAST_AVAILABLE_BYTES = 512 << 20
LOG_LINES = 2000
LINE_CHARACTERS = 2000
# thread stacks and libraries count against RLIMIT_DATA without ever being resident
UNTOUCHED_BYTES = 512 << 20


class Child:
    """A running program. Every error it ends with is an `EngineError` of one line."""

    def __init__(self, command: Sequence[str], limits: Limits, *, what: str) -> None:
        """Start `command`.

        Args:
            what: the program's name, for messages.

        Raises:
            EngineMissing: the program cannot be started.
        """
        self.what = what
        self._command = tuple(command)
        self._limits = limits
        self._log: deque[tuple[float, str]] = deque(maxlen=LOG_LINES)
        self._news = threading.Condition()
        self._ended_for: EngineError | None = None
        self._memory = ProcessMemory(0, 0, 0, 0)
        self._tree = Tree(lambda: [])
        self._tree_memory = TreeMemory(self._tree)
        self._looking = threading.Lock()  # the tree is looked at by the watcher and by who asks
        self._oom_kills = _oom_kills()
        self._spawned = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: OSError | None = None
        self._watcher = threading.Thread(target=self._run, name=f"watch {what}", daemon=True)
        self._watcher.start()
        try:
            self._spawned.wait()
        except BaseException:  # Ctrl-C just now: do not leave behind what is being started
            self._spawned.wait()
            self.end()
            raise
        if self._process is None:
            raise EngineMissing(f"{what} cannot be started: {self._problem}")

    # --- what it does ------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def memory(self) -> ProcessMemory:
        """Memory of the process and its children, now or when it was last sampled."""
        if self.alive:
            self._sample(near_bytes=0)
        return self._memory

    def log(self) -> list[str]:
        """The last lines it wrote."""
        with self._news:
            return [line for _, line in self._log]

    def said_at(self, pattern: re.Pattern[str]) -> tuple[float, re.Match[str]] | None:
        """When (monotonic seconds) a line matched `pattern` first, and the match."""
        with self._news:
            for at_s, line in self._log:
                if found := pattern.search(line):
                    return at_s, found
        return None

    def wait_for(self, pattern: re.Pattern[str], deadline_s: float) -> tuple[float, re.Match[str]]:
        """Wait until a line matches; see `said_at`.

        Raises:
            EngineTimeout: monotonic time `deadline_s` came first; the child is ended.
            EngineError: the child ended first.
        """
        while (found := self.said_at(pattern)) is None:
            if not self.alive:
                self.fail()
            self.keep_to(deadline_s)
            with self._news:
                self._news.wait(0.02)
        return found

    def keep_to(self, deadline_s: float) -> None:
        """End the child and raise EngineTimeout when it should have started by now."""
        if time.monotonic() > deadline_s:
            self.end()
            raise EngineTimeout(f"{self.what} was not ready after {units.seconds(self._limits.start_s)}")

    def fail(self) -> NoReturn:
        """Raise the error that the child ended with, or is about to end with."""
        self._watcher.join(timeout=5)
        was_alive = self.alive
        self.end()
        if self._ended_for is not None:
            raise self._ended_for
        if was_alive:
            raise EngineCrashed(f"{self.what} stopped answering")
        raise self._error_at_exit()

    def end(self) -> None:
        """End it and everything it started, at once; harmless when it is over already.

        It holds nothing worth saving, so it is not asked first.
        """
        if self._process is None:
            return
        with self._looking:
            try:
                left = self._tree.members()
                count_unwaited(process.pid for process in left if process.pid != self._process.pid)
            finally:  # Ctrl-C just now
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._tree.signal(signal.SIGKILL)  # those too that have left the group
            self._process.wait()
        if threading.current_thread() is not self._watcher:
            self._watcher.join()

    # --- in the watching thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._process = self._spawn()
        except OSError as error:
            self._problem = error
            return
        else:
            root = process_of(self._process.pid)
            self._tree = Tree(lambda: [root] if root else [])
            self._tree_memory = TreeMemory(self._tree, lazily=True)
        finally:
            self._spawned.set()
        reader = threading.Thread(target=self._read_log, name=f"log of {self.what}", daemon=True)
        reader.start()
        self._watch()
        reader.join(timeout=1)

    def _spawn(self) -> subprocess.Popen[bytes]:
        limit_bytes = self._limits.memory_bytes
        data_bytes = limit_bytes + UNTOUCHED_BYTES if limit_bytes else 0
        launcher = Path(__file__).with_name("launch.py")
        return subprocess.Popen(
            (sys.executable, "-I", "-S", launcher, str(os.getpid()), str(data_bytes), *self._command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the terminal is weigh's to handle
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else a debugger is started on every abort
        )

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while raw := stream.readline(LINE_CHARACTERS):
                line = raw.decode(errors="replace").rstrip()
                with self._news:
                    self._log.append((time.monotonic(), line))
                    self._news.notify_all()

    def _watch(self) -> None:
        next_slow_s = 0.0
        while self.alive:
            if time.monotonic() >= next_slow_s:
                self._guard_machine()
                next_slow_s = time.monotonic() + SLOW_SAMPLE_S
            self._sample(self._limits.memory_bytes)
            self._guard_limit()
            time.sleep(SAMPLE_S)

    def _sample(self, near_bytes: int | None) -> None:
        with self._looking:
            seen = self._tree_memory
            now = seen.look(near_bytes)
            if seen.members:  # else it has just ended
                self._memory = ProcessMemory(
                    now.private_bytes, now.file_bytes, seen.peak_private_bytes, seen.peak_bytes
                )

    def _guard_limit(self) -> None:
        limit_bytes = self._limits.memory_bytes
        if limit_bytes is not None and self._memory.private_bytes > limit_bytes:
            self._end_for(self._over_limit())

    def _over_limit(self) -> OutOfMemory:
        assert self._limits.memory_bytes is not None
        return OutOfMemory(
            f"{self.what} needs more memory than the limit of {units.gib(self._limits.memory_bytes)}"
        )

    def _guard_machine(self) -> None:
        """End it before the kernel has to choose what to kill."""
        from weigh.machine.memory import read_memory

        available_bytes = read_memory().available_bytes
        if available_bytes < LEAST_AVAILABLE_BYTES:
            self._end_for(
                OutOfMemory(
                    f"{self.what} was ended because only {units.gib(available_bytes)} of memory were left"
                )
            )

    def _end_for(self, error: EngineError) -> None:
        self._ended_for = error
        self.end()

    # --- why it ended ------------------------------------------------------------------------------

    def _error_at_exit(self) -> EngineError:
        assert self._process is not None
        code = self._process.returncode
        lines = self.log()
        said = engine_log.reason(lines)
        if engine_log.ran_out_of_memory(lines):
            return self._over_limit() if self._limits.memory_bytes else OutOfMemory(f"{self.what}: {said}")
        if said is not None:
            return EngineCrashed(f"{self.what}: {said}")
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            return OutOfMemory(f"{self.what} was killed by the system for lack of memory")
        if code < 0:
            return EngineCrashed(f"{self.what} was ended by {signal.Signals(-code).name}")
        return EngineCrashed(f"{self.what} ended with status {code}")


def _oom_kills() -> int:
    """How often the kernel has killed for lack of memory since boot, inside memory groups too."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
