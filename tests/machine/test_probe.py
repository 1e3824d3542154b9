"""The whole probe, on this machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import weigh.machine
from weigh.machine import probe


def test_this_machine_is_described(tmp_path: Path) -> None:
    machine = probe(tmp_path / "models")
    assert machine.os.startswith(platform.system())
    assert machine.cpu.model
    assert 1 <= machine.cpu.threads <= machine.cpu.logical_cpus
    assert 0 < machine.memory.available_bytes <= machine.memory.usable_bytes <= machine.memory.total_bytes
    assert machine.disk.path == tmp_path / "models"


def test_fingerprint_stays_while_the_machine_does(tmp_path: Path) -> None:
    assert probe(tmp_path).fingerprint == probe(Path("/")).fingerprint


def test_public_names_are_there() -> None:
    for name in weigh.machine.__all__:
        assert hasattr(weigh.machine, name)


def test_probing_loads_nothing_heavy() -> None:
    heavy = {"psutil", "numpy", "rich", "concurrent.futures", "statistics", "sqlite3", "urllib.request"}
    code = f"import sys; from weigh.machine import probe; probe(); print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
