"""Architectures that read a text at once and give one vector for it: no token follows another, nothing is cached.

llama.cpp leaves out what embedding does not need: poolers, and heads for filling in words.
"""

from __future__ import annotations

from weigh.errors import BadInput
from weigh.model.architectures.dense import gemma3
from weigh.model.architectures.draft import Draft
from weigh.model.architectures.fields import Fields
from weigh.model.ggml_types import GgmlType


def bert(c: Fields) -> Draft:
    """BERT, its distillates under that name, and all that was trained from them (BGE, E5, MiniLM)."""
    d = _bert("bert", c.with_defaults(max_position_embeddings=512, type_vocab_size=2))
    _biased_layers(d)
    return d


def roberta(c: Fields) -> Draft:
    """RoBERTa and XLM-RoBERTa (BGE-M3, multilingual E5): the first positions are none a token can have."""
    c = c.with_defaults(max_position_embeddings=514, type_vocab_size=1, pad_token_id=1)
    unused = c.count("pad_token_id", least=0, most=64) + 1
    positions = c.count("max_position_embeddings", least=unused + 1) - unused
    d = _bert("bert", Fields(c.origin, {**c.values, "max_position_embeddings": positions}))
    _biased_layers(d)
    return d


def nomic_bert(c: Fields) -> Draft:
    """Nomic Embed: rotary positions; v2 puts experts into every second layer."""
    every = c.count("moe_every_n_layers", default=0, least=0)
    # published configs state twice what was trained for (llama.cpp conversion/bert.py)
    stated, trained = c.count("n_positions", default=2048), c.count("max_trained_positions", default=2048)
    context = 512 if stated == 2048 and every else min(stated, trained)
    c = Fields(c.origin, {**c.values, "n_positions": context})
    d = _bert(
        "nomic-bert-moe" if every else "nomic-bert", c.with_defaults(type_vocab_size=2), positions=False
    )
    if not every:
        d.experts = d.experts_used = 0
        _attention_and_norms(d, bias=False)
        d.gated_ffn()
        return d
    moe = tuple(i for i in d.layers if i % every == 1)
    d.routing(d.width)
    del d.hyper["expert_feed_forward_length"]
    d.hyper["moe_every_n_layers"] = every
    _attention_and_norms(d, bias=True)
    dense = d.others(moe)
    d.plain_ffn(dense)
    d.bias("ffn_up", d.width, dense)
    d.bias("ffn_down", d.hidden, dense)
    d.router(moe)
    d.routed(d.width, moe, roles=("ffn_up_exps", "ffn_down_exps"))
    return d


def jina_bert(c: Fields) -> Draft:
    """Jina Embeddings v2: linear biases instead of positions, a gated feed-forward."""
    d = _bert("jina-bert-v2", c.with_defaults(type_vocab_size=2), positions=False)
    _attention_and_norms(d, bias=True)
    d.gated_ffn()
    d.bias("ffn_down", d.hidden)
    return d


def modern_bert(c: Fields) -> Draft:
    """ModernBERT: rotary positions, two sliding layers of three, no biases."""
    c = c.with_defaults(local_attention=128, max_position_embeddings=8192)
    d = Draft("modern-bert", c, norm="layer")
    d.hyper |= {
        "attention.causal": False,
        "attention.sliding_window": c.count("local_attention"),
        "attention.sliding_window_pattern": c.count("global_attn_every_n_layers", default=3, most=512),
        "rope.freq_base_swa": c.number("local_rope_theta", default=10000.0),
    }
    d.add("token_embd.weight", (d.hidden, d.vocab), GgmlType.F16)
    d.add("token_embd_norm.weight", (d.hidden,), GgmlType.F32)
    d.add("output_norm.weight", (d.hidden,), GgmlType.F32)
    d.norms("attn_norm", layers=d.layers[1:])
    d.norms("ffn_norm")
    d.fused_attention()
    d.matrix("ffn_up", d.hidden, 2 * d.width)
    d.matrix("ffn_down", d.width, d.hidden)
    return d


