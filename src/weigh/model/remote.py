"""Stretches of files at the other end of HTTP, from servers that are trusted in nothing.

No answer is read further than was asked for and none is unpacked; every one has to end in time, however
slowly its bytes drip; redirects are few and never lead back to plain HTTP; and the token goes to no host
but the one it is for.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from weigh.errors import Unreachable
from weigh.model.gguf import printable

MOST_REDIRECTS = 5  # the hub's own files take one or two
FIRST_READ_BYTES = 64 << 10  # most headers of safetensors are shorter
PIECE_BYTES = 1 << 20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Refusal(Exception):
    """A server's answer that is no success."""

    def __init__(self, answer: HTTPResponse) -> None:
        super().__init__(f"status {answer.status}")
        self.status = answer.status
        self.code = answer.headers.get("X-Error-Code", "")  # the hub's word for what is wrong
        wait = answer.headers.get("Retry-After", "")
        self.retry_after_s = int(wait) if re.fullmatch(r"\d{1,5}", wait) else None


@dataclass
class Web:
    """Requests to one server and to wherever it redirects them.

    Attributes:
        origin: scheme and host that `token` is for; it is never sent in the clear, but to this machine.
        wait_s: for a connection, and for each next bytes.
        most_s: for one answer, from its first byte to its last.
    """

    origin: str
    token: str | None = field(default=None, repr=False)
    wait_s: float = 10.0
    most_s: float = 60.0

    def __post_init__(self) -> None:
        self._connected: set[socket.socket] = set()

    def whole(self, url: str, most_bytes: int) -> bytes:
        """A small answer, to its end.

        Raises:
            Refusal: the server answered that it does not give it.
            Unreachable: no answer in time, or one that cannot be, or is longer than `most_bytes`.
        """
        with self._answer(url, {}) as answer:
            body = self._body(answer, most_bytes + 1)
        if len(body) > most_bytes:
            raise Unreachable(f"{_host(answer.url)} sends more than the {most_bytes:,} bytes there can be")
        return body

    def stretch(self, url: str, offset: int, length: int, size_bytes: int) -> bytes:
        """`length` bytes from `offset` of a file that has `size_bytes`.

        Raises:
            Refusal, Unreachable: as `whole`; or the file is not of that size.
        """
        with self._answer(url, {"Range": f"bytes={offset}-{offset + length - 1}"}) as answer:
            _check_range(answer, offset, size_bytes)
            body = self._body(answer, length)
        if len(body) < length:
            raise Unreachable(f"{_host(answer.url)} broke off after {len(body):,} of {length:,} bytes")
        return body

    def abort(self) -> None:
        """End what other threads are waiting for."""
        for connected in list(self._connected):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _answer(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        for _ in range(1 + MOST_REDIRECTS):
            answer = self._sent(url, headers)
            if answer.status in (200, 206):
                return answer
            answer.close()  # unread: an answer to throw away may be endless too
            if answer.status not in (301, 302, 303, 307, 308):
                raise Refusal(answer)
            url = _next_url(url, answer.headers.get("Location", ""))
        raise Unreachable(f"{_host(self.origin)} redirects in circles")

    def _sent(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        try:
            request = Request(url, headers={"User-Agent": "weigh", "Accept-Encoding": "identity", **headers})
            if self.token and _origin(url) == _origin(self.origin) and _is_private(url):
                request.add_header("Authorization", f"Bearer {self.token}")
            answer: HTTPResponse = self._opener.open(request, timeout=self.wait_s)
        except (OSError, HTTPException, ValueError) as error:
            raise Unreachable(f"{_host(url)} cannot be reached ({_reason(error)})") from None
        return answer

    def _body(self, answer: HTTPResponse, most_bytes: int) -> bytes:
        host = _host(answer.url)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Unreachable(f"{host} sends what it was asked to leave unpacked packed")
        pieces, left = [], most_bytes
        try:
            while left and (piece := answer.read(min(left, PIECE_BYTES))):
                pieces.append(piece)
                left -= len(piece)
        except (OSError, HTTPException, ValueError) as error:
            raise Unreachable(f"{host} broke off ({_reason(error)})") from None
        return b"".join(pieces)

    @cached_property
    def _opener(self) -> OpenerDirector:
        """HTTP and proxies alone: urllib's other handlers open files, or read redirects to their end."""
        opener = OpenerDirector()
        for handler in (ProxyHandler(), _Plain(self._timed), _Encrypted(self._timed)):
            opener.add_handler(handler)
        return opener

    def _timed(self, connected: socket.socket, *args: Any, **more: Any) -> HTTPResponse:
        """An answer whose bytes are read through a `_TimedReader`."""
        answer = HTTPResponse(connected, *args, **more)
        reader = _TimedReader(self, answer.fp.detach(), connected)
        answer.fp = io.BufferedReader(reader)
        return answer


class _TimedReader(io.RawIOBase):
    """What a socket receives, as long as there is time for the whole."""

    def __init__(self, web: Web, inner: io.RawIOBase, connected: socket.socket) -> None:
        self._web, self._inner, self._socket = web, inner, connected
        self._end = time.monotonic() + web.most_s
        web._connected.add(connected)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"not done in {self._web.most_s:.0f} s")
        self._socket.settimeout(min(left_s, self._web.wait_s))
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._web._connected.discard(self._socket)
        self._inner.close()
        super().close()


class _Plain(HTTPHandler):
    def __init__(self, response_class: Callable[..., HTTPResponse]) -> None:
        super().__init__()
        self._response_class = response_class

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(_connection, HTTPConnection, self._response_class), request)


