"""Architectures of full or sliding attention and a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable

from weigh.errors import BadInput
from weigh.model.architectures.dense import (
    add_positions_of_images,
    granite_multipliers,
    llama_rope_factors,
    long_rope_factors,
    partial_rotary,
)
from weigh.model.architectures.draft import Draft, Layers, span
from weigh.model.architectures.fields import Fields
from weigh.model.ggml_types import GgmlType

SOFTMAX, SIGMOID, SQRT_SOFTPLUS = 1, 2, 4  # expert_gating_func (llama.cpp `llama_expert_gating_func_type`)


def mixtral(c: Fields) -> Draft:
    d = Draft("llama", c)
    d.routing(d.width)
    del d.hyper["expert_feed_forward_length"]  # Mixtral's files hold only feed_forward_length
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.router()
    d.routed(d.width)
    return d


def qwen2moe(c: Fields) -> Draft:
    """Qwen 1.5 and 2 with experts: one shared expert, gated."""
    d = Draft("qwen2moe", c)
    width, shared = c.count("moe_intermediate_size"), c.count("shared_expert_intermediate_size")
    d.routing(width, shared_width=shared)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.attention_biases()
    routed_and_gated_shared(d, width, shared)
    return d


def routed_and_gated_shared(d: Draft, width: int, shared: int) -> None:
    """Routed experts and one that every token visits, behind a gate of one number per token."""
    d.router()
    d.routed(width)
    d.exact("ffn_gate_inp_shexp", d.hidden)
    d.gated_ffn(width=shared, suffix="_shexp")


def qwen3moe(c: Fields) -> Draft:
    """Qwen 3 with routed experts."""
    d = Draft("qwen3moe", c)
    width = c.count("moe_intermediate_size")
    d.routing(width)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.head_norms()
    d.router()
    d.routed(width)
    return d


def qwen3vlmoe(c: Fields) -> Draft:
    """Qwen 3-VL with routed experts."""
    d = qwen3moe(c)
    d.architecture = "qwen3vlmoe"
    add_positions_of_images(d)
    return d


def olmoe(c: Fields) -> Draft:
    d = Draft("olmoe", c)
    d.width = d.hyper["feed_forward_length"] = width = c.count("moe_intermediate_size", "intermediate_size")
    d.routing(width)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.exact("attn_q_norm", d.heads * d.head_dim)
    d.exact("attn_k_norm", d.kv_heads * d.head_dim)
    d.router()
    d.routed(width)
    return d


def phimoe(c: Fields) -> Draft:
    d = Draft("phimoe", c)
    d.routing(d.width)
    del d.hyper["expert_feed_forward_length"]
    d.hyper["attention.sliding_window"] = c.count("sliding_window", default=0, least=0)
    d.embeddings(bias=True)
    d.add("output.bias", (d.vocab,), GgmlType.F32)
    d.norms("attn_norm", "ffn_norm", bias=True)
    d.attention()
    if c.flag("attention_bias", True):
        d.attention_biases(output=True)
    d.router()
    d.routed(d.width)
    long_rope_factors(d, d.head_dim)
    return d


def granitemoe(c: Fields) -> Draft:
    d = Draft("granitemoe", c, norm="rms")
    granite_multipliers(d)
    d.width = d.hyper["feed_forward_length"] = width = c.count("moe_intermediate_size", "intermediate_size")
    shared = c.count("shared_intermediate_size", default=0, least=0)
    d.routing(width, shared_width=shared)
    del d.hyper["expert_feed_forward_length"]
    d.embeddings(tied=True)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.router()
    d.routed(width)
    if shared:
        d.gated_ffn(width=shared, suffix="_shexp")
    return d


def gpt_oss(c: Fields) -> Draft:
    """gpt-oss: experts published in MXFP4 and kept so, attention sinks, biases, every second layer slides."""
    d = Draft("gpt-oss", c)
    d.routing(d.width)
    d.hyper["attention.sliding_window"] = c.count("sliding_window", default=128)
    d.embeddings()
    d.norms("attn_norm", "post_attention_norm")
    d.attention()
    d.attention_biases(output=True)
    d.exact("attn_sinks", d.heads)
    d.router()
    d.bias("ffn_gate_inp", d.experts)
    d.routed(d.width, type=GgmlType.MXFP4)
    for role, length in (("gate", d.width), ("up", d.width), ("down", d.hidden)):
        d.exact(f"ffn_{role}_exps", length, d.experts, suffix=".bias")
    return d


def minimax_m2(c: Fields) -> Draft:
    """MiniMax M2: query and key normalised over all heads, half of each head rotated."""
    d = Draft("minimax-m2", c)
    d.routing(d.width)
    d.hyper["expert_gating_func"] = SIGMOID
    d.hyper["rope.dimension_count"] = c.count("rotary_dim", default=d.head_dim // 2)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.exact("attn_q_norm", d.heads * d.head_dim)
    d.exact("attn_k_norm", d.kv_heads * d.head_dim)
    d.router(bias=True)
    d.routed(d.width)
    return d


def llama4(c: Fields) -> Draft:
    """Llama 4: every layer of Scout and every second of Maverick is a mixture; three of four layers chunked."""
    d = Draft("llama4", c)
    width = c.count("intermediate_size")
    d.width = d.hyper["feed_forward_length"] = c.count("intermediate_size_mlp", default=width)
    d.routing(width)
    step = c.count("interleave_moe_layer_step", most=d.count, default=1)
    d.hyper["interleave_moe_layer_step"] = step
    moe = tuple(i for i in d.layers if (i + 1) % step == 0)
    d.embeddings()
    llama_rope_factors(d)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.gated_ffn(d.others(moe))
    d.router(moe)
    d.routed(width, moe)
    d.gated_ffn(moe, width=width, suffix="_shexp")
    return d


def glm4_moe(c: Fields) -> Draft:
    """GLM 4.5 to 4.7: biases on query, key and value; the larger ones normalise the heads."""
    d = Draft("glm4moe", c)
    d.hyper["rope.dimension_count"] = int(d.head_dim * partial_rotary(d, 0.5))
    d.hyper["expert_gating_func"] = SIGMOID
    d.embeddings()
    _glm4_attention(d)
    leading_dense_then_experts(d)
    predict_with_experts(d, _glm4_attention)
    return d


def _glm4_attention(d: Draft) -> None:
    d.norms("attn_norm", "post_attention_norm")
    d.attention()
    if d.c.flag("attention_bias", True):
        d.attention_biases()
    if d.c.flag("use_qk_norm"):
        d.head_norms()


def leading_dense_then_experts(d: Draft, *, balanced: bool = True, shared_default: int = 1) -> None:
    """A few dense layers, then routed experts beside shared ones.

    Args:
        balanced: the router has a bias that balances the experts' load.
    """
    width = d.c.count("moe_intermediate_size")
    dense = d.c.count("first_k_dense_replace", default=1, least=0, most=d.count)
    shared = d.c.count("n_shared_experts", "num_shared_experts", default=shared_default, least=0, most=64)
    d.routing(width, shared=shared)
    d.hyper["leading_dense_block_count"] = dense
    d.hyper["expert_shared_count"] = shared
    scale = d.c.number("routed_scaling_factor", default=1.0)
    d.hyper["expert_weights_scale"] = scale
    d.hyper["expert_weights_norm"] = d.c.flag("norm_topk_prob", True)
    d.gated_ffn(span(0, dense))
    _routed_and_shared(d, width, shared, span(dense, d.count), balanced=balanced)


def _routed_and_shared(d: Draft, width: int, shared: int, layers: Layers, *, balanced: bool = True) -> None:
    d.router(layers, bias=balanced)
    d.routed(width, layers)
    if shared:
        d.gated_ffn(layers, width=width * shared, suffix="_shexp")


def predict_with_experts(d: Draft, attention: Callable[[Draft], None], *, own: bool = False) -> None:
    """The layers for further tokens of DeepSeek V3 and those after it: with experts, as the last layers are.

    Args:
        own: what a config without `mtp_use_dedicated_embeddings` means.
    """

    def layer(side: Draft) -> None:
        attention(side)
        shared = d.c.count("n_shared_experts", "num_shared_experts", default=1, least=0, most=64)
        _routed_and_shared(side, d.c.count("moe_intermediate_size"), shared, side.layers)

    heads = d.c.count("num_nextn_predict_layers", default=0, least=0, most=64)
    d.predict(heads, layer, own=d.c.flag("mtp_use_dedicated_embeddings", own))


def deepseek(c: Fields) -> Draft:
    """DeepSeek-MoE 16B, the first: plain attention."""
    d = Draft("deepseek", c)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    leading_dense_then_experts(d, balanced=False, shared_default=2)
    return d


def arctic(c: Fields) -> Draft:
    """Arctic: a dense feed-forward as wide as the model, and experts beside it."""
    d = Draft("arctic", c)
    width = c.count("moe_intermediate_size", "intermediate_size")
    d.width = d.hyper["feed_forward_length"] = width
    d.routing(width)
    del d.hyper["expert_feed_forward_length"]
    d.embeddings()
    d.norms("attn_norm", "ffn_norm", "ffn_norm_exps")
    d.attention()
    d.gated_ffn(width=d.hidden)
    d.router()
    d.routed(width)
    return d


def step35(c: Fields) -> Draft:
    """Step 3.5: sliding layers with more query heads, a gate per head, three dense layers before the experts."""
    c = c.with_defaults(num_key_value_heads=c.count("num_attention_groups", default=8))
    d = Draft("step35", c)
    other = c.section("attention_other_setting")
    sliding = d.sliding(c.count("sliding_window", default=512), 4)
    full = d.others(sliding)
    many = other.count("num_attention_heads", default=d.heads)
    few_kv, many_kv = d.kv_heads, other.count("num_attention_groups", default=d.kv_heads)
    width, shared = c.count("moe_intermediate_size"), c.count("share_expert_dim", "share_expert_dims")
    moe = tuple(i for i in _listed_layers(c) if i < d.count) or span(3, d.count)
    d.experts = c.count("moe_num_experts", default=d.experts)
    d.experts_used = c.count("moe_top_k", default=d.experts_used)
    d.routing(width, shared_width=shared)
    d.hyper |= {
        "expert_gating_func": SIGMOID,
        "leading_dense_block_count": moe[0],
        "attention.head_count": tuple(many if i in sliding else d.heads for i in d.layers),
        "attention.head_count_kv": tuple(many_kv if i in sliding else few_kv for i in d.layers),
    }
    d.embeddings()
    llama_rope_factors(d)
    _step35_attention(d, full, d.heads, few_kv)
    _step35_attention(d, sliding, many, many_kv)
    d.gated_ffn(d.others(moe))
    d.router(moe, bias=True)
    d.routed(width, moe)
    d.gated_ffn(moe, width=shared, suffix="_shexp")

    def dense_and_sliding(side: Draft) -> None:
        _step35_attention(side, side.layers, many, many_kv)
        side.gated_ffn()

    heads = c.count("num_nextn_predict_layers", default=0, least=0, most=64)
    d.predict(heads, dense_and_sliding, own_output=True)
    return d


def _step35_attention(d: Draft, layers: Layers, heads: int, kv_heads: int) -> None:
    d.norms("attn_norm", "ffn_norm", layers=layers)
    d.matrix("attn_q", d.hidden, heads * d.head_dim, layers)
    d.matrix("attn_k", d.hidden, kv_heads * d.head_dim, layers)
    d.matrix("attn_v", d.hidden, kv_heads * d.head_dim, layers)
    d.matrix("attn_output", heads * d.head_dim, d.hidden, layers)
    d.head_norms(layers)
    d.matrix("attn_gate", d.hidden, heads, layers)


def _listed_layers(c: Fields) -> Layers:
    """`moe_layers_enum`, a text of numbers with commas between."""
    said = c.text("moe_layers_enum")
    if said and not all(part.strip().isdecimal() and len(part) < 5 for part in said.split(",")):
        raise BadInput(f"{c.origin}: `moe_layers_enum` is not a list of layers")
    return tuple(sorted(int(part) for part in said.split(","))) if said else ()


def dots1(c: Fields) -> Draft:
    d = Draft("dots1", c)
    d.hyper["expert_gating_func"] = SIGMOID
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.head_norms()
    leading_dense_then_experts(d, shared_default=2)
    return d


def bailing_moe2(c: Fields) -> Draft:
    """Ling and Ring 2.0: fused attention, heads normalised, half of each head rotated."""
    d = Draft("bailingmoe2", c)
    d.hyper["rope.dimension_count"] = int(d.head_dim * partial_rotary(d, 0.5))
    d.hyper["expert_gating_func"] = SIGMOID
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.fused_attention()
    d.head_norms()
    leading_dense_then_experts(d)
    d.hyper["expert_shared_feed_forward_length"] = c.count("moe_intermediate_size")
    return d


def mimo2(c: Fields) -> Draft:
    """MiMo V2: sliding layers with sinks and more key-value heads, keys wider than values."""
    d = Draft("mimo2", c)
    width, value_dim = c.count("moe_intermediate_size"), c.count("v_head_dim")
    d.routing(width)
    kinds = c.counts("hybrid_layer_pattern", most=1)
    sliding = tuple(i for i, kind in enumerate(kinds[: d.count]) if kind)
    moe = tuple(i for i, kind in enumerate(c.counts("moe_layer_freq", most=1)[: d.count]) if kind)
    few, many = d.kv_heads, c.count("swa_num_key_value_heads")
    d.hyper |= {
        "expert_gating_func": SIGMOID,
        "attention.value_length": value_dim,
        "rope.dimension_count": int(d.head_dim * partial_rotary(d, 0.334)),
        "attention.sliding_window": c.count("sliding_window"),
        "attention.sliding_window_pattern": tuple(i in sliding for i in d.layers),
        "attention.head_count_kv": tuple(many if i in sliding else few for i in d.layers),
    }
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    _uneven_attention(d, d.others(sliding), few, value_dim)
    _uneven_attention(d, sliding, many, value_dim)
    d.exact("attn_sinks", d.heads, layers=sliding)
    d.gated_ffn(d.others(moe))
    d.router(moe, bias=True)
    d.routed(width, moe)

    def dense_and_sliding(side: Draft) -> None:
        side.norms("attn_norm", "ffn_norm")
        _uneven_attention(side, side.layers, many, value_dim)
        side.exact("attn_sinks", side.heads)
        side.gated_ffn()

    # published configs leave it out; all of V2 have three (llama.cpp conversion/mimo.py)
    d.predict(c.count("num_nextn_predict_layers", default=3, least=0, most=64), dense_and_sliding)
    return d


def _uneven_attention(d: Draft, layers: Layers, kv_heads: int, value_dim: int) -> None:
    d.matrix("attn_q", d.hidden, d.heads * d.head_dim, layers)
    d.matrix("attn_k", d.hidden, kv_heads * d.head_dim, layers)
    d.matrix("attn_v", d.hidden, kv_heads * value_dim, layers)
    d.matrix("attn_output", d.heads * value_dim, d.hidden, layers)
