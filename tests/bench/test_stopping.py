"""Warm-up and stopping, on made series, and on recorded ones of a real engine."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path

import pytest

from weigh.bench.stopping import half_width, warm_up

RECORDED = json.loads((Path(__file__).parent / "data/steps.json").read_text())


def noisy(level_s: float, count: int, seed: int, spread: float = 0.02) -> list[float]:
    draw = random.Random(seed)
    return [level_s * (1 + draw.gauss(0, spread)) for _ in range(count)]


@pytest.mark.parametrize("slow", [5, 12, 30])
def test_a_slow_start_is_left_out_and_little_more(slow: int) -> None:
    for seed in range(20):
        series = noisy(0.2, slow, seed) + noisy(0.1, 100, seed + 100)
        assert slow - 2 <= warm_up(series) <= slow + 10  # told in fives


def test_a_start_that_fades_is_left_out_as_far_as_it_shows() -> None:
    fading = [0.1 * (1 + math.exp(-step / 8)) for step in range(128)]
    cut = warm_up(fading)
    assert 15 <= cut <= 60
    assert statistics.fmean(fading[cut:]) == pytest.approx(0.1, rel=0.01)


def test_steady_series_are_hardly_ever_cut() -> None:
    cut = [warm_up(noisy(0.1, count, seed)) for count in (8, 30, 100) for seed in range(100)]
    assert sum(one > 0 for one in cut) <= 0.1 * len(cut)


def test_single_slow_steps_are_no_warm_up() -> None:
    series = noisy(0.1, 100, 1)
    series[3], series[20], series[45] = 0.9, 0.5, 0.7
    assert warm_up(series) == 0


def test_steps_that_grow_with_the_context_are_no_warm_up() -> None:
    assert warm_up([0.1 + 0.001 * step for step in range(128)]) == 0


def test_few_samples_and_equal_ones() -> None:
    assert warm_up([]) == warm_up([1.0]) == warm_up([9.0, 1.0, 1.0]) == 0
    assert warm_up([0.1] * 50) == 0
    assert warm_up([9.0, 1.0, 1.0, 1.0, 1.0]) == 1  # by hand: the error falls to nought once the 9 is out


def test_recorded_steps_of_a_quiet_machine_are_all_kept() -> None:
    assert [warm_up(series) for series in RECORDED["quiet"]] == [0, 0]


def test_recorded_steps_that_began_among_other_programs_lose_their_start() -> None:
    series = RECORDED["busy at first"]
    cut = warm_up(series)
    assert 3 <= cut <= len(series) // 2
    assert max(series[cut:]) < max(series[:cut])
    assert statistics.median(series[:cut]) > statistics.median(series[cut:])


def test_half_width_by_hand() -> None:
    assert half_width([]) == half_width([1.0, 1.0, 1.0]) == math.inf  # three give 75 % at most
    assert half_width([9.0, 11.0, 10.0, 10.0]) == pytest.approx(0.1)  # 9 to 11: 87.5 %
    assert half_width([0.0] * 4) == math.inf


def test_the_interval_narrows_with_the_root_of_the_samples() -> None:
    widths = [statistics.median(half_width(noisy(1, n, seed)) for seed in range(50)) for n in (10, 40, 160)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.4)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.4)
