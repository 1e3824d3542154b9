"""What published runs taught: fitted effects, their intervals, and the peaks of a device's data sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from weigh.estimate.device_terms import DP4A_CAPABILITY, Peaks, Run, Term, bits_of, distance
from weigh.estimate.device_work import Part
from weigh.machine.device_sheets import gpu_sheets
from weigh.machine.target import Backend, Device

VECTOR_ATTENTION = frozenset({Backend.ROCM, Backend.VULKAN, Backend.SYCL})  # no matrix units in attention
# Where a data sheet says nothing. Wide of the mark by a factor of two either way.
GPU_BYTES_PER_S_PER_BYTE = 30.0  # reads its memory 20 to 45 times a second: RTX 3060 to RTX 5090
HOST_BYTES_PER_S = 40e9
GPU_FLOPS_PER_BYTE = 100.0
HOST_FLOPS_PER_BYTE = 6.0


KNOWN = (
    "published",
    "related",
    "sheet",
)  # runs of its own; of its generation and backend; its data sheet only
UNSETTLED = frozenset({Backend.ROCM, Backend.VULKAN, Backend.SYCL})  # drivers and kernels differ, and change
DEEP_TOKENS = 4096  # cached, at half of what depth adds to an interval

FARTHEST = math.log(10)  # further than published runs tell


class Case(NamedTuple):
    """What the width of an interval depends on.

    Attributes:
        known: how well the device is, one of `KNOWN`.
        family: `discrete`, `unified` or `host`.
        bits: of most weights: `16`, `8` or `few`.
        several: cards.
        depth: tokens cached before.
        far: logarithm of the model's weights over those of the nearest model that was measured on the device.
    """

    known: str
    device: str
    backend: str
    family: str
    experts: bool
    bits: str
    several: bool
    depth: int
    far: float = 0.0


def traits(case: Case) -> tuple[tuple[str, float], ...]:
    """Names of scale terms, each with its share; many count once for all and once more for how much is known."""
    found = [(case.family, 1.0), (case.backend, 1.0)]
    found += [("unsettled", 1.0)] * (case.backend in UNSETTLED) + [("several", 1.0)] * case.several
    found += [("experts", 1.0), (f"experts {case.family}", 1.0)] * case.experts
    found += [("deep", case.depth / (case.depth + DEEP_TOKENS))] * bool(case.depth)
    mine = [(f"{case.known} {name}", share) for name, share in found]
    own = [(f"device {case.device} {case.backend}", 1.0)] * (case.known == "published")
    own += [("far", min(case.far, FARTHEST))] * (case.known == "published" and case.far > 0)
    return (*found, *mine, *own, (f"bits {case.bits}", 1.0), (case.known, 1.0))


def half_width(widths: Mapping[str, float], case: Case) -> float:
    """80 % half-width of the logarithm of a time; never narrower than if more were known."""
    levels = KNOWN[: KNOWN.index(case.known) + 1]
    cases = [case._replace(known=level) for level in levels if level in widths]
    return max(math.exp(sum(widths.get(name, 0.0) * share for name, share in traits(one))) for one in cases)


class Pipeline(NamedTuple):
    """How cards pass on micro-batches, fitted with the rest.

    Attributes:
        operations_per_layer: that are sent to a card.
        handover: how much longer each turn takes.
    """

    operations_per_layer: float
    handover: float


NO_DELAY = Pipeline(0.0, 1.0)


@dataclass(frozen=True)
class Rates:
    """Fitted effects, as logarithms, and how far estimates made with them were off.

    Attributes:
        widths: logarithms of scale terms that make up a half-width (`half_width`).
        runs: how many published runs each device has, by its name and backend.
        weights: of the models among them.
        generations: those with runs, by backend and name.
    """

    effects: dict[str, float]
    widths: dict[str, float]
    runs: dict[str, int]
    generations: tuple[str, ...] = ()
    pipeline: Pipeline = NO_DELAY
    weights: dict[str, list[int]] = field(default_factory=dict)

    def seconds(self, terms: Sequence[Term]) -> float:
        return sum(term.seconds * self._factor(term) for term in terms)

    def _factor(self, term: Term) -> float:
        found = _factors.get((id(self), term.effects))
        if found is None:
            total = sum(self.effects.get(name, 0.0) for name in term.effects)
            found = _factors[id(self), term.effects] = math.exp(total)
        for name, power in term.slopes:
            found *= math.exp(self.effects.get(name, 0.0) * power)
        return found

    def known(self, device: Device) -> str:
        """One of `KNOWN`."""
        if self.runs.get(f"{device.name} {device.backend}", 0) >= MANY_RUNS:
            return "published"
        return "related" if f"{device.backend} {device.generation}" in self.generations else "sheet"

    def error(self, device: Device, part: Part, *, weights: int, several: bool, depth: int) -> float:
        """80 % half-width of the logarithm of a time on `device`; `weights` are those of the whole model."""
        far = distance(weights, self.weights.get(f"{device.name} {device.backend}", ()))
        bits = bits_of(part)
        family = "host" if device.backend is Backend.CPU else "unified" if device.unified else "discrete"
        described = (self.known(device), device.name, device.backend, family, bool(part.experts))
        case = Case(*described, bits, several, depth, far)
        key = (id(self), case)
        if key not in _half_widths:
            if len(_half_widths) >= _REMEMBERED:
                _half_widths.clear()
            _half_widths[key] = half_width(self.widths, case)
        return _half_widths[key]


_factors: dict[tuple[int, tuple[str, ...]], float] = {}
_half_widths: dict[tuple[int, Case], float] = {}
_REMEMBERED = 4096
MANY_RUNS = 3


@cache
def rates() -> tuple[Rates, Rates]:
    """Those of decode and of prefill."""
    path = Path(__file__).parents[1] / "data" / "device_rates.json"
    content = json.loads(path.read_bytes())
    decode, prefill = (
        Rates(**{**content[name], "pipeline": Pipeline(*content[name]["pipeline"])})
        for name in ("decode", "prefill")
    )
    return decode, prefill


@cache
def _hbm_names() -> frozenset[str]:
    return frozenset(sheet.name for sheet in gpu_sheets() if "HBM" in sheet.memory_type)


def run_on(device: Device, era: str = "") -> Run:
    dp4a = device.backend is Backend.CUDA and device.compute_capability == DP4A_CAPABILITY
    return Run(str(device.backend), device.generation, device.name, device.name in _hbm_names(), dp4a, era)


def peaks_of(device: Device, cpu_features: Sequence[str] = ()) -> Peaks:
    flops = flops_per_s(device, cpu_features)
    vector = device.fp32_flops_per_s if device.backend in VECTOR_ATTENTION else None
    return Peaks(bytes_per_s(device), flops, vector or flops)


def bytes_per_s(device: Device) -> float:
    """Peak of its memory, guessed from its size when no data sheet says it."""
    if device.bandwidth_bytes_per_s:
        return device.bandwidth_bytes_per_s
    if device.backend is Backend.CPU:
        return HOST_BYTES_PER_S
    return device.memory_bytes * GPU_BYTES_PER_S_PER_BYTE


def flops_per_s(device: Device, cpu_features: Sequence[str] = ()) -> float:
    """What matrices are multiplied with at most; on a processor FP32 and its faster way with 8-bit integers."""
    if device.backend is Backend.CPU:
        peak = device.fp32_flops_per_s or HOST_FLOPS_PER_BYTE * bytes_per_s(device)
        return peak * integer_gain(cpu_features)
    return device.fp16_flops_per_s or device.fp32_flops_per_s or GPU_FLOPS_PER_BYTE * bytes_per_s(device)


def integer_gain(cpu_features: Sequence[str]) -> float:
    """Multiplications of 8-bit integers per FP32 one, as instructions allow; halved for packing and scales."""
    if "AMX_INT8" in cpu_features:
        return 4.0
    if {"AVX512_VNNI", "AVX_VNNI", "I8MM"} & set(cpu_features):
        return 2.0
    return 1.5 if "DOTPROD" in cpu_features else 1.0
