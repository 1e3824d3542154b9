"""A server as a scorer: one whose `/v1/completions` gives log-probabilities of the prompt (`echo`), as vLLM does."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from weigh.engines.closing import ClosedAfterUse
from weigh.engines.endpoint import Refused
from weigh.engines.engine import Limits
from weigh.engines.openai_api import COMPLETIONS, OpenAiModel
from weigh.errors import EngineCrashed, NotSupported
from weigh.quality.scorer import Scores, TokenizedText

_CONTEXT_TOKENS = 2048  # where the server does not say what it takes
_PROBE = "def add(a, b):\n    return a + b\n"


class UrlScorer(ClosedAfterUse):
    """See `weigh.quality.scorer.Scorer`. The server is asked by token ids, so it needs its tokenizer at hand too.

    A server tells neither its vocabulary nor its special tokens. What its tokenizer puts before a text is taken for
    the BOS; of a model without one a line break stands before each text.
    """

    start: int | None

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key_variable: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Find out what the server is, and whether it gives what scoring needs.

        Raises:
            NotSupported: it gives no log-probabilities of prompt tokens, or does not tokenize.
            BadInput, EngineError: as `OpenAiModel`.
        """
        self._served = OpenAiModel(url, model=model, key_variable=key_variable, limits=limits)
        _, address = self._served.command
        self._base = address.removeprefix(self._served.endpoint.origin)
        self.name = self._served.version
        self.model = self._served.model
        known = self._served.context_tokens
        self.context_tokens = (
            _CONTEXT_TOKENS if known is None else max(1, known - 2)
        )  # the last, and one that is written
        plain, whole = self._token_ids(_PROBE, special=False), self._token_ids(_PROBE, special=True)
        self.adds_bos = whole[1:] == plain
        self.start = whole[0] if self.adds_bos else self._token_ids("\n", special=False)[0]
        self.vocab = 0  # not told, and with a start token not needed
        try:
            self.score(whole, 1)
        except Refused as error:
            raise self._gives_none(f" ({error.message})") from None

    def tokenize(self, text: str) -> TokenizedText:
        """By the server's own tokenizer; where each token ends it does not say.

        Raises:
            NotSupported: it has no `/tokenize`.
        """
        return TokenizedText(self._token_ids(text, special=False), None)

    def _token_ids(self, text: str, *, special: bool) -> list[int]:
        body = {"model": self.model, "prompt": text, "add_special_tokens": special}
        body |= {"content": text, "add_special": special}  # in llama-server's words
        root = re.sub(r"/v\d+$", "", self._base)
        try:
            said = self._served.endpoint.post(f"{root}/tokenize", body)
        except (Refused, EngineCrashed):
            said = None
        ids = said.get("tokens") if isinstance(said, dict) else None
        if (
            not ids
            or not isinstance(ids, list)
            or not all(type(one) is int and 0 <= one < 1 << 31 for one in ids)
        ):
            raise NotSupported(
                f"{self._what} does not say how it cuts text into tokens, so it cannot score one",
                hint="vLLM does, at /tokenize",
            )
        return ids

    def score(self, tokens: Sequence[int], first: int) -> Scores:
        """See `Scorer`.

        Raises:
            NotSupported: the answer holds no log-probabilities of the prompt.
            Refused, EngineError: the server says no, or failed.
        """
        import numpy as np

        body = {
            "model": self._served.model,
            "prompt": list(tokens),
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        }
        answer = self._served.endpoint.post(self._base + COMPLETIONS, body)
        logprobs, likeliest = _of_prompt(answer, len(tokens))
        if logprobs is None:
            raise self._gives_none("")
        judged = logprobs[first:]
        if not all(isinstance(one, int | float) and math.isfinite(one) and one <= 1e-3 for one in judged):
            raise EngineCrashed(f"{self._what} gives log-probabilities that are none")
        top = [best is not None and own >= best for own, best in zip(judged, likeliest[first:], strict=True)]
        return Scores(np.array(judged, dtype=np.float64), np.array(top, dtype=bool))

    @property
    def _what(self) -> str:
        return self._served.endpoint.what

    def _gives_none(self, said: str) -> NotSupported:
        return NotSupported(
            f"{self._what} gives no log-probabilities of a prompt's tokens{said}",
            hint="vLLM's completions do; or score the model's own file",
        )

    def close(self) -> None:
        self._served.close()


def _of_prompt(answer: Any, count: int) -> tuple[list[Any] | None, list[float | None]]:
    """Log-probabilities of the prompt's tokens, and of the likeliest at each place; None when there are none."""
    try:
        found = answer["choices"][0]["logprobs"]
        logprobs, tops = found["token_logprobs"], found.get("top_logprobs")
    except (TypeError, KeyError, IndexError):
        return None, []
    if not isinstance(logprobs, list) or len(logprobs) < count or logprobs[0] is not None:
        return None, []  # without the prompt the list is as long as the answer; the first token has no judge
    best = [_highest(top) for top in tops[:count]] if isinstance(tops, list) else []
    return logprobs[:count], best + [None] * (count - len(best))


def _highest(top: Any) -> float | None:
    known = [one for one in top.values() if isinstance(one, int | float)] if isinstance(top, dict) else []
    return max(known, default=None)
