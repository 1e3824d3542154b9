"""Boards by their recorded device trees."""

from __future__ import annotations

from pathlib import Path

from tests.machine.conftest import Recorded, Tree
from weigh.machine.boards import board_notes, read_board
from weigh.machine.gpus import read_gpus
from weigh.machine.memory import read_memory
from weigh.machine.target_here import gpu_sheet_of
from weigh.units import KIB


def test_a_raspberry_pi_says_its_model_and_has_no_gpu_to_use(recorded: Recorded) -> None:
    machine = recorded("raspberry_pi_5")
    board = read_board(machine.root)
    assert board is not None
    assert board.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert board.compatible == ("raspberrypi,5-model-b", "brcm,bcm2712")
    assert not board.is_jetson
    assert read_gpus(machine.root, environment={}) == ()


def test_a_pc_is_no_board(tree: Tree) -> None:
    assert read_board(tree({"proc/cpuinfo": ""})) is None


def test_a_jetson_shares_its_memory(recorded: Recorded) -> None:
    (gpu,) = read_gpus(recorded("jetson_orin_nano").root, environment={})
    assert (gpu.name, gpu.driver, gpu.compute_capability) == ("NVIDIA Jetson Orin Nano", "L4T 35.3.1", "8.7")
    assert (gpu.unified, gpu.problem) == (True, None)
    assert gpu.total_bytes == int(7802816 * KIB * 0.94)
    assert gpu.free_bytes == 6291456 * KIB


def test_a_jetson_is_told_apart_by_its_module(recorded: Recorded) -> None:
    root = recorded("jetson_agx_orin").root
    (gpu,) = read_gpus(root, environment={})
    sheet = gpu_sheet_of(gpu, read_memory(root).total_bytes)
    assert sheet is not None
    assert sheet.name == "NVIDIA Jetson AGX Orin 64 GB"


def test_a_power_mode_is_noted(recorded: Recorded) -> None:
    machine = recorded("jetson_orin_nano")
    (note,) = board_notes(read_board(machine.root), machine.run)
    assert "MAXN_SUPER" in note
    assert board_notes(read_board(machine.root), lambda words: "") == ()


def test_linux_on_a_mac_names_its_gpu(tree: Tree) -> None:
    model = {"model": "Apple MacBook Air (13-inch, M2, 2022)\0", "compatible": "apple,j413\0apple,t8112\0"}
    root: Path = tree({f"proc/device-tree/{name}": text for name, text in model.items()})
    (gpu,) = read_gpus(root, environment={})
    assert "M2" in gpu.name
    assert "Vulkan" in str(gpu.problem)
