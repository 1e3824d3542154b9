"""A load on a server: what is asked for, and what came of it, from its requests as they happened.

Latency counts from the intended arrival, so that a server that stalls cannot hide it by holding back our own
requests (coordinated omission). How late this client itself was is measured beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from weigh.bench.arrivals import Arrival, Lengths, Process
from weigh.bench.latency import Percentile, percentiles, share_interval
from weigh.bench.stopping import warm_up
from weigh.bench.streams import Failure, Request
from weigh.bench.token_times import itl_s, tpot_s
from weigh.engines.token_arrivals import Counted
from weigh.errors import WeighError
from weigh.figure import Basis, Figure

LEAST_SHARE = 0.9  # of requests that meet the targets, for a rate to be sustained
# the client is late above the larger of both (share: of the latency measured)
LATE_S, LATE_SHARE = 1e-3, 0.01


@dataclass(frozen=True, slots=True)
class Targets:
    """What a request has to meet to count as good; None for no limit.

    Attributes:
        ttft_s: from the intended arrival to the first token.
        itl_s: mean gap between its tokens (TPOT).
    """

    ttft_s: float | None = None
    itl_s: float | None = None

    def met_by(self, request: Request) -> bool:
        times_s = request.pieces.token_times_s
        if request.failure or not times_s:
            return False
        gap_s = tpot_s(times_s)
        quick = self.ttft_s is None or times_s[0] - request.intended_s <= self.ttft_s
        return quick and (self.itl_s is None or gap_s is None or gap_s <= self.itl_s)

    def __bool__(self) -> bool:
        return self.ttft_s is not None or self.itl_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The load to be made. One of `rates_per_s`, `sweep`, `clients` and `trace` says how much.

    Attributes:
        clients: each sends its next request when the last is answered (a closed loop).
        trace: arrivals with lengths of their own; its name is for the record.
        seconds: of each rate.
        shared_prefix: tokens that all prompts begin with.
        silence_s: nothing of an answer for so long is a failure.
        drain_s: waited for answers after the last arrival.
    """

    process: Process = Process.POISSON
    rates_per_s: tuple[float, ...] = ()
    sweep: bool = False
    clients: int | None = None
    trace: tuple[Arrival, ...] = ()
    trace_name: str = ""
    seconds: float = 60.0
    prompt: Lengths = Lengths(512, 512)  # noqa: RUF009 - frozen
    output: Lengths = Lengths(128, 128)  # noqa: RUF009 - frozen
    shared_prefix: int = 0
    burst: int = 8
    seed: int = 0
    targets: Targets = Targets()
    silence_s: float = 60.0
    drain_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One rate, trace or number of clients, and what came of it.

    Rates are over the window: from the arrival of the first request after the warm-up to the end of arrivals.
    Requests of the warm-up count nowhere; they are kept.

    Attributes:
        rate_per_s: asked for; None of a trace or a closed loop.
        clients: of a closed loop; None of an open one.
        began_s: monotonic time of the run's beginning, from which all times of requests count.
        window_s: its beginning and end, seconds since the run began.
        warm_up: requests before it.
        counted: requests that arrived in it.
        failures: how many of those failed, by kind.
        cut_off: of those under way when the user ended the run; in no figure.
        arrived_per_s, completed_per_s: requests. goodput_per_s: those that met all targets.
        latencies: `ttft_from_arrival_s`, `ttft_s`, `itl_s`, `piece_gap_s`, `tpot_s`, `e2e_s`; failed requests
            count as infinitely late in those that they did not come to.
        client_delay_s: p50 and p99 of sent after intended; client_lag_s: of reading after arrival at the socket.
        client_cores: processor seconds of this process over seconds.
        late: how this client could not keep up; "" when it could.
    """

    rate_per_s: float | None
    clients: int | None
    trace: str
    requests: tuple[Request, ...]
    began_s: float
    window_s: tuple[float, float]
    warm_up: int
    counted: int
    failures: dict[str, int]
    cut_off: int
    arrived_per_s: float
    completed_per_s: float
    goodput_per_s: Figure
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    latencies: dict[str, tuple[Percentile, ...]]
    client_delay_s: tuple[float, float]
    client_lag_s: tuple[float, float]
    client_cores: float
    late: str
    sustained: bool | None

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def in_window(self) -> tuple[Request, ...]:
        """Requests that count."""
        return tuple(
            one
            for one in self.requests[self.warm_up :]
            if one.failure != Failure.CUT_OFF and one.ended_s is not None
        )

    @property
    def name(self) -> str:
        if self.clients is not None:
            return f"{self.clients} client{'s' if self.clients > 1 else ''}, closed loop"
        return f"{self.rate_per_s:.3g}/s" if self.rate_per_s is not None else self.trace


@dataclass(frozen=True, slots=True)
class Saturation:
    """The highest rate that is sustained lies between `low_per_s` and `high_per_s`.

    0 where the lowest rate tried was not sustained; infinite where the highest was.
    """

    low_per_s: float
    high_per_s: float

    @property
    def known(self) -> bool:
        return self.low_per_s > 0 and math.isfinite(self.high_per_s)

    @property
    def figure(self) -> Figure | None:
        """Its middle, on a scale of factors; None when a bound is missing."""
        if not self.known:
            return None
        middle = math.sqrt(self.low_per_s * self.high_per_s)
        return Figure(middle, self.low_per_s, self.high_per_s, "requests/s", Basis.MEASURED)


@dataclass
class Load:
    """A whole run.

    Attributes:
        exact_prompts: whether prompts had the lengths asked for; of text they are only near.
        ended: what ended it early, Ctrl-C or the end of the engine; None when all was done.
        disturbed: what else the machine did meanwhile.
        notes: what else there is to know, as what it cost.
    """

    asked: Asked
    engine: str
    engine_version: str
    model: str
    command: tuple[str, ...]
    exact_prompts: bool
    when_unix_s: float
    levels: list[Level] = field(default_factory=list)
    ended: BaseException | None = None
    disturbed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def saturation(self) -> Saturation | None:
        """None of traces, closed loops, and where nothing was tried."""
        rates = [one for one in self.levels if one.rate_per_s is not None]
        return _saturation(rates) if rates else None

    @property
    def best_goodput(self) -> Level | None:
        return max(self.levels, key=lambda one: one.goodput_per_s.value, default=None)

    @property
    def answered(self) -> int:
        """Requests, of the warm-up too."""
        return sum(not one.failure for level in self.levels for one in level.requests)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it is not to be trusted, in plain words."""
        found = [*self.disturbed]
        found += [f"at {one.name} {one.late}" for one in self.levels if one.late]
        ways = {one.pieces.counted for level in self.levels for one in level.requests if not one.failure}
        if Counted.PIECES in ways:
            found.append("the server does not say how many tokens it wrote: each piece was taken as one")
        if isinstance(self.ended, WeighError):
            found.append(f"ended early: {self.ended.message}")
        elif self.ended is not None:
            found.append("interrupted")
        return tuple(found)


