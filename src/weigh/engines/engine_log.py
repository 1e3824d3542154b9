"""What engines write to their logs, read for people and, of llama.cpp, for figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from weigh.engines.engine import Layout
from weigh.units import MIB

# `0.00.012.345 E srv    load_model: ...`: time, level, component
_PREFIX = re.compile(r"^\d+\.\d+\.\d+\.\d+ (?P<level>[A-Z]) ")
# `(APIServer pid=42) WARNING 11-25 19:27:56 [base.py:380] ...`: vLLM warns of what it goes on without, tracebacks too
_WARNING = re.compile(r"^(?:\(\S+ pid=\d+\) )?(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
_REASONS = tuple(
    re.compile(pattern)
    for pattern in (
        r"gguf_init_\w+: (.+)",
        r"error loading model: (.+)",
        r"what\(\):\s+(.+)",
        r"(GGML_ASSERT.+)",
        r"(unable to allocate .+|failed to allocate .+)",
        r"(?:^| )error: (.+)",
        r"\] (Worker proc \S+ died unexpectedly(?: \(exit code: -?\d+\))?)",  # vLLM; then nothing else says why
        r"(?:^|\] )(?:\w+\.)*(\w+Error: .+)",  # the last line of a Python traceback, which vLLM logs line by line
    )
)
_MEMORY = re.compile(
    r"(?:cannot|can't|could not|failed to|tried to|unable to) allocate|bad_alloc|out of memory|^MemoryError",
    re.IGNORECASE,
)

LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
LOADING = re.compile(r"load_model: loading model '")
LAYOUT_DONE = re.compile(r"fitting params to .* took|loaded meta data with .* \(version")
_LAYOUT_ROW = re.compile(
    r"\|\s+- (?P<buffer>[^|]+?)\s*\|.*? =\s+(?P<weights>\d+) \+\s+(?P<kv>\d+) \+\s+(?P<compute>\d+)"
)


def reason(lines: Iterable[str]) -> str | None:
    """The most telling line of a log that ends in failure; None when there is none."""
    texts = [_PREFIX.sub("", line).strip() for line in lines if _level(line) in ("E", None)]
    for pattern in _REASONS:
        for text in texts:
            if found := pattern.search(text):
                return found[1].strip()
    errors = [_PREFIX.sub("", line).strip() for line in lines if _level(line) == "E"]
    return errors[0] if errors else None


def _level(line: str) -> str | None:
    if found := _PREFIX.match(line):
        return found["level"]
    return "W" if _WARNING.match(line) else None


def ran_out_of_memory(lines: Iterable[str]) -> bool:
    """Whether an allocation was refused."""
    return any(_MEMORY.search(line) for line in lines if _level(line) in ("E", None))


def layout(lines: Sequence[str]) -> Layout | None:
    """The first table of the `memory breakdown` kind, which is of the settings as they were given.

    Rows read ``|   - Host  | 515 = 317 + 128 + 70 |``: self = model + context + compute, in MiB. GPUs have
    total and free memory in front and what is left unexplained behind.
    """
    start = next((i for i, line in enumerate(lines) if "memory breakdown [MiB]" in line), None)
    if start is None:
        return None
    buffers: dict[str, tuple[int, int, int]] = {}
    for line in lines[start + 1 :]:
        row = _LAYOUT_ROW.search(line)
        if row is None:
            break
        buffers[row["buffer"]] = (
            int(row["weights"]) * MIB,
            int(row["kv"]) * MIB,
            int(row["compute"]) * MIB,
        )
    if not buffers:
        return None
    weights, kv_cache, compute = (sum(column) for column in zip(*buffers.values(), strict=True))
    return Layout(weights, kv_cache, compute, buffers)
