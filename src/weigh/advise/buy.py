"""The least hardware that runs a model as fast as wanted: the inverse of `fit`.

Prices change by the week and are not in the table, so "least" is by what stands for them: within each kind of
hardware fewer cards first, then less memory, then less bandwidth. What is beaten in all three by another
device that does it too is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from weigh.engines.engine import Settings
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.machine.device_sheets import gpu_sheets, host_sheets
from weigh.machine.devices import target_named
from weigh.machine.target import Target
from weigh.model.spec import ModelSpec

CARD_COUNTS = (1, 2, 4, 8)  # what boards and servers take
MOST_CONSUMER_CARDS = 2  # a desktop board has no more slots for them
SHOWN_PER_KIND = 3
OLDEST_RELEASE = "2018"  # older cards have no maintained engine builds (before Turing, Vega 20 and M1)


@dataclass(frozen=True, slots=True)
class Option:
    """Hardware that does it.

    Attributes:
        kind: `one card`, `several cards`, `shared memory` (Macs, boards whose GPU uses the RAM) or
            `processor only`.
    """

    kind: str
    target: Target
    setup: SetupEstimate


@dataclass(frozen=True, slots=True)
class Purchases:
    """What was found.

    Attributes:
        options: by kind, least first.
        considered, met: devices weighed, and those that do it.
        nearest: where none does, the fastest of those that hold the model.
    """

    spec: ModelSpec
    settings: Settings
    workload: Workload
    min_decode_tokens_per_s: float
    max_ttft_s: float | None
    options: tuple[Option, ...]
    considered: int
    met: int
    nearest: Option | None


def purchases(
    spec: ModelSpec,
    settings: Settings,
    workload: Workload,
    *,
    min_decode_tokens_per_s: float,
    max_ttft_s: float | None = None,
    everything: bool = False,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Purchases:
    """Weigh `spec` on every device of the table, singly and in the usual numbers.

    Args:
        everything: all that do it, not only the least of each kind.
        progress: called with the device being weighed and the share done.
    """
    candidates = list(_candidates())
    met: list[Option] = []
    nearest: Option | None = None
    for number, (kind, name) in enumerate(candidates):
        progress(name, number / len(candidates))
        target = target_named(name)
        if kind == "processor only" and target.gpus:
            continue  # its GPU shares the memory: listed as such
        option = Option(kind, target, weigh(spec, Site(target), settings, workload))
        if not option.setup.fits or option.setup.speed is None:
            continue
        if _meets(option, min_decode_tokens_per_s, max_ttft_s):
            met.append(option)
        elif nearest is None or _decode(option) > _decode(nearest):
            nearest = option
    met.sort(key=_size)
    shown = met if everything else _least(met)
    return Purchases(
        spec=spec,
        settings=settings,
        workload=workload,
        min_decode_tokens_per_s=min_decode_tokens_per_s,
        max_ttft_s=max_ttft_s,
        options=tuple(sorted(shown, key=lambda o: (_KINDS.index(o.kind), _size(o)))),
        considered=len(candidates),
        met=len(met),
        nearest=None if met else nearest,
    )


_KINDS = ("one card", "several cards", "shared memory", "processor only")


def _candidates() -> Iterator[tuple[str, str]]:
    """Every device that can be bought by itself, as (kind, name)."""
    for sheet in gpu_sheets():
        if sheet.unified:
            yield from (("shared memory", f"{sheet.name} {size:g}GB") for size in sheet.sizes_gb)
        elif "Mobile" not in sheet.name and (sheet.release or "9") >= OLDEST_RELEASE:
            yield "one card", sheet.name
            most = CARD_COUNTS[-1] if sheet.datacentre else MOST_CONSUMER_CARDS
            yield from (("several cards", f"{n}x {sheet.name}") for n in CARD_COUNTS[1:] if n <= most)
    for host in host_sheets():
        if host.kind not in ("assumed", "phone"):
            yield from (("processor only", f"{host.name}, {size:g}GB") for size in host.sizes_gb)


def _meets(option: Option, least_tokens_per_s: float, max_ttft_s: float | None) -> bool:
    """Whether it does it, and by what it is sold for: every layer on its GPUs, experts in RAM at most."""
    speed, placed = option.setup.speed, option.setup.placement
    if option.target.gpus and sum(placed.gpu_layers) < option.setup.spec.layers:
        return False
    if speed is None or _decode(option) < least_tokens_per_s:
        return False
    return max_ttft_s is None or speed.ttft_s.value <= max_ttft_s


def _decode(option: Option) -> float:
    return option.setup.speed.decode_tokens_per_s.value if option.setup.speed else 0.0


def _size(option: Option) -> tuple[float, ...]:
    """What stands for the price: cards, memory, bandwidth."""
    target = option.target
    memory = sum(gpu.memory_bytes for gpu in target.gpus) or target.host.memory_bytes
    bandwidth = sum(gpu.bandwidth_bytes_per_s or 0 for gpu in target.gpus)
    return len(target.gpus), memory, bandwidth or target.host.bandwidth_bytes_per_s or 0


def _least(met: Sequence[Option]) -> list[Option]:
    """Of each kind the first few that no other undercuts in everything."""
    found = []
    for kind in _KINDS:
        rivals = [o for o in met if o.kind == kind or (o.kind, kind) == _KINDS[:2]]
        least = [o for o in rivals if o.kind == kind and not any(_undercuts(r, o) for r in rivals)]
        found += least[:SHOWN_PER_KIND]
    return found


def _undercuts(one: Option, other: Option) -> bool:
    """Whether it is no larger in anything, and smaller in something or, of two alike, the better known."""
    smaller, larger = _about(one), _about(other)
    if smaller == larger:
        return _plainness(one) < _plainness(other)
    return all(a <= b for a, b in zip(smaller, larger, strict=True))


def _about(option: Option) -> tuple[int, ...]:
    """Its size in steps of a tenth: what a buyer would not tell apart."""
    cards, *rest = _size(option)
    return int(cards), *(round(math.log(value, 1.1)) for value in rest)


def _plainness(option: Option) -> tuple[int, str]:
    """Variants have longer names than what they vary."""
    return len(option.target.name), option.target.name
