"""Memory under Hugging Face transformers: PyTorch allocates as the model's Python code goes along.

Nothing is laid out beforehand, so the peak is found by asking of each stage of a forward pass which tensors
are alive at once: those that a name, an argument or the caller's frame still holds. The counts below were
read off the allocations of small models run under PyTorch's profiler, and agree with it to the tensor
(docs/memory_transformers.md). On a GPU the allocator hands out blocks, and a CUDA context lies beside them;
on a CPU the weights are pages of the mapped file, and the process itself is what lies beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from weigh.errors import BadInput
from weigh.estimate.engine_memory import EngineMemory
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind, ModelSpec, TensorGroup
from weigh.units import KIB, MIB

AttentionCode = Literal["sdpa", "eager", "flash_attention_2"]
CacheCode = Literal["dynamic", "static"]

HALF = 2  # bytes of a BF16 or F16 activation
FLOAT = 4


@dataclass(frozen=True, slots=True)
class Release:
    """What a release of transformers does that memory depends on.

    Attributes:
        version: the first that was read and found so; it holds until the next one listed.
        whole_prompt_logits: logits of every position of the prompt, in half precision and then in float32.
        cache_held_twice: a decoding step makes the caches of all layers anew while the old ones are held.
        rope_tables_by_layer: each layer keeps sines and cosines of all positions the model was trained for.
        repeats_keys: `sdpa` copies keys and values once for each query head.
        crops_sliding: sliding-window layers forget what has left the window.
        experts_at_once: all tokens are gathered by expert and go through grouped matrix products.
        latent_cache: MLA caches its latent; before, the keys and values of all heads made from it.
        loads_tied_output: AWQ's output matrix is loaded beside the embedding it is tied to, then dropped. No
            source was read for this: the shortest published runs of Qwen2.5 0.5B, 1.5B and 3B under 4.46.0
            show it, those of Qwen2 0.5B under 4.38.2 and Qwen3 4B under 4.51.3 do not.
    """

    version: tuple[int, int]
    whole_prompt_logits: bool = False
    cache_held_twice: bool = False
    rope_tables_by_layer: bool = False
    repeats_keys: bool = False
    crops_sliding: bool = False
    experts_at_once: bool = False
    latent_cache: bool = False
    loads_tied_output: bool = False


# Read in the sources of 4.38.2, 4.41.2, 4.44.2, 4.46.0, 4.51.3, 4.57.0, 5.0.0, 5.12.0, 5.16.0 and 5.23.0:
# models/{qwen2,llama,qwen3_moe,deepseek_v3}/modeling_*.py, cache_utils.py, integrations/{moe,sdpa_attention}.py.
RELEASES = (
    Release((4, 38), True, True, True, True),
    Release((4, 44), True, False, True, True),
    Release((4, 46), repeats_keys=True, loads_tied_output=True),
    Release((4, 51), repeats_keys=True),
    Release((4, 57), crops_sliding=True),
    Release((5, 0), crops_sliding=True, experts_at_once=True),
    Release((5, 16), crops_sliding=True, experts_at_once=True, latent_cache=True),
)
LATEST = RELEASES[-1]


def release(version: str) -> Release:
    """The behaviour of a release of transformers, `4.51.3`; of the oldest one read for those before it.

    Raises:
        BadInput: not a version.
    """
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError as error:
        raise BadInput(
            f"`{version}` is not a version of transformers", hint="write it like `4.51.3`"
        ) from error
    return next((r for r in reversed(RELEASES) if r.version <= (major, minor)), RELEASES[0])


# --- what a forward pass holds ------------------------------------------------------------------------


class _Widths(NamedTuple):
    """Values per token of what a layer makes; where layers differ, the most of any.

    Attributes:
        query: of all query heads together; `value` likewise of what attention puts out.
        expanded: keys and values MLA makes of its latent, all heads together; 0 elsewhere.
        feed_forward: alive at once inside a dense feed-forward or shared expert.
        expert: inside of one routed expert.
        matrix: weights of the largest quantized matrix, which some kernels unpack before they multiply.
    """

    hidden: int
    vocab: int
    heads: int
    query: int
    value: int
    expanded: int
    window: int
    feed_forward: int
    expert: int
    experts_used: int
    matrix: int


def _widths(spec: ModelSpec) -> _Widths:
    shapes = {tensor.name.removeprefix("blk.{}."): tensor.shape for tensor in spec.tensors}
    attended = [m for m in spec.mixers if m.query_heads]
    nothing = (0, 0, 0)  # a model of recurrent layers alone has no heads
    heads = zip(nothing, *(_head_widths(spec, m) for m in attended), strict=True)
    query, value, expanded = (max(widths) for widths in heads)
    return _Widths(
        hidden=spec.hidden,
        vocab=spec.vocab,
        heads=max((m.query_heads for m in attended), default=0),
        query=query,
        value=value,
        expanded=expanded,
        window=max((m.window for m in attended), default=0),
        feed_forward=max(_feed_forward_width(shapes, kind) for kind in ("", "_shexp")),
        expert=shapes.get("ffn_down_exps.weight", (0,))[0],
        experts_used=spec.experts_used,
        matrix=max((t.elements // (t.experts or 1) for t in spec.tensors if t.type.quantized), default=0),
    )


def _head_widths(spec: ModelSpec, mixer: Mixer) -> tuple[int, int, int]:
    """Query, output and (MLA) expanded key and value values of a token."""
    if mixer.kind is not MixerKind.LATENT:
        return mixer.query_heads * mixer.key_dim, mixer.query_heads * mixer.value_dim, 0
    key, value = (spec.hyper.get(f"attention.{what}_length_mla", 0) for what in ("key", "value"))
    assert isinstance(key, int)
    assert isinstance(value, int)
    return mixer.query_heads * key, mixer.query_heads * value, mixer.query_heads * (key + value)


def _feed_forward_width(shapes: dict[str, tuple[int, ...]], kind: str) -> int:
    """gate, up and their product; without a gate what goes in and comes out of the function; when gate and
    up are one matrix, its output, the function's and the product.

    Source: `forward` of the MLP classes, where the arguments of a call live until it returns.
    """
    inner = shapes.get(f"ffn_down{kind}.weight", (0,))[0]
    if f"ffn_gate{kind}.weight" in shapes:
        return 3 * inner
    fused = inner and shapes[f"ffn_up{kind}.weight"][1] == 2 * inner
    return (4 if fused else 2) * inner


class _Pass(NamedTuple):
    """One forward pass: `new` tokens of each sequence attend to `keys` tokens, themselves included."""

    batch: int
    new: int
    keys: int

    @property
    def rows(self) -> int:
        return self.batch * self.new

    @property
    def scores(self) -> int:
        """Of one head."""
        return self.rows * self.keys


class _Code(NamedTuple):
    """Which code runs.

    Attributes:
        logits_bytes: per value of the vocabulary and row of logits, on this device.
    """

    release: Release
    attention: AttentionCode
    on_cpu: bool
    logits_bytes: int


def _activations_bytes(widths: _Widths, step: _Pass, code: _Code) -> int:
    """The most any stage of a layer, or the logits, hold beside the weights and the caches."""
    return max(
        _norm_bytes(widths, step),
        _attention_bytes(widths, step, code),
        _feed_forward_bytes(widths, step),
        _experts_bytes(widths, step, code.release),
        _logits_bytes(widths, step, code),
    )


def _norm_bytes(widths: _Widths, step: _Pass) -> int:
    """Embeddings, the layer's input, the residual; a float32 copy of it, and that copy scaled."""
    return HALF * 7 * widths.hidden * step.rows


