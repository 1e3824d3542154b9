"""Sampling at an even pace, with a guard beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from weigh.errors import BadInput
from weigh.machine.machine import Memory
from weigh.machine.processes import Tree, names_of
from weigh.monitor.acts import Said, guarded_by
from weigh.monitor.engines import Named, named_roots
from weigh.monitor.gpus import GpuReader
from weigh.monitor.guard import GRACE_S, Gauge, Guard, Limit, OnLimit
from weigh.monitor.sample import MemoryReader, Sample, Sampler, used_bytes

FIRST_S = 0.5  # twice that to the first sample shown: rates need two, and servers take a while to answer


@dataclass(frozen=True, slots=True)
class Guarding:
    """How memory is to be guarded.

    Attributes:
        memory: of RAM under its limits.
        gpu_memory: of each NVIDIA GPU.
        on_limit: None chooses: pause what is named, warn where nothing is.
        grace_s: between SIGTERM and SIGKILL.
    """

    memory: Limit | None = None
    gpu_memory: Limit | None = None
    on_limit: OnLimit | None = None
    grace_s: float = GRACE_S

    def __bool__(self) -> bool:
        return self.memory is not None or self.gpu_memory is not None


@contextmanager
def watch(
    wanted: Named, guarding: Guarding, *, interval_s: float, said: Said = lambda _act: None
) -> Iterator[Iterator[Sample]]:
    """The machine every `interval_s`, for ever, the first a second from now.

    Args:
        wanted: the engines and other programs to read, and, by number or name, those the guard may touch.
        said: is told what the guard did, in the guard's thread.

    Raises:
        BadInput: no such process, or nothing is named that could be paused or stopped.
    """
    guard = watch_guard(wanted, guarding, interval_s=interval_s) if guarding else None
    sampler = Sampler(wanted)
    with guarded_by(guard, said):
        try:
            yield _evenly(sampler, interval_s)
        finally:
            sampler.close()


def _evenly(sampler: Sampler, interval_s: float) -> Iterator[Sample]:
    """At even times; those that were missed are left out."""
    for _ in range(2):
        sampler.read()
        time.sleep(FIRST_S)
    next_s = time.monotonic()
    while True:
        yield sampler.read()
        next_s = max(next_s + interval_s, time.monotonic())
        time.sleep(max(0.0, next_s - time.monotonic()))


def watch_guard(wanted: Named, guarding: Guarding, *, interval_s: float) -> Guard:
    touchable = Named(wanted.pids, wanted.names)
    on_limit = guarding.on_limit or (OnLimit.PAUSE if touchable else OnLimit.WARN)
    if on_limit is not OnLimit.WARN and not touchable:
        raise BadInput(f"nothing is named to {on_limit}", hint="name a process by its number or its name")
    tree = Tree(named_roots(touchable)) if touchable else None
    own = (name for pid in touchable.pids for name in names_of(pid)[-1:])
    what = ", ".join(dict.fromkeys((*touchable.names, *own)))
    reader = MemoryReader(pids=lambda: [process.pid for process in tree.last_members] if tree else [])
    gauges = machine_gauges(guarding, on_limit, reader.read, interval_s)
    return Guard(gauges, tree, what=what, grace_s=guarding.grace_s)


def machine_gauges(
    guarding: Guarding, on_limit: OnLimit, read: Callable[[], Memory], interval_s: float
) -> list[Gauge]:
    """Raises BadInput when GPU memory is to be guarded and NVML tells none."""
    gauges = []
    if guarding.memory is not None:

        def memory() -> tuple[int, int]:
            found = read()
            return used_bytes(found), found.usable_bytes

        gauges.append(Gauge("memory", memory, guarding.memory, on_limit, interval_s))
    if guarding.gpu_memory is not None:
        gpus = GpuReader()
        count = len(gpus.nvidia_memory())
        if not count:
            raise BadInput("no NVIDIA GPU tells its memory here")
        gauges += [_gpu_gauge(gpus, at, guarding.gpu_memory, on_limit, interval_s) for at in range(count)]
    return gauges


def _gpu_gauge(gpus: GpuReader, index: int, limit: Limit, on_limit: OnLimit, interval_s: float) -> Gauge:
    def read() -> tuple[int, int] | None:
        found = gpus.nvidia_memory()
        return found[index] if index < len(found) else None

    return Gauge(f"memory of GPU {index}", read, limit, on_limit, interval_s)
