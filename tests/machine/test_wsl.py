"""Linux under Windows, recorded and written by the format."""

from __future__ import annotations

from tests.machine.conftest import Recorded, Tree
from tests.machine.nvml import Card, Nvml
from weigh.machine.gpus import read_gpus
from weigh.machine.memory import read_memory
from weigh.machine.wsl import is_wsl, read_wsl_gpus, wsl_notes
from weigh.units import GIB


def test_an_amd_card_under_wsl_is_named_with_the_reason(recorded: Recorded) -> None:
    (gpu,) = read_gpus(recorded("wsl_amd").root, environment={})
    assert (gpu.name, gpu.vendor, gpu.total_bytes) == ("AMD GPU of Windows", "AMD", None)
    assert "/dev/dxg" in str(gpu.problem)
    assert "needs librocdxg" in str(gpu.problem)


def test_rocm_can_use_it_with_its_library(recorded: Recorded, tree: Tree) -> None:
    recorded("wsl_amd")
    (gpu,) = read_gpus(tree({"opt/rocm/lib/librocdxg.so": ""}), environment={})
    assert "ROCm can use it" in str(gpu.problem)


def test_nvml_reads_an_nvidia_card_as_usual(recorded: Recorded, tree: Tree) -> None:
    recorded("wsl_amd")
    places = ("usr/lib/wsl/lib/libnvidia-ml.so.1", "usr/lib/wsl/drivers/nv_dispi.inf_amd64_12/x")
    nvml = Nvml([Card("NVIDIA GeForce RTX 4090", 24 * GIB, 20 * GIB)])
    nvidia, amd = read_gpus(tree(dict.fromkeys(places, "")), nvml, environment={})
    assert (nvidia.vendor, nvidia.problem) == ("NVIDIA", None)
    assert amd.vendor == "AMD"


def test_a_gpu_of_unknown_make_is_not_left_out(tree: Tree) -> None:
    root = tree({"proc/version": "Linux version 5.15.167.4-microsoft-standard-WSL2", "dev/dxg": ""})
    (gpu,) = read_wsl_gpus((), root)
    assert gpu.problem


def test_the_limit_of_memory_is_explained(recorded: Recorded) -> None:
    root = recorded("wsl_amd").root
    (note,) = wsl_notes(read_memory(root), root)
    assert "15.51 GiB" in note
    assert ".wslconfig" in note


def test_linux_alone_is_not_wsl(tree: Tree) -> None:
    root = tree({"proc/version": "Linux version 6.12.0 (gcc)", "dev/dxg": ""})
    assert not is_wsl(root)
    assert wsl_notes(read_memory(), root) == ()
    assert read_wsl_gpus((), root) == []
