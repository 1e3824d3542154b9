"""What llama.cpp holds on each device when a model is spread over a host and its GPUs.

Every tensor belongs to a layer, and a layer to a device; so do the layer's keys, values and states. The token
embedding stays with the host, because rows are looked up in it; a model that ties its output matrix to the
embedding gets a second copy of it on the GPU. Beside a GPU with pinned host memory the engine repacks no
matrix that stays in RAM: it keeps them where the GPU can fetch them for a prefill.

Source: llama-model.cpp `load_tensors` (get_layer_buft_list), `make_cpu_buft_list`; llama-arch.cpp (which
tensors are inputs and outputs); llama-kv-cache.cpp, constructor.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.errors import NotSupported
from weigh.estimate.compute_buffers import F32, KV, ROPE, Batch, largest_batch, mask_bytes
from weigh.estimate.device_buffers import (
    NORMED,
    OFFLOAD_TOKENS,
    PIPELINE_COPIES,
    Part,
    Step,
    gpu_compute_bytes,
    host_compute_bytes,
)
from weigh.estimate.graph import Attention, Graph, Layer, graph, representatives
from weigh.estimate.kv_cache import Cells, cell_bytes, cells, mixer_bytes
from weigh.estimate.memory import EMBEDDINGS, memory, runtime_bytes
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device, Target
from weigh.model.spec import MixerKind, ModelSpec

EXPERTS = "_exps."  # in the names that `--n-cpu-moe` matches: matrices of routed experts, and their biases
_EMBEDDING = "token_embd.weight"
_OF_FIRST_LAYER = frozenset({"per_layer_model_proj.weight", "per_layer_proj_norm.weight"})
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

    Raises:
        NotSupported: the placement cuts every layer in shares; see `weigh.estimate.vllm`.
    """
    if placement.tensor_parallel:
        raise NotSupported("llama.cpp under a split of every layer over all GPUs is not weighed")
    if not placement.on_gpu:
        return _on_host(spec, settings, target, available)
    return _spread(spec).under(settings).placed(target, placement, available)


class LayerBytes(NamedTuple):
    """What every layer takes on the device that holds it: its tensors, and its cache under some settings.

    Attributes:
        before: bytes of all layers before each, routed experts apart; one entry more than layers.
        experts_before: the same of the experts.
    """

    before: tuple[int, ...]
    experts_before: tuple[int, ...]

    @property
    def layers(self) -> int:
        return len(self.before) - 1

    def between(self, first: int, end: int, experts_from: int) -> int:
        """Bytes of layers `first` to `end`, without the experts of layers before `experts_from`."""
        experts = self.experts_before
        kept = experts[max(end, experts_from)] - experts[max(first, experts_from)]
        return self.before[end] - self.before[first] + kept

    def end(self, first: int, room: float, experts_from: int) -> int:
        """Where layers from `first` on no longer fit in `room`."""
        ends = range(first + 1, self.layers + 1)
        return first + bisect_right(ends, room, key=lambda end: self.between(first, end, experts_from))

    def start(self, end: int, room: float, experts_from: int) -> int:
        """From where on the layers up to `end` fit in `room`."""
        starts = range(end)
        return bisect_left(starts, -room, key=lambda first: -self.between(first, end, experts_from))


def layer_bytes(spec: ModelSpec, settings: Settings) -> LayerBytes:
    return _spread(spec).under(settings).sizes


def gpu_overhead(device: Device) -> Figure:
    """What a GPU loses to the runtime beside the engine's own buffers: context, kernels, libraries' workspaces.

    From the column `unaccounted` that llama.cpp prints when it ends, on machines with nothing else on the GPU.
    It grows with long prompts by what matrix libraries keep for a while (several GiB on one MI210): not here.
    """
    if device.backend is Backend.CUDA and device.generation.startswith("Blackwell"):
        return _BLACKWELL
    return _OVERHEAD[device.backend]


