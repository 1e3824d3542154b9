"""The whole model's time from runs of shortened ones.

A time is a sum of parts: what is fixed, the output matrix, and of the layers of each kind their weights and
their reading of the cache. The calibrated formula gives every part of a short model and of the whole one. Each
part's true cost is the formula's times a factor nobody knows; runs of short models tell the factors, and the
factors tell the whole model's time:

    t(run) = sum over parts of  formula(run, part) x factor(part)  + noise

The factors have a prior: they share most of their error (a machine that is slower today is slower in all), and
each has some of its own. Two runs that differ in layers then fix the cost of a layer and what is fixed, and the
formula only weighs kinds of layers against each other where the runs hold them in other shares than the whole
model, and brings prompts and depths that were too long to run. The posterior's spread is the interval.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration, FormatRate
from weigh.estimate.speed import Workload, decode_step_s, load_s, prefill_s
from weigh.estimate.work import Work, work
from weigh.model.spec import MixerKind, ModelSpec

Parts = Mapping[str, float]
"""Seconds by part, as the formula has them."""

FIXED, OUTPUT = "fixed", "output"
CACHE = ", cache"
ROUTED = ", experts"
SHARED_ERROR = 0.5  # standard deviations of the factors: what all parts have in common,
OWN_ERROR = 0.15  # what a kind of layer and the output matrix have of their own,
EXPERTS_ERROR = 0.30  # layers with experts, which are small matrices and gathered,
STATE_ERROR = 0.40  # layers that carry a state,
CACHE_ERROR = 0.30  # and attention over the cache,
FIXED_ERROR = 1.0  # and what is fixed, which is small and known least
UNKNOWN_ERROR = 3.0  # of what all have in common, where the formula is another engine's or machine's
NORMAL_80 = 1.2816  # standard deviations either side that hold 80 % of a normal distribution


# An ordinary processor in round figures. Runs of short models set its level; only its proportions count.
PROPORTIONS = Calibration(
    engine="",
    engine_version="",
    fingerprint="",
    threads=1,
    created="",
    formats={"Q4_K": FormatRate(15e9, 100e9, 0.3), "Q8_0": FormatRate(20e9, 100e9, 0.3)}
    | dict.fromkeys(("F16", "BF16"), FormatRate(20e9, 100e9, 0.3)),
    expert_s=10e-6,
    expert_prefill=0.7,
    expert_stream=0.4,
    layer_s=100e-6,
    value_s=2.5e-9,
    token_s=100e-6,
    vocab_s=10e-9,
    decode_attention_flops_per_s=20e9,
    prefill_attention_flops_per_s=60e9,
    load_bytes_per_s=2e9,
    repack_bytes_per_s=1e9,
    load_fixed_s=0.1,
    load_vocab_s=2e-6,
    read_bytes_per_s=None,
    check_decode=1.0,
    check_prefill=1.0,
    noise=0.1,
    took_s=0.0,
)


class LayerKind(NamedTuple):
    """What makes layers alike but for their number formats."""

    mixer: MixerKind
    window: int
    state: bool
    matrices: frozenset[tuple[str, tuple[int, ...]]]

    @property
    def routed(self) -> bool:
        return any("_exps." in name for name, _ in self.matrices)


@dataclass(frozen=True, slots=True)
class Predicted:
    """`seconds` with its relative standard deviation."""

    seconds: float
    error: float


def layer_kinds(spec: ModelSpec) -> dict[LayerKind, tuple[int, ...]]:
    """The layers of each kind, in order of appearance."""
    matrices: list[set[tuple[str, tuple[int, ...]]]] = [set() for _ in range(spec.layers)]
    for group in spec.tensors:
        for layer in group.layers:
            if layer < spec.layers:
                matrices[layer].add((group.name, group.shape))
    found: dict[LayerKind, list[int]] = defaultdict(list)
    mixer_of = {layer: mixer for mixer in spec.mixers for layer in mixer.layers}
    for layer in range(spec.layers):
        mixer = mixer_of[layer]
        kind = LayerKind(mixer.kind, mixer.window, bool(mixer.state_elements), frozenset(matrices[layer]))
        found[kind].append(layer)
    return {kind: tuple(layers) for kind, layers in found.items()}


def part_names(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Layers by the name of their part. A model and its shortened ones call the same kinds alike."""
    names: dict[str, tuple[int, ...]] = {}
    for kind, layers in layer_kinds(spec).items():
        name = f"{kind.mixer}{ROUTED if kind.routed else ', dense'}"
        number = sum(other.startswith(name) for other in names)
        names[f"{name} {number + 1}" if number else name] = layers
    return names


