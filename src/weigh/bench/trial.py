"""The test-drive: run the real engine on the model's true shapes, whole or shortened, beside the estimate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from weigh.bench.here import Here, scratch_folder
from weigh.bench.keep import keep
from weigh.bench.plan import Budget, Plan, Short, full_run_s, plan
from weigh.bench.truncated import run_plan
from weigh.bench.turns import Driven, Progress, Seen, in_turns, relative_spread
from weigh.engines.engine import Limits
from weigh.errors import EngineCrashed, EngineMissing, NotSupported
from weigh.estimate.calibration import Calibration
from weigh.estimate.extrapolate import PROPORTIONS, SHARED_ERROR, UNKNOWN_ERROR
from weigh.estimate.serving import Served
from weigh.estimate.setup import SetupEstimate
from weigh.figure import Basis, Figure
from weigh.machine.disturbance import Watch
from weigh.store.run import Kind
from weigh.synth import synthetic_checkpoint, synthetic_file

LONG_S = 30.0  # a run of the whole model that takes longer is left to short models
REPETITIONS = 2


class Compared(NamedTuple):
    """One quantity as it was estimated and as it came out; None where unknown."""

    name: str
    estimated: Figure | None
    found: Figure | None

    @property
    def ratio(self) -> float | None:
        """Found over estimated."""
        return self.found.value / self.estimated.value if self.found and self.estimated else None

    @property
    def inside(self) -> bool:
        """Whether it came out inside the estimate's interval."""
        if self.found is None or self.estimated is None:
            return False
        return self.estimated.low <= self.found.value <= self.estimated.high


@dataclass(frozen=True, slots=True)
class Trial:
    """An estimate and what came out right after it was made.

    Attributes:
        kind: measured on the user's own file, test-driven on random weights, or truncated: told from short models.
        shorts: layers of the short models; () when the whole one ran.
        load_s, prefill_tokens_per_s, decode_tokens_per_s: None for what the engine cannot be made to show.
        peak_memory_bytes: highest resident memory of the engine with the whole model, mapped file pages included.
        noise: relative spread of single decode steps: how steady the machine was meanwhile.
        problems: why the figures are not to be trusted; empty when the machine was quiet enough.
        took_s, took_bytes: of the test-drive itself: all of its time, and the engine's memory.
        why: why short models were run, or the whole one, where that was not asked for; "" else.
    """

    estimate: SetupEstimate | Served
    kind: Kind
    shorts: tuple[int, ...]
    load_s: Figure | None
    prefill_tokens_per_s: Figure | None
    decode_tokens_per_s: Figure | None
    peak_memory_bytes: Figure
    noise: float
    problems: tuple[str, ...]
    took_s: float
    took_bytes: int
    engine: str
    engine_version: str
    command: tuple[str, ...]
    why: str = ""

    @property
    def compared(self) -> tuple[Compared, ...]:
        speed = None if isinstance(self.estimate, Served) else self.estimate.speed
        load, prefill, decode = (
            (speed.load_s, speed.prefill_tokens_per_s, speed.decode_tokens_per_s) if speed else (None,) * 3
        )
        return (
            Compared("load_s", load, self.load_s),
            Compared("prefill_tokens_per_s", prefill, self.prefill_tokens_per_s),
            Compared("decode_tokens_per_s", decode, self.decode_tokens_per_s),
            Compared("peak_memory_bytes", self.estimate.peak_memory_bytes, self.peak_memory_bytes),
        )


@dataclass(frozen=True, slots=True)
class Way:
    """How a test-drive is to be done.

    Attributes:
        plan: of the short models; None to run the whole one.
        seconds: to expect.
    """

    plan: Plan | None
    seconds: float
    why: str = ""


def choose_way(
    estimated: SetupEstimate | Served, here: Here, *, full: bool | None = None, repetitions: int | None = None
) -> Way:
    """Short models where the whole one does not fit or would take long; the user's own file in full.

    Args:
        full: True for the whole model, False for short ones, whatever it takes; None to choose.

    Raises:
        EngineMissing: no engine is installed.
        NotSupported: an embedding model, or one that can be run neither whole nor short.
    """
    if here.engine is None:
        raise EngineMissing("no engine is installed", hint="pip install xllamacpp")
    spec = estimated.spec
    if not spec.generates:
        raise NotSupported(f"{spec.name} is an embedding model: it writes no tokens to test-drive")
    calibration, shared_error = _formula(here)
    whole_s = full_run_s(
        Short(spec, calibration, estimated.settings, here.cpu_features),
        estimated.workload,
        repetitions or REPETITIONS,
        write=_own_file(estimated, here) is None,
    )
    whole = Way(None, whole_s)
    if full or (full is None and estimated.fits and (_own_file(estimated, here) or whole_s <= LONG_S)):
        return whole
    found = plan(
        spec,
        calibration,
        estimated.settings,
        estimated.workload,
        cpu_features=here.cpu_features,
        cache_bytes=here.machine.cpu.l3_bytes or 32 << 20,
        budget=Budget(memory_bytes=min(Budget().memory_bytes, here.available_bytes()[0])),
        shared_error=shared_error,
        whole_width=here.engine.takes != "gguf",
    )
    if found is not None:
        why = "" if full is False else "the whole would take long" if estimated.fits else "it does not fit"
        return Way(found, found.seconds, why)
    if full is None and estimated.fits:
        return Way(None, whole_s, "it is too short, or too large, to be shortened")
    raise NotSupported(
        f"{spec.name} at {spec.quantization} cannot be shortened to what a test-drive may take",
        hint="`--full` runs all of it" if estimated.fits else "free some memory, or ask for fewer bits",
    )


