"""`weigh watch` and `weigh run` as a person uses them: programs of their own, in pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.running import DEAF, EATER, Start, start, until
from weigh.cli import main
from weigh.machine.processes import Process, children, is_alive, is_stopped, process_of
from weigh.store import Store
from weigh.store.measurement import events

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands run under a guard on Linux only")
WEIGH = (sys.executable, "-m", "weigh")
Popen = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def _own_store(store: Store) -> None:
    """Whatever a guard does is kept in a store of the test's own."""


def weigh(*words: object, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [*WEIGH, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, input=given)


@pytest.fixture
def begun() -> Iterator[list[Popen]]:
    """Programs that are ended with the test."""
    started: list[Popen] = []
    yield started
    for one in started:
        one.kill()
        one.wait()
        for stream in (one.stdout, one.stderr):
            if stream is not None:
                stream.close()


def begin(begun: list[Popen], *words: object) -> Popen:
    started = subprocess.Popen(
        [*WEIGH, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    begun.append(started)
    return started


def first_child(one: Popen) -> Process:
    this = process_of(one.pid)
    assert this is not None
    until(lambda: children(this))
    return children(this)[0]


# --- run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 130])
def test_the_exit_code_is_passed_on(code: int) -> None:
    assert weigh("run", "--", "sh", "-c", f"exit {code}").returncode == code


def test_the_output_is_untouched_and_the_summary_beside_it() -> None:
    done = weigh("run", "--", "sh", "-c", "echo out; echo err >&2; cat", given="in")
    assert done.stdout == "out\nin"
    first, summary = done.stderr.splitlines()
    assert first == "err"
    assert re.fullmatch(
        r"weigh: `sh` ended with 0 after [\d.]+ m?s; peak memory .*, processor time .* m?s,"
        r" energy .*, the guard had nothing to do",
        summary,
    )


def test_options_of_the_command_are_its_own() -> None:
    assert weigh("run", "echo", "--json", "-h").stdout == "--json -h\n"


def test_a_command_that_a_signal_ended_says_so_as_a_shell_does() -> None:
    assert weigh("run", "--", "sh", "-c", "kill -KILL $$").returncode == 137


def test_the_summary_as_json_counts_peak_and_processor_time() -> None:
    script = "h = bytearray(100 << 20); h[::4096] = b'x' * len(h[::4096]); sum(range(3_000_000))"
    done = weigh("run", "--json", "--", sys.executable, "-c", script)
    summary = json.loads(done.stderr)
    assert summary["exit_code"] == 0
    assert summary["command"][0] == sys.executable
    assert summary["peak_bytes"] > 100 << 20
    assert summary["cpu_s"] > 0
    assert summary["acts"] == []


def test_a_command_too_short_to_be_seen_has_no_peak_of_zero() -> None:
    summary = json.loads(weigh("run", "--json", "--", "true").stderr)
    assert summary["peak_private_bytes"] is None or summary["peak_private_bytes"] > 0
    assert summary["peak_bytes"] is None or summary["peak_bytes"] > 0


def test_a_limit_of_nothing_is_one_line() -> None:
    done = weigh("run", "--max-memory", "0", "--", "true")
    assert done.returncode == 2
    assert done.stderr == "weigh: a limit of 0 leaves no memory to use\n"


def test_a_missing_program_is_one_line() -> None:
    done = weigh("run", "--", "no-such-program")
    assert done.returncode == 2
    assert done.stderr == "weigh: `no-such-program` is not a program\n"


def test_a_file_that_is_no_program_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    done = weigh("run", "--", path)
    assert done.returncode == 2
    assert done.stderr == f"weigh: `{path}` cannot be started: Exec format error\n"


def test_a_command_above_its_limit_is_stopped_with_its_children_and_why_is_kept() -> None:
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EATER!r}, '500', '2'])"
    done = weigh("run", "--max-memory", "200MiB", "--", sys.executable, "-c", parent)
    assert done.returncode == 143
    assert "the command's memory at" in done.stderr
    assert "the guard warned and stopped it" in done.stderr or "the guard stopped it" in done.stderr
    (stopped,) = [event for event in events(Store()) if event.kind == "stopped"]
    assert stopped.text in done.stderr
    assert stopped.details["limit_bytes"] == 200 << 20
    assert len(stopped.details["pids"]) == 2


def test_one_that_says_it_was_done_when_stopped_does_not_count_as_done() -> None:
    polite = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + EATER
    done = weigh("run", "--max-memory", "100MiB", "--", sys.executable, "-c", polite, 500, 2)
    assert done.returncode == 143


def test_one_that_ignores_sigterm_is_killed() -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + EATER
    done = weigh(
        "run", "--max-memory", "100MiB", "--grace", "200ms", "--", sys.executable, "-c", deaf, 200, 2
    )
    assert done.returncode == 137
    assert "killed" in done.stderr


