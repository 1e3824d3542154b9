"""Processors: recorded machines, then this one against its own tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from weigh.machine.cpu import read_cpu

Tree = Callable[[dict[str, str]], Path]
Group = Callable[[dict[str, str]], Path]

DATA = Path(__file__).parent / "data"
XEON = {"proc/cpuinfo": (DATA / "xeon_virtual.cpuinfo").read_text()}
CPUS = "sys/devices/system/cpu"
V2 = {
    "proc/self/cgroup": "0::/pod/app\n",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


def hyper_threaded(cores: int) -> dict[str, str]:
    """Two threads a core, numbered as servers do: core c has CPUs c and c + cores. One 30 MiB cache."""
    files = {f"{CPUS}/online": f"0-{2 * cores - 1}\n"}
    for cpu in range(2 * cores):
        core = cpu % cores
        files[f"{CPUS}/cpu{cpu}/topology/thread_siblings_list"] = f"{core},{core + cores}\n"
        for index, level, size in ((0, 1, "48K"), (1, 1, "32K"), (2, 2, "2048K"), (3, 3, "30720K")):
            cache = f"{CPUS}/cpu{cpu}/cache/index{index}"
            shared = f"0-{2 * cores - 1}" if level == 3 else f"{core},{core + cores}"
            files |= {f"{cache}/level": f"{level}", f"{cache}/size": size, f"{cache}/shared_cpu_list": shared}
    return files


def status(allowed: str) -> dict[str, str]:
    return {"proc/self/status": f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n"}


def test_recorded_xeon_names_what_kernels_branch_on(tree: Tree) -> None:
    cpu = read_cpu(tree(XEON | {f"{CPUS}/online": "0-1"}), architecture="x86_64")
    assert cpu.model == "Intel(R) Xeon(R) Processor"
    assert cpu.architecture == "x86_64"
    assert cpu.virtual
    expected = (
        "AVX AVX2 FMA F16C BMI2 AVX_VNNI AVX512F AVX512BW AVX512_VBMI AVX512_VNNI AVX512_BF16 AVX512_FP16"
    )
    assert cpu.instruction_sets == (*expected.split(), "AMX_INT8", "AMX_BF16")


def test_siblings_share_a_core(tree: Tree) -> None:
    cpu = read_cpu(tree(XEON | hyper_threaded(8) | status("0-15")))
    assert (cpu.logical_cpus, cpu.physical_cores, cpu.allowed_cpus) == (16, 8, 16.0)
    assert cpu.threads == 8
    assert cpu.l3_bytes == 30 * 1024 * 1024


def test_affinity_to_both_siblings_of_two_cores(tree: Tree) -> None:
    cpu = read_cpu(tree(XEON | hyper_threaded(8) | status("0-1,8-9")))
    assert (cpu.logical_cpus, cpu.physical_cores, cpu.allowed_cpus, cpu.threads) == (16, 2, 4.0, 2)


def test_cpuset_of_an_ancestor_narrows_affinity(tree: Tree) -> None:
    sets = {
        "sys/fs/cgroup/pod/cpuset.cpus.effective": "0-2\n",
        "sys/fs/cgroup/pod/app/cpuset.cpus.effective": "\n",
    }
    cpu = read_cpu(tree(XEON | hyper_threaded(8) | status("1-15") | V2 | sets))
    assert (cpu.allowed_cpus, cpu.physical_cores) == (2.0, 2)  # CPUs 1 and 2


def test_v2_quota_of_150_percent_in_an_ancestor(tree: Tree) -> None:
    quota = {"sys/fs/cgroup/pod/cpu.max": "150000 100000\n", "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n"}
    cpu = read_cpu(tree(XEON | hyper_threaded(4) | status("0-7") | V2 | quota))
    assert cpu.allowed_cpus == 1.5
    assert cpu.threads == 1


def test_v1_quota_and_cpuset(tree: Tree) -> None:
    v1 = {
        "proc/self/cgroup": "3:cpuset:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
        "proc/self/mountinfo": "41 40 0:33 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup c rw,cpu\n"
        "42 40 0:34 /docker/abc /sys/fs/cgroup/cpuset ro - cgroup c rw,cpuset\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpuset/cpuset.effective_cpus": "0-3\n",
    }
    cpu = read_cpu(tree(XEON | hyper_threaded(8) | status("0-15") | v1))
    assert (cpu.allowed_cpus, cpu.physical_cores, cpu.threads) == (2.5, 4, 2)


@pytest.mark.parametrize(("quota", "period"), [("-1", "100000"), ("100000", "0"), ("", ""), ("x", "100000")])
def test_v1_quota_that_says_nothing(tree: Tree, quota: str, period: str) -> None:
    v1 = {
        "proc/self/cgroup": "2:cpu:/\n",
        "proc/self/mountinfo": "41 40 0:33 / /sys/fs/cgroup/cpu rw - cgroup c rw,cpu\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": period,
    }
    assert read_cpu(tree(XEON | hyper_threaded(2) | status("0-3") | v1)).allowed_cpus == 4.0


def test_caches_of_two_dies_add_up_and_nodes_count(tree: Tree) -> None:
    files = {f"{CPUS}/online": "0-3"}
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        cache = f"{CPUS}/cpu{cpu}/cache/index3"
        files |= {f"{cache}/level": "3", f"{cache}/size": "32768K", f"{cache}/shared_cpu_list": shared}
    nodes = {
        f"sys/devices/system/node/node{n}/cpulist": cpus for n, cpus in ((0, "0-1"), (1, "2-3"), (2, ""))
    }
    root = tree(XEON | files | nodes | status("0-3"))
    assert read_cpu(root).l3_bytes == 2 * 32 * 1024 * 1024
    assert read_cpu(root).numa_nodes == 2  # node 2 has memory alone
    tree(status("0-1"))
    assert read_cpu(root).l3_bytes == 32 * 1024 * 1024
    assert read_cpu(root).numa_nodes == 1


def test_arm_board_is_named_by_its_part_numbers(tree: Tree) -> None:
    info = (DATA / "raspberry_pi_5.cpuinfo").read_text()
    cpu = read_cpu(tree({"proc/cpuinfo": info, f"{CPUS}/online": "0-3"}), architecture="aarch64")
    assert cpu.model == "Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0)"
    assert cpu.instruction_sets == ("NEON", "FP16", "DOTPROD")
    assert (cpu.logical_cpus, cpu.physical_cores, cpu.virtual) == (4, 4, False)
    assert cpu.l3_bytes is None


def test_big_and_little_cores_share_what_both_can_do(tree: Tree) -> None:
    core = (
        "processor : {n}\nFeatures : fp asimd asimddp {more}\nCPU implementer : 0x41\nCPU part : {part}\n\n"
    )
    info = core.format(n=0, more="", part="0xd05") + core.format(n=1, more="i8mm", part="0xd4d")
    cpu = read_cpu(tree({"proc/cpuinfo": info, f"{CPUS}/online": "0-1"}))
    assert cpu.model == "Cortex-A55 + Cortex-A715"
    assert cpu.instruction_sets == ("NEON", "DOTPROD")


def test_arm_guest_is_known_by_its_firmware(tree: Tree) -> None:
    info = "processor : 0\nFeatures : fp asimd sve i8mm bf16\nCPU implementer : 0x41\nCPU part : 0xd40\n"
    cpu = read_cpu(tree({"proc/cpuinfo": info, "sys/class/dmi/id/sys_vendor": "QEMU\n"}))
    assert (cpu.model, cpu.virtual) == ("Neoverse-V1", True)
    assert cpu.instruction_sets == ("NEON", "I8MM", "BF16", "SVE")


@pytest.mark.parametrize(
    ("isa", "sets"), [("rv64imafdcv_zicsr", ("RVV",)), ("rv64imafdc_zvfh", ()), ("rv64", ())]
)
def test_risc_v_vector_is_one_letter(tree: Tree, isa: str, sets: tuple[str, ...]) -> None:
    cpu = read_cpu(tree({"proc/cpuinfo": f"processor : 0\nisa : {isa}\nuarch : sifive,u74-mc\n"}))
    assert cpu.instruction_sets == sets
    assert cpu.model == "sifive,u74-mc"


def test_odd_cpuinfo_is_unknown_not_an_error(tree: Tree) -> None:
    cpu = read_cpu(tree({"proc/cpuinfo": "CPU implementer : zz\n\x00\x01", f"{CPUS}/online": "nonsense"}))
    assert cpu.model == "unknown processor"
    assert cpu.threads >= 1


def test_without_proc_psutil_counts(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path)
    assert cpu.logical_cpus == psutil.cpu_count()
    assert cpu.instruction_sets == ()
    assert cpu.l3_bytes is None


def test_here_counts_agree_with_psutil() -> None:
    cpu = read_cpu()
    assert cpu.logical_cpus == psutil.cpu_count()
    assert cpu.physical_cores <= (psutil.cpu_count(logical=False) or cpu.logical_cpus)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity can be set on Linux alone")
def test_here_nproc_agrees_on_the_cpus_allowed() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    nproc = int(subprocess.run(["nproc"], capture_output=True, env=environment, check=True).stdout)
    cpu = read_cpu()
    # newer versions of nproc count the quota too, rounded their way
    assert int(cpu.allowed_cpus) <= nproc <= cpu.logical_cpus


@pytest.mark.skipif(shutil.which("lscpu") is None, reason="lscpu is not installed")
def test_here_lscpu_agrees() -> None:
    answer = subprocess.run(["lscpu", "--json", "--bytes"], capture_output=True, text=True, check=True)
    said = {row["field"].rstrip(":"): row["data"] for row in _flattened(json.loads(answer.stdout)["lscpu"])}
    cpu = read_cpu()
    assert cpu.architecture == said["Architecture"]
    assert cpu.virtual == ("Hypervisor vendor" in said)
    if said.get("Model name", "-") != "-" and cpu.architecture == "x86_64":
        assert cpu.model == said["Model name"]
    if cpu.allowed_cpus == cpu.logical_cpus:
        assert cpu.physical_cores == cpu.logical_cpus // int(said["Thread(s) per core"])
        assert cpu.numa_nodes == int(said.get("NUMA node(s)", "1"))
        if "L3" in said or "L3 cache" in said:
            assert cpu.l3_bytes == int((said.get("L3") or said["L3 cache"]).split()[0])


def _flattened(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    """Rows of lscpu with their children, which newer versions nest."""
    flat: list[dict[str, str]] = []
    for row in rows:
        if isinstance(row.get("data"), str):
            flat.append({"field": str(row["field"]), "data": str(row["data"])})
        children = row.get("children", [])
        assert isinstance(children, list)
        flat += _flattened(children)
    return flat


READ_ALLOWED = "from weigh.machine.cpu import read_cpu; print(read_cpu().allowed_cpus)"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity can be set on Linux alone")
def test_here_a_child_bound_to_one_cpu_is_allowed_one() -> None:
    first = min(os.sched_getaffinity(0))
    bind = f"import os; os.sched_setaffinity(0, {{{first}}}); {READ_ALLOWED}"
    answer = subprocess.run([sys.executable, "-c", bind], capture_output=True, text=True, check=True)
    assert float(answer.stdout) <= 1.0


def test_here_a_child_under_a_real_quota_sees_it(control_group: Group) -> None:
    group = control_group(
        {"cpu.max": "50000 100000", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    )
    join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{join}; {READ_ALLOWED}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout) == 0.5
