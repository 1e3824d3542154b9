"""What the live view draws: the last samples as series of shares, each 0 to 1 or None where nothing is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from weigh.monitor.engines import EngineLoad
from weigh.monitor.sample import Sample

MOST_SAMPLES = 600

Series = tuple[float | None, ...]


class History:
    """The samples of the last while, oldest first."""

    def __init__(self, most: int = MOST_SAMPLES) -> None:
        self._samples: deque[Sample] = deque(maxlen=most)

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    def memory(self, count: int) -> Series:
        """Used, of what may be used."""
        return self._last(count, (s.used_bytes / s.memory.usable_bytes for s in self._samples))

    def busy(self, count: int) -> Series:
        return self._last(count, (s.processors.busy for s in self._samples))

    def gpu_busy(self, index: int, count: int) -> Series:
        loads = (s.gpus[index].busy if index < len(s.gpus) else None for s in self._samples)
        return self._last(count, loads)

    def tokens(self, engine: EngineLoad, count: int) -> Series:
        """Decode rate of an engine, of its highest among these."""
        rates = self._last(count, (_rate(s, engine) for s in self._samples))
        most = max((rate for rate in rates if rate is not None), default=0.0)
        return tuple(None if rate is None else rate / most if most else 0.0 for rate in rates)

    def _last(self, count: int, values: Iterable[float | None]) -> Series:
        return tuple(values)[-count:]


def _rate(sample: Sample, engine: EngineLoad) -> float | None:
    key = (engine.pid, engine.url)
    found = next((one for one in sample.engines if (one.pid, one.url) == key), None)
    return found.tokens.decode_tokens_per_s if found and found.tokens else None