def decode_parts(spec: ModelSpec, calibration: Calibration, workload: Workload, settings: Settings) -> Parts:
    """Seconds of one decode step in the middle of the workload's output."""

    def step_s(todo: Work) -> float:
        cached = workload.depth_tokens + workload.output_tokens / 2
        return decode_step_s(
            todo, calibration, cached_tokens=cached, sequences=workload.parallel, settings=settings
        )

    return _parts(spec, step_s, calibration, workload.parallel * calibration.vocab_s * spec.vocab)


def prefill_parts(spec: ModelSpec, calibration: Calibration, workload: Workload, settings: Settings) -> Parts:
    """Seconds of the workload's prompt."""

    def prompt_s(todo: Work) -> float:
        tokens, depth = workload.prompt_tokens, workload.depth_tokens
        return prefill_s(todo, calibration, tokens=tokens, depth_tokens=depth, settings=settings)

    return _parts(spec, prompt_s, calibration, calibration.vocab_s * spec.vocab)


def load_parts(spec: ModelSpec, calibration: Calibration, *, file_bytes: int, repacked_bytes: int) -> Parts:
    """Seconds of loading the file when it is in memory already."""
    todo = work(spec)
    whole = load_s(todo, calibration, file_bytes=file_bytes, repacked_bytes=repacked_bytes)
    start = calibration.load_fixed_s + calibration.load_vocab_s * spec.vocab
    return {FIXED: start, "weights": whole - start}


def _parts(
    spec: ModelSpec, seconds: Callable[[Work], float], calibration: Calibration, vocab_s: float
) -> dict[str, float]:
    parts = {}
    for name, layers in part_names(spec).items():
        todo = work(spec, layers, outside=False)
        uncached = seconds(replace(todo, attention=()))
        parts[name] = uncached - calibration.token_s
        parts[name + CACHE] = seconds(todo) - uncached
    parts[FIXED] = calibration.token_s + vocab_s
    parts[OUTPUT] = seconds(work(spec, ())) - parts[FIXED]
    return parts


class Run(NamedTuple):
    """A short model's parts and its measured time, with that time's relative standard deviation."""

    parts: Parts
    seconds: float
    noise: float


def extrapolate(runs: Sequence[Run], whole: Parts, shared_error: float = SHARED_ERROR) -> Predicted:
    """Posterior of the whole model's time given runs of short ones.

    Conditions a normal prior of the factors on one run after another (a Kalman update of a constant).

    Args:
        shared_error: standard deviation of the factor all parts share; large where the formula is that of
            another engine or machine, and only its proportions count.
    """
    names = sorted({name for parts in (whole, *(run.parts for run in runs)) for name in parts})
    factor = [1.0] * len(names)
    spread = [[_prior(a, b, shared_error) for b in names] for a in names]
    for run in runs:
        row = [run.parts.get(name, 0.0) for name in names]
        along = [sum(s * r for s, r in zip(line, row, strict=True)) for line in spread]
        variance = sum(a * r for a, r in zip(along, row, strict=True)) + (run.noise * run.seconds) ** 2
        missed = run.seconds - sum(f * r for f, r in zip(factor, row, strict=True))
        factor = [f + a * missed / variance for f, a in zip(factor, along, strict=True)]
        spread = [
            [s - a * b / variance for s, b in zip(line, along, strict=True)]
            for line, a in zip(spread, along, strict=True)
        ]
    row = [whole.get(name, 0.0) for name in names]
    seconds = sum(f * r for f, r in zip(factor, row, strict=True))
    variance = sum(
        r * s * q for line, r in zip(spread, row, strict=True) for s, q in zip(line, row, strict=True)
    )
    floor = sum(row) / 20  # a factor below a twentieth is noise
    seconds = max(seconds, floor)
    return Predicted(seconds, math.sqrt(max(variance, 0.0)) / seconds)


def _prior(a: str, b: str, shared_error: float) -> float:
    if FIXED in (a, b):
        return FIXED_ERROR**2 if a == b else 0.0
    own = OWN_ERROR
    if a.endswith(CACHE):
        own = CACHE_ERROR
    elif a.startswith(MixerKind.RECURRENT):
        own = STATE_ERROR
    elif ROUTED in a:
        own = EXPERTS_ERROR
    return shared_error**2 + (own**2 if a == b else 0.0)
