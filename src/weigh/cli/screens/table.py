"""Rules of thumb beside computed figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.cli.screens.facts import facts

if TYPE_CHECKING:
    from weigh.advise.table import Range, SizeClass, SizeTable


def show_table(found: SizeTable) -> None:
    show(
        Bold("Memory by size of model"), ", GB: the rule, then what the catalog's models of that size take\n"
    )
    show(_weights(found))
    show()
    show(Bold("Running"), f": weights, {found.context_tokens:,} tokens of context and the engine, GB\n")
    show(_running(found))
    show()
    show(Bold("Where the rules mislead"), "\n")
    facts([(f"{number}.", said) for number, said in enumerate(found.misleading, start=1)])
    show()
    show(Bold("What sizes are good for"), " (rule of thumb; scores are published)\n")
    show(_groups(found))
    show()
    facts([(f'"{rule.said}"', rule.source) for rule in found.rules])


def _weights(found: SizeTable) -> Grid:
    columns = ("class", "models", "parameters", "FP16 rule", "FP16", "INT8 rule", "INT8", "INT4 rule", "INT4")
    table = Grid(columns, right=columns[1:], note="FP16, INT8, INT4: llama.cpp's F16, Q8_0 and Q4_K_M files")
    for size in found.classes:
        cells = []
        for form, per_b in (("FP16", 2), ("INT8", 1), ("INT4", 0.5)):
            cells += [f"{per_b * size.nominal_b:g}", _span(size.weights_gb[form])]
        table.add(size.name, str(size.models), f"{_span(size.parameters_b)}B", *cells)
    return table


def _running(found: SizeTable) -> Grid:
    columns = (
        "class",
        "RAM rule",
        "FP16",
        "INT8",
        "INT4",
        "INT4 at 32k",
        "KV KiB/token",
        "load rule",
        "load",
    )
    table = Grid(columns, right=columns[1:], note=_load_note(found))
    for size in found.classes:
        table.add(
            size.name,
            _rule(found, size, "RAM to run"),
            *(_span(size.total_gb[form]) for form in ("FP16", "INT8", "INT4")),
            _span(size.long_total_gb),
            _span(size.kv_kib_per_token),
            _rule(found, size, "load time"),
            _seconds(size.load_s) if size.load_s else "unknown",
        )
    return table


def _load_note(found: SizeTable) -> str:
    basis = next((size.load_basis for size in found.classes if size.load_basis), None)
    return f"load: INT4 on {found.site.target.name}, file in memory already ({basis or 'not calibrated'})"


def _rule(found: SizeTable, size: SizeClass, quantity: str) -> str:
    """What rules say of this very class."""
    said = [r for r in found.rules if r.quantity.startswith(quantity) and abs(r.size_b - size.nominal_b) <= 3]
    spans = [f"{r.low:g}" if r.low == r.high else f"{r.low:g}–{r.high:g}" for r in said]
    return " or ".join(spans) + (f" {said[0].unit}" if said else "")


def _span(found: Range) -> str:
    return _number(found.low) if found.low == found.high else f"{_number(found.low)}–{_number(found.high)}"


def _seconds(found: Range) -> str:
    low, high = units.seconds(found.low), units.seconds(found.high)
    if low == high:
        return low
    same_unit = low.partition(" ")[2] == high.partition(" ")[2]
    return f"{low.partition(' ')[0] if same_unit else low}–{high}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or not value else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _groups(found: SizeTable) -> Grid:
    table = Grid(
        ("class", "sizes", "good for", "best published for code"),
        prose=("good for", "best published for code"),
    )
    for group in found.groups:
        best = [model for size in found.classes if size.group == group.name for model in size.best]
        table.add(group.name, group.sizes, group.good_for, ", ".join(best[-2:]))
    return table
