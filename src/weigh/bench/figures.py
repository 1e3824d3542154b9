"""From what was seen to quantities: each sample of a turn or request, warm-up left out, in the order it came.

The engine's own clock and the client's are told apart by the condition `clock`. By the engine's, prefill is
prompt tokens over the time until the first token is there, and decode is steps over their time (llama-bench's
pp and tg). Definitions of TTFT, ITL and TPOT: `token_times`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from weigh.bench.measure import Condition, Seen, Turn
from weigh.bench.stopping import half_width, warm_up
from weigh.bench.token_times import itl_s, tpot_s, ttft_s
from weigh.bench.turns import relative_spread
from weigh.engines.served import Answer
from weigh.store.fields import Scalar
from weigh.store.measurement import Measured

UNITS = {
    "load_cold_s": "s",
    "load_cached_s": "s",
    "prefill_tokens_per_s": "tokens/s",
    "decode_tokens_per_s": "tokens/s",
    "output_tokens_per_s": "tokens/s",
    "ttft_s": "s",
    "itl_s": "s",
    "tpot_s": "s",
    "peak_memory_bytes": "bytes",
    "steady_memory_bytes": "bytes",
    "peak_private_bytes": "bytes",
    "mapped_file_bytes": "bytes",
    "page_cache_bytes": "bytes",
    "energy_j_per_token": "J/token",
    "cpu_cores_busy": "cores",
    "cpu_clock_hz": "Hz",
    "peak_vram_bytes": "bytes",
    "gpu_busy": "of the time",
    "gpu_clock_hz": "Hz",
}
"""All quantities of a benchmark; docs/bench.md says what each is."""

ENGINE, CLIENT = "engine", "client"


def settled(turns: Sequence[Turn], precision: float) -> bool:
    """Whether the speed of these turns of one condition is known to `precision`."""
    engine_clock = has_own_clock(turns)
    if turns[0].condition.is_prefill:
        return half_width(_steady(_prefills_s(turns, engine_clock=engine_clock))) <= precision
    return half_width(_steady(_steps_s(_undisturbed(turns), engine_clock=engine_clock))) <= precision


def has_own_clock(turns: Iterable[Turn]) -> bool:
    """Whether the engine told times of its own; of servers only some do."""
    return all(
        request.made.own_clock
        for turn in turns
        for request in turn.requests
        if isinstance(request.made, Answer)
    )


def quantities(seen: Seen) -> tuple[Measured, ...]:
    """Everything that was measured; a quantity without a sample is left out."""
    found = [*_loading(seen), *_memory(seen)]
    for condition in dict.fromkeys(turn.condition for turn in seen.turns):
        turns = seen.of(condition)
        of = _prefill if condition.is_prefill else _decode
        found += of(condition, turns, engine_clock=has_own_clock(turns))
        found += _machine(condition, turns)
    return tuple(one for one in found if one is not None)


def noise(turns: Iterable[Turn]) -> float | None:
    """Relative 80 % half-width of single decode steps, of the noisiest condition; None without a decode."""
    steps: dict[Condition, list[float]] = {}
    for turn in turns:
        if not turn.condition.is_prefill and _is_streamed(turn):
            steps.setdefault(turn.condition, []).extend(s for one in _steps(turn) for s in one)
    spreads = [relative_spread(found) for found in steps.values() if found and min(found) > 0]
    return max(spreads) if spreads else None


def recomputed(turns: Iterable[Turn]) -> bool:
    """Whether a prefill never found in the cache what lies before it, so that none of its turns count."""
    found: dict[Condition, bool] = {}
    for turn in turns:
        if turn.condition.is_prefill:
            found[turn.condition] = found.get(turn.condition, False) or _found_before(turn)
    return not all(found.values())


# --- loading and memory ------------------------------------------------------------------------------


def _loading(seen: Seen) -> list[Measured | None]:
    cold = [start.load_s for start in seen.starts if start.cold]
    cached = [start.load_s for start in seen.starts if not start.cold]
    return [_made("load_cold_s", cold, {}), _made("load_cached_s", cached, {})]


def _memory(seen: Seen) -> list[Measured | None]:
    """By sequences at once; the page cache holds the file for all of them."""
    cached = [start.cached_bytes for start in seen.starts if start.cached_bytes is not None]
    found = [_made("page_cache_bytes", cached, {})]
    for parallel, peak in seen.peaks.items():
        after = [t.memory for t in seen.turns if t.condition.parallel == parallel and t.memory]
        at: dict[str, Scalar] = {"parallel": parallel}
        found += [
            _made("peak_memory_bytes", [peak.peak_bytes], at),
            _made("peak_private_bytes", [peak.peak_private_bytes], at),
            _made("steady_memory_bytes", [m.private_bytes + m.file_bytes for m in after], at),
            _made("mapped_file_bytes", [m.file_bytes for m in after], at),
        ]
    return found


# --- speed -------------------------------------------------------------------------------------------


def _prefill(condition: Condition, turns: Sequence[Turn], *, engine_clock: bool) -> list[Measured | None]:
    turns = [turn for turn in turns if _found_before(turn)]
    turns = turns[warm_up(_prefills_s(turns, engine_clock=engine_clock)) :]
    at = _at(condition)
    found = []
    if engine_clock and condition.parallel == 1:
        rates = [turn.requests[0].made.prefill_tokens_per_s for turn in turns]
        found.append(_made("prefill_tokens_per_s", rates, at | {"clock": ENGINE}))
    together = [
        condition.parallel * condition.prompt_tokens / seconds
        for seconds in _prefills_s(turns, engine_clock=False)
    ]
    found.append(_made("prefill_tokens_per_s", together, at | {"clock": CLIENT}))
    found.append(_made("ttft_s", _each(turns, ttft_s), at))
    return found


def _decode(condition: Condition, turns: Sequence[Turn], *, engine_clock: bool) -> list[Measured | None]:
    at = _at(condition)
    found = []
    if engine_clock:
        rates = [1 / seconds for seconds in _steady(_steps_s(_undisturbed(turns), engine_clock=True))]
        found.append(_made("decode_tokens_per_s", rates, at | {"clock": ENGINE}))
    turns = [turn for turn in turns if _is_streamed(turn)]
    turns = turns[warm_up(_steps_s(turns, engine_clock=engine_clock)) :]
    rates = [1 / seconds for seconds in _steps_s(turns, engine_clock=False)]
    found.append(_made("decode_tokens_per_s", rates, at | {"clock": CLIENT}))
    gaps = [gap for turn in turns for request in turn.requests for gap in itl_s(request.made.token_times_s)]
    found.append(_made("itl_s", gaps, at))
    found.append(_made("tpot_s", _each(turns, tpot_s), at))
    if condition.parallel > 1:
        found.append(_made("output_tokens_per_s", [_together_per_s(turn) for turn in turns], at))
    return found


def _machine(condition: Condition, turns: Sequence[Turn]) -> list[Measured | None]:
    at = _at(condition)
    spent = [
        turn.during.joules / tokens
        for turn in turns
        if turn.during.joules is not None and (tokens := _processed_tokens(turn))
    ]
    gpus = [turn.during.on_gpus for turn in turns if turn.during.on_gpus is not None]
    told: dict[str, Sequence[float | None]] = {
        "energy_j_per_token": spent,
        "cpu_cores_busy": [turn.during.cores_busy for turn in turns],
        "cpu_clock_hz": [turn.during.clock_hz for turn in turns],
        "peak_vram_bytes": [one.held_bytes for one in gpus],
        "gpu_busy": [one.busy for one in gpus],
        "gpu_clock_hz": [one.clock_hz for one in gpus],
    }
    return [
        _made(name, [value for value in values if value is not None], at) for name, values in told.items()
    ]


def _processed_tokens(turn: Turn) -> int:
    """0 for prefills of a server that does not count its prompts' tokens."""
    return sum(r.made.prompt_tokens + r.made.output_tokens - 1 for r in turn.requests)


