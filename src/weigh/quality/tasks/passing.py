"""How often a model passes: pass@1 and pass@k of tasks, with intervals that tasks alone vouch for.

Samples of one task are alike; what is drawn independently is the task. So the interval of a mean over tasks
comes from the tasks' own values, and where each is 0 or 1 from the exact binomial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weigh.figure import Basis, Figure
from weigh.quality.clustered import student_t
from weigh.quality.paired import STATED
from weigh.quality.tasks.task import NEEDS

CONFIDENCE = 0.8  # of every interval shown, see weigh.figure
DRAWS = 20_000  # of signs; a chance of 5 % is told to 0.3 points


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that at least one of `k` answers passes, when `passed` of `samples` did; unbiased.

    1 - C(n - c, k) / C(n, k). Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code,
    arXiv:2107.03374, equation 1.

    Raises:
        ValueError: not 0 <= passed <= samples and 1 <= k <= samples.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {passed} in {samples}")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one task went: `passed` of `samples` answers."""

    task: str
    need: str
    difficulty: int
    samples: int
    passed: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of passes over some tasks, 0 to 1."""

    figure: Figure
    tasks: int
    k: int


def rate(outcomes: Sequence[Outcome], k: int = 1) -> Rate | None:
    """pass@k, the mean over tasks with as many samples; None when there is no such task."""
    values = [pass_at_k(one.samples, one.passed, k) for one in outcomes if one.samples >= k]
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    low, high = interval(values, sum(one.samples for one in outcomes))
    return Rate(Figure(mean, low, high, "share", Basis.MEASURED), len(values), k)


def by_need(outcomes: Sequence[Outcome], k: int = 1) -> dict[str, Rate]:
    """In the order of `NEEDS`."""
    groups = {need: [one for one in outcomes if one.need == need] for need in NEEDS}
    rates = {need: rate(group, k) for need, group in groups.items()}
    return {need: found for need, found in rates.items() if found is not None}


def by_difficulty(outcomes: Sequence[Outcome], k: int = 1) -> dict[int, Rate]:
    levels = sorted({one.difficulty for one in outcomes})
    rates = {level: rate([one for one in outcomes if one.difficulty == level], k) for level in levels}
    return {level: found for level, found in rates.items() if found is not None}


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more of the same tasks one model passes than another (pass@1), task by task.

    Attributes:
        figure: the first less the second; Student's t over the tasks' differences.
        better: 0 or 1, where that is sure at 95 %: fewer than one in twenty draws of the differences' signs give a
            sum as far from nought. Of discrete differences Student's t says that after two tasks.
    """

    figure: Figure
    better: int | None
    tasks: int


def difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> Difference | None:
    """None for fewer than two tasks that both were asked."""
    others = {one.task: one.passed / one.samples for one in second}
    gaps = [one.passed / one.samples - others[one.task] for one in first if one.task in others]
    if len(gaps) < 2:
        return None
    mean = math.fsum(gaps) / len(gaps)
    deviation = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1))
    half = student_t(CONFIDENCE, len(gaps) - 1) * deviation / math.sqrt(len(gaps))
    figure = Figure(mean, mean - half, mean + half, "share", Basis.MEASURED)
    better = None if _chance_of_sum(gaps) > 1 - STATED else int(mean < 0)
    return Difference(figure, better, len(gaps))


def _chance_of_sum(gaps: Sequence[float]) -> float:
    """How often the sum is at least as far from nought when each sign is drawn anew.

    Source: Fisher 1935, The Design of Experiments, section 21; with signs drawn instead of counted out.
    """
    import numpy as np

    moved = np.array([gap for gap in gaps if gap])
    random = np.random.default_rng(0)
    sums = (moved @ random.choice((-1.0, 1.0), (len(moved), 1000)) for _ in range(DRAWS // 1000))
    least = abs(moved.sum()) - 1e-9
    return float(np.mean([np.abs(drawn) >= least for drawn in sums]))


def interval(values: Sequence[float], samples: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Ends of the interval of the mean of `values` in 0..1, one per task, drawn independently.

    Where all are 0 or 1 it is the exact binomial one (Clopper and Pearson 1934). Else the same with as many
    tasks as would vary as much if each were 0 or 1 (Korn and Graubard 1998), at most `samples`, those of all
    tasks together.
    """
    count = len(values)
    mean = math.fsum(values) / count
    effective = float(count)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, count - 1)
    if variance > 0:
        effective = min(max(effective, mean * (1 - mean) / variance * count), float(samples))
    tail = (1 - confidence) / 2
    passed = mean * effective
    low = _beta_quantile(tail, passed, effective - passed + 1) if mean > 0 else 0.0
    high = _beta_quantile(1 - tail, passed + 1, effective - passed) if mean < 1 else 1.0
    return low, high


def _beta_quantile(share: float, a: float, b: float) -> float:
    """The x below which the beta distribution with parameters `a`, `b` has the share `share`."""
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_share(middle, a, b) < share else (low, middle)
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by its continued fraction from where that is fast.

    Source: Abramowitz & Stegun 1964, 26.5.2 and 26.5.8; evaluated from its end (modified Lentz).
    """
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    if x <= 0:
        return 0.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    least = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or least)
    found = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or least)
            c = 1 + term / c or least
            found *= d * c
        if abs(d * c - 1) < 1e-12:
            break
    return front * found / a
