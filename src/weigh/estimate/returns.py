"""What more parameters bring within one family of models, and whether bytes are better spent on size or on bits.

The curve is `level - cost x N^-exponent` in points of the quality index (10 points are one logit), N in billions of
parameters, fitted on published families (benchmarks/returns_fit.py); what quantization takes off is that of
estimate/quality.py. Intervals come from drawing all of it: the families, the loss, what a nat costs.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from weigh import units
from weigh.errors import BadInput
from weigh.estimate.quality import loss_points
from weigh.estimate.quantization_loss import loss_table, quantization_loss
from weigh.figure import Basis, Figure

RECIPES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
SIZES = (500_000_000, *(10**9 * 2**doubling for doubling in range(7)))
_Z80 = 1.2816
_SEED = 11
_SOURCE = "fitted on published families (docs/returns.md)"
Axis = Mapping[str, float]  # weights of `code` and `general`


@dataclass(frozen=True, slots=True)
class Doubling:
    """From `parameters` to twice as many, in the recipe asked for.

    Attributes:
        weights_bytes: of the smaller model.
        gain: in points; `per_gib` the same for each GiB that the weights grow by.
        score: where the better one stands in a test the smaller one passes half of, percent.
    """

    parameters: int
    weights_bytes: int
    gain: Figure
    per_gib: Figure
    score: Figure


@dataclass(frozen=True, slots=True)
class Spent:
    """One way to spend a number of bytes.

    Attributes:
        behind: points against the best way at this number of bytes; 0 for the best.
        best_chance: share of what may be true under which this way is the best one, 0 to 1.
        known: whether the size lies within those the curve was fitted on.
    """

    recipe: str
    parameters: int
    loss: Figure
    behind: Figure
    best_chance: float
    known: bool


def doublings(axis: Axis, recipe: str = "Q4_K_M", sizes: Sequence[int] = SIZES) -> tuple[Doubling, ...]:
    """What each doubling brings, smallest first.

    Raises:
        BadInput: a recipe whose bits per weight are not known here.
    """
    return tuple(_doubling(axis, recipe, parameters) for parameters in sizes)


def _doubling(axis: Axis, recipe: str, parameters: int) -> Doubling:
    weights = _weights_bytes(parameters, recipe)
    gain = _figure(axis, lambda level: level(2 * parameters) - level(parameters))
    more_gib = (_weights_bytes(2 * parameters, recipe) - weights) / units.GIB
    per_gib = Figure(
        gain.value / more_gib,
        gain.low / more_gib,
        gain.high / more_gib,
        "points/GiB",
        gain.basis,
        gain.source,
    )
    value, low, high = (100 / (1 + math.exp(-points / 10)) for points in (gain.value, gain.low, gain.high))
    return Doubling(
        parameters, weights, gain, per_gib, Figure(value, low, high, "%", gain.basis, gain.source)
    )


def same_bytes(weights_bytes: int, axis: Axis, recipes: Sequence[str] = RECIPES) -> tuple[Spent, ...]:
    """Models of one family whose weights take so many bytes, fewest bits first.

    Raises:
        BadInput: a recipe whose bits per weight are not known here, or so few bytes that no model is meant.
    """
    if weights_bytes < units.GIB // 16:
        raise BadInput("sizes are compared from 64 MiB of weights on", hint="ask for more bytes")
    code, general = _weights(axis)
    sizes = [round(weights_bytes * 8 / _bits_per_weight(recipe)) for recipe in recipes]
    losses = [quantization_loss(size, recipe) for size, recipe in zip(sizes, recipes, strict=True)]
    costs = [loss_points(loss, code=code, general=general) for loss in losses]
    drawn = [
        [level(size) - cost.value * _factor(cost, luck) for size, cost in zip(sizes, costs, strict=True)]
        for level, luck in zip(_levels(axis), _lucks(), strict=True)
    ]
    likely = [_level(axis)(size) - cost.value for size, cost in zip(sizes, costs, strict=True)]
    best = max(range(len(recipes)), key=likely.__getitem__)
    fitted = [_curves()[name] for name in axis if axis[name]]
    smallest, largest = max(one["smallest_b"] for one in fitted), min(one["largest_b"] for one in fitted)
    return tuple(
        Spent(
            recipe,
            sizes[at],
            losses[at],
            _between(likely[at] - likely[best], [one[at] - one[best] for one in drawn], "points"),
            sum(one[at] == max(one) for one in drawn) / len(drawn),
            smallest <= sizes[at] / 1e9 <= largest,
        )
        for at, recipe in enumerate(recipes)
    )


Level = Callable[[float], float]  # points by parameters, from an unknown zero that is the family's


def _figure(axis: Axis, of: Callable[[Level], float]) -> Figure:
    return _between(of(_level(axis)), [of(level) for level in _levels(axis)], "points")


def _between(value: float, drawn: Sequence[float], unit: str) -> Figure:
    ordered = sorted(drawn)
    tenth = len(ordered) // 10
    low, high = min(value, ordered[tenth]), max(value, ordered[-1 - tenth])
    return Figure(value, low, high, unit, Basis.RULE_OF_THUMB, _SOURCE)


def _level(axis: Axis) -> Level:
    code, general = _weights(axis)
    parts = [
        (weight, _curves()[name]["cost"], _curves()[name]["exponent"])
        for name, weight in (("code", code), ("general", general))
    ]
    return lambda parameters: sum(
        -weight * cost * (parameters / 1e9) ** -gamma for weight, cost, gamma in parts
    )


def _levels(axis: Axis) -> list[Level]:
    """The level as each draw of the families has it; both axes saw the same families drawn."""
    code, general = _weights(axis)

    def level(first: Sequence[float], second: Sequence[float]) -> Level:
        return lambda parameters: (
            -sum(
                weight * cost * (parameters / 1e9) ** -gamma
                for weight, (cost, gamma) in ((code, first), (general, second))
            )
        )

    return [
        level(*pair) for pair in zip(_curves()["code"]["draws"], _curves()["general"]["draws"], strict=True)
    ]


def _lucks() -> list[float]:
    """Standard normal, one for each draw: how much worse than expected quantization is for the family, all recipes
    alike, for both its parts (the divergence and what a nat costs) belong to the model."""
    rng = random.Random(_SEED)
    return [rng.gauss(0, 1) for _ in _curves()["code"]["draws"]]


def _factor(cost: Figure, luck: float) -> float:
    """Of a cost known to within a factor."""
    return math.exp(luck * math.log(cost.high / cost.value) / _Z80) if cost.value else 1.0


def _weights(axis: Axis) -> tuple[float, float]:
    code, general = axis.get("code", 0.0), axis.get("general", 0.0)
    return code / (code + general), general / (code + general)


def _weights_bytes(parameters: int, recipe: str) -> int:
    return round(parameters * _bits_per_weight(recipe) / 8)


def _bits_per_weight(recipe: str) -> float:
    """Of Llama 3 8B's file; smaller models hold more of their bytes in embeddings, which some recipes spare."""
    known: Mapping[str, float] = loss_table()["bits_per_weight"]
    if recipe not in known:
        raise BadInput(f"{recipe}: its size is not known here", hint=f"one of {', '.join(known)}")
    return known[recipe]


@cache
def _curves() -> dict[str, Any]:
    path = files("weigh.data").joinpath("quality_returns.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
