"""The interval of a median from the order of its samples alone, whatever they are spread like."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median_interval(samples: Sequence[float], confidence: float = 0.8) -> tuple[float, float]:
    """The narrowest pair of samples, as many ranks from either end, that holds the median that surely.

    Fewer than four samples cannot hold it with 80 %: then the smallest and the largest are given, and
    `interval_confidence` tells how sure that is.

    Raises:
        ValueError: there are no samples.

    Source: David & Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1: ranks r and n + 1 - r hold the
    median with probability 1 - 2 P(B < r), B binomial of n fair coins, or more where samples are equal.
    """
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples, no median")
    rank, _ = _rank(len(ordered), confidence)
    return ordered[rank - 1], ordered[-rank]


def interval_confidence(samples: int, confidence: float = 0.8) -> float:
    """How surely `median_interval` holds the median of so many samples: as asked or more, if any pair does."""
    _, below = _rank(samples, confidence)
    return 1 - 2 * below


def _rank(samples: int, confidence: float) -> tuple[int, float]:
    """The greatest rank r with 1 - 2 P(B < r) >= confidence, else 1; and P(B < r).

    Walks down from the middle, where symmetry gives P(B < r): some sqrt(samples) steps.
    """
    rank = (samples + 1) // 2
    below = 0.5 if samples % 2 else (1 - _probability(rank, samples)) / 2
    while rank > 1 and 1 - 2 * below < confidence:
        rank -= 1
        below -= _probability(rank, samples)
    return rank, below


def _probability(successes: int, coins: int) -> float:
    """P(B = successes)."""
    ways = math.lgamma(coins + 1) - math.lgamma(successes + 1) - math.lgamma(coins - successes + 1)
    return math.exp(ways - coins * math.log(2))
