"""GPUs of all makers together: recorded buses, NVML's answers played back, and NVML as it is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from tests.machine.nvml import Card, Nvml
from weigh.machine.gpus import read_gpus
from weigh.machine.machine import Gpu
from weigh.units import GIB

Tree = Callable[[dict[str, str]], Path]


def on_bus(address: str, vendor: str, device: str, kind: str) -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{address}"
    return {
        f"{folder}/vendor": vendor + "\n",
        f"{folder}/device": device + "\n",
        f"{folder}/class": kind + "\n",
    }


LINUX = {"proc/cpuinfo": "processor : 0\n"}
H200 = on_bus("0000:17:00.0", "0x10de", "0x2335", "0x030200")
SECOND_H200 = on_bus("0000:3d:00.0", "0x10de", "0x2335", "0x030200")


def test_a_read_card_has_its_memory(tree: Tree) -> None:
    nvml = Nvml([Card("NVIDIA H200", 141 * GIB, 140 * GIB, bus=0x17)])
    (gpu,) = read_gpus(tree(LINUX | H200), nvml, environment={})
    assert gpu == Gpu(
        *("NVIDIA H200", "NVIDIA", 141 * GIB, 140 * GIB, "570.86.15", "9.0"), backends=("CUDA", "Vulkan")
    )
    assert nvml.shut


def test_a_second_card_that_the_driver_does_not_show_is_reported(tree: Tree) -> None:
    nvml = Nvml([Card("NVIDIA H200", 141 * GIB, 140 * GIB, bus=0x17)])
    read, unread = read_gpus(tree(LINUX | H200 | SECOND_H200), nvml, environment={})
    assert read.problem is None
    assert unread.name == "NVIDIA GPU (PCI 10de:2335)"
    assert unread.total_bytes is None
    assert "does not show it" in str(unread.problem)


def test_a_card_whose_memory_is_refused_keeps_its_name(tree: Tree) -> None:
    (gpu,) = read_gpus(tree(LINUX | H200), Nvml([Card("NVIDIA A2", bus=0x17)]), environment={})
    assert gpu.name == "NVIDIA A2"
    assert gpu.total_bytes is None
    assert "Not Supported" in str(gpu.problem)


def nvml_works_here() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


@pytest.mark.skipif(nvml_works_here(), reason="NVML works here, so no card is unreadable")
class TestWithoutNvml:
    def test_a_card_on_the_bus_is_reported_with_the_reason(self, tree: Tree) -> None:
        (gpu,) = read_gpus(tree(LINUX | H200))
        assert gpu.vendor == "NVIDIA"
        assert gpu.total_bytes is None
        assert "NVML" in str(gpu.problem)

    def test_the_kernel_module_knows_its_name(self, tree: Tree) -> None:
        told = {"proc/driver/nvidia/gpus/0000:17:00.0/information": "Model: \t\t NVIDIA H200\nIRQ: 1\n"}
        (gpu,) = read_gpus(tree(LINUX | H200 | told))
        assert gpu.name == "NVIDIA H200"

    @pytest.mark.parametrize("trace", ["dev/nvidia0", "dev/nvidiactl", "proc/driver/nvidia/version"])
    def test_traces_of_a_driver_without_a_card_are_reported(self, tree: Tree, trace: str) -> None:
        (gpu,) = read_gpus(tree(LINUX | {trace: ""}))
        assert "NVML" in str(gpu.problem)


@pytest.mark.skipif(not nvml_works_here(), reason="no NVIDIA driver here")
def test_here_every_card_has_memory_or_a_problem() -> None:
    gpus = [gpu for gpu in read_gpus() if gpu.vendor == "NVIDIA"]
    assert gpus
    assert all(gpu.problem or 0 <= (gpu.free_bytes or 0) <= (gpu.total_bytes or 0) > GIB for gpu in gpus)


def test_cards_without_a_driver_are_named_with_the_reason(tree: Tree) -> None:
    amd = on_bus("0000:03:00.0", "0x1002", "0x74a1", "0x120000")
    given_away = on_bus("0000:05:00.0", "0x1002", "0x75a0", "0x038000")
    given_away["sys/bus/pci/devices/0000:05:00.0/uevent"] = "DRIVER=vfio-pci\n"
    intel = on_bus("0000:04:00.0", "0x8086", "0x56a0", "0x030000")
    gpus = read_gpus(tree(LINUX | amd | given_away | intel), environment={})
    assert [(gpu.name, gpu.problem) for gpu in gpus] == [
        ("AMD Instinct MI300X", "no driver is bound to it (amdgpu)"),
        ("AMD Instinct MI350X", "set aside for a virtual machine (its driver is vfio-pci)"),
        ("Intel Arc A770", "no driver is bound to it (i915 or xe)"),
    ]


@pytest.mark.parametrize(
    ("vendor", "device", "kind"),
    [
        ("0x1234", "0x1111", "0x030000"),  # QEMU, Bochs
        ("0x1af4", "0x1050", "0x030000"),  # virtio
        ("0x102b", "0x0534", "0x030000"),  # Matrox G200 on a server board
        ("0x1a03", "0x2000", "0x030000"),  # ASPEED
        ("0x15ad", "0x0405", "0x030000"),  # VMware
        ("0x8086", "0x0d57", "0x060000"),  # a host bridge
        ("0x8086", "0x7d1d", "0x120000"),  # an NPU
        ("0x10de", "0x22a3", "0x068000"),  # NVSwitch
        ("0x10de", "0x228b", "0x040300"),  # a card's sound
        ("rubbish", "", ""),
    ],
)
def test_what_only_draws_a_console_or_is_no_gpu_is_not_one(
    tree: Tree, vendor: str, device: str, kind: str
) -> None:
    assert read_gpus(tree(LINUX | on_bus("0000:00:01.0", vendor, device, kind))) == ()
