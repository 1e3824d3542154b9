"""Tiny models with a vocabulary of one's own: special tokens by name, and one merge of two bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.model.gguf_encoding import pair
from weigh.synth import gguf

SIZE = 512
NORMAL, CONTROL = 1, 3


def write_model(
    path: Path,
    *,
    special: Sequence[str] = (),
    pre: str = "llama-bpe",
    merged: str = "ab",
    context: int = 4096,
) -> int:
    """Write a model whose tokens are the bytes, `merged`, fillers and `special`; the id of the first of these."""
    letters = gguf.byte_letters()
    one, other = (letters[byte] for byte in merged.encode())
    last = ("<|begin|>", "<|end|>", *special)
    fillers = [f"<t{n}>" for n in range(SIZE - len(letters) - 1 - len(last))]
    entries = (
        pair("tokenizer.ggml.model", "gpt2"),
        pair("tokenizer.ggml.pre", pre),
        pair("tokenizer.ggml.tokens", (*letters, one + other, *fillers, *last)),
        pair("tokenizer.ggml.token_type", (NORMAL,) * (SIZE - len(last)) + (CONTROL,) * len(last)),
        pair("tokenizer.ggml.merges", (f"{one} {other}",)),
        pair("tokenizer.ggml.bos_token_id", SIZE - len(last)),
        pair("tokenizer.ggml.eos_token_id", SIZE - len(last) + 1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "_tokenizer", lambda vocab: entries)
        gguf.write_gguf(tiny_llama(vocab=SIZE, context=context), path)
    return SIZE - len(special)
