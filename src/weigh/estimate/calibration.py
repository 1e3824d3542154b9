"""What was learned about one machine and one engine, in the numbers the speed formula needs.

Measured once by `weigh.bench.calibrate` and kept in the store. Times of inference are sums of kinds of work,
each with its own rate: weights streamed past the processor (decode), weights multiplied by many tokens at once
(prefill), attention over the cache, and states that are carried from token to token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from weigh.model.ggml_types import GgmlType
from weigh.model.stored_types import NumberFormat


@dataclass(frozen=True, slots=True)
class FormatRate:
    """Effective rates of one number format on this machine.

    Attributes:
        decode_bytes_per_s: bytes of weights read per second with one token in flight.
        prefill_flops_per_s: floating-point operations per second (2 per weight and token) in prefill.
        spread: relative 80 % half-width of both, from repeated runs.
        measured: False when borrowed from formats of similar kind because time ran out.
    """

    decode_bytes_per_s: float
    prefill_flops_per_s: float
    spread: float
    measured: bool = True


@dataclass(frozen=True, slots=True)
class ThreadRate:
    """Rates with fewer threads over those with all of the calibration's."""

    threads: int
    decode: float
    prefill: float


@dataclass(frozen=True, slots=True)
class StateRate:
    """What carrying a recurrent state costs, beside the matrices around it.

    Attributes:
        decode_values_per_s, prefill_values_per_s: values of the state passed per second, a token at a time
            and many.
    """

    decode_values_per_s: float
    prefill_values_per_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Constants of one engine version on one machine at a number of threads.

    Attributes:
        formats: by format name, for dense matrices.
        expert_s: fixed time in decode of one visited expert in one layer.
        expert_prefill: arithmetic rate of stacked experts in prefill relative to a dense matrix of the format.
        expert_stream: rate at which a micro-batch reads the experts it visits, relative to decode.
        layer_s: fixed time of one layer and token in decode (starting and ending its operations).
        value_s: of one token in prefill, per number into or out of a matrix (`Work.values`).
        token_s, vocab_s: fixed time of one output token, and per word of the vocabulary (sampling).
        decode_attention_flops_per_s, prefill_attention_flops_per_s: attention over an F16 cache, one token
            at a time and many. On a CPU every query head walks its keys and values by itself, so decode
            too goes by query heads and not by the bytes of the cache they share.
        quantized_cache: attention rates over a Q8_0 cache relative to F16, decode and prefill.
        states: by kind of recurrence (`weigh.estimate.graph.Form`).
        batch_cost: arithmetic of a further sequence in a decode step over that of a token in prefill.
        by_threads: fewer threads than `threads`, fewest first.
        load_bytes_per_s, repack_bytes_per_s: loading a file that is in the page cache: mapping or
            copying its pages, and rewriting tensors into the engine's own order.
        load_fixed_s, load_vocab_s: start of the engine, and per word of the vocabulary.
        read_bytes_per_s: reading a file that is not; None when it could not be measured.
        check_decode, check_prefill: measured over predicted time of a model like those people use.
        memory_read: (threads, bytes/s, low, high) of plain reading.
        noise: relative spread of single steps while calibrating.
        problems: why it is not to be trusted; empty when the machine was quiet enough.
    """

    engine: str
    engine_version: str
    fingerprint: str
    threads: int
    created: str
    formats: Mapping[str, FormatRate]
    expert_s: float
    expert_prefill: float
    expert_stream: float
    layer_s: float
    value_s: float
    token_s: float
    vocab_s: float
    decode_attention_flops_per_s: float
    prefill_attention_flops_per_s: float
    load_bytes_per_s: float
    repack_bytes_per_s: float
    load_fixed_s: float
    load_vocab_s: float
    read_bytes_per_s: float | None
    check_decode: float
    check_prefill: float
    noise: float
    took_s: float
    memory_read: tuple[tuple[int, float, float, float], ...] = ()
    quantized_cache: tuple[float, float] = (1.0, 1.0)
    states: Mapping[str, StateRate] = field(default_factory=dict)
    batch_cost: float = 1.0
    by_threads: tuple[ThreadRate, ...] = ()
    problems: tuple[str, ...] = ()
    _rates: dict[NumberFormat, FormatRate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rates", {})

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.engine, self.engine_version, self.created))

    @property
    def caution(self) -> str:
        """What was going on while it was made, in words to put after a speed; "" when the machine was quiet."""
        return f"calibrated while {' and '.join(self.problems)}" if self.problems else ""

    def rate(self, kind: NumberFormat) -> FormatRate:
        """Rates of a format; one that was not run borrows from the measured one nearest in kind and bits."""
        rate = self._rates.get(kind)
        if rate is None:
            rate = self._rates[kind] = self.formats.get(kind.name) or self._borrowed(kind)
        return rate

    def _borrowed(self, kind: NumberFormat) -> FormatRate:
        family = _family(kind.name)
        name = min(
            (n for n, r in self.formats.items() if r.measured),
            key=lambda n: (
                _family(n) != family,
                abs(GgmlType[n].bits_per_weight - kind.bits_per_weight),
            ),
        )
        near = self.formats[name]
        return FormatRate(
            near.decode_bytes_per_s, near.prefill_flops_per_s, max(near.spread, 0.25), measured=False
        )

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        del found["_rates"]
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError or TypeError when written by a version with other fields."""
        rebuilt = {
            "formats": {name: FormatRate(**rate) for name, rate in data["formats"].items()},
            "states": {name: StateRate(**rate) for name, rate in data["states"].items()},
            "by_threads": tuple(ThreadRate(**rate) for rate in data["by_threads"]),
            "memory_read": tuple(tuple(row) for row in data["memory_read"]),
            "quantized_cache": tuple(data["quantized_cache"]),
            "problems": tuple(data["problems"]),
        }
        return cls(**{**data, **rebuilt})


def _family(name: str) -> str:
    """Formats whose kernels are built alike: look-up tables, blocks of 256, blocks of 32, plain numbers."""
    if name.startswith(("IQ1", "IQ2", "IQ3")):
        return "tables"
    if name.endswith("_K"):
        return "K"
    return "plain" if name in ("F32", "F16", "BF16") else "blocks"
