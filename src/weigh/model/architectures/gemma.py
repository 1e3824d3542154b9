"""Gemma 3n and 4: shared key-value layers, per-layer embeddings, and in 4 two head widths."""

from __future__ import annotations

from weigh.model.architectures.draft import Draft, Layers, span
from weigh.model.architectures.fields import Fields
from weigh.model.ggml_types import GgmlType

_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")

# Gemma 3n's alternating updates and its low-rank residual; the engine knows only these widths.
_ALTUP, _LAUREL, _PER_LAYER = 4, 64, 256


def gemma3n(c: Fields) -> Draft:
    if isinstance(c.values.get("intermediate_size"), list):  # one for each layer, all the same as published
        width = max(c.counts("intermediate_size"), default=0)
        c = Fields(c.origin, {**c.values, "intermediate_size": width})
    d = Draft("gemma3n", c)
    d.sliding(c.count("sliding_window", default=512), 5)
    d.hyper |= {
        "altup.active_idx": 0,
        "altup.num_inputs": _ALTUP,
        "embedding_length_per_layer_input": _PER_LAYER,
        "attention.shared_kv_layers": c.count("num_kv_shared_layers", default=15, least=0, most=d.count),
    }
    d.embeddings(tied=True)
    _per_layer_embeddings(d, _PER_LAYER)
    for role in ("altup_proj", "altup_unembd_proj"):
        d.add(f"{role}.weight", (d.hidden, d.hidden, _ALTUP - 1), GgmlType.F16)
    d.norms(*_NORMS, "altup_correct_scale", "altup_router_norm", "laurel_post_norm")
    d.attention()
    d.head_norms()
    d.gated_ffn()
    d.exact("altup_correct_coef", _ALTUP, _ALTUP)
    d.exact("altup_predict_coef", _ALTUP, _ALTUP * _ALTUP)
    d.matrix("altup_router", d.hidden, _ALTUP)
    d.matrix("laurel_l", d.hidden, _LAUREL)
    d.matrix("laurel_r", _LAUREL, d.hidden)
    return d


def _per_layer_embeddings(d: Draft, width: int) -> None:
    """An embedding of each token for every layer, read row by row, and what mixes it in."""
    d.add("per_layer_token_embd.weight", (width * d.count, d.vocab), GgmlType.F16)
    d.add("per_layer_model_proj.weight", (d.hidden, width * d.count), GgmlType.F16)
    d.add("per_layer_proj_norm.weight", (width,), GgmlType.F32)
    d.matrix("inp_gate", d.hidden, width)
    d.matrix("proj", width, d.hidden)
    d.norms("post_norm")


def gemma4(c: Fields) -> Draft:
    d = Draft("gemma4", c)
    sliding = d.sliding(c.count("sliding_window"), 6)
    full_dim = c.count("global_head_dim", default=d.head_dim)
    full_kv = c.count("num_global_key_value_heads", default=d.kv_heads)
    shared = c.count("num_kv_shared_layers", default=0, least=0, most=d.count - 1)
    per_layer = c.count("hidden_size_per_layer_input", default=0, least=0)
    d.hyper |= {
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": per_layer,
        "attention.key_length": full_dim,
        "attention.value_length": full_dim,
        "attention.key_length_swa": d.head_dim,
        "attention.value_length_swa": d.head_dim,
        "rope.dimension_count": full_dim,
        "rope.dimension_count_swa": d.head_dim,
        "attention.head_count_kv": tuple(d.kv_heads if i in sliding else full_kv for i in d.layers),
        "final_logit_softcapping": c.number("final_logit_softcapping", default=30.0),
    }
    d.embeddings(tied=True)
    d.add("rope_freqs.weight", (full_dim // 2,), GgmlType.F32)
    if per_layer:
        _per_layer_embeddings(d, per_layer)
    d.norms(*_NORMS)
    d.exact("layer_output_scale", 1)
    # Layers that read an earlier layer's keys and values still hold projections of their own in the published
    # weights: only so do the totals of E2B and E4B differ by their parts.
    d.attention(sliding)
    d.head_norms(sliding)
    full = d.others(sliding)
    d.attention(full, head_dim=full_dim, kv_heads=full_kv, value=not c.flag("attention_k_eq_v"))
    d.head_norms(full, head_dim=full_dim)
    _feed_forward(d, span(0, d.count - shared))
    return d


def _feed_forward(d: Draft, own: Layers) -> None:
    """Feed-forward, twice as wide in some models' layers that are not in `own`, and experts beside it."""
    if d.c.flag("use_double_wide_mlp"):
        d.hyper["feed_forward_length"] = tuple(d.width if i in own else 2 * d.width for i in d.layers)
        d.gated_ffn(own)
        d.gated_ffn(d.others(own), width=2 * d.width)
    else:
        d.gated_ffn()
    if not d.c.flag("enable_moe_block"):
        d.experts = d.experts_used = 0
        return
    width = d.c.count("moe_intermediate_size", "expert_intermediate_size")
    d.routing(width)
    d.router()
    d.exact("ffn_gate_inp", d.hidden, suffix=".scale")
    d.norms("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
    d.routed(width, roles=("ffn_gate_up_exps", "ffn_down_exps"))
    d.exact("ffn_down_exps", d.experts, suffix=".scale")
