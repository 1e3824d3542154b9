"""Send a load: requests go out when they are meant to arrive, whatever the server does."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from weigh.bench.arrivals import Arrival, planned, with_lengths
from weigh.bench.bill import bill
from weigh.bench.lag import Lag
from weigh.bench.load import Asked, Level, Load, level
from weigh.bench.prompts import Prompts
from weigh.bench.streams import WATCH_S, Failure, Request, Streams
from weigh.errors import EngineError
from weigh.machine.disturbance import Watch
from weigh.machine.processes import descendants

if TYPE_CHECKING:
    from weigh.bench.turns import Progress
    from weigh.engines.openai_api import OpenAiModel

MOST_LEVELS = 20  # of a sweep
NARROW = 1.15  # a sweep ends when the saturation point is known within this factor
_SPIN_S = 1.5e-3  # timers of event loops are good to a millisecond or so; the rest is waited for awake
_START_S = 0.05
_AHEAD = 32  # requests made before their time
_MAKE_S = 5e-3  # more than it takes to make one
_CYCLE = 10_000  # lengths that a closed loop takes before it begins again
# a slow rate of a sweep goes on for so many requests, but no more than so much longer
_ENOUGH, _LONGER = 20, 4.0
_SERIAL = 3  # requests, one after another, that tell a sweep where to begin


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
        WeighError: the server does not answer a first request, or the user's list of prices is none.
    """
    bill(served)  # a list of prices that is none is told before anything is sent
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
        found = watch.so_far()
        if served.pid not in descendants(
            os.getpid()
        ):  # then its work is not told from that of other programs
            found = replace(found, others=None)
        load.disturbed = found.problems
    billed = bill(served)
    load.notes = (billed.words,) if billed else ()
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
        for request in sender.requests:
            self._served.spend(request.pieces, request.arrival.prompt_tokens)
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
