"""GPUs: recorded buses, NVML's answers played back, and NVML as it is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

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


@dataclass
class Nvml:
    """Answers of NVML for cards given as (bus, name, total, free); a memory of None is refused."""

    cards: list[tuple[int, str, int | None, int]]
    split: bool = False
    shut: bool = field(default=False, init=False)

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut = True

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, str, int | None, int]:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetPciInfo(self, card: tuple[int, str, int | None, int]) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(domain=0, bus=card[0], device=0)

    def nvmlDeviceGetName(self, card: tuple[int, str, int | None, int]) -> str:  # noqa: N802
        return card[1]

    def nvmlDeviceGetMemoryInfo(self, card: tuple[int, str, int | None, int]) -> SimpleNamespace:  # noqa: N802
        if card[2] is None:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(total=card[2], free=card[3])

    def nvmlDeviceGetCudaComputeCapability(self, _card: object) -> tuple[int, int]:  # noqa: N802
        return (9, 0)

    def nvmlDeviceGetMigMode(self, _card: object) -> list[int]:  # noqa: N802
        if not self.split:
            raise self.NVMLError("Not Supported")
        return [1, 1]


def test_a_read_card_has_its_memory(tree: Tree) -> None:
    nvml = Nvml([(0x17, "NVIDIA H200", 141 * GIB, 140 * GIB)])
    (gpu,) = read_gpus(tree(LINUX | H200), nvml)
    assert gpu == Gpu("NVIDIA H200", "NVIDIA", 141 * GIB, 140 * GIB, "570.86.15", "9.0")
    assert nvml.shut


def test_a_second_card_that_the_driver_does_not_show_is_reported(tree: Tree) -> None:
    nvml = Nvml([(0x17, "NVIDIA H200", 141 * GIB, 140 * GIB)])
    read, unread = read_gpus(tree(LINUX | H200 | SECOND_H200), nvml)
    assert read.problem is None
    assert unread.name == "NVIDIA GPU (PCI 10de:2335)"
    assert unread.total_bytes is None
    assert "does not show it" in str(unread.problem)


def test_a_card_whose_memory_is_refused_keeps_its_name(tree: Tree) -> None:
    (gpu,) = read_gpus(tree(LINUX | H200), Nvml([(0x17, "NVIDIA GB10", None, 0)]))
    assert gpu.name == "NVIDIA GB10"
    assert gpu.total_bytes is None
    assert "Not Supported" in str(gpu.problem)


def test_a_card_split_by_mig_is_said_to_be(tree: Tree) -> None:
    (gpu,) = read_gpus(tree(LINUX | H200), Nvml([(0x17, "NVIDIA H200", 141 * GIB, 141 * GIB)], split=True))
    assert "MIG" in str(gpu.problem)


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


def test_amd_and_intel_are_named_and_said_to_be_unread(tree: Tree) -> None:
    amd = on_bus("0000:03:00.0", "0x1002", "0x744c", "0x030000")
    instinct = on_bus("0000:05:00.0", "0x1002", "0x74a1", "0x120000")
    intel = on_bus("0000:00:02.0", "0x8086", "0x56a0", "0x030000")
    gpus = read_gpus(tree(LINUX | amd | instinct | intel))
    assert [gpu.name for gpu in gpus] == [
        "Intel GPU (PCI 8086:56a0)",
        "AMD GPU (PCI 1002:744c)",
        "AMD GPU (PCI 1002:74a1)",
    ]
    assert {gpu.problem for gpu in gpus} == {"not read by weigh yet"}


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
