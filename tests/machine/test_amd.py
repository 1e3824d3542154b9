"""AMD GPUs from recorded /sys of several machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.machine.conftest import Recorded, Recording, Tree
from weigh.machine import pci
from weigh.machine.amd import read_amd, target_name
from weigh.machine.machine import Gpu, Memory
from weigh.machine.memory import read_memory
from weigh.units import GIB, KIB


def ram(total_gib: float, available_gib: float | None = None) -> Memory:
    available = total_gib if available_gib is None else available_gib
    return Memory(int(total_gib * GIB), int(available * GIB), 0, 0, 0)


def amd_of(
    machine: Recording,
    memory: Memory,
    environment: Mapping[str, str] = {},
    amdsmi: object = None,
) -> list[Gpu]:
    return read_amd(pci.gpu_devices(machine.root), memory, machine.root, environment, amdsmi)


def test_a_card_has_its_name_and_memory(recorded: Recorded) -> None:
    (gpu,) = amd_of(recorded("rx_6900_xt"), ram(32))
    assert (gpu.name, gpu.pci_id, gpu.driver) == ("AMD Radeon RX 6900 XT", "1002:73bf", "amdgpu")
    assert gpu.total_bytes == 17163091968
    assert gpu.free_bytes == 17163091968 - 668274688
    assert (gpu.unified, gpu.problem) == (False, None)


@pytest.mark.parametrize(
    ("machine", "name"), [("rx_580", "AMD Radeon RX 580"), ("rx_vega", "AMD Radeon RX Vega")]
)
def test_older_cards_are_read_alike(recorded: Recorded, machine: str, name: str) -> None:
    (gpu,) = amd_of(recorded(machine), ram(16))
    assert (gpu.name, gpu.unified, gpu.problem) == (name, False, None)


def test_an_apu_with_a_small_part_set_apart_borrows_ram(recorded: Recorded) -> None:
    (gpu,) = amd_of(recorded("radeon_780m"), ram(58.6, 50))
    assert (gpu.name, gpu.architecture) == ("AMD Radeon 780M", "gfx1103")  # revision dd of 15bf
    assert gpu.unified
    assert gpu.total_bytes == 4294967296 + 31433977856
    assert gpu.free_bytes == (4294967296 - 1272893440) + (31433977856 - 211398656)


def test_what_an_apu_borrows_is_no_more_than_is_available(recorded: Recorded) -> None:
    (gpu,) = amd_of(recorded("radeon_880m"), ram(31, 8))
    assert (gpu.name, gpu.architecture) == ("AMD Radeon 880M", "gfx1150")
    assert gpu.total_bytes == 536870912 + 16441004032
    assert gpu.free_bytes == (536870912 - 514580480) + 8 * GIB


def test_strix_halo_lends_all_of_its_ram(recorded: Recorded) -> None:
    machine = recorded("strix_halo")
    memory = read_memory(machine.root)
    (gpu,) = amd_of(machine, memory)
    assert (gpu.name, gpu.architecture, gpu.unified) == ("AMD Radeon 8060S", "gfx1151", True)
    assert gpu.total_bytes == 536870912 + 130988114 * KIB  # the driver would lend 128 GiB, there are 124.92


def test_strix_halo_with_most_set_apart_is_like_a_card(recorded: Recorded) -> None:
    machine = recorded("strix_halo_carved")
    (gpu,) = amd_of(machine, read_memory(machine.root))
    assert (gpu.total_bytes, gpu.unified) == (96 * GIB, False)
    assert "borrowed" in gpu.notes[0]


def test_mi300a_computes_from_the_memory_of_the_system(tree: Tree) -> None:
    folder = "sys/bus/pci/devices/0000:01:00.0"
    files = {"vendor": "0x1002", "device": "0x74a0", "class": "0x120000", "uevent": "DRIVER=amdgpu"}
    memory = {
        "mem_info_vram_total": str(128 * GIB),
        "mem_info_vram_used": "0",
        "current_compute_partition": "CPX",
    }
    root = tree({f"{folder}/{name}": text for name, text in (files | memory).items()})
    (gpu,) = amd_of(Recording(root), ram(125))
    assert (gpu.name, gpu.total_bytes, gpu.unified) == ("AMD Instinct MI300A", 128 * GIB, True)
    assert any("CPX" in note for note in gpu.notes)


def test_a_card_on_the_old_driver_is_said_to_be(recorded: Recorded) -> None:
    (gpu,) = amd_of(recorded("hd_7870"), ram(16))
    assert gpu.problem == "bound to `radeon`, not to amdgpu"


def test_an_unknown_revision_of_a_chip_is_named_by_its_number(recorded: Recorded) -> None:
    (gpu,) = amd_of(recorded("rx_7900_xtx"), ram(16))  # the recording lacks its revision
    assert gpu.name == "AMD GPU (PCI 1002:744c)"


def test_lists_of_the_system_name_what_weigh_does_not_know(recorded: Recorded, tree: Tree) -> None:
    recorded("rx_7900_xtx")
    pci_ids = (
        "1001  Other\n\t744c  No\n1002  AMD\n\t744b  No\n\t744c  Navi 31 [Radeon]\n\t\t1 No\n1003  Next\n"
    )
    root = tree({"usr/share/misc/pci.ids": pci_ids})
    assert amd_of(Recording(root), ram(16))[0].name == "AMD Navi 31 [Radeon]"
    root = tree({"usr/share/libdrm/amdgpu.ids": "# x\n744C,\tC8,\tNo\n744C,\t00,\tAMD Radeon of 2027\n"})
    assert amd_of(Recording(root), ram(16))[0].name == "AMD Radeon of 2027"


class Amdsmi:
    """AMD's library as its documentation has it: handles, memory in bytes."""

    AmdSmiMemoryType = SimpleNamespace(VRAM=0)

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_shut_down(self) -> None:
        pass

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["0000:03:00.0"]

    def amdsmi_get_gpu_device_bdf(self, handle: str) -> str:
        return handle

    def amdsmi_get_gpu_memory_total(self, _handle: str, _kind: int) -> int:
        return 24 * GIB

    def amdsmi_get_gpu_memory_usage(self, _handle: str, _kind: int) -> int:
        return GIB


