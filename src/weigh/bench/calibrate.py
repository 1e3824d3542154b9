"""Learn a machine's rates by running the engine on small probes; about 40 seconds.

Each probe makes one kind of work dominate, so its rate follows by subtraction, in this order: fixed times from tiny
models, then one number format after another, then stacked experts, attention over a long cache, recurrent states,
several sequences, fewer threads, loading. Probes of a group stay loaded and run in turns, and one of them, the
anchor, runs in every group: when the machine as a whole is faster or slower in one group than in another, the anchor
shows it, the group's times are set right, and in the end all are at the typical speed. A larger model, a mix like
those people use, is predicted and then run: it sets the level of all rates, and its miss widens every interval. What
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
from weigh.engines.engine import Engine, Limits, Settings
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
CHECK_MODEL, CHECK_LAYERS = "meta-llama/Llama-3.2-1B-Instruct", 5
PROMPT_TOKENS = 64
EXPERTS_PROMPT_TOKENS = 256
OUTPUT_TOKENS = 32
SLOW_OUTPUT_TOKENS = 12  # of formats looked up in tables, whose steps are slow
DEPTH_TOKENS = 768
PARALLEL = 4
ROUNDS = 3
LEAST_LAYERS = 3  # of a format's probe: prefill hardly uses the last one
CACHE_TYPE = GgmlType.Q8_0  # of a quantized cache


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

    def run(self, label: str, group: Sequence[_Probe], *, anchored: bool = True) -> list[Seen]:
        """Times of the probes as if the machine had been as fast throughout as in the first anchored group.

        Args:
            anchored: False for probes before there is an anchor.
        """
        anchor = _Probe(format_spec(self.machine, ANCHOR))
        added = [anchor] if anchored and group[0].spec.name != ANCHOR.name else []
        every = [*added, *group]
        share_s = self._budget_s / self._groups
        with ExitStack() as stack:
            driven = []
            for number, probe in enumerate(every):
                self._tell(label, number / (2 * len(every)))
                driven.append(self._loaded(stack, probe))
            seen = in_turns(
                driven,
                rounds=ROUNDS,
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

    def _loaded(self, stack: ExitStack, probe: _Probe) -> Driven:
        settings = probe.settings
        if settings.threads is None:
            settings = replace(settings, threads=self.machine.cpu.threads)
        path = stack.enter_context(synthetic_file(probe.spec, self._folder))
        if self.read_bytes_per_s is None and probe.spec.name == ANCHOR.name:
            rate = measure_read_rate(path)
            self.read_bytes_per_s = rate.value if rate else None
        session = stack.enter_context(self.engine.start(path, settings, Limits(start_s=60, silence_s=60)))
        return Driven(
            session,
            probe.spec.vocab,
            probe.prompt_tokens,
            probe.output_tokens,
            probe.depth_tokens,
            settings.parallel,
        )


def _rescaled(seen: Seen, prefill: float, step: float) -> Seen:
    return replace(
        seen,
        prefills_s=[s * prefill for s in seen.prefills_s],
        steps_s=[s * step for s in seen.steps_s],
        step_medians_s=[s * step for s in seen.step_medians_s],
    )


def probe_bytes(machine: Machine) -> int:
    """Size of a format's probe: well past the last-level cache, small against the memory."""
    cache = machine.cpu.l3_bytes or 32 << 20
    wanted = max(96 << 20, min(3 * cache, 512 << 20))
    return min(wanted, machine.memory.available_bytes // 24)


def format_spec(machine: Machine, kind: GgmlType) -> ModelSpec:
    layer = probes.dense(kind.name, kind, layers=1)
    return probes.dense(
        kind.name, kind, layers=max(LEAST_LAYERS, round(probe_bytes(machine) / layer.tensor_bytes))
    )


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
    draft = _format_rates(bench, draft, FORMATS[0])
    draft = _words_experts_and_attention(bench, draft)
    draft = _checked_at_scale(bench, draft)
    if bench.time_left:
        draft = _format_rates(bench, draft, FORMATS[1])
    if bench.time_left:
        draft = _state_rates(bench, draft)
    if bench.time_left:
        draft = _format_rates(bench, draft, FORMATS[2])
    progress("memory bandwidth", 0.97)
    bandwidth = measure_bandwidth()
    progress("done", 1.0)
    prefill, decode = bench.typical
    draft = _slowed(draft, prefill * draft.check_prefill, decode * draft.check_decode)
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
        fingerprint=bench.machine.fingerprint,
        threads=bench.machine.cpu.threads,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        formats={},
        expert_decode=1.0,
        expert_prefill=1.0,
        layer_s=layer_s,
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


def _format_rates(bench: _Bench, draft: Calibration, kinds: Sequence[GgmlType]) -> Calibration:
    """One probe a format; the first two also tell how fast files load."""
    specs = [format_spec(bench.machine, kind) for kind in kinds]
    label = f"{kinds[0].name}, {kinds[1].name} … weights"
    seen = bench.run(label, [_Probe(spec, output_tokens=_output_tokens(spec)) for spec in specs])
    for kind, spec, one in zip(kinds, specs, seen, strict=True):
        draft = _with_format(draft, kind, spec, one)
        draft = _with_load_rates(draft, bench, spec, one)
    return draft


def _output_tokens(spec: ModelSpec) -> int:
    return SLOW_OUTPUT_TOKENS if spec.name.startswith(("IQ1", "IQ2", "IQ3")) else OUTPUT_TOKENS


def _with_format(draft: Calibration, kind: GgmlType, spec: ModelSpec, seen: Seen) -> Calibration:
    """Solve the speed formula for the rates of `kind`."""
    unknown = FormatRate(math.inf, math.inf, 0.0)
    blank = replace(draft, formats={**draft.formats, kind.name: unknown})
    todo = work(spec)
    weights = sum(n for _, n in (*todo.dense, todo.output))
    explained_s = decode_step_s(todo, blank, cached_tokens=OUTPUT_TOKENS / 2)
    remainder_s = _remainder_s(seen.step_s, explained_s)
    decode_rate = weights * kind.block_bytes / kind.block_weights / remainder_s
    half = replace(
        blank, formats={**draft.formats, kind.name: replace(unknown, decode_bytes_per_s=decode_rate)}
    )
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
    """A large vocabulary; stacked experts, which are small matrices and gathered; models that are nearly all
    attention, at depth."""
    words = probes.dense(
        "words", GgmlType.Q8_0, layers=1, hidden=1024, feed_forward=2048, heads=8, vocab=probes.LARGE_VOCAB
    )
    attention = probes.dense(
        "attention", GgmlType.Q8_0, layers=4, hidden=256, feed_forward=512, heads=32, kv_heads=8, head_dim=128
    )
    experts = probes.mixture("experts", GgmlType.Q4_K, layers=3, experts=32)
    narrow = probes.mixture(
        "narrow experts", GgmlType.Q4_K, layers=6, experts=32, expert_feed_forward=256, heads=8, kv_heads=2
    )
    quantized = replace(_PLAIN, kv_type_k=CACHE_TYPE, kv_type_v=CACHE_TYPE)
    seen = bench.run(
        "vocabulary, experts, attention",
        [
            _Probe(words, prompt_tokens=0),
            _Probe(experts, prompt_tokens=EXPERTS_PROMPT_TOKENS),
            _Probe(narrow, prompt_tokens=0),
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
    return _with_experts(draft, experts, seen[1], narrow, seen[2])


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


def _with_experts(
    draft: Calibration, spec: ModelSpec, seen: Seen, narrow: ModelSpec, narrow_seen: Seen
) -> Calibration:
    """Wide experts and narrow ones tell the rate of their weights, and what each costs whatever its width."""
    tokens = EXPERTS_PROMPT_TOKENS
    todo = work(spec)
    around = replace(todo, experts=(), last_experts=())
    rest_prefill_s = prefill_s(around, draft, tokens=tokens)
    as_dense_prefill_s = prefill_s(todo, draft, tokens=tokens) - rest_prefill_s
    dense, visits, took = zip(
        _expert_step(draft, spec, seen), _expert_step(draft, narrow, narrow_seen), strict=True
    )
    between = dense[0] * visits[1] - dense[1] * visits[0]
    slower = (took[0] * visits[1] - took[1] * visits[0]) / between
    expert_s = (dense[0] * took[1] - dense[1] * took[0]) / between
    if expert_s < 0 or slower <= 0.5:  # noise: leave it all to the rate
        slower, expert_s = took[0] / dense[0], 0.0
    return replace(
        draft,
        expert_decode=1 / slower,
        expert_s=expert_s,
        expert_prefill=as_dense_prefill_s / _remainder_s(seen.prefill_s, rest_prefill_s),
    )


def _expert_step(draft: Calibration, spec: ModelSpec, seen: Seen) -> tuple[float, int, float]:
    """Of a decode step: seconds of the experts if they were dense, experts visited, seconds they took."""
    todo = work(spec)
    cached = OUTPUT_TOKENS / 2
    rest_s = decode_step_s(replace(todo, experts=()), draft, cached_tokens=cached)
    dense_s = decode_step_s(todo, draft, cached_tokens=cached) - rest_s
    return dense_s, todo.expert_layers * spec.experts_used, _remainder_s(seen.step_s, rest_s)


def _checked_at_scale(bench: _Bench, draft: Calibration) -> Calibration:
    """Several sequences and fewer threads, on the anchor's model; and a mix as people use it, which sets the level.

    Small probes run in short bursts, in which processors are some per cent slower than under a model's steady load.
    """
    anchor = format_spec(bench.machine, ANCHOR)
    whole = catalog().by_id[CHECK_MODEL].spec()
    check = quantize(shortened(whole, CHECK_LAYERS), "Q4_K_M")
    plain = Settings(context_tokens=512)
    cores = bench.machine.cpu.threads
    counts = sorted({n for n in (1, cores // 4, cores // 2) if 0 < n < cores})
    seen = bench.run(
        "sequences, threads, a check",
        [
            _Probe(check, settings=plain),
            _Probe(replace(anchor, name="several sequences"), 0, settings=replace(plain, parallel=PARALLEL)),
            *(
                _Probe(replace(anchor, name=f"{n} threads"), settings=replace(plain, threads=n))
                for n in counts
            ),
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
