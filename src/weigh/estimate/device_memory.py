"""What llama.cpp holds on each device when a model is spread over a host and its GPUs.

Every tensor belongs to a layer, and a layer to a device; so do the layer's keys, values and states. The token
embedding stays with the host, because rows are looked up in it; a model that ties its output matrix to the
embedding gets a second copy of it on the GPU. Beside a GPU with pinned host memory the engine repacks no
matrix that stays in RAM: it keeps them where the GPU can fetch them for a prefill.

Source: llama-model.cpp `load_tensors` (get_layer_buft_list), `make_cpu_buft_list`; llama-arch.cpp (which
tensors are inputs and outputs); llama-kv-cache.cpp, constructor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

from weigh.engines.engine import Settings
from weigh.estimate.compute_buffers import KV, ROPE, Batch, largest_batch, mask_bytes
from weigh.estimate.device_buffers import (
    OFFLOAD_TOKENS,
    PIPELINE_COPIES,
    Part,
    Step,
    gpu_compute_bytes,
    host_compute_bytes,
)
from weigh.estimate.graph import Graph, Layer, graph, layers_of, representatives
from weigh.estimate.kv_cache import cell_bytes, cells, mixer_bytes
from weigh.estimate.memory import EMBEDDINGS, memory, runtime_bytes
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device, Target
from weigh.model.spec import MixerKind, ModelSpec

EXPERTS = "_exps."  # in the names that `--n-cpu-moe` matches: matrices of routed experts, and their biases
_EMBEDDING = "token_embd.weight"
_REPEATED = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
_PIPELINED = frozenset({Backend.CUDA, Backend.ROCM, Backend.VULKAN})  # asynchronous, with events


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
        spec: with its tensors typed.
        available: bytes that may be taken of RAM and of each GPU, in that order.
    """
    if not placement.on_gpu:
        return _on_host(spec, settings, target, available)
    return _spread(spec).placed(settings, target, placement, available)


def gpu_overhead(device: Device) -> Figure:
    """What a GPU loses to the runtime beside the engine's own buffers."""
    return _OVERHEAD.get(device.backend, Figure.exact(0, "bytes"))


_OVERHEAD = {
    Backend.CUDA: Figure(450 << 20, 300 << 20, 700 << 20, "bytes", Basis.PUBLISHED, ""),
    Backend.ROCM: Figure(400 << 20, 200 << 20, 700 << 20, "bytes", Basis.PUBLISHED, ""),
}


def _on_host(
    spec: ModelSpec, settings: Settings, target: Target, available: Sequence[int]
) -> tuple[DeviceMemory, ...]:
    held = memory(spec, settings, target.cpu_features)
    ram = DeviceMemory(
        target.host.name,
        held.weights_bytes,
        held.kv_cache_bytes,
        held.compute_bytes + held.output_bytes,
        held.runtime_bytes,
        available[0],
    )
    idle = (
        DeviceMemory(g.name, 0, 0, 0, 0, free) for g, free in zip(target.gpus, available[1:], strict=True)
    )
    return (ram, *idle)


