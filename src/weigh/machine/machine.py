"""What a model would run on: the values every probe fills in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weigh.figure import Figure


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processors this process may use.

    Attributes:
        allowed_cpus: logical CPUs after affinity, cpuset and quota; fractional under a CPU quota.
        instruction_sets: the ones inference kernels branch on, e.g. ``("AVX2", "AVX512_VNNI")``.
        l3_bytes: last-level cache the kernel reports, shared with neighbours on a virtual machine.
    """

    model: str
    architecture: str
    logical_cpus: int
    physical_cores: int
    allowed_cpus: float
    instruction_sets: tuple[str, ...]
    l3_bytes: int | None
    numa_nodes: int
    virtual: bool

    @property
    def threads(self) -> int:
        """Threads an engine should use: whole allowed cores, without hyper-thread siblings."""
        return max(1, min(self.physical_cores, int(self.allowed_cpus)))


@dataclass(frozen=True, slots=True)
class Memory:
    """RAM, as far as this process may take it.

    Attributes:
        limit_bytes: the tightest cgroup limit above this process; None when unlimited.
        available_bytes: what can be taken now without swapping, under that limit; reclaimable page
            cache counts as available.
        page_cache_bytes: file pages in memory that the kernel can drop.
        limited_by: `cgroup v1`, `cgroup v2` or "" when nothing limits it.
    """

    total_bytes: int
    available_bytes: int
    page_cache_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    limit_bytes: int | None = None
    limited_by: str = ""

    @property
    def usable_bytes(self) -> int:
        """All RAM this process could ever have: the total, or the limit when it is lower."""
        return min(self.total_bytes, self.limit_bytes or self.total_bytes)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that is there. `problem` says why its figures are unknown when they could not be read."""

    name: str
    vendor: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that holds `path`, where models live."""

    path: Path
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine as probed; nothing here took time to measure."""

    os: str
    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...]
    disk: Disk

    @property
    def fingerprint(self) -> str:
        """Changes when the processors, the memory or the cores allowed change; names nobody."""
        import hashlib  # 5 ms, which a probe need not pay

        parts = (
            self.os.split()[0],
            self.cpu.model,
            self.cpu.architecture,
            self.cpu.logical_cpus,
            self.cpu.allowed_cpus,
            self.cpu.instruction_sets,
            self.memory.usable_bytes >> 28,
            tuple(g.name for g in self.gpus),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Memory read bandwidth by number of threads, measured here."""

    by_threads: tuple[tuple[int, Figure], ...]

    @property
    def best(self) -> Figure:
        return max((figure for _, figure in self.by_threads), key=lambda f: f.value)
