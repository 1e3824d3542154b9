"""Known ways out of a sandbox: each is stopped, and each succeeds once the wall that stops it is left out."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sandboxes import needs_sandbox
from weigh.quality.sandbox.box import Limits, Part
from weigh.quality.sandbox.judged import Verdict, run_tests

pytestmark = needs_sandbox

ESCAPED = """
import answer
def test_the_attempt_succeeds():
    assert answer.attempt({arguments}) is True
"""
SMALL = Limits(
    memory_bytes=96 << 20, cpu_s=1, wall_s=20, processes=16, disk_bytes=4 << 20, output_bytes=1 << 18
)

ROOMY = Limits(memory_bytes=1 << 30, processes=16)


def escapes(code: str, *parts: Part, arguments: str = "", limits: Limits = SMALL) -> Verdict:
    """Whether `attempt` of `code` succeeds in a sandbox without `parts`."""
    tests = ESCAPED.format(arguments=arguments)
    return run_tests(code, tests, limits=limits, without=frozenset(parts))


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user of the machine may read and write, outside /tmp, which is private inside."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


# --- what lies outside ---------------------------------------------------------------------------------


def test_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
def attempt():
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5)
    return True
"""
        assert "Error" in escapes(code).why
        assert escapes(code, Part.NETWORK).passed


def test_reading_a_home(shared_folder: Path):
    secret = shared_folder / "secret"
    secret.write_text("key")
    code = f"""
def attempt():
    return open({str(secret)!r}).read() == "key"
"""
    assert "FileNotFoundError" in escapes(code).why
    assert escapes(code, Part.SYSTEM_ONLY).passed


def test_symlink_out_of_the_folder(shared_folder: Path):
    secret = shared_folder / "secret"
    secret.write_text("key")
    secret.chmod(0o666)
    code = f"""
import os
def attempt(write):
    os.symlink({str(secret)!r}, "link")
    if write:
        with open("link", "a") as file:
            file.write("more")
    return open("link").read().startswith("key")
"""
    assert "FileNotFoundError" in escapes(code, arguments="False").why
    assert escapes(code, Part.SYSTEM_ONLY, arguments="False").passed
    assert "Read-only" in escapes(code, Part.SYSTEM_ONLY, arguments="True").why
    assert secret.read_text() == "key"
    assert escapes(code, Part.SYSTEM_ONLY, Part.READ_ONLY, arguments="True").passed
    assert secret.read_text() == "keymore"


def test_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "key")
    code = """
import os, pathlib
def attempt():
    seen = dict(os.environ)
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            seen |= dict(v.split("=", 1) for v in path.read_text().split("\\0") if "=" in v)
        except OSError:
            pass
    return seen.get("SOME_API_KEY") == "key"
"""
    assert not escapes(code).passed
    assert escapes(code, Part.ENVIRONMENT).passed


def test_open_files_are_not_inherited(tmp_path: Path):
    (tmp_path / "notes").write_text("private")
    with (tmp_path / "notes").open() as notes:
        os.set_inheritable(notes.fileno(), True)
        code = """
import os
def attempt():
    return any("notes" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.islink(f"/proc/self/fd/{fd}"))
"""
        assert not escapes(code).passed


def test_terminal():
    code = """
def attempt():
    open("/dev/tty").close()
    return True
"""
    script = f"""
from weigh.quality.sandbox.box import Part
from tests.quality.sandbox.test_escapes import escapes
code = {code!r}
print("kept", escapes(code).passed, "left out", escapes(code, Part.SESSION).passed)
"""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    said = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 1024):
            said += part
    os.waitpid(child, 0)
    os.close(terminal)
    assert said.split() == b"kept False left out True".split()


# --- other processes -----------------------------------------------------------------------------------


def test_signalling_others():
    code = """
import os, signal
def attempt(pid):
    os.kill(pid, signal.SIGKILL)
    return True
"""
    with subprocess.Popen(["sleep", "600"]) as other:
        pid = str(other.pid)
        # root's programs are another user inside, which alone would stop it
        assert "ProcessLookupError" in escapes(code, Part.UNPRIVILEGED, arguments=pid).why
        assert other.poll() is None
        assert escapes(code, Part.UNPRIVILEGED, Part.PROCESSES, arguments=pid).passed
        assert other.wait() == -9


def test_killing_everything_ends_the_answer_alone():
    assert not escapes("import os\ndef attempt():\n    os.kill(-1, 9)\n    return True").passed


def test_daemon_child():
    code = """
import os
def attempt(mark):
    seen, here = os.pipe()  # its end closes when the program below begins
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in set(range(256)) - {here}:
                try:
                    os.close(fd)
                except OSError:
                    pass
            os.execv("/usr/bin/sleep", ["sleep", mark])
        os._exit(0)
    os.wait()
    os.close(here)
    return os.read(seen, 1) == b""
"""
    mark = f"{600 + os.getpid() / 1e7:.7f}"
    assert escapes(code, arguments=repr(mark)).passed  # it may start one, which ends with it
    assert not list(running(mark))
    assert escapes(code, Part.PROCESSES, arguments=repr(mark)).passed
    (survivor,) = running(mark)
    os.kill(survivor, 9)


