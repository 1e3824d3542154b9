"""When warm-up is over, and when enough has been seen: told by the samples themselves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from weigh.median import interval_confidence, median_interval

CONFIDENCE = 0.8  # of the interval that is to be narrow: the one shown with every figure
LEAST_GAIN = 0.3  # of the variance of the mean, for a longer start to be left out
_BATCH = 5
_LEAST_FOR_BATCHES = 40  # below that many samples each one stands for itself


def warm_up(times_s: Sequence[float]) -> int:
    """How many samples at the start belong to the warm-up: MSER-5 on medians of five, and only a slow start.

    MSER leaves out the start whose absence makes the standard error of the mean of the rest smallest, at most
    half of all. Here it is the shortest start that does nearly as well, so that steady samples are kept whole.
    Single slow samples do not move the medians of five. A start that is not slower than the rest is kept: steps
    that grow with the context are no warm-up.

    Args:
        times_s: seconds, in the order they came.

    Source: White, Cobb & Spratt, A comparison of five steady-state truncation heuristics for simulation,
    Winter Simulation Conference 2000.
    """
    size = _BATCH if len(times_s) >= _LEAST_FOR_BATCHES else 1
    batches = [statistics.median(times_s[at : at + size]) for at in range(0, len(times_s) - size + 1, size)]
    if len(batches) < 4:
        return 0
    errors = [_error(batches[cut:]) for cut in range(len(batches) // 2 + 1)]
    least = min(errors)
    cut = next(place for place, error in enumerate(errors) if (1 - LEAST_GAIN) * error <= least)
    if not cut:
        return 0
    slower = statistics.median(batches[:cut]) > statistics.median(batches[cut:])
    return cut * size if slower else 0


def half_width(samples: Sequence[float]) -> float:
    """Half the median's 80 % interval over the median; infinite while the samples are too few for one (3).

    Looking after every turn and stopping as soon as the interval is narrow makes it a little less sure than
    it says, since it stops on lucky turns too.
    """
    if not samples or interval_confidence(len(samples), CONFIDENCE) < CONFIDENCE:
        return math.inf
    low, high = median_interval(samples, CONFIDENCE)
    middle = statistics.median(samples)
    return (high - low) / 2 / middle if middle else math.inf


def _error(samples: Sequence[float]) -> float:
    """Variance of the mean, as MSER has it."""
    mean = statistics.fmean(samples)
    return sum((sample - mean) ** 2 for sample in samples) / len(samples) ** 2
