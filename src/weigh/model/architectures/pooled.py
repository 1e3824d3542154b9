"""DeepSeek V4: keys that serve as values, of a window and pooled from all tokens; several residual streams.

Its experts are published in four bits and kept so in GGUF files.
"""

from __future__ import annotations

from weigh.errors import BadInput
from weigh.model.architectures.draft import Draft, Layers
from weigh.model.architectures.fields import Fields
from weigh.model.architectures.moe import SQRT_SOFTPLUS
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import HyperValue

POOLINGS = (0, 4, 128)  # tokens pooled into one key; the engine takes no others


def deepseek4(c: Fields) -> Draft:
    d = Draft("deepseek4", c)
    ratios = c.counts("compress_ratios")
    if len(ratios) < d.count or set(ratios) - set(POOLINGS):
        raise BadInput(
            f"{c.origin}: `compress_ratios` does not give 0, 4 or 128 for each of {d.count} layers"
        )
    width, shared = c.count("moe_intermediate_size"), c.count("n_shared_experts", default=1, most=64)
    hashed = c.count("num_hash_layers", default=3, least=0, most=d.count)
    streams = c.count("hc_mult", most=64)
    d.width = width
    d.routing(width, shared=shared)
    d.hyper |= _hyper(d, ratios, hashed, streams)
    d.embeddings()
    mixed = streams * d.hidden
    for name, shape in (("fn", (mixed, streams)), ("base", (streams,)), ("scale", (1,))):
        d.add(f"output_hc_{name}.weight", shape, GgmlType.F32)
    _attention(d, d.layers)
    for ratio in POOLINGS[1:]:
        _compressor(d, ratio, tuple(i for i in d.layers if ratios[i] == ratio))
    _experts(d, width, shared, streams)
    d.add("blk.{}.ffn_gate_tid2eid.weight", (d.experts_used, d.vocab), GgmlType.I32, d.layers[:hashed])
    d.bias("exp_probs_b", d.experts, d.layers[hashed:])
    _predict(d, width, shared, streams)
    return d


def _hyper(d: Draft, ratios: tuple[int, ...], hashed: int, streams: int) -> dict[str, HyperValue]:
    c = d.c
    clamp = c.number("swiglu_limit", default=10.0)
    return {
        "attention.sliding_window": c.count("sliding_window"),
        "attention.q_lora_rank": c.count("q_lora_rank"),
        "attention.compress_ratios": ratios[: d.count],
        "attention.compress_rope_freq_base": c.number("compress_rope_theta", default=160000.0),
        "attention.output_group_count": c.count("o_groups"),
        "attention.output_lora_rank": c.count("o_lora_rank"),
        "attention.indexer.head_count": c.count("index_n_heads"),
        "attention.indexer.key_length": c.count("index_head_dim"),
        "attention.indexer.top_k": c.count("index_topk"),
        "rope.dimension_count": c.count("qk_rope_head_dim"),
        "expert_gating_func": SQRT_SOFTPLUS,
        "expert_weights_scale": c.number("routed_scaling_factor", default=1.5),
        "expert_weights_norm": c.flag("norm_topk_prob", True),
        "swiglu_clamp_exp": (clamp,) * d.count,
        "swiglu_clamp_shexp": (clamp,) * d.count,
        "hash_layer_count": hashed,
        "hyper_connection.count": streams,
        "hyper_connection.sinkhorn_iterations": c.count("hc_sinkhorn_iters", default=20),
        "hyper_connection.epsilon": c.number("hc_eps", default=1e-6),
        "embedding_length_out": streams * d.hidden,
    }


def _attention(d: Draft, layers: Layers) -> None:
    """One key a token; the output leaves in groups through a narrower space."""
    c, inner = d.c, d.heads * d.head_dim
    query_latent, groups, rank = c.count("q_lora_rank"), c.count("o_groups"), c.count("o_lora_rank")
    d.norms("attn_norm", "ffn_norm", layers=layers)
    d.exact("attn_sinks", d.heads, layers=layers)
    d.matrix("attn_q_a", d.hidden, query_latent, layers)
    d.exact("attn_q_a_norm", query_latent, layers=layers)
    d.matrix("attn_q_b", query_latent, inner, layers)
    d.matrix("attn_kv", d.hidden, d.head_dim, layers)
    d.exact("attn_kv_a_norm", d.head_dim, layers=layers)
    d.matrix("attn_output_a", inner // groups, rank * groups, layers)
    d.matrix("attn_output_b", groups * rank, d.hidden, layers)


def _compressor(d: Draft, ratio: int, layers: Layers) -> None:
    """What pools keys, overlapping when it takes four tokens; those are then picked by an indexer."""
    overlap = 2 if ratio == 4 else 1
    _pool(d, "attn_compressor", d.head_dim, overlap, ratio, layers)
    if ratio != 4:
        return
    heads, dim = d.c.count("index_n_heads"), d.c.count("index_head_dim")
    d.matrix("indexer.proj", d.hidden, heads, layers)
    d.matrix("indexer.attn_q_b", d.c.count("q_lora_rank"), heads * dim, layers)
    _pool(d, "indexer_compressor", dim, overlap, ratio, layers)


def _pool(d: Draft, role: str, dim: int, overlap: int, ratio: int, layers: Layers) -> None:
    d.matrix(f"{role}_kv", d.hidden, overlap * dim, layers)
    d.matrix(f"{role}_gate", d.hidden, overlap * dim, layers)
    d.exact(f"{role}_ape", overlap * dim, ratio, layers=layers)
    d.exact(f"{role}_norm", dim, layers=layers)


def _experts(d: Draft, width: int, shared: int, streams: int) -> None:
    """Experts, and for both halves of a layer what mixes the residual streams."""
    mixed, weights = streams * d.hidden, (2 + streams) * streams
    for half in ("attn", "ffn"):
        d.exact(f"hc_{half}_fn", mixed, weights)
        d.exact(f"hc_{half}_base", weights)
        d.exact(f"hc_{half}_scale", 3)
    d.router()
    d.routed(width, type=GgmlType.MXFP4 if d.c.text("expert_dtype") == "fp4" else GgmlType.F16)
    d.gated_ffn(width=width * shared, suffix="_shexp")


def _predict(d: Draft, width: int, shared: int, streams: int) -> None:
    def layer(side: Draft) -> None:
        _attention(side, side.layers)
        _experts(side, width, shared, streams)
        side.bias("exp_probs_b", side.experts)
        mixed = streams * side.hidden
        for name, shape in (("fn", (mixed, streams)), ("base", (streams,)), ("scale", (1,))):
            side.exact(f"nextn.hc_{name}", *shape)

    heads = d.c.count("num_nextn_predict_layers", default=0, least=0, most=64)
    d.predict(heads, layer, own=d.c.flag("mtp_use_dedicated_embeddings"))
