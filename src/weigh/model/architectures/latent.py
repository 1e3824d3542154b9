"""Architectures with multi-head latent attention (MLA): one compressed latent is cached instead of keys and values.

llama.cpp folds the latent's two expansions into the query and the output, so that the cache sees one head.
"""

from __future__ import annotations

from weigh.model.architectures.draft import Draft
from weigh.model.architectures.fields import Fields
from weigh.model.architectures.moe import SIGMOID, leading_dense_then_experts
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
    d.exact("indexer.k_norm", dim)
    d.bias("indexer.k_norm", dim)
    d.exact("indexer.proj", d.hidden, heads)
    d.matrix("indexer.attn_k", d.hidden, dim)
    d.matrix("indexer.attn_q_b", c.count("q_lora_rank"), heads * dim)
    leading_dense_then_experts(d)
    return d


def _latent(architecture: str, c: Fields) -> Draft:
    d = Draft(architecture, c)
    latent, query_latent = c.count("kv_lora_rank", default=512), c.count("q_lora_rank", default=0, least=0)
    rope, plain, value = c.count("qk_rope_head_dim"), c.count("qk_nope_head_dim"), c.count("v_head_dim")
    d.hyper |= {
        "attention.head_count_kv": 1,
        "attention.key_length": latent + rope,
        "attention.value_length": latent,
        "attention.key_length_mla": plain + rope,
        "attention.value_length_mla": value,
        "attention.kv_lora_rank": latent,
        "rope.dimension_count": rope,
    }
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    if query_latent:
        d.hyper["attention.q_lora_rank"] = query_latent
        d.matrix("attn_q_a", d.hidden, query_latent)
        d.exact("attn_q_a_norm", query_latent)
        d.matrix("attn_q_b", query_latent, d.heads * (plain + rope))
    else:
        d.matrix("attn_q", d.hidden, d.heads * (plain + rope))
    d.matrix("attn_kv_a_mqa", d.hidden, latent + rope)
    d.exact("attn_kv_a_norm", latent)
    d.add("blk.{}.attn_k_b.weight", (plain, latent, d.heads), GgmlType.F16, d.layers)
    d.add("blk.{}.attn_v_b.weight", (latent, value, d.heads), GgmlType.F16, d.layers)
    d.matrix("attn_output", d.heads * value, d.hidden)
    return d
