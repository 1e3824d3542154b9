"""The loss on held-out files: nats per token, and bits per byte, which do not depend on the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ladder.corpus import SourceFile
from ladder.stream import held_out_windows
from ladder.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Windows of held-out text, (windows, context + 1) token ids, and the bytes each token stands for."""

    windows: NDArray[np.uint16]
    token_bytes: NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[SourceFile], tokenizer: Tokenizer) -> HeldOut:
        return cls(held_out_windows(files, tokenizer), _token_bytes(tokenizer))

    def loss(self, model: LlamaForCausalLM) -> dict[str, float]:
        """Every token but the first is predicted once, from at most a window before it; in float32.

        Special tokens count in the nats and stand for no bytes. The standard error is over windows.
        """
        model.eval()
        by_window: list[float] = []
        for at in range(0, len(self.windows), WINDOWS_AT_ONCE):
            rows = self.windows[at : at + WINDOWS_AT_ONCE].astype("int64")
            tokens = torch.from_numpy(rows).to(model.device)
            with torch.no_grad():
                logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
            nats = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
            by_window += nats.sum(1).tolist()
        predicted = self.windows[:, 1:]
        mean = sum(by_window) / predicted.size
        spread = sum((nats / predicted.shape[1] - mean) ** 2 for nats in by_window) / (len(by_window) - 1)
        return {
            "nats_per_token": mean,
            "nats_per_token_standard_error": math.sqrt(spread / len(by_window)),
            "bits_per_byte": sum(by_window) / math.log(2) / int(self.token_bytes[predicted].sum()),
        }


def _token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """By token id. A byte-level token's name has one character for each of its bytes."""
    import numpy as np

    names = [tokenizer.id_to_token(token) or "" for token in range(tokenizer.get_vocab_size())]
    return np.array([0 if name in SPECIAL_TOKENS else len(name) for name in names])
