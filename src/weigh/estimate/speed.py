"""How fast: prefill, decode, time to first token and load time, from work and a machine's calibration.

Decode of one token   sum over formats of weight bytes / decode rate
                      + per attention layer: operations over the cached tokens / decode attention rate
                      + values of recurrent states / state rate
                      + visited experts x fixed time + layers x fixed time + fixed time per token
                      + vocabulary x time per word
Prefill of T tokens   sum over formats of 2 x weights x T / prefill rate, but at least streaming the weights
                      once per micro-batch; of experts both, since each has few tokens;
                      + T x numbers into and out of the matrices x time per number;
                      the last layer's feed-forward part only for the last token;
                      + attention over T x depth + T^2 / 2 pairs; + T x states;
                      the output matrix once, for the last token
Load                  engine start + vocabulary + file bytes / load rate + repacked bytes / repack rate
                      + the engine's warm-up step, which visits every expert;
                      + file bytes / read rate of the disk when the file is not in memory yet
With fewer threads, or a quantized cache, the rates change by what the calibration saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration, FormatRate
from weigh.estimate.work import AttentionWork, Work
from weigh.figure import Basis, Figure
from weigh.model.stored_types import NumberFormat

FORMULA_VERSION = 3
"""Goes up whenever the formula, or how its rates are measured, gives other figures: calibrations of an earlier
version are then made again, and runs estimated by one teach no more."""

Weights = tuple[tuple[NumberFormat, int], ...]
_DEFAULTS = Settings()

# Relative 80 % half-widths that remain when format rates are exact, from the residuals of full runs
# against calibrated estimates (docs/accuracy.md; `python benchmarks/accuracy.py`).
DECODE_ERROR = 0.10
PREFILL_ERROR = 0.18
EXPERTS_ERROR = 0.12
LOAD_ERROR = 1.50
UNMEASURED_MIXER_ERROR = 0.30
SMALL_BATCH_ERROR = 0.15  # several sequences
DISTURBED_ERROR = 0.50  # calibrated while something else kept the machine busy


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the model.

    Attributes:
        prompt_tokens: tokens prefilled; prefill speed is the mean over them (llama-bench pp).
        output_tokens: tokens decoded; decode speed is the mean over them (llama-bench tg).
        depth_tokens: tokens already in the cache before either.
        parallel: sequences decoded at once; decode speed is that of each of them.
    """

    prompt_tokens: int = 512
    output_tokens: int = 128
    depth_tokens: int = 0
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Speed of one setup. `load_s` finds the file in the page cache, `load_cold_s` does not."""

    prefill_tokens_per_s: Figure
    decode_tokens_per_s: Figure
    ttft_s: Figure
    load_s: Figure
    load_cold_s: Figure | None


def decode_step_s(
    work: Work,
    calibration: Calibration,
    *,
    cached_tokens: float,
    sequences: int = 1,
    settings: Settings = _DEFAULTS,
) -> float:
    """Seconds of one decode step in which each of `sequences` gets one token.

    Beyond the first sequence a weight is already at hand and costs only its arithmetic; of stacked experts a
    batch visits E * (1 - (1 - share)^n) distinct ones on average.

    Args:
        settings: their threads and cache types count.
    """
    more = (sequences - 1) * calibration.batch_cost
    weights_s = 0.0
    for kind, weights in (*work.dense, work.output):
        weights_s += _weights_step_s(kind, weights, weights, calibration.rate(kind), more)
    distinct = 1 - (1 - work.expert_share) ** sequences
    for kind, weights in work.experts:
        rate = calibration.rate(kind)
        weights_s += _weights_step_s(kind, weights * distinct, weights * work.expert_share, rate, more)
    weights_s += work.expert_layers * work.expert_count * distinct * calibration.expert_s
    attention_s = 0.0
    for attention in work.attention:
        tokens = min(cached_tokens, attention.window) if attention.window else cached_tokens
        pairs = sequences * tokens * attention.layers
        attention_s += pairs * attention.flops / calibration.decode_attention_flops_per_s
    if settings.kv_type_k.quantized:
        attention_s /= calibration.quantized_cache[0]
    for state in work.states:
        if known := calibration.states.get(state.form):
            attention_s += sequences * state.layers * state.values / known.decode_values_per_s
    fixed_s = (
        calibration.token_s + calibration.layer_s * work.layers + sequences * calibration.vocab_s * work.vocab
    )
    return fixed_s + (weights_s + attention_s) / thread_share(calibration, settings.threads)[0]


def thread_share(calibration: Calibration, threads: int | None) -> tuple[float, float]:
    """Rates with `threads` over those with the calibration's: decode, prefill.

    Between the counts that were run, rates follow a power of the threads; more than the calibration's gain
    nothing, since those are all the cores.
    """
    if threads is None or threads >= calibration.threads:
        return 1.0, 1.0
    known = [(rate.threads, rate.decode, rate.prefill) for rate in calibration.by_threads]
    known = [(0, 0.0, 0.0), *known, (calibration.threads, 1.0, 1.0)]
    high = next(i for i, (count, _, _) in enumerate(known) if count >= threads)
    (below, *slow), (above, *fast) = known[high - 1], known[high]
    if not below:  # fewer than were ever run: in proportion
        return fast[0] * threads / above, fast[1] * threads / above
    share = math.log(threads / below) / math.log(above / below)
    decode, prefill = (a ** (1 - share) * b**share for a, b in zip(slow, fast, strict=True))
    return decode, prefill


def _weights_step_s(
    kind: NumberFormat, streamed: float, per_sequence: float, rate: FormatRate, more: float = 0.0
) -> float:
    streaming = streamed * kind.block_bytes / kind.block_weights / rate.decode_bytes_per_s
    return streaming + more * 2 * per_sequence / rate.prefill_flops_per_s


def prefill_s(
    work: Work,
    calibration: Calibration,
    *,
    tokens: int,
    depth_tokens: int = 0,
    settings: Settings = _DEFAULTS,
) -> float:
    """Seconds until the first output token of a prompt of `tokens`, `depth_tokens` being cached.

    Args:
        settings: their threads, cache types and micro-batch count.
    """
    micro_batches = math.ceil(tokens / settings.ubatch_tokens)
    per_batch = tokens / micro_batches
    fixed_s = calibration.token_s + calibration.vocab_s * work.vocab
    fixed_s += calibration.layer_s * work.layers * micro_batches
    kind, weights = work.output
    total = _weights_step_s(kind, weights, 0, calibration.rate(kind))
    for kind, weights in passed_weights(work.dense, work.last_dense):
        rate = calibration.rate(kind)
        streaming = _weights_step_s(kind, weights, 0, rate)
        total += micro_batches * max(streaming, 2 * weights * per_batch / rate.prefill_flops_per_s)
    touched = 1 - (1 - work.expert_share) ** per_batch
    for kind, weights in passed_weights(work.experts, work.last_experts):
        rate = calibration.rate(kind)
        streaming = _weights_step_s(kind, weights * touched, 0, rate) / calibration.expert_stream
        flops = 2 * weights * work.expert_share * per_batch
        compute = flops / (rate.prefill_flops_per_s * calibration.expert_prefill)
        total += micro_batches * (streaming + compute)
    total += tokens * (work.values - work.last_values) * calibration.value_s
    attention_s = 0.0
    for attention in work.attention:
        pairs = _attended_pairs(attention, tokens, depth_tokens)
        attention_s += pairs * attention.layers * attention.flops / calibration.prefill_attention_flops_per_s
    if settings.kv_type_k.quantized:
        attention_s /= calibration.quantized_cache[1]
    for state in work.states:
        if known := calibration.states.get(state.form):
            total += tokens * state.layers * state.values / known.prefill_values_per_s
    return fixed_s + (total + attention_s) / thread_share(calibration, settings.threads)[1]


def passed_weights(weights: Weights, last: Weights) -> Iterator[tuple[NumberFormat, int]]:
    """Weights that every token of a prompt passes: all but the last layer's feed-forward part."""
    left_out = dict(last)
    return ((kind, count - left_out.get(kind, 0)) for kind, count in weights)


