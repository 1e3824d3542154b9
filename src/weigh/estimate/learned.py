"""What one's own runs teach about estimates: a correction of decode and prefill, and how sure it is.

The error of an estimate, log(measured / uncorrected estimate), is taken for a sum of effects: one of this
machine, one of the calibration that was used, one of the model's family, one of its quantization, and one of
the very setup. Each is drawn from a normal distribution around nought whose variance is a share of the one
the estimates claim for themselves, so their posterior has a closed form (a Gaussian process with the
covariance `_likeness`; Rasmussen and Williams 2006, equations 2.25 and 2.26). With few or noisy runs it
stays near nought; what runs have in common moves every estimate, the rest only its relatives.

A run under another calibration teaches about family, quantization and setup as any other, but says less of
the machine: calibrations differ by the drift of the machine between them. Intervals widen again when runs
disagree: the variance is scaled by how far they really scatter, the noise of a single run by how far
repetitions do (posterior means under inverse-gamma priors worth `PRIOR_RUNS`). A corrected figure stays
`calibrated`, also for a setup that was run: it is still a prediction, drawn strongly towards what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.calibration import Calibration
from weigh.estimate.speed import SpeedEstimate, Workload
from weigh.figure import Figure
from weigh.model.spec import ModelSpec

# Shares of the variance by what setups have in common: judgements, the machine's and the calibration's from
# calibrations minutes apart on one machine that differed by a tenth either way (docs/accuracy.md).
MACHINE, CALIBRATION, FAMILY, QUANTIZATION, SETUP = 0.25, 0.2, 0.2, 0.1, 0.25

# Several sequences at once: variance on top, shared among such runs alone. The formula claims 30 % for them on
# top of some 17 % (speed.SMALL_BATCH_ERROR).
BATCHED = 3.0

DRIFT = 0.03  # standard deviation between runs that steady steps do not show, and the least: a judgement
PRIOR_RUNS = 4.0  # how many runs a claimed variance is worth when it is held against the seen one
NEAR_TOKENS = 64  # depths are alike when they differ by little, or by little of their logarithm
MOST_SETUPS = 48  # newest distinct ones that count: the system of equations is solved in pure Python
_Z80 = 1.2815515655446004  # half-width of an 80 % interval of a normal distribution, in standard deviations


@dataclass(frozen=True, slots=True)
class Setup:
    """What the error of an estimate may go with.

    Attributes:
        calibration: time stamp of the one the estimate rests on.
        family: the model's architecture; "" where unknown.
    """

    calibration: str
    model: str
    family: str
    quantization: str
    kv_types: tuple[str, str]
    threads: int
    parallel: int
    prompt_tokens: int
    output_tokens: int
    depth_tokens: int

    @classmethod
    def of(cls, spec: ModelSpec, settings: Settings, workload: Workload, calibration: Calibration) -> Setup:
        return cls(
            calibration=calibration.created,
            model=spec.name,
            family=spec.architecture,
            quantization=spec.quantization,
            kv_types=(settings.kv_type_k.name, settings.kv_type_v.name),
            threads=settings.threads or calibration.threads,
            parallel=workload.parallel,
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            depth_tokens=workload.depth_tokens,
        )


@dataclass(frozen=True, slots=True)
class Miss:
    """By how much an estimate missed: log(measured / uncorrected), and its own claim.

    Attributes:
        half_width: of the uncorrected 80 % interval, log(high / value).
    """

    log_ratio: float
    half_width: float

    @classmethod
    def of(cls, measured: float, uncorrected: Figure) -> Miss:
        return cls(math.log(measured / uncorrected.value), math.log(uncorrected.high / uncorrected.value))


@dataclass(frozen=True, slots=True)
class Lesson:
    """One full run on this machine. `noise` is the relative 80 % half-width of its single steps."""

    setup: Setup
    noise: float
    decode: Miss | None
    prefill: Miss | None


@dataclass(frozen=True, eq=False)
class Learned:
    """What the runs of this machine and engine version teach; newest first. Compared by identity."""

    lessons: tuple[Lesson, ...]

    @cached_property
    def _decode(self) -> _Effects:
        seen = [(_Place.decode(one.setup), one.decode, one.noise) for one in self.lessons if one.decode]
        return _Effects(seen)

    @cached_property
    def _prefill(self) -> _Effects:
        seen = [(_Place.prefill(one.setup), one.prefill, one.noise) for one in self.lessons if one.prefill]
        return _Effects(seen)

    def correct(self, speed: SpeedEstimate, setup: Setup) -> SpeedEstimate:
        """Decode, prefill and the first token as they should have been estimated; the rest as it was."""
        decode = self._decode.at(_Place.decode(setup))
        prefill = self._prefill.at(_Place.prefill(setup))
        return SpeedEstimate(
            prefill_tokens_per_s=prefill.of_rate(speed.prefill_tokens_per_s),
            decode_tokens_per_s=decode.of_rate(speed.decode_tokens_per_s),
            ttft_s=prefill.of_time(speed.ttft_s),
            load_s=speed.load_s,
            load_cold_s=speed.load_cold_s,
        )


@dataclass(frozen=True, slots=True)
class Correction:
    """Of one figure, in logarithms: it moves by `shift`, and its half-width to `width` times what it was.

    Attributes:
        least: half-width that runs differ by at any rate; it bounds the narrowing, and never widens.
    """

    shift: float
    width: float
    least: float

    def of_rate(self, figure: Figure) -> Figure:
        return self._moved(figure, math.exp(self.shift))

    def of_time(self, figure: Figure) -> Figure:
        return self._moved(figure, math.exp(-self.shift))

    def _moved(self, figure: Figure, factor: float) -> Figure:
        value = figure.value * factor
        below, above = self._narrowed(figure.value / figure.low), self._narrowed(figure.high / figure.value)
        return Figure(value, value / below, value * above, figure.unit, figure.basis, figure.source)

    def _narrowed(self, ratio: float) -> float:
        claimed = math.log(ratio)
        return math.exp(max(self.width * claimed, min(self.least, claimed)))


class _Place(NamedTuple):
    """Where a setup stands among others, for one of the two quantities.

    Attributes:
        repeat: what a repetition has in common with it, but for the tokens in the cache.
        tokens: in the cache while it goes on, on average.
    """

    calibration: str
    family: str
    quantization: str
    batched: bool
    repeat: tuple[object, ...] | None
    tokens: float

    @classmethod
    def decode(cls, setup: Setup) -> _Place:
        return cls._at(setup, setup.depth_tokens + setup.output_tokens / 2)

    @classmethod
    def prefill(cls, setup: Setup) -> _Place:
        return cls._at(setup, setup.depth_tokens + setup.prompt_tokens / 2)

    @classmethod
    def _at(cls, setup: Setup, tokens: float) -> _Place:
        repeat = (setup.model, setup.quantization, setup.kv_types, setup.threads, setup.parallel)
        return cls(setup.calibration, setup.family, setup.quantization, setup.parallel > 1, repeat, tokens)


def _likeness(one: _Place, other: _Place) -> float:
    """Covariance of two setups' errors, in units of the variance that all have."""
    total = MACHINE
    if one.calibration == other.calibration:
        total += CALIBRATION
    if one.batched != other.batched:
        return total
    if one.batched:
        total += BATCHED
    if one.family == other.family and one.family:
        total += FAMILY
    if one.quantization == other.quantization and one.quantization:
        total += QUANTIZATION
    if one.repeat == other.repeat and one.repeat:
        apart = math.log((one.tokens + NEAR_TOKENS) / (other.tokens + NEAR_TOKENS))
        total += SETUP * math.exp(-abs(apart))
    return total


