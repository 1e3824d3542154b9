"""Macs from recorded output of their commands."""

from __future__ import annotations

import pytest

from tests.machine.conftest import Recorded
from weigh.machine.apple import read_cpu_apple, read_gpus_apple, read_memory_apple
from weigh.machine.devices import shared_share
from weigh.machine.gpus import read_gpus
from weigh.machine.machine import Memory
from weigh.machine.target_here import gpu_sheet_of, host_sheet_of
from weigh.units import GIB, MIB

RAM = Memory(32 * GIB, 20 * GIB, 0, 0, 0)


def test_engines_compute_on_performance_cores(recorded: Recorded) -> None:
    cpu = read_cpu_apple(recorded("m2_pro").run)
    assert cpu is not None
    assert (cpu.model, cpu.logical_cpus, cpu.physical_cores, cpu.threads) == ("Apple M2 Pro", 12, 8, 8)
    assert cpu.instruction_sets == ("NEON", "FP16", "DOTPROD", "I8MM", "BF16")
    assert cpu.l3_bytes == 2 * 16 * MIB  # 8 cores, 4 to a cluster, 16 MiB each
    assert (cpu.architecture, cpu.virtual) == ("arm64", False)


def test_memory_counts_inactive_pages_as_available(recorded: Recorded) -> None:
    memory = read_memory_apple(recorded("m2_pro").run)
    assert memory is not None
    assert memory.total_bytes == 32 * GIB
    assert memory.available_bytes == (3857 + 443760 + 1075) * 16384  # free, inactive, speculative
    assert memory.page_cache_bytes == 294894 * 16384
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (2048 * MIB, 948 * MIB)


def test_the_gpu_may_take_what_macos_lets_it(recorded: Recorded) -> None:
    (gpu,) = read_gpus_apple(RAM, recorded("m2_pro").run)
    assert gpu.name == "Apple M2 Pro (19-core GPU)"
    assert gpu.total_bytes == int(32 * GIB * shared_share("soc", "Apple", 32 * GIB)[0])
    assert (gpu.free_bytes, gpu.unified, gpu.backends) == (20 * GIB, True, ("Metal",))


def test_a_limit_that_was_set_counts(recorded: Recorded) -> None:
    (gpu,) = read_gpus_apple(Memory(128 * GIB, 120 * GIB, 0, 0, 0), recorded("m5_max").run)
    assert gpu.name == "Apple M5 Max (40-core GPU)"
    assert gpu.total_bytes == gpu.free_bytes == 112 * GIB  # Metal's own figure with this limit in the source


def test_a_mac_finds_its_data_sheets(recorded: Recorded) -> None:
    (gpu,) = read_gpus_apple(RAM, recorded("m2_pro").run)
    sheet, cpu = gpu_sheet_of(gpu, RAM.total_bytes), read_cpu_apple(recorded("m2_pro").run)
    assert sheet is not None
    assert sheet.name == "Apple M2 Pro (19-core GPU)"
    assert cpu is not None
    assert host_sheet_of(cpu) is not None


def test_an_intel_mac_keeps_its_gpus_and_the_reason(recorded: Recorded) -> None:
    machine = recorded("intel_mac")
    gpus = read_gpus(machine.root, memory=RAM, system="Darwin", run=machine.run)
    assert [gpu.name for gpu in gpus] == ["Intel HD Graphics 4000", "NVIDIA GeForce GT 650M"]
    assert all(gpu.problem for gpu in gpus)
    cpu = read_cpu_apple(machine.run)
    assert cpu is not None
    assert (cpu.physical_cores, cpu.instruction_sets, cpu.l3_bytes) == (4, ("AVX", "F16C"), 8 * MIB)


@pytest.mark.parametrize(
    "printed", ["", "sysctl: unknown oid\n", "hw.memsize: many\nhw.logicalcpu: -1\n: :\n"]
)
def test_commands_that_tell_nothing_are_no_crash(printed: str) -> None:
    assert read_cpu_apple(lambda words: printed) is None
    assert read_memory_apple(lambda words: printed) is None
    assert all(gpu.problem for gpu in read_gpus_apple(RAM, lambda words: printed))
