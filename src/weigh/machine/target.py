"""What a model would run on: this machine as probed, or one that is only named.

A `Target` is a host (processor and RAM) and its GPUs, each a `Device`. Estimates read only this, so a card on
the desk and one in a shop window go through the same formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Backend(StrEnum):
    """The code path engines take on a device; figures of one do not hold for another."""

    CPU = "CPU"
    CUDA = "CUDA"
    ROCM = "ROCm"
    VULKAN = "Vulkan"
    METAL = "Metal"
    SYCL = "SYCL"


@dataclass(frozen=True, slots=True)
class Device:
    """A processor and the memory it computes from. Data-sheet figures are peaks; None when not known.

    Attributes:
        memory_bytes: capacity as the driver shows it; for a GPU that shares the system's memory
            (`unified`), the most it may take of it.
        free_bytes: of these, free now; a device that is only named counts as empty.
        bandwidth_bytes_per_s: peak of its memory.
        fp16_flops_per_s: peak dense FP16 matrix rate, with tensor cores where there are any.
        generation: the data sheet's architecture ("Ada Lovelace", "RDNA 3.0", "Zen 4").
        link_bytes_per_s: to the host, one way, as its bus allows.
        source: of the figures above.
    """

    name: str
    vendor: str
    backend: Backend
    memory_bytes: int
    free_bytes: int
    bandwidth_bytes_per_s: float | None = None
    fp16_flops_per_s: float | None = None
    fp32_flops_per_s: float | None = None
    generation: str = ""
    compute_capability: str = ""
    unified: bool = False
    link_bytes_per_s: float | None = None
    tdp_watts: float | None = None
    price_usd: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A host and its GPUs.

    Attributes:
        name: as people say it: ``2x NVIDIA GeForce RTX 3090``, ``this machine``.
        host: the processor with the RAM; layers that no GPU holds run there.
        host_cores: physical cores; None when unknown.
        cpu_features: instruction sets an engine's build uses there, as `weigh.estimate.memory` takes them.
        gpus: in the order in which engines number them.
        probed: this machine; False for one that is only named.
        assumed: what was not said and had to be taken for granted, in plain words ("32 GiB of RAM").
    """

    name: str
    host: Device
    gpus: tuple[Device, ...] = ()
    host_cores: int | None = None
    cpu_features: tuple[str, ...] = ()
    probed: bool = False
    assumed: tuple[str, ...] = ()
