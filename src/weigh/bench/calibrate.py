"""Learn a machine's rates by running the engine on small probes; about half a minute.

Each probe makes one kind of work dominate, so its rate follows by subtraction, in this order: fixed
times from tiny models, then one number format after another, then stacked experts, attention over a
long cache, loading. A last model, a mix like those people use, is predicted and then run: its miss is
kept and widens every interval.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from weigh.bench import probes
from weigh.bench.drive import Drive, Progress, drive, relative_spread
from weigh.engines.engine import Engine, Limits, Settings
from weigh.estimate.calibration import Calibration, FormatRate
from weigh.estimate.memory import memory
from weigh.estimate.speed import decode_step_s, load_s, prefill_s
from weigh.estimate.work import work
from weigh.machine import Machine
from weigh.machine.bandwidth import measure_bandwidth
from weigh.machine.disk import measure_read_rate
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.synth import synthetic_file, truncated

# Most used first: what the budget cannot reach borrows from its neighbours.
FORMATS = (
    GgmlType.Q4_K,
    GgmlType.Q6_K,
    GgmlType.Q8_0,
    GgmlType.Q5_K,
    GgmlType.Q4_0,
    GgmlType.MXFP4,
    GgmlType.Q3_K,
    GgmlType.F16,
    GgmlType.Q2_K,
)
PREFILL_TOKENS = 64
DECODE_TOKENS = 10
REPETITIONS = 2
DEPTH_TOKENS = 1024
TINY_WIDTH = 256
CHECK_MODEL = "meta-llama/Llama-3.2-1B-Instruct"
FORMATS_SHARE = 0.7  # of the time budget


class _Bench:
    """Runs probes one after another and says how far it is."""

    def __init__(
        self, machine: Machine, engine: Engine, folder: Path, progress: Progress, probes_total: int
    ) -> None:
        self.machine, self.engine, self._folder = machine, engine, folder
        self._progress, self._total, self._done = progress, probes_total, 0
        self.cpu_features = engine.cpu_features(machine.cpu.instruction_sets)
        self.steps_spread: list[float] = []
        self.read_bytes_per_s: float | None = None

    def run(
        self,
        spec: ModelSpec,
        label: str,
        *,
        prompt_tokens: int = PREFILL_TOKENS,
        output_tokens: int = DECODE_TOKENS,
        depth_tokens: int = 0,
        measure_disk: bool = False,
    ) -> Drive:
        self._progress(label, self._done / self._total)
        settings = Settings(context_tokens=2 * DEPTH_TOKENS, threads=self.machine.cpu.threads)
        with synthetic_file(spec, self._folder) as path:
            with self.engine.start(path, settings, Limits(start_s=60, silence_s=60)) as session:
                result = drive(
                    session,
                    vocab=spec.vocab,
                    prompt_tokens=prompt_tokens,
                    output_tokens=output_tokens,
                    depth_tokens=depth_tokens,
                    repetitions=REPETITIONS,
                )
            if measure_disk:
                rate = measure_read_rate(path)
                self.read_bytes_per_s = rate.value if rate else None
        self._done += 1
        self.steps_spread.append(relative_spread(result.step_times_s))
        return result


def probe_bytes(machine: Machine) -> int:
    """Size of a format's probe: well past the last-level cache, small against the memory."""
    cache = machine.cpu.l3_bytes or 32 << 20
    wanted = max(160 << 20, min(2 * cache, 512 << 20))
    return min(wanted, machine.memory.available_bytes // 8)


def calibrate(
    machine: Machine,
    engine: Engine,
    *,
    folder: Path,
    budget_s: float = 30.0,
    progress: Progress = lambda stage, done: None,
) -> Calibration:
    """Measure the rates of `engine` on `machine`, writing probes into `folder`, removed again.

    Args:
        budget_s: past this many seconds the formats not yet run borrow their rates.

    Raises:
        EngineError: the engine failed on a probe.
        NoSpace: `folder` has no room for a probe of a few hundred MiB.
    """
    started = time.monotonic()
    bench = _Bench(machine, engine, folder, progress, len(FORMATS) + 6)
    draft = _fixed_times(bench)
    draft = _format_rates(bench, draft, deadline=started + FORMATS_SHARE * budget_s)
    draft = _without_output_matrix(draft)
    draft = _expert_rates(bench, draft)
    draft = _attention_rates(bench, draft)
    draft = _checked(bench, draft)
    progress("memory bandwidth", 0.95)
    bandwidth = measure_bandwidth()
    progress("done", 1.0)
    copying = bandwidth.best.value / 2  # a byte is read and written
    return replace(
        draft,
        load_bytes_per_s=min(draft.load_bytes_per_s, copying),
        repack_bytes_per_s=min(draft.repack_bytes_per_s, copying),
        read_bytes_per_s=bench.read_bytes_per_s,
        memory_read=tuple((n, f.value, f.low, f.high) for n, f in bandwidth.by_threads),
        noise=statistics.median(bench.steps_spread),
        took_s=time.monotonic() - started,
    )


def _fixed_times(bench: _Bench) -> Calibration:
    """Tiny models: many layers against few, a large vocabulary against a small one.

    Rates not known yet stand at infinity: what they govern takes no time, so that the speed formula
    itself says what is already explained and the next probe's remainder gives the next rate.
    """

    def tiny(layers: int, vocab: int) -> Drive:
        spec = probes.dense(
            f"tiny-{layers}x{vocab}",
            GgmlType.Q8_0,
            layers=layers,
            hidden=TINY_WIDTH,
            feed_forward=2 * TINY_WIDTH,
            heads=4,
            kv_heads=2,
            head_dim=64,
            vocab=vocab,
        )
        return bench.run(spec, "fixed costs", output_tokens=48)

    many, few, words = 32, 4, probes.LARGE_VOCAB - probes.SMALL_VOCAB
    deep, flat, wide = (
        tiny(many, probes.SMALL_VOCAB),
        tiny(few, probes.SMALL_VOCAB),
        tiny(few, probes.LARGE_VOCAB),
    )
    layer_s = max(1e-6, (deep.typical_step_s - flat.typical_step_s) / (many - few))
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
        token_s=max(1e-6, flat.typical_step_s - few * layer_s),
        vocab_s=max(0.0, (wide.typical_step_s - flat.typical_step_s) / words),
        decode_attention_flops_per_s=math.inf,
        prefill_attention_flops_per_s=math.inf,
        load_bytes_per_s=math.inf,
        repack_bytes_per_s=math.inf,
        load_fixed_s=flat.load_s,
        load_vocab_s=max(0.0, (wide.load_s - flat.load_s) / words),
        read_bytes_per_s=None,
        check_decode=1.0,
        check_prefill=1.0,
        noise=0.0,
        took_s=0.0,
    )


