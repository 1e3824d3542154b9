"""Synthetic model files that do not outlive their use, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from weigh.model.spec import ModelSpec
from weigh.synth.gguf import write_gguf

_PREFIX = "weigh-synthetic-"


@contextlib.contextmanager
def synthetic_file(
    spec: ModelSpec,
    folder: Path,
    *,
    weights: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Path]:
    """A synthetic file of `spec` in `folder`, removed at the end of the block.

    It is removed on success, on an exception, on Ctrl-C and on SIGTERM. What a killed run left behind is
    removed by the next one. For the arguments and errors see `write_gguf`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with _sigterm_raises(), _locked_file(folder, spec) as path:
        write_gguf(spec, path, weights=weights, seed=seed, progress=progress)
        yield path


def remove_leftovers(folder: Path) -> int:
    """Remove the synthetic files in `folder` that no running process holds, and say how many."""
    removed = 0
    for path in folder.glob(f"{_PREFIX}*.gguf"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _lock(file):  # the kernel gives up a process's locks when it dies, however it dies
                path.unlink()
                removed += 1
    return removed


@contextlib.contextmanager
def _locked_file(folder: Path, spec: ModelSpec) -> Iterator[Path]:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{spec.name}-{spec.layers}-layers")
    path = folder / f"{_PREFIX}{name}-{os.getpid()}-{os.urandom(4).hex()}.gguf"
    file = _own_file(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _own_file(path: Path) -> BinaryIO:
    """An empty file at `path`, locked; another run may just be removing it as a leftover."""
    while True:
        file = path.open("wb")
        if _lock(file) and path.exists():
            return file
        file.close()


def _lock(file: BinaryIO) -> bool:
    """Whether this process holds the file now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit inside the block, so that what the block holds is given back.

    A handler that someone set stays; Python allows setting one in the main thread only.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
