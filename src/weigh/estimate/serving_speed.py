"""How fast a serving engine (vLLM, TensorRT-LLM) answers several requests at once on datacentre GPUs.

One step of n sequences on t cards under tensor parallelism, each card with a t-th of the work:
                        weight bytes visited / bandwidth x what their format costs
                      + KV bytes of all sequences / bandwidth x what that costs
                      + 2 x active weights x n / FP16 peak x what that costs
                      + layers x (time to launch one + time to exchange sums between cards)
                      + n x time to schedule a sequence
Prefill of n prompts    2 x active weights x tokens / FP16 peak x its cost + attention + launches + exchanges
A run of n requests     prefill, then a step per output token; requests that the cache has no room for wait

Each cost is a product of effects that `benchmarks/serving_rates_fit.py` fitted to published runs
(data/serving_rates.json). They are of batches that begin together: under a steady stream of requests a token also
waits for the prefill of newcomers, which is not counted here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.device_rates import Rates, peaks_of
from weigh.estimate.device_terms import LAUNCH_S, Peaks, Term, cache_bytes_read, pair_flops
from weigh.estimate.device_work import Part, whole
from weigh.estimate.speed import Workload
from weigh.figure import Basis, Figure
from weigh.machine.target import Backend, Device
from weigh.model.spec import ModelSpec
from weigh.model.stored_types import NumberFormat

VALUE_BYTES = 2  # of an activation that cards exchange
EXCHANGES = 2  # a layer: after attention and after the feed-forward
LINK_BYTES_PER_S = 100e9  # unit of the rate that cards exchange at; its effect says how many
SEQUENCE_S = 20e-6  # unit of the time to schedule a sequence
UNKNOWN_ENGINE_ERROR = 0.25  # a version years from those that were published
EIGHT_BIT_PEAK = 2.0  # of FP8 over FP16 where the cards have it (Hopper, Ada, Blackwell, CDNA 3)
EIGHT_BIT_GENERATIONS = frozenset({"Hopper", "Ada Lovelace", "Blackwell", "Blackwell 2.0", "CDNA 3.0"})


class Server(NamedTuple):
    """What a term depends on beside its amount of work. `sheet` is the device's name in the tables."""

    engine: str
    vendor: str
    generation: str
    sheet: str
    cards: int


@dataclass(frozen=True, slots=True)
class ServingSpeed:
    """Of requests that run at once. Decode of one user and of all together; the last of the prompts' tokens.

    Attributes:
        at_once: requests that the KV cache has room for, of those asked.
    """

    decode_tokens_per_s: Figure
    total_tokens_per_s: Figure
    ttft_s: Figure
    at_once: int


def step_terms(
    part: Part, server: Server, peaks: Peaks, hidden: int, *, cached_tokens: float, sequences: float
) -> list[Term]:
    """Of one step in which each of `sequences` gets a token."""
    cards, terms = server.cards, []
    distinct = 1 - (1 - part.expert_share) ** sequences
    dense = (*part.dense, part.output) if part.output else part.dense
    for weights, share in ((dense, 1.0), (part.experts, distinct)):
        for kind, count in weights:
            size = count * share * kind.block_bytes / kind.block_weights
            terms.append(Term(size / cards / peaks.bytes_per_s, _byte_effects(server, kind)))
    size = sequences * cache_bytes_read(part, Settings(), cached_tokens)
    terms.append(Term(size / cards / peaks.bytes_per_s, ("kv", f"kv {server.vendor}")))
    terms += _multiplications(part, server, peaks, sequences, "step")
    terms.append(Term(sequences * SEQUENCE_S, ("sequence", f"sequence {server.engine}")))
    return terms + _per_layer(part, server, hidden, sequences)


def prompt_terms(
    part: Part, server: Server, peaks: Peaks, hidden: int, *, tokens: int, sequences: float
) -> list[Term]:
    """Of the prompts of `sequences`, `tokens` each."""
    terms = _multiplications(part, server, peaks, tokens * sequences, "prompt")
    pairs = sequences * sum(pair_flops(mixer, tokens, 0) * layers for mixer, layers in part.mixers)
    terms.append(Term(pairs / server.cards / peaks.flops_per_s, ("attention", f"attention {server.vendor}")))
    return terms + _per_layer(part, server, hidden, tokens * sequences)


