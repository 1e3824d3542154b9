"""What `weigh bench --load` adds to what it measures, and how fast it can be before it is no longer honest.

    python benchmarks/load_overhead.py            about six minutes; writes the tables of docs/load_overhead.md
    python benchmarks/load_overhead.py --quick    a few seconds, prints them only

A null server (null_server.py) on one processor streams tokens at set times and writes down when; weigh reads them on
another. Both use the machine's monotonic clock, so each token's reading less its writing is the delay of the network's
loopback and of weigh together. `honest` is: sending after the intended time and reading after writing, each at the 99th
percentile, are within 1 ms or 1 % of what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from weigh.bench.arrivals import Lengths, Process
from weigh.bench.latency import percentiles
from weigh.bench.load import LATE_S, LATE_SHARE, Asked, Level, values_of
from weigh.bench.load_run import run_load
from weigh.engines.openai_api import OpenAiModel
from weigh.machine import probe

DOCUMENT = Path(__file__).parents[1] / "docs" / "load_overhead.md"
SERVER = Path(__file__).with_name("null_server.py")
FIRST_S, GAP_S = 0.1, 0.02
CLIENTS = (1, 10, 50, 100, 200, 300, 400)
RATES = (10, 50, 100, 200, 400, 800)
PROMPT = Lengths(256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, set(cpus[1:]))
    seconds = 3.0 if quick else 20.0
    clients, rates = (CLIENTS[:3:2], RATES[:3:2]) if quick else (CLIENTS, RATES)
    machine = probe()
    said = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine.cpu.model}, {len(cpus)} processors (server on one, weigh on the rest),"
        f" Python {platform.python_version()}, {seconds:g} s each."
    )
    many = [said, "", *streams_table(clients, seconds, cpus[0])]
    print("\n".join(many))
    fast = [said, "", *rates_table(rates, seconds, cpus[0])]
    print("\n".join(fast))
    if not quick:
        replace_between(DOCUMENT, "streams", "\n".join(many))
        replace_between(DOCUMENT, "rates", "\n".join(fast))


def streams_table(clients: tuple[int, ...], seconds: float, cpu: int) -> Iterator[str]:
    """So many streams at once, a token every 20 ms on each."""
    yield (
        "| streams | tokens/s | read after written, p50 | p99 | TTFT p50: sent, read | TTFT p99: sent, read"
        " | ITL p50: sent, read | ITL p99: sent, read | weigh's own figure for its delay, p99 | of a core | honest |"
    )
    yield "| --: " * 10 + "| --- |"
    for count in clients:
        asked = Asked(clients=count, seconds=seconds, prompt=PROMPT, output=Lengths(128, 128), drain_s=30)
        level, log = run(asked, FIRST_S, GAP_S, cpu)
        yield row(str(count), level, log)
        print(f"{count} streams done", file=sys.stderr)


def rates_table(rates: tuple[int, ...], seconds: float, cpu: int) -> Iterator[str]:
    """So many short answers a second, at random times."""
    yield (
        "| requests/s asked for | sent | sent after intended, p50 | p99 | read after written, p99"
        " | TTFT p50: sent, read | TTFT p99: sent, read | of a core | honest |"
    )
    yield "| --: " * 8 + "| --- |"
    for rate in rates:
        asked = Asked(
            rates_per_s=(float(rate),),
            process=Process.POISSON,
            seconds=seconds,
            prompt=PROMPT,
            output=Lengths(8, 8),
            drain_s=30,
        )
        level, log = run(asked, FIRST_S, 0.005, cpu)
        reads, firsts, _, ours, _ = compared(level, log)
        p50, p99 = level.client_delay_s
        good = honest(p99, ours[0]) and honest(reads[1], ours[0])
        yield (
            f"| {rate} | {level.arrived_per_s:.1f} | {ms(p50)} | {ms(p99)} | {ms(reads[1])}"
            f" | {ms(firsts[0])}, {ms(ours[0])} | {ms(firsts[1])}, {ms(ours[1])}"
            f" | {level.client_cores:.2f} | {'yes' if good else 'no'} |"
        )
        print(f"{rate} requests/s done", file=sys.stderr)


def row(name: str, level: Level, log: dict[str, Any]) -> str:
    reads, firsts, gaps, our_firsts, our_gaps = compared(level, log)
    good = honest(reads[1], our_gaps[0])
    return (
        f"| {name} | {level.output_tokens_per_s:,.0f} | {ms(reads[0])} | {ms(reads[1])}"
        f" | {ms(firsts[0])}, {ms(our_firsts[0])} | {ms(firsts[1])}, {ms(our_firsts[1])}"
        f" | {ms(gaps[0])}, {ms(our_gaps[0])} | {ms(gaps[1])}, {ms(our_gaps[1])}"
        f" | {ms(level.client_lag_s[1])} | {level.client_cores:.2f} | {'yes' if good else 'no'} |"
    )


Pair = tuple[float, float]


def compared(level: Level, log: dict[str, Any]) -> tuple[Pair, Pair, Pair, Pair, Pair]:
    """p50 and p99 of: reading after writing; TTFT and gaps as the server made them; and as weigh read them.

    The server's time to the first token begins when it has read the request.
    """
    reads, firsts, gaps, our_firsts, our_gaps = [], [], [], [], []
    for one in level.in_window:
        entry = log.get(str(one.number))
        if entry is None or one.failure:
            continue
        sent = entry["sent_s"]
        reads += [
            at_s + level.began_s - sent_s for at_s, sent_s in zip(one.pieces.piece_times_s, sent, strict=True)
        ]
        firsts.append(sent[0] - entry["received_s"])
        gaps += [b - a for a, b in pairwise(sent)]
        our_firsts += values_of(one)["ttft_s"]
        our_gaps += values_of(one)["itl_s"]
    return ends(reads), ends(firsts), ends(gaps), ends(our_firsts), ends(our_gaps)


def ends(samples: list[float]) -> Pair:
    p50, p99 = percentiles([(one,) for one in samples], (0.5, 0.99))
    return p50.value, p99.value


def honest(delay_s: float, measured_s: float) -> bool:
    return delay_s <= max(LATE_S, LATE_SHARE * measured_s)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def run(asked: Asked, first_s: float, gap_s: float, cpu: int) -> tuple[Level, dict[str, Any]]:
    with null_server("--first", str(first_s), "--gap", str(gap_s), "--cpu", str(cpu)) as url:
        (level,) = run_load(OpenAiModel(url), asked).levels
        with urlopen(url + "/log") as answer:
            return level, json.load(answer)


@contextmanager
def null_server(*options: str) -> Iterator[str]:
    command = (sys.executable, str(SERVER), *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def replace_between(document: Path, marker: str, text: str) -> None:
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, rest = document.read_text().partition(start)
    if not found or end not in rest:
        raise SystemExit(f"{document} has no place marked `{marker}`")
    document.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
