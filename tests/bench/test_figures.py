"""From turns to quantities: made turns, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weigh.bench.conditions import During
from weigh.bench.figures import UNITS, noise, quantities, recomputed, settled
from weigh.bench.measure import Condition, Request, Seen, Start, Turn
from weigh.engines.engine import Generation, ProcessMemory
from weigh.engines.served import Answer
from weigh.engines.token_arrivals import Counted
from weigh.store.measurement import Measured

DECODE = Condition(prompt_tokens=0, output_tokens=5, depth_tokens=0, parallel=1)
PREFILL = Condition(prompt_tokens=100, output_tokens=1, depth_tokens=0, parallel=1)
MEMORY = ProcessMemory(private_bytes=10, file_bytes=20, peak_private_bytes=15, peak_bytes=40)
DURING = During(
    took_s=1.0, cores_busy=1.5, clock_hz=2e9, available_bytes=1 << 30, swapped_bytes=0, joules=None
)


def generation(
    prompt: int = 1, cached: int = 0, prefill_s: float = 0.1, step_s: float = 0.1, n: int = 5
) -> Generation:
    steps = (step_s,) * (n - 1)
    times = tuple(prefill_s + 0.01 + step_s * k for k in range(n))
    return Generation(prompt, cached, n, prefill_s, step_s * (n - 1), times, steps)


def turn(condition: Condition, *made: Generation, sent_s: float = 0.0, joules: float | None = None) -> Turn:
    requests = tuple(Request(sent_s * place, one) for place, one in enumerate(made))
    return Turn(condition, 0.0, requests, replace(DURING, joules=joules), MEMORY)


def named(found: tuple[Measured, ...], name: str, clock: str | None = None) -> Measured:
    (one,) = [
        one for one in found if one.name == name and (clock is None or one.conditions.get("clock") == clock)
    ]
    assert one.unit == UNITS[name]
    return one


def test_decode_is_steps_over_their_time_by_each_clock() -> None:
    seen = Seen(turns=[turn(DECODE, generation(step_s=s)) for s in (0.1, 0.2)])
    found = quantities(seen)
    assert named(found, "decode_tokens_per_s", "engine").samples == pytest.approx((10, 5))
    assert named(found, "decode_tokens_per_s", "client").samples == pytest.approx((10, 5))
    assert named(found, "tpot_s").samples == pytest.approx((0.1, 0.2))
    assert named(found, "itl_s").samples == pytest.approx((0.1,) * 4 + (0.2,) * 4)
    assert named(found, "cpu_cores_busy").samples == (1.5, 1.5)
    assert named(found, "itl_s").conditions == {"output_tokens": 5, "depth_tokens": 0, "parallel": 1}


def test_a_slow_start_of_a_decode_is_left_out_of_its_speed() -> None:
    steps = (0.9, 0.5) + (0.1,) * 8
    made = replace(generation(n=11), step_times_s=steps)
    found = quantities(Seen(turns=[turn(replace(DECODE, output_tokens=11), made)]))
    assert named(found, "decode_tokens_per_s", "engine").samples == pytest.approx((10,))


def test_prefill_is_tokens_over_the_time_to_the_first() -> None:
    seen = Seen(turns=[turn(PREFILL, generation(100, prefill_s=0.5, n=1))])
    found = quantities(seen)
    assert named(found, "prefill_tokens_per_s", "engine").samples == pytest.approx((200,))
    assert named(found, "prefill_tokens_per_s", "client").samples == pytest.approx((100 / 0.51,))
    assert named(found, "ttft_s").samples == pytest.approx((0.51,))


def test_prompts_at_once_are_timed_until_the_last_has_its_first_token() -> None:
    condition = replace(PREFILL, parallel=2)
    seen = Seen(
        turns=[
            turn(
                condition,
                generation(100, prefill_s=0.5, n=1),
                generation(100, prefill_s=0.9, n=1),
                sent_s=0.1,
            )
        ]
    )
    found = quantities(seen)
    (rate,) = [one for one in found if one.name == "prefill_tokens_per_s"]
    assert rate.conditions["clock"] == "client"  # the engine's clock of one prompt says nothing of both
    assert rate.samples == pytest.approx((200 / (0.1 + 0.91),))
    assert named(found, "ttft_s").samples == pytest.approx((0.51, 0.91))


def test_sequences_at_once_count_together() -> None:
    condition = replace(DECODE, parallel=2)
    seen = Seen(turns=[turn(condition, generation(), generation(), sent_s=0.05)])
    together = named(quantities(seen), "output_tokens_per_s")
    # eight tokens after the first of each, from 0.11 to 0.05 + 0.51
    assert together.samples == pytest.approx((8 / 0.45,))


def test_a_prefill_whose_past_was_not_in_the_cache_does_not_count() -> None:
    deep = replace(PREFILL, depth_tokens=50)
    good, bad = (turn(deep, generation(tokens, cached, n=1)) for tokens, cached in ((100, 50), (150, 0)))
    assert not recomputed([good, bad])
    assert recomputed([bad, bad])
    found = quantities(Seen(turns=[bad, good]))
    assert len(named(found, "ttft_s").samples) == 1
    assert not [one for one in quantities(Seen(turns=[bad])) if one.name.startswith(("prefill", "ttft"))]


def test_a_server_without_a_clock_is_timed_from_outside_alone() -> None:
    whole = generation()
    answer = Answer(
        **{name: getattr(whole, name) for name in Generation.__dataclass_fields__},
        text="x",
        finish="length",
        piece_times_s=whole.token_times_s,
        piece_tokens=(1,) * 5,
        counted=Counted.EACH,
        own_clock=False,
    )
    found = quantities(Seen(turns=[turn(DECODE, answer)]))
    assert named(found, "decode_tokens_per_s").conditions["clock"] == "client"


def test_loading_and_memory() -> None:
    starts = [Start(True, 3.0, MEMORY, 100), Start(False, 1.0, MEMORY, 100), Start(False, 1.2, MEMORY, None)]
    found = quantities(Seen(starts=starts, turns=[turn(DECODE, generation())], peaks={1: MEMORY}))
    assert named(found, "load_cold_s").samples == (3.0,)
    assert named(found, "load_cached_s").samples == (1.0, 1.2)
    assert named(found, "page_cache_bytes").samples == (100, 100)
    assert named(found, "peak_memory_bytes").samples == (40,)
    assert named(found, "steady_memory_bytes").samples == (30,)
    assert named(found, "mapped_file_bytes").samples == (20,)
    assert named(found, "peak_private_bytes").samples == (15,)


def test_energy_is_shared_among_all_tokens_that_were_processed() -> None:
    found = quantities(Seen(turns=[turn(DECODE, generation(prompt=1), joules=10.0)]))
    assert named(found, "energy_j_per_token").samples == (2.0,)  # one of the prompt, four steps


def test_energy_per_token_is_unknown_where_no_token_was_counted() -> None:
    """A server that counts no prompts: its prefill is one token of output, which is the prefill's own."""
    uncounted = turn(PREFILL, generation(prompt=0, n=1), joules=10.0)
    assert "energy_j_per_token" not in {one.name for one in quantities(Seen(turns=[uncounted]))}


def test_settled_needs_four_turns_that_agree() -> None:
    alike = [turn(DECODE, generation(step_s=s)) for s in (0.100, 0.101, 0.099, 0.100)]
    assert settled(alike, 0.02)
    assert not settled(alike, 0.005)
    assert not settled(alike[:3], 0.5)
    prefills = [turn(PREFILL, generation(100, prefill_s=s, n=1)) for s in (1.0, 1.0, 1.3, 0.7)]
    assert settled(prefills, 0.31)
    assert not settled(prefills, 0.1)


def test_noise_is_that_of_single_steps() -> None:
    assert noise([turn(DECODE, generation())] * 3) == 0
    assert noise([turn(PREFILL, generation(n=1))]) is None
