"""Whether one model is better than another, and how often looking early makes that wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from weigh.quality.clustered import ratio_within, student_t
from weigh.quality.paired import LEAST_UNITS, STATED, Piece, any_time_t, difference

RUNS, LOOKS = 2000, 300


def wrong(draw: Callable[[Any], Any], bound: Callable[[int], float]) -> float:
    """Share of runs without any difference in which somebody who looks after every unit ever sees one."""
    found = draw(np.random.default_rng(11))
    count = np.arange(1, LOOKS + 1)
    sums, squares = np.cumsum(found, axis=1), np.cumsum(found**2, axis=1)
    variance = (squares - sums**2 / count) / np.maximum(count - 1, 1)
    t = np.abs(sums) / np.sqrt(count * np.maximum(variance, 1e-300))
    bounds = np.array([bound(n) for n in count])
    looked = slice(LEAST_UNITS - 1, None)
    return float((t[:, looked] > bounds[looked]).any(axis=1).mean())


def usual(count: int) -> float:
    return student_t(STATED, count - 1)


DRAWS: dict[str, Callable[[Any], Any]] = {
    "normal": lambda draw: draw.standard_normal((RUNS, LOOKS)),
    "heavy tails": lambda draw: draw.standard_t(3, (RUNS, LOOKS)),
    "sizes that vary tenfold": lambda draw: (
        draw.standard_normal((RUNS, LOOKS)) * draw.lognormal(0, 1, (RUNS, LOOKS))
    ),
    "skewed": lambda draw: draw.exponential(1, (RUNS, LOOKS)) - 1,
}


@pytest.mark.parametrize("kind", DRAWS)
def test_looking_after_every_file_is_wrong_one_time_in_twenty_at_most(kind: str) -> None:
    # three standard errors of 2000 runs above 5 %
    assert wrong(DRAWS[kind], any_time_t) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


def test_the_usual_interval_does_not_bear_looking_early() -> None:
    assert wrong(DRAWS["normal"], usual) > 0.25


def test_a_true_difference_is_found_long_before_the_end() -> None:
    draw = np.random.default_rng(3)
    needed = []
    for _ in range(200):
        found = draw.normal(0.5, 1, LOOKS)
        needed.append(
            next(
                count
                for count in range(LEAST_UNITS, LOOKS)
                if ratio_within(found[:count], np.ones(count), any_time_t(count)).low > 0
            )
        )
    assert np.median(needed) < 70


def test_the_bound_is_where_the_bayes_factor_is_twenty() -> None:
    for count in (30, 100, 1000):
        t2, freedom, spread = any_time_t(count) ** 2, count - 1, 1 + count
        inner = (1 + t2 / freedom) / (1 + t2 / (freedom * spread))
        assert spread**-0.5 * inner ** (count / 2) == pytest.approx(20)
    assert any_time_t(3) == math.inf


def pieces(bits: list[float], sizes: int = 1000, *, file: Callable[[int], int] = lambda n: n) -> list[Piece]:
    return [Piece(file(n), 0, n, one, sizes) for n, one in enumerate(bits)]


def test_the_model_that_needs_fewer_bits_is_the_better() -> None:
    draw = np.random.default_rng(1)
    hard = draw.lognormal(7, 1, 40)  # what is hard for both drops out
    one = pieces(list(hard))
    other = pieces(list(hard + 20 + draw.normal(0, 10, 40)))
    found = difference(one, other, by_file=True, any_time=True)
    assert found is not None
    assert found.any_time
    assert found.better == 0
    assert found.shown.low < -0.02 < found.shown.high
    turned = difference(other, one, by_file=True, any_time=True)
    assert turned is not None
    assert turned.better == 1
    assert turned.shown.value == pytest.approx(-found.shown.value)


def test_the_same_model_twice_is_not_better() -> None:
    one = pieces([5.0, 7.0, 9.0] * 20)
    found = difference(one, one, by_file=True, any_time=True)
    assert found is not None
    assert found.better is None
    assert found.shown.value == 0


def test_few_files_do_not_stop_anything() -> None:
    draw = np.random.default_rng(2)
    bits = list(draw.normal(100, 1, 20))
    found = difference(pieces(bits), pieces([one + 5 for one in bits]), by_file=True, any_time=True)
    assert found is not None
    assert found.decided
    assert not found.any_time


def test_files_are_the_units_where_that_was_settled() -> None:
    """Forty blocks in four files that all lean the same way within a file: no forty samples."""
    lean = [1.0, -1.0, 1.0, 0.6]
    bits = [100 + lean[n // 10] for n in range(40)]
    one, other = pieces(bits, file=lambda n: n // 10), pieces([100.0] * 40, file=lambda n: n // 10)
    by_file = difference(one, other, by_file=True, any_time=False)
    by_block = difference(one, other, by_file=False, any_time=False)
    assert by_file is not None
    assert by_block is not None
    assert by_file.shown.clusters == 4
    assert by_file.better is None
    assert by_block.better == 1


def test_parts_cut_in_different_ways_are_compared_whole_and_missing_ones_not_at_all() -> None:
    fine = [Piece(0, 0, 0, 10.0, 500), Piece(0, 0, 1, 20.0, 700), Piece(0, 1, 0, 5.0, 300)]
    coarse = [Piece(0, 0, 0, 40.0, 1200), Piece(0, 2, 0, 5.0, 300)]
    found = difference(fine, coarse, by_file=False, any_time=False)
    assert found is not None
    assert found.text_bytes == 1200
    assert found.shown.value == pytest.approx(-10 / 1200)
    assert difference(fine[:2], coarse[1:], by_file=False, any_time=False) is None
