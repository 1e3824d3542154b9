"""Prompts that no cache has seen, of given lengths: random token ids where the server takes them, else words."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from weigh.engines.served import words

if TYPE_CHECKING:
    from weigh.engines.openai_api import OpenAiModel

_POOL_TOKENS = 512
_SHORT_WORDS, _LONG_WORDS = 16, 80


class Prompts:
    """Drawn from a seed; the same number gives the same prompt.

    Attributes:
        shared_prefix: tokens at the start that all prompts have in common, for caches to find.
        exact: whether lengths are those asked for; of text they are only near.
    """

    def __init__(self, served: OpenAiModel, *, seed: int, shared_prefix: int = 0) -> None:
        """Asks the server once or twice: for token ids, or what words come to.

        Raises:
            WeighError: as `OpenAiModel.generate`: the server does not answer.
        """
        self._seed = seed
        self.shared_prefix = shared_prefix
        pool = served.prompt(_POOL_TOKENS, seed)
        served.generate(pool[:8] if isinstance(pool, list) else words(_SHORT_WORDS, seed), 2)
        self._ids: list[int] = []
        if isinstance(pool, list) and served.way is not None and not served.way.chat:
            self._ids = sorted(set(pool))
        else:
            self._count_words(served)

    @property
    def exact(self) -> bool:
        return bool(self._ids)

    def _count_words(self, served: OpenAiModel) -> None:
        """Tokens of a prompt are its words' and a fixed number for the chat around them."""
        counted = []
        for number in (_SHORT_WORDS, _LONG_WORDS):
            answer = served.generate(words(number, self._seed + number), 2)
            counted.append(answer.prompt_tokens + answer.cached_tokens)
        short, long = counted
        known = long > short > 0
        self._per_word = (long - short) / (_LONG_WORDS - _SHORT_WORDS) if known else 1.0
        self._around = max(0.0, short - self._per_word * _SHORT_WORDS) if known else 0.0

    def prompt(self, number: int, tokens: int) -> list[int] | str:
        """The prompt of request `number`; the shared prefix counts among its tokens, one at least is its own."""
        shared = min(self.shared_prefix, tokens - 1)
        own = random.Random(f"prompt {self._seed} {number}")
        if self._ids:
            common = random.Random(f"prefix {self._seed}").choices(self._ids, k=shared)
            return common + own.choices(self._ids, k=tokens - shared)
        count = max(1, round((tokens - self._around) / self._per_word))
        first = min(count - 1, round(shared / self._per_word))
        rest = words(count - first, own.getrandbits(62))
        return f"{words(first, self._seed)} {rest}" if first else rest