def test_where_sys_tells_no_memory_the_library_is_asked(recorded: Recorded) -> None:
    (gpu,) = amd_of(recorded("rx_7900_xtx"), ram(16), amdsmi=Amdsmi())
    assert (gpu.total_bytes, gpu.free_bytes, gpu.problem) == (24 * GIB, 23 * GIB, None)


def test_a_library_that_cannot_even_be_imported_is_no_crash(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "site" / "amdsmi.py"
    package.parent.mkdir()
    package.write_text("import sys\nprint('no ROCm', file=sys.stderr)\nraise KeyError('ROCM_PATH')\n")
    monkeypatch.syspath_prepend(package.parent)
    (gpu,) = amd_of(recorded("rx_7900_xtx"), ram(16))
    assert gpu.problem == "its driver tells no memory"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110003, "gfx1103"),
        (90402, "gfx942"),
        (90010, "gfx90a"),
        (100303, "gfx1033"),
        (120001, "gfx1201"),
        (0, ""),
    ],
)
def test_targets_have_the_compilers_names(version: int, name: str) -> None:
    """90402 is gfx942 on an MI300X: ROCm/rocm-cli pull request 343."""
    assert target_name(version) == name


def test_vulkan_needs_no_rocm(recorded: Recorded) -> None:
    machine = recorded("strix_halo")
    assert amd_of(machine, ram(128))[0].backends == ("ROCm", "Vulkan")
    (machine.root / "dev/kfd").unlink()
    assert amd_of(machine, ram(128))[0].backends == ("Vulkan",)


def test_a_device_file_without_permission_is_noted(recorded: Recorded) -> None:
    machine = recorded("strix_halo")
    (machine.root / "dev/kfd").chmod(0)
    if os.access(machine.root / "dev/kfd", os.R_OK):
        pytest.skip("root may open everything")
    (gpu,) = amd_of(machine, ram(128))
    assert gpu.backends == ("Vulkan",)
    assert "no permission to open /dev/kfd" in gpu.notes[0]
    (machine.root / "dev/dri/renderD128").chmod(0)
    (gpu,) = amd_of(machine, ram(128))
    assert "no permission to open /dev/kfd and /dev/dri/renderD128" in str(gpu.problem)


@pytest.mark.parametrize("variable", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_a_card_can_be_hidden(recorded: Recorded, variable: str) -> None:
    (gpu,) = amd_of(recorded("rx_6900_xt"), ram(16), {variable: "1"})
    assert gpu.problem == f"hidden from this process by {variable}=1"
    assert amd_of(recorded("rx_6900_xt"), ram(16), {variable: "0"})[0].problem is None


def test_rocm_numbers_gpus_by_the_kernels_nodes(recorded: Recorded) -> None:
    recorded("radeon_780m")  # the only one with a node
    machine = recorded("rx_6900_xt")
    assert [gpu.name for gpu in amd_of(machine, ram(32))] == ["AMD Radeon 780M", "AMD Radeon RX 6900 XT"]
    chosen = amd_of(machine, ram(32), {"HIP_VISIBLE_DEVICES": "1"})
    assert [gpu.name for gpu in chosen if not gpu.problem] == ["AMD Radeon RX 6900 XT"]
