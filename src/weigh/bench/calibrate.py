"""Learn a machine's rates by running the engine on small probes; about 40 seconds.

Each probe makes one kind of work dominate, so its rate follows by subtraction, in this order: fixed times from tiny
models, what a layer costs beside its weights from thin and wide ones, then one number format after another, stacked
experts, attention over a long cache, recurrent states, several sequences, fewer threads, loading. Probes of a group
stay loaded and run in turns, and one of them, the anchor, runs in every group: when the machine as a whole is faster
or slower in one group than in another, the anchor shows it, the group's times are set right, and in the end all are
at the typical speed. A model like those people use is predicted and then run: its miss widens every interval. What
else the processors did is watched.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from weigh.bench import probes
from weigh.bench.turns import Driven, Progress, Seen, in_turns
from weigh.engines.engine import Engine, Limits, Session, Settings
from weigh.estimate.calibration import Calibration, FormatRate, StateRate, ThreadRate
from weigh.estimate.graph import Form
from weigh.estimate.memory import memory
from weigh.estimate.speed import decode_step_s, load_s, passed_weights, prefill_s
from weigh.estimate.work import work
from weigh.machine import Machine
from weigh.machine.bandwidth import measure_bandwidth
from weigh.machine.disk import measure_read_rate
from weigh.machine.disturbance import Watch
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.synth import shortened, synthetic_file

# Most used first, the anchor before all: what the budget cannot reach borrows from its neighbours.
FORMATS = (
    (GgmlType.Q4_K, GgmlType.Q6_K, GgmlType.Q8_0, GgmlType.Q5_K, GgmlType.Q4_0),
    (GgmlType.F16, GgmlType.MXFP4, GgmlType.Q3_K, GgmlType.IQ4_XS, GgmlType.Q2_K),
    (GgmlType.IQ3_S, GgmlType.IQ2_XS, GgmlType.IQ1_S, GgmlType.BF16, GgmlType.Q5_0),
)
ANCHOR = FORMATS[0][0]
STATES = {  # a small model of each kind of recurrence, and as many layers as hold its attention too
    Form.DELTA: ("Qwen/Qwen3.5-0.8B", 4),
    Form.MAMBA2: ("ibm-granite/granite-4.0-h-micro", 6),
    Form.CONVOLUTION: ("LiquidAI/LFM2-350M", 6),
}
EXPERTS = 16
THIN = {"hidden": 1024, "feed_forward": 2816, "heads": 8}
CHECK_MODEL, CHECK_LAYERS, CHECK_VOCAB = "meta-llama/Llama-3.2-3B-Instruct", 4, 32_768
PROMPT_TOKENS = 64
EXPERTS_PROMPT_TOKENS = 128
FEW_EXPERTS_PROMPT_TOKENS = 32  # so that experts are read for few tokens each
OUTPUT_TOKENS = 24
SLOW_OUTPUT_TOKENS = 12  # of formats looked up in tables, whose steps are slow
DEPTH_TOKENS = 768
PARALLEL = 4
ROUNDS = 3
LEAST_LAYERS, MOST_LAYERS = 3, 10  # of a format's probe: prefill hardly uses the last one
CACHE_TYPE = GgmlType.Q8_0  # of a quantized cache
MOST_BESIDE = (
    0.15  # of the anchor's time, that layers in decode and numbers in prefill may take; beyond it is noise
)
MOST_SLOWER = 4.0  # that experts may be in prefill; beyond it is noise


_PLAIN = Settings(context_tokens=2 * DEPTH_TOKENS)


@dataclass(frozen=True)
class _Probe:
    """A model and what it does in its turn."""

    spec: ModelSpec
    prompt_tokens: int = PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS
    depth_tokens: int = 0
    settings: Settings = _PLAIN


class _Bench:
    """Runs groups of probes, the anchor among them, and says how far it is."""

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        folder: Path,
        progress: Progress,
        *,
        budget_s: float,
        groups: int,
    ) -> None:
        self.machine, self.engine = machine, engine
        self.cpu_features = engine.cpu_features(machine.cpu.instruction_sets)
        self.spreads: list[float] = []
        self.read_bytes_per_s: float | None = None
        self._folder, self._progress, self._groups = folder, progress, groups
        self._started_s, self._budget_s, self._done = time.monotonic(), budget_s, 0
        self._anchors: list[tuple[float, float]] = []  # prefill and step, seconds

    @property
    def time_left(self) -> bool:
        """Whether groups that can be done without still have their time."""
        return time.monotonic() - self._started_s < self._budget_s * 0.9

    def run(
        self, label: str, group: Sequence[_Probe], *, anchored: bool = True, rounds: int = ROUNDS
    ) -> list[Seen]:
        """Times of the probes as if the machine had been as fast throughout as in the first anchored group.

        Args:
            anchored: False for probes before there is an anchor.
        """
        anchor = _Probe(format_spec(self.machine, ANCHOR))
        added = [anchor] if anchored and group[0].spec.name != ANCHOR.name else []
        every = [*added, *group]
        share_s = self._budget_s / self._groups
        with ExitStack() as stack:
            driven: list[Driven] = []
            files: dict[str, Path] = {}  # by the name of the model, which is its own within a group
            for number, probe in enumerate(every):
                self._tell(label, number / (2 * len(every)))
                before = every[number - 1] if number else None
                if before and (before.spec, before.settings) == (probe.spec, probe.settings):
                    session = driven[-1].session
                else:
                    if probe.spec.name not in files:
                        files[probe.spec.name] = stack.enter_context(synthetic_file(probe.spec, self._folder))
                    session = stack.enter_context(self._loaded(files[probe.spec.name], probe))
                driven.append(_driven(session, probe))
            seen = in_turns(
                driven,
                rounds=rounds,
                deadline_s=time.monotonic() + share_s,
                progress=lambda done: self._tell(label, 0.5 + done / 2),
            )
        self._done += 1
        self.spreads += [one.spread for one in seen]
        if not anchored:
            return seen
        now = seen[0].prefill_s, seen[0].step_s
        self._anchors.append(now)
        prefill, step = (was / is_ for was, is_ in zip(self._anchors[0], now, strict=True))
        return [_rescaled(one, prefill, step) for one in seen[len(added) :]]

    @property
    def typical(self) -> tuple[float, float]:
        """How much slower the anchor was in the middle of all groups than in the first: prefill, decode."""
        prefill, step = (statistics.median(times) / times[0] for times in zip(*self._anchors, strict=True))
        return prefill, step

    def _tell(self, label: str, done: float) -> None:
        self._progress(label, min(1.0, (self._done + done) / self._groups))

    def _loaded(self, path: Path, probe: _Probe) -> Session:
        settings = probe.settings
        if settings.threads is None:
            settings = replace(settings, threads=self.machine.cpu.threads)
        if self.read_bytes_per_s is None and probe.spec.name == ANCHOR.name:
            rate = measure_read_rate(path)
            self.read_bytes_per_s = rate.value if rate else None
        return self.engine.start(path, settings, Limits(start_s=60, silence_s=60))


def _driven(session: Session, probe: _Probe) -> Driven:
    tokens = probe.prompt_tokens, probe.output_tokens, probe.depth_tokens
    return Driven(session, probe.spec.vocab, *tokens, probe.settings.parallel)


def _rescaled(seen: Seen, prefill: float, step: float) -> Seen:
    return replace(
        seen,
        prefills_s=[s * prefill for s in seen.prefills_s],
        steps_s=[s * step for s in seen.steps_s],
        step_medians_s=[s * step for s in seen.step_medians_s],
    )


def probe_bytes(machine: Machine) -> int:
    """Size of a format's probe: so far past the last-level cache that what it keeps does not count (twice that
    size ran within 5 %, half of it 7 % faster), small against the memory."""
    cache = machine.cpu.l3_bytes or 32 << 20
    wanted = max(160 << 20, min(6 * cache, 1 << 30))
    return min(wanted, machine.memory.available_bytes // 24)


def format_spec(machine: Machine, kind: GgmlType, share: float = 1.0) -> ModelSpec:
    """A probe of one format, `share` of the full size. Formats of few bits get fewer bytes: their steps compute."""
    layer = probes.dense(kind.name, kind, layers=1)
    layers = round(share * probe_bytes(machine) / layer.tensor_bytes)
    return probes.dense(kind.name, kind, layers=min(max(LEAST_LAYERS, layers), MOST_LAYERS))


def calibrate(
    machine: Machine,
    engine: Engine,
    *,
    folder: Path,
    budget_s: float = 40.0,
    progress: Progress = lambda stage, done: None,
) -> Calibration:
    """Measure the rates of `engine` on `machine`, writing probes into `folder`, removed again.

    Args:
        budget_s: past this many seconds rare formats and kinds are left out, and borrow their rates.

    Raises:
        EngineError: the engine failed on a probe.
        NoSpace: `folder` has no room for a probe of a few hundred MiB.
    """
    started_s, watch = time.monotonic(), Watch()
    bench = _Bench(machine, engine, folder, progress, budget_s=budget_s, groups=len(FORMATS) + 4)
    draft = _fixed_times(bench)
    draft = _first_rates(bench, draft)
    draft = _words_experts_and_attention(bench, draft)
    draft = _checked_at_scale(bench, draft)
    if bench.time_left:
        draft = _state_rates(bench, draft)
    if bench.time_left:
        draft = _format_rates(bench, draft, FORMATS[1])
    if bench.time_left:
        draft = _format_rates(bench, draft, FORMATS[2])
    progress("memory bandwidth", 0.97)
    bandwidth = measure_bandwidth()
    progress("done", 1.0)
    prefill, decode = bench.typical
    draft = _slowed(draft, prefill, decode)
    copying = bandwidth.best.value / 2  # a byte is read and written
    return replace(
        draft,
        load_bytes_per_s=min(draft.load_bytes_per_s, copying),
        repack_bytes_per_s=min(draft.repack_bytes_per_s, copying),
        read_bytes_per_s=bench.read_bytes_per_s,
        memory_read=tuple((n, f.value, f.low, f.high) for n, f in bandwidth.by_threads),
        noise=statistics.median(bench.spreads),
        problems=watch.so_far().problems,
        took_s=time.monotonic() - started_s,
    )


def _slowed(draft: Calibration, prefill: float, decode: float) -> Calibration:
    """All rates at the machine's typical speed, where the first group may have met a fast or a slow moment."""
    return replace(
        draft,
        formats={
            name: replace(
                rate,
                decode_bytes_per_s=rate.decode_bytes_per_s / decode,
                prefill_flops_per_s=rate.prefill_flops_per_s / prefill,
            )
            for name, rate in draft.formats.items()
        },
        states={
            form: StateRate(rate.decode_values_per_s / decode, rate.prefill_values_per_s / prefill)
            for form, rate in draft.states.items()
        },
        expert_s=draft.expert_s * decode,
        layer_s=draft.layer_s * decode,
        value_s=draft.value_s * prefill,
        decode_attention_flops_per_s=draft.decode_attention_flops_per_s / decode,
        prefill_attention_flops_per_s=draft.prefill_attention_flops_per_s / prefill,
    )


