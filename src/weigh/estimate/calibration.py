"""What was learned about one machine and one engine, in the numbers the speed formula needs.

Measured once by `weigh.bench.calibrate` and kept in the store. Times of inference are sums of three
kinds of work, each with its own rate: weights streamed past the processor (decode), weights multiplied
by many tokens at once (prefill), and attention over the cache.
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
class Calibration:
    """Constants of one engine version on one machine at a number of threads.

    Attributes:
        formats: by format name, for dense matrices.
        expert_decode, expert_prefill: rate of stacked experts relative to a dense matrix of the format.
        layer_s: fixed time of one layer and token in decode (launching its operations).
        token_s, vocab_s: fixed time of one output token, and per word of the vocabulary (sampling).
        decode_attention_flops_per_s, prefill_attention_flops_per_s: attention over an F16 cache, one token
            at a time and many. On a CPU every query head walks its keys and values by itself, so decode
            too goes by query heads and not by the bytes of the cache they share.
        load_bytes_per_s, repack_bytes_per_s: loading a file that is in the page cache: mapping or
            copying its pages, and rewriting tensors into the engine's own order.
        load_fixed_s, load_vocab_s: start of the engine, and per word of the vocabulary.
        read_bytes_per_s: reading a file that is not; None when it could not be measured.
        check_decode, check_prefill: measured over predicted of a model left out of the fit.
        memory_read: (threads, bytes/s, low, high) of plain reading.
        noise: relative spread of identical runs while calibrating.
    """

    engine: str
    engine_version: str
    fingerprint: str
    threads: int
    created: str
    formats: Mapping[str, FormatRate]
    expert_decode: float
    expert_prefill: float
    layer_s: float
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
    _rates: dict[NumberFormat, FormatRate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rates", {})

    def rate(self, kind: NumberFormat) -> FormatRate:
        """Rates of a format; one that was not run borrows from the measured one nearest in bits."""
        rate = self._rates.get(kind)
        if rate is None:
            rate = self._rates[kind] = self.formats.get(kind.name) or self._borrowed(kind)
        return rate

    def _borrowed(self, kind: NumberFormat) -> FormatRate:
        name = min(
            (n for n, r in self.formats.items() if r.measured),
            key=lambda n: abs(GgmlType[n].bits_per_weight - kind.bits_per_weight),
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
        formats = {name: FormatRate(**rate) for name, rate in data["formats"].items()}
        return cls(
            **{**data, "formats": formats, "memory_read": tuple(tuple(row) for row in data["memory_read"])}
        )
