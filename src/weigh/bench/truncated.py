"""Run the short models of a plan in turns and tell the whole one's times from theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from weigh.bench.here import Here, scratch_folder
from weigh.bench.plan import Plan, Short
from weigh.bench.turns import Driven, Progress, Seen, in_turns
from weigh.engines.engine import Limits
from weigh.estimate.calibration import Calibration
from weigh.estimate.extrapolate import (
    NORMAL_80,
    Parts,
    Predicted,
    Run,
    extrapolate,
)
from weigh.estimate.serving import STORED, Served, serve
from weigh.estimate.setup import SetupEstimate
from weigh.figure import Basis, Figure
from weigh.model.spec import ModelSpec
from weigh.synth import synthetic_checkpoint, synthetic_file

# Relative 80 % half-widths that remain when runs are exact: from whole models run beside their predictions
# (docs/accuracy.md; `python benchmarks/accuracy.py`).
DECODE_ERROR = 0.04
PREFILL_ERROR = 0.075
LOAD_ERROR = 1.50
MEMORY_ERROR = 0.03
LEAST_NOISE = 0.01  # of a median over the rounds, however alike they are
LOAD_NOISE = 0.10  # a model is loaded once


@dataclass(frozen=True, slots=True)
class Extrapolated:
    """Of the whole model; None for what was not run."""

    decode_tokens_per_s: Figure | None
    prefill_tokens_per_s: Figure | None
    load_s: Figure | None
    peak_memory_bytes: Figure
    seen: tuple[Seen, ...]
    command: tuple[str, ...]


def run_plan(
    chosen: Plan,
    estimated: SetupEstimate | Served,
    here: Here,
    calibration: Calibration,
    shared_error: float,
    progress: Progress,
) -> Extrapolated:
    """Write the short models, run them, and predict.

    Raises:
        EngineError: the engine failed, or does not take a model of so few layers.
        NoSpace: the disk has no room for the short models.
    """
    with ExitStack() as stack:
        progress("writing short models of the true shapes", 0.0)
        driven = load(chosen, here, stack)
        seen = in_turns(driven, rounds=chosen.rounds, progress=lambda done: progress("running them", done))
        command = driven[-1].session.command
    return predict(chosen, seen, command, estimated, here, calibration, shared_error)


def load(chosen: Plan, here: Here, stack: ExitStack) -> list[Driven]:
    """Write the short models and start the engine on each; all are gone when `stack` closes."""
    assert here.engine is not None
    driven = []
    for spec in chosen.shorts:
        make = synthetic_file if here.engine.takes == "gguf" else _without_weights
        path = stack.enter_context(make(spec, scratch_folder()))
        limits = Limits(memory_bytes=here.available_bytes()[0])
        session = stack.enter_context(here.engine.start(path, chosen.settings, limits))
        driven.append(Driven.of(session, spec.vocab, chosen.workload))
    return driven


def _without_weights(spec: ModelSpec, folder: Path) -> AbstractContextManager[Path]:
    """A checkpoint whose weights the engine makes up."""
    return synthetic_checkpoint(spec, folder, weights=False)


def predict(
    chosen: Plan,
    seen: Sequence[Seen],
    command: tuple[str, ...],
    estimated: SetupEstimate | Served,
    here: Here,
    calibration: Calibration,
    shared_error: float,
) -> Extrapolated:
    """The whole model's figures from what the short ones showed."""
    assert here.engine is not None
    shorts = [Short(spec, calibration, chosen.settings, here.cpu_features) for spec in chosen.shorts]
    whole = Short(estimated.spec, calibration, estimated.settings, here.cpu_features)
    asked, done = estimated.workload, chosen.workload
    decode = _predicted(
        [short.decode(done) for short in shorts],
        [(one.step_s, one.step_drift) for one in seen],
        whole.decode(asked),
        shared_error,
    )
    prefill = None
    if all(one.prefills_s for one in seen):
        prefill = _predicted(
            [short.prefill(done) for short in shorts],
            [(one.prefill_s, one.prefill_drift) for one in seen],
            whole.prefill(asked),
            shared_error,
        )
    loading = None
    if here.engine.name not in STORED:  # weights made up in memory load nothing
        measured = [(one.load_s, LOAD_NOISE) for one in seen]
        loading = _predicted([short.load for short in shorts], measured, whole.load, shared_error)
    return Extrapolated(
        decode_tokens_per_s=_rate(decode, 1, DECODE_ERROR),
        prefill_tokens_per_s=_rate(prefill, asked.prompt_tokens, PREFILL_ERROR) if prefill else None,
        load_s=_within(loading.seconds, loading, LOAD_ERROR, "s") if loading else None,
        peak_memory_bytes=_peak(chosen, estimated, here, seen),
        seen=tuple(seen),
        command=command,
    )


def _predicted(
    parts: list[Parts], measured: list[tuple[float, float]], whole: Parts, shared_error: float
) -> Predicted:
    runs = [
        Run(part, seconds, math.hypot(LEAST_NOISE, drift))
        for part, (seconds, drift) in zip(parts, measured, strict=True)
    ]
    return extrapolate(runs, whole, shared_error)


def _rate(found: Predicted, tokens: int, remains: float) -> Figure:
    return _within(tokens / found.seconds, found, remains, "tokens/s")


def _within(value: float, found: Predicted, remains: float, unit: str) -> Figure:
    return Figure.within(value, math.hypot(NORMAL_80 * found.error, remains), unit, Basis.TEST_DRIVEN)


def _peak(chosen: Plan, estimated: SetupEstimate | Served, here: Here, seen: Sequence[Seen]) -> Figure:
    """As estimated, and what the short models took beyond their own estimates."""
    assert here.engine is not None
    beyond = []
    for spec, one in zip(chosen.shorts, seen, strict=True):
        short = serve(
            here.engine.name if here.engine.name in STORED else "llama.cpp",
            spec,
            here.on_host,
            chosen.settings,
            chosen.workload,
        )
        assert one.memory is not None
        beyond.append(one.memory.peak_bytes - short.peak_memory_bytes.value)
    value = estimated.peak_memory_bytes.value + beyond[-1]
    unsure = abs(beyond[-1] - beyond[0]) + value * MEMORY_ERROR
    return Figure(value, value - unsure, value + unsure, "bytes", Basis.TEST_DRIVEN)
