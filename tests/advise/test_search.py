"""Recommendations keep the promises made to the person who asked."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from weigh.advise.needs import TASKS, need
from weigh.advise.search import recommend
from weigh.bench.here import Here
from weigh.engines.engine import Settings
from weigh.estimate.returns import same_bytes
from weigh.estimate.setup import weigh
from weigh.model.resolve import resolve

GIB = 1 << 30


def _with_free(here: Here, free_gib: float, total_gib: float = 64) -> Here:
    host = replace(here.target.host, memory_bytes=int(total_gib * GIB), free_bytes=int(free_gib * GIB))
    return replace(here, target=replace(here.target, host=host))


@pytest.fixture
def roomy(calibrated: Here) -> Here:
    return _with_free(calibrated, 32)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_recommended_breaks_the_need(roomy: Here, task: str) -> None:
    asked = need(task, min_decode_tokens_per_s=3, max_ttft_s=600)
    answer = recommend(asked, roomy)
    assert answer.ranked
    for one in answer.ranked:
        assert one.meets
        assert one.setup.memory.total_bytes <= answer.available_bytes
        assert one.setup.speed is not None
        assert one.setup.speed.decode_tokens_per_s.value >= 3
        assert one.setup.first_token_s is not None
        assert one.setup.first_token_s.value <= 600
        assert one.setup.context_train >= asked.context_tokens


def test_rows_are_different_models_best_first(roomy: Here) -> None:
    answer = recommend(need("coding", min_decode_tokens_per_s=1, max_ttft_s=1e6), roomy)
    assert len({one.entry.id for one in answer.ranked}) == len(answer.ranked) > 3
    points = [one.rank_points for one in answer.ranked]
    assert points == sorted(points, reverse=True)


def test_a_row_says_what_fit_says(roomy: Here) -> None:
    answer = recommend(need("coding", min_decode_tokens_per_s=1, max_ttft_s=1e6), roomy)
    first = answer.ranked[0]
    spec = resolve(f"{first.entry.id}:{first.quantization}")
    alone = weigh(spec, roomy, Settings(context_tokens=8192))
    assert alone.memory == replace(first.setup.memory, available_bytes=alone.available_bytes)
    assert alone.speed == first.setup.speed


def test_more_memory_to_leave_free_never_brings_larger_setups(roomy: Here) -> None:
    easy = {"min_decode_tokens_per_s": 0.1, "max_ttft_s": 1e9}
    small = recommend(need("coding", reserve_bytes=26 * GIB, **easy), roomy, limit=100)
    large = recommend(need("coding", reserve_bytes=0, **easy), roomy, limit=100)
    biggest = max(one.setup.memory.total_bytes for one in small.ranked)
    assert biggest <= 6 * GIB < max(one.setup.memory.total_bytes for one in large.ranked)


def test_when_nothing_meets_the_need_the_nearest_misses_say_why(roomy: Here) -> None:
    answer = recommend(need("coding", min_decode_tokens_per_s=100_000), roomy)
    assert not answer.ranked
    assert answer.met == 0
    assert 1 <= len(answer.misses) <= 3
    for miss in answer.misses:
        assert any("100000 wanted" in shortfall.text for shortfall in miss.shortfalls)


def test_a_machine_with_no_memory_left_gets_an_answer_too(calibrated: Here) -> None:
    answer = recommend(need("coding"), _with_free(calibrated, 0.1, total_gib=1))
    assert not answer.ranked
    assert all(s.what in ("memory", "speed", "first token") for m in answer.misses for s in m.shortfalls)


def test_what_stands_in_the_way_of_a_better_model_is_named(calibrated: Here) -> None:
    answer = recommend(
        need("coding", min_decode_tokens_per_s=0.1, max_ttft_s=1e9), _with_free(calibrated, 12)
    )
    assert any("may be used" in line for line in answer.binding)


def test_without_a_calibration_speeds_are_unknown_and_nothing_is_called_slow(roomy: Here) -> None:
    answer = recommend(need("coding"), replace(roomy, calibration=None))
    assert answer.ranked
    assert all(one.setup.speed is None and one.setup.first_token_s is None for one in answer.ranked)


def test_completion_wants_models_that_fill_in_the_middle(roomy: Here) -> None:
    answer = recommend(need("autocomplete", min_decode_tokens_per_s=1, max_ttft_s=1e6), roomy)
    assert all("coder" in one.name or "code" in one.name or "granite" in one.name for one in answer.ranked)


def test_a_trade_of_bits_for_size_carries_the_chance_that_returns_gives(roomy: Here) -> None:
    easy = need("coding", min_decode_tokens_per_s=0.1, max_ttft_s=1e9)
    answer = recommend(easy, _with_free(roomy, 16))
    first = answer.ranked[0]
    said = [
        found
        for line in answer.trades
        if (found := re.search(r"of one family in .* (\S+) is better than (\S+) with a chance (.*)$", line))
    ]
    assert said
    for other, chosen, chance in (found.groups() for found in said):
        assert chosen == first.quantization != other
        recipes = (chosen, other)
        _, instead = same_bytes(first.setup.memory.weights_bytes, easy.task.axis, recipes)
        assert chance in (f"of {100 * instead.best_chance:.0f} %", "under 1 %", "over 99 %")
