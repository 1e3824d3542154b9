"""Memory that llama.cpp takes for a model on the CPU, before it is run.

Three parts are the engine's own buffers, computed here byte for byte: the weights, the KV cache and the
compute buffer. Weights come in two forms. The CPU backend rewrites some matrices in an order its kernels
like ("repacking"): those lie in private memory. The rest stays where it is: in mapped pages of the file, or
in private memory when the file is not mapped.

Mapped pages of a repacked matrix are never read again, so the kernel may drop them: they count as resident
after a load (`mapped_bytes`) and not as needed (`total_bytes`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.kv_cache import CELL_STEP, cells, full_cells, kv_cache_bytes, ubatch_tokens
from weigh.estimate.remembered import remembered
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind, ModelSpec, TensorGroup
from weigh.model.stored_types import NumberFormat

if TYPE_CHECKING:
    from weigh.estimate.graph import Graph

# Measured on x86-64 Linux, Python 3.11, xllamacpp 2026.10.11549: memory of a process that serves models of next
# to no size, as vocabulary, merge rules, layers and context grow. benchmarks/memory.py --resident checks the sum.
PROCESS_BYTES = 16 << 20  # interpreter, library and server, private
PROGRAM_BYTES = 24 << 20  # and their mapped program files
TOKEN_BYTES = 209  # per entry of the vocabulary, in the tokenizer and the sampler
MERGE_BYTES = 180  # per merge rule of the tokenizer; about one per entry
LAYER_BYTES = 74 << 10  # graph and tensor records of a layer
CELL_BYTES = 48  # llama-kv-cells.h: position, shift and sequences of a cell
WORK_BYTES_PER_VALUE = 1.141  # Q8_K, 292 bytes for 256 values: a matrix product's input, quantized

EMBEDDINGS = frozenset(  # looked up by row, never multiplied (llama-arch.cpp, GGML_OP_GET_ROWS)
    {"token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight"}
)
# These load the output matrix first and then the embedding it is tied to, as two tensors (src/models/*.cpp):
# two copies, unless both are the same pages of a mapped file.
TWO_COPIES = frozenset({"gemma3n", "gemma4"})
UNBOUNDED_TOKENS = 1 << 24

_AVX2 = (frozenset({"AVX2"}), 8)
_AVX512 = (frozenset({"AVX512"}), 8)
_DOTPROD, _I8MM = frozenset({"NEON", "DOTPROD"}), frozenset({"NEON", "I8MM"})
_REPACKED: dict[NumberFormat, tuple[tuple[frozenset[str], int], ...]] = {
    GgmlType.Q4_0: (_AVX2, (_I8MM, 4), (_DOTPROD, 4)),
    GgmlType.Q4_K: (_AVX2, (_I8MM, 8), (_DOTPROD, 8)),
    GgmlType.Q2_K: (_AVX512,),
    GgmlType.Q5_K: ((_I8MM, 8), (_DOTPROD, 8)),
    GgmlType.Q6_K: ((_I8MM, 8), (_DOTPROD, 8)),
    GgmlType.Q8_0: ((_I8MM, 4), (_DOTPROD, 4)),
    GgmlType.IQ4_NL: (_AVX2, (_DOTPROD, 4)),
    GgmlType.MXFP4: (_AVX2, (_DOTPROD, 4)),
}
_ALIASES = {"MATMUL_INT8": "I8MM", "ASIMD": "NEON", "AVX512F": "AVX512"}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes one process takes for a model under given settings.

    Attributes:
        weights_bytes: all tensors, and the second copy of a tied embedding whose output form is repacked.
        repacked_bytes: of these, what the engine rewrites into private memory.
        kv_cache_bytes: keys, values, latents and states of all sequences, allocated from the start.
        compute_bytes: the engine's scratch buffer.
        output_bytes: logits handed out, one row per sequence.
        runtime_bytes: the rest of the process: interpreter, library, vocabulary, records.
        private_bytes: memory that cannot be dropped, at the peak of a run.
        mapped_bytes: file pages resident at that time: the model's when it is mapped, the program's always.
        load_peak_bytes: most resident memory while loading and running.
    """

    weights_bytes: int
    repacked_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    output_bytes: int
    runtime_bytes: int
    private_bytes: int
    mapped_bytes: int
    load_peak_bytes: int

    @property
    def total_bytes(self) -> int:
        """What must be free, swapping and re-reading aside."""
        return (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.compute_bytes
            + self.output_bytes
            + self.runtime_bytes
        )

    @property
    def resident_bytes(self) -> int:
        """Peak resident memory of a run with room to spare: no page has been dropped."""
        return self.private_bytes + self.mapped_bytes


