"""Where this process sits in the control groups, v1 and v2, and every level above it.

A limit set on any ancestor binds, so each reader asks all levels and takes the tightest. Both versions
are looked at, since a system may mount some controllers the old way and some the new way.

Formats: cgroups(7) and proc_pid_mountinfo(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weigh.machine import kernel_files


@dataclass(frozen=True, slots=True)
class Level:
    """One control group above (or around) this process, as a folder of the mounted hierarchy."""

    version: int  # 1 or 2
    folder: Path


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    shown: PurePosixPath  # the group that the mount point shows, as the kernel names it
    point: PurePosixPath


def levels(controller: str, root: Path = Path("/"), process: int | str = "self") -> list[Level]:
    """The process's own group first, then its ancestors as far as they are mounted here.

    Args:
        process: a process's number, to ask for another than this one.
    """
    groups = _own_groups(root, controller, process)
    return [
        Level(mount.version, root / folder.relative_to("/"))
        for mount in _mounts(root)
        if mount.version in groups and (mount.version == 2 or controller in mount.controllers)
        for folder in _upwards(mount, groups[mount.version])
    ]


def _own_groups(root: Path, controller: str, process: int | str) -> dict[int, PurePosixPath]:
    """Version -> the process's group, from lines such as ``4:memory:/a/b`` (v1) and ``0::/a/b`` (v2)."""
    groups = {}
    for line in kernel_files.text(root / f"proc/{process}/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if not names:
            groups[2] = PurePosixPath(path)
        elif controller in names.split(","):
            groups[1] = PurePosixPath(path)
    return groups


def _mounts(root: Path) -> list[_Mount]:
    mounts = []
    for line in kernel_files.text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        shown, point = PurePosixPath(fields[3]), PurePosixPath(fields[4])
        version = 2 if kind[0] == "cgroup2" else 1
        if point.is_absolute():
            mounts.append(_Mount(version, frozenset(kind[2].split(",")), shown, point))
    return mounts


def _upwards(mount: _Mount, group: PurePosixPath) -> list[PurePosixPath]:
    """Folders from the group's own up to the mount point.

    A container often sees only a part of the hierarchy: when the group is not below what the mount shows
    (or is reached through ``..``), the mount point itself is the nearest group that can be read.
    """
    if ".." in group.parts or not group.is_relative_to(mount.shown):
        return [mount.point]
    own = mount.point / group.relative_to(mount.shown)
    return [own, *(parent for parent in own.parents if parent.is_relative_to(mount.point))]
