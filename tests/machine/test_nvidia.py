"""NVIDIA GPUs: parts, GPUs inside a chip and what variables hide, from NVML's answers played back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.machine.conftest import Recorded, Tree
from tests.machine.nvml import Card, Nvml
from weigh.machine.gpus import read_gpus
from weigh.machine.machine import Gpu
from weigh.units import GIB, KIB, MIB

DRIVER = {"proc/cpuinfo": "processor : 0\n", "dev/nvidiactl": "", "proc/meminfo": "MemTotal: 100 kB\n"}


def gpus_of(root: Path, nvml: Nvml, environment: Mapping[str, str] = {}) -> list[Gpu]:
    return list(read_gpus(root, nvml, environment=environment))


def two_cards() -> Nvml:
    return Nvml(
        [
            Card(
                "NVIDIA GeForce RTX 3090",
                24 * GIB,
                23 * GIB,
                1,
                uuid="GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
            ),
            Card(
                "NVIDIA GeForce RTX 3090",
                24 * GIB,
                22 * GIB,
                2,
                uuid="GPU-8932aaaa-d72c-4106-c12f-20bd9faed9f6",
            ),
        ]
    )


# The A100s of XuehaiPan/nvitop issue 5 (the whole, driver 470.42.01) and pull request 8 (its parts, 2g.20gb).
def split_a100() -> Nvml:
    uuid = "GPU-11111111-2222-3333-4444-555555555555"
    parts: list[Card | None] = [
        Card("NVIDIA A100-SXM4-80GB MIG 2g.20gb", 19968 * MIB, 5602 * MIB, uuid="MIG-aaaaaaaa-1", slices=2),
        None,
        Card("NVIDIA A100-SXM4-80GB", 19968 * MIB, 10142 * MIB, uuid="MIG-bbbbbbbb-2", slices=2),
    ]
    whole = Card("NVIDIA A100-SXM4-80GB", 81251 * MIB, 60000 * MIB, uuid=uuid, split=True, parts=parts)
    return Nvml([whole], "470.42.01")


def test_a_split_card_is_listed_as_its_parts(tree: Tree) -> None:
    first, second = gpus_of(tree(DRIVER), split_a100())
    assert first.name == second.name == "NVIDIA A100-SXM4-80GB MIG 2g.20gb"
    assert (first.total_bytes, first.free_bytes) == (19968 * MIB, 5602 * MIB)
    assert first.part_of == "NVIDIA A100-SXM4-80GB"
    assert first.memory_share == pytest.approx(2 / 8, abs=0.005)  # 19968 / 81251 MiB
    assert first.compute_share == pytest.approx(2 / 7)


def test_a_process_may_use_one_part_only(tree: Tree) -> None:
    first, second = gpus_of(tree(DRIVER), split_a100())
    assert first.problem is None
    assert "CUDA_VISIBLE_DEVICES" in str(second.problem)


@pytest.mark.parametrize(
    "named", ["MIG-bbbbbbbb-2", "MIG-bbbb", "MIG-GPU-11111111-2222-3333-4444-555555555555/2/0"]
)
def test_the_part_that_is_named_is_used(tree: Tree, named: str) -> None:
    nvml = split_a100()
    (whole,) = nvml.cards
    whole.parts[0].slices = 3  # type: ignore[union-attr]  # another instance than the part named
    first, second = gpus_of(tree(DRIVER), nvml, {"CUDA_VISIBLE_DEVICES": named})
    assert (first.free_bytes, first.problem) == (10142 * MIB, None)
    assert "hidden" in str(second.problem)


def test_a_split_card_without_parts_cannot_be_used(tree: Tree) -> None:
    nvml = Nvml([Card("NVIDIA H200", 141 * GIB, 141 * GIB, split=True)])
    (gpu,) = gpus_of(tree(DRIVER), nvml)
    assert "no part has been made" in str(gpu.problem)


@pytest.mark.parametrize(
    ("value", "free_gib"),
    [
        ("1,0", [22, 23]),
        ("1", [22]),
        ("GPU-8932a", [22]),
        ("0,-1,1", [23]),
        ("0,0", [23]),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(tree: Tree, value: str, free_gib: list[int]) -> None:
    gpus = gpus_of(tree(DRIVER), two_cards(), {"CUDA_VISIBLE_DEVICES": value})
    assert len(gpus) == 2
    assert [gpu.free_bytes for gpu in gpus if not gpu.problem] == [n * GIB for n in free_gib]
    assert all("CUDA_VISIBLE_DEVICES" in str(gpu.problem) for gpu in gpus if gpu.problem)


def test_an_ambiguous_start_of_a_name_shows_nothing(tree: Tree) -> None:
    gpus = gpus_of(tree(DRIVER), two_cards(), {"CUDA_VISIBLE_DEVICES": "GPU-8932"})
    assert all(gpu.problem for gpu in gpus)


def test_numbers_of_unlike_cards_are_doubted(tree: Tree) -> None:
    nvml = Nvml(
        [Card("NVIDIA GeForce RTX 4090", 24 * GIB, GIB), Card("NVIDIA GeForce GT 1030", 2 * GIB, GIB)]
    )
    doubted, _ = gpus_of(tree(DRIVER), nvml, {"CUDA_VISIBLE_DEVICES": "1"})
    assert any("CUDA_DEVICE_ORDER" in note for note in doubted.notes)
    sure, _ = gpus_of(tree(DRIVER), nvml, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert not any("CUDA_DEVICE_ORDER" in note for note in sure.notes)


def test_dgx_spark_shares_the_memory_of_the_system(recorded: Recorded) -> None:
    nvml = Nvml([Card("NVIDIA GB10", bus=1, domain=0xF, capability=(12, 1))], "580.173.02")
    (gpu,) = gpus_of(recorded("dgx_spark").root, nvml)
    assert (gpu.name, gpu.compute_capability, gpu.problem) == ("NVIDIA GB10", "12.1", None)
    assert gpu.unified
    assert gpu.total_bytes == int(127600748 * KIB * 0.94)
    assert gpu.free_bytes == 118566368 * KIB


def test_a_vgpu_and_a_grace_hopper_are_noted(tree: Tree) -> None:
    nvml = Nvml(
        [Card("NVIDIA L40S-24Q", 24 * GIB, GIB, vgpu=True), Card("NVIDIA GH200 480GB", 96 * GIB, GIB)]
    )
    vgpu, grace = gpus_of(tree(DRIVER), nvml)
    assert "vGPU" in vgpu.notes[0]
    assert "NUMA" in grace.notes[0]
