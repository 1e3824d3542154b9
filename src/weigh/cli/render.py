"""How answers look: rich on a screen, plain lines elsewhere, and one way to print a figure."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from weigh import units

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from weigh.figure import Figure

# Columns of a terminal; a file or a pipe has no edge.
UNLIMITED = 10_000


@dataclass
class Grid:
    """Rows under columns. Only `prose` columns wrap; others are cut at a narrow screen's edge.

    Attributes:
        head: whether the columns' names are shown.
        strong: rows in bold.
        note: one line below.
    """

    columns: tuple[str, ...]
    right: tuple[str, ...] = ()
    prose: tuple[str, ...] = ()
    head: bool = True
    strong: tuple[int, ...] = ()
    note: str = ""
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)


@dataclass(frozen=True)
class Bold:
    """Words that stand out."""

    words: str


def _on_a_screen() -> bool:
    """Whether rich should draw: in a terminal, or where someone asks for colour."""
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def screen_width() -> int:
    """Columns there are to fill."""
    return _console().width if _on_a_screen() else UNLIMITED


@cache
def _console() -> Console:
    """Standard output; rich honours NO_COLOR, TERM=dumb and COLUMNS."""
    from rich.console import Console

    return Console(highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """A document on standard output; rich stays unimported."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def show(*parts: str | Bold | Grid) -> None:
    """Print a grid, or a line made of words; rich is not even imported where nobody looks at a screen."""
    if not _on_a_screen():
        lines = _plain_grid(parts[0]) if parts and isinstance(parts[0], Grid) else [_plain(parts)]
        sys.stdout.write("".join(f"{line.rstrip(' ')}\n" for line in lines))
    elif parts and isinstance(parts[0], Grid):
        _console().print(_rich_table(parts[0]))
        if parts[0].note:
            _console().print(parts[0].note, style="dim", markup=False)
    else:
        from rich.text import Text

        pieces = [(part.words, "bold") if isinstance(part, Bold) else str(part) for part in parts]
        _console().print(Text.assemble(*pieces))


def _plain(parts: Sequence[str | Bold | Grid]) -> str:
    return "".join(part.words if isinstance(part, Bold) else str(part) for part in parts)


def _plain_grid(grid: Grid) -> list[str]:
    rows = [grid.columns, *grid.rows] if grid.head else grid.rows
    widths = [max(len(row[n]) for row in rows) for n in range(len(grid.columns))] if rows else []
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if name in grid.right else cell.ljust(width)
            for cell, width, name in zip(row, widths, grid.columns, strict=True)
        ]
        lines.append("  ".join(cells))
    return [*lines, *([grid.note] if grid.note else [])]


def _rich_table(grid: Grid) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=grid.head)
    for name in grid.columns:
        wraps = name in grid.prose
        made.add_column(
            name,
            justify="right" if name in grid.right else "left",
            no_wrap=not wraps,
            min_width=10 if wraps else None,
            overflow="fold" if wraps else "ellipsis",
            style=None if grid.head or name != grid.columns[0] else "dim",
        )
    for number, row in enumerate(grid.rows):
        made.add_row(*map(Text, row), style="bold" if number in grid.strong else "")
    return made


def interval(figure: Figure | None) -> str:
    """`9.8 (9.3-10.4)`, in the figure's unit."""
    if figure is None:
        return "unknown"
    if figure.low == figure.high:
        return _value(figure.value, figure.unit)
    low, high = _value(figure.low, figure.unit), _value(figure.high, figure.unit)
    unit = low.partition(" ")[2]
    if unit and high.endswith(" " + unit):
        low = low.partition(" ")[0]
    return f"{_value(figure.value, figure.unit)} ({low}–{high})"


def _value(value: float, unit: str) -> str:
    match unit:
        case "bytes":
            return units.gib(value)
        case "bytes/s":
            return units.gb_per_s(value)
        case "s":
            return units.seconds(value)
        case "tokens/s":
            return units.rate(value)
        case "parameters":
            return units.count(value)
        case _:
            return f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}"


class ProgressLine:
    """One line on standard error, redrawn in a terminal, silent elsewhere until something takes long."""

    def __init__(self, title: str) -> None:
        self._title, self._live = title, sys.stderr.isatty()
        self._started = time.monotonic()
        self._said = False

    def __call__(self, stage: str, done: float) -> None:
        if self._live:
            filled = round(24 * done)
            took = time.monotonic() - self._started
            bar = "━" * filled + "─" * (24 - filled)
            sys.stderr.write(f"\r\033[K{self._title}  {bar}  {done:4.0%}  {took:3.0f} s  {stage}")
            sys.stderr.flush()
        elif not self._said:
            sys.stderr.write(f"{self._title} …\n")
        self._said = True

    def close(self) -> None:
        if self._live and self._said:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
