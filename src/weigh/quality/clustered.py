"""A ratio of sums over clusters (bits over bytes, nats over tokens), with intervals that clusters alone vouch for.

Tokens of one file are alike, so they do not count as so many independent samples: what is drawn independently is
the file, or where files are few the window or block. The ratio's interval is Fieller's: all r for which the mean of
`amount - r x size` over the clusters is not significantly off nought. It holds for clusters of any sizes, is exact
where those differences are normal, and is unbounded where the clusters are too few to say.

Source: Fieller 1954, Some problems in interval estimation, J. R. Stat. Soc. B 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_NORMAL_FROM = 2000  # degrees of freedom from which Student's t is the normal distribution to four digits


@dataclass(frozen=True, slots=True)
class Ratio:
    """Sum of amounts over sum of sizes, and the interval that holds the true ratio with the confidence asked."""

    value: float
    low: float
    high: float
    clusters: int

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def ratio(amounts: ArrayLike, sizes: ArrayLike, confidence: float = 0.8) -> Ratio:
    """The ratio of `amounts` to `sizes`, one of each per cluster, at a number of clusters fixed beforehand.

    Raises:
        ValueError: there are no clusters, or a size is not above nought.
    """
    count = _sums(amounts, sizes)[2]
    return ratio_within(amounts, sizes, student_t(confidence, count - 1))


def ratio_within(amounts: ArrayLike, sizes: ArrayLike, critical_t: float) -> Ratio:
    """The same for any bound on the t statistic; infinite for none."""
    amount, size, count = _sums(amounts, sizes)
    value = float(amount.sum() / size.sum())
    if count < 2 or not math.isfinite(critical_t):
        return Ratio(value, -math.inf, math.inf, count)
    t2 = critical_t**2 / count
    amount_mean, size_mean = float(amount.mean()), float(size.mean())
    off, wide = amount - amount_mean, size - size_mean
    scale = 1 / (count - 1)
    # all r with (amount_mean - r size_mean)² <= t² var(amount - r size) / count: a quadratic in r
    a = size_mean**2 - t2 * scale * float(wide @ wide)
    b = amount_mean * size_mean - t2 * scale * float(off @ wide)
    c = amount_mean**2 - t2 * scale * float(off @ off)
    if a <= 0:
        return Ratio(value, -math.inf, math.inf, count)
    half = math.sqrt(max(0.0, b * b - a * c))
    return Ratio(value, (b - half) / a, (b + half) / a, count)


def _sums(amounts: ArrayLike, sizes: ArrayLike) -> tuple[Any, Any, int]:
    import numpy as np

    amount, size = np.asarray(amounts, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if not len(amount) or len(amount) != len(size) or not (size > 0).all():
        raise ValueError("every cluster has an amount and a size above nought, and there is one at least")
    return amount, size, len(amount)


def summed(values: Sequence[float], clusters: Sequence[int]) -> list[float]:
    """Sums of `values` by cluster, in the order in which clusters first come."""
    sums: dict[int, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return list(sums.values())


@lru_cache(maxsize=4096)
def student_t(confidence: float, freedom: int) -> float:
    """The t within which Student's distribution has the share `confidence`; infinite without freedom."""
    if freedom < 1:
        return math.inf
    if freedom >= _NORMAL_FROM:
        from statistics import NormalDist

        return NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = 0.0, math.pi / 2
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _share(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _share(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle)).

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, finite sums for whole degrees of freedom.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 + odd, freedom, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
