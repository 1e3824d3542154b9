"""Memory under an engine other than llama.cpp: the value its formulas (transformers, vLLM) return."""

from __future__ import annotations

from dataclasses import dataclass

from weigh.figure import Figure


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes on ONE device of those the model is spread over (all alike under tensor parallelism).

    Attributes:
        engine: `transformers` or `vllm`.
        weights_bytes: as the engine holds them after loading, exact from the shapes.
        kv_cache_bytes: transformers: at the end of the workload; vLLM: what the requests asked for need.
        activations_bytes: peak of what a forward pass allocates for a while.
        overhead_bytes: allocator slack, CUDA context, graphs, library workspaces.
        total: peak, with its interval.
        reserved_bytes: vLLM: what it takes whatever is asked (its fraction of the memory); 0 elsewhere.
        kv_capacity_tokens: vLLM: tokens its KV cache has room for; 0 elsewhere.
        max_concurrency: vLLM: requests of the full context at once; 0 elsewhere.
        kv_capacity: vLLM: `kv_capacity_tokens` with its interval; None elsewhere.
        max_context_tokens: vLLM: the longest context it starts with, up to the one asked for; 0 elsewhere.
        arguments: what to start the engine with, so that this holds.
        notes: in plain words, what was taken for granted.
        allocated_bytes: transformers on a GPU: of the total, what PyTorch counts as its own
            (`torch.cuda.max_memory_allocated`); nvidia-smi shows the total. 0 elsewhere.
        mapped_bytes: transformers on a CPU: of the total, file pages that the system can drop and read
            again; 0 elsewhere.
    """

    engine: str
    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int
    overhead_bytes: int
    total: Figure
    reserved_bytes: int = 0
    kv_capacity_tokens: int = 0
    max_concurrency: float = 0.0
    kv_capacity: Figure | None = None
    max_context_tokens: int = 0
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    allocated_bytes: int = 0
    mapped_bytes: int = 0
