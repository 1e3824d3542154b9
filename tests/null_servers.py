"""A server without a model, in a process of its own, and what it says it sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "null_server.py"


@contextmanager
def null_server(*options: str) -> Iterator[str]:
    """Its address; see `benchmarks/null_server.py` for the options."""
    command = (sys.executable, str(SCRIPT), "--first", "0.005", "--gap", "0.002", *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def sent_by(url: str) -> dict[str, dict[str, Any]]:
    """By request: when the server read it and when it wrote each piece, on the monotonic clock."""
    with urlopen(url + "/log") as answer:
        found: dict[str, dict[str, Any]] = json.load(answer)
    return found
