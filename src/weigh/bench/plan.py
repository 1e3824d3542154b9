"""Which short models tell the most about a whole one, within a budget of time, memory and disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.extrapolate import (
    SHARED_ERROR,
    Parts,
    Run,
    decode_parts,
    extrapolate,
    layer_kinds,
    load_parts,
    prefill_parts,
)
from weigh.estimate.memory import memory
from weigh.estimate.speed import Workload
from weigh.model.gguf_size import file_bytes
from weigh.model.spec import MixerKind, ModelSpec
from weigh.synth import shortened

SMALL_VOCAB = 4096
EXPERTS_SHARES = (1, 2, 4, 8, 16)  # of the routed experts one in so many is kept
PROMPTS_TOKENS = (512, 256, 128, 64, 32)
DEPTHS_TOKENS = (16384, 8192, 4096, 2048, 1024, 512, 256)
OUTPUTS_TOKENS = (24, 12, 5)
ROUNDS = (9, 6, 3)
EXPECTED_NOISE = 0.04  # of one turn; a judgement, and only ranks plans
HALVING_ERROR = 0.01  # likewise: a prompt or experts half as many tell so much less of the whole model's
SECOND_ERROR = 0.001  # ten seconds of waiting are worth a percent
UNMAPPED_ERROR = 0.02  # and weights in private memory, which are up to 5 % slower than mapped ones
WRITE_BYTES_PER_S = 500e6  # of making up a file; a slow disk takes longer
START_S = 0.5  # of an engine's process
MOST_LAYERS = 24


@dataclass(frozen=True, slots=True)
class Budget:
    """What a test-drive of short models may take. The short models are loaded at the same time."""

    seconds: float = 25.0
    memory_bytes: int = 3 << 30


@dataclass(frozen=True)
class Short:
    """A shortened model and what running it is expected to take."""

    spec: ModelSpec
    calibration: Calibration
    settings: Settings
    cpu_features: tuple[str, ...]

    @cached_property
    def memory_bytes(self) -> int:
        return memory(self.spec, self.settings, self.cpu_features).resident_bytes

    @cached_property
    def file_bytes(self) -> int:
        return self.spec.file_bytes or file_bytes(self.spec)

    @cached_property
    def load(self) -> Parts:
        repacked = memory(self.spec, self.settings, self.cpu_features).repacked_bytes
        return load_parts(self.spec, self.calibration, file_bytes=self.file_bytes, repacked_bytes=repacked)

    @cached_property
    def start_s(self) -> float:
        """Of writing and loading it."""
        return START_S + self.file_bytes / WRITE_BYTES_PER_S + sum(self.load.values())

    @cached_property
    def streamed_bytes(self) -> int:
        """Weights one token passes: what the last-level cache must not hold."""
        share = self.spec.experts_used / self.spec.experts if self.spec.experts else 1.0
        return round(
            sum(
                group.tensor_bytes * group.count * (share if group.experts else 1.0)
                for group in self.spec.tensors
                if len(group.shape) > 1 and not group.name.startswith("token_embd")
            )
        )

    def decode(self, workload: Workload) -> Parts:
        return decode_parts(self.spec, self.calibration, workload, self.settings)

    def prefill(self, workload: Workload) -> Parts:
        return prefill_parts(self.spec, self.calibration, workload, self.settings)


def full_run_s(whole: Short, workload: Workload, rounds: int, *, write: bool) -> float:
    """What running all of the model takes; `write` counts making up its file."""
    writing_s = 0.0 if write else whole.file_bytes / WRITE_BYTES_PER_S
    return whole.start_s - writing_s + _seconds([whole], workload, rounds)


@dataclass(frozen=True, slots=True)
class Plan:
    """Short models and what each does in its turn.

    Attributes:
        error: relative standard deviation to expect of the whole model's decode and prefill, together.
    """

    shorts: tuple[ModelSpec, ...]
    settings: Settings
    workload: Workload
    rounds: int
    seconds: float
    memory_bytes: int
    error: float


def plan(
    spec: ModelSpec,
    calibration: Calibration,
    settings: Settings,
    workload: Workload,
    *,
    cpu_features: tuple[str, ...] = (),
    cache_bytes: int = 32 << 20,
    budget: Budget = Budget(),
    shared_error: float = SHARED_ERROR,
    whole_width: bool = False,
) -> Plan | None:
    """The plan with the least error to expect; None where nothing shorter than the whole fits the budget.

    Args:
        cache_bytes: last-level cache of the processor: weights of a model must be well past it.
        whole_width: keep vocabulary and experts.
    """
    tokens = workload.depth_tokens + workload.prompt_tokens + workload.output_tokens + 1
    settings = replace(settings, context_tokens=min(settings.context_tokens, tokens))
    given = calibration, settings, cpu_features
    mapped = _best(spec, given, workload, cache_bytes, budget, shared_error, whole_width)
    if not settings.mmap:
        return mapped
    given = calibration, replace(settings, mmap=False), cpu_features
    private = _best(spec, given, workload, cache_bytes, budget, shared_error, whole_width)
    if private is None or (mapped is not None and mapped.error < math.hypot(private.error, UNMAPPED_ERROR)):
        return mapped
    return private


_Given = tuple[Calibration, Settings, tuple[str, ...]]


def _best(
    spec: ModelSpec,
    given: _Given,
    workload: Workload,
    cache_bytes: int,
    budget: Budget,
    shared_error: float,
    whole_width: bool,
) -> Plan | None:
    whole = Short(spec, *given)
    wanted = whole.decode(workload), whole.prefill(workload)
    best: Plan | None = None
    for models in (2, 1):  # one alone leans on the formula's proportions: for huge models, if no two fit
        for vocab, experts in _widths(spec, whole_width):
            shorts = _shorts(spec, vocab, experts, given)
            shorts = [s for s in shorts if s.memory_bytes < budget.memory_bytes]
            past_cache = [s for s in shorts if s.streamed_bytes > 3 * cache_bytes] or shorts[-2:]
            for tried in combinations(past_cache, models):
                made = _within(tried, workload, budget, spec.experts, experts)
                if made is None:
                    continue
                error = _expected_error(tried, made, wanted, shared_error)
                halvings = math.log2(workload.prompt_tokens / made.workload.prompt_tokens)
                made = replace(made, error=math.hypot(error, halvings * HALVING_ERROR))
                if best is None or _price(made) < _price(best):
                    best = made
        if best is not None:
            return best
    return None


def _price(made: Plan) -> float:
    return made.error + made.seconds * SECOND_ERROR


def _expected_error(
    shorts: Sequence[Short], made: Plan, wanted: tuple[Parts, Parts], shared_error: float
) -> float:
    """Relative standard deviation of the whole's decode and prefill, together."""
    runs = [(short.decode(made.workload), short.prefill(made.workload)) for short in shorts]
    noise = EXPECTED_NOISE / math.sqrt(made.rounds)
    errors = (
        extrapolate(
            [Run(parts[i], sum(parts[i].values()), noise) for parts in runs], wanted[i], shared_error
        ).error
        for i in range(2)
    )
    return math.hypot(*errors)


