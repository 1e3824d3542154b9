"""Where a process sits, from recorded /proc files; and where this very process sits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from weigh.machine.cgroup import levels

Tree = Callable[[dict[str, str]], Path]


def found(controller: str, root: Path) -> list[tuple[int, str]]:
    return [(level.version, str(level.folder.relative_to(root))) for level in levels(controller, root)]


def test_v2_lists_the_group_and_every_ancestor(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
        }
    )
    assert found("memory", root) == [
        (2, "sys/fs/cgroup/user.slice/app.scope"),
        (2, "sys/fs/cgroup/user.slice"),
        (2, "sys/fs/cgroup"),
    ]


def test_v1_container_sees_its_group_at_the_mount_point(tree: Tree) -> None:
    # Docker without a cgroup namespace: the mount shows only the container's group, under the host's name.
    root = tree(
        {
            "proc/self/cgroup": "7:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
            "proc/self/mountinfo": "41 40 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup c rw,memory\n"
            "42 40 0:34 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
        }
    )
    assert found("memory", root) == [(1, "sys/fs/cgroup/memory")]
    assert found("cpu", root) == [(1, "sys/fs/cgroup/cpu,cpuacct")]
    assert found("cpuset", root) == []


def test_group_outside_what_is_mounted_falls_back_to_the_mount_point(tree: Tree) -> None:
    mount = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    root = tree({"proc/self/cgroup": "0::/../sibling\n", "proc/self/mountinfo": mount})
    assert found("memory", root) == [(2, "sys/fs/cgroup")]


def test_hybrid_system_is_asked_in_both_versions(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "4:memory:/job\n1:name=systemd:/job\n0::/job\n",
            "proc/self/mountinfo": "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        }
    )
    assert found("memory", root) == [
        (1, "sys/fs/cgroup/memory/job"),
        (1, "sys/fs/cgroup/memory"),
        (2, "sys/fs/cgroup/unified/job"),
        (2, "sys/fs/cgroup/unified"),
    ]


def test_damaged_files_give_no_levels(tree: Tree) -> None:
    root = tree({"proc/self/cgroup": "x\n::\n", "proc/self/mountinfo": "1 2 3 - cgroup2\n- -\n\n"})
    assert found("memory", root) == []


@pytest.mark.skipif(not levels("memory"), reason="no memory control group is mounted here")
def test_this_process_is_in_the_group_found_first() -> None:
    members = (levels("memory")[0].folder / "cgroup.procs").read_text().split()
    assert str(os.getpid()) in members


def test_another_process_is_looked_up_by_its_number(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "0::/mine\n",
            "proc/77/cgroup": "0::/engine\n",
            "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
        }
    )
    folders = [str(level.folder.relative_to(root)) for level in levels("memory", root, 77)]
    assert folders == ["sys/fs/cgroup/engine", "sys/fs/cgroup"]
