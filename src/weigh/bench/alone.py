"""One benchmark at a time: two at once would measure each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weigh.errors import EngineError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the machine for a benchmark; the lock is on the folder itself, leaves no file and ends with us.

    Nothing is held where the system has no such locks (Windows), nor against other users' benchmarks.

    Args:
        folder: exists, and is the same for all benchmarks of this user.

    Raises:
        EngineError: another one is running.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EngineError(
                "another benchmark is running on this machine, and two would measure each other",
                hint="wait until it is done",
            ) from None
        yield
    finally:
        os.close(held)