def _feed_forward_bytes(widths: _Widths, step: _Pass) -> int:
    """Embeddings, the layer's input, the residual, its norm; and what the feed-forward makes.

    Quantized, the last matrix but one is unpacked while a third of that is not there yet.
    """
    made = widths.feed_forward * step.rows
    unpacking = made * 2 // 3 + widths.matrix if widths.matrix and step.new > 1 else 0
    return HALF * (4 * widths.hidden * step.rows + max(made, unpacking))


def _experts_bytes(widths: _Widths, step: _Pass, release: Release) -> int:
    """One expert after the other, at worst with every token; or all at once, each token once per expert.

    At once: gathered inputs, gate and up in one, the function's output and the product; later the inputs,
    outputs, weighted outputs, and these put back in order, with five indices.

    Source: integrations/moe.py `grouped_mm_experts_forward`.
    """
    if not widths.expert:
        return 0
    if not release.experts_at_once:
        return HALF * step.rows * (6 * widths.hidden + 3 * widths.expert)
    visits = step.rows * widths.experts_used
    made = max(widths.hidden + 4 * widths.expert, 4 * widths.hidden)
    return HALF * (4 * widths.hidden * step.rows + made * visits) + 5 * 8 * visits


def _attention_bytes(widths: _Widths, step: _Pass, code: _Code) -> int:
    """Embeddings, the layer's input, its norm; five times the query while it is normed or turned; or scores."""
    rows, standing = step.rows, HALF * 3 * widths.hidden * step.rows
    keys_values = HALF * step.batch * step.keys * (widths.query + widths.value)
    turned = HALF * 5 * widths.query * rows + HALF * step.batch * step.keys * widths.expanded
    scored = HALF * (widths.query + 2 * widths.value) * rows
    if code.attention == "eager":
        scored += keys_values + _eager_scores_bytes(widths, step, code.on_cpu)
    elif code.attention == "sdpa":
        scored += _masked_bytes(widths, step, keys_values, code)
        if widths.expanded and code.on_cpu:
            scored = _plain_scores_bytes(widths, step) + keys_values
    return standing + max(turned, scored)


