"""Streaming clients of one server in one event loop: every piece is stamped as it is read from its socket.

HTTP is parsed by `httptools` inside the callback that reads the socket: no task has to be woken first, so the
time stamps of hundreds of streams stay true (docs/load_overhead.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import httptools

from weigh.bench.arrivals import Arrival
from weigh.engines.endpoint import MOST_ERROR_BYTES, MOST_STREAM_BYTES, Endpoint
from weigh.engines.openai_events import DONE, EventLines, parse_event, refusal
from weigh.engines.token_arrivals import TokenArrivals
from weigh.errors import Unreachable

CONNECT_S = 10.0
WATCH_S = 0.1
OK = 200


class Failure(StrEnum):
    """How a request can fail; a status that is not 200 is a kind of its own, `HTTP 503`."""

    REFUSED = "refused"  # no connection
    TIMED_OUT = "timed out"  # nothing came for too long
    BROKEN = "broken off"  # the stream ended before the answer did
    ERROR = "error in the stream"
    UNREADABLE = "unreadable"  # no HTTP, no events, no JSON
    EMPTY = "no token"
    UNFINISHED = "unfinished"  # still under way when the run had waited long enough
    CUT_OFF = "cut off"  # by the user, who ended the run: not the server's failure


@dataclass(slots=True)
class Request:
    """One request as it happened. Times are seconds since the run began.

    Attributes:
        intended_s: when it was meant to be sent; of a closed loop, when it was.
        sent_s: when it was handed over, before its connection was made; None while not.
        pieces: its tokens, with times since the run began.
        ended_s: when the answer ended or failed; None while under way.
        failure: a `Failure` or `HTTP` with a status; "" for none.
        said: the server's words with a failure.
    """

    number: int
    arrival: Arrival
    intended_s: float
    sent_s: float | None = None
    pieces: TokenArrivals = field(default_factory=TokenArrivals)
    ended_s: float | None = None
    failure: str = ""
    said: str = ""


class Streams:
    """Requests to one server, each on a connection of its own.

    An answered connection is not used again: llama.cpp's server closes it without a word, and a request sent into
    that moment fails though the server does not.
    """

    def __init__(self, endpoint: Endpoint, *, silence_s: float) -> None:
        self._endpoint = endpoint
        self.silence_s = silence_s
        self._active: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._address: tuple[Any, ...] = ()
        self._aborted = Failure.UNFINISHED
        self.began_s = self._watched_s = time.monotonic()

    async def resolve(self) -> None:
        """Look the server up once, so that no request waits for a name, and take the address that answers.

        Raises:
            Unreachable: its name is not known.
        """
        loop = asyncio.get_running_loop()
        host, port = self._endpoint.host, self._endpoint.port
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unreachable(f"{host} is not known: {error.strerror}") from None
        for *_, address in found:  # `localhost` is two, and a server may listen on one of them
            self._address = address[:2]
            with contextlib.suppress(OSError):
                (await self._connected()).drop()
                return

    async def _connected(self) -> _Connection:
        """Raises OSError, of which TimeoutError is one."""
        host, port = self._address
        tls = self._endpoint.tls
        async with asyncio.timeout(CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self),
                host,
                port,
                ssl=tls,
                server_hostname=self._endpoint.host if tls else None,
            )
        return connection

    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began_s

    def message(self, request: Request, path: str, body: Mapping[str, Any]) -> bytes:
        """The request as it goes over the wire, to be made ahead of its time."""
        data = json.dumps(body).encode()
        headers = self._endpoint.headers | {
            "Host": self._endpoint.what,
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            "X-Request-Id": str(request.number),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + data

    def send(self, request: Request, message: bytes, ended: Callable[[], None]) -> None:
        """Send now; `ended` is called once the request has its end, whichever it is."""
        request.sent_s = self.now_s()
        task = asyncio.get_running_loop().create_task(self._connect(request, message, ended))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, request: Request, message: bytes, ended: Callable[[], None]) -> None:
        try:
            connection = await self._connected()
        except OSError as error:
            late = isinstance(error, TimeoutError)
            request.failure = Failure.TIMED_OUT if late else Failure.REFUSED
            request.said = "no connection" if late else self._endpoint.said(error.strerror or str(error))
            request.ended_s = self.now_s()
            ended()
            return
        except asyncio.CancelledError:
            request.failure, request.ended_s = self._aborted, self.now_s()
            ended()
            return
        self._active.add(connection)
        connection.send(request, message, ended)

    def watch(self) -> None:
        """End the requests of which nothing has come for too long; to be called every `WATCH_S`.

        Silence is counted from call to call: while this process was stopped itself, it heard nothing either.
        """
        now_s = time.monotonic()
        passed_s, self._watched_s = min(now_s - self._watched_s, 2 * WATCH_S), now_s
        for connection in list(self._active):
            connection.silent_s += passed_s
            if connection.silent_s > self.silence_s:
                connection.fail(Failure.TIMED_OUT, f"silent for {self.silence_s:g} s")

    def abort(self, failure: Failure) -> None:
        """End all that is under way."""
        self._aborted = failure
        for task in list(self._connecting):
            task.cancel()
        for connection in list(self._active):
            connection.fail(failure)

    async def close(self) -> None:
        self.abort(Failure.UNFINISHED)
        while self._connecting:
            await asyncio.wait(self._connecting)

    # --- told by connections -----------------------------------------------------------------------

    def done(self, connection: _Connection) -> None:
        self._active.discard(connection)

    def said(self, text: str) -> str:
        return self._endpoint.said(text)


class _Connection(asyncio.Protocol):
    """One connection with one request on it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self.heard_s, self.silent_s = time.monotonic(), 0.0

    def send(self, request: Request, message: bytes, ended: Callable[[], None]) -> None:
        self._request, self._ended = request, ended
        self._parser = httptools.HttpResponseParser(self)
        self._lines, self._refused, self._bytes = EventLines(), b"", 0
        self._done = False
        self._status = 0
        self.heard_s, self.silent_s = time.monotonic(), 0.0
        if self._transport is None or self._transport.is_closing():
            self.fail(Failure.BROKEN)
            return
        self._transport.write(message)

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def fail(self, failure: str, said: str = "") -> None:
        """End the request that is under way, if one is; the connection goes with it."""
        self._end(failure, said)
        self.drop()
        self._streams.done(self)

    def _end(self, failure: str = "", said: str = "") -> None:
        request, self._request = self._request, None
        if request is not None:
            request.failure, request.said = failure, self._streams.said(said)
            request.ended_s = self._streams.now_s()
            self._ended()

    # --- called by the loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes

    def data_received(self, data: bytes) -> None:
        self.heard_s, self.silent_s = time.monotonic(), 0.0
        if self._request is None:  # nothing was asked
            self.drop()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._request is not None:
                self.fail(Failure.UNREADABLE, "no HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._request is not None:
            self.fail(Failure.BROKEN)

    # --- called by the parser ----------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        request = self._request
        if request is None:
            return
        self._bytes += len(body)
        if self._status != OK:
            self._refused += body[: MOST_ERROR_BYTES - len(self._refused)]
            return
        if self._bytes > MOST_STREAM_BYTES:
            self.fail(Failure.UNREADABLE, "it does not stop sending")
            return
        at_s = self.heard_s - self._streams.began_s
        try:
            for data in self._lines.feed(body):
                if data.strip() == DONE:
                    self._done = True
                    continue
                event = parse_event(data)
                if event.error is not None:
                    self.fail(Failure.ERROR, event.error)
                    return
                request.pieces.take(at_s, event)
        except ValueError as error:
            self.fail(Failure.UNREADABLE, str(error))

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:
            return
        if self._status != OK:
            self._end(f"HTTP {self._status}", refusal(self._refused))
        elif not request.pieces.texts:
            self._end(Failure.EMPTY)
        elif not (self._done or request.pieces.finish):
            self._end(Failure.BROKEN)
        else:
            self._end()
        self.drop()
        self._streams.done(self)
