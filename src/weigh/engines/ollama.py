"""Ollama by its own API, which has its own clock and can be told to unload, so that loading can be measured.

Written after its published protocol (docs/api.md in github.com/ollama/ollama); never run against a real server.
It takes text alone, cannot be told to ignore end tokens, and has no tokenizer to ask.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from weigh.engines.closing import ClosedAfterUse
from weigh.engines.endpoint import Endpoint, Reply
from weigh.engines.engine import Limits, ProcessMemory, Settings
from weigh.engines.openai_events import MOST_SECONDS, MOST_TOKENS, StreamEvent, error_of
from weigh.engines.served import Answer, Listener, words
from weigh.engines.token_arrivals import TokenArrivals
from weigh.engines.vllm import steps
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, UnknownName, WeighError

NAME = "ollama"
VARIABLE = "OLLAMA_HOST"
PORT = 11434
_MOST_MODELS = 10_000
_SPARE_EVENTS = 1000
_MOST_LINE_BYTES = 4 << 20  # the last message may hold the numbers of 100,000 tokens
_UNLOADED_WITHIN_S = 60.0


def server_url() -> str:
    """Where Ollama serves: as OLLAMA_HOST says it (host, host:port or a whole address), else its usual port here."""
    said = os.environ.get(VARIABLE, "").strip().rstrip("/")
    try:
        parts = urlsplit(said if "://" in said else f"http://{said}")
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        raise BadInput(f"{VARIABLE} is no address") from None
    if host in ("0.0.0.0", "::"):  # where a server listens, not where one asks
        host = "127.0.0.1"
    usual = (
        {"http": 80, "https": 443}[parts.scheme]
        if "://" in said and parts.scheme in ("http", "https")
        else PORT
    )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or usual}{parts.path}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What Ollama says of a model in memory; on a CPU `vram_bytes` is 0. Its own estimate, no measurement."""

    bytes: int
    vram_bytes: int


@dataclass(frozen=True, slots=True)
class Details:
    """What Ollama says of a model it has; "" and None where it does not."""

    family: str = ""
    parameters: str = ""
    quantization: str = ""
    context_tokens: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """The fields of the last message, in seconds and tokens. Decode runs from the first token on."""

    load_s: float
    prompt_tokens: int
    prefill_s: float
    output_tokens: int
    decode_s: float


