"""What the doctor says: of this machine, of recordings, and never of a person."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import weigh.machine.cpu
from tests.machine.conftest import Recorded, Tree
from weigh.machine.doctor import MOST_CHARACTERS, MOST_LINES, Finding, examine

PROBES = (
    *("system", "cpu", "memory", "cgroup", "disk", "pci", "nvidia", "amd", "intel", "apple", "wsl", "board"),
    *("power", "engine", "environment"),
)


def saw(findings: Sequence[Finding], probe: str) -> str:
    return "\n".join(f"{f.source}: {f.saw}" for f in findings if f.probe == probe)


@pytest.fixture(scope="module")
def here() -> tuple[Finding, ...]:
    return examine()


def test_every_probe_says_something(here: tuple[Finding, ...]) -> None:
    assert tuple(dict.fromkeys(finding.probe for finding in here)) == PROBES
    assert not [finding for finding in here if finding.source == "crashed"]


def test_it_shows_what_the_system_says_itself(here: tuple[Finding, ...]) -> None:
    assert platform.release() in saw(here, "system")
    assert f"python: {platform.python_version()}" in saw(here, "system")
    if Path("/proc/meminfo").exists():
        assert Path("/proc/meminfo").read_text().split()[1] in saw(here, "memory")  # MemTotal


def test_it_names_nobody(here: tuple[Finding, ...]) -> None:
    text = "\n".join(f"{f.source} {f.saw}" for f in here)
    names = [
        name for name in (platform.node(), os.environ.get("USER", ""), str(Path.home())) if len(name) > 3
    ]
    assert not [name for name in names if re.search(rf"(?<![\w/]){re.escape(name)}(?!\w)", text)]
    assert all(len(f.saw) <= MOST_CHARACTERS and f.saw.isprintable() for f in here)


HIDDEN = {
    "HOME": "/home/ada",
    "USER": "ada",
    "HOSTNAME": "engine-1843",
    "HF_TOKEN": "hf_secret",
    "HF_HOME": "/home/ada/models",
    "OLLAMA_HOST": "engine-1843.example.org:11434",
    "OLLAMA_MODELS": "/data/ada/models",
    "CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    "LD_LIBRARY_PATH": "/opt/\x1b[31mred\nline",
    "HTTPS_PROXY": "http://ada:pass@proxy",
    "LLAMA_ARG_MODEL": "/Users/grace/x.gguf on engine-1843",
    "EDITOR": "ed",
}


def test_variables_are_shown_without_secrets_and_names(tree: Tree) -> None:
    shown = {f.source: f.saw for f in examine(tree({}), environment=HIDDEN) if f.probe == "environment"}
    assert shown == {
        "CUDA_VISIBLE_DEVICES": "GPU-8932f937…",
        "HF_HOME": "~/models",
        "HF_TOKEN": "set, not shown",
        "HTTPS_PROXY": "set, not shown",
        "LD_LIBRARY_PATH": r"/opt/\x1b[31mred\nline",
        "LLAMA_ARG_MODEL": "~/x.gguf on NAME",
        "OLLAMA_HOST": "set, not shown",
        "OLLAMA_MODELS": "/data/NAME/models",
    }


def test_who_built_the_kernel_and_container_ids_are_cut(tree: Tree) -> None:
    files = {
        "proc/version": "Linux version 6.1 (ada@engine.example) (gcc 12) #1",
        "proc/self/cgroup": f"0::/docker/{'4f' * 32}\n",
    }
    findings = examine(tree(files), environment={})
    assert "6.1 (NAME) (gcc 12)" in saw(findings, "system")
    assert "/docker/4f4f4f4f…" in saw(findings, "cgroup")


def test_limits_of_a_group_are_shown_in_full(tree: Tree) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "proc/self/mountinfo": "1 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert "limit_in_bytes=9223372036854771712" in saw(examine(tree(files), environment={}), "cgroup")


def test_a_probe_that_crashes_is_shown_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(root: Path) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(weigh.machine.cpu, "read_cpu", crash)
    findings = examine()
    assert "crashed: RuntimeError: no such luck" in saw(findings, "cpu")
    assert "/proc/cpuinfo" in saw(findings, "cpu")
    assert "read_memory" in saw(findings, "memory")


def test_a_recording_can_be_examined(recorded: Recorded) -> None:
    machine = recorded("strix_halo")
    findings = examine(machine.root, run=machine.run, environment={})
    assert "0x1002:0x1586 revision 0xd1 class 0x038000 driver amdgpu" in saw(findings, "pci")
    assert "mem_info_gtt_total=137438953472" in saw(findings, "amd")
    assert "gfx_target_version=110501" in saw(findings, "amd")
    assert "AMD Radeon 8060S" in saw(findings, "amd")


def test_a_boards_recording_too(recorded: Recorded) -> None:
    machine = recorded("jetson_orin_nano")
    board = saw(examine(machine.root, run=machine.run, environment={}), "board")
    assert "nvidia,tegra234" in board
    assert "R35 (release)" in board
    assert "MAXN_SUPER" in board


def test_a_strange_system_is_bounded(tree: Tree) -> None:
    folder = "sys/bus/pci/devices/{}/class"
    root = tree(
        {folder.format(n): "0x030000" for n in range(3 * MOST_LINES)} | {"proc/version": "x" * 100_000}
    )
    findings = examine(root, environment={})
    assert len([f for f in findings if f.probe == "pci"]) == MOST_LINES + 1
    assert max(len(f.saw) for f in findings) <= MOST_CHARACTERS


def test_counters_of_energy_are_told(tree: Tree) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    found = examine(tree({f"{zone}/name": "package-0", f"{zone}/energy_uj": "12"}), environment={})
    assert {f.source: f.saw for f in found if f.probe == "power"} == {
        f"/{zone}/name": "package-0",
        f"/{zone}/energy_uj": "12",
    }
