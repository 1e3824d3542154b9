"""How answers look in a terminal: one console, one way to print a figure."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from weigh import units
from weigh.figure import Basis, Figure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 180  # a file or a pipe has no edge; wide enough that nothing wraps


@cache
def console() -> Console:
    """Standard output; rich honours NO_COLOR, TERM=dumb and COLUMNS."""
    from rich.console import Console

    plain = Console(highlight=False, soft_wrap=False)
    return plain if plain.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_json(document: Mapping[str, Any]) -> None:
    """A document on standard output; rich stays unimported."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def show(renderable: Any = "") -> None:
    """Print it; where nobody pads lines for a screen, without the padding."""
    if console().is_terminal:
        console().print(renderable)
        return
    with console().capture() as captured:
        console().print(renderable)
    lines = captured.get().split("\n")
    sys.stdout.write("\n".join(line.rstrip() for line in lines))


def table(*columns: str, right: tuple[str, ...] = (), prose: tuple[str, ...] = ()) -> Table:
    """A table without lines; only `prose` columns wrap, the others are cut at a narrow screen's edge."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        wraps = column in prose
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
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


def basis_word(figure: Figure | None) -> str:
    return str(figure.basis if figure else "") or str(Basis.RULE_OF_THUMB)


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