def _without_output_matrix(draft: Calibration) -> Calibration:
    """Take the vocabulary probe's output matrix, whose rate is known by now, off its time per word."""
    kind = GgmlType.Q8_0
    matrix_s = TINY_WIDTH * kind.block_bytes / kind.block_weights / draft.rate(kind).decode_bytes_per_s
    return replace(draft, vocab_s=max(0.0, draft.vocab_s - matrix_s))


def _remainder_s(measured_s: float, explained_s: float) -> float:
    """Time the probe was made for; never below a tenth, where noise would make a rate of nothing."""
    return max(measured_s - explained_s, measured_s / 10)


def _format_rates(bench: _Bench, draft: Calibration, *, deadline: float) -> Calibration:
    """One probe a format; the first two also tell how fast files load."""
    size = probe_bytes(bench.machine)
    for kind in FORMATS:
        if draft.formats and time.monotonic() > deadline:
            break
        layer = probes.dense(kind.name, kind, layers=1)
        spec = probes.dense(kind.name, kind, layers=max(1, round(size / layer.tensor_bytes)))
        seen = bench.run(spec, f"{kind.name} weights", measure_disk=kind is FORMATS[0])
        draft = _with_format(draft, kind, spec, seen)
        draft = _with_load_rates(draft, bench, spec, seen)
    return draft


