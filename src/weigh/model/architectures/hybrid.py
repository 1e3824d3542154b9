"""Architectures that mix tokens by a recurrent state in some or all layers: SSM, linear attention, convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from weigh.errors import BadInput
from weigh.model.architectures.dense import granite, granite_multipliers, partial_rotary
from weigh.model.architectures.draft import Draft, Layers, span
from weigh.model.architectures.fields import Fields
from weigh.model.architectures.latent import latent_attention, latent_hyper
from weigh.model.architectures.moe import (
    SIGMOID,
    granitemoe,
    leading_dense_then_experts,
    routed_and_gated_shared,
)


def qwen35(c: Fields) -> Draft:
    """Qwen 3.5 and 3.6, dense."""
    d = _gated_delta_net("qwen35", c)
    d.gated_ffn()
    _predict(d, lambda side: side.gated_ffn())
    return d


def _predict(d: Draft, feed_forward: Callable[[Draft], None]) -> None:
    """Layers for further tokens: full attention, whatever the model's last layer has."""

    def layer(side: Draft) -> None:
        side.norms("attn_norm", "post_attention_norm")
        side.attention(gated=True)
        side.head_norms()
        feed_forward(side)

    heads = d.c.count("mtp_num_hidden_layers", default=0, least=0, most=64)
    d.predict(heads, layer, own=d.c.flag("mtp_use_dedicated_embeddings"))


def qwen35moe(c: Fields) -> Draft:
    """Qwen 3.5 and 3.6 with experts."""
    return _with_experts(_gated_delta_net("qwen35moe", c))


def qwen3next(c: Fields) -> Draft:
    return _with_experts(_gated_delta_net("qwen3next", c))


def _with_experts(d: Draft) -> Draft:
    width, shared = d.c.count("moe_intermediate_size"), d.c.count("shared_expert_intermediate_size")
    d.routing(width, shared_width=shared)
    routed_and_gated_shared(d, width, shared)
    _predict(d, lambda side: routed_and_gated_shared(side, width, shared))
    return d


def _gated_delta_net(architecture: str, c: Fields) -> Draft:
    """Three layers of linear attention with a decaying state, then one of gated full attention."""
    d = Draft(architecture, c)
    every = c.count("full_attention_interval", default=4, most=d.count)
    full = tuple(i for i in d.layers if (i + 1) % every == 0)
    if c.has("layer_types") and d.layers_of("full_attention") != full:
        raise BadInput(f"{c.origin}: `layer_types` does not follow `full_attention_interval` {every}")
    key_heads, value_heads = c.count("linear_num_key_heads"), c.count("linear_num_value_heads")
    dim, conv = c.count("linear_key_head_dim"), c.count("linear_conv_kernel_dim")
    values = value_heads * c.count("linear_value_head_dim", default=dim)
    channels = 2 * key_heads * dim + values
    d.hyper |= {
        "full_attention_interval": every,
        "rope.dimension_count": int(d.head_dim * partial_rotary(d, 0.25)),
        "ssm.conv_kernel": conv,
        "ssm.state_size": dim,
        "ssm.group_count": key_heads,
        "ssm.time_step_rank": value_heads,
        "ssm.inner_size": values,
    }
    if architecture != "qwen3next":
        d.hyper["rope.dimension_sections"] = (11, 11, 10, 0)  # the converter's default, as in every release
    d.embeddings()
    d.norms("attn_norm", "post_attention_norm")
    d.attention(full, gated=True)
    d.head_norms(full)
    linear = d.others(full)
    d.matrix("attn_qkv", d.hidden, channels, linear)
    d.matrix("attn_gate", d.hidden, values, linear)
    d.exact("ssm_conv1d", conv, channels, layers=linear)
    d.bias("ssm_dt", value_heads, linear)
    d.exact("ssm_a", value_heads, layers=linear, suffix="")
    if architecture == "qwen3next":
        d.matrix("ssm_ba", d.hidden, 2 * value_heads, linear)
    else:
        d.matrix("ssm_beta", d.hidden, value_heads, linear)
        d.matrix("ssm_alpha", d.hidden, value_heads, linear)
    d.exact("ssm_norm", dim, layers=linear)
    d.matrix("ssm_out", values, d.hidden, linear)
    return d


