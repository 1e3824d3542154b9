"""One setup weighed: the single answer behind `fit`, `recommend`, `buy` and `try`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.learned import Learned, Setup
from weigh.estimate.memory import MemoryEstimate, max_context_tokens, memory, with_context
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.estimate.remembered import remembered
from weigh.estimate.site import Site
from weigh.estimate.speed import SpeedEstimate, Workload, speed
from weigh.estimate.work import Work, work
from weigh.figure import Figure
from weigh.model.gguf_size import file_bytes
from weigh.model.spec import ModelSpec


@remembered
def _work(spec: ModelSpec) -> Work:
    return work(spec)


@remembered
def _file_bytes(spec: ModelSpec) -> int:
    return spec.file_bytes or file_bytes(spec)


@remembered
def _calibrated(
    spec: ModelSpec,
    calibration: Calibration,
    learned: Learned | None,
    workload: Workload,
    settings: Settings,
    repacked_bytes: int,
) -> SpeedEstimate:
    found = speed(
        _work(spec),
        calibration,
        workload,
        settings,
        file_bytes=_file_bytes(spec),
        repacked_bytes=repacked_bytes,
    )
    return learned.correct(found, Setup.of(spec, settings, workload, calibration)) if learned else found


@dataclass(frozen=True, slots=True)
class SetupEstimate:
    """What running `spec` under `settings` on llama.cpp would take and give at a site.

    Attributes:
        available: memory it may take of the RAM and of each GPU: free less what is to stay free.
        placement: the best split found; nothing on a GPU where there is none.
        devices: what the RAM and each GPU would hold.
        process: the memory in detail where the host does everything; None when a GPU takes part.
        speed: None when nothing is known of the site's.
        why: the split in plain words; "" where there is none.
        notes: what an engine around llama.cpp chose.
    """

    spec: ModelSpec
    settings: Settings
    workload: Workload
    site: Site
    available: tuple[int, ...]
    placement: Placement
    devices: tuple[DeviceMemory, ...]
    process: MemoryEstimate | None
    speed: SpeedEstimate | None
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> DeviceMemory:
        """All devices together."""
        parts = [(d.weights_bytes, d.kv_cache_bytes, d.compute_bytes, d.overhead_bytes) for d in self.devices]
        weights, cache, compute, overhead = (sum(part) for part in zip(*parts, strict=True))
        name = self.site.target.name
        return DeviceMemory(name, weights, cache, compute, overhead, self.available_bytes)

    @property
    def available_bytes(self) -> int:
        """Of all devices together."""
        return self.site.together_bytes(self.available)

    @property
    def fits(self) -> bool:
        return self.site.holds(self.devices, self.available)

    def at(self, workload: Workload) -> SpeedEstimate | None:
        """Speed of another workload under the same split; None where no speed is known.

        As many sequences are computed at once as `workload` says, whatever the settings hold.
        """
        settings = replace(self.settings, parallel=workload.parallel)
        return _speed(self.spec, settings, workload, self.site, self.placement, self.process)

    def ttft_s(self, prompt_tokens: int) -> Figure | None:
        """Time to first token of another prompt than the workload's; None where no speed is known."""
        found = self.at(replace(self.workload, prompt_tokens=prompt_tokens, depth_tokens=0))
        return found.ttft_s if found else None

    @property
    def uncorrected_speed(self) -> SpeedEstimate | None:
        """As it is before earlier runs correct it: what the next correction is learned from."""
        unlearned = replace(self.site, learned=None)
        return _speed(self.spec, self.settings, self.workload, unlearned, self.placement, self.process)

    @property
    def peak_memory_bytes(self) -> Figure:
        """Highest resident memory of a run; file pages beyond what is free are dropped meanwhile."""
        if self.process is None:
            return Figure.exact(self.memory.total_bytes, "bytes")
        room = max(self.process.total_bytes, self.available[0])
        return Figure.exact(min(self.process.resident_bytes, room), "bytes")

    @property
    def max_context_tokens(self) -> int:
        """Largest context per sequence that fits, up to what the model was trained for."""
        if not self.site.target.gpus:
            return max_context_tokens(self.spec, self.settings, self.site.cpu_features, self.available[0])
        from weigh.estimate.split import max_context_tokens_placed

        return max_context_tokens_placed(self.spec, self.settings, self.site.target, self.available)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What to give llama.cpp so that it does this."""
        from weigh.estimate.split import arguments

        return arguments(self.placement, self.site.target, self.spec, self.settings)


def weigh(
    spec: ModelSpec,
    site: Site,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    workload: Workload = Workload(),  # noqa: B008 - frozen
    *,
    reserve_bytes: int | None = None,
) -> SetupEstimate:
    """Weigh one setup at a site, at the best split over its devices.

    Args:
        spec: with its tensors typed: read from a file, or through a quantization recipe.
        reserve_bytes: RAM to leave free; None for the site's default.
    """
    available = site.available_bytes(reserve_bytes)
    if workload.parallel != settings.parallel:
        workload = replace(workload, parallel=settings.parallel)
    if site.target.gpus:
        return _placed(spec, settings, workload, site, available)
    process = memory(spec, settings, site.cpu_features)
    placement = Placement()
    timing = _speed(spec, settings, workload, site, placement, process)
    devices = (_of_process(process, site, available[0]),)
    return SetupEstimate(spec, settings, workload, site, available, placement, devices, process, timing)


def _of_process(process: MemoryEstimate, site: Site, available_bytes: int) -> DeviceMemory:
    return DeviceMemory(
        device=site.target.host.name,
        weights_bytes=process.weights_bytes,
        kv_cache_bytes=process.kv_cache_bytes,
        compute_bytes=process.compute_bytes + process.output_bytes,
        overhead_bytes=process.runtime_bytes,
        available_bytes=available_bytes,
    )


def _placed(
    spec: ModelSpec, settings: Settings, workload: Workload, site: Site, available: tuple[int, ...]
) -> SetupEstimate:
    from weigh.estimate.device_memory import placed_memory
    from weigh.estimate.split import best_placement

    def decode_s(placement: Placement) -> float:
        timing = _speed(spec, settings, workload, site, placement, None)
        return 1 / timing.decode_tokens_per_s.value if timing else 0.0

    found = best_placement(spec, settings, site.target, available, decode_s)
    placement = found.placement if found else Placement((0,) * len(site.target.gpus))
    return SetupEstimate(
        spec=spec,
        settings=settings,
        workload=workload,
        site=site,
        available=available,
        placement=placement,
        devices=found.memory
        if found
        else placed_memory(spec, settings, site.target, placement, available=available),
        process=None,
        speed=_speed(spec, settings, workload, site, placement, None),
        why=found.why if found else "",
    )


def _speed(
    spec: ModelSpec,
    settings: Settings,
    workload: Workload,
    site: Site,
    placement: Placement,
    process: MemoryEstimate | None,
) -> SpeedEstimate | None:
    """From this machine's calibration and runs where the host does everything, else from what is known of the
    devices."""
    if not spec.generates:
        return None  # it writes no tokens; an encoder's pass over a text is not estimated
    if site.calibration is not None and not placement.on_gpu:
        repacked_bytes = (process or memory(spec, settings, site.cpu_features)).repacked_bytes
        # the room held for a context costs no time, so that settings which differ in it share a speed
        any_context = with_context(settings, 0)
        return _calibrated(spec, site.calibration, site.learned, workload, any_context, repacked_bytes)
    if site.target.probed and not placement.on_gpu:
        return None  # this machine can be measured; nothing is guessed of it
    from weigh.estimate.device_speed import placed_speed

    return placed_speed(spec, settings, workload, site.target, placement, site.calibration)
