"""Output of the system's own commands, all through one function, so that recorded output can be played back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

Run = Callable[[Sequence[str]], str]

_LONGEST_S = 3.0
_MOST_BYTES = 1 << 20


def output(words: Sequence[str]) -> str:
    """What a command prints, in English; "" when it is not there, cannot start or takes longer than 3 s.

    A command that fails still counts for what it printed: `sysctl` does when one of several names is unknown.
    """
    import subprocess

    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LONGEST_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout[:_MOST_BYTES].decode("utf-8", "replace")