def _variance(place: _Place) -> float:
    """In the same units; what is unknown of a setup varies too."""
    return 1 + BATCHED if place.batched else 1.0


class _Effects:
    """The posterior of the effects on one quantity, and what it says of a setup."""

    def __init__(self, seen: Sequence[tuple[_Place, Miss, float]]) -> None:
        repeats: dict[_Place, list[tuple[Miss, float]]] = {}
        for place, miss, noise in seen:
            repeats.setdefault(place, []).append((miss, math.log1p(noise) / _Z80))
        self._places = list(repeats)[:MOST_SETUPS]
        runs = [repeats[place] for place in self._places]
        if not runs:
            return
        import statistics  # costs a start 5 ms, and most machines have no runs

        missed = [statistics.median(miss.log_ratio for miss, _ in those) for those in runs]
        claimed = [DRIFT**2 + statistics.median(noise for _, noise in those) ** 2 for those in runs]
        restless = self._restless(runs, missed, claimed)
        noises = [max(restless * variance, DRIFT**2) for variance in claimed]
        self._noise = math.sqrt(statistics.median(noises))
        width = statistics.median(miss.half_width for those in runs for miss, _ in those) / _Z80
        # what the estimates claim holds the noise of a run too
        self._prior = max(width**2 - self._noise**2, width**2 / 4, DRIFT**2)
        covariance = [[self._prior * _likeness(a, b) for b in self._places] for a in self._places]
        for number, (noise, those) in enumerate(zip(noises, runs, strict=True)):
            covariance[number][number] = self._prior * _variance(self._places[number]) + noise / len(those)
        self._root = _cholesky(covariance)
        self._whitened = _solved(self._root, missed)
        self._scatter = (PRIOR_RUNS + sum(w * w for w in self._whitened)) / (PRIOR_RUNS + len(missed))
        self._calibrations = {place.calibration for place in self._places}
        self._families = {place.family for place in self._places}
        self._quantizations = {place.quantization for place in self._places}
        self._repeats = {place.repeat for place in self._places}
        self._found: dict[_Place, Correction] = {}

    @staticmethod
    def _restless(
        runs: Sequence[Sequence[tuple[Miss, float]]], middles: Sequence[float], claimed: Sequence[float]
    ) -> float:
        """By how much the variance of repetitions differs from what steps and drift claim."""
        squares, freedom = PRIOR_RUNS, PRIOR_RUNS
        for those, middle, variance in zip(runs, middles, claimed, strict=True):
            squares += sum((miss.log_ratio - middle) ** 2 for miss, _ in those) / variance
            freedom += len(those) - 1
        return squares / freedom

    def at(self, place: _Place) -> Correction:
        if not self._places:
            return Correction(0.0, 1.0, 0.0)
        known = self._as_known(place)
        if known not in self._found:
            self._found[known] = self._correction(known)
        return self._found[known]

    def _as_known(self, place: _Place) -> _Place:
        """Without what no run has in common with it: most setups of a catalog then share one answer."""
        repeated = place.repeat in self._repeats
        return _Place(
            place.calibration if place.calibration in self._calibrations else "",
            place.family if place.family in self._families else "",
            place.quantization if place.quantization in self._quantizations else "",
            place.batched,
            place.repeat if repeated else None,
            place.tokens if repeated else 0.0,
        )

    def _correction(self, place: _Place) -> Correction:
        shared = _solved(self._root, [self._prior * _likeness(place, other) for other in self._places])
        shift = _dot(shared, self._whitened)
        before, noise = self._prior * _variance(place), self._noise**2
        left = max(before - _dot(shared, shared), 0.0)
        width = math.sqrt(self._scatter * (left + noise) / (before + noise))
        return Correction(shift, width, _Z80 * self._noise)


def _cholesky(matrix: list[list[float]]) -> list[list[float]]:
    """The lower triangle whose square it is; `matrix` has to be symmetric and positive definite."""
    root: list[list[float]] = []
    for number, row in enumerate(matrix):
        made: list[float] = []
        for column in range(number):
            above = _dot(made, root[column])
            made.append((row[column] - above) / root[column][column])
        made.append(math.sqrt(row[number] - _dot(made, made)))
        root.append(made)
    return root


def _solved(root: list[list[float]], right: Sequence[float]) -> list[float]:
    """`x` of `root x = right`, by forward substitution."""
    found: list[float] = []
    for row, value in zip(root, right, strict=True):
        found.append((value - _dot(row, found)) / row[-1])
    return found


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    """Sum of products as far as both go; this is where the time is spent."""
    found: float = sum(map(mul, one, other))
    return found
