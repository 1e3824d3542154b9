"""Small real models and texts that several test files score."""

from __future__ import annotations

from pathlib import Path

from tests.tiny_models import tiny_llama
from weigh.engines.engine import Limits
from weigh.engines.served import words
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.quality.scorer import ChildScorer, open_scorer
from weigh.quality.text import Text, Texts
from weigh.synth.gguf import write_gguf

ENGLISH = words(600, 7)  # 3,579 bytes, and as many tokens of a synthetic model


def synthetic(path: Path, embedding: GgmlType = GgmlType.F16, *, vocab: int = 1024, seed: int = 0) -> Path:
    """Two models that differ in `embedding` alone have the same vocabulary and are near each other."""
    write_gguf(tiny_llama(matrix_type=GgmlType.F16, embedding_type=embedding, vocab=vocab), path, seed=seed)
    return path


def opened(
    path: Path, reference: Path | None = None, *, context_tokens: int = 512, limits: Limits | None = None
) -> ChildScorer:
    # one thread: several spinning ones on cores that others use as well take a hundred times as long
    return open_scorer(
        read_gguf(path),
        context_tokens=context_tokens,
        limits=limits or Limits(),
        threads=1,
        reference=reference and read_gguf(reference),
    )


def texts(*each: str) -> Texts:
    return Texts(tuple(Text(f"{number}.txt", number, one) for number, one in enumerate(each)), 0)
