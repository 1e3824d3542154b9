"""Which device holds which part of a model, and what each then holds in bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is spread over a host and its GPUs, in llama.cpp's terms.

    Repeated layers go to the GPUs from the last one backwards (`-ngl`), in order of the GPUs; what is left
    stays with the host, and so does the token embedding.

    Attributes:
        gpu_layers: repeated layers each GPU holds; all 0 when the host does everything.
        output_on_gpu: the output matrix is on the last GPU (it counts as one layer for `-ngl`).
        experts_in_ram: the first this many layers keep their routed experts in RAM (`--n-cpu-moe`).
        tensor_parallel: every GPU holds an equal share of each layer instead (vLLM); then gpu_layers is
            the number of all layers for each.
    """

    gpu_layers: tuple[int, ...] = ()
    output_on_gpu: bool = False
    experts_in_ram: int = 0
    tensor_parallel: bool = False

    @property
    def on_gpu(self) -> bool:
        return any(self.gpu_layers)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes one device holds, and what it has to give.

    Attributes:
        overhead_bytes: of the runtime: a CUDA context, the process around the engine, records.
        available_bytes: what may be taken of it: free less what is to stay free.
    """

    device: str
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    overhead_bytes: int
    available_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes + self.overhead_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes
