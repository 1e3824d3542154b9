"""Small charts as inline SVG: no library, no script; colours come from the page, in light and dark.

Every chart has a title and a description for those who do not see it, and its figures stand in a table beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from weigh.cli.screens.curve import even

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 44
_ROW, _MOST_COLORS = 22, 8
_DASHES = ("", "6 3", "2 3", "8 3 2 3")  # told apart without colour
_MANY = 100  # dots, above which they are small
_LETTER = 6.2  # width of one at the charts' size, about


@dataclass(frozen=True, slots=True)
class Dot:
    """A point with the interval of its height; `name` is written beside it."""

    x: float
    y: float
    low: float
    high: float
    name: str = ""
    filled: bool = True


@dataclass(frozen=True, slots=True)
class Series:
    label: str
    dots: tuple[Dot, ...]
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """One request on a time line, in seconds; `first_s` is its first token."""

    start_s: float
    first_s: float | None
    end_s: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """What a chart says beside its marks."""

    title: str
    description: str
    x: str = ""
    y: str = ""


def plot(
    number: str, words: Words, series: Sequence[Series], ticks: Sequence[tuple[float, str]] | None = None
) -> str:
    """Lines or points over axes from nought; `ticks` of x with what is written, where even ones do not do."""
    dots = [dot for one in series for dot in one.dots]
    x_top, y_top = max(dot.x for dot in dots) or 1.0, max(dot.high for dot in dots) or 1.0
    place = _Place(x_top * 1.04, y_top * 1.08)
    parts = _axes(place, words, ticks or [(x, f"{x:,.6g}") for x in even(place.x_top, most=7)])
    for number_of, one in enumerate(series):
        color, dash = f"c{number_of % _MOST_COLORS}", _DASHES[number_of // 2 % len(_DASHES)]
        if one.joined and len(one.dots) > 1:
            line = " ".join(f"{place.x(dot.x):.1f},{place.y(dot.y):.1f}" for dot in one.dots)
            parts.append(f'<polyline class="line {color}" stroke-dasharray="{dash}" points="{line}"/>')
        for dot in one.dots:
            x, y = place.x(dot.x), place.y(dot.y)
            if dot.low < dot.high:
                parts.append(
                    f'<line class="line {color}" x1="{x:.1f}" x2="{x:.1f}"'
                    f' y1="{place.y(dot.low):.1f}" y2="{place.y(dot.high):.1f}"/>'
                )
            fill = "dot" if dot.filled else "dot open"
            radius = 4 if len(dots) <= _MANY else 1.5
            parts.append(f'<circle class="{fill} {color}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')
            if dot.name:
                parts.append(f'<text x="{x + 8:.1f}" y="{y - 6:.1f}">{escape(dot.name)}</text>')
    height: float = _HEIGHT
    if len(series) > 1:
        legend, height = _legend([one.label for one in series])
        parts += legend
    return _svg(number, words, height, parts)


def bars(number: str, words: Words, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: label, length, and what is written at its end."""
    top = max(value for _, value, _ in rows) or 1.0
    left = 12 + _LETTER * max(len(label) for label, _, _ in rows)
    right = 12 + _LETTER * max(len(said) for _, _, said in rows)
    parts = []
    for place, (label, value, said) in enumerate(rows):
        y, length = 8 + place * _ROW, (_WIDTH - left - right) * value / top
        parts.append(
            f'<text class="end" x="{left - 6:.1f}" y="{y + 12}">{escape(label)}</text>'
            f'<rect class="bar" x="{left:.1f}" y="{y}" width="{length:.1f}" height="15"/>'
            f'<text x="{left + length + 5:.1f}" y="{y + 12}">{escape(said)}</text>'
        )
    return _svg(number, words, 16 + _ROW * len(rows), parts)


def time_line(number: str, words: Words, spans: Sequence[Span]) -> str:
    """A row for each request: pale until its first token, dark after it; one that failed is dashed."""
    row = max(1.5, min(12.0, 400 / len(spans)))
    height = _TOP + row * len(spans) + _BOTTOM
    place = _Place(max(span.end_s for span in spans) * 1.02 or 1.0, 1.0)
    parts = []
    for tick in even(place.x_top, most=8):
        x = place.x(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM:.1f}"/>'
            f'<text class="mid" x="{x:.1f}" y="{height - _BOTTOM + 16:.1f}">{tick:g}</text>'
        )
    parts.append(f'<text class="mid" x="{_WIDTH / 2}" y="{height - 8:.1f}">{escape(words.x)}</text>')
    for number_of, span in enumerate(spans):
        y = _TOP + row * number_of
        first_s = span.end_s if span.first_s is None else span.first_s
        for start_s, end_s, kind in ((span.start_s, first_s, "wait"), (first_s, span.end_s, "tokens")):
            width = max(0.0, place.x(end_s) - place.x(start_s))
            failed = " failed" if span.failed else ""
            parts.append(
                f'<rect class="{kind}{failed}" x="{place.x(start_s):.1f}" y="{y:.1f}"'
                f' width="{width:.1f}" height="{row * 0.8:.1f}"/>'
            )
    return _svg(number, words, height, parts)


@dataclass(frozen=True, slots=True)
class _Place:
    """From values to the picture's units; both axes begin at nought."""

    x_top: float
    y_top: float

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / self.x_top

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.y_top


def _axes(place: _Place, words: Words, ticks: Sequence[tuple[float, str]]) -> list[str]:
    parts = []
    for tick in even(place.y_top, most=6):
        y = place.y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{tick:,.6g}</text>'
        )
    for tick, said in ticks:
        x = place.x(tick)
        parts.append(f'<text class="mid" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}">{escape(said)}</text>')
    middle = (_HEIGHT - _BOTTOM) / 2
    parts.append(f'<text class="mid" x="{_WIDTH / 2}" y="{_HEIGHT - 8}">{escape(words.x)}</text>')
    parts.append(
        f'<text class="mid" transform="translate(14 {middle:.1f}) rotate(-90)">{escape(words.y)}</text>'
    )
    return parts


def _legend(labels: Sequence[str]) -> tuple[list[str], float]:
    parts = []
    for place, label in enumerate(labels):
        y = _HEIGHT + 14 + place * 18
        dash = _DASHES[place // 2 % len(_DASHES)]
        parts.append(
            f'<line class="line c{place % _MOST_COLORS}" stroke-dasharray="{dash}"'
            f' x1="{_LEFT}" x2="{_LEFT + 30}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT + 38}" y="{y + 4}">{escape(label)}</text>'
        )
    return parts, _HEIGHT + 14 + 18 * len(labels)


def _svg(number: str, words: Words, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-labelledby="{number}-t {number}-d">'
        f'<title id="{number}-t">{escape(words.title)}</title>'
        f'<desc id="{number}-d">{escape(words.description)}</desc>{"".join(parts)}</svg>'
    )
