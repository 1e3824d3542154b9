"""What a benchmark measured, beside its estimates; and whether budgets were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, show

if TYPE_CHECKING:
    from weigh.bench.benchmark import Benchmark, Beside
    from weigh.bench.budget import Verdict
    from weigh.figure import Figure
    from weigh.store.measurement import Measurement

_NAMES = {
    "load_cold_s": "load, nothing cached",
    "load_cached_s": "load, file in memory",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "output_tokens_per_s": "decode tokens/s, all together",
    "ttft_s": "time to first token",
    "itl_s": "gap between tokens (ITL)",
    "tpot_s": "time per output token (TPOT)",
    "peak_memory_bytes": "peak memory",
    "steady_memory_bytes": "steady memory",
    "peak_private_bytes": "of it private, at most",
    "mapped_file_bytes": "of it mapped file pages",
    "page_cache_bytes": "file in the page cache",
    "energy_j_per_token": "joules per token",
    "cpu_cores_busy": "processors busy",
}


def show_bench(found: Benchmark) -> None:
    kept = found.measurement
    name = f"{kept.model} at {kept.quantization}" if kept.quantization else kept.model
    version = f" ({kept.engine_version})" if kept.engine_version else ""
    show(Bold(name), f" on {kept.engine}{version}\n")
    rows = Grid(
        ("", "at", "measured", "estimated", "measured / estimated", "samples"),
        right=("measured", "estimated", "samples"),
    )
    for row in shown(found.rows):
        rows.add(*_cells(row))
    show(rows)
    steady = "" if kept.noise is None else f"; single steps varied by {kept.noise:.0%} meanwhile"
    show(f"\nmedians, each with the interval that holds it in 8 of 10 cases{steady}")
    for note in found.notes:
        show(note)
    for problem in kept.problems:
        show(f"not to be trusted: {problem}")
    show("\nkept as ", Bold(found.id[:8]))


def shown(rows: Sequence[Beside]) -> list[Beside]:
    """Without what says the same twice: speeds by the client's clock where the engine has one, and clocks."""
    own = any(row.measured.conditions.get("clock") == "engine" for row in rows)
    alone = [row for row in rows if row.measured.name != "cpu_clock_hz"]
    return [
        row
        for row in alone
        if not own
        or row.measured.conditions.get("clock") != "client"
        or (
            row.measured.name == "prefill_tokens_per_s" and row.measured.conditions.get("parallel") != 1
        )  # of several prompts at once no engine tells it
    ]


def _cells(row: Beside) -> tuple[str, ...]:
    one = row.measured
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}{' (inside)' if row.inside else ''}"
    estimated = "" if row.estimated is None else _figure(row.estimated)
    return (
        _NAMES.get(one.name, one.name),
        _at(one.conditions),
        _figure(one.figure),
        estimated,
        ratio,
        f"{len(one.samples):,}",
    )


def _figure(figure: Figure) -> str:
    """Times of tokens need more than whole milliseconds."""
    if figure.unit != "s" or figure.high >= 1:
        return interval(figure)
    low, high = f"{figure.low * 1e3:.3g}", f"{figure.high * 1e3:.3g}"
    value = f"{figure.value * 1e3:.3g} ms"
    return value if low == high else f"{value} ({low}–{high})"


def _at(conditions: Mapping[str, object]) -> str:
    told = []
    for key, word in (("prompt_tokens", "prompt"), ("output_tokens", "output"), ("depth_tokens", "depth")):
        if conditions.get(key):
            told.append(f"{word} {conditions[key]:,}")
    if conditions.get("parallel", 1) != 1:
        told.append(f"{conditions['parallel']} at once")
    if "clock" in conditions:
        told.append(f"{conditions['clock']}'s clock")
    return ", ".join(told)


def show_check(measurement: Measurement, verdicts: tuple[Verdict, ...]) -> None:
    passed = sum(verdict.met for verdict in verdicts)
    version = f" ({measurement.engine_version})" if measurement.engine_version else ""
    show(
        Bold(f"{passed} of {len(verdicts)} budgets kept"),
        f" by {measurement.name} on {measurement.engine}{version}\n",
    )
    rows = Grid(("", "budget", "measured", "at", ""))
    for verdict in verdicts:
        one = verdict.measured
        rows.add(
            "kept" if verdict.met else "MISSED",
            f"{verdict.budget.name} {_limit(verdict)}",
            _figure(one.figure) if one else "not measured",
            _at(one.conditions) if one else "",
            "" if verdict.sure else "not sure: runs differ, or are few",
        )
    show(rows)
    for problem in measurement.problems:
        show(f"\nnot to be trusted: {problem}")


def _limit(verdict: Verdict) -> str:
    limit, unit = verdict.budget.limit, verdict.budget.unit
    if unit == "bytes":
        return units.gib(limit)
    return units.seconds(limit) if unit == "s" else f"{units.rate(limit)} {unit}"
