"""Measurements as one HTML page that needs nothing else: no network, no script; everything named is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

from weigh import units
from weigh.cli import svg
from weigh.cli.html import document, facts, table, text
from weigh.cli.render import interval
from weigh.cli.screens.compare import letters, quality_in_words
from weigh.cli.screens.curve import depths, short
from weigh.cli.screens.quality_kept import measured_on, with_interval
from weigh.cli.screens.quantities import at, in_words, said
from weigh.cli.svg import Dot, Series, Span, Words

if TYPE_CHECKING:
    from weigh.advise.compare import Comparison
    from weigh.store.measurement import Measured, Measurement
    from weigh.store.quality_result import QualityResult

MOST_SPANS = 200  # requests on a time line
MOST_DOTS = 600  # gaps of a benchmark
MOST_SERIES = 8  # lines of one plot
LEAST_FOR_PERCENTILES = 20  # samples


def page(found: Comparison, made_unix_s: float, results: Sequence[QualityResult] = ()) -> str:
    """The whole document; each measurement has a part of its own, and quality a table."""
    numbers = (f"p{number}" for number in count(1))
    machines = dict.fromkeys(_machine(one) for one in found.measurements)
    of = f", of {text(', '.join(machines))}" if machines else ""
    parts = [
        "<h1>What was measured</h1>",
        f'<p class="faint">Written by weigh on {_when(made_unix_s)}{of}. '
        "Values are medians, each with the interval that holds it in 8 of 10 cases.</p>",
        _summary(found.measurements) if found.measurements else "",
        _front(found, numbers),
        _quality(results),
        *(_section(one, numbers) for one in found.measurements),
    ]
    return document("weigh: what was measured", filter(None, parts))


# --- all of them -------------------------------------------------------------------------------------

_SHOWN = ("decode_tokens_per_s", "prefill_tokens_per_s", "ttft_s", "peak_memory_bytes")


def _summary(found: Sequence[Measurement]) -> str:
    rows = [
        (
            f'<a href="#m{one.id}">{text(one.name or "unknown model")}</a>',
            text(_engine(one)),
            text(one.origin.who if one.origin else ""),
            f'<span class="whole">{_when(one.when_unix_s)}</span>',
            *(text(in_words(first.figure)) if (first := one.first(name)) else "" for name in _SHOWN),
        )
        for one in found
    ]
    heads = ("model", "engine", "from", "when (UTC)", *(said(name) for name in _SHOWN))
    return table("Measurements, with the first condition of each", heads, rows, range(4, 8))


def _front(found: Comparison, numbers: Iterator[str]) -> str:
    if len(found.points) < 2:
        return ""
    names = dict(zip((one.id for one in found.measurements), letters(len(found.measurements)), strict=True))
    dots = tuple(
        Dot(
            point.memory_bytes.value / units.GIB,
            point.decode_tokens_per_s.value,
            point.decode_tokens_per_s.low,
            point.decode_tokens_per_s.high,
            names[point.measurement.id],
            point.on_front,
        )
        for point in found.points
    )
    counted = f"speed, memory and quality ({found.quality_said})" if found.by_quality else "speed and memory"
    words = Words(
        "Decode speed against peak memory",
        f"Each measurement by its peak memory in GiB and decode speed in tokens/s; filled ones are on the front"
        f" of {counted}: no other is as good in all and better in one. The table below has the figures.",
        "peak memory (GiB)",
        "decode (tokens/s)",
    )
    rows = [
        (
            names[point.measurement.id],
            text(point.measurement.name),
            text(interval(point.decode_tokens_per_s)),
            text(interval(point.memory_bytes)),
            text(quality_in_words(found, point)),
            "yes" if point.on_front else "",
        )
        for point in found.points
    ]
    heads = (
        "",
        "model",
        "decode tokens/s",
        "peak memory",
        f"quality ({found.quality_said})",
        f"on the front of {counted}",
    )
    chart = svg.plot(next(numbers), words, [Series("measurements", dots, joined=False)])
    return f"<h2>Speed against memory</h2>\n{_figure(words, chart)}\n{table('', heads, rows)}"


def _quality(results: Sequence[QualityResult]) -> str:
    """Every figure of every result."""
    if not results:
        return ""
    rows = [
        (
            text(one.model.label),
            text(measured_on(one)),
            text(" ".join(filter(None, (measure.name.replace("_", " "), measure.of.replace("_", " "))))),
            text(one.origin.who if one.origin else ""),
            f'<span class="whole">{_when(one.when_unix_s)}</span>',
            text(with_interval(measure.figure)),
            f"{measure.count:,}",
        )
        for one in results
        for measure in one.measures
    ]
    heads = ("model", "measured on", "figure", "from", "when (UTC)", "value (80 % interval)", "rests on")
    shown = table("Each rests on so many files, windows, lines or tasks", heads, rows, range(5, 7))
    return f"<h2>Quality</h2>\n{shown}"


# --- one of them -------------------------------------------------------------------------------------


def _section(one: Measurement, numbers: Iterator[str]) -> str:
    doubts = "".join(f'<p class="doubt">Not to be trusted: {text(problem)}.</p>' for problem in one.problems)
    parts = [
        f'<section aria-labelledby="m{one.id}">',
        f'<h2 id="m{one.id}">{text(one.name or "unknown model")}</h2>',
        doubts,
        _facts(one),
        _quantities(one),
        _over(one, numbers, "decode_tokens_per_s", "depth_tokens", "Decode speed over depth"),
        _over(
            one, numbers, "prefill_tokens_per_s", "prompt_tokens", "Prefill speed over the prompt's length"
        ),
        _over(one, numbers, "ttft_s", "prompt_tokens", "Time to first token over the prompt's length"),
        _over(one, numbers, "ttft_s", "rate_per_s", "Time to first token over the rate of requests"),
        _over(one, numbers, "itl_s", "rate_per_s", "Gap between tokens over the rate of requests"),
        _percentiles(one),
        _memory(one, numbers),
        _gaps(one, numbers),
        *_time_lines(one, numbers),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def _facts(one: Measurement) -> str:
    origin = one.origin
    rows = [
        ("engine", text(_engine(one))),
        ("machine", text(_machine(one))),
        ("measured", f"{_when(one.when_unix_s)} UTC, {text(one.kind)}"),
        ("by", text(f"{origin.who}, from the file {origin.file}") if origin else ""),
        ("file", text(units.gib(one.file_bytes)) if one.file_bytes else ""),
        (
            "settings",
            text(
                ", ".join(f"{key} {value}" for key, value in one.settings.items() if value not in (None, ""))
            ),
        ),
        ("command", f"<code>{text(' '.join(one.command))}</code>" if one.command else ""),
        ("noise", f"single decode steps vary by {one.noise:.1%}" if one.noise is not None else ""),
        ("id", f"<code>{text(one.id)}</code>"),
    ]
    return facts((name, cell) for name, cell in rows if cell)


def _quantities(one: Measurement) -> str:
    rows = [
        (
            text(said(measured.name)),
            text(at(measured.conditions)),
            text(in_words(measured.figure)),
            f"{len(measured.samples):,}",
        )
        for measured in one.measured
    ]
    return table("Quantities", ("", "at", "median (80 % interval)", "samples"), rows, (2, 3))


def _over(one: Measurement, numbers: Iterator[str], name: str, key: str, title: str) -> str:
    """A line for each set of the other conditions that has two places or more on the axis."""
    lines: dict[str, list[Dot]] = {}
    for measured in one.measured:
        x = measured.conditions.get(key)
        if measured.name == name and isinstance(x, int | float) and not isinstance(x, bool) and x >= 0:
            rest = {k: v for k, v in measured.conditions.items() if k != key}
            figure = measured.figure
            lines.setdefault(at(rest), []).append(Dot(x, figure.value, figure.low, figure.high))
    series = [
        Series(label or "empty context", tuple(sorted(dots, key=lambda dot: dot.x)))
        for label, dots in lines.items()
        if len({dot.x for dot in dots}) > 1
    ][:MOST_SERIES]
    if not series:
        return ""
    x_words = {"rate_per_s": "requests/s"}.get(key, key.replace("_tokens", " (tokens)"))
    y_words = "seconds" if name.endswith("_s") and "per" not in name else "tokens/s"
    lowest = min(dot.low for s in series for dot in s.dots)
    highest = max(dot.high for s in series for dot in s.dots)
    words = Words(
        title,
        f"{title}: {len(series)} line{'s' if len(series) > 1 else ''} from {lowest:.4g} to {highest:.4g}"
        f" {y_words}; bars are 80 % intervals. The table of quantities has the figures.",
        x_words,
        y_words,
    )
    ticks = None
    if key.endswith("_tokens"):
        longest = max(dot.x for s in series for dot in s.dots)
        ticks = [(float(tokens), short(tokens)) for tokens in depths(math.ceil(longest))]
    return _figure(words, svg.plot(next(numbers), words, series, ticks))


def _percentiles(one: Measurement) -> str:
    """Of what has samples enough; which of them are of one request is not told."""
    from weigh.bench.latency import QUANTILES, percentiles

    rows = []
    for measured in one.measured:
        if measured.unit == "s" and len(measured.samples) >= LEAST_FOR_PERCENTILES:
            found = percentiles([(sample,) for sample in measured.samples])
            cells = [text(f"{_ms(p.value)} ({_ms(p.low)}–{_ms(p.high)})") for p in found]
            rows.append((text(said(measured.name)), text(at(measured.conditions)), *cells))
    if not rows:
        return ""
    heads = ("", "at", *(f"{quantile:.0%}" for quantile in QUANTILES))
    return table(
        "Percentiles, in ms (80 % interval, as if samples were independent), of requests that were answered",
        heads,
        rows,
        range(2, 2 + len(QUANTILES)),
    )


def _ms(seconds: float) -> str:
    return "more" if math.isinf(seconds) else f"{seconds * 1000:.4g}"


def _memory(one: Measurement, numbers: Iterator[str]) -> str:
    held = [m for m in one.measured if m.unit == "bytes"]
    if not held:
        return ""
    rows = [
        (f"{said(m.name)}{_within(m)}"[:60], m.figure.value / units.GIB, units.gib(m.figure.value))
        for m in held
    ]
    listed = "; ".join(f"{label}: {written}" for label, _, written in rows)
    words = Words("Memory", f"Medians in GiB. {listed}.")
    return _figure(words, svg.bars(next(numbers), words, rows))


def _within(measured: Measured) -> str:
    where = at(measured.conditions)
    return f", {where}" if where else ""


# --- time lines --------------------------------------------------------------------------------------


def _time_lines(one: Measurement, numbers: Iterator[str]) -> Iterator[str]:
    """Of loads: every level's requests. Raw events may be anyone's, so what is odd is left out."""
    for title, listed in _requests(one.raw):
        spans = [span for span in map(_span, listed) if span]
        if not spans:
            continue
        began_s = min(span.start_s for span in spans)
        shown = sorted(spans, key=lambda span: span.start_s)[:MOST_SPANS]
        moved = [
            Span(
                span.start_s - began_s,
                None if span.first_s is None else span.first_s - began_s,
                span.end_s - began_s,
                span.failed,
            )
            for span in shown
        ]
        failed = sum(span.failed for span in moved)
        cut = f", the first {MOST_SPANS} of {len(spans):,}" if len(spans) > MOST_SPANS else ""
        words = Words(
            f"Requests over time{title}",
            f"{len(moved)} requests{cut}, each a row from being sent to its end over"
            f" {max(span.end_s for span in moved):.4g} seconds; pale until the first token, dark after it;"
            f" {failed} failed.",
            "seconds",
        )
        yield _figure(words, svg.time_line(next(numbers), words, moved))


def _gaps(one: Measurement, numbers: Iterator[str]) -> str:
    """Of a benchmark's decodes, as they came."""
    turns = one.raw.get("turns")
    dots: list[Dot] = []
    for turn in turns if isinstance(turns, list) else []:
        began_s = _number(turn.get("began_s")) if isinstance(turn, dict) else None
        requests = turn.get("requests") if isinstance(turn, dict) else None
        if began_s is None or not isinstance(requests, list):
            continue
        for request in requests:
            listed = request.get("token_times_s") if isinstance(request, dict) else None
            times_s = [_number(at_s) for at_s in listed] if isinstance(listed, list) else []
            for before_s, at_s in pairwise(times_s):
                if before_s is not None and at_s is not None and 0 <= before_s <= at_s and began_s >= 0:
                    gap_ms = (at_s - before_s) * 1000
                    dots.append(Dot(began_s + at_s, gap_ms, gap_ms, gap_ms))
    if len(dots) < 2:
        return ""
    shown = dots[:: math.ceil(len(dots) / MOST_DOTS)]
    words = Words(
        "Gaps between tokens over time",
        f"{len(shown)} of {len(dots):,} gaps in milliseconds over the {max(dot.x for dot in dots):.4g} seconds of"
        f" the benchmark; the longest shown is {max(dot.y for dot in shown):.4g} ms.",
        "seconds",
        "ms",
    )
    return _figure(words, svg.plot(next(numbers), words, [Series("gaps", tuple(shown), joined=False)]))