class OllamaModel(ClosedAfterUse):
    """See `weigh.engines.served.ServedModel`. Requests may be sent from several threads at once."""

    engine = NAME

    def __init__(
        self,
        url: str | None = None,
        *,
        model: str | None = None,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        limits: Limits = Limits(),  # noqa: B008 - frozen
        load: bool = True,
    ) -> None:
        """Ask the server for its models; unload the chosen one and load it with `settings`, which takes its time.

        Args:
            url: None for `server_url`.
            settings: of them context_tokens and threads go with every request.
            load: False to leave it as it is; `load_s` is None then.

        Raises:
            Unreachable, Refused, EngineError: it cannot be asked.
            UnknownName, BadInput: it has not that model, or several to choose from.
        """
        self._api = Endpoint(url or server_url(), silence_s=limits.silence_s)
        self._start_s = limits.start_s
        said = _object(self._api.get(self._path("version")))
        self.version = f"ollama {_name(said.get('version')) or 'of unknown version'}"
        self.sizes = self._tags()
        self.model = _chosen(list(self.sizes), model, self._api.what)
        self._options: dict[str, Any] = {"num_ctx": settings.context_tokens}
        if settings.threads is not None:
            self._options["num_thread"] = settings.threads
        self.context_tokens: int | None = settings.context_tokens
        self.command: tuple[str, ...] = ("POST", self._api.origin + self._path("generate"))
        self._tokens_per_word = 1.0
        self._listener = Listener(self._api.port) if self._api.is_local else None
        self.pid = self._listener.pid if self._listener else None
        self.load_s = self.load() if load else None

    def _path(self, name: str) -> str:
        return f"{self._api.path}/api/{name}"

    # --- what it has -------------------------------------------------------------------------------

    def _tags(self) -> dict[str, int | None]:
        """Its models and the bytes of their files."""
        listed = _object(self._api.get(self._path("tags"))).get("models")
        entries = listed[:_MOST_MODELS] if isinstance(listed, list) else []
        return {
            name: _count(entry.get("size"), 1 << 50)
            for entry in map(_object, entries)
            if (name := _name(entry.get("name")))
        }

    def details(self) -> Details:
        """Of the model, by `/api/show`."""
        said = _object(self._api.post(self._path("show"), {"model": self.model}))
        about, info = _object(said.get("details")), _object(said.get("model_info"))
        architecture = info.get("general.architecture")
        return Details(
            family=_name(about.get("family")),
            parameters=_name(about.get("parameter_size")),
            quantization=_name(about.get("quantization_level")),
            context_tokens=_count(info.get(f"{architecture}.context_length"), 1 << 31),
            file_bytes=self.sizes.get(self.model),
        )

    def loaded(self) -> Loaded | None:
        """By `/api/ps`; None when the model is not in memory."""
        listed = _object(self._api.get(self._path("ps"))).get("models")
        for entry in map(_object, listed if isinstance(listed, list) else []):
            if self.model in (entry.get("name"), entry.get("model")):
                size, vram = _count(entry.get("size"), 1 << 50), _count(entry.get("size_vram"), 1 << 50)
                return Loaded(size or 0, vram or 0)
        return None

    def memory(self) -> ProcessMemory | None:
        """Of the server and the runners it started, by the kernel; None unless it runs here, for us to see."""
        return self._listener.memory() if self._listener else None

    # --- loading -----------------------------------------------------------------------------------

    def load(self) -> float:
        """Unload the model, load it again, and return the seconds by Ollama's clock, else those that passed here.

        Raises:
            EngineTimeout: it stays in memory, or does not come up.
        """
        self.unload()
        began_s = time.perf_counter()
        said = _object(self._api.post(self._path("generate"), self._request("", 0) | {"stream": False}))
        passed_s = time.perf_counter() - began_s
        return _seconds(said.get("load_duration")) or passed_s

    def unload(self) -> None:
        """Have it out of memory, and wait until it is."""
        self._api.post(self._path("generate"), {"model": self.model, "keep_alive": 0, "stream": False})
        deadline_s = time.monotonic() + min(self._start_s, _UNLOADED_WITHIN_S)
        while self.loaded() is not None:
            if time.monotonic() > deadline_s:
                raise EngineTimeout(
                    f"{self._api.what} does not unload {self.model}; somebody else may be using it"
                )
            time.sleep(0.05)

    # --- requests ----------------------------------------------------------------------------------

    def count_tokens(self, text: str) -> int | None:
        return None

    def prompt(self, tokens: int, seed: int) -> str:
        """Text of about as many tokens, the better the more has been asked before."""
        return words(max(1, round(tokens / self._tokens_per_word)), seed)

    def generate(
        self, prompt: Sequence[int] | str, output_tokens: int, *, reuse_cache: bool = False
    ) -> Answer:
        """Prefill the text `prompt` as it is, then decode at most `output_tokens`: the model may end earlier.

        Ollama cannot be told to leave its cache aside: a prompt is new when its beginning is.

        Raises:
            BadInput: token ids were given, or the server refuses the request.
            EngineTimeout: nothing came for `silence_s`.
            EngineCrashed: it failed, broke off, or streams what cannot be.
        """
        if not isinstance(prompt, str):
            raise BadInput("Ollama takes text and no token ids")
        arrivals, clock, most = TokenArrivals(), None, 4 * output_tokens + _SPARE_EVENTS
        with self._api.open("POST", self._path("generate"), self._request(prompt, output_tokens)) as reply:
            for at_s, message in self._messages(reply):
                most -= 1
                if most < 0:
                    raise EngineCrashed(f"{self._api.what} does not stop writing")
                text = message.get("thinking") or message.get("response")
                finish = _name(message.get("done_reason")) or "stop" if message.get("done") is True else None
                clock = _clock(message) if finish else None
                told = clock.output_tokens if clock else None
                event = StreamEvent(text if isinstance(text, str) else "", told, finish=finish)
                if arrivals.take(at_s, event):
                    reply.go_on()
                if finish:
                    break
        if not arrivals.finish:
            raise EngineCrashed(f"{self._api.what} broke off after {len(arrivals.texts):,} pieces")
        if not arrivals.text:
            raise EngineCrashed(f"{self._api.what} wrote no token")
        return self._made(prompt, arrivals, clock)

    def _request(self, prompt: str, output_tokens: int) -> dict[str, Any]:
        options = self._options | ({"num_predict": output_tokens, "temperature": 0} if prompt else {})
        request = {"model": self.model, "options": options, "keep_alive": "30m"}
        return request | ({"prompt": prompt, "raw": True, "stream": True} if prompt else {})

    def _messages(self, reply: Reply) -> Iterator[tuple[float, Mapping[str, Any]]]:
        """One JSON object a line."""
        rest = b""
        for at_s, piece in reply:
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _MOST_LINE_BYTES:
                raise EngineCrashed(f"{self._api.what} streams a line without end")
            for line in filter(bytes.strip, lines):
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    message = None
                if not isinstance(message, dict):
                    raise EngineCrashed(f"{self._api.what} streams what is not JSON")
                if (error := error_of(message)) is not None:
                    raise EngineCrashed(f"{self._api.what}: {self._api.said(error)}")
                yield at_s, message

    def _made(self, prompt: str, arrivals: TokenArrivals, clock: Clock | None) -> Answer:
        times_s = arrivals.token_times_s
        first_s, last_s = arrivals.piece_times_s[0], arrivals.piece_times_s[-1]
        own_clock = clock is not None and clock.prefill_s > 0 and clock.decode_s > 0
        if clock is not None and clock.prompt_tokens:
            self._tokens_per_word = clock.prompt_tokens / (prompt.count(" ") + 1)
        return Answer(
            prompt_tokens=clock.prompt_tokens if clock else 0,
            cached_tokens=0,
            output_tokens=len(times_s),
            prefill_s=clock.prefill_s if clock and own_clock else first_s,
            decode_s=clock.decode_s if clock and own_clock else last_s - first_s,
            token_times_s=times_s,
            step_times_s=_scaled(steps(times_s), clock.decode_s if clock and own_clock else None),
            text=arrivals.text,
            finish=arrivals.finish,
            piece_times_s=tuple(arrivals.piece_times_s),
            piece_tokens=arrivals.piece_tokens,
            counted=arrivals.counted,
            own_clock=own_clock,
            load_s=clock.load_s if clock else None,
        )

    def close(self) -> None:
        """The model stays in memory as long as the server keeps it."""


