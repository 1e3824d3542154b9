"""Any OpenAI-compatible server by its URL: llama-server, vLLM, LM Studio, hosted models.

What is not in every server is tried once and remembered: the completions API before the chat API, token ids
before text, `ignore_eos` and counts with each piece before the plain request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from threading import Lock
from typing import Any

from weigh.engines.closing import ClosedAfterUse
from weigh.engines.endpoint import Endpoint, Refused, Reply, key_for
from weigh.engines.engine import Limits, ProcessMemory
from weigh.engines.openai_events import DONE, EventLines, StreamEvent, parse_event
from weigh.engines.served import Answer, Listener, words
from weigh.engines.token_arrivals import TokenArrivals
from weigh.engines.vllm import steps
from weigh.errors import BadInput, EngineCrashed, UnknownName, WeighError

NAME = "openai"
COMPLETIONS, CHAT = "/completions", "/chat/completions"
_OTHER_WAY = (
    400,
    404,
    405,
    422,
    501,
)  # this way of asking is not known there, or the request itself is wrong
_MOST_MODELS = 10_000
_MOST_NAME_LETTERS = 300
_SPARE_EVENTS = 1000  # of a stream beyond four for each token asked for
_LLAMA_CPP, _VLLM = "llamacpp", "vllm"  # as `owned_by` in a list of models


@dataclass(frozen=True, slots=True)
class Way:
    """One way of asking.

    Attributes:
        extras: what OpenAI's own servers refuse: ignoring end tokens, counts with each piece, caches apart.
        usage: whether to ask for the count at the end.
        limit: the name of the most tokens to write; models that reason take the newer one, and no temperature.
    """

    path: str
    extras: bool = False
    usage: bool = True
    limit: str = "max_tokens"

    @property
    def chat(self) -> bool:
        return self.path == CHAT


WAYS = (
    Way(COMPLETIONS, extras=True),
    Way(COMPLETIONS),
    Way(CHAT, extras=True),
    Way(CHAT),
    Way(CHAT, limit="max_completion_tokens"),
    Way(CHAT, usage=False),
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that the server lists; `owner` is often the server's own kind."""

    name: str
    owner: str = ""
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of all answers so far; output with reasoning that was not shown."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class OpenAiModel(ClosedAfterUse):
    """See `weigh.engines.served.ServedModel`. Requests may be sent from several threads at once."""

    engine = NAME
    load_s: float | None = None  # the server is there already

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key_variable: str | None = None,
        chat: bool | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Ask the server what it is and which models it has.

        Args:
            url: with its path where that is not `/v1`, as OpenAI's clients take it.
            model: None for the only one it lists.
            key_variable: of the environment; None for OPENAI_API_KEY, where that may go.
            chat: True or False to have that API; None to find out.

        Raises:
            Unreachable, Refused, EngineError: it cannot be asked.
            UnknownName, BadInput: it has not that model, or several to choose from.
        """
        key = key_for(url, key_variable)
        self._api = Endpoint(url, key=key, silence_s=limits.silence_s)
        self._base = self._api.path or "/v1"
        self.models, header = self._listed()
        chosen = _chosen(self.models, model, self._api.what)
        self.model, self.context_tokens, self._owner = chosen.name, chosen.context_tokens, chosen.owner
        self.version = self._version(header)
        self.command: tuple[str, ...] = ("POST", self._api.origin + self._base)
        self._ways = tuple(way for way in WAYS if chat is None or way.chat == chat)
        self._way: Way | None = None
        self._salts = count()
        self.spent = Spent()
        self._spending = Lock()
        self._tokens_per_word: float | None = None
        self._listener = Listener(self._api.port) if self._api.is_local else None
        self.pid = self._listener.pid if self._listener else None

    # --- what it is --------------------------------------------------------------------------------

    def _listed(self) -> tuple[list[Listed], str]:
        """The models, and what the server calls itself in the head of its answer."""
        with self._api.open("GET", self._base + "/models") as reply:
            header = reply.header("Server")
            dated = reply.header("openai-version")
            answer = reply.json()
        data = answer.get("data") if isinstance(answer, dict) else None
        entries = data[:_MOST_MODELS] if isinstance(data, list) else []
        found = [one for one in map(_listed, entries) if one is not None]
        return found, f"OpenAI API {dated}" if dated else header

    def _version(self, header: str) -> str:
        asked = {_LLAMA_CPP: ("llama.cpp", "/props", "build_info"), _VLLM: ("vllm", "/version", "version")}
        name, path, key = asked.get(self._owner, ("", "", ""))
        if not name:
            return _name(header) or "of unknown version"
        try:
            said = self._api.get(self._root + path)
        except WeighError:
            said = None
        version = said.get(key) if isinstance(said, dict) else None
        return f"{name} {_name(version)}" if isinstance(version, str) else f"{name} of unknown version"

    @property
    def _root(self) -> str:
        """Where the server keeps what is not OpenAI's."""
        return re.sub(r"/v\d+$", "", self._base)

    def memory(self) -> ProcessMemory | None:
        return self._listener.memory() if self._listener else None

    # --- prompts -----------------------------------------------------------------------------------

    def count_tokens(self, text: str) -> int | None:
        ids = self._ids(text)
        return None if ids is None else len(ids)

    def _ids(self, text: str) -> list[int] | None:
        """As the server's tokenizer has it; None where there is none to ask."""
        if self._owner not in (_LLAMA_CPP, _VLLM):
            return None
        try:
            request = {"content": text, "model": self.model, "prompt": text, "add_special_tokens": False}
            said = self._api.post(self._root + "/tokenize", request)
        except (Refused, EngineCrashed):  # started without one
            return None
        ids = said.get("tokens") if isinstance(said, dict) else None
        valid = isinstance(ids, list) and all(type(one) is int and 0 <= one < 1 << 31 for one in ids)
        return ids if valid else None

    def prompt(self, tokens: int, seed: int) -> list[int] | str:
        """Token ids where they can be had and are taken, else text."""
        chat = self._way.chat if self._way else all(way.chat for way in self._ways)
        ids = self._ids(words(tokens, seed))
        if ids is None or len(ids) < tokens:  # fewer tokens than words: that is no tokenizer of English
            return words(max(1, round(tokens / (self._tokens_per_word or 1.0))), seed)
        if not chat:
            return ids[:tokens]
        return words(max(1, round(tokens * tokens / max(tokens, len(ids)))), seed)

    # --- requests ----------------------------------------------------------------------------------

    def generate(
        self, prompt: Sequence[int] | str, output_tokens: int, *, reuse_cache: bool = False
    ) -> Answer:
        """Prefill `prompt`, token ids or text, then decode `output_tokens`.

        End tokens are ignored where the server can do that; elsewhere the answer may be shorter.

        Raises:
            BadInput: the server refuses the request, for example because it exceeds the context.
            EngineTimeout: nothing came for `silence_s`.
            EngineCrashed: it failed, broke off, does not stream, or streams what cannot be.
        """
        if self._way is not None:
            return self._answer(self._way, prompt, output_tokens, reuse_cache)
        refused: list[Refused] = []
        for way in self._ways:
            if way.chat and not isinstance(prompt, str):
                continue
            try:
                answer = self._answer(way, prompt, output_tokens, reuse_cache)
            except Refused as error:
                if error.status not in _OTHER_WAY:
                    raise
                refused.append(error)
            else:
                self._way = way
                self.command = ("POST", self._api.origin + self._base + way.path)
                return answer
        if not refused:
            raise BadInput(f"{self._api.what} is asked for chats, which take text and no token ids")
        # what is wrong with the request says more than that there is no such path
        raise next((error for error in refused if error.status in (400, 422)), refused[-1])

    def _answer(self, way: Way, prompt: Sequence[int] | str, output_tokens: int, reuse_cache: bool) -> Answer:
        request = self._request(way, prompt, output_tokens, reuse_cache)
        arrivals = TokenArrivals()
        with self._api.open("POST", self._base + way.path, request) as reply:
            done = False
            for at_s, event in self._events(reply, 4 * output_tokens + _SPARE_EVENTS):
                if event is None:
                    done = True
                    break
                if event.error is not None:
                    raise EngineCrashed(f"{self._api.what}: {self._api.said(event.error)}")
                if arrivals.take(at_s, event):
                    reply.go_on()
        if not arrivals.texts:
            raise EngineCrashed(f"{self._api.what} wrote no token")
        if arrivals.hidden_tokens and not arrivals.text:
            raise EngineCrashed(f"{self._api.what} spent all its tokens on reasoning that it does not show")
        if not (done or arrivals.finish):
            raise EngineCrashed(f"{self._api.what} broke off after {len(arrivals.token_times_s):,} tokens")
        return self._made(prompt, arrivals)

    def request(
        self, prompt: Sequence[int] | str, output_tokens: int, *, reuse_cache: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """Path and body of a request, for clients of one's own; `generate` has found out the way before.

        Raises:
            BadInput: token ids for a server that is asked for chats.
        """
        assert self._way is not None, "generate once, so that the way to ask is known"
        if self._way.chat and not isinstance(prompt, str):
            raise BadInput(f"{self._api.what} is asked for chats, which take text and no token ids")
        path = self._base + self._way.path
        return path, self._request(self._way, prompt, output_tokens, reuse_cache)

    @property
    def endpoint(self) -> Endpoint:
        return self._api

    @property
    def way(self) -> Way | None:
        """How it takes requests; None before the first."""
        return self._way

    def _request(
        self, way: Way, prompt: Sequence[int] | str, output_tokens: int, reuse_cache: bool
    ) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.model, "stream": True, way.limit: output_tokens}
        if way.chat:
            request["messages"] = [{"role": "user", "content": prompt}]
        else:
            request["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
        if way.limit == "max_tokens":
            request["temperature"] = 0
        if way.usage:
            request["stream_options"] = {"include_usage": True}
        if way.extras:
            request["ignore_eos"] = True
            request["stream_options"]["continuous_usage_stats"] = True
            if self._owner == _LLAMA_CPP:
                # taking the likeliest token costs it nothing; its default samplers do
                request |= {"samplers": ["top_k"], "top_k": 1}
                request |= {"cache_prompt": reuse_cache, "timings_per_token": True}
            elif not reuse_cache:
                request["cache_salt"] = f"weigh {next(self._salts)}"  # vLLM's caches are apart by it
        return request

    def _events(self, reply: Reply, most: int) -> Iterator[tuple[float, StreamEvent | None]]:
        """The stream's events; None for its end."""
        what = self._api.what
        if not reply.header("Content-Type").startswith("text/event-stream"):
            raise EngineCrashed(f"{what} does not stream its answer, so that its tokens have no times")
        lines = EventLines()
        try:
            for at_s, piece in reply:
                for data in lines.feed(piece):
                    most -= 1
                    if most < 0:
                        raise EngineCrashed(f"{what} does not stop writing")
                    yield at_s, None if data.strip() == DONE else parse_event(data)
        except ValueError as error:
            raise EngineCrashed(f"{what} streams what is no answer: {self._api.said(str(error))}") from None

    def _made(self, prompt: Sequence[int] | str, arrivals: TokenArrivals) -> Answer:
        times_s, own = arrivals.token_times_s, arrivals.timings
        asked = 0 if isinstance(prompt, str) else len(prompt)
        prefilled, cached = arrivals.prompt_tokens(asked)
        if isinstance(prompt, str) and prefilled + cached:
            self._tokens_per_word = (prefilled + cached) / max(1, prompt.count(" ") + 1)
        self.spend(arrivals, asked)
        return Answer(
            prompt_tokens=prefilled,
            cached_tokens=cached,
            output_tokens=len(times_s),
            prefill_s=own.prefill_s if own else arrivals.piece_times_s[0],
            decode_s=own.decode_s if own else arrivals.piece_times_s[-1] - arrivals.piece_times_s[0],
            token_times_s=times_s,
            step_times_s=arrivals.own_steps_s or steps(times_s),
            text=arrivals.text,
            finish=arrivals.finish,
            piece_times_s=tuple(arrivals.piece_times_s),
            piece_tokens=arrivals.piece_tokens,
            counted=arrivals.counted,
            own_clock=own is not None,
            hidden_tokens=arrivals.hidden_tokens,
        )

    def spend(self, arrivals: TokenArrivals, asked: int) -> None:
        """Count an answer, or as much of one as came, to a prompt of `asked` tokens."""
        if (
            not arrivals.piece_times_s and arrivals.usage is None
        ):  # refused, or given up before it was answered
            return
        prefilled, cached = arrivals.prompt_tokens(asked)
        with self._spending:
            before = self.spent
            self.spent = Spent(
                before.prompt_tokens + prefilled,
                before.cached_tokens + cached,
                before.output_tokens + len(arrivals.token_times_s) + arrivals.hidden_tokens,
            )

    def close(self) -> None:
        """Nothing is held between requests."""


def _listed(entry: Any) -> Listed | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str) or not _name(entry["id"]):
        return None
    owner, length = entry.get("owned_by"), entry.get("max_model_len")
    meta = entry.get("meta")
    if length is None and isinstance(meta, dict):  # llama.cpp
        length = meta.get("n_ctx")
    context = length if type(length) is int and 0 < length < 1 << 31 else None
    return Listed(_name(entry["id"]), _name(owner) if isinstance(owner, str) else "", context)


def _name(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_MOST_NAME_LETTERS]).strip()


def _chosen(models: Sequence[Listed], wanted: str | None, what: str) -> Listed:
    """The model that was asked for, or the only one.

    Raises:
        UnknownName: it is not among those listed. BadInput: none was asked for, and there is not just one.
    """
    names = [one.name for one in models]
    if wanted is None:
        if len(models) == 1:
            return models[0]
        if not models:
            raise BadInput(f"{what} lists no models", hint="name the one it has")
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise BadInput(f"{what} has {len(names):,} models", hint=f"name one: {shown}")
    if models and wanted not in names:
        raise UnknownName(f"model at {what}", wanted, close=get_close_matches(wanted, names, 3, 0.5))
    return next((one for one in models if one.name == wanted), Listed(wanted))
