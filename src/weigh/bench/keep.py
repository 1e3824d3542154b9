"""What of a run goes into the ledger, beside the estimate made for it before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from weigh.estimate.serving import Served
from weigh.estimate.speed import FORMULA_VERSION
from weigh.store import Store
from weigh.store.fields import LARGEST, SMALLEST, printable
from weigh.store.ledger import record
from weigh.store.run import MOST_GPUS, MOST_SAMPLES, Kind, Quantity, Run

if TYPE_CHECKING:
    from weigh.bench.here import Here
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.speed import SpeedEstimate
    from weigh.figure import Figure


def keep(
    estimated: SetupEstimate | Served,
    here: Here,
    kind: Kind,
    *,
    decode_tokens_per_s: Sequence[float],
    prefill_tokens_per_s: Sequence[float],
    load_s: Sequence[float],
    peak_memory_bytes: Sequence[float],
    noise: float,
    disturbed: bool = False,
) -> Run:
    """Record the samples of a run on this machine; a quantity that was not measured has none.

    Args:
        estimated: made before the run, by earlier runs corrected or not; both are kept.
        noise: relative 80 % half-width of single decode steps.
        disturbed: other work was noticed meanwhile. Such a run teaches nothing, so it names no calibration.
    """
    calibration = None if isinstance(estimated, Served) or disturbed else estimated.site.calibration
    settings, workload = estimated.settings, estimated.workload
    memory = estimated.peak_memory_bytes
    run = Run(
        when_unix_s=time.time(),
        fingerprint=here.machine.speed_fingerprint,
        cpu=printable(here.machine.cpu.model),
        gpus=tuple(printable(gpu.name) for gpu in here.machine.gpus[:MOST_GPUS]),
        engine=here.engine.name if here.engine else "unknown",
        engine_version=here.engine_version or "unknown",
        calibration=calibration.created if calibration else "",
        formula_version=FORMULA_VERSION if calibration else None,
        model=printable(estimated.spec.name) or "unnamed",
        family=printable(estimated.spec.architecture),
        quantization=printable(estimated.spec.quantization),
        kind=kind,
        context_tokens=settings.context_tokens,
        parallel=settings.parallel,
        threads=settings.threads or here.machine.cpu.threads,
        kv_type_k=settings.kv_type_k.name,
        kv_type_v=settings.kv_type_v.name,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        depth_tokens=workload.depth_tokens,
        decode_tokens_per_s=_beside(estimated, decode_tokens_per_s, lambda speed: speed.decode_tokens_per_s),
        prefill_tokens_per_s=_beside(
            estimated, prefill_tokens_per_s, lambda speed: speed.prefill_tokens_per_s
        ),
        load_s=_beside(estimated, load_s, lambda speed: speed.load_s),
        peak_memory_bytes=Quantity(_told(peak_memory_bytes), memory, memory),
        noise=noise,
    )
    record(Store(), run)
    return run


def _beside(
    estimated: SetupEstimate | Served, samples: Sequence[float], of: Callable[[SpeedEstimate], Figure]
) -> Quantity:
    if isinstance(estimated, Served):  # none is estimated of an engine that is not calibrated
        return Quantity(_told(samples))
    shown, uncorrected = estimated.speed, estimated.uncorrected_speed
    return Quantity(_told(samples), of(shown) if shown else None, of(uncorrected) if uncorrected else None)


def _told(samples: Sequence[float]) -> tuple[float, ...]:
    """Without those that say nothing, as the decode rate of a single token."""
    return tuple(float(one) for one in samples if SMALLEST <= one <= LARGEST)[:MOST_SAMPLES]
