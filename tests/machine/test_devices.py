"""Named devices become targets whose figures are those of data sheets and drivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from weigh.errors import BadInput, UnknownName
from weigh.machine import probe
from weigh.machine.device_sheets import gpu_sheets, host_sheets, known_names
from weigh.machine.devices import target_custom, target_named
from weigh.machine.machine import Cpu, Disk, Gpu, Machine, Memory
from weigh.machine.target import Backend
from weigh.machine.target_here import gpu_sheet_of, host_sheet_of, target_here
from weigh.units import GIB, MIB


def test_a_card_has_what_its_driver_shows_not_what_its_box_says() -> None:
    target = target_named("RTX 4090")
    (card,) = target.gpus
    assert card.name == "NVIDIA GeForce RTX 4090"
    assert card.memory_bytes == card.free_bytes == 24564 * MIB
    assert card.bandwidth_bytes_per_s == pytest.approx(384 / 8 * 21.008e9, rel=1e-3)  # bus x rate of a pin
    assert card.backend is Backend.CUDA
    assert card.link_bytes_per_s == pytest.approx(16 * 1.969e9)


def test_error_correction_takes_a_sixteenth_of_gddr_on_datacentre_cards() -> None:
    assert target_named("A2").gpus[0].memory_bytes == 15356 * MIB  # as its driver shows
    assert target_named("A10").gpus[0].memory_bytes == 23028 * MIB
    assert target_named("A16").gpus[0].memory_bytes == 16 * GIB * 15 // 16  # by the rule


def test_what_was_not_said_is_assumed_aloud() -> None:
    said = " ".join(target_named("RTX 4090").assumed)
    assert "32 GiB of RAM" in said
    assert "2 channels of DDR5-5600" in said
    assert not any("GiB of RAM" in note for note in target_named("RTX 4090, 64GB").assumed)


@pytest.mark.parametrize("text", ["2x RTX 3090", "rtx3090 x2", "2 x GeForce RTX 3090 24GB"])
def test_several_cards_are_that_many_devices(text: str) -> None:
    target = target_named(text)
    assert [gpu.name for gpu in target.gpus] == ["NVIDIA GeForce RTX 3090"] * 2
    assert target.name == "2x NVIDIA GeForce RTX 3090"


def test_ram_is_less_what_the_kernel_keeps_for_its_pages() -> None:
    host = target_named("RTX 4090 + 64GB").host
    assert host.memory_bytes == 63 * GIB  # 64 bytes for each page of 4096


def test_memory_of_a_processor_is_channels_times_rate_times_eight_bytes() -> None:
    target = target_named("EPYC 9554, 12x DDR5-4800")
    assert target.host.bandwidth_bytes_per_s == 12 * 4800e6 * 8
    assert target.host_cores == 64
    assert "AVX512_VNNI" in target.cpu_features
    assert not target.gpus
    ryzen = target_named("Ryzen 7950X, 64GB DDR5-6000")
    assert ryzen.host.bandwidth_bytes_per_s == 2 * 6000e6 * 8
    assert ryzen.host.memory_bytes == 63 * GIB


def test_an_unnamed_processor_is_taken_for_a_usual_one() -> None:
    target = target_named("Xeon, 8x DDR4-3200, 256GB")
    assert target.host.bandwidth_bytes_per_s == 8 * 3200e6 * 8
    assert "the processor: a server of 32 cores" in target.assumed
    assert target_named("CPU only").gpus == ()


def test_apple_gives_the_gpu_two_thirds_of_small_and_three_quarters_of_large_memory() -> None:
    small = target_named("M1 16GB")
    # llama.cpp prints recommendedMaxWorkingSetSize = 11453.25 MB there
    assert small.gpus[0].memory_bytes == pytest.approx(11453.25e6, rel=1e-4)
    large = target_named("M4 Max 36GB")
    assert large.gpus[0].memory_bytes == pytest.approx(28991.03e6, rel=1e-4)
    assert large.gpus[0].bandwidth_bytes_per_s == 410e9  # the 32-core part, the only one sold with 36 GB
    assert large.gpus[0].unified
    assert large.host.memory_bytes == 36 * GIB


def test_of_several_memory_sizes_the_assumed_one_is_said() -> None:
    target = target_named("M4 Max")
    assert target.host.memory_bytes == 48 * GIB
    assert any("it also comes with 64, 128" in note for note in target.assumed)


@pytest.mark.parametrize(
    ("text", "name", "other"),
    [
        ("A100", "NVIDIA A100 SXM4 80 GB", "A100 PCIe 40 GB"),
        ("H100", "NVIDIA H100 SXM5 80 GB", "H100 PCIe 80 GB"),
        ("RTX 3060", "NVIDIA GeForce RTX 3060 12 GB", "GeForce RTX 3060 8 GB"),
    ],
)
def test_of_variants_the_commonest_is_taken_and_the_others_are_said(text: str, name: str, other: str) -> None:
    target = target_named(text)
    assert target.gpus[0].name == name
    assert other in target.assumed[0]


def test_names_for_cards_that_differ_much_are_refused_with_the_cards() -> None:
    with pytest.raises(BadInput, match=r"`Quadro RTX 6000`, `RTX 6000 Ada Generation`"):
        target_named("RTX 6000")


@pytest.mark.parametrize(
    ("text", "close"), [("RTX 4900", "RTX 4090"), ("H10O", "H100"), ("Raspbery Pi 5", "Raspberry Pi 5")]
)
def test_an_unknown_name_brings_its_neighbours(text: str, close: str) -> None:
    with pytest.raises(UnknownName) as error:
        target_named(text)
    assert error.value.close[0] == close


@pytest.mark.parametrize(
    "text", ["", "64GB", "RTX", "banana", "0x RTX 4090", "999x RTX 4090", "M4 Pro 32GB", "2x M4 Max",
             "Ryzen 7950X, EPYC 9554", "RTX 4090 + M4 Max", "\x1b[31m", "x" * 5000, "+,+,",
             "RTX 4090, 0GB", "RTX 4090, 99999999GB", "Radeon 780M 99999999GB", "RTX 4090, 0x DDR5-4800",
             "RTX 4090, 999x DDR5-4800", "RTX 4090, DDR5-000", "100x T4, 100x T4", "T4," * 100]
)  # fmt: skip
def test_what_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        target_named(text)


@pytest.mark.parametrize(
    ("text", "gib"),
    [("Raspberry Pi 5 8GB", 8), ("Strix Halo 128GB", 128), ("DGX Spark", 128), ("Jetson Orin Nano 8GB", 8),
     ("Snapdragon X Elite", 32), ("N100 16GB", 16), ("Orange Pi 5 16GB", 16)],
)  # fmt: skip
def test_boards_and_chips_are_known_by_their_usual_names(text: str, gib: int) -> None:
    assert target_named(text).host.memory_bytes == gib * GIB * 63 // 64


def test_every_name_in_the_tables_names_itself() -> None:
    for sheet in gpu_sheets():
        assert target_named(sheet.name).gpus[0].name == sheet.name
    for host in host_sheets():
        if host.kind != "assumed" and host.vendor != "Apple":
            shared = any(host.name == sheet.host for sheet in gpu_sheets())
            assert shared or target_named(host.name).host.name == host.name


def test_every_sheet_has_figures_and_a_source() -> None:
    for sheet in gpu_sheets():
        assert 5e9 < sheet.bandwidth_bytes_per_s < 2e13, sheet.name
        assert sheet.fp16_flops_per_s is not None, sheet.name
        assert sheet.source, sheet.name
    for host in host_sheets():
        assert 1e9 < host.fp32_flops_per_s < 1e14, host.name
    assert len(known_names()) > 500


def test_figures_alone_make_a_target() -> None:
    target = target_custom(24 * GIB, 936e9, 64 * GIB, gpus=2)
    assert [g.memory_bytes for g in target.gpus] == [24 * GIB] * 2
    assert target.host.memory_bytes == 64 * GIB
    assert target_custom(0, 50e9, 16 * GIB).host.bandwidth_bytes_per_s == 50e9
    with pytest.raises(BadInput):
        target_custom(24 * GIB, 0, 64 * GIB)
    with pytest.raises(UnknownName):
        target_custom(24 * GIB, 936e9, 64 * GIB, vendor="Matrox")


@pytest.mark.parametrize(
    ("driver", "mib", "sheet"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "NVIDIA GeForce RTX 4090"),
        ("NVIDIA H200", 143771, "NVIDIA H200 SXM 141 GB"),
        ("NVIDIA H100 80GB HBM3", 81559, "NVIDIA H100 SXM5 80 GB"),
        ("NVIDIA A100-SXM4-80GB", 81920, "NVIDIA A100 SXM4 80 GB"),
        ("NVIDIA A100-PCIE-40GB", 40960, "NVIDIA A100 PCIe 40 GB"),
        ("Tesla V100-SXM2-16GB", 16160, "NVIDIA Tesla V100 SXM2 16 GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "NVIDIA GeForce RTX 4060 Ti 16 GB"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6144, "NVIDIA GeForce RTX 3060 Mobile"),
        ("AMD Radeon RX 7900 XTX", 24560, "AMD Radeon RX 7900 XTX"),
        ("Intel(R) Arc(TM) A770 Graphics", 15473, "Intel Arc A770"),
    ],
)
def test_drivers_names_find_their_sheets(driver: str, mib: int, sheet: str) -> None:
    found = gpu_sheet_of(Gpu(driver, "", mib * MIB), 64 * GIB)
    assert found is not None
    assert found.name == sheet


@pytest.mark.parametrize(
    ("model", "sheet"),
    [
        ("AMD Ryzen 9 7950X 16-Core Processor", "AMD Ryzen 9 7950X"),
        ("13th Gen Intel(R) Core(TM) i7-13700K", "Intel Core i7-13700K"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "Intel Xeon E5-2680 v4"),
        ("AMD Ryzen Threadripper PRO 5975WX 32-Cores", "AMD Ryzen Threadripper PRO 5975WX"),
        ("Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0)", "Raspberry Pi 5"),
    ],
)
def test_kernels_names_of_processors_find_their_sheets(model: str, sheet: str) -> None:
    found = host_sheet_of(_cpu(model))
    assert found is not None
    assert found.name == sheet


def test_part_of_a_processor_is_not_taken_for_all_of_it() -> None:
    assert host_sheet_of(_cpu("AMD EPYC 9554 64-Core Processor", virtual=True)) is None


def test_unreadable_gpus_are_left_out_aloud() -> None:
    gpus = (
        Gpu("NVIDIA GeForce RTX 3090", "NVIDIA", 24 * GIB, 20 * GIB),
        Gpu("NVIDIA GPU 1", "NVIDIA", problem="NVML: lost"),
        Gpu("Some Card", "Someone", 4 * GIB),
        Gpu("NVIDIA H200", "NVIDIA", 143771 * MIB),
    )
    target = target_here(_machine(gpus))
    assert [g.name for g in target.gpus] == [
        "NVIDIA GeForce RTX 3090",
        "Some Card",
        "NVIDIA H200 SXM 141 GB",  # its sheet's name, by which published runs are found
    ]
    assert target.gpus[0].free_bytes == 20 * GIB
    assert target.gpus[0].bandwidth_bytes_per_s == 936.2e9
    assert target.gpus[1].bandwidth_bytes_per_s is None
    assert any("NVIDIA GPU 1 left out: NVML: lost" in note for note in target.assumed)
    assert target.probed


def test_this_machine_is_as_it_was_probed() -> None:
    machine = probe()
    target = target_here(machine)
    assert target.host.memory_bytes == machine.memory.usable_bytes
    assert target.host.free_bytes == machine.memory.available_bytes
    assert target.cpu_features == machine.cpu.instruction_sets
    assert target_here(machine, ("AVX2",)).cpu_features == ("AVX2",)


def _cpu(model: str, *, virtual: bool = False) -> Cpu:
    return Cpu(model, "", 8, 8, 8, (), None, 1, virtual)


def _machine(gpus: tuple[Gpu, ...]) -> Machine:
    memory = Memory(64 * GIB, 60 * GIB, 0, 0, 0)
    return Machine(
        "Linux 6", _cpu("AMD Ryzen 9 7950X 16-Core Processor"), memory, gpus, Disk(Path("/"), 0, 0)
    )
