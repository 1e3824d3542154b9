"""A server that streams tokens at given times and holds no model: what clients read can be told from what was sent.

    python benchmarks/null_server.py --first 0.05 --gap 0.01 --chunk 3

It speaks as much of the OpenAI API as streaming clients need (`/v1/models`, `/v1/completions`,
`/v1/chat/completions`) and prints its address. `GET /log` returns, by the request's `X-Request-Id`, when the
request was read and when each chunk was written, on the monotonic clock that all processes of a machine share;
`DELETE /log` forgets them. `--fault KIND --every N` spoils every Nth completion.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

FAULTS = ("break", "hang", "stall", "close", "status", "error", "garbage")


@dataclass(frozen=True)
class Behaviour:
    """What it streams.

    Attributes:
        first_s: from the request to the first chunk; gap_s: between chunks.
        chunk: tokens in each chunk.
        usage: `continuous`, `final` or `none`: how the server tells its number of tokens.
        most_tokens: answers end there at the latest, for models that stop by themselves; 0 for no limit.
        strict: refuses request fields that OpenAI's own servers do not know.
        chat_only: has the chat API and not the older one.
        fault: of every `every`-th completion past the first `after`: `break` closes after half the chunks,
            `stall` falls silent there, `hang` never answers, `close` closes at once, `status` answers 503, `error`
            and `garbage` stream one bad event.
        slots: completions at once; others wait. 0 for no limit.
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    chunk: int = 1
    usage: str = "continuous"
    most_tokens: int = 0
    strict: bool = False
    chat_only: bool = False
    fault: str = ""
    every: int = 1
    after: int = 0
    slots: int = 0
    vocab: int = 32_000


@dataclass
class Server:
    behaviour: Behaviour
    log: dict[str, dict[str, Any]] = field(default_factory=dict)
    completions: int = 0
    busy: int = 0
    waiting: list[Stream] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One client; requests on it come one after another."""

    def __init__(self, server: Server) -> None:
        self._server, self._received, self._stream = server, b"", None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None:
            self._stream.end()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        method_path, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        body, self._received = rest[:length], rest[length:]
        method, path, _ = method_path.split(" ", 2)
        self._answer(method, path, headers, body)

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        server = self._server
        if path == "/log":
            log = json.dumps(server.log)
            if method == "DELETE":
                server.log.clear()
            self._send_json(200, log)
        elif path == "/v1/models":
            meta = {"n_vocab": server.behaviour.vocab}
            self._send_json(200, json.dumps({"object": "list", "data": [{"id": "null", "meta": meta}]}))
        elif path == "/v1/chat/completions" or (path == "/v1/completions" and not server.behaviour.chat_only):
            self._complete(path, headers, json.loads(body))
        else:
            self._send_json(404, json.dumps({"error": {"message": f"no {path} here"}}))

    def _complete(self, path: str, headers: dict[str, str], request: dict[str, Any]) -> None:
        server = self._server
        strange = {"ignore_eos", "timings_per_token", "cache_prompt"} & request.keys()
        if server.behaviour.strict and strange:
            self._send_json(400, json.dumps({"error": {"message": f"unrecognized: {', '.join(strange)}"}}))
            return
        server.completions += 1
        number = server.completions - server.behaviour.after
        fault = server.behaviour.fault if number > 0 and number % server.behaviour.every == 0 else ""
        if fault == "close":
            self.transport.close()
        elif fault == "status":
            self._send_json(503, json.dumps({"error": {"message": "out of seats"}}))
        elif fault != "hang":
            self._stream = Stream(self.transport, server, path, headers, request, fault)

    def _send_json(self, status: int, text: str) -> None:
        body = text.encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


class Stream:
    """One answer on its way, each chunk at its own time."""

    def __init__(
        self,
        transport: asyncio.Transport,
        server: Server,
        path: str,
        headers: dict[str, str],
        request: dict[str, Any],
        fault: str,
    ) -> None:
        self._transport, self._server, self._fault = transport, server, fault
        self._loop = asyncio.get_running_loop()
        behaviour = server.behaviour
        tokens = request.get("max_tokens") or request.get("max_completion_tokens") or 16
        self._tokens = min(tokens, behaviour.most_tokens or tokens)
        prompt = request["prompt"] if "prompt" in request else request["messages"][-1]["content"]
        self._prompt = len(prompt.split() if isinstance(prompt, str) else prompt)  # words are its tokens
        self._options = request.get("stream_options") or {}
        self._chat = "chat" in path
        self._sent, self._timer, self._holds = 0, None, False
        self._entry: dict[str, Any] = {"received_s": time.monotonic(), "sent_s": [], "tokens": []}
        server.log[headers.get("x-request-id", "")] = self._entry
        if behaviour.slots and server.busy >= behaviour.slots:
            server.waiting.append(self)
        else:
            self.begin()

    def begin(self) -> None:
        self._holds = True
        self._server.busy += 1
        self._next_s = time.monotonic() + self._server.behaviour.first_s
        self._timer = self._loop.call_at(self._next_s, self._first)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self in self._server.waiting:
            self._server.waiting.remove(self)
        if self._holds:
            self._holds = False
            self._server.busy -= 1
            if self._server.waiting:
                self._server.waiting.pop(0).begin()

    def _first(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head)
        if self._fault in ("error", "garbage"):
            self._event('{"error": {"message": "spoilt"}}' if self._fault == "error" else "{]")
            self._finish()
            return
        self._token()

    def _token(self) -> None:
        behaviour = self._server.behaviour
        if self._fault in ("break", "stall") and self._sent >= self._tokens / 2:
            if self._fault == "break":
                self._transport.close()
            return
        count = min(behaviour.chunk, self._tokens - self._sent)
        self._sent += count
        over = self._sent == self._tokens
        text = " a" * count
        choice = {"delta": {"content": text}} if self._chat else {"text": text}
        chunk: dict[str, Any] = {
            "choices": [{"index": 0, **choice, "finish_reason": "length" if over else None}]
        }
        if behaviour.usage == "continuous" and self._options.get("continuous_usage_stats"):
            chunk["usage"] = self._usage()
        self._entry["sent_s"].append(time.monotonic())
        self._entry["tokens"].append(count)
        self._event(json.dumps(chunk))
        if over:
            if behaviour.usage != "none" and self._options.get("include_usage"):
                self._event(json.dumps({"choices": [], "usage": self._usage()}))
            self._event("[DONE]")
            self._finish()
            return
        self._next_s += behaviour.gap_s  # from the plan, not from now: lateness does not add up
        self._timer = self._loop.call_at(self._next_s, self._token)

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": self._prompt, "completion_tokens": self._sent}

    def _event(self, data: str) -> None:
        body = f"data: {data}\n\n".encode()
        self._transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def _finish(self) -> None:
        self._transport.write(b"0\r\n\r\n")
        self.end()


async def serve(behaviour: Behaviour, port: int) -> None:
    state = Server(behaviour)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    gc.freeze()
    gc.disable()  # a pause of the server's would look like the client's lateness
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first", dest="first_s", type=float, default=0.02)
    parser.add_argument("--gap", dest="gap_s", type=float, default=0.01)
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--usage", choices=["continuous", "final", "none"], default="continuous")
    parser.add_argument("--most-tokens", type=int, default=0)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--chat-only", action="store_true")
    parser.add_argument("--fault", choices=FAULTS, default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--after", type=int, default=0)
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--cpu", type=int, help="the processor to stay on, so as to leave the others alone")
    given = vars(parser.parse_args())
    port, cpu = given.pop("port"), given.pop("cpu")
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Behaviour(**given), port))


if __name__ == "__main__":
    main()
