"""Measurements side by side: what was measured under equal conditions, how far apart it is, and which are best.

Two medians are told apart where the 80 % interval of their ratio leaves 1 out. The interval joins those of both
medians by the method of variance estimates recovery on the logarithms (Zou & Donner 2008, Statistics in
Medicine 27; Donner & Zou 2012, Statistical Methods in Medical Research 21). Rates and times also drift between
two measurements by more than steady samples of either show: `DRIFT` of `weigh.estimate.learned` is added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from weigh.advise.paired_results import Gap, gap
from weigh.advise.same_material import SharedQuality, shared_quality
from weigh.errors import BadInput, UnknownName
from weigh.figure import Basis, Figure
from weigh.median import interval_confidence
from weigh.store.fields import Scalar
from weigh.store.measurement import Measured, Measurement, beginning_with, measurements
from weigh.store.quality_result import QualityResult, Way, quality_results
from weigh.store.quality_result import beginning_with as judged
from weigh.store.store import Store

MOST_COMPARED = 20
MOST_RESULTS = 20  # of quality, newest of each model
LEAST_CONFIDENCE = 0.7  # of a median's interval, below which it says nothing: one sample or two
_Z80 = 1.2815515655446004  # half-width of an 80 % interval of a normal distribution, in standard deviations
_ID = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of a median to the first measurement's, with its 80 % interval; None where samples are too few for one."""

    value: float
    low: float | None
    high: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the two differ by more than noise explains; None where nobody knows."""
        return None if self.low is None or self.high is None else not self.low <= 1 <= self.high


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity under one condition: its figures in the measurements' order, and their ratios to the first.

    Attributes:
        figures: None where it was not measured.
        ratios: None for the first, and where either is not known.
    """

    name: str
    unit: str
    conditions: tuple[tuple[str, Scalar], ...]
    figures: tuple[Figure | None, ...]
    ratios: tuple[Ratio | None, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement by decode speed and memory.

    Attributes:
        quality: what was measured, where all were measured on the same (`Comparison.measured_quality`); else the
            index of the catalog's model after its quantization's loss, in points, where a score was published.
        headline: the published score to show, as `HumanEval+ 84.1`; "" without one.
        on_front: no other is as good in everything and better in something.
    """

    measurement: Measurement
    decode_tokens_per_s: Figure
    memory_bytes: Figure
    quality: Figure | None
    headline: str
    on_front: bool


@dataclass(frozen=True, slots=True)
class QualityGap:
    """How the quality of a measurement's model differs from that of the first one's, on the same pieces.

    Attributes:
        place: of the measurement.
        result: what was measured of its model, newest of those that have something in common with the first's.
    """

    place: int
    result: QualityResult
    gap: Gap


@dataclass(frozen=True, slots=True)
class Comparison:
    """Attributes:
    rows: what at least two of them measured under equal conditions.
    alone: of each, the number of quantities that no other measured so.
    differences: settings, machines and engines that are not equal, by name, in the measurements' order.
    points: those with a decode speed and a memory.
    by_quality: whether the front counts quality, which needs all of them measured on the same, or a published score
        of all of them.
    measured_quality: what `weigh quality` measured of all points; None where they have nothing in common.
    gaps: of each measurement but the first, in each way that both models were measured.
    """

    measurements: tuple[Measurement, ...]
    rows: tuple[Row, ...]
    alone: tuple[int, ...]
    differences: dict[str, tuple[str, ...]]
    points: tuple[Point, ...]
    by_quality: bool
    measured_quality: SharedQuality | None
    gaps: tuple[QualityGap, ...]

    @property
    def quality_said(self) -> str:
        """What the quality of the points is: `measured: share of tasks passed weigh`, or `published`."""
        return f"measured: {self.measured_quality.said}" if self.measured_quality else "published"


def picked(store: Store, asked: str) -> Measurement:
    """The measurement whose id begins so, anyone's; else one's own newest of that model.

    Raises:
        UnknownName: there is none.
        BadInput: several ids begin so, several models are called that, or its quality alone was measured.
    """
    found = beginning_with(store, asked) if _ID.fullmatch(asked) else []
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} measurements have ids that begin with `{asked}`", hint="give more of it"
        )
    if found:
        return found[0]
    own = measurements(store, asked, raw=False)
    exact = [one for one in own if asked.casefold() in (one.model.casefold(), one.name.casefold())]
    named = exact or own
    if not named:
        if quality_results(store, asked, limit=1) or (_ID.fullmatch(asked) and judged(store, asked)):
            raise BadInput(
                f"of `{asked}` there is measured quality, and no benchmark to put beside others",
                hint="`weigh bench` makes one; `weigh quality A B` compares quality alone",
            )
        raise UnknownName("measurement", asked, hint="history lists their ids")
    models = dict.fromkeys(one.model for one in named)
    if len(models) > 1:
        raise BadInput(f"`{asked}` is part of several models' names", hint=f"one of {', '.join(models)}")
    return beginning_with(store, named[0].id)[0]


def compare(found: Sequence[Measurement], results: Sequence[QualityResult] = ()) -> Comparison:
    """The first is what the others are held against; `results` of measured quality, newest first."""
    by_key = [{_key(measured): measured for measured in one.measured} for one in found]
    keys = list(dict.fromkeys(key for measured in by_key for key in measured))
    shared = [key for key in keys if sum(key in measured for measured in by_key) > 1]
    points = _points(found)
    named = [(point.measurement.model, point.measurement.quantization) for point in points]
    measured = shared_quality(named, results) if len(points) > 1 else None
    if measured is not None:
        points = [
            replace(point, quality=figure) for point, figure in zip(points, measured.figures, strict=True)
        ]
    by_quality = len(points) > 1 and all(point.quality is not None for point in points)
    less_is_better = measured is not None and measured.less_is_better
    return Comparison(
        measurements=tuple(found),
        rows=tuple(_row([measured.get(key) for measured in by_key]) for key in shared),
        alone=tuple(sum(key not in shared for key in measured) for measured in by_key),
        differences=_differences(found),
        points=tuple(
            replace(
                point,
                on_front=not any(
                    _dominates(other, point, by_quality, less_is_better=less_is_better) for other in points
                ),
            )
            for point in points
        ),
        by_quality=by_quality,
        measured_quality=measured,
        gaps=tuple(_gaps(found, results)),
    )


def ratio(first: Measured, other: Measured) -> Ratio | None:
    """Of `other` to `first`; None where a median is nought."""
    a, b = first.figure, other.figure
    if not a.value or not b.value:
        return None
    value = b.value / a.value
    sure = min(interval_confidence(len(one.samples)) for one in (first, other)) >= LEAST_CONFIDENCE
    if not sure or not a.low or not b.low:
        return Ratio(value, None, None)
    drift = 0.0 if first.unit == "bytes" else _drift()
    down = math.hypot(math.log(b.value / b.low), math.log(a.high / a.value), drift)
    up = math.hypot(math.log(b.high / b.value), math.log(a.value / a.low), drift)
    return Ratio(value, value * math.exp(-down), value * math.exp(up))


def _gaps(found: Sequence[Measurement], results: Sequence[QualityResult]) -> Iterator[QualityGap]:
    def of(one: Measurement) -> list[QualityResult]:
        named = (one.model, one.quantization)
        return [r for r in results if (r.model.name, r.model.quantization) == named][:MOST_RESULTS]

    if not results or not found:
        return
    first = of(found[0])
    for place, one in enumerate(found[1:], start=1):
        pairs = [(mine, theirs) for theirs in of(one) for mine in first]
        ways: set[Way] = set()
        for mine, theirs in pairs:
            if theirs.way in ways or mine is theirs or (seen := gap(mine, theirs)) is None:
                continue
            ways.add(theirs.way)
            yield QualityGap(place, theirs, seen)


def _drift() -> float:
    """80 % half-width of the logarithm of a ratio of two measurements."""
    from weigh.estimate.learned import DRIFT

    return _Z80 * math.sqrt(2) * DRIFT


def _key(measured: Measured) -> tuple[str, str, tuple[tuple[str, Scalar], ...]]:
    return measured.name, measured.unit, tuple(sorted(measured.conditions.items()))


def _row(found: Sequence[Measured | None]) -> Row:
    first = found[0]
    known = next(one for one in found if one)
    return Row(
        known.name,
        known.unit,
        tuple(known.conditions.items()),
        tuple(one.figure if one else None for one in found),
        (None, *(ratio(first, one) if first and one else None for one in found[1:])),
    )


def _differences(found: Sequence[Measurement]) -> dict[str, tuple[str, ...]]:
    told: dict[str, tuple[str, ...]] = {
        "machine": tuple(_machine(one) for one in found),
        "engine": tuple(f"{one.engine} {one.engine_version}".strip() or "unknown" for one in found),
        "measured by": tuple(one.origin.who if one.origin else "you" for one in found),
    }
    for name in dict.fromkeys(name for one in found for name in one.settings):
        told[name] = tuple(_said(one.settings.get(name)) for one in found)
    return {name: values for name, values in told.items() if len(set(values)) > 1}


def _machine(one: Measurement) -> str:
    told = one.cpu + "".join(f" + {gpu}" for gpu in one.gpus) or "unknown"
    return f"{told} ({one.fingerprint[:6]})" if one.fingerprint else told


def _said(value: Scalar) -> str:
    return "" if value is None else str(value)


# --- the front ---------------------------------------------------------------------------------------


def _points(found: Sequence[Measurement]) -> list[Point]:
    points = []
    for one in found:
        decode, memory = _decode(one), _alone(one, "peak_memory_bytes")
        if decode and memory:
            quality, headline = _quality(one)
            points.append(Point(one, decode.figure, memory.figure, quality, headline, on_front=False))
    return points


def _decode(one: Measurement) -> Measured | None:
    """Of one sequence in the emptiest context, by the engine's own clock where it has one."""
    every = [
        m for m in one.measured if m.name == "decode_tokens_per_s" and m.conditions.get("parallel", 1) == 1
    ]
    return min(every, key=_emptiness, default=None)


def _emptiness(measured: Measured) -> tuple[float, bool]:
    depth = measured.conditions.get("depth_tokens", 0)
    return (
        depth if isinstance(depth, int | float) else math.inf,
        measured.conditions.get("clock") != "engine",
    )


def _alone(one: Measurement, name: str) -> Measured | None:
    every = [measured for measured in one.measured if measured.name == name]
    return next((m for m in every if m.conditions.get("parallel", 1) == 1), every[0] if every else None)


def _quality(one: Measurement) -> tuple[Figure | None, str]:
    from weigh.estimate.quality import quality
    from weigh.model.catalog import entry_called

    entry = entry_called(one.model)
    if entry is None or not entry.stated_total or not one.quantization:
        return None, ""
    try:
        judged = quality(entry.id, entry.stated_total, one.quantization, {"code": 0.5, "general": 0.5})
    except UnknownName:  # a quantization whose loss nobody measured
        return None, ""
    if judged.basis is not Basis.PUBLISHED:
        return None, ""
    return judged.score, judged.headline


def _dominates(one: Point, other: Point, by_quality: bool, *, less_is_better: bool) -> bool:
    mine, theirs = (_goodness(point, by_quality, less_is_better) for point in (one, other))
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def _goodness(point: Point, by_quality: bool, less_is_better: bool) -> tuple[float, ...]:
    known = (point.decode_tokens_per_s.value, -point.memory_bytes.value)
    if not by_quality or point.quality is None:
        return known
    return (*known, -point.quality.value if less_is_better else point.quality.value)
