"""Weights as vLLM holds them: which part of each matrix one rank has, and in which number format.

Under tensor parallelism matrices are cut by heads, by feed-forward width, by experts' width or by rows of the
vocabulary; norms, routers and the small matrices of MLA are whole on every rank. Under pipeline parallelism a
rank has a run of layers, the first also the embedding, the last the final norm and the output matrix.

Source: vllm 0.32.0, model_executor/layers/{linear,vocab_parallel_embedding}.py, models/*.py (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass

from weigh.errors import BadInput
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind, ModelSpec, TensorGroup

VOCAB_PADDING = 64  # rows of the embedding are made a multiple of it: DEFAULT_VOCAB_PADDING_SIZE
EXACT_BYTES = 4
# Kept in float32 whatever the model's format: decay rates of states, the bias that balances experts.
_EXACT = frozenset({"ssm_a", "exp_probs_b", "attn_sinks"})
_BY_VOCABULARY = frozenset({"token_embd.weight", "output.weight", "per_layer_token_embd.weight"})
_LAST_STAGE = frozenset({"output.weight", "output.bias", "output_norm.weight", "output_norm.bias"})
# Computed from the config, or llama.cpp's own; vLLM's `rotary_bytes` counts them.
_NOT_WEIGHTS = frozenset({"rope_freqs", "rope_factors_long", "rope_factors_short"})
_BY_KV_HEAD = frozenset({"attn_k", "attn_v"})
_SPLIT = frozenset(
    {"attn_q", "attn_q_b", "attn_k_b", "attn_v_b", "attn_output", "attn_gate"}
    | {"ffn_gate", "ffn_up", "ffn_down", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"}
    | {"ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps"}
    | {"ssm_in", "ssm_conv1d", "ssm_x", "ssm_dt", "ssm_a", "ssm_d", "ssm_out", "ssm_ba", "ssm_beta"}
    | {"ssm_alpha", "attn_sinks", "shortconv.conv", "shortconv.in_proj", "shortconv.out_proj"}
)
_ENCODERS = ("v.", "a.", "mm.")
_BIAS_IS_WHOLE = frozenset({"attn_output", "ffn_down", "ffn_down_exps", "ssm_out"})  # added after the sum


@dataclass(frozen=True, slots=True)
class Ranks:
    """How a model is spread; each rank of one stage holds the same."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    def stages(self, layers: int) -> tuple[range, ...]:
        """The layers of each pipeline stage; what is over goes to the last stages but one, from behind.

        Source: vllm/distributed/utils.py `get_pp_indices`.
        """
        sizes = [layers // self.pipeline_parallel] * self.pipeline_parallel
        for i in range(2, layers % self.pipeline_parallel + 2):
            sizes[-i] += 1
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


def check_ranks(spec: ModelSpec, ranks: Ranks) -> None:
    """Refuse what vLLM refuses.

    Raises:
        BadInput: heads or vocabulary cannot be cut so, or there are fewer layers than stages.
    """
    tp, pp = ranks.tensor_parallel, ranks.pipeline_parallel
    if tp < 1 or pp < 1:
        raise BadInput("tensor and pipeline parallelism count from 1")
    for mixer in spec.mixers:
        if mixer.query_heads % tp:
            raise BadInput(f"{spec.name}: {mixer.query_heads} attention heads cannot be shared by {tp} GPUs")
        if mixer.kind is not MixerKind.LATENT and mixer.kv_heads % min(tp, mixer.kv_heads or 1):
            raise BadInput(f"{spec.name}: {mixer.kv_heads} key-value heads cannot be shared by {tp} GPUs")
    if _padded_vocab(spec.vocab) % tp:
        raise BadInput(f"{spec.name}: a vocabulary of {spec.vocab} cannot be shared by {tp} GPUs")
    if spec.layers < pp:
        raise BadInput(f"{spec.name}: {spec.layers} layers cannot be shared by {pp} stages")


def stage_weights_bytes(spec: ModelSpec, ranks: Ranks, *, element_bytes: int = 2) -> tuple[int, ...]:
    """Bytes of weights on a rank of each pipeline stage.

    Args:
        element_bytes: of the model's format (`--dtype`), for all that is not quantized; norms, biases and
            routers that a GGUF file keeps in F32 are held in it too.
    """
    stages = ranks.stages(spec.layers)
    held = [rotary_bytes(spec, element_bytes)] * len(stages)
    for tensor in spec.tensors:
        size = tensor_rank_bytes(spec, tensor, ranks.tensor_parallel, element_bytes)
        for i, stage in enumerate(stages):
            held[i] += size * _copies(spec, tensor, stage, first=i == 0, last=i == len(stages) - 1)
    held[0] += encoder_bytes(spec, element_bytes)
    return tuple(held)


def encoder_bytes(spec: ModelSpec, element_bytes: int) -> int:
    """What turns images and sound into tokens: loaded unless told otherwise, taken as whole on every rank."""
    return sum(
        t.total_bytes if t.type.quantized else t.total_elements * element_bytes
        for t in spec.beside
        if t.name.startswith(_ENCODERS)
    )


def _copies(spec: ModelSpec, tensor: TensorGroup, stage: range, *, first: bool, last: bool) -> int:
    """How many tensors of this role the stage holds."""
    if tensor.layers:
        return sum(layer in stage for layer in tensor.layers)
    if tensor.name in _LAST_STAGE:
        return int(last)
    tied = tensor.name == "token_embd.weight" and spec.tied_embeddings
    return int(first or (last and tied))


def tensor_rank_bytes(spec: ModelSpec, tensor: TensorGroup, tensor_parallel: int, element_bytes: int) -> int:
    """Bytes one rank holds of one tensor of this role."""
    role, _, part = tensor.name.removeprefix("blk.{}.").rpartition(".")
    role = role or part  # `ssm_a` has no ending
    if role in _NOT_WEIGHTS:
        return 0
    elements, size = tensor.elements, tensor.tensor_bytes
    if tensor.name in _BY_VOCABULARY:
        rows = tensor.shape[1]
        elements = elements // rows * _padded_vocab(rows)
        size = size * _padded_vocab(rows) // rows
    if not tensor.type.quantized:
        size = elements * (EXACT_BYTES if role in _EXACT else element_bytes)
    size = size // _shares(spec, tensor, role, part, tensor_parallel)
    if tensor.experts and (tensor.type is GgmlType.MXFP4 or spec.quantization == "MXFP4"):
        size = _padded_expert_bytes(tensor, size, tensor_parallel)
    return size + _dequantized_latent_bytes(tensor, role, tensor_parallel, element_bytes)


def _padded_expert_bytes(tensor: TensorGroup, size: int, tensor_parallel: int) -> int:
    """MXFP4 experts as the kernels (Marlin, TRT-LLM) want them: width in 128s, the model's width in 256s.

    Source: fused_moe/oracle/mxfp4.py `mxfp4_round_up_hidden_size_and_intermediate_size`.
    """
    down = "ffn_down" in tensor.name
    width, hidden = tensor.shape[:2] if down else (tensor.shape[1], tensor.shape[0])
    width //= tensor_parallel
    return size * _rounded(width, 128) * _rounded(hidden, 256) // (width * hidden)


def _shares(spec: ModelSpec, tensor: TensorGroup, role: str, part: str, tensor_parallel: int) -> int:
    """Into how many pieces of equal size the tensor is cut."""
    if tensor.name in _BY_VOCABULARY:
        return tensor_parallel
    if role in _BY_KV_HEAD:
        return min(tensor_parallel, _kv_heads(spec, tensor))  # fewer heads than ranks are copied
    if role == "attn_qkv":
        return tensor_parallel
    if role in _SPLIT and not (part == "bias" and role in _BIAS_IS_WHOLE):
        return tensor_parallel
    return 1


def _kv_heads(spec: ModelSpec, tensor: TensorGroup) -> int:
    layer = tensor.layers[0] if tensor.layers else 0
    return next((m.kv_heads for m in spec.mixers if layer in m.layers and m.kv_heads), 1)


def _dequantized_latent_bytes(
    tensor: TensorGroup, role: str, tensor_parallel: int, element_bytes: int
) -> int:
    """MLA's two expansions are multiplied in the model's format: quantized ones get a copy in it."""
    if role not in ("attn_k_b", "attn_v_b") or not tensor.type.quantized:
        return 0
    return tensor.elements * element_bytes // tensor_parallel


def rotary_bytes(spec: ModelSpec, element_bytes: int) -> int:
    """The table of sines and cosines for every position, once per kind of layer that rotates differently.

    Source: model_executor/layers/rotary_embedding/base.py: `max_position_embeddings` x `rotary_dim`.
    """
    dim = spec.hyper.get("rope.dimension_count", 0)
    local = spec.hyper.get("rope.freq_base_swa")
    tables = 2 if local and local != spec.hyper.get("rope.freq_base") else 1
    return tables * spec.context_train * int(dim) * element_bytes if isinstance(dim, int | float) else 0


def _padded_vocab(rows: int) -> int:
    return _rounded(rows, VOCAB_PADDING)


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step
