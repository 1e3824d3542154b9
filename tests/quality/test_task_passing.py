"""pass@k and its intervals, against figures worked out otherwise."""

from __future__ import annotations

import itertools
import math

import pytest

from weigh.quality.tasks.passing import (
    Outcome,
    by_difficulty,
    by_need,
    difference,
    interval,
    pass_at_k,
    rate,
)


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (4, 1, 4)])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(samples: int, passed: int, k: int):
    draws = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_pass_at_k_of_what_cannot_be(samples: int, passed: int, k: int):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, passed, k)


@pytest.mark.parametrize(("count", "passed"), [(10, 3), (40, 39), (120, 1)])
def test_interval_is_the_exact_binomial_one(count: int, passed: int):
    low, high = interval([1.0] * passed + [0.0] * (count - passed), count)

    def at_least(p: float) -> float:
        return sum(math.comb(count, n) * p**n * (1 - p) ** (count - n) for n in range(passed, count + 1))

    def at_most(p: float) -> float:
        return sum(math.comb(count, n) * p**n * (1 - p) ** (count - n) for n in range(passed + 1))

    # the definition: at each end what was seen has a chance of one tenth on its side
    assert at_least(low) == pytest.approx(0.1, abs=1e-6)
    assert at_most(high) == pytest.approx(0.1, abs=1e-6)


def test_interval_at_the_ends():
    assert interval([0.0] * 9, 9) == (0.0, pytest.approx(1 - 0.1 ** (1 / 9), abs=1e-6))
    assert interval([1.0] * 9, 9) == (pytest.approx(0.1 ** (1 / 9), abs=1e-6), 1.0)


def test_samples_of_one_task_do_not_count_as_tasks():
    """Ten samples of each of ten tasks that either always pass or never: as wide as one sample of each."""
    values = [1.0] * 5 + [0.0] * 5
    assert interval(values, 100) == interval(values, 10)
    # tasks that all pass half the time are known better, by their samples and no more
    narrow, wide = interval([0.4, 0.6] * 5, 100), interval(values, 10)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert narrow == pytest.approx(interval([1.0] * 50 + [0.0] * 50, 100), abs=0.01)


def test_rates_by_need_and_difficulty():
    outcomes = [
        Outcome("review/a", "review", 1, 4, 4),
        Outcome("review/b", "review", 3, 4, 1),
        Outcome("completion/a", "completion", 1, 2, 0),
    ]
    assert list(by_need(outcomes)) == ["completion", "review"]
    assert by_need(outcomes)["review"].figure.value == pytest.approx(0.625)
    assert {level: found.tasks for level, found in by_difficulty(outcomes).items()} == {1: 2, 3: 1}
    at_4 = rate(outcomes, 4)
    assert at_4 is not None
    assert (at_4.tasks, at_4.figure.value) == (2, 1.0)  # only tasks with four samples can say
    assert rate(outcomes, 5) is None


def asked(passed: list[int], samples: int = 1) -> list[Outcome]:
    return [Outcome(f"review/{n}", "review", 1, samples, count) for n, count in enumerate(passed)]


@pytest.mark.parametrize(
    ("won", "lost", "same", "better"),
    [(2, 0, 0, None), (5, 0, 40, None), (6, 0, 40, 0), (0, 6, 0, 1), (9, 1, 9, 0), (8, 2, 9, None)],
)
def test_better_is_what_the_exact_sign_test_says(won: int, lost: int, same: int, better: int | None):
    """Of single answers the draws of signs are McNemar's exact test: chances of 0.5, 0.062, 0.031, 0.021, 0.109."""
    first = asked([1] * won + [0] * lost + [1] * same)
    second = asked([0] * won + [1] * lost + [1] * same)
    found = difference(first, second)
    assert found is not None
    assert (found.better, found.tasks) == (better, won + lost + same)
    assert found.figure.value == pytest.approx((won - lost) / (won + lost + same))


def test_equal_models_are_seldom_told_apart():
    import numpy as np

    random = np.random.default_rng(1)
    told = 0
    for _ in range(200):
        chances = random.random(40)
        found = difference(*(asked(random.binomial(3, chances).tolist(), 3) for _ in range(2)))
        told += found is not None and found.better is not None
    assert told <= 20  # 10 of 200 expected


def test_tasks_that_only_one_was_asked_do_not_count():
    assert difference(asked([1]), asked([1, 0])) is None
    found = difference(asked([1, 1]), asked([1, 1, 0]))
    assert found is not None
    assert (found.figure.value, found.better, found.tasks) == (0.0, None, 2)
