"""The best way to spread a model over a host and its GPUs, found rather than asked for.

Memory leaves few candidates: everything on one GPU, on several, as many layers as fit, or every layer with
the experts of the first ones in RAM. Which of them is fastest is for the caller's `decode_s` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from weigh.engines.engine import Settings
from weigh.estimate.device_memory import placed_memory
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.machine.target import Target
from weigh.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement that fits, and what it takes.

    Attributes:
        memory: RAM first, then each GPU.
        decode_s: time of one decode step, as the caller's estimate had it.
        why: the split in plain words.
    """

    placement: Placement
    memory: tuple[DeviceMemory, ...]
    decode_s: float
    why: str


def best_placement(
    spec: ModelSpec,
    settings: Settings,
    target: Target,
    available: Sequence[int],
    decode_s: Callable[[Placement], float],
) -> Placed | None:
    """The fastest placement that fits; None when not even the host can hold the model.

    Args:
        available: bytes that may be taken of RAM and of each GPU, in that order.
        decode_s: seconds of one decode step under a placement.
    """
    best: Placed | None = None
    for placement in _candidates(spec, target):
        held = placed_memory(spec, settings, target, placement, available=available)
        if not fits_together(held, target, available):
            continue
        taken_s = decode_s(placement)
        if best is None or taken_s < best.decode_s:
            best = Placed(placement, held, taken_s, _why(spec, placement))
    return best


def fits_together(memory: Sequence[DeviceMemory], target: Target, available: Sequence[int]) -> bool:
    """Whether every device has room, and RAM has room for what GPUs that share it take besides."""
    shared = sum(m.total_bytes for m, gpu in zip(memory[1:], target.gpus, strict=True) if gpu.unified)
    return all(m.fits for m in memory) and memory[0].total_bytes + shared <= available[0]


def _candidates(spec: ModelSpec, target: Target) -> Iterator[Placement]:
    yield Placement((0,) * len(target.gpus))
    for gpu in range(len(target.gpus)):
        for layers in range(1, spec.layers + 1):
            counts = tuple(layers if g == gpu else 0 for g in range(len(target.gpus)))
            yield Placement(counts, output_on_gpu=True)


def _why(spec: ModelSpec, placement: Placement) -> str:
    return f"{sum(placement.gpu_layers)} of {spec.layers} layers on the GPU"
