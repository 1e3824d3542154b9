"""What transformers calls a tensor, in GGUF's words.

Each entry says, for the end of a name inside a layer (or outside all of them), which GGUF roles it may be.
Alternatives are tried in order, and the first that the model's config confirms by its size counts; where
none does, the last. `a+b` is a tensor that GGUF keeps as two. A role takes over the ending `.weight` or
`.bias`; one that ends in `!` is a whole name.

Source: transformers' own classes, whose checkpoints these were checked against (benchmarks/checkpoints.py);
GGUF names as in `gguf-py/gguf/tensor_mapping.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

OUTSIDE: Mapping[str, str] = {
    **dict.fromkeys(
        ("embed_tokens", "wte", "word_embeddings", "embeddings", "embed_in", "tok_embeddings", "embedding"),
        "token_embd",
    ),
    **dict.fromkeys(("lm_head", "embed_out", "output", "output_layer", "head"), "output"),
    **dict.fromkeys(
        ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "final_norm"), "output_norm"
    ),
    "embedding_norm": "token_embd_norm output_norm",
    "wpe": "position_embd",
    "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj",
    "per_layer_projection_norm": "per_layer_proj_norm",
    "altup_projections.*": "altup_proj",
    "altup_unembed_projections.*": "altup_unembd_proj",
}

_ATTENTION: Mapping[str, str] = {
    **dict.fromkeys(("q_proj", "wq"), "attn_q"),
    **dict.fromkeys(("k_proj", "wk"), "attn_k"),
    **dict.fromkeys(("v_proj", "wv"), "attn_v"),
    **dict.fromkeys(
        ("o_proj", "wo", "attention.dense", "self_attention.dense", "self_attn.dense", "attn.c_proj"),
        "attn_output",
    ),
    **dict.fromkeys(("self_attn.out_proj", "attn.out_proj"), "attn_output"),
    **dict.fromkeys(("qkv_proj", "query_key_value", "c_attn", "wqkv", "Wqkv"), "attn_qkv"),
    **dict.fromkeys(("q_norm", "q_layernorm", "query_layernorm"), "attn_q_norm"),
    **dict.fromkeys(("k_norm", "k_layernorm", "key_layernorm"), "attn_k_norm"),
    "q_a_proj": "attn_q_a",
    "q_b_proj": "attn_q_b",
    "q_a_layernorm": "attn_q_a_norm",
    "kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "kv_a_layernorm": "attn_kv_a_norm",
    "kv_b_proj": "attn_k_b+attn_v_b attn_kv_b",
    "indexer.k_norm": "indexer.k_norm",
    "indexer.weights_proj": "indexer.proj",
    "indexer.wk": "indexer.attn_k",
    "indexer.wq_b": "indexer.attn_q_b",
    "sinks": "attn_sinks",
    "attention_sink_bias": "attn_sinks",
}

# One name stands before the feed-forward part in one family and behind the attention in another. Where a
# model has both (GLM 4), which is which makes no difference here: they are alike.
_AFTER_ATTENTION = "post_attention_norm ffn_norm"
_NORMS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "input_layernorm",
            "ln_1",
            "ln_mlp",
            "attention_norm",
            "operator_norm",
            "attention_layernorm",
            "norm",
        ),
        "attn_norm",
    ),
    "ln_attn": "attn_norm_2",
    **dict.fromkeys(
        ("ln_2", "ffn_norm", "pre_ff_layernorm", "pre_feedforward_layernorm", "feedforward_layernorm"),
        "ffn_norm! ffn_norm",
    ),
    "post_attention_layernorm": _AFTER_ATTENTION,
    "post_self_attn_layernorm": "post_attention_norm ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
    "layer_scalar": "layer_output_scale",
}

_FEED_FORWARD: Mapping[str, str] = {
    **dict.fromkeys(("gate_proj", "w1"), "ffn_gate ffn_gate_shexp ffn_gate"),
    **dict.fromkeys(
        ("up_proj", "w3", "fc1", "mlp.c_fc", "dense_h_to_4h", "fc_in"), "ffn_up ffn_up_shexp ffn_up"
    ),
    **dict.fromkeys(
        ("down_proj", "w2", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out"),
        "ffn_down ffn_down_shexp ffn_down",
    ),
    "gate_up_proj": "ffn_up",
    "shared_mlp.input_linear": "ffn_gate_shexp+ffn_up_shexp ffn_gate+ffn_up ffn_up",
    "shared_mlp.output_linear": "ffn_down_shexp ffn_down",
}
_SHARED: Mapping[str, str] = {
    f"{shared}.{part}_proj": f"ffn_{part}_shexp"
    for shared in ("shared_expert", "shared_experts")
    for part in ("gate", "up", "down")
}
_EXPERTS: Mapping[str, str] = {
    **dict.fromkeys(("experts.*.gate_proj", "experts.*.w1", "experts.gate_proj"), "ffn_gate_exps"),
    **dict.fromkeys(("experts.*.up_proj", "experts.*.w3", "experts.up_proj"), "ffn_up_exps"),
    **dict.fromkeys(
        ("experts.*.down_proj", "experts.*.w2", "experts.down_proj", "block_sparse_moe.output_linear"),
        "ffn_down_exps",
    ),
    **dict.fromkeys(
        ("experts.gate_up_proj", "experts.*.gate_up_proj", "block_sparse_moe.input_linear"),
        "ffn_gate_exps+ffn_up_exps ffn_gate_up_exps",
    ),
    "experts.gate_up_proj_bias": "ffn_gate_exps.bias!+ffn_up_exps.bias! ffn_gate_up_exps.bias!",
    "experts.down_proj_bias": "ffn_down_exps.bias!",
    **dict.fromkeys(
        ("mlp.gate", "block_sparse_moe.gate", "feed_forward.gate", "mixer.gate", "router", "router.layer"),
        "ffn_gate_inp",
    ),
    "router.proj": "ffn_gate_inp",
    "router.scale": "ffn_gate_inp.scale!",
    "router.per_expert_scale": "ffn_down_exps.scale!",
    "shared_expert_gate": "ffn_gate_inp_shexp",
    **dict.fromkeys(("e_score_correction_bias", "expert_bias"), "exp_probs_b.bias!"),
    "fc1_latent_proj": "ffn_latent_down",
    "fc2_latent_proj": "ffn_latent_up",
}

_STATES: Mapping[str, str] = {
    **{
        "in_proj": "ssm_in",
        "out_proj": "ssm_out",
        "x_proj": "ssm_x",
        "dt_proj": "ssm_dt",
        "conv1d": "ssm_conv1d",
    },
    **{"A_log": "ssm_a!", "D": "ssm_d!", "dt_bias": "ssm_dt.bias!"},
    **{"mixer.norm": "ssm_norm", "mamba.norm": "ssm_norm", "linear_attn.norm": "ssm_norm"},
    **{"dt_layernorm": "ssm_dt_norm", "b_layernorm": "ssm_b_norm", "c_layernorm": "ssm_c_norm"},
    "in_proj_qkv": "attn_qkv",
    "in_proj_z": "attn_gate",
    "in_proj_qkvz": "attn_qkv+attn_gate ssm_in",
    "in_proj_ba": "ssm_ba",
    "in_proj_a": "ssm_alpha",
    "in_proj_b": "ssm_beta",
    "conv.conv": "shortconv.conv",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
}

_GEMMA: Mapping[str, str] = {
    "altup.correct_output_scale": "altup_correct_scale",
    "altup.correction_coefs": "altup_correct_coef",
    "altup.prediction_coefs": "altup_predict_coef",
    "altup.modality_router": "altup_router",
    "altup.router_norm": "altup_router_norm",
    "laurel.linear_left": "laurel_l",
    "laurel.linear_right": "laurel_r",
    "laurel.post_laurel_norm": "laurel_post_norm",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
}

INSIDE: Mapping[str, str] = {
    **_ATTENTION,
    **_NORMS,
    **_FEED_FORWARD,
    **_SHARED,
    **_EXPERTS,
    **_STATES,
    **_GEMMA,
}


def alternatives(name: str, *, inside: bool) -> tuple[tuple[str, ...], ...]:
    """The GGUF names a tensor may have, each as the parts it is kept in; empty when nobody knows it.

    Args:
        name: what follows the layer's number, or the whole name; `*` for an expert's number.
    """
    module, _, ending = name.rpartition(".")
    if ending not in ("weight", "bias"):
        module, ending = name, "weight"
    entry = _entry(module, INSIDE if inside else OUTSIDE)
    if entry is None:
        return ()
    start = "blk.{}." if inside else ""
    return tuple(
        tuple(start + (role[:-1] if role.endswith("!") else f"{role}.{ending}") for role in group.split("+"))
        for group in entry.split()
    )


def _entry(module: str, table: Mapping[str, str]) -> str | None:
    """The entry of the longest end of a dotted name."""
    while module:
        if module in table:
            return table[module]
        _, _, module = module.partition(".")
    return None


# Parts of a model that decoding text does not use, and how their names begin in a `ModelSpec`.
_BESIDE = (
    ("mtp.", re.compile(r"(^|\.)(mtp\w*|nextn\w*)\.")),
    ("a.", re.compile(r"(^|\.)(audio\w*|speech\w*|embed_audio|whisper\w*)\.")),
    ("mm.", re.compile(r"(^|\.)(\w*projector\w*|patch_merger|embed_vision|image_newline|connector)(\.|$)")),
    ("v.", re.compile(r"(^|\.)(vision\w*|visual\w*|vit|image_\w+|img_\w+|vpm|resampler)\.")),
)


def beside(name: str) -> str:
    """How the name of a tensor that only images, sound or further tokens need begins; "" for the text's own."""
    return next((start for start, pattern in _BESIDE if pattern.search(name)), "")
