"""The whole probe, on this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import weigh.machine
from weigh.machine import Cpu, Disk, Machine, Memory, probe
from weigh.units import GIB


def test_this_machine_is_described(tmp_path: Path) -> None:
    machine = probe(tmp_path / "models")
    assert machine.os.startswith(platform.system())
    assert machine.cpu.model
    assert 1 <= machine.cpu.threads <= machine.cpu.logical_cpus
    assert 0 < machine.memory.available_bytes <= machine.memory.usable_bytes <= machine.memory.total_bytes
    assert machine.disk.path == tmp_path / "models"


def test_fingerprint_stays_while_the_machine_does(tmp_path: Path) -> None:
    assert probe(tmp_path).fingerprint == probe(Path("/")).fingerprint


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"
)
def test_cpus_that_are_denied_leave_the_machine_and_tell_its_speeds_apart() -> None:
    whole = probe()
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from weigh.machine import probe;"
        " found = probe(); print(found.fingerprint, found.speed_fingerprint, found.limits['allowed_cpus'])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [whole.fingerprint, f"{whole.fingerprint}-1-cpus", "1.0"]


def test_without_limits_the_fingerprint_is_what_it_was_when_they_were_in_it() -> None:
    """Ledgers of earlier versions stay those of this machine. The value is of the formula before."""
    cpu = Cpu("EPYC", "x86_64", 8, 4, 8.0, ("AVX2", "FMA"), None, 1, False)
    memory = Memory(24 * GIB, 20 * GIB, 0, 0, 0)
    machine = Machine("Linux 6.1", cpu, memory, (), Disk(Path("/"), 0, 0))
    assert machine.fingerprint == machine.speed_fingerprint == "fb3e8fa7bd6c2189"
    assert machine.limits == {}
    held = replace(machine, cpu=replace(cpu, allowed_cpus=1.5), memory=replace(memory, limit_bytes=4 * GIB))
    assert held.fingerprint == machine.fingerprint
    assert held.speed_fingerprint == f"{machine.fingerprint}-1.5-cpus"
    assert held.limits == {"allowed_cpus": 1.5, "memory_limit_bytes": 4 * GIB}


def test_public_names_are_there() -> None:
    for name in weigh.machine.__all__:
        assert hasattr(weigh.machine, name)


def test_probing_loads_nothing_heavy() -> None:
    heavy = {"psutil", "numpy", "rich", "concurrent.futures", "statistics", "sqlite3", "urllib.request"}
    code = f"import sys; from weigh.machine import probe; probe(); print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
