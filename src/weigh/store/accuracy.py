"""How right the estimates were, by machine, engine, formula, family, quantization or kind of run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from weigh.store.run import UNITS, Quantity, Run


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one quantity over runs that have both an estimate and a measurement.

    Attributes:
        median, ninth_tenth: of the error's size, |estimated / measured - 1|; None without runs. At least nine
            runs in ten are within the latter (nearest rank).
        bias: median of the error with its sign; above nought where estimates are too high.
        uncorrected: median size of the error before learning from earlier runs.
        inside, intervals: runs inside the 80 % interval, of those whose estimate gave one.
    """

    quantity: str
    runs: int
    median: float | None
    ninth_tenth: float | None
    bias: float | None
    uncorrected: float | None
    inside: int
    intervals: int


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one origin ("" for one's own) that have something in common."""

    origin: str
    name: str
    runs: int
    errors: tuple[Errors, ...]


def _machine(run: Run) -> str:
    threads = f" on {run.threads} threads" if run.threads else ""
    gpus = "".join(f" + {gpu}" for gpu in run.gpus)
    return f"{run.cpu or 'unknown processor'}{threads}{gpus} ({run.fingerprint[:6]})"


GROUPINGS: dict[str, Callable[[Run], str]] = {
    "machine": _machine,
    "engine": lambda run: f"{run.engine} ({run.engine_version})",
    "formula": lambda run: f"version {run.formula_version}" if run.formula_version else "unknown",
    "family": lambda run: run.family or "unknown",
    "quantization": lambda run: run.quantization or "unknown",
    "kind": lambda run: str(run.kind),
}


def accuracy(runs: Iterable[Run], by: str | None = None) -> tuple[Group, ...]:
    """Errors of each group; one's own runs first, those of others by origin and never among them.

    Args:
        by: one of `GROUPINGS`; None puts all runs of an origin together.
    """
    name = GROUPINGS[by] if by else lambda run: "all runs"
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.origin.who if run.origin else "", name(run)), []).append(run)
    return tuple(
        Group(
            origin, said, len(of), tuple(_errors(key, [run.quantities[key] for run in of]) for key in UNITS)
        )
        for (origin, said), of in sorted(groups.items())
    )


def _errors(quantity: str, seen: list[Quantity]) -> Errors:
    signed = [one.error for one in seen if one.error is not None]
    sizes = sorted(abs(error) for error in signed)
    before = [abs(one.uncorrected_error) for one in seen if one.uncorrected_error is not None]
    within = [one.inside for one in seen if one.inside is not None]
    return Errors(
        quantity=quantity,
        runs=len(signed),
        median=statistics.median(sizes) if sizes else None,
        ninth_tenth=sizes[math.ceil(0.9 * len(sizes)) - 1] if sizes else None,
        bias=statistics.median(signed) if signed else None,
        uncorrected=statistics.median(before) if before else None,
        inside=sum(within),
        intervals=len(within),
    )