class Weights(NamedTuple):
    """The tensors of a model as one build of the engine holds them.

    Attributes:
        tensor_bytes: of the file.
        repacked_bytes: rewritten into private memory, the copy of a tied embedding included.
        copied_bytes: second copy of a tied embedding, repacked.
        unmapped_copy_bytes: second copy of a tied embedding that a mapped file does without.
        largest_repacked_bytes: the largest tensor that passes through a buffer on its way.
    """

    tensor_bytes: int
    repacked_bytes: int
    copied_bytes: int
    unmapped_copy_bytes: int
    largest_repacked_bytes: int


def weights(spec: ModelSpec, cpu_features: Collection[str]) -> Weights:
    """Sum the tensors of `spec`, and those that an engine built for `cpu_features` repacks.

    A matrix is repacked when its format has a kernel for these instructions, its rows divide evenly, and
    it is multiplied as a plain matrix (2 dimensions) or as stacked experts (3). A tied embedding is loaded
    twice when its role as output matrix is repacked, because rows cannot be looked up in that form.

    Source: ggml-cpu/repack.cpp `ggml_repack_get_optimal_repack_type` and `supports_op`;
    llama-model-loader.cpp `create_tensor`. Ignored: AMX tiles (native builds on such CPUs), SVE and RISC-V.
    """
    features = _row_multiples(frozenset(cpu_features))
    total = repacked = copied = unmapped = largest = 0
    for tensor in spec.tensors:
        size = tensor.total_bytes
        total += size
        if tensor.name in EMBEDDINGS or not _is_repacked(tensor, features):
            continue
        repacked += size
        largest = max(largest, tensor.tensor_bytes)
    if spec.tied_embeddings:
        embedding = next((t for t in spec.tensors if t.name == "token_embd.weight"), None)
        if embedding is not None and _is_repacked(embedding, features):
            copied = embedding.total_bytes
        elif embedding is not None and spec.architecture in TWO_COPIES:
            unmapped = embedding.total_bytes
    return Weights(total, repacked + copied, copied, unmapped, max(largest, copied))


@lru_cache(maxsize=64)
def _row_multiples(cpu_features: frozenset[str]) -> dict[NumberFormat, int]:
    """Number formats these instructions have repacked kernels for, and what their rows must divide by."""
    features = {_ALIASES.get(f, f) for f in cpu_features}
    usable = {t: [rows for needed, rows in rules if needed <= features] for t, rules in _REPACKED.items()}
    return {t: min(rows) for t, rows in usable.items() if rows}


def _is_repacked(tensor: TensorGroup, row_multiples: dict[NumberFormat, int]) -> bool:
    multiple = row_multiples.get(tensor.type)
    shape = tensor.shape
    return multiple is not None and len(shape) == (3 if tensor.experts else 2) and shape[1] % multiple == 0


def memory(spec: ModelSpec, settings: Settings, cpu_features: Collection[str]) -> MemoryEstimate:
    """Memory to hold `spec` (tensors typed) and serve `settings.parallel` sequences.

    Args:
        cpu_features: instruction sets of the engine's build, ``AVX2`` or ``NEON``, ``DOTPROD``, ``I8MM``.
    """
    return _prepared(spec, frozenset(cpu_features)).estimate(settings)