def _attended_pairs(attention: AttentionWork, tokens: int, depth_tokens: int) -> float:
    """(token, earlier token) pairs: every token sees the depth and the prompt before it, or its window."""
    pairs = tokens * depth_tokens + tokens * tokens / 2
    return min(pairs, tokens * attention.window) if attention.window else pairs


def load_s(work: Work, calibration: Calibration, *, file_bytes: int, repacked_bytes: int) -> float:
    """Seconds from starting the engine to its readiness, with the file in the page cache."""
    total = calibration.load_fixed_s + calibration.load_vocab_s * work.vocab
    total += file_bytes / calibration.load_bytes_per_s + repacked_bytes / calibration.repack_bytes_per_s
    warm_up_layers = [*work.dense, *work.experts, work.output]
    return total + sum(_weights_step_s(k, w, 0, calibration.rate(k)) for k, w in warm_up_layers)


def speed(
    work: Work,
    calibration: Calibration,
    workload: Workload,
    settings: Settings = _DEFAULTS,
    *,
    file_bytes: int,
    repacked_bytes: int,
) -> SpeedEstimate:
    """All speeds of one setup, each with its interval."""
    depth, output = workload.depth_tokens, workload.output_tokens
    step = decode_step_s(
        work,
        calibration,
        cached_tokens=depth + output / 2,
        sequences=workload.parallel,
        settings=settings,
    )
    prompt_s = prefill_s(
        work, calibration, tokens=workload.prompt_tokens, depth_tokens=depth, settings=settings
    )
    shared_error = _shared_error(work, calibration)
    prefill_error = math.hypot(PREFILL_ERROR, shared_error, math.log(calibration.check_prefill))
    decode_error = math.hypot(
        DECODE_ERROR,
        shared_error,
        math.log(calibration.check_decode),
        SMALL_BATCH_ERROR if workload.parallel > 1 else 0.0,
    )
    first = Figure.within(prompt_s, prefill_error, "s", Basis.CALIBRATED)
    warm = load_s(work, calibration, file_bytes=file_bytes, repacked_bytes=repacked_bytes)
    read_s = file_bytes / calibration.read_bytes_per_s if calibration.read_bytes_per_s else None
    return SpeedEstimate(
        prefill_tokens_per_s=Figure(
            workload.prompt_tokens / first.value,
            workload.prompt_tokens / first.high,
            workload.prompt_tokens / first.low,
            "tokens/s",
            Basis.CALIBRATED,
        ),
        decode_tokens_per_s=Figure.within(1 / step, decode_error, "tokens/s", Basis.CALIBRATED),
        ttft_s=first,
        load_s=Figure.within(warm, LOAD_ERROR, "s", Basis.CALIBRATED),
        load_cold_s=Figure.within(warm + read_s, LOAD_ERROR, "s", Basis.CALIBRATED) if read_s else None,
    )


def _shared_error(work: Work, calibration: Calibration) -> float:
    """What widens decode and prefill alike: noise, spread of the formats' rates, kinds not calibrated."""
    total = spread = 0.0
    for kind, weights in (*work.dense, *work.experts, work.output):
        total += weights
        spread += weights * calibration.rate(kind).spread
    strange = any(a.latent for a in work.attention) or any(
        state.form not in calibration.states for state in work.states
    )
    return math.hypot(
        spread / max(total, 1),
        calibration.noise,
        EXPERTS_ERROR if work.experts else 0.0,
        UNMEASURED_MIXER_ERROR if strange else 0.0,
        DISTURBED_ERROR if calibration.problems else 0.0,
    )
