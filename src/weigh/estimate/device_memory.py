"""What llama.cpp holds on each device when a model is spread over a host and its GPUs.

Every tensor belongs to a layer, and a layer to a device; so do the layer's keys, values and states. The token
embedding stays with the host, because rows are looked up in it; a model that ties its output matrix to the
embedding gets a second copy of it on the GPU.

Source: llama-model.cpp `load_tensors` (get_layer_buft_list), `make_cpu_buft_list`; llama-arch.cpp (which
tensors are inputs and outputs); llama-kv-cache.cpp, constructor.
"""

from __future__ import annotations

from collections.abc import Sequence

from weigh.engines.engine import Settings
from weigh.estimate.compute_buffers import compute_bytes
from weigh.estimate.graph import graph
from weigh.estimate.kv_cache import cells, mixer_bytes, ubatch_tokens
from weigh.estimate.memory import EMBEDDINGS, memory
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.machine.target import Target
from weigh.model.spec import MixerKind, ModelSpec

GPU_OVERHEAD_BYTES = 450 << 20  # CUDA context and libraries; refined by backend


def placed_memory(
    spec: ModelSpec,
    settings: Settings,
    target: Target,
    placement: Placement,
    *,
    available: Sequence[int],
) -> tuple[DeviceMemory, ...]:
    """Bytes held by RAM and by each GPU of `target`, in that order.

    Args:
        available: bytes that may be taken of RAM and of each GPU, in that order.
    """
    host = memory(spec, settings, target.cpu_features)
    if not placement.on_gpu:
        idle = (DeviceMemory(g.name, 0, 0, 0, 0, a) for g, a in zip(target.gpus, available[1:], strict=True))
        ram = DeviceMemory(
            target.host.name,
            host.weights_bytes,
            host.kv_cache_bytes,
            host.compute_bytes + host.output_bytes,
            host.runtime_bytes,
            available[0],
        )
        return (ram, *idle)
    devices = _device_of_layers(spec, placement)
    weights = _weights_by_device(spec, placement, devices, len(target.gpus))
    caches = _caches_by_device(spec, settings, devices, len(target.gpus))
    window = next((m.window for m in spec.mixers if m.kind is MixerKind.SLIDING), 0)
    scratch = compute_bytes(graph(spec), settings, cells(settings, window))
    inputs = 3 * 4 * spec.hidden * ubatch_tokens(settings)
    names = (target.host.name, *(gpu.name for gpu in target.gpus))
    held = []
    for index, name in enumerate(names):
        used = index == 0 or placement.gpu_layers[index - 1] > 0
        overhead = (host.runtime_bytes if index == 0 else GPU_OVERHEAD_BYTES) if used else 0
        compute = (inputs if index == 0 else scratch) if used else 0
        held.append(DeviceMemory(name, weights[index], caches[index], compute, overhead, available[index]))
    return tuple(held)


def _device_of_layers(spec: ModelSpec, placement: Placement) -> list[int]:
    """For every layer, 0 for the host or 1 + the index of its GPU."""
    devices = [0] * (spec.layers - sum(placement.gpu_layers))
    for gpu, layers in enumerate(placement.gpu_layers):
        devices += [gpu + 1] * layers
    return devices


def _weights_by_device(spec: ModelSpec, placement: Placement, devices: list[int], gpus: int) -> list[int]:
    held = [0] * (gpus + 1)
    last = max(gpu for gpu, layers in enumerate(placement.gpu_layers) if layers) + 1
    output = last if placement.output_on_gpu else 0
    for tensor in spec.tensors:
        if tensor.name in EMBEDDINGS:
            held[0] += tensor.tensor_bytes
            if tensor.name == "token_embd.weight" and spec.tied_embeddings and output:
                held[output] += tensor.tensor_bytes
        elif not tensor.layers:
            held[output] += tensor.tensor_bytes
        for layer in tensor.layers:
            in_ram = tensor.experts and layer < placement.experts_in_ram
            held[0 if in_ram else devices[layer]] += tensor.tensor_bytes
    return held


def _caches_by_device(spec: ModelSpec, settings: Settings, devices: list[int], gpus: int) -> list[int]:
    held = [0] * (gpus + 1)
    for mixer in spec.mixers:
        each = mixer_bytes(mixer, settings) // max(1, len(mixer.layers))
        for layer in mixer.layers:
            held[devices[layer]] += each
    return held
