"""When requests of a load arrive and how long they are: drawn from a seed, or read from a trace.

Arrivals are planned before anything is sent (open loop): a slow server does not slow them down.
"""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from weigh.errors import BadFile, BadInput

MOST_REQUESTS = 1_000_000
MOST_TOKENS = 10_000_000  # of one prompt or output
MOST_TRACE_BYTES = 1 << 30


class Process(StrEnum):
    """How arrivals follow one another."""

    POISSON = "poisson"  # independent users: gaps are exponentially distributed
    CONSTANT = "constant"  # evenly spaced
    BURST = "burst"  # groups at once, the groups evenly spaced


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a load.

    Attributes:
        at_s: when it is meant to be sent, seconds from the start.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a prompt or an output: `512`, evenly from `128-1024`, or log-normal `512~0.5`.

    Attributes:
        low, high: the range; equal for a fixed length. Of a log-normal both are its median.
        sigma: standard deviation of a log-normal's logarithm; 0 for the other kinds.
    """

    low: int
    high: int
    sigma: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Raises BadInput for what is no length."""
        found = re.fullmatch(r"\s*(\d{1,8})(?:-(\d{1,8})|~(\d{1,2}(?:\.\d{1,6})?))?\s*", text)
        if found is None:
            raise BadInput(
                f"`{text}` is not a number of tokens", hint="write it like `512`, `128-1024` or `512~0.5`"
            )
        low = int(found[1])
        high, sigma = int(found[2] or low), float(found[3] or 0)
        if not 1 <= low <= high <= MOST_TOKENS or sigma > 5:
            raise BadInput(
                f"`{text}` is not a number of tokens that can be", hint="at least 1, low before high"
            )
        return cls(low, high, sigma)

    def draw(self, source: random.Random) -> int:
        if self.sigma:
            return min(self.most, max(1, round(self.low * math.exp(source.gauss(0, self.sigma)))))
        return source.randint(self.low, self.high)

    @property
    def typical(self) -> int:
        """The median."""
        return (self.low + self.high) // 2

    @property
    def most(self) -> int:
        """The longest; of a log-normal, whose tail has no end, what one in 700 exceeds and is cut to."""
        return min(MOST_TOKENS, math.ceil(self.high * math.exp(3 * self.sigma)))

    def __str__(self) -> str:
        if self.sigma:
            return f"{self.low}~{self.sigma:g}"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def planned(
    process: Process,
    rate_per_s: float,
    seconds: float,
    prompt: Lengths,
    output: Lengths,
    *,
    seed: int,
    burst: int = 8,
) -> tuple[Arrival, ...]:
    """The load of one rate; the same seed gives the same arrivals and lengths.

    Args:
        burst: requests at once, of `Process.BURST`.

    Raises:
        BadInput: more requests than weigh sends in one run.
    """
    if rate_per_s * seconds > MOST_REQUESTS:
        raise BadInput(f"{rate_per_s:g} requests/s for {seconds:g} s are too many", hint="at most a million")
    times_s = list(_times_s(process, rate_per_s, seconds, random.Random(f"arrivals {seed}"), burst))
    return with_lengths(times_s, prompt, output, seed=seed)


def with_lengths(
    times_s: Sequence[float], prompt: Lengths, output: Lengths, *, seed: int
) -> tuple[Arrival, ...]:
    """Lengths come from a stream of their own, so that they are the same at every rate."""
    source = random.Random(f"lengths {seed}")
    return tuple(Arrival(at_s, prompt.draw(source), output.draw(source)) for at_s in times_s)


def _times_s(
    process: Process, rate_per_s: float, seconds: float, source: random.Random, burst: int
) -> Iterator[float]:
    match process:
        case Process.POISSON:
            at_s = source.expovariate(rate_per_s)
            while at_s < seconds:
                yield at_s
                at_s += source.expovariate(rate_per_s)
        case Process.CONSTANT:
            yield from (number / rate_per_s for number in range(math.ceil(seconds * rate_per_s)))
        case Process.BURST:
            groups = math.ceil(seconds * rate_per_s / burst)
            yield from (number * burst / rate_per_s for number in range(groups) for _ in range(burst))


