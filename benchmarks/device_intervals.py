"""Learn how wide intervals of estimates on devices must be, from the errors of runs that were predicted blind.

The logarithm of a half-width is a sum of terms, one for each trait of a run (`device_speed.traits`). They are
fitted by quantile regression of the errors, each term drawn to zero; devices count as the root of their runs. The
terms of how well a device is known are then moved so that 80 % of the errors lie inside, by folds of devices, or
of models where the device is known. Needs numpy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from weigh.estimate.device_rates import KNOWN, Case, half_width, traits

COVERED = 0.8
SMALLEST = 0.01  # an error below this counts as this one: its logarithm says nothing more
TYPICAL = 0.3  # half-width
STRENGTHS = ((1.0, 2.0), (4.0, 8.0))  # of the pull to zero: terms for all, those for one level
FOLDS = 5
ROUNDS = 40


class Miss(NamedTuple):
    """An error of a run that was predicted blind.

    Attributes:
        level: of what is known, one of `KNOWN`, that the error tells of.
        era: of the run; today's is "".
        value: of the logarithm of the time.
    """

    level: str
    case: Case
    era: str
    model: str
    value: float


class _Misses:
    """Misses as arrays: shares of terms, (misses, terms), and logarithms of errors over `TYPICAL` ones."""

    def __init__(self, misses: Sequence[Miss]) -> None:
        terms = [_terms(m) for m in misses]
        self.names = sorted({name for each in terms for name in each})
        place = {name: i for i, name in enumerate(self.names)}
        self.matrix = np.zeros((len(misses), len(self.names)))
        for i, each in enumerate(terms):
            for name, share in each.items():
                self.matrix[i, place[name]] = share
        self.sizes = np.log([max(abs(m.value), SMALLEST) / TYPICAL for m in misses])
        counts = Counter((m.level, m.case.device) for m in misses)
        self.weights = np.array([1 / math.sqrt(counts[m.level, m.case.device]) for m in misses])
        self.published = np.array([m.level == KNOWN[0] for m in misses])
        self.folds = [
            _folds([m.model for m in misses]),
            _folds([m.case.device for m in misses]),
        ]

    def fit(
        self, some: np.ndarray, strength: tuple[float, float], start: np.ndarray | None = None
    ) -> np.ndarray:
        """Terms by quantile regression, as reweighted least squares."""
        pull = np.array([_pull(name, strength) for name in self.names])
        used = np.flatnonzero(np.abs(self.matrix[some]).sum(axis=0))
        matrix, sizes = self.matrix[np.ix_(some, used)], self.sizes[some]
        found = np.zeros(len(used)) if start is None else start[used]
        for _ in range(ROUNDS):
            beyond = sizes - matrix @ found
            weights = self.weights[some] * _steep(beyond) / np.maximum(np.abs(beyond), 0.1)
            weighted = matrix * weights[:, None]
            change = np.linalg.solve(weighted.T @ matrix + np.diag(pull[used]), weighted.T @ sizes) - found
            found += 0.6 * change  # a whole step would swing to and fro
            if np.abs(change).max() < 0.01:
                break
        all_terms = np.zeros(len(self.names))
        all_terms[used] = found
        return all_terms

    def left_out(self, strength: tuple[float, float]) -> np.ndarray:
        """Logarithms of errors over half-widths that were learned without their model or device."""
        found, start = np.zeros(len(self.sizes)), self.fit(np.arange(len(self.sizes)), strength)
        for folds, mine in zip(self.folds, (self.published, ~self.published), strict=True):
            for fold in range(FOLDS):
                outside = np.flatnonzero((folds == fold) & mine)
                if len(outside):
                    table = self.fit(np.flatnonzero(folds != fold), strength, start)
                    found[outside] = self.sizes[outside] - self.matrix[outside] @ table
        return found


def _terms(miss: Miss) -> dict[str, float]:
    """With one more for older builds, so that they do not widen the intervals of today's."""
    found = dict(traits(miss.case._replace(known=miss.level)))
    return {**found, f"era {miss.era}": 1.0} if miss.era else found


def _folds(groups: Sequence[str]) -> np.ndarray:
    number = {name: i % FOLDS for i, name in enumerate(sorted(set(groups)))}
    return np.array([number[name] for name in groups])


def _pull(name: str, strength: tuple[float, float]) -> float:
    if name in KNOWN:
        return 0.01
    return strength[1] if name.split(" ", maxsplit=1)[0] in KNOWN else strength[0]


def _steep(beyond: np.ndarray) -> np.ndarray:
    """Slopes of a quantile's loss."""
    return np.where(beyond > 0, COVERED, 1 - COVERED)


def learned(misses: Sequence[Miss]) -> dict[str, float]:
    """Terms for `half_width`; those whose pull predicts the errors of what is left out best."""
    data = _Misses(misses)
    beyond = {strength: data.left_out(strength) for strength in STRENGTHS}

    def loss(strength: tuple[float, float]) -> float:
        return float((data.weights * _steep(beyond[strength]) * np.abs(beyond[strength])).sum())

    best = min(STRENGTHS, key=loss)
    found = data.fit(np.arange(len(misses)), best)
    table = dict(zip(data.names, (float(value) for value in found), strict=True))
    for level in {m.level for m in misses}:
        here = [i for i, m in enumerate(misses) if m.level == level]
        devices = len({misses[i].case.device for i in here})
        share = COVERED + (1 - COVERED) / devices  # the next device may be beyond them all
        pairs = [(float(beyond[best][i]), float(data.weights[i])) for i in here]
        table[level] += math.log(TYPICAL) + weighted_quantile(pairs, share)
    return table


def width(table: Mapping[str, float], case: Case, era: str) -> float:
    """80 % half-width of the logarithm of the time of a run of that era."""
    return half_width(table, case) * math.exp(table.get(f"era {era}", 0.0))


def weighted_quantile(values: Sequence[tuple[float, float]], share: float) -> float:
    total = sum(weight for _, weight in values)
    seen = 0.0
    for value, weight in sorted(values):
        seen += weight
        if seen >= share * total:
            return value
    return max(value for value, _ in values)
