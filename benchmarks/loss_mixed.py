"""A mixed model of ln(loss): type + family + model + size, fitted by restricted likelihood.

    ln loss = mean + recipe + how it was made + family + model x (1 + slope x level of the type) + rest
              + ln(parameters) x exponent, below 8 B

All but the mean are normal with standard deviations fitted to the rows (weak priors keep those that few rows speak of
at sensible sizes); the exponent has a prior from other evidence. What comes out is the best linear prediction of each
recipe for a model of no known family, and of each family's factor, as `weigh.estimate.quantization_loss` reads it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from loss_rows import RECIPES, WITH_MATRIX, Loss
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PIVOT_NATS = 0.03  # where a model's slope over types turns; about Q4_K_M
PIVOT_PARAMETERS_B = 8.03
# Standard deviations of ln(loss) before any row is seen, each known to a factor of two.
_PRIOR = {"recipe": 1.2, "made": 0.3, "family": 0.3, "model": 0.3, "level": 0.1, "rest": 0.2}
_PRIOR_LN_SD = 0.7


@dataclass(frozen=True)
class Exponent:
    """Of loss over parameters, and its standard error."""

    value: float
    error: float


def fit_table(losses: Sequence[Loss], exponent: Exponent, *, all_types: bool = False) -> dict[str, Any]:
    """The part of quality_loss.json that predicts, from rows and the prior of the exponent.

    Args:
        all_types: also those that are made otherwise than weigh would.
    """
    model = _Mixed(losses, exponent)
    seen = {loss.type: loss for loss in losses}
    order = {recipe: place for place, recipe in enumerate(RECIPES + WITH_MATRIX)}
    asked = [loss for type, loss in seen.items() if all_types or type == loss.recipe]
    asked.sort(key=lambda loss: (order[loss.recipe], loss.type))
    mean, covariance = model.of_types(asked)
    common = max(0.0, float(np.mean(covariance[np.triu_indices(len(asked), 1)])))
    own = np.sqrt(np.maximum(np.diag(covariance) - common, 0.0))
    return {
        "nats": {one.type: float(f"{math.exp(m):.4g}") for one, m in zip(asked, mean, strict=True)},
        "ln_sd_of_type": {one.type: round(float(sd), 3) for one, sd in zip(asked, own, strict=True)},
        "ln_sd_of_unknown_type": round(math.hypot(float(np.median(own)), model.sd["made"]), 3),
        "ln_sd_common": round(math.sqrt(common), 3),
        "ln_sd_family": round(model.sd["family"], 3),
        "ln_sd_model": round(model.sd["model"], 3),
        "ln_sd_level": round(model.sd["level"], 3),
        "ln_sd_rest": round(model.sd["rest"], 3),
        "pivot_nats": PIVOT_NATS,
        "base_parameters_B": PIVOT_PARAMETERS_B,
        "exponent": round(model.exponent().value, 3),
        "exponent_sd": round(model.exponent().error, 3),
        "families": {
            name: {"ln_factor": round(mean, 3), "ln_sd": round(sd, 3)}
            for name, (mean, sd) in model.families().items()
        },
        "models": {
            name: {"ln_factor": round(mean, 3), "ln_sd": round(sd, 3)}
            for name, (mean, sd) in model.models().items()
        },
    }


class _Mixed:
    def __init__(self, losses: Sequence[Loss], exponent: Exponent) -> None:
        self._losses, self._exponent = losses, exponent
        self._levels = _levels(losses)
        size = _ln_size(losses)
        self._y = np.array([math.log(loss.nats) for loss in losses]) - exponent.value * size
        self._parts = self._of(losses, losses)
        names = list(_PRIOR)
        start = np.log(np.array([_PRIOR[name] for name in names]))
        found = _search(lambda th: self._cost(dict(zip(names, np.exp(th), strict=True)), start, th), start)
        self.sd: dict[str, float] = {name: float(sd) for name, sd in zip(names, np.exp(found), strict=True)}
        self._inverse = np.linalg.inv(self._covariance(self.sd))
        ones = np.ones(len(losses))
        self._mean_variance = 1 / float(ones @ self._inverse @ ones)
        self._mean = float(ones @ self._inverse @ self._y) * self._mean_variance
        self._residual = self._inverse @ (self._y - self._mean)

    def of_types(self, asked: Sequence[Loss]) -> tuple[Floats, Floats]:
        """ln(loss) of types for the mean family and model at the pivot's size, and its covariance."""
        parts = self._of(asked, self._losses)
        cross = self.sd["recipe"] ** 2 * parts["recipe"] + self.sd["made"] ** 2 * parts["made"]
        own = self._of(asked, asked)
        prior = self.sd["recipe"] ** 2 * own["recipe"] + self.sd["made"] ** 2 * own["made"]
        left = 1 - cross @ self._inverse @ np.ones(len(self._losses))
        covariance = prior - cross @ self._inverse @ cross.T + np.outer(left, left) * self._mean_variance
        return self._mean + cross @ self._residual, covariance

    def families(self) -> dict[str, tuple[float, float]]:
        """ln of each family's factor, and its standard deviation."""
        found = {}
        for name in dict.fromkeys(loss.family for loss in self._losses):
            cross = self.sd["family"] ** 2 * np.array([float(one.family == name) for one in self._losses])
            variance = self.sd["family"] ** 2 - float(cross @ self._inverse @ cross)
            found[name] = float(cross @ self._residual), math.sqrt(max(0.0, variance))
        return found

    def models(self) -> dict[str, tuple[float, float]]:
        """ln of each model's whole factor, its size and family included, and its standard deviation.

        Against the mean model of the pivot's size, whose own mean is not known for sure either.
        """
        found = {}
        size = _ln_size(self._losses)
        for name in dict.fromkeys(loss.model for loss in self._losses):
            at = next(row for row, loss in enumerate(self._losses) if loss.model == name)
            cross = self.sd["model"] ** 2 * self._parts["model"][at]
            cross = cross + self.sd["family"] ** 2 * self._parts["family"][at]
            cross = cross + self._exponent.error**2 * size[at] * size
            prior = self.sd["model"] ** 2 + self.sd["family"] ** 2 + (self._exponent.error * size[at]) ** 2
            left = float(cross @ self._inverse @ np.ones(len(size)))
            variance = prior - float(cross @ self._inverse @ cross) + left**2 * self._mean_variance
            mean = self._exponent.value * size[at] + float(cross @ self._residual)
            found[name] = mean, math.sqrt(max(0.0, variance))
        return found

    def exponent(self) -> Exponent:
        cross = self._exponent.error**2 * _ln_size(self._losses)
        variance = self._exponent.error**2 - float(cross @ self._inverse @ cross)
        return Exponent(self._exponent.value + float(cross @ self._residual), math.sqrt(max(0.0, variance)))

    def _of(self, one: Sequence[Loss], other: Sequence[Loss]) -> dict[str, Floats]:
        """Which pairs of rows share what."""

        def same(key: Callable[[Loss], object]) -> Floats:
            return np.array([[float(key(a) == key(b)) for b in other] for a in one])

        levels = [np.array([self._levels.get(loss.type, 0.0) for loss in each]) for each in (one, other)]
        model = same(lambda loss: loss.model)
        return {
            "recipe": same(lambda loss: loss.recipe),
            "made": same(lambda loss: loss.type),
            "family": same(lambda loss: loss.family),
            "model": model,
            "level": model * np.outer(*levels),
        }

    def _covariance(self, sd: dict[str, float]) -> Floats:
        size = _ln_size(self._losses)
        total: Floats = sd["rest"] ** 2 * np.eye(len(self._losses))
        total += self._exponent.error**2 * np.outer(size, size)
        for name, shared in self._parts.items():
            total += sd[name] ** 2 * shared
        return total

    def _cost(self, sd: dict[str, float], start: Floats, th: Floats) -> float:
        """Restricted likelihood and prior, negative logarithm."""
        root = np.linalg.cholesky(self._covariance(sd))
        ones = np.linalg.solve(root, np.ones(len(self._losses)))
        y = np.linalg.solve(root, self._y)
        information = float(ones @ ones)
        rest = y - ones * float(ones @ y) / information
        prior = float(np.sum((th - start) ** 2)) / (2 * _PRIOR_LN_SD**2)
        return (
            0.5 * float(rest @ rest)
            + float(np.log(np.diag(root)).sum())
            + 0.5 * math.log(information)
            + prior
        )


def _levels(losses: Sequence[Loss]) -> dict[str, float]:
    """How far a type lies from the pivot, in ln(nats), by the plain mean of its rows."""
    found: dict[str, list[float]] = defaultdict(list)
    for loss in losses:
        found[loss.type].append(math.log(loss.nats / PIVOT_NATS))
    return {type: fmean(values) for type, values in found.items()}


def _ln_size(losses: Sequence[Loss]) -> Floats:
    """ln of how much smaller than the pivot a model is; larger ones lose no less, as far as was published."""
    sizes = np.array([loss.parameters_b for loss in losses])
    return np.minimum(np.log(sizes / PIVOT_PARAMETERS_B), 0.0)


def _search(cost: Callable[[Floats], float], start: Floats) -> Floats:
    """The least of a smooth function, by steps along the axes that halve."""
    at, best, step = start.copy(), cost(start), 0.4
    while step > 0.04:
        moved = False
        for axis in range(len(at)):
            for sign in (1, -1):
                tried = at.copy()
                tried[axis] += sign * step
                value = cost(tried)
                if value < best - 1e-4:
                    at, best, moved = tried, value, True
                    break
        step = step if moved else step / 2
    return at
