"""The guard on real processes that hold real memory, and its view of one quantity by figures worked by hand.

Its limit is a low number of bytes of the tree's own memory, so that no test fills the machine.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.machine.conftest import Group
from tests.running import DEAF, EATER, Start, until
from weigh.errors import BadInput
from weigh.machine import kernel_files
from weigh.machine.processes import Process, Tree, is_alive, is_stopped
from weigh.machine.tree_memory import TreeMemory
from weigh.monitor import watch as watch_module
from weigh.monitor.guard import FASTEST_S, Act, Gauge, Guard, Limit, OnLimit, parse_limit
from weigh.monitor.sample import MemoryReader, used_bytes
from weigh.monitor.watch import Guarding, machine_gauges
from weigh.units import GIB, MIB


class Reading:
    """A gauge's source that the test sets."""

    def __init__(self, used: int = 0, usable: int = 16 * GIB) -> None:
        self.used, self.usable = used, usable

    def __call__(self) -> tuple[int, int]:
        return self.used, self.usable


def gauge(reading: Reading, limit: str = "90%", on_limit: OnLimit = OnLimit.PAUSE) -> Gauge:
    return Gauge("memory", reading, parse_limit(limit), on_limit, 1.0)


# --- one quantity ----------------------------------------------------------------------------------------


def test_limits_are_shares_or_sizes() -> None:
    assert parse_limit("90%").of(10 * GIB) == 9 * GIB
    assert parse_limit("4GiB").of(10 * GIB) == 4 * GIB
    assert parse_limit("40GiB").of(10 * GIB) == 10 * GIB  # never more than there is
    assert (str(parse_limit("87.5%")), str(parse_limit("20GiB"))) == ("87.5 %", "20.00 GiB")