def _eager_scores_bytes(widths: _Widths, step: _Pass, on_cpu: bool) -> int:
    """Scores in half precision, their softmax in float32, that in half precision again; the mask.

    On a CPU the float32 copy that softmax makes first is a tensor of its own, and the larger end.

    Source: `eager_attention_forward`; ATen/native/SoftMax.cpp `softmax` with a dtype.
    """
    per_score = HALF + 2 * FLOAT if on_cpu else HALF + FLOAT + HALF
    return widths.heads * step.scores * per_score + HALF * step.scores


def _plain_scores_bytes(widths: _Widths, step: _Pass) -> int:
    """`sdpa` on a CPU where keys and values differ in width: everything in float32, scores before and after
    the softmax, and that in half precision.

    Source: ATen/native/transformers/attention.cpp `_scaled_dot_product_attention_math`.
    """
    copies = FLOAT * (2 * widths.query * step.rows + step.batch * step.keys * (widths.query + widths.value))
    return widths.heads * step.scores * (2 * FLOAT + HALF) + FLOAT * step.new * step.keys + copies


def _masked_bytes(widths: _Widths, step: _Pass, keys_values: int, code: _Code) -> int:
    """`sdpa` gets no mask when all see all before them; past a window it gets one, and copies of the keys.

    The mask is kept as flags and again in the type of the scores.

    Source: integrations/sdpa_attention.py `use_gqa_in_sdpa`; masking_utils.py.
    """
    masked = step.new > 1 and 0 < widths.window < step.keys
    copies = keys_values if masked or code.release.repeats_keys else 0
    return copies + (1 + HALF) * step.scores * masked


def _logits_bytes(widths: _Widths, step: _Pass, code: _Code) -> int:
    rows = step.rows if code.release.whole_prompt_logits else step.batch
    return code.logits_bytes * widths.vocab * rows + HALF * widths.hidden * step.rows


# --- what stays: weights, caches, tables --------------------------------------------------------------


def _weights_bytes(spec: ModelSpec, *, in_blocks: bool, by_expert: bool) -> int:
    """Bytes of the tensors as held; `in_blocks` as a GPU's allocator counts them."""
    total = 0
    for tensor in spec.tensors:
        pieces = tensor.experts if by_expert and tensor.experts else 1
        beside = tensor.extra_bytes // pieces  # small tensors of their own
        size = _held_bytes(spec, tensor) // pieces - beside
        total += ((block_bytes(size) if in_blocks else size) + beside) * pieces * tensor.count
    return total


def _held_bytes(spec: ModelSpec, tensor: TensorGroup) -> int:
    """Of one tensor. Number formats of GGUF are unpacked to half precision; shapes that were not read from a
    checkpoint give norms in float32, because GGUF has them so, where checkpoints have them in half.
    """
    unpacked = isinstance(tensor.type, GgmlType) and tensor.type.quantized
    if unpacked or (tensor.type is GgmlType.F32 and spec.format != "safetensors"):
        return HALF * tensor.elements + tensor.extra_bytes
    return tensor.tensor_bytes