def test_to_warn_only_leaves_it_alone() -> None:
    short = EATER.replace("time.sleep(60)", "")
    words = ("--max-memory", "60MiB", "--on-limit", "warn", "--", sys.executable, "-c", short, 120, 2)
    done = weigh("run", *words)
    assert done.returncode == 0
    assert done.stdout == "full\n"
    assert "the guard warned it" in done.stderr


def test_with_the_limit_reached_already_nothing_is_started(tmp_path: Path) -> None:
    done = weigh("run", "--guard", "1MiB", "--", "touch", tmp_path / "made")
    assert done.returncode == 1
    assert done.stderr.endswith("the command was not started\n")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_forwarded(begun: list[Popen], number: signal.Signals) -> None:
    traps = f"trap 'echo got; exit 5' {number.name[3:]}; echo on; while :; do sleep 0.05; done"
    running = begin(begun, "run", "--", "sh", "-c", traps)
    assert running.stdout is not None
    assert running.stdout.readline() == "on\n"
    running.send_signal(number)
    assert running.wait(60) == 5
    assert running.stdout.read() == "got\n"


def test_ctrl_c_in_a_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    traps = "trap 'n=$((n+1))' INT; echo on; while [ $((i+=1)) -lt 20 ]; do sleep 0.05; done; echo got $n"
    with terminal("run", "--", "bash", "-c", traps) as (started, screen):
        screen.until("on")
        os.write(screen.handle, b"\x03")
        assert started.wait(60) == 0
        screen.until("got 1")


def test_nothing_it_started_is_left_running(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    leaves = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(pids)!r}, "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
while not os.path.exists({str(pids)!r}) or not open({str(pids)!r}).read():
    time.sleep(0.01)
