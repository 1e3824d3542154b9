"""The machine at one moment: made trees of control groups and drivers, then this machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.machine.conftest import Tree as Files
from tests.machine.nvml import Card, Nvml
from weigh.monitor import processors as module
from weigh.monitor.gpus import GpuReader
from weigh.monitor.processors import ProcessorReader
from weigh.monitor.sample import MemoryReader, Pressure, Sample, Sampler, used_bytes
from weigh.monitor.view import History
from weigh.units import GIB, MIB

SYSTEM = {  # 16 GiB, 10 of them available, 4 of page cache
    "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 6291456 kB\nMemAvailable: 10485760 kB\n"
    "Active(file): 3145728 kB\nInactive(file): 1048576 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
    "proc/pressure/memory": "some avg10=2.50 avg60=0 avg300=0 total=1\nfull avg10=1.25 avg60=0 avg300=0 total=1\n",
    "proc/self/cgroup": "0::/\n",
}
V2 = {
    "proc/77/cgroup": "0::/engine\n",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/engine/memory.max": f"{4 * GIB}\n",
    "sys/fs/cgroup/engine/memory.current": f"{3 * GIB}\n",
    "sys/fs/cgroup/engine/memory.stat": f"inactive_file {GIB}\nactive_file 0\n",
    "sys/fs/cgroup/engine/memory.pressure": "some avg10=40.00 avg60=0 avg300=0 total=1\n",
}


# --- memory ----------------------------------------------------------------------------------------------


def test_without_a_group_used_is_what_the_system_cannot_have_back(tree: Files) -> None:
    memory = MemoryReader(tree(SYSTEM)).read()
    assert used_bytes(memory) == 6 * GIB  # 16, less the 10 available


def test_a_process_is_bound_by_the_limit_of_its_own_group(tree: Files) -> None:
    reader = MemoryReader(tree(SYSTEM | V2), pids=lambda: [77])
    memory = reader.read()
    assert (memory.usable_bytes, memory.limited_by) == (4 * GIB, "cgroup v2")
    assert used_bytes(memory) == 2 * GIB  # 3 in use, 1 of it page cache
    assert memory.page_cache_bytes == GIB
    assert reader.pressure() == Pressure(0.4, None, "cgroup v2")


def test_a_v1_group_binds_as_well(tree: Files) -> None:
    folder = "sys/fs/cgroup/memory/engine"
    v1 = {
        "proc/77/cgroup": "4:memory:/engine\n",
        "proc/self/mountinfo": "41 40 0:33 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        f"{folder}/memory.limit_in_bytes": f"{4 * GIB}",
        f"{folder}/memory.usage_in_bytes": f"{3 * GIB}",
        f"{folder}/memory.stat": f"total_inactive_file {GIB}\ntotal_active_file 0\n",
    }
    reader = MemoryReader(tree(SYSTEM | v1), pids=lambda: [77])
    assert used_bytes(reader.read()) == 2 * GIB
    assert reader.pressure() == Pressure(0.025, 0.0125, "system")


def test_of_several_processes_the_tightest_limit_counts(tree: Files) -> None:
    other = {"proc/78/cgroup": "0::/roomy\n", "sys/fs/cgroup/roomy/memory.max": f"{12 * GIB}\n"}
    reader = MemoryReader(tree(SYSTEM | V2 | other), pids=lambda: [78, 77])
    assert reader.read().usable_bytes == 4 * GIB


def test_a_kernel_without_pressure_tells_none(tree: Files) -> None:
    reader = MemoryReader(tree({name: text for name, text in SYSTEM.items() if "pressure" not in name}))
    reader.read()
    assert reader.pressure() is None


# --- processors ------------------------------------------------------------------------------------------


def stat(*cores: tuple[int, int, int]) -> dict[str, str]:
    """user, idle and steal of each core, in ticks."""
    rows = [f"cpu{n} {user} 0 0 {idle} 0 0 0 {steal} 0 0" for n, (user, idle, steal) in enumerate(cores)]
    user, idle, steal = (sum(column) for column in zip(*cores, strict=True))
    return {"proc/stat": "\n".join([f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0", *rows, "intr 1 2 3"])}


def test_shares_are_of_the_time_between_two_readings(tree: Files) -> None:
    root = tree(stat((100, 100, 0), (100, 100, 0)))
    reader = ProcessorReader(root)
    assert reader.read().busy is None
    tree(stat((150, 130, 20), (100, 200, 0)))  # 50 of 100 busy and 20 stolen; the other idle
    now = reader.read()
    assert now.busy == pytest.approx(0.25)
    assert now.by_core == pytest.approx((0.5, 0.0))
    assert now.stolen == pytest.approx(0.1)
    assert (now.clock_hz, now.throttled, now.held_back) == (None, None, None)


def test_clocks_heat_and_quotas_where_the_system_tells_them(
    tree: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.0)
    cpu = "sys/devices/system/cpu"
    group = "sys/fs/cgroup/app"
    root = tree(
        stat((0, 100, 0), (0, 100, 0))
        | {f"{cpu}/cpu{n}/cpufreq/scaling_cur_freq": f"{khz}" for n, khz in enumerate((2_000_000, 3_000_000))}
        | {f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "7"}
        | {"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": V2["proc/self/mountinfo"]}
        | {f"{group}/cpu.max": "150000 100000", f"{group}/cpu.stat": "throttled_usec 5000000\n"}
    )
    reader = ProcessorReader(root)
    first = reader.read()
    assert first.clock_hz == 2.5e9
    assert first.throttled == 0
    tree(
        {
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "9",
            f"{group}/cpu.stat": "throttled_usec 9000000\n",
        }
    )
    now = reader.read()
    assert now.throttled == 2
    assert now.held_back == 1.0  # four seconds within some milliseconds: never more than all


# --- GPUs ------------------------------------------------------------------------------------------------


class LoadedNvml(Nvml):
    """As `Nvml`, and what its cards do."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802
        total = self._known(card.total)
        return SimpleNamespace(total=total, free=card.free, used=total - card.free)

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:  # noqa: N802
        return 310_500

    def nvmlDeviceGetClockInfo(self, card: Card, _kind: int) -> int:  # noqa: N802
        return 1_755

    def nvmlDeviceGetTemperature(self, card: Card, _sensor: int) -> int:  # noqa: N802
        return self._known(None if card.split else 61)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: Card) -> int:  # noqa: N802
        return 0x04 | 0x20 | 0x40

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=77, usedGpuMemory=2 * GIB), SimpleNamespace(pid=78, usedGpuMemory=None)]