@pytest.mark.parametrize("text", ["0%", "101%", "-5%", "%", "x%", "0", "nan%", "12 parsecs"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_limit(text)


def test_it_looks_sooner_the_nearer_the_limit_is() -> None:
    # To the limit at 14.4 GiB memory cannot be filled sooner than at 4 GiB/s: 8 GiB away in 2 s, 1 GiB in 0.25 s.
    reading = Reading()
    one = gauge(reading)
    for away, next_s in ((8 * GIB, 1.0), (GIB, 0.25), (MIB, FASTEST_S), (-GIB, FASTEST_S)):
        reading.used = int(14.4 * GIB) - away
        outlook = one.look(away)  # times that go backwards tell no growth
        assert outlook is not None
        assert outlook.next_s == pytest.approx(next_s, rel=1e-6)


def test_growth_that_reaches_the_limit_before_the_next_look_counts_as_reaching_it() -> None:
    # 1 GiB/s reaches a limit that is 0.1 GiB away within 0.1 s, and one 0.2 GiB away not.
    reading = Reading(used=3 * GIB)
    one = gauge(reading, "5GiB")
    assert one.look(0.0) is not None
    reading.used = 4 * GIB + 820 * MIB
    outlook = one.look(1.8)
    assert outlook is not None
    assert outlook.grows_bytes_per_s == pytest.approx(GIB, rel=0.01)
    assert not outlook.reached
    assert not outlook.about_to_be
    reading.used += 102 * MIB
    outlook = one.look(1.9)
    assert outlook is not None
    assert outlook.about_to_be
    assert not outlook.reached


def test_one_jump_is_not_taken_for_more_than_memory_can_be_filled() -> None:
    reading = Reading(used=0)
    one = gauge(reading, "5GiB")
    one.look(0.0)
    reading.used = 4 * GIB
    outlook = one.look(0.05)
    assert outlook is not None
    assert outlook.grows_bytes_per_s == 4 * GIB
    assert not outlook.about_to_be


def test_it_warns_once_a_step_below_and_again_after_it_was_clear() -> None:
    reading = Reading()
    guard = Guard([gauge(reading)], None)
    for share in (0.5, 0.86, 0.87, 0.86, 0.7, 0.86):  # limit 0.9: warned from 0.855 on, clear below 0.81
        reading.used = int(share * 16 * GIB)
        guard.look(0.0)
    assert [act.kind for act in guard.acts] == ["warned", "warned"]
    assert guard.acts[0].text == "memory at 13.76 GiB (86% of 16.00 GiB), limit 90 %"


def test_with_nothing_named_the_limit_is_only_told() -> None:
    reading = Reading(used=15 * GIB)
    guard = Guard([gauge(reading)], None)
    guard.look(0.0)
    guard.look(0.0)
    assert [act.text for act in guard.acts] == [
        "memory at 15.00 GiB (94% of 16.00 GiB), limit 90 %: the limit is reached"
    ]


def test_a_gauge_that_cannot_be_read_is_not_taken_for_empty() -> None:
    guard = Guard([Gauge("memory of GPU 0", lambda: None, Limit(share=0.9), OnLimit.STOP, 1.0)], None)
    assert guard.look(0.0) > 0
    assert guard.acts == []


def test_gpu_memory_is_guarded_where_nvml_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(70 * GIB, 80 * GIB), (10 * GIB, 80 * GIB)]
    monkeypatch.setattr(watch_module, "GpuReader", lambda: SimpleNamespace(nvidia_memory=lambda: told))
    asked = Guarding(gpu_memory=parse_limit("95%"))
    guard = Guard(machine_gauges(asked, OnLimit.WARN, MemoryReader().read, 1.0), None)
    guard.look(0.0)
    assert guard.acts == []
    told[0] = (77 * GIB, 80 * GIB)
    guard.look(10.0)
    assert [act.text for act in guard.acts] == [
        "memory of GPU 0 at 77.00 GiB (96% of 80.00 GiB), limit 95 %, growing by 0.70 GiB/s: the limit is reached"
    ]


def test_without_nvml_gpu_memory_cannot_be_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "GpuReader", lambda: SimpleNamespace(nvidia_memory=list))
    with pytest.raises(BadInput, match="no NVIDIA GPU"):
        machine_gauges(Guarding(gpu_memory=parse_limit("95%")), OnLimit.WARN, MemoryReader().read, 1.0)


# --- real processes --------------------------------------------------------------------------------------


@contextmanager
def guarding(root: Process, limit: str, on_limit: OnLimit, grace_s: float = 20.0) -> Iterator[Guard]:
    tree, memory = Tree(lambda: [root]), TreeMemory(Tree(lambda: [root]))

    def read() -> tuple[int, int]:
        return memory.look(0).private_bytes, 16 * GIB

    one = Gauge("its memory", read, parse_limit(limit), on_limit, 0.1)
    guard = Guard([one], tree, what="eater", grace_s=grace_s)
    guard.start()
    try:
        yield guard
    finally:
        guard.close()


def kinds(guard: Guard) -> list[str]:
    return [act.kind for act in guard.acts]


def held_bytes(root: Process) -> int:
    return TreeMemory(Tree(lambda: [root])).look().private_bytes


def test_it_pauses_before_the_limit_and_resumes_when_the_guard_ends(start: Start) -> None:
    root = start(EATER, 400, 2)
    with guarding(root, "200MiB", OnLimit.PAUSE) as guard:
        until(lambda: guard.paused)
        until(lambda: is_stopped(root))
        assert held_bytes(root) < 230 * MIB
        assert "paused eater (process" in guard.acts[-1].text
    assert not is_stopped(root)
    assert kinds(guard)[-2:] == ["paused", "resumed"]
    assert "the guard ends: resumed eater" in guard.acts[-1].text


