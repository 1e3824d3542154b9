"""What the arrivals of one request's tokens say: time to first token, gaps between tokens, time per output token.

Times are seconds since the request was sent. Tokens that come in one piece have the same time, once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise


def ttft_s(times_s: Sequence[float]) -> float | None:
    """Arrival of the first token; None when none came."""
    return times_s[0] if times_s else None


def itl_s(times_s: Sequence[float]) -> tuple[float, ...]:
    """The gap before each token but those of the first piece; a piece of k tokens shares its gap evenly.

    The first piece has no gap: what lies before it is the time to the first token.
    """
    pieces = [(at, sum(1 for _ in same)) for at, same in groupby(times_s)]
    return tuple(
        (now - before) / count for (before, _), (now, count) in pairwise(pieces) for _ in range(count)
    )


def tpot_s(times_s: Sequence[float]) -> float | None:
    """(last arrival - first) / (tokens - 1); None with fewer than two tokens."""
    if len(times_s) < 2:
        return None
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1)
