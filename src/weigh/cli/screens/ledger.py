"""Runs beside the estimates made before them, how right those were, and what was benchmarked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from weigh.cli.render import Bold, Grid, interval, show
from weigh.cli.screens.quality_kept import measured_on, quality_table
from weigh.figure import Basis, Figure
from weigh.store.run import UNITS

if TYPE_CHECKING:
    from pathlib import Path

    from weigh.store.accuracy import Errors, Group
    from weigh.store.exchange import Imported
    from weigh.store.measurement import Event, Measurement
    from weigh.store.quality_result import QualityResult
    from weigh.store.run import Quantity, Run

_WORDS = {
    "decode_tokens_per_s": "decode tok/s",
    "prefill_tokens_per_s": "prefill tok/s",
    "load_s": "load",
    "peak_memory_bytes": "peak memory",
}
_MEASURED = {
    "decode_tokens_per_s": "decode tok/s",
    "prefill_tokens_per_s": "prefill tok/s",
    "ttft_s": "first token",
    "peak_memory_bytes": "peak memory",
}
_MEASURED_NOTE = "median (80 % interval of it) of the first condition measured"
_NOTHING = (
    "nothing in the ledger yet; `weigh try MODEL`, `weigh bench MODEL` and `weigh quality MODEL` fill it"
)


_NOTE = "estimated → measured, error of the estimate; * outside its 80 % interval"


def show_history(
    runs: Sequence[Run],
    measurements: Sequence[Measurement],
    results: Sequence[QualityResult],
    *,
    origins: bool,
) -> None:
    if not runs and not measurements and not results:
        show(_NOTHING)
    if runs:
        _show_runs(runs, origins=origins)
    if measurements:
        show("\n" if runs else "", Bold("Measured"), "\n")
        _show_measurements(measurements, origins=origins)
    if results:
        show("\n" if runs or measurements else "", Bold("Quality"), "\n")
        show(quality_table(results, origins=origins))


def _show_runs(runs: Sequence[Run], *, origins: bool) -> None:
    whose = ("from",) if origins else ()
    columns = ("id", "when (UTC)", *whose, "model", "kind", "tokens", *_WORDS.values())
    table = Grid(columns, note=_NOTE)
    for run in runs:
        table.add(
            run.id[:8],
            _when(run.when_unix_s),
            *([run.origin.who if run.origin else ""] if origins else []),
            f"{run.model}:{run.quantization}" if run.quantization else run.model,
            str(run.kind),
            _tokens(run),
            *(_beside(quantity, UNITS[name]) for name, quantity in run.quantities.items()),
        )
    show(table)
    show("\nHow right they were  ", Bold("weigh accuracy"))


def _show_measurements(measurements: Sequence[Measurement], *, origins: bool) -> None:
    whose = ("from",) if origins else ()
    columns = ("id", "when (UTC)", *whose, "model", "engine", "kind", *_MEASURED.values(), "doubts")
    table = Grid(columns, note=_MEASURED_NOTE)
    for one in measurements:
        table.add(
            one.id[:8],
            _when(one.when_unix_s),
            *([one.origin.who if one.origin else ""] if origins else []),
            one.name or "unknown",
            f"{one.engine} {one.engine_version}".strip() or "unknown",
            one.kind,
            *(interval(first.figure) if (first := one.first(name)) else "" for name in _MEASURED),
            "; ".join(one.problems),
        )
    show(table)
    show("\nSide by side  ", Bold(f"weigh compare {measurements[0].id[:8]} …"), ", as a page  ")
    show(Bold("weigh report FILE.html"))


def show_events(events: Sequence[Event]) -> None:
    if not events:
        show("the guard has done nothing yet; `weigh watch --guard 90%` keeps one")
        return
    table = Grid(("when (UTC)", "", "why"), prose=("why",))
    for event in events:
        table.add(_when(event.when_unix_s), event.kind, event.text)
    show(table)


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")


def _tokens(run: Run) -> str:
    at = f" at {run.depth_tokens:,}" if run.depth_tokens else ""
    users = f" x {run.parallel}" if run.parallel and run.parallel > 1 else ""
    return f"{run.prompt_tokens:,}+{run.output_tokens:,}{at}{users}"


def _beside(quantity: Quantity, unit: str) -> str:
    """`10.4 → 9.1 +14%*`."""
    if quantity.value is None:
        return ""
    seen = interval(Figure.exact(quantity.value, unit, Basis.MEASURED))
    if quantity.estimated is None or quantity.error is None:
        return seen
    expected = interval(Figure.exact(quantity.estimated.value, unit, quantity.estimated.basis))
    return f"{expected} → {seen} {quantity.error:+.0%}{'*' if quantity.inside is False else ''}"


def show_imported(found: Imported) -> None:
    known = f"; {found.known} known already" if found.known else ""
    counted = held(found.runs, found.measurements, found.results)
    whose = f"from {found.origin.who} ({found.origin.file})" if found.origin else "as your own"
    written = f", written by {found.format}" if found.format != "weigh" else ""
    show(Bold(counted or "0 runs"), f" imported {whose}{written}{known}")
    if found.added:
        show("\nSee them  ", Bold("weigh history --all-origins" if found.origin else "weigh history"))


def show_exported(
    runs: Sequence[Run], measurements: Sequence[Measurement], results: Sequence[QualityResult], path: Path
) -> None:
    """Of the formats only JSON holds runs."""
    kept = runs if path.suffix.lower() == ".json" else ()
    counted = held(len(kept), len(measurements), len(results))
    show(Bold(counted or "0 runs"), f" written to {path}; the machine is named, and nobody")


def held(runs: int, measurements: int, results: int) -> str:
    """`3 runs, 1 measurement and 2 quality results`."""
    counts = (_count(runs, "run"), _count(measurements, "measurement"), _count(results, "quality result"))
    *first, last = [count for count in counts if count] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _count(count: int, of: str) -> str:
    return "" if not count else f"1 {of}" if count == 1 else f"{count} {of}s"


def show_removed(gone: Run | Measurement | QualityResult) -> None:
    from weigh.store.quality_result import QualityResult

    if isinstance(gone, QualityResult):
        show(Bold(gone.id[:8]), f" forgotten: {gone.model.label}, {measured_on(gone)}")
        return
    name = f"{gone.model}:{gone.quantization}" if gone.quantization else gone.model
    show(Bold(gone.id[:8]), f" forgotten: {name}, {gone.kind}")


def show_accuracy(groups: Sequence[Group], by: str | None) -> None:
    if not groups:
        show(_NOTHING)
        return
    for number, origin in enumerate(dict.fromkeys(group.origin for group in groups)):
        show("\n" if number else "", Bold(f"Imported from {origin}" if origin else "Your own runs"), "\n")
        show(_errors([group for group in groups if group.origin == origin], by))


def _errors(groups: Sequence[Group], by: str | None) -> Grid:
    right = ("runs", "median error", "9 of 10 within", "bias", "inside 80 %", "before learning")
    table = Grid((by or "", "of", *right), right=right)
    for group in groups:
        for number, errors in enumerate(group.errors):
            table.add(
                "" if number else group.name, _WORDS[errors.quantity].removesuffix(" tok/s"), *_cells(errors)
            )
    return table


def _cells(errors: Errors) -> tuple[str, ...]:
    if not errors.runs:
        return ("0", *[""] * 5)
    return (
        str(errors.runs),
        _percent(errors.median),
        _percent(errors.ninth_tenth),
        f"{errors.bias:+.1%}" if errors.bias is not None else "",
        f"{errors.inside} of {errors.intervals}" if errors.intervals else "",
        _percent(errors.uncorrected),
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