def test_it_resumes_when_memory_is_free_again(start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    reading = Reading(used=GIB)
    guard = Guard([gauge(reading)], Tree(lambda: [root]), what="eater")
    guard.look(0.0)
    assert not guard.paused
    reading.used = 15 * GIB
    guard.look(100.0)
    assert guard.paused
    until(lambda: is_stopped(root))
    reading.used = int(13.5 * GIB)  # below the limit of 14.4, and not yet by a tenth
    guard.look(200.0)
    assert is_stopped(root)
    reading.used = 12 * GIB
    guard.look(300.0)
    until(lambda: not is_stopped(root))
    assert kinds(guard) == ["paused", "resumed"]
    assert guard.acts[-1].text.startswith("memory at 12.00 GiB (75% of 16.00 GiB), limit 90 %: resumed eater")


def test_one_whom_somebody_else_had_paused_is_not_resumed(start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    os.kill(root.pid, signal.SIGSTOP)
    until(lambda: is_stopped(root))
    reading = Reading(used=15 * GIB)
    guard = Guard([gauge(reading)], Tree(lambda: [root]))
    guard.look(0.0)
    guard.close()
    assert is_stopped(root)


def test_one_whom_somebody_resumes_above_the_limit_is_paused_again(start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    reading = Reading(used=15 * GIB)
    guard = Guard([gauge(reading)], Tree(lambda: [root]))
    guard.look(0.0)
    until(lambda: is_stopped(root))
    os.kill(root.pid, signal.SIGCONT)
    until(lambda: not is_stopped(root))
    guard.look(1.0)
    until(lambda: is_stopped(root))
    assert kinds(guard) == ["paused"]
    guard.close()


def test_it_stops_the_whole_tree(start: Start) -> None:
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EATER!r}, '400', '2'])"
    root = start(parent)
    with guarding(root, "150MiB", OnLimit.STOP) as guard:
        until(lambda: "stopped" in kinds(guard))
        tree = Tree(lambda: [root])
        until(lambda: not tree.members())
    assert guard.stopped
    stopped = next(act for act in guard.acts if act.kind == "stopped")
    assert len(stopped.details["pids"]) == 2
    assert stopped.details["used_bytes"] < 170 * MIB


def test_one_that_grows_fast_is_stopped_before_the_limit(start: Start) -> None:
    root = start(EATER, 600, 8)  # some 400 MiB/s
    with guarding(root, "400MiB", OnLimit.STOP, grace_s=0.2) as guard:
        until(lambda: not is_alive(root))
    stopped = next(act for act in guard.acts if act.kind == "stopped")
    assert stopped.details["used_bytes"] < 440 * MIB


def test_one_that_ignores_sigterm_is_killed_after_the_grace_time(start: Start) -> None:
    root = start(DEAF, lines=1)
    reading = Reading(used=int(14.5 * GIB))
    guard = Guard([gauge(reading, on_limit=OnLimit.STOP)], Tree(lambda: [root]), what="deaf", grace_s=1.0)
    guard.look(0.0)
    guard.look(0.5)
    time.sleep(0.05)
    assert is_alive(root)
    guard.look(1.5)
    until(lambda: not is_alive(root))
    guard.look(1.6)
    assert kinds(guard) == ["stopped", "killed"]
    assert guard.acts[-1].text.startswith("still there after 1.0 s: killed deaf (process")


def test_the_grace_time_ends_too_where_memory_cannot_be_read_any_more(start: Start) -> None:
    root = start(DEAF, lines=1)
    told: list[tuple[int, int] | None] = [(15 * GIB, 16 * GIB)]
    limited = Gauge("memory", lambda: told[0], Limit(share=0.9), OnLimit.STOP, 1.0)
    guard = Guard([limited], Tree(lambda: [root]), what="deaf", grace_s=1.0)
    guard.look(0.0)
    told[0] = None
    guard.look(0.5)
    assert is_alive(root)
    guard.look(1.5)
    until(lambda: not is_alive(root))
    assert kinds(guard) == ["stopped", "killed"]


