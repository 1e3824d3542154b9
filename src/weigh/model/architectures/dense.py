"""Architectures whose every layer is attention and a dense feed-forward."""

from __future__ import annotations

from weigh.model.architectures.draft import Draft
from weigh.model.architectures.fields import Fields
from weigh.model.ggml_types import GgmlType


def llama(c: Fields) -> Draft:
    """Llama 1 to 3, Mistral 7B and Nemo, Yi, Falcon 3, SmolLM 1 and 2, and many others under that name."""
    d = Draft("llama", c)
    d.embeddings()
    llama_rope_factors(d)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    if c.flag("attention_bias"):
        d.attention_biases(output=True)
    d.gated_ffn()
    return d


def llama_rope_factors(d: Draft) -> None:
    """The frequency factors of Llama 3.1 and later, when the config asks for them."""
    if d.rope().text("rope_type", d.rope().text("type")).lower() == "llama3":
        d.add("rope_freqs.weight", (d.head_dim // 2,), GgmlType.F32)


def qwen2(c: Fields) -> Draft:
    """Qwen 1.5, 2 and 2.5: biases on query, key and value."""
    d = Draft("qwen2", c)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.attention_biases()
    d.gated_ffn()
    return d


def qwen3(c: Fields) -> Draft:
    """Qwen 3: query and key are normalised head by head."""
    d = Draft("qwen3", c)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.head_norms()
    d.gated_ffn()
    return d


def phi3(c: Fields) -> Draft:
    """Phi 3, 3.5 and 4: query, key and value fused, and gate and up fused."""
    d = Draft("phi3", c)
    d.hyper["rope.dimension_count"] = rotated = int(d.head_dim * partial_rotary(d))
    d.hyper["attention.sliding_window"] = c.count("sliding_window", default=0, least=0)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.fused_attention()
    d.matrix("ffn_up", d.hidden, 2 * d.width)
    d.matrix("ffn_down", d.width, d.hidden)
    if d.hyper.get("rope.scaling.type") == "longrope":
        d.add("rope_factors_long.weight", (rotated // 2,), GgmlType.F32)
        d.add("rope_factors_short.weight", (rotated // 2,), GgmlType.F32)
    return d


def partial_rotary(d: Draft, default: float = 1.0) -> float:
    """The part of each head that is rotated."""
    return d.rope().number(
        "partial_rotary_factor", default=d.c.number("partial_rotary_factor", "rotary_pct", default=default)
    )
