"""How good a model is at a task and what quantization takes away, each with its source.

Published scores are shown as published. Ranking needs one number for every model, so an index is fitted
offline on all of them (benchmarks/quality_fit.py): two axes, code and general, where 10 points are one
logit (odds x 2.7) on HumanEval+ and MMLU, and Llama 3.1 8B Instruct stands at 50. Where a model has no
score the index is a regression on size, age and kind, wide and marked `rule-of-thumb`. Quantization is
taken off as divergence in nats (estimate/quantization_loss.py) times points per nat.
docs/quality.md gives both fits with their checks.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from weigh.estimate.quantization_loss import loss_table, quantization_loss
from weigh.figure import Basis, Figure

Axis = Literal["code", "general"]
Kind = Literal["instruct", "reasoning", "base"]
Thinking = Literal["never", "optional", "always"]

AXES: tuple[Axis, Axis] = ("code", "general")
_Z80 = 1.2816  # half-width of an 80 % interval in standard deviations
_STRANGER_YEAR = 2024.5  # age given to a model of which only the size is known
_STRANGER_SD = 8.0  # points; covers not knowing age, maker and training
_LN_RATE_ERROR = 0.7  # 80 % half-width of the logarithm of points per nat: a factor of two
_RATE_SOURCE = "MMLU and Aider scores before and after quantization (docs/quality.md)"


@dataclass(frozen=True, slots=True)
class Score:
    """One published score, as printed. `mode` says whether the model thought before answering."""

    benchmark: str
    variant: str
    mode: str
    value: float
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model is for.

    Attributes:
        kind: `base` completes text and does not follow instructions; `reasoning` always thinks first.
        fim: trained to fill in the middle of a file, which editors' completion needs.
        thinking: whether it writes a chain of thought before the answer; that costs many tokens.
        native_format: the format it was trained in and loses nothing by (`MXFP4_MOE`), or "".
    """

    kind: Kind
    fim: bool
    thinking: Thinking
    native_format: str
    moe: bool
    year: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What is known of a model under one quantization for one task.

    Attributes:
        score: the ranking index after the loss, unit `points`; rank by its `low` to prefer what is known.
        headline: the published score to show (`HumanEval+ 84.1`), or `unknown`.
        source: where the headline was published; "" when unknown.
        loss: mean Kullback-Leibler divergence from the unquantized model, unit `nats`.
        loss_points: what that loss takes off the index, unit `points`.
        basis: `published` when the task's main axis has a score of this very model.
    """

    score: Figure
    headline: str
    source: str
    loss: Figure
    loss_points: Figure
    basis: Basis


@cache
def _data(name: str) -> Any:
    return json.loads(files("weigh.data").joinpath(name).read_text(encoding="utf-8"))


def _rows(name: str) -> Iterator[dict[str, str]]:
    with files("weigh.data").joinpath(name).open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


@cache
def _published() -> dict[str, tuple[Score, ...]]:
    """Scores by catalog id: quality_scores.csv through the reviewed names, and quality_cards.csv."""
    names = {row["name"]: row for row in _rows("quality_names.csv") if row["model_id"]}
    found: dict[str, list[Score]] = {}
    for row in _rows("quality_scores.csv"):
        if name := names.get(row["model"]):
            found.setdefault(name["model_id"], []).append(_score(row, name["mode"]))
    for row in _rows("quality_cards.csv"):
        found.setdefault(row["model_id"], []).append(_score(row, row["mode"]))
    return {model_id: tuple(scores) for model_id, scores in found.items()}


def _score(row: Mapping[str, str], mode: str) -> Score:
    return Score(row["benchmark"], row["variant"], mode, float(row["score"]), row["source"], row["date"])


def published(model_id: str) -> tuple[Score, ...]:
    """Every published score of a catalog model; empty when none is known."""
    return _published().get(model_id, ())


@cache
def traits(model_id: str) -> Traits | None:
    """Kind and habits of a catalog model; None for a model outside the catalog."""
    entry = _data("quality_index.json")["models"].get(model_id)
    if entry is None:
        return None
    return Traits(
        kind=entry["kind"],
        fim=entry["fim"],
        thinking=entry["thinking"],
        native_format=entry["native_format"],
        moe=entry["moe"],
        year=entry["year"],
    )


def ability(model_id: str | None, parameters: int, axis: Axis) -> Figure:
    """The index of the unquantized model on one axis, in points.

    Args:
        model_id: catalog id; None or an unknown id is predicted from `parameters` (total) alone.
    """
    entry = _data("quality_index.json")["models"].get(model_id)
    if entry is None:
        return _stranger(parameters, axis)
    found = entry[axis]
    source = found["headline"]["source"] or "regression on size, age and kind (docs/quality.md)"
    return _points(found["value"], found["sd"], Basis(found["basis"]), source)


@lru_cache(maxsize=1024)
def _stranger(parameters: int, axis: Axis) -> Figure:
    """A dense instruct model of middling age and unknown maker."""
    predictor = _data("quality_index.json")["predictor"][axis]
    size = math.log10(max(parameters / 1e9, 0.03))
    x = (size, max(0.0, math.log10(3) - size), 0.0, _STRANGER_YEAR - 2024, 0.0, 0.0, 0.0, 0.0)
    value = predictor["intercept"] + sum(c * v for c, v in zip(predictor["coefficients"], x, strict=True))
    return _points(value, _STRANGER_SD, Basis.RULE_OF_THUMB, "regression on size (docs/quality.md)")


def _points(value: float, sd: float, basis: Basis, source: str) -> Figure:
    return Figure(value, value - _Z80 * sd, value + _Z80 * sd, "points", basis, source)


def loss_points(loss: Figure, *, code: float, general: float) -> Figure:
    """Index points a divergence costs, for weights of the axes that add up to one.

    The rates are known to within a factor of two; that and the loss's own error add up in logarithms.
    """
    rates: Mapping[str, float] = loss_table()["points_per_nat"]
    value = loss.value * (code * rates["code"] + general * rates["general"])
    if value == 0:
        return Figure.exact(0.0, "points", loss.basis, loss.source)
    spread = math.hypot(math.log(loss.high / loss.value), _LN_RATE_ERROR)
    return Figure.within(value, math.expm1(spread), "points", Basis.RULE_OF_THUMB, _RATE_SOURCE)


def quality(
    model_id: str | None,
    parameters: int,
    recipe: str,
    task_axis: Mapping[str, float],
    *,
    bits_per_weight: float | None = None,
    measured: Mapping[str, Figure] = MappingProxyType({}),
) -> Quality:
    """Index, headline and loss of a model under a recipe, for a task's weights of the two axes.

    Args:
        model_id: catalog id, or None for a model known only by its size.
        parameters: total parameters.
        task_axis: weights of `code` and `general`, e.g. ``{"code": 0.8, "general": 0.2}``.
        bits_per_weight: of the file; only used for a recipe nobody measured.
        measured: divergences of this very model measured here, nats by recipe.

    Raises:
        UnknownName: nobody measured the recipe and no `bits_per_weight` was given.
    """
    code, general = task_axis.get("code", 0.0), task_axis.get("general", 0.0)
    losses = tuple(sorted(measured.items()))
    return _quality(model_id, parameters, recipe, code / (code + general), bits_per_weight, losses)


@lru_cache(maxsize=16384)
def _quality(
    model_id: str | None,
    parameters: int,
    recipe: str,
    code: float,
    bits_per_weight: float | None,
    measured: tuple[tuple[str, Figure], ...],
) -> Quality:
    whole = _whole(model_id, parameters, code)
    headline, source = _headline(model_id, code)
    loss = quantization_loss(
        parameters,
        recipe,
        bits_per_weight=bits_per_weight,
        model_id=model_id,
        measured=dict(measured),
    )
    cost = loss_points(loss, code=code, general=1 - code)
    value = whole.value - cost.value
    low = value - math.hypot(whole.value - whole.low, cost.high - cost.value)
    high = value + math.hypot(whole.high - whole.value, cost.value - cost.low)
    score = Figure(value, low, high, "points", whole.basis, whole.source)
    return Quality(score, headline, source, loss, cost, whole.basis)


@lru_cache(maxsize=4096)
def _whole(model_id: str | None, parameters: int, code: float) -> Figure:
    """Weighted mean of the two axes; their errors go together, so the widths are averaged too."""
    a, b = ability(model_id, parameters, "code"), ability(model_id, parameters, "general")
    value, low, high = (code * x + (1 - code) * y for x, y in _paired(a, b))
    main = a if code >= 0.5 else b
    return Figure(value, low, high, "points", main.basis, main.source)


def _paired(a: Figure, b: Figure) -> tuple[tuple[float, float], ...]:
    return (a.value, b.value), (a.low, b.low), (a.high, b.high)


@lru_cache(maxsize=4096)
def _headline(model_id: str | None, code: float) -> tuple[str, str]:
    """The published score of the task's main axis, else of the other one, else `unknown`."""
    entry = _data("quality_index.json")["models"].get(model_id)
    if entry is None:
        return "unknown", ""
    order = AXES if code >= 0.5 else AXES[::-1]
    found = [entry[axis]["headline"] for axis in order]
    best = next((h for h in found if h["source"]), found[0])
    return best["text"], best["source"]