def _prefills_s(turns: Sequence[Turn], *, engine_clock: bool) -> list[float]:
    """Of each turn: until all its prompts have their first token."""
    found = []
    for turn in turns:
        if not _found_before(turn):
            continue
        if engine_clock and turn.condition.parallel == 1:
            found.append(turn.requests[0].made.prefill_s)
        else:
            found.append(max(r.sent_s + r.made.token_times_s[0] for r in turn.requests))
    return found


def _steps_s(turns: Sequence[Turn], *, engine_clock: bool) -> list[float]:
    """Of each turn: the mean step of its sequences, while all of them are at it and warm; of an answer in one
    piece, the mean of all."""
    found = []
    for turn in turns:
        if not _is_streamed(turn):
            steps = [r.made.decode_s / (r.made.output_tokens - 1) for r in turn.requests]
        elif engine_clock:
            steps = [s for one in _steps(turn) for s in one]
        else:
            steps = [s for request in turn.requests for s in itl_s(request.made.token_times_s)]
        if steps and sum(steps) > 0:
            found.append(sum(steps) / len(steps))
    return found


def _is_streamed(turn: Turn) -> bool:
    return all(request.made.token_times_s for request in turn.requests)


def _undisturbed(turns: Sequence[Turn]) -> list[Turn]:
    """The decodes answered in one piece, during which nothing took processors from the engine; else all."""
    return [turn for turn in turns if not _is_streamed(turn)] or list(turns)


def _steps(turn: Turn) -> list[tuple[float, ...]]:
    """Of each request by the engine's clock: without its slow start; of several, without those at either end,
    where sequences join and leave one after another."""
    every = [request.made.step_times_s for request in turn.requests]
    if turn.condition.parallel == 1:
        return [steps[warm_up(steps) :] for steps in every]
    edge = min(turn.condition.parallel, turn.condition.output_tokens // 4)
    return [steps[edge : len(steps) - edge] for steps in every]


def _together_per_s(turn: Turn) -> float:
    """Tokens of all sequences after their first, over the time from the first of them to the last."""
    times = [[r.sent_s + at for at in r.made.token_times_s] for r in turn.requests]
    tokens = sum(len(one) - 1 for one in times)
    return tokens / (max(one[-1] for one in times) - min(one[0] for one in times))


def _steady(samples: list[float]) -> list[float]:
    return samples[warm_up(samples) :]


def _found_before(turn: Turn) -> bool:
    return all(r.made.cached_tokens >= turn.condition.depth_tokens for r in turn.requests)


def _each(turns: Sequence[Turn], of: Callable[[Sequence[float]], float | None]) -> list[float]:
    told = [of(request.made.token_times_s) for turn in turns for request in turn.requests]
    return [seconds for seconds in told if seconds is not None]


def _at(condition: Condition) -> dict[str, Scalar]:
    tokens = "prompt_tokens" if condition.is_prefill else "output_tokens"
    return {
        tokens: condition.prompt_tokens or condition.output_tokens,
        "depth_tokens": condition.depth_tokens,
        "parallel": condition.parallel,
    }


def _made(name: str, samples: Sequence[float], conditions: dict[str, Scalar]) -> Measured | None:
    told = tuple(float(sample) for sample in samples)
    return Measured(name, UNITS[name], told, conditions) if told else None
