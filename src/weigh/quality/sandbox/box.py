"""One sandbox: a program inside bubblewrap, its limits, and the watch kept over it from outside.

Nothing of the host is writable inside, its own folders are small and in memory, and nothing is read back
from them: what a program has to say comes through its pipes, as far as the limits allow.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import random
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weigh import units
from weigh.errors import NotSupported
from weigh.machine.processes import Process, Tree, children, process_of, send
from weigh.machine.tree_memory import TreeMemory
from weigh.quality.sandbox.syscalls import seccomp_filter

WORK = "/work"  # where the program runs and may write
LIBRARY = "/weigh"  # our own end of the line, read-only
INSIDE = f"{LIBRARY}/weigh/quality/sandbox/inside"
TICK_S = 0.02
MEMORY_TICK_S = 0.05
LONGEST_STEP_S = 0.25  # a machine that slept meanwhile does not use up the program's time
LEAST_AVAILABLE_BYTES = 512 << 20
USERS = range(1_500_000_000, 1_500_000_000 + (1 << 20))  # for root, which gives itself up; nobody else's
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/nix/store",
)


class Part(StrEnum):
    """The walls of a sandbox. Only tests leave one out, to show what it stops."""

    NETWORK = "network"  # a network of its own, without any device but its loopback
    SYSTEM_ONLY = "system only"  # of the files, the system's programs alone: no home, no /etc, no /var
    READ_ONLY = "read-only"  # what is seen of the host cannot be written
    PROCESSES = "processes"  # neither sees nor outlives others: a process space of its own
    ENVIRONMENT = "environment"  # no variable of weigh's, where keys are kept
    SESSION = "session"  # no terminal to type into
    SYSTEM_CALLS = "system calls"  # the seccomp filter
    UNPRIVILEGED = "unprivileged"  # never root, whoever runs weigh
    MEMORY = "memory"
    CPU_TIME = "cpu time"
    WALL_TIME = "wall time"
    PROCESS_COUNT = "process count"
    DISK = "disk"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take.

    Attributes:
        memory_bytes: of each process by the kernel, of all together by the watch.
        cpu_s: of each process.
        wall_s: of the whole, not counting time in which the machine stood still.
        processes: and threads.
        disk_bytes: of each folder it may write to (they lie in memory) and of one file.
        output_bytes: of its output and error output together.
    """

    memory_bytes: int = 256 << 20
    cpu_s: int = 10
    wall_s: float = 30.0
    processes: int = 32
    disk_bytes: int = 16 << 20
    output_bytes: int = 1 << 20


