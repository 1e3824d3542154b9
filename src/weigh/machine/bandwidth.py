"""Memory read bandwidth by number of threads: what bounds decode on a CPU.

Each generated token reads every active weight once, so decode runs at the speed at which memory is read.
The measurement does the same and nothing else: threads walk a buffer much larger than the last-level
cache, from its start to its end, each its own slice.

Why libc's memchr: asked for a byte that is not there, it reads all of its slice once, with the widest
vector loads the C library has for this processor, so that memory and not arithmetic sets its pace. Called
through ctypes it holds no interpreter lock, so Python threads truly run side by side, and nothing has to be
compiled or installed. (A C library whose memchr goes byte by byte would show too little.)

What keeps the figures honest: pages are written first, since untouched anonymous pages all share one page
of zeros that sits in the cache; thread counts take turns, so that a busy neighbour or a changing clock falls
on all of them alike; each figure is the median of the rounds with their spread.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Sequence
from threading import Barrier, Thread

from weigh.errors import BadInput, WeighError
from weigh.machine.cpu import read_cpu
from weigh.machine.machine import Bandwidth, Cpu
from weigh.machine.memory import read_memory
from weigh.machine.samples import measured_rate
from weigh.units import GIB, MIB

_CACHES = 6  # buffer size in last-level caches: what a cache keeps of the last pass stays a small part
_SMALLEST_BYTES, _LARGEST_BYTES = 256 * MIB, 2 * GIB
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 9
_BUDGET_S = 0.9  # for the rounds; filling the buffer comes on top
_FILL, _ABSENT = 1, 0
_Walk = Callable[[int, int], object]


def measure_bandwidth(threads: Sequence[int] | None = None) -> Bandwidth:
    """Read bandwidth of memory for each number of threads; takes about 1 to 2 s.

    Args:
        threads: thread counts to measure; by default 1, 2, 4, ... up to the cores allowed.

    Raises:
        BadInput: a thread count is below 1 or above 1024.
        WeighError: there is no memory for a buffer.
    """
    cpu = read_cpu()
    counts = sorted(set(threads)) if threads is not None else _default_counts(cpu)
    if not counts or counts[0] < 1 or counts[-1] > 1024:
        raise BadInput(f"cannot measure bandwidth with {list(counts)} threads", hint="ask for 1 to 1024")
    size = buffer_bytes(cpu.l3_bytes, read_memory().available_bytes)
    try:
        buffer = _private_memory(size)
    except OSError as error:
        raise WeighError(f"no {size // MIB} MiB of memory to measure bandwidth with") from error
    # Whoever holds the first byte keeps the mapping alive: also a thread still reading after Ctrl-C.
    rates = _pass_rates(ctypes.c_char.from_buffer(buffer), size, counts)
    source = f"every byte of {size // MIB} MiB read in turn"
    if size < 2 * (cpu.l3_bytes or 0):
        source += ", much of which the cache may hold: there was no memory for more"
    return Bandwidth(tuple((count, measured_rate(rates[count], source)) for count in counts))


def buffer_bytes(cache_bytes: int | None, available_bytes: int) -> int:
    """Six last-level caches within 256 MiB to 2 GiB, and never more than a quarter of what is available."""
    wanted = min(max(_CACHES * (cache_bytes or 0), _SMALLEST_BYTES), _LARGEST_BYTES)
    return max(MIB, min(wanted, available_bytes // 4) // MIB * MIB)


def _default_counts(cpu: Cpu) -> list[int]:
    doubling = [1 << power for power in range(cpu.threads.bit_length())]
    return sorted({*doubling, cpu.threads})


def _private_memory(size_bytes: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows: not tested there
        return mmap.mmap(-1, size_bytes)
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _pass_rates(first: ctypes.c_char, size_bytes: int, counts: Sequence[int]) -> dict[int, list[float]]:
    """Bytes/s of each round's walk by thread count, after one walk that fills the buffer."""
    fill, read = _libc_walks()
    _pass_rate(fill, counts[-1], first, size_bytes)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    deadline = time.perf_counter() + _BUDGET_S
    for done in range(_MOST_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        for count in counts:
            rates[count].append(_pass_rate(read, count, first, size_bytes))
    return rates


def _libc_walks() -> tuple[_Walk, _Walk]:
    """(memset that fills, memchr that reads) over (address, bytes), both without the interpreter's lock."""
    libc = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
    memset, memchr = libc.memset, libc.memchr
    memset.argtypes = memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    memset.restype = memchr.restype = ctypes.c_void_p
    return lambda at, length: memset(at, _FILL, length), lambda at, length: memchr(at, _ABSENT, length)


def _pass_rate(walk: _Walk, threads: int, first: ctypes.c_char, size_bytes: int) -> float:
    """Bytes/s of one walk over the buffer, from the first thread's start to the last one's end."""
    share = size_bytes // threads // mmap.PAGESIZE * mmap.PAGESIZE
    together = Barrier(threads)
    spans: list[tuple[float, float]] = []

    def run(thread: int) -> None:
        together.wait()
        start = time.perf_counter()
        walk(ctypes.addressof(first) + thread * share, share)
        spans.append((start, time.perf_counter()))

    running = [Thread(target=run, args=(thread,), daemon=True) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return share * threads / (max(end for _, end in spans) - min(start for start, _ in spans))
