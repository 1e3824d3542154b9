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

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypedDict

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.kv_cache import cell_bytes
from weigh.estimate.memory import EMBEDDINGS, memory
from weigh.estimate.placement import Placement
from weigh.estimate.speed import SpeedEstimate, Workload, speed
from weigh.estimate.work import work
from weigh.figure import Basis, Figure
from weigh.machine.devices import gpu_sheets
from weigh.machine.target import Backend, Device, Target
from weigh.model.quantization import file_bytes
from weigh.model.spec import Mixer, MixerKind, ModelSpec, TensorGroup
from weigh.model.stored_types import NumberFormat

LAUNCH_S = 20e-6  # unit of the time to launch a layer; its effect says how many
TILE_TOKENS = 32  # unit of the rows an expert's multiplication is padded to; its effect says how many
STATE_OPERATIONS = 8  # to decay, correct, add to and read an element of a recurrent state, per token
SCORE_BYTES = 16  # without flash attention a score is written, scaled and masked, and read again in 32 bits
SIZE_FLOPS_PER_S = 50e12  # a GPU of this peak is of ordinary size
# Kernels multiply quantized weights by 8-bit integers. With tensor cores those are twice as fast as FP16, the
# peak everything is held against; cards of compute capability 6.1 have only dp4a, at 4 x FP32, half of it 2 x.
# Source: NVIDIA, "Mixed-precision programming with CUDA 8" (2016).
DP4A_CAPABILITY, DP4A_GAIN = "6.1", 2.0
VECTOR_ATTENTION = frozenset({Backend.ROCM, Backend.VULKAN, Backend.SYCL})  # no matrix units in attention
OFFLOAD_TOKENS = 32  # llama.cpp, ggml-cuda.cu: batches from here on are multiplied on the GPU
# What is sent to an NVIDIA card waits in a queue of so many operations, of which llama.cpp makes four times as many
# since its build 7844 (pull request 19042); the 1024 are the default (from memory: unverified).
LAUNCH_QUEUE = 1024
LONGER_QUEUE = 4
UNPACKED_PER_LAYER = 7  # matrices, which older builds turned into 16 bits before they multiplied them
PIPELINE_COPIES = 4  # micro-batches under way at most: GGML_SCHED_MAX_COPIES
LINK_SHARE = 0.7  # of the bus's peak that copies reach: taken for granted
TENSOR_PARALLEL_SHARE = 0.85  # of n GPUs' rate that is left beside exchanging sums: taken for granted

# Where a data sheet says nothing. Wide of the mark by a factor of two either way.
GPU_BYTES_PER_S_PER_BYTE = 30.0  # reads its memory 20 to 45 times a second: RTX 3060 to RTX 5090
HOST_BYTES_PER_S = 40e9
GPU_FLOPS_PER_BYTE = 100.0
HOST_FLOPS_PER_BYTE = 6.0

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


class Run(NamedTuple):
    """What a term depends on beside its amount of work.

    Attributes:
        sheet: the device's name in the tables.
        dp4a: its only fast way with quantized weights.
        era: of the engine's build or driver: "" is today's; others matter to the fit alone.
    """

    backend: str
    generation: str
    sheet: str
    hbm: bool = False
    dp4a: bool = False
    era: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What one device does of a model. Weights are counts by number format.

    Attributes:
        experts: all stacked experts, of which a token visits `expert_share`.
        output: of the output matrix, computed for the last token of a prompt only.
        layers: that launch operations here, of which `expert_layers` route to experts.
        mixers: with how many layers each has here.
    """

    dense: tuple[tuple[NumberFormat, int], ...]
    experts: tuple[tuple[NumberFormat, int], ...]
    output: tuple[NumberFormat, int] | None
    expert_share: float
    layers: int
    expert_layers: int
    mixers: tuple[tuple[Mixer, int], ...]

    @property
    def is_empty(self) -> bool:
        return not (self.dense or self.experts or self.output)


class Peaks(NamedTuple):
    """A device's own, from its data sheet. Attention runs on vector units on some backends."""

    bytes_per_s: float
    flops_per_s: float
    attention_flops_per_s: float


