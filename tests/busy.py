"""Another program that keeps a processor busy: not a child of this one, so that its time is not ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PROGRAM = """
import os, sys, time
if os.fork():
    os._exit(0)  # the other is nobody's child now
os.sched_setaffinity(0, {int(sys.argv[1])})
print(os.getpid(), flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    pass
"""


@contextmanager
def busy(cpu: int, *, at_most_s: float = 60) -> Iterator[None]:
    """Keep `cpu` busy meanwhile."""
    command = [sys.executable, "-c", _PROGRAM, str(cpu), str(at_most_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.wait()
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
