"""A benchmark of a model's real file: estimated, measured, kept, and only then told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from weigh.bench.alone import alone
from weigh.bench.figures import CLIENT, ENGINE, noise, quantities, recomputed, settled
from weigh.bench.here import Here, gpus_left_alone, scratch_folder
from weigh.bench.keep import keep
from weigh.bench.measure import Asked, Seen, Source, measure, raw
from weigh.bench.stopping import half_width
from weigh.bench.turns import Progress, prompt_ids
from weigh.engines.engine import Limits, Session, Settings
from weigh.errors import BadInput, EngineMissing, NotKept, NotSupported, WeighError
from weigh.estimate.serving import ENGINES, Served, serve
from weigh.estimate.setup import SetupEstimate
from weigh.estimate.speed import Workload
from weigh.figure import Figure
from weigh.machine.disturbance import Watch
from weigh.model.spec import ModelSpec
from weigh.store import Store
from weigh.store.fields import Scalar
from weigh.store.measurement import Measured, Measurement, try_to_save
from weigh.store.run import Kind

INTERRUPTED = "interrupted"
UNKNOWN_NOISE = 0.1  # of single steps, where none were run: as `turns.relative_spread` takes too few


@dataclass(frozen=True, slots=True)
class Beside:
    """A quantity as it was measured, and as it was estimated before; None where no estimate is made of it."""

    measured: Measured
    estimated: Figure | None

    @property
    def ratio(self) -> float | None:
        """Measured over estimated."""
        return self.measured.figure.value / self.estimated.value if self.estimated else None

    @property
    def inside(self) -> bool:
        """Whether it came out inside the estimate's interval."""
        if self.estimated is None:
            return False
        return self.estimated.low <= self.measured.figure.value <= self.estimated.high


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What came of it; it is in the store already.

    Attributes:
        notes: what is not known, and why; not a reason to distrust the rest.
        ended: what ended it early, Ctrl-C or the engine's error; None when all was done.
        not_kept: why it is not in the store, and where it is instead.
    """

    measurement: Measurement
    rows: tuple[Beside, ...]
    notes: tuple[str, ...] = ()
    ended: BaseException | None = None
    not_kept: NotKept | None = None


def own_files(spec: ModelSpec, engine_takes: str) -> tuple[Path, ...]:
    """What an engine reads when it loads the model: the file or all its parts, or a folder's weights.

    Raises:
        BadInput: the model is known by its shapes alone, or lies in files the engine does not read.
    """
    kinds = {"gguf": "GGUF file", "safetensors": "safetensors checkpoint"}
    if spec.file is None or not spec.format:
        raise BadInput(
            f"{spec.name} is no {kinds[engine_takes]} on this machine, and a benchmark runs the real one",
            hint=f"`weigh try {spec.name}` test-drives it; `weigh models` lists what is here",
        )
    if spec.format != engine_takes:
        readers = "llama.cpp" if spec.format == "gguf" else "transformers or vLLM"
        raise BadInput(
            f"{spec.name} is a {kinds[spec.format]}, and this engine runs a {kinds[engine_takes]}",
            hint=f"run it on {readers}",
        )
    if engine_takes != "gguf":
        folder = spec.file if spec.file.is_dir() else spec.file.parent
        return tuple(sorted(folder.glob("*.safetensors")))
    first, part, rest = spec.file.name.partition("-00001-of-")
    if not part:
        return (spec.file,)
    return tuple(sorted(spec.file.parent.glob(f"{_literal(first)}-?????-of-{_literal(rest)}")))


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def benchmark(
    spec: ModelSpec,
    here: Here,
    asked: Asked,
    settings: Settings,
    *,
    limits: Limits | None = None,
    progress: Progress = lambda stage, done: None,
) -> Benchmark:
    """Measure the model's own file on this machine, and keep all samples beside the estimates made before.

    Args:
        settings: their `parallel` gives way to each of the numbers asked for.
        limits: of the engine; None for all memory that may be taken, and the engines' usual patience.

    Raises:
        BadInput: no such file, or what the engine refuses to do.
        EngineError: it failed before anything was measured; later failures are told in the benchmark.
        KeyboardInterrupt: likewise.
    """
    engine = here.engine
    if engine is None:
        raise EngineMissing("no engine is installed", hint="pip install xllamacpp")
    if not spec.generates:
        raise NotSupported(f"{spec.name} is an embedding model: it writes no tokens to be timed")
    files = own_files(spec, engine.takes)
    estimates = _estimates(spec, here, asked, settings)
    bounds = limits or Limits(memory_bytes=here.available_bytes()[0])
    assert spec.file is not None
    model = spec.file

    def start(parallel: int) -> Session:
        assert engine is not None
        return engine.start(model, replace(settings, parallel=parallel), bounds)

    with alone(scratch_folder()):
        watch, when_s = Watch(), time.time()
        source = Source(start, lambda tokens, seed: prompt_ids(spec.vocab, tokens, seed), files)
        seen = measure(source, asked, lambda turns: settled(turns, asked.precision), progress)
        problems = watch.so_far().problems
    found = quantities(seen)
    rows = tuple(Beside(one, _estimated(one, estimates)) for one in found)
    measurement = Measurement(
        kind="bench",
        when_unix_s=when_s,
        fingerprint=here.machine.fingerprint,
        cpu=here.machine.cpu.model,
        gpus=tuple(gpu.name for gpu in here.machine.gpus),
        engine=engine.name,
        engine_version=here.engine_version,
        command=seen.command,
        model=spec.name,
        family=spec.architecture,
        quantization=spec.quantization,
        file_bytes=spec.file_bytes,
        settings=_said(settings, asked, here),
        measured=found,
        noise=noise(seen.turns),
        problems=(*problems, *ending(seen)),
        raw=raw(seen) | {"estimated": [_estimate_json(row) for row in rows if row.estimated]},
    )
    not_kept = try_to_save(Store(), measurement)
    if not_kept is None:
        _teach(found, estimates, asked, here, measurement.noise, disturbed=bool(problems))
    told = (*gpus_left_alone(engine.name, here.machine), *notes(seen, found, asked))
    return Benchmark(measurement, rows, told, seen.ended, not_kept)


# --- what was estimated before ------------------------------------------------------------------------

Estimates = dict[tuple[int, int, int], SetupEstimate | Served]
"""By prompt, depth and sequences at once."""


def _estimates(spec: ModelSpec, here: Here, asked: Asked, settings: Settings) -> Estimates:
    name = here.engine.name if here.engine and here.engine.name in ENGINES else "llama.cpp"
    return {
        (prompt, depth, parallel): serve(
            name,
            spec,
            here,
            replace(settings, parallel=parallel),
            Workload(prompt, asked.output_tokens, depth, parallel),
        )
        for parallel, depth, prompt in product(asked.parallel, asked.depths, asked.prompts)
    }


def _estimated(one: Measured, estimates: Estimates) -> Figure | None:
    at = one.conditions
    first = next(iter(estimates))
    key = (
        at.get("prompt_tokens", first[0]),
        at.get("depth_tokens", first[1]),
        at.get("parallel", first[2]),
    )
    estimate = estimates[key]  # type: ignore[index] # made of the same numbers
    if one.name == "peak_memory_bytes":
        return estimate.peak_memory_bytes
    speed = None if isinstance(estimate, Served) else estimate.speed
    if speed is None:
        return None
    alone_only = at.get("parallel", 1) == 1  # a prefill is estimated of one prompt
    match one.name:
        case "load_cold_s":
            return speed.load_cold_s
        case "load_cached_s":
            return speed.load_s
        case "prefill_tokens_per_s":
            return speed.prefill_tokens_per_s if alone_only else None
        case "ttft_s":
            return speed.ttft_s if alone_only else None
        case "decode_tokens_per_s":
            return speed.decode_tokens_per_s
        case "itl_s" | "tpot_s":
            rate = speed.decode_tokens_per_s
            return Figure(1 / rate.value, 1 / rate.high, 1 / rate.low, "s", rate.basis, rate.source)
        case _:
            return None


def _estimate_json(row: Beside) -> dict[str, object]:
    assert row.estimated is not None
    return {
        "name": row.measured.name,
        "conditions": dict(row.measured.conditions),
        "figure": row.estimated.to_json(),
    }


# --- what is kept and said ----------------------------------------------------------------------------


def _teach(
    found: Sequence[Measured],
    estimates: Estimates,
    asked: Asked,
    here: Here,
    spread: float | None,
    *,
    disturbed: bool,
) -> None:
    """The ledger's runs, one for each prompt, depth and number of sequences; what prompts share goes to the
    first of them, so that nothing is learned twice."""

    def samples(name: str, **conditions: Scalar) -> tuple[float, ...]:
        return next(
            (
                one.samples
                for one in found
                if one.name == name and all(one.conditions.get(k) == v for k, v in conditions.items())
            ),
            (),
        )

    first = next(iter(estimates))
    for (prompt, depth, parallel), estimate in estimates.items():
        shared = prompt == asked.prompts[0]
        at: dict[str, Scalar] = {"depth_tokens": depth, "parallel": parallel}
        decode = samples("decode_tokens_per_s", **at, clock=ENGINE) if shared else ()
        prefill = samples("prefill_tokens_per_s", **at, prompt_tokens=prompt, clock=ENGINE)
        if decode or prefill:
            keep(
                estimate,
                here,
                Kind.MEASURED,
                decode_tokens_per_s=decode,
                prefill_tokens_per_s=prefill,
                load_s=samples("load_cached_s") if (prompt, depth, parallel) == first else (),
                peak_memory_bytes=samples("peak_memory_bytes", parallel=parallel) if shared else (),
                noise=UNKNOWN_NOISE if spread is None else spread,
                disturbed=disturbed,
            )


def ending(seen: Seen) -> tuple[str, ...]:
    """Why it ended early, in words for the store; () when it did not."""
    if seen.ended is None:
        return ()
    if isinstance(seen.ended, WeighError):
        return (f"ended early: {seen.ended.message}",)
    return (INTERRUPTED,)


def notes(seen: Seen, found: Sequence[Measured], asked: Asked) -> tuple[str, ...]:
    """What is not known, and why."""
    told = []
    if seen.cold_unknown:
        told.append(
            "the cold start is not measurable here: the file's pages did not leave the page cache when asked"
        )
    if recomputed(seen.turns):
        told.append(
            "what lies before a prompt at depth was not found in a cache (a state that cannot be wound back, or a"
            " server that keeps none): such prefills are left out"
        )
    rates = [one for one in found if one.name in ("prefill_tokens_per_s", "decode_tokens_per_s")]
    clocks = {one.conditions.get("clock") for one in rates}
    wanted = ENGINE if ENGINE in clocks else CLIENT
    unsure = [
        one
        for one in rates
        if one.conditions.get("clock") == wanted and half_width(one.samples) > asked.precision
    ]
    if unsure and seen.ended is None:
        told.append(
            f"{len(unsure)} of {len([one for one in rates if one.conditions.get('clock') == wanted])} speeds are"
            f" not known to {asked.precision * 100:g} % yet: more time narrows their intervals"
        )
    slowed = {word for turn in seen.turns if turn.during.on_gpus for word in turn.during.on_gpus.slowed}
    if slowed:
        told.append(f"a GPU's clock was held down meanwhile: {', '.join(sorted(slowed))}")
    if not any(turn.during.joules is not None for turn in seen.turns):
        told.append("energy is not measurable here: no counter can be read")
    return tuple(told)


def _said(settings: Settings, asked: Asked, here: Here) -> dict[str, Scalar]:
    return {
        "context_tokens": settings.context_tokens,
        "parallel": ",".join(map(str, asked.parallel)),
        "threads": settings.threads or here.machine.cpu.threads,
        "kv_type_k": settings.kv_type_k.name,
        "kv_type_v": settings.kv_type_v.name,
        "batch_tokens": settings.batch_tokens,
        "ubatch_tokens": settings.ubatch_tokens,
        "mmap": settings.mmap,
        "prompt_cache": False,
        "precision": asked.precision,
        "most_s": asked.most_s,
        **here.machine.limits,
    }