class Term(NamedTuple):
    """Seconds before effects, the effects that multiply them, and those that do so to a power."""

    seconds: float
    effects: tuple[str, ...]
    slopes: tuple[tuple[str, float], ...] = ()


# --- terms: what both the fit and the estimate are made of ----------------------------------------------


@cache
def format_class(kind: NumberFormat) -> str:
    """Formats whose kernels are alike."""
    name = kind.name
    if name in ("F32", "F16", "BF16"):
        return "16"
    if name in ("Q4_K", "Q5_K", "Q6_K"):
        return "K"
    if name in ("Q2_K", "Q3_K"):
        return "low K"
    if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "INT4", "NF4", "FP4"):
        return "legacy"
    return "8" if kind.bits_per_weight >= 8 else "MX" if name in ("MXFP4", "NVFP4") else "IQ"


def decode_terms(
    part: Part, run: Run, bytes_per_s: float, settings: Settings, *, cached_tokens: float, sequences: int = 1
) -> list[Term]:
    """Of one step of `sequences`, less the arithmetic that every sequence but the first adds."""
    terms = []
    dense = (*part.dense, part.output) if part.output else part.dense
    for name, size in _bytes_by_class(dense).items():
        terms.append(Term(size / bytes_per_s, _decode_effects(run, name, False)))
    distinct = 1 - (1 - part.expert_share) ** sequences
    for name, size in _bytes_by_class(part.experts).items():
        terms.append(Term(size * distinct / bytes_per_s, _decode_effects(run, name, True)))
    if part.output:
        terms.append(Term(sum(_bytes_by_class((part.output,)).values()) / bytes_per_s, ("vocabulary",)))
    cache_bytes = sequences * cache_bytes_read(part, settings, cached_tokens)
    terms.append(Term(cache_bytes / bytes_per_s, _effects(run, "kv")))
    terms.append(Term(part.layers * LAUNCH_S, _effects(run, "launch")))
    if part.expert_layers:
        terms.append(Term(part.expert_layers * LAUNCH_S, _effects(run, "route")))
    return terms


def prefill_terms(
    part: Part,
    run: Run,
    peaks: Peaks,
    *,
    tokens: int,
    depth: int,
    ubatch: int,
    flash_attention: bool = True,
) -> list[Term]:
    """Of a prompt of `tokens` after `depth` cached ones, in micro-batches of `ubatch`."""
    ubatch = min(ubatch, tokens)
    micro_batches = math.ceil(tokens / ubatch)
    touched = 1 - (1 - part.expert_share) ** ubatch
    terms = _multiplications(part, run, peaks, tokens)
    for name, weights in _weights_by_class(part.experts).items():
        padded = 2 * weights * touched * micro_batches * TILE_TOKENS
        effects = (*_prefill_effects(run, name, True), "tile")
        terms.append(_sized(Term(padded / peaks.flops_per_s, effects), run, peaks))
    dense = sum(count for _, count in part.dense)
    terms.append(Term(2 * dense * micro_batches / peaks.bytes_per_s, _effects(run, "weights", eras=False)))
    streamed = sum(_bytes_by_class(part.experts).values()) * touched * micro_batches
    streamed += sum(_bytes_by_class((part.output,)).values()) if part.output else 0
    terms.append(Term(streamed / peaks.bytes_per_s, ("stream",)))
    states = sum(mixer.state_elements * layers for mixer, layers in part.mixers)
    state_flops = STATE_OPERATIONS * states * tokens
    terms.append(Term(state_flops / peaks.attention_flops_per_s, ("recurrent",)))
    pairs = sum(pair_flops(mixer, tokens, depth) * layers for mixer, layers in part.mixers)
    attention = Term(pairs / peaks.attention_flops_per_s, _attention_effects(run))
    terms.append(_sized(attention, run, peaks))
    if not flash_attention:
        scores = sum(pair_scores(mixer, tokens, depth) * layers for mixer, layers in part.mixers)
        terms.append(Term(scores * SCORE_BYTES / peaks.bytes_per_s, ("scores",)))
    terms.append(Term(part.layers * micro_batches * LAUNCH_S, _effects(run, "launch")))
    return terms


