"""Recorded systems: a folder that looks like the / of another machine, and what its commands printed.

A recording is one text file of tests/machine/data/recorded: its source in comments, then `=== path` before
each file's content, NUL written as \\0; paths below `commands/` hold what a command printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import start
from weigh.machine.cgroup import levels

__all__ = ["start"]

Tree = Callable[[dict[str, str]], Path]
Group = Callable[[dict[str, str]], Path]
RECORDED = Path(__file__).with_name("data") / "recorded"


@dataclass(frozen=True)
class Recording:
    root: Path

    def run(self, words: Sequence[str]) -> str:
        """What the command printed there; "" as for one that is missing."""
        path = self.root / "commands" / " ".join(words)
        return path.read_text() if path.exists() else ""


Recorded = Callable[[str], Recording]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes {path below /: content} and gives the root; more calls add to the same tree."""

    def write(files: dict[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


@pytest.fixture
def recorded(tree: Tree) -> Recorded:
    """The machine of that name in tests/machine/data/recorded."""

    def play(name: str) -> Recording:
        files: dict[str, str] = {}
        for part in (RECORDED / f"{name}.tree").read_text().split("=== ")[1:]:
            path, _, content = part.partition("\n")
            files[path] = content.replace("\\0", "\0")
        return Recording(tree(files))

    return play


@pytest.fixture
def control_group() -> Iterator[Group]:
    """Makes a real control group of this system with the first of the given files that its version knows.

    The group is a child of this process's own (v1) or of the nearest one that hands the controller on (v2).
    Skips where the system does not let us.
    """
    made: list[Path] = []

    def make(values: dict[str, str]) -> Path:
        controller = next(iter(values)).partition(".")[0]
        for level in levels(controller):
            if level.version == 2 and not _hands_on(level.folder, controller):
                continue
            group = level.folder / f"weigh-test-{os.getpid()}"
            try:
                group.mkdir()
                made.append(group)
                for name, value in values.items():
                    if (group / name).exists():
                        (group / name).write_text(value)
            except OSError as error:
                pytest.skip(f"no control group can be made here: {error}")
            return group
        pytest.skip(f"no control group with the {controller} controller is mounted here")

    yield make
    for group in made:
        group.rmdir()


def _hands_on(folder: Path, controller: str) -> bool:
    return controller in (folder / "cgroup.subtree_control").read_text().split()
