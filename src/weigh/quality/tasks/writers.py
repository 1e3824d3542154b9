"""What writes the answers: a model behind an OpenAI-compatible API, its own server's or one started here.

One way for all: a GGUF file is held by llama.cpp's server in a child process and asked as a hosted model is.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigh.engines.endpoint import Endpoint, Refused
from weigh.engines.engine import Limits, Settings
from weigh.engines.openai_events import DONE, EventLines, parse_event
from weigh.errors import EngineCrashed, NotSupported
from weigh.quality.tasks.prompts import CHARACTERS_PER_TOKEN, chat_prompt, completed_part, gap_is_filled
from weigh.quality.tasks.task import Task

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec

MOST_REPLY_CHARACTERS = 200_000
MOST_HEADER_BYTES = 64 << 20
_UNKNOWN_FIELD = (400, 422)


class Style(StrEnum):
    """How a model is asked."""

    CHAT = "chat"  # it is told what to do
    COMPLETION = "completion"  # it goes on from the text before a gap; only tasks that have one


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 takes the likeliest one each time."""

    temperature: float = 0.0
    most_tokens: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote.

    Attributes:
        text: without reasoning that the server tells apart; of a completion, the part that fills the gap.
        output_tokens: reasoning included; None where the server does not say.
        cut: it had not ended when all tokens it was given were used.
    """

    text: str
    output_tokens: int | None
    cut: bool
    took_s: float


class Writer:
    """A model at an OpenAI-compatible address. May be asked from several threads at once."""

    def __init__(self, api: Endpoint, base: str, model: str, style: Style, engine: str = "") -> None:
        """`base` is the path that ends in the API's version, usually `/v1`; `engine` is what answers there."""
        self.model, self.style, self.engine = model, style, engine
        self._api, self._base = api, base
        self._left_out: set[str] = set()  # fields this server refuses

    def takes(self, task: Task) -> bool:
        return self.style is Style.CHAT or task.fills_gap

    def write(
        self, task: Task, sampling: Sampling, sample: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> Reply:
        """Answer number `sample` to `task`; ends early, and cut, once `stopped` says so.

        Raises:
            Refused: the server does not take the request.
            Unreachable, EngineError: it fails.
        """
        while True:
            try:
                return self._written(task, sampling, sample, stopped)
            except Refused as error:
                if error.status not in _UNKNOWN_FIELD or not self._leaves_out(error.message):
                    raise

    def _leaves_out(self, refusal: str) -> bool:
        """Whether there is another way of asking after this refusal: models that reason take less."""
        for name in ("seed", "temperature", "max_tokens"):
            if name in refusal and name not in self._left_out:
                self._left_out.add(name)
                return True
        return False

    def _request(self, task: Task, sampling: Sampling, sample: int) -> Mapping[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        request: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            limit: sampling.most_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed + sample,
        }
        if self.style is Style.CHAT:
            request["messages"] = [{"role": "user", "content": chat_prompt(task)}]
        else:
            request["prompt"] = task.prefix
        return {name: value for name, value in request.items() if name not in self._left_out - {limit}}

    def _written(self, task: Task, sampling: Sampling, sample: int, stopped: Callable[[], bool]) -> Reply:
        path = "/chat/completions" if self.style is Style.CHAT else "/completions"
        began_s = time.monotonic()
        text, finish, tokens = "", "", None
        with self._api.open("POST", self._base + path, self._request(task, sampling, sample)) as reply:
            if not reply.header("Content-Type").startswith("text/event-stream"):
                raise EngineCrashed(f"{self._api.what} does not stream its answer")
            lines = EventLines()
            for _, piece in reply:
                for event in self._events(lines, piece):
                    text += "" if event.reasons else event.text
                    finish = event.finish or finish
                    tokens = event.usage.output_tokens if event.usage else tokens
                    if event.text:
                        reply.go_on()
                if stopped() or len(text) > MOST_REPLY_CHARACTERS:
                    finish = "length"
                    break  # closing the connection stops the server
                if self.style is Style.COMPLETION and gap_is_filled(task, text):
                    finish = "stop"
                    break
        if self.style is Style.COMPLETION:
            text = completed_part(task, text)
        return Reply(text, tokens, finish == "length", time.monotonic() - began_s)

    def _events(self, lines: EventLines, piece: bytes) -> Iterator[Any]:
        try:
            for data in lines.feed(piece):
                if data.strip() == DONE:
                    continue
                event = parse_event(data)
                if event.error is not None:
                    raise EngineCrashed(f"{self._api.what}: {self._api.said(event.error)}")
                yield event
        except ValueError as error:
            raise EngineCrashed(f"{self._api.what} streams what is no answer: {error}") from None


# --- where models come from ----------------------------------------------------------------------------


def has_chat_template(path: Path) -> bool:
    """Whether a GGUF file says how to talk to its model; files without are base models."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"tokenizer.chat_template", 0, MOST_HEADER_BYTES) >= 0


@contextmanager
def from_file(
    spec: ModelSpec,
    tasks: Sequence[Task],
    sampling: Sampling,
    *,
    style: Style | None = None,
    parallel: int = 1,
    threads: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[Writer]:
    """Load a GGUF file and hold it while the context lasts; `style` None goes by its chat template.

    Raises:
        NotSupported: it is no GGUF file on this machine.
        EngineError: it does not load.
    """
    from weigh.engines import default_engine
    from weigh.engines.http_session import HttpSession

    if spec.format != "gguf" or spec.file is None:
        raise NotSupported(
            f"{spec.name} is no GGUF file on this machine, which tasks need",
            hint="convert it, or serve it and give the server's URL",
        )
    style = style or (Style.CHAT if has_chat_template(spec.file) else Style.COMPLETION)
    longest = max((len(chat_prompt(task)) for task in tasks), default=0)
    wanted = longest // CHARACTERS_PER_TOKEN + sampling.most_tokens + 256
    context = min(-(-wanted // 256) * 256, spec.context_train or wanted)
    settings = Settings(context_tokens=context, parallel=parallel, threads=threads)
    with default_engine().start(spec.file, settings, limits) as session:
        assert isinstance(session, HttpSession)  # as all that run GGUF files
        try:
            yield Writer(Endpoint(session.url), "/v1", spec.name, style)
        except Exception:
            session.check()  # why it ended says more than that it no longer answers
            raise


@contextmanager
def from_url(
    url: str,
    *,
    model: str | None = None,
    key_variable: str | None = None,
    style: Style | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[Writer]:
    """A model at a URL; `style` None chats.

    Raises:
        BadInput, EngineError: as `weigh.engines.openai_api.OpenAiModel`.
    """
    from weigh.engines.openai_api import OpenAiModel

    with OpenAiModel(url, model=model, key_variable=key_variable, limits=limits) as found:
        yield Writer(
            found.endpoint, found.endpoint.path or "/v1", found.model, style or Style.CHAT, found.version
        )
