"""One setup weighed: the single answer behind `fit`, `recommend` and `try`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.memory import MemoryEstimate, max_context_tokens, memory
from weigh.estimate.speed import SpeedEstimate, Workload, speed, ttft
from weigh.estimate.work import Work, work
from weigh.figure import Figure
from weigh.model.quantization import file_bytes
from weigh.model.spec import MixerKind, ModelSpec


@dataclass(frozen=True, slots=True)
class SetupEstimate:
    """What running `spec` under `settings` would take and give here.

    Attributes:
        available_bytes: memory it may take: what is free now less what is to stay free.
        speed: None when this machine has not been calibrated.
    """

    spec: ModelSpec
    settings: Settings
    workload: Workload
    memory: MemoryEstimate
    available_bytes: int
    speed: SpeedEstimate | None
    cpu_features: Collection[str]
    calibration: Calibration | None
    work: Work

    def ttft_s(self, prompt_tokens: int) -> Figure | None:
        """Time to first token of another prompt than the workload's; None without a calibration."""
        if self.calibration is None:
            return None
        return ttft(
            self.work,
            self.calibration,
            prompt_tokens=prompt_tokens,
            unmeasured_mixers=_unmeasured(self.spec),
        )

    @property
    def fits(self) -> bool:
        return self.memory.total_bytes <= self.available_bytes

    @property
    def peak_memory_bytes(self) -> Figure:
        """Highest resident memory of a run; file pages beyond what is free are dropped meanwhile."""
        room = max(self.memory.total_bytes, self.available_bytes)
        return Figure.exact(min(self.memory.resident_bytes, room), "bytes")

    @property
    def max_context_tokens(self) -> int:
        """Largest context per sequence that fits, up to what the model was trained for."""
        return max_context_tokens(self.spec, self.settings, self.cpu_features, self.available_bytes)


def estimate(
    spec: ModelSpec,
    settings: Settings,
    workload: Workload,
    *,
    available_bytes: int,
    calibration: Calibration | None,
    cpu_features: Collection[str],
) -> SetupEstimate:
    """Weigh one setup.

    Args:
        spec: with its tensors typed: read from a file, or through a quantization recipe.
        cpu_features: instruction sets of the engine's build (they decide what it repacks).
    """
    needed = memory(spec, settings, cpu_features)
    todo, timing = work(spec), None
    if calibration is not None:
        timing = speed(
            todo,
            calibration,
            replace(workload, parallel=settings.parallel),
            file_bytes=spec.file_bytes or file_bytes(spec),
            repacked_bytes=needed.repacked_bytes,
            unmeasured_mixers=_unmeasured(spec),
        )
    return SetupEstimate(
        spec=spec,
        settings=settings,
        workload=workload,
        memory=needed,
        available_bytes=available_bytes,
        speed=timing,
        cpu_features=cpu_features,
        calibration=calibration,
        work=todo,
    )


def _unmeasured(spec: ModelSpec) -> bool:
    return any(mixer.kind in (MixerKind.RECURRENT, MixerKind.LATENT) for mixer in spec.mixers)
