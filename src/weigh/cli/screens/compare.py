"""Measurements side by side: a table with ratios, what is not equal, and the front of speed against memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import UNLIMITED, Bold, Grid, interval, screen_width, show
from weigh.cli.screens.quality_kept import measured_on, with_interval
from weigh.cli.screens.quantities import at, in_words, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.advise.compare import Comparison, Point, QualityGap, Ratio
    from weigh.store.measurement import Measurement

_WIDTH, _HEIGHT = 78, 17
_NOTE = "median (80 % interval of it), × ratio to A; ~ not told apart from A, ? too few samples to tell"


def show_compared(found: Comparison, saved: str = "") -> None:
    for letter, one in zip(letters(len(found.measurements)), found.measurements, strict=True):
        show(Bold(letter), f"  {title(one)}")
    show()
    if found.rows:
        show(_table(found))
    else:
        show("nothing was measured by two of them under equal conditions")
    for letter, count in zip(letters(len(found.alone)), found.alone, strict=True):
        if count:
            show(f"only {letter} measured {count} more")
    if found.differences:
        show("\n", Bold("Not equal"), "\n")
        show(_differences(found))
    if len(found.points) > 1:
        show("\n", Bold("Decode speed against memory"), "\n")
        _draw(found)
        show(_front(found))
    if found.gaps:
        show("\n", Bold("Quality"), ", on what both models were measured on\n")
        for gap in found.gaps:
            show(_gap(gap, letters(len(found.measurements))))
    if saved:
        show("\nPicture  ", Bold(saved))


def letters(count: int) -> tuple[str, ...]:
    """A, B, C … Z, AA, AB …"""
    from itertools import islice, product
    from string import ascii_uppercase

    lengths = ("".join(name) for length in (1, 2) for name in product(ascii_uppercase, repeat=length))
    return tuple(islice(lengths, count))


def title(one: Measurement) -> str:
    """Which measurement it is, in one line."""
    engine = f"{one.engine} {one.engine_version}".strip()
    whose = f", measured by {one.origin.who} ({one.origin.file})" if one.origin else ""
    doubt = f"; not to be trusted: {'; '.join(one.problems)}" if one.problems else ""
    return f"{one.name or 'unknown model'}{f' on {engine}' if engine else ''}, {one.id[:8]}{whose}{doubt}"


def _table(found: Comparison) -> Grid:
    names = letters(len(found.measurements))
    table = Grid(("", "at", *names), right=names, note=_NOTE)
    for row in found.rows:
        cells = [
            f"{in_words(figure) if figure else ''}{ratio_in_words(ratio)}"
            for figure, ratio in zip(row.figures, row.ratios, strict=True)
        ]
        table.add(said(row.name), at(dict(row.conditions)), *cells)
    return table


def ratio_in_words(ratio: Ratio | None) -> str:
    """`  ×1.21 (1.18–1.24)`, with a mark where the two are not told apart."""
    if ratio is None:
        return ""
    if ratio.low is None or ratio.high is None:
        return f"  ?×{ratio.value:.3g}"
    mark = "" if ratio.beyond_noise else "~"
    return f"  {mark}×{ratio.value:.3g} ({ratio.low:.3g}–{ratio.high:.3g})"


def _differences(found: Comparison) -> Grid:
    table = Grid(("", *letters(len(found.measurements))))
    for name, values in found.differences.items():
        table.add(name.replace("_", " "), *values)
    return table


def _front(found: Comparison) -> Grid:
    known = found.measured_quality or any(point.headline for point in found.points)
    quality = (f"quality ({found.quality_said})",) if known else ()
    front = "of speed, memory and quality" if found.by_quality else "of speed and memory"
    table = Grid(
        ("", "", "decode tok/s", "peak memory", *quality),
        note=f"▶ on the front {front}: no other is better in all",
    )
    for letter, point in lettered(found):
        table.add(
            letter,
            "▶" if point.on_front else "",
            interval(point.decode_tokens_per_s),
            interval(point.memory_bytes),
            *([quality_in_words(found, point) or "none"] if quality else []),
        )
    return table


_GAPS = {
    "bits/byte": ("needs", "bits per byte", 1),
    "nats": ("has", "nats of divergence", 1),
    "share": ("passes", "points", 100),
}


def _gap(found: QualityGap, names: Sequence[str]) -> str:
    """`repository mine: B is better: it needs 0.05 (0.03–0.07) bits per byte less than A`."""
    figure, name, first = found.gap.difference, names[found.place], names[0]
    verb, unit, scale = _GAPS[figure.unit]
    value, low, high = (end * scale for end in (figure.value, figure.low, figure.high))
    on = measured_on(found.result)
    if found.gap.better is None:
        return (
            f"{on}: not sure which is better; {name} {verb} {low:+.3g} to {high:+.3g} {unit} against {first}"
        )
    better = names[found.place * found.gap.better]
    low, high = sorted((abs(low), abs(high)))
    more = "more" if value > 0 else "less"
    return f"{on}: {better} is better; {name} {verb} {abs(value):.3g} ({low:.3g}–{high:.3g}) {unit} {more} than {first}"


def quality_in_words(found: Comparison, point: Point) -> str:
    """What was measured, with its interval; else the published score; "" without either."""
    return with_interval(point.quality) if found.measured_quality and point.quality else point.headline


def lettered(found: Comparison) -> list[tuple[str, Point]]:
    """The points by the letters of their measurements."""
    names = dict(zip((one.id for one in found.measurements), letters(len(found.measurements)), strict=True))
    return [(names[point.measurement.id], point) for point in found.points]


def _draw(found: Comparison) -> None:
    """Nothing where the output cannot show the characters."""
    if "utf" not in (sys.stdout.encoding or "").lower():
        return
    import plotext

    width = screen_width()
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(_WIDTH if width == UNLIMITED else width - 2, 100), _HEIGHT)
    front = sorted(
        (p.memory_bytes.value / units.GIB, p.decode_tokens_per_s.value) for p in found.points if p.on_front
    )
    if len(front) > 1 and not found.by_quality:
        plotext.plot([x for x, _ in front], [y for _, y in front], marker="·")
    for letter, point in lettered(found):
        plotext.scatter(
            [point.memory_bytes.value / units.GIB], [point.decode_tokens_per_s.value], marker=letter
        )
    plotext.xlim(0, 1.1 * max(point.memory_bytes.high for point in found.points) / units.GIB)
    plotext.ylim(0, 1.1 * max(point.decode_tokens_per_s.high for point in found.points))
    plotext.xlabel("peak memory, GiB")
    plotext.ylabel("decode, tokens/s")
    show(plotext.uncolorize(plotext.build()).rstrip())