class _Encrypted(HTTPSHandler):
    def __init__(self, response_class: Callable[..., HTTPResponse]) -> None:
        self._trusted = ssl.create_default_context()
        super().__init__(context=self._trusted)
        self._response_class = response_class

    def https_open(self, request: Request) -> HTTPResponse:
        kind = partial(HTTPSConnection, context=self._trusted)
        return self.do_open(partial(_connection, kind, self._response_class), request)


def _connection(
    kind: Callable[..., HTTPConnection], response_class: Callable[..., HTTPResponse], host: str, **more: Any
) -> HTTPConnection:
    connection = kind(host, **more)
    connection.response_class = response_class  # type: ignore[assignment]
    return connection


class RemoteFile:
    """A `Source` that keeps what it read from the start, so that reading on asks for no byte twice."""

    def __init__(self, path: Path, size_bytes: int, stretch: Callable[[int, int], bytes]) -> None:
        self.path, self.size_bytes, self._stretch = path, size_bytes, stretch
        self._start = b""

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size_bytes)
        if offset > len(self._start):
            return self._stretch(offset, end - offset) if end > offset else b""
        if end > (had := len(self._start)):
            end_read = min(max(end, FIRST_READ_BYTES), self.size_bytes)
            self._start += self._stretch(had, end_read - had)
        return self._start[offset:end]


def _check_range(answer: HTTPResponse, offset: int, size_bytes: int) -> None:
    """Refuse other stretches and other sizes than asked for; a whole file may stand for its beginning."""
    host = _host(answer.url)
    if answer.status == 200:
        said = answer.headers.get("Content-Length")
        if offset or (said is not None and said != str(size_bytes)):
            raise Unreachable(f"{host} sends whole files where a part was asked for")
        return
    said = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", said)
    if match is None or int(match[1]) != offset or int(match[3]) != size_bytes:
        expected = f"bytes from {offset} of {size_bytes}"
        raise Unreachable(f"{host} sends `{printable(said[:60])}` where {expected} were asked for")


def _next_url(url: str, location: str) -> str:
    try:
        found = urljoin(url, location)
        scheme = urlsplit(found).scheme
    except ValueError:
        found = scheme = ""
    if not location or scheme not in ("https", urlsplit(url).scheme):
        raise Unreachable(f"{_host(url)} redirects to nowhere that can be followed")
    return found


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _is_private(url: str) -> bool:
    return urlsplit(url).scheme == "https" or urlsplit(url).hostname in _LOOPBACK


def _host(url: str) -> str:
    """What messages call a server; nothing of the rest, which may be signed."""
    try:
        return printable(urlsplit(url).hostname or "the server")
    except ValueError:
        return "the server"


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, TimeoutError):
        return str(inner) or "timed out"
    said = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return printable(said[:120]) or type(error).__name__
