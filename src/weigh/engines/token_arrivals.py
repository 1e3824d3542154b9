"""Which tokens of a stream came when, though they come in pieces of any size.

How many tokens a piece holds is told by the first of these that the server gives:
    with each piece   tokens so far (vLLM's `continuous_usage_stats`, llama.cpp's `timings_per_token`)
    in all            the usage at the end, shared out among the pieces by the length of their text
    not at all        one for each piece, which is a guess and is marked as one
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate, pairwise

from weigh.engines.openai_events import StreamEvent, Timings, Usage


class Counted(StrEnum):
    """How the tokens of each piece were counted."""

    EACH = "with each piece"
    SHARED = "in all, shared out by text"
    PIECES = "not told: one for each piece"


class TokenArrivals:
    """The pieces of one answer with their arrivals, in seconds since the request was sent."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.finish = ""
        self.piece_times_s: list[float] = []
        self.texts: list[str] = []
        self._so_far: list[int | None] = []
        self._clock_s: list[float | None] = []  # the engine's decode clock
        self._last_told: int | None = None
        self._reasoning_shown = False

    def take(self, at_s: float, event: StreamEvent) -> bool:
        """Add an event; whether it brought tokens."""
        self.usage = event.usage or self.usage
        self.timings = event.timings or self.timings
        self.finish = event.finish or self.finish
        self._reasoning_shown |= event.reasons
        told = event.tokens_so_far
        silent = self._so_far and self._so_far[-1] is None  # a total at the end is no arrival of a token
        new = bool(event.text) or (told is not None and not silent and told > (self._last_told or 0))
        self._last_told = self._last_told if told is None else told
        if new:
            self.piece_times_s.append(at_s)
            self.texts.append(event.text)
            self._so_far.append(told)
            self._clock_s.append(event.timings.decode_s if event.timings else None)
        return new

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def hidden_tokens(self) -> int:
        """Tokens of reasoning that were billed and never shown."""
        return self.usage.reasoning_tokens if self.usage and not self._reasoning_shown else 0

    def prompt_tokens(self, asked: int) -> tuple[int, int]:
        """Of the prompt, computed and found in a cache, as the server counts them; else `asked` and none."""
        if self.timings is not None:
            return self.timings.prompt_tokens, self.timings.cached_tokens
        if self.usage is not None:
            cached = min(self.usage.cached_tokens or 0, self.usage.prompt_tokens)
            return self.usage.prompt_tokens - cached, cached
        return asked, 0

    @property
    def counted(self) -> Counted:
        if self._so_far and None not in self._so_far:
            return Counted.EACH
        return Counted.PIECES if self._last_told is None else Counted.SHARED

    @property
    def piece_tokens(self) -> tuple[int, ...]:
        """Tokens of each piece."""
        if self.counted is Counted.EACH:
            ends = list(accumulate((told or 0 for told in self._so_far), max))
            return tuple(now - before for before, now in pairwise([0, *ends]))
        if self.counted is Counted.SHARED:
            shown = max(0, (self._last_told or 0) - self.hidden_tokens)
            return shared_out(shown, [len(text) for text in self.texts])
        return (1,) * len(self.texts)

    @property
    def token_times_s(self) -> tuple[float, ...]:
        """Arrival of each token; those of one piece came together."""
        pieces = zip(self.piece_times_s, self.piece_tokens, strict=True)
        return tuple(at_s for at_s, tokens in pieces for _ in range(tokens))

    @property
    def own_steps_s(self) -> tuple[float, ...]:
        """Each decode step by the engine's clock, () where it has none; tokens of one piece share their time."""
        clock = [seconds for seconds in self._clock_s if seconds is not None]
        if self.counted is not Counted.EACH or len(clock) < len(self._clock_s):
            return ()
        steps: list[float] = []
        decoded_s, first = 0.0, 1
        for clock_s, tokens in zip(clock, self.piece_tokens, strict=True):
            count = tokens - first  # the first token is the prefill's
            if count > 0:
                steps += [max(0.0, clock_s - decoded_s) / count] * count
            if tokens:
                decoded_s, first = clock_s, 0
        return tuple(steps)


def shared_out(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """`total` in whole parts by `weights`, each at least one as long as there are enough.

    The bounds between parts are rounded, so that no error adds up.
    """
    if not weights:
        return ()
    least = int(total >= len(weights))
    rest = total - least * len(weights)
    sums = [0, *accumulate(max(1, weight) for weight in weights)]
    bounds = [round(rest * part / sums[-1]) for part in sums]
    return tuple(least + now - before for before, now in pairwise(bounds))
