"""An importance matrix measured here: of each column of each matrix, the mean square of what it is multiplied with."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from weigh.engines.child import Child
from weigh.engines.engine import Limits
from weigh.errors import EngineTimeout
from weigh.shrink.imatrix import ImportanceMatrix

_LOOK_S = 0.05


def measure_importance(
    path: Path,
    windows: Sequence[Sequence[int]],
    folder: Path,
    *,
    text: str,
    limits: Limits,
    threads: int | None = None,
    done: Callable[[int], None] | None = None,
) -> ImportanceMatrix:
    """Run windows of tokens through a GGUF model in a child process and sum up what its matrices meet.

    Args:
        folder: for what passes between the processes.
        text: the name of the text, which files made with the matrix keep.
        done: called with the number of windows done.

    Raises:
        EngineError: the model does not load, has experts, or the engine fails.
    """
    tokens, out = folder / "windows.json", folder / "importance.npz"
    tokens.write_text(json.dumps([list(window) for window in windows]))
    given = {
        "model": str(path.absolute()),
        "windows": str(tokens),
        "out": str(out),
        "context_tokens": max(map(len, windows)),
        "threads": threads or len(os.sched_getaffinity(0)),
    }
    script = Path(__file__).with_name("importance_child.py")
    child = Child((sys.executable, "-P", str(script), json.dumps(given)), limits, what="llama.cpp")
    try:
        for number in range(1, len(windows) + 1):
            child.wait_for(re.compile(rf"^window {number}$"), time.monotonic() + limits.start_s)
            if done is not None:
                done(number)
        deadline_s = time.monotonic() + limits.silence_s
        while child.alive:
            if time.monotonic() > deadline_s:
                raise EngineTimeout("llama.cpp did not end")
            time.sleep(_LOOK_S)
        if not out.exists():
            child.fail()
    finally:
        child.end()
    with np.load(out, allow_pickle=False) as arrays:
        values = {name: arrays[name].reshape(1, -1) for name in arrays}
    return ImportanceMatrix(values, "measured by weigh", (text,), len(windows))
