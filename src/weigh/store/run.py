"""One run as the ledger keeps it: what ran where, what was measured, and what was estimated before.

Runs travel between people as JSON, so `Run.from_json` trusts nothing: every key, type, size and letter is
checked, and what it does not know it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from weigh.figure import Basis, Figure
from weigh.store.fields import LAST_UNIX_S, Fields

MOST_SAMPLES = 1000  # of one quantity
MOST_GPUS = 64

UNITS = {
    "decode_tokens_per_s": "tokens/s",
    "prefill_tokens_per_s": "tokens/s",
    "load_s": "s",
    "peak_memory_bytes": "bytes",
}
"""The quantities of a run, by their keys, and their units."""


class Kind(StrEnum):
    """How a run came about, surest first."""

    MEASURED = "measured"  # the user's own file, in full
    TEST_DRIVEN = "test-driven"  # random weights of the true shapes, in full
    TRUNCATED = "truncated"  # predicted from runs of the model with fewer layers


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing that was measured, beside its estimates.

    Attributes:
        measured: the samples as they came; empty when it was not measured.
        estimated: as it was shown before the run; None when nothing was known.
        uncorrected: the same before the ledger's own runs corrected it. What is learned from a run is
            learned from this one, so that learning never feeds on itself.
    """

    measured: tuple[float, ...]
    estimated: Figure | None = None
    uncorrected: Figure | None = None

    @property
    def value(self) -> float | None:
        """Median of the samples."""
        if len(self.measured) < 2:
            return self.measured[0] if self.measured else None
        import statistics  # costs a start 5 ms

        return statistics.median(self.measured)

    @property
    def error(self) -> float | None:
        """Estimated over measured, less one; None where either is unknown."""
        return self._over(self.estimated)

    @property
    def uncorrected_error(self) -> float | None:
        return self._over(self.uncorrected)

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the estimate's 80 % interval; None where none was given."""
        if self.value is None or self.estimated is None or self.estimated.low == self.estimated.high:
            return None
        return self.estimated.low <= self.value <= self.estimated.high

    def _over(self, estimate: Figure | None) -> float | None:
        return estimate.value / self.value - 1 if estimate is not None and self.value else None


