"""How fast a server gives tokens, asked of itself over HTTP.

It is asked in a thread: a busy server answers between two steps of its work, and nothing waits for it. What
its answer counts differs by engine, see `TokenRate.counts`.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from weigh.errors import BadInput

ASK_S = 0.45  # between two questions to one server, at least
ASK_SHARE = 0.002  # of one core, at most: vLLM's answer is long
_PATIENCE_S = 5.0
_MOST_ANSWER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRate:
    """What a server tells of itself; None for what it does not.

    Attributes:
        decode_tokens_per_s, prefill_tokens_per_s: since the question before.
        running, waiting: requests now.
        counts: when a token is counted: `as it comes`, or `when its request ends`.
        models: what it has loaded.
        problem: why no rate is known, in plain words.
    """

    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    running: int | None = None
    waiting: int | None = None
    counts: str = ""
    models: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Running totals of one answer; None for what it does not hold.

    Attributes:
        slots: sequence's place -> (its request, tokens so far), where they are told one by one.
    """

    decoded: float | None = None
    prefilled: float | None = None
    running: int | None = None
    waiting: int | None = None
    counts: str = ""
    models: tuple[str, ...] = ()
    slots: Mapping[int, tuple[int, int]] | None = None
    problem: str = ""


def counts_of_slots(answer: str) -> Counts:
    """llama-server's `/slots`: tokens of each sequence as they come; a new request starts again at nought."""
    slots: dict[int, tuple[int, int]] = {}
    running = 0
    for slot in json.loads(answer):
        told = slot.get("next_token") or {}
        told = told[0] if isinstance(told, list) else told  # a list since llama.cpp b6500 or so
        slots[int(slot["id"])] = (int(slot.get("id_task", -1)), int(told.get("n_decoded", 0)))
        running += bool(slot["is_processing"])
    return Counts(running=running, counts="as it comes", slots=slots)


_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{[^}]*\})?[ \t]+(\S+)", re.MULTILINE)


def metrics(answer: str) -> dict[str, float]:
    """Sums over the labels of each metric in the text format of Prometheus."""
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(answer):
        with contextlib.suppress(ValueError):
            found[name] = found.get(name, 0.0) + float(value)
    return found


def counts_of_metrics(answer: str) -> Counts:
    """`/metrics` of vLLM (as they come) or of llama-server (when requests end).

    Raises:
        ValueError: it is neither's.
    """
    found = metrics(answer)
    if "vllm:generation_tokens_total" in found:
        return Counts(
            decoded=found["vllm:generation_tokens_total"],
            prefilled=found.get("vllm:prompt_tokens_total"),
            running=_whole(found.get("vllm:num_requests_running")),
            waiting=_whole(found.get("vllm:num_requests_waiting")),
            counts="as it comes",
        )
    if "llamacpp:tokens_predicted_total" in found:
        return Counts(
            decoded=found["llamacpp:tokens_predicted_total"],
            prefilled=found.get("llamacpp:prompt_tokens_total"),
            running=_whole(found.get("llamacpp:requests_processing")),
            waiting=_whole(found.get("llamacpp:requests_deferred")),
            counts="when its request ends",
        )
    raise ValueError("no count of tokens in it")


def counts_of_ollama(answer: str) -> Counts:
    """Ollama's `/api/ps`: what is loaded. It counts no tokens outside the answers to its own clients."""
    models = json.loads(answer)["models"]
    return Counts(models=tuple(str(model["name"]) for model in models), problem="Ollama does not tell it")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


_SLOTS = ("/slots", counts_of_slots)
_METRICS = ("/metrics", counts_of_metrics)
_OLLAMA = ("/api/ps", counts_of_ollama)
_QUESTIONS: dict[str, tuple[tuple[str, Callable[[str], Counts]], ...]] = {
    "llama.cpp": (_SLOTS, _METRICS),
    "vLLM": (_METRICS,),
    "Ollama": (_OLLAMA,),
    "": (_SLOTS, _METRICS, _OLLAMA),  # of a server by its address, whichever answers
}