def gemma_embedding(c: Fields) -> Draft:
    """EmbeddingGemma: Gemma 3 looking both ways, and two matrices after pooling."""
    d = gemma3(c)
    d.architecture = "gemma-embedding"
    d.hyper["attention.causal"] = False
    if wide := c.count("dense_features", default=0, least=0):
        d.hyper |= {"dense_2_feat_in": d.hidden, "dense_2_feat_out": wide}
        d.hyper |= {"dense_3_feat_in": wide, "dense_3_feat_out": d.hidden}
        d.add("dense_2.weight", (d.hidden, wide), GgmlType.F16)
        d.add("dense_3.weight", (wide, d.hidden), GgmlType.F16)
    return d


def t5(c: Fields) -> Draft:
    """T5, mT5 and UMT5: an encoder, and a decoder that also looks at what the encoder made."""
    both = c.count("num_layers", "num_hidden_layers", most=512)
    c = c.with_defaults(
        num_hidden_layers=both,
        num_attention_heads=c.count("num_heads"),
        head_dim=c.count("d_kv"),
        intermediate_size=c.count("d_ff"),
        layer_norm_eps=1e-6,
    )
    d = Draft(
        "t5", Fields(c.origin, {**c.values, "max_position_embeddings": c.count("n_positions", default=512)})
    )
    decoders = c.count("num_decoder_layers", default=both, most=512)
    buckets = c.count("relative_attention_num_buckets", default=32, most=4096)
    d.hyper |= {"decoder_block_count": decoders, "attention.relative_buckets_count": buckets}
    d.hyper["attention.layer_norm_epsilon"] = d.hyper["attention.layer_norm_rms_epsilon"]
    d.add("token_embd.weight", (d.hidden, d.vocab), GgmlType.F16)
    d.add("enc.output_norm.weight", (d.hidden,), GgmlType.F32)
    d.add("dec.output_norm.weight", (d.hidden,), GgmlType.F32)
    if not c.flag("tie_word_embeddings", True):
        d.add("output.weight", (d.hidden, d.vocab), GgmlType.F16)
    gated = c.flag("is_gated_act", c.text("feed_forward_proj").startswith("gated"))
    for side, count in (("enc", both), ("dec", decoders)):
        _t5_layers(d, side, tuple(range(count)), buckets, gated=gated)
    return d


def _t5_layers(d: Draft, side: str, layers: tuple[int, ...], buckets: int, *, gated: bool) -> None:
    inner = d.heads * d.head_dim
    name = f"{side}.blk.{{}}"
    for attention in ("attn", "cross_attn") if side == "dec" else ("attn",):
        d.add(f"{name}.{attention}_norm.weight", (d.hidden,), GgmlType.F32, layers)
        for role in ("q", "k", "v"):
            d.add(f"{name}.{attention}_{role}.weight", (d.hidden, inner), GgmlType.F16, layers)
        d.add(f"{name}.{attention}_o.weight", (inner, d.hidden), GgmlType.F16, layers)
    d.add(f"{name}.attn_rel_b.weight", (d.heads, buckets), GgmlType.F16, layers[:1])
    d.add(f"{name}.ffn_norm.weight", (d.hidden,), GgmlType.F32, layers)
    for role in ("ffn_gate", "ffn_up") if gated else ("ffn_up",):
        d.add(f"{name}.{role}.weight", (d.hidden, d.width), GgmlType.F16, layers)
    d.add(f"{name}.ffn_down.weight", (d.width, d.hidden), GgmlType.F16, layers)


def _bert(architecture: str, c: Fields, *, positions: bool = True) -> Draft:
    d = Draft(architecture, c, norm="layer")
    if not d.width:
        raise BadInput(f"{c.origin}: `intermediate_size` is missing from the config")
    d.hyper["attention.causal"] = False
    d.add("token_embd.weight", (d.hidden, d.vocab), GgmlType.F16)
    d.add("token_types.weight", (d.hidden, c.count("type_vocab_size", most=64)), GgmlType.F32)
    if positions:
        d.add("position_embd.weight", (d.hidden, d.context), GgmlType.F32)
    d.add("token_embd_norm.weight", (d.hidden,), GgmlType.F32)
    d.add("token_embd_norm.bias", (d.hidden,), GgmlType.F32)
    return d


def _attention_and_norms(d: Draft, *, bias: bool) -> None:
    d.norms("attn_output_norm", "layer_output_norm", bias=True)
    d.attention()
    if bias:
        d.attention_biases(output=True)


def _biased_layers(d: Draft) -> None:
    _attention_and_norms(d, bias=True)
    d.plain_ffn(bias=True)
