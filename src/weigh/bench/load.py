"""Load on a server: requests sent when they are meant to arrive, whatever the server does, and what came of them.

Latency counts from the intended arrival, so that a server that stalls cannot hide it by holding back our own
requests (coordinated omission). How late this client itself was is measured beside it.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from weigh.bench.arrivals import Arrival, Lengths, Process, planned, with_lengths
from weigh.bench.lag import Lag
from weigh.bench.latency import Percentile, percentiles, share_interval
from weigh.bench.prompts import Prompts
from weigh.bench.stopping import warm_up
from weigh.bench.streams import WATCH_S, Failure, Request, Streams
from weigh.bench.token_times import itl_s, tpot_s
from weigh.engines.token_arrivals import Counted
from weigh.errors import EngineError, WeighError
from weigh.figure import Basis, Figure
from weigh.machine.disturbance import Watch

if TYPE_CHECKING:
    from weigh.bench.turns import Progress
    from weigh.engines.openai_api import OpenAiModel

LEAST_SHARE = 0.9  # of requests that meet the targets, for a rate to be sustained
LATE_S, LATE_SHARE = (
    1e-3,
    0.01,
)  # the client is late above the larger of both (share: of the latency measured)
MOST_LEVELS = 20  # of a sweep
NARROW = 1.15  # a sweep ends when the saturation point is known within this factor
_SPIN_S = 1.5e-3  # timers of event loops are good to a millisecond or so; the rest is waited for awake
_START_S = 0.05
_AHEAD = 32  # requests made before their time
_MAKE_S = 5e-3  # more than it takes to make one
_CYCLE = 10_000  # lengths that a closed loop takes before it begins again
_ENOUGH, _LONGER = (
    20,
    4.0,
)  # a slow rate of a sweep goes on for so many requests, but no more than so much longer
_SERIAL = 3  # requests, one after another, that tell a sweep where to begin


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


# --- running it ---------------------------------------------------------------------------------------


def run_load(
    served: OpenAiModel,
    asked: Asked,
    progress: Progress = lambda stage, done: None,
    *,
    check: Callable[[], None] = lambda: None,
) -> Load:
    """Send the load and wait for the answers. Ctrl-C ends it with what there is, and so does the engine's end.

    Args:
        check: raises EngineError when the engine is gone; asked again and again.

    Raises:
        WeighError: the server does not answer a first request.
    """
    load = Load(asked, served.engine, served.version, served.model, (), True, time.time())
    progress("asking the server how it takes requests", 0.0)
    prompts = Prompts(served, seed=asked.seed, shared_prefix=asked.shared_prefix)
    load.command, load.exact_prompts = served.command, prompts.exact
    watch = Watch()
    _allow_sockets()
    gc.collect()
    gc.freeze()
    gc.disable()  # a pause would be taken for the server's
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_Run(served, prompts, load, progress, check).all())
    finally:
        gc.enable()
        gc.unfreeze()
    if served.endpoint.is_local:
        # the server is no child of ours: its share of the processors is not another program's
        problems = watch.so_far().problems
        load.disturbed = tuple(one for one in problems if not one.startswith("other programs"))
    return load


class _Run:
    """All levels, one after another."""

    def __init__(
        self,
        served: OpenAiModel,
        prompts: Prompts,
        load: Load,
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        self._served, self._prompts, self._load, self._progress = served, prompts, load, progress
        self._check = check
        self._asked = load.asked
        self._stop = asyncio.Event()
        self._number = 0

    async def all(self) -> None:
        loop, main = asyncio.get_running_loop(), threading.current_thread() is threading.main_thread()
        if main:
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            await self._levels()
        finally:
            if main:
                loop.remove_signal_handler(signal.SIGINT)

    def _interrupt(self) -> None:
        self._load.ended = self._load.ended or KeyboardInterrupt()
        self._stop.set()

    async def _levels(self) -> None:
        asked = self._asked
        if asked.clients is not None:
            await self._add(clients=asked.clients)
        elif asked.trace:
            await self._add(trace=asked.trace)
        elif asked.sweep:
            await self._sweep()
        else:
            for rate in asked.rates_per_s:
                await self._add(rate)

    async def _sweep(self) -> None:
        """Begin at half of what one request after another comes to; see `_next_rate`."""
        asked = self._asked
        serial = await self._level(None, 1, self._planned(0), asked.seconds, most=_SERIAL)
        took = [one.ended_s - one.sent_s for one in serial.requests if one.ended_s and one.sent_s is not None]
        if not took or all(one.failure for one in serial.requests):
            self._load.levels.append(serial)
            return
        rate: float | None = 0.5 / statistics.median(took)
        while rate is not None and len(self._load.levels) < MOST_LEVELS and not self._stop.is_set():
            await self._add(rate, seconds=max(asked.seconds, min(_LONGER * asked.seconds, _ENOUGH / rate)))
            rate = _next_rate(self._load.levels)

    async def _add(
        self,
        rate: float | None = None,
        *,
        clients: int | None = None,
        trace: tuple[Arrival, ...] = (),
        seconds: float | None = None,
    ) -> None:
        if self._stop.is_set():
            return
        took_s = seconds or self._asked.seconds
        arrivals = trace or self._planned(rate or 0.0, took_s)
        self._load.levels.append(await self._level(rate, clients, arrivals, took_s))

    def _planned(self, rate: float, seconds: float = 0.0) -> tuple[Arrival, ...]:
        """Of a closed loop (rate 0) only the lengths."""
        asked = self._asked
        if not rate:
            return with_lengths([0.0] * _CYCLE, asked.prompt, asked.output, seed=asked.seed)
        return planned(
            asked.process,
            rate,
            seconds,
            asked.prompt,
            asked.output,
            seed=asked.seed,
            burst=asked.burst,
        )

    async def _level(
        self,
        rate: float | None,
        clients: int | None,
        arrivals: Sequence[Arrival],
        seconds: float,
        *,
        most: int | None = None,
    ) -> Level:
        asked = self._asked
        streams = Streams(self._served.endpoint, silence_s=asked.silence_s)
        await streams.resolve()
        lag = Lag()
        lag.start()
        cpu_s, wall_s = time.process_time(), time.monotonic()
        sender = _Sender(streams, self._served, self._prompts, self._number, self._stop)
        try:
            end_s = arrivals[-1].at_s if asked.trace else seconds
            watcher = asyncio.create_task(self._watch(streams, sender, end_s, rate, clients))
            try:
                if clients is None:
                    await sender.open_loop(arrivals)
                    await sender.wait_until(end_s)
                else:
                    await sender.closed_loop(arrivals, clients, seconds, most)
                arrived_s = min(streams.now_s(), end_s) if clients is None else streams.now_s()
                await sender.drain(asked.drain_s)
            finally:
                watcher.cancel()
            by_user = isinstance(self._load.ended, KeyboardInterrupt)
            streams.abort(Failure.CUT_OFF if by_user else Failure.UNFINISHED)
            await streams.close()
        finally:
            lag.stop()
        self._number += len(sender.requests)
        return level(
            sender.requests,
            end_s=arrived_s,
            targets=asked.targets,
            rate_per_s=rate,
            clients=clients,
            trace=asked.trace_name,
            began_s=streams.began_s,
            lags_s=lag.samples_s,
            client_cores=(time.process_time() - cpu_s) / (time.monotonic() - wall_s),
        )

    async def _watch(
        self, streams: Streams, sender: _Sender, end_s: float, rate: float | None, clients: int | None
    ) -> None:
        name = f"{rate:.3g} requests/s" if rate else f"{clients} clients" if clients else "the trace"
        while True:
            await asyncio.sleep(WATCH_S)
            streams.watch()
            try:
                self._check()
            except EngineError as error:
                self._load.ended = self._load.ended or error
                self._stop.set()
            answered = len(sender.requests) - sender.under_way
            text = f"{name}: {answered} answered, {sender.under_way} under way"
            self._progress(text, min(1.0, streams.now_s() / max(end_s, WATCH_S)))


class _Sender:
    """Sends the requests of one level at their times."""

    def __init__(
        self, streams: Streams, served: OpenAiModel, prompts: Prompts, first: int, stop: asyncio.Event
    ) -> None:
        self._streams, self._served, self._prompts, self._first = streams, served, prompts, first
        self._stop = stop
        self._idle = asyncio.Event()
        self.requests: list[Request] = []
        self.under_way = 0

    async def open_loop(self, arrivals: Sequence[Arrival]) -> None:
        """Requests are made ahead while there is time, not when they have to go."""
        upcoming = (self._made(number, arrival) for number, arrival in enumerate(arrivals))
        made = deque(islice(upcoming, _AHEAD))
        self._streams.began_s = time.monotonic() + _START_S
        while made:
            request, message = made.popleft()
            while len(made) < _AHEAD and request.arrival.at_s - self._streams.now_s() > _MAKE_S:
                following = next(upcoming, None)
                if following is None:
                    break
                made.append(following)
                await asyncio.sleep(0)
            if not made:
                made.extend(islice(upcoming, 1))
            if not await self.wait_until(request.arrival.at_s):
                return
            request.intended_s = request.arrival.at_s
            self._send(request, message, self._ended)

    async def closed_loop(
        self, arrivals: Sequence[Arrival], clients: int, seconds: float, most: int | None
    ) -> None:
        """Each client takes the next lengths when it is free; `arrivals` are taken again when they are over."""
        self._streams.began_s = time.monotonic()
        over = asyncio.Event()

        def lengths() -> Iterator[Arrival]:
            while True:
                yield from arrivals

        upcoming = lengths()

        def begin() -> None:
            enough = most is not None and len(self.requests) >= most
            if enough or self._streams.now_s() >= seconds or self._stop.is_set():
                over.set()
                return
            request, message = self._made(len(self.requests), next(upcoming))
            request.intended_s = self._streams.now_s()
            self._send(request, message, lambda: ended(request))

        def ended(request: Request) -> None:
            self._ended()
            # not at once: a server that refuses would be asked over and over in one go
            asyncio.get_running_loop().call_later(_START_S if request.failure else 0, begin)

        for _ in range(clients):
            begin()
        waits = [asyncio.create_task(over.wait()), asyncio.create_task(self._stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def wait_until(self, at_s: float) -> bool:
        """Whether to go on: False when the run is to stop."""
        while not self._stop.is_set():
            left_s = at_s - self._streams.now_s()
            if left_s <= 0:
                return True
            if left_s <= _SPIN_S:
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout(left_s - _SPIN_S):
                    await self._stop.wait()
            except TimeoutError:
                continue
        return False

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way."""
        if self.under_way and not self._stop.is_set():
            self._idle.clear()
            waits = [asyncio.create_task(self._idle.wait()), asyncio.create_task(self._stop.wait())]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()

    def _made(self, number: int, arrival: Arrival) -> tuple[Request, bytes]:
        request = Request(self._first + number, arrival, 0.0)
        prompt = self._prompts.prompt(request.number, arrival.prompt_tokens)
        path, body = self._served.request(
            prompt, arrival.output_tokens, reuse_cache=bool(self._prompts.shared_prefix)
        )
        return request, self._streams.message(request, path, body)

    def _send(self, request: Request, message: bytes, ended: Callable[[], None]) -> None:
        self.requests.append(request)
        self.under_way += 1
        self._streams.send(request, message, ended)

    def _ended(self) -> None:
        self.under_way -= 1
        if not self.under_way:
            self._idle.set()


