"""What of a card was measured or published: speeds, scores, quality."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING

from weigh.cli.render import Grid, interval
from weigh.cli.screens.facts import facts_grid
from weigh.cli.screens.quality_kept import found_in_words, measured_on, with_interval
from weigh.cli.screens.quantities import at, in_words
from weigh.figure import Basis, Figure
from weigh.model.gguf import printable
from weigh.store.run import UNITS

if TYPE_CHECKING:
    from weigh.advise.card import Card
    from weigh.estimate.quality import Score
    from weigh.store.measurement import Measurement
    from weigh.store.quality_result import QualityResult
    from weigh.store.run import Run

MOST_SCORES = 8  # of those published; all are in the JSON form
MOST_RESULTS = 8  # of those measured
MOST_SPEEDS = 3  # of benchmarks, and of test-drives
_SPEEDS = {
    "decode_tokens_per_s": "decode tok/s",
    "prefill_tokens_per_s": "prefill tok/s",
    "ttft_s": "first token",
    "peak_memory_bytes": "peak memory",
}
# Columns, each with the width of screen below which it is left out.
_SPEED_COLUMNS = {
    "when (UTC)": 0,
    "type": 0,
    "how": 0,
    "decode tok/s": 0,
    "first token": 100,
    "prefill tok/s": 90,
    "peak memory": 120,
    "decode at": 150,
}


def speeds_grid(card: Card, width: int) -> Grid:
    """Benchmarks, then test-drives, newest first."""
    columns = tuple(name for name, least in _SPEED_COLUMNS.items() if width >= least)
    grid = Grid(columns, right=columns[3:])
    notes = [
        "bench: medians with their 80 % intervals",
        "try: of `weigh try`, on random weights unless `measured`",
    ]
    rows = [
        *map(_benchmark_cells, card.benchmarks[:MOST_SPEEDS]),
        *map(_trial_cells, card.trials[:MOST_SPEEDS]),
    ]
    for cells in rows:
        grid.add(*(cells.get(column, "") for column in columns))
    told = notes[: len(notes) if card.trials else 1] if card.benchmarks else notes[1:]
    for one in card.benchmarks[:MOST_SPEEDS]:
        if one.problems:
            told.append(f"{_day(one.when_unix_s)} is not to be trusted: {', '.join(one.problems)}")
    grid.note = "; ".join(told)
    return grid


def _benchmark_cells(one: Measurement) -> dict[str, str]:
    cells = {"when (UTC)": _day(one.when_unix_s), "type": one.quantization, "how": "bench"}
    for name, word in _SPEEDS.items():
        if found := one.first(name):
            cells[word] = in_words(found.figure)
    if decode := one.first("decode_tokens_per_s"):
        cells["decode at"] = at(decode.conditions)
    return cells


def _trial_cells(run: Run) -> dict[str, str]:
    cells = {"when (UTC)": _day(run.when_unix_s), "type": run.quantization, "how": f"try, {run.kind}"}
    for name, quantity in run.quantities.items():
        if name in _SPEEDS and quantity.value is not None:
            cells[_SPEEDS[name]] = interval(Figure.exact(quantity.value, UNITS[name]))
    depth = f"depth {run.depth_tokens:,}, " if run.depth_tokens else ""
    return cells | {"decode at": f"{depth}output {run.output_tokens:,}"}


def axes_grid(card: Card) -> Grid:
    if not card.axes:
        return facts_grid([("Index", "unknown: no score of it is published that weigh knows")])
    grid = Grid(
        ("axis", "index", "basis", "others of its size"),
        right=("index",),
        prose=("others of its size",),
        note="points of the unquantized model: 10 are one logit, Llama 3.1 8B Instruct stands at 50"
        " (docs/quality.md); others: those with published scores and half to twice the parameters",
    )
    for one in card.axes:
        index = f"{one.index.value:.0f} ({one.index.low:.0f}–{one.index.high:.0f})"
        basis = "published scores" if one.index.basis is Basis.PUBLISHED else "rule of thumb"
        best = f"; best {one.best[0].rpartition('/')[2]} {one.best[1].value:.0f}" if one.best else ""
        grid.add(one.axis, index, basis, f"above {one.below} of {one.peers}{best}")
    return grid


def scores_grids(card: Card) -> tuple[Grid, Grid]:
    """The newest of each benchmark, those first that most models have; and their sources, each once."""
    shown = list(itertools.islice(card.scores_by_use, MOST_SCORES))
    sources = list(dict.fromkeys(score.source for score in shown))
    left = len(card.scores) - len(shown)
    grid = Grid(
        ("benchmark", "score", "how", "date", "source"),
        right=("score", "source"),
        note=f"as printed; {left} more in --json" if left else "as printed",
    )
    for score in shown:
        source = f"[{sources.index(score.source) + 1}]"
        grid.add(_benchmark(score), f"{score.value:g}", score.mode, score.date, source)
    return grid, facts_grid([(f"[{number}]", source) for number, source in enumerate(sources, start=1)])


def _benchmark(score: Score) -> str:
    """`MMLU (CoT)` of benchmark `MMLU` and variant `MMLU (CoT)`."""
    variant = score.variant.removeprefix(score.benchmark).strip()
    if variant.startswith("(") and variant.endswith(")"):
        variant = variant[1:-1]
    return f"{score.benchmark} ({variant})" if variant else score.benchmark


def results_grid(card: Card) -> Grid:
    if not card.results:
        return facts_grid([("None yet", _how_to_measure(card))])
    grid = Grid(
        ("when (UTC)", "type", "on", "found"),
        prose=("on", "found"),
        note="with the interval that holds it in 8 of 10 cases",
    )
    for one in _newest(card.results)[:MOST_RESULTS]:
        grid.add(_day(one.when_unix_s), one.model.quantization or "unknown", _on(one), _found(one))
    return grid


def _how_to_measure(card: Card) -> str:
    if card.spec is not None and card.spec.file is None:
        return "it takes the model's own file: weigh quality FILE --tasks, --repo FOLDER or --text FILE"
    also = " or --repo FOLDER" if card.spec else ""
    return f"weigh quality {quote(printable(card.asked))} --tasks, --text FILE{also}"


def _newest(results: tuple[QualityResult, ...]) -> list[QualityResult]:
    """Of each type, way and material."""
    found: dict[tuple[str, ...], QualityResult] = {}
    for one in results:
        reference = one.reference.label if one.reference else ""
        key = (one.model.quantization, one.way, one.material.name, one.material.digest, reference)
        found.setdefault(key, one)
    return list(found.values())


def _on(one: QualityResult) -> str:
    broken_off = f" ({one.ended})" if one.ended in ("interrupted", "time up", "failed") else ""
    return measured_on(one) + broken_off


def _found(one: QualityResult) -> str:
    """Its figures; of tasks of several needs, the share of each that passed too."""
    needs = one.material.needs if len(one.material.needs) > 1 else ()
    by_need = [
        f"{measure.of.replace('_', ' ')} {with_interval(measure.figure)} of {measure.count}"
        for measure in one.measures
        if measure.name == "pass@1" and measure.of in needs
    ]
    return "; ".join([found_in_words(one), *by_need])


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
