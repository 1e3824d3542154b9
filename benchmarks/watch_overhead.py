"""Processor time that `weigh watch` and the guard of `weigh run` take, beside a busy tree of two processes.

    python benchmarks/watch_overhead.py [--seconds 60] [--only TEXT]

Each is started, left alone for some seconds, and then its own processor time is read from /proc in
stretches of 5 s; what its start took is told apart. Prints the table of docs/watch.md.
"""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from weigh.machine.processes import children, process_of

BUSY = """
import os, time
held = bytearray(300 << 20)
held[::4096] = b"x" * len(held[::4096])
pid = os.fork()
while True:
    sum(range(100_000))
"""
SETTLE_S, STRETCH_S = 5.0, 5.0
WEIGH = (sys.executable, "-m", "weigh")


def cpu_s(pid: int) -> float:
    """Of a process's threads, without its children: the first number of `schedstat`, in nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9


def drain(handle: int) -> None:
    try:
        while os.read(handle, 1 << 16):
            pass
    except OSError:
        return


def in_terminal(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    ours, theirs = pty.openpty()
    started = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    threading.Thread(target=drain, args=(ours,), daemon=True).start()
    return started


def in_pipe(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def measured(started: subprocess.Popen[bytes], seconds: float) -> tuple[float, float]:
    """(seconds of processor time until it settled, share of one core afterwards).

    Stretches in which the machine stood still are left out and made up for.
    """
    try:
        time.sleep(SETTLE_S)
        begin_s = cpu_s(started.pid)
        spent_s = passed_s = 0.0
        while passed_s < seconds:
            before_s, began_s = cpu_s(started.pid), time.monotonic()
            time.sleep(STRETCH_S)
            took_s = time.monotonic() - began_s
            if started.poll() is not None:
                raise SystemExit(f"{started.args!r} ended with {started.returncode}")
            if took_s < 1.1 * STRETCH_S:
                spent_s, passed_s = spent_s + cpu_s(started.pid) - before_s, passed_s + took_s
        return begin_s, spent_s / passed_s
    finally:
        started.terminate()
        started.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    asked = parser.parse_args()
    seconds = asked.seconds
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "WEIGH_STORE": f"{folder}/weigh.db", "COLUMNS": "80", "TERM": "xterm"}
        busy = (sys.executable, "-c", BUSY)
        tree = in_pipe(busy, environment)
        process = process_of(tree.pid)
        assert process is not None
        named = ("--pid", str(tree.pid))
        cases = [
            ("`watch` in a terminal", in_terminal, (*WEIGH, "watch", *named)),
            ("`watch` in a terminal, with a guard", in_terminal, (*WEIGH, "watch", *named, "--guard", "99%")),
            ("`watch` in a pipe", in_pipe, (*WEIGH, "watch", *named)),
            ("`watch --json`", in_pipe, (*WEIGH, "watch", *named, "--json")),
            ("`watch`, engines found by name", in_terminal, (*WEIGH, "watch")),
            (
                "`watch --guard`, limit reached, tree paused",
                in_pipe,
                (*WEIGH, "watch", *named, "--guard", "1MiB"),
            ),
            ("`run`", in_pipe, (*WEIGH, "run", "--guard", "99%", "--", *busy)),
            ("`run --max-memory`", in_pipe, (*WEIGH, "run", "--max-memory", "20GiB", "--", *busy)),
            (
                "`run --max-memory`, limit near",
                in_pipe,
                (*WEIGH, "run", "--max-memory", "800MiB", "--", *busy),
            ),
        ]
        rows = []
        try:
            for name, start, command in (case for case in cases if asked.only in case[0]):
                begin_s, share = measured(start(command, environment), seconds)
                rows.append(f"| {name} | {begin_s:.2f} s | {share:.2%} |")
                print(rows[-1], flush=True, file=sys.stderr)
        finally:
            for child in children(process):
                os.kill(child.pid, 9)
            tree.kill()
            tree.wait()
    print(f"| over {seconds:.0f} s | start | of one core, after {SETTLE_S:.0f} s |\n| --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