_CUDA_SOURCE = "llama.cpp pull request 15860: 451 to 456 MiB on three RTX 4090"
_BLACKWELL = Figure(
    708 << 20,
    450 << 20,
    900 << 20,
    "bytes",
    Basis.PUBLISHED,
    "server log of four RTX PRO 6000: 705 to 712 MiB",
)
_OVERHEAD = {
    Backend.CPU: Figure.exact(0, "bytes"),
    Backend.CUDA: Figure(455 << 20, 250 << 20, 700 << 20, "bytes", Basis.PUBLISHED, _CUDA_SOURCE),
    Backend.ROCM: Figure(
        255 << 20,
        200 << 20,
        600 << 20,
        "bytes",
        Basis.PUBLISHED,
        "logs: 253 MiB on MI50, 313 and 318 on APUs",
    ),
    Backend.VULKAN: Figure(
        64 << 20, 10 << 20, 300 << 20, "bytes", Basis.PUBLISHED, "server log of a Pro V340: 12 MiB"
    ),
    Backend.METAL: Figure(0, 0, 200 << 20, "bytes", Basis.PUBLISHED, "server log of an M5: 0 MiB"),
    Backend.SYCL: Figure(300 << 20, 50 << 20, 800 << 20, "bytes", Basis.RULE_OF_THUMB, "no log at hand"),
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
        input_bytes: tensors that stay with the host.
        tied_bytes: of these, what the output matrix is a copy of.
        repeated_bytes: every device with layers has its own copy of these.
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
            elif tensor.name in _OF_FIRST_LAYER:
                dense[0] += size
            else:
                self.output_bytes += size
        self.dense_before = (0, *accumulate(dense))
        self.experts_before = (0, *accumulate(experts))
        self._under: dict[Settings, _Under] = {}

    def under(self, settings: Settings) -> _Under:
        found = self._under.get(settings)
        if found is None:
            if len(self._under) >= _SETTINGS_REMEMBERED:
                self._under.clear()
            found = self._under[settings] = _Under(self, settings)
        return found

    @cached_property
    def graph(self) -> Graph:
        return graph(self.spec)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.graph.every_layer

    @cached_property
    def normed(self) -> bool:
        """Whether layers begin with a norm (those of OLMo 2 and EXAONE 4 end with it)."""
        return any(tensor.name == "blk.{}.attn_norm.weight" for tensor in self.spec.tensors)

    @cached_property
    def lenders(self) -> tuple[tuple[int, int], ...]:
        """Layers without keys and values of their own, each with the last of its kind that has them (Gemma 3n, 4)."""
        last: dict[bool | None, int] = {}
        found = []
        for index, layer in enumerate(self.layers):
            attention = next((m for m in layer.mixers if isinstance(m, Attention)), None)
            if attention is not None and attention.key:
                last[layer.sliding] = index
            elif attention is not None and layer.sliding in last:
                found.append((index, last[layer.sliding]))
        return tuple(found)

    @cached_property
    def matrices(self) -> tuple[tuple[tuple[str, int, bool], ...], ...]:
        """Per layer: role, bytes and whether it is of routed experts, of every matrix (and the query's bias)."""
        found: list[list[tuple[str, int, bool]]] = [[] for _ in range(self.spec.layers)]
        for tensor in self.spec.tensors:
            if len(tensor.shape) < 2 and tensor.name != "blk.{}.attn_q.bias":
                continue
            role = tensor.name.removeprefix("blk.{}.").removesuffix(".weight").removesuffix("_shexp")
            matrix = (role, tensor.tensor_bytes, bool(tensor.experts))
            for layer in tensor.layers:
                found[layer].append(matrix)
        return tuple(map(tuple, found))

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
        names = {tensor.name for tensor in self.spec.tensors}
        if names & {"blk.{}.attn_q.bias", "blk.{}.attn_qkv.bias", *_REPEATED}:
            return ROPE
        if "blk.{}.attn_q_norm.weight" in names:
            return NORMED
        return "attn_qkv" if "blk.{}.attn_qkv.weight" in names else "attn_q"


class _Under:
    """A model under given settings, so that each placement is a handful of sums.

    Attributes:
        sizes: bytes of every layer.
        kinds: what each layer is like when it lies on a GPU, when its experts lie in RAM, and when it does: as
            indices of `steps`, since layers repeat.
    """

    def __init__(self, spread: _Spread, settings: Settings) -> None:
        self.spread, self.settings = spread, settings
        caches = self._caches()
        self.caches_before = (0, *accumulate(caches))
        dense = tuple(a + b for a, b in zip(spread.dense_before, self.caches_before, strict=True))
        self.sizes = LayerBytes(dense, spread.experts_before)

    def _caches(self) -> list[int]:
        """Bytes of every layer's keys, values and states."""
        each = [0] * self.spread.spec.layers
        for mixer in self.spread.spec.mixers:
            size = mixer_bytes(mixer, self.settings) // max(1, len(mixer.layers))
            for layer in mixer.layers:
                each[layer] = size
        return each

    @cached_property
    def batch(self) -> Batch:
        return largest_batch(self.spread.graph, self.settings)

    @cached_property
    def masks(self) -> tuple[tuple[bool, int], ...]:
        window = next((m.window for m in self.spread.spec.mixers if m.kind is MixerKind.SLIDING), 0)
        read = {layer.sliding for layer in self.spread.graph.layers}
        room = cells(self.settings, window)
        if not self.spread.graph.cached:
            room = Cells(self.batch.tokens, self.batch.tokens)
        sizes = mask_bytes(self.batch, room)
        return tuple((sliding, size) for sliding, size in sizes.items() if sliding in read)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._numbered[0])

    @cached_property
    def kinds(self) -> tuple[tuple[int, ...], ...]:
        return self._numbered[1]

    @cached_property
    def _numbered(self) -> tuple[dict[Step, int], tuple[tuple[int, ...], ...]]:
        numbers: dict[Step, int] = {}
        on_gpu = [Step(layer) for layer in self.spread.layers]
        fetching = self.batch.tokens >= OFFLOAD_TOKENS
        ways = (on_gpu, self._with_experts_in_ram(), self._in_ram()) if fetching else (on_gpu,) * 3
        return numbers, tuple(tuple(numbers.setdefault(s, len(numbers)) for s in way) for way in ways)

    def _with_experts_in_ram(self) -> list[Step]:
        spread = self.spread
        return [
            Step(layer, tuple((role, size) for role, size, expert in matrices if expert))
            for layer, matrices in zip(spread.layers, spread.matrices, strict=True)
        ]

    def _in_ram(self) -> list[Step]:
        spread, caches = self.spread, self._cache_copies
        return [
            Step(
                layer,
                tuple((role, size) for role, size, _ in matrices) + caches.get(index, ()),
                spread.early,
                spread.positions_with,
                in_ram=True,
            )
            for index, (layer, matrices) in enumerate(zip(spread.layers, spread.matrices, strict=True))
        ]

    @cached_property
    def _cache_copies(self) -> dict[int, tuple[tuple[str, int], ...]]:
        """Per attention layer, keys and values as they are copied to where attention runs."""
        copies, settings = {}, self.settings
        for mixer in self.spread.spec.mixers:
            if mixer.kind is MixerKind.RECURRENT:
                continue
            room = cells(settings, mixer.window)
            held = (room.sliding if mixer.kind is MixerKind.SLIDING else room.full) * settings.parallel
            key = cell_bytes(mixer, settings.kv_type_k, settings.kv_type_v)
            parts: tuple[int, ...] = (key, key)  # a latent is read as key and as value
            if mixer.kind is not MixerKind.LATENT:
                value = settings.kv_type_v.row_bytes(mixer.kv_heads * mixer.value_dim)
                parts = (key - value, value)
            for layer in mixer.layers:
                copies[layer] = tuple((KV, size * held) for size in parts if size)
        return copies

    def placed(
        self, target: Target, placement: Placement, available: Sequence[int]
    ) -> tuple[DeviceMemory, ...]:
        bounds = _bounds(self.spread.spec, placement)
        weights = self._weights(placement, bounds)
        scratch = self._scratch(target, placement, bounds)
        runtime = runtime_bytes(self.spread.spec, self.settings, target.cpu_features)
        overheads = [runtime, *(int(gpu_overhead(gpu).value) for gpu in target.gpus)]
        before = self.caches_before
        return tuple(
            DeviceMemory(
                device.name,
                weights[i],
                before[bounds[i][1]] - before[bounds[i][0]],
                scratch[i],
                overheads[i] if scratch[i] else 0,
                available[i],
            )
            for i, device in enumerate((target.host, *target.gpus))
        )

    def _weights(self, placement: Placement, bounds: Sequence[tuple[int, int]]) -> list[int]:
        spread, kept = self.spread, placement.experts_in_ram
        dense, experts = spread.dense_before, spread.experts_before
        held = [
            dense[end]
            - dense[first]
            + experts[max(end, kept)]
            - experts[max(first, kept)]
            + spread.repeated_bytes * (end > first)
            for first, end in bounds
        ]
        on_host = bounds[0][1]
        held[0] = dense[on_host] + experts[max(on_host, kept)] + spread.input_bytes
        held[0] += spread.repeated_bytes * (on_host > 0)
        output = _output_device(placement)
        held[output] += spread.output_bytes + (spread.tied_bytes if output else 0)
        return held

    def _scratch(self, target: Target, placement: Placement, bounds: Sequence[tuple[int, int]]) -> list[int]:
        graph, batch, masks = self.spread.graph, self.batch, self.masks
        used = [i for i, layers in enumerate(placement.gpu_layers) if layers]
        copies = PIPELINE_COPIES if _pipelined(target, placement, bounds, used) else 1
        scratch = [host_compute_bytes(graph, batch, masks, copies) + F32 * graph.vocab * batch.rows]
        kinds = self._kinds_under(placement, bounds[0][1])
        for gpu, layers in enumerate(placement.gpu_layers):
            if not layers:
                scratch.append(0)
                continue
            first, end = bounds[gpu + 1]
            own = representatives(kinds[0 if gpu == used[0] else first : end])
            steps = tuple(self.steps[kind] for kind in own)
            share = layers / self.spread.spec.layers if graph.per_layer_embedding else 1.0
            borrowed = self._borrowed_bytes(first, end)
            first_of_all, last_of_all = gpu == used[0], gpu == used[-1]
            normed = self.spread.normed
            part = Part(steps, first_of_all, last_of_all, copies, share, borrowed, normed)
            scratch.append(gpu_compute_bytes(graph, batch, masks, part))
        return scratch

    def _borrowed_bytes(self, first: int, end: int) -> int:
        """Keys and values of layers before `first` that layers up to `end` read instead of their own."""
        lenders = {lender for layer, lender in self.spread.lenders if first <= layer < end and lender < first}
        return sum(size for lender in lenders for _, size in self._cache_copies[lender])

    def _kinds_under(self, placement: Placement, on_host: int) -> tuple[int, ...]:
        on_gpu, with_experts_in_ram, in_ram = self.kinds
        until = max(on_host, min(placement.experts_in_ram, len(on_gpu)))
        return in_ram[:on_host] + with_experts_in_ram[on_host:until] + on_gpu[until:]


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
_SETTINGS_REMEMBERED = 16
_spreads: dict[int, _Spread] = {}


def _spread(spec: ModelSpec) -> _Spread:
    """By identity: a spec holds a mapping and cannot be hashed; its entry keeps it alive."""
    found = _spreads.get(id(spec))
    if found is None:
        if len(_spreads) >= _REMEMBERED:
            _spreads.clear()
        found = _spreads[id(spec)] = _Spread(spec)
    return found
