"""A load as the store keeps it: samples of each rate, and the raw times of events as far as there is room."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from weigh.bench.load import Level, Load, prompt_tokens, values_of
from weigh.store.measurement import Measured, Measurement

if TYPE_CHECKING:
    from weigh.bench.streams import Request
    from weigh.engines.engine import ProcessMemory, Settings
    from weigh.machine.machine import Machine
    from weigh.model.spec import ModelSpec
    from weigh.store.fields import Scalar

MOST_EVENTS = 200_000  # of a whole load, whose times are kept; beyond it those of every nth request
MOST_REQUESTS = 50_000  # likewise
MOST_SAMPLES = 100_000  # of one quantity; beyond it every nth
_UNITS = {"ttft_from_arrival_s": "s", "ttft_s": "s", "itl_s": "s", "tpot_s": "s", "e2e_s": "s"}


def measurement_of(
    load: Load,
    *,
    machine: Machine | None,
    spec: ModelSpec | None = None,
    settings: Settings | None = None,
    memory: ProcessMemory | None = None,
    command: tuple[str, ...] = (),
    engine: tuple[str, str] | None = None,
) -> Measurement:
    """Of a server started here for `spec` with `settings`, or of one that ran already.

    Args:
        machine: None of a server elsewhere, whose machine is not known.
        command: the engine's, where it was started here.
        engine: its name and version, where it was started here.
    """
    name, version = engine or (load.engine, load.engine_version)
    measured = [one for level in load.levels for one in _measured(level, load)]
    if memory is not None:
        measured.append(Measured("peak_memory_bytes", "bytes", (float(memory.peak_bytes),)))
    saturation = load.saturation
    return Measurement(
        kind="load",
        when_unix_s=load.when_unix_s,
        fingerprint=machine.fingerprint if machine else "",
        cpu=machine.cpu.model if machine else "",
        gpus=tuple(gpu.name for gpu in machine.gpus) if machine else (),
        engine=name,
        engine_version=version,
        command=command or load.command,
        model=spec.name if spec else load.model,
        family=spec.architecture if spec else "",
        quantization=spec.quantization if spec else "",
        file_bytes=spec.file_bytes if spec else None,
        # of a server that was there before, the limits of this process say nothing
        settings=_settings(load, settings) | (machine.limits if machine and settings else {}),
        measured=tuple(measured),
        problems=load.problems,
        raw={
            "levels": _raw(load.levels),
            "saturation_per_s": saturation and [saturation.low_per_s or None, _finite(saturation.high_per_s)],
        },
    )


def _settings(load: Load, settings: Settings | None) -> dict[str, Scalar]:
    asked = load.asked
    found: dict[str, Scalar] = {
        "arrivals": "closed loop" if asked.clients else "trace" if asked.trace else str(asked.process),
        "seed": asked.seed,
        "duration_s": asked.seconds,
        "prompt_tokens": str(asked.prompt),
        "output_tokens": str(asked.output),
        "exact_prompts": load.exact_prompts,
        "shared_prefix_tokens": asked.shared_prefix,
        "silence_s": asked.silence_s,
        "drain_s": asked.drain_s,
    }
    for name, target in (("target_ttft_s", asked.targets.ttft_s), ("target_itl_s", asked.targets.itl_s)):
        if target is not None:
            found[name] = target
    if settings is not None:
        found |= {
            "context_tokens": settings.context_tokens,
            "parallel": settings.parallel,
            "kv_type_k": settings.kv_type_k.name,
            "kv_type_v": settings.kv_type_v.name,
            "batch_tokens": settings.batch_tokens,
            "ubatch_tokens": settings.ubatch_tokens,
            "mmap": settings.mmap,
        }
        if settings.threads is not None:
            found["threads"] = settings.threads
    return found


def conditions(level: Level, load: Load) -> dict[str, Scalar]:
    """What a level's figures hold for."""
    found: dict[str, Scalar] = {}
    if level.rate_per_s is not None:
        found["rate_per_s"] = level.rate_per_s
    elif level.clients is not None:
        found["clients"] = level.clients
    else:
        found["trace"] = level.trace
        return found
    asked = load.asked
    for name, lengths in (("prompt_tokens", asked.prompt), ("output_tokens", asked.output)):
        found[name] = lengths.low if lengths.low == lengths.high and not lengths.sigma else str(lengths)
    return found


def _measured(level: Level, load: Load) -> list[Measured]:
    """Latencies of requests that came so far: how many failed stands beside them."""
    at = conditions(level, load)
    counted = level.in_window
    found = []
    for name, unit in _UNITS.items():
        samples = [value for one in counted for value in values_of(one)[name]]
        if samples:
            every = math.ceil(len(samples) / MOST_SAMPLES)
            found.append(Measured(name, unit, tuple(round(max(0.0, one), 6) for one in samples[::every]), at))
    for name, unit, value in (
        ("arrived_per_s", "requests/s", level.arrived_per_s),
        ("completed_per_s", "requests/s", level.completed_per_s),
        ("goodput_per_s", "requests/s", level.goodput_per_s.value),
        ("output_tokens_per_s", "tokens/s", level.output_tokens_per_s),
        ("prompt_tokens_per_s", "tokens/s", level.prompt_tokens_per_s),
        ("requests", "requests", level.counted),
        ("failed_requests", "requests", level.failed),
    ):
        found.append(Measured(name, unit, (float(value),), at))
    return found


def _raw(levels: list[Level]) -> list[dict[str, Any]]:
    events = sum(len(one.pieces.piece_times_s) for level in levels for one in level.requests)
    requests = sum(len(level.requests) for level in levels)
    every_event, every_request = (
        math.ceil(events / MOST_EVENTS) or 1,
        math.ceil(requests / MOST_REQUESTS) or 1,
    )
    return [
        {
            "name": level.name,
            "window_s": [round(edge, 6) for edge in level.window_s],
            "warm_up_requests": level.warm_up,
            "failures": level.failures,
            "cut_off": level.cut_off,
            "client_delay_s": list(level.client_delay_s),
            "client_lag_s": list(level.client_lag_s),
            "client_cores": level.client_cores,
            "kept": {"one_request_in": every_request, "events_of_one_request_in": every_event},
            "requests": [
                _raw_request(one, number % every_event == 0)
                for number, one in enumerate(level.requests)
                if number % every_request == 0
            ],
        }
        for level in levels
    ]


def _raw_request(one: Request, events: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "intended_s": round(one.intended_s, 6),
        "sent_s": None if one.sent_s is None else round(one.sent_s, 6),
        "ended_s": None if one.ended_s is None else round(one.ended_s, 6),
        "prompt_tokens": prompt_tokens(one),
        "output_tokens": len(one.pieces.token_times_s),
        "asked_tokens": [one.arrival.prompt_tokens, one.arrival.output_tokens],
        "finish": one.pieces.finish,
        "failure": str(one.failure),
    }
    if one.said:
        kept["said"] = one.said
    if one.pieces.usage is not None and one.pieces.usage.cached_tokens is not None:
        kept["cached_tokens"] = one.pieces.usage.cached_tokens
    if events:
        kept["piece_times_s"] = [round(at_s, 6) for at_s in one.pieces.piece_times_s]
        kept["piece_tokens"] = list(one.pieces.piece_tokens)
        kept["counted"] = str(one.pieces.counted)
    return kept


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