def test_nvml_tells_load_power_and_why_a_clock_is_low(tree: Files) -> None:
    cards = [Card("H100", total=80 * GIB, free=30 * GIB), Card("L4", total=None, split=True)]
    reader = GpuReader(tree({}), LoadedNvml(cards))
    first, second = reader.read()
    assert (first.name, first.used_bytes, first.total_bytes) == ("H100", 50 * GIB, 80 * GIB)
    assert (first.busy, first.watts, first.celsius, first.clock_hz) == (0.97, 310.5, 61, 1.755e9)
    assert first.slowed == ("power limit", "heat")
    assert (second.used_bytes, second.celsius) == (None, None)
    assert reader.nvidia_memory() == [(50 * GIB, 80 * GIB)]
    assert reader.used_by([77]) == 4 * GIB  # two cards
    assert reader.used_by([78]) is None
    assert reader.used_by([1]) is None


def test_amds_driver_tells_it_in_sys(tree: Files) -> None:
    card = "sys/bus/pci/devices/0000:03:00.0"
    root = tree(
        {
            f"{card}/vendor": "0x1002",
            f"{card}/device": "0x744c",
            f"{card}/class": "0x030000",
            f"{card}/uevent": "DRIVER=amdgpu\n",
            f"{card}/mem_info_vram_total": str(24 * GIB),
            f"{card}/mem_info_vram_used": str(5 * GIB),
            f"{card}/gpu_busy_percent": "35",
            f"{card}/hwmon/hwmon2/power1_average": "200000000",
            f"{card}/hwmon/hwmon2/temp1_input": "55000",
        }
    )
    (gpu,) = GpuReader(root).read()
    assert (gpu.vendor, gpu.used_bytes, gpu.total_bytes, gpu.busy) == ("AMD", 5 * GIB, 24 * GIB, 0.35)
    assert (gpu.watts, gpu.celsius, gpu.clock_hz) == (200.0, 55.0, None)
    assert gpu.problem is None


