"""HTTP with a server by its URL, which is trusted in nothing: the way to servers that others started.

A key goes to that server alone: no redirect is followed, and it is never sent in the clear but to this machine,
or where the user names the key for it. It is in no message. Answers end in size and in time, however slowly their
bytes drip; nothing is unpacked; TLS is verified.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from weigh import units
from weigh.engines.closing import ClosedAfterUse
from weigh.engines.openai_events import refusal
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, Unreachable

KEY_VARIABLE = "OPENAI_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST_ANSWER_BYTES = 16 << 20
MOST_STREAM_BYTES = 256 << 20
MOST_ERROR_BYTES = 64 << 10
PIECE_BYTES = 64 << 10
WAITS = 3  # times that a server's wish to wait is honoured
LONGEST_WAIT_S = 60.0
_BUSY = (429, 503)
_MISTAKEN = (400, 401, 403, 404, 405, 413, 422, 501)


class Refused(BadInput):
    """The server answered, and said no."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True, slots=True)
class Key:
    """A secret from the environment; `variable` may be shown, `value` never."""

    value: str = field(repr=False)
    variable: str


def key_for(url: str, variable: str | None = None) -> Key | None:
    """The key for a server: from `variable`, which must hold one, else from `OPENAI_API_KEY` where it may go.

    Raises:
        BadInput: the variable is empty, or what it holds cannot be a key.
    """
    name = variable or KEY_VARIABLE
    value = os.environ.get(name, "").strip()
    if variable is not None and not value:
        raise BadInput(f"the environment has no `{variable}` with a key")
    if not value or (variable is None and not _is_private(url)):
        return None
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", value):
        raise BadInput(f"what `{name}` holds is not one word of plain letters, so it is no key")
    return Key(value, name)


