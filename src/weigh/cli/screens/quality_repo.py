"""Models on the user's own code: which is better, by how much, and on which files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.quality.code_answers import Quantity
from weigh.quality.own_code import Ended
from weigh.quality.paired import LEAST_FILES
from weigh.quality.repository import said

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.quality.code_answers import Pair
    from weigh.quality.own_code import OwnCode
    from weigh.quality.repository import HeldOut

_COLUMNS = {
    Quantity.BITS_PER_BYTE: "bits/byte",
    Quantity.NEXT_LINE_EXACT: "next line exact",
    Quantity.NEXT_LINE_SIMILARITY: "similar",
    Quantity.MIDDLE_EXACT: "middle exact",
    Quantity.MIDDLE_SIMILARITY: "similar ",
}
_MOST_LANGUAGES = 6
_ENDED = {
    Ended.CLEAR: "stopped because the order is clear",
    Ended.BUDGET: "stopped because the budget was spent",
    Ended.ALL_READ: "all there is was read",
    Ended.INTERRUPTED: "interrupted; this is what was measured until then",
    Ended.FAILED: "an engine failed; this is what was measured until then",
}


def show_repo(found: OwnCode, models: Sequence[str], folder: Path) -> None:
    show(Bold(_headline(found)), "\n")
    show(_table(found))
    for line in _statements(found):
        show(line)
    show(f"\n{_spent(found)}")
    if min(model.files for model in found.models) < LEAST_FILES:
        show(
            f"fewer than {LEAST_FILES} files: excerpts of one file count as independent, so intervals are too narrow"
        )
    for line in _choice(found.chosen):
        show(line)
    if found.ended is Ended.BUDGET and _undecided(found):
        named = " ".join(map(quote, (*models, "--repo", str(folder))))
        show(f"\nto be surer: weigh quality {named} --budget 10min")


def _headline(found: OwnCode) -> str:
    best = found.models[found.ranking[0]]
    if len(found.models) == 1:
        return f"{best.name} on your code"
    first, second = found.ranking[:2]
    pair = found.pair(first, second, Quantity.BITS_PER_BYTE)
    if pair is None or pair.better is None:
        return f"{best.name} and {found.models[second].name} cannot be told apart on your code yet"
    return f"{best.name} is the best on your code"


def _table(found: OwnCode) -> Grid:
    figures = [found.models[number].figures for number in found.ranking]
    shown = [column for column in Quantity if any(one[column] is not None for one in figures)]
    names = tuple(_COLUMNS[column] for column in shown)
    table = Grid(("model", *names, "lines", "files"), right=(*names, "lines", "files"))
    for number, own in zip(found.ranking, figures, strict=True):
        model = found.models[number]
        cells = (_cell(column, own[column]) for column in shown)
        table.add(model.name, *cells, f"{model.lines:,}", f"{model.files:,}")
    table.note = "with the interval that holds it in 8 of 10 cases; lines with their indentation"
    return table


def _cell(column: Quantity, figure: Figure | None) -> str:
    if figure is None:
        return "unknown"
    if column.less_is_better:
        return _between(figure, 1, "{:.3f}")
    return _between(figure, 100, "{:.0f}", " %")


def _between(figure: Figure, scale: int, form: str, unit: str = "") -> str:
    ends = [form.format(end * scale) if math.isfinite(end) else "?" for end in (figure.low, figure.high)]
    return f"{form.format(figure.value * scale)}{unit} ({'–'.join(ends)})"


def _statements(found: OwnCode) -> list[str]:
    """Each model beside the next in the ranking."""
    lines = []
    for one, other in pairwise(found.ranking):
        for quantity in Quantity:
            pair = found.pair(one, other, quantity)
            if pair is not None and (pair.better is not None or quantity is Quantity.BITS_PER_BYTE):
                lines.append(_statement(found, pair, one, other))
    return ["", *lines] if lines else []


def _statement(found: OwnCode, pair: Pair, one: int, other: int) -> str:
    """In the words of the better model; the difference always as that much more or less."""
    first, second = (one, other) if pair.better is None else (pair.better, one + other - pair.better)
    better, worse = found.models[first].name, found.models[second].name
    of = f"on {pair.files:,} file{'s' if pair.files > 1 else ''}"
    if pair.better is None:
        return f"{better} or {worse}: not sure which {of}; the difference is {_difference(pair, first)}"
    return f"{better} is better than {worse}: {_difference(pair, first)}, sure at 95 % {of}"


def _difference(pair: Pair, first: int) -> str:
    """How much better `first` is; below nought where it is worse."""
    sign = 1 if pair.first == first else -1
    ends = sorted(sign * end for end in (pair.difference.low, pair.difference.high))
    value, (low, high) = sign * pair.difference.value, ends
    if pair.quantity.less_is_better:
        form = "{:.3f}" if abs(value) >= 0.01 else "{:.2g}"
        return f"{_span(-value, -high, -low, form)} bits per byte less"
    what = {
        Quantity.NEXT_LINE_EXACT: "points more next lines exact",
        Quantity.NEXT_LINE_SIMILARITY: "points more similar next lines",
        Quantity.MIDDLE_EXACT: "points more middle lines exact",
        Quantity.MIDDLE_SIMILARITY: "points more similar middle lines",
    }[pair.quantity]
    return f"{_span(100 * value, 100 * low, 100 * high, '{:.1f}')} {what}"


def _span(value: float, low: float, high: float, form: str) -> str:
    ends = [form.format(end) if math.isfinite(end) else "?" for end in (low, high)]
    return f"{form.format(value)} ({ends[0]} to {ends[1]})"


def _spent(found: OwnCode) -> str:
    read = max(found.models, key=lambda model: model.text_bytes)
    of = f"{read.files:,} of {len(found.chosen.files):,} held-out files, {read.text_bytes / 1024:,.0f} KiB"
    return f"{of}, {units.seconds(found.took_s)}: {_ENDED[found.ended]}"


def _choice(chosen: HeldOut) -> list[str]:
    dated = [file.written_unix_s for file in chosen.files if file.written_unix_s is not None]
    when = f", written {_day(min(dated))} to {_day(max(dated))}" if dated else ""
    named = [f"{count:,} {name}" for name, count in chosen.languages.items()]
    languages = ", ".join([*named[:_MOST_LANGUAGES], *(["…"] if len(named) > _MOST_LANGUAGES else [])])
    where = f"commit {chosen.commit[:9]}" if chosen.commit else f"as they lie there ({chosen.because})"
    left_out = said(chosen.left_out)
    line = f"held out: {languages}{when}; {where}"
    return [f"{line}; left out: {left_out}" if left_out else line]


def _day(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a commit may claim any time
        return "?"


def _undecided(found: OwnCode) -> bool:
    pairs = (found.pair(one, other, Quantity.BITS_PER_BYTE) for one, other in pairwise(found.ranking))
    return any(pair is None or pair.better is None for pair in pairs)