def test_the_grace_time_is_over_when_memory_grows_on(start: Start) -> None:
    root = start(DEAF, lines=1)
    reading = Reading(used=int(14.5 * GIB))
    guard = Guard([gauge(reading, on_limit=OnLimit.STOP)], Tree(lambda: [root]), what="deaf", grace_s=100.0)
    guard.look(0.0)
    reading.used = int(15.3 * GIB)  # half of the 1.6 GiB above the limit
    guard.look(1.0)
    until(lambda: not is_alive(root))
    assert guard.acts[-1].text.startswith("memory grew on: killed deaf")


def test_a_paused_one_hears_that_it_is_to_stop(start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    low, high = Reading(used=15 * GIB), Reading()
    gauges = [gauge(low), gauge(high, on_limit=OnLimit.STOP)]
    guard = Guard(gauges, Tree(lambda: [root]))
    guard.look(0.0)
    until(lambda: is_stopped(root))
    high.used = 15 * GIB
    guard.look(1.0)
    until(lambda: not is_alive(root))


def test_nobody_but_the_named_is_touched(start: Start) -> None:
    root, other = start(EATER, 0, 1, lines=1), start(EATER, 0, 1, lines=1)
    guard = Guard([gauge(Reading(used=15 * GIB), on_limit=OnLimit.STOP)], Tree(lambda: [root]))
    guard.look(0.0)
    until(lambda: not is_alive(root))
    assert is_alive(other)
    assert not is_stopped(other)


def test_a_guard_that_breaks_leaves_nothing_paused(start: Start) -> None:
    root = start(EATER, 0, 1, lines=1)
    reading = Reading(used=15 * GIB)

    def read() -> tuple[int, int]:
        if reading.used == 0:
            raise RuntimeError("broken")
        return reading()

    one = Gauge("memory", read, parse_limit("90%"), OnLimit.PAUSE, 1.0)
    guard = Guard([one], Tree(lambda: [root]))
    guard.start()
    until(lambda: is_stopped(root))
    reading.used = 0
    until(lambda: "resumed" in kinds(guard))
    assert not is_stopped(root)
    assert guard.acts[-2].text == "the guard broke: RuntimeError: broken"


GROUPED = "import os, sys\nopen(sys.argv.pop(1), 'w').write('0')\n" + EATER


def test_under_a_control_groups_limit_it_acts_before_the_kernel_does(
    control_group: Group, start: Start
) -> None:
    limit = str(300 * MIB)
    swap = {"memory.memsw.limit_in_bytes": limit, "memory.swap.max": "0"}
    group: Path = control_group({"memory.limit_in_bytes": limit, "memory.max": limit} | swap)
    root = start(GROUPED, group / "cgroup.procs", 600, 2)
    reader = MemoryReader(pids=lambda: [root.pid])
    until(lambda: reader_limit(root) == 300 * MIB)

    def read() -> tuple[int, int]:
        memory = reader.read()
        return used_bytes(memory), memory.usable_bytes

    one = Gauge("memory", read, parse_limit("80%"), OnLimit.STOP, 0.1)
    guard = Guard([one], Tree(lambda: [root]), what="eater", grace_s=5.0)
    guard.start()
    try:
        until(lambda: not is_alive(root))
    finally:
        guard.close()
    stopped = next(act for act in guard.acts if act.kind == "stopped")
    assert stopped.details["usable_bytes"] == 300 * MIB
    assert stopped.details["used_bytes"] < 290 * MIB
    os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOWAIT)
    told = kernel_files.table(group / "memory.oom_control") | kernel_files.table(group / "memory.events")
    assert told["oom_kill"] == 0


def reader_limit(root: Process) -> int:
    return MemoryReader(pids=lambda: [root.pid]).read().usable_bytes


def test_acts_are_plain_json() -> None:
    act = Act(1.0, "warned", "so", {"pids": []})
    assert json.loads(json.dumps(act.to_json())) == {
        "when_unix_s": 1.0,
        "kind": "warned",
        "text": "so",
        "details": {"pids": []},
    }