def checked_url(text: str) -> str:
    """The address of a server, without a slash at its end.

    Raises:
        BadInput: it is none, or holds a password or a query, which would be kept with what is measured.
    """
    parts = split_url(text)
    plain = re.fullmatch(r"[\x21-\x7e]+", text.strip())
    if not parts.hostname or parts.scheme not in ("http", "https") or not plain:
        raise _no_address()
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadInput(
            f"the address of {parts.hostname} holds more than host, port and path",
            hint="keys come from the environment alone",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def split_url(text: str) -> SplitResult:
    """The parts of an address.

    Raises:
        BadInput: it has none, as with half a bracket or a port that cannot be.
    """
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError:
        raise _no_address() from None
    return parts


def _no_address() -> BadInput:
    return BadInput("that is no address of a server", hint="write it as http://HOST:PORT or https://HOST/v1")


def _is_private(url: str) -> bool:
    parts = split_url(url)
    return parts.scheme == "https" or parts.hostname in LOOPBACK


class Endpoint:
    """A server at one address. Requests may be sent from several threads at once, each on its own connection."""

    def __init__(
        self,
        url: str,
        *,
        key: Key | None = None,
        connect_s: float = 10.0,
        silence_s: float = 300.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`silence_s` without a sign of progress is taken for a hang.

        Raises:
            BadInput: as `checked_url`.
        """
        parts = urlsplit(checked_url(url))
        self.origin, self.path = f"{parts.scheme}://{parts.netloc}", parts.path
        self.host, self.port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self.what = parts.netloc
        self._key = key
        self._connect_s, self._silence_s, self._sleep = connect_s, silence_s, sleep
        self._encrypted = ssl.create_default_context() if parts.scheme == "https" else None

    @property
    def is_local(self) -> bool:
        return self.host in LOOPBACK

    @property
    def headers(self) -> dict[str, str]:
        """Of every request; the key is among them, so they are never shown."""
        known = {"User-Agent": "weigh", "Accept-Encoding": "identity"}
        return known if self._key is None else {**known, "Authorization": f"Bearer {self._key.value}"}

    @property
    def tls(self) -> ssl.SSLContext | None:
        """None for plain HTTP."""
        return self._encrypted

    def get(self, path: str) -> Any:
        """The JSON at `path`.

        Raises:
            Unreachable, Refused, EngineError: as `open`; EngineCrashed for what is no JSON.
        """
        return self._json("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON with which `path` answers to `body`; errors as `get`."""
        return self._json("POST", path, body)

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        with self.open(method, path, body) as reply:
            return reply.json()

    def open(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        """Send a request and wait for the head of the answer; a wish to wait is honoured a few times.

        Raises:
            Unreachable: there is no such server, or it wants to be asked elsewhere.
            Refused: it says no.
            EngineTimeout: it is silent.
            EngineCrashed: it failed, or broke off.
        """
        for tries_left in range(WAITS, -1, -1):
            reply = self._sent(method, path, body)
            if reply.status in (200, 201):
                return reply
            with reply:
                wait_s = reply.retry_after_s if reply.status in _BUSY and tries_left else None
                if wait_s is None:
                    self._raise(reply)
            self._sleep(wait_s)
        raise AssertionError("unreachable")

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply:
        data = None if body is None else json.dumps(body).encode()
        headers = self.headers
        if data is not None:
            headers["Content-Type"] = "application/json"
        pace = _Pace()
        connection, prefix, proxy_headers = self._connection(pace)
        try:
            connection.connect()
        except (OSError, HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None
        try:
            assert connection.sock is not None
            connection.sock.settimeout(self._silence_s)
            pace.allow(self._silence_s)
            sent_s = time.perf_counter()
            connection.request(method, prefix + path, data, headers | proxy_headers)
            return Reply(self, connection, connection.getresponse(), pace, sent_s)
        except BaseException as error:
            connection.close()
            self.broken(error)

    def _connection(self, pace: _Pace) -> tuple[HTTPConnection, str, dict[str, str]]:
        """A connection that is still to be made, what comes before paths on it, and headers for a proxy."""
        scheme = "https" if self._encrypted else "http"
        proxy = None if self.is_local or proxy_bypass(self.host) else getproxies().get(scheme)
        via = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        host, port = (via.hostname or "", via.port or 80) if via else (self.host, self.port)
        known: dict[str, str] = {}
        if via and via.username:
            words = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
            known["Proxy-Authorization"] = f"Basic {base64.b64encode(words).decode()}"
        connection: HTTPConnection
        if self._encrypted:
            connection = HTTPSConnection(host, port, timeout=self._connect_s, context=self._encrypted)
            if via:
                connection.set_tunnel(self.host, self.port, known)
        else:
            connection = HTTPConnection(host, port, timeout=self._connect_s)
        pace.allow(self._connect_s)
        connection.response_class = lambda *args, **more: _paced(pace, *args, **more)  # type: ignore[assignment]
        if via and not self._encrypted:
            return connection, f"http://{self.what}", known
        return connection, "", {}

    def _raise(self, reply: Reply) -> NoReturn:
        status = reply.status
        if 300 <= status < 400:
            where = reply.redirected_to
            raise Unreachable(
                f"{self.what} redirects to {where or 'nowhere'}, which is not followed",
                hint=f"if you trust it, give its address: {where}" if where else None,
            )
        said = self.said(refusal(reply.whole(MOST_ERROR_BYTES, cut=True)))
        because = f": {said}" if said else ""
        if status in (401, 403):
            known = f"the key in {self._key.variable}" if self._key else "a request without a key"
            hint = "put the right key into a variable and name it" if self._key else "it wants a key"
            raise Refused(f"{self.what} does not let {known} in ({status}){because}", status, hint=hint)
        if status == 429:
            raise Refused(f"{self.what} has had enough requests for now (429){because}", status)
        if status in _MISTAKEN:
            raise Refused(f"{self.what} refused the request ({status}){because}", status)
        raise EngineCrashed(f"{self.what} failed with status {status}{because}")

    def said(self, text: str) -> str:
        """The server's words, short and without the key, should it repeat it."""
        if self._key is not None:
            text = text.replace(self._key.value, "***")
        return " ".join(text.split())[:300]

    def broken(self, error: BaseException) -> NoReturn:
        """Raise what a failure under way means.

        Raises:
            EngineTimeout, EngineCrashed: by `error`; anything that is no failure of the network as it is.
        """
        if isinstance(error, TimeoutError):
            raise EngineTimeout(f"{self.what} was silent for {units.seconds(self._silence_s)}") from None
        if isinstance(error, OSError | HTTPException | ValueError):
            raise EngineCrashed(f"{self.what} broke off ({self._reason(error)})") from None
        raise error

    def _unreachable(self, error: Exception) -> Unreachable:
        hint = "is the server running, and is that its port?" if self.is_local else None
        return Unreachable(f"{self.what} cannot be reached ({self._reason(error)})", hint=hint)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}"
        if isinstance(error, IncompleteRead):
            return "the connection was closed"
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return self.said(text)[:120] or type(error).__name__


class Reply(ClosedAfterUse):
    """The answer to one request, while it comes.

    Attributes:
        sent_s: of `time.perf_counter`, when the connection stood and the request was about to be sent.
        ended_s: since then, when the last byte had come; 0 until it has.
    """

    ended_s = 0.0

    def __init__(
        self,
        endpoint: Endpoint,
        connection: HTTPConnection,
        response: HTTPResponse,
        pace: _Pace,
        sent_s: float,
    ) -> None:
        self._endpoint, self._connection, self._response, self._pace = endpoint, connection, response, pace
        self.sent_s = sent_s
        self.status = response.status
        if response.headers.get("Content-Encoding", "identity") != "identity":
            connection.close()
            raise EngineCrashed(f"{endpoint.what} sends packed what it was asked to leave unpacked")

    def header(self, name: str) -> str:
        return self._endpoint.said(self._response.headers.get(name) or "")

    @property
    def retry_after_s(self) -> float | None:
        """Seconds it asks to wait; None when it names none, or more than is waited."""
        said = self._response.headers.get("Retry-After", "")
        wait_s = float(said) if re.fullmatch(r"\d{1,5}(\.\d{1,6})?", said) else None
        return wait_s if wait_s is not None and wait_s <= LONGEST_WAIT_S else None

    @property
    def redirected_to(self) -> str:
        """Scheme and host alone: the rest may be signed, or hold what was sent."""
        try:
            parts = urlsplit(self._response.headers.get("Location", ""))
            where = (
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.hostname else "another path"
            )
        except ValueError:
            where = ""
        return self._endpoint.said(where)

    def whole(self, most_bytes: int, *, cut: bool = False) -> bytes:
        """All of a small answer; of a longer one its beginning if it may be `cut`."""
        pieces: list[bytes] = []
        size = 0
        for _, piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > most_bytes:
                if cut:
                    break
                raise EngineCrashed(
                    f"{self._endpoint.what} sends more than the {most_bytes:,} bytes there can be"
                )
        return b"".join(pieces)[:most_bytes]

    def json(self) -> Any:
        """All of a small answer, as JSON.

        Raises:
            EngineCrashed: it is none, or no small one.
        """
        try:
            return json.loads(self.whole(MOST_ANSWER_BYTES))
        except (ValueError, RecursionError):
            raise EngineCrashed(f"{self._endpoint.what} answers with what is not JSON") from None

    def __iter__(self) -> Iterator[tuple[float, bytes]]:
        """Pieces as they come, with seconds since the request was sent. Only `go_on` gives it more time."""
        left = MOST_STREAM_BYTES
        try:
            while piece := self._response.read1(PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    raise EngineCrashed(f"{self._endpoint.what} does not stop sending")
                yield time.perf_counter() - self.sent_s, piece
            self.ended_s = time.perf_counter() - self.sent_s
        except (OSError, HTTPException, ValueError) as error:
            self._endpoint.broken(error)

    def go_on(self) -> None:
        """Something of use has come: wait again for the next."""
        self._pace.allow(self._endpoint._silence_s)

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class _Pace:
    """Until when the next bytes must have come."""

    def __init__(self) -> None:
        self.until_s = 0.0

    def allow(self, seconds: float) -> None:
        self.until_s = time.monotonic() + seconds


class _PacedReader(io.RawIOBase):
    """What a socket receives, as long as there is time: a byte now and then does not keep it open."""

    def __init__(self, pace: _Pace, inner: io.RawIOBase, connected: socket.socket) -> None:
        self._pace, self._inner, self._socket = pace, inner, connected

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._pace.until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _paced(pace: _Pace, connected: socket.socket, *args: Any, **more: Any) -> HTTPResponse:
    answer = HTTPResponse(connected, *args, **more)
    answer.fp = io.BufferedReader(_PacedReader(pace, answer.fp.detach(), connected))
    return answer
