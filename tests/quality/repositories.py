"""Real git repositories in a temporary folder, with commits of known dates."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

DAY_S = 86_400
FIRST_UNIX_S = 1_700_000_000


class Repository:
    """A repository whose commits are a day apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commits = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, given: bytes = b"") -> bytes:
        when = f"{FIRST_UNIX_S + self.commits * DAY_S} +0000"
        who = {
            f"GIT_{role}_{part}": "someone@x"
            for role in ("AUTHOR", "COMMITTER")
            for part in ("NAME", "EMAIL")
        }
        times = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"]}
        command = ["git", "-C", str(self.folder), *arguments]
        found = subprocess.run(
            command, input=given, env={**own, **who, **times}, capture_output=True, check=True
        )
        return found.stdout

    def commit(self, files: Mapping[str, str | bytes]) -> int:
        """Write `files` and commit all there is; the commit's time."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.commit_all()

    def commit_all(self) -> int:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        self.commits += 1
        return FIRST_UNIX_S + (self.commits - 1) * DAY_S


def program(seed: str, lines: int = 40) -> str:
    """Python that no other seed shares a line with."""
    body = "".join(f"    total_{seed} += rate_{seed}_{n} * {n % 10}  # of {seed}\n" for n in range(lines))
    return f"def sum_{seed}(total_{seed}):\n{body}    return total_{seed}\n"
