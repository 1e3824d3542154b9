"""What else ran while something was measured: from recorded counters, and with a real program in the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.busy import busy
from tests.machine.conftest import Tree
from weigh.engines.child import Child
from weigh.engines.engine import Limits
from weigh.machine.disturbance import MOST_OTHERS, MOST_STOLEN, Disturbance, Watch

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs /proc/stat")

HZ = os.sysconf("SC_CLK_TCK")
AT_LEAST_S = 0.12  # of watching


def stat(**seconds: float) -> dict[str, str]:
    """/proc/stat of one processor this process may use and one it may not, after so many seconds of each kind."""
    kinds = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    ticks = " ".join(str(1000 + round(seconds.get(kind, 0) * HZ)) for kind in kinds)
    mine, other = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0)) + 1
    rows = (
        f"cpu {ticks}",
        f"cpu{mine} {ticks}",
        f"cpu{other} {' '.join(['5'] * 10)}",
        "intr 7 0 0",
        "ctxt 99",
    )
    return {"proc/stat": "\n".join(rows) + "\n"}


def over(tree: Tree, after: dict[str, str], before: dict[str, str] | None = None) -> Disturbance:
    """What a watch tells that saw the files change so."""
    watch = Watch(tree(before or stat()))
    time.sleep(AT_LEAST_S)
    tree(after)
    return watch.so_far()


def test_shares_of_the_time_by_hand(tree: Tree) -> None:
    found = over(tree, stat(user=20, nice=5, system=3, idle=50, iowait=10, irq=1, softirq=1, steal=10))
    assert found.others == pytest.approx(0.30, abs=0.005)  # 30 s of 100, less the little this process took
    assert found.stolen == pytest.approx(0.10)
    assert found.throttled is None
    assert found.problems == (
        "other programs took 30% of the processors' time",
        "the host took 10% of the processors' time for other machines",
    )


def test_guests_are_in_the_users_time_already(tree: Tree) -> None:
    assert over(tree, stat(user=20, guest=20, guest_nice=7, idle=80)).others == pytest.approx(0.2, abs=0.005)


def test_a_quiet_machine_has_no_problems(tree: Tree) -> None:
    found = over(tree, stat(user=MOST_OTHERS * 90, steal=MOST_STOLEN * 90, idle=85))
    assert found.others is not None
    assert 0 < found.others < MOST_OTHERS
    assert found.problems == ()


def test_children_that_were_waited_for_are_not_others(tree: Tree) -> None:
    watch = Watch(tree(stat()))
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    tree(stat(user=0.4, idle=0.6))
    found = watch.so_far()
    assert found.others == pytest.approx(0.0, abs=0.02)
    assert found.problems == ()


WORKERS = """
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < 0.5: pass\\nprint('done', flush=True)\\ntime.sleep(60)"
worker = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
worker.stdout.readline()
print("ready", flush=True)
time.sleep(60)
"""


def test_workers_of_an_engine_that_is_ended_are_not_others(tree: Tree) -> None:
    """Nobody waits for them: the engine that started them is killed with them, as vLLM's server is."""
    watch = Watch(tree(stat()))
    child = Child((sys.executable, "-c", WORKERS), Limits(), what="engine")
    try:
        child.wait_for(re.compile("ready"), time.monotonic() + 60)
        tree(stat(user=0.5, idle=0.5))
        running = watch.so_far()
    finally:
        child.end()
    ended = watch.so_far()
    assert running.others == pytest.approx(0.0, abs=0.02)
    assert ended.others == pytest.approx(0.0, abs=0.02)


def test_slowing_down_for_heat_is_counted(tree: Tree) -> None:
    count = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    before = stat() | {count.format(0): "3\n", count.format(1): "5\n"}
    found = over(tree, stat(idle=1) | {count.format(1): "7\n"}, before)
    assert found.throttled == 2
    assert found.problems == ("a processor was slowed down for heat 2 times",)


@pytest.mark.parametrize("content", ["", "cpu 1 2 3\n", "cpu0 a b c d e f g h\n", "cpu0 1 2 3\n"])
def test_a_system_that_does_not_tell_is_unknown(tree: Tree, content: str) -> None:
    assert over(tree, {"proc/stat": content}) == Disturbance()
    assert Disturbance().problems == ()


def test_a_glance_tells_nothing(tree: Tree) -> None:
    watch = Watch(tree(stat()))
    tree(stat(user=50, idle=50))
    assert watch.so_far() == Disturbance()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_another_program_is_noticed() -> None:
    """For real, on one processor that both may use: the other program gets its half of it."""
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    os.sched_setaffinity(0, {one})
    try:
        with busy(one):
            watch = Watch()
            subprocess.run([sys.executable, "-c", "import time; time.sleep(1)"], check=True)
            found = watch.so_far()
    finally:
        os.sched_setaffinity(0, allowed)
    assert found.others is not None
    assert found.others > 0.5
    assert found.problems[0].startswith("other programs took")
