"""The best way to spread a model over a host and its GPUs, found rather than asked for.

Memory leaves few candidates: everything on one GPU; everything on several; every layer on GPUs but the experts
of the first ones in RAM; as many layers as fit; nothing. Where several GPUs share, they are filled in turn,
from either end, or evenly. Which of these is fastest is for the caller's `decode_s` to say.

Filling in turn is right for one sequence: layers run one after another, so each belongs on the fastest GPU that
has room for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.device_memory import LayerBytes, layer_bytes, placed_memory
from weigh.estimate.engine_arguments import arguments
from weigh.estimate.kv_cache import CELL_STEP
from weigh.estimate.memory import UNBOUNDED_TOKENS
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.machine.target import Target
from weigh.model.spec import ModelSpec
from weigh.units import gib

__all__ = ["Placed", "arguments", "best_placement", "fits_together", "max_context_tokens_placed"]

WORTH_IT = 0.98  # a split that saves less than 2 % of the time is not worth being less simple
_CORRECTIONS = 4  # rooms are set from a first guess at the scratch memory, then corrected


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
        spec: with its tensors typed.
        available: bytes that may be taken of RAM and of each GPU, in that order.
        decode_s: seconds of one decode step under a placement.
    """
    best: Placed | None = None
    for placement, held in _candidates(_Site(spec, settings, target, available)):
        taken_s = decode_s(placement)
        if best is None or taken_s < WORTH_IT * best.decode_s:
            best = Placed(placement, held, taken_s, "")
    if best is None:
        return None
    return replace(best, why=_why(_Site(spec, settings, target, available), best.placement))