def _fixed_times(bench: _Bench) -> Calibration:
    """Tiny models: many layers against few.

    Rates not known yet stand at infinity: what they govern takes no time, so that the speed formula
    itself says what is already explained and the next probe's remainder gives the next rate.
    """

    many, few = 32, 4
    deep, flat = bench.run("fixed costs", [_tiny(many), _tiny(few)], anchored=False)
    layer_s = max(1e-6, (deep.step_s - flat.step_s) / (many - few))
    return Calibration(
        engine=bench.engine.name,
        engine_version=bench.engine.version(),
        fingerprint=bench.machine.speed_fingerprint,
        threads=bench.machine.cpu.threads,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        formats={},
        expert_s=0.0,
        expert_prefill=1.0,
        expert_stream=1.0,
        layer_s=layer_s,
        value_s=0.0,
        token_s=max(1e-6, flat.step_s - few * layer_s),
        vocab_s=0.0,
        decode_attention_flops_per_s=math.inf,
        prefill_attention_flops_per_s=math.inf,
        load_bytes_per_s=math.inf,
        repack_bytes_per_s=math.inf,
        load_fixed_s=flat.load_s,
        load_vocab_s=0.0,
        read_bytes_per_s=None,
        check_decode=1.0,
        check_prefill=1.0,
        noise=0.0,
        took_s=0.0,
    )


