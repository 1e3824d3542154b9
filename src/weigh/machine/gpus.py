"""Every GPU of the machine, also those that weigh cannot read: a GPU is never left out silently."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from weigh.machine import pci
from weigh.machine.machine import Gpu
from weigh.machine.nvidia import read_nvidia

_NOT_READ = "not read by weigh yet"
_MAKERS = {pci.AMD: "AMD", pci.INTEL: "Intel"}


def read_gpus(root: Path = Path("/"), nvml: Any = None) -> tuple[Gpu, ...]:
    """NVIDIA's with their memory; AMD's, Intel's and Apple's by name only, with that said in `problem`.

    Outside Linux (not tested there) only NVML is asked, and Apple's processors are known to hold a GPU.
    """
    devices = pci.gpu_devices(root)
    others = [
        Gpu(
            f"{_MAKERS[d.vendor]} GPU (PCI {d.vendor:04x}:{d.device:04x})",
            _MAKERS[d.vendor],
            problem=_NOT_READ,
        )
        for d in devices
        if d.vendor in _MAKERS
    ]
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        others.append(Gpu("Apple GPU", "Apple", problem=_NOT_READ))
    return (*read_nvidia(devices, root, nvml), *others)
