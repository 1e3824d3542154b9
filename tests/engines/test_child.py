"""A program in a child process, and what it starts, ended together."""

from __future__ import annotations

import re
import sys
import time

from tests.running import until
from weigh.engines.child import Child
from weigh.engines.engine import Limits
from weigh.machine.processes import process_of

APART = """
import subprocess, sys, time
apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("started", apart.pid, flush=True)
time.sleep(60)
"""


def test_what_has_left_the_group_is_ended_too() -> None:
    child = Child((sys.executable, "-c", APART), Limits(), what="engine")
    try:
        _, said = child.wait_for(re.compile(r"started (\d+)"), time.monotonic() + 60)
        apart = process_of(int(said[1]))
        assert apart is not None
        assert child.memory.private_bytes > 0
    finally:
        child.end()
    until(lambda: process_of(apart.pid) != apart)
    child.end()  # harmless when it is over already