def _tiny(layers: int) -> _Probe:
    spec = probes.dense(
        f"tiny-{layers}",
        GgmlType.Q8_0,
        layers=layers,
        hidden=256,
        feed_forward=512,
        heads=4,
        kv_heads=2,
        head_dim=64,
    )
    return _Probe(spec, prompt_tokens=0, output_tokens=128)


def _remainder_s(measured_s: float, explained_s: float) -> float:
    """Time the probe was made for; never below a tenth, where noise would make a rate of nothing."""
    return max(measured_s - explained_s, measured_s / 10)


def _state_s(measured_s: float, explained_s: float) -> float:
    """Likewise of states, which are a small part of their layers: down to a hundredth."""
    return max(measured_s - explained_s, measured_s / 100)


def _first_rates(bench: _Bench, draft: Calibration) -> Calibration:
    """The anchor's format with what a layer and a number cost beside its weights, then the formats used most.

    The same bytes in many thin layers and in few wide ones: what they differ in is the layers'.
    """
    anchor = format_spec(bench.machine, ANCHOR)
    layer = probes.dense("thin", ANCHOR, layers=1, **THIN)
    layers = max(2 * LEAST_LAYERS, round(anchor.tensor_bytes / layer.tensor_bytes))
    thin = probes.dense("thin", ANCHOR, layers=layers, **THIN)
    kinds = FORMATS[0]
    specs = [format_spec(bench.machine, kind) for kind in kinds]
    first, *others, last = bench.run(
        f"{ANCHOR.name}, {kinds[1].name} … weights", [_Probe(s) for s in (*specs, thin)]
    )
    draft = _with_layers(draft, (anchor, first), (thin, last))
    for kind, spec, one in zip(kinds, specs, (first, *others), strict=True):
        draft = _with_format(draft, kind, spec, one)
        draft = _with_load_rates(draft, bench, spec, one)
    return draft