class Box:
    """A program of `sandbox.inside` running in a sandbox. Use as a context: it is ended on leaving."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        files: Mapping[str, str],
        limits: Limits,
        channel: socket.socket | None = None,
        without: frozenset[Part] = frozenset(),
    ) -> None:
        """Start `module` in a folder holding `files`.

        Args:
            channel: handed over; its number in the program is added to the arguments, first.

        Raises:
            NotSupported: there is no bubblewrap, or no way to use it.
        """
        self.limits, self.without = limits, without
        self.ended_for = ""  # why the watch ended it
        self.output = bytearray()
        self.errors = bytearray()
        with contextlib.ExitStack() as stack:
            fds: list[int] = []

            def as_file(content: bytes) -> str:
                fd = stack.enter_context(_memory_file(content))
                fds.append(fd)
                return str(fd)

            command = _walls(limits, without, as_file)
            for name, text in files.items():
                command += (
                    "--perms",
                    "0444",
                    "--file",
                    as_file(text.encode(errors="replace")),
                    f"{WORK}/{name}",
                )
            command += ("--chdir", WORK, "--remount-ro", "/", "--")
            if channel is not None:
                fds.append(channel.fileno())
                arguments = (str(channel.fileno()), *arguments)
            command += _start(limits, without, module, arguments)
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=fds,
                    # bubblewrap's own first process can be looked into from inside
                    env=None if Part.ENVIRONMENT in without else {},
                    start_new_session=Part.SESSION not in without,  # Ctrl-C is weigh's to handle
                )
            except OSError as error:
                raise NotSupported(f"the sandbox cannot be started: {error.strerror}") from error
        if channel is not None:
            channel.close()
        root = process_of(self.pid)
        self._memory = TreeMemory(Tree(lambda: [root] if root else []))
        if os.geteuid() != 0 and Part.PROCESSES not in without:
            self._limit_first_process()

    def _limit_first_process(self) -> None:
        """Put bubblewrap's own process inside under the same limits, once it has started the program.

        It is of the same user, so that the program can write to its memory and become it; root's is not.
        """
        while self.running:
            for first in children(Process(self.pid, 0)):
                if children(first):
                    for name, value in _resource_limits(self.limits, self.without).items():
                        with contextlib.suppress(ProcessLookupError):
                            resource.prlimit(first.pid, getattr(resource, f"RLIMIT_{name}"), (value, value))
                    return
            time.sleep(0.001)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """128 + signal when a signal ended the program; None while it runs."""
        return self._process.poll()

    @property
    def pipes(self) -> tuple[tuple[Any, bytearray], ...]:
        return ((self._process.stdout, self.output), (self._process.stderr, self.errors))

    def resident_bytes(self) -> int:
        """Memory of all its processes that cannot be dropped, shared pages counted once."""
        return self._memory.look(self.limits.memory_bytes).private_bytes

    def end(self, why: str = "") -> None:
        """End it and all it started.

        The first process of its process space is killed: the kernel ends all others with it, and bubblewrap,
        which waits for it outside, only then.
        """
        if self.running:
            self.ended_for = self.ended_for or why
            inside = [] if Part.PROCESSES in self.without else children(Process(self.pid, 0))
            if not any(send(process, signal.SIGKILL) for process in inside):
                self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        for pipe, _ in self.pipes:
            pipe.close()


def never() -> bool:
    """Nobody asks to stop."""
    return False


def watch(boxes: Sequence[Box], until: Box, stopped: Callable[[], bool] = never) -> None:
    """Read what `boxes` say and keep them to their limits, until `until` has ended or `stopped` says so."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # it is over, or Linux is older than 5.3: the next tick will show
            exited = os.pidfd_open(until.pid)
            held.callback(os.close, exited)
            selector.register(exited, selectors.EVENT_READ)
        for box in boxes:
            for pipe, into in box.pipes:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, (box, into))
        spent_s, last_s, memory_s = 0.0, time.monotonic(), 0.0
        while until.running:
            _read(selector, TICK_S)
            now_s = time.monotonic()
            spent_s += min(now_s - last_s, LONGEST_STEP_S)
            last_s = now_s
            for box in boxes:
                if stopped():
                    box.end("interrupted")
                if spent_s > box.limits.wall_s and Part.WALL_TIME not in box.without:
                    box.end(f"ran longer than {units.seconds(box.limits.wall_s)}")
            if now_s >= memory_s:
                memory_s = now_s + MEMORY_TICK_S
                _guard_memory(boxes)
        while _read(selector, 0):
            pass


def _read(selector: selectors.BaseSelector, timeout_s: float) -> bool:
    """Take what has come; False when there was nothing."""
    if not selector.get_map():
        time.sleep(timeout_s)
        return False
    events = selector.select(timeout_s)
    heard = [
        key for key, _ in events if key.data is not None
    ]  # the other is the end of the program waited for
    for key in heard:
        box, into = key.data
        data = os.read(key.fd, 1 << 16)
        if not data:
            selector.unregister(key.fileobj)
            continue
        into += data
        if len(box.output) + len(box.errors) > box.limits.output_bytes and Part.OUTPUT not in box.without:
            selector.unregister(key.fileobj)
            box.end(f"wrote more than {box.limits.output_bytes >> 10} KiB of output")
    return bool(heard)


def _guard_memory(boxes: Sequence[Box]) -> None:
    from weigh.machine.memory import read_memory

    short = read_memory().available_bytes < LEAST_AVAILABLE_BYTES
    for box in boxes:
        if Part.MEMORY in box.without:
            continue
        if short:
            box.end("the machine ran out of memory")
        elif box.resident_bytes() > box.limits.memory_bytes:
            box.end(f"took more memory than {box.limits.memory_bytes >> 20} MiB")


# --- the command ---------------------------------------------------------------------------------------


def bubblewrap() -> str:
    """The program's path.

    Raises:
        NotSupported: it is not installed, or this is not Linux.
    """
    if sys.platform != "linux":
        raise NotSupported("model-written code is run on Linux alone, inside bubblewrap")
    found = shutil.which("bwrap")
    if found is None:
        raise NotSupported(
            "model-written code is not run: bubblewrap is not installed",
            hint="install it (Debian and Ubuntu: apt install bubblewrap), or leave out tasks with code",
        )
    return found