def _multiplications(part: Part, run: Run, peaks: Peaks, tokens: int) -> list[Term]:
    """Of `tokens` with all weights but the output matrix."""
    terms = []
    for experts, table in ((False, part.dense), (True, part.experts)):
        visited = part.expert_share * tokens if experts else tokens
        for name, weights in _weights_by_class(table).items():
            gain = DP4A_GAIN if run.dp4a and name == "quantized" else 1.0
            seconds = 2 * weights * visited / (peaks.flops_per_s * gain)
            terms.append(_sized(Term(seconds, _prefill_effects(run, name, experts)), run, peaks))
    return terms


def _sized(term: Term, run: Run, peaks: Peaks) -> Term:
    """Slower the wider the GPU is; a processor's cores are fed one by one."""
    if run.backend == Backend.CPU:
        return term
    size = (f"size {run.backend}", math.log(peaks.flops_per_s / SIZE_FLOPS_PER_S))
    return term._replace(slopes=(size,))


def bits_of(part: Part) -> str:
    """Of the format that most weights have: `16`, `8` or `few`."""
    sizes: dict[str, int] = {}
    for kind, count in (*part.dense, *part.experts):
        name = "16" if format_class(kind) == "16" else "8" if kind.bits_per_weight >= 8 else "few"
        sizes[name] = sizes.get(name, 0) + count
    return max(sizes, key=sizes.__getitem__, default="few")


def weights_of(part: Part) -> int:
    return sum(count for _, count in (*part.dense, *part.experts))


def distance(weights: int, measured: Iterable[int]) -> float:
    """From the nearest model that was measured: the logarithm of the ratio of their weights."""
    return min((abs(math.log(weights / other)) for other in measured if weights), default=0.0)