def test_a_card_without_its_driver_is_named_with_the_reason(tree: Files) -> None:
    card = "sys/bus/pci/devices/0000:17:00.0"
    root = tree({f"{card}/vendor": "0x10de", f"{card}/device": "0x2330", f"{card}/class": "0x030200"})
    (gpu,) = GpuReader(root).read()
    assert (gpu.used_bytes, gpu.problem) == (None, "no NVIDIA driver is loaded")


# --- all of it -------------------------------------------------------------------------------------------


def test_a_machine_that_tells_little_shows_nothing_as_zero(tree: Files) -> None:
    root = tree({"proc/meminfo": SYSTEM["proc/meminfo"]} | stat((1, 1, 0)))
    sampler = Sampler(root=root)
    sample = sampler.read()
    sampler.close()
    assert (sample.pressure, sample.swapped_in_bytes_per_s, sample.processors.busy) == (None, None, None)
    assert (sample.gpus, sample.power) == ((), ())
    written = sample.to_json()
    assert written["power"] is None
    assert written["memory"]["pressure"] is None
    assert written["processors"]["stolen"] is None


def test_swap_is_told_as_bytes_a_second(tree: Files) -> None:
    root = tree(SYSTEM | stat((1, 1, 0)) | {"proc/vmstat": "pswpin 100\npswpout 200\n"})
    sampler = Sampler(root=root)
    assert sampler.read().swapped_in_bytes_per_s is None
    tree({"proc/vmstat": "pswpin 100\npswpout 300\n"})
    sample = sampler.read()
    sampler.close()
    assert sample.swapped_in_bytes_per_s == 0
    assert sample.swapped_out_bytes_per_s is not None
    assert sample.swapped_out_bytes_per_s > MIB  # 400 KiB within some milliseconds


def test_power_is_the_rise_of_a_counter_over_time(tree: Files) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    root = tree(
        SYSTEM
        | stat((1, 1, 0))
        | {
            f"{zone}/name": "package-0",
            f"{zone}/energy_uj": "1000000",
            f"{zone}/max_energy_range_uj": "99999999999",
        }
    )
    sampler = Sampler(root=root)
    assert sampler.read().power == ()
    tree({f"{zone}/energy_uj": "3000000"})
    (power,) = sampler.read().power
    sampler.close()
    assert (power.name, power.covers) == ("RAPL package-0", "processor")
    assert power.watts > 2  # 2 J in less than a second


def test_here_everything_can_be_written_as_json() -> None:
    sampler = Sampler()
    sampler.read()
    sample: Sample = sampler.read()
    sampler.close()
    written: dict[str, Any] = json.loads(json.dumps(sample.to_json()))
    assert written["memory"]["usable_bytes"] > written["memory"]["used_bytes"] > 0


def test_a_history_gives_the_last_shares(tree: Files) -> None:
    root: Path = tree(SYSTEM | stat((100, 100, 0)))
    sampler, history = Sampler(root=root), History(most=2)
    for user in (100, 150, 250):
        tree(stat((user, 200, 0)))
        history.add(sampler.read())
    sampler.close()
    assert history.memory(5) == pytest.approx((6 / 16, 6 / 16))  # of 16 GiB, of which two samples are kept
    assert history.busy(1) == pytest.approx((1.0,))
    assert history.gpu_busy(0, 5) == (None, None)