def running(mark: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", mark.encode()]:
                yield int(path.parent.name)


FORKS = """
import os, time
def attempt():
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    return True
"""


def test_fork_bomb():
    assert "BlockingIOError" in escapes(FORKS, limits=ROOMY).why
    assert escapes(FORKS, Part.PROCESS_COUNT, limits=ROOMY).passed


def test_becoming_the_first_process():
    """It is bubblewrap's own; where its memory can be written, the same limits have to hold for it."""
    code = """
def attempt():
    open("/proc/1/mem", "r+b").close()
    lines = open("/proc/1/limits").read().splitlines()
    return next(line for line in lines if line.startswith("Max processes")).split()[2] != "16"
"""
    assert not escapes(code).passed
    if os.geteuid() != 0:
        assert escapes(code, Part.PROCESS_COUNT).passed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to keep")
def test_roots_privileges():
    assert escapes(FORKS, Part.UNPRIVILEGED, limits=ROOMY).passed  # root is above the limit on processes
    code = """
import os
def attempt():
    return os.access("/proc/sys/kernel/panic", os.W_OK)
"""
    assert not escapes(code).passed
    assert escapes(code, Part.UNPRIVILEGED).passed


# --- the machine's means -------------------------------------------------------------------------------


def test_memory():
    code = """
def attempt():
    return len(bytearray(b"x") * (200 << 20)) > 0
"""
    assert "MemoryError" in escapes(code).why
    assert escapes(code, Part.MEMORY).passed


def test_memory_of_many_processes():
    code = """
import os, time
def attempt():
    for _ in range(4):
        if os.fork() == 0:
            held = bytearray(b"x") * (40 << 20)
            time.sleep(600)
            os._exit(0)
    time.sleep(2)
    return True
"""
    assert escapes(code).why == "took more memory than 96 MiB"
    assert escapes(code, Part.MEMORY).passed


def test_processor_time():
    code = """
import signal, time
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
def attempt():
    while time.process_time() < 1.5:
        pass
    return True
"""
    patient = replace(SMALL, wall_s=300)  # a busy machine gives it little of each second
    assert "its program ended" in escapes(code, limits=patient).why
    assert escapes(code, Part.CPU_TIME, limits=patient).passed


def test_sleeping_and_ignoring_signals():
    code = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def attempt():
    time.sleep(1)
    return True
"""
    assert escapes(code, limits=Limits(wall_s=0.3)).why == "ran longer than 300 ms"
    # the tests' own sandbox keeps its limit, which is why it is longer here
    assert escapes(code, Part.WALL_TIME, limits=Limits(wall_s=20)).passed


@pytest.mark.parametrize("folder", ["/tmp", "/work", "/dev/shm"])
def test_filling_the_disk(folder: str):
    code = f"""
def attempt():
    for number in range(8):
        with open(f"{folder}/{{number}}", "wb") as file:
            file.write(bytes(3 << 20))
    return True
"""
    assert "No space left" in escapes(code).why
    assert escapes(code, Part.DISK).passed


def test_one_huge_file():
    code = "def attempt():\n    return open('/tmp/x', 'wb').write(bytes(8 << 20)) > 0"
    assert "File too large" in escapes(code).why
    assert escapes(code, Part.DISK).passed


@pytest.mark.parametrize("folder", ["/", "/dev", "/weigh", "/usr", "/proc/sys/kernel"])
def test_writing_elsewhere(folder: str):
    assert "Error" in escapes(f"def attempt():\n    return open({folder + '/x'!r}, 'w').close() is None").why


def test_huge_output():
    code = """
import sys
def attempt():
    for _ in range(64):
        sys.stdout.write("x" * (1 << 15))
        sys.stderr.write("x" * (1 << 15))
    return True
"""
    assert escapes(code).why == "wrote more than 256 KiB of output"
    assert escapes(code, Part.OUTPUT).passed


def test_huge_value():
    code = "def attempt():\n    return 'x' * (20 << 20)"
    assert "more than can be handed over" in escapes(code, limits=Limits()).why


# --- system calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "os.memfd_create('hidden') > 0",
        "ctypes.CDLL(None, use_errno=True).ptrace(0, 0, 0, 0) == 0",
        "ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0",
        "ctypes.CDLL(None, use_errno=True).shmget(0, 4096, 0o1600) >= 0",
        "socket.socket(16, 3, 0).fileno() > 0",
    ],
    ids=["memory no limit counts", "ptrace", "a new user namespace", "shared memory", "netlink"],
)
def test_system_calls(call: str):
    code = f"import ctypes, os, socket\ndef attempt():\n    return {call}"
    assert not escapes(code).passed
    assert escapes(code, Part.SYSTEM_CALLS).passed


def test_vsock_is_refused():
    """It reaches the host of a virtual machine past any network namespace; not every kernel has it."""
    assert (
        "Address family"
        in escapes("import socket\ndef attempt():\n    socket.socket(40)\n    return True").why
    )


def test_every_part_is_shown():
    """No wall without its escape: this file names each of them."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert [part for part in Part if f"Part.{part.name}" not in text] == []


def test_ends_with_weigh():
    """A box whose maker is killed does not live on."""
    mark = f"{700 + os.getpid() / 1e7:.7f}"
    script = f"""
from weigh.quality.sandbox.judged import run_tests
run_tests("import os\\nos.execv('/usr/bin/sleep', ['sleep', '{mark}'])", "import answer\\ndef test_x(): pass")
"""
    with subprocess.Popen([sys.executable, "-c", script]) as maker:
        while not list(running(mark)):
            assert maker.poll() is None
        maker.kill()
    for _ in range(1000):
        if not list(running(mark)):
            break
        subprocess.run(["sleep", "0.01"], check=True)
    assert not list(running(mark))
