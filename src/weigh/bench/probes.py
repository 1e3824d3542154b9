"""The small models a machine is calibrated with: each makes one kind of work dominate.

All are true llama or qwen3moe graphs, so the engine runs the kernels it would run for real models.
"""

from __future__ import annotations

from dataclasses import replace

from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind, ModelSpec, TensorGroup

SMALL_VOCAB = 2048
LARGE_VOCAB = 131_072


def dense(
    name: str,
    kind: GgmlType,
    *,
    layers: int,
    hidden: int = 2560,
    feed_forward: int = 8192,
    heads: int = 20,
    kv_heads: int = 4,
    head_dim: int = 128,
    vocab: int = SMALL_VOCAB,
) -> ModelSpec:
    """A llama of one number format; the default widths lie between those of models of 1B and 8B."""
    matrices = {
        **_attention_matrices(hidden, heads, kv_heads, head_dim),
        "ffn_gate": (hidden, feed_forward),
        "ffn_up": (hidden, feed_forward),
        "ffn_down": (feed_forward, hidden),
    }
    return _spec(
        name=name,
        architecture="llama",
        kind=kind,
        matrices=matrices,
        float32={},
        layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
    )


def mixture(
    name: str,
    kind: GgmlType,
    *,
    layers: int,
    experts: int,
    experts_used: int = 8,
    hidden: int = 2048,
    expert_feed_forward: int = 768,
    heads: int = 32,
    kv_heads: int = 4,
    head_dim: int = 128,
) -> ModelSpec:
    """A qwen3moe; the default widths are Qwen3-30B-A3B's."""
    matrices = {
        **_attention_matrices(hidden, heads, kv_heads, head_dim),
        "ffn_gate_exps": (hidden, expert_feed_forward, experts),
        "ffn_up_exps": (hidden, expert_feed_forward, experts),
        "ffn_down_exps": (expert_feed_forward, hidden, experts),
    }
    float32 = {"ffn_gate_inp": (hidden, experts), "attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
    spec = _spec(
        name=name,
        architecture="qwen3moe",
        kind=kind,
        matrices=matrices,
        float32=float32,
        layers=layers,
        hidden=hidden,
        feed_forward=expert_feed_forward,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=SMALL_VOCAB,
    )
    hyper = {
        **spec.hyper,
        "expert_count": experts,
        "expert_used_count": experts_used,
        "expert_feed_forward_length": expert_feed_forward,
    }
    return replace(spec, hyper=hyper, experts=experts, experts_used=experts_used)


def _attention_matrices(hidden: int, heads: int, kv_heads: int, head_dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn_q": (hidden, heads * head_dim),
        "attn_k": (hidden, kv_heads * head_dim),
        "attn_v": (hidden, kv_heads * head_dim),
        "attn_output": (heads * head_dim, hidden),
    }


def _spec(
    *,
    name: str,
    architecture: str,
    kind: GgmlType,
    matrices: dict[str, tuple[int, ...]],
    float32: dict[str, tuple[int, ...]],
    layers: int,
    hidden: int,
    feed_forward: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
) -> ModelSpec:
    every = tuple(range(layers))
    norms = {"attn_norm": (hidden,), "ffn_norm": (hidden,), **float32}
    tensors = [
        TensorGroup("token_embd.weight", (hidden, vocab), kind),
        TensorGroup("output_norm.weight", (hidden,), GgmlType.F32),
        *(TensorGroup(f"blk.{{}}.{role}.weight", shape, kind, every) for role, shape in matrices.items()),
        *(
            TensorGroup(f"blk.{{}}.{role}.weight", shape, GgmlType.F32, every)
            for role, shape in norms.items()
        ),
    ]
    hyper = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": hidden,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 500_000.0,
        "rope.dimension_count": head_dim,
        "vocab_size": vocab,
    }
    return ModelSpec(
        name=name,
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        vocab=vocab,
        feed_forward=feed_forward,
        context_train=8192,
        mixers=(Mixer(MixerKind.FULL, every, heads, kv_heads, head_dim, head_dim),),
        tensors=tuple(tensors),
        quantization=kind.name,
        hyper=hyper,
    )
