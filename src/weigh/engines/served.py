"""A model in a server that somebody else started: reached by its URL, measured from outside, never ended by weigh."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from weigh.engines.engine import Generation, ProcessMemory
from weigh.engines.token_arrivals import Counted
from weigh.machine.processes import Tree, process_of
from weigh.machine.tree_memory import TreeMemory

# of one token each in most vocabularies, with the blank before them
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem"
    " hand part place case week company system program question work government number night point home water"
    " room mother area money story fact month lot right study book eye job word business issue side kind head"
    " house service friend father power hour game line end member law car city community name president team"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generation):
    """One request to a server, as it happened. Times are seconds since it was sent, on a connection that stood.

    Attributes:
        prompt_tokens: 0 where neither the server nor the prompt tells.
        text: what was written, reasoning included.
        finish: why it ended, in the server's word: `length` when all tokens asked for came, `stop` when the
            model ended first.
        piece_times_s, piece_tokens: the pieces of the stream as they came, and the tokens in each.
        counted: how those were counted.
        own_clock: whether prefill_s and decode_s are by the server's clock. Without one prefill_s is the time to
            the first token, with the network and any queue in it, and decode_s that from there to the last.
        hidden_tokens: billed as output and never shown (reasoning); not in `output_tokens`.
        load_s: of it spent on loading the model, where the server says so.
    """

    text: str
    finish: str
    piece_times_s: tuple[float, ...]
    piece_tokens: tuple[int, ...]
    counted: Counted
    own_clock: bool
    hidden_tokens: int = 0
    load_s: float | None = None


class ServedModel(Protocol):
    """A model at a URL: a `Session` that takes text too, and may know neither its memory nor its load time.

    Attributes:
        engine: which adapter speaks to it, one of `weigh.engines.URL_NAMES`.
        version: of the server, as far as it tells.
        model: its name there.
        command: what is asked, for the record: method and address.
        load_s: None where loading cannot be made to happen.
        context_tokens: at most, prompt and output together; None where the server does not say.
        pid: of the process that listens at the URL; None when it is not on this machine, or not for us to see.
    """

    engine: str
    version: str
    model: str
    command: tuple[str, ...]
    load_s: float | None
    context_tokens: int | None
    pid: int | None

    def generate(
        self, prompt: Sequence[int] | str, output_tokens: int, *, reuse_cache: bool = False
    ) -> Answer:
        """Prefill `prompt`, then decode `output_tokens`, ignoring end tokens where the server can."""
        ...

    def prompt(self, tokens: int, seed: int) -> list[int] | str:
        """A prompt of exactly `tokens` where the server has a tokenizer to ask, else of about as many."""
        ...

    def count_tokens(self, text: str) -> int | None:
        """None where the server has no way to ask."""
        ...

    def memory(self) -> ProcessMemory | None:
        """Of the server's processes; None when they are not on this machine, or not for us to see."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def words(count: int, seed: int) -> str:
    """English words in a random order: a prompt that no cache has seen and every tokenizer takes."""
    draw = random.Random(seed)
    known = _WORDS.split()
    return " ".join(draw.choice(known) for _ in range(count))


class Listener:
    """Memory of the processes behind a port of this machine; peaks are the highest seen while asked."""

    def __init__(self, port: int) -> None:
        self.pid = listening_pid(port)
        root = process_of(self.pid) if self.pid is not None else None
        self._memory = TreeMemory(Tree(lambda: [root] if root else []))

    def memory(self) -> ProcessMemory | None:
        seen = self._memory
        now = seen.look(near_bytes=0)
        if not seen.members:  # it has ended, or there was none
            return None
        return ProcessMemory(now.private_bytes, now.file_bytes, seen.peak_private_bytes, seen.peak_bytes)


def listening_pid(port: int) -> int | None:
    """The process that listens on a TCP port here; None when it is another user's, or in another namespace."""
    import psutil

    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    pids = {
        one.pid
        for one in found
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid
    }
    return min(pids) if pids and sys.platform != "win32" else None
