"""A benchmark of a server that somebody else started: the client's clock, and the server's where it tells."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weigh.bench.alone import alone
from weigh.bench.benchmark import Benchmark, Beside, ending, notes
from weigh.bench.bill import bill
from weigh.bench.figures import noise, quantities, settled
from weigh.bench.here import scratch_folder
from weigh.bench.measure import Asked, Seen, Source, measure, raw
from weigh.bench.turns import Progress
from weigh.engines.served import Answer, ServedModel, words
from weigh.engines.token_arrivals import Counted
from weigh.machine import probe
from weigh.machine.disturbance import Watch
from weigh.store import Store
from weigh.store.fields import Scalar
from weigh.store.measurement import Measured, Measurement, try_to_save

if TYPE_CHECKING:
    from weigh.engines.tf_serving import TfServing

_FIRST_WORDS, _FIRST_TOKENS = 16, 2


def benchmark_url(
    served: ServedModel, asked: Asked, *, progress: Progress = lambda stage, done: None
) -> Benchmark:
    """Measure it as it is: it is not started and not estimated. Only Ollama's models can be made to load anew.

    Memory and processor time are told where the server's process is on this machine and ours to see.

    Raises:
        WeighError: it failed before anything was measured; later failures are told in the benchmark.
        KeyboardInterrupt: likewise.
    """
    with alone(scratch_folder()):
        bill(served)  # a list of prices that is none is told before anything is measured
        watch, when_s = Watch(), time.time()
        progress("asking the server", 0.0)
        served.generate(words(_FIRST_WORDS, seed=0), _FIRST_TOKENS)  # finds out how it wants to be asked
        source = Source(lambda parallel: served, served.prompt, engine_pid=served.pid)
        seen = measure(source, asked, lambda turns: settled(turns, asked.precision), progress)
        # the server is no child of ours: its work is not told from that of other programs
        problems = replace(watch.so_far(), others=None).problems
    loading = () if served.load_s is None else (Measured("load_s", "s", (served.load_s,)),)
    found = (*loading, *quantities(seen))
    measurement = of_server(
        served,
        when_s,
        local=served.pid is not None,
        settings=_said(asked),
        measured=found,
        noise=noise(seen.turns),
        problems=(*problems, *ending(seen)),
        raw=raw(seen),
    )
    not_kept = try_to_save(Store(), measurement)
    rows = tuple(Beside(one, None) for one in found)
    billed = bill(served)
    told = (*notes(seen, found, asked), *_counting(seen), *((billed.words,) if billed else ()))
    return Benchmark(measurement, rows, told, seen.ended, not_kept)


def _counting(seen: Seen) -> tuple[str, ...]:
    """What is not sure about the tokens' number, and what was found in a cache though nothing should be."""
    answers = [
        request.made for turn in seen.turns for request in turn.requests if isinstance(request.made, Answer)
    ]
    told = []
    if any(answer.counted is Counted.PIECES for answer in answers):
        told.append("the server does not count its tokens: each piece of its stream is taken for one")
    if any(answer.hidden_tokens for answer in answers):
        told.append("it reasons out of sight: the time to the first token has that reasoning in it")
    fresh = [
        request.made.cached_tokens
        for turn in seen.turns
        if not turn.condition.depth_tokens
        for request in turn.requests
    ]
    if any(fresh):
        told.append(
            f"up to {max(fresh):,} tokens of a fresh prompt were found in the server's cache:"
            " prefill counts those computed"
        )
    return tuple(told)


def _said(asked: Asked) -> dict[str, Scalar]:
    return {
        "parallel": ",".join(map(str, asked.parallel)),
        "prompt_cache": False,
        "precision": asked.precision,
        "most_s": asked.most_s,
    }


def of_server(
    served: ServedModel | TfServing,
    when_unix_s: float,
    *,
    local: bool,
    settings: Mapping[str, Scalar],
    measured: tuple[Measured, ...],
    noise: float | None,
    problems: tuple[str, ...],
    raw: Mapping[str, Any],
) -> Measurement:
    """What was measured of a server; of this machine where it runs on it (`local`), else of none that is known."""
    machine = probe() if local else None
    return Measurement(
        kind="bench",
        when_unix_s=when_unix_s,
        fingerprint=machine.fingerprint if machine else "",
        cpu=machine.cpu.model if machine else "",
        gpus=tuple(gpu.name for gpu in machine.gpus) if machine else (),
        engine=served.engine,
        engine_version=served.version,
        command=served.command,
        model=served.model,
        settings=settings,
        measured=measured,
        noise=noise,
        problems=problems,
        raw=raw,
    )
