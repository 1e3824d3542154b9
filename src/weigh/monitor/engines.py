"""The engines that run here: which processes they are, the memory they hold, and how fast they give tokens.

How fast is asked of the server itself, over HTTP, in a thread: a busy one answers between two steps of its
work, and nothing waits for it. What its answer counts differs by engine, see `TokenRate.counts`.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from weigh.engines.engine import HOST
from weigh.errors import BadInput
from weigh.monitor.processes import (
    Process,
    Tree,
    everyone,
    is_stopped,
    leads_here,
    listening_ports,
    named,
    names_of,
    process_of,
)
from weigh.monitor.tree_memory import TreeMemory

LOOK_S = 5.0  # between two looks at all processes, which cost some milliseconds, on a full system many
LOOK_SHARE = 0.002  # of one core, at most
ASK_S = 0.45  # between two questions to one server, at least
_PATIENCE_S = 5.0
_MOST_ANSWER_BYTES = 4 << 20
_ENGINES = {
    "llama-server": "llama.cpp",
    "llama-cli": "llama.cpp",
    "llama-bench": "llama.cpp",
    "xllamacpp_child.py": "llama.cpp",
    "ollama": "Ollama",
    "vllm": "vLLM",
    "vllm.entrypoints.openai.api_server": "vLLM",
    "tensorflow_model_server": "TensorFlow Serving",
    "transformers_child.py": "transformers",
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """An engine, or another program that was named, with its children.

    Attributes:
        pid: of its first process; None for a server that is reached by its address alone.
        processes: how many there are.
        private_bytes: what cannot be dropped (heap, KV cache), pages in swap too; None without a process.
        file_bytes: pages of mapped files (weights), which the kernel may drop.
        gpu_bytes: of NVIDIA GPUs' memory.
        paused: whether its first process is stopped.
    """

    name: str
    kind: str
    pid: int | None = None
    url: str | None = None
    processes: int = 0
    private_bytes: int | None = None
    file_bytes: int | None = None
    gpu_bytes: int | None = None
    paused: bool = False
    tokens: TokenRate | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Named:
    """What to watch, as it was asked for.

    Attributes:
        pids: processes, whose children belong to them.
        names: programs; those that start later are found too.
        urls: servers by their address.
    """

    pids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pids or self.names or self.urls)


def named_roots(wanted: Named) -> Callable[[], list[Process]]:
    """Finds the processes that are meant: by number those of now, by name whoever has it when asked.

    Raises:
        BadInput: no process has such a number, or it leads to this very one.
    """
    fixed: list[Process] = []
    for pid in wanted.pids:
        process = process_of(pid)
        if process is None:
            raise BadInput(f"no process has the number {pid}")
        if leads_here(process):
            raise BadInput(f"process {pid} started weigh itself", hint="name another")
        fixed.append(process)

    def find() -> list[Process]:
        return [*fixed, *(process for name in wanted.names for process in named(name))]

    return find


class EngineReader:
    """Finds engines and reads them.

    Args:
        wanted: only these; without any, the engines that are known by name.
        gpu_bytes: bytes of GPU memory that some processes hold.
    """

    def __init__(
        self, wanted: Named | None = None, gpu_bytes: Callable[[Iterable[int]], int | None] | None = None
    ) -> None:
        self._wanted = wanted or Named()
        self._find = named_roots(self._wanted)
        self._gpu_bytes = gpu_bytes or (lambda _pids: None)
        self._look_at_s = 0.0
        self._found: dict[Process, _Watched] = {}
        self._by_url = [_Server(url) for url in map(checked_url, self._wanted.urls)]

    def read(self) -> tuple[EngineLoad, ...]:
        if time.monotonic() >= self._look_at_s:
            began_s = time.thread_time()
            self._look()
            self._look_at_s = time.monotonic() + max(LOOK_S, (time.thread_time() - began_s) / LOOK_SHARE)
        loads = [watched.read(self._gpu_bytes) for watched in self._found.values()]
        loads += [
            EngineLoad(name=server.url, kind="server", url=server.url, tokens=server.rate())
            for server in self._by_url
        ]
        return tuple(load for load in loads if load is not None)

    def wanted_pids(self) -> list[int]:
        """Of the processes that were named and are there; of none when nothing was named."""
        return [process.pid for process in self._found] if self._wanted else []

    def close(self) -> None:
        for server in (*self._by_url, *(watched.server for watched in self._found.values())):
            if server is not None:
                server.close()

    def _look(self) -> None:
        if self._wanted:
            names = dict(everyone()) if self._wanted.names else {}
            roots = {
                process: _kind_and_name(names.get(process) or names_of(process.pid))
                for process in self._find()
            }
        else:
            told = ((process, _kind_and_name(names)) for process, names in everyone())
            roots = {process: (kind, name) for process, (kind, name) in told if kind}
        below = {
            member
            for process in roots
            for member in Tree(lambda process=process: [process]).members()  # type: ignore[misc]
            if member != process
        }
        for process, (kind, name) in roots.items():
            if process not in below and process not in self._found:
                self._found[process] = _Watched(process, kind, name, by_url=bool(self._by_url))
        for process in [process for process, watched in self._found.items() if watched.over]:
            self._found.pop(process).close()


def _kind_and_name(names: tuple[str, ...]) -> tuple[str, str]:
    for name in names:
        if name in _ENGINES:
            return _ENGINES[name], name
        if name.startswith("VLLM::"):
            return "vLLM", name
    return "", names[-1] if names else ""


class _Watched:
    """One engine's processes, and its server when it has one."""

    def __init__(self, root: Process, kind: str, name: str, *, by_url: bool) -> None:
        self._root, self._kind, self._name = root, kind, name
        self._memory = TreeMemory(Tree(lambda: [root]))
        self._by_url = by_url
        self._port_at_s = 0.0
        self.server: _Server | None = None
        self.over = False

    def read(self, gpu_bytes: Callable[[Iterable[int]], int | None]) -> EngineLoad | None:
        memory, members = self._memory.look(), self._memory.members
        self.over = not members
        if not members:
            return None
        paused = is_stopped(self._root)
        if self._kind and self.server is None and not self._by_url and time.monotonic() >= self._port_at_s:
            self._port_at_s = time.monotonic() + LOOK_S
            ports = listening_ports(members)
            if ports:
                self.server = _Server(*(f"http://{HOST}:{port}" for port in ports), kind=self._kind)
        return EngineLoad(
            name=self._name,
            kind=self._kind,
            pid=self._root.pid,
            url=self.server.url if self.server else None,
            processes=len(members),
            private_bytes=memory.private_bytes,
            file_bytes=memory.file_bytes,
            gpu_bytes=gpu_bytes(member.pid for member in members),
            paused=paused,
            tokens=self.server.rate(ask=not paused) if self.server else None,
        )

    def close(self) -> None:
        if self.server is not None:
            self.server.close()


# --- token rates -----------------------------------------------------------------------------------------


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
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if not whole or parts.username or parts.password:
        raise BadInput(f"`{url}` is not a server's address", hint="write it like `http://127.0.0.1:8080`")
    return f"{parts.scheme}://{parts.netloc}"


class _Server:
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
        self._answered_s, self._asked_s = time.monotonic(), 0.0
        if self._ways:
            threading.Thread(target=self._run, name=f"ask {self.url}", daemon=True).start()

    def rate(self, *, ask: bool = True) -> TokenRate:
        """As last told; asks again for the next time."""
        now = time.monotonic()
        if ask and self._ways and not self._ask.is_set() and now - self._asked_s >= ASK_S:
            self._asked_s = now
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
            self._question()
            self._ask.clear()

    def _question(self) -> None:
        for url, path, read in self._ways:
            try:
                counts = read(_get(url + path))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
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
