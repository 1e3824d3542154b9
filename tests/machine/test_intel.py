"""Intel GPUs from recorded /sys; the drivers' replies are written by their format, with recorded sizes."""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.machine.conftest import Recorded, Recording
from weigh.machine import intel, pci
from weigh.machine.intel import own_memory, read_intel
from weigh.machine.machine import Gpu, Memory
from weigh.units import GIB, MIB

RAM = Memory(16 * GIB, 6 * GIB, 0, 0, 0)
B580_BYTES = 0x2FB800000  # usable of 12 GiB: intel/media-driver issue 1917


def xe_reply(*regions: tuple[int, int, int]) -> bytes:
    """(class, size, used) of each region, as struct drm_xe_query_mem_regions."""
    packed = (struct.pack("<HHIQQ64x", kind, 0, 4096, size, used) for kind, size, used in regions)
    return struct.pack("<II", len(regions), 0) + b"".join(packed)


def i915_reply(*regions: tuple[int, int, int]) -> bytes:
    """(class, size, unallocated) of each region, as struct drm_i915_query_memory_regions."""
    packed = (struct.pack("<HHIQQ64x", kind, 0, 0, size, free) for kind, size, free in regions)
    return struct.pack("<I12x", len(regions)) + b"".join(packed)


def intel_of(
    machine: Recording, reply: bytes | None = None, environment: Mapping[str, str] = {}
) -> list[Gpu]:
    def query(_node: Path, _driver: str) -> bytes:
        if reply is None:
            raise PermissionError
        return reply

    return read_intel(pci.gpu_devices(machine.root), RAM, machine.root, environment, query)


def test_a_card_has_the_memory_its_driver_tells(recorded: Recorded) -> None:
    (gpu,) = intel_of(recorded("arc_b580"), xe_reply((0, 16 * GIB, GIB), (1, B580_BYTES, GIB)))
    assert (gpu.name, gpu.pci_id, gpu.driver) == ("Intel Arc B580", "8086:e20b", "xe")
    assert (gpu.total_bytes, gpu.free_bytes) == (B580_BYTES, B580_BYTES - GIB)
    assert (gpu.unified, gpu.problem, gpu.backends) == (False, None, ("SYCL", "Vulkan"))


@pytest.mark.parametrize(
    ("machine", "reply"),
    [
        ("arc_a380_xe", xe_reply((1, 6064 * MIB, 0))),
        ("arc_a380_i915", i915_reply((0, 16 * GIB, 16 * GIB), (1, 6064 * MIB, 6064 * MIB))),
    ],
)
def test_what_is_free_stays_unknown_without_privilege(recorded: Recorded, machine: str, reply: bytes) -> None:
    (gpu,) = intel_of(recorded(machine), reply)
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Intel Arc A380", 6064 * MIB, None)


def test_i915_counts_what_is_free(recorded: Recorded) -> None:
    (gpu,) = intel_of(recorded("arc_a380_i915"), i915_reply((1, 6 * GIB, 5 * GIB)))
    assert gpu.free_bytes == 5 * GIB


def test_without_an_answer_the_data_sheet_counts_and_is_said(recorded: Recorded) -> None:
    (gpu,) = intel_of(recorded("arc_b580"))
    assert gpu.total_bytes == int(12 * GIB * 0.944)
    assert "data sheet" in gpu.notes[0]


@pytest.mark.parametrize(
    ("place", "content"),
    [("tile0/physical_vram_size_bytes", "12884901888"), ("drm/card1/lmem_total_bytes", "12884901888")],
)
def test_some_drivers_tell_memory_in_sys(recorded: Recorded, place: str, content: str) -> None:
    machine = recorded("arc_b580")
    path = machine.root / "sys/bus/pci/devices/0000:09:00.0" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert intel_of(machine)[0].total_bytes == 12 * GIB


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("tiger_lake", "Intel Iris Xe Graphics (TigerLake-LP GT2)"),
        ("comet_lake", "Intel UHD Graphics (CometLake-U GT2)"),
    ],
)
def test_integrated_ones_share_half_of_ram(recorded: Recorded, machine: str, name: str) -> None:
    (gpu,) = intel_of(recorded(machine))
    assert (gpu.name, gpu.unified) == (name, True)
    assert (gpu.total_bytes, gpu.free_bytes) == (8 * GIB, 6 * GIB)


def test_cards_come_before_integrated_ones(recorded: Recorded) -> None:
    recorded("tiger_lake")
    gpus = intel_of(recorded("arc_b580"), xe_reply((1, GIB, 0)))
    assert [gpu.unified for gpu in gpus] == [False, True]
    hidden = intel_of(recorded("arc_b580"), xe_reply((1, GIB, 0)), {"ZE_AFFINITY_MASK": "0"})
    assert [gpu.problem is None for gpu in hidden] == [True, False]


@pytest.mark.parametrize(("mask", "left"), [("0", 1), ("0.0,0.1,1", 2), ("1,0", 2), ("7", 0)])
def test_an_affinity_mask_may_name_tiles(recorded: Recorded, mask: str, left: int) -> None:
    recorded("tiger_lake")
    gpus = intel_of(recorded("arc_b580"), xe_reply((1, GIB, 0)), {"ZE_AFFINITY_MASK": mask})
    assert len([gpu for gpu in gpus if not gpu.problem]) == left


@pytest.mark.parametrize("reply", [b"", b"\1", xe_reply((1, GIB, 0))[:-70], b"\xff" * 8, b"\xff" * 300])
def test_short_and_odd_replies_tell_nothing_wrong(reply: bytes) -> None:
    total, free = own_memory(reply, "xe")
    assert total in (0, GIB)
    assert free is None


def test_the_questions_are_the_kernels() -> None:
    """DRM_IOCTL_XE_DEVICE_QUERY is _IOWR('d', 0x40, 40 bytes), DRM_IOCTL_I915_QUERY _IOWR('d', 0x79, 16 bytes)."""
    asked: list[tuple[int, int]] = []

    def answer(request: int, content: bytearray) -> None:
        asked.append((request, len(content)))

    intel._ask_xe(answer)
    intel._ask_i915(answer)
    assert asked == [(0xC0286440, 40), (0xC0286440, 40), (0xC0106479, 16), (0xC0106479, 16)]


def test_a_file_that_is_no_gpu_refuses_the_question(tmp_path: Path) -> None:
    """The real ioctl, on a file of this system."""
    assert fcntl.ioctl  # Linux and macOS
    (tmp_path / "renderD128").touch()
    for driver in ("xe", "i915"):
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            intel.regions_reply(tmp_path / "renderD128", driver)
