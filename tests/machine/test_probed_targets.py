"""Recorded machines as targets: which of their GPUs are worth using, and as what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.machine.conftest import Recorded, Recording, Tree
from tests.machine.nvml import Card, Nvml
from weigh.machine.apple import read_cpu_apple, read_gpus_apple
from weigh.machine.devices import target_named
from weigh.machine.gpus import read_gpus
from weigh.machine.machine import Cpu, Disk, Gpu, Machine, Memory
from weigh.machine.target import Backend, Target
from weigh.machine.target_here import target_here
from weigh.units import GIB, MIB

CPU = Cpu("some processor", "x86_64", 16, 8, 16.0, (), None, 1, False)


def target_of(gpus: tuple[Gpu, ...], memory: Memory, cpu: Cpu = CPU) -> Target:
    return target_here(Machine("Linux 6", cpu, memory, gpus, Disk(Path("/"), 0, 0)))


def played(machine: Recording, total_gib: float, nvml: Nvml | None = None) -> Target:
    memory = Memory(int(total_gib * GIB), int(total_gib * GIB), 0, 0, 0)
    return target_of(read_gpus(machine.root, nvml, memory=memory, environment={}), memory)


@pytest.mark.parametrize(
    ("machine", "ram_gib", "named", "backend"),
    [
        ("rx_6900_xt", 32, "RX 6900 XT", Backend.VULKAN),  # no /dev/kfd in the recording
        ("radeon_780m", 58, "Radeon 780M", Backend.ROCM),
        ("strix_halo", 125, "Strix Halo", Backend.ROCM),
        ("arc_b580", 32, "Arc B580", Backend.SYCL),
        ("arc_a380_i915", 32, "Arc A380", Backend.SYCL),
        ("jetson_agx_orin", 61.4, "Jetson AGX Orin 64GB", Backend.CUDA),
    ],
)
def test_a_probed_gpu_is_the_device_of_that_name(
    recorded: Recorded, machine: str, ram_gib: float, named: str, backend: Backend
) -> None:
    (gpu,) = played(recorded(machine), ram_gib).gpus
    sheet = target_named(named).gpus[0]
    assert gpu.name == sheet.name
    assert gpu.bandwidth_bytes_per_s == sheet.bandwidth_bytes_per_s
    assert (gpu.backend, gpu.unified) == (backend, sheet.unified)


def test_a_mac_is_the_device_of_its_name(recorded: Recorded) -> None:
    machine, memory = recorded("m2_pro"), Memory(32 * GIB, 30 * GIB, 0, 0, 0)
    cpu = read_cpu_apple(machine.run)
    assert cpu is not None
    probed = target_of(tuple(read_gpus_apple(memory, machine.run)), memory, cpu)
    named = target_named("M2 Pro 19-core 32GB")
    assert probed.gpus[0].name == named.gpus[0].name
    assert probed.gpus[0].memory_bytes == named.gpus[0].memory_bytes
    assert probed.host.bandwidth_bytes_per_s == named.host.bandwidth_bytes_per_s


def test_dgx_spark_is_the_device_of_its_name(recorded: Recorded) -> None:
    target = played(recorded("dgx_spark"), 121.7, Nvml([Card("NVIDIA GB10", bus=1, domain=0xF)]))
    assert target.gpus[0].name == target_named("GB10").gpus[0].name
    assert target.gpus[0].unified


def test_memory_the_firmware_set_apart_is_not_rams(recorded: Recorded) -> None:
    (gpu,) = played(recorded("strix_halo_carved"), 31).gpus
    assert (gpu.memory_bytes, gpu.unified) == (96 * GIB, False)
    assert gpu.bandwidth_bytes_per_s == 256e9


def test_an_integrated_gpu_beside_a_card_is_left_out(recorded: Recorded) -> None:
    recorded("radeon_780m")
    target = played(recorded("rx_6900_xt"), 32)
    assert [gpu.name for gpu in target.gpus] == ["AMD Radeon RX 6900 XT"]
    assert any("Radeon 780M left out" in note for note in target.assumed)


def test_an_integrated_gpu_of_unknown_speed_is_left_out(recorded: Recorded) -> None:
    target = played(recorded("comet_lake"), 16)
    assert target.gpus == ()
    assert any("its speed is not known" in note for note in target.assumed)


def test_a_part_of_a_card_has_its_share_of_the_speed(tree: Tree) -> None:
    part = Card("NVIDIA A100-SXM4-80GB MIG 2g.20gb", 20480 * MIB, 20480 * MIB, slices=2)
    nvml = Nvml([Card("NVIDIA A100-SXM4-80GB", 81920 * MIB, 0, split=True, parts=[part])])
    (gpu,) = played(Recording(tree({"proc/cpuinfo": "", "dev/nvidiactl": ""})), 64, nvml).gpus
    whole = target_named("A100 SXM 80GB").gpus[0]
    assert gpu.name == "NVIDIA A100-SXM4-80GB MIG 2g.20gb"
    assert gpu.bandwidth_bytes_per_s == pytest.approx((whole.bandwidth_bytes_per_s or 0) / 4)
    assert gpu.fp16_flops_per_s == pytest.approx((whole.fp16_flops_per_s or 0) * 2 / 7)


def test_what_bounds_the_machine_is_told(recorded: Recorded) -> None:
    machine = Machine(
        "Linux", CPU, Memory(GIB, GIB, 0, 0, 0), (), Disk(Path("/"), 0, 0), notes=("WSL: half",)
    )
    assert "WSL: half" in target_here(machine).assumed


def test_a_mac_of_unknown_speed_keeps_its_gpu(recorded: Recorded) -> None:
    memory = Memory(32 * GIB, 30 * GIB, 0, 0, 0)
    gpu = Gpu("Apple M99", "Apple", 24 * GIB, 24 * GIB, unified=True, backends=("Metal",))
    (device,) = target_of((gpu,), memory).gpus
    assert (device.unified, device.backend, device.bandwidth_bytes_per_s) == (True, Backend.METAL, None)


def test_a_variable_that_reorders_gpus_leaves_the_fingerprint(tree: Tree) -> None:
    nvml = Nvml([Card("NVIDIA A2", 16 * GIB, GIB), Card("NVIDIA A10", 24 * GIB, GIB)])
    root, memory = tree({"proc/cpuinfo": "", "dev/nvidiactl": ""}), Memory(GIB, GIB, 0, 0, 0)
    prints = set()
    for environment in ({}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": ""}):
        gpus = read_gpus(root, nvml, memory=memory, environment=environment)
        prints.add(Machine("Linux 6", CPU, memory, gpus, Disk(root, 0, 0)).fingerprint)
    assert len(prints) == 1