def run_trial(
    estimated: SetupEstimate | Served,
    here: Here,
    way: Way | None = None,
    *,
    repetitions: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> Trial:
    """Run it and keep the result beside its estimate in the store.

    Args:
        way: None for what `choose_way` chooses.

    Raises:
        EngineError: the engine failed, or there is none.
        NotSupported: as `choose_way`.
        NoSpace: the disk has no room for what has to be written.
    """
    way = way or choose_way(estimated, here, repetitions=repetitions)
    assert here.engine is not None
    started_s, watch = time.monotonic(), Watch()
    shorts: tuple[int, ...] = ()
    if way.plan is None:
        seen, command, kind = _run_whole(estimated, here, repetitions or REPETITIONS, progress)
        basis = Basis.MEASURED if kind is Kind.MEASURED else Basis.TEST_DRIVEN
        asked = estimated.workload
        assert seen.memory is not None
        load_s: Figure | None = Figure.exact(seen.load_s, "s", basis)
        decode = _spread([1 / step for step in seen.step_medians_s], basis)
        prefill = _spread([asked.prompt_tokens / one for one in seen.prefills_s], basis)
        peak = Figure.exact(seen.memory.peak_bytes, "bytes", basis)
        every = [seen]
    else:
        calibration, shared_error = _formula(here)
        try:
            found = run_plan(way.plan, estimated, here, calibration, shared_error, progress)
        except EngineCrashed:  # engines know some models by their number of layers
            if not (way.why and estimated.fits):
                raise
            whole = Way(None, 0.0, "the engine refuses it with fewer layers")
            return run_trial(estimated, here, whole, repetitions=repetitions, progress=progress)
        kind = Kind.TRUNCATED
        load_s, decode, prefill = found.load_s, found.decode_tokens_per_s, found.prefill_tokens_per_s
        peak, every, command = found.peak_memory_bytes, list(found.seen), found.command
        shorts = tuple(spec.layers for spec in way.plan.shorts)
    result = Trial(
        estimate=estimated,
        kind=kind,
        shorts=shorts,
        load_s=load_s,
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=decode,
        peak_memory_bytes=peak,
        noise=max(relative_spread(one.steps_s) for one in every),
        problems=watch.so_far().problems,
        took_s=time.monotonic() - started_s,
        took_bytes=sum(one.memory.peak_bytes for one in every if one.memory),
        engine=here.engine.name,
        engine_version=here.engine_version,
        command=command,
        why=way.why,
    )
    _keep(result, here, every if not shorts else [])
    return result


def _run_whole(
    estimated: SetupEstimate | Served, here: Here, rounds: int, progress: Progress
) -> tuple[Seen, tuple[str, ...], Kind]:
    assert here.engine is not None
    spec = estimated.spec
    with ExitStack() as stack:
        file, kind = _own_file(estimated, here), Kind.MEASURED
        if file is None:
            kind = Kind.TEST_DRIVEN
            progress("writing a file of the true shapes", 0.0)
            if here.engine.takes == "gguf":
                writing = lambda done, total: progress("writing a file of the true shapes", done / total)  # noqa: E731
                file = stack.enter_context(synthetic_file(spec, scratch_folder(), progress=writing))
            else:
                file = stack.enter_context(synthetic_checkpoint(spec, scratch_folder(), weights=False))
        progress("loading", 0.0)
        limits = Limits(memory_bytes=estimated.site.available_bytes()[0])
        session = stack.enter_context(here.engine.start(file, estimated.settings, limits))
        driven = Driven.of(session, spec.vocab, estimated.workload)
        (seen,) = in_turns([driven], rounds=rounds, progress=lambda done: progress("running it", done))
        return seen, session.command, kind


def _own_file(estimated: SetupEstimate | Served, here: Here) -> Path | None:
    spec = estimated.spec
    assert here.engine is not None
    return spec.file if spec.format == here.engine.takes else None


def _formula(here: Here) -> tuple[Calibration, float]:
    """The formula that tells a whole model's times from short ones', and how far its level may be off."""
    if here.calibration is not None and here.engine is not None:
        if here.calibration.engine == here.engine.name:
            return here.calibration, SHARED_ERROR
        return here.calibration, UNKNOWN_ERROR
    return PROPORTIONS, UNKNOWN_ERROR


def _spread(samples: Sequence[float], basis: Basis) -> Figure | None:
    if not samples:
        return None
    return Figure(statistics.median(samples), min(samples), max(samples), "tokens/s", basis)


def _keep(result: Trial, here: Here, whole: Sequence[Seen]) -> None:
    """Samples of a whole run as they came; of a truncated one what they told."""

    def told(figure: Figure | None) -> list[float]:
        return [figure.value] if figure else []

    prompt = result.estimate.workload.prompt_tokens
    decodes = [1 / step for one in whole for step in one.step_medians_s]
    prefills = [prompt / seconds for one in whole for seconds in one.prefills_s]
    keep(
        result.estimate,
        here,
        result.kind,
        decode_tokens_per_s=decodes or told(result.decode_tokens_per_s),
        prefill_tokens_per_s=prefills or told(result.prefill_tokens_per_s),
        load_s=told(result.load_s),
        peak_memory_bytes=told(result.peak_memory_bytes),
        noise=result.noise,
        disturbed=bool(result.problems),
    )
