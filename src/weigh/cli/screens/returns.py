"""What size brings: doublings, then the same bytes spent on size or on bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.cli.screens.facts import facts

if TYPE_CHECKING:
    from weigh.estimate.returns import Doubling, Spent
    from weigh.figure import Figure


def show_returns(
    task: str, recipe: str, steps: Sequence[Doubling], spent: Mapping[int, Sequence[Spent]]
) -> None:
    show(Bold("Twice the parameters"), f", {task}, within one family of dense models, {recipe}\n")
    names = ("parameters", "weights", "points gained", "points per GiB", "half right becomes")
    table = Grid(names, right=names)
    for step in steps:
        table.add(
            f"{units.count(step.parameters)} → {units.count(2 * step.parameters)}",
            f"{units.gib(step.weights_bytes)} → {units.gib(2 * step.weights_bytes)}",
            _signed(step.gain),
            _signed(step.per_gib),
            f"{step.score.value:.0f} %",
        )
    show(table)
    show()
    show(Bold("The same bytes"), ": a bigger model at fewer bits, or a smaller one at more\n")
    recipes = [way.recipe for way in next(iter(spent.values()))]
    columns = ("weights", *recipes)
    table = Grid(columns, right=columns)
    for size, ways in spent.items():
        table.add(units.gib(size), *(_way(way) for way in ways))
    show(table)
    facts(
        [
            ("Points", "10 are one logit on HumanEval+ and MMLU: the odds of a right answer times 2.7"),
            (
                "Cells",
                "parameters that fit and points behind the best of the row; 35 %: the chance to be the best",
            ),
            (
                "Basis",
                "rule of thumb, fitted on published families and losses; ranges hold 80 % (docs/returns.md)",
            ),
            *(
                [("*", "beyond the sizes the curve was fitted on")]
                if any(not way.known for ways in spent.values() for way in ways)
                else []
            ),
        ]
    )


def _signed(figure: Figure) -> str:
    places = 1 if abs(figure.value) >= 1 else 2
    return f"{figure.value:+.{places}f} ({figure.low:+.{places}f} to {figure.high:+.{places}f})"


def _way(way: Spent) -> str:
    size = units.count(way.parameters) + ("" if way.known else "*")
    behind = (
        "best"
        if way.behind.value == 0
        else "even"
        if way.behind.value > -0.05
        else f"{way.behind.value:+.1f}"
    )
    return f"{size} {behind}, {way.best_chance:.0%}"
