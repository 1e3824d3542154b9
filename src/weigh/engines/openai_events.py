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
MOST_TOKENS = 1 << 30
MOST_SECONDS = 1e9
MOST_EVENT_BYTES = 16 << 20  # a server that never ends its line must not fill the memory


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counts and bills them.

    Attributes:
        cached_tokens: of the prompt, found in its cache; None where it does not say.
        reasoning_tokens: of the output, spent on reasoning, whether that is shown or kept back.
    """

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """llama.cpp's own clock and counts so far; decode starts at the first token: `n` tokens take `n - 1` steps."""

    prompt_tokens: int
    cached_tokens: int
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One chunk of an answer.

    Attributes:
        text: what was written, reasoning included; "" for a chunk that holds none.
        tokens_so_far: output tokens up to and with this chunk; None where the server does not say.
        usage: of the whole answer so far; the last one is final.
        finish: why the answer ended (`stop`, `length`); None while it goes on.
        error: the server's words when it gave up.
        timings: llama.cpp's own; None from others.
        reasons: whether the text is a model's reasoning.
    """

    text: str = ""
    tokens_so_far: int | None = None
    usage: Usage | None = None
    finish: str | None = None
    error: str | None = None
    timings: Timings | None = None
    reasons: bool = False


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
    try:
        chunk = json.loads(data)
    except RecursionError:
        raise ValueError("an event nests too deep") from None
    if not isinstance(chunk, dict):
        raise ValueError("an event is no JSON object")
    error = error_of(chunk)
    if error is not None:
        return StreamEvent(error=error)
    usage = _usage(chunk.get("usage"))
    text, reasons, finish = "", False, None
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        (text, reasons), finish = _text(choices[0]), choices[0].get("finish_reason")
    return StreamEvent(
        text,
        _tokens_so_far(chunk, usage),
        usage,
        finish if isinstance(finish, str) else None,
        timings=_timings(chunk.get("timings")),
        reasons=reasons,
    )


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
        answer = _json(body)
        said = error_of(answer) if isinstance(answer, dict) else None
    except ValueError:
        said = None
    return " ".join((said or body.decode(errors="replace")).split())[:300]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _text(choice: dict[str, Any]) -> tuple[str, bool]:
    """What was written, and whether it is reasoning alone.

    Completions write `text`; chat a `delta` of `content`, `reasoning_content` (vLLM, llama.cpp) or `reasoning`.
    """
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        text = choice.get("text")
        return (text, False) if isinstance(text, str) else ("", False)
    reasoning, more, content = (
        part if isinstance(part, str) else ""
        for part in map(delta.get, ("reasoning_content", "reasoning", "content"))
    )
    return reasoning + more + content, bool(reasoning or more) and not content


def _tokens_so_far(chunk: dict[str, Any], usage: Usage | None) -> int | None:
    if usage is not None:
        return usage.output_tokens
    timings = chunk.get("timings")
    return _count(timings.get("predicted_n")) if isinstance(timings, dict) else None


def _usage(given: Any) -> Usage | None:
    if not isinstance(given, dict):
        return None
    prompt, output = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
    if prompt is None or output is None:
        return None
    of_prompt, of_output = given.get("prompt_tokens_details"), given.get("completion_tokens_details")
    cached = _count(of_prompt.get("cached_tokens")) if isinstance(of_prompt, dict) else None
    reasoning = _count(of_output.get("reasoning_tokens")) if isinstance(of_output, dict) else None
    return Usage(prompt, output, cached, min(reasoning or 0, output))


def _timings(given: Any) -> Timings | None:
    if not isinstance(given, dict):
        return None
    counts = [_count(given.get(key, 0)) for key in ("prompt_n", "cache_n")]
    times = [_seconds(given.get(key)) for key in ("prompt_ms", "predicted_ms")]
    if None in counts or None in times or not times[0]:  # a prefill that took no time has no speed
        return None
    return Timings(*counts, *times)  # type: ignore[arg-type]


def _count(given: Any) -> int | None:
    return given if type(given) is int and 0 <= given <= MOST_TOKENS else None


def _seconds(given_ms: Any) -> float | None:
    return (
        given_ms / 1000 if type(given_ms) in (int, float) and 0 <= given_ms <= 1000 * MOST_SECONDS else None
    )
