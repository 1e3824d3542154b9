"""Quality that was measured and kept: a line for each result, the same words wherever one is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from weigh.cli.render import Grid
from weigh.store.quality_result import Way

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.store.quality_result import Measure, QualityResult

# What of each way stands for the rest: names of measures, their words, and what the figure is multiplied by.
_MAIN: dict[Way, tuple[tuple[str, str, int], ...]] = {
    Way.TEXT: (("bits_per_byte", "{} bits per byte", 1),),
    Way.WINDOWS: (("perplexity", "perplexity {}", 1),),
    Way.DIVERGENCE: (("kl_nats", "KL {} nats", 1), ("same_top", "same top token {} %", 100)),
    Way.REPOSITORY: (
        ("bits_per_byte", "{} bits per byte", 1),
        ("next_line_exact", "next line {} %", 100),
        ("middle_exact", "gap {} %", 100),
    ),
    Way.TASKS: (("pass@1", "passes {} %", 100),),
}
_UNITS = {
    Way.TEXT: "file",
    Way.WINDOWS: "window",
    Way.DIVERGENCE: "window",
    Way.REPOSITORY: "file",
    Way.TASKS: "task",
}
_MOST_NEEDS = 3  # named in a line
_NOTE = "figures with the interval that holds them in 8 of 10 cases"


def quality_table(results: Sequence[QualityResult], *, origins: bool) -> Grid:
    whose = ("from",) if origins else ()
    table = Grid(("id", "when (UTC)", *whose, "model", "measured on", "found"), note=_NOTE)
    for one in results:
        table.add(
            one.id[:8],
            datetime.fromtimestamp(one.when_unix_s, UTC).strftime("%Y-%m-%d %H:%M"),
            *([one.origin.who if one.origin else ""] if origins else []),
            one.model.label,
            measured_on(one),
            found_in_words(one),
        )
    return table


def measured_on(one: QualityResult) -> str:
    """`text prose`, `repository weigh at 666ab794`, `prose, against llama:F16`."""
    name = one.material.name
    match one.way:
        case Way.TASKS:
            needs = one.material.needs
            said = ", ".join(needs).replace("_", " ") if len(needs) <= _MOST_NEEDS else f"{len(needs)} needs"
            return f"tasks of {name}: {said}"
        case Way.REPOSITORY:
            commit = f" at {one.material.digest[:8]}" if one.material.digest else ""
            return f"repository {name}{commit}"
        case Way.DIVERGENCE:
            return f"text {name}, against {one.reference.label if one.reference else 'unknown'}"
        case _:
            return f"text {name}"


def found_in_words(one: QualityResult) -> str:
    """The main figures with their intervals, and how many units they rest on."""
    told = [
        form.format(_between(measure.figure, scale))
        for name, form, scale in _MAIN[one.way]
        if (measure := one.measure(name)) is not None
    ]
    return ", ".join(told) + _units(one)


def _units(one: QualityResult) -> str:
    first: Measure | None = one.measure(_MAIN[one.way][0][0])
    if first is None:
        return ""
    unit = _UNITS[one.way]
    if one.way is Way.TEXT and first.count != one.material.settings.get("files"):
        unit = "piece"  # of files that are few
    return f" ({first.count:,} {unit}{'s' if first.count != 1 else ''})"


def with_interval(figure: Figure) -> str:
    """`0.61 (0.58–0.64)`; a share in percent; the value alone where its interval is not known."""
    return f"{_between(figure, 100)} %" if figure.unit == "share" else _between(figure, 1)


def _between(figure: Figure, scale: int) -> str:
    value, low, high = (f"{end * scale:.3g}" for end in (figure.value, figure.low, figure.high))
    return f"{value} ({low}–{high})" if math.isfinite(figure.low) and math.isfinite(figure.high) else value
