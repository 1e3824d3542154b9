"""Architectures of full attention and a mixture of experts."""

from __future__ import annotations

from weigh.model.architectures.draft import Draft
from weigh.model.architectures.fields import Fields


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
