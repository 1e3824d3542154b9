"""How fast on devices that are only known by data sheets and by what others have measured on them.

Decode, one step      sum over devices of
                        weight bytes visited / bandwidth x what its format costs there
                      + bytes of the output matrix / bandwidth x what a large vocabulary costs beyond that
                      + KV bytes read / bandwidth x what that costs
                      + layers x time to launch one
Prefill of T tokens   sum over devices of
                        2 x weights x T / FP16 peak x what its format costs there
                      + attention over T x depth + T^2 / 2 pairs / peak of its kernels x its cost
                      + T x recurrent states x what their updates cost
                      + micro-batches x (layers x time to launch one + weights brought in once
                        + rows of multiplication tiles that an expert's few tokens leave empty)
Offloaded parts run one after another, but GPUs that hold all layers work on several micro-batches at once, as far
as the queues of what is sent to them reach (`pipeline_share`). Weights in RAM cross the bus to a GPU in prefill,
because llama.cpp multiplies batches of `OFFLOAD_TOKENS` and more there; otherwise the host does its part itself.

Each cost is a product of effects, named `backend`, `generation`, `format` and so on, that
`benchmarks/device_rates_fit.py` fitted to published runs of llama.cpp (data/device_rates.json): a device that
nobody measured takes those of its generation and backend, one that somebody did has an effect of its own. The
cost of prefill also grows with the peak itself (`size`): the wider a GPU, the less of it a model fills.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.device_rates import Pipeline, Rates, bytes_per_s, peaks_of, rates, run_on
from weigh.estimate.device_terms import (
    Peaks,
    Run,
    Term,
    bytes_by_class,
    decode_terms,
    multiplications,
    prefill_terms,
    weights_of,
)
from weigh.estimate.device_work import Part, Share, shares
from weigh.estimate.memory import memory
from weigh.estimate.placement import Placement
from weigh.estimate.speed import SpeedEstimate, Workload, speed
from weigh.estimate.work import work
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device, Target
from weigh.model.gguf_size import file_bytes
from weigh.model.spec import ModelSpec

OFFLOAD_TOKENS = 32  # llama.cpp, ggml-cuda.cu: batches from here on are multiplied on the GPU
# What is sent to an NVIDIA card waits in a queue of so many operations, of which llama.cpp makes four times as many
# since its build 7844 (pull request 19042); the 1024 are the default (from memory: unverified).
LAUNCH_QUEUE = 1024
LONGER_QUEUE = 4
PIPELINE_COPIES = 4  # micro-batches under way at most: GGML_SCHED_MAX_COPIES
LINK_SHARE = 0.7  # of the bus's peak that copies reach: taken for granted
TENSOR_PARALLEL_SHARE = 0.85  # of n GPUs' rate that is left beside exchanging sums: taken for granted
DISK_BYTES_PER_S = 3e9  # an NVMe disk
BOARD_DISK_BYTES_PER_S = 0.4e9  # a card or a USB disk of a board
BOARD_BYTES_PER_S = 40e9  # boards have less memory bandwidth than this
START_S = 1.0
PAGES_BYTES_PER_S = 6e9  # file pages in memory to where the engine wants them
LOAD_NOTE = "load times assume an NVMe disk of 3 GB/s, 0.4 GB/s on boards"
# Relative half-widths added for what the published runs do not show.
UNKNOWN_RATE_ERROR = 1.0
SEVERAL_SEQUENCES_ERROR = 0.35
TENSOR_PARALLEL_ERROR = 0.4
SPLIT_ERROR = 0.25  # between RAM and a GPU; layers on several cards alike are in the published runs
COPIED_WEIGHTS_ERROR = 0.5
LOAD_ERROR = 2.0


def placed_speed(
    spec: ModelSpec,
    settings: Settings,
    workload: Workload,
    target: Target,
    placement: Placement,
    calibration: Calibration | None = None,
) -> SpeedEstimate:
    """Speed of `spec` spread over `target` as `placement` says.

    Args:
        calibration: of this very machine; all on a probed host it gives the answer alone, as `speed` does.
            Of a model that is only partly on the host it is not used.
    """
    workload = replace(workload, parallel=settings.parallel)
    if calibration is not None and target.probed and not placement.on_gpu:
        return _calibrated(spec, settings, workload, target, calibration)
    placed = shares(spec, target, placement)
    step = _Estimate.of(*_decode(placed, settings, workload, target, placement))
    first = _Estimate.of(*_prefill(placed, settings, workload, target, placement))
    warm = _load_s(spec, target, placed)
    size = spec.file_bytes or file_bytes(spec)
    read = size / (BOARD_DISK_BYTES_PER_S if _is_board(target) else DISK_BYTES_PER_S)
    return SpeedEstimate(
        prefill_tokens_per_s=first.rate(workload.prompt_tokens),
        decode_tokens_per_s=step.rate(1),
        ttft_s=first.time(),
        load_s=Figure.within(warm, LOAD_ERROR, "s", Basis.RULE_OF_THUMB, LOAD_NOTE),
        load_cold_s=Figure.within(warm + read, LOAD_ERROR, "s", Basis.RULE_OF_THUMB, LOAD_NOTE),
    )


def _calibrated(
    spec: ModelSpec, settings: Settings, workload: Workload, target: Target, calibration: Calibration
) -> SpeedEstimate:
    return speed(
        work(spec),
        calibration,
        workload,
        settings,
        file_bytes=spec.file_bytes or file_bytes(spec),
        repacked_bytes=memory(spec, settings, target.cpu_features).repacked_bytes,
    )


class _Timed(NamedTuple):
    """Seconds a device takes, with the relative half-width of its estimate and where it comes from."""

    seconds: float
    error: float
    basis: Basis


class _Estimate(NamedTuple):
    seconds: float
    error: float
    basis: Basis

    @classmethod
    def of(cls, timed: Sequence[_Timed], more_error: float) -> _Estimate:
        """Errors of devices are taken to go together, so they average by time; others come on top."""
        total = sum(t.seconds for t in timed)
        shared = sum(t.seconds * t.error for t in timed) / total
        order = list(Basis)
        basis = max((t.basis for t in timed), key=order.index)
        return cls(total, math.hypot(shared, more_error), basis)

    def time(self) -> Figure:
        return Figure.within(self.seconds, self.error, "s", self.basis)

    def rate(self, tokens: int) -> Figure:
        return Figure.within(tokens / self.seconds, self.error, "tokens/s", self.basis)


def _decode(
    placed: Sequence[Share], settings: Settings, workload: Workload, target: Target, placement: Placement
) -> tuple[list[_Timed], float]:
    depth = workload.depth_tokens + workload.output_tokens / 2
    sequences = workload.parallel
    decode, prefill = rates()
    described = _described(placed, target, workload)
    timed = []
    for device, part in placed:
        run = run_on(device)
        terms = decode_terms(
            part, run, bytes_per_s(device), settings, cached_tokens=depth, sequences=sequences
        )
        seconds = decode.seconds(terms)
        if sequences > 1:
            peaks = peaks_of(device, target.cpu_features)
            seconds += prefill.seconds(_arithmetic(part, run, peaks, sequences - 1))
        seconds /= _gain(placement, target)
        timed.append(_timed(seconds, device, part, decode, _known(device), **described))
    more = [SEVERAL_SEQUENCES_ERROR] * (sequences > 1) + [TENSOR_PARALLEL_ERROR] * placement.tensor_parallel
    more += [SPLIT_ERROR] * _mixed(placed)
    return timed, math.hypot(*more)


class _Described(TypedDict):
    """What of a whole setup an interval depends on."""

    weights: int
    several: bool
    depth: int


def _described(placed: Sequence[Share], target: Target, workload: Workload) -> _Described:
    weights = sum(weights_of(part) for _, part in placed)
    several = sum(device is not target.host for device, _ in placed) > 1
    return {"weights": weights, "several": several, "depth": workload.depth_tokens}


def _mixed(placed: Sequence[Share]) -> bool:
    return len({share.device.name for share in placed}) > 1


def _arithmetic(part: Part, run: Run, peaks: Peaks, tokens: int) -> list[Term]:
    """Multiplications of further tokens in a step, at the rate of prefill."""
    dense = (*part.dense, part.output) if part.output else part.dense
    return multiplications(replace(part, dense=dense), run, peaks, tokens)


def _prefill(
    placed: Sequence[Share], settings: Settings, workload: Workload, target: Target, placement: Placement
) -> tuple[list[_Timed], float]:
    tokens, depth = workload.prompt_tokens, workload.depth_tokens
    ubatch = min(settings.ubatch_tokens, settings.batch_tokens, tokens)
    prefill = rates()[1]
    described = _described(placed, target, workload)
    timed, copied_any = [], False
    faster = _gain(placement, target) / _pipelined(placed, tokens, ubatch, placement)
    for device, part in placed:
        copied = device is target.host and placement.on_gpu and ubatch >= OFFLOAD_TOKENS
        worker = target.gpus[0] if copied else device
        terms = prefill_terms(
            part,
            run_on(worker),
            peaks_of(worker, target.cpu_features),
            tokens=tokens,
            depth=depth,
            ubatch=ubatch,
        )
        seconds = prefill.seconds(terms) / faster
        if copied:
            seconds += math.ceil(tokens / ubatch) * _copy_s(part, worker, ubatch)
            copied_any = True
        known = _known(worker) and bool(worker.fp16_flops_per_s or worker.fp32_flops_per_s)
        timed.append(_timed(seconds, worker, part, prefill, known, **described))
    more = [TENSOR_PARALLEL_ERROR] * placement.tensor_parallel + [COPIED_WEIGHTS_ERROR] * copied_any
    more += [SPLIT_ERROR] * _mixed(placed)
    return timed, math.hypot(*more)


def _copy_s(part: Part, gpu: Device, tokens: int) -> float:
    """Seconds to bring the weights of one micro-batch over the bus; nothing where memory is shared."""
    if gpu.unified or gpu.link_bytes_per_s is None:
        return 0.0
    touched = 1 - (1 - part.expert_share) ** tokens
    size = sum(bytes_by_class(part.dense).values()) + touched * sum(bytes_by_class(part.experts).values())
    return size / (gpu.link_bytes_per_s * LINK_SHARE)


def pipeline_share(gpus: int, layers: int, micro_batches: int, line: Pipeline, queue: float) -> float:
    """Time of a prompt on `gpus` alike that pass on each micro-batch, over that of one after the other.

    Layers and the output are dealt out evenly, so the card with most of them sets the pace. One thread fills the
    queues of all cards, of `queue` operations each; while it waits at a full one it feeds no other. So micro-batch
    m + 1 is let in when the last card is through with m less those that fit into a queue. Counted in turns, the
    time of a micro-batch on a card with an even share. Source: llama-context.cpp, `pipeline_parallel`; published
    runs on four cards, of which a model of 32 layers gains 2.9 x and one of 80 layers 1.3 x (docs/devices.md).
    """
    if gpus == 1:
        return 1.0
    sent = layers * line.operations_per_layer / gpus
    fit = min(PIPELINE_COPIES, queue / sent) if sent else PIPELINE_COPIES
    pace = max(1.0, line.handover * math.ceil((layers + 1) / gpus) * gpus / layers)
    starts = [0.0]
    for number in range(1, micro_batches):
        start, through = starts[-1] + pace, number - fit
        if through > 0:
            latest = math.ceil(through)
            start = max(start, starts[latest - 1] + gpus - 1 + through - (latest - 1))
        starts.append(start)
    return (starts[-1] + gpus) / (micro_batches * gpus)


def _pipelined(placed: Sequence[Share], tokens: int, ubatch: int, placement: Placement) -> float:
    """llama.cpp does so where all layers are on GPUs whose backend has events."""
    backends = {share.device.backend for share in placed}
    if placement.tensor_parallel or not backends <= {Backend.CUDA, Backend.ROCM}:
        return 1.0
    layers = sum(share.part.layers for share in placed)
    queue = LAUNCH_QUEUE * LONGER_QUEUE
    return pipeline_share(len(placed), layers, math.ceil(tokens / ubatch), rates()[1].pipeline, queue)


def _gain(placement: Placement, target: Target) -> float:
    return TENSOR_PARALLEL_SHARE * len(target.gpus) if placement.tensor_parallel else 1.0


def _known(device: Device) -> bool:
    return device.bandwidth_bytes_per_s is not None


def _timed(
    seconds: float,
    device: Device,
    part: Part,
    table: Rates,
    known: bool,
    *,
    weights: int,
    several: bool,
    depth: int,
) -> _Timed:
    error = math.expm1(table.error(device, part, weights=weights, several=several, depth=depth))
    if not known:
        return _Timed(seconds, math.hypot(error, UNKNOWN_RATE_ERROR), Basis.RULE_OF_THUMB)
    published = table.known(device) == "published"
    return _Timed(seconds, error, Basis.PUBLISHED if published else Basis.SPEC_SHEET)


def _is_board(target: Target) -> bool:
    return not target.gpus and bytes_per_s(target.host) < BOARD_BYTES_PER_S


def _load_s(spec: ModelSpec, target: Target, placed: Sequence[Share]) -> float:
    """From starting the engine to its readiness with the file in memory: pages to RAM, and over the bus."""
    size = spec.file_bytes or file_bytes(spec)
    links = [d.link_bytes_per_s for d, _ in placed if d.link_bytes_per_s]
    slowest = min([PAGES_BYTES_PER_S, *links, bytes_per_s(target.host) / 3])
    return START_S + size / slowest
