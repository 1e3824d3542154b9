"""Percentiles of latencies, with intervals that know that requests beside each other fare alike.

A request that failed never came to its end: it counts as infinitely late, so that a percentile can come out as
infinite but no failure makes one better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

QUANTILES = (0.5, 0.9, 0.95, 0.99)
Z_80 = 1.2815515655446004  # of the normal distribution: 80 % lie within that many deviations of the middle
_MOST_BATCHES = 20
_LEAST_PER_BATCH = 5


@dataclass(frozen=True, slots=True)
class Percentile:
    """The latency that a share `quantile` of all keeps within, with its 80 % interval.

    `math.inf` for one that lies among the failures, and for a bound that so few requests do not show.
    """

    quantile: float
    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Infinite ones are null."""
        return {
            "quantile": self.quantile,
            "value": _finite(self.value),
            "low": _finite(self.low),
            "high": _finite(self.high),
        }


def percentiles(
    requests: Sequence[Sequence[float]], quantiles: Sequence[float] = QUANTILES
) -> tuple[Percentile, ...]:
    """Over all values of all requests, the requests in order of arrival; () without any.

    Args:
        requests: the values of each: one (a time to first token) or many (gaps between tokens); `math.inf`
            for one that never came.

    The percentile is interpolated between order statistics (Hyndman & Fan 1996, type 7, as NumPy does). Its
    interval is that of order statistics: the share of values below the true percentile is within
    q ± z sqrt(q (1 - q) / n) (David & Nagaraja, Order Statistics, 2003, section 7.1). n is not the number of
    values but of independent ones: from how much the share below the percentile differs between batches of
    neighbouring requests (batch means; Law, Simulation Modeling and Analysis, 2015, section 9.5.3).
    """
    ordered = sorted(value for values in requests for value in values)
    if not ordered:
        return ()
    found = []
    for quantile in quantiles:
        value = _at(ordered, quantile)
        spread = Z_80 * math.sqrt(quantile * (1 - quantile) / _independent(requests, value, len(ordered)))
        edge = 0.5 / len(ordered)
        low, high = quantile - spread, quantile + spread
        found.append(
            Percentile(
                quantile,
                value,
                _at(ordered, max(0.0, low)),
                math.inf if high > 1 - edge else _at(ordered, high),
            )
        )
    return tuple(found)


def share_interval(met: int, of: int) -> tuple[float, float]:
    """80 % interval of a share. Source: Wilson, JASA 22, 1927."""
    if not of:
        return 0.0, 1.0
    share, z2 = met / of, Z_80**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z_80 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def _at(ordered: Sequence[float], quantile: float) -> float:
    place = quantile * (len(ordered) - 1)
    below = math.floor(place)
    part = place - below
    if not part:
        return ordered[below]
    first, second = ordered[below], ordered[below + 1]
    return math.inf if math.isinf(second) else first + part * (second - first)


def _independent(requests: Sequence[Sequence[float]], value: float, values: int) -> float:
    """How many independent values would leave the share at or below `value` as uncertain as these do."""
    batches = min(_MOST_BATCHES, len(requests) // _LEAST_PER_BATCH)
    if batches < 4:
        return min(values, len(requests))
    edges = [len(requests) * number // batches for number in range(batches + 1)]
    sizes, hits = [], []
    for start, end in pairwise(edges):
        inside = [one for values_of in requests[start:end] for one in values_of]
        sizes.append(len(inside))
        hits.append(sum(1 for one in inside if one <= value))
    total = sum(sizes)
    share = sum(hits) / total
    deviations = sum((hit - share * size) ** 2 for hit, size in zip(hits, sizes, strict=True))
    variance = deviations / total**2 * batches / (batches - 1)
    if not variance or not 0 < share < 1:
        return min(values, len(requests))
    return max(1.0, min(values, share * (1 - share) / variance))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
