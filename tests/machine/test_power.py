"""Counters of energy, on trees laid out as the kernel lays them out."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.machine.conftest import Tree
from weigh.machine.power import POWERMETRICS, EnergyMeter, counters

RANGE_UJ = 262_143_328_850  # max_energy_range_uj of Intel packages
PACKAGE = "sys/class/powercap/intel-rapl:0"


def zone(path: str, name: str, microjoules: int) -> dict[str, str]:
    return {
        f"{path}/name": f"{name}\n",
        f"{path}/energy_uj": f"{microjoules}\n",
        f"{path}/max_energy_range_uj": f"{RANGE_UJ}\n",
    }


@pytest.fixture
def laptop(tree: Tree) -> Path:
    """A package with its parts, the platform's count, and the copy that newer kernels show."""
    return tree(
        {"proc/version": "Linux"}
        | zone(PACKAGE, "package-0", 1_000_000)
        | zone(f"{PACKAGE}:0", "core", 500_000)
        | zone(f"{PACKAGE}:1", "dram", 2_000_000)
        | zone("sys/class/powercap/intel-rapl:1", "psys", 9_000_000)
        | zone("sys/class/powercap/intel-rapl-mmio:0", "package-0", 1_000_000)
    )


def test_packages_and_their_memory_count_once(laptop: Path) -> None:
    found = counters(laptop)
    assert [c.name for c in found] == ["RAPL package-0", "RAPL package-0 dram"]
    assert [c.covers for c in found] == ["processor", "memory"]


def test_joules_are_what_the_counters_rose_by(laptop: Path, tree: Tree) -> None:
    with EnergyMeter(counters(laptop)) as meter:
        tree(zone(PACKAGE, "package-0", 13_500_000) | zone(f"{PACKAGE}:1", "dram", 4_000_000))
    assert meter.by_counter == pytest.approx({"RAPL package-0": 12.5, "RAPL package-0 dram": 2.0})
    assert meter.joules == pytest.approx(14.5)
    assert meter.took_s > 0


def test_a_counter_that_starts_again_goes_on(laptop: Path, tree: Tree) -> None:
    tree(zone(PACKAGE, "package-0", RANGE_UJ - 3_000_000))
    with EnergyMeter(counters(laptop)) as meter:
        tree(zone(PACKAGE, "package-0", 1_000_000))  # 3 J up to the end of the range, 1 J after it
        meter.sample()
        tree(zone(PACKAGE, "package-0", 2_000_000))
    assert meter.by_counter["RAPL package-0"] == pytest.approx(5.0)


def test_files_only_root_may_read_give_nothing(tree: Tree) -> None:
    root = tree({"proc/version": "", f"{PACKAGE}/name": "package-0", f"{PACKAGE}/max_energy_range_uj": "1"})
    assert counters(root) == []
    with EnergyMeter(counters(root)) as meter:
        pass
    assert meter.joules is None


def test_a_counter_that_fails_meanwhile_is_not_summed(laptop: Path) -> None:
    with EnergyMeter(counters(laptop)) as meter:
        (laptop / PACKAGE / "energy_uj").unlink()
    assert list(meter.by_counter) == ["RAPL package-0 dram"]


def test_amd_cards_tell_power_and_intel_cards_energy(tree: Tree) -> None:
    amd, intel = "sys/class/drm/card0/device/hwmon/hwmon3", "sys/class/drm/card1/device/hwmon/hwmon4"
    root = tree(
        {
            "proc/version": "",
            f"{amd}/name": "amdgpu",
            f"{amd}/power1_average": "200000000",
            f"{intel}/name": "xe",
            f"{intel}/energy1_input": "7000000",
            "sys/class/drm/card0-DP-1/device/hwmon/hwmon3/name": "amdgpu",
        }
    )
    ticks = count(0, 2)  # the clock goes on by 2 s at each look
    with EnergyMeter(counters(root, clock=lambda: float(next(ticks))), every_s=3600) as meter:
        tree({f"{amd}/power1_average": "300000000", f"{intel}/energy1_input": "9000000"})
    # 200 W and 300 W, 2 s apart: 500 J
    assert meter.by_counter == pytest.approx({"amdgpu card0": 500.0, "xe card1": 2.0})


class Nvml:
    """Two cards: one that adds up energy, one that tells power alone."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules, self.milliwatts = 1000, 150_000

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(index=index)

    def nvmlDeviceGetTotalEnergyConsumption(self, card: SimpleNamespace) -> int:  # noqa: N802
        if card.index:
            raise self.NVMLError("Not Supported")
        return self.millijoules

    def nvmlDeviceGetPowerUsage(self, card: SimpleNamespace) -> int:  # noqa: N802
        return self.milliwatts


def test_nvidia_cards_by_energy_else_by_power(tree: Tree) -> None:
    nvml, ticks = Nvml(), count(0, 1)
    found = counters(tree({"proc/version": ""}), nvml, clock=lambda: float(next(ticks)))
    with EnergyMeter(found, every_s=3600) as meter:
        nvml.millijoules += 42_000
    # 150 W over the one second between two looks
    assert meter.by_counter == pytest.approx({"NVML GPU 0": 42.0, "NVML GPU 1": 150.0})


POWERMETRICS_SAID = """
**** Processor usage ****
CPU Power: 11874 mW
GPU Power: 8126 mW
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 20000 mW
"""


def test_macs_tell_root_alone(tmp_path: Path) -> None:
    ticks = count(0, 3)
    found = counters(
        tmp_path,
        run=lambda words: POWERMETRICS_SAID if tuple(words) == POWERMETRICS else "",
        clock=lambda: float(next(ticks)),
    )
    with EnergyMeter(found, every_s=3600) as meter:
        pass
    assert meter.joules == pytest.approx(60.0)  # 20 W over 3 s
    assert counters(tmp_path, run=lambda _: "") == []


def test_here_a_meter_tells_joules_or_none() -> None:
    with EnergyMeter() as meter:
        sum(range(100_000))
    assert (meter.joules is None) == (not meter.by_counter)
    assert meter.joules is None or meter.joules >= 0