def _walls(limits: Limits, without: frozenset[Part], as_file: Any) -> list[str]:
    root = os.geteuid() == 0
    command = [bubblewrap(), "--die-with-parent", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    # Root makes the walls itself and then gives itself up (see `start.py`): inside a user namespace it
    # would still be root to the files of /proc/sys and to the limit on processes.
    command += ("--cap-drop", "ALL")
    command += ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID") if root else ("--unshare-user",)
    if Part.NETWORK not in without:
        command.append("--unshare-net")
    if Part.PROCESSES not in without:
        command.append("--unshare-pid")
    if Part.SESSION not in without:
        command.append("--new-session")
    if Part.ENVIRONMENT not in without:
        command.append("--clearenv")
    if Part.SYSTEM_CALLS not in without and (program := seccomp_filter()):
        command += ("--seccomp", as_file(program))
    command += _files(without)
    size = () if Part.DISK in without else ("--size", str(limits.disk_bytes))
    command += ("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    for folder in ("/dev/shm", "/tmp", WORK):
        command += ("--perms", "1777", *size, "--tmpfs", folder)
    command += _folders_above(Path(INSIDE, "start.pyc"))
    for name, program in _programs().items():
        command += ("--perms", "0444", "--file", as_file(program), f"{INSIDE}/{name}")
    return command


@functools.cache
def _programs() -> Mapping[str, bytes]:
    """Our own end of the line by file name, compiled: each sandbox would spend a third of its start on that."""
    return {
        f"{source.name}c": MAGIC_NUMBER
        + bytes(12)
        + marshal.dumps(compile(source.read_bytes(), source.name, "exec"))
        for source in resources.files(f"{__package__}.inside").iterdir()
        if source.name.endswith(".py")
    }


def _files(without: frozenset[Part]) -> Iterator[str]:
    bind = "--bind" if Part.READ_ONLY in without else "--ro-bind"
    prefix = Path(sys.base_prefix).resolve()
    shown = [Path(place) for place in SYSTEM]
    if Part.SYSTEM_ONLY in without:
        ours = {"proc", "dev", "sys", "tmp", WORK.strip("/"), LIBRARY.strip("/"), prefix.parts[1]} - {"usr"}
        shown = [place for place in Path("/").iterdir() if place.name not in ours]
    for place in shown:
        if place.is_symlink():
            yield from ("--symlink", str(place.readlink()), str(place))
        elif place.exists():
            yield from _folders_above(place)
            yield from (bind, str(place), str(place))
    if not prefix.is_relative_to("/usr"):
        if Path.home().resolve().is_relative_to(prefix):
            raise NotSupported(f"model-written code is not run: Python's own folder {prefix} holds your home")
        yield from _folders_above(prefix)
        yield from (bind, str(prefix), str(prefix))


def _folders_above(place: Path) -> Iterator[str]:
    """Made so that every user may pass; bubblewrap's own would let only their maker."""
    for folder in reversed(place.parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(folder))


def _start(limits: Limits, without: frozenset[Part], module: str, arguments: Sequence[str]) -> Iterator[str]:
    uid = random.choice(USERS) if os.geteuid() == 0 and Part.UNPRIVILEGED not in without else 0
    yield from (os.path.realpath(sys.executable), "-I", "-S", "-B", "-X", "utf8")
    yield f"{INSIDE}/start.pyc"
    yield LIBRARY
    yield ",".join(f"{name}={value}" for name, value in _resource_limits(limits, without).items())
    yield from (str(uid), module, *arguments)


def _resource_limits(limits: Limits, without: frozenset[Part]) -> dict[str, int]:
    """By the kernel's names, without `RLIMIT_`."""
    wanted = {
        Part.MEMORY: {"DATA": limits.memory_bytes},
        Part.CPU_TIME: {"CPU": limits.cpu_s},
        Part.PROCESS_COUNT: {"NPROC": limits.processes},
        Part.DISK: {"FSIZE": limits.disk_bytes, "NOFILE": 256},
    }
    found = {"CORE": 0, "MSGQUEUE": 0}
    for part, values in wanted.items():
        if part not in without:
            found |= values
    return found


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("weigh", 0)
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
