"""A server on loopback that answers as a test tells it to, in the words of a protocol or against them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Answer = Callable[["Handler"], None]


@dataclass
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        said = json.loads(body) if body else None
        self.server.stand_in.received.append(Received(self.command, self.path, dict(self.headers), said))
        self.close_connection = True
        answer = self.server.stand_in.answers.get(self.path, say({"error": "no such path"}, 404))
        with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            answer(self)

    do_GET = do_POST = _answer  # noqa: N815 - the names http.server looks for

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    @property
    def asked(self) -> Any:
        return self.server.stand_in.received[-1].body


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    stand_in: StandIn


@dataclass
class StandIn:
    """`answers` by path; what was asked is in `received`."""

    answers: dict[str, Answer] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.stand_in = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def bodies(self, path: str) -> list[Any]:
        return [one.body for one in self.received if one.path == path]


def say(answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """JSON, or bytes as they are."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def write(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | dict(headers or {})).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return write


def stream(*pieces: bytes, kind: str = "text/event-stream") -> Answer:
    """Pieces in chunks, each sent on its own."""

    def write(handler: Handler) -> None:
        start_stream(handler, kind)
        for piece in pieces:
            send_piece(handler, piece)
        handler.wfile.write(b"0\r\n\r\n")

    return write


def start_stream(handler: Handler, kind: str = "text/event-stream") -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def send_piece(handler: Handler, piece: bytes) -> None:
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.flush()


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def in_turn(*answers: Answer) -> Answer:
    """The first, then the second, ... and the last from then on."""
    left = list(answers)

    def write(handler: Handler) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        answer(handler)

    return write
