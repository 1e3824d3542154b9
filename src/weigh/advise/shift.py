"""Passes at weigh's own tasks as evidence on the quality index, by precision weighting.

How hard a set of tasks is nobody knows, so a share of passes alone has no place on the index; what several models
show on the same tasks is how far apart they are. With c the unknown place of the tasks, for each model

    10 logit(share) = index + c + noise

since 10 points of the index are one logit. The index has what is published (or regressed) as its prior, c none.
The best linear unbiased prediction is then closed: with z = 10 logit(share) - prior and w = 1 / (prior variance +
noise variance), c is the w-weighted mean of z, and each index moves by K (z - c), K = prior variance x w. Of two
models that is the measured difference against the published one, weighted by their precision; of a model alone it
is nothing at all.

Source: Henderson 1975, Best linear unbiased estimation and prediction under a selection model, Biometrics 31.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weigh.figure import Figure

POINTS_PER_LOGIT = 10.0
LEAST_TASKS = 10  # in common, below which nothing is moved
# How far one benchmark lies from the index, beyond its own chance: of one that was left out of the fit the median
# error is 1.6 points (docs/quality.md), 2.4 standard deviations of points. Weigh's tasks are taken for one more.
BENCHMARK_SD_POINTS = 2.4
_Z80 = 1.2816

Shares = Mapping[str, float]  # of passed answers, by task


@dataclass(frozen=True, slots=True)
class Shift:
    """What the tasks say of one model.

    Attributes:
        points: by which its index moves.
        width: share of the interval's width that is left.
        tasks: that all models compared have in common.
        beside: the other models.
    """

    points: float
    width: float
    tasks: int
    beside: tuple[str, ...]


def shifts(priors: Mapping[str, Figure], shares: Mapping[str, Shares]) -> dict[str, Shift]:
    """By model; empty where fewer than two have `LEAST_TASKS` tasks in common.

    Args:
        priors: the index of each, points with their 80 % interval.
        shares: of each model, 0 to 1 by task.
    """
    models, tasks = _comparable(shares)
    if len(models) < 2:
        return {}
    variance = {model: ((priors[model].high - priors[model].low) / (2 * _Z80)) ** 2 for model in models}
    noise = _noise([[shares[model][task] for task in tasks] for model in models])
    weight = {model: 1 / (variance[model] + noise[place]) for place, model in enumerate(models)}
    off = {
        model: POINTS_PER_LOGIT * _logit(_mean([shares[model][task] for task in tasks]), len(tasks))
        - priors[model].value
        for model in models
    }
    total = sum(weight.values())
    centre = sum(weight[model] * off[model] for model in models) / total
    found = {}
    for model in models:
        pull = variance[model] * weight[model]
        left = variance[model] * (1 - pull) + pull**2 / total
        found[model] = Shift(
            points=pull * (off[model] - centre),
            width=math.sqrt(left / variance[model]) if variance[model] else 1.0,
            tasks=len(tasks),
            beside=tuple(other for other in models if other != model),
        )
    return found


def _comparable(shares: Mapping[str, Shares]) -> tuple[list[str], list[str]]:
    """Models with enough tasks in common, those with most tasks first, and these tasks."""
    models: list[str] = []
    common: set[str] = set()
    for model in sorted(shares, key=lambda one: (-len(shares[one]), one)):
        left = common & shares[model].keys() if models else set(shares[model])
        if len(left) >= LEAST_TASKS:
            models.append(model)
            common = left
    return models, sorted(common)


def _noise(table: Sequence[Sequence[float]]) -> list[float]:
    """Variance of `10 logit(share)` of each model, points squared: what is left between tasks once models and
    tasks are taken out (the interaction of a two-way table), and `BENCHMARK_SD_POINTS`.

    Half a task's disagreement is added: models that pass and fail the very same tasks are not known to be equal.
    """
    models, tasks = len(table), len(table[0])
    of_model = [_mean(row) for row in table]
    of_task = [_mean([row[task] for row in table]) for task in range(tasks)]
    whole = _mean(of_model)
    squares = 0.5 + sum(
        (row[task] - of_model[model] - of_task[task] + whole) ** 2
        for model, row in enumerate(table)
        for task in range(tasks)
    )
    between = squares / ((models - 1) * (tasks - 1))
    return [
        (POINTS_PER_LOGIT / _slope(share, tasks)) ** 2 * between / tasks + BENCHMARK_SD_POINTS**2
        for share in of_model
    ]


def _logit(share: float, tasks: int) -> float:
    inner = _inner(share, tasks)
    return math.log(inner / (1 - inner))


def _slope(share: float, tasks: int) -> float:
    """Of the share over its logit."""
    inner = _inner(share, tasks)
    return inner * (1 - inner)


def _inner(share: float, tasks: int) -> float:
    """Off nought and one, by half a task each way."""
    return (share * tasks + 0.5) / (tasks + 1)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
