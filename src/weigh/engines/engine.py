"""The short interface every engine stands behind, and the values that cross it.

An engine runs in a child process under limits. What it does wrong arrives as an `EngineError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from weigh.model.ggml_types import GgmlType

HOST = "127.0.0.1"  # engines are reached from this machine alone


@dataclass(frozen=True, slots=True)
class Settings:
    """How the engine is to hold and run a model (llama.cpp's words and defaults).

    Attributes:
        context_tokens: tokens of context per sequence.
        parallel: sequences held at once.
        ubatch_tokens: tokens computed at once in prefill (llama.cpp `n_ubatch`).
        threads: None lets the machine's own count stand.
        mmap: map the file (the engine's default) instead of reading it into private memory.
    """

    context_tokens: int = 4096
    parallel: int = 1
    kv_type_k: GgmlType = GgmlType.F16
    kv_type_v: GgmlType = GgmlType.F16
    batch_tokens: int = 2048
    ubatch_tokens: int = 512
    threads: int | None = None
    mmap: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may take before it is ended."""

    memory_bytes: int | None = None
    start_s: float = 600.0
    silence_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes the engine itself says it will take, before allocating anything (MiB resolution)."""

    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    by_buffer: dict[str, tuple[int, int, int]]  # buffer -> (weights, KV cache, compute) bytes

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory of the engine's process tree.

    `private_bytes` cannot be dropped (heap, KV cache, repacked weights); `file_bytes` are mapped file
    pages the kernel may drop; peaks are the highest seen since start.
    """

    private_bytes: int
    file_bytes: int
    peak_private_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One request as it happened. Times are seconds since it was sent.

    Attributes:
        prompt_tokens: tokens prefilled, without those found in the cache.
        cached_tokens: tokens of the prompt found in the cache.
        prefill_s, decode_s: the engine's own clock; decode covers `output_tokens - 1` steps.
        token_times_s: arrival of each output token at the client.
        step_times_s: each decode step by the engine's own clock, which a late client does not blur;
            steps whose tokens came in one piece share their time evenly.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_s: float
    decode_s: float
    token_times_s: tuple[float, ...]
    step_times_s: tuple[float, ...] = ()

    @property
    def prefill_tokens_per_s(self) -> float:
        return self.prompt_tokens / self.prefill_s

    @property
    def decode_tokens_per_s(self) -> float:
        """Mean over the output after the first token (llama-bench's tg)."""
        return (self.output_tokens - 1) / self.decode_s


class Session(Protocol):
    """A loaded model in a running child process."""

    load_s: float
    command: tuple[str, ...]

    def generate(self, prompt: Sequence[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        """Prefill `prompt` (token ids), then decode exactly `output_tokens`, ignoring end tokens."""
        ...

    def memory(self) -> ProcessMemory: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class AnswersWhole(Protocol):
    """A session that can also answer in one piece, by the engine's clock alone."""

    def answer(self, prompt: Any, output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        """As `Session.generate`, without times of tokens and steps: handing them out takes the engine 2 %."""
        ...


class Engine(Protocol):
    """A program that runs models.

    Attributes:
        takes: the files it runs, in the words of `ModelSpec.format`: `gguf`, or `safetensors` for folders.
    """

    name: str
    takes: str

    def version(self) -> str:
        """Version and build; raises EngineMissing when it is not there."""
        ...

    def start(self, model: Path, settings: Settings, limits: Limits) -> Session:
        """Load `model` in a child process and wait until it answers."""
        ...

    def cpu_features(self, instruction_sets: Sequence[str]) -> tuple[str, ...]:
        """Of the CPU's instruction sets, those this build uses: they decide what it repacks."""
        ...

    def layout(self, model: Path, settings: Settings) -> Layout:
        """The engine's own figures for memory, without allocating; a header-only file is enough."""
        ...
