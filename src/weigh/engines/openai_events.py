"""What an OpenAI-compatible server streams, from bytes to tokens: pure functions, no network.

The stream is server-sent events (WHATWG HTML, section 9.2); each carries one JSON chunk of the completions or
chat API. How many tokens a chunk holds is told by some servers only: vLLM in a usage that grows with each
chunk (`stream_options.continuous_usage_stats`), llama.cpp in `timings` (`timings_per_token`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DONE = b"[DONE]"
MOST_EVENT_BYTES = 16 << 20  # a server that never ends its line must not fill the memory


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counts them; `cached_tokens` of the prompt were found in its cache."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One chunk of an answer.

    Attributes:
        text: what was written, reasoning included; "" for a chunk that holds none.
        tokens_so_far: output tokens up to and with this chunk; None where the server does not say.
        usage: of the whole answer so far; the last one is final.
        finish: why the answer ended (`stop`, `length`); None while it goes on.
        error: the server's words when it gave up.
    """

    text: str = ""
    tokens_so_far: int | None = None
    usage: Usage | None = None
    finish: str | None = None
    error: str | None = None


class EventLines:
    """Cuts a stream of bytes into the data of its events, wherever the pieces were cut on their way."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of every event that `piece` completes; `[DONE]` among them.

        Raises:
            ValueError: one event is larger than any server sends.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MOST_EVENT_BYTES or len(self._data) > MOST_EVENT_BYTES >> 10:
            raise ValueError("an event of the stream has no end")
        found: list[bytes] = []
        for line in lines:
            text = line.removesuffix(b"\r")
            if not text:
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data = []
            elif text.startswith((b"data:", b"error:")):  # the latter from older servers of llama.cpp
                self._data.append(text.partition(b":")[2].removeprefix(b" "))
        return found


def parse_event(data: bytes) -> StreamEvent:
    """One event's data as JSON; see `StreamEvent`.

    Raises:
        ValueError: it is not a chunk of the completions or chat API.
    """
    chunk = json.loads(data)
    if not isinstance(chunk, dict):
        raise ValueError("an event is no JSON object")
    error = error_of(chunk)
    if error is not None:
        return StreamEvent(error=error)
    usage = _usage(chunk.get("usage"))
    text, finish = "", None
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        text, finish = _text(choices[0]), choices[0].get("finish_reason")
    return StreamEvent(text, _tokens_so_far(chunk, usage), usage, finish if isinstance(finish, str) else None)


def error_of(answer: dict[str, Any]) -> str | None:
    """The server's words in an answer that is an error, in the ways servers say it; None in another.

    OpenAI, vLLM and llama.cpp: `{"error": {"message": …}}`; older vLLM: `{"object": "error", "message": …}`;
    Ollama: `{"error": "…"}`; FastAPI's own: `{"detail": …}`; llama.cpp's old stream: `{"code": …, "message": …}`.
    """
    error = answer.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error)
    if error:
        return str(error)
    if answer.get("object") == "error" or ("message" in answer and "choices" not in answer):
        return str(answer.get("message", "an error without words"))
    if "detail" in answer and "choices" not in answer:
        return str(answer["detail"])
    return None


def refusal(body: bytes) -> str:
    """What a server says with a status that is not 200, in one line."""
    try:
        answer = json.loads(body)
        said = error_of(answer) if isinstance(answer, dict) else None
    except ValueError:
        said = None
    return " ".join((said or body.decode(errors="replace")).split())[:300]


def _text(choice: dict[str, Any]) -> str:
    """Completions write `text`; chat a `delta` of `content`, `reasoning_content` (vLLM, llama.cpp) or `reasoning`."""
    delta = choice.get("delta")
    parts = (
        [delta.get(name) for name in ("reasoning_content", "reasoning", "content")]
        if isinstance(delta, dict)
        else [choice.get("text")]
    )
    return "".join(part for part in parts if isinstance(part, str))


def _tokens_so_far(chunk: dict[str, Any], usage: Usage | None) -> int | None:
    if usage is not None:
        return usage.output_tokens
    timings = chunk.get("timings")
    counted = timings.get("predicted_n") if isinstance(timings, dict) else None
    return counted if isinstance(counted, int) else None


def _usage(given: Any) -> Usage | None:
    if not isinstance(given, dict):
        return None
    prompt, output = given.get("prompt_tokens"), given.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(output, int):
        return None
    details = given.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt, output, cached if isinstance(cached, int) else None)
