"""Do transformers and llama.cpp, given the same model in their own formats, agree on the held-out text?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ladder.corpus import SourceFile
from ladder.tokenizer import CONTEXT_TOKENS
from weigh.engines.engine import Limits
from weigh.model.resolve import resolve
from weigh.quality.scorer import open_scorer
from weigh.quality.text import Text, Texts, llama_perplexity


@dataclass(frozen=True, slots=True)
class Agreement:
    """Nats per token over windows of the held-out files in a row, as llama-perplexity cuts them."""

    transformers: float
    llama_cpp: float

    @property
    def perplexity_differs_fraction(self) -> float:
        return math.expm1(self.llama_cpp - self.transformers)


def agreement(checkpoint: Path, gguf: Path, held_out: Sequence[SourceFile]) -> Agreement:
    """Raises EngineError when a model does not load."""
    texts = Texts(tuple(Text(file.path, at, file.text) for at, file in enumerate(held_out)), skipped=0)
    return Agreement(_nats_per_token(checkpoint, texts), _nats_per_token(gguf, texts))


def _nats_per_token(model: Path, texts: Texts) -> float:
    with open_scorer(resolve(str(model)), context_tokens=CONTEXT_TOKENS, limits=Limits()) as scorer:
        return math.log(llama_perplexity(scorer, texts).value)