"""
    done = weigh("run", "--", sys.executable, "-c", leaves)
    assert done.returncode == 0
    assert "1 left running and ended" in done.stderr
    assert process_of(int(pids.read_text())) is None


def test_what_it_left_and_ignores_sigterm_is_killed() -> None:
    leaves = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {DEAF!r}]).stdout\n"
    done = weigh("run", "--grace", "300ms", "--", sys.executable, "-W", "ignore", "-c", leaves)
    assert "1 left running and ended" in done.stderr


def test_when_weigh_is_killed_the_command_ends(begun: list[Popen]) -> None:
    running = begin(begun, "run", "--", "sleep", "60")
    child = first_child(running)
    running.kill()
    until(lambda: not is_alive(child))


# --- watch -----------------------------------------------------------------------------------------------


def test_in_a_pipe_there_is_a_line_for_each_sample(begun: list[Popen]) -> None:
    watching = begin(begun, "watch", "--interval", "100ms")
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(3)]
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 130
    assert all(re.match(r"\d\d:\d\d:\d\d  memory \d+% · .* of .*  cpu \d+%", line) for line in lines)
    assert watching.stderr is not None
    assert watching.stderr.read().strip() == "interrupted"


def test_json_is_an_object_a_line(begun: list[Popen]) -> None:
    watching = begin(begun, "watch", "--interval", "100ms", "--json")
    assert watching.stdout is not None
    first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
    watching.terminate()
    assert watching.wait(60) == 143
    assert second["when_unix_s"] > first["when_unix_s"]
    assert (
        first["memory"]["used_bytes"] + first["memory"]["available_bytes"] == first["memory"]["usable_bytes"]
    )
    assert 0 <= first["processors"]["busy"] <= 1
    assert len(first["processors"]["by_core"]) == os.cpu_count()


def test_what_the_guard_does_is_an_object_too(begun: list[Popen]) -> None:
    watching = begin(begun, "watch", "--interval", "100ms", "--json", "--guard", "1MiB")
    assert watching.stdout is not None
    act = json.loads(watching.stdout.readline())["act"]
    assert act["kind"] == "warned"
    assert act["details"]["limit_bytes"] == 1 << 20


def test_a_reader_that_leaves_ends_it(begun: list[Popen]) -> None:
    watching = begin(begun, "watch", "--interval", "100ms")
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.stdout.close()
    assert watching.wait(60) == 141


def test_once_looks_once(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    root = start(EATER, 50, 10, lines=1)
    assert main(["watch", "--once", "--pid", str(root.pid)]) == 0
    out = capsys.readouterr().out
    assert "memory" in out
    assert f"{root.pid}" in out
    assert "page cache" in out
    assert main(["watch", "--once", "--json", "--pid", str(root.pid)]) == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    assert engine["pid"] == root.pid
    assert engine["private_bytes"] > 50 << 20
    assert engine["tokens"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pid", "4194304"], "no process has the number 4194304"),
        (["--url", "ftp://x"], "is not a server's address"),
        (["--on-limit", "stop"], "there is no limit to act on"),
        (["--guard", "90%", "--on-limit", "pause"], "nothing is named to pause"),
        (["--guard", "90%", "--on-limit", "stop", "--url", "http://x"], "nothing is named to stop"),
        (["--guard", "200%"], "is not a share of memory"),
        (["--interval", "10ms"], "an interval of 0.01 s is too short"),
        (["--pid", str(os.getpid())], "started weigh itself"),
    ],
)
def test_what_cannot_be_watched_is_one_line(
    capsys: pytest.CaptureFixture[str], words: Sequence[str], said: str
) -> None:
    assert main(["watch", "--once", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_guard_pauses_by_name_and_ctrl_c_resumes(begun: list[Popen], tmp_path: Path) -> None:
    script = tmp_path / "hungry-engine"
    script.write_text(EATER)
    eater = subprocess.Popen([sys.executable, script, "0", "1"], stdout=subprocess.PIPE, text=True)
    begun.append(eater)
    root = process_of(eater.pid)
    assert root is not None
    words = ("--name", "hungry-engine", "--guard", "1MiB", "--interval", "100ms")  # any machine uses more
    watching = begin(begun, "watch", *words)
    until(lambda: is_stopped(root))
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 130
    assert not is_stopped(root)
    assert watching.stderr is not None
    said = watching.stderr.read().splitlines()
    assert re.search(rf"limit 1.0 MiB: paused hungry-engine \(process {root.pid}\)$", said[0])
    assert said[1] == f"weigh: the guard ends: resumed hungry-engine (process {root.pid})"
    assert [event.kind for event in events(Store())] == ["resumed", "paused"]


def test_a_store_that_cannot_be_written_does_not_hold_the_guard_up(
    begun: list[Popen], start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGH_STORE", str(tmp_path))  # a folder
    root = start(EATER, 0, 1, lines=1)
    watching = begin(begun, "watch", "--pid", root.pid, "--guard", "1MiB", "--on-limit", "stop")
    until(lambda: not is_alive(root))
    assert watching.stdout is not None
    assert watching.stdout.readline()  # Ctrl-C while Python still imports ends it as the signal itself does
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 130
    assert watching.stderr is not None
    assert "could not be kept" in watching.stderr.read()


def test_without_a_name_the_guard_only_warns(begun: list[Popen], start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    watching = begin(begun, "watch", "--guard", "1MiB", "--interval", "100ms")
    assert watching.stderr is not None
    assert watching.stderr.readline().endswith("the limit is reached\n")
    assert is_alive(root)
    assert not is_stopped(root)


class Screen:
    """What a terminal was told so far."""

    def __init__(self, handle: int) -> None:
        self.handle, self.seen = handle, ""

    def until(self, words: str) -> None:
        deadline_s = time.monotonic() + 60
        while words not in self.seen:
            assert time.monotonic() < deadline_s, self.seen[-2000:]
            try:
                self.seen += os.read(self.handle, 1 << 16).decode(errors="replace")
            except OSError:  # the other end is closed
                assert words in self.seen, self.seen[-2000:]


class terminal:  # noqa: N801, reads as a function
    """`weigh` as the leader of a terminal of 80 columns."""

    def __init__(self, *words: str, columns: int = 80) -> None:
        self._words, self._columns = words, columns

    def __enter__(self) -> tuple[subprocess.Popen[bytes], Screen]:
        import fcntl
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self._columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._started = subprocess.Popen(
            [*WEIGH, *self._words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm"},
            preexec_fn=lead,  # noqa: PLW1509, no other thread runs
        )
        os.close(theirs)
        self._handle = ours
        return self._started, Screen(ours)

    def __exit__(self, *_: object) -> None:
        self._started.kill()
        self._started.wait()
        os.close(self._handle)


@pytest.mark.parametrize("columns", [80, 40, 200])
def test_in_a_terminal_it_is_redrawn_and_ctrl_c_leaves_it_clean(columns: int) -> None:
    with terminal("watch", "--interval", "100ms", columns=columns) as (started, screen):
        screen.until("page cache")
        screen.until("\x1b[1A")  # moved up, to draw again
        os.write(screen.handle, b"\x03")
        screen.until("interrupted")
        assert started.wait(60) == 130
        assert screen.seen.rindex("\x1b[?25h") > screen.seen.rindex("\x1b[?25l")  # the cursor is back
        drawn = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen.seen).replace("^C", "")  # the terminal's echo
        assert max(len(line) for line in re.split(r"[\r\n]+", drawn)) <= columns


def test_the_guards_words_stay_in_sight_in_a_terminal(start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    words = ("--pid", str(root.pid), "--guard", "1MiB", "--interval", "100ms")
    with terminal("watch", *words, columns=120) as (started, screen):
        screen.until("paused: memory at")
        os.write(screen.handle, b"\x03")
        screen.until("resumed python")
        assert started.wait(60) == 130
    assert not is_stopped(root)
