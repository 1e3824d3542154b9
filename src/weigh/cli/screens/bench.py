"""What a benchmark measured, beside its estimates; and whether budgets were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.cli.screens.quantities import at, in_words, said

if TYPE_CHECKING:
    from weigh.bench.benchmark import Benchmark, Beside
    from weigh.bench.budget import Verdict
    from weigh.store.measurement import Measurement


def show_bench(found: Benchmark) -> None:
    kept = found.measurement
    name = f"{kept.model} at {kept.quantization}" if kept.quantization else kept.model
    version = f" ({kept.engine_version})" if kept.engine_version else ""
    show(Bold(name), f" on {kept.engine}{version}\n")
    rows = Grid(
        ("", "at", "measured", "estimated", "measured / estimated", "samples"),
        right=("measured", "estimated", "samples"),
    )
    for row in shown(found.rows):
        rows.add(*_cells(row))
    show(rows)
    steady = "" if kept.noise is None else f"; single steps varied by {kept.noise:.0%} meanwhile"
    show(f"\nmedians, each with the interval that holds it in 8 of 10 cases{steady}")
    for note in found.notes:
        show(note)
    for problem in kept.problems:
        show(f"not to be trusted: {problem}")
    if found.not_kept is None:
        show("\nkept as ", Bold(kept.id[:8]))


def shown(rows: Sequence[Beside]) -> list[Beside]:
    """Without what says the same twice: speeds by the client's clock where the engine has one, and clocks."""
    own = any(row.measured.conditions.get("clock") == "engine" for row in rows)
    alone = [row for row in rows if row.measured.name not in ("cpu_clock_hz", "gpu_clock_hz")]
    return [
        row
        for row in alone
        if not own
        or row.measured.conditions.get("clock") != "client"
        or (
            row.measured.name == "prefill_tokens_per_s" and row.measured.conditions.get("parallel") != 1
        )  # of several prompts at once no engine tells it
    ]


def _cells(row: Beside) -> tuple[str, ...]:
    one = row.measured
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}{' (inside)' if row.inside else ''}"
    estimated = "" if row.estimated is None else in_words(row.estimated)
    return (
        said(one.name),
        at(one.conditions),
        in_words(one.figure),
        estimated,
        ratio,
        f"{len(one.samples):,}",
    )


def show_check(measurement: Measurement, verdicts: tuple[Verdict, ...]) -> None:
    passed = sum(verdict.met for verdict in verdicts)
    version = f" ({measurement.engine_version})" if measurement.engine_version else ""
    show(
        Bold(f"{passed} of {len(verdicts)} budgets kept"),
        f" by {measurement.name} on {measurement.engine}{version}\n",
    )
    rows = Grid(("", "budget", "measured", "at", ""))
    for verdict in verdicts:
        one = verdict.measured
        rows.add(
            "kept" if verdict.met else "MISSED",
            f"{verdict.budget.name} {_limit(verdict)}",
            in_words(one.figure) if one else "not measured",
            at(one.conditions) if one else "",
            "" if verdict.sure else "not sure: runs differ, or are few",
        )
    show(rows)
    for problem in measurement.problems:
        show(f"\nnot to be trusted: {problem}")


def _limit(verdict: Verdict) -> str:
    limit, unit = verdict.budget.limit, verdict.budget.unit
    if unit == "bytes":
        return units.gib(limit)
    return units.seconds(limit) if unit == "s" else f"{units.rate(limit)} {unit}"