def _multiplications(part: Part, server: Server, peaks: Peaks, tokens: float, what: str) -> list[Term]:
    terms = []
    for weights, share in ((part.dense, 1.0), (part.experts, part.expert_share)):
        for kind, count in weights:
            seconds = (
                2 * count * share * tokens / server.cards / (peaks.flops_per_s * _eight_bit(server, kind))
            )
            names = [f"{what} flops", f"{what} flops {server.vendor}", f"flops {server.generation}"]
            names += [f"device {server.sheet}", f"engine {server.engine}"]
            names += ["experts"] if share != 1.0 else []
            terms.append(Term(seconds, tuple(names)))
    return terms


def _eight_bit(server: Server, kind: NumberFormat) -> float:
    return EIGHT_BIT_PEAK if "FP8" in kind.name and server.generation in EIGHT_BIT_GENERATIONS else 1.0


def _per_layer(part: Part, server: Server, hidden: int, tokens: float) -> list[Term]:
    terms = [Term(part.layers * LAUNCH_S, ("launch", f"launch {server.engine}", f"launch {server.vendor}"))]
    if server.cards > 1:
        exchanges = EXCHANGES * part.layers
        terms.append(Term(exchanges * LAUNCH_S, ("exchange", f"exchange {server.vendor}")))
        size = exchanges * tokens * hidden * VALUE_BYTES * 2 * (server.cards - 1) / server.cards
        terms.append(Term(size / LINK_BYTES_PER_S, ("link", f"link {server.sheet}")))
    return terms


def _byte_effects(server: Server, kind: NumberFormat) -> tuple[str, ...]:
    bits = "16" if not kind.quantized else "8" if kind.bits_per_weight >= 8 else "4"
    own = (f"bytes {server.vendor}", f"bytes {server.generation}", f"device {server.sheet}")
    return ("bytes", *own, f"format {bits}", f"format {bits} {server.engine}", f"engine {server.engine}")


# --- the estimate -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServingRates:
    """Fitted effects, and 80 % half-widths of logarithms by how well a device is known: `seen` or `unseen`."""

    rates: Rates
    errors: dict[str, float]
    devices: tuple[str, ...]


@cache
def serving_rates() -> ServingRates:
    path = Path(__file__).parents[1] / "data" / "serving_rates.json"
    content = json.loads(path.read_bytes())
    return ServingRates(Rates(content["effects"], {}, {}), content["errors"], tuple(content["devices"]))


def serving_speed(
    spec: ModelSpec, engine: str, device: Device, cards: int, workload: Workload, *, room_tokens: float
) -> ServingSpeed | None:
    """Speed of `workload.parallel` requests on `cards` like `device`.

    Args:
        engine: as in the published runs: "vLLM", "TensorRT-LLM".
        room_tokens: that the KV cache of all cards holds.

    Returns None for processors, and where the device's rates are not known: nothing was published of them.
    """
    if device.backend is Backend.CPU or not (device.bandwidth_bytes_per_s and device.fp16_flops_per_s):
        return None
    tokens = workload.depth_tokens + workload.prompt_tokens
    room = max(1, int(room_tokens // (tokens + workload.output_tokens)))
    at_once = min(workload.parallel, room)
    table, part, peaks = serving_rates(), whole(spec), peaks_of(device)
    server = Server(engine, device.vendor, device.generation, device.name, cards)
    cached = tokens + workload.output_tokens / 2
    step = table.rates.seconds(
        step_terms(part, server, peaks, spec.hidden, cached_tokens=cached, sequences=at_once)
    )
    first = table.rates.seconds(
        prompt_terms(part, server, peaks, spec.hidden, tokens=workload.prompt_tokens, sequences=at_once)
    )
    seen = device.name in table.devices
    basis = Basis.PUBLISHED if seen else Basis.SPEC_SHEET
    known = "seen" if seen else "unseen"

    def figure(value: float, unit: str, what: str) -> Figure:
        error = math.hypot(math.expm1(table.errors[f"{known} {what}"]), UNKNOWN_ENGINE_ERROR)
        return Figure.within(value, error, unit, basis)

    return ServingSpeed(
        decode_tokens_per_s=figure(1 / step, "tokens/s", "decode"),
        total_tokens_per_s=figure(at_once / step, "tokens/s", "decode"),
        ttft_s=figure(first, "s", "first"),
        at_once=at_once,
    )


def run_seconds_terms(
    part: Part, server: Server, peaks: Peaks, hidden: int, *, prompt: int, output: int, sequences: float
) -> Sequence[Term]:
    """Of a whole batch: its prompts, then a step for each further token."""
    step = step_terms(part, server, peaks, hidden, cached_tokens=prompt + output / 2, sequences=sequences)
    first = prompt_terms(part, server, peaks, hidden, tokens=prompt, sequences=sequences)
    return (*first, *(term._replace(seconds=term.seconds * max(0, output - 1)) for term in step))