def _with_layers(draft: Calibration, *seen: tuple[ModelSpec, Seen]) -> Calibration:
    """Time of a layer in decode, and of a number in prefill, from two models of the anchor's format."""
    steps, prompts = [], []
    for spec, one in seen:
        todo = work(spec)
        weights = sum(n for _, n in (*todo.dense, todo.output))
        fixed_s = decode_step_s(todo, replace(_blank(draft, ANCHOR), layer_s=0.0), cached_tokens=0)
        steps.append((weights, todo.layers, one.step_s - fixed_s))
        passed = 2 * PROMPT_TOKENS * sum(n for _, n in passed_weights(todo.dense, todo.last_dense))
        values = PROMPT_TOKENS * (todo.values - todo.last_values)
        prompts.append((passed, values, one.prefill_s - fixed_s))
    (_, layers, step_s), (_, values, prompt_s) = steps[0], prompts[0]
    return replace(
        draft,
        layer_s=max(draft.layer_s, min(_second_of(*steps), MOST_BESIDE * step_s / layers)),
        value_s=max(0.0, min(_second_of(*prompts), MOST_BESIDE * prompt_s / values)),
    )


def _second_of(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """y of the two equations a x + b y = c."""
    (a, b, c), (d, e, f) = one, other
    return (a * f - d * c) / (a * e - d * b)


def _blank(draft: Calibration, kind: GgmlType) -> Calibration:
    """With weights of `kind` taking no time."""
    return replace(draft, formats={**draft.formats, kind.name: FormatRate(math.inf, math.inf, 0.0)})


def _format_rates(bench: _Bench, draft: Calibration, kinds: Sequence[GgmlType]) -> Calibration:
    specs = [format_spec(bench.machine, kind, share=0.5) for kind in kinds]
    label = f"{kinds[0].name}, {kinds[1].name} … weights"
    seen = bench.run(label, [_Probe(spec, output_tokens=_output_tokens(spec)) for spec in specs], rounds=2)
    for kind, spec, one in zip(kinds, specs, seen, strict=True):
        draft = _with_format(draft, kind, spec, one)
    return draft


def _output_tokens(spec: ModelSpec) -> int:
    return SLOW_OUTPUT_TOKENS if spec.name.startswith(("IQ1", "IQ2", "IQ3")) else OUTPUT_TOKENS


def _with_format(draft: Calibration, kind: GgmlType, spec: ModelSpec, seen: Seen) -> Calibration:
    """Solve the speed formula for the rates of `kind`."""
    blank = _blank(draft, kind)
    todo = work(spec)
    weights = sum(n for _, n in (*todo.dense, todo.output))
    explained_s = decode_step_s(todo, blank, cached_tokens=OUTPUT_TOKENS / 2)
    remainder_s = _remainder_s(seen.step_s, explained_s)
    decode_rate = weights * kind.block_bytes / kind.block_weights / remainder_s
    half = replace(blank, formats={**draft.formats, kind.name: FormatRate(decode_rate, math.inf, 0.0)})
    explained_s = prefill_s(replace(todo, dense=()), half, tokens=PROMPT_TOKENS)
    flops = 2 * PROMPT_TOKENS * sum(n for _, n in passed_weights(todo.dense, todo.last_dense))
    rate = FormatRate(
        decode_bytes_per_s=decode_rate,
        prefill_flops_per_s=flops / _remainder_s(seen.prefill_s, explained_s),
        spread=max(seen.step_drift, seen.prefill_drift),
    )
    return replace(draft, formats={**draft.formats, kind.name: rate})


def _with_load_rates(draft: Calibration, bench: _Bench, spec: ModelSpec, seen: Seen) -> Calibration:
    """Q8_0 is read as it lies (no CPU build rewrites all of it but ARM's), Q4_K is rewritten on x86."""
    repacked = memory(spec, Settings(), bench.cpu_features).repacked_bytes
    explained_s = load_s(work(spec), draft, file_bytes=spec.tensor_bytes, repacked_bytes=repacked)
    remainder_s = _remainder_s(seen.load_s, explained_s)
    if repacked and math.isinf(draft.repack_bytes_per_s):
        return replace(draft, repack_bytes_per_s=repacked / remainder_s)
    if not repacked and math.isinf(draft.load_bytes_per_s):
        return replace(draft, load_bytes_per_s=spec.tensor_bytes / remainder_s)
    return draft


def _words_experts_and_attention(bench: _Bench, draft: Calibration) -> Calibration:
    """A large vocabulary; stacked experts, which are small matrices and gathered, with many tokens for each and with
    few; models that are nearly all attention, at depth."""
    words = probes.dense(
        "words", GgmlType.Q8_0, layers=1, hidden=2048, feed_forward=2048, heads=16, vocab=probes.LARGE_VOCAB
    )
    attention = probes.dense(
        "attention", GgmlType.Q8_0, layers=4, hidden=256, feed_forward=512, heads=32, kv_heads=8, head_dim=128
    )
    experts = _experts_spec(bench.machine)
    quantized = replace(_PLAIN, kv_type_k=CACHE_TYPE, kv_type_v=CACHE_TYPE)
    seen = bench.run(
        "vocabulary, experts, attention",
        [
            _Probe(words, prompt_tokens=0),
            _Probe(experts, prompt_tokens=EXPERTS_PROMPT_TOKENS),
            _Probe(experts, prompt_tokens=FEW_EXPERTS_PROMPT_TOKENS, output_tokens=0),
            _Probe(attention, depth_tokens=DEPTH_TOKENS),
            _Probe(attention, depth_tokens=DEPTH_TOKENS, settings=quantized),
        ],
    )
    draft = _with_vocabulary(draft, words, seen[0])
    draft = _with_attention(draft, attention, seen[3])
    exact = draft.decode_attention_flops_per_s, draft.prefill_attention_flops_per_s
    cached = _with_attention(draft, attention, seen[4])
    rates = cached.decode_attention_flops_per_s, cached.prefill_attention_flops_per_s
    decode, prefill = (rate / was for rate, was in zip(rates, exact, strict=True))
    draft = replace(draft, quantized_cache=(decode, prefill))
    return _with_experts(draft, experts, seen[1], seen[2])


def _with_vocabulary(draft: Calibration, spec: ModelSpec, seen: Seen) -> Calibration:
    """What is left of a step, and of loading, when the matrices are explained."""
    todo = work(spec)
    step_s = decode_step_s(todo, draft, cached_tokens=OUTPUT_TOKENS / 2)
    start_s = load_s(todo, draft, file_bytes=spec.tensor_bytes, repacked_bytes=0)
    return replace(
        draft,
        vocab_s=max(0.0, seen.step_s - step_s) / spec.vocab,
        load_vocab_s=max(0.0, seen.load_s - start_s) / spec.vocab,
    )


def _with_attention(draft: Calibration, spec: ModelSpec, seen: Seen) -> Calibration:
    blank = replace(draft, decode_attention_flops_per_s=math.inf, prefill_attention_flops_per_s=math.inf)
    todo = work(spec)
    (attention,) = todo.attention
    cached = DEPTH_TOKENS + OUTPUT_TOKENS / 2
    decode_s = _remainder_s(seen.step_s, decode_step_s(todo, blank, cached_tokens=cached))
    pairs = PROMPT_TOKENS * DEPTH_TOKENS + PROMPT_TOKENS**2 / 2
    explained_s = prefill_s(todo, blank, tokens=PROMPT_TOKENS, depth_tokens=DEPTH_TOKENS)
    return replace(
        draft,
        decode_attention_flops_per_s=cached * attention.layers * attention.flops / decode_s,
        prefill_attention_flops_per_s=pairs
        * attention.layers
        * attention.flops
        / _remainder_s(seen.prefill_s, explained_s),
    )


def _experts_spec(machine: Machine) -> ModelSpec:
    """As many layers as make the weights that one token visits a probe's size: half of the experts."""
    layer = probes.mixture("experts", ANCHOR, layers=1, experts=EXPERTS)
    todo = work(layer)
    weights = sum(n for _, n in todo.dense) + todo.expert_share * sum(n for _, n in todo.experts)
    layers = round(probe_bytes(machine) / (weights * ANCHOR.block_bytes / ANCHOR.block_weights))
    return probes.mixture(
        "experts", ANCHOR, layers=min(max(LEAST_LAYERS, layers), MOST_LAYERS), experts=EXPERTS
    )


def _with_experts(draft: Calibration, spec: ModelSpec, seen: Seen, few: Seen) -> Calibration:
    """In decode their weights stream as dense ones do, and each costs a time of its own. In prefill a long prompt
    and a short one tell arithmetic from reading."""
    todo = work(spec)
    dense_s = decode_step_s(todo, draft, cached_tokens=OUTPUT_TOKENS / 2)
    visits = todo.expert_layers * spec.experts_used
    expert_s = max(0.0, seen.step_s - dense_s) / visits
    around = replace(todo, experts=(), last_experts=())
    computing, reading = replace(draft, expert_stream=math.inf), replace(draft, expert_prefill=math.inf)
    equations = []
    for tokens, one in ((EXPERTS_PROMPT_TOKENS, seen), (FEW_EXPERTS_PROMPT_TOKENS, few)):
        rest_s = prefill_s(around, draft, tokens=tokens)
        parts = [prefill_s(todo, apart, tokens=tokens) - rest_s for apart in (computing, reading)]
        equations.append((parts[0], parts[1], _remainder_s(one.prefill_s, rest_s)))
    (compute_s, read_s, took_s), _ = equations
    reads = max(1.0, min(_second_of(*equations), MOST_SLOWER))  # never faster than decode reads
    computes = max(1 / MOST_SLOWER, (took_s - reads * read_s) / compute_s)
    return replace(draft, expert_s=expert_s, expert_prefill=1 / computes, expert_stream=1 / reads)


def _checked_at_scale(bench: _Bench, draft: Calibration) -> Calibration:
    """Several sequences and fewer threads, on the anchor's model; and a mix as people use it, which sets the level.

    Small probes run in short bursts, in which processors are some per cent slower than under a model's steady load.
    """
    anchor = format_spec(bench.machine, ANCHOR)
    whole = catalog().by_id[CHECK_MODEL].spec()
    check = quantize(shortened(whole, CHECK_LAYERS, vocab=CHECK_VOCAB), "Q4_K_M")
    plain = Settings(context_tokens=512)
    cores = bench.machine.cpu.threads
    counts = sorted({n for n in (1, cores // 4, cores // 2) if 0 < n < cores})
    seen = bench.run(
        "sequences, threads, a check",
        [
            _Probe(check, settings=plain),
            _Probe(anchor, 0, settings=replace(plain, parallel=PARALLEL)),
            *(_Probe(anchor, settings=replace(plain, threads=n)) for n in counts),
        ],
    )
    todo = work(anchor)
    alone_s = decode_step_s(todo, draft, cached_tokens=OUTPUT_TOKENS / 2)
    more_s = decode_step_s(todo, draft, cached_tokens=OUTPUT_TOKENS / 2, sequences=PARALLEL) - alone_s
    prompt_s = prefill_s(todo, draft, tokens=PROMPT_TOKENS)
    by_threads = tuple(
        ThreadRate(n, min(1.0, alone_s / one.step_s), min(1.0, prompt_s / one.prefill_s))
        for n, one in zip(counts, seen[2:], strict=True)
    )
    draft = replace(draft, batch_cost=max(0.0, seen[1].step_s - alone_s) / more_s, by_threads=by_threads)
    todo = work(check)
    decode = seen[0].step_s / decode_step_s(todo, draft, cached_tokens=OUTPUT_TOKENS / 2)
    prefill = seen[0].prefill_s / prefill_s(todo, draft, tokens=PROMPT_TOKENS)
    return replace(draft, check_decode=decode, check_prefill=prefill)


def _state_rates(bench: _Bench, draft: Calibration) -> Calibration:
    """Recurrent layers: what is left of real models' layers when their matrices are explained."""
    specs = {
        form: quantize(shortened(catalog().by_id[name].spec(), layers, vocab=probes.SMALL_VOCAB), "Q8_0")
        for form, (name, layers) in STATES.items()
    }
    seen = bench.run("recurrent states", [_Probe(spec) for spec in specs.values()])
    states: dict[str, StateRate] = {}
    for (form, spec), one in zip(specs.items(), seen, strict=True):
        todo = work(spec)
        values = sum(state.layers * state.values for state in todo.states)
        step_s = _state_s(one.step_s, decode_step_s(todo, draft, cached_tokens=OUTPUT_TOKENS / 2))
        prompt_s = _state_s(one.prefill_s, prefill_s(todo, draft, tokens=PROMPT_TOKENS))
        states[form] = StateRate(values / step_s, values * PROMPT_TOKENS / prompt_s)
    return replace(draft, states=states)
