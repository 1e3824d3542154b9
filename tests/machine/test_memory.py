"""Memory under limits: recorded systems, then this one against psutil and under a real limit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from weigh.machine.memory import read_memory
from weigh.units import GIB, MIB

Tree = Callable[[dict[str, str]], Path]
Group = Callable[[dict[str, str]], Path]

UNLIMITED_V1 = "9223372036854771712"
SYSTEM = {  # 16 GiB, 10 of them available, 4 GiB of page cache, 2 GiB of swap
    "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 6291456 kB\nMemAvailable: 10485760 kB\n"
    "Active(file): 3145728 kB\nInactive(file): 1048576 kB\nSwapTotal: 2097152 kB\nSwapFree: 1048576 kB\n"
}
V1_CONTAINER = {
    "proc/self/cgroup": "4:memory:/docker/abc\n",
    "proc/self/mountinfo": "41 40 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
}
V2_NESTED = {
    "proc/self/cgroup": "0::/pod/app\n",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


def v1(name: str) -> str:
    return f"sys/fs/cgroup/memory/memory.{name}"


def test_no_group_means_the_systems_own_figures(tree: Tree) -> None:
    memory = read_memory(tree(SYSTEM))
    assert memory.total_bytes == memory.usable_bytes == 16 * GIB
    assert memory.available_bytes == 10 * GIB
    assert memory.page_cache_bytes == 4 * GIB
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (2 * GIB, 1 * GIB)
    assert (memory.limit_bytes, memory.limited_by) == (None, "")


def test_v1_limit_counts_page_cache_as_available(tree: Tree) -> None:
    # 8 GiB allowed, 5 used of which 3 + 1 are file pages: 8 - (5 - 4) = 7 GiB can be taken.
    stat = f"total_inactive_file {3 * GIB}\ntotal_active_file {GIB}\ninactive_file 1\nactive_file 1\n"
    files = {v1("limit_in_bytes"): f"{8 * GIB}\n", v1("usage_in_bytes"): f"{5 * GIB}\n", v1("stat"): stat}
    memory = read_memory(tree(SYSTEM | V1_CONTAINER | files))
    assert (memory.limit_bytes, memory.limited_by) == (8 * GIB, "cgroup v1")
    assert memory.available_bytes == 7 * GIB
    assert memory.page_cache_bytes == 4 * GIB
    assert (memory.total_bytes, memory.usable_bytes) == (16 * GIB, 8 * GIB)


def test_v1_sentinel_limits_nothing(tree: Tree) -> None:
    stat = f"hierarchical_memory_limit {UNLIMITED_V1}\n"
    files = {v1("limit_in_bytes"): UNLIMITED_V1, v1("memsw.limit_in_bytes"): UNLIMITED_V1, v1("stat"): stat}
    memory = read_memory(tree(SYSTEM | V1_CONTAINER | files))
    assert (memory.limit_bytes, memory.limited_by) == (None, "")
    assert memory.available_bytes == 10 * GIB
    assert memory.swap_total_bytes == 2 * GIB


def test_v1_limit_of_an_ancestor_that_the_container_does_not_show(tree: Tree) -> None:
    stat = f"hierarchical_memory_limit {3 * GIB}\n"
    files = {v1("limit_in_bytes"): UNLIMITED_V1, v1("usage_in_bytes"): f"{GIB}", v1("stat"): stat}
    memory = read_memory(tree(SYSTEM | V1_CONTAINER | files))
    assert memory.limit_bytes == 3 * GIB
    assert memory.available_bytes == 2 * GIB


def test_v1_memory_and_swap_limited_together_leave_the_difference_to_swap(tree: Tree) -> None:
    # 4 GiB of memory, 4.5 with swap: half a GiB of swap, of which 0.25 is in use.
    files = {
        v1("limit_in_bytes"): f"{4 * GIB}",
        v1("memsw.limit_in_bytes"): f"{4 * GIB + 512 * MIB}",
        v1("usage_in_bytes"): f"{GIB}",
        v1("memsw.usage_in_bytes"): f"{GIB + 256 * MIB}",
    }
    memory = read_memory(tree(SYSTEM | V1_CONTAINER | files))
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (512 * MIB, 256 * MIB)


def test_v2_limit_in_an_ancestor_binds(tree: Tree) -> None:
    # The pod has 6 GiB and uses 4, 1 of it cache; the app itself says max: 6 - (4 - 1) = 3 GiB.
    files = {
        "sys/fs/cgroup/pod/app/memory.max": "max\n",
        "sys/fs/cgroup/pod/app/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/pod/memory.max": f"{6 * GIB}\n",
        "sys/fs/cgroup/pod/memory.current": f"{4 * GIB}\n",
        "sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {GIB // 2}\nactive_file {GIB // 2}\n",
        "sys/fs/cgroup/pod/memory.swap.max": "0\n",
        "sys/fs/cgroup/pod/memory.swap.current": "0\n",
    }
    memory = read_memory(tree(SYSTEM | V2_NESTED | files))
    assert (memory.limit_bytes, memory.limited_by) == (6 * GIB, "cgroup v2")
    assert memory.available_bytes == 3 * GIB
    assert memory.page_cache_bytes == GIB
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (0, 0)


def test_the_lowest_limit_and_the_fullest_group_may_be_two(tree: Tree) -> None:
    # App: 4 GiB, empty: 4 left. Pod: 8 GiB, 6 used by neighbours: 2 left.
    files = {
        "sys/fs/cgroup/pod/app/memory.max": f"{4 * GIB}",
        "sys/fs/cgroup/pod/app/memory.current": "0",
        "sys/fs/cgroup/pod/memory.max": f"{8 * GIB}",
        "sys/fs/cgroup/pod/memory.current": f"{6 * GIB}",
    }
    memory = read_memory(tree(SYSTEM | V2_NESTED | files))
    assert memory.limit_bytes == 4 * GIB
    assert memory.available_bytes == 2 * GIB


def test_v2_high_mark_binds_like_a_limit(tree: Tree) -> None:
    files = {"sys/fs/cgroup/pod/app/memory.high": f"{2 * GIB}", "sys/fs/cgroup/pod/app/memory.max": "max"}
    assert read_memory(tree(SYSTEM | V2_NESTED | files)).limit_bytes == 2 * GIB


def test_a_group_over_its_limit_has_nothing_left(tree: Tree) -> None:
    files = {"sys/fs/cgroup/pod/memory.max": f"{GIB}", "sys/fs/cgroup/pod/memory.current": f"{2 * GIB}"}
    assert read_memory(tree(SYSTEM | V2_NESTED | files)).available_bytes == 0


def test_a_roomy_limit_on_a_full_system_leaves_what_the_system_has(tree: Tree) -> None:
    files = {"sys/fs/cgroup/pod/memory.max": f"{15 * GIB}", "sys/fs/cgroup/pod/memory.current": "0"}
    memory = read_memory(tree(SYSTEM | V2_NESTED | files))
    assert memory.limit_bytes == 15 * GIB
    assert memory.available_bytes == 10 * GIB
    assert memory.page_cache_bytes == 4 * GIB


def test_kernel_before_memavailable_counts_free_and_cache(tree: Tree) -> None:
    old = "MemTotal: 4194304 kB\nMemFree: 1048576 kB\nActive(file): 524288 kB\nInactive(file): 524288 kB\n"
    assert read_memory(tree({"proc/meminfo": old})).available_bytes == 2 * GIB


def test_without_proc_psutil_answers(tmp_path: Path) -> None:
    memory = read_memory(tmp_path)
    assert memory.total_bytes == psutil.virtual_memory().total
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert memory.limit_bytes is None


def test_here_psutil_says_the_same() -> None:
    memory, ram, swap = read_memory(), psutil.virtual_memory(), psutil.swap_memory()
    assert memory.total_bytes == ram.total
    assert memory.available_bytes <= ram.available + ram.total // 20  # others run meanwhile
    if memory.limit_bytes is None:
        assert memory.available_bytes == pytest.approx(ram.available, abs=ram.total // 20)
        assert memory.swap_total_bytes == swap.total


CHILD = """
import json, sys
from dataclasses import asdict
from pathlib import Path
Path(sys.argv[1]).write_text("0")  # 0 means this very process
big = Path(sys.argv[2])
big.write_bytes(bytes(100 << 20))  # page cache, charged to the group
from weigh.machine.memory import read_memory
print(json.dumps(asdict(read_memory())))
big.unlink()
"""


def test_under_a_real_limit_a_child_sees_it_and_its_page_cache_stays_available(
    control_group: Group,
) -> None:
    limit = 512 * MIB
    group = control_group({"memory.limit_in_bytes": str(limit), "memory.max": str(limit)})
    with TemporaryDirectory(dir="/var/tmp") as folder:  # /tmp may be a memory disk, which is no page cache
        command = [sys.executable, "-c", CHILD, str(group / "cgroup.procs"), f"{folder}/big"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    memory = json.loads(answer.stdout)
    assert memory["limit_bytes"] == limit
    assert memory["limited_by"] in {"cgroup v1", "cgroup v2"}
    assert memory["page_cache_bytes"] > 80 * MIB  # the kernel's counters lag by a few MiB
    # Were the 100 MiB just written counted as taken, less than 412 MiB would be left.
    assert 430 * MIB < memory["available_bytes"] < limit
