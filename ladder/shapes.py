"""The rungs: Llama shapes from 0.2 to 29 million parameters.

From `2m` on every row is a multiple of 256 values long, so that llama.cpp's K-quants apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ladder.tokenizer import CONTEXT_TOKENS, VOCABULARY

if TYPE_CHECKING:
    from transformers import LlamaConfig

ROPE_THETA = 10_000.0
RMS_NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Rung:
    """One size: RMSNorm, SwiGLU, rotary positions, grouped-query attention, tied embeddings."""

    name: str
    hidden: int
    layers: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def parameters(self) -> int:
        """The tied embedding counted once."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        return VOCABULARY * self.hidden + self.layers * layer + self.hidden

    @property
    def learning_rate(self) -> float:
        """Inversely proportional to the width (muP's rule for Adam: Yang et al. 2022, arXiv:2203.03466, table 8).

        The constant is the best of those tried by `python -m ladder rates`; see docs/ladder.md.
        """
        return LEARNING_RATE_TIMES_WIDTH / self.hidden

    def config(self) -> LlamaConfig:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            intermediate_size=self.feed_forward,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=CONTEXT_TOKENS,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            rms_norm_eps=RMS_NORM_EPSILON,
            initializer_range=0.5 * self.hidden**-0.5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )


LEARNING_RATE_TIMES_WIDTH = 0.5

RUNGS = (
    Rung("230k", hidden=64, layers=2, feed_forward=192, heads=2, kv_heads=1, head_dim=32),
    Rung("520k", hidden=96, layers=3, feed_forward=288, heads=3, kv_heads=1, head_dim=32),
    Rung("1m", hidden=128, layers=4, feed_forward=384, heads=4, kv_heads=2, head_dim=32),
    Rung("2m", hidden=256, layers=2, feed_forward=768, heads=4, kv_heads=2, head_dim=64),
    Rung("4m", hidden=256, layers=4, feed_forward=768, heads=4, kv_heads=2, head_dim=64),
    Rung("11m", hidden=512, layers=3, feed_forward=1536, heads=8, kv_heads=4, head_dim=64),
    Rung("29m", hidden=512, layers=9, feed_forward=1536, heads=8, kv_heads=4, head_dim=64),
)


def rung(name: str) -> Rung:
    """Raises KeyError for a name that is not on the ladder."""
    return {each.name: each for each in RUNGS}[name]
