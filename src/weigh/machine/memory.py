"""RAM this process may take: what the system has, cut by the control groups it lives in.

A group's usage counts the page cache of files read in it, yet the kernel drops those pages before it
kills anyone, so a group that has just read a model file is not full. Reclaimable page cache (active and
inactive file pages) is therefore taken off the usage, as the kernel's own MemAvailable does for the system.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weigh.machine import kernel_files
from weigh.machine.cgroup import Level, levels
from weigh.machine.commands import Run, output
from weigh.machine.machine import Memory
from weigh.units import KIB


def read_memory(
    root: Path = Path("/"), *, run: Run = output, within: Sequence[Level] | None = None
) -> Memory:
    """Memory as /proc/meminfo and the control groups tell it; on macOS as its commands do, else as psutil.

    Without /proc no limit is known; with psutil (Windows: not tested there) page cache reads 0.

    Args:
        run: stands in for the system's commands, to play back a recording.
        within: the control groups whose limits count; None looks for those of this process, which takes
            most of the time.
    """
    info = {name: kib * KIB for name, kib in kernel_files.table(root / "proc/meminfo").items()}
    if "MemTotal" not in info:
        return _memory_elsewhere(run)
    system = _system_memory(info)
    found = levels("memory", root) if within is None else within
    groups = [_group(level, system.total_bytes) for level in found]
    return _swap_under(groups, _ram_under(groups, system))


@dataclass(frozen=True, slots=True)
class _Group:
    """What one control group allows and holds, in bytes; a limit of None binds nothing."""

    version: int
    limit_bytes: int | None
    usage_bytes: int
    page_cache_bytes: int
    swap_limit_bytes: int | None
    swap_usage_bytes: int


def _system_memory(info: dict[str, int]) -> Memory:
    cache = info.get("Active(file)", 0) + info.get("Inactive(file)", 0)
    return Memory(
        total_bytes=info["MemTotal"],
        available_bytes=info.get("MemAvailable", info.get("MemFree", 0) + cache),
        page_cache_bytes=cache,
        swap_total_bytes=info.get("SwapTotal", 0),
        swap_free_bytes=info.get("SwapFree", 0),
    )


def _group(level: Level, ram_bytes: int) -> _Group:
    return _group_v1(level.folder, ram_bytes) if level.version == 1 else _group_v2(level.folder, ram_bytes)


def _group_v1(folder: Path, ram_bytes: int) -> _Group:
    """`hierarchical_memory_limit` also knows of ancestors that a container does not show.

    v1 limits memory and swap together (`memsw`), so swap's share is the difference.
    Source: Documentation/admin-guide/cgroup-v1/memory.rst of Linux.
    """
    stat = kernel_files.table(folder / "memory.stat")
    limits = (kernel_files.number(folder / "memory.limit_in_bytes"), stat.get("hierarchical_memory_limit"))
    limit = _binding(limits, ram_bytes)
    both_limit = kernel_files.number(folder / "memory.memsw.limit_in_bytes")
    usage = kernel_files.number(folder / "memory.usage_in_bytes") or 0
    both_usage = kernel_files.number(folder / "memory.memsw.usage_in_bytes") or usage
    return _Group(
        version=1,
        limit_bytes=limit,
        usage_bytes=usage,
        page_cache_bytes=stat.get("total_active_file", 0) + stat.get("total_inactive_file", 0),
        swap_limit_bytes=None if limit is None or both_limit is None else max(0, both_limit - limit),
        swap_usage_bytes=max(0, both_usage - usage),
    )


def _group_v2(folder: Path, ram_bytes: int) -> _Group:
    """`memory.high` binds like `memory.max`: above it every allocation is slowed to a crawl.

    Source: Documentation/admin-guide/cgroup-v2.rst of Linux.
    """
    stat = kernel_files.table(folder / "memory.stat")
    limits = (kernel_files.number(folder / "memory.max"), kernel_files.number(folder / "memory.high"))
    return _Group(
        version=2,
        limit_bytes=_binding(limits, ram_bytes),
        usage_bytes=kernel_files.number(folder / "memory.current") or 0,
        page_cache_bytes=stat.get("active_file", 0) + stat.get("inactive_file", 0),
        swap_limit_bytes=kernel_files.number(folder / "memory.swap.max"),
        swap_usage_bytes=kernel_files.number(folder / "memory.swap.current") or 0,
    )


def _binding(limits: tuple[int | None, ...], ram_bytes: int) -> int | None:
    """The lowest limit below all RAM; so v1's huge `unlimited` (2**63 less a page) falls out."""
    return min((limit for limit in limits if limit is not None and limit < ram_bytes), default=None)


def _ram_under(groups: list[_Group], system: Memory) -> Memory:
    """Available is what the fullest group leaves, and page cache is that group's."""
    memory = system
    for group in groups:
        if group.limit_bytes is None:
            continue
        kept = max(0, group.usage_bytes - group.page_cache_bytes)
        available = max(0, group.limit_bytes - kept)
        if available < memory.available_bytes:
            cache = min(group.page_cache_bytes, group.usage_bytes)
            memory = replace(memory, available_bytes=available, page_cache_bytes=cache)
        if group.limit_bytes < memory.usable_bytes:
            memory = replace(memory, limit_bytes=group.limit_bytes, limited_by=f"cgroup v{group.version}")
    return memory


def _swap_under(groups: list[_Group], memory: Memory) -> Memory:
    bound = [(g.swap_limit_bytes, g.swap_usage_bytes) for g in groups if g.swap_limit_bytes is not None]
    total = min([memory.swap_total_bytes, *(limit for limit, _ in bound)])
    free = min([memory.swap_free_bytes, *(max(0, limit - used) for limit, used in bound)])
    return replace(memory, swap_total_bytes=total, swap_free_bytes=free)


def _memory_elsewhere(run: Run) -> Memory:
    if platform.system() == "Darwin":
        from weigh.machine.apple import read_memory_apple

        told = read_memory_apple(run)
        if told is not None:
            return told
    import psutil

    ram, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Memory(
        total_bytes=ram.total,
        available_bytes=ram.available,
        page_cache_bytes=0,
        swap_total_bytes=swap.total,
        swap_free_bytes=swap.free,
    )