class _Spread:
    """What of a model does not depend on settings and placement: its bytes, layer by layer.

    Attributes:
        dense_before, experts_before: bytes of the tensors of all layers before each, the routed experts apart.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        dense, experts = [0] * spec.layers, [0] * spec.layers
        self.input_bytes = self.output_bytes = self.tied_bytes = self.repeated_bytes = 0
        for tensor in spec.tensors:
            size = tensor.tensor_bytes
            for layer in tensor.layers:
                (experts if EXPERTS in tensor.name else dense)[layer] += size
            if tensor.layers:
                continue
            if tensor.name in EMBEDDINGS:
                self.input_bytes += size
                self.tied_bytes += size * (tensor.name == _EMBEDDING and spec.tied_embeddings)
            elif tensor.name in _REPEATED:
                self.repeated_bytes += size
            else:
                self.output_bytes += size
        self.dense_before = (0, *accumulate(dense))
        self.experts_before = (0, *accumulate(experts))

    @cached_property
    def graph(self) -> Graph:
        return graph(self.spec)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return layers_of(self.spec)

    @cached_property
    def early(self) -> str:
        """The matrix after the query's, where the model has rotary factors; see `Step`."""
        if not self.repeated_bytes:
            return ""
        sliding = any(layer.sliding for layer in self.layers)
        return "attn_k" if sliding else "attn_v"

    @cached_property
    def positions_with(self) -> str:
        """What the positions are fetched with; see `Step`."""
        between = {"blk.{}.attn_q_norm.weight", "blk.{}.attn_q.bias", "blk.{}.attn_qkv.bias", *_REPEATED}
        names = {tensor.name for tensor in self.spec.tensors}
        if names & between:
            return ROPE
        return "attn_qkv" if "blk.{}.attn_qkv.weight" in names else "attn_q"

    @cached_property
    def matrices(self) -> tuple[tuple[tuple[str, int, bool], ...], ...]:
        """Per layer: role, bytes and whether it is of routed experts, of every matrix (and the query's bias)."""
        found: list[list[tuple[str, int, bool]]] = [[] for _ in range(self.spec.layers)]
        for tensor in self.spec.tensors:
            if len(tensor.shape) < 2 and tensor.name != "blk.{}.attn_q.bias":
                continue
            role = tensor.name.removeprefix("blk.{}.").removesuffix(".weight").removesuffix("_shexp")
            for layer in tensor.layers:
                found[layer].append((role, tensor.tensor_bytes, bool(tensor.experts)))
        return tuple(map(tuple, found))

    def placed(
        self, settings: Settings, target: Target, placement: Placement, available: Sequence[int]
    ) -> tuple[DeviceMemory, ...]:
        bounds = _bounds(self.spec, placement)
        weights = self._weights(placement, bounds)
        caches = self._caches(settings, bounds)
        scratch = self._scratch(settings, target, placement, bounds)
        runtime = runtime_bytes(self.spec, settings, target.cpu_features)
        overheads = [runtime, *(int(gpu_overhead(gpu).value) for gpu in target.gpus)]
        return tuple(
            DeviceMemory(
                device.name,
                weights[i],
                caches[i],
                scratch[i],
                overheads[i] if scratch[i] else 0,
                available[i],
            )
            for i, device in enumerate((target.host, *target.gpus))
        )

    def _weights(self, placement: Placement, bounds: Sequence[tuple[int, int]]) -> list[int]:
        dense, experts, kept = self.dense_before, self.experts_before, placement.experts_in_ram
        held = []
        for first, end in bounds:
            on_gpu = max(first, kept), max(end, kept)
            held.append(dense[end] - dense[first] + experts[on_gpu[1]] - experts[on_gpu[0]])
            held[-1] += self.repeated_bytes * (end > first)
        on_gpus = max(bounds[0][1], kept)
        held[0] = dense[bounds[0][1]] + experts[on_gpus] + self.input_bytes
        held[_output_device(placement)] += self.output_bytes + (
            self.tied_bytes if placement.output_on_gpu else 0
        )
        return held

    def _caches(self, settings: Settings, bounds: Sequence[tuple[int, int]]) -> list[int]:
        each = [0] * self.spec.layers
        for mixer in self.spec.mixers:
            size = mixer_bytes(mixer, settings) // max(1, len(mixer.layers))
            for layer in mixer.layers:
                each[layer] = size
        return [sum(each[first:end]) for first, end in bounds]

    def _scratch(
        self, settings: Settings, target: Target, placement: Placement, bounds: Sequence[tuple[int, int]]
    ) -> list[int]:
        batch = largest_batch(self.graph, settings)
        masks = self._masks(settings, batch)
        used = [i for i, layers in enumerate(placement.gpu_layers) if layers]
        copies = PIPELINE_COPIES if _pipelined(target, placement, bounds, used) else 1
        scratch = [host_compute_bytes(self.graph, batch, masks, copies) + 4 * self.spec.vocab * batch.rows]
        steps = self._steps(settings, placement, bounds, fetching=batch.tokens >= OFFLOAD_TOKENS)
        for gpu, layers in enumerate(placement.gpu_layers):
            if not layers:
                scratch.append(0)
                continue
            first, end = bounds[gpu + 1]
            own = steps[0 if gpu == used[0] else first : end]
            part = Part(representatives(own), gpu == used[0], gpu == used[-1], copies)
            scratch.append(gpu_compute_bytes(self.graph, batch, masks, part))
        return scratch

    def _masks(self, settings: Settings, batch: Batch) -> tuple[tuple[bool, int], ...]:
        window = next((m.window for m in self.spec.mixers if m.kind is MixerKind.SLIDING), 0)
        read = {layer.sliding for layer in self.graph.layers}
        sizes = mask_bytes(batch, cells(settings, window))
        return tuple((sliding, size) for sliding, size in sizes.items() if sliding in read)

    def _steps(
        self,
        settings: Settings,
        placement: Placement,
        bounds: Sequence[tuple[int, int]],
        *,
        fetching: bool,
    ) -> list[Step]:
        """Every layer with what the first GPU fetches from RAM to run it."""
        on_host = bounds[0][1] if fetching else 0
        with_experts = placement.experts_in_ram if fetching else 0
        caches = self._cache_copies(settings) if on_host else {}
        steps = []
        for index, layer in enumerate(self.layers):
            if index < on_host:
                matrices = tuple((role, size) for role, size, _ in self.matrices[index])
                steps.append(
                    Step(
                        layer, matrices + caches.get(index, ()), self.early, self.positions_with, in_ram=True
                    )
                )
            elif index < with_experts:
                steps.append(
                    Step(layer, tuple((r, size) for r, size, expert in self.matrices[index] if expert))
                )
            else:
                steps.append(Step(layer))
        return steps

    def _cache_copies(self, settings: Settings) -> dict[int, tuple[tuple[str, int], ...]]:
        """Per attention layer, keys and values as they are copied to where attention runs."""
        copies = {}
        for mixer in self.spec.mixers:
            if mixer.kind is MixerKind.RECURRENT:
                continue
            room = cells(settings, mixer.window)
            held = (room.sliding if mixer.kind is MixerKind.SLIDING else room.full) * settings.parallel
            key = cell_bytes(mixer, settings.kv_type_k, settings.kv_type_v)
            parts: tuple[int, ...] = (key, key)
            if mixer.kind is not MixerKind.LATENT:
                value = settings.kv_type_v.row_bytes(mixer.kv_heads * mixer.value_dim)
                parts = (key - value, value)
            for layer in mixer.layers:
                copies[layer] = tuple((KV, size * held) for size in parts if size)
        return copies