def _widths(spec: ModelSpec, whole: bool) -> Iterator[tuple[int, int | None]]:
    vocabs = {spec.vocab} if whole else {spec.vocab, min(spec.vocab, SMALL_VOCAB)}
    if not spec.experts:
        counts: set[int | None] = {None}
    else:
        shares = (1,) if whole else EXPERTS_SHARES
        counts = {max(spec.experts // share, min(2 * spec.experts_used, spec.experts)) for share in shares}
    for vocab in sorted(vocabs, reverse=True):
        for experts in sorted(counts, key=lambda count: -(count or 0)):
            yield vocab, experts


def _shorts(spec: ModelSpec, vocab: int, experts: int | None, given: _Given) -> list[Short]:
    counts = [n for n in layer_counts(spec) if n < spec.layers]
    return [Short(shortened(spec, n, vocab=vocab, experts=experts), *given) for n in counts]


def layer_counts(spec: ModelSpec) -> list[int]:
    """Numbers of first layers worth running, fewest first.

    An engine may not start without a cache or without a state where it knows the model by both, so the fewest
    have both. Beyond a dozen every second one, and those that hold a further kind.
    """
    least = 1
    for kinds in _memories(spec):
        least = max(least, min(kinds) + 1)
    ends = {layers[0] + 1 for layers in layer_kinds(spec).values()}  # with a kind's first layer
    near = range(least, least + 12)
    far = [n for n in range(least + 12, spec.layers, 2) if n <= MOST_LAYERS]
    return sorted(n for n in {*near, *far, *ends} if least <= n <= spec.layers)


def _memories(spec: ModelSpec) -> list[set[int]]:
    """Layers that keep a cache, and layers that keep a state, where the model has such."""
    cached = {layer for m in spec.mixers if m.kind is not MixerKind.RECURRENT for layer in m.layers}
    stateful = {layer for m in spec.mixers if m.state_elements for layer in m.layers}
    return [layers for layers in (cached, stateful) if layers]


def _within(
    shorts: tuple[Short, ...], workload: Workload, budget: Budget, experts: int, kept: int | None
) -> Plan | None:
    """Run the longest prompt at the greatest depth asked for that the budget of time allows; None: none does.

    With fewer experts prompts are shorter in proportion, so that each expert gets as many of their tokens.
    """
    memory_bytes = sum(short.memory_bytes for short in shorts)
    start_s = sum(short.start_s for short in shorts)
    if memory_bytes > budget.memory_bytes or start_s > budget.seconds:
        return None
    fewer = kept / experts if kept else 1.0
    most = max(min(PROMPTS_TOKENS[-1], workload.prompt_tokens), round(workload.prompt_tokens * fewer))
    prompts = [n for n in dict.fromkeys((most, *PROMPTS_TOKENS)) if n <= most]
    depths = [n for n in dict.fromkeys((workload.depth_tokens, *DEPTHS_TOKENS)) if n <= workload.depth_tokens]
    if workload.depth_tokens:
        depths = [n for n in depths if n >= min(DEPTHS_TOKENS[-1], workload.depth_tokens)]
    outputs = dict.fromkeys(max(2, min(workload.output_tokens, n)) for n in OUTPUTS_TOKENS)
    for depth, least, output, prompt in product(depths, ROUNDS[1:], outputs, prompts):
        tried = replace(workload, prompt_tokens=prompt, output_tokens=output, depth_tokens=depth)
        for rounds in ROUNDS:
            seconds = start_s + _seconds(shorts, tried, rounds)
            if rounds >= least and seconds <= budget.seconds:
                specs = tuple(short.spec for short in shorts)
                return Plan(specs, shorts[0].settings, tried, rounds, seconds, memory_bytes, math.inf)
    return None


def _seconds(models: Sequence[Short], workload: Workload, rounds: int) -> float:
    total = 0.0
    for short in models:
        if workload.depth_tokens:
            past = replace(workload, prompt_tokens=workload.depth_tokens, depth_tokens=0)
            total += sum(short.prefill(past).values())
        total += rounds * sum(short.prefill(workload).values())
        total += rounds * workload.output_tokens * sum(short.decode(workload).values())
    return total