def level(
    requests: Sequence[Request],
    *,
    end_s: float,
    targets: Targets,
    rate_per_s: float | None = None,
    clients: int | None = None,
    trace: str = "",
    began_s: float = 0.0,
    lags_s: Sequence[float] = (),
    client_cores: float = 0.0,
) -> Level:
    """Figures of one level from its requests as they happened, in order of arrival.

    Args:
        end_s: of arrivals; what comes later is waited for, and counts in no rate.
    """
    cut = _warm_up(requests)
    kept = [one for one in requests[cut:] if one.failure != Failure.CUT_OFF]
    begin_s = kept[0].intended_s if cut and kept else 0.0
    window_s = max(end_s - begin_s, 1e-9)
    failures = Counter(one.failure for one in kept if one.failure)
    met = sum(targets.met_by(one) for one in kept)
    low, high = share_interval(met, len(kept))
    arrived_per_s = len(kept) / window_s
    completed = [
        one for one in requests if not one.failure and one.ended_s and begin_s <= one.ended_s <= end_s
    ]
    latencies = _latencies(kept)
    delays = [one.sent_s - one.intended_s for one in kept if one.sent_s is not None]
    delay_s, lag_s = _p50_p99(delays), _p50_p99(lags_s)
    return Level(
        rate_per_s=rate_per_s,
        clients=clients,
        trace=trace,
        requests=tuple(requests),
        began_s=began_s,
        window_s=(begin_s, end_s),
        warm_up=cut,
        counted=len(kept),
        failures=dict(failures),
        cut_off=sum(one.failure == Failure.CUT_OFF for one in requests[cut:]),
        arrived_per_s=arrived_per_s,
        completed_per_s=len(completed) / window_s,
        goodput_per_s=Figure(
            met / window_s, low * arrived_per_s, high * arrived_per_s, "requests/s", Basis.MEASURED
        ),
        output_tokens_per_s=sum(
            begin_s <= at_s <= end_s for one in requests for at_s in one.pieces.token_times_s
        )
        / window_s,
        prompt_tokens_per_s=sum(prompt_tokens(one) for one in completed) / window_s,
        latencies=latencies,
        client_delay_s=delay_s,
        client_lag_s=lag_s,
        client_cores=client_cores,
        late=_late(delay_s, lag_s, latencies),
        sustained=_sustained(kept, (begin_s, end_s), (low, high)) if clients is None else None,
    )