def _mamba2(d: Draft, layers: Layers, *, norm: bool = True) -> None:
    """A selective state space with scalar decay per head."""
    c = d.c
    heads = c.count("mamba_n_heads", "mamba_num_heads")
    state = c.count("mamba_d_state", "ssm_state_size")
    inner = heads * c.count("mamba_d_head", "mamba_head_dim", default=64)
    groups = c.count("mamba_n_groups", "n_groups", default=1)
    conv = c.count("mamba_d_conv", "conv_kernel", default=4)
    channels = inner + 2 * groups * state
    d.hyper |= {
        "ssm.conv_kernel": conv,
        "ssm.state_size": state,
        "ssm.group_count": groups,
        "ssm.inner_size": inner,
        "ssm.time_step_rank": heads,
    }
    d.matrix("ssm_in", d.hidden, inner + channels + heads, layers)
    d.exact("ssm_conv1d", conv, channels, layers=layers)
    d.bias("ssm_conv1d", channels, layers)
    d.bias("ssm_dt", heads, layers)
    d.exact("ssm_a", 1, heads, layers=layers, suffix="")
    d.exact("ssm_d", 1, heads, layers=layers, suffix="")
    if norm:
        d.exact("ssm_norm", inner // groups, groups, layers=layers)
    d.matrix("ssm_out", inner, d.hidden, layers)


def granite_hybrid(c: Fields) -> Draft:
    """Granite 4: Mamba 2 in most layers; the ones without any are plain Granite."""
    attention = Draft("granitehybrid", c).layers_of("attention", "full_attention")
    if len(attention) == c.count("num_hidden_layers"):
        return granitemoe(c) if c.count("num_local_experts", default=0, least=0) else granite(c)
    d = Draft("granitehybrid", c)
    granite_multipliers(d)
    d.hyper["attention.head_count_kv"] = tuple(d.kv_heads if i in attention else 0 for i in d.layers)
    d.hyper["rope.scaling.finetuned"] = False
    d.embeddings(tied=True)
    d.norms("attn_norm", "ffn_norm")
    d.attention(attention)
    _mamba2(d, d.others(attention))
    shared = c.count("shared_intermediate_size", default=0, least=0)
    if not d.experts:
        d.width = d.hyper["feed_forward_length"] = shared or d.width
        d.gated_ffn()
        return d
    d.routing(d.width, shared_width=shared)
    del d.hyper["expert_feed_forward_length"]
    d.router()
    d.routed(d.width)
    d.gated_ffn(width=shared, suffix="_shexp")
    return d


def nemotron_h(c: Fields) -> Draft:
    """Nemotron H, Nano 2 and 3: a layer is Mamba 2, attention, or a feed-forward alone."""
    c = _with_pattern(c)
    d = Draft("nemotron_h", c, norm="layer")
    d.hyper["attention.layer_norm_rms_epsilon"] = d.hyper["attention.layer_norm_epsilon"]
    pattern = c.text("hybrid_override_pattern")
    if len(pattern) != d.count or set(pattern) - set("M*-E"):
        raise BadInput(f"{c.origin}: `hybrid_override_pattern` does not say what each of {d.count} layers is")
    kinds = {kind: tuple(i for i in d.layers if pattern[i] == kind) for kind in "M*-E"}
    mlp = kinds["E"] or kinds["-"]
    width = c.count("moe_intermediate_size") if kinds["E"] else d.width
    d.hyper["attention.head_count_kv"] = tuple(d.kv_heads if i in kinds["*"] else 0 for i in d.layers)
    d.hyper["feed_forward_length"] = tuple(width if i in mlp else 0 for i in d.layers)
    d.hyper["rope.scaling.finetuned"] = False
    d.embeddings()
    d.norms("attn_norm")
    d.attention(kinds["*"])
    _mamba2(d, kinds["M"])
    if kinds["E"]:
        d.architecture = "nemotron_h_moe"
        _nemotron_experts(d, kinds["E"], width)
        _predict_nemotron(d, width)
    else:
        d.plain_ffn(kinds["-"])
    return d


def _predict_nemotron(d: Draft, width: int) -> None:
    """Two layers for each further token: attention, then experts."""

    def layer(side: Draft) -> None:
        side.norms("attn_norm", "ffn_norm")
        side.attention()
        _nemotron_experts(side, side.layers, width)

    d.predict(d.c.count("num_nextn_predict_layers", default=0, least=0, most=64), layer)


def _with_pattern(c: Fields) -> Fields:
    """transformers 5 spells the pattern out, a word for each layer, and leaves their number to be counted."""
    kinds = c.texts("layers_block_type")
    if not kinds or c.has("hybrid_override_pattern"):
        return c
    letters = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*"}
    letters |= {"mlp": "-", "moe": "E"}
    pattern = "".join(letters.get(kind, "?") for kind in kinds)
    return Fields(c.origin, {"num_hidden_layers": len(kinds), **c.values, "hybrid_override_pattern": pattern})


def _nemotron_experts(d: Draft, layers: Layers, width: int) -> None:
    """Experts without a gate; the larger ones work in a narrower latent space."""
    shared = d.c.count("moe_shared_expert_intermediate_size")
    latent = d.c.count("moe_latent_size", default=0, least=0)
    d.routing(width, shared_width=shared, shared=d.c.count("n_shared_experts", default=1))
    d.hyper["expert_weights_norm"] = d.c.flag("norm_topk_prob", True)
    d.hyper["expert_weights_scale"] = d.c.number("routed_scaling_factor", default=2.5)
    d.router(layers, bias=True)
    if latent:
        d.hyper["moe_latent_size"] = latent
        d.matrix("ffn_latent_down", d.hidden, latent, layers)
        d.matrix("ffn_latent_up", latent, d.hidden, layers)
    d.routed(width, layers, roles=("ffn_up_exps", "ffn_down_exps"), columns=latent)
    d.plain_ffn(layers, width=shared, suffix="_shexp")


def falcon_h1(c: Fields) -> Draft:
    """Falcon H1: attention and Mamba 2 side by side in every layer."""
    d = Draft("falcon-h1", c)
    d.embeddings()
    d.norms("attn_norm")
    d.exact("ffn_norm", d.hidden, suffix="")
    d.attention()
    _mamba2(d, d.layers, norm=c.flag("mamba_rms_norm"))
    d.gated_ffn()
    return d


def lfm2(c: Fields) -> Draft:
    """LFM2: gated short convolutions, and attention in some layers."""
    d = _short_convolutions("lfm2", c)
    d.gated_ffn()
    return d


def lfm2moe(c: Fields) -> Draft:
    """LFM2 with experts after the first, dense, layers."""
    d = _short_convolutions("lfm2moe", c)
    width, dense = c.count("moe_intermediate_size"), c.count("num_dense_layers", most=d.count)
    d.routing(width)
    d.hyper["leading_dense_block_count"] = dense
    d.hyper["expert_gating_func"] = SIGMOID
    d.gated_ffn(span(0, dense))
    d.router(span(dense, d.count), bias=True)
    d.routed(width, span(dense, d.count))
    return d


def _short_convolutions(architecture: str, c: Fields) -> Draft:
    d = Draft(architecture, c)
    d.width = d.hyper["feed_forward_length"] = _lfm2_width(c)
    attention = d.layers_of("full_attention")
    conv, rest = c.count("conv_L_cache", default=3), d.others(attention)
    d.hyper["shortconv.l_cache"] = conv
    d.hyper["attention.head_count_kv"] = tuple(d.kv_heads if i in attention else 0 for i in d.layers)
    d.embeddings(tied=True)
    d.groups[1] = replace(d.groups[1], name="token_embd_norm.weight")  # the name older files were given
    d.exact("attn_norm", d.hidden)
    d.norms("ffn_norm")
    d.attention(attention)
    d.head_norms(attention)
    d.exact("shortconv.conv", conv, d.hidden, layers=rest)
    d.matrix("shortconv.in_proj", d.hidden, 3 * d.hidden, rest)
    d.matrix("shortconv.out_proj", d.hidden, d.hidden, rest)
    return d


def _lfm2_width(c: Fields) -> int:
    """LFM2 configs state the width before it is cut to two thirds and rounded up."""
    width = c.count("block_ff_dim", "intermediate_size")
    if not c.flag("block_auto_adjust_ff_dim"):
        return width
    step = c.count("block_multiple_of", default=256)
    width = int(c.number("block_ffn_dim_multiplier", default=1.0) * int(2 * width / 3))
    return -(-width // step) * step


def mamba(c: Fields) -> Draft:
    """Mamba and Falcon Mamba: no attention at all."""
    d = Draft("mamba", c)
    d.hyper |= {"feed_forward_length": 0, "attention.head_count": 0}
    if c.text("model_type") == "falcon_mamba":
        d.hyper["ssm.dt_b_c_rms"] = True
    # The cache does not grow, so the converter writes a context without end.
    d.context = d.hyper["context_length"] = c.count("max_position_embeddings", default=1 << 20)
    d.embeddings(tied=c.text("model_type") != "falcon_mamba")
    d.norms("attn_norm")
    _mamba1(d, d.layers)
    d.width = 0
    return d


def jamba(c: Fields) -> Draft:
    """Jamba: one attention layer in eight, the rest Mamba; experts in every second layer."""
    d = Draft("jamba", c)
    period, offset = c.count("attn_layer_period", default=8), c.count("attn_layer_offset", default=4, least=0)
    attention = tuple(i for i in d.layers if i % period == offset)
    d.hyper["attention.head_count_kv"] = tuple(d.kv_heads if i in attention else 0 for i in d.layers)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention(attention)
    mamba_layers = d.others(attention)
    _mamba1(d, mamba_layers)
    for role in ("dt", "b", "c"):
        d.exact(f"ssm_{role}_norm", _rank(c, d.hidden) if role == "dt" else _state(c), layers=mamba_layers)
    every = c.count("expert_layer_period", default=2)
    first = c.count("expert_layer_offset", default=1, least=0)
    moe = tuple(i for i in d.layers if i % every == first) if d.experts > 1 else ()
    d.gated_ffn(d.others(moe))
    if moe:
        d.routing(d.width)
        del d.hyper["expert_feed_forward_length"]
        d.router(moe)
        d.routed(d.width, moe)
    return d


def _rank(c: Fields, hidden: int) -> int:
    return c.count("mamba_dt_rank", "time_step_rank", default=-(-hidden // 16))


def _state(c: Fields) -> int:
    return c.count("mamba_d_state", "state_size", default=16)


def _mamba1(d: Draft, layers: Layers) -> None:
    """A selective state space with a decay per channel and state."""
    c = d.c
    state, conv, rank = _state(c), c.count("mamba_d_conv", "conv_kernel", default=4), _rank(c, d.hidden)
    inner = 2 * d.hidden  # the only expansion the engine takes
    if c.count("mamba_expand", "expand", default=2) != 2:
        raise BadInput(f"{c.origin}: `expand` is not 2, which no engine runs")
    d.hyper |= {
        "ssm.conv_kernel": conv,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    d.matrix("ssm_in", d.hidden, 2 * inner, layers)
    d.exact("ssm_conv1d", conv, inner, layers=layers)
    d.bias("ssm_conv1d", inner, layers)
    d.matrix("ssm_x", inner, rank + 2 * state, layers)
    d.matrix("ssm_dt", rank, inner, layers)
    d.bias("ssm_dt", inner, layers)
    d.exact("ssm_a", state, inner, layers=layers, suffix="")
    d.exact("ssm_d", inner, layers=layers, suffix="")
    d.matrix("ssm_out", inner, d.hidden, layers)


def minimax01(c: Fields) -> Draft:
    """MiniMax Text 01: lightning attention, whose state does not grow, and full attention every eighth layer."""
    d = Draft("minimax-01", c)
    if not d.width:
        d.width = d.hyper["feed_forward_length"] = c.count("moe_intermediate_size")
    full = _full_layers(d)
    d.routing(d.width)
    del d.hyper["expert_feed_forward_length"]
    d.hyper |= {
        "residual_scale": c.number("layernorm_full_attention_alpha", default=3.5565588200778455),
        "rope.dimension_count": c.count("rotary_dim", default=d.head_dim // 2),
        "attention.recurrent_layers": tuple(i not in full for i in d.layers),
    }
    inner = d.heads * d.head_dim
    linear = d.others(full)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    for role in ("attn_q", "attn_k", "attn_v"):
        d.matrix(role, d.hidden, (d.heads if role == "attn_q" else d.kv_heads) * d.head_dim, full)
    d.exact("attn_norm_2", inner, layers=linear)
    d.matrix("attn_qkv", d.hidden, 3 * inner, linear)
    d.matrix("attn_gate", d.hidden, inner, linear)
    d.matrix("attn_output", inner, d.hidden)
    d.router()
    d.routed(d.width)
    return d


def _full_layers(d: Draft) -> Layers:
    """Those that `attn_type_list` or `layer_types` calls full; else every eighth."""
    if d.c.has("attn_type_list"):
        kinds = d.c.counts("attn_type_list", most=1)
        return tuple(i for i, kind in enumerate(kinds[: d.count]) if kind)
    if d.c.has("layer_types"):
        return d.layers_of("full_attention")
    d.notes.append("`attn_type_list` is missing from the config; every eighth layer taken as full attention")
    return tuple(i for i in d.layers if (i + 1) % 8 == 0)


def kimi_linear(c: Fields) -> Draft:
    """Kimi Linear: delta attention with a decay per channel in three of four layers, latent attention in one."""
    d = Draft("kimi-linear", c)
    linear = c.section("linear_attn_config")
    if linear.has("full_attn_layers"):
        full = tuple(i - 1 for i in linear.counts("full_attn_layers", least=1) if i <= d.count)
    else:
        full = d.layers_of("full_attention")
    dim = linear.count("head_dim", default=c.count("linear_head_dim", default=128))
    conv = linear.count("short_conv_kernel_size", default=c.count("linear_conv_kernel_dim", default=4))
    latent_hyper(d)
    d.hyper |= {
        "attention.head_count_kv": tuple(int(i in full) for i in d.layers),
        "expert_gating_func": SIGMOID,
        "ssm.conv_kernel": conv,
        "kda.head_dim": dim,
    }
    d.embeddings()
    latent_attention(d, full)
    _delta_attention(d, d.others(full), dim, conv)
    leading_dense_then_experts(d)
    return d


def _delta_attention(d: Draft, layers: Layers, dim: int, conv: int) -> None:
    inner = d.heads * dim
    d.norms("attn_norm", "ffn_norm", layers=layers)
    for role in ("q", "k", "v"):
        d.matrix(f"attn_{role}", d.hidden, inner, layers)
        d.exact(f"ssm_conv1d_{role}", conv, 1, inner, layers=layers)
    for role in ("f", "g"):
        d.matrix(f"ssm_{role}_a", d.hidden, dim, layers)
        d.matrix(f"ssm_{role}_b", dim, inner, layers)
    d.matrix("ssm_beta", d.hidden, d.heads, layers)
    d.exact("ssm_a", 1, d.heads, layers=layers, suffix="")
    d.bias("ssm_dt", inner, layers)
    d.exact("ssm_norm", dim, layers=layers)
    d.matrix("attn_output", inner, d.hidden, layers)
