"""Real processes that hold memory, start others, end or refuse to; none of them outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from weigh.machine.processes import Process, Tree, process_of

Start = Callable[..., Process]

# Fills MiB after MiB (first word: how many in all, second: how many each 20 ms), says `full`, and waits.
EATER = """
import sys, time
most, step, held = int(sys.argv[1]), int(sys.argv[2]), []
while len(held) * step < most:
    held.append(bytearray(step << 20))
    held[-1][::4096] = b"x" * len(held[-1][::4096])
    time.sleep(0.02)
print("full", flush=True)
time.sleep(60)
"""
# Starts a child that starts a child; all three wait. Each says its number.
FAMILY = """
import os, time
for _ in range(2):
    if os.fork():
        break
os.write(1, b"%d\\n" % os.getpid())  # in one piece: three write at once
time.sleep(60)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a Python script with words; `lines` of its output are waited for and kept as `start.lines`."""
    started: list[subprocess.Popen[str]] = []
    trees: list[Tree] = []

    def run(script: str, *words: object, lines: int = 0) -> Process:
        child = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(child)
        process = process_of(child.pid)
        assert process is not None
        trees.append(Tree(lambda: [process]))
        assert child.stdout is not None
        run.lines = [child.stdout.readline().strip() for _ in range(lines)]  # type: ignore[attr-defined]
        trees[-1].members()
        return process

    yield run
    for one in trees:
        one.signal(signal.SIGKILL)
    for child in started:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    until(lambda: not any(one.members() for one in trees))


def until(true: Callable[[], object], at_most_s: float = 30.0) -> None:
    """Wait for something that will come; long, for machines that are busy."""
    deadline_s = time.monotonic() + at_most_s
    while not true():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.01)