def rate_between(before: Counts, now: Counts, took_s: float) -> TokenRate:
    """Tokens per second between two answers."""
    decoded = prefilled = None
    if now.slots is not None and before.slots is not None:
        decoded = float(sum(_new_tokens(before.slots.get(at), slot) for at, slot in now.slots.items()))
    elif now.decoded is not None and before.decoded is not None:
        decoded = now.decoded - before.decoded
    if now.prefilled is not None and before.prefilled is not None:
        prefilled = now.prefilled - before.prefilled
    return TokenRate(
        decode_tokens_per_s=_per_s(decoded, took_s),
        prefill_tokens_per_s=_per_s(prefilled, took_s),
        running=now.running,
        waiting=now.waiting,
        counts=now.counts,
        models=now.models,
        problem=now.problem,
    )


def _new_tokens(before: tuple[int, int] | None, now: tuple[int, int]) -> int:
    """What a request gave before it ended unseen is not counted: the slot tells of its present one alone."""
    if before is None or before[0] != now[0]:
        return now[1]
    return max(0, now[1] - before[1])


def _per_s(tokens: float | None, took_s: float) -> float | None:
    """None for a counter that started again."""
    return None if tokens is None or tokens < 0 or took_s <= 0 else tokens / took_s


def checked_url(url: str) -> str:
    """The address without a path.

    Raises:
        BadInput: it is not one of a server.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        whole = whole and not (parts.username or parts.password)
    except ValueError:
        whole = False
    if not whole:
        raise BadInput(f"`{url}` is not a server's address", hint="write it like `http://127.0.0.1:8080`")
    return f"{parts.scheme}://{parts.netloc}"


class Server:
    """Asks one server for its counts in a thread, no more often than every `ASK_S`.

    Args:
        urls: where it may be: a process can listen on several ports, of which one answers.
    """

    def __init__(self, *urls: str, kind: str = "") -> None:
        self._ways = [(url, *question) for url in urls for question in _QUESTIONS.get(kind, ())]
        self.url = urls[0]
        self._ask, self._over = threading.Event(), False
        self._rate = TokenRate(problem="it has not answered yet" if self._ways else "it does not tell it")
        self._before: tuple[float, Counts] | None = None
        self._answered_s, self._ask_at_s = time.monotonic(), 0.0
        if self._ways:
            threading.Thread(target=self._run, name=f"ask {self.url}", daemon=True).start()

    def rate(self, *, ask: bool = True) -> TokenRate:
        """As last told; asks again for the next time."""
        now = time.monotonic()
        if ask and self._ways and not self._ask.is_set() and now >= self._ask_at_s:
            self._ask.set()
        silent_s = now - self._answered_s
        if silent_s > 2 * _PATIENCE_S:
            return replace(
                self._rate,
                decode_tokens_per_s=None,
                prefill_tokens_per_s=None,
                problem=f"it has not answered for {silent_s:.0f} s",
            )
        return self._rate

    def close(self) -> None:
        self._over = True
        self._ask.set()

    def _run(self) -> None:
        while True:
            self._ask.wait()
            if self._over:
                return
            began_s, began_cpu_s = time.monotonic(), time.thread_time()
            self._question()
            self._ask_at_s = began_s + max(ASK_S, (time.thread_time() - began_cpu_s) / ASK_SHARE)
            self._ask.clear()

    def _question(self) -> None:
        for url, path, read in self._ways:
            try:
                counts = read(_get(url + path))
            except (
                OSError,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                ArithmeticError,
                RecursionError,
            ):
                continue
            now, before = time.monotonic(), self._before
            self.url, self._ways = url, [(url, path, read)]
            self._before, self._answered_s = (now, counts), now
            took_s = now - before[0] if before else 0.0
            self._rate = rate_between(before[1] if before else Counts(), counts, took_s)
            return
        if self._before is None:
            self._answered_s = time.monotonic()
            self._rate = TokenRate(problem="it does not tell it")


def _get(url: str) -> str:
    """Raises OSError, or ValueError when it is refused."""
    import http.client

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise ValueError(f"{response.status}")
        return response.read(_MOST_ANSWER_BYTES).decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from None
    finally:
        connection.close()
