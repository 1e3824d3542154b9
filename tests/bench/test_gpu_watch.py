"""GPUs watched during a turn, with readings made by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from weigh.bench.gpu_watch import GpuWatch
from weigh.monitor.gpus import GpuLoad, GpuReader


class Readings:
    """Gives one reading after another, and the last one from then on."""

    def __init__(self, *readings: tuple[GpuLoad, ...], held: Sequence[int | None] = (None,)) -> None:
        self._readings, self._held = list(readings), list(held)
        self.asked: list[tuple[int, ...]] = []

    def read(self) -> tuple[GpuLoad, ...]:
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]

    def used_by(self, pids: Sequence[int]) -> int | None:
        self.asked.append(tuple(pids))
        return self._held.pop(0) if len(self._held) > 1 else self._held[0]


def gpu(busy: float | None = None, clock_hz: float | None = None, slowed: tuple[str, ...] = ()) -> GpuLoad:
    return GpuLoad(name="A", vendor="NVIDIA", busy=busy, clock_hz=clock_hz, slowed=slowed)


def test_most_memory_mean_load_and_every_reason_are_told() -> None:
    idle = gpu(0.0, 1e9)
    readings = Readings(
        (idle, idle),  # as it is entered
        (gpu(0.1, 1e9), gpu(0.5, 2e9)),
        (gpu(0.3, 1e9), gpu(0.9, 4e9, ("heat",))),
        held=(5, 3),
    )
    watch = GpuWatch(readings, lambda: (7,), every_s=3600)
    with watch:
        watch._sample()
    assert watch.seen is not None
    assert watch.seen.held_bytes == 5
    assert watch.seen.busy == pytest.approx(0.7)  # of the busier one
    assert watch.seen.clock_hz == pytest.approx(3e9)
    assert watch.seen.slowed == ("heat",)
    assert readings.asked == [(7,), (7,)]


def test_it_samples_by_itself_while_the_block_runs() -> None:
    readings = Readings((gpu(0.5),))
    with GpuWatch(readings, tuple, every_s=0.001):
        deadline_s = time.monotonic() + 60
        while len(readings.asked) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.001)
    assert len(readings.asked) >= 3


def test_where_no_gpu_can_be_read_nothing_is_told() -> None:
    broken = GpuLoad(name="A", vendor="NVIDIA", problem="no NVIDIA driver is loaded")
    for readings in (Readings(()), Readings((broken,))):
        with GpuWatch(readings, tuple) as watch:
            pass
        assert watch.seen is None
        assert readings.asked == []


def test_the_readers_of_this_machine_fit() -> None:
    with GpuWatch(GpuReader(), tuple) as watch:
        pass
    assert watch.seen is None or watch.seen.busy is None or 0 <= watch.seen.busy <= 1
