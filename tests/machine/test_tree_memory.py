"""Memory of real processes that share pages, held against the kernel's own accounts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.machine.conftest import Group
from tests.running import Start, until
from weigh.machine import kernel_files
from weigh.machine.processes import Tree
from weigh.machine.tree_memory import TreeMemory
from weigh.units import GIB, MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares of pages are told by Linux")


def test_pages_that_a_fork_shares_count_once(start: Start) -> None:
    forked = """
import os, time
held = bytearray(100 << 20)
held[::4096] = b"x" * len(held[::4096])
if os.fork() == 0:
    print("on", flush=True)
time.sleep(60)
"""
    root = start(forked, lines=1)
    tree = Tree(lambda: [root])
    assert len(tree.members()) == 2
    memory = TreeMemory(tree)
    assert 100 * MIB < memory.look().private_bytes < 130 * MIB
    assert memory.peak_private_bytes < 130 * MIB


def test_the_peak_of_one_process_is_the_kernels(start: Start) -> None:
    rises = """
import time
held = bytearray(80 << 20)
held[::4096] = b"x" * len(held[::4096])
del held
print("fell", flush=True)
time.sleep(60)
"""
    root = start(rises, lines=1)
    memory = TreeMemory(Tree(lambda: [root]))
    assert memory.look().private_bytes < 60 * MIB
    assert memory.peak_bytes > 80 * MIB


SHARED = """
import os, sys, time
open(sys.argv[1], "w").write("0")
held = bytearray(200 << 20)
held[::4096] = b"x" * len(held[::4096])
if os.fork() == 0:
    own = bytearray(50 << 20)
    own[::4096] = b"x" * len(own[::4096])
    print("on", flush=True)
time.sleep(60)
"""


def test_memory_of_a_tree_is_what_the_kernel_charges_its_group_for(
    control_group: Group, start: Start
) -> None:
    group = control_group({"memory.limit_in_bytes": str(GIB), "memory.max": str(GIB)})
    root = start(SHARED, group / "cgroup.procs", lines=1)
    stat = kernel_files.table(group / "memory.stat")
    charged = stat["total_rss"] if "total_rss" in stat else stat["anon"]
    assert charged > 250 * MIB
    memory = TreeMemory(Tree(lambda: [root])).look()
    assert memory.private_bytes == pytest.approx(charged, rel=0.02)


MAPS = """
import mmap, os, sys, time
other = os.fork()
here = "a" if other else "b"
while not os.path.exists(sys.argv[1] + "." + here):
    time.sleep(0.01)
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    read = sum(mapped[0::4096])
open(sys.argv[1] + "." + here, "w").write("done")
time.sleep(60)
"""


def test_a_file_that_two_map_is_counted_once_and_in_the_peak_too(start: Start, tmp_path: Path) -> None:
    """They come to share it between two readings of their shares, as engines do that load a library each."""
    file = tmp_path / "weights"
    file.write_bytes(b"x" * (100 * MIB))
    root = start(MAPS, file)
    memory = TreeMemory(Tree(lambda: [root]))
    until(lambda: len(memory._tree.members()) == 2)
    memory.look()
    for name in "ab":
        done = tmp_path / f"weights.{name}"
        done.touch()
        until(lambda done=done: done.read_text())  # type: ignore[misc]
        memory.look()
    now = memory.look(near_bytes=0)
    for _ in range(20):  # the next reading comes when the last has cost its share of the time
        time.sleep(0.02)
        now = memory.look(near_bytes=0)
    assert 100 * MIB < now.file_bytes < 125 * MIB
    assert 100 * MIB < memory.peak_bytes < 150 * MIB


def test_a_peak_from_before_a_fork_stays(start: Start, tmp_path: Path) -> None:
    falls = """
import os, sys, time
held = bytearray(150 << 20)
held[::4096] = b"x" * len(held[::4096])
print("full", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
held = held[:60 << 20]
os.fork()
open(sys.argv[1], "a").write("forked ")
time.sleep(60)
"""
    go = tmp_path / "go"
    root = start(falls, go, lines=1)
    memory = TreeMemory(Tree(lambda: [root]))
    memory.look()
    go.touch()
    until(lambda: go.read_text().count("forked") == 2)
    now = memory.look(near_bytes=0)
    assert now.private_bytes < 90 * MIB
    assert 150 * MIB < memory.peak_private_bytes < 180 * MIB


def test_what_was_shared_with_one_that_ended_is_not_taken_off_a_limit(start: Start, tmp_path: Path) -> None:
    """Three share; when one ends, two of them still hold all of it, before shares are due to be read again."""
    shares = """
import os, sys, time
held = bytearray(200 << 20)
held[::4096] = b"x" * len(held[::4096])
for last in (False, True):
    if os.fork() == 0:
        print("on", flush=True)
        while last and not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        time.sleep(0 if last else 60)
        os._exit(0)
time.sleep(60)
"""
    go = tmp_path / "go"
    root = start(shares, go, lines=2)
    tree = Tree(lambda: [root])
    memory = TreeMemory(tree)
    assert 200 * MIB < memory.look().private_bytes < 240 * MIB
    assert len(memory.members) == 3
    go.touch()
    until(lambda: len(tree.members()) == 2)
    assert 200 * MIB < memory.look(near_bytes=150 * MIB).private_bytes < 240 * MIB
