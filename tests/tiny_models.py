"""Models small enough to run in a second, with the shapes of real families."""

from __future__ import annotations

from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind, ModelSpec, TensorGroup


def tiny_llama(
    *,
    architecture: str = "llama",
    layers: int = 2,
    hidden: int = 256,
    feed_forward: int = 512,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    vocab: int = 1024,
    context: int = 4096,
    experts: int = 0,
    experts_used: int = 0,
    matrix_type: GgmlType = GgmlType.Q4_K,
    embedding_type: GgmlType = GgmlType.Q6_K,
    name: str = "tiny",
) -> ModelSpec:
    """A grouped-query transformer; with `experts`, every feed-forward is a mixture of them."""
    every = tuple(range(layers))

    def matrix(role: str, *shape: int) -> TensorGroup:
        return TensorGroup(f"blk.{{}}.{role}.weight", shape, matrix_type, every)

    def norm(role: str, size: int) -> TensorGroup:
        return TensorGroup(f"blk.{{}}.{role}.weight", (size,), GgmlType.F32, every)

    tensors = [
        TensorGroup("token_embd.weight", (hidden, vocab), embedding_type),
        TensorGroup("output_norm.weight", (hidden,), GgmlType.F32),
        norm("attn_norm", hidden),
        norm("ffn_norm", hidden),
        matrix("attn_q", hidden, heads * head_dim),
        matrix("attn_k", hidden, kv_heads * head_dim),
        matrix("attn_v", hidden, kv_heads * head_dim),
        matrix("attn_output", heads * head_dim, hidden),
    ]
    if architecture == "qwen3moe":
        tensors += [norm("attn_q_norm", head_dim), norm("attn_k_norm", head_dim)]
    if experts:
        router = TensorGroup("blk.{}.ffn_gate_inp.weight", (hidden, experts), GgmlType.F32, every)
        tensors += [
            router,
            matrix("ffn_gate_exps", hidden, feed_forward, experts),
            matrix("ffn_up_exps", hidden, feed_forward, experts),
            matrix("ffn_down_exps", feed_forward, hidden, experts),
        ]
    else:
        tensors += [
            matrix("ffn_gate", hidden, feed_forward),
            matrix("ffn_up", hidden, feed_forward),
            matrix("ffn_down", feed_forward, hidden),
        ]
    hyper = {
        "context_length": context,
        "embedding_length": hidden,
        "block_count": layers,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 500000.0,
        "rope.dimension_count": head_dim,
        "vocab_size": vocab,
    }
    if experts:
        hyper |= {
            "expert_count": experts,
            "expert_used_count": experts_used,
            "expert_feed_forward_length": feed_forward,
        }
    return ModelSpec(
        name=name,
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        vocab=vocab,
        feed_forward=feed_forward,
        context_train=context,
        mixers=(Mixer(MixerKind.FULL, every, heads, kv_heads, head_dim, head_dim),),
        tensors=tuple(tensors),
        quantization=matrix_type.name,
        experts=experts,
        experts_used=experts_used,
        hyper=hyper,
    )