def max_context_tokens(
    spec: ModelSpec, settings: Settings, cpu_features: Collection[str], available_bytes: int
) -> int:
    """Largest context per sequence whose `memory` fits in `available_bytes`; 0 when none does.

    Memory grows in steps of 256 tokens, so the answer is a whole number of steps, or what the model was
    trained for when that comes first. A context shorter than one step is not considered.
    """
    model = _prepared(spec, frozenset(cpu_features))
    most = spec.context_train or UNBOUNDED_TOKENS

    def over(steps: int) -> int:
        return model.total_bytes(settings, min(steps * CELL_STEP, most)) - available_bytes

    low, high = 1, -(-most // CELL_STEP)
    low_over, high_over = over(low), over(high)
    if low_over > 0:
        return 0
    if high_over <= 0:
        return most
    for step in count():
        if high - low <= 1:
            break
        # nearly linear, so go where a line meets zero; halve now and then for the bends
        on_line = low + (high - low) * -low_over // (high_over - low_over)
        middle = (low + high) // 2 if step % 3 == 2 else min(max(on_line, low + 1), high - 1)
        if (middle_over := over(middle)) > 0:
            high, high_over = middle, middle_over
        else:
            low, low_over = middle, middle_over
    return low * CELL_STEP


def runtime_bytes(spec: ModelSpec, settings: Settings, cpu_features: Collection[str]) -> int:
    """The process around the engine's buffers, wherever those lie; see `_Prepared.runtime_bytes`."""
    return _prepared(spec, frozenset(cpu_features)).runtime_bytes(settings)


class _Prepared:
    """What of a model does not depend on the settings, so that each estimate is a handful of sums."""

    def __init__(self, spec: ModelSpec, features: frozenset[str]) -> None:
        self.spec = spec
        self.weights = weights(spec, features)
        sliding = [m for m in spec.mixers if m.kind is MixerKind.SLIDING]
        self.window = sliding[0].window if sliding else 0

    @cached_property
    def graph(self) -> Graph:
        from weigh.estimate.graph import graph

        return graph(self.spec)

    def estimate(self, settings: Settings) -> MemoryEstimate:
        tensors, repacked, _, _, largest = self.weights
        needed = self.weights_bytes(settings)
        kv = self.kv_cache_bytes(settings)
        compute = self.compute_bytes(settings)
        output = 4 * self.spec.vocab * settings.parallel
        runtime = self.runtime_bytes(settings)
        # two inputs for embeddings are laid out but never written when tokens are given
        untouched = 2 * 4 * self.spec.hidden * ubatch_tokens(settings)
        held = repacked if settings.mmap else needed
        private = held + kv + compute + output + runtime - PROGRAM_BYTES - untouched
        mapped = PROGRAM_BYTES + (tensors if settings.mmap else 0)
        return MemoryEstimate(
            weights_bytes=needed,
            repacked_bytes=repacked,
            kv_cache_bytes=kv,
            compute_bytes=compute,
            output_bytes=output,
            runtime_bytes=runtime,
            private_bytes=private,
            mapped_bytes=mapped,
            load_peak_bytes=max(private + mapped, held + mapped + largest + PROCESS_BYTES),
        )

    def total_bytes(self, settings: Settings, context_tokens: int) -> int:
        """`MemoryEstimate.total_bytes` under another context."""
        other = with_context(settings, context_tokens)
        return (
            self.weights_bytes(other)
            + self.kv_cache_bytes(other)
            + self.compute_bytes(other)
            + 4 * self.spec.vocab * settings.parallel
            + self.runtime_bytes(other)
        )

    def weights_bytes(self, settings: Settings) -> int:
        copies = self.weights.copied_bytes + (0 if settings.mmap else self.weights.unmapped_copy_bytes)
        return self.weights.tensor_bytes + copies

    def kv_cache_bytes(self, settings: Settings) -> int:
        return kv_cache_bytes(self.spec.mixers, settings)

    def compute_bytes(self, settings: Settings) -> int:
        from weigh.estimate.compute_buffers import compute_bytes

        return compute_bytes(self.graph, settings, cells(settings, self.window))

    def runtime_bytes(self, settings: Settings) -> int:
        """The process around the buffers: a fixed part, the vocabulary, records, the threads' scratch.

        Taken for granted: one merge rule per entry of the vocabulary. Tokenizers without merges need
        45 % of that share, Llama 3's 280,000 need 45 % more of it: 24 MiB either way for 128,000 entries.
        """
        spec = self.spec
        return (
            PROCESS_BYTES
            + PROGRAM_BYTES
            + (TOKEN_BYTES + MERGE_BYTES) * spec.vocab
            + LAYER_BYTES * spec.layers
            + CELL_BYTES * full_cells(settings) * settings.parallel
            + int(WORK_BYTES_PER_VALUE * self.graph.widest_input * ubatch_tokens(settings))
        )


def with_context(settings: Settings, context_tokens: int) -> Settings:
    """`dataclasses.replace`, which takes three times as long."""
    return Settings(
        context_tokens=context_tokens,
        parallel=settings.parallel,
        kv_type_k=settings.kv_type_k,
        kv_type_v=settings.kv_type_v,
        batch_tokens=settings.batch_tokens,
        ubatch_tokens=settings.ubatch_tokens,
        threads=settings.threads,
        mmap=settings.mmap,
    )


@remembered
def _prepared(spec: ModelSpec, features: frozenset[str]) -> _Prepared:
    return _Prepared(spec, features)
