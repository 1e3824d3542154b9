"""Curves: a picture in characters, then its figures."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weigh import units
from weigh.cli.render import UNLIMITED, Bold, Grid, interval, screen_width, show
from weigh.cli.screens.facts import disturbed, facts, unknown_speed

if TYPE_CHECKING:
    from weigh.estimate.curves import Curve, Point

_WIDTH, _HEIGHT = 78, 17
_MARKERS = ("braille", "o", "x", "+", "*", "#", "@", "%")  # told apart without colour


def show_curves(found: Sequence[Curve], saved: str = "") -> None:
    """Both pictures with their figures; `saved` names the file a picture was written to."""
    drawn = [one for one in found if one.ttft]
    for one in found:
        name = " ".join(filter(None, (one.subject, one.label)))
        if not one.setup.fits:
            show(Bold(name), " does not fit: it needs ", units.gib(one.setup.memory.total_bytes))
        elif not one.ttft:
            show(Bold(name), f": speed {unknown_speed(one.setup)}")
    if drawn:
        show(Bold(drawn[0].subject), f"{': ' if drawn[0].subject else ''}{heading(drawn)}\n")
        show(Bold("Time to first token"), " over the length of the prompt")
        _draw(drawn, ttft=True)
        show(_table("prompt tokens", [(one.label or "first token", one.ttft) for one in drawn]))
        show()
        show(Bold("Decode speed"), ", tokens/s, over the tokens already in the context")
        _draw(drawn, ttft=False)
        show(_table("depth", [(one.label or "tokens/s", one.decode) for one in drawn]))
    cautions = dict.fromkeys(row for one in drawn for row in disturbed(one.setup.site))
    facts([*((one.label or "Note", one.note) for one in found if one.note), *cautions])
    if saved:
        show("\nPicture  ", Bold(saved))


def heading(found: Sequence[Curve]) -> str:
    """Where the figures come from, and what their ranges mean."""
    bases = dict.fromkeys(str(point.figure.basis) for one in found for point in one.ttft)
    users = found[0].setup.settings.parallel
    shared = f", {users} sequences at once" if users > 1 else ""
    return f"basis {' and '.join(bases)}, ranges hold 80 % of runs{shared}"


def _table(of: str, columns: Sequence[tuple[str, Sequence[Point]]]) -> Grid:
    names = (of, *(label for label, _ in columns))
    table = Grid(names, right=names)
    by_length = [{point.tokens: point.figure for point in points} for _, points in columns]
    for tokens in sorted({tokens for column in by_length for tokens in column}):
        cells = [interval(column[tokens]) if tokens in column else "" for column in by_length]
        table.add(f"{tokens:,}", *cells)
    return table


def _draw(found: Sequence[Curve], *, ttft: bool) -> None:
    """Nothing where the output cannot show the characters."""
    if "utf" not in (sys.stdout.encoding or "").lower():
        return
    import plotext

    width = screen_width()
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(_WIDTH if width == UNLIMITED else width - 2, 100), _HEIGHT)
    alone = len(found) == 1
    for one, marker in zip(found, _MARKERS, strict=False):
        points = one.ttft if ttft else one.decode
        lengths = [point.tokens for point in points]
        if alone:
            for bound in ("low", "high"):
                plotext.plot(lengths, [getattr(p.figure, bound) for p in points], marker="·")
        plotext.plot(
            lengths,
            [point.figure.value for point in points],
            marker=marker,
            label=None if alone else one.label,
        )
    if ttft:
        _ttft_axes(plotext, found)
    else:
        _decode_axes(plotext, found)
    show(plotext.uncolorize(plotext.build()).rstrip())


def _ttft_axes(plotext: Any, found: Sequence[Curve]) -> None:
    points = [point for one in found for point in one.ttft]
    lengths = sorted({point.tokens for point in points})
    waits = ticks(
        min(p.figure.low for p in points), max(p.figure.high for p in points), most=(_HEIGHT - 4) // 2
    )
    plotext.xscale("log")
    plotext.yscale("log")
    shown = [tokens for tokens in lengths if tokens & (tokens - 1) == 0][::2] or lengths
    plotext.xticks(shown, [short(tokens) for tokens in shown])
    plotext.yticks(waits, [units.seconds(wait) for wait in waits])
    plotext.xlabel("prompt, tokens")


def _decode_axes(plotext: Any, found: Sequence[Curve]) -> None:
    points = [point for one in found for point in one.decode]
    top = max(point.figure.high for point in points)
    speeds, lengths = even(top, most=_HEIGHT // 3), depths(max(point.tokens for point in points))
    plotext.ylim(0, top)
    plotext.yticks(speeds, [f"{speed:g}" for speed in speeds])
    plotext.xticks(lengths, [short(tokens) for tokens in lengths])
    plotext.xlabel("depth, tokens")


def depths(last: int) -> list[int]:
    """Even steps of a power of two, up to eight of them."""
    step = 1 << (-(-last // 8) - 1).bit_length() if last else 1
    return list(range(0, last + 1, step))


def even(top: float, *, most: int) -> list[float]:
    """Even steps of 1, 2 or 5 times a power of ten from 0 to `top`."""
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(part * power for part in (1, 2, 5, 10) if part * power >= rough)
    return [number * step for number in range(int(top / step) + 1)]


def ticks(low: float, high: float, *, most: int) -> list[float]:
    """1, 2 and 5 of every decade between, or decades alone, so that there are few enough."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1, 3), (1,)):
        found = [part * 10.0**decade for decade in decades for part in parts]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= most:
            break
    return found or [low, high]


def short(tokens: int) -> str:
    """``512``, ``4k``, ``31.9k``."""
    return str(tokens) if tokens < 1024 else f"{tokens / 1024:.3g}k"