def _requests(raw: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    levels = raw.get("levels")
    if isinstance(levels, list):
        for level in levels:
            if isinstance(level, dict) and isinstance(level.get("requests"), list):
                yield f": {level.get('name')}", level["requests"]
    elif isinstance(raw.get("requests"), list):
        yield "", raw["requests"]


def _span(request: Any) -> Span | None:
    if not isinstance(request, dict):
        return None
    start_s = _number(request.get("sent_s", request.get("sent_unix_s")))
    end_s = _number(request.get("ended_s", request.get("ended_unix_s")))
    pieces = request.get("piece_times_s")
    first_s = _number(pieces[0] if isinstance(pieces, list) and pieces else request.get("first_token_unix_s"))
    if start_s is None or end_s is None or end_s < start_s:
        return None
    if first_s is not None and not start_s <= first_s <= end_s:
        first_s = None
    return Span(start_s, first_s, end_s, failed=request.get("failure") not in (None, "", "none", "None"))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# --- pieces ------------------------------------------------------------------------------------------


def _figure(words: Words, chart: str) -> str:
    return f"<figure><figcaption>{text(words.title)}</figcaption>{chart}</figure>"


def _engine(one: Measurement) -> str:
    return f"{one.engine} {one.engine_version}".strip() or "unknown engine"


def _machine(one: Measurement) -> str:
    return one.cpu + "".join(f" + {gpu}" for gpu in one.gpus) or "an unknown machine"


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
