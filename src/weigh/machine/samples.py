"""From repeated timings to one figure."""

from __future__ import annotations

from collections.abc import Sequence

from weigh.figure import Basis, Figure


def measured_rate(rates_bytes_per_s: Sequence[float], source: str) -> Figure:
    """Median of repeated rates (at least one), with the middle 80 % of them as the interval.

    The median rather than the best: an engine shares the machine with the same neighbours.
    """
    import statistics  # 7 ms, which a probe need not pay

    middle = statistics.median(rates_bytes_per_s)
    low, high = middle, middle
    if len(rates_bytes_per_s) > 1:
        tenths = statistics.quantiles(rates_bytes_per_s, n=10, method="inclusive")
        low, high = tenths[0], tenths[-1]
    return Figure(middle, low, high, "bytes/s", Basis.MEASURED, source)