def prompt_tokens(request: Request) -> int:
    """As the server counts them, else as asked for."""
    return sum(request.pieces.prompt_tokens(request.arrival.prompt_tokens))


def values_of(request: Request) -> dict[str, tuple[float, ...]]:
    """The latencies of one request, () for those it has not: see docs/load.md for each."""
    times_s = request.pieces.token_times_s
    sent_s = request.intended_s if request.sent_s is None else request.sent_s
    gap_s = tpot_s(times_s)
    pieces = request.pieces.piece_times_s
    answered = not request.failure
    return {
        "ttft_from_arrival_s": (times_s[0] - request.intended_s,) if times_s else (),
        "ttft_s": (times_s[0] - sent_s,) if times_s else (),
        "itl_s": () if request.failure and request.pieces.counted is Counted.PIECES else itl_s(times_s),
        "piece_gap_s": tuple(b - a for a, b in pairwise(pieces)),
        "tpot_s": (gap_s,) if gap_s is not None and answered else (),
        "e2e_s": (times_s[-1] - request.intended_s,) if times_s and answered else (),
    }


def _latencies(kept: Sequence[Request]) -> dict[str, tuple[Percentile, ...]]:
    """A request that failed counts as infinitely late in what it did not come to; its gaps count as they are."""
    every = [values_of(one) for one in kept]
    found = {}
    for name in every[0] if every else ():
        gaps = name in ("itl_s", "piece_gap_s")
        series = [
            (math.inf,) if not values[name] and one.failure and not gaps else values[name]
            for one, values in zip(kept, every, strict=True)
        ]
        found[name] = percentiles(series)
    return found


def _warm_up(requests: Sequence[Request]) -> int:
    """Requests at the start that a colder server answered more slowly; found in the times to the first token.

    From sending: that this client was late at the start is no warm-up of the server's.
    """
    first = [
        (number, one.pieces.piece_times_s[0] - one.sent_s)
        for number, one in enumerate(requests)
        if one.pieces.piece_times_s and one.sent_s is not None
    ]
    cut = warm_up([value for _, value in first])
    return first[cut][0] if cut else 0


def _late(
    delay_s: tuple[float, float], lag_s: tuple[float, float], latencies: dict[str, tuple[Percentile, ...]]
) -> str:
    """How this client could not keep up: it sent or read later than it may, against what it measured."""

    def middle(name: str) -> float:
        found = latencies.get(name)
        return found[0].value if found and math.isfinite(found[0].value) else 0.0

    said = []
    if delay_s[1] > max(LATE_S, LATE_SHARE * middle("ttft_s")):
        said.append(f"this client sent {1000 * delay_s[1]:.3g} ms late (p99)")
    if lag_s[1] > max(LATE_S, LATE_SHARE * middle("itl_s")):
        said.append(f"this client read {1000 * lag_s[1]:.3g} ms late (p99)")
    return " and ".join(said)


def _p50_p99(samples_s: Sequence[float]) -> tuple[float, float]:
    found = percentiles([(max(0.0, one),) for one in samples_s], (0.5, 0.99))
    return (found[0].value, found[1].value) if found else (0.0, 0.0)


def _sustained(
    kept: Sequence[Request], window_s: tuple[float, float], share: tuple[float, float]
) -> bool | None:
    """Whether the server keeps up: enough requests meet the targets, and no queue grows; None when unclear.

    A queue grows when more of the second half's arrivals are still unanswered than their randomness explains.
    """
    if not kept:
        return None
    middle_s = sum(window_s) / 2

    def under_way(at_s: float) -> int:
        return sum(
            one.intended_s <= at_s < (math.inf if one.ended_s is None else one.ended_s) for one in kept
        )

    arrived = sum(middle_s < one.intended_s <= window_s[1] for one in kept)
    growth = under_way(window_s[1]) - under_way(middle_s)
    if growth > max(0.05 * arrived, 2 * math.sqrt(arrived)) or share[1] < LEAST_SHARE:
        return False
    return True if share[0] >= LEAST_SHARE else None


def _saturation(levels: Sequence[Level]) -> Saturation:
    """Between the highest rate below which none failed to be sustained, and the lowest that was not."""
    rates = [(one.rate_per_s, one.sustained) for one in levels if one.rate_per_s is not None]
    high = min((rate for rate, held in rates if held is False), default=math.inf)
    low = max((rate for rate, held in rates if held and rate < high), default=0.0)
    return Saturation(low, high)
