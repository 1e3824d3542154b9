"""Percentiles against NumPy's, and their intervals against what they promise."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from weigh.bench.latency import QUANTILES, percentiles, share_interval


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 1000])
def test_percentiles_are_numpys(count: int) -> None:
    draw = random.Random(count)
    values = [draw.lognormvariate(0, 1) for _ in range(count)]
    found = percentiles([(value,) for value in values])
    expected = np.percentile(values, [100 * quantile for quantile in QUANTILES])
    assert [one.value for one in found] == pytest.approx(list(expected))


def test_nothing_has_no_percentiles() -> None:
    assert percentiles([]) == ()
    assert percentiles([(), ()]) == ()


def test_failures_are_infinitely_late() -> None:
    """Six of a hundred failed: the 90th percentile is among those answered, the 95th is not."""
    values = [(float(n),) for n in range(94)] + [(math.inf,)] * 6
    p50, p90, p95, p99 = percentiles(values)
    assert p50.value == pytest.approx(49.5)
    assert p90.value < 94
    assert math.isinf(p95.value)
    assert math.isinf(p99.value)
    assert p95.to_json()["value"] is None


def test_few_requests_show_no_upper_end_of_a_high_percentile() -> None:
    p50, *_, p99 = percentiles([(float(n),) for n in range(50)])
    assert math.isfinite(p50.high)
    assert math.isinf(p99.high)


def _covered(series: list[list[tuple[float, ...]]], truth: float, quantile: float) -> float:
    found = [percentiles(one, (quantile,))[0] for one in series]
    return sum(one.low <= truth <= one.high for one in found) / len(found)


def test_intervals_hold_the_truth_in_8_of_10_cases() -> None:
    draw = random.Random(5)
    series = [[(draw.expovariate(1),) for _ in range(400)] for _ in range(400)]
    assert 0.74 < _covered(series, math.log(2), 0.5) < 0.88
    assert 0.74 < _covered(series, math.log(10), 0.9) < 0.88


def test_intervals_know_that_neighbours_fare_alike() -> None:
    """A queue that comes and goes: each value is nine tenths of the one before. As if independent, the interval
    would hold the median in fewer than four of ten cases."""
    draw = random.Random(6)
    series = []
    for _ in range(300):
        value, one = draw.gauss(0, 1), []
        for _ in range(1000):
            value = 0.9 * value + math.sqrt(1 - 0.81) * draw.gauss(0, 1)
            one.append((value,))
        series.append(one)
    assert _covered(series, 0.0, 0.5) > 0.7


def test_gaps_of_one_request_count_together() -> None:
    """A hundred requests of fifty gaps, all alike within a request: a hundred values, not five thousand."""
    draw = random.Random(7)
    series = []
    for _ in range(300):
        levels = [draw.gauss(10, 1) for _ in range(100)]
        series.append([(level,) * 50 for level in levels])
    assert 0.7 < _covered(series, 10.0, 0.5) < 0.92


def test_a_share_has_wilsons_interval() -> None:
    """Worked by hand with z = 1.2816: 8 of 10 is (0.8 + 0.0821) / 1.1642 = 0.7577, half-width
    1.2816 / 1.1642 x sqrt(0.016 + 0.004106) = 0.1561."""
    low, high = share_interval(8, 10)
    assert low == pytest.approx(0.6016, abs=2e-3)
    assert high == pytest.approx(0.9138, abs=2e-3)
    assert share_interval(0, 0) == (0.0, 1.0)
    assert share_interval(10, 10)[1] == pytest.approx(1)
