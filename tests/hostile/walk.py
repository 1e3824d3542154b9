"""Walks cases through the command line in this process, under limits; one line of JSON for each.

    python -m tests.hostile.walk [KIND]     # those whose name begins with it

Started as a process of its own, so that the limits hold for it alone: what runs wild is killed, and the
last line says what that was.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

from tests.hostile.case import Case
from tests.hostile.corpus import corpus

MOST_CPU_S = 120  # of the whole walk
MOST_MEMORY_BYTES = 200 << 20


@dataclass(frozen=True)
class Outcome:
    """What came of one case: `figures` are those of the JSON document, when it was accepted.

    `peak_bytes` is the most memory the process held while it ran, or held so far where that cannot be asked.
    """

    name: str
    code: int
    out: str
    error: str
    figures: dict[str, object]
    cpu_s: float
    peak_bytes: int


def main(kind: str = "") -> int:
    _limit()
    from weigh.cli import main as command

    with contextlib.redirect_stdout(io.StringIO()):
        command(["model", "llama-3.1-8b"])  # what is imported once is not counted
    for case in corpus(kind):
        print(json.dumps({"begun": case.name}), flush=True)
        print(json.dumps(asdict(outcome(case))), flush=True)
    return 0


def outcome(case: Case) -> Outcome:
    from weigh.cli import main as command

    with _folder() as folder:
        typed = case.make(folder)
        around = {key: value.replace("{}", str(folder)) for key, value in case.around.items()}
        out, error = io.StringIO(), io.StringIO()
        _forget_peak()
        began = time.process_time()
        with patch.dict(os.environ, around), contextlib.redirect_stderr(error):
            with contextlib.redirect_stdout(out):
                code = command(["model", typed])
            cpu_s = time.process_time() - began
            peak = _peak_bytes()
            figures = _figures(typed) if case.accepted and code == 0 else {}
    return Outcome(case.name, code, out.getvalue(), error.getvalue(), figures, round(cpu_s, 3), peak)


def _figures(typed: str) -> dict[str, object]:
    """Of the JSON document, which has to be one by the strictest reading: no NaN, no infinity."""
    from weigh.cli import main as command

    with contextlib.redirect_stdout(io.StringIO()) as out:
        command(["model", typed, "--json"])
    document = json.loads(out.getvalue(), parse_constant=lambda name: name)
    flat = {key: value for key, value in document.items() if isinstance(value, str | int)}
    return flat | {"parameters": document["parameters"]["total"]["value"]}


def _forget_peak() -> None:
    """Begin the peak anew, so that making a case is not counted; Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """Of this program alone: Linux's `ru_maxrss` begins with the peak of the process that started it."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line[:6] == "VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (4 * MOST_MEMORY_BYTES, 4 * MOST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
