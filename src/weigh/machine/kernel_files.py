"""The kernel's small text files under /proc and /sys, read without surprises.

A file that is absent, unreadable or odd reads as nothing: what a probe cannot know it leaves unknown.
"""

from __future__ import annotations

from pathlib import Path

_MOST_CHARACTERS = 1 << 22
_MOST_CPUS = 1 << 16


def text(path: Path, most_characters: int = _MOST_CHARACTERS) -> str:
    """The file's first characters, stripped; "" when it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(most_characters).strip(" \t\n\0")
    except (OSError, ValueError):
        return ""


def number(path: Path) -> int | None:
    """The file's decimal number; None when it holds none (`max`, nothing, no such file)."""
    return _int(text(path))


def pair(path: Path) -> tuple[int | None, int | None]:
    """The file's first two words as numbers; None for one that is not, as in ``max 100000``."""
    first, second, *_ = [*text(path).split(), "", ""]
    return _int(first), _int(second)


def table(path: Path) -> dict[str, int]:
    """Name -> number, from lines such as ``inactive_file 4096`` and ``MemTotal: 24684084 kB``."""
    rows = (line.split() for line in text(path).splitlines())
    found = {row[0].rstrip(":"): _int(row[1]) for row in rows if len(row) > 1}
    return {name: value for name, value in found.items() if value is not None}


def cpu_list(written: str) -> frozenset[int]:
    """CPUs meant by the kernel's list format: ``0-3,8`` is {0, 1, 2, 3, 8}."""
    cpus: set[int] = set()
    for part in written.split(","):
        first, _, last = part.strip().partition("-")
        start, end = _int(first), _int(last or first)
        if start is not None and end is not None and end < _MOST_CPUS:
            cpus.update(range(start, end + 1))
    return frozenset(cpus)


def folders(path: Path) -> list[Path]:
    """What lies in a folder, sorted by name; nothing when it cannot be listed."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _int(written: str) -> int | None:
    try:
        return int(written)
    except ValueError:
        return None
