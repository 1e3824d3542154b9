"""The whole model's time from runs of shortened ones.

A time is a sum of parts: what is fixed, the output matrix, and the layers of each kind. The calibrated formula
gives every part of a short model and of the whole one. Each part's true cost is the formula's times a factor
nobody knows; runs of short models tell the factors, and the factors tell the whole model's time:

    t(run) = sum over parts of  formula(run, part) x factor(part)  + noise

The factors have a prior: they share most of their error (a machine that is slower today is slower in all), and
each has some of its own. Two runs that differ in layers then fix the cost of a layer and what is fixed, and the
formula only weighs kinds of layers against each other where the runs hold them in other shares than the whole
model. The posterior's spread is the interval.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.speed import Workload, decode_step_s, prefill_s
from weigh.estimate.work import Work, work
from weigh.model.spec import MixerKind, ModelSpec

Parts = Mapping[str, float]
"""Seconds by part, as the formula has them."""

FIXED, OUTPUT = "fixed", "output"
SHARED_ERROR = 0.5  # standard deviations of the factors: what all parts have in common,
OWN_ERROR = 0.15  # what a kind of layer and the output matrix have of their own,
FIXED_ERROR = 1.0  # and what is fixed, which is small and known least
NORMAL_80 = 1.2816  # standard deviations either side that hold 80 % of a normal distribution


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
        name = f"{kind.mixer}, {'experts' if kind.routed else 'dense'}"
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

    blank = calibration.token_s
    parts = {
        name: step_s(work(spec, layers, outside=False)) - blank for name, layers in part_names(spec).items()
    }
    outside = step_s(work(spec, ()))
    parts[FIXED] = blank + workload.parallel * calibration.vocab_s * spec.vocab
    parts[OUTPUT] = outside - parts[FIXED]
    return parts


def prefill_parts(spec: ModelSpec, calibration: Calibration, workload: Workload, settings: Settings) -> Parts:
    """Seconds of the workload's prompt."""

    def prompt_s(todo: Work) -> float:
        tokens, depth = workload.prompt_tokens, workload.depth_tokens
        return prefill_s(todo, calibration, tokens=tokens, depth_tokens=depth, settings=settings)

    blank = calibration.token_s
    parts = {
        name: prompt_s(work(spec, layers, outside=False)) - blank for name, layers in part_names(spec).items()
    }
    outside = prompt_s(work(spec, ()))
    parts[FIXED] = blank + calibration.vocab_s * spec.vocab
    parts[OUTPUT] = outside - parts[FIXED]
    return parts


class Run(NamedTuple):
    """A short model's parts and its measured time, with that time's relative standard deviation."""

    parts: Parts
    seconds: float
    noise: float


def extrapolate(runs: Sequence[Run], whole: Parts) -> Predicted:
    """Posterior of the whole model's time given runs of short ones.

    Conditions a normal prior of the factors on one run after another (a Kalman update of a constant).
    """
    names = sorted({name for parts in (whole, *(run.parts for run in runs)) for name in parts})
    factor = [1.0] * len(names)
    spread = [[_prior(a, b) for b in names] for a in names]
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


def _prior(a: str, b: str) -> float:
    if FIXED in (a, b):
        return FIXED_ERROR**2 if a == b else 0.0
    return SHARED_ERROR**2 + (OWN_ERROR**2 if a == b else 0.0)
