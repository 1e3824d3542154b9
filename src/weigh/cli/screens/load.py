"""What a load came to: where the server saturates, then every rate, then latencies and how late we were."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, show
from weigh.cli.screens.facts import facts

if TYPE_CHECKING:
    from weigh.bench.latency import Percentile
    from weigh.bench.load import Level, Load
    from weigh.store.measurement import Measurement

_LATENCIES = {
    "ttft_from_arrival_s": "time to first token, from arrival",
    "ttft_s": "time to first token, from sending",
    "itl_s": "gap between tokens (ITL)",
    "tpot_s": "mean gap of a request (TPOT)",
    "e2e_s": "last token, from arrival",
}


def show_load(found: Load, kept: Measurement, *, stored: bool) -> None:
    version = f" ({kept.engine_version})" if kept.engine_version else ""
    show(Bold(kept.name), f" on {kept.engine}{version}")
    show(_answer(found), "\n")
    show(_levels(found))
    for level in _detailed(found):
        show()
        show(_percentiles(level))
    show()
    facts(_facts(found))
    for note in found.notes:
        show(note)
    for problem in found.problems:
        show(f"not to be trusted: {problem}")
    if stored:
        show("\nkept as ", Bold(kept.id[:8]))


def _answer(found: Load) -> str:
    """What the run was made for."""
    saturation, asked = found.saturation, found.asked
    if asked.clients is not None:
        return "closed loop: clients wait for their answers, so a slow server is asked less; no latency under load"
    if saturation is None:
        return (
            f"{len(asked.trace):,} requests of {asked.trace_name}" if asked.trace else "nothing was measured"
        )
    wanted = " with targets met" if asked.targets else ""
    if saturation.figure is not None:
        low, high = units.rate(saturation.low_per_s), units.rate(saturation.high_per_s)
        return f"saturates between {low} and {high} requests/s{wanted}"
    if saturation.low_per_s:
        return f"sustains {units.rate(saturation.low_per_s)} requests/s{wanted}; where it saturates was not reached"
    if math.isfinite(saturation.high_per_s):
        return f"does not sustain {units.rate(saturation.high_per_s)} requests/s{wanted}"
    return "whether it sustains the load is within this run's noise"


def _levels(found: Load) -> Grid:
    good = ("good/s",) if found.asked.targets else ()
    columns = (
        "requests",
        "arrived/s",
        "done/s",
        *good,
        "tokens/s",
        "first token p50",
        "p99",
        "gap p50",
        "p99 ",
        "failed",
    )
    grid = Grid((*columns, ""), right=columns[1:])
    for level in found.levels:
        first, gap = level.latencies.get("ttft_from_arrival_s", ()), level.latencies.get("itl_s", ())
        held = {True: "", False: "not sustained", None: "" if level.rate_per_s is None else "unclear"}
        grid.add(
            level.name,
            units.rate(level.arrived_per_s),
            units.rate(level.completed_per_s),
            *([interval(level.goodput_per_s)] if good else []),
            units.rate(level.output_tokens_per_s),
            *_ends(first),
            *_ends(gap),
            f"{level.failed} of {level.counted}",
            held[level.sustained],
        )
    return grid


def _ends(found: tuple[Percentile, ...]) -> tuple[str, str]:
    """The median and the highest."""
    return (_time(found[0].value), _time(found[-1].value)) if found else ("", "")


def _detailed(found: Load) -> list[Level]:
    """All of a few; of many the last that was sustained."""
    if len(found.levels) <= 2:
        return found.levels
    held = [one for one in found.levels if one.sustained]
    return [max(held, key=lambda one: one.rate_per_s or 0.0)] if held else found.levels[:1]


def _percentiles(level: Level) -> Grid:
    grid = Grid(
        (f"at {level.name}", "p50", "p90", "p95", "p99"),
        note="with the interval that holds each in 8 of 10 cases; > where too few requests show an upper end",
    )
    for name, said in _LATENCIES.items():
        if level.latencies.get(name):
            grid.add(said, *(_percentile(one) for one in level.latencies[name]))
    return grid


def _percentile(one: Percentile) -> str:
    if math.isinf(one.value):
        return "failed"
    if math.isinf(one.high):
        return f"{_time(one.value)} (> {_time(one.low)})"
    return f"{_time(one.value)} ({_time(one.low)}–{_time(one.high)})"


def _time(value_s: float) -> str:
    """Gaps between tokens need more than whole milliseconds."""
    if math.isinf(value_s):
        return "failed"
    return f"{value_s * 1e3:.3g} ms" if value_s < 1 else units.seconds(value_s)


def _facts(found: Load) -> list[tuple[str, str]]:
    rows = []
    kinds: dict[str, int] = {}
    for level in found.levels:
        for kind, count in level.failures.items():
            kinds[str(kind)] = kinds.get(str(kind), 0) + count
    if kinds:
        rows.append(("Failures", ", ".join(f"{kind}: {count}" for kind, count in kinds.items())))
    warm = sum(level.warm_up for level in found.levels)
    if warm:
        rows.append(("Warm-up", f"{warm} requests at the start left out: they were slower than the rest"))
    delay = max((level.client_delay_s[1] for level in found.levels), default=0.0)
    lag = max((level.client_lag_s[1] for level in found.levels), default=0.0)
    cores = max((level.client_cores for level in found.levels), default=0.0)
    rows.append(
        (
            "This client",
            f"sent {_time(delay)} and read {_time(lag)} late at most (p99), on {cores:.2f} of a core",
        )
    )
    if not found.exact_prompts:
        rows.append(("Prompts", "text: their lengths in tokens are near those asked for, not exact"))
    return rows
