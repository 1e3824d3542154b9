"""What the GPUs did during a turn: memory the engine held there, share of the time at work, clocks and why low."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from weigh.monitor.gpus import GpuLoad

SAMPLE_S = 0.25


class Reader(Protocol):
    """As `weigh.monitor.gpus.GpuReader`."""

    def read(self) -> tuple[GpuLoad, ...]: ...

    def used_by(self, pids: Sequence[int]) -> int | None: ...


@dataclass(frozen=True, slots=True)
class OnGpus:
    """Of all GPUs together; None where no driver tells.

    Attributes:
        held_bytes: most that the engine's processes held at once (NVIDIA's driver alone tells that).
        busy: share of the time in which a GPU computed, of the busiest one.
        clock_hz: median of the busiest one.
        slowed: why a clock was held down, at any time.
    """

    held_bytes: int | None
    busy: float | None
    clock_hz: float | None
    slowed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "held_bytes": self.held_bytes,
            "busy": self.busy,
            "clock_hz": self.clock_hz,
            "slowed": list(self.slowed),
        }


class GpuWatch:
    """Samples while its block runs, in a thread that is not started where there is no GPU.

    Args:
        pids: of the engine's processes, asked at each sample.
    """

    def __init__(
        self, reader: Reader, pids: Callable[[], Sequence[int]], *, every_s: float = SAMPLE_S
    ) -> None:
        self._reader, self._pids, self._every_s = reader, pids, every_s
        self._loads: list[tuple[GpuLoad, ...]] = []
        self._held: list[int] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if any(load.problem is None for load in self._reader.read()):
            self._thread = threading.Thread(target=self._watch, name="GPU watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._sample()

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            self._sample()

    def _sample(self) -> None:
        self._loads.append(self._reader.read())
        held = self._reader.used_by(self._pids())
        if held is not None:
            self._held.append(held)

    @property
    def seen(self) -> OnGpus | None:
        """None where there is no GPU that can be read."""
        if not self._loads:
            return None
        by_gpu = list(zip(*self._loads, strict=True))
        busy = [_mean([load.busy for load in loads]) for loads in by_gpu]
        busiest = max(range(len(by_gpu)), key=lambda gpu: busy[gpu] or 0.0)
        clocks = [load.clock_hz for load in by_gpu[busiest] if load.clock_hz is not None]
        words = (word for loads in self._loads for load in loads for word in load.slowed or ())
        return OnGpus(
            held_bytes=max(self._held) if self._held else None,
            busy=busy[busiest],
            clock_hz=statistics.median(clocks) if clocks else None,
            slowed=tuple(dict.fromkeys(words)),
        )


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return statistics.fmean(told) if told else None