# --- traces -------------------------------------------------------------------------------------------

# Names of the columns, in lower case without blanks and underscores. Azure's public traces of 2023 and 2024:
# TIMESTAMP, ContextTokens, GeneratedTokens; BurstGPT: Timestamp, Request tokens, Response tokens; Mooncake
# (JSONL): timestamp in milliseconds, input_length, output_length.
_TIMES = ("ats", "arrivals", "timestamps", "times", "timestamp", "time", "timestampms")
_PROMPTS = ("prompttokens", "contexttokens", "requesttokens", "inputtokens", "inputlength")
_OUTPUTS = ("outputtokens", "generatedtokens", "responsetokens", "outputlength")


def read_trace(path: Path, *, stretch: float = 1.0, seconds: float | None = None) -> tuple[Arrival, ...]:
    """Arrivals and lengths from a CSV file with a head, or a file of JSON objects, one a line.

    Times are seconds, or dates with a time of day; `timestamp` beside `input_length` is milliseconds, as
    Mooncake's traces have it, and so is `timestamp_ms`. The first request arrives at 0; rows of no prompt or
    no output are taken as of one token. Rows out of order are sorted.

    Args:
        stretch: what gaps are multiplied by: 10 makes the load ten times lighter.
        seconds: of the stretched trace to take; None for all of it.

    Raises:
        BadFile: it cannot be read, or a row is not what it should be (the row is named).
    """
    try:
        if path.stat().st_size > MOST_TRACE_BYTES:
            raise BadFile(path, "too large for a trace", hint="cut a part out of it")
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.read(1)
            file.seek(0)
            rows = _json_rows(path, file) if first == "{" else csv.DictReader(file)
            found = [_arrival(path, number, row) for number, row in enumerate(rows, start=1)]
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(path, f"no trace: {error}") from None
    if not found:
        raise BadFile(path, "a trace without requests")
    found.sort(key=lambda one: one.at_s)
    start_s = found[0].at_s
    moved = (Arrival((one.at_s - start_s) * stretch, one.prompt_tokens, one.output_tokens) for one in found)
    taken = tuple(one for one in moved if seconds is None or one.at_s < seconds)
    if len(taken) > MOST_REQUESTS:
        raise BadFile(
            path, f"{len(taken):,} requests are more than weigh sends", hint="take fewer seconds of it"
        )
    return taken


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadFile(path, f"line {number} is no JSON object")
        yield row


def _arrival(path: Path, number: int, row: Mapping[str | Any, Any]) -> Arrival:
    known = {
        re.sub(r"[\s_]", "", name).lower(): value for name, value in row.items() if isinstance(name, str)
    }
    values = [
        next((known[name] for name in names if known.get(name) not in (None, "")), None)
        for names in (_TIMES, _PROMPTS, _OUTPUTS)
    ]
    if None in values:
        what = ("a time", "a number of prompt tokens", "a number of output tokens")[values.index(None)]
        raise BadFile(
            path,
            f"row {number} has no {what[2:]}",
            hint="columns are at_s, prompt_tokens, output_tokens, or those of Azure's, BurstGPT's and Mooncake's",
        )
    time_s = _seconds(values[0])
    prompt, output = _tokens(values[1]), _tokens(values[2])
    if time_s is None or prompt is None or output is None:
        raise BadFile(path, f"row {number} is not a time and two numbers of tokens")
    milliseconds = "timestampms" in known or ("inputlength" in known and "timestamp" in known)
    return Arrival(time_s / 1000 if milliseconds else time_s, prompt, output)


def _seconds(value: Any) -> float | None:
    """A number, or a date: fractions of a second finer than a microsecond are cut, as Python knows none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        text = re.sub(r"(\.\d{6})\d+", r"\1", str(value).strip())
        try:
            found = datetime.fromisoformat(text).timestamp()
        except ValueError:
            return None
    return found if math.isfinite(found) else None


def _tokens(value: Any) -> int | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return max(1, int(found)) if 0 <= found <= MOST_TOKENS else None
