"""Passes at the same tasks move indices as far as they are sure, and a model alone is not moved."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from weigh.advise.shift import BENCHMARK_SD_POINTS, LEAST_TASKS, Shares, shifts
from weigh.figure import Basis, Figure

_Z80 = NormalDist().inv_cdf(0.9)


def _prior(value: float, sd: float) -> Figure:
    return Figure(value, value - _Z80 * sd, value + _Z80 * sd, "points", Basis.PUBLISHED)


def _passing(count: int, tasks: int) -> Shares:
    """The first `count` of `tasks`."""
    return {str(number): float(number < count) for number in range(tasks)}


def test_a_model_alone_and_models_on_different_tasks_are_not_moved() -> None:
    assert shifts({"a": _prior(50, 3)}, {"a": _passing(10, 20)}) == {}
    others = {f"other {name}": share for name, share in _passing(10, 20).items()}
    assert shifts({m: _prior(50, 3) for m in "ab"}, {"a": _passing(10, 20), "b": others}) == {}
    few = _passing(5, LEAST_TASKS - 1)
    assert shifts({m: _prior(50, 3) for m in "ab"}, {"a": few, "b": few}) == {}


def test_of_two_models_it_is_the_difference_weighted_by_precision() -> None:
    """Held against the textbook formula for one difference."""
    tasks, a, b = 200, 140, 100
    sd = {"a": 3.0, "b": 1.0}
    priors = {"a": _prior(55, sd["a"]), "b": _prior(52, sd["b"])}
    found = shifts(priors, {"a": _passing(a, tasks), "b": _passing(b, tasks)})
    inner = [(n + 0.5) / (tasks + 1) for n in (a, b)]
    measured = 10 * (math.log(inner[0] / (1 - inner[0])) - math.log(inner[1] / (1 - inner[1])))
    # differences of the tasks are 0 or 1; half a task's disagreement on top of each model's half of their squares
    gap = (a - b) / tasks
    between = (0.5 + 0.5 * tasks * gap * (1 - gap)) / (tasks - 1)
    noise = sum((10 / (p * (1 - p))) ** 2 * between / tasks + BENCHMARK_SD_POINTS**2 for p in inner)
    before = sd["a"] ** 2 + sd["b"] ** 2
    moved = (measured - 3) * before / (before + noise)
    assert found["a"].points - found["b"].points == pytest.approx(moved, rel=1e-3)
    assert found["a"].points / -found["b"].points == pytest.approx(9)  # each by how unsure it was
    assert found["a"].tasks == tasks
    assert found["a"].beside == ("b",)
    left = sd["a"] ** 2 - sd["a"] ** 4 / (before + noise)
    assert found["a"].width == pytest.approx(math.sqrt(left) / sd["a"], rel=1e-3)


def test_the_interval_holds_what_it_says_it_does() -> None:
    """Indices drawn from their priors, tasks of unknown difficulty, a benchmark's own error: 8 of 10 are inside."""
    rng = random.Random(5)
    inside = drawn = 0
    nearer: list[float] = []
    for _ in range(300):
        truth = {name: rng.gauss(50, 4) for name in "abcd"}
        hard = [rng.gauss(0, 1.5) for _ in range(60)]
        shares = {}
        for name, index in truth.items():
            level = (index - 50 + rng.gauss(0, BENCHMARK_SD_POINTS)) / 10
            shares[name] = {
                str(number): float(rng.random() < 1 / (1 + math.exp(off - level)))
                for number, off in enumerate(hard)
            }
        for name, shift in shifts({name: _prior(50, 4) for name in truth}, shares).items():
            half = _Z80 * 4 * shift.width
            inside += abs(50 + shift.points - truth[name]) <= half
            nearer.append(abs(50 - truth[name]) - abs(50 + shift.points - truth[name]))
            drawn += 1
    assert drawn == 1200
    assert 0.74 < inside / drawn < 0.86
    assert sum(nearer) > 0  # it helps


def test_two_that_pass_nothing_are_not_held_for_equal() -> None:
    priors = {"a": _prior(50, 3), "b": _prior(40, 3)}
    found = shifts(priors, {name: _passing(0, 20) for name in priors})
    assert abs(found["a"].points) < 0.5
    assert found["a"].width > 0.95


def test_a_model_with_few_tasks_in_common_does_not_spoil_the_rest() -> None:
    shares = {"a": _passing(30, 60), "b": _passing(40, 60), "c": _passing(2, 5)}
    found = shifts({name: _prior(50, 3) for name in shares}, shares)
    assert set(found) == {"a", "b"}
    assert found["a"].tasks == 60