def is_ollama(url: str, *, silence_s: float = 5.0) -> bool:
    """Whether a server answers as Ollama does."""
    try:
        endpoint = Endpoint(url, connect_s=silence_s, silence_s=silence_s)
        if endpoint.path:  # it serves at the root; what has a path is an OpenAI-compatible API
            return False
        said = endpoint.get("/api/version")
    except WeighError:
        return False
    return isinstance(said, dict) and set(said) == {"version"} and isinstance(said["version"], str)


def _clock(message: Mapping[str, Any]) -> Clock | None:
    counts = [_count(message.get(key, 0), MOST_TOKENS) for key in ("prompt_eval_count", "eval_count")]
    keys = ("load_duration", "prompt_eval_duration", "eval_duration")
    load_s, prefill_s, decode_s = (_seconds(message.get(key)) for key in keys)
    prompt, output = counts
    if not output or prompt is None:
        return None
    return Clock(load_s, prompt, prefill_s, output, decode_s)


def _scaled(steps_s: Sequence[float], total_s: float | None) -> tuple[float, ...]:
    """Steps as they arrived, in the time that they took by Ollama's clock, which knows only their total."""
    arrived_s = sum(steps_s)
    if total_s is None or arrived_s == 0:
        return tuple(steps_s)
    return tuple(step_s * total_s / arrived_s for step_s in steps_s)


def _seconds(nanoseconds: Any) -> float:
    """0 for what is not said."""
    valid = type(nanoseconds) in (int, float) and math.isfinite(nanoseconds)
    return nanoseconds / 1e9 if valid and 0 <= nanoseconds <= MOST_SECONDS * 1e9 else 0.0


def _count(value: Any, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else "?" for c in value[:300]).strip()


def _chosen(names: Sequence[str], wanted: str | None, what: str) -> str:
    """As `ollama run` takes names: without a tag it is `latest`."""
    if wanted is None:
        if len(names) == 1:
            return names[0]
        if not names:
            raise BadInput(f"{what} has no models", hint="`ollama pull` one")
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise BadInput(f"{what} has {len(names):,} models", hint=f"name one: {shown}")
    for name in (wanted, f"{wanted}:latest"):
        if name in names:
            return name
    raise UnknownName(f"model at {what}", wanted, close=get_close_matches(wanted, names, 3, 0.5))