def block_bytes(size: int) -> int:
    """What PyTorch's CUDA allocator takes for a tensor of `size` bytes, and counts as allocated.

    Up to 10 MiB tensors share segments and are rounded up to 512 bytes. Larger ones get a segment of whole
    2 MiB; the rest of it is split off for others only when it is more than 1 MiB.

    Source: c10/cuda/CUDACachingAllocator.cpp (kMinBlockSize, kMinLargeAlloc, kRoundLarge, `should_split`).
    """
    if size < 10 * MIB:
        return -(-size // 512) * 512
    segment = -(-size // (2 * MIB)) * 2 * MIB
    return segment if segment - size <= MIB else -(-size // 512) * 512


def _cache_bytes(spec: ModelSpec, step: _Pass, release: Release, value_bytes: int, kept_tokens: int) -> int:
    """Keys and values of all layers after a pass, `kept_tokens` the most a layer has room for.

    A prefill leaves sliding-window layers with views of all its keys; the next step lets go of them.

    Source: cache_utils.py `DynamicSlidingWindowLayer.update`.
    """
    total = 0
    for mixer in spec.mixers:
        tokens = max(step.keys, kept_tokens)
        if mixer.kind is MixerKind.SLIDING and release.crops_sliding and (kept_tokens or step.new == 1):
            tokens = min(tokens, mixer.window)
        total += (
            step.batch
            * len(mixer.layers)
            * (tokens * _values_per_token(spec, mixer, release) * value_bytes + FLOAT * mixer.state_elements)
        )
    return total


def _values_per_token(spec: ModelSpec, mixer: Mixer, release: Release) -> int:
    if mixer.kind is not MixerKind.LATENT:
        return mixer.kv_heads * (mixer.key_dim + mixer.value_dim)
    return mixer.key_dim if release.latent_cache else _head_widths(spec, mixer)[2]


def _grown_bytes(spec: ModelSpec, step: _Pass, release: Release, value_bytes: int) -> int:
    """What a dynamic cache holds twice while a token is appended: the keys of one layer, or all of it."""
    widest = max(len(m.layers) and _values_per_token(spec, m, release) for m in spec.mixers)
    return step.batch * step.keys * widest * value_bytes // 2


def _tables_bytes(spec: ModelSpec, release: Release) -> int:
    """Sines and cosines of all positions, in old releases for every layer; later made for each pass."""
    if not release.rope_tables_by_layer:
        return 0
    turned = max(mixer.key_dim for mixer in spec.mixers)
    return HALF * 2 * turned * spec.context_train * len({i for m in spec.mixers for i in m.layers})


# --- the answer ---------------------------------------------------------------------------------------

# Measured (docs/memory_transformers.md): heap of the interpreter, PyTorch and transformers after a first
# short generation, without a tokenizer; and the pages of their libraries that it touches.
PROCESS_BYTES = 268 * MIB
PROGRAM_BYTES = 102 * MIB

# What glibc's heap keeps of activations that are gone, in hidden states of a prefill: it maps blocks of up to
# 32 MiB one by one only until the first of their size is freed (malloc/malloc.c, M_MMAP_THRESHOLD). Fitted on
# five runs of Qwen2.5-0.5B (15, 16, 22, 25, 31); with MALLOC_MMAP_THRESHOLD_=131072 nothing is kept.
HEAP_HOLES = 22
HEAP_BLOCK_BYTES = 32 * MIB

# c10/cuda and cuBLAS: workspace of one handle, aten/src/ATen/cuda/CublasHandlePool.cpp
WORKSPACE_BYTES = 8 * MIB + 128 * KIB
HOPPER_WORKSPACE_BYTES = 32 * MIB

# Not measured here, and no published row shows it: CUDA's context with PyTorch's kernels.
CONTEXT_BYTES = 450 * MIB
CONTEXT_SPREAD_BYTES = 200 * MIB
FRAGMENTED = 0.05  # of what comes and goes; more when lengths vary from request to request
ERROR = 0.03


def transformers_memory(
    spec: ModelSpec,
    *,
    prompt_tokens: int,
    output_tokens: int,
    batch: int = 1,
    device: Device | None = None,
    attention: AttentionCode = "sdpa",
    kv_dtype_bytes: int = HALF,
    cache: CacheCode = "dynamic",
    version: Release = LATEST,
    prefill_chunk_tokens: int | None = None,
) -> EngineMemory:
    """Peak memory of `generate` for `batch` prompts of equal length, weights and activations in BF16 or F16.

    Args:
        spec: tensors as the checkpoint has them; a model known by shapes alone counts as half precision.
        device: a GPU (its context and allocator are counted), or None or a CPU (the process is).
        prefill_chunk_tokens: `generate`'s `prefill_chunk_size`; None is the whole prompt in one pass.

    Raises:
        BadInput: a length or the batch is not positive.
    """
    return split_memory(
        spec,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        batch=batch,
        devices=(device,),
        attention=attention,
        kv_dtype_bytes=kv_dtype_bytes,
        cache=cache,
        version=version,
        prefill_chunk_tokens=prefill_chunk_tokens,
    )[0]


def split_memory(
    spec: ModelSpec,
    *,
    prompt_tokens: int,
    output_tokens: int,
    devices: Sequence[Device | None],
    batch: int = 1,
    attention: AttentionCode = "sdpa",
    kv_dtype_bytes: int = HALF,
    cache: CacheCode = "dynamic",
    version: Release = LATEST,
    prefill_chunk_tokens: int | None = None,
) -> tuple[EngineMemory, ...]:
    """As `transformers_memory`, with the layers spread evenly over `devices` (`device_map="balanced"`).

    The first holds the embedding, the last the output matrix; logits are handed back to the first.
    """
    if min(prompt_tokens, output_tokens, batch, len(devices), prefill_chunk_tokens or 1) < 1:
        raise BadInput("prompt, output and batch must be at least one token and one sequence")
    total = prompt_tokens + output_tokens
    prefill = _Pass(batch, min(prompt_tokens, prefill_chunk_tokens or prompt_tokens), prompt_tokens)
    workload = _Workload(prefill, _Pass(batch, 1, total), kv_dtype_bytes, total if cache == "static" else 0)
    answers = []
    for index, device in enumerate(devices):
        last, first = index == len(devices) - 1, index == 0
        on_cpu = device is None or device.backend is Backend.CPU
        logits_bytes = HALF + FLOAT if last else FLOAT if first else 0
        part = _share(spec, index, len(devices))
        held = _held(part, workload, _Code(version, attention, on_cpu, logits_bytes))
        answers.append(_on_cpu(held) if device is None or on_cpu else _on_gpu(held, device))
    return tuple(answers)


class _Workload(NamedTuple):
    prefill: _Pass
    decode: _Pass
    kv_dtype_bytes: int
    static_tokens: int


class _Held(NamedTuple):
    """Bytes on one device by what they are for, before the device's own."""

    weights: int
    kv_cache: int
    activations: int
    tables: int
    hidden_state: int
    copied: int
    notes: tuple[str, ...]


def _share(spec: ModelSpec, index: int, count: int) -> ModelSpec:
    """The part of a model that device `index` of `count` holds."""
    if count == 1:
        return spec
    edges = [round(spec.layers * i / count) for i in (index, index + 1)]
    mine = frozenset(range(*edges))
    tensors = [replace(t, layers=tuple(mine & set(t.layers))) for t in spec.tensors if mine & set(t.layers)]
    for tensor in spec.tensors:
        on = 0 if tensor.name == "token_embd.weight" else count - 1
        if not tensor.layers and on == index:
            tensors.append(tensor)
    mixers = [replace(m, layers=tuple(mine & set(m.layers))) for m in spec.mixers if mine & set(m.layers)]
    return replace(spec, tensors=tuple(tensors), mixers=tuple(mixers))


def _held(spec: ModelSpec, workload: _Workload, code: _Code) -> _Held:
    """The peak is in the prefill's last layer, or in the last step of decoding."""
    version, value_bytes, room = code.release, workload.kv_dtype_bytes, workload.static_tokens
    widths = _widths(spec)
    caches = [_cache_bytes(spec, step, version, value_bytes, room) for step in workload[:2]]
    prefill, decode = (_activations_bytes(widths, step, code) for step in workload[:2])
    if version.cache_held_twice:
        decode += caches[1]
    elif not room:
        decode += _grown_bytes(spec, workload.decode, version, value_bytes)
    return _Held(
        weights=_weights_bytes(spec, in_blocks=not code.on_cpu, by_expert=not version.experts_at_once),
        kv_cache=caches[1],
        activations=max(caches[0] + prefill, caches[1] + decode, _load_bytes(spec, code)) - caches[1],
        tables=_tables_bytes(spec, version) + _buffer_bytes(spec),
        hidden_state=HALF * widths.hidden * workload.prefill.rows,
        copied=sum(_held_bytes(spec, t) * t.count for t in _merged(spec, version)),
        notes=_notes(spec),
    )


def _buffer_bytes(spec: ModelSpec) -> int:
    """GPTQ's kernels keep room for the largest matrix unpacked. Source: auto_gptq `exllamav2` `temp_dq_size`."""
    return HALF * _widths(spec).matrix if "GPTQ" in spec.quantization.upper() else 0


def _load_bytes(spec: ModelSpec, code: _Code) -> int:
    """The most that loading holds beside the weights: see `Release.loads_tied_output`; or the gates and the
    inputs of a layer's experts, each stacked, beside the tensor that both are put into.

    Source of the second: core_model_loading.py; a layer's worth was measured (docs/memory_transformers.md).
    """
    tied = sum(t.total_bytes for t in spec.tensors if t.name == "token_embd.weight" and spec.tied_embeddings)
    awq = code.release.loads_tied_output and "AWQ" in spec.quantization.upper()
    merged = [t for t in _merged(spec, code.release) if "ffn_down" not in t.name]
    return max(tied * awq, sum(_held_bytes(spec, t) for t in merged))


def _merged(spec: ModelSpec, release: Release) -> list[TensorGroup]:
    """Experts that lie one by one in a checkpoint and are put together, so that they are copies."""
    return [t for t in spec.tensors if t.experts and release.experts_at_once and not t.type.quantized]


def _notes(spec: ModelSpec) -> tuple[str, ...]:
    notes = []
    if any(isinstance(t.type, GgmlType) and t.type.quantized for t in spec.tensors):
        notes.append("transformers unpacks GGUF's number formats to half precision when it loads them")
    if any(m.kind is MixerKind.RECURRENT for m in spec.mixers):
        notes.append("what recurrent layers hold during a prefill is not counted")
    if spec.beside:
        notes.append("encoders of images or sound are not counted")
    return tuple(notes)


def _on_gpu(held: _Held, device: Device) -> EngineMemory:
    workspace = HOPPER_WORKSPACE_BYTES if device.compute_capability.startswith("9") else WORKSPACE_BYTES
    allocated = held.weights + held.kv_cache + held.activations + held.tables + workspace
    moving = held.kv_cache + held.activations
    total = allocated + CONTEXT_BYTES + int(FRAGMENTED * moving)
    return EngineMemory(
        engine="transformers",
        weights_bytes=held.weights,
        kv_cache_bytes=held.kv_cache,
        activations_bytes=held.activations,
        overhead_bytes=total - held.weights - moving,
        total=Figure(
            total,
            allocated * (1 - ERROR) + CONTEXT_BYTES - CONTEXT_SPREAD_BYTES,
            total * (1 + ERROR) + FRAGMENTED * moving + CONTEXT_SPREAD_BYTES,
            "bytes",
            Basis.RULE_OF_THUMB,
            "allocations exact from shapes; context and fragmentation not measured",
        ),
        notes=held.notes,
        allocated_bytes=allocated,
    )


def _on_cpu(held: _Held) -> EngineMemory:
    holes = HEAP_HOLES * held.hidden_state if held.hidden_state <= HEAP_BLOCK_BYTES else 0
    overhead = PROCESS_BYTES + PROGRAM_BYTES + held.tables + holes
    total = held.weights + held.kv_cache + held.activations + overhead
    return EngineMemory(
        engine="transformers",
        weights_bytes=held.weights,
        kv_cache_bytes=held.kv_cache,
        activations_bytes=held.activations,
        overhead_bytes=overhead,
        total=Figure(
            total,
            total * (1 - ERROR) - holes / 2,
            total * (1 + ERROR) + holes / 2,
            "bytes",
            Basis.RULE_OF_THUMB,
            "docs/memory_transformers.md",
        ),
        notes=(*held.notes, "the tokenizer is not counted"),
        mapped_bytes=held.weights - held.copied + PROGRAM_BYTES,
    )
