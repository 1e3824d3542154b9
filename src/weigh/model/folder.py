"""Files below a folder, listed without following links in circles or out of what was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_ENTRIES = 50_000  # of one listing; stores of hundreds of models have some thousands


def sizes_below(folder: Path, depth: int = 4, *, inside: Path | None = None) -> dict[str, int]:
    """Regular files below a folder and their sizes, by their path from it with slashes.

    Folders that begin with a dot are passed over, and so is what cannot be read: a listing is of what is
    there to be used. Each folder is entered once, however many links lead to it.

    Args:
        depth: of folders below this one that are entered.
        inside: links that lead out of this folder are passed over.
    """
    root = inside.resolve() if inside else None
    found: dict[str, int] = {}
    entered = {_identity(folder)}
    waiting = [("", depth)]
    seen = 0
    while waiting and seen < MOST_ENTRIES:
        prefix, left = waiting.pop()
        for entry in _entries(folder / prefix):
            seen += 1
            info = _status(entry, root)
            if info is None or seen > MOST_ENTRIES:
                continue
            if stat.S_ISREG(info.st_mode):
                found[prefix + entry.name] = info.st_size
            elif stat.S_ISDIR(info.st_mode) and left and not entry.name.startswith("."):
                here = info.st_dev, info.st_ino
                if here not in entered:
                    entered.add(here)
                    waiting.append((f"{prefix}{entry.name}/", left - 1))
    return found


def _identity(folder: Path) -> tuple[int, int]:
    try:
        info = folder.stat()
    except (OSError, ValueError):  # nothing will be found there either
        return 0, 0
    return info.st_dev, info.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []


def _status(entry: os.DirEntry[str], root: Path | None) -> os.stat_result | None:
    """What a link leads to; None when that is nowhere, or out of `root`."""
    try:
        if root and entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            return None
        return entry.stat()
    except (OSError, RuntimeError):  # gone, forbidden, or a link to itself
        return None
