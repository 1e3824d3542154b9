"""Runs beside the estimates made before them, and how right those were."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from weigh.cli.render import Bold, Grid, interval, show
from weigh.figure import Basis, Figure
from weigh.store.run import UNITS

if TYPE_CHECKING:
    from pathlib import Path

    from weigh.store.accuracy import Errors, Group
    from weigh.store.ledger import Imported
    from weigh.store.run import Quantity, Run

_WORDS = {
    "decode_tokens_per_s": "decode tok/s",
    "prefill_tokens_per_s": "prefill tok/s",
    "load_s": "load",
    "peak_memory_bytes": "peak memory",
}
_NOTHING = "no such runs in the ledger; `weigh try MODEL` makes one"


_NOTE = "estimated → measured, error of the estimate; * outside its 80 % interval"


def show_history(runs: Sequence[Run], *, origins: bool) -> None:
    if not runs:
        show(_NOTHING)
        return
    whose = ("from",) if origins else ()
    columns = ("id", "when (UTC)", *whose, "model", "kind", "tokens", *_WORDS.values())
    table = Grid(columns, note=_NOTE)
    for run in runs:
        table.add(
            run.id[:8],
            datetime.fromtimestamp(run.when_unix_s, UTC).strftime("%Y-%m-%d %H:%M"),
            *([run.origin.who if run.origin else ""] if origins else []),
            f"{run.model}:{run.quantization}" if run.quantization else run.model,
            str(run.kind),
            _tokens(run),
            *(_beside(quantity, UNITS[name]) for name, quantity in run.quantities.items()),
        )
    show(table)
    show("\nHow right they were  ", Bold("weigh accuracy"))


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
    show(Bold(_runs(found.added)), f" imported from {found.origin.who} ({found.origin.file}){known}")
    if found.added:
        show("\nSee them  ", Bold("weigh history --all-origins"))


def show_exported(count: int, path: Path) -> None:
    show(Bold(_runs(count)), f" written to {path}; the machine is named, and nobody")


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def show_removed(run: Run) -> None:
    show(Bold(run.id[:8]), f" forgotten: {run.model}:{run.quantization}, {run.kind}")


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
