"""The probes against this system's own tools, where it has them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from weigh.machine import pci
from weigh.machine.cpu import read_cpu
from weigh.machine.memory import read_memory


def printed(*words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not here")
    plain = {"LC_ALL": "C", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=plain)
    if done.returncode:
        pytest.skip(f"{words[0]} does not work here: {done.stderr.strip()[:80]}")
    return done.stdout


def field(text: str, name: str) -> str:
    found = re.search(rf"^\s*{re.escape(name)}:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def test_lscpu_knows_the_same_processors() -> None:
    told, cpu = printed("lscpu"), read_cpu()
    assert int(field(told, "CPU(s)")) >= cpu.logical_cpus
    if field(told, "Vendor ID") != "ARM":
        assert field(told, "Model name") == cpu.model
    flags = field(told, "Flags").split()
    assert ("AVX2" in cpu.instruction_sets) == ("avx2" in flags)
    assert cpu.virtual == ("hypervisor" in flags or bool(field(told, "Hypervisor vendor")))


def test_free_knows_the_same_memory() -> None:
    row = next(line for line in printed("free", "-b").splitlines() if line.startswith("Mem:"))
    assert int(row.split()[1]) == read_memory().total_bytes


def test_numactl_knows_the_same_nodes() -> None:
    told = printed("numactl", "--hardware")
    with_cpus = re.findall(r"^node \d+ cpus: \d", told, re.MULTILINE)
    assert len(with_cpus) >= read_cpu().numa_nodes


def test_lspci_knows_the_same_gpus() -> None:
    told = printed("lspci", "-n", "-D")
    displays = re.findall(r"^(\S+) 03\d\d: (?:10de|1002|8086):", told, re.MULTILINE)
    accelerators = re.findall(r"^(\S+) 12\d\d: 1002:", told, re.MULTILINE)
    assert {card.address for card in pci.gpu_devices()} == {*displays, *accelerators}
