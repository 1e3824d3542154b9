"""The engines that run here: which processes they are, the memory they hold, and how fast they give tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from weigh.engines.engine import HOST
from weigh.errors import BadInput
from weigh.machine.processes import (
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
from weigh.machine.tree_memory import TreeMemory
from weigh.monitor.token_rates import Server, TokenRate, checked_url

LOOK_S = 5.0  # between two looks at all processes, which cost some milliseconds, on a full system many
LOOK_SHARE = 0.002  # of one core, at most
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
        self._by_url = [Server(url) for url in map(checked_url, self._wanted.urls)]

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
        self._memory = TreeMemory(Tree(lambda: [root]), lazily=True)
        self._by_url = by_url
        self._port_at_s = 0.0
        self.server: Server | None = None
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
                self.server = Server(*(f"http://{HOST}:{port}" for port in ports), kind=self._kind)
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
