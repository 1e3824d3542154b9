"""Speed is sums of work over rates: each term is worked by hand here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.calibrations import CALIBRATION
from weigh.bench import probes
from weigh.engines.engine import Settings
from weigh.estimate.calibration import StateRate, ThreadRate
from weigh.estimate.graph import Form
from weigh.estimate.speed import Workload, decode_step_s, load_s, prefill_s, speed, thread_share
from weigh.estimate.work import StateWork, work
from weigh.figure import Basis
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind

# hidden 1000, 10 layers: per layer q and output 1000 x 1000, k and v 1000 x 250, ffn 3 x 1000 x 4000
DENSE = probes.dense(
    "d",
    GgmlType.F16,
    layers=10,
    hidden=1000,
    feed_forward=4000,
    heads=8,
    kv_heads=2,
    head_dim=125,
    vocab=2048,
)
DENSE_WEIGHTS = 10 * (2 * 1_000_000 + 2 * 250_000 + 3 * 4_000_000)  # 145 M
OUTPUT_WEIGHTS = 2048 * 1000  # the token embedding, used again as the output matrix
FIXED_S = 1e-3 + 10 * 100e-6 + 2048 * 10e-9  # per token + per layer + per word


def test_decode_streams_every_weight_once() -> None:
    weights_s = 2 * (DENSE_WEIGHTS + OUTPUT_WEIGHTS) / 10e9
    assert decode_step_s(work(DENSE), CALIBRATION, cached_tokens=0) == pytest.approx(weights_s + FIXED_S)


def test_decode_attends_to_every_cached_token_in_every_layer() -> None:
    empty = decode_step_s(work(DENSE), CALIBRATION, cached_tokens=0)
    deep = decode_step_s(work(DENSE), CALIBRATION, cached_tokens=1000)
    flops = 1000 * 10 * 2 * 8 * (125 + 125)  # tokens x layers x 2 x query heads x (key + value)
    assert deep - empty == pytest.approx(flops / 4e9)


def test_a_sliding_layer_reads_no_further_than_its_window() -> None:
    sliding = replace(DENSE, mixers=(Mixer(MixerKind.SLIDING, tuple(range(10)), 8, 2, 125, 125, window=100),))
    at_window = decode_step_s(work(sliding), CALIBRATION, cached_tokens=100)
    assert decode_step_s(work(sliding), CALIBRATION, cached_tokens=5000) == at_window
    assert decode_step_s(work(DENSE), CALIBRATION, cached_tokens=100) == pytest.approx(at_window)


def test_prefill_multiplies_every_weight_twice_per_token_but_the_last_feed_forward() -> None:
    flops_s = 2 * (DENSE_WEIGHTS - 3 * 4_000_000) * 512 / 100e9
    output_s = 2 * OUTPUT_WEIGHTS / 10e9
    pairs = 512 * 512 / 2
    attention_s = pairs * 10 * 2 * 8 * (125 + 125) / 20e9
    values = (
        10 * (2 * 2000 + 2 * 1250 + 3 * 5000) - 3 * 5000
    )  # into and out of q, output, k, v and the ffn's three
    assert prefill_s(work(DENSE), CALIBRATION, tokens=512) == pytest.approx(
        flops_s + values * 512 * 1e-9 + output_s + attention_s + FIXED_S
    )


def test_a_prompt_reads_the_experts_it_visits_and_computes_with_them() -> None:
    spec = probes.mixture("m", GgmlType.F16, layers=2, experts=16, experts_used=4)
    weights = 16 * 3 * 2048 * 768  # of the first layer; the last one's are passed by the last token alone
    todo = work(spec)
    tokens = 64
    without_s = prefill_s(replace(todo, experts=(), last_experts=()), CALIBRATION, tokens=tokens)
    touched = 1 - (1 - 4 / 16) ** tokens
    reading_s = touched * 2 * weights / (10e9 * 0.5)
    computing_s = 2 * weights * 4 / 16 * tokens / (100e9 * 0.25)
    assert prefill_s(todo, CALIBRATION, tokens=tokens) - without_s == pytest.approx(reading_s + computing_s)


def test_a_prompt_of_one_token_costs_no_less_than_streaming_the_weights() -> None:
    one = prefill_s(work(DENSE), CALIBRATION, tokens=1)
    last_feed_forward_s = 2 * 3 * 4_000_000 / 10e9
    assert one >= decode_step_s(work(DENSE), CALIBRATION, cached_tokens=0) - last_feed_forward_s


def test_a_quantized_cache_changes_attention_alone() -> None:
    slower = replace(CALIBRATION, quantized_cache=(0.5, 0.25))
    settings = Settings(kv_type_k=GgmlType.Q8_0, kv_type_v=GgmlType.Q8_0)
    plain = decode_step_s(work(DENSE), slower, cached_tokens=1000)
    quantized = decode_step_s(work(DENSE), slower, cached_tokens=1000, settings=settings)
    attention_s = 1000 * 10 * 2 * 8 * (125 + 125) / 4e9
    assert quantized - plain == pytest.approx(attention_s)  # twice as long


def test_a_state_is_passed_once_per_token_and_layer() -> None:
    states = (StateWork(10, Form.MAMBA2, 1_000_000),)
    known = replace(CALIBRATION, states={Form.MAMBA2: StateRate(1e9, 4e9)})
    todo, stateless = replace(work(DENSE), states=states), work(DENSE)
    step_s = decode_step_s(todo, known, cached_tokens=0) - decode_step_s(stateless, known, cached_tokens=0)
    assert step_s == pytest.approx(10 * 1_000_000 / 1e9)
    prompt_s = prefill_s(todo, known, tokens=100) - prefill_s(stateless, known, tokens=100)
    assert prompt_s == pytest.approx(100 * 10 * 1_000_000 / 4e9)


def test_fewer_threads_are_as_fast_as_was_seen_and_between_that_by_a_power() -> None:
    seen = (ThreadRate(1, 0.5, 0.25), ThreadRate(4, 0.8, 0.5))
    known = replace(CALIBRATION, threads=16, by_threads=seen)
    assert thread_share(known, None) == thread_share(known, 16) == thread_share(known, 64) == (1.0, 1.0)
    assert thread_share(known, 1) == pytest.approx((0.5, 0.25))
    assert thread_share(known, 2) == pytest.approx(((0.5 * 0.8) ** 0.5, (0.25 * 0.5) ** 0.5))
    assert thread_share(known, 8) == pytest.approx((0.8**0.5, 0.5**0.5))
    weights_s = 2 * (DENSE_WEIGHTS + OUTPUT_WEIGHTS) / 10e9
    step_s = decode_step_s(work(DENSE), known, cached_tokens=0, settings=Settings(threads=1))
    assert step_s == pytest.approx(weights_s / 0.5 + FIXED_S)


def test_a_token_streams_only_the_experts_it_visits() -> None:
    spec = probes.mixture("m", GgmlType.F16, layers=1, experts=16, experts_used=4)
    expert_weights = 16 * 3 * 2048 * 768
    todo = work(spec)
    without = decode_step_s(replace(todo, experts=()), CALIBRATION, cached_tokens=0)
    with_experts = decode_step_s(todo, CALIBRATION, cached_tokens=0)
    visited_bytes = 2 * expert_weights * 4 / 16
    assert with_experts - without == pytest.approx(visited_bytes / 10e9)


def test_two_sequences_visit_more_experts_but_not_twice_as_many() -> None:
    spec = probes.mixture("m", GgmlType.F16, layers=1, experts=16, experts_used=4)
    assert work(spec).expert_share == 0.25
    one = decode_step_s(work(spec), CALIBRATION, cached_tokens=0)
    two = decode_step_s(work(spec), CALIBRATION, cached_tokens=0, sequences=2)
    assert one < two < 2 * one


def test_an_untied_output_counts_once_and_the_embedding_table_not_at_all() -> None:
    untied = replace(
        DENSE, tensors=(*DENSE.tensors, replace(DENSE.tensors[0], name="output.weight", type=GgmlType.Q4_K))
    )
    assert work(untied).output == (GgmlType.Q4_K, OUTPUT_WEIGHTS)
    assert sum(n for _, n in work(untied).dense) == DENSE_WEIGHTS


def test_loading_counts_the_file_the_rewritten_part_and_the_vocabulary() -> None:
    seconds = load_s(work(DENSE), CALIBRATION, file_bytes=2_000_000_000, repacked_bytes=500_000_000)
    warm_up_s = 2 * (DENSE_WEIGHTS + OUTPUT_WEIGHTS) / 10e9
    assert seconds == pytest.approx(0.25 + 2048 * 5e-6 + 1.0 + 0.5 + warm_up_s)
    found = speed(work(DENSE), CALIBRATION, Workload(), file_bytes=2_000_000_000, repacked_bytes=500_000_000)
    assert found.load_s.value == pytest.approx(seconds)
    assert found.load_cold_s is not None
    assert found.load_cold_s.value - seconds == pytest.approx(4.0)  # 2 GB at 0.5 GB/s


def test_a_format_that_was_not_run_borrows_from_the_nearest_and_says_so() -> None:
    borrowed = CALIBRATION.rate(GgmlType.Q5_K)
    assert borrowed.decode_bytes_per_s == CALIBRATION.formats["Q4_K"].decode_bytes_per_s
    assert not borrowed.measured
    assert borrowed.spread >= 0.25


def _decode_width(**changes: object) -> float:
    found = speed(
        work(DENSE), replace(CALIBRATION, **changes), Workload(), file_bytes=1, repacked_bytes=0
    ).decode_tokens_per_s
    assert found.low < found.value < found.high
    assert found.basis is Basis.CALIBRATED
    return found.high / found.low


def test_the_interval_widens_with_noise_and_with_a_missed_check() -> None:
    assert _decode_width(noise=0.3) > _decode_width()
    assert _decode_width(problems=("other programs took 40% of the processors' time",)) > _decode_width()
    assert _decode_width(check_decode=1.5) == pytest.approx(_decode_width(check_decode=1 / 1.5))
    assert _decode_width(check_decode=1.5) > _decode_width()


def test_prefill_speed_and_first_token_are_the_same_answer() -> None:
    found = speed(work(DENSE), CALIBRATION, Workload(prompt_tokens=700), file_bytes=1, repacked_bytes=0)
    assert found.prefill_tokens_per_s.value * found.ttft_s.value == pytest.approx(700)
    assert found.prefill_tokens_per_s.low * found.ttft_s.high == pytest.approx(700)


def test_each_visited_expert_costs_its_fixed_time() -> None:
    todo = work(probes.mixture("m", GgmlType.Q4_K, layers=3, experts=32))
    slower = replace(CALIBRATION, expert_s=10e-6)
    more_s = decode_step_s(todo, slower, cached_tokens=0) - decode_step_s(todo, CALIBRATION, cached_tokens=0)
    assert more_s == pytest.approx(3 * 8 * 10e-6)
    together_s = decode_step_s(todo, slower, cached_tokens=0, sequences=1000)
    without_s = decode_step_s(todo, CALIBRATION, cached_tokens=0, sequences=1000)
    assert together_s - without_s == pytest.approx(3 * 32 * 10e-6)  # many sequences visit them all
