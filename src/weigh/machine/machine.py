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
    """A GPU that is there, or a part of one that is split.

    Attributes:
        total_bytes: memory a process may take of it; of a GPU that shares the system's, the driver's limit.
        problem: why engines cannot use it, or why its figures are unknown, in plain words.
        unified: its memory is the system's, so what it takes is gone from RAM.
        pci_id: vendor and device number, as ``1002:744c``; "" for a GPU that is on no bus.
        architecture: the compiler's name of an AMD GPU (``gfx1100``).
        backends: code paths its driver allows here, best first, whether or not they are installed.
        part_of: the name of the whole GPU when this is a part of one (MIG).
        memory_share, compute_share: of the whole, 0 to 1; its bandwidth goes with the first.
        notes: what else a person should know of it.
    """

    name: str
    vendor: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    problem: str | None = None
    unified: bool = False
    pci_id: str = ""
    architecture: str = ""
    backends: tuple[str, ...] = ()
    part_of: str = ""
    memory_share: float = 1.0
    compute_share: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that holds `path`, where models live."""

    path: Path
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine as probed; nothing here took time to measure.

    Attributes:
        board: as a single-board computer names itself (``Raspberry Pi 5 Model B Rev 1.0``); "" elsewhere.
        notes: what bounds the machine from outside: WSL's share of Windows' memory, a board's power mode.
    """

    os: str
    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...]
    disk: Disk
    board: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes when the processors, the memory or the GPUs change; names nobody.

        Affinity and the limits of a container leave it as it is: see `limits`.
        """
        import hashlib  # 5 ms, which a probe need not pay

        parts = (
            self.os.split()[0],
            self.cpu.model,
            self.cpu.architecture,
            self.cpu.logical_cpus,
            float(self.cpu.logical_cpus),  # here were those allowed, once; without limits they are the same
            self.cpu.instruction_sets,
            self.memory.total_bytes >> 28,
            tuple(sorted(g.name for g in self.gpus)),  # variables that hide GPUs only reorder them
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def limits(self) -> dict[str, float]:
        """How much less than the machine this process may use: `allowed_cpus`, `memory_limit_bytes`; empty for all."""
        found: dict[str, float] = {}
        if self.cpu.allowed_cpus < self.cpu.logical_cpus:
            found["allowed_cpus"] = self.cpu.allowed_cpus
        if self.memory.usable_bytes < self.memory.total_bytes:
            found["memory_limit_bytes"] = self.memory.usable_bytes
        return found

    @property
    def speed_fingerprint(self) -> str:
        """The fingerprint and, where they are not all, the CPUs allowed: what speeds measured here hold for."""
        allowed = self.limits.get("allowed_cpus")
        return self.fingerprint if allowed is None else f"{self.fingerprint}-{allowed:.3g}-cpus"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Memory read bandwidth by number of threads, measured here."""

    by_threads: tuple[tuple[int, Figure], ...]

    @property
    def best(self) -> Figure:
        return max((figure for _, figure in self.by_threads), key=lambda f: f.value)