def _bounds(spec: ModelSpec, placement: Placement) -> list[tuple[int, int]]:
    """First layer and end of what RAM and each GPU hold."""
    ends = list(accumulate((spec.layers - sum(placement.gpu_layers), *placement.gpu_layers)))
    return list(zip((0, *ends[:-1]), ends, strict=True))


def _output_device(placement: Placement) -> int:
    last = max(gpu for gpu, layers in enumerate(placement.gpu_layers) if layers)
    return last + 1 if placement.output_on_gpu else 0


def _pipelined(
    target: Target, placement: Placement, bounds: Sequence[tuple[int, int]], used: Sequence[int]
) -> bool:
    """Whether GPUs work on different micro-batches at once: several of them hold every layer whole."""
    whole = not bounds[0][1] and not placement.experts_in_ram and placement.output_on_gpu
    return len(used) > 1 and whole and all(target.gpus[gpu].backend in _PIPELINED for gpu in used)


_REMEMBERED = 4096
_spreads: dict[int, _Spread] = {}


def _spread(spec: ModelSpec) -> _Spread:
    """By identity: a spec holds a mapping and cannot be hashed; its entry keeps it alive."""
    found = _spreads.get(id(spec))
    if found is None:
        if len(_spreads) >= _REMEMBERED:
            _spreads.clear()
        found = _spreads[id(spec)] = _Spread(spec)
    return found
