"""Joules per token: power while computing x time per token. Prefill and decode apart, for they differ by far.

Power is what the user measured and says, or else a share of what the data sheets of the devices at work allow
(TDP), which is a rule of thumb and so marked. What a running engine took is measured by
`weigh.machine.power.EnergyMeter` instead.

Not counted unless it is said: the rest of the machine (board, memory, fans, the losses of the power supply) and
a processor that only feeds a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from weigh.estimate.setup import SetupEstimate
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device


class _Share(NamedTuple):
    """Of TDP: the value taken, and where 80 % of machines should lie."""

    value: float
    low: float
    high: float


# Published: an H100 of 700 W draws 300 W (0.43) decoding one sequence and 600 W (0.86) decoding 128 (ML.ENERGY
# Benchmark v3.0, as vLLM semantic router's fleet simulator quotes it). Cards with less memory and lower limits
# run nearer to theirs. The middle and the processor's share are judgements; hence the width.
_ONE_SEQUENCE = _Share(0.60, 0.43, 0.90)
_SATURATED = _Share(0.86, 0.65, 1.00)
_SATURATING_SEQUENCES = 128
_PROCESSOR = _Share(0.90, 0.60, 1.20)  # short of its limit, or above it where the board allows more
POWER_SOURCE = "share of TDP: 0.6 decoding one sequence, 0.86 at full load, 0.9 of a processor's"


@dataclass(frozen=True, slots=True)
class EnergyEstimate:
    """Energy of one setup; None where no power or no speed is known.

    Attributes:
        decode_joules_per_token, prefill_joules_per_token: of each token written, or read.
        decode_watts, prefill_watts: while computing.
        counted: whose power it is, in plain words.
        missing: devices at work whose power is not known; "" when there are none.
    """

    decode_joules_per_token: Figure | None
    prefill_joules_per_token: Figure | None
    decode_watts: Figure | None
    prefill_watts: Figure | None
    counted: str
    missing: str = ""


def energy(setup: SetupEstimate, *, watts: float | None = None) -> EnergyEstimate:
    """Energy per token of `setup` under its workload.

    Args:
        watts: what the machine draws while computing, as measured at the wall; None to go by data sheets.
    """
    if watts is not None:
        said = Figure.exact(watts, "W", Basis.MEASURED, "as said")
        return _of(setup, said, said, "the whole machine, as said", "")
    working = list(_working(setup))
    unknown = [device.name for device in working if not device.tdp_watts]
    counted = ", ".join(f"{d.name} ({d.tdp_watts:.0f} W)" for d in working if d.tdp_watts)
    if unknown:
        return EnergyEstimate(None, None, None, None, counted, ", ".join(dict.fromkeys(unknown)))
    decode = _watts(working, _share_of(setup.settings.parallel))
    return _of(setup, decode, _watts(working, _SATURATED), counted, "")


def _of(
    setup: SetupEstimate, decode_watts: Figure, prefill_watts: Figure, counted: str, missing: str
) -> EnergyEstimate:
    speed = setup.speed
    return EnergyEstimate(
        decode_joules_per_token=_per_token(
            decode_watts, speed.decode_tokens_per_s if speed else None, setup.settings.parallel
        ),
        prefill_joules_per_token=_per_token(prefill_watts, speed.prefill_tokens_per_s if speed else None, 1),
        decode_watts=decode_watts,
        prefill_watts=prefill_watts,
        counted=counted,
        missing=missing,
    )


def _working(setup: SetupEstimate) -> Iterator[Device]:
    """Devices that hold layers, the host among them where some are left to it."""
    placement, target = setup.placement, setup.site.target
    on_gpus = sum(placement.gpu_layers)
    if on_gpus < setup.spec.layers or placement.experts_in_ram:
        yield target.host
    for gpu, layers in zip(target.gpus, placement.gpu_layers, strict=False):
        if layers:
            yield gpu


def _share_of(sequences: int) -> _Share:
    """Of a GPU's TDP while it decodes: rising with the logarithm of the sequences, as published power does."""
    along = min(1.0, math.log(sequences) / math.log(_SATURATING_SEQUENCES))
    return _Share(*(one + along * (full - one) for one, full in zip(_ONE_SEQUENCE, _SATURATED, strict=True)))


def _watts(devices: list[Device], gpu_share: _Share) -> Figure:
    """Of all devices. Several work one after another on a token: at least the largest draws, at most all do."""
    shares = [_PROCESSOR if d.backend is Backend.CPU else gpu_share for d in devices]
    draws = [
        _Share(*((d.tdp_watts or 0) * s for s in share)) for d, share in zip(devices, shares, strict=True)
    ]
    largest = max(draws)
    value = (largest.value + sum(draw.value for draw in draws)) / 2
    high = sum(draw.high for draw in draws)
    return Figure(value, largest.low, high, "W", Basis.RULE_OF_THUMB, POWER_SOURCE)


def _per_token(watts: Figure, tokens_per_s: Figure | None, sequences: int) -> Figure | None:
    """The spans of power and of speed are independent: their logarithms add up in squares."""
    if tokens_per_s is None:
        return None
    value = watts.value / (tokens_per_s.value * sequences)
    down = math.hypot(_log(watts.value, watts.low), _log(tokens_per_s.high, tokens_per_s.value))
    up = math.hypot(_log(watts.high, watts.value), _log(tokens_per_s.value, tokens_per_s.low))
    basis = max(watts.basis, tokens_per_s.basis, key=list(Basis).index)
    return Figure(value, value / math.exp(down), value * math.exp(up), "J/token", basis, watts.source)


def _log(larger: float, smaller: float) -> float:
    return math.log(larger / smaller) if smaller > 0 else 0.0
