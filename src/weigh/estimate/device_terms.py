"""The sums a device's time is made of, before what was learned of it: what the fit and the estimate share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.device_work import Part
from weigh.estimate.kv_cache import cell_bytes
from weigh.machine.target import Backend
from weigh.model.spec import Mixer, MixerKind
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
    for name, size in bytes_by_class(dense).items():
        terms.append(Term(size / bytes_per_s, _decode_effects(run, name, False)))
    distinct = 1 - (1 - part.expert_share) ** sequences
    for name, size in bytes_by_class(part.experts).items():
        terms.append(Term(size * distinct / bytes_per_s, _decode_effects(run, name, True)))
    if part.output:
        terms.append(Term(sum(bytes_by_class((part.output,)).values()) / bytes_per_s, ("vocabulary",)))
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
    terms = multiplications(part, run, peaks, tokens)
    for name, weights in _weights_by_class(part.experts).items():
        padded = 2 * weights * touched * micro_batches * TILE_TOKENS
        effects = (*_prefill_effects(run, name, True), "tile")
        terms.append(_sized(Term(padded / peaks.flops_per_s, effects), run, peaks))
    dense = sum(count for _, count in part.dense)
    terms.append(Term(2 * dense * micro_batches / peaks.bytes_per_s, _effects(run, "weights", eras=False)))
    streamed = sum(bytes_by_class(part.experts).values()) * touched * micro_batches
    streamed += sum(bytes_by_class((part.output,)).values()) if part.output else 0
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


def multiplications(part: Part, run: Run, peaks: Peaks, tokens: int) -> list[Term]:
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


def bytes_by_class(weights: Sequence[tuple[NumberFormat, int]]) -> dict[str, float]:
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