NOT_MEASURED = Quantity(())


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an imported run came from.

    Attributes:
        who: as the person who imported it says.
        file: name of the file it was in.
    """

    who: str
    file: str
    imported_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a model.

    Attributes:
        cpu, gpus: names; "" and () where unknown or none.
        parallel, threads: sequences at once, and threads the engine used; None where unknown.
        calibration: time stamp of the one the estimates rest on; "" where unknown or none.
        formula_version: of the speed formula that made them (`speed.FORMULA_VERSION`); None where unknown or none.
        family: the model's architecture; "" where unknown.
        noise: relative 80 % half-width of single decode steps.
        origin: None for one's own.
    """

    when_unix_s: float
    fingerprint: str
    cpu: str
    gpus: tuple[str, ...]
    engine: str
    engine_version: str
    calibration: str
    formula_version: int | None
    model: str
    family: str
    quantization: str
    kind: Kind
    context_tokens: int
    parallel: int | None
    threads: int | None
    kv_type_k: str
    kv_type_v: str
    prompt_tokens: int
    output_tokens: int
    depth_tokens: int
    decode_tokens_per_s: Quantity
    prefill_tokens_per_s: Quantity
    load_s: Quantity
    peak_memory_bytes: Quantity
    noise: float
    origin: Origin | None = None

    @property
    def id(self) -> str:
        """Of the content, whoever's it is: the same run imported twice is one run."""
        return run_id(self.to_json())

    @property
    def quantities(self) -> dict[str, Quantity]:
        return {name: getattr(self, name) for name in UNITS}

    def to_json(self) -> dict[str, Any]:
        """Without the origin, which is the importer's to state."""
        return {
            "when_unix_s": self.when_unix_s,
            "machine": {"fingerprint": self.fingerprint, "cpu": self.cpu, "gpus": list(self.gpus)},
            "engine": {"name": self.engine, "version": self.engine_version},
            "calibration": self.calibration,
            "formula_version": self.formula_version,
            "model": self.model,
            "family": self.family,
            "quantization": self.quantization,
            "kind": str(self.kind),
            "settings": {
                "context_tokens": self.context_tokens,
                "parallel": self.parallel,
                "threads": self.threads,
                "kv_type_k": self.kv_type_k,
                "kv_type_v": self.kv_type_v,
            },
            "workload": {
                "prompt_tokens": self.prompt_tokens,
                "output_tokens": self.output_tokens,
                "depth_tokens": self.depth_tokens,
            },
            **{name: _quantity_json(quantity) for name, quantity in self.quantities.items()},
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, data: object, origin: Origin | None = None) -> Self:
        """Raises ValueError that says in a few words what is wrong."""
        run = Fields(data, "a run")
        machine, engine = run.part("machine"), run.part("engine")
        settings, workload = run.part("settings"), run.part("workload")
        found = cls(
            when_unix_s=run.number("when_unix_s", most=LAST_UNIX_S),
            fingerprint=machine.text("fingerprint"),
            cpu=machine.text("cpu", empty=True),
            gpus=machine.texts("gpus", most=MOST_GPUS),
            engine=engine.text("name"),
            engine_version=engine.text("version"),
            calibration=run.text("calibration", empty=True),
            formula_version=run.whole("formula_version", least=1) if run.told("formula_version") else None,
            model=run.text("model"),
            family=run.text("family", empty=True),
            quantization=run.text("quantization", empty=True),
            kind=Kind(run.one_of("kind", list(Kind))),
            context_tokens=settings.whole("context_tokens"),
            parallel=settings.whole("parallel", least=1) if settings.known("parallel") else None,
            threads=settings.whole("threads", least=1) if settings.known("threads") else None,
            kv_type_k=settings.text("kv_type_k", empty=True),
            kv_type_v=settings.text("kv_type_v", empty=True),
            prompt_tokens=workload.whole("prompt_tokens"),
            output_tokens=workload.whole("output_tokens"),
            depth_tokens=workload.whole("depth_tokens"),
            **{name: _quantity(run.part(name), unit) for name, unit in UNITS.items()},
            noise=run.number("noise", zero=True),
            origin=origin,
        )
        for part in (machine, engine, settings, workload, run):
            part.end()
        return found


def is_of(asked: str, model: str, quantization: str) -> bool:
    """Whether `asked` is part of the model's name, in any case, and its `:QUANTIZATION`, if any, this one."""
    name, _, wanted = asked.casefold().partition(":")
    return name in model.casefold() and wanted in ("", quantization.casefold())


def run_id(data: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the JSON form's hash."""
    import hashlib  # costs a start 5 ms

    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _quantity_json(quantity: Quantity) -> dict[str, Any]:
    return {
        "measured": list(quantity.measured),
        "estimated": quantity.estimated.to_json() if quantity.estimated else None,
        "uncorrected": quantity.uncorrected.to_json() if quantity.uncorrected else None,
    }


def _quantity(fields: Fields, unit: str) -> Quantity:
    found = Quantity(
        fields.numbers("measured", most=MOST_SAMPLES),
        _figure(fields, "estimated", unit),
        _figure(fields, "uncorrected", unit),
    )
    fields.end()
    return found


def _figure(fields: Fields, key: str, unit: str) -> Figure | None:
    if not fields.known(key):
        return None
    figure = fields.part(key)
    figure.one_of("unit", [unit])
    value, low, high = (figure.number(name) for name in ("value", "low", "high"))
    if not low <= value <= high:
        raise ValueError(f"`{figure.where}` is not inside its own interval")
    found = Figure(value, low, high, unit, Basis(figure.one_of("basis", list(Basis))))
    figure.end()
    return found
