"""Intervals of ratios: exact where they can be, and holding what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weigh.quality.clustered import ratio, ratio_within, student_t, summed


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"),
    [  # Student's t as printed in tables (Abramowitz & Stegun 1964, table 26.10)
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 7, 2.365),
        (0.95, 30, 2.042),
        (0.95, 120, 1.980),
        (0.8, 1, 3.078),
        (0.8, 10, 1.372),
        (0.99, 4, 4.604),
    ],
)
def test_t_is_that_of_the_tables(confidence: float, freedom: int, t: float) -> None:
    assert student_t(confidence, freedom) == pytest.approx(t, abs=6e-4)


def test_t_goes_over_into_the_normal_distribution() -> None:
    assert student_t(0.95, 1999) == pytest.approx(student_t(0.95, 2000), abs=2e-3)
    assert student_t(0.95, 0) == math.inf


def test_equal_sizes_give_the_usual_interval_of_a_mean() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = ratio(values * 10, [10.0] * 4, 0.95)
    # mean 3, standard deviation sqrt(10/3), t of 3 degrees of freedom 3.1824
    half = 3.1824463 * math.sqrt(10 / 3) / 2
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))


def test_one_cluster_says_nothing_of_its_spread() -> None:
    found = ratio([3.0], [2.0])
    assert found.value == 1.5
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not ratio_within([1.0, 2.0], [1.0, 1.0], math.inf).bounded
    assert not ratio([5.0, 5.0], [1.0, 100.0], 0.95).bounded  # sizes alone vary too much to divide by


def test_what_is_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="above nought"):
        ratio([], [])
    with pytest.raises(ValueError, match="above nought"):
        ratio([1.0], [0.0])


def test_the_interval_holds_the_ratio_as_often_as_it_says() -> None:
    """Clusters of very different sizes, amounts that spread with them."""
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        sizes = draw.lognormal(0, 0.7, 20)
        amounts = 2.5 * sizes + sizes * draw.normal(0, 0.5, 20)
        found = ratio(amounts, sizes, 0.8)
        held += found.low <= 2.5 <= found.high
    assert 0.76 < held / 1000 < 0.84


def test_sums_go_by_cluster_in_order() -> None:
    assert summed([1.0, 2.0, 4.0, 8.0], [7, 3, 7, 3]) == [5.0, 10.0]