def max_context_tokens_placed(
    spec: ModelSpec, settings: Settings, target: Target, available: Sequence[int]
) -> int:
    """Largest context per sequence, up to what the model was trained for, that keeps as much on GPUs; 0 for none.

    As much as under `settings`: all layers, all but some experts, some layers, or nothing. Longer contexts may
    fit by leaving more in RAM. A whole number of steps of 256 tokens, or all that the model was trained for.
    """
    most = spec.context_train or UNBOUNDED_TOKENS

    def held(context_tokens: int) -> _Held | None:
        other = replace(settings, context_tokens=context_tokens)
        first = next(_candidates(_Site(spec, other, target, available)), None)
        return _held_on_gpus(first[0], spec) if first else None

    wanted = held(settings.context_tokens) or _Held.NOTHING

    def fits(steps: int) -> bool:
        found = held(min(steps * CELL_STEP, most))
        return found is not None and found >= wanted

    low, high = 0, -(-most // CELL_STEP)
    if fits(high):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * CELL_STEP


class _Held(IntEnum):
    """How much of a model GPUs hold."""

    NOTHING = 0
    SOME_LAYERS = 1
    ALL_BUT_EXPERTS = 2
    EVERYTHING = 3


def _held_on_gpus(placement: Placement, spec: ModelSpec) -> _Held:
    if not placement.on_gpu:
        return _Held.NOTHING
    if sum(placement.gpu_layers) < spec.layers:
        return _Held.SOME_LAYERS
    return _Held.ALL_BUT_EXPERTS if placement.experts_in_ram else _Held.EVERYTHING


def fits_together(memory: Sequence[DeviceMemory], target: Target, available: Sequence[int]) -> bool:
    """Whether every device has room, and RAM has room for what GPUs that share it take besides."""
    shared = sum(m.total_bytes for m, gpu in zip(memory[1:], target.gpus, strict=True) if gpu.unified)
    return all(m.fits for m in memory) and memory[0].total_bytes + shared <= available[0]


@dataclass(frozen=True)
class _Site:
    """The question: a model under settings, and where it may go."""

    spec: ModelSpec
    settings: Settings
    target: Target
    available: Sequence[int]

    def memory(self, placement: Placement) -> tuple[DeviceMemory, ...]:
        return placed_memory(self.spec, self.settings, self.target, placement, available=self.available)

    def holds(self, memory: Sequence[DeviceMemory]) -> bool:
        return fits_together(memory, self.target, self.available)

    @property
    def fastest_first(self) -> list[int]:
        gpus = self.target.gpus
        return sorted(range(len(gpus)), key=lambda i: -(gpus[i].bandwidth_bytes_per_s or 0.0))

    def placement(self, counts: Mapping[int, int], experts_in_ram: int = 0) -> Placement:
        layers = tuple(counts.get(gpu, 0) for gpu in range(len(self.target.gpus)))
        return Placement(layers, output_on_gpu=True, experts_in_ram=experts_in_ram)


class _Cut(NamedTuple):
    """Layers from `first` on are on GPUs, the experts of layers before `experts_from` in RAM."""

    first: int
    experts_from: int


class _Order(StrEnum):
    """How several GPUs share layers."""

    EVENLY = "evenly"
    FORWARD = "the first GPU is filled first"
    BACKWARD = "the last GPU is filled first"


def _candidates(site: _Site) -> Iterator[tuple[Placement, tuple[DeviceMemory, ...]]]:
    """Placements that fit, the simple ones first."""
    whole = []
    for gpu in site.fastest_first:
        placement = site.placement({gpu: site.spec.layers})
        if site.holds(held := site.memory(placement)):
            whole.append(gpu)
            yield placement, held
    if not whole:
        yield from _shared(site)
    elif whole[0] != site.fastest_first[0]:  # faster ones may do it together
        yield from _fitted(site, tuple(range(len(site.target.gpus))), [_Cut(0, 0)])
    host = Placement((0,) * len(site.target.gpus))
    if site.holds(held := site.memory(host)):
        yield host, held


def _shared(site: _Site) -> Iterator[tuple[Placement, tuple[DeviceMemory, ...]]]:
    """What several GPUs hold together, and what GPUs hold with a part left in RAM."""
    gpus = range(len(site.target.gpus))
    if len(gpus) > 1:
        together = list(_fitted(site, tuple(gpus), [_Cut(0, 0)]))
        yield from together
        if together:
            return
        yield from _partly(site, tuple(gpus))
    for gpu in site.fastest_first:
        yield from _partly(site, (gpu,))


def _partly(site: _Site, gpus: tuple[int, ...]) -> Iterator[tuple[Placement, tuple[DeviceMemory, ...]]]:
    """Every layer with experts in RAM, as few as need be; else as many whole layers as there is room for."""
    layers = site.spec.layers
    if site.spec.experts:
        found = list(_fitted(site, gpus, [_Cut(0, n) for n in range(1, layers + 1)]))
        yield from found or _fitted(site, gpus, [_Cut(first, layers) for first in range(1, layers)])
    else:
        yield from _fitted(site, gpus, [_Cut(first, 0) for first in range(1, layers)])


def _fitted(
    site: _Site, gpus: tuple[int, ...], cuts: Sequence[_Cut]
) -> Iterator[tuple[Placement, tuple[DeviceMemory, ...]]]:
    """The first of `cuts`, which leave more and more in RAM, that the GPUs hold, for each order of filling them."""
    rooms = _rooms(site, gpus, cuts[len(cuts) // 2])
    for order in _Order if len(gpus) > 1 else (_Order.FORWARD,):
        found = _first_fitting(site, gpus, cuts, rooms, order)
        if found is not None and site.holds(found[1]):
            yield found


def _first_fitting(
    site: _Site, gpus: tuple[int, ...], cuts: Sequence[_Cut], rooms: list[int], order: _Order
) -> tuple[Placement, tuple[DeviceMemory, ...]] | None:
    """Solved by sums over layers with a guess at each GPU's other memory; then weighed, and the guess mended."""
    sizes = layer_bytes(site.spec, site.settings)
    for _ in range(_CORRECTIONS):
        index = bisect_left(cuts, True, key=lambda cut: _filled(sizes, cut, rooms, order) is not None)
        counts = _filled(sizes, cuts[index], rooms, order) if index < len(cuts) else None
        if counts is None:
            return None
        placement = site.placement(dict(zip(gpus, counts, strict=True)), cuts[index].experts_from)
        held = site.memory(placement)
        missing = [held[gpu + 1].total_bytes - site.available[gpu + 1] for gpu in gpus]
        if max(missing) <= 0:
            return placement, held
        rooms = [room - max(0, short) for room, short in zip(rooms, missing, strict=True)]
    return None


def _rooms(site: _Site, gpus: tuple[int, ...], cut: _Cut) -> list[int]:
    """Bytes each GPU has for layers, beside the scratch and the output matrix it has under a like placement."""
    layers = site.spec.layers - cut.first
    share = {gpu: layers // len(gpus) for gpu in gpus}
    share[gpus[-1]] += layers - sum(share.values())
    held = site.memory(site.placement(share, cut.experts_from))
    sizes = layer_bytes(site.spec, site.settings)
    rooms, start = [], cut.first
    for gpu in gpus:
        own = sizes.between(start, start + share[gpu], cut.experts_from)
        rooms.append(site.available[gpu + 1] - held[gpu + 1].total_bytes + own)
        start += share[gpu]
    return rooms


def _filled(sizes: LayerBytes, cut: _Cut, rooms: Sequence[int], order: _Order) -> tuple[int, ...] | None:
    """Layers for each GPU, from `cut.first` to the last; None when there is no room for them all."""
    match order:
        case _Order.FORWARD:
            return _in_turn(sizes, cut, rooms)
        case _Order.BACKWARD:
            return _from_the_end(sizes, cut, rooms)
        case _Order.EVENLY:
            needed, room = sizes.between(cut.first, sizes.layers, cut.experts_from), sum(rooms)
            return _in_turn(sizes, cut, rooms, share=needed / room) if 0 < needed <= room else None


def _in_turn(
    sizes: LayerBytes, cut: _Cut, rooms: Sequence[int], share: float = 1.0
) -> tuple[int, ...] | None:
    """Fill each GPU up to `share` of its room, give or take a layer; the last takes what is left."""
    start, counts, owed = cut.first, [], 0.0
    for index, room in enumerate(rooms):
        last = index == len(rooms) - 1
        owed += room * share
        end = sizes.layers if last else sizes.end(start, min(owed, room), cut.experts_from)
        taken = sizes.between(start, end, cut.experts_from)
        if taken > room:
            return None
        counts.append(end - start)
        start, owed = end, owed - taken
        if share == 1.0:
            owed = 0.0
    return tuple(counts)


def _from_the_end(sizes: LayerBytes, cut: _Cut, rooms: Sequence[int]) -> tuple[int, ...] | None:
    end, counts = sizes.layers, []
    for index in range(len(rooms) - 1, -1, -1):
        start = max(cut.first, sizes.start(end, rooms[index], cut.experts_from))
        counts.append(end - start)
        end = start
    return tuple(reversed(counts)) if end == cut.first else None


def _why(site: _Site, placement: Placement) -> str:
    """The split in words, and what it would take to have everything on GPUs."""
    layers, total = sum(placement.gpu_layers), site.spec.layers
    if not placement.on_gpu:
        return (
            "everything on the processor, which is faster here"
            if _whole_fits(site)
            else "everything on the processor"
        )
    used = {gpu: n for gpu, n in enumerate(placement.gpu_layers) if n}
    named = _gpus_named(tuple(used), len(site.target.gpus))
    whole = (
        f"all {total}"
        if layers == total and len(used) == 1
        else f"{' + '.join(map(str, used.values()))} of {total}"
    )
    where = f"{whole} layers on {named}"
    if placement.experts_in_ram:
        where += f", the experts of {min(placement.experts_in_ram, total)} of them in RAM"
    if layers == total and not placement.experts_in_ram:
        return where
    return f"{where}; everything there would need {gib(_missing_bytes(site))} more"


def _gpus_named(gpus: Sequence[int], there_are: int) -> str:
    """`the GPU` when there is one, `GPU 1`, `GPUs 0 and 1`, `GPUs 0 to 7`."""
    if there_are == 1:
        return "the GPU"
    if len(gpus) == 1:
        return f"GPU {gpus[0]}"
    if len(gpus) > 2 and gpus[-1] - gpus[0] == len(gpus) - 1:
        return f"GPUs {gpus[0]} to {gpus[-1]}"
    return f"GPUs {', '.join(map(str, gpus[:-1]))} and {gpus[-1]}"


def _missing_bytes(site: _Site) -> int:
    """By how much all GPUs together are too small for everything, each filled as it is."""
    gpus = tuple(range(len(site.target.gpus)))
    rooms = _rooms(site, gpus, _Cut(0, 0))
    sizes = layer_bytes(site.spec, site.settings)
    return max(0, sizes.between(0, sizes.layers, 0) - sum(rooms))


def _whole_fits(site: _Site) -> bool:
    gpus = range(len(site.target.gpus))
    return any(site.holds(site.memory(site.placement({gpu: site.spec.layers}))) for gpu in gpus)
