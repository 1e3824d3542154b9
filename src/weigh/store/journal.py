"""Which journal SQLite may keep of the store: a write-ahead log where that is safe, else a rollback journal."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from weigh.machine import kernel_files

LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "overlay", "reiserfs"}
    | {"tmpfs", "ubifs", "xfs", "zfs"}
)
"""File systems that no other machine writes to, so that shared memory and locks hold."""


def set_journal(db: sqlite3.Connection, path: Path) -> None:
    """Put the store under the safest journal there is here, and have every commit reach the disk.

    A commit returns once it is durable: `EXTRA` also waits for the folder's entry of a rollback journal that
    a commit has removed, which `FULL` leaves to the system; of a write-ahead log both wait for the same.
    A store that another process has open just now, or that may not be written, keeps the journal it has.

    Sources: sqlite.org/pragma.html#pragma_synchronous, sqlite.org/wal.html.
    """
    db.execute("PRAGMA synchronous = EXTRA")
    wanted = "wal" if wal_is_safe(sqlite3.sqlite_version_info) and is_local(path) else "delete"
    found = db.execute("PRAGMA journal_mode").fetchone()[0]
    if found == wanted:
        return
    try:
        db.execute(f"PRAGMA journal_mode = {wanted}")
    except sqlite3.OperationalError:
        return


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has no known way to damage a database under a write-ahead log.

    From 3.7.0 to 3.51.2 two connections that write and checkpoint at the same moment may lose pages (the
    "WAL-reset bug"); fixed in 3.51.3, and in 3.44.6 and 3.50.7 of the older lines.

    Source: sqlite.org/wal.html#walresetbug.
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def is_local(path: Path, root: Path = Path("/")) -> bool:
    """Whether the file lies on a local file system for sure; never where there is no /proc (as on macOS).

    Source: proc(5), /proc/self/mounts; blanks in it are written as octal numbers.
    """
    rows = [line.split() for line in kernel_files.text(root / "proc/self/mounts").splitlines()]
    mounts = {_unescaped(row[1]): row[2] for row in rows if len(row) > 2}  # a later mount hides an earlier
    return next(
        (mounts[str(place)] in LOCAL for place in path.resolve().parents if str(place) in mounts), False
    )


def _unescaped(text: str) -> str:
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text