def _with_format(draft: Calibration, kind: GgmlType, spec: ModelSpec, seen: Drive) -> Calibration:
    """Solve the speed formula for the rates of `kind`."""
    unknown = FormatRate(math.inf, math.inf, 0.0)
    blank = replace(draft, formats={**draft.formats, kind.name: unknown})
    todo = work(spec)
    weights = sum(n for _, n in (*todo.dense, todo.output))
    explained = decode_step_s(todo, blank, cached_tokens=DECODE_TOKENS / 2)
    decode_rate = (
        weights * kind.block_bytes / kind.block_weights / _remainder_s(seen.typical_step_s, explained)
    )
    half = replace(
        blank, formats={**draft.formats, kind.name: replace(unknown, decode_bytes_per_s=decode_rate)}
    )
    explained = prefill_s(replace(todo, dense=()), half, tokens=PREFILL_TOKENS)
    flops = 2 * PREFILL_TOKENS * sum(n for _, n in todo.dense)
    rate = FormatRate(
        decode_bytes_per_s=decode_rate,
        prefill_flops_per_s=flops / _remainder_s(seen.typical_prefill_s, explained),
        spread=relative_spread(seen.step_times_s),
    )
    return replace(draft, formats={**draft.formats, kind.name: rate})


def _with_load_rates(draft: Calibration, bench: _Bench, spec: ModelSpec, seen: Drive) -> Calibration:
    """Q8_0 is read as it lies (no CPU build rewrites all of it but ARM's), Q4_K is rewritten on x86."""
    repacked = memory(spec, Settings(), bench.cpu_features).repacked_bytes
    explained = load_s(work(spec), draft, file_bytes=spec.tensor_bytes, repacked_bytes=repacked)
    remainder = _remainder_s(seen.load_s, explained)
    if repacked and math.isinf(draft.repack_bytes_per_s):
        return replace(draft, repack_bytes_per_s=repacked / remainder)
    if not repacked and math.isinf(draft.load_bytes_per_s):
        return replace(draft, load_bytes_per_s=spec.tensor_bytes / remainder)
    return draft


def _expert_rates(bench: _Bench, draft: Calibration) -> Calibration:
    """Stacked experts: small matrices, gathered; their rate relative to a dense matrix."""
    spec = probes.mixture("experts", GgmlType.Q4_K, layers=2, experts=48)
    seen = bench.run(spec, "experts")
    todo, around = work(spec), replace(work(spec), experts=())
    cached = DECODE_TOKENS / 2
    rest = decode_step_s(around, draft, cached_tokens=cached)
    as_dense = decode_step_s(todo, draft, cached_tokens=cached) - rest
    rest_prefill = prefill_s(around, draft, tokens=PREFILL_TOKENS)
    as_dense_prefill = prefill_s(todo, draft, tokens=PREFILL_TOKENS) - rest_prefill
    return replace(
        draft,
        expert_decode=as_dense / _remainder_s(seen.typical_step_s, rest),
        expert_prefill=as_dense_prefill / _remainder_s(seen.typical_prefill_s, rest_prefill),
    )


def _attention_rates(bench: _Bench, draft: Calibration) -> Calibration:
    """A model that is nearly all attention, at depth."""
    spec = probes.dense(
        "attention",
        GgmlType.Q8_0,
        layers=4,
        hidden=256,
        feed_forward=512,
        heads=32,
        kv_heads=8,
        head_dim=128,
    )
    seen = bench.run(spec, "attention", depth_tokens=DEPTH_TOKENS)
    todo = work(spec)
    (attention,) = todo.attention
    cached = DEPTH_TOKENS + DECODE_TOKENS / 2
    decode_remainder = _remainder_s(seen.typical_step_s, decode_step_s(todo, draft, cached_tokens=cached))
    pairs = PREFILL_TOKENS * DEPTH_TOKENS + PREFILL_TOKENS**2 / 2
    prefill_remainder = _remainder_s(
        seen.typical_prefill_s, prefill_s(todo, draft, tokens=PREFILL_TOKENS, depth_tokens=DEPTH_TOKENS)
    )
    return replace(
        draft,
        decode_attention_flops_per_s=cached * attention.layers * attention.flops / decode_remainder,
        prefill_attention_flops_per_s=pairs * attention.layers * attention.flops / prefill_remainder,
    )


def _checked(bench: _Bench, draft: Calibration) -> Calibration:
    """Predict a mix nobody was fitted to, then run it."""
    whole = catalog().by_id[CHECK_MODEL].spec()
    spec = quantize(truncated(whole, 4), "Q4_K_M")
    seen = bench.run(spec, "checking the prediction")
    todo = work(spec)
    decode = decode_step_s(todo, draft, cached_tokens=DECODE_TOKENS / 2)
    prefill = prefill_s(todo, draft, tokens=PREFILL_TOKENS)
    return replace(
        draft,
        check_decode=seen.typical_step_s / decode,
        check_prefill=seen.typical_prefill_s / prefill,
    )