# --- what came of it ----------------------------------------------------------------------------------


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
    usage, own = request.pieces.usage, request.pieces.timings
    if usage is not None:
        return usage.prompt_tokens
    return own.prompt_tokens + own.cached_tokens if own is not None else request.arrival.prompt_tokens


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


def _next_rate(levels: Sequence[Level]) -> float | None:
    """The rate that a sweep tries next: doubled until one is not sustained, then between; None when that is enough.

    An unclear one counts as sustained here, so that the search goes on above it.
    """
    rates = [(one.rate_per_s, one.sustained) for one in levels if one.rate_per_s is not None]
    high = min((rate for rate, held in rates if held is False), default=math.inf)
    low = max((rate for rate, held in rates if held is not False and rate < high), default=0.0)
    if math.isinf(high):
        return 2 * low
    if not low:
        return high / 2
    return math.sqrt(low * high) if high > NARROW * low else None


def _saturation(levels: Sequence[Level]) -> Saturation:
    """Between the highest rate below which none failed to be sustained, and the lowest that was not."""
    rates = [(one.rate_per_s, one.sustained) for one in levels if one.rate_per_s is not None]
    high = min((rate for rate, held in rates if held is False), default=math.inf)
    low = max((rate for rate, held in rates if held and rate < high), default=0.0)
    return Saturation(low, high)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it takes half the time for each piece."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _allow_sockets() -> None:
    """As many open files as this process may have: each stream is one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
