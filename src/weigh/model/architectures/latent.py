"""Architectures with multi-head latent attention (MLA): one compressed latent is cached instead of keys and values.

llama.cpp folds the latent's two expansions into the query and the output, so that the cache sees one head.
"""

from __future__ import annotations

from weigh.model.architectures.draft import Draft, Layers
from weigh.model.architectures.fields import Fields
from weigh.model.architectures.moe import SIGMOID, leading_dense_then_experts, predict_with_experts
from weigh.model.ggml_types import GgmlType


def deepseek2(c: Fields) -> Draft:
    """DeepSeek V2: softmax routing, no bias."""
    d = _latent("deepseek2", c)
    leading_dense_then_experts(d, balanced=False, shared_default=2)
    return d


def deepseek3(c: Fields) -> Draft:
    """DeepSeek V3 and R1, Kimi K2, GLM 4.7 Flash: sigmoid routing with a balancing bias."""
    d = _latent("deepseek2", c)
    d.hyper["expert_gating_func"] = SIGMOID
    leading_dense_then_experts(d)
    predict_with_experts(d, latent_attention, own=c.text("model_type") == "deepseek_v3")
    return d


def deepseek32(c: Fields) -> Draft:
    return _with_indexer("deepseek32", c)


def glm_dsa(c: Fields) -> Draft:
    return _with_indexer("glm-dsa", c)


def _with_indexer(architecture: str, c: Fields) -> Draft:
    """Latent attention over the tokens that a small indexer picks (DeepSeek sparse attention)."""
    d = _latent(architecture, c)
    d.hyper["expert_gating_func"] = SIGMOID
    heads, dim = c.count("index_n_heads"), c.count("index_head_dim")
    d.hyper["attention.indexer.head_count"] = heads
    d.hyper["attention.indexer.key_length"] = dim
    d.hyper["attention.indexer.top_k"] = c.count("index_topk")
    _indexer(d)
    leading_dense_then_experts(d)

    def layer(side: Draft) -> None:
        latent_attention(side)
        _indexer(side)

    predict_with_experts(d, layer, own=c.text("model_type") == "deepseek_v32")
    return d


def _indexer(d: Draft) -> None:
    heads, dim = d.c.count("index_n_heads"), d.c.count("index_head_dim")
    d.exact("indexer.k_norm", dim)
    d.bias("indexer.k_norm", dim)
    d.exact("indexer.proj", d.hidden, heads)
    d.matrix("indexer.attn_k", d.hidden, dim)
    d.matrix("indexer.attn_q_b", d.c.count("q_lora_rank"), heads * dim)


def _latent(architecture: str, c: Fields) -> Draft:
    d = Draft(architecture, c)
    latent_hyper(d)
    d.embeddings()
    latent_attention(d)
    return d


def _widths(c: Fields) -> tuple[int, int, int, int, int]:
    """Latents of key and value and of the query (0: made directly); of a head, rotary, plain and value widths."""
    return (
        c.count("kv_lora_rank", default=512),
        c.count("q_lora_rank", default=0, least=0),
        c.count("qk_rope_head_dim"),
        c.count("qk_nope_head_dim"),
        c.count("v_head_dim"),
    )


def latent_hyper(d: Draft) -> None:
    latent, query_latent, rope, plain, value = _widths(d.c)
    d.hyper |= {
        "attention.head_count_kv": 1,
        "attention.key_length": latent + rope,
        "attention.value_length": latent,
        "attention.key_length_mla": plain + rope,
        "attention.value_length_mla": value,
        "attention.kv_lora_rank": latent,
        "rope.dimension_count": rope,
    }
    if query_latent:
        d.hyper["attention.q_lora_rank"] = query_latent


def latent_attention(d: Draft, layers: Layers | None = None) -> None:
    """Norms and projections; the latent's expansions apart for key and value, as the engine wants them."""
    layers = d.layers if layers is None else layers
    latent, query_latent, rope, plain, value = _widths(d.c)
    d.norms("attn_norm", "ffn_norm", layers=layers)
    if query_latent:
        d.matrix("attn_q_a", d.hidden, query_latent, layers)
        d.exact("attn_q_a_norm", query_latent, layers=layers)
        d.matrix("attn_q_b", query_latent, d.heads * (plain + rope), layers)
    else:
        d.matrix("attn_q", d.hidden, d.heads * (plain + rope), layers)
    d.matrix("attn_kv_a_mqa", d.hidden, latent + rope, layers)
    d.exact("attn_kv_a_norm", latent, layers=layers)
    d.add("blk.{}.attn_k_b.weight", (plain, latent, d.heads), GgmlType.F16, layers)
    d.add("blk.{}.attn_v_b.weight", (latent, value, d.heads), GgmlType.F16, layers)
    d.matrix("attn_output", d.heads * value, d.hidden, layers)
