"""Synthetic model files and checkpoints that do not outlive their use, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from weigh.model.spec import ModelSpec
from weigh.synth.checkpoint_config import checkpoint_config
from weigh.synth.gguf import write_gguf
from weigh.synth.safetensors import write_checkpoint

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


@contextlib.contextmanager
def synthetic_checkpoint(
    spec: ModelSpec,
    folder: Path,
    *,
    config: Mapping[str, object] | None = None,
    weights: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Path]:
    """A synthetic checkpoint of `spec` in a new folder within `folder`, removed at the end of the block.

    It goes as a synthetic file goes. For the other arguments and errors see `checkpoint_config` and
    `write_checkpoint`.

    Args:
        spec: as it is to be written, shortened or not.
        weights: False writes the config alone, which takes no room on the disk: engines make up weights,
            of more families than can be written here.
    """
    fields = checkpoint_config(spec, config)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with _sigterm_raises(), _locked_folder(folder, spec) as path:
        if weights:
            write_checkpoint(path, fields, scheme=spec.quantization, seed=seed, progress=progress)
        else:
            (path / "config.json").write_text(json.dumps(fields, indent=1))
        yield path


def remove_leftovers(folder: Path) -> int:
    """Remove the synthetic files and checkpoints in `folder` that no running process holds, and say how many."""
    removed = 0
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _opened(path) as held:
            if _lock(held):  # the kernel gives up a process's locks when it dies, however it dies
                _remove(path)
                removed += 1
    return removed


@contextlib.contextmanager
def _locked_file(folder: Path, spec: ModelSpec) -> Iterator[Path]:
    path = _new_path(folder, spec, ".gguf")
    with _own(path, path.touch):
        yield path


@contextlib.contextmanager
def _locked_folder(folder: Path, spec: ModelSpec) -> Iterator[Path]:
    path = _new_path(folder, spec, "")
    with _own(path, lambda: path.mkdir(exist_ok=True)):
        yield path


def _new_path(folder: Path, spec: ModelSpec, ending: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{spec.name}-{spec.layers}-layers")
    return folder / f"{_PREFIX}{name}-{os.getpid()}-{os.urandom(4).hex()}{ending}"


@contextlib.contextmanager
def _own(path: Path, make: Callable[[], None]) -> Iterator[None]:
    """Make `path` and hold it locked; another run may just be removing it as a leftover."""
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, path)
        while True:
            make()
            with contextlib.suppress(OSError):
                held = stack.enter_context(_opened(path))
                if _lock(held) and path.exists():
                    break
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor, which a folder has as well as a file."""
    held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield held
    finally:
        os.close(held)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(held: int) -> bool:
    """Whether this process holds the file now."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