def _bytes_by_class(weights: Sequence[tuple[NumberFormat, int]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, count in weights:
        name = format_class(kind)
        found[name] = found.get(name, 0.0) + count * kind.block_bytes / kind.block_weights
    return found


def _weights_by_class(weights: Sequence[tuple[NumberFormat, int]]) -> dict[str, float]:
    """In prefill only two kinds of kernels matter: for 16-bit weights and for quantized ones."""
    found: dict[str, float] = {}
    for kind, count in weights:
        name = kind.name if format_class(kind) == "16" else "quantized"
        found[name] = found.get(name, 0.0) + count
    return found


def cache_bytes_read(part: Part, settings: Settings, tokens: float) -> float:
    """Keys and values of the tokens a step looks back at; a recurrent state is read and written."""
    total = 0.0
    for mixer, layers in part.mixers:
        total += layers * 2 * 4 * mixer.state_elements
        if mixer.kind is not MixerKind.RECURRENT:
            seen = min(tokens, mixer.window) if mixer.kind is MixerKind.SLIDING else tokens
            total += layers * seen * cell_bytes(mixer, settings.kv_type_k, settings.kv_type_v)
    return total


def pair_flops(mixer: Mixer, tokens: int, depth: int) -> float:
    return pair_scores(mixer, tokens, depth) * 2 * (mixer.key_dim + mixer.value_dim)


def pair_scores(mixer: Mixer, tokens: int, depth: int) -> float:
    """Of each head for each pair of tokens."""
    if mixer.kind is MixerKind.RECURRENT:
        return 0.0
    pairs = tokens * depth + tokens * tokens / 2
    if mixer.kind is MixerKind.SLIDING:
        pairs = min(pairs, tokens * mixer.window)
    return pairs * mixer.query_heads


@lru_cache(maxsize=4096)
def _decode_effects(run: Run, name: str, expert: bool) -> tuple[str, ...]:
    found = [
        f"bytes {run.backend}",
        f"bytes {run.backend} {run.generation}",
        f"device {run.sheet} {run.backend}",
    ]
    found += [f"format {name}", f"format {name} {run.backend}"]
    found += ["bytes HBM"] if run.hbm else []
    found += ["experts", f"experts {run.backend}"] if expert else []
    return (*found, f"era {run.era} bytes") if run.era else tuple(found)


@lru_cache(maxsize=4096)
def _prefill_effects(run: Run, name: str, expert: bool) -> tuple[str, ...]:
    found = [
        f"flops {run.backend}",
        f"flops {run.backend} {run.generation}",
        f"device {run.sheet} {run.backend}",
    ]
    found += [f"format {name} {run.backend}"]
    found += ["experts", f"experts {run.backend}"] if expert else []
    return (*found, f"era {run.era} {run.backend}", f"era {run.era} {name}") if run.era else tuple(found)


@lru_cache(maxsize=4096)
def _attention_effects(run: Run) -> tuple[str, ...]:
    own = (f"flops {run.backend} {run.generation}", f"device {run.sheet} {run.backend}")
    return (*_effects(run, "attention"), *own)


@lru_cache(maxsize=4096)
def _effects(run: Run, what: str, *, eras: bool = True) -> tuple[str, ...]:
    found = (what, f"{what} {run.backend}")
    return (*found, f"era {run.era} {what}") if run.era and eras else found


# --- rates --------------------------------------------------------------------------------------------------


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


# --- shares of a model ------------------------------------------------------------------------------------


class _Sums:
    """A model's weights by layer, summed from the first on, so that any run of layers is a subtraction."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.dense: dict[NumberFormat, list[int]] = {}
        self.experts: dict[NumberFormat, list[int]] = {}
        self.loose: dict[NumberFormat, int] = {}  # outside the layers; computed where the output is
        output: tuple[NumberFormat, int] | None = None
        with_experts = [0] * spec.layers
        for tensor in spec.tensors:
            if len(tensor.shape) < 2:
                continue
            if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and output is None):
                output = (tensor.type, tensor.elements)
            elif tensor.name not in EMBEDDINGS:
                self._add(tensor)
                for layer in tensor.layers if tensor.experts else ():
                    with_experts[layer] = 1
        self.output = output
        for table in (self.dense, self.experts):
            for kind, each in table.items():
                table[kind] = [0, *accumulate(each)]
        self.expert_layers = [0, *accumulate(with_experts)]
        self.mixers = [(mixer, self._counts(mixer)) for mixer in spec.mixers]
        self.share = spec.experts_used / spec.experts if spec.experts else 0.0

    def _add(self, tensor: TensorGroup) -> None:
        table = self.experts if tensor.experts else self.dense
        if not tensor.layers:
            self.loose[tensor.type] = self.loose.get(tensor.type, 0) + tensor.elements
        elif tensor.type not in table:
            table[tensor.type] = [0] * self.spec.layers
        for layer in tensor.layers:
            if layer < self.spec.layers:
                table[tensor.type][layer] += tensor.elements

    def _counts(self, mixer: Mixer) -> list[int]:
        here = frozenset(mixer.layers)
        return [0, *accumulate(layer in here for layer in range(self.spec.layers))]

    def part(self, first: int, end: int, *, experts_from: int, output: bool) -> Part:
        """Layers `first` to `end`, their experts from layer `experts_from` on, and the output matrix or not."""
        dense = _between(self.dense, first, end)
        return Part(
            dense=(*dense, *self.loose.items()) if output else dense,
            experts=_between(self.experts, min(max(first, experts_from), end), end),
            output=self.output if output else None,
            expert_share=self.share,
            layers=end - first,
            expert_layers=self.expert_layers[end] - self.expert_layers[first],
            mixers=tuple((mixer, counts[end] - counts[first]) for mixer, counts in self.mixers),
        )

    def experts_only(self, first: int, end: int) -> Part:
        """The routed experts of layers whose rest is elsewhere."""
        experts = _between(self.experts, first, end)
        routed = self.expert_layers[end] - self.expert_layers[first]
        return Part((), experts, None, self.share, 0, routed, ())


def _between(
    table: dict[NumberFormat, list[int]], first: int, end: int
) -> tuple[tuple[NumberFormat, int], ...]:
    counts = ((kind, each[end] - each[first]) for kind, each in table.items())
    return tuple((kind, count) for kind, count in counts if count)


_sums_of: dict[int, _Sums] = {}


def _sums(spec: ModelSpec) -> _Sums:
    """By identity: a spec cannot be hashed; its entry keeps it alive."""
    found = _sums_of.get(id(spec))
    if found is None:
        if len(_sums_of) >= _REMEMBERED:
            _sums_of.clear()
        found = _sums_of[id(spec)] = _Sums(spec)
    return found


class _Share(NamedTuple):
    device: Device
    part: Part


def whole(spec: ModelSpec) -> Part:
    """All of a model, on one device."""
    return _sums(spec).part(0, spec.layers, experts_from=0, output=True)


def shares(spec: ModelSpec, target: Target, placement: Placement) -> list[_Share]:
    """Who does what, the host first; those with nothing to do are left out."""
    sums = _sums(spec)
    if not placement.on_gpu:
        return [_Share(target.host, whole(spec))]
    if placement.tensor_parallel:
        return [_Share(target.gpus[0], whole(spec))]
    in_ram = placement.experts_in_ram
    first = spec.layers - sum(placement.gpu_layers)
    found = [_Share(target.host, sums.part(0, first, experts_from=0, output=not placement.output_on_gpu))]
    last = max(i for i, layers in enumerate(placement.gpu_layers) if layers)
    for index, (gpu, layers) in enumerate(zip(target.gpus, placement.gpu_layers, strict=True)):
        end = first + layers
        if in_ram > first and layers:
            found.append(_Share(target.host, sums.experts_only(first, min(in_ram, end))))
        output = placement.output_on_gpu and index == last
        if layers:
            found.append(_Share(gpu, sums.part(first, end, experts_from=in_ram, output=output)))
        first = end
    return [share for share in found if not share.part.is_empty]


# --- the estimate -------------------------------------------------------------------------------------------


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
    placed: Sequence[_Share], settings: Settings, workload: Workload, target: Target, placement: Placement
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


def _described(placed: Sequence[_Share], target: Target, workload: Workload) -> _Described:
    weights = sum(weights_of(part) for _, part in placed)
    several = sum(device is not target.host for device, _ in placed) > 1
    return {"weights": weights, "several": several, "depth": workload.depth_tokens}


def _mixed(placed: Sequence[_Share]) -> bool:
    return len({share.device.name for share in placed}) > 1


def _arithmetic(part: Part, run: Run, peaks: Peaks, tokens: int) -> list[Term]:
    """Multiplications of further tokens in a step, at the rate of prefill."""
    dense = (*part.dense, part.output) if part.output else part.dense
    return _multiplications(replace(part, dense=dense), run, peaks, tokens)


def _prefill(
    placed: Sequence[_Share], settings: Settings, workload: Workload, target: Target, placement: Placement
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
    size = sum(_bytes_by_class(part.dense).values()) + touched * sum(_bytes_by_class(part.experts).values())
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


def _pipelined(placed: Sequence[_Share], tokens: int, ubatch: int, placement: Placement) -> float:
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


def _load_s(spec: ModelSpec, target: Target, placed: Sequence[_Share]) -> float:
    """From starting the engine to its readiness with the file in memory: pages to RAM, and over the bus."""
    size = spec.file_bytes or file_bytes(spec)
    links = [d.link_bytes_per_s for d, _ in placed if d.link_bytes_per_s]
    slowest = min([PAGES_BYTES_PER_S, *links, bytes_per_s(target.host) / 3])
    return START_S + size / slowest
